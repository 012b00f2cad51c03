"""What a spec of a ranking may say, and what it may not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from test_spec import WHOLE, problems_of

from ratchet.domain.metrics import FAIRNESS, OF_PROBABILITIES, RANKING, REGRESSION_SCORERS, SCORERS
from ratchet.domain.spec import RANKERS, ModelSpec

RANK: dict[str, Any] = {"act_on": "rank", "capacity": {"at_most": 20}}
RANKED: dict[str, Any] = copy.deepcopy(WHOLE)
RANKED["business"]["decision"] = RANK
RANKED["train"] |= {"estimator": "xgboost.XGBRanker"}
RANKED["gate"]["guardrails"] = [{"metric": "ndcg_at_k", "max_regression": 0.05}]


def with_(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The ranking with values set, each by a path such as ``gate.guardrails``."""
    tree = copy.deepcopy(RANKED)
    for path, value in changes:
        *parents, last = path.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def test_a_ranking_acts_on_its_capacity_and_meets_no_threshold() -> None:
    spec = ModelSpec.model_validate(RANKED)
    assert (spec.business.kind, spec.business.ranking, spec.business.regression) == ("ranking", True, False)
    assert (spec.business.decision.threshold, spec.business.capacity) == (None, 20)
    for form in (json.loads(spec.canonical_json()), spec.model_dump(mode="json")):
        assert ModelSpec.model_validate(form) == spec
    assert json.loads(spec.canonical_json())["business"]["decision"] == {
        "act_on": "rank",
        "capacity": {"at_most": 20, "per": "day"},
    }


def test_what_is_known_only_after_the_outcome_may_value_a_rank_but_is_not_read_by_it() -> None:
    payoff = {"tp": "minutes_late - 60", "fp": -60, "unit": "USD"}
    spec = ModelSpec.model_validate(with_(("business.payoff", payoff)))
    assert spec.business.payoff.reads == ("minutes_late",)
    assert spec.business.decided_by_columns == frozenset()


def test_a_hook_values_a_ranks_decisions() -> None:
    spec = ModelSpec.model_validate(with_(("business.payoff", {"hook": "payoff.py:value", "unit": "USD"})))
    assert spec.business.ranking


@pytest.mark.parametrize("metric", [*RANKING, *sorted(set(SCORERS) - OF_PROBABILITIES)])
def test_what_is_measured_on_decisions_and_ranks_is_a_guardrail(metric: str) -> None:
    tree = with_(("gate.guardrails", [{"metric": metric, "max_regression": 0.1}]))
    assert ModelSpec.model_validate(tree).gate.guardrails[0].metric == metric


@pytest.mark.parametrize("metric", FAIRNESS)
def test_the_groups_among_those_acted_on_may_be_compared(metric: str) -> None:
    guardrail = {"metric": metric, "max": 0.2, "by": "carrier"}
    assert ModelSpec.model_validate(with_(("gate.guardrails", [guardrail]))).gate.guardrails[0].by == "carrier"


@pytest.mark.parametrize("metric", ["expected_calibration_error", *sorted(OF_PROBABILITIES)])
def test_what_needs_probabilities_is_refused_with_its_reason(metric: str) -> None:
    (problem,) = problems_of(with_(("gate.guardrails", [{"metric": metric, "max_regression": 0.1}])))
    assert problem.startswith(
        f"gate.guardrails[0].metric: {metric!r} is measured on probabilities, or on scores across"
    )
    assert "a ranking has no probabilities" in problem
    assert "ndcg_at_k" in problem


@pytest.mark.parametrize("metric", REGRESSION_SCORERS)
def test_a_ranking_predicts_no_numbers(metric: str) -> None:
    (problem,) = problems_of(with_(("gate.guardrails", [{"metric": metric, "max_regression": 0.1}])))
    assert f"{metric!r} is measured on predicted numbers, and a ranking predicts none" in problem


@pytest.mark.parametrize("metric", RANKING)
def test_a_classifier_is_not_judged_by_ranks(metric: str) -> None:
    tree = copy.deepcopy(WHOLE)
    tree["gate"]["guardrails"] = [{"metric": metric, "min": 0.1}]
    (problem,) = problems_of(tree)
    assert "write business.decision as {act_on: rank, capacity: ...}" in problem


@pytest.mark.parametrize("objective", RANKERS["xgboost.XGBRanker"].values)
def test_an_objective_of_ranks_may_be_fixed(objective: str) -> None:
    spec = ModelSpec.model_validate(with_(("train.fixed", {"objective": objective})))
    assert spec.train.fixed["objective"] == objective


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "business.decision",
            {"act_on": "rank"},
            "business.decision.capacity: must be given: a ranking acts on each day's best so many",
        ),
        (
            "business.decision",
            RANK | {"threshold": "tuned"},
            "business.decision.threshold: a ranking's scores compare rows of one day and are no probabilities",
        ),
        (
            "business.decision",
            RANK | {"act_when": "score >= threshold"},
            "business.decision.act_when: a ranking's scores compare rows of one day",
        ),
        ("business.payoff", {"under": -3, "over": -1, "unit": "EUR"}, "business.decision: payoff.under and over value"),
        ("business.payoff.fp", 500, "acting must pay on positives"),
        (
            "train.estimator",
            "xgboost.XGBClassifier",
            "train.estimator: business.decision acts on each day's best: use xgboost.XGBRanker",
        ),
        ("train.fixed", {"objective": "rank:auc"}, "train.fixed.objective: must be one of rank:ndcg, rank:map"),
        ("train.fixed", {"objective": "reg:squarederror"}, "train.fixed.objective: must be one of rank:ndcg, rank:map"),
        ("train.fixed", {"scale_pos_weight": 3}, "'scale_pos_weight' is not a parameter of xgboost.XGBRanker"),
        (
            "train.search_space",
            {"objective": {"categorical": ["rank:map"]}},
            "train.search_space.objective: fix it under train.fixed, as one of rank:ndcg",
        ),
        (
            "gate.also_judge",
            ["recalibrated_champion"],
            "gate.also_judge: a recalibrated champion has another map from scores to probabilities, and a ranking has",
        ),
    ],
)
def test_a_broken_rule_names_its_place_and_what_to_write(path: str, value: Any, said: str) -> None:
    problems = problems_of(with_((path, value)))
    assert any(said in problem for problem in problems), problems
