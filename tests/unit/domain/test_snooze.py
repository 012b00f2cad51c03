"""When a snooze ends, and whose sleep it goes on with."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ratchet.domain.snooze import LONGEST, Snooze, end_of_snooze
from ratchet.errors import Refused

NOW = datetime(2013, 6, 16, 4, tzinfo=UTC)
DAY = timedelta(days=1)
SNOOZE = Snooze(NOW, NOW + 2 * DAY, "ada", "labels are being mended")


def test_it_holds_until_its_end_and_not_at_it() -> None:
    assert SNOOZE.holds(NOW)
    assert SNOOZE.holds(NOW + 2 * DAY - timedelta(microseconds=1))
    assert not SNOOZE.holds(NOW + 2 * DAY)


def test_its_end_is_said_by_length_or_by_moment() -> None:
    assert end_of_snooze(NOW, length=3 * DAY) == NOW + 3 * DAY
    assert end_of_snooze(NOW, until=NOW + 3 * DAY) == NOW + 3 * DAY
    assert end_of_snooze(NOW, length=LONGEST) == NOW + LONGEST


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({}, "one of the two"),
        ({"length": DAY, "until": NOW + DAY}, "one of the two"),
        (
            {"until": NOW},
            "later than now, which is 2013-06-16T04:00:00Z in business time, but got 2013-06-16T04:00:00Z",
        ),
        ({"length": timedelta(0)}, "later than now"),
        ({"length": LONGEST + timedelta(seconds=1)}, "30d at most, but got 30d1s. Snooze it again .* retire the model"),
        ({"until": NOW + 40 * DAY}, "30d at most, but got 40d"),
    ],
)
def test_an_end_that_makes_no_sense_or_is_far_is_refused_with_the_rule(asked: dict, rule: str) -> None:
    with pytest.raises(Refused, match=rule):
        end_of_snooze(NOW, **asked)


def test_a_snooze_on_a_snooze_goes_on_with_its_sleep_and_one_after_it_begins_anew() -> None:
    longer = replace(SNOOZE, since=NOW + DAY, until=NOW + 9 * DAY, actor="bo", reason="still")
    assert longer.after(SNOOZE) == replace(longer, since=NOW)
    late = replace(longer, since=SNOOZE.until)
    assert late.after(SNOOZE) == late
    assert late.after(None) == late
