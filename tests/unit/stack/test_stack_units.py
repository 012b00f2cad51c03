"""The supervisor's rules, without a process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.stack import units
from ratchet.stack.units import Phase, Unit


def unit(name: str, *after: str, **more: object) -> Unit:
    return Unit(name, ("true",), after=after, **more)  # type: ignore[arg-type]


PLAN = (unit("database"), unit("broker"), unit("migrate", "database", kind="step"), unit("server", "migrate", "broker"))


def test_a_plan_survives_its_file() -> None:
    assert units.from_json(units.to_json(PLAN)) == PLAN


def test_units_start_after_what_they_need() -> None:
    assert [[each.name for each in wave] for wave in units.in_order(PLAN)] == [
        ["database", "broker"],
        ["migrate"],
        ["server"],
    ]


def test_units_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wait for each other: \['a', 'b'\]"):
        units.in_order([unit("a", "b"), unit("b", "a")])


def test_an_unknown_need_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unit a: after must name units of the plan, but got \['nobody'\]"):
        units.in_order([unit("a", "nobody")])


def test_asking_for_a_unit_brings_what_it_needs_and_nothing_else() -> None:
    assert [each.name for each in units.closure(PLAN, ["migrate"])] == ["database", "migrate"]


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(phase, phase in {Phase.READY, Phase.DONE}) for phase in Phase],
)
def test_only_a_ready_service_or_a_done_step_lets_the_next_start(phase: Phase, expected: bool) -> None:
    assert units.may_start(unit("next", "first"), {"first": phase}) is expected


@given(st.integers(min_value=1, max_value=10_000))
def test_the_pause_grows_and_is_bounded(exits: int) -> None:
    pause = units.backoff_seconds(exits)
    assert units.BACKOFF_FIRST_SECONDS <= pause <= units.BACKOFF_MAX_SECONDS
    assert units.backoff_seconds(exits + 1) >= pause


@given(st.floats(min_value=0, max_value=1e6), st.integers(min_value=0, max_value=1000))
def test_a_service_that_was_ready_is_always_started_again(ran: float, exits: int) -> None:
    assert units.after_exit(was_ready=True, ran_seconds=ran, exits_before=exits)[0] is Phase.BACKING_OFF


def test_a_service_that_never_gets_ready_is_given_up() -> None:
    exits, phases = 0, []
    for _ in range(units.MAX_EARLY_EXITS):
        phase, exits, _pause = units.after_exit(was_ready=False, ran_seconds=0.1, exits_before=exits)
        phases.append(phase)
    assert phases == [Phase.BACKING_OFF] * (units.MAX_EARLY_EXITS - 1) + [Phase.FAILED]


def test_a_long_run_clears_the_count_of_exits() -> None:
    assert units.after_exit(was_ready=True, ran_seconds=units.STABLE_SECONDS, exits_before=7)[1:] == (1, 0.5)


def test_another_environment_is_another_process() -> None:
    assert unit("a", env={"PORT": "1"}).digest() != unit("a", env={"PORT": "2"}).digest()
