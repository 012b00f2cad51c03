"""New rows are looked at once; what moved is told with its evidence, and what is broken is told to the owner alone."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from judged_attempts import TABLE, JudgingWorld
from worlds import Runs

from ratchet.adapters.ledger.schema import scored_day
from ratchet.domain import events as cloudevents
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, Unavailable
from ratchet.ports.bus import DRIFT
from ratchet.ports.ledger import ChampionRow
from ratchet.records import RunContext
from ratchet.workflow import evaluation, monitoring
from ratchet.workflow.deciding import LONGEST_LOOK, last_look
from ratchet.workflow.monitoring import BrokenData, Monitors
from ratchet.workflow.scoring import Scoring
from ratchet.workflow.sweeping import MONITOR_AGAIN_SECONDS
from ratchet.workflow.verifying import Verifier

MAY = "2013-05-01"
DETECTED, CLEARED = "ratchet.drift.detected.v1", "ratchet.drift.cleared.v1"
DEGRADED = "ratchet.performance.degraded.v1"


@pytest.fixture(scope="module", autouse=True)
def _few_rows_are_timed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SAMPLES", 5)
        yield


@pytest.fixture(scope="module")
def crowned_template(tmp_path_factory, migrated):
    made = JudgingWorld(tmp_path_factory.mktemp("crowned"), migrated)
    made.run("2013-03-25", first_champion=True)
    yield made
    made.ledger.dispose()


class Watched:
    """A world with a champion of March whose spec has a monitor; the data reach the first of May."""

    def __init__(self, world: JudgingWorld, **monitor) -> None:
        self.world = world
        self.deploy({"min_rows": 100, "block": "2d"} | monitor)
        self.verb = Monitors(
            world.ledger,
            world.relay,
            features=lambda: world.features,
            artifacts=lambda: world.artifacts,
            store=lambda: world.store,
        )
        self.arrive(MAY)

    def deploy(self, monitor) -> None:
        plain = self.world.spec.model_dump(mode="json") | {"monitor": monitor}
        self.spec = ModelSpec.model_validate(plain)
        with self.world.ledger.transaction() as tx:
            tx.publish_spec(self.spec.model, self.spec.digest, self.spec.model_dump(mode="json"))

    def arrive(self, day: str) -> None:
        until = datetime.fromisoformat(f"{day}T04:00").replace(tzinfo=UTC)
        with self.world.ledger.transaction() as tx:
            for dataset in self.spec.datasets:
                tx.advance_watermark(dataset, until, 1.0)
            tx.set_clock("replay", until)

    def look(self, end: date | None = None) -> dict:
        return self.verb.monitor(self.world.model, end)

    def score(self, first: str, last: str) -> None:
        """Have these days scored, as a spec with scoring would."""
        world, monitor = self.world, self.spec.monitor
        plain = self.spec.model_dump(mode="json") | {"monitor": monitor.model_dump(mode="json"), "scoring": {}}
        with world.ledger.transaction() as tx:
            scoring = ModelSpec.model_validate(plain)
            tx.publish_spec(scoring.model, scoring.digest, scoring.model_dump(mode="json"))
        verb = Scoring(
            world.ledger, features=lambda: world.features, store=lambda: world.store, artifacts=lambda: world.artifacts
        )
        asked = (date.fromisoformat(first), date.fromisoformat(last))
        verb.score(world.model, RunContext(f"score__{world.model}", "run", "manual"), asked)

    def scored_days(self):
        with self.world.ledger.transaction() as tx:
            return tx.scored_days(self.world.model)

    def windows(self):
        with self.world.ledger.transaction() as tx:
            return tx.monitored(self.world.model)

    def told(self) -> list[cloudevents.InboundEvent]:
        return [cloudevents.parse(r.value, r.headers) for r in self.world.bus.records(DRIFT)]

    def report(self) -> dict:
        window = self.windows()[0]
        key = monitoring.key_of(window.model, window.window_end, window.report_sha256)
        return json.loads(self.world.store.get_bytes(key, digest=window.report_sha256))

    def audited(self) -> list[str]:
        with self.world.ledger.transaction() as tx:
            return [row["action"] for row in tx.audit_log(self.world.model)]

    def change(self, name: str, values, since: str = "2013-03-26") -> None:
        """Have the column hold other values from that day on."""
        table = self.world.features.table
        late = np.array(table["day"].to_pylist()) >= since
        old = table[name].to_pylist()
        new = values if isinstance(values, list) else values(np.array(old, dtype=object)).tolist()
        column = pa.array([n if changed else o for o, n, changed in zip(old, new, late, strict=True)])
        self.world.features.table = table.set_column(table.column_names.index(name), name, column)


@pytest.fixture
def watched(crowned_template, tmp_path):
    world = crowned_template.copy(tmp_path)
    yield Watched(world)
    world.ledger.dispose()


def test_rows_that_did_not_move_clear_both_checks_and_the_report_is_kept(watched):
    answer = watched.look()
    assert answer["state"] == "done"
    assert answer["reason"] == "nothing moved"
    assert {(e.type, e.data.check) for e in watched.told()} == {
        (CLEARED, "feature_drift"),
        (CLEARED, "prediction_drift"),
    }
    report = watched.report()
    assert report["window"]["rows"] == 28 * 40
    assert report["reference"]["days"][1] < report["window"]["start"]
    assert report["payoff"]["outcome"] == "held"
    realised, expected = report["payoff"]["realised"], report["payoff"]["expected"]
    assert realised["lower"] < expected["estimate"] < realised["upper"]
    assert {e.data.evidence_uri for e in watched.told()} == {watched.windows()[0].report_uri}


def test_the_ledger_keeps_the_intervals_of_the_payoff_as_the_report_has_them(watched):
    found = watched.look()["found"]
    report, kept = watched.report(), watched.windows()[0].found
    assert found == kept
    assert kept["window"] == {"start": report["window"]["start"], "end": report["window"]["end"]}
    for name in ("realised", "expected"):
        assert kept["payoff"][name] == report["payoff"][name]
    assert "uplift" not in kept["payoff"]
    days = report["window"]["start"], report["payoff"]["realised"]["last_day"]
    assert days == (report["payoff"]["realised"]["first_day"], "2013-04-28")


def test_a_report_that_was_changed_afterwards_is_found_by_its_name(watched):
    watched.look()
    world, window = watched.world, watched.windows()[0]
    parts = (world.ledger, world.audit_log, world.artifacts, lambda: world.registry, lambda: world.store)
    found = Verifier(*parts).verify()
    assert found.looked_at["monitor report"] == 1
    assert not [finding for finding in found.findings if finding.kind == "monitor report"]
    world.store.put_bytes(monitoring.key_of(window.model, window.window_end, window.report_sha256), b"{}")
    (finding,) = (one for one in Verifier(*parts).verify().findings if one.kind == "monitor report")
    assert "sha256 must be" in finding.problem


def test_a_feature_that_moved_is_told_with_its_severity_and_evidence(watched):
    watched.change("rate", lambda old: old.astype(float) + 2.0)
    answer = watched.look()
    found = {e.data.check: e for e in watched.told() if e.type == DETECTED}
    event = found["feature_drift"]
    assert event.data.feature == "rate"
    assert 0.5 < event.data.severity < 1
    assert event.id == f"monitor:{watched.world.model}:feature_drift:20130501T040000Z"
    assert event.data.window_end == event.time == datetime(2013, 5, 1, 4, tzinfo=UTC)
    assert answer["found"]["features"]["outcome"] == "drifted"
    assert "prediction_drift" in found
    assert watched.report()["features"]["drifted"] == ["rate"]


def test_what_is_told_reaches_admission_as_any_monitors_events(watched):
    watched.change("rate", lambda old: old.astype(float) + 2.0)
    watched.look()
    watched.world.intake.store(watched.world.bus.records(DRIFT))
    kept = watched.world.events(types=[DETECTED])
    assert {row.model for row in kept} == {watched.world.model}
    assert {row.data["check"] for row in kept} == {"feature_drift", "prediction_drift"}


def test_a_window_is_looked_at_once(watched):
    watched.look()
    told = len(watched.told())
    again = watched.look()
    assert (again["state"], again["told"]) == (None, [])
    assert "less than 7d beyond it" in again["reason"]
    assert "looked at already" in watched.look(date(2013, 5, 1))["reason"]
    assert len(watched.told()) == told
    assert len(watched.windows()) == 1


def test_a_run_that_died_before_its_window_was_kept_is_made_good_by_the_next(watched, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(monitoring, "observation", _away)
        with pytest.raises(Unavailable):
            watched.look()
    assert watched.windows() == []
    assert watched.look()["state"] == "done"
    assert len(watched.told()) == 2


def test_what_kafka_did_not_take_is_told_later(watched, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(watched.world.bus, "publish", _away)
        assert watched.look()["state"] == "done"
    assert watched.told() == []
    watched.world.relay.run()
    assert len(watched.told()) == 2


def _away(*_):
    raise Unavailable("it does not answer")


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("rate", lambda old: np.full(old.size, None), "more rows are missing"),
        ("carrier", lambda old: np.full(old.size, "ZZ", dtype=object), "never seen"),
        ("rate", lambda old: old.astype(float) * 1e6, "lie outside"),
    ],
)
def test_data_that_cannot_be_believed_are_told_to_the_owner_and_ask_for_no_retrain(watched, name, values, said):
    watched.change(name, values)
    with pytest.raises(BrokenData, match=f"{name}: .*{said}.*ops@example.com"):
        watched.look()
    assert watched.told() == []
    assert watched.windows()[0].state == "broken"
    assert "monitor.broken" in watched.audited()
    assert watched.report()["cause"] == "the data are broken"


def test_a_feature_that_is_gone_is_a_break_not_a_crash(watched):
    watched.world.features.historical = lambda _spec, spine: TABLE.filter(
        pc.is_in(TABLE["flight_id"], value_set=spine["flight_id"].combine_chunks())
    ).drop_columns(["label", "rate"])
    with pytest.raises(BrokenData, match="rate: the feature is gone"):
        watched.look()


def test_rows_that_cannot_be_read_are_a_break(watched):
    def refuse(*_, **__):
        raise Refused("flights.parquet must hold scheduled_departure, but has departure")

    watched.world.features.entities = refuse
    with pytest.raises(BrokenData, match=r"cannot be read: flights\.parquet must hold"):
        watched.look()


def test_a_broken_window_is_looked_at_again_once_its_data_are_mended(watched):
    good = watched.world.features.table
    watched.change("rate", lambda old: np.full(old.size, None))
    with pytest.raises(BrokenData):
        watched.look()
    watched.world.features.table = good
    assert watched.look()["state"] == "done"
    assert len(watched.told()) == 2


def test_what_a_look_said_of_the_rows_is_known_to_admission_and_decided_upon_at_once(watched):
    model, good = watched.world.model, watched.world.features.table
    end = datetime(2013, 5, 1, 4, tzinfo=UTC)
    with watched.world.ledger.transaction() as tx:
        assert last_look(tx, watched.spec) == (None, None, None)
        assert tx.ring_monitor(model, end, watched.spec.digest, 0)
        assert last_look(tx, watched.spec) == (None, None, tx.monitored(model)[0].rung_at + LONGEST_LOOK)
        tx.unmark(model)
    watched.change("rate", lambda old: np.full(old.size, None))
    with pytest.raises(BrokenData):
        watched.look()
    with watched.world.ledger.transaction() as tx:
        said, looked_at, look_ends = last_look(tx, watched.spec)
        assert said.startswith("the rows up to 2013-05-01 04:00Z cannot be believed: rate: ")
        assert (looked_at, look_ends) == (tx.monitored(model)[0].done_at, None)
        assert tx.lock_model_to_decide(tx.clock()[1]) == model
        tx.unmark(model)
    watched.world.features.table = good
    watched.look()
    with watched.world.ledger.transaction() as tx:
        assert last_look(tx, watched.spec)[0] is None
        assert tx.lock_model_to_decide(tx.clock()[1]) == model


def test_a_champion_that_earns_less_than_it_was_judged_to_is_told(watched):
    draw = np.random.default_rng(1)
    watched.change("label", lambda old: (draw.random(old.size) < 0.02).astype(np.int8))
    watched.look()
    metrics = {e.data.metric: e.data for e in watched.told() if e.type == DEGRADED}
    assert metrics["payoff"].value < metrics["payoff"].threshold
    assert metrics["calibration_gap"].value > metrics["calibration_gap"].threshold
    report = watched.report()
    assert report["payoff"]["realised"]["upper"] < report["payoff"]["promised"]["lower"]
    assert report["cause"].endswith("fell although no input moved")
    assert report["payoff"]["expected"]["estimate"] > report["payoff"]["realised"]["upper"]


class Knowing:
    """A predecessor that acts on the positive rows alone."""

    threshold = 0.5

    def decide(self, rows):
        label = rows["label"].to_numpy()
        return label.astype(float), label == 1


class Shelf:
    """The real versions, and what else stands under a number."""

    def __init__(self, real, **others) -> None:
        self.real = real
        self.others = others

    def load(self, model, version):
        return self.others.get(f"v{version}") or self.real.load(model, version)


def test_a_champion_that_is_worse_than_its_predecessor_on_the_same_rows_is_told(watched):
    world = watched.world
    world.artifacts = Shelf(world.artifacts, v99=Knowing())
    with world.ledger.transaction() as tx:
        first = tx.current_champion(world.model)
        for seq, version in ((2, 99), (3, first.version)):
            tx.insert_champion(
                ChampionRow(
                    world.model, seq, version, first.attempt_id, "rollback", first.as_of, None, "r", None, tx.wall()
                )
            )
    watched.look()
    metrics = {e.data.metric: e.data for e in watched.told() if e.type == DEGRADED}
    assert metrics.keys() == {"uplift_over_predecessor"}
    assert metrics["uplift_over_predecessor"].value < metrics["uplift_over_predecessor"].threshold == 0
    assert watched.report()["payoff"]["uplift"]["over"] == 99


def test_the_reference_of_a_refit_is_all_that_it_was_fitted_on(crowned_template, tmp_path):
    world = crowned_template.copy(tmp_path)
    plain = world.spec.model_dump(mode="json") | {"probation": {"for": "28d"}}
    plain["gate"] |= {"mode": "non_inferiority", "min_uplift": 1000.0, "guardrails": [], "deploy": "refit"}
    world.spec = ModelSpec.model_validate(plain)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
    made = world.run("2013-04-15")
    watched = Watched(world)
    watched.arrive("2013-05-21")
    assert watched.look()["state"] == "done"
    report = watched.report()
    assert report["version"] == made.deployed_version
    assert report["reference"]["days"][1] == "2013-04-11"
    assert report["features"]["outcome"] == "cleared"
    assert report["payoff"]["uplift"]["over"] == 1


def test_without_labels_the_payoff_is_expected_and_not_judged(watched):
    with watched.world.ledger.transaction() as tx:
        tx.advance_watermark("flights", datetime(2013, 5, 2, 4, tzinfo=UTC), 0.2)
    watched.look()
    report = watched.report()
    assert report["payoff"]["outcome"] == "unjudged"
    assert "complete" in report["payoff"]["said"][0]
    assert report["payoff"]["expected"]["estimate"] is not None
    assert report["features"]["outcome"] == "cleared"


def test_scores_that_scoring_wrote_are_read_and_give_the_same_numbers(crowned_template, tmp_path):
    plain = drift_of_scores(Watched(crowned_template.copy(tmp_path / "plain")))
    whole = Watched(crowned_template.copy(tmp_path / "whole"))
    whole.score("2013-04-03", "2013-04-27")
    part = Watched(crowned_template.copy(tmp_path / "part"))
    part.score("2013-04-03", "2013-04-12")
    scored, partly = drift_of_scores(whole), drift_of_scores(part)
    assert plain.pop("scores") == {"days_read": 0, "days_scored": 28}
    assert scored.pop("scores") == {"days_read": 25, "days_scored": 3}
    assert partly.pop("scores") == {"days_read": 10, "days_scored": 18}
    assert plain == scored == partly


@pytest.mark.parametrize("spoilt", ["gone", "changed", "of another version", "of fewer rows"])
def test_a_day_whose_scores_cannot_be_read_as_this_champions_is_scored_again(crowned_template, tmp_path, spoilt):
    plain = drift_of_scores(Watched(crowned_template.copy(tmp_path / "plain")))
    watched = Watched(crowned_template.copy(tmp_path / "spoilt"))
    watched.score("2013-04-03", "2013-04-27")
    store, (first, *_) = watched.world.store, watched.scored_days()
    if spoilt == "gone":
        Path(store.uri(first.key).removeprefix("file://")).unlink()
    elif spoilt == "changed":
        other = watched.scored_days()[1]
        store.put_bytes(first.key, store.get_bytes(other.key))
    else:
        change = {"version": first.version + 1} if spoilt == "of another version" else {"rows": first.rows - 1}
        with watched.world.ledger.engine.begin() as db:
            db.execute(sa.update(scored_day).where(scored_day.c.day == first.day).values(change))
    again = drift_of_scores(watched)
    assert again.pop("scores") == {"days_read": 24, "days_scored": 4}
    assert plain.pop("scores")
    assert again == plain


def drift_of_scores(watched) -> dict:
    watched.look()
    return watched.report()["predictions"]


def test_a_seasonal_feature_is_told_and_calls_nothing(crowned_template, tmp_path):
    watched = Watched(crowned_template.copy(tmp_path), seasonal=["rate"], checks=["features"])
    watched.change("rate", lambda old: old.astype(float) + 2.0)
    watched.look()
    assert [e.type for e in watched.told()] == [CLEARED]
    (told,) = watched.report()["features"]["seasonal"]
    assert (told["feature"], told["drifted"]) == ("rate", True)


def test_too_few_rows_are_unjudged_and_nothing_is_told_of_them(crowned_template, tmp_path):
    watched = Watched(crowned_template.copy(tmp_path), min_rows=100_000, checks=["features", "predictions"])
    assert watched.look()["found"]["features"]["outcome"] == "unjudged"
    assert watched.told() == []


def test_too_few_weeks_for_any_alarm_are_unjudged_and_say_so(crowned_template, tmp_path):
    """Two weeks that judged, four new ones: fifteen arrangements, so that no p-value can be below 0.05."""
    watched = Watched(crowned_template.copy(tmp_path), block="7d")
    found = watched.look()["found"]
    assert found["features"]["outcome"] == "cleared"
    assert found["predictions"]["outcome"] == "unjudged"
    assert "15 ways: too few" in found["predictions"]["said"]


def test_nothing_is_looked_at_beyond_the_data_or_without_a_monitor(watched):
    with pytest.raises(Refused, match="must reach 2013-06-01, but reach 2013-05-01"):
        watched.look(date(2013, 6, 1))
    watched.deploy(None)
    with pytest.raises(Refused, match="has no monitor"):
        watched.look()


def test_old_data_are_told_to_the_owner(crowned_template, tmp_path):
    watched = Watched(crowned_template.copy(tmp_path), max_age="3d")
    watched.look()
    assert "monitor.stale" not in watched.audited()
    with watched.world.ledger.transaction() as tx:
        tx.set_clock("replay", datetime(2013, 5, 6, tzinfo=UTC))
    watched.look()
    assert "monitor.stale" in watched.audited()


def test_the_sweep_rings_for_a_window_once_and_not_for_one_that_was_looked_at(watched):
    sweep = lambda: watched.world.sweeper.sweep(Runs(), {watched.world.model})["monitor"]  # noqa: E731
    assert sweep() == [watched.world.model]
    assert sweep() == []
    assert MONITOR_AGAIN_SECONDS > 60
    watched.look()
    watched.arrive("2013-05-05")
    assert sweep() == []
    watched.arrive("2013-05-08")
    assert sweep() == [watched.world.model]


def test_the_sweep_rings_for_no_paused_dag_and_no_spec_without_a_monitor(watched):
    assert watched.world.sweeper.sweep(Runs(paused=True), {watched.world.model})["monitor"] == []
    watched.deploy(None)
    assert watched.world.sweeper.sweep(Runs(), {watched.world.model})["monitor"] == []
