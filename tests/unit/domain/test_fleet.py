"""Whose turn it is when more models are due than may be at work."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.fleet import (
    INCIDENT_WINDOW,
    AtWork,
    Due,
    FleetLimits,
    Turn,
    decide_fleet,
    shrunk_trials,
)

SEEDED = settings(deadline=None, derandomize=True)
NOON = datetime(2013, 6, 16, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def due(model: str, priority: int = 5, minutes: int = 0, **more: object) -> Due:
    return Due(model, priority, NOON + minutes * MINUTE, **more)  # type: ignore[arg-type]


def going(turns: tuple[Turn, ...]) -> list[str]:
    return [turn.model for turn in turns if turn.go]


def test_without_limits_everybody_goes() -> None:
    assert going(decide_fleet([due("b"), due("a")], [AtWork("c")], FleetLimits())) == ["a", "b"]


def test_the_order_is_priority_then_time_then_name() -> None:
    turns = decide_fleet([due("d", 3), due("c", 5, 1), due("b", 5, 0), due("a", 5, 1)], [], FleetLimits(4))
    assert [turn.model for turn in turns] == ["b", "a", "c", "d"]


def test_a_full_fleet_says_who_goes_first() -> None:
    turns = decide_fleet([due("a", 7), due("b", 7), due("c", 5)], [AtWork("x"), AtWork("y")], FleetLimits(3))
    assert going(turns) == ["a"]
    assert turns[2].reason == "fleet: all 3 places are taken; goes when an attempt ends, by priority 5, after a, b"


def test_models_of_one_group_share_the_limit_of_an_incident_and_others_pass() -> None:
    group = [due(name, group="weather") for name in "abc"]
    turns = decide_fleet([*group, due("z", 0)], [], FleetLimits(None, per_incident=2))
    assert going(turns) == ["a", "b", "z"]
    assert turns[2].reason == (
        "incident: all 2 places of group weather since 2013-06-16T12:00:00+00:00 are taken; "
        "goes when an attempt ends, by priority 5, after a, b"
    )


def test_events_of_one_group_that_lie_far_apart_are_two_incidents() -> None:
    later = Due("b", 5, NOON + INCIDENT_WINDOW + MINUTE, group="weather")
    near = Due("c", 5, NOON + INCIDENT_WINDOW, group="weather")
    turns = decide_fleet([due("a", group="weather"), later, near], [], FleetLimits(None, per_incident=1))
    assert going(turns) == ["a", "b"]


def test_a_named_incident_counts_across_groups_and_whenever_it_was() -> None:
    turns = decide_fleet(
        [due("a", incident="feed down", group="x"), due("b", minutes=9_000, incident="feed down", group="y")],
        [],
        FleetLimits(None, per_incident=1),
    )
    assert going(turns) == ["a"]


def test_an_attempt_at_work_keeps_the_name_of_its_incident() -> None:
    (first,) = decide_fleet([due("a", group="weather")], [], FleetLimits(None, 1))
    working = AtWork("a", first.incident)
    (second,) = decide_fleet([due("b", minutes=-30, group="weather")], [working], FleetLimits(None, 1))
    assert (second.incident, second.go) == (first.incident, False)


def test_a_model_that_does_not_answer_its_bell_keeps_nobody_waiting() -> None:
    turns = decide_fleet([due("paused", 9, silent=True), due("b", 1)], [], FleetLimits(1))
    assert going(turns) == ["b"]


def test_a_crowd_leaves_each_its_share_of_the_trials_and_at_least_a_quarter() -> None:
    turns = decide_fleet([due(name) for name in "abcdef"], [], FleetLimits(3))
    assert {turn.crowd for turn in turns} == {(3, 6)}
    assert [shrunk_trials(12, crowd) for crowd in ((3, 6), (3, 4), (1, 30))] == [6, 9, 3]
    assert shrunk_trials(1, (1, 30)) == 1


def test_three_models_for_three_places_are_no_crowd() -> None:
    assert {turn.crowd for turn in decide_fleet([due("a"), due("b")], [AtWork("c")], FleetLimits(3))} == {None}


dues = st.lists(
    st.builds(
        due,
        st.sampled_from("abcdefghij"),
        st.integers(0, 2),
        st.integers(-500, 500),
        group=st.sampled_from([None, "x", "y"]),
        incident=st.sampled_from([None, None, "feed"]),
        silent=st.sampled_from([False, False, False, True]),
    ),
    max_size=8,
    unique_by=lambda each: each.model,
)
fleet_limits = st.builds(FleetLimits, st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))


def lived(waiting: list[Due], limits: FleetLimits, busy: list[Due]) -> tuple[tuple[Turn, ...], list[AtWork]]:
    """The turns of those who wait, where those at work were let go by the same rules."""
    let_go = [turn for turn in decide_fleet(busy, [], limits) if turn.go]
    at_work = [AtWork(turn.model.upper(), turn.incident) for turn in let_go]
    return decide_fleet(waiting, at_work, limits), at_work


@SEEDED
@given(dues, fleet_limits, dues)
def test_no_limit_is_ever_exceeded(waiting: list[Due], limits: FleetLimits, busy: list[Due]) -> None:
    turns, at_work = lived(waiting, limits, busy)
    named = [each.incident for each in at_work] + [turn.incident for turn in turns if turn.go]
    assert limits.attempts is None or len(named) <= limits.attempts
    for name in {*named} - {None}:
        assert limits.per_incident is None or named.count(name) <= limits.per_incident


@SEEDED
@given(dues, fleet_limits, dues)
def test_nobody_is_passed_by_one_of_its_incident_or_when_the_fleet_is_full(
    waiting: list[Due], limits: FleetLimits, busy: list[Due]
) -> None:
    turns, _ = lived(waiting, limits, busy)
    for place, turn in enumerate(turns):
        behind = [other for other in turns[place + 1 :] if other.go]
        if turn.reason.startswith("fleet"):
            assert behind == []
        if turn.reason.startswith("incident"):
            assert turn.incident not in {other.incident for other in behind}


@SEEDED
@given(dues, fleet_limits, dues, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(
    waiting: list[Due], limits: FleetLimits, busy: list[Due], shuffler: random.Random
) -> None:
    turns, at_work = lived(waiting, limits, busy)
    shuffler.shuffle(waiting)
    shuffler.shuffle(at_work)
    assert decide_fleet(waiting, at_work, limits) == turns


@SEEDED
@given(dues, fleet_limits)
def test_nobody_starves_when_attempts_end(waiting: list[Due], limits: FleetLimits) -> None:
    """Round by round everybody who may go works and ends; each round the first in the order is among them."""
    left = list(waiting)
    while left:
        turns = decide_fleet(left, [], limits)
        assert turns[0].go
        gone = set(going(turns))
        left = [each for each in left if each.model not in gone]


@SEEDED
@given(st.integers(1, 100), st.integers(1, 10), st.integers(1, 100))
def test_shrunk_trials_are_a_quarter_to_all(trials: int, places: int, more: int) -> None:
    assert trials <= 4 * shrunk_trials(trials, (places, places + more)) <= 4 * trials
