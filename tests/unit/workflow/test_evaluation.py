import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from labelled_rows import COLUMNS, HOLDOUT_START, RANGES, rows, spec

from ratchet.adapters.models import XGBoostLearner
from ratchet.domain.artifact import ConstantDecision, ModelArtifact
from ratchet.domain.gate import GatePolicy, decide_promotion
from ratchet.errors import Refused
from ratchet.workflow.evaluation import LATENCY_SAMPLES, evaluate
from ratchet.workflow.training import best_constant, fit_final

TABLE = rows()
HOLDOUT = TABLE.filter(pc.greater_equal(TABLE["day"], HOLDOUT_START))


def model(depth: int = 3, rounds: int = 30) -> ModelArtifact:
    return fit_final(
        spec=spec(fixed={"n_estimators": rounds}),
        train=TABLE,
        ranges=RANGES,
        columns=COLUMNS,
        params={"max_depth": depth, "learning_rate": 0.2},
        seed=0,
        learner=XGBoostLearner(),
    )


def test_uplift_is_the_difference_of_payoffs_on_the_same_rows():
    weak, strong = model(depth=1, rounds=1), model()
    evidence = evaluate(spec(), HOLDOUT, weak, strong)
    label = HOLDOUT["label"].to_numpy()
    worth = np.where(label == 1, 180.0, -60.0)
    expected = worth * strong.decide(HOLDOUT)[1] - worth * weak.decide(HOLDOUT)[1]
    np.testing.assert_array_equal(evidence.uplift, expected)
    np.testing.assert_array_equal(evidence.clusters, HOLDOUT["day"].to_pylist())


def test_a_useful_model_beats_the_best_constant_decision():
    evidence = evaluate(spec(), HOLDOUT, best_constant(spec(), TABLE, RANGES), model())
    verdict = decide_promotion(evidence, GatePolicy.from_spec(spec().gate))
    assert verdict.decision == "promote", verdict.reasons


def test_a_model_against_itself_is_not_promoted():
    same = model()
    verdict = decide_promotion(evaluate(spec(), HOLDOUT, same, same), GatePolicy.from_spec(spec().gate))
    assert verdict.decision == "keep_champion"


def test_a_constant_decision_has_no_probability_to_compare_calibration_with():
    evidence = evaluate(spec(), HOLDOUT, ConstantDecision(act=True, probability=0.4), model())
    assert evidence.champion.probability is None
    assert evidence.challenger.probability is not None


def test_a_missing_slice_value_is_a_slice_of_its_own():
    evidence = evaluate(spec(), HOLDOUT, ConstantDecision(act=False, probability=0.4), model())
    assert set(np.asarray(evidence.slices["carrier"])) == {"AA", "UA", "WN", "missing"}


def test_latency_is_milliseconds_of_one_row():
    ticks = itertools.count()
    evidence = evaluate(
        spec(), HOLDOUT, ConstantDecision(act=False, probability=0.4), model(), clock=lambda: next(ticks) * 1e-6
    )
    assert np.asarray(evidence.challenger.latency_ms) == pytest.approx(np.full(LATENCY_SAMPLES, 1e-3))


def test_timing_stops_when_its_budget_is_spent():
    ticks = itertools.count()
    evidence = evaluate(
        spec(), HOLDOUT, ConstantDecision(act=False, probability=0.4), model(), clock=lambda: float(next(ticks))
    )
    assert len(np.asarray(evidence.challenger.latency_ms)) == 1


def test_a_missing_label_is_refused():
    label = pa.array([None, *HOLDOUT["label"].to_pylist()[1:]], type=pa.int8())
    broken = HOLDOUT.set_column(HOLDOUT.schema.get_field_index("label"), "label", label)
    with pytest.raises(Refused, match="1 have none"):
        evaluate(spec(), broken, ConstantDecision(act=False, probability=0.4), model())


def test_an_absent_slice_column_is_named():
    with pytest.raises(Refused, match="carrier"):
        evaluate(spec(), HOLDOUT.drop_columns(["carrier"]), ConstantDecision(act=False, probability=0.4), model())
