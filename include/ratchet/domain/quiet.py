"""Quiet hours: weekly windows of local time in which no event starts a run.

A window is written ``22:00-06:00`` (every day, over midnight) or ``sat,sun 00:00-24:00`` or ``mon-fri 08:00-18:00``.
The days are those on which it begins. Where the clock is moved, a boundary that is skipped counts from the offset
before the change (:pep:`495`), and of one that comes twice a window takes the first as its start and the last as its
end, so that what the clock reads as quiet is quiet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60
MINUTES_A_WEEK = 7 * MINUTES_A_DAY
_WINDOW = re.compile(r"(?:([a-z,-]+) )?(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True)
class QuietWindow:
    """One window: ``days`` of the week it begins on (0 is Monday), ``start`` and ``end`` in minutes after midnight.

    ``end`` lies at most a day after ``start``: over midnight it is more than 1,440.
    """

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> QuietWindow:
        """Read ``[days ]HH:MM-HH:MM``. Raises ``ValueError``."""
        match = _WINDOW.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"a quiet window is written like 22:00-06:00 or sat,sun 00:00-24:00, but got {text!r}")
        start, end = (int(match[hour]) * 60 + int(match[hour + 1]) for hour in (2, 4))
        if start >= MINUTES_A_DAY or end > MINUTES_A_DAY or max(match[3], match[5]) >= "60":
            raise ValueError(f"times of a quiet window lie from 00:00 to 24:00, but got {text!r}")
        if start == end:
            raise ValueError(
                f"a quiet window must not end when it starts (a whole day is 00:00-24:00), but got {text!r}"
            )
        days = _read_days(match[1], text) if match[1] else frozenset(range(7))
        return cls(days, start, end if end > start else end + MINUTES_A_DAY)

    def __str__(self) -> str:
        """The form that :meth:`parse` reads back."""
        end = self.end if self.end <= MINUTES_A_DAY else self.end - MINUTES_A_DAY
        span = f"{self.start // 60:02d}:{self.start % 60:02d}-{end // 60:02d}:{end % 60:02d}"
        return span if len(self.days) == len(DAYS) else f"{','.join(DAYS[day] for day in sorted(self.days))} {span}"


def _read_days(text: str, whole: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"days of a quiet window are {', '.join(DAYS)} or a range like mon-fri, but got {whole!r}")
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        days |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(days)


def leaves_time_awake(windows: Sequence[QuietWindow]) -> bool:
    """Whether any minute of the week lies outside all windows."""
    quiet: set[int] = set()
    for window in windows:
        for day in window.days:
            quiet |= {(day * MINUTES_A_DAY + minute) % MINUTES_A_WEEK for minute in range(window.start, window.end)}
    return len(quiet) < MINUTES_A_WEEK


def quiet_until(windows: Sequence[QuietWindow], moment: datetime, zone: ZoneInfo) -> datetime | None:
    """When the quiet around ``moment`` ends (UTC); None when it is not quiet. Windows that touch are one.

    The windows must leave some time awake (:func:`leaves_time_awake`).
    """
    quiet_to = moment
    while (end := _end_of(windows, quiet_to, zone)) is not None:
        quiet_to = end
    return quiet_to if quiet_to > moment else None


def _end_of(windows: Sequence[QuietWindow], moment: datetime, zone: ZoneInfo) -> datetime | None:
    today = moment.astimezone(zone).date()
    ends = []
    for window in windows:
        for day in (today - timedelta(days=1), today):
            if day.weekday() in window.days:
                midnight = datetime.combine(day, time())
                start = _instant(midnight + timedelta(minutes=window.start), zone, last=False)
                end = _instant(midnight + timedelta(minutes=window.end), zone, last=True)
                if start <= moment < end:
                    ends.append(end)
    return max(ends, default=None)


def _instant(local: datetime, zone: ZoneInfo, *, last: bool) -> datetime:
    """The instant at which the local clock reads this; of an hour that comes twice, the first or the last."""
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return max(first, second) if last else first
