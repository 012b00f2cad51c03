"""Snoozing: for a while a model starts no run by itself, by a person's word (docs/decisions/0078).

All times are business time, like the deferrals that come of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ratchet.domain.spec import format_duration
from ratchet.errors import Refused

LONGEST = timedelta(days=30)
"""What is to sleep for longer is retired, or has another spec."""


@dataclass(frozen=True)
class Snooze:
    """Who lets a model sleep, why and until when; ``since`` is when the sleep began that this one goes on with."""

    since: datetime
    until: datetime
    actor: str
    reason: str

    def holds(self, now: datetime) -> bool:
        """Whether the model sleeps at ``now``: it wakes by itself at ``until``."""
        return now < self.until

    def after(self, before: Snooze | None) -> Snooze:
        """The same in the place of the one before, whose sleep it goes on with where that had not ended."""
        goes_on = before is not None and before.holds(self.since)
        return replace(self, since=before.since) if before is not None and goes_on else self


def end_of_snooze(now: datetime, *, length: timedelta | None = None, until: datetime | None = None) -> datetime:
    """When a snooze that begins now ends, by its length or its end.

    Raises:
        Refused: not exactly one of the two, an end that is not to come, or one beyond :data:`LONGEST`.
    """
    lasts = length if until is None else until - now
    if lasts is None or (length is not None and until is not None):
        raise Refused("a snooze needs one of the two: how long (such as 3d), or until when (such as 2013-06-20T04:00Z)")
    if lasts <= timedelta(0):
        got = format_duration(lasts) if until is None else f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        raise Refused(
            f"a snooze ends later than now, which is {now:%Y-%m-%dT%H:%M:%SZ} in business time, but got {got}"
        )
    if lasts > LONGEST:
        longest, got = format_duration(LONGEST), format_duration(lasts)
        raise Refused(
            f"a snooze lasts {longest} at most, but got {got}. Snooze it again when that is over, narrow retrain.on in "
            "its spec, or retire the model"
        )
    return now + lasts
