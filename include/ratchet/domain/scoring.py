"""Which local days are to be scored, in which role and by which version.

A day is scored as a whole, once and for good, by the version that served it: the last one that became champion on an
earlier local day. What is scored late, after a promotion, is therefore still scored by the version that decided then,
and never by one that was trained, or judged, on the day itself. The same history gives the same answer whenever it is
asked, so that a run that was killed and one that was not leave the same predictions behind.

In shadow the newest judged challenger is scored beside it: the one that nobody promoted, on days that its training
and its verdict have not seen. Scoring reads no label, so no day of it counts as used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

from ratchet.domain.holdout import mature_at

if TYPE_CHECKING:
    from ratchet.domain.spec import ModelSpec

Role = Literal["champion", "shadow"]
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class ScoringPolicy:
    """What a spec's ``scoring`` asks for.

    ``timezone`` gives the local days; ``horizon``: how long before its end a day is complete; ``catch_up``: whole days,
    up to the newest complete one, among which unscored ones are due; ``shadow``: whether a challenger is scored beside.
    """

    timezone: str
    horizon: timedelta
    catch_up: timedelta
    shadow: bool

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> ScoringPolicy:
        """The policy of a spec that asks for scoring; ``ValueError`` for one that does not."""
        if spec.scoring is None:
            raise ValueError(f"the spec of {spec.model} has no scoring")
        asked = spec.scoring
        return cls(spec.data.spine.timezone, asked.horizon, asked.catch_up, asked.shadow == "challenger")


@dataclass(frozen=True)
class Served:
    """A version and the business instant at which it became champion."""

    version: int
    since: datetime


@dataclass(frozen=True)
class Judged:
    """The candidate of one verdict: its ``version``, how far its data reached, and whether it became champion."""

    version: int
    as_of: datetime
    promoted: bool


@dataclass(frozen=True)
class DayToScore:
    """One local day, to be scored as a whole by ``version``."""

    day: date
    role: Role
    version: int


@dataclass(frozen=True)
class ScoringPlan:
    """What is due, by day and of each day the champion first; where nothing is, ``reason`` says why."""

    due: tuple[DayToScore, ...]
    reason: str


def decide_scoring(
    policy: ScoringPolicy,
    *,
    until: datetime | None,
    served: Sequence[Served],
    judged: Sequence[Judged],
    scored: Collection[tuple[date, str]],
    asked: tuple[date, date] | None = None,
) -> ScoringPlan:
    """Which complete days have no predictions yet.

    ``until``: business instant up to which all data is there, None where nobody has told; ``served``: the champion
    history, oldest first; ``judged``: the model's verdicts, newest first, dry runs left out; ``scored``: what has been
    scored, which is never due again; ``asked``: the days from and to, inclusive, that a person named, instead of those
    of ``catch_up``. Reads no data and no clock.
    """
    if until is None:
        return ScoringPlan((), "nothing has told yet how far the data is complete")
    if not served:
        return ScoringPlan((), "no champion serves yet")
    newest = newest_complete_day(until, policy.timezone, policy.horizon)
    first, last = asked or (newest - (policy.catch_up // _DAY - 1) * _DAY, newest)
    days = [first + i * _DAY for i in range((min(last, newest) - first).days + 1)]
    due = []
    for day in days:
        champion = serving(day, served, policy.timezone)
        if champion is None:
            continue
        due.append(DayToScore(day, "champion", champion))
        if policy.shadow and (shadow := in_shadow(day, champion, judged, policy.timezone)) is not None:
            due.append(DayToScore(day, "shadow", shadow))
    left = tuple(each for each in due if (each.day, each.role) not in scored)
    if left:
        return ScoringPlan(left, "")
    if due:
        return ScoringPlan((), f"every complete day up to {due[-1].day} is scored")
    if not days:
        return ScoringPlan((), f"{first} is not complete: the data reaches up to {newest}")
    return ScoringPlan((), f"no champion served a whole day from {days[0]} to {days[-1]}")


def newest_complete_day(until: datetime, timezone: str, horizon: timedelta) -> date:
    """The last local day whose end, less ``horizon``, does not lie after ``until`` (aware)."""
    day = (until.astimezone(UTC) + horizon).astimezone(ZoneInfo(timezone)).date()
    while mature_at(day, timezone, -horizon) > until:
        day -= _DAY
    return day


def serving(day: date, served: Sequence[Served], timezone: str) -> int | None:
    """The version that served the whole of a local day: the last to become champion on an earlier one, None before.

    The day on which a champion changes is its predecessor's, as it is for a probation.
    """
    zone = ZoneInfo(timezone)
    earlier = [entry.version for entry in served if entry.since.astimezone(zone).date() < day]
    return earlier[-1] if earlier else None


def in_shadow(day: date, champion: int, judged: Sequence[Judged], timezone: str) -> int | None:
    """The candidate of the newest verdict on data before the day, unless it serves or has served."""
    begins = datetime.combine(day, time(), tzinfo=ZoneInfo(timezone))
    known = next((each for each in judged if each.as_of <= begins), None)
    return None if known is None or known.promoted or known.version == champion else known.version
