"""What an audit finds of a model: one test per rule, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ratchet.adapters.specs import load_spec
from ratchet.domain.findings import (
    CHECKS,
    Champion,
    Consent,
    Facts,
    Finding,
    Proof,
    SelfTested,
    Severity,
    Spent,
    Used,
    Watched,
    exit_code,
    findings,
    worst,
)
from ratchet.domain.sensitive import AllowedColumn
from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec, Problem

SHIPPED = load_spec(Path(__file__).parents[3] / "include" / "models" / "flight_delay")
NOW = datetime(2013, 6, 1, 12, tzinfo=UTC)
WALL = datetime(2026, 11, 26, tzinfo=UTC)


def days(n: float) -> timedelta:
    return timedelta(days=n)


def spec(**sections: Any) -> ModelSpec:
    """The shipped spec with an owner who is reached, without its monitor, and these sections changed."""
    plain = SHIPPED.model_dump(mode="json") | {"monitor": None}
    plain["owner"] = {"team": "ops", "email": "ops@airline.aero", "escalation": "head@airline.aero"}
    plain["retrain"]["budget"]["core_hours_per_month"] = 50.0
    plain["gate"]["approval"] = "always"
    for section, values in sections.items():
        plain[section] |= values
    return ModelSpec.model_validate(plain)


GOOD = Facts(
    spec=spec(),
    business=NOW,
    wall=WALL,
    judged=3,
    champion=Champion(7, NOW - days(20), Proof(WALL - days(3), same=True)),
    heard={"drift": NOW - days(2), "data": NOW - days(1)},
    complete={"flights": NOW - days(1), "weather": NOW - days(1)},
    label_completeness=0.999,
    self_test=SelfTested(WALL - days(0.5), passed=True, said="all is well", held_by=None),
    spent=Spent(1, 4, 10.0, 50.0),
    used=NOW - days(3),
)


def of(check: str, facts: Facts) -> list[tuple[Severity, str]]:
    """What one check says of the facts; a remedy stands beside all that is not in order."""
    found = [finding for finding in findings(facts) if finding.check == check]
    assert found
    assert all(finding.remedy or finding.severity in {"ok", "info"} for finding in found)
    return [(finding.severity, finding.found) for finding in found]


def test_every_check_answers_and_of_a_good_model_none_is_grave() -> None:
    found = findings(GOOD)
    assert {finding.check for finding in found} == set(CHECKS)
    assert {finding.check: finding.severity for finding in found if finding.severity != "ok"} == {"access": "info"}
    assert {finding.model for finding in found} == {"flight_delay"}


@pytest.mark.parametrize(
    ("owner", "severity", "said"),
    [
        ({"escalation": None}, "warning", "nobody to turn to next"),
        ({"escalation": "OPS@airline.aero"}, "warning", "escalates to itself"),
        ({"email": "ops@example.com"}, "info", "ops@example.com is a placeholder"),
        ({"escalation": "head@hq.airline.test"}, "info", "head@hq.airline.test is a placeholder"),
    ],
)
def test_an_owner_is_reached_and_somebody_stands_behind(owner, severity, said) -> None:
    found = of("owner", replace(GOOD, spec=spec(owner=owner)))
    assert [s for s, words in found if said in words] == [severity]


def test_an_address_that_ends_like_a_placeholder_is_none() -> None:
    assert of("owner", replace(GOOD, spec=spec(owner={"email": "a@latest.com"})))[0][0] == "ok"


@pytest.mark.parametrize(
    ("due", "severity"),
    [
        (date(2013, 7, 2), "ok"),
        (date(2013, 7, 1), "info"),
        (date(2013, 6, 1), "info"),
        (date(2013, 5, 31), "warning"),
        (date(2013, 3, 3), "warning"),
        (date(2013, 3, 2), "critical"),
    ],
)
def test_a_review_is_due_by_the_business_clock(due, severity) -> None:
    changed = spec(business={"review_by": due.isoformat()})
    assert [s for s, _ in of("review", replace(GOOD, spec=changed))] == [severity]


def test_the_day_of_a_review_is_the_business_local_one() -> None:
    changed = spec(business={"review_by": "2013-05-31"})
    late_evening_in_new_york = datetime(2013, 6, 1, 2, tzinfo=UTC)
    assert of("review", replace(GOOD, spec=changed, business=late_evening_in_new_york))[0][0] == "info"


@pytest.mark.parametrize(
    ("on", "schedule", "severity"),
    [
        ({}, None, "critical"),
        ({}, "0 4 * * 1", "info"),
        ({"drift": {}, "performance": {}}, None, "warning"),
        ({"drift": {}, "performance": {}}, "0 4 * * 1", "ok"),
        ({"data": {"datasets": ["flights"]}}, None, "ok"),
    ],
)
def test_something_beside_people_starts_a_retrain(on, schedule, severity) -> None:
    changed = spec(retrain={"on": on, "schedule": schedule, "urgent": None})
    assert of("starts", replace(GOOD, spec=changed))[0][0] == severity


@pytest.mark.parametrize(
    ("slept", "left", "severity"),
    [(0, 3, "info"), (14, 1, "info"), (14.5, 1, "warning"), (20, 0, "ok"), (20, -1, "ok")],
)
def test_a_model_that_sleeps_is_told_and_one_that_sleeps_for_long_is_warned_of(slept, left, severity) -> None:
    snooze = Snooze(NOW - days(slept), NOW + days(left), "ada", "labels are being mended")
    ((found, said),) = of("snooze", replace(GOOD, snooze=snooze))
    assert found == severity
    assert ("by ada: labels are being mended" in said) == (severity != "ok")
    assert ("slept for 14 days (limit 14 days)" in said) == (severity == "warning")


@pytest.mark.parametrize(
    ("heard", "severity"),
    [
        ({}, "warning"),
        ({"data": NOW}, "warning"),
        ({"drift": NOW - days(36)}, "warning"),
        ({"drift": NOW - days(35)}, "ok"),
        ({"drift": NOW - days(99), "performance": NOW}, "ok"),
    ],
)
def test_a_monitor_is_alive_while_it_speaks_of_drift_or_performance(heard, severity) -> None:
    assert [s for s, _ in of("monitor", replace(GOOD, heard=heard))] == [severity]


@pytest.mark.parametrize(
    ("watched", "every", "severity"),
    [
        (None, "7d", "warning"),
        (Watched(NOW - days(35), None), "7d", "ok"),
        (Watched(NOW - days(36), None), "7d", "warning"),
        (Watched(NOW - days(36), None), "28d", "ok"),
        (Watched(NOW, "half of the rows are missing"), "7d", "critical"),
    ],
)
def test_its_own_monitor_is_known_by_the_windows_it_looked_at_whatever_others_say(watched, every, severity) -> None:
    changed = ModelSpec.model_validate(spec().model_dump(mode="json") | {"monitor": {"window": "28d", "every": every}})
    facts = replace(GOOD, spec=changed, watched=watched, heard={"drift": NOW})
    assert [s for s, _ in of("monitor", facts)] == [severity]


def test_a_model_that_listens_to_no_monitor_is_told() -> None:
    changed = spec(retrain={"on": {"data": {"datasets": ["flights"]}}, "urgent": None})
    assert of("monitor", replace(GOOD, spec=changed)) == [("warning", "no event of a monitor is listened to")]


def test_data_that_stopped_and_data_nobody_told_of() -> None:
    facts = replace(GOOD, complete={"flights": NOW - days(40), "weather": None})
    flights, weather = of("data", facts)
    assert flights == ("warning", "flights is complete up to 40 days ago only (limit 35 days)")
    assert weather == ("critical", "nothing has told how far weather is complete: no run can start")


@pytest.mark.parametrize(("share", "severity"), [(0.99, "ok"), (0.9899, "critical"), (None, "info")])
def test_labels_are_as_complete_as_the_spec_asks(share, severity) -> None:
    assert [s for s, _ in of("labels", replace(GOOD, label_completeness=share))] == [severity]


@pytest.mark.parametrize(("age", "severity"), [(180, "ok"), (181, "warning")])
def test_a_champion_is_old_when_it_knows_none_of_what_a_challenger_would_learn(age, severity) -> None:
    facts = replace(GOOD, champion=Champion(7, NOW - days(age), None))
    assert [s for s, _ in of("champion", facts)] == [severity]


def test_without_a_champion_nothing_serves() -> None:
    facts = replace(GOOD, champion=None)
    assert of("champion", facts)[0][0] == "warning"
    assert of("reproducible", facts) == [("ok", "no champion to reproduce")]


@pytest.mark.parametrize(
    ("proof", "severity"),
    [
        (None, "warning"),
        (Proof(WALL, same=False), "critical"),
        (Proof(WALL - days(181), same=True), "info"),
        (Proof(WALL - days(180), same=True), "ok"),
    ],
)
def test_the_serving_version_was_made_again(proof, severity) -> None:
    facts = replace(GOOD, champion=Champion(7, NOW, proof))
    assert [s for s, _ in of("reproducible", facts)] == [severity]


@pytest.mark.parametrize(
    ("tested", "judged", "severity"),
    [
        (None, 3, "warning"),
        (None, 0, "info"),
        (SelfTested(WALL - days(3), passed=True, said="", held_by=None), 3, "warning"),
        (SelfTested(WALL, passed=None, said="3 weeks", held_by=None), 3, "info"),
        (SelfTested(WALL, passed=False, said="bad", held_by="self-test of …"), 3, "critical"),
        (SelfTested(WALL, passed=None, said="few", held_by="the self-test before"), 3, "critical"),
    ],
)
def test_the_gate_has_tested_itself_lately_and_holds_nothing(tested, judged, severity) -> None:
    assert [s for s, _ in of("gate", replace(GOOD, self_test=tested, judged=judged))] == [severity]


def test_shadow_mode_is_told() -> None:
    assert of("gate", replace(GOOD, spec=spec(gate={"shadow": True})))[1][0] == "info"


@pytest.mark.parametrize(
    ("hours", "allowed", "severity"),
    [(39.9, 50.0, "ok"), (40.0, 50.0, "info"), (50.0, 50.0, "warning"), (None, None, "info")],
)
def test_a_budget_that_is_used_up_is_told_before_it_is(hours, allowed, severity) -> None:
    assert [s for s, _ in of("budget", replace(GOOD, spent=Spent(1, 4, hours, allowed)))] == [severity]


def test_who_agreed_to_what_he_had_started_is_told() -> None:
    consents = [
        Consent("flight_delay.4", "Ann", "ann"),
        Consent("flight_delay.5", "bob", "ann"),
        Consent("x", "a", None),
    ]
    found = of("access", replace(GOOD, consents=consents))
    assert [words for severity, words in found if severity == "warning"] == [
        "Ann started flight_delay.4 and agreed to its promotion"
    ]


def test_a_gate_that_asks_nobody_is_told() -> None:
    found = of("access", replace(GOOD, spec=spec(gate={"approval": "never"})))
    assert ("info", "what the gate passes is promoted and nobody is asked") in found
    assert ("ok", "people are asked always") in of("access", GOOD)


def test_sensitive_columns_are_told_with_their_reason_and_what_is_not_allowed_is_critical() -> None:
    held = AllowedColumn("age", ("pii",), "field 'age'", "feature", "premiums differ", show_values=False)
    assert of("sensitive", replace(GOOD, sensitive=[held])) == [("info", str(held))]
    problem = Problem(("data", "features"), "'name' is tagged pii")
    (found,) = of("sensitive", replace(GOOD, sensitive_problems=[problem]))
    assert found == ("critical", "data.features: 'name' is tagged pii")
    assert of("sensitive", replace(GOOD, sensitive_unknown="no repository"))[0][0] == "warning"


@pytest.mark.parametrize(
    ("severities", "gravest", "plain", "strict"),
    [
        ([], "ok", 0, 0),
        (["ok", "info"], "info", 0, 0),
        (["info", "warning", "ok"], "warning", 0, 1),
        (["warning", "critical"], "critical", 2, 2),
    ],
)
def test_exit_codes_are_clean_strict_warnings_and_critical(severities, gravest, plain, strict) -> None:
    found = [Finding("m", "owner", severity, "said") for severity in severities]
    assert (worst(found), exit_code(found, strict=False), exit_code(found, strict=True)) == (gravest, plain, strict)


def test_a_model_that_nobody_uses_or_whose_folder_is_gone_is_told() -> None:
    assert of("use", GOOD) == [("ok", "its last attempt or scored day was 3 days ago")]
    idle = replace(GOOD, used=NOW - days(91))
    assert of("use", idle) == [("warning", "idle: its last attempt or scored day was 91 days ago (limit 90 days)")]
    assert of("use", replace(GOOD, used=None)) == [("info", "no attempt was ever made and no day scored")]
    (found,) = of("use", replace(GOOD, has_folder=False))
    assert found[0] == "warning"
    assert "folder of its spec is gone" in found[1]


def test_every_limit_of_the_budget_is_told_and_the_fullest_one_counts() -> None:
    more = (Used(1.0, 2.0, "core hours today"), Used(9.0, 10.0, "EUR this month"))
    (found,) = of("budget", replace(GOOD, spent=Spent(1, 4, 10.0, 50.0, more)))
    assert found == (
        "info",
        "1 of 4 runs today; 10.00 of 50 core hours this month; 1.00 of 2 core hours today; 9.00 of 10 EUR this month",
    )
    (spent,) = of("budget", replace(GOOD, spent=Spent(1, 4, None, None, (Used(2.5, 2.0, "core hours today"),))))
    assert spent == ("warning", "1 of 4 runs today; 2.50 of 2 core hours today: events wait for the next day")
