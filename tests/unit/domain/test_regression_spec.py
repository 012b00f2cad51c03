"""What a spec of a regression may say, and what it may not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from test_spec import WHOLE, problems_of

from ratchet.domain.metrics import FAIRNESS, REGRESSION_SCORERS, SCORERS
from ratchet.domain.spec import ModelSpec

REGRESSION: dict[str, Any] = copy.deepcopy(WHOLE)
REGRESSION["business"]["payoff"] = {"under": -3, "over": -1, "unit": "EUR"}
REGRESSION["train"] |= {"estimator": "xgboost.XGBRegressor"}


def with_(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The regression with values set, each by a path such as ``gate.guardrails``."""
    tree = copy.deepcopy(REGRESSION)
    for path, value in changes:
        *parents, last = path.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def test_costs_of_an_error_make_the_prediction_the_decision() -> None:
    spec = ModelSpec.model_validate(REGRESSION)
    assert spec.business.regression
    assert (spec.business.decision.threshold, spec.business.capacity) == (None, None)
    assert spec.business.decided_by_columns == frozenset()
    said = ModelSpec.model_validate(with_(("business.decision", {"act_on": "prediction"})))
    assert said.digest == spec.digest
    for form in (json.loads(spec.canonical_json()), spec.model_dump(mode="json")):
        assert ModelSpec.model_validate(form) == spec
    assert json.loads(spec.canonical_json())["business"]["decision"] == {"act_on": "prediction"}


def test_a_classifier_is_no_regression_and_keeps_its_digest() -> None:
    plain = copy.deepcopy(WHOLE)
    del plain["train"]["tuning"]
    spec = ModelSpec.model_validate(plain)
    assert not spec.business.regression
    # Of this very document, before specs could hold a regression, or a policy of tuning.
    assert spec.digest == "5f92b814a02cd121ce8241cc4683fbebcdc3e9bfb8ed302eff409a77cb2b3f86"


def test_costs_may_be_expressions_where_the_spec_says_what_to_fit() -> None:
    payoff = {"under": "-fare", "over": -1, "unit": "EUR"}
    searched = {"max_depth": {"int": [2, 6]}, "quantile_alpha": {"float": [0.3, 0.9]}}
    for said in (("train.search_space", searched), ("train.fixed", {"objective": "reg:squarederror"})):
        spec = ModelSpec.model_validate(with_(("business.payoff", payoff), said))
        assert spec.business.payoff.reads == ("fare",)
        assert spec.business.payoff.named == ((("under",), "fare"),)


def test_a_hook_values_predictions_where_the_decision_says_so() -> None:
    hook = {"hook": "payoff.py:value", "columns": ["fare"], "unit": "EUR"}
    changes = (("business.payoff", hook), ("train.fixed", {"quantile_alpha": 0.7}))
    spec = ModelSpec.model_validate(with_(*changes, ("business.decision", {"act_on": "prediction"})))
    assert spec.business.regression
    (problem,) = problems_of(with_(*changes))
    assert "a hook has no break-even to compute" in problem
    assert "{act_on: prediction}" in problem


@pytest.mark.parametrize("metric", REGRESSION_SCORERS)
def test_scorers_of_numbers_are_guardrails(metric: str) -> None:
    guardrails = [{"metric": metric, "max_regression": 0.1}, {"metric": "payoff", "slice": "a", "max_regression": 1.0}]
    assert ModelSpec.model_validate(with_(("gate.guardrails", guardrails))).gate.guardrails[0].metric == metric


@pytest.mark.parametrize("metric", [*SCORERS, *FAIRNESS, "expected_calibration_error", "decisions_flipped"])
def test_what_is_measured_on_decisions_is_refused_with_its_reason(metric: str) -> None:
    limits = {"max": 0.5} if metric == "decisions_flipped" else {"max_regression": 0.1}
    limits |= {"by": "carrier"} if metric in FAIRNESS else {}
    (problem,) = problems_of(with_(("gate.guardrails", [{"metric": metric} | limits])))
    assert problem.startswith(f"gate.guardrails[0].metric: {metric!r} is measured on decisions to act")
    assert "neg_mean_absolute_error" in problem


def test_a_classifier_is_not_judged_by_scorers_of_numbers() -> None:
    tree = copy.deepcopy(WHOLE)
    tree["gate"]["guardrails"].append({"metric": "r2", "min": 0.1})
    (problem,) = problems_of(tree)
    assert problem.startswith("gate.guardrails[1].metric: 'r2' is measured on predicted numbers")


@pytest.mark.parametrize("metric", ["neg_max_error", "neg_median_absolute_error"])
def test_a_scorer_without_an_interval_is_not_known(metric: str) -> None:
    (problem,) = problems_of(with_(("gate.guardrails", [{"metric": metric, "min": -3}])))
    assert "is not a known metric" in problem


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("business.payoff.under", 3, "business.payoff.under: must be below 0, but got 3"),
        ("business.payoff.over", 0, "business.payoff.over: must be below 0, but got 0"),
        ("business.payoff.over", "x **", "business.payoff.over: "),
        ("business.payoff.tp", 3, "business.payoff: has under or over, which value every prediction"),
        ("business.payoff.hook", "payoff.py:value", "business.payoff: has under or over, which value every prediction"),
        ("business.payoff.columns", ["fare"], "business.payoff: columns and sha256 belong to a hook"),
        ("business.payoff", {"under": -3, "unit": "EUR"}, "business.payoff: needs both under and over"),
        ("business.decision", {"threshold": "payoff"}, "business.decision: payoff.under and over value the error"),
        ("business.decision", {"act_on": "score"}, "business.decision.act_on: "),
        (
            "business.decision",
            {"act_on": "prediction", "threshold": 0.2},
            "business.decision.threshold: a decision that acts on the prediction itself",
        ),
        (
            "business.decision",
            {"act_on": "prediction", "capacity": {"at_most": 3}},
            "business.decision.capacity: a decision that acts on the prediction itself",
        ),
        (
            "business.decision",
            {"act_on": "prediction", "act_when": "score >= threshold"},
            "business.decision.act_when: a decision that acts on the prediction itself",
        ),
        (
            "train.estimator",
            "xgboost.XGBClassifier",
            "train.estimator: business.decision acts on the prediction: use xgboost.XGBRegressor or sklearn.ensemble",
        ),
        ("train.fixed", {"objective": "reg:gamma"}, "train.fixed.objective: must be one of reg:quantileerror"),
        (
            "train.fixed",
            {"quantile_alpha": 1.0},
            "train.fixed.quantile_alpha: must lie between 0 and 1, without the ends, but got (1.0,)",
        ),
        (
            "train.fixed",
            {"quantile_alpha": 0.3, "objective": "reg:squarederror"},
            "train.fixed.quantile_alpha: a quantile is what reg:quantileerror is fitted to",
        ),
        ("train.fixed", {"scale_pos_weight": 3}, "'scale_pos_weight' is not a parameter of xgboost.XGBRegressor"),
        ("train.fixed", {"n_jobs": 3}, "runtime.threads sets it"),
        (
            "train.search_space",
            {"objective": {"categorical": ["reg:squarederror"]}},
            "train.search_space.objective: fix it under train.fixed",
        ),
        (
            "train.search_space",
            {"quantile_alpha": {"float": [0.0, 0.5]}},
            "train.search_space.quantile_alpha: must lie between 0 and 1, without the ends, but got (0.0, 0.5)",
        ),
        (
            "business.payoff",
            {"under": "-fare", "over": -1, "unit": "EUR"},
            "train.fixed: where the costs are not the same on every row, they name no quantile",
        ),
    ],
)
def test_a_broken_rule_names_its_place_and_what_to_write(path: str, value: Any, said: str) -> None:
    problems = problems_of(with_((path, value)))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"fixed": {"loss": "poisson"}}, "train.fixed.loss: must be one of quantile, squared_error, absolute_error"),
        ({"fixed": {"quantile": 1.0}}, "train.fixed.quantile: must lie between 0 and 1"),
        (
            {"fixed": {"quantile": 0.3, "loss": "squared_error"}},
            "train.fixed.quantile: a quantile is what quantile is fitted to, but train.fixed.loss is 'squared_error'",
        ),
        (
            {"search_space": {"loss": {"categorical": ["quantile"]}}},
            "train.search_space.loss: fix it under train.fixed, as one of quantile",
        ),
        ({"fixed": {"quantile_alpha": 0.3}}, "'quantile_alpha' is not a parameter of sklearn.ensemble.Hist"),
    ],
)
def test_scikit_learns_regressor_has_the_same_rules_by_its_own_names(train: dict[str, Any], said: str) -> None:
    own = {"estimator": "sklearn.ensemble.HistGradientBoostingRegressor", "fixed": {}}
    tree = with_(("train", REGRESSION["train"] | own | {"search_space": {"max_depth": {"int": [2, 6]}}} | train))
    assert any(said in problem for problem in problems_of(tree)), problems_of(tree)


def test_costs_by_row_name_what_scikit_learns_regressor_is_to_fit() -> None:
    own = {"estimator": "sklearn.ensemble.HistGradientBoostingRegressor", "fixed": {}}
    train = REGRESSION["train"] | own | {"search_space": {"max_depth": {"int": [2, 6]}}}
    payoff = {"under": "-fare", "over": -1, "unit": "EUR"}
    (problem,) = problems_of(with_(("train", train), ("business.payoff", payoff)))
    assert "fix or search quantile, or fix loss as one of squared_error, absolute_error" in problem


def test_a_classifier_has_neither_a_regressors_estimator_nor_its_parameters() -> None:
    tree = copy.deepcopy(WHOLE)
    tree["train"]["estimator"] = "xgboost.XGBRegressor"
    assert "business.decision is to act or not: use xgboost.XGBClassifier" in problems_of(tree)[0]
    tree = copy.deepcopy(WHOLE)
    tree["train"]["fixed"] = {"objective": "reg:squarederror"}
    assert "a decision is binary" in problems_of(tree)[0]
    tree["train"]["fixed"] = {"quantile_alpha": 0.5}
    assert "'quantile_alpha' is not a parameter of xgboost.XGBClassifier" in problems_of(tree)[0]


def test_outcomes_do_not_value_a_prediction() -> None:
    tree = copy.deepcopy(WHOLE)
    tree["business"]["decision"] = {"act_on": "prediction"}
    assert "business.payoff: a decision that acts on the prediction needs under and over" in problems_of(tree)[0]


@pytest.mark.parametrize("name", ["threshold", "act_when"])
def test_a_rule_of_a_classifier_cannot_be_nothing(name: str) -> None:
    tree = copy.deepcopy(WHOLE)
    tree["business"]["decision"] = {name: None}
    assert problems_of(tree)[0].startswith(f"business.decision.{name}: must be given, or left out")


def test_a_champion_without_probabilities_cannot_be_recalibrated_beside_a_challenger() -> None:
    (problem,) = problems_of(with_(("gate.also_judge", ["recalibrated_champion"])))
    assert problem.startswith("gate.also_judge: a recalibrated champion has another map from scores to probabilities")
