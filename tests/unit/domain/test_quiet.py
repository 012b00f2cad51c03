"""When it is quiet, by the clock on the wall of the business."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.quiet import QuietWindow, leaves_time_awake, quiet_until

NEW_YORK = ZoneInfo("America/New_York")
NIGHT = QuietWindow.parse("22:00-06:00")
WEEKEND = QuietWindow.parse("sat,sun 00:00-24:00")
LOCAL = "%a %H:%M"


def at(*when: int) -> datetime:
    return datetime(*when, tzinfo=NEW_YORK)  # type: ignore[misc, arg-type]


def ends(window: str, moment: datetime) -> str | None:
    end = quiet_until([QuietWindow.parse(window)], moment, NEW_YORK)
    return end.astimezone(NEW_YORK).strftime(LOCAL) if end else None


def test_a_window_over_midnight_is_quiet_on_both_sides_of_it() -> None:
    assert ends("22:00-06:00", at(2013, 6, 14, 23)) == "Sat 06:00"
    assert ends("22:00-06:00", at(2013, 6, 15, 5, 59)) == "Sat 06:00"
    assert ends("22:00-06:00", at(2013, 6, 15, 6)) is None
    assert ends("22:00-06:00", at(2013, 6, 14, 21, 59)) is None


def test_days_are_those_on_which_the_window_begins() -> None:
    assert ends("fri 22:00-06:00", at(2013, 6, 15, 5)) == "Sat 06:00"
    assert ends("fri 22:00-06:00", at(2013, 6, 14, 5)) is None
    assert ends("sun-mon 08:00-09:00", at(2013, 6, 17, 8)) == "Mon 09:00"


def test_windows_that_touch_are_one_quiet() -> None:
    end = quiet_until([NIGHT, WEEKEND], at(2013, 6, 14, 23), NEW_YORK)
    assert end == at(2013, 6, 17, 6)


def test_the_night_the_clock_goes_forward_is_an_hour_shorter_and_the_one_it_goes_back_longer() -> None:
    for day, hours in ((at(2013, 3, 9, 22), 7), (at(2013, 11, 2, 22), 9), (at(2013, 6, 1, 22), 8)):
        end = quiet_until([NIGHT], day, NEW_YORK)
        assert end is not None
        assert end - day.astimezone(UTC) == timedelta(hours=hours)


def test_an_hour_that_comes_twice_is_quiet_twice() -> None:
    first = datetime(2013, 11, 3, 5, 15, tzinfo=UTC)  # 01:15, daylight time
    assert quiet_until([QuietWindow.parse("01:00-01:30")], first, NEW_YORK) == datetime(2013, 11, 3, 6, 30, tzinfo=UTC)


def test_a_boundary_that_is_skipped_counts_from_the_offset_before() -> None:
    asleep = datetime(2013, 3, 10, 7, 15, tzinfo=UTC)  # 03:15, and 02:15 if the clock had stayed
    assert ends("22:00-02:30", asleep) == "Sun 03:30"


@pytest.mark.parametrize(
    "text", ["22-06", "22:00-22:00", "24:00-06:00", "22:60-06:00", "22:00-24:01", "sa 10:00-11:00", "mon- 10:00-11:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quiet window"):
        QuietWindow.parse(text)


windows = st.builds(
    lambda days, start, length: QuietWindow(days, start, start + length),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1440),
)


@settings(deadline=None, derandomize=True)
@given(windows)
def test_a_window_reads_back_as_it_is_written(window: QuietWindow) -> None:
    assert QuietWindow.parse(str(window)) == QuietWindow(window.days, window.start, window.end)


@settings(deadline=None, derandomize=True)
@given(st.lists(windows, max_size=3).filter(leaves_time_awake), st.integers(0, 366 * 24 * 4))
def test_quiet_ends_when_it_is_not_quiet_and_not_before(quiet: list[QuietWindow], quarters: int) -> None:
    moment = datetime(2013, 1, 1, tzinfo=UTC) + quarters * timedelta(minutes=15)
    end = quiet_until(quiet, moment, NEW_YORK)
    if end is not None:
        assert end > moment
        assert quiet_until(quiet, end, NEW_YORK) is None
        assert quiet_until(quiet, end - timedelta(microseconds=1), NEW_YORK) == end
