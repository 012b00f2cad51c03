import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES, rows, spec

from ratchet.adapters.models import XGBoostLearner
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
    by_row = decide(BY_FARE, HOLDOUT, fit()).payoff.sum()
    one_for_all = 60 / (60 + 0.2 * FARE.mean())
    fixed = decide(BY_FARE, HOLDOUT, fit(spec_of({"tp": "0.2 * fare", "fp": -60}, threshold=one_for_all))).payoff.sum()
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
