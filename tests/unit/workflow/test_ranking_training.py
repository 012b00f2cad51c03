"""From labelled rows to a frozen ranking: groups, trials, artifact, decisions, evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost as xgb
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES
from ranked_rows import CAPACITY, FIXED, ranking_rows, ranking_spec

from ratchet.adapters.models import XGBoostRankingLearner, encode_frame, learner_for, load, save
from ratchet.domain.artifact import ConstantDecision, ModelArtifact
from ratchet.domain.gate import GatePolicy, decide_promotion
from ratchet.domain.inference import group
from ratchet.domain.ranking import by_day
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow import evaluation, evidence
from ratchet.workflow.evaluation import evaluate, payoff_by_capacity, payoff_curve
from ratchet.workflow.scoring import predict
from ratchet.workflow.training import best_constant, best_trial, calibration_of, fit_final, tune_worker

TABLE = ranking_rows()
SPEC = ranking_spec()
HOLDOUT = TABLE.filter(pc.greater_equal(TABLE["day"], HOLDOUT_START))
PARAMS = {"max_depth": 3, "learning_rate": 0.2, "min_child_weight": 2.0, "subsample": 0.8, "colsample_bytree": 0.8}


@pytest.fixture(autouse=True)
def _timed_briefly(monkeypatch):
    monkeypatch.setattr(evaluation, "LATENCY_SAMPLES", 5)


def between(start: str, end: str, table: pa.Table = TABLE) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table["day"], start), pc.less(table["day"], end)))


LATER = between(RANGES.calibrate_start, RANGES.calibrate_end)


def fit(given: ModelSpec = SPEC, table: pa.Table = TABLE, **changes: Any) -> ModelArtifact:
    chosen = {"params": PARAMS, "columns": COLUMNS, "ranges": RANGES, "seed": 7}
    return fit_final(spec=given, train=table, learner=XGBoostRankingLearner(), **(chosen | changes))


def tune(studies: InMemoryStudies, given: ModelSpec = SPEC, **changes: Any) -> Any:
    named = {"ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0, "trials": 3, "seed": 7}
    return tune_worker(
        spec=given, train=TABLE, studies=studies, **({"learner": XGBoostRankingLearner()} | named | changes)
    )


def acted_by_day(rows: pa.Table, act: np.ndarray) -> dict[str, int]:
    days = np.array(rows["day"].to_pylist())
    return {day: int(act[days == day].sum()) for day in sorted(set(days))}


# -- fitting ---------------------------------------------------------------------------------------------------------


def test_the_booster_is_the_native_rankers_with_the_days_as_groups():
    model = fit()
    every = between(RANGES.fit_start, RANGES.calibrate_end).sort_by([("day", "ascending"), ("flight_id", "ascending")])
    codes = group(every["day"].to_numpy()).codes
    native = xgb.XGBRanker(objective="rank:ndcg", enable_categorical=True, random_state=7, n_jobs=1, **FIXED, **PARAMS)
    native.fit(encode_frame(every, model.features, model.categories), every["label"].to_numpy(), qid=codes)
    expected = native.predict(encode_frame(HOLDOUT, model.features, model.categories))
    np.testing.assert_array_equal(model.scorer.raw(HOLDOUT), expected.astype(np.float64))


def test_two_fits_on_shuffled_rows_and_any_threads_are_equal_to_the_bit(tmp_path: Path):
    shuffled = TABLE.take(np.random.default_rng(1).permutation(TABLE.num_rows))
    fits = (fit(), fit(table=shuffled), fit(threads=3))
    assert len({save(model, tmp_path / str(i)) for i, model in enumerate(fits)}) == 1


def test_rows_of_no_day_cannot_be_ranked():
    rows = TABLE.drop_columns("day")
    given = {"features": COLUMNS.features, "categories": {"carrier": ("AA",)}, "threads": 1}
    with pytest.raises(Refused, match="must have the column 'day'"):
        learner_for("xgboost.XGBRanker").prepare(rows, rows["label"].to_numpy(), **given)


def test_a_trial_is_valued_by_what_the_ndcg_of_the_later_range_lacks_of_one():
    studies = InMemoryStudies()
    tune(studies)
    best = best_trial(studies, "m.1")
    assert calibration_of(best) is None
    early = between(RANGES.fit_start, RANGES.fit_end)
    learner = XGBoostRankingLearner()
    given = {"features": COLUMNS.features, "categories": learner.categories(early, ("carrier",)), "threads": 1}
    prepared = learner.prepare(early, early["label"].to_numpy(), **given)
    model = fit(params=best.params)
    held_back = replace(model, scorer=learner.fit(prepared, model.params, seed=7, threads=1))
    score, act = held_back.decide(LATER)
    days, label = group(LATER["day"].to_numpy()), LATER["label"].to_numpy()
    for name in ("ndcg_at_k", "precision_at_k"):
        assert best.attributes[name] == by_day(name, label, score, act, days).mean()
    assert best.value == 1 - best.attributes["ndcg_at_k"]
    payoff = SPEC.business.payoff
    assert best.attributes["payoff_per_decision"] == np.where(act, np.where(label == 1, payoff.tp, payoff.fp), 0).mean()


def test_no_trial_of_a_ranking_is_stopped_early():
    studies = InMemoryStudies()
    tune(studies, ranking_spec(fixed=FIXED | {"n_estimators": 60}), trials=6)
    assert len(studies.finished("m.1")) == 6


def test_a_ranking_is_tuned_by_policy():
    studies = InMemoryStudies()
    result = tune(studies, ranking_spec(tuning={"policy": "cold"}, trials=8), trials=8)
    assert result.policy is not None
    assert best_trial(studies, "m.1").value == min(t.value for t in studies.finished("m.1"))


@dataclass(frozen=True)
class NanScorer:
    """What no tree gives: scores that are no numbers."""

    features: tuple[str, ...] = COLUMNS.features

    def raw(self, rows: Any) -> np.ndarray:
        return np.where(np.arange(rows.num_rows) % 7 == 0, np.nan, np.arange(rows.num_rows, dtype=float))


class NanLearner(XGBoostRankingLearner):
    def fit(self, prepared, params, *, seed, threads, watch=None):
        return NanScorer()


def test_a_trial_whose_scores_are_no_numbers_is_refused():
    studies = InMemoryStudies()
    with pytest.raises(Refused, match="all 3 trials were refused"):
        tune(studies, learner=NanLearner())
    (reason,) = {trial.attributes["reason"] for trial in studies.ended("m.1")}
    assert "every score must be finite" in reason


# -- decisions -------------------------------------------------------------------------------------------------------


def test_each_day_the_best_are_acted_on_as_many_as_the_capacity_whatever_they_score():
    score, act = fit().decide(HOLDOUT)
    assert set(acted_by_day(HOLDOUT, act).values()) == {CAPACITY}
    days = np.array(HOLDOUT["day"].to_pylist())
    for day in set(days.tolist()):
        mine = days == day
        assert score[mine & act].min() >= score[mine & ~act].max()


def test_a_day_of_fewer_rows_than_the_capacity_is_acted_on_as_a_whole():
    few = pa.concat_tables(
        [HOLDOUT.filter(pc.equal(HOLDOUT["day"], HOLDOUT_START)).slice(0, 3), between("2013-02-24", "2013-02-25")]
    )
    assert acted_by_day(few, fit().decide(few)[1]) == {HOLDOUT_START: 3, "2013-02-24": CAPACITY}


def test_a_day_knows_nothing_of_another():
    model = fit()
    one = HOLDOUT.filter(pc.equal(HOLDOUT["day"], HOLDOUT_START))
    whole = model.decide(HOLDOUT)[1][np.array(HOLDOUT["day"].to_pylist()) == HOLDOUT_START]
    np.testing.assert_array_equal(model.decide(one)[1], whole)


def test_a_row_without_a_score_is_not_acted_on_and_its_model_is_never_promoted():
    model = replace(fit(), scorer=NanScorer())
    few = HOLDOUT.slice(0, 7)
    assert not model.decide(few)[1][0]
    rival = best_constant(SPEC, TABLE, RANGES)
    verdict = decide_promotion(evaluate(SPEC, HOLDOUT, rival, model), GatePolicy.from_spec(SPEC.gate))
    assert verdict.decision == "keep_champion"
    assert "the challenger's score is NaN or infinite on" in " ".join(verdict.reasons)


def test_rows_of_no_day_are_not_decided():
    with pytest.raises(Refused, match="'day' to be decided under a capacity"):
        fit().decide(HOLDOUT.drop_columns("day"))


def test_its_predictions_have_a_score_and_a_decision():
    told = predict(SPEC, HOLDOUT, fit())
    assert told.column_names == ["flight_id", "decided_at", "day", "score", "act"]
    assert pc.sum(told["act"]).as_py() == CAPACITY * len(set(HOLDOUT["day"].to_pylist()))


# -- rival and verdict -----------------------------------------------------------------------------------------------


def test_a_useful_ranking_beats_the_same_number_of_acts_spread_evenly():
    rival = best_constant(SPEC, TABLE, RANGES)
    assert rival == ConstantDecision(act=True, probability=rival.probability, capacity=CAPACITY)
    assert set(acted_by_day(HOLDOUT, rival.decide(HOLDOUT)[1]).values()) == {CAPACITY}
    found = evaluate(SPEC, HOLDOUT, rival, fit())
    assert (found.champion.score, found.challenger.probability, found.challenger.prediction) == (None, None, None)
    verdict = decide_promotion(found, GatePolicy.from_spec(SPEC.gate))
    assert verdict.decision == "promote", verdict.reasons


def test_an_equal_ranking_is_not_promoted():
    model = fit()
    verdict = decide_promotion(evaluate(SPEC, HOLDOUT, model, model), GatePolicy.from_spec(SPEC.gate))
    assert verdict.decision != "promote"


def test_guardrails_compare_both_rankings_by_day():
    worse = fit(params=PARAMS | {"max_depth": 1, "learning_rate": 0.001})
    found = evaluate(SPEC, HOLDOUT, fit(), worse)
    checks = {c.metric: c for c in decide_promotion(found, GatePolicy.from_spec(SPEC.gate)).checks}
    days, label = group(HOLDOUT["day"].to_numpy()), HOLDOUT["label"].to_numpy()
    for side in ("champion", "challenger"):
        scored = getattr(found, side)
        expected = by_day("ndcg_at_k", label, scored.score, scored.act, days).mean()
        assert getattr(checks["ndcg_at_k"], side) == pytest.approx(expected)
        assert getattr(checks["precision"], side) == pytest.approx(label[scored.act].mean())
    assert checks["ndcg_at_k"].required == ">= champion - 0.2"
    assert checks["decisions_flipped"].challenger == pytest.approx((found.champion.act != found.challenger.act).mean())


def test_payoffs_by_row_value_what_is_acted_on():
    given = ranking_spec({"tp": "100 + 50 * abs(rate)", "fp": -60, "unit": "USD"})
    model = fit(given)
    found = evaluate(given, HOLDOUT, best_constant(given, TABLE, RANGES), model)
    act, label = model.decide(HOLDOUT)[1], HOLDOUT["label"].to_numpy()
    worth = np.where(label == 1, 100 + 50 * np.abs(HOLDOUT["rate"].to_numpy().astype(float)), -60.0)
    np.testing.assert_allclose(found.challenger.payoff, np.where(act, worth, 0.0))


def test_the_payoff_of_other_capacities_is_told_and_no_curve_of_thresholds():
    model, rival = fit(), best_constant(SPEC, TABLE, RANGES)
    found = evaluate(SPEC, HOLDOUT, rival, model)
    assert payoff_curve(SPEC, HOLDOUT, found, {"champion": rival, "challenger": model}) is None
    told = payoff_by_capacity(SPEC, HOLDOUT, found)
    assert (told["at_most"][0], told["at_most"][-1], told["champion"]) == (0, 2 * CAPACITY, None)
    earned = dict(zip(told["at_most"], told["challenger"], strict=True))
    assert (earned[0], earned[CAPACITY]) == (0.0, pytest.approx(np.mean(found.challenger.payoff)))


def test_evidence_comes_back_to_the_bit():
    for champion in (best_constant(SPEC, TABLE, RANGES), fit(seed=8)):
        found = evaluate(SPEC, HOLDOUT, champion, fit())
        table = evidence.to_table(SPEC, HOLDOUT, found)
        assert "challenger_probability" not in table.column_names
        again = evidence.from_table(table, evidence.measured(found), list(found.slices), "USD")
        for side in ("champion", "challenger"):
            before, after = getattr(found, side), getattr(again, side)
            np.testing.assert_array_equal(after.act, before.act)
            assert (after.score is None) == (before.score is None)
            if before.score is not None:
                np.testing.assert_array_equal(after.score, before.score)
        policy = GatePolicy.from_spec(SPEC.gate)
        assert decide_promotion(again, policy) == decide_promotion(found, policy)


# -- the artifact ----------------------------------------------------------------------------------------------------


def test_a_loaded_ranking_decides_as_before_to_the_bit(tmp_path: Path):
    before = fit()
    expected = save(before, tmp_path)
    after = load(tmp_path, expected=expected)
    assert (after.kind, after.threshold, after.calibrator, after.capacity) == ("ranking", None, None, CAPACITY)
    for was, now in zip(before.decide(HOLDOUT), after.decide(HOLDOUT), strict=True):
        np.testing.assert_array_equal(now, was)
    assert save(after, tmp_path / "again") == expected


@pytest.mark.parametrize(
    "change",
    [
        {"format": "ratchet.artifact.v2"},
        {"format": "ratchet.regression.v1"},
        {"estimator": "xgboost.XGBRegressor"},
        {"calibrator": {"kind": "shift", "offset": 0.0}},
    ],
)
def test_a_card_whose_parts_do_not_go_together_is_refused(tmp_path: Path, change: dict):
    save(fit(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text())
    assert (card["format"], card["calibrator"]) == ("ratchet.ranking.v1", {"kind": "none"})
    (tmp_path / "ratchet.json").write_text(json.dumps(card | change))
    with pytest.raises(Refused, match=r"format must be one of"):
        load(tmp_path)
