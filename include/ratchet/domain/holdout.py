"""Which days train, which calibrate and which judge: the same plan for admission and for the snapshot.

::

    fit_start ......... fit_end | gap | calibrate_start ... calibrate_end | gap | holdout: newest fresh mature days

All days are local calendar dates in the spine's timezone; ranges are half-open. A day is *mature* when its local end
plus the label delay has passed, and *fresh* when it is newer than every used day, so that the holdout is one unbroken
time range at the newest end and training may reach up to it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

CALIBRATE = timedelta(days=28)
MIN_FIT = timedelta(days=14)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class HoldoutPlan:
    """Half-open ranges of local days, and the days that judge (``holdout_days``, ascending and consecutive)."""

    fit_start: date
    fit_end: date
    calibrate_start: date
    calibrate_end: date
    holdout_days: tuple[date, ...]
    gap: timedelta
    fresh_count: int

    @property
    def holdout_start(self) -> date:
        """The first day that judges."""
        return self.holdout_days[0]


@dataclass(frozen=True)
class NotEnoughFreshDays:
    """``count`` of ``needed`` fresh mature days; ``ready_at`` (UTC, business time) is when the last one matures."""

    count: int
    needed: int
    ready_at: datetime


def plan_holdout(
    *,
    as_of: datetime,
    timezone: str,
    label_delay: timedelta,
    window: timedelta,
    last: timedelta | int,
    min_clusters: int,
    used_days: Collection[date | str] = (),
    train_floor: date | None = None,
) -> HoldoutPlan | NotEnoughFreshDays:
    """Lay out training, calibration and holdout as of a business instant, or say when there will be days enough.

    ``as_of``: aware; ``label_delay``: from a day's local end until its labels are known; ``window``: days before the
    holdout that training may reach back; ``last``: most holdout days; ``min_clusters``: fewest; ``used_days``: local
    days (dates or ISO strings) that may not judge: those which fitted, tuned or calibrated the champion, promoted it,
    or were in any earlier verdict against it (dry runs and shadow too). ``train_floor``: the first day of data, when
    known. Training may use any day before the holdout less the gap, used in a verdict or not. Where the champion is a
    refit, the days of :func:`days_too_near` are among the used ones. Reads no data.

    Raises ``ValueError`` on a naive ``as_of`` and on lengths that leave no room for training.
    """
    days = last if isinstance(last, int) else last // _DAY
    gap = gap_days(label_delay)
    _refuse_impossible(as_of, window, days, min_clusters, gap)
    newest = _newest_mature_day(as_of, timezone, label_delay)
    earliest = _earliest_fresh_day(used_days, train_floor, gap)
    fresh = 0 if newest is None else (days if earliest is None else max(0, (newest - earliest).days + 1))
    if newest is None or fresh < min_clusters:
        first = earliest if earliest is not None else as_of.astimezone(ZoneInfo(timezone)).date()
        return NotEnoughFreshDays(fresh, min_clusters, fresh_at(first, min_clusters, timezone, label_delay))
    holdout = tuple(newest - i * _DAY for i in reversed(range(min(days, fresh))))
    calibrate_end = holdout[0] - gap
    calibrate_start = calibrate_end - CALIBRATE
    fit_start = holdout[0] - (window // _DAY) * _DAY
    return HoldoutPlan(
        fit_start=fit_start if train_floor is None else max(fit_start, train_floor),
        fit_end=calibrate_start - gap,
        calibrate_start=calibrate_start,
        calibrate_end=calibrate_end,
        holdout_days=holdout,
        gap=gap,
        fresh_count=fresh,
    )


def fresh_at(first: date, count: int, timezone: str, label_delay: timedelta) -> datetime:
    """The instant (UTC) from which ``count`` days from ``first`` on are mature: when the last of them is."""
    return mature_at(first + (count - 1) * _DAY, timezone, label_delay)


def days_to_wait_for(needed: int | None, judged: int, *, last: timedelta, min_clusters: int, asked: bool) -> int:
    """How many fresh days the next verdict should have after one that was not enough evidence.

    ``needed``: the verdict's ``needed_clusters``; ``judged``: of these, how many the next verdict has already (0 for
    another challenger). ``asked``: a target gain is given, so that no ``needed`` means that no holdout is long enough,
    and the longest is waited for; without one, the fewest. The answer lies in ``[min_clusters, last]``.
    """
    most = last // _DAY
    wanted = (most if asked else min_clusters) if needed is None else needed - judged
    return min(max(wanted, min_clusters), most)


def mature_at(day: date, timezone: str, label_delay: timedelta) -> datetime:
    """The instant (UTC) from which the labels of a local day are known: its local end plus the label delay.

    The delay is elapsed time, so that a change of clocks within it moves the local hour and not the wait.
    """
    end = datetime.combine(day + _DAY, time(), tzinfo=ZoneInfo(timezone))
    return end.astimezone(UTC) + label_delay


def gap_days(label_delay: timedelta) -> timedelta:
    """The label delay in whole days, rounded up."""
    return -(-label_delay // _DAY) * _DAY


def days_too_near(last: date, label_delay: timedelta) -> tuple[date, ...]:
    """The days that a champion fitted up to ``last``, inclusive, may not be judged on, ascending: one gap of them.

    A judged champion has that gap behind it, before its own holdout; one that was refitted up to the newest mature day
    has it before the next.
    """
    return tuple(last + (i + 1) * _DAY for i in range(gap_days(label_delay) // _DAY))


def _newest_mature_day(as_of: datetime, timezone: str, label_delay: timedelta) -> date | None:
    try:
        day = (as_of.astimezone(UTC) - label_delay).astimezone(ZoneInfo(timezone)).date()
    except OverflowError:
        return None
    while mature_at(day, timezone, label_delay) > as_of:
        day -= _DAY
    return day


def _earliest_fresh_day(used: Collection[date | str], floor: date | None, gap: timedelta) -> date | None:
    days = [date.fromisoformat(day) if isinstance(day, str) else day for day in used]
    bounds = [max(days) + _DAY] if days else []
    if floor is not None:
        bounds.append(floor + MIN_FIT + gap + CALIBRATE + gap)
    return max(bounds, default=None)


def _refuse_impossible(as_of: datetime, window: timedelta, last: int, min_clusters: int, gap: timedelta) -> None:
    if as_of.tzinfo is None:
        raise ValueError(f"as_of must be timezone-aware, but got {as_of!r}. Give it in UTC.")
    if not 1 <= min_clusters <= last:
        raise ValueError(
            f"data.holdout.min_clusters must lie between 1 and the {last} days of data.holdout.last, but got "
            f"{min_clusters}."
        )
    room = MIN_FIT + gap + CALIBRATE + gap
    if window < room:
        raise ValueError(
            f"data.window must be at least {room.days} days ({MIN_FIT.days} to fit, {CALIBRATE.days} to calibrate, and "
            f"two gaps of the label delay), but got {window.days}. Lengthen it."
        )
