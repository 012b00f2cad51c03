"""Which days are due: each once, by the version that served it, and no challenger on days it has seen."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.scoring import (
    DayToScore,
    Judged,
    ScoringPlan,
    ScoringPolicy,
    Served,
    decide_scoring,
    in_shadow,
    newest_complete_day,
    serving,
)

NEW_YORK = "America/New_York"
DAY = timedelta(days=1)
POLICY = ScoringPolicy(NEW_YORK, horizon=timedelta(0), catch_up=35 * DAY, shadow=False)
SHADOWED = ScoringPolicy(NEW_YORK, horizon=timedelta(0), catch_up=35 * DAY, shadow=True)


def local(day: str, hour: int = 0) -> datetime:
    """A local hour of New York in summer time."""
    return datetime.fromisoformat(f"{day}T{hour:02d}:00:00-04:00")


def plan(policy: ScoringPolicy = POLICY, **changes: object) -> ScoringPlan:
    asked: dict[str, object] = {
        "until": local("2013-05-05"),
        "served": [Served(1, local("2013-05-01"))],
        "judged": [],
        "scored": (),
    }
    return decide_scoring(policy, **(asked | changes))  # type: ignore[arg-type]


def days(found: ScoringPlan, role: str = "champion") -> list[tuple[int, int]]:
    return [(due.day.day, due.version) for due in found.due if due.role == role]


def test_every_complete_day_that_a_champion_served_is_due_and_no_day_before() -> None:
    assert days(plan()) == [(2, 1), (3, 1), (4, 1)]


def test_what_was_scored_is_never_due_again() -> None:
    found = plan(scored={(date(2013, 5, d), "champion") for d in (2, 3, 4)})
    assert found == ScoringPlan((), "every complete day up to 2013-05-04 is scored")
    assert days(plan(scored={(date(2013, 5, 3), "champion"), (date(2013, 5, 4), "shadow")})) == [(2, 1), (4, 1)]


def test_a_day_is_its_servers_even_when_it_is_scored_after_the_next_promotion() -> None:
    served = [Served(1, local("2013-05-01")), Served(2, local("2013-05-03", 14)), Served(1, local("2013-05-04", 9))]
    found = plan(served=served, until=local("2013-05-07"))
    assert days(found) == [(2, 1), (3, 1), (4, 2), (5, 1), (6, 1)]


def test_the_day_of_a_promotion_is_its_predecessors_as_in_a_probation() -> None:
    assert serving(date(2013, 5, 1), [Served(1, local("2013-05-01"))], NEW_YORK) is None
    assert serving(date(2013, 5, 2), [Served(1, local("2013-05-01", 23))], NEW_YORK) == 1


@pytest.mark.parametrize(
    ("until", "horizon", "newest"),
    [
        (local("2013-05-05"), timedelta(0), 4),
        (local("2013-05-05") - timedelta(microseconds=1), timedelta(0), 3),
        (local("2013-05-04", 18), timedelta(hours=6), 4),
        (local("2013-05-04", 17), timedelta(hours=6), 3),
        (local("2013-05-05"), 2 * DAY, 6),
    ],
)
def test_a_day_is_complete_at_its_local_end_less_the_horizon(until: datetime, horizon: timedelta, newest: int) -> None:
    assert newest_complete_day(until, NEW_YORK, horizon) == date(2013, 5, newest)


def test_days_of_23_and_25_hours_end_at_their_local_midnight() -> None:
    spring, autumn = datetime(2013, 3, 11, 4, tzinfo=UTC), datetime(2013, 11, 4, 5, tzinfo=UTC)
    for end in (spring, autumn):
        assert newest_complete_day(end, NEW_YORK, timedelta(0)) == (end - DAY).date()
        assert newest_complete_day(end - timedelta(seconds=1), NEW_YORK, timedelta(0)) == (end - 2 * DAY).date()


def test_days_older_than_the_spec_looks_back_are_scored_only_when_asked_for() -> None:
    week = ScoringPolicy(NEW_YORK, timedelta(0), 7 * DAY, shadow=False)
    june = {"until": local("2013-06-01")}
    assert [day for day, _ in days(plan(week, **june))] == list(range(25, 32))
    asked = plan(week, **june, asked=(date(2013, 5, 1), date(2013, 5, 4)))
    assert days(asked) == [(2, 1), (3, 1), (4, 1)]


def test_whoever_asks_for_days_that_are_not_complete_gets_those_that_are() -> None:
    assert days(plan(asked=(date(2013, 5, 4), date.max))) == [(4, 1)]
    assert plan(asked=(date(2013, 5, 5), date(2013, 5, 9))).reason == (
        "2013-05-05 is not complete: the data reaches up to 2013-05-04"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"until": None}, "nothing has told yet how far the data is complete"),
        ({"served": []}, "no champion serves yet"),
        ({"until": local("2013-05-02")}, "no champion served a whole day from 2013-03-28 to 2013-05-01"),
    ],
)
def test_where_nothing_is_due_it_is_said_why(changes: dict[str, object], reason: str) -> None:
    assert plan(**changes) == ScoringPlan((), reason)


# -- shadow ------------------------------------------------------------------------------------------------------------


def test_the_newest_judged_challenger_is_scored_beside_from_the_first_day_it_has_not_seen() -> None:
    judged = [Judged(3, local("2013-05-04"), promoted=False), Judged(2, local("2013-05-03"), promoted=False)]
    found = plan(SHADOWED, judged=judged)
    assert found.due == (
        DayToScore(date(2013, 5, 2), "champion", 1),
        DayToScore(date(2013, 5, 3), "champion", 1),
        DayToScore(date(2013, 5, 3), "shadow", 2),
        DayToScore(date(2013, 5, 4), "champion", 1),
        DayToScore(date(2013, 5, 4), "shadow", 3),
    )
    assert days(plan(POLICY, judged=judged), "shadow") == []


def test_a_promoted_challenger_has_no_shadow_and_the_one_before_it_gets_none_back() -> None:
    judged = [Judged(3, local("2013-05-02"), promoted=True), Judged(2, local("2013-05-01"), promoted=False)]
    assert in_shadow(date(2013, 5, 4), 3, judged, NEW_YORK) is None
    assert in_shadow(date(2013, 5, 2), 1, judged, NEW_YORK) is None
    assert in_shadow(date(2013, 5, 1), 1, judged, NEW_YORK) == 2


def test_a_recalibrated_or_looked_at_candidate_that_serves_anyway_is_no_shadow_of_itself() -> None:
    assert in_shadow(date(2013, 5, 4), 2, [Judged(2, local("2013-05-01"), promoted=False)], NEW_YORK) is None


@settings(max_examples=200)
@given(
    cuts=st.lists(st.integers(min_value=1, max_value=24 * 20), max_size=6),
    moves=st.lists(st.integers(min_value=0, max_value=24 * 20), min_size=1, max_size=4).map(sorted),
)
def test_in_whatever_portions_a_run_comes_the_same_days_are_scored_by_the_same_versions(
    cuts: list[int], moves: list[int]
) -> None:
    """A run sees only the champions of its own time: what it scores is what one run at the end would."""
    begin = local("2013-05-01")
    served = [Served(i + 1, begin + timedelta(hours=hour)) for i, hour in enumerate(moves)]
    judged = [Judged(90 + i, each.since, promoted=False) for i, each in enumerate(served)][::-1]
    end = begin + timedelta(hours=24 * 20)
    whole = plan(SHADOWED, until=end, served=served, judged=judged).due
    scored: dict[tuple[date, str], int] = {}
    for cut in [*sorted(begin + timedelta(hours=hour) for hour in cuts), end]:
        known = [each for each in served if each.since <= cut]
        seen = [each for each in judged if each.as_of <= cut]
        for due in plan(SHADOWED, until=cut, served=known, judged=seen, scored=set(scored)).due:
            scored[due.day, due.role] = due.version
    assert scored == {(due.day, due.role): due.version for due in whole}
