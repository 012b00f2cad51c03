"""Which tagged columns rows of a model may hold, and where their values may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ratchet.adapters.specs import load_spec
from ratchet.domain.sensitive import TaggedColumn, declared, rule_columns, tags_of
from ratchet.domain.spec import ModelSpec, explain

SHIPPED = load_spec(Path(__file__).parents[3] / "include" / "models" / "flight_delay")
KEY = TaggedColumn("flight_id", ("pii",), "entity 'flight_id'", "key")
AGE = TaggedColumn("age", ("pii",), "field 'age'", "feature")
NAME = TaggedColumn("name", ("pii", "secret"), "field 'name'", "feature", categorical=True)


def spec(*entries: dict[str, Any], **sections: Any) -> ModelSpec:
    plain = SHIPPED.model_dump(mode="json")
    for section, values in sections.items():
        plain[section] |= values
    return ModelSpec.model_validate(plain | {"data": plain["data"] | {"allow_sensitive": list(entries) or None}})


def allow(column: str, **more: Any) -> dict[str, Any]:
    return {"column": column, "reason": "asked for"} | more


def places(spec: ModelSpec, *tagged: TaggedColumn) -> list[str]:
    return [problem.where for problem in rule_columns(spec, tagged).problems]


def test_what_is_not_tagged_needs_no_word() -> None:
    ruling = rule_columns(spec(), ())
    assert (ruling.allowed, ruling.problems) == ((), ())


@pytest.mark.parametrize(
    ("role", "column", "where"),
    [
        ("key", "flight_id", "data.spine.entity[0]"),
        ("join key", "carrier", "data.spine.source"),
        ("label", "late", "data.spine.label"),
        ("moment", "scheduled_departure", "data.spine.decided_at"),
        ("outcome", "minutes", "business.payoff.tp"),
        ("feature", "age", "data.features"),
    ],
)
def test_a_tagged_column_is_refused_in_every_role_where_the_spec_brings_it_in(role, column, where) -> None:
    asked = spec(business={"payoff": {"tp": "2 * minutes", "fp": -1, "unit": "USD"}, "decision": {"threshold": 0.5}})
    (problem,) = rule_columns(asked, [TaggedColumn(column, ("secret",), "dataset 'flights'", role)]).problems
    assert problem.where == where
    assert f"{column!r} is tagged secret in dataset 'flights', and rows would hold it as {role}" in problem.message
    assert f"data.allow_sensitive: [{{column: {column}, reason: …}}]" in problem.message


def test_what_is_allowed_carries_its_reason() -> None:
    ruling = rule_columns(spec(allow("age", reason="premiums differ by age")), [AGE])
    assert ruling.problems == ()
    assert str(ruling.allowed[0]) == "age (pii in field 'age') is held as feature: premiums differ by age"


def test_an_entry_allows_its_own_column_only() -> None:
    assert places(spec(allow("age")), AGE, KEY) == ["data.spine.entity[0]"]


def test_an_entry_that_names_no_tagged_column_is_refused_with_the_nearest_that_is() -> None:
    ruling = rule_columns(spec(allow("agee"), allow("age")), [AGE])
    (problem,) = ruling.problems
    assert problem.where == "data.allow_sensitive[0].column"
    assert problem.message.endswith("Did you mean 'age'?")


def test_sensitive_text_is_learned_only_where_its_values_may_be_shown() -> None:
    assert places(spec(allow("name")), NAME) == ["data.features"]
    assert places(spec(allow("name", show_values=True)), NAME) == []


def test_groups_of_a_sensitive_column_are_judged_only_where_its_values_may_be_shown() -> None:
    carrier = TaggedColumn("carrier", ("pii",), "entity 'carrier'", "join key")
    assert places(spec(allow("carrier")), carrier) == ["gate.guardrails[1].slice"]
    assert places(spec(allow("carrier", show_values=True)), carrier) == []
    by = {"guardrails": [{"metric": "equal_opportunity_difference", "by": "carrier", "max": 0.1}]}
    assert places(spec(allow("carrier"), gate=by), carrier) == ["gate.guardrails[0].by"]


def test_the_label_of_a_regression_is_told_by_quantiles_and_that_of_a_decision_is_not() -> None:
    label = TaggedColumn("late", ("pii",), "dataset 'flights'", "label")
    plain = spec(allow("late")).model_dump(mode="json")
    assert places(ModelSpec.model_validate(plain), label) == []
    plain["business"] |= {"payoff": {"under": -2, "over": -1, "unit": "USD"}, "decision": None}
    plain["train"] |= {"estimator": "xgboost.XGBRegressor"}
    plain["gate"]["guardrails"] = []
    assert places(ModelSpec.model_validate(plain), label) == ["data.spine.label"]


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([{"column": "age", "reason": "  "}], "data.allow_sensitive[0].reason"),
        ([{"column": "age"}], "data.allow_sensitive[0].reason"),
        ([], "data.allow_sensitive"),
        ([allow("age"), allow("age")], "data.allow_sensitive"),
        ([allow("age", show_values="yes")], "data.allow_sensitive[0].show_values"),
    ],
)
def test_an_entry_says_which_column_and_why_and_once(entries, where) -> None:
    plain = SHIPPED.model_dump(mode="json")
    plain["data"]["allow_sensitive"] = entries
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate(plain)
    assert [problem.where for problem in explain(caught.value)] == [where]


def test_a_spec_that_allows_nothing_has_the_digest_it_had() -> None:
    assert "allow_sensitive" not in spec().canonical_json()
    assert spec().digest == SHIPPED.digest != spec(allow("age")).digest


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({}, ()),
        ({"pii": "true"}, ("pii",)),
        ({"PII": "", "Secret": "yes"}, ("pii", "secret")),
        ({"pii": "False", "secret": "no"}, ()),
        ({"pii": "perhaps"}, ("pii",)),
        ({"owner": "pii"}, ()),
    ],
)
def test_a_doubtful_tag_counts(tags, found) -> None:
    assert tags_of(tags) == found


def test_what_a_dataset_declares_is_read_strictly() -> None:
    assert declared(None) == {}
    assert declared({"email": "pii", "token": "secret"}) == {"email": "pii", "token": "secret"}
    with pytest.raises(ValueError, match=r"sensitive\.email must be pii or secret, but got 'pi'"):
        declared({"email": "pi"})
    with pytest.raises(ValueError, match="must map columns to pii or secret, but got list"):
        declared(["email"])
