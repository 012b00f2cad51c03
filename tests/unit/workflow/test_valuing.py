import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES, rows, spec

from ratchet.adapters.models import XGBoostLearner, load, save
from ratchet.domain.gate import GatePolicy, decide_promotion
from ratchet.domain.payoff import PayoffMatrix
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow.evaluation import decide, evaluate, labels, payoff_curve
from ratchet.workflow.training import (
    best_constant,
    best_trial,
    calibration_of,
    fit_final,
    tune_worker,
    tuned_threshold_of,
)
from ratchet.workflow.valuing import check_columns, worth_of

FARE = np.random.default_rng(5).integers(50, 2000, rows().num_rows).astype(np.float64)
TABLE = rows().append_column("fare", pa.array(FARE))
HOLDOUT = TABLE.filter(pc.greater_equal(TABLE["day"], HOLDOUT_START))


def spec_of(payoff: dict, **decision) -> ModelSpec:
    plain = spec().model_dump(mode="json")
    plain["business"] |= {"payoff": {"unit": "USD"} | payoff, "decision": decision}
    return ModelSpec.model_validate(plain)


BY_FARE = spec_of({"tp": "0.2 * fare", "fp": -60})


def fit(given: ModelSpec = BY_FARE, **changes):
    chosen = {"params": {"max_depth": 3, "learning_rate": 0.2}, "columns": COLUMNS, "ranges": RANGES, "seed": 7}
    return fit_final(spec=given, train=TABLE, learner=XGBoostLearner(), **(chosen | changes))


def test_the_artifact_freezes_the_formulas_and_acts_where_the_row_pays():
    model = fit()
    assert model.threshold == PayoffMatrix.from_spec(BY_FARE.business.payoff)
    probability, act = model.decide(HOLDOUT)
    np.testing.assert_array_equal(act, probability * 0.2 * HOLDOUT["fare"].to_numpy() - (1 - probability) * 60 >= 0)
    # The same score is acted on at a high fare and not at a low one: no single threshold would do it.
    assert probability[act].min() < probability[~act].max()


def test_a_column_of_the_payoff_does_not_become_a_feature():
    model = fit()
    assert model.features == COLUMNS.features
    shuffled = HOLDOUT.set_column(HOLDOUT.schema.get_field_index("fare"), "fare", HOLDOUT["fare"][::-1])
    np.testing.assert_array_equal(model.probability(shuffled), model.probability(HOLDOUT))


def test_deciding_by_the_rows_own_values_earns_more_than_by_their_mean():
    valued = worth_of(BY_FARE, HOLDOUT, labels(HOLDOUT))
    by_row = decide(HOLDOUT, fit(), valued).payoff.sum()
    one_for_all = 60 / (60 + 0.2 * FARE.mean())
    fixed = decide(HOLDOUT, replace(fit(), threshold=one_for_all), valued).payoff.sum()
    assert by_row > fixed


def test_a_study_tells_the_payoff_by_the_rows_own_values():
    studies = InMemoryStudies()
    given = {"spec": BY_FARE, "train": TABLE, "ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0}
    tune_worker(**given, trials=1, seed=7, studies=studies, learner=XGBoostLearner())
    told = best_trial(studies, "m.1")
    held_back = fit(params=told.params, calibrator=calibration_of(told))
    assert told.attributes["payoff_per_decision"] > 0
    assert isinstance(held_back.threshold, PayoffMatrix)


def test_a_row_without_its_fare_is_worth_nan_and_is_never_promoted():
    missing = pa.array([*HOLDOUT["fare"].to_pylist()[:-1], None])
    broken = HOLDOUT.set_column(HOLDOUT.schema.get_field_index("fare"), "fare", missing)
    evidence = evaluate(BY_FARE, broken, best_constant(BY_FARE, TABLE, RANGES), fit())
    verdict = decide_promotion(evidence, GatePolicy.from_spec(BY_FARE.gate))
    assert np.isnan(np.asarray(evidence.uplift)).sum() == 1
    assert verdict.decision == "keep_champion"
    assert "NaN or infinite on 1 of" in verdict.reasons[0]


def test_rows_of_unknown_worth_have_no_say_in_the_best_constant():
    dear = spec_of({"tp": "10 * fare", "fp": -60})
    missing = pa.array([None, *TABLE["fare"].to_pylist()[1:]])
    broken = TABLE.set_column(TABLE.schema.get_field_index("fare"), "fare", missing)
    assert best_constant(dear, broken, RANGES).act
    assert not best_constant(spec_of({"tp": "0 * fare", "fp": -60}), TABLE, RANGES).act


def test_training_rows_without_a_column_of_the_payoff_are_refused():
    with pytest.raises(Refused, match=r"columns \['fare'\]"):
        fit_final(
            spec=BY_FARE, train=rows(), ranges=RANGES, columns=COLUMNS, params={}, seed=7, learner=XGBoostLearner()
        )


@pytest.mark.parametrize(
    "values",
    [pa.array([1, 2]), pa.array([True, None]), pa.array([Decimal("1.5"), None]), pa.array([None, 2], pa.int64())],
)
def test_numbers_of_any_type_may_be_read(values: pa.Array):
    table = pa.table({"label": pa.array([1, 1], pa.int8()), "fare": values})
    expected = [None if v is None else 0.2 * float(v) for v in values.to_pylist()]
    got = worth_of(BY_FARE, table, labels(table)).acted.tolist()
    assert got == pytest.approx([np.nan if v is None else v for v in expected], nan_ok=True)


@pytest.mark.parametrize("values", [["12", "13"], pa.array([0, 1], pa.timestamp("s"))])
def test_text_and_moments_are_no_numbers(values):
    table = pa.table({"label": pa.array([1, 1], pa.int8()), "fare": values})
    with pytest.raises(Refused, match="'fare' must hold numbers"):
        worth_of(BY_FARE, table, labels(table))


@pytest.mark.parametrize(
    ("payoff", "columns", "said"),
    [
        ("0.2 * fair", {"fare": pa.float64()}, "business.payoff.tp: 'fair' is not a column.*Did you mean 'fare'?"),
        ("0.2 * fare", {"fare": pa.string()}, "'fare' must hold numbers, but holds string"),
        ("0.2 * label", {"label": pa.int8(), "fare": pa.float64()}, "'label' is not a column of the snapshot"),
    ],
)
def test_a_snapshot_on_which_the_payoff_cannot_be_computed_is_refused(payoff: str, columns: dict, said: str):
    with pytest.raises(Refused, match=said):
        check_columns(spec_of({"tp": payoff, "fp": -60}), pa.schema(list(columns.items())))


def test_a_name_that_two_columns_bear_is_refused():
    twice = pa.schema([("fare", pa.float64()), ("fare", pa.float64())])
    with pytest.raises(Refused, match="name of two columns"):
        check_columns(BY_FARE, twice)
    check_columns(BY_FARE, HOLDOUT.schema)
    check_columns(spec(), pa.schema([]))


# -- tuned thresholds and the payoff curve ---------------------------------------------------------------------------

TUNED = spec_of({"tp": 180, "fp": -60}, threshold="tuned")


def test_a_tuned_threshold_is_chosen_out_of_fold_on_the_later_range_and_frozen():
    model = fit(TUNED)
    told = model.provenance["tuned_threshold"]
    later = TABLE.filter(
        pc.and_(pc.greater_equal(TABLE["day"], RANGES.calibrate_start), pc.less(TABLE["day"], RANGES.calibrate_end))
    )
    assert (told["n_rows"], told["n_clusters"]) == (later.num_rows, len(set(later["day"].to_pylist())))
    assert told["threshold"] == model.threshold
    assert told["std_error"] > 0
    changed = pc.if_else(pc.greater_equal(TABLE["day"], HOLDOUT_START), 0, TABLE["label"]).cast(pa.int8())
    relabelled = TABLE.set_column(TABLE.schema.get_field_index("label"), "label", changed)
    again = fit_final(
        spec=TUNED,
        train=relabelled,
        ranges=RANGES,
        columns=COLUMNS,
        params=dict(model.params),
        seed=7,
        learner=XGBoostLearner(),
    )
    assert again.threshold == model.threshold


def test_the_threshold_that_the_best_trial_kept_is_the_one_a_final_fit_would_choose():
    studies = InMemoryStudies()
    given = {"spec": TUNED, "train": TABLE, "ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0}
    tune_worker(**given, trials=2, seed=7, studies=studies, learner=XGBoostLearner())
    best = best_trial(studies, "m.1")
    learned = fit(TUNED, params=best.params)
    kept = fit(TUNED, params=best.params, calibrator=calibration_of(best), tuned=tuned_threshold_of(best))
    assert (kept.threshold, kept.provenance) == (learned.threshold, learned.provenance)
    assert best.attributes["payoff_per_decision"] == pytest.approx(tuned_threshold_of(best).payoff)


def test_a_spec_with_another_threshold_keeps_none_in_its_trials():
    studies = InMemoryStudies()
    given = {"spec": BY_FARE, "train": TABLE, "ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0}
    tune_worker(**given, trials=1, seed=7, studies=studies, learner=XGBoostLearner())
    assert tuned_threshold_of(best_trial(studies, "m.1")) is None
    assert "tuned_threshold" not in fit().provenance


def curve_of(given: ModelSpec, champion, challenger):
    evidence = evaluate(given, HOLDOUT, champion, challenger)
    told = payoff_curve(given, HOLDOUT, evidence, {"champion": champion, "challenger": challenger})
    json.dumps(told, allow_nan=False)
    return told, evidence


def test_the_curve_shows_what_each_threshold_would_have_earned_and_what_the_chosen_one_lost():
    champion, challenger = fit(spec_of({"tp": 180, "fp": -60}, threshold=0.9)), fit(TUNED)
    told, evidence = curve_of(TUNED, champion, challenger)
    assert len(told["thresholds"]) == len(told["champion"]) == len(told["challenger"]) == 101
    at = told["thresholds"].index(0.9)
    assert told["champion"][at] == pytest.approx(np.mean(evidence.champion.payoff))
    assert told["chosen"] == {"champion": 0.9, "challenger": challenger.threshold}
    for name, scored in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        best = told["hindsight"][name]
        assert best["payoff"] >= max(told[name])
        assert best["loss"] == pytest.approx(best["payoff"] - np.mean(scored.payoff))
    assert told["hindsight"]["champion"]["loss"] > told["hindsight"]["challenger"]["loss"] >= 0


def test_a_constant_decision_earns_the_same_at_every_threshold_and_a_rule_by_row_has_no_single_one():
    told, evidence = curve_of(BY_FARE, best_constant(BY_FARE, TABLE, RANGES), fit())
    assert told["champion"] == [pytest.approx(np.mean(evidence.champion.payoff))] * 101
    assert told["chosen"] == {"champion": "constant", "challenger": "by row"}
    assert told["hindsight"]["champion"] is None
    assert told["hindsight"]["challenger"]["loss"] < 0  # no single threshold does as well
    models = {"champion": fit(), "challenger": fit()}
    assert payoff_curve(BY_FARE, HOLDOUT.slice(0, 0), evidence, models) is None


# -- capacity --------------------------------------------------------------------------------------------------------

FIVE_A_DAY = spec_of({"tp": 180, "fp": -60}, threshold="payoff", capacity={"at_most": 5})


def acts_by_day(rows: pa.Table, act: np.ndarray) -> dict[str, int]:
    counted = dict.fromkeys(rows["day"].to_pylist(), 0)
    for day, acted in zip(rows["day"].to_pylist(), act.tolist(), strict=True):
        counted[day] += acted
    return counted


def test_under_a_capacity_the_days_best_are_acted_on_and_a_day_knows_nothing_of_another():
    limited, free = fit(FIVE_A_DAY), fit(spec_of({"tp": 180, "fp": -60}, threshold="payoff"))
    probability, act = limited.decide(HOLDOUT)
    assert set(acts_by_day(HOLDOUT, act).values()) == {5}
    assert not (act & ~free.decide(HOLDOUT)[1]).any()
    one_day = pc.equal(HOLDOUT["day"], HOLDOUT["day"][0])
    np.testing.assert_array_equal(limited.decide(HOLDOUT.filter(one_day))[1], act[one_day.to_numpy()])
    mine = probability[one_day.to_numpy()]
    assert sorted(mine[act[one_day.to_numpy()]]) == sorted(mine)[-5:]


def test_room_is_left_where_too_few_rows_reach_the_threshold_and_none_at_threshold_zero():
    high = spec_of({"tp": 180, "fp": -60}, threshold=0.93, capacity={"at_most": 5})
    best = spec_of({"tp": 180, "fp": -60}, threshold=0, capacity={"at_most": 5})
    assert min(acts_by_day(HOLDOUT, fit(high).decide(HOLDOUT)[1]).values()) < 5
    assert set(acts_by_day(HOLDOUT, fit(best).decide(HOLDOUT)[1]).values()) == {5}


def test_with_a_break_even_by_row_room_goes_to_the_highest_expected_gain():
    given = spec_of({"tp": "0.2 * fare", "fp": -60}, threshold="payoff", capacity={"at_most": 3})
    probability, act = fit(given).decide(HOLDOUT)
    gain = probability * 0.2 * HOLDOUT["fare"].to_numpy() - (1 - probability) * 60
    day = np.array(HOLDOUT["day"].to_pylist())
    for one in set(day.tolist()):
        assert set(gain[(day == one) & act]) == {g for g in sorted(gain[day == one])[-3:] if g >= 0}


def test_a_capacity_is_frozen_in_the_artifact(tmp_path: Path):
    before = fit(FIVE_A_DAY)
    after = load(tmp_path, expected=save(before, tmp_path))
    assert after.capacity == 5
    np.testing.assert_array_equal(after.decide(HOLDOUT)[1], before.decide(HOLDOUT)[1])
    card = json.loads((tmp_path / "ratchet.json").read_text())
    assert (card["format"], card["capacity"]) == ("ratchet.artifact.v2", {"at_most": 5, "per": "day"})


def test_the_rival_under_a_capacity_fills_it_without_a_model_or_acts_never():
    rival = best_constant(FIVE_A_DAY, TABLE, RANGES)
    assert (rival.act, rival.capacity) == (True, 5)
    assert set(acts_by_day(HOLDOUT, rival.decide(HOLDOUT)[1]).values()) == {5}
    dear = spec_of({"tp": 1, "fp": -60}, threshold=0.5, capacity={"at_most": 5})
    assert not best_constant(dear, TABLE, RANGES).decide(HOLDOUT)[1].any()


def test_a_useful_ranking_beats_filling_the_capacity_without_one():
    evidence = evaluate(FIVE_A_DAY, HOLDOUT, best_constant(FIVE_A_DAY, TABLE, RANGES), fit(FIVE_A_DAY))
    verdict = decide_promotion(evidence, GatePolicy.from_spec(FIVE_A_DAY.gate))
    assert verdict.decision == "promote", verdict.reasons
    assert verdict.n_clusters == len(set(HOLDOUT["day"].to_pylist()))


def test_a_threshold_is_tuned_on_what_the_capacity_leaves_open():
    given = spec_of({"tp": 180, "fp": -60}, threshold="tuned", capacity={"at_most": 2})
    model = fit(given)
    told, _ = curve_of(given, best_constant(given, TABLE, RANGES), model)
    always = decide(HOLDOUT, replace(model, threshold=0.0), worth_of(given, HOLDOUT, labels(HOLDOUT))).payoff.mean()
    assert told["challenger"][0] == pytest.approx(always)
    # With room for two a day among the best, scores far below break-even never come into play.
    assert model.provenance["tuned_threshold"]["payoff"] < fit(TUNED).provenance["tuned_threshold"]["payoff"]


def test_a_lone_row_is_scored_and_decided_as_a_day_of_its_own():
    model = fit(FIVE_A_DAY)
    evidence = evaluate(FIVE_A_DAY, HOLDOUT, model, model)
    assert len(np.asarray(evidence.challenger.latency_ms)) > 0
    one = HOLDOUT.slice(3, 1)
    assert model.decide(one)[1].tolist() == (model.probability(one) >= 0.25).tolist()
    with pytest.raises(Refused, match="'day'"):
        model.decide(one.drop_columns(["day"]))


# -- hooks -----------------------------------------------------------------------------------------------------------

HOOKED = spec_of({"hook": "payoff.py:value", "columns": ["fare", "carrier"]}, threshold="tuned")


def value(rows: pa.Table, label, act):
    assert rows.column_names == ["fare", "carrier"]
    gain = np.where(label == 1, 0.2 * rows["fare"].to_numpy(), -60.0)
    return np.where(act, gain, 0.0)


def test_a_hook_is_worth_what_the_same_expression_is():
    label = labels(HOLDOUT)
    by_hook, by_formula = worth_of(HOOKED, HOLDOUT, label, value), worth_of(BY_FARE, HOLDOUT, label)
    np.testing.assert_array_equal(by_hook.acted, by_formula.acted)
    np.testing.assert_array_equal(by_hook.passed, by_formula.passed)


def test_a_hook_values_every_step_of_an_attempt():
    studies = InMemoryStudies()
    given = {"spec": HOOKED, "train": TABLE, "ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0}
    tune_worker(**given, trials=1, seed=7, studies=studies, learner=XGBoostLearner(), hook=value)
    best = best_trial(studies, "m.1")
    model = fit(HOOKED, params=best.params, hook=value)
    assert model.threshold == tuned_threshold_of(best).threshold
    rival = best_constant(HOOKED, TABLE, RANGES, value)
    evidence = evaluate(HOOKED, HOLDOUT, rival, model, hook=value)
    told = payoff_curve(HOOKED, HOLDOUT, evidence, {"champion": rival, "challenger": model}, value)
    assert told["hindsight"]["challenger"]["loss"] >= 0
    assert np.asarray(evidence.challenger.payoff).sum() > np.asarray(evidence.champion.payoff).sum()


def of_shape(rows, label, act):
    return np.zeros(3)


def of_type(rows, label, act):
    return np.zeros(len(label), dtype=np.float32)


def a_list(rows, label, act):
    return [0.0] * len(label)


def not_finite(rows, label, act):
    return np.where(np.arange(len(label)) == 2, np.nan, 1.0)


def failing(rows, label, act):
    raise KeyError("fee")


def of_all_rows(rows, label, act):
    return np.full(len(label), float(act.sum()))


def meddling(rows, label, act):
    act[:] = True
    label[:] = 0
    return value(rows, label, act)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (of_shape, r"must return a NumPy array of float64 with shape \(\d+,\), but returned float64 \(3,\)"),
        (of_type, "but returned float32"),
        (a_list, "but returned list"),
        (not_finite, "must return finite numbers, but 1 of"),
        (failing, r"failed on \d+ rows: KeyError: 'fee'"),
        (of_all_rows, "must depend on its own label and decision alone"),
        (None, "must be loaded"),
    ],
)
def test_a_hook_that_breaks_its_promise_is_refused_by_name(hook, said: str):
    with pytest.raises(Refused, match=rf"^payoff\.py:value: .*{said}"):
        worth_of(HOOKED, HOLDOUT, labels(HOLDOUT), hook)


def test_a_study_tells_why_a_hook_is_refused_and_spends_no_trial_on_it():
    studies = InMemoryStudies()
    given = {"spec": HOOKED, "train": TABLE, "ranges": RANGES, "columns": COLUMNS, "study_name": "m.1", "worker": 0}
    with pytest.raises(Refused, match=r"payoff\.py:value: .* but returned float32"):
        tune_worker(**given, trials=1, seed=7, studies=studies, learner=XGBoostLearner(), hook=of_type)
    tune_worker(**given, trials=1, seed=7, studies=studies, learner=XGBoostLearner(), hook=value)
    assert len(studies.finished("m.1")) == 1


def test_a_hook_cannot_change_what_it_is_given():
    label = labels(HOLDOUT)
    before = label.copy()
    worth_of(HOOKED, HOLDOUT, label, meddling)
    np.testing.assert_array_equal(label, before)


def test_columns_of_a_hook_are_checked_in_the_snapshot():
    with pytest.raises(Refused, match=r"business\.payoff\.columns\[0\]: 'fare' is not a column of the snapshot"):
        check_columns(HOOKED, rows().schema)
    check_columns(HOOKED, TABLE.schema)
