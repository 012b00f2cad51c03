"""What a model spec may say, and what it may not."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ratchet.domain.spec import (
    ESTIMATORS,
    Approval,
    ApprovalCondition,
    ModelSpec,
    Problem,
    digest_of,
    explain,
    format_duration,
    parse_duration,
)

WHOLE: dict[str, Any] = {
    "model": "toy",
    "owner": {"team": "ops", "email": "ops@example.com"},
    "business": {"goal": "earn", "payoff": {"tp": 180, "fp": -60, "unit": "USD"}, "review_by": "2027-06-30"},
    "data": {
        "spine": {
            "source": "flights",
            "label": "late",
            "label_delay": "2d",
            "entity": ["flight_id"],
            "decided_at": "scheduled_departure - 6h",
            "timezone": "America/New_York",
        },
        "features": "toy_v1",
        "window": "180d",
        "holdout": {"last": "28d", "min_clusters": 14},
    },
    "retrain": {
        "on": {"drift": {"confirmations": {"at_least": 2, "of_last": 3}}, "data": {"datasets": ["flights", "weather"]}},
        "budget": {"runs_per_day": 4},
    },
    "train": {
        "estimator": "xgboost.XGBClassifier",
        "fixed": {"tree_method": "hist"},
        "search_space": {"max_depth": {"int": [3, 10]}, "learning_rate": {"float": [0.01, 0.3], "log": True}},
        "trials": 12,
        "workers": 2,
        "tuning": {"policy": "retune"},
    },
    "gate": {"guardrails": [{"metric": "latency_p95_ms", "max": 20}]},
}
ABSENT = object()


def spec_with(path: str = "", value: Any = ABSENT) -> dict[str, Any]:
    """The whole spec with one value set, by a path such as ``gate.guardrails.0.metric``; ABSENT removes it."""
    tree: Any = copy.deepcopy(WHOLE)
    if path:
        *parents, last = path.split(".")
        node = tree
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is ABSENT:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = value
    return tree


def problems_of(tree: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate(tree)
    return [str(problem) for problem in explain(caught.value)]


def test_a_spec_reads_back_from_its_own_json_to_an_equal_spec() -> None:
    spec = ModelSpec.model_validate(WHOLE)
    again = ModelSpec.model_validate(json.loads(spec.canonical_json()))
    assert again == spec
    assert again.digest == spec.digest


def test_spelling_out_a_default_does_not_change_the_digest_but_a_value_does() -> None:
    digest = ModelSpec.model_validate(WHOLE).digest
    assert ModelSpec.model_validate(spec_with("gate.approval", "never")).digest == digest
    assert ModelSpec.model_validate(spec_with("train.trials", 13)).digest != digest


def test_a_kept_document_has_the_digest_of_its_day_although_specs_have_other_keys_since() -> None:
    spec = ModelSpec.model_validate(WHOLE)
    document = spec.model_dump(mode="json")
    assert digest_of(document) == spec.digest
    del document["gate"]["shadow"]
    assert digest_of(document) != spec.digest
    assert ModelSpec.model_validate(document).digest == spec.digest


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelSpec.model_validate(WHOLE).model = "other"  # type: ignore[misc]


def test_durations_and_the_moment_of_decision_are_read() -> None:
    spine = ModelSpec.model_validate(WHOLE).data.spine
    assert spine.label_delay == timedelta(days=2)
    assert (spine.decided_column, spine.decided_lead) == ("scheduled_departure", timedelta(hours=6))
    assert (
        ModelSpec.model_validate(spec_with("data.spine.decided_at", "asked_at")).data.spine.decided_lead == timedelta()
    )


def test_watermarks_are_bound_by_the_spine_and_the_datasets_listened_to_each_once() -> None:
    assert ModelSpec.model_validate(WHOLE).datasets == ("flights", "weather")


@settings(deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_reads_back_as_it_was_written(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "6", "h", "-6h", "6h2d", "1.5h", "6 hours", "6H"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is written like"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("gate.guardrails.0.metric", "latency_p95", "Did you mean 'latency_p95_ms'?"),
        ("retrain.cooldwon", "6h", "retrain.cooldwon: 'cooldwon' is not a known key. Did you mean 'cooldown'?"),
        ("retrain.on.drift.confirmations.at_leest", 1, "Did you mean 'at_least'?"),
        ("gate.guardrails.0.min_row", 3, "Did you mean 'min_rows'?"),
        ("train.search_space.max_depth.logg", True, "Did you mean 'log'?"),
        ("train.search_space.max_dept", {"int": [1, 2]}, "Did you mean 'max_depth'?"),
        ("train.fixed.n_jobs", 4, "runtime.threads sets it"),
        ("train.fixed.max_depth", 4, "'max_depth' is both fixed and searched"),
        ("train.search_space.max_depth", {"int": [10, 3]}, "low must not exceed high, but got [10, 3]"),
        ("train.search_space.max_depth", {"int": [3, 10], "float": [0, 1]}, "needs exactly one of"),
        ("train.search_space.max_depth", {}, "needs exactly one of"),
        ("train.search_space.max_depth", {"int": [3, 10.5]}, "train.search_space.max_depth.int[1]: "),
        ("train.search_space.learning_rate", {"float": [0.0, 0.3], "log": True}, "log needs low > 0"),
        ("train.search_space.learning_rate", {"float": [float("nan"), 0.3]}, "finite"),
        ("train.search_space.tree_method", {"categorical": []}, "at least one"),
        ("train.search_space.booster", {"categorical": ["dart", "dart"]}, "distinct choices"),
        ("train.search_space", {}, "train.search_space: "),
        ("train.trials", True, "train.trials: "),
        ("train.trials", "12", "train.trials: "),
        ("train.workers", 13, "workers 13 must not exceed trials 12"),
        ("train.generation", 0, "train.generation: "),
        ("train.generation", 1, "workers 2 must not exceed generation 1: the others would always wait"),
        ("train.tuning.policy", "warm", "train.tuning.policy: "),
        ("train.tuning.core_seconds", 0, "train.tuning.core_seconds: "),
        ("train.tuning.core_second", 60.0, "Did you mean 'core_seconds'?"),
        ("retrain.on.drift.confirmations", {"at_least": 4, "of_last": 3}, "at_least 4 of_last 3 can never be reached"),
        ("retrain.on.drift.min_severity", 1.5, "retrain.on.drift.min_severity: "),
        ("retrain.schedule", "0 4 * *", "must be five cron fields"),
        ("retrain.schedule", "0 24 * * 1", "cron field hour must lie in 0-23, but got '24'"),
        ("retrain.debounce", 30, "must be a duration like 30s, 6h or 2d, but got 30"),
        ("retrain.max_event_age", "0d", "retrain.max_event_age: "),
        ("retrain.quiet_hours", ["22-06"], "a quiet window is written like 22:00-06:00"),
        ("retrain.quiet_hours", ["12:00-10:00", "09:00-13:00"], "the windows cover the whole week"),
        ("retrain.priority", 10, "retrain.priority: "),
        ("retrain.on_overload", "drop", "retrain.on_overload: "),
        ("retrain.budget.core_hours_per_month", 0, "retrain.budget.core_hours_per_month: "),
        ("retrain", {"on": {}, "urgent": 0.9, "budget": {"runs_per_day": 1}}, "retrain.on has no drift"),
        ("data.holdout.min_clusters", 29, "the last 28 days can never hold min_clusters = 29"),
        ("data.holdout.last", "36h", "must be whole days"),
        ("data.window", "30d", "no day is left to train on"),
        ("data.spine.timezone", "America/New_Yorkk", "IANA"),
        ("data.spine.decided_at", "scheduled_departure + 6h", "must be a column"),
        ("data.spine.entity", ["flight_id", "flight_id"], "names a key twice"),
        ("business.payoff.tp", -1, "acting must pay on positives"),
        ("business.payoff.fp", float("inf"), "business.payoff.fp: must be a finite number or an expression"),
        ("business.payoff.fp", True, "business.payoff.fp: must be a finite number or an expression"),
        ("business.payoff.tp", "fare ** 2", "business.payoff.tp: ** is not allowed in an expression"),
        ("business.payoff.tp", "fare.real", "business.payoff.tp: a dot after a name is not allowed"),
        ("business.decision.threshold", "half", "must be payoff, tuned or a number between 0 and 1, but got 'half'"),
        ("business.decision.threshold", 1.5, "business.decision.threshold: "),
        ("business.payoff.fp", ABSENT, "business.payoff: needs tp and fp (values by outcome), or hook"),
        ("business.payoff.columns", ["fare"], "business.payoff: columns and sha256 belong to a hook"),
        ("business.payoff.hook", "payoff.py:value", "business.payoff: has a hook, which values every outcome"),
        ("business.payoff", {"hook": "../payoff.py:value", "unit": "USD"}, "business.payoff.hook: "),
        (
            "business.payoff",
            {"hook": "payoff.py:value", "unit": "USD"},
            "business: a hook has no break-even to compute",
        ),
        ("business.decision.capacity", {"at_most": 0}, "business.decision.capacity.at_most: "),
        ("business.decision.capacity", {"at_most": 5, "per": "week"}, "business.decision.capacity.per: "),
        ("business.review_by", ABSENT, "business.review_by: is required and missing"),
        ("gate.confidence", 0.5, "gate.confidence: "),
        ("gate.guardrails.0.max", ABSENT, "a guardrail on latency_p95_ms needs max"),
        ("gate.guardrails.0.required", True, "required applies to slices of payoff"),
        ("gate.guardrails.0.min_rows", 5, "min_rows applies to slices and groups"),
        ("gate.guardrails.0.by", "carrier", "not of latency_p95_ms"),
        ("gate.guardrails.0.min", 0.5, "takes max, not min"),
        ("gate.guardrails.0.metric", "roc_au", "Did you mean 'roc_auc'?"),
        ("gate.guardrails.0.metric", "log_loss", "Did you mean 'neg_log_loss'?"),
        ("gate.guardrails.0.metric", "roc_auc", "needs max_regression or min"),
        ("gate.guardrails.0.metric", "equalized_odds_difference", "needs by and max_regression or max"),
        ("model", "Flight Delay", "model: "),
        ("owner.email", "nobody", "owner.email: "),
    ],
)
def test_a_broken_rule_names_its_place_and_what_to_write(path: str, value: Any, said: str) -> None:
    problems = problems_of(spec_with(path, value))
    assert any(said in problem for problem in problems), problems


def test_what_nothing_obeys_yet_is_refused_rather_than_ignored() -> None:
    (problem,) = problems_of(spec_with("train.estimator", "lightgbm.LGBMClassifier"))
    assert problem.startswith("train.estimator: not yet supported: ")


def test_a_monitor_is_off_unless_asked_for_and_an_empty_one_takes_the_defaults() -> None:
    assert ModelSpec.model_validate(WHOLE).monitor is None
    monitor = ModelSpec.model_validate(spec_with("monitor", {})).monitor
    assert monitor is not None
    assert (monitor.window.days, monitor.every.days, monitor.block.days, monitor.level) == (28, 7, 7, 0.05)
    assert monitor.checks == ("quality", "features", "predictions", "payoff")


@pytest.mark.parametrize(
    ("monitor", "said"),
    [
        ({"window": "30d"}, "must be whole blocks of 7d"),
        ({"window": "36h", "block": "36h"}, "must be whole days"),
        ({"level": 0.6}, "monitor.level: "),
        ({"checks": []}, "monitor.checks: "),
        ({"checks": ["features", "features"]}, "names one twice"),
        ({"checks": ["weather"]}, "monitor.checks[0]: "),
        ({"schedule": "daily"}, "must be five cron fields"),
        ({"min_rows": 0}, "monitor.min_rows: "),
        ({"threshold": 0.1}, "'threshold' is not a known key"),
    ],
)
def test_a_monitor_that_could_not_be_obeyed_is_refused(monitor: dict[str, Any], said: str) -> None:
    problems = problems_of(spec_with("monitor", monitor))
    assert any(said in problem for problem in problems), problems


SKLEARN_TRAIN = {
    "sklearn.ensemble.HistGradientBoostingClassifier": {"max_leaf_nodes": {"int": [4, 63]}},
    "sklearn.ensemble.RandomForestClassifier": {"max_depth": {"int": [3, 20]}},
    "sklearn.linear_model.LogisticRegression": {"C": {"float": [0.01, 10], "log": True}},
}


@pytest.mark.parametrize("estimator", SKLEARN_TRAIN)
def test_each_estimator_has_its_own_parameters(estimator: str) -> None:
    train = WHOLE["train"] | {"estimator": estimator, "fixed": {}, "search_space": SKLEARN_TRAIN[estimator]}
    spec = ModelSpec.model_validate(spec_with("train", train))
    assert ModelSpec.model_validate(json.loads(spec.canonical_json())) == spec
    (problem,) = problems_of(spec_with("train", train | {"fixed": {"tree_method": "hist"}}))
    assert problem.startswith(f"train.fixed: 'tree_method' is not a parameter of {estimator}.")
    for name in ("n_jobs", "random_state", "warm_start", "class_weight", "early_stopping"):
        (problem,) = problems_of(spec_with("train", train | {"fixed": {name: 1}}))
        assert problem.startswith(f"train.fixed: '{name}' cannot be set here: ")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sklearn.ensemble.RandomForest", "sklearn.ensemble.RandomForestClassifier"),
        ("HistGradientBoostingClassifier", "sklearn.ensemble.HistGradientBoostingClassifier"),
        ("xgboost.XGBClasifier", "xgboost.XGBClassifier"),
    ],
)
def test_an_unknown_estimator_is_refused_with_the_list_and_the_nearest_name(written: str, meant: str) -> None:
    (problem,) = problems_of(spec_with("train.estimator", written))
    assert all(estimator in problem for estimator in ESTIMATORS)
    assert problem.endswith(f"Did you mean '{meant}'?")


def test_a_payoff_may_be_an_expression_and_reads_back() -> None:
    spec = ModelSpec.model_validate(spec_with("business.payoff", {"tp": "0.2 * fare", "fp": "-5 - tax", "unit": "EUR"}))
    assert spec.business.payoff.reads == ("fare", "tax")
    assert spec.business.decided_by_columns == {"fare", "tax"}
    again = ModelSpec.model_validate(json.loads(spec.canonical_json()))
    assert (again, again.digest) == (spec, spec.digest)


def test_a_payoff_may_be_a_hook_that_reads_named_columns() -> None:
    tree = spec_with("business.payoff", {"hook": "payoff.py:value", "columns": ["fare", "carrier"], "unit": "EUR"})
    tree["business"]["decision"] = {"threshold": "tuned"}
    spec = ModelSpec.model_validate(tree)
    assert spec.business.payoff.reads == ("fare", "carrier")
    assert ModelSpec.model_validate(json.loads(spec.canonical_json())) == spec
    tree["business"]["payoff"]["columns"] = ["fare", "fare"]
    assert "names a column twice" in problems_of(tree)[0]


def test_a_capacity_is_per_local_day() -> None:
    spec = ModelSpec.model_validate(spec_with("business.decision", {"capacity": {"at_most": 50}}))
    assert spec.business.capacity == 50
    assert ModelSpec.model_validate(WHOLE).business.capacity is None


def test_a_fixed_or_tuned_threshold_reads_no_column() -> None:
    tree = spec_with("business.payoff.tp", "0.2 * fare")
    for threshold in (0.3, "tuned"):
        tree["business"]["decision"] = {"threshold": threshold}
        assert ModelSpec.model_validate(tree).business.decided_by_columns == frozenset()


def test_a_refit_is_deployed_under_a_probation_or_not_at_all() -> None:
    (problem,) = problems_of(spec_with("gate.deploy", "refit"))
    assert "gate.deploy: refit needs a probation" in problem
    assert "Add probation: {for: 28d}, or write deploy: judged" in problem
    watched = spec_with("gate.deploy", "refit") | {"probation": {"for": "28d"}}
    assert ModelSpec.model_validate(watched).gate.deploy == "refit"


def test_a_spec_that_deploys_what_was_judged_has_the_digest_it_had() -> None:
    assert ModelSpec.model_validate(spec_with("gate.deploy", "judged")).digest == ModelSpec.model_validate(WHOLE).digest


def test_a_probation_reads_back_and_leaves_the_digest_of_specs_without_one_alone() -> None:
    section = {"for": "28d", "loss_limit": {"amount": 20000.0, "unit": "USD"}}
    spec = ModelSpec.model_validate(spec_with("probation", section))
    assert spec.probation is not None
    assert (spec.probation.revert, spec.probation.on_new_promotion) == ("automatic", "wait")
    assert ModelSpec.model_validate(spec.model_dump(mode="json")).digest == spec.digest
    assert spec.model_dump(mode="json")["probation"]["for"] == "28d"
    without = ModelSpec.model_validate(spec_with("probation", None))
    assert "probation" not in without.canonical_json()


def test_scoring_is_off_unless_asked_for_and_an_empty_section_asks_for_its_defaults() -> None:
    without = ModelSpec.model_validate(WHOLE)
    assert without.scoring is None
    assert "scoring" not in without.canonical_json()
    spec = ModelSpec.model_validate(spec_with("scoring", {}))
    assert spec.scoring is not None
    assert (spec.scoring.on_data, spec.scoring.schedule, spec.scoring.shadow) == (True, None, "none")
    assert (spec.scoring.horizon, spec.scoring.catch_up) == (timedelta(0), timedelta(days=35))
    assert ModelSpec.model_validate(spec.model_dump(mode="json")).digest == spec.digest


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"on_data": False}, "scoring.schedule: must be given where on_data is false, or nothing would ever start"),
        ({"on_data": "yes"}, "scoring.on_data: "),
        ({"schedule": "0 5 * *"}, "scoring.schedule: must be five cron fields"),
        ({"horizon": "-1d"}, "scoring.horizon: a duration is written like"),
        ({"catch_up": "0s"}, "scoring.catch_up: "),
        ({"catch_up": "36h"}, "scoring.catch_up: must be whole days"),
        ({"shadow": "champion"}, "scoring.shadow: "),
        ({"destination": "s3://x"}, "scoring.destination: 'destination' is not a known key"),
    ],
)
def test_scoring_that_cannot_be_obeyed_is_refused(section: Any, said: str) -> None:
    problems = problems_of(spec_with("scoring", section))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "probation.for: is required and missing"),
        ({"for": "6d"}, "must be between 7d and 365d"),
        ({"for": "36h"}, "must be whole days"),
        ({"for": "28d", "revert": "never"}, "probation.revert: "),
        ({"for": "28d", "on_new_promotion": "queue"}, "probation.on_new_promotion: "),
        ({"for": "28d", "loss_limit": {"amount": 0, "unit": "USD"}}, "probation.loss_limit.amount: "),
        ({"for": "28d", "loss_limit": {"amount": 5.0, "unit": "EUR"}}, "must be that of business.payoff, 'USD'"),
        ({"for": "28d", "limit": 5}, "'limit' is not a known key"),
    ],
)
def test_a_probation_that_cannot_be_obeyed_is_refused(section: Any, said: str) -> None:
    problems = problems_of(spec_with("probation", section))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("always", Approval()),
        ({"when": "always", "expires": "12h"}, Approval(expires=timedelta(hours=12))),
        ({"when": {"lower_bound_below": 0.2}}, Approval(when=ApprovalCondition(lower_bound_below=0.2))),
        ({"two_people_above": 50000}, Approval(two_people_above=50_000.0)),
    ],
)
def test_an_approval_is_read_and_reads_back(written: Any, read: Approval) -> None:
    spec = ModelSpec.model_validate(spec_with("gate.approval", written))
    assert spec.gate.approval == read
    for form in (json.loads(spec.canonical_json()), spec.model_dump(mode="json")):
        assert ModelSpec.model_validate(form).digest == spec.digest


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nver", "gate.approval: must be never, always or a mapping like"),
        ("alway", "Did you mean 'always'?"),
        (None, "gate.approval: must be never, always or a mapping"),
        ({"wen": 1}, "gate.approval.wen: 'wen' is not a known key. Did you mean 'when'?"),
        ({"when": "often"}, "gate.approval.when: must be always or a condition"),
        (
            {"when": {"lower_bound_bellow": 0.2}},
            "'lower_bound_bellow' is not a known key. Did you mean 'lower_bound_below'?",
        ),
        ({"when": {}}, "gate.approval.when.lower_bound_below: is required and missing"),
        ({"when": {"lower_bound_below": math.nan}}, "gate.approval.when.lower_bound_below: "),
        ({"expires": "0s"}, "gate.approval.expires: "),
        ({"expires": 3}, "gate.approval.expires: must be a duration"),
        ({"two_people_above": -1}, "gate.approval.two_people_above: "),
    ],
)
def test_an_approval_that_cannot_be_obeyed_is_refused(value: Any, said: str) -> None:
    problems = problems_of(spec_with("gate.approval", value))
    assert any(said in problem for problem in problems), problems


def test_quiet_hours_read_back_as_they_were_written() -> None:
    windows = ["mon-fri 22:00-06:00", "sun 00:00-24:00"]
    spec = ModelSpec.model_validate(spec_with("retrain.quiet_hours", windows))
    written = spec.model_dump(mode="json")["retrain"]["quiet_hours"]
    assert written == ["mon,tue,wed,thu,fri 22:00-06:00", "sun 00:00-24:00"]
    assert ModelSpec.model_validate(spec_with("retrain.quiet_hours", written)).digest == spec.digest


def test_drift_that_is_too_mild_to_count_cannot_be_urgent() -> None:
    tree = spec_with("retrain.on.drift.min_severity", 0.3)
    tree["retrain"]["urgent"] = 0.2
    assert "urgent 0.2 lies below min_severity 0.3" in problems_of(tree)[0]


def test_every_problem_is_told_at_once() -> None:
    tree = spec_with("train.trials", 0)
    tree["retrain"]["budget"]["runs_per_day"] = 0
    assert len(problems_of(tree)) == 2


def test_a_guardrail_may_insist_on_one_slice() -> None:
    insisting = {"metric": "payoff", "slice": "carrier=UA", "max_regression": 0.5, "required": True}
    (guardrail,) = ModelSpec.model_validate(spec_with("gate.guardrails", [insisting])).gate.guardrails
    assert guardrail.column == "carrier"


def test_a_problem_is_placed_as_a_person_writes_it() -> None:
    assert str(Problem(("gate", "guardrails", 0, "metric"), "no")) == "gate.guardrails[0].metric: no"
    assert str(Problem((), "no")) == "spec: no"


def test_importing_the_spec_is_light_enough_for_every_parse_of_a_dag_file() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "sqlalchemy", "mlflow", "feast", "optuna", "sklearn", "xgboost", "kafka"}
    code = f"import sys, ratchet.adapters.specs; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("looks", [[1.0], [0.5, 0.5], [0.6, 0.2, 0.2], [0.3, 0.3, 0.3, 0.1]])
def test_a_plan_of_looks_spends_alpha_at_most_once(looks: list[float]) -> None:
    assert ModelSpec.model_validate(spec_with("gate.looks", looks)).gate.looks == tuple(looks)


@pytest.mark.parametrize("looks", [[], [0.0, 1.0], [-0.1], [0.6, 0.6], [1.1], [True]])
def test_a_plan_that_spends_more_than_alpha_or_nothing_at_a_look_is_refused(looks: list[float]) -> None:
    (problem, *_) = problems_of(spec_with("gate.looks", looks))
    assert problem.startswith("gate.looks")


def test_a_second_challenger_is_judged_only_where_the_spec_asks_and_a_spec_without_it_keeps_its_digest() -> None:
    plain = ModelSpec.model_validate(spec_with())
    assert plain.gate.also_judge is None
    asked = ModelSpec.model_validate(spec_with("gate.also_judge", ["recalibrated_champion"]))
    assert asked.gate.also_judge == ("recalibrated_champion",)
    assert "also_judge" not in plain.canonical_json()
    assert asked.digest != plain.digest
    assert ModelSpec.model_validate(asked.model_dump(mode="json")) == asked


@pytest.mark.parametrize("named", [[], ["champion"], ["recalibrated_champion"] * 2, "recalibrated_champion"])
def test_what_else_is_judged_is_named_once_and_known(named: Any) -> None:
    (problem, *_) = problems_of(spec_with("gate.also_judge", named))
    assert problem.startswith("gate.also_judge")


def test_a_recalibrated_champion_is_not_asked_for_where_nothing_could_be_refitted_or_mapped() -> None:
    asked = spec_with("gate.also_judge", ["recalibrated_champion"])
    refitting = asked | {"gate": asked["gate"] | {"deploy": "refit"}, "probation": {"for": "28d"}}
    (problem,) = problems_of(refitting)
    assert problem.startswith("gate.also_judge: a recalibrated champion shares the champion's scorer")
