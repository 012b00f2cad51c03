"""What a model's decisions have been worth over time, from the ledger alone: by verdicts, watches and the monitor.

Nobody but a monitor with labels knows what was earned. What else is known is told as what it is: what a verdict
measured on the days it was given on, what is expected by the champion's own probabilities, and by how much a watched
champion has beaten its predecessor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from ratchet.ports.ledger import ChampionRow, JudgedRow, MonitoredRow, ProbationRow, SpecRow, Tx

MOST = 100
"""Verdicts and windows told, the newest."""
_DAY = timedelta(days=1)

Measure = Literal["payoff", "uplift"]
Source = Literal["judged", "realised", "expected", "watched"]
_MONITORED: Mapping[str, tuple[Measure, Source]] = {
    "realised": ("payoff", "realised"),
    "expected": ("payoff", "expected"),
    "uplift": ("uplift", "realised"),
}
"""What the monitor keeps of a window, and what that is."""


@dataclass(frozen=True)
class Estimate:
    """A mean per decision over local days, both included, with one-sided bounds; None where there are none.

    ``payoff`` is what ``version`` earned, ``uplift`` that less what ``over`` would have earned on the same rows (None:
    the best constant decision). ``source`` says who measured it: a verdict (``judged``) on its own days, the monitor on
    days with labels (``realised``) or by the champion's probabilities (``expected``), or a probation (``watched``),
    whose bounds hold at all times at once.
    """

    measure: Measure
    source: Source
    version: int
    over: int | None
    first_day: date
    last_day: date
    rows: int
    days: int
    estimate: float
    lower: float | None
    upper: float | None
    attempt_id: str | None = None

    @property
    def total(self) -> float:
        """Over all of the decisions."""
        return self.estimate * self.rows


@dataclass(frozen=True)
class Served:
    """A change of who serves, on the local day from which it does."""

    seq: int
    version: int
    kind: str
    day: date
    attempt_id: str | None


@dataclass(frozen=True)
class Earnings:
    """All that is known, by day; ``unit`` is that of the deployed spec's payoff."""

    unit: str | None
    estimates: list[Estimate]
    champions: list[Served]


def earnings(tx: Tx, row: SpecRow) -> Earnings:
    """What the model of this spec has been worth, by half a dozen queries."""
    champions = tx.champions(row.model)
    judged = [found for verdict in tx.judged(row.model, MOST) for found in _judged(verdict, champions)]
    windows = [found for window in tx.monitored(row.model, limit=MOST) for found in _monitored(window)]
    until = tx.watched_until(row.model)
    watched = [found for watch in tx.probations(model=row.model) for found in _watched(watch, until.get(watch.seq))]
    payoff = (row.document.get("business") or {}).get("payoff") or {}
    zone = _zone(row.document)
    return Earnings(
        unit=payoff.get("unit"),
        estimates=sorted((*judged, *windows, *watched), key=lambda e: (e.last_day, e.first_day, e.measure, e.source)),
        champions=[
            Served(each.seq, each.version, each.kind, _served_from(each).astimezone(zone).date(), each.attempt_id)
            for each in champions
        ],
    )


def _judged(verdict: JudgedRow, champions: list[ChampionRow]) -> Iterator[Estimate]:
    """The uplift, what the champion earned, and what the challenger did where it came to serve."""
    days = sorted(date.fromisoformat(day) for day in verdict.rows_by_day)
    told = {
        "first_day": days[0],
        "last_day": days[-1],
        "rows": sum(verdict.rows_by_day.values()),
        "days": len(days),
        "attempt_id": verdict.attempt_id,
    }
    served = verdict.attempt_id in {each.attempt_id for each in champions}
    if verdict.version is not None:
        yield from _estimate("uplift", "judged", verdict.version, verdict.champion_version, verdict.uplift, told)
    for side, version in (("champion", verdict.champion_version), ("challenger", verdict.version if served else None)):
        measured = verdict.payoff.get(side)
        if version is not None and measured:
            yield from _estimate("payoff", "judged", version, None, measured | {"estimate": measured["value"]}, told)


def _monitored(window: MonitoredRow) -> Iterator[Estimate]:
    payoff, days = window.found.get("payoff") or {}, window.found.get("window")
    if window.version is None or not days:
        return
    whole = {"first_day": days["start"], "last_day": (date.fromisoformat(days["end"]) - _DAY).isoformat()}
    for name, (measure, source) in _MONITORED.items():
        if found := payoff.get(name):
            spot = {end: date.fromisoformat((whole | found)[end]) for end in whole}
            told = spot | {"rows": found["rows"], "days": found["days"]}
            yield from _estimate(measure, source, window.version, found.get("over"), found, told)


def _watched(watch: ProbationRow, until: date | None) -> Iterator[Estimate]:
    record = watch.record
    if until is None or not record.get("n_rows"):
        return
    told = {"first_day": watch.first_day, "last_day": until, "rows": record["n_rows"], "days": record["n_days"]}
    yield from _estimate("uplift", "watched", watch.version, watch.predecessor_version, record, told)


def _estimate(
    measure: Measure,
    source: Source,
    version: int,
    over: int | None,
    measured: Mapping[str, Any],
    told: Mapping[str, Any],
) -> Iterator[Estimate]:
    if measured.get("estimate") is not None:
        numbers = {name: measured.get(name) for name in ("estimate", "lower", "upper")}
        yield Estimate(measure, source, version, over, **told, **numbers)  # type: ignore[arg-type]


def _served_from(champion: ChampionRow) -> datetime:
    return champion.since or champion.as_of


def _zone(document: Mapping[str, Any]) -> Any:
    named = ((document.get("data") or {}).get("spine") or {}).get("timezone")
    try:
        return ZoneInfo(named) if named else UTC
    except (KeyError, ValueError):
        return UTC
