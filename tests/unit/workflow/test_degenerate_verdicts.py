"""What cannot be judged is never promoted: it ends in a verdict that names it, for the gate and for the attempt."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES, rows, spec
from worlds import CODE

from ratchet.adapters import models
from ratchet.adapters.models import XGBoostLearner, XGBoostScorer
from ratchet.adapters.storage import ObjectStore
from ratchet.domain.artifact import ModelArtifact, Platt
from ratchet.domain.gate import GatePolicy, decide_promotion
from ratchet.domain.spec import ModelSpec
from ratchet.ports.studies import TrialRecord
from ratchet.workflow import evaluation, evidence
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.attempting import Attempts, Parts, seed_of
from ratchet.workflow.evaluation import evaluate
from ratchet.workflow.training import fit_final

TABLE = rows()
HOLDOUT = TABLE.filter(pc.greater_equal(TABLE["day"], HOLDOUT_START))
NOTHING = HOLDOUT.slice(0, 0)
ONE_DAY = HOLDOUT.filter(pc.equal(HOLDOUT["day"], HOLDOUT_START))
PARAMS = {"max_depth": 3, "learning_rate": 0.2}
AUGUST = datetime(2013, 8, 1, 4, tzinfo=UTC)
ATTEMPT = "flight_delay.1"


class NanScorer(XGBoostScorer):
    """Fine on what it learns from, NaN on some of the rows that came later."""

    def raw(self, table: Any) -> Any:
        later = pc.greater_equal(table["day"], "2013-03-01").to_numpy()
        return np.where(later, np.nan, super().raw(table))


class ConstantScorer(XGBoostScorer):
    """The same answer for every row."""

    def raw(self, table: Any) -> Any:
        return np.full(table.num_rows, 0.01)


@dataclass(frozen=True)
class Learning(XGBoostLearner):
    """XGBoost, with the scorers it makes put into another class."""

    kind: type[XGBoostScorer] = XGBoostScorer

    def fit(self, *given: Any, **named: Any) -> XGBoostScorer:
        fitted = super().fit(*given, **named)
        return self.kind(fitted.booster, fitted.features, fitted.categories)


@dataclass(frozen=True)
class Case:
    """A champion, a challenger and the rows they meet on; and what the verdict must be and say."""

    decision: str
    named: str
    scorer: type[XGBoostScorer] = XGBoostScorer
    champion_trees: int = 1
    challenger_trees: int = 30
    holdout: Callable[[], pa.Table] = lambda: HOLDOUT
    guardrails: tuple[dict[str, Any], ...] = ()


CASES = {
    "NaN predictions": Case("keep_champion", "challenger's probability is NaN", scorer=NanScorer),
    "a constant model": Case("keep_champion", "upper bound", scorer=ConstantScorer, champion_trees=30),
    "a model equal to the champion": Case("keep_champion", "identical in value", champion_trees=30),
    "an absent required slice": Case(
        "not_enough_evidence",
        "carrier=ZZ: no row belongs to it",
        guardrails=({"metric": "payoff", "slice": "carrier=ZZ", "max_regression": 1.0, "required": True},),
    ),
    "one cluster": Case("not_enough_evidence", "one cluster", holdout=lambda: ONE_DAY),
    "an empty holdout": Case("not_enough_evidence", "the holdout is empty", holdout=lambda: NOTHING),
}
SOUND = Case("promote", "lower bound")


@pytest.fixture(autouse=True)
def _few_rows_are_timed(monkeypatch):
    monkeypatch.setattr(evaluation, "LATENCY_SAMPLES", 5)


def spec_of(case: Case, **train: Any) -> ModelSpec:
    plain = spec(**train).model_dump(mode="json")
    return ModelSpec.model_validate(plain | {"gate": plain["gate"] | {"guardrails": list(case.guardrails)}})


def fitted(case: Case, trees: int, kind: type[XGBoostScorer] = XGBoostScorer) -> ModelArtifact:
    return fit_final(
        spec=spec_of(case, fixed={}),
        train=TABLE,
        ranges=RANGES,
        columns=COLUMNS,
        params=PARAMS | {"n_estimators": trees},
        seed=seed_of(ATTEMPT),
        learner=Learning(kind),
        calibrator=Platt(),
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gate_gives_a_named_verdict_and_no_promotion(case: Case) -> None:
    champion, challenger = fitted(case, case.champion_trees), fitted(case, case.challenger_trees, case.scorer)
    given = evaluate(spec_of(case), case.holdout(), champion, challenger)
    verdict = decide_promotion(given, GatePolicy.from_spec(spec_of(case).gate))
    assert verdict.decision == case.decision
    assert case.named in " ".join(verdict.reasons)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_attempt_is_concluded_with_the_named_verdict_its_dossier_and_the_champion_kept(world, case: Case) -> None:
    answer = judged(world, case)
    assert answer["verdict"]["decision"] == case.decision
    assert case.named in " ".join(answer["verdict"]["reasons"])
    attempt = world.attempt(ATTEMPT)
    assert (attempt.state, attempt.verdict) == ("concluded", case.decision)
    dossier = json.loads(store_of(world).get_bytes(f"dossiers/{ATTEMPT}.json"))
    assert dossier["verdict"] == answer["verdict"]
    assert given_again(world, dossier) == (case.decision, answer["verdict"]["reasons"])
    answered = [row.fate for row in world.events() if row.origin != "attempt"]
    assert sorted(answered) == ["merged", "started"]
    assert world.promotions.promote(world.model)["promoted"] is None
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).version == 1
    told = [json.loads(record.value) for record in world.bus.records("ml.decisions")]
    kind = {"keep_champion": "kept", "not_enough_evidence": "undecided"}[case.decision]
    assert [event["type"] for event in told if ".model." in event["type"]] == [f"ratchet.model.{kind}.v1"]


def test_a_sound_challenger_on_the_same_rows_is_promoted(world) -> None:
    assert judged(world, SOUND)["verdict"]["decision"] == "promote"
    assert world.promotions.promote(world.model)["promoted"] == ATTEMPT


def test_a_holdout_without_rows_spends_no_fresh_day(world) -> None:
    assert judged(world, CASES["an empty holdout"])["used_days"]["holdout"] == {}


def store_of(world: Any) -> ObjectStore:
    return ObjectStore(str(world.folder / "store"))


def given_again(world: Any, dossier: dict[str, Any]) -> tuple[str, list[str]]:
    """The verdict from the rows that were kept."""
    kept = dossier["evidence"]
    table = pq.read_table(io.BytesIO(store_of(world).get_bytes(kept["key"], digest=kept["sha256"])))
    slices = [guardrail.column for guardrail in world.spec.gate.guardrails]
    back = evidence.from_table(table, kept["beside"], slices, dossier["verdict"]["unit"])
    verdict = decide_promotion(back, GatePolicy.from_spec(world.spec.gate))
    return verdict.decision, list(verdict.reasons)


def judged(world: Any, case: Case) -> dict[str, Any]:
    """An attempt that has taken its snapshot and tuned, judged on the case's rows."""
    plain = spec_of(case, fixed={})
    world.spec = plain.model_copy(update={"retrain": world.spec.retrain})
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
    models.save(fitted(case, case.champion_trees), world.folder / "champion")
    world.registry.register("the first", world.model, world.folder / "champion", metrics={}, params={}, tags={})
    world.crown(1)
    world.arrive(AUGUST)
    assert world.claim()["attempt"] == ATTEMPT
    best = TrialRecord(0, PARAMS | {"n_estimators": case.challenger_trees}, 0.5, {"calibration": [1.0, 0.0]})
    parts = Parts(
        ledger=world.ledger,
        settings=world.settings,
        code_digest=CODE,
        features=lambda: pytest.fail("the snapshot is taken"),
        store=lambda: store_of(world),
        studies=lambda: Finished(best),
        registry=lambda: world.registry,
        models=lambda: Adapter(case.scorer),
        artifacts=lambda: Artifacts(world.ledger, lambda: world.registry, lambda: models),
        environment=dict,
    )
    with world.ledger.transaction() as tx:
        tx.own_lease(ATTEMPT)
        tx.save_step(ATTEMPT, "snapshot", snapshot(store_of(world), case.holdout()), tx.wall())
    attempts = Attempts(parts)
    attempts.snapshot(ATTEMPT)
    return attempts.judge(ATTEMPT)


@dataclass(frozen=True)
class Finished:
    """A study that is done."""

    best: TrialRecord

    def finished(self, study: str) -> list[TrialRecord]:
        return [self.best]

    def ended(self, study: str) -> list[TrialRecord]:
        return [self.best]


@dataclass(frozen=True)
class Adapter:
    """The adapter of models, with scorers of one kind."""

    kind: type[XGBoostScorer]
    save = staticmethod(models.save)
    load = staticmethod(models.load)

    def learner_for(self, estimator: str) -> Learning:
        return Learning(self.kind)


def snapshot(store: ObjectStore, holdout: pa.Table) -> dict[str, Any]:
    files = {}
    for name, table in {"train": TABLE.filter(pc.less(TABLE["day"], HOLDOUT_START)), "holdout": holdout}.items():
        sink = io.BytesIO()
        pq.write_table(table, sink)
        key = f"snapshots/{ATTEMPT}/{name}.parquet"
        files[name] = {"uri": store.uri(key), "key": key, "sha256": store.put_bytes(key, sink.getvalue())}
    named = ("fit_start", "fit_end", "calibrate_start", "calibrate_end")
    manifest = {
        "plan": {name: getattr(RANGES, name) for name in named},
        "features": COLUMNS.features,
        "categorical": COLUMNS.categorical,
        "files": files,
    }
    digest = store.put_bytes("manifest.json", json.dumps(manifest).encode())
    return {"manifest": "manifest.json", "manifest_sha256": digest, "train_uri": files["train"]["uri"]}
