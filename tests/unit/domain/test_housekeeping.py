"""Rows go by whole months: none before its month is over and older than the limit, and each month is decided once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ratchet.adapters.specs import load_spec
from ratchet.domain.housekeeping import DEPLOYMENT, Month, RowRule, RowRules, month_to_remove, rules_of
from ratchet.domain.spec import ModelSpec, Retention, explain

DAY = timedelta(days=1)
RULE = RowRule("events", 90 * DAY, "retention.events: 90d")


@pytest.mark.parametrize(
    ("now", "month"),
    [
        ("2013-06-29", "2013-02"),
        ("2013-06-30", "2013-03"),
        ("2013-07-28", "2013-03"),
        ("2013-07-30", "2013-04"),
        ("2014-03-31", "2013-11"),
        ("2014-04-01", "2013-12"),
    ],
)
def test_a_month_may_go_once_its_last_moment_is_older_than_the_limit(now: str, month: str) -> None:
    found = month_to_remove(RULE, datetime.fromisoformat(f"{now}T00:00Z"), None)
    assert found is not None
    assert found.name == month


def test_a_month_is_decided_once_and_never_after_a_later_one() -> None:
    now = datetime(2013, 7, 1, tzinfo=UTC)
    assert month_to_remove(RULE, now, "2013-02") == Month(2013, 3)
    assert month_to_remove(RULE, now, "2013-03") is None
    assert month_to_remove(RULE, now, "2013-11") is None, "the limit was made longer meanwhile"


@given(
    st.integers(0, 36_000).map(lambda days: datetime(2000, 1, 1, 7, tzinfo=UTC) + days * DAY),
    st.integers(1, 1_000).map(lambda days: days * DAY),
)
def test_nothing_younger_than_the_limit_goes_and_nothing_older_by_a_month_stays(
    now: datetime, limit: timedelta
) -> None:
    month = month_to_remove(RowRule("events", limit, ""), now, None)
    assert month is not None
    assert now - limit - 31 * DAY < month.end <= now - limit
    assert Month.named(month.name) == month
    assert Month.of(month.start) == month == Month.of(month.end - timedelta(microseconds=1))


def test_a_deployment_that_sets_nothing_has_no_rule() -> None:
    assert RowRules().rules() == ()
    (one,) = RowRules(dead_letters=30 * DAY).rules()
    assert (one.kind, one.said, one.by_business_time) == ("dead_letters", "RATCHET_RETENTION_DEAD_LETTERS=30d", False)
    kinds = {rule.kind: rule.said for rule in RowRules(rows=60 * DAY).rules()}
    assert kinds == dict.fromkeys(("records", "outbox", "notices", "self_tests"), "RATCHET_RETENTION_ROWS=60d")


def test_no_model_can_be_called_as_the_deployment_is(spec_document) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate(spec_document | {"model": DEPLOYMENT})


def test_a_specs_rules_are_those_it_names(spec_document) -> None:
    assert rules_of(ModelSpec.model_validate(spec_document)) == ()
    asked = {"retention": {"events": "90d", "dead_letters": "45d", "snapshots": 3}}
    rules = rules_of(ModelSpec.model_validate(spec_document | asked))
    assert [(rule.kind, rule.limit / DAY, rule.said) for rule in rules] == [
        ("events", 90, "retention.events: 90d"),
        ("dead_letters", 45, "retention.dead_letters: 45d"),
    ]
    assert rules[0].by_business_time


def test_an_event_must_be_known_for_as_long_as_it_counts(spec_document) -> None:
    document = spec_document | {"retention": {"events": "29d"}}
    document["retrain"] = document["retrain"] | {"max_event_age": "30d"}
    with pytest.raises(ValidationError) as refused:
        ModelSpec.model_validate(document)
    (problem,) = map(str, explain(refused.value))
    assert problem.startswith("retention.events: must be retrain.max_event_age, 30d, or longer")
    assert problem.endswith("but got 29d")
    document["retention"] = {"events": "30d"}
    assert ModelSpec.model_validate(document).retention is not None


def test_a_dead_letter_is_kept_for_as_long_as_kafka_may_deliver_it_again() -> None:
    with pytest.raises(ValidationError, match=r"must be 30d or longer.*but got 29d"):
        Retention.model_validate({"dead_letters": "29d"})
    assert Retention.model_validate({"dead_letters": "30d"}).dead_letters == 30 * DAY


@pytest.fixture
def spec_document() -> dict:
    return load_spec(Path(__file__).parents[3] / "include" / "models" / "flight_delay").model_dump(mode="json")
