"""From rows with a number to predict to a frozen regression: objective, shift, constant rival, artifact, evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xgboost as xgb
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES, rows, spec
from regressed_rows import COSTS, FIXED, regression_rows, regression_spec, with_target

from ratchet.adapters import models
from ratchet.adapters.models import XGBoostRegressionLearner, XGBoostScorer, encode_frame, learner_for, load, save
from ratchet.adapters.storage import CorruptObjectError
from ratchet.domain.artifact import ConstantDecision, ConstantPrediction, ModelArtifact, Platt, Shift
from ratchet.domain.gate import GatePolicy, decide_promotion
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow import evidence
from ratchet.workflow.evaluation import evaluate, payoff_curve
from ratchet.workflow.training import Ranges, best_constant, best_trial, calibration_of, fit_final, tune_worker
from ratchet.workflow.valuing import check_columns, errors_of

TABLE = regression_rows()
SPEC = regression_spec()
HGBR = "sklearn.ensemble.HistGradientBoostingRegressor"
NAMED = regression_spec(fixed=FIXED | {"quantile_alpha": 0.75})
"""The same quantile as its costs', named by the spec."""
HOLDOUT = TABLE.filter(pc.greater_equal(TABLE["day"], HOLDOUT_START))
PARAMS = {"max_depth": 3, "learning_rate": 0.2, "min_child_weight": 2.0, "subsample": 0.8, "colsample_bytree": 0.8}


def between(start: str, end: str, table: pa.Table = TABLE) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table["day"], start), pc.less(table["day"], end)))


LATER = between(RANGES.calibrate_start, RANGES.calibrate_end)
BOTH = pa.concat_tables([between(RANGES.fit_start, RANGES.fit_end), LATER])


def fit(given: ModelSpec = SPEC, table: pa.Table = TABLE, **changes: Any) -> ModelArtifact:
    chosen = {"params": PARAMS, "columns": COLUMNS, "ranges": RANGES, "seed": 7}
    return fit_final(**({"spec": given, "train": table, "learner": XGBoostRegressionLearner()} | chosen | changes))


def tune(studies: InMemoryStudies, given: ModelSpec = SPEC, table: pa.Table = TABLE, **changes: Any) -> Any:
    named = {"ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0, "trials": 3, "seed": 7}
    learner = XGBoostRegressionLearner()
    return tune_worker(spec=given, train=table, studies=studies, learner=learner, **(named | changes))


def earned(model: Any, rows: pa.Table = HOLDOUT) -> float:
    return float(errors_of(SPEC, rows, rows["label"].to_numpy()).of(model.decide(rows)[1]).mean())


def test_the_trees_are_fitted_to_the_quantile_that_the_costs_name():
    model = fit()
    assert (model.params["objective"], model.params["quantile_alpha"]) == ("reg:quantileerror", 0.75)
    covered = (HOLDOUT["label"].to_numpy() <= model.decide(HOLDOUT)[0]).mean()
    assert covered == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({"objective": "reg:squarederror"}, ("reg:squarederror", None)),
        ({"quantile_alpha": 0.3}, ("reg:quantileerror", 0.3)),
        ({"objective": "reg:quantileerror"}, ("reg:quantileerror", 0.75)),
    ],
)
def test_an_objective_that_the_spec_fixes_is_the_one_that_is_fitted(fixed: dict, expected: tuple):
    params = fit(regression_spec(fixed=FIXED | fixed)).params
    assert (params["objective"], params.get("quantile_alpha")) == expected


def test_a_fit_for_the_costs_earns_more_than_one_for_the_mean_and_both_more_than_the_best_constant():
    mean = fit(regression_spec(fixed=FIXED | {"objective": "reg:squarederror"}), calibrator=Shift())
    assert earned(fit()) > earned(mean) > earned(best_constant(SPEC, TABLE, RANGES))


def out_of_fold(params: dict[str, Any]) -> np.ndarray:
    """Raw predictions of B by a scorer fitted on A."""
    learner = XGBoostRegressionLearner()
    early = between(RANGES.fit_start, RANGES.fit_end)
    categories = learner.categories(early, COLUMNS.categorical)
    given = {"features": COLUMNS.features, "categories": categories, "threads": 1}
    prepared = learner.prepare(early, early["label"].to_numpy(), **given)
    return learner.fit(prepared, params, seed=7, threads=1).raw(LATER)


@pytest.mark.parametrize("spec", [SPEC, NAMED], ids=["the costs' quantile", "an objective that the spec names"])
def test_a_trial_is_valued_by_what_its_predictions_cost_on_the_later_range(spec: ModelSpec):
    studies = InMemoryStudies()
    tune(studies, spec)
    best = best_trial(studies, "m.1")
    raw = out_of_fold(fit(spec, params=best.params).params)
    cost = -errors_of(SPEC, LATER, LATER["label"].to_numpy()).of(calibration_of(best)(raw)).mean()
    assert best.value == pytest.approx(cost, abs=1e-12)
    assert best.attributes["payoff_per_decision"] == -best.value


def test_trees_that_are_fitted_to_the_costs_quantile_are_not_shifted():
    studies = InMemoryStudies()
    tune(studies)
    assert fit().calibrator == calibration_of(best_trial(studies, "m.1")) == Shift()


def test_scikit_learns_trees_are_fitted_to_the_quantile_that_the_costs_name(tmp_path: Path):
    space, params = {"max_depth": {"int": [2, 4]}}, {"max_depth": 3}
    given = regression_spec(estimator=HGBR, fixed={"max_iter": 25}, search_space=space)
    shuffled = TABLE.take(np.random.default_rng(1).permutation(TABLE.num_rows))
    fits = [
        fit(given, params=params, learner=learner_for(HGBR), **changes)
        for changes in ({}, {"threads": 3}, {"table": shuffled})
    ]
    model = fits[0]
    assert (model.params["loss"], model.params["quantile"], model.calibrator) == ("quantile", 0.75, Shift())
    assert (HOLDOUT["label"].to_numpy() <= model.decide(HOLDOUT)[0]).mean() == pytest.approx(0.75, abs=0.06)
    assert len({save(each, tmp_path / str(i)) for i, each in enumerate(fits)}) == 1
    rival = best_constant(given, TABLE, RANGES)
    verdict = decide_promotion(evaluate(given, HOLDOUT, rival, model), GatePolicy.from_spec(given.gate))
    assert verdict.decision == "promote", verdict.reasons


def test_scikit_learns_trees_of_another_loss_are_shifted():
    space = {"max_depth": {"int": [2, 4]}}
    given = regression_spec(estimator=HGBR, fixed={"max_iter": 25, "loss": "squared_error"}, search_space=space)
    model = fit(given, params={"max_depth": 3}, learner=learner_for(HGBR))
    assert "quantile" not in model.params
    assert model.calibrator.offset > 0


def test_the_shift_is_the_residuals_quantile_out_of_fold_and_the_trees_see_every_row():
    model = fit(NAMED)
    residual = LATER["label"].to_numpy() - out_of_fold(dict(model.params))
    assert model.calibrator == Shift(np.quantile(residual, 0.75, method="inverted_cdf"))
    assert model.provenance["fit_rows"] == between(RANGES.fit_start, RANGES.calibrate_end).num_rows


def test_the_shift_that_the_best_trial_kept_is_the_one_a_final_fit_would_learn_to_the_bit():
    studies = InMemoryStudies()
    tune(studies, NAMED)
    best = best_trial(studies, "m.1")
    learned = fit(NAMED, params=best.params)
    kept = fit(NAMED, params=best.params, calibrator=calibration_of(best))
    assert kept.calibrator != Shift()
    assert (kept.calibrator, kept.provenance) == (learned.calibrator, learned.provenance)


def test_a_level_that_rose_since_the_fit_is_made_up_by_the_shift():
    ranges = Ranges("2013-01-01", "2013-02-12", "2013-02-14", "2013-02-20")
    late = TABLE["label"].to_numpy() + np.where(np.array(TABLE["day"].to_pylist()) >= "2013-02-14", 15.0, 0.0)
    table = with_target(TABLE, late)
    holdout = table.filter(pc.greater_equal(table["day"], HOLDOUT_START))
    shifted, plain = (fit(spec, table=table, ranges=ranges) for spec in (NAMED, SPEC))
    assert earned(shifted, holdout) > earned(plain, holdout) + 1


def test_a_trial_that_cannot_come_below_the_best_is_stopped_early_and_the_best_is_the_same():
    class Blind(XGBoostRegressionLearner):
        def fit(self, prepared, params, *, seed, threads, watch=None):
            return super().fit(prepared, params, seed=seed, threads=threads)

    whole, watched = InMemoryStudies(), InMemoryStudies()
    given = regression_spec(fixed=FIXED | {"n_estimators": 60})
    tune(watched, given, trials=8)
    named = {"ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0, "trials": 8, "seed": 7}
    tune_worker(spec=given, train=TABLE, studies=whole, learner=Blind(), **named)
    assert len(watched.finished("m.1")) < len(whole.finished("m.1")) == 8
    assert best_trial(watched, "m.1").value == best_trial(whole, "m.1").value


def test_two_fits_on_shuffled_rows_and_any_threads_are_equal_to_the_bit(tmp_path: Path):
    shuffled = TABLE.take(np.random.default_rng(1).permutation(TABLE.num_rows))
    fits = (fit(), fit(table=shuffled), fit(threads=3))
    assert len({save(model, tmp_path / str(i)) for i, model in enumerate(fits)}) == 1


# -- the constant rival ----------------------------------------------------------------------------------------------


def test_the_best_constant_is_the_costs_quantile_of_the_training_labels():
    expected = np.quantile(BOTH["label"].to_numpy(), 0.75, method="inverted_cdf")
    assert best_constant(SPEC, TABLE, RANGES) == ConstantPrediction(expected)
    judged = np.array(TABLE["day"].to_pylist()) >= HOLDOUT_START
    changed = with_target(TABLE, np.where(judged, 1e6, TABLE["label"].to_numpy()))
    assert best_constant(SPEC, changed, RANGES) == ConstantPrediction(expected)


def test_a_classifiers_constant_is_still_a_decision():
    assert isinstance(best_constant(spec(), rows(), RANGES), ConstantDecision)


# -- costs by row, hooks ---------------------------------------------------------------------------------------------

BY_RATE = regression_spec({"under": "-1 - abs(rate)", "over": -1, "unit": "EUR"}, fixed=FIXED | {"quantile_alpha": 0.6})
HOOK = {"hook": "payoff.py:value", "columns": ["rate"], "sha256": "a" * 64, "unit": "EUR"}
HOOKED = regression_spec(HOOK, fixed=FIXED | {"quantile_alpha": 0.6})


def value(rows: pa.Table, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    cost = 1 + np.abs(rows["rate"].to_numpy().astype(float))
    return -cost * np.maximum(label - prediction, 0.0) - np.maximum(prediction - label, 0.0)


def test_a_hook_that_says_what_the_expressions_say_values_the_same():
    label, predicted = HOLDOUT["label"].to_numpy(), np.full(HOLDOUT.num_rows, 25.0)
    by_hook, by_row = errors_of(HOOKED, HOLDOUT, label, value), errors_of(BY_RATE, HOLDOUT, label)
    assert by_hook.of(predicted) == pytest.approx(by_row.of(predicted))
    assert by_hook.between(5, 9).of(predicted[5:9]) == pytest.approx(by_row.of(predicted)[5:9])


def test_the_best_constant_of_a_hook_is_the_best_of_a_grid_and_near_the_exact_one():
    found, exact = best_constant(HOOKED, TABLE, RANGES, value), best_constant(BY_RATE, TABLE, RANGES)
    label = BOTH["label"].to_numpy()
    worth = errors_of(BY_RATE, BOTH, label)
    costs = [worth.of(np.full(label.size, each.value)).mean() for each in (found, exact)]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)
    assert costs[0] <= costs[1]
    assert found.value in label


def test_a_regression_by_hook_and_one_by_expressions_beat_their_constants():
    for given, hook in ((HOOKED, value), (BY_RATE, None)):
        rival, challenger = best_constant(given, TABLE, RANGES, hook), fit(given, hook=hook)
        verdict = decide_promotion(
            evaluate(given, HOLDOUT, rival, challenger, hook=hook), GatePolicy.from_spec(given.gate)
        )
        assert verdict.decision == "promote", verdict.reasons


def test_a_searched_quantile_is_chosen_by_the_payoff():
    searched = {"quantile_alpha": {"float": [0.05, 0.95]}}
    given = regression_spec({"under": "-9 - 0 * rate", "over": -1, "unit": "EUR"}, search_space=searched)
    studies = InMemoryStudies()
    tune(studies, given, trials=8)
    tried = {t.params["quantile_alpha"]: t.value for t in studies.ended("m.1")}
    assert best_trial(studies, "m.1").value == min(tried.values())


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (lambda rows, label, p: -np.abs(label - p).mean() * np.ones(label.size), "own label and prediction alone"),
        (lambda rows, label, p: np.where(p > 0, np.nan, -1.0), "must return finite numbers"),
        (lambda rows, label, p: -1.0, "must return a NumPy array of float64"),
        (lambda rows, label, p: rows["fare"], "failed on"),
    ],
)
def test_a_hook_that_cannot_value_predictions_is_refused_by_name(hook: Any, said: str):
    with pytest.raises(Refused, match=rf"payoff\.py:value: .*{said}"):
        errors_of(HOOKED, HOLDOUT, HOLDOUT["label"].to_numpy(), hook)


def test_a_hook_is_not_asked_about_what_is_no_prediction():
    label = HOLDOUT["label"].to_numpy()
    predicted = np.where(np.arange(label.size) < 3, [np.nan, np.inf, -np.inf] + [0.0] * (label.size - 3), label)
    assert np.isnan(errors_of(HOOKED, HOLDOUT, label, value).of(predicted)).sum() == 3


def test_a_snapshot_without_a_column_of_the_costs_is_refused():
    given = regression_spec({"under": "-fare", "over": -1, "unit": "EUR"}, fixed={"quantile_alpha": 0.5})
    with pytest.raises(Refused, match=r"business\.payoff\.under: 'fare' is not a column of the snapshot"):
        check_columns(given, HOLDOUT.schema)


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_label_that_is_no_finite_number_is_refused_by_name(bad: float):
    label = TABLE["label"].to_numpy().copy()
    label[[3, 4, -1]] = bad
    table = with_target(TABLE, label)
    with pytest.raises(Refused, match=r"fit range \[2013-01-01, .*a finite number on every row, but 2 of"):
        fit(table=table)
    holdout = table.filter(pc.greater_equal(table["day"], HOLDOUT_START))
    with pytest.raises(Refused, match=r"judged rows: .*but 1 of"):
        evaluate(SPEC, holdout, ConstantPrediction(1.0), fit())


def test_a_missing_label_and_one_that_is_text_are_refused():
    missing = pa.array([None, *TABLE["label"].to_pylist()[1:]], pa.float64())
    with pytest.raises(Refused, match="but 1 of"):
        fit(table=with_target(TABLE, missing))
    text = TABLE.set_column(3, "label", pa.array(["1"] * TABLE.num_rows))
    with pytest.raises(Refused, match="'label' must hold numbers"):
        fit(table=text)


def test_a_range_without_rows_is_refused_with_its_bounds():
    with pytest.raises(Refused, match=r"calibrate range \[2013-02-02, 2013-02-20\): must hold rows"):
        fit(table=between("2013-01-01", "2013-02-01"))


# -- the artifact ----------------------------------------------------------------------------------------------------


def test_a_loaded_regression_predicts_as_before_to_the_bit(tmp_path: Path):
    before = fit()
    expected = save(before, tmp_path)
    after = load(tmp_path, expected=expected)
    np.testing.assert_array_equal(after.decide(HOLDOUT)[0], before.decide(HOLDOUT)[0])
    score, decision = after.decide(HOLDOUT)
    assert score is decision
    assert (after.threshold, after.calibrator) == (None, before.calibrator)
    assert save(after, tmp_path / "again") == expected


def test_the_card_of_a_regression_is_not_for_a_reader_of_thresholds(tmp_path: Path):
    save(fit(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text())
    assert (card["format"], card["estimator"]) == ("ratchet.regression.v1", "xgboost.XGBRegressor")
    assert (card["calibrator"]["kind"], card["threshold"]) == ("shift", None)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "ratchet.artifact.v1"},
        {"estimator": "xgboost.XGBClassifier"},
        {"calibrator": {"kind": "platt", "slope": 1.0, "intercept": 0.0}},
    ],
)
def test_a_card_whose_parts_do_not_go_together_is_refused(tmp_path: Path, change: dict):
    save(fit(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text()) | change
    (tmp_path / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=r"format must be one of"):
        load(tmp_path)


def test_a_changed_shift_is_refused(tmp_path: Path):
    expected = save(fit(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text())
    card["calibrator"]["offset"] += 1
    (tmp_path / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(CorruptObjectError, match=r"ratchet\.json: artifact digest must be"):
        load(tmp_path, expected=expected)


def test_raw_predictions_are_those_of_the_native_regressor(tmp_path: Path):
    model = fit()
    save(model, tmp_path)
    native = xgb.XGBRegressor(enable_categorical=True)
    native.load_model(tmp_path / "model.ubj")
    frame = encode_frame(HOLDOUT, model.features, model.categories)
    np.testing.assert_array_equal(model.scorer.raw(HOLDOUT), native.predict(frame).astype(np.float64))


def test_one_row_is_predicted_as_it_is_among_others():
    model = fit()
    alone = np.concatenate([model.decide(HOLDOUT.slice(i, 1))[0] for i in range(5)])
    np.testing.assert_array_equal(alone, model.decide(HOLDOUT)[0][:5])
    assert model.decide(HOLDOUT.slice(0, 0))[0].shape == (0,)


def test_the_regressor_has_a_learner_of_its_own():
    assert isinstance(learner_for("xgboost.XGBRegressor"), XGBoostRegressionLearner)
    assert not isinstance(learner_for("xgboost.XGBClassifier"), XGBoostRegressionLearner)


# -- both models on the same rows ------------------------------------------------------------------------------------


def test_uplift_is_the_difference_of_payoffs_on_the_same_rows():
    weak, strong = fit(params=PARAMS | {"n_estimators": 2}), fit()
    found = evaluate(SPEC, HOLDOUT, weak, strong)
    error = [HOLDOUT["label"].to_numpy() - model.decide(HOLDOUT)[0] for model in (weak, strong)]
    payoff = [np.where(e > 0, COSTS["under"] * e, -COSTS["over"] * e) for e in error]
    assert np.asarray(found.uplift) == pytest.approx(payoff[1] - payoff[0])
    assert (found.challenger.probability, found.challenger.act) == (None, None)
    assert payoff_curve(SPEC, HOLDOUT, found, {"champion": weak, "challenger": strong}) is None


def test_evidence_of_a_regression_reads_back_to_the_bit_and_names_no_decision():
    for rival in (fit(params=PARAMS | {"n_estimators": 2}), best_constant(SPEC, TABLE, RANGES)):
        found = evaluate(SPEC, HOLDOUT, rival, fit())
        table = evidence.to_table(SPEC, HOLDOUT, found)
        assert not [name for name in table.column_names if name.endswith(("_act", "_probability"))]
        back = evidence.from_table(table, evidence.measured(found), ["carrier"], "EUR")
        policy = GatePolicy.from_spec(SPEC.gate)
        assert decide_promotion(back, policy) == decide_promotion(found, policy)
        np.testing.assert_array_equal(np.asarray(back.challenger.prediction), np.asarray(found.challenger.prediction))
        assert (back.champion.prediction is None) == isinstance(rival, ConstantPrediction)


class NanScorer(XGBoostScorer):
    """Fine on what it learns from, NaN on some of the rows that came later."""

    def raw(self, table: Any) -> Any:
        later = pc.greater_equal(table["day"], "2013-03-01").to_numpy()
        return np.where(later, np.nan, super().raw(table))


class FlatScorer(XGBoostScorer):
    """The same answer for every row."""

    def raw(self, table: Any) -> Any:
        return np.full(table.num_rows, 3.0)


class Learning(XGBoostRegressionLearner):
    """XGBoost, with the scorers it makes put into another class."""

    def __init__(self, kind: type[XGBoostScorer]) -> None:
        self.kind = kind

    def fit(self, *given: Any, **named: Any) -> XGBoostScorer:
        fitted = super().fit(*given, **named)
        return self.kind(fitted.booster, fitted.features, fitted.categories)


def made(kind: type[XGBoostScorer] = XGBoostScorer) -> ModelArtifact:
    given = {"spec": SPEC, "train": TABLE, "params": PARAMS, "columns": COLUMNS, "ranges": RANGES, "seed": 7}
    return fit_final(**given, learner=Learning(kind), calibrator=Shift())


@pytest.mark.parametrize(
    ("kind", "judged", "decision", "named"),
    [
        (NanScorer, HOLDOUT, "keep_champion", "the challenger's prediction is NaN or infinite on"),
        (FlatScorer, HOLDOUT, "keep_champion", "upper bound"),
        (XGBoostScorer, HOLDOUT, "keep_champion", "identical in value"),
        (FlatScorer, HOLDOUT.slice(0, 60), "not_enough_evidence", "one cluster"),
        (FlatScorer, HOLDOUT.slice(0, 0), "not_enough_evidence", "the holdout is empty"),
    ],
    ids=["NaN predictions", "a constant model", "a model equal to the champion", "one cluster", "an empty holdout"],
)
def test_what_cannot_be_judged_ends_in_a_verdict_that_names_it(kind: Any, judged: pa.Table, decision: str, named: str):
    verdict = decide_promotion(evaluate(SPEC, judged, made(), made(kind)), GatePolicy.from_spec(SPEC.gate))
    assert verdict.decision == decision
    assert named in " ".join(verdict.reasons)


def test_a_classifiers_trial_still_keeps_its_platt_map():
    studies = InMemoryStudies()
    named = {"ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0, "trials": 1, "seed": 7}
    tune_worker(spec=spec(), train=rows(), studies=studies, learner=models.XGBoostLearner(), **named)
    assert isinstance(calibration_of(best_trial(studies, "m.1")), Platt)
