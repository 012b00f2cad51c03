"""What a change of specs brings: which DAGs and assets come and go, and what each changed key means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from ratchet.domain import plan as plans
from ratchet.domain.forecasting import RunCost
from ratchet.domain.plan import DATASETS, MEANS, ModelPlan, Side, Standing, plan
from ratchet.domain.spec import ModelSpec, _aliases, _model_in

SHIPPED = Path(__file__).resolve().parents[3] / "include" / "models" / "flight_delay" / "model.yaml"
MODEL = "flight_delay"
OTHER_DEFAULTS = "0" * 64


def side(datasets: dict[str, Any] | None = None, digest: str | None = None, **changes: Any) -> Side:
    """The shipped spec, with sections changed by dotted keys (``gate__confidence=0.9``); None takes one out."""
    document = json.loads(json.dumps(YAML(typ="safe").load(SHIPPED.read_text()), default=str))
    del document["monitor"]
    for key, value in changes.items():
        *parents, last = key.split("__")
        where = document
        for part in parents:
            where = where[part]
        where[last] = value
    spec = ModelSpec.model_validate(document)
    return Side(spec, digest or spec.digest, datasets)


def changed(before: Side | None, after: Side | None, standing: Standing | None = None) -> ModelPlan:
    sides = ({MODEL: one} if one else {} for one in (before, after))
    (made,) = plan(*sides, {MODEL: standing} if standing else None)
    return made


def resources(made: ModelPlan, kind: str) -> list[tuple[str, str]]:
    return [(one.sign, one.name) for one in made.resources if one.kind == kind]


def test_what_is_the_same_on_both_sides_is_no_change() -> None:
    assert plan({MODEL: side()}, {MODEL: side()}) == []
    assert plan({}, {}) == []


def test_a_new_model_brings_all_of_its_own() -> None:
    made = changed(None, side())
    assert (made.sign, made.digests) == ("+", (None, side().digest[:12]))
    assert resources(made, "DAG") == [("+", f"{verb}__{MODEL}") for verb in ("retrain", "promote", "rollback")]
    assert resources(made, "asset") == [("+", f"ratchet://{MODEL}/{bell}") for bell in ("due", "judged", "champion")]
    topics = ["ml.data-arrival", "ml.drift", "ml.retrain-requests", "ml.decisions"]
    assert resources(made, "topic") == [("+", topic) for topic in topics]
    assert resources(made, "dataset") == [("+", "flights"), ("+", "weather")]
    assert resources(made, "registered model") == [("+", MODEL)]
    assert resources(made, "pool") == [("+", "ratchet_training")]
    assert made.keys == ()
    assert f"no champion serves until one is made: ratchet champion init {MODEL}" in made.follows


def test_where_the_steps_run_is_told_with_the_packages_and_the_pods_they_have() -> None:
    runtime = {"queue": "big", "environment": "own.txt", "environment_sha256": "a" * 64, "resources": {"memory": "4Gi"}}
    steps = [one.after for one in changed(None, side(runtime=runtime)).resources if one.kind == "steps"]
    assert steps == ["queue big; environment of own.txt (aaaaaaaaaaaa); pods of 1 cores, 4Gi"]
    other = changed(side(runtime=runtime), side(runtime=runtime | {"environment_sha256": "b" * 64}))
    assert [change.key for change in other.keys] == ["runtime.environment_sha256"]
    assert "the lock file has changed" in other.keys[0].means


def test_a_model_that_goes_takes_its_dags_and_assets_and_leaves_its_champion() -> None:
    made = changed(side(), None, Standing(champion=3, at_work=((f"{MODEL}.9", "tuned"),)))
    assert made.sign == "-"
    assert {one.kind for one in made.resources} == {"DAG", "asset"}
    assert {one.sign for one in made.resources} == {"-"}
    assert made.follows[0].startswith("its champion goes on serving")
    assert any("ratchet retire" in one for one in made.follows)
    assert any(f"{MODEL}.9 (tuned) cannot go on" in one for one in made.follows)


def test_a_retired_model_may_go_without_a_word() -> None:
    assert plan({MODEL: side()}, {}, {MODEL: Standing(retired=True)}) == []


@pytest.mark.parametrize(
    ("section", "verb", "bell"),
    [("monitor", "monitor", "monitor"), ("scoring", "score", "score"), ("probation", "probation", "probation")],
)
def test_a_section_that_comes_brings_its_dag_and_asset_and_takes_them_along(section: str, verb: str, bell: str) -> None:
    with_it = side(**{section: {"for": "28d"} if section == "probation" else {}})
    for before, after, sign in ((side(), with_it, "+"), (with_it, side(), "-")):
        made = changed(before, after)
        assert resources(made, "DAG") == [(sign, f"{verb}__{MODEL}")]
        assert resources(made, "asset") == [(sign, f"ratchet://{MODEL}/{bell}")]
        assert [(one.sign, one.key) for one in made.keys] == [(sign, section)]


def test_another_threshold_is_the_next_challengers_and_not_the_champions() -> None:
    made = changed(side(), side(business__decision__threshold=0.3), Standing(champion=4))
    (key,) = made.keys
    assert (key.sign, key.key, key.before, key.after) == ("~", "business.decision.threshold", "payoff", 0.3)
    assert "the champion keeps the threshold in its artifact" in key.means
    assert "version 4 goes on serving until a challenger passes" in made.follows
    assert made.resources == ()


def test_other_features_are_other_snapshots() -> None:
    (key,) = changed(side(), side(data__features="flight_delay_v2")).keys
    assert key.means == MEANS["data.features"]
    assert "the champion's window is not comparable" in key.means


def test_the_longest_beginning_of_a_key_gives_its_meaning() -> None:
    assert plans.meaning("business.payoff.tp") == MEANS["business.payoff"]
    assert plans.meaning("business.payoff.unit") == MEANS["business.payoff.unit"]
    assert plans.meaning("gate.guardrails[2].max") == MEANS["gate.guardrails"]
    assert plans.meaning("nothing.of_the_kind") == "obeyed from the next attempt on"


def keys_of(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[str]:
    for alias, name in _aliases(model).items():
        inner = _model_in(model.model_fields[name].annotation)
        if inner is not None:
            yield from keys_of(inner, (*above, alias))
        yield ".".join((*above, alias))


def test_every_key_of_a_spec_but_its_name_has_a_meaning() -> None:
    unsaid = [key for key in keys_of(ModelSpec) if not any(f"{key}.".startswith(f"{told}.") for told in MEANS)]
    sections = {"business", "data", "retrain"}  # required: their keys change, and they never come or go
    assert set(unsaid) - sections == {"model"}


def test_no_meaning_is_of_a_key_that_specs_do_not_have() -> None:
    known = {*keys_of(ModelSpec), DATASETS, f"{DATASETS}.timezone"}
    assert [key for key in MEANS if key not in known] == []


def test_a_schedule_of_another_time_changes_the_dag_that_has_it() -> None:
    made = changed(side(), side(retrain__schedule="0 5 * * 1"))
    (dag,) = made.resources
    assert (dag.sign, dag.kind, dag.name) == ("~", "DAG", f"retrain__{MODEL}")
    assert dag.after is not None
    assert "0 5 * * 1 (America/New_York)" in dag.after


def test_what_is_at_work_ends_by_the_spec_it_began_with() -> None:
    standing = Standing(champion=1, at_work=((f"{MODEL}.7", "tuned"),), waiting=1200, on_probation=True)
    follows = changed(side(), side(gate__confidence=0.9), standing).follows
    for said in (
        "the spec's digest changes: attempts from now on are bound to the new one; a look that waits is off",
        f"{MODEL}.7 (tuned) ends by the spec it began with",
        "the probation under way goes on by the spec its champion was judged with",
        "1,200 events that wait are decided by the new spec",
    ):
        assert said in follows


def test_datasets_of_its_own_change_snapshots_and_no_digest() -> None:
    made = changed(side({"visits": {"event": "at"}}), side({"visits": {"event": "came_at"}}))
    (key,) = made.keys
    assert (key.key, key.before, key.after) == ("datasets.visits.event", "at", "came_at")
    assert key.means == MEANS[DATASETS]
    assert "the spec's digest stays: attempts and looks under way are as they were" in made.follows


def test_a_digest_that_changes_without_a_key_is_told_for_what_it_is() -> None:
    made = changed(side(digest=OTHER_DEFAULTS), side())
    assert made.keys == ()
    assert "no key of it changes: this version of Ratchet fills in other defaults" in made.follows
    assert "no key of it changes" not in str(changed(side(), side(gate__confidence=0.9)).follows)


def test_cost_is_forecast_from_past_runs_for_the_new_trials_and_told_where_the_change_touches_it() -> None:
    standing = Standing(champion=1, past=(RunCost(0.01, 0.002), RunCost(0.03, 0.002), RunCost(0.02, 0.002)))
    follows = changed(side(), side(train__trials=24), standing).follows
    assert follows[-1] == (
        "cost: a run of 24 trials is forecast to take 0.068 core hours, 0.078 at most (by 3 runs); the budget allows 4 "
        "runs a day"
    )
    assert not any("cost" in one for one in changed(side(), side(gate__confidence=0.9), standing).follows)
    assert "none can be forecast; the budget allows 4 runs a day" in changed(None, side()).follows[-1]


def test_runs_of_another_kind_forecast_nothing() -> None:
    standing = Standing(champion=1, past=(RunCost(0.01, 0.002),))
    tuned = side(train__tuning={"policy": "cold"})
    assert "none can be forecast" in changed(side(), tuned, standing).follows[-1]


def test_every_limit_of_the_budget_is_told() -> None:
    money = {"amount": 30.0, "core_hour": 0.5, "unit": "USD"}
    limits = {"runs_per_day": 2, "core_hours_per_day": 1.5, "core_hours_per_month": 20.0, "money_per_month": money}
    (budget,) = changed(side(), side(retrain__budget=limits)).resources
    assert (budget.before, budget.after) == (
        "4 runs a day",
        "2 runs a day, 1.5 core hours a day, 20 core hours a month, 30 USD a month",
    )


def test_models_are_told_by_name_and_only_those_that_change() -> None:
    renamed = side(model="aaa")
    made = plan({MODEL: side()}, {MODEL: side(gate__confidence=0.9), "aaa": renamed})
    assert [(one.sign, one.model) for one in made] == [("+", "aaa"), ("~", MODEL)]
