"""What the demo publishes and when: the year 2013 as a plan, pure and the same every time.

An *act* is what a data platform publishes together: rows have arrived. The demo then waits until the monitor has looked
at what they completed and until every event, also the monitor's, has a fate. Days are local calendar dates of the
spine's timezone; data "until" a day is complete up to that day's local midnight.

The rules the plan is written around are those of the shipped spec: a run needs 20,000 new flights (a month has 24,000
to 29,000), or what the monitor finds, and 14 mature days that no verdict has used. Labels are mature two days after
their day has ended, so a verdict on the first of a month uses days up to the third last of the month before.

From May on, the first month that a champion is monitored, each month comes in halves. The first half has too few rows
to start anything by themselves: what starts an attempt then is the follow-up of an undecided one whose date has come,
or the monitor. The second half completes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from ratchet.domain import events as cloudevents
from ratchet.errors import Refused

YEAR = 2013
FIRST_MONTH = 3
"""The month at whose end the first champion is made."""
FIRST_IN_HALVES = 5
HALF = 15
SOURCE = "/demo/2013"
DATASETS = ("weather", "flights")
"""The spine's source last: when its rows start a run, the weather they need is there."""

Expectation = Literal["init", "attempt", "waits"]


@dataclass(frozen=True)
class Arrival:
    """Rows of the local days ``[start, end)`` of every dataset were published."""

    start: date
    end: date


@dataclass(frozen=True)
class Act:
    """Events published together.

    ``expects`` is what the rules make of them by themselves: ``init`` (data, then the first champion), ``attempt`` (a
    verdict follows) or ``waits`` (they are deferred). The demo reports what happens, not what is expected.
    """

    month: str
    what: str
    events: tuple[Arrival, ...]
    expects: Expectation


def plan_year(until: str | None = None) -> tuple[Act, ...]:
    """The acts up to the decision of the month ``until`` ('2013-05') and the half month after it; the year without.

    Raises:
        Refused: ``until`` is no month from March to December 2013.
    """
    last = 12 if until is None else _month(until)
    acts = [Act(f"{YEAR}-03", "January to March", (Arrival(_first(1), _first(4)),), "init")]
    for month in range(FIRST_MONTH + 1, last + 1):
        acts += [_half(month), _rest(month)] if month >= FIRST_IN_HALVES else [_whole(month)]
    if until is not None and last < 12:
        acts.append(_half(last + 1))
    return tuple(acts)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant (UTC) at which a local day begins."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def event_id(event: Arrival, dataset: str) -> str:
    """The event's id: the same in every demo, so that two demos can be compared."""
    return f"{dataset}-{event.start.isoformat()}-{event.end.isoformat()}"


def arrived(event: Arrival, dataset: str, new_rows: int, zone: ZoneInfo) -> cloudevents.DataArrived:
    """The arrival of one dataset as an event's data; labels of mature days are all known in this data set."""
    return cloudevents.DataArrived(
        dataset=dataset,
        complete_until=midnight(event.end, zone),
        new_rows=new_rows,
        label_completeness=1.0 if dataset == "flights" else None,
    )


def _month(text: str) -> int:
    year, _, month = text.partition("-")
    if year != str(YEAR) or not month.isdigit() or len(month) != 2 or not FIRST_MONTH <= int(month) <= 12:
        raise Refused(f"--until takes a month from {YEAR}-03 to {YEAR}-12, but got {text!r}")
    return int(month)


def _first(month: int) -> date:
    return date(YEAR + month // 13, (month - 1) % 12 + 1, 1)


def _piece(month: int, start: int, end: int | None, what: str, expects: Expectation) -> Act:
    """Data of the month's days ``start`` up to and with ``end`` (None: its last)."""
    after = _first(month + 1) if end is None else date(YEAR, month, end) + timedelta(days=1)
    return Act(f"{_first(month):%Y-%m}", what, (Arrival(date(YEAR, month, start), after),), expects)


def _whole(month: int) -> Act:
    return _piece(month, 1, None, "the whole month", "attempt")


def _half(month: int) -> Act:
    return _piece(month, 1, HALF, "the first half", "waits")


def _rest(month: int) -> Act:
    return _piece(month, HALF + 1, None, "the second half", "attempt")
