"""Predictions are written once, by who served the day, and survive every way in which a run may end."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from regressed_rows import regression_rows
from test_regression_attempts import RegressionWorld
from worlds import Runs

from ratchet.adapters.storage import CorruptObjectError
from ratchet.domain.sensitive import AllowedColumn
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import ScoredDay
from ratchet.records import RunContext
from ratchet.workflow.attempting import table_digest
from ratchet.workflow.guarding import in_words
from ratchet.workflow.scoring import METADATA, Scoring, key_of, manifest_of, predictions
from ratchet.workflow.verifying import Finding, Verifier

MODEL = "flight_delay"
FIRST, LAST = date(2013, 3, 25), date(2013, 4, 18)
"""The first champion came on March 24th, New York; the data of the world reaches into April 19th."""
DAYS = (LAST - FIRST).days + 1
PER_DAY = 40


class Killed(BaseException):
    """Nobody catches it, as nobody catches ``kill -9``."""


class Scored:
    """The judged world with a spec that asks for scoring."""

    def __init__(self, world: Any, **scoring: Any) -> None:
        self.world = world
        self.ledger, self.store, self.features = world.ledger, world.store, world.features
        self.features.table = decided_at_noon(self.features.table)
        self.deploy({"catch_up": "60d"} | scoring)

    def deploy(self, scoring: dict[str, Any] | None, **more: Any) -> None:
        spec = ModelSpec.model_validate(self.world.spec.model_dump(mode="json") | {"scoring": scoring} | more)
        self.world.spec = spec
        with self.ledger.transaction() as tx:
            tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))

    def verb(self) -> Scoring:
        world = self.world
        return Scoring(
            world.ledger, features=lambda: self.features, store=lambda: self.store, artifacts=lambda: world.artifacts
        )

    def score(self, run: str = "run", asked: tuple[date, date] | None = None, run_type: Any = "manual") -> dict:
        return self.verb().score(MODEL, RunContext(f"score__{MODEL}", run, run_type), asked)

    def arrive(self, day: str) -> None:
        """Data is complete up to this midnight, UTC."""
        until = datetime.fromisoformat(day).replace(tzinfo=UTC)
        with self.ledger.transaction() as tx:
            for dataset in self.world.spec.datasets:
                tx.advance_watermark(dataset, until, None)
            tx.set_clock("replay", until)

    def days(self, **asked: Any) -> list[ScoredDay]:
        with self.ledger.transaction() as tx:
            return tx.scored_days(MODEL, **asked)

    def table(self, day: date, role: str = "champion") -> pa.Table:
        (row,) = self.days(since=day, until=day, role=role)
        found = predictions(self.store, row)
        assert found is not None
        return found

    def crown(self, version: int, *, days: float = 0) -> None:
        """Let a version serve from so many days later on."""
        with self.ledger.transaction() as tx:
            tx.set_clock("replay", tx.clock()[1] + timedelta(days=days))
            current = tx.champions(MODEL)[-1]
            tx.insert_champion(
                type(current)(**vars(current) | {"seq": current.seq + 1, "version": version, "kind": "promotion"})
            )


def decided_at_noon(table: pa.Table) -> pa.Table:
    """The rows with their decisions made at noon of their own day."""
    noons = [datetime.fromisoformat(f"{day}T12:00+00:00") for day in table["day"].to_pylist()]
    place = table.column_names.index("decided_at")
    return table.set_column(place, "decided_at", pa.array(noons, pa.timestamp("us", tz="UTC")))


@pytest.fixture
def scored(judging: Any) -> Scored:
    return Scored(judging)


@pytest.fixture(scope="module")
def regressing(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Any:
    made = RegressionWorld(tmp_path_factory.mktemp("regressing"), migrated)
    made.run("2013-03-25", first_champion=True)
    yield made
    made.ledger.dispose()


# -- what is written ---------------------------------------------------------------------------------------------------


def test_each_complete_day_is_one_file_with_the_version_beside_each_row(scored: Scored) -> None:
    answer = scored.score()
    assert answer == {
        "days": DAYS,
        "rows": DAYS * PER_DAY,
        "from": FIRST.isoformat(),
        "to": LAST.isoformat(),
        "versions": {"champion": [1]},
        "waiting": [],
        "reason": "",
    }
    table = scored.table(FIRST)
    assert table.column_names == ["flight_id", "decided_at", "day", "score", "act", "version", "role", "attempt"]
    assert table.schema.field("decided_at").type == pa.timestamp("us", tz="UTC")
    assert set(table["version"].to_pylist()) == {1}
    assert set(table["role"].to_pylist()) == {"champion"}
    assert set(table["attempt"].to_pylist()) == {scored.world.first.id}
    (row,) = scored.days(since=FIRST, until=FIRST)
    assert (row.version, row.run, row.rows, row.acted) == (1, "run", PER_DAY, pc.sum(table["act"]).as_py())
    assert row.as_of == datetime(2013, 4, 20, tzinfo=UTC)


def test_the_scores_are_the_champions_own_calibrated_ones_in_total_order(scored: Scored) -> None:
    scored.score()
    table = scored.table(LAST)
    rows = scored.features.table.filter(pc.equal(scored.features.table["day"], LAST.isoformat()))
    score, act = scored.world.artifacts.load(MODEL, 1).decide(rows)
    assert table["flight_id"].equals(rows["flight_id"])
    np.testing.assert_array_equal(table["score"].to_numpy(), score)
    np.testing.assert_array_equal(table["act"].to_numpy(), act)


def test_no_label_is_needed_and_none_is_written(scored: Scored) -> None:
    place = scored.features.table.column_names.index("label")
    unknown = pa.nulls(scored.features.table.num_rows, pa.int8())
    scored.features.table = scored.features.table.set_column(place, "label", unknown)
    assert scored.score()["days"] == DAYS
    assert "label" not in scored.table(FIRST).column_names


def test_scoring_uses_no_day_up(scored: Scored) -> None:
    with scored.ledger.transaction() as tx:
        before = tx.used_days(MODEL, 1)
    scored.deploy({"catch_up": "60d", "shadow": "challenger"})
    scored.arrive("2013-05-01")
    scored.score()
    with scored.ledger.transaction() as tx:
        assert tx.used_days(MODEL, 1) == before


def test_the_manifest_says_what_the_file_was_made_from_and_the_file_says_it_too(scored: Scored) -> None:
    scored.score("run 7")
    (row,) = scored.days(since=FIRST, until=FIRST)
    manifest = json.loads(scored.store.get_bytes(manifest_of(MODEL, FIRST, "champion")))
    rows = scored.features.historical(scored.world.spec, scored.features.entities(
        scored.world.spec, start=FIRST, end=FIRST + timedelta(days=1)
    ))  # fmt: skip
    with scored.ledger.transaction() as tx:
        digest = tx.version_digest(MODEL, 1)
    assert manifest == {
        "model": MODEL,
        "day": FIRST.isoformat(),
        "role": "champion",
        "version": 1,
        "attempt": scored.world.first.id,
        "model_digest": digest,
        "spec": scored.world.first.spec_digest,
        "features": "flight_delay_v1",
        "run": "run 7",
        "as_of": "2013-04-20T00:00:00+00:00",
        "inputs_sha256": table_digest(rows),
        "key": row.key,
        "sha256": row.sha256,
        "rows": PER_DAY,
        "acted": row.acted,
    }
    said = json.loads(scored.table(FIRST).schema.metadata[METADATA])
    assert said == {name: value for name, value in manifest.items() if name in said}


def test_the_manifest_lists_the_sensitive_columns_that_the_rows_hold_as_a_snapshots_does(
    scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = AllowedColumn("flight_id", ("pii",), "entity 'flight'", "key", "it is booked by", show_values=False)
    monkeypatch.setattr("ratchet.workflow.scoring.allowed_columns", lambda features, spec: (key,))
    scored.score()
    manifest = json.loads(scored.store.get_bytes(manifest_of(MODEL, FIRST, "champion")))
    assert in_words(manifest) == [str(key)]


def test_a_folder_of_predictions_is_read_as_one_table(scored: Scored) -> None:
    scored.score()
    whole = pq.read_table(Path(scored.store.uri(f"predictions/{MODEL}")))
    assert whole.num_rows == DAYS * PER_DAY


def test_a_regression_writes_its_predictions(regressing: Any) -> None:
    scored = Scored(regressing)
    scored.arrive("2013-03-28")
    assert scored.score()["days"] == 2
    table = scored.table(FIRST)
    rows = regression_rows(PER_DAY, days=140)
    rows = rows.filter(pc.equal(rows["day"], FIRST.isoformat()))
    assert table.column_names == ["flight_id", "decided_at", "day", "prediction", "version", "role", "attempt"]
    np.testing.assert_array_equal(table["prediction"].to_numpy(), regressing.artifacts.load(MODEL, 1).probability(rows))
    assert scored.days()[0].acted is None


def test_a_capacity_is_for_each_day_as_the_artifact_has_it(scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    load = scored.world.artifacts.load
    monkeypatch.setattr(scored.world.artifacts, "load", lambda *which: replace(load(*which), threshold=0.0, capacity=3))
    scored.score()
    assert {row.acted for row in scored.days()} == {3}
    table = scored.table(FIRST)
    best = np.argsort(-table["score"].to_numpy(), kind="stable")[:3]
    assert sorted(best) == np.flatnonzero(table["act"].to_numpy()).tolist()


# -- who scores which day ----------------------------------------------------------------------------------------------


def test_days_are_scored_by_who_served_them_however_late_and_are_never_written_again(scored: Scored) -> None:
    scored.score("early", asked=(FIRST, FIRST))
    early = scored.store.get_bytes(key_of(MODEL, FIRST, "champion"))
    scored.world.register(2)
    scored.crown(2)
    scored.arrive("2013-04-23")
    scored.score("late")
    versions = {row.day: row.version for row in scored.days()}
    assert versions == {
        FIRST + timedelta(days=i): 1 if FIRST + timedelta(days=i) <= date(2013, 4, 19) else 2 for i in range(DAYS + 3)
    }
    assert scored.store.get_bytes(key_of(MODEL, FIRST, "champion")) == early
    assert scored.days()[0].run == "early"


def test_a_champion_that_changes_during_a_run_changes_nothing_in_it(
    scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    historical, changed = scored.features.historical, []

    def meanwhile(spec: Any, entities: Any) -> Any:
        if not changed:
            changed.append(True)
            scored.crown(2)
        return historical(spec, entities)

    monkeypatch.setattr(scored.features, "historical", meanwhile)
    assert scored.score()["versions"] == {"champion": [1]}


def test_a_version_reads_its_rows_by_the_spec_that_made_it(scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion serves on after its spec named another feature service."""
    read: list[str] = []
    historical = scored.features.historical
    monkeypatch.setattr(
        scored.features, "historical", lambda spec, rows: read.append(spec.data.features) or historical(spec, rows)
    )
    data = scored.world.spec.model_dump(mode="json")["data"] | {"features": "flight_delay_v2"}
    scored.deploy({"catch_up": "60d"}, data=data)
    scored.score()
    assert set(read) == {"flight_delay_v1"}


def test_in_shadow_the_newest_judged_challenger_is_scored_beside_and_in_a_file_of_its_own(scored: Scored) -> None:
    challenger = scored.world.second
    with scored.ledger.transaction() as tx:
        tx.update_attempt(challenger.id, failure="people refused it")
    scored.deploy({"catch_up": "60d", "shadow": "challenger"})
    scored.arrive("2013-04-24")
    assert scored.score()["versions"]["shadow"] == [challenger.challenger_version]
    beside = scored.days(role="shadow")
    assert [row.day for row in beside] == [date(2013, 4, 20), date(2013, 4, 21), date(2013, 4, 22)]
    table = scored.table(date(2013, 4, 20), "shadow")
    assert set(table["role"].to_pylist()) == {"shadow"}
    assert set(table["attempt"].to_pylist()) == {challenger.id}
    assert table["flight_id"].equals(scored.table(date(2013, 4, 20))["flight_id"])


def test_both_roles_of_a_day_have_their_features_joined_once(scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    with scored.ledger.transaction() as tx:
        tx.update_attempt(scored.world.second.id, failure="people refused it")
    scored.deploy({"catch_up": "2d", "shadow": "challenger"})
    scored.arrive("2013-04-24")
    joins, historical = [], scored.features.historical
    monkeypatch.setattr(scored.features, "historical", lambda *given: joins.append(1) or historical(*given))
    assert scored.score()["days"] == 4
    assert len(joins) == 2


def test_a_day_whose_decisions_are_not_all_made_waits(scored: Scored) -> None:
    scored.deploy({"horizon": "3d"})
    first = scored.score()
    assert first["to"] == "2013-04-19"
    assert first["waiting"] == ["2013-04-20", "2013-04-21"]
    again = scored.score()
    assert (again["days"], again["reason"]) == (0, "the decisions of these days are not all made")


def test_a_day_without_rows_is_scored_too_and_has_no_file(scored: Scored) -> None:
    day = scored.features.table["day"]
    scored.features.table = scored.features.table.filter(pc.not_equal(day, FIRST.isoformat()))
    scored.score()
    row = scored.days()[0]
    assert (row.day, row.rows, row.key, row.sha256) == (FIRST, 0, None, None)
    assert predictions(scored.store, row) is None
    assert scored.score()["days"] == 0


# -- what may go wrong -------------------------------------------------------------------------------------------------


def dies(*_: Any, **__: Any) -> None:
    raise Killed


STEPS: dict[str, Callable[[Scored, pytest.MonkeyPatch], None]] = {
    "nothing stored": lambda s, patch: patch.setattr(s.store, "put_once", dies),
    "file stored, no manifest": lambda s, patch: patch.setattr("ratchet.workflow.scoring.dossiers.to_json", dies),
    "manifest stored, not recorded": lambda s, patch: patch.setattr(Scoring, "_keep", dies),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_anywhere_the_next_run_leaves_what_one_that_lived_would(
    scored: Scored, tmp_path: Path, step: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        STEPS[step](scored, patch)
        with pytest.raises(Killed):
            scored.score("killed")
    left = scored.store.exists(key_of(MODEL, FIRST, "champion"))
    assert scored.days() == []
    assert scored.score("next")["days"] == DAYS
    assert [row.run for row in scored.days()] == ["killed" if left else "next", *["next"] * (DAYS - 1)]
    assert findings(scored) == ()
    for row in scored.days():
        manifest = json.loads(scored.store.get_bytes(manifest_of(MODEL, row.day, row.role)))
        assert (manifest["sha256"], manifest["run"], manifest["version"]) == (row.sha256, row.run, row.version)


def test_a_file_that_a_killed_run_left_stands_whoever_serves_now(scored: Scored) -> None:
    """With a horizon a day is scored ahead: what was written may have been acted on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scoring, "_keep", dies)
        with pytest.raises(Killed):
            scored.score("killed")
    key = key_of(MODEL, FIRST, "champion")
    table = pq.read_table(io.BytesIO(scored.store.get_bytes(key)))
    said = json.loads(table.schema.metadata[METADATA]) | {"version": 9}
    scored.store.put_bytes(key, written(table, said))
    Path(scored.store.uri(manifest_of(MODEL, FIRST, "champion"))).unlink()
    scored.score("next")
    assert (scored.days()[0].version, scored.days()[0].run) == (9, "killed")


def written(table: pa.Table, said: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(said).encode()}), buffer)
    return buffer.getvalue()


def test_of_two_runs_at_once_one_file_stands_and_both_record_it(scored: Scored) -> None:
    put_once, raced = scored.store.put_once, []

    def race(key: str, data: bytes) -> str:
        if not raced:
            raced.append(key)
            scored.score("the other")
        return put_once(key, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored.store, "put_once", race)
        scored.score("this one")
    assert {row.run for row in scored.days()} == {"the other"}
    assert findings(scored) == ()


def test_a_version_that_cannot_be_used_costs_its_own_days_only(scored: Scored) -> None:
    scored.world.register(2)
    scored.crown(2)
    scored.arrive("2013-04-23")
    shutil.rmtree(scored.world.folder / "registry" / MODEL / "1")
    with pytest.raises(Refused, match=r"version 1 of flight_delay cannot be used.*the other days are scored"):
        scored.score()
    assert [row.day for row in scored.days()] == [date(2013, 4, 20), date(2013, 4, 21)]


def test_a_foreign_file_in_the_place_of_predictions_is_not_taken_over(scored: Scored) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    scored.store.put_bytes(key_of(MODEL, FIRST, "champion"), buffer.getvalue())
    with pytest.raises(Refused, match=r"does not say what made it.*Move it away"):
        scored.score()


def test_predictions_that_were_changed_are_not_read_and_are_found(scored: Scored) -> None:
    scored.score()
    row = scored.days()[0]
    assert row.key is not None
    scored.store.put_bytes(row.key, b"other")
    with pytest.raises(CorruptObjectError):
        predictions(scored.store, row)
    assert [finding.name for finding in findings(scored)] == [row.key]


def findings(scored: Scored) -> tuple[Finding, ...]:
    """What ``ratchet verify`` has to say of predictions."""
    world = scored.world
    verifier = Verifier(world.ledger, world.audit_log, world.artifacts, lambda: world.registry, lambda: scored.store)
    found = verifier.verify(MODEL)
    assert found.looked_at["predictions"] == len(scored.days())
    return tuple(finding for finding in found.findings if finding.kind == "predictions")


@pytest.mark.parametrize("case", ["unknown", "without", "retired"])
def test_a_model_that_is_not_to_be_scored_is_refused_with_what_to_do(scored: Scored, case: str) -> None:
    if case == "unknown":
        with pytest.raises(Refused, match=r"no model 'nobody' in the ledger. Run: ratchet deploy"):
            scored.verb().score("nobody", RunContext("score__nobody", "r", "manual"))
        return
    if case == "without":
        scored.deploy(None)
    else:
        with scored.ledger.transaction() as tx:
            tx.retire(MODEL)
    said = {"without": r"asks for no scoring. Add `scoring: \{\}`", "retired": "ratchet deploy --revive flight_delay"}
    with pytest.raises(Refused, match=said[case]):
        scored.score()


def test_the_schedule_is_inert_in_replay(scored: Scored) -> None:
    answer = scored.score(run_type="scheduled")
    assert (answer["days"], answer["reason"]) == (0, "the schedule is inert while the clock is in replay")


def test_missing_labels_hold_no_scoring_back(scored: Scored) -> None:
    with scored.ledger.transaction() as tx:
        tx.advance_watermark("flights", datetime(2013, 4, 21, tzinfo=UTC), 0.2)
    assert scored.score()["days"] == DAYS


# -- the sweep ---------------------------------------------------------------------------------------------------------


def sweep(scored: Scored, **runs: Any) -> list[str]:
    found: list[str] = scored.world.sweeper.sweep(Runs("success", **runs), {MODEL})["score"]
    return found


def test_the_sweep_rings_for_days_that_are_due_once_and_for_a_newer_one_at_once(scored: Scored) -> None:
    assert sweep(scored, paused=True) == []
    assert sweep(scored) == [MODEL]
    assert sweep(scored) == []
    scored.arrive("2013-04-21")
    assert sweep(scored) == [MODEL]
    scored.score()
    scored.arrive("2013-04-21")
    assert sweep(scored) == []


def test_the_sweep_leaves_alone_what_scores_by_its_schedule_or_not_at_all(scored: Scored) -> None:
    scored.deploy({"on_data": False, "schedule": "0 5 * * *"})
    assert sweep(scored) == []
    scored.deploy(None)
    assert sweep(scored) == []
