"""What the demo publishes and when: the year 2013 as a plan, pure and the same every time.

An *act* is what is published together; the demo then waits until every event of it has a fate. Days are local calendar
dates of the spine's timezone; data "until" a day is complete up to that day's local midnight.

The rules the plan is written around are those of the shipped spec: a run needs 20,000 new flights (a month has 24,000
to 29,000), or two confirming drift events, and 14 mature days that no verdict has used. Labels are mature two days
after their day has ended, so a verdict on the first of a month uses days up to the third last of the month before.

After a verdict that was not enough evidence, data and mild drift wait for the attempt's follow-up, about a month later:
the drift of July is urgent, so that it starts an attempt whatever June's verdict was, and from August on each month
comes in halves, so that a follow-up whose date lies in mid-month is not kept waiting until its end.
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
HALF = 15
DRIFT_CHECK = "departure_delay_psi"
MILD_CHECK = "weather_psi"
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
class Drift:
    """A monitor found drift over the day that ends with the midnight before ``until``; ``severity`` in [0, 1]."""

    check: str
    until: date
    severity: float


@dataclass(frozen=True)
class Act:
    """Events published together.

    ``expects`` is what the rules should make of them: ``init`` (data, then the first champion), ``attempt`` (a verdict
    follows) or ``waits`` (every event is deferred, or put aside). The demo reports what happens, not what is expected.
    """

    month: str
    what: str
    events: tuple[Arrival | Drift, ...]
    expects: Expectation


def plan_year(until: str | None = None) -> tuple[Act, ...]:
    """The acts up to the decision of the month ``until`` ('2013-05') and the half month after it; the year without.

    Raises:
        Refused: ``until`` is no month from March to December 2013.
    """
    last = 12 if until is None else _month(until)
    acts = [Act(f"{YEAR}-03", "January to March", (Arrival(_first(1), _first(4)),), "init")]
    for month in range(FIRST_MONTH + 1, last + 1):
        acts += _PLANS.get(month, _whole)(month)
    if until is not None and last < 12:
        acts.append(_half(last + 1))
    return tuple(acts)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The instant (UTC) at which a local day begins."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def event_id(event: Arrival | Drift, dataset: str | None = None) -> str:
    """The event's id: the same in every demo, so that two demos can be compared."""
    if isinstance(event, Arrival):
        return f"{dataset}-{event.start.isoformat()}-{event.end.isoformat()}"
    return f"{event.check}-{event.until.isoformat()}"


def arrived(event: Arrival, dataset: str, new_rows: int, zone: ZoneInfo) -> cloudevents.DataArrived:
    """The arrival of one dataset as an event's data; labels of mature days are all known in this data set."""
    return cloudevents.DataArrived(
        dataset=dataset,
        complete_until=midnight(event.end, zone),
        new_rows=new_rows,
        label_completeness=1.0 if dataset == "flights" else None,
    )


def drifted(event: Drift, zone: ZoneInfo) -> cloudevents.DriftDetected:
    """The drift as an event's data."""
    return cloudevents.DriftDetected(
        check=event.check,
        severity=event.severity,
        window_start=midnight(event.until - timedelta(days=1), zone),
        window_end=midnight(event.until, zone),
    )


def _month(text: str) -> int:
    year, _, month = text.partition("-")
    if year != str(YEAR) or not month.isdigit() or len(month) != 2 or not FIRST_MONTH <= int(month) <= 12:
        raise Refused(f"--until takes a month from {YEAR}-03 to {YEAR}-12, but got {text!r}")
    return int(month)


def _first(month: int) -> date:
    return date(YEAR + month // 13, (month - 1) % 12 + 1, 1)


def _named(month: int) -> str:
    return f"{_first(month):%Y-%m}"


def _piece(month: int, start: int, end: int | None, what: str, expects: Expectation, *more: Drift) -> Act:
    """Data of the month's days ``start`` up to and with ``end`` (None: its last), and drift found by then."""
    after = _first(month + 1) if end is None else date(YEAR, month, end) + timedelta(days=1)
    return Act(_named(month), what, (Arrival(date(YEAR, month, start), after), *more), expects)


def _whole(month: int) -> list[Act]:
    return [_piece(month, 1, None, "the whole month", "attempt")]


def _half(month: int) -> Act:
    return _piece(month, 1, HALF, "the first half", "waits")


def _in_halves(month: int) -> list[Act]:
    """The first half has too few rows to start anything by themselves; the second completes them."""
    return [_half(month), _piece(month, HALF + 1, None, "the second half", "attempt")]


def _drift_too_soon(month: int) -> list[Act]:
    """Confirmed drift a week after a verdict: the days it could be judged on are not there yet."""
    drifts = (Drift(DRIFT_CHECK, date(YEAR, month, 7), 0.5), Drift(DRIFT_CHECK, date(YEAR, month, 8), 0.6))
    return [
        _piece(month, 1, 7, "a week, and drift twice", "waits", *drifts),
        _piece(month, 8, None, "the rest of the month", "attempt"),
    ]


def _drift_decides(month: int) -> list[Act]:
    """Too few rows, but enough fresh days: the second of two confirming drift events, an urgent one, starts it."""
    return [
        _piece(month, 1, 17, "17 days", "waits"),
        Act(_named(month), "drift", (Drift(DRIFT_CHECK, date(YEAR, month, 17), 0.5),), "waits"),
        Act(_named(month), "drift again", (Drift(DRIFT_CHECK, date(YEAR, month, 18), 0.95),), "attempt"),
        _piece(month, 18, None, "the rest of the month", "attempt"),
    ]


def _mild_drift(month: int) -> list[Act]:
    """Drift too mild to count is put aside."""
    mild = Drift(MILD_CHECK, date(YEAR, month, 8), 0.1)
    return [
        _piece(month, 1, 7, "a week, and mild drift", "waits", mild),
        _piece(month, 8, HALF, "another week", "waits"),
        _piece(month, HALF + 1, None, "the second half", "attempt"),
    ]


_PLANS = {5: _in_halves, 6: _drift_too_soon, 7: _drift_decides, 10: _mild_drift} | dict.fromkeys(
    (8, 9, 11, 12), _in_halves
)
