"""One small snapshot, tried before a spec is deployed: which rows to try, and what is wrong with what came of them.

Pure. What a full snapshot would refuse weeks later is found on a week of rows, and told at the key of the spec that
would have to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from ratchet.domain.holdout import NotEnoughFreshDays, mature_at, plan_holdout
from ratchet.domain.spec import ModelSpec, Problem

MOST_DAYS = 7
MOST_ROWS = 5_000
MOST_NAMED = 3
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class SourceDay:
    """One local day of the spine's source: its rows, those with a label, and when the last label was published."""

    day: date
    rows: int
    labelled: int
    known_at: datetime | None

    @property
    def whole(self) -> bool:
        """Whether every row of it has its label."""
        return self.labelled == self.rows and self.known_at is not None


@dataclass(frozen=True)
class Trial:
    """Which rows to try: the local days ``[start, end)``, labels as known at ``as_of``, and the days there are.

    ``judging`` of them could judge a first champion, unless they are too few (``short``).
    """

    start: date
    end: date
    as_of: datetime
    first_day: date
    judging: int
    short: NotEnoughFreshDays | None = None


@dataclass(frozen=True)
class Column:
    """A column of the tried rows: ``kind`` is its type, ``missing`` the share of rows that have no value.

    ``readable``: a model can learn from it; ``tags`` are those of a sensitive one.
    """

    name: str
    role: str
    kind: str
    missing: float
    readable: bool = True
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """What came of it. Without ``trial`` no row could be tried; ``positive`` is the share of labels that are 1."""

    model: str
    trial: Trial | None
    rows: int
    columns: tuple[Column, ...]
    problems: tuple[Problem, ...]
    positive: float | None = None


def choose(spec: ModelSpec, days: Sequence[SourceDay]) -> Trial | Problem:
    """The newest whole days of the source, up to a week or some thousand rows, as a first champion would see them.

    Args:
        spec: gives time zone, label delay, window and holdout.
        days: of the source, in order, each local day that has rows.
    """
    whole = [day for day in days if day.whole]
    if not whole:
        rows = sum(day.rows for day in days)
        said = f"no day of its {rows:,} rows has all its labels, so that none could be learned from or judged on"
        return Problem(("data", "spine", "source"), said)
    last, spine = whole[-1], spec.data.spine
    known = last.known_at
    mature = mature_at(last.day, spine.timezone, spine.label_delay)
    as_of = mature if known is None else max(mature, known)
    start, rows = last.day, last.rows
    before = [day for day in reversed(days) if last.day - MOST_DAYS * _DAY < day.day < last.day]
    for day in before:
        if rows + day.rows > MOST_ROWS:
            break
        start, rows = day.day, rows + day.rows
    planned = plan_holdout(
        as_of=as_of,
        timezone=spine.timezone,
        label_delay=spine.label_delay,
        window=spec.data.window,
        last=spec.data.holdout.last,
        min_clusters=spec.data.holdout.min_clusters,
        train_floor=days[0].day,
    )
    short = planned if isinstance(planned, NotEnoughFreshDays) else None
    judging = 0 if isinstance(planned, NotEnoughFreshDays) else len(planned.holdout_days)
    return Trial(start, last.day + _DAY, as_of, days[0].day, judging, short)


def problems_of_days(days: Sequence[SourceDay], trial: Trial) -> Iterator[Problem]:
    """What a full snapshot would refuse for want of labels, and a first verdict for want of days."""
    bare = [day for day in days if day.day < trial.end and not day.whole]
    if bare:
        missing = sum(day.rows - day.labelled for day in bare)
        named = ", ".join(day.day.isoformat() for day in bare[:MOST_NAMED])
        more = f" and {len(bare) - MOST_NAMED} more" if len(bare) > MOST_NAMED else ""
        yield Problem(
            ("data", "spine", "label"),
            f"{missing:,} rows before the newest labelled day have no label ({named}{more}): a snapshot with such a "
            "day is refused. Complete them, or take these rows out of the source",
        )
    if trial.short is not None:
        there = (trial.end - trial.first_day).days
        yield Problem(
            ("data", "holdout", "min_clusters"),
            f"a first verdict needs {trial.short.needed} days after those to fit and calibrate, but the {there} days "
            f"that there are leave {trial.short.count}; there are enough at {trial.short.ready_at:%Y-%m-%d %H:%M}Z. "
            "Bring a longer history, or ask for fewer",
        )


def problems_of_rows(spec: ModelSpec, columns: Sequence[Column], positive: float | None) -> Iterator[Problem]:
    """What could not be learned from the tried rows."""
    names = [column.name for column in columns]
    for column in columns:
        if column.role != "feature":
            continue
        if not column.readable:
            yield Problem(
                ("data", "features"),
                f"{column.name!r} holds {column.kind}, which no model reads. Offer numbers or text",
            )
        elif column.missing == 1.0:
            yield Problem(
                ("data", "features"),
                f"{column.name!r} has no value on any of the tried rows: it is published after the decision, has "
                "expired by then (the view's TTL), or its keys are others. Mend its view, or leave it out",
            )
    for index, guardrail in enumerate(spec.gate.guardrails):
        if guardrail.column is not None and guardrail.column not in names:
            part = "by" if guardrail.slice is None else "slice"
            yield Problem(("gate", "guardrails", index, part), f"{guardrail.column!r} is no column of the tried rows")
    for index, name in enumerate(spec.monitor.seasonal if spec.monitor else ()):
        if name not in names:
            yield Problem(("monitor", "seasonal", index), f"{name!r} is no feature of {spec.data.features!r}")
    if positive in {0.0, 1.0}:
        yield Problem(
            ("data", "spine", "label"),
            f"is {positive:.0f} on every tried row: where nothing differs, nothing is learned. Is it the right column?",
        )


def sentence(tried: Rehearsal, seconds: float) -> str:
    """All of it but the columns, for a person."""
    trial = tried.trial
    if trial is None:
        return f"{tried.model}: no row could be tried"
    days = f"{trial.start.isoformat()} to {(trial.end - _DAY).isoformat()}"
    if not tried.columns:
        return f"{tried.model}: no snapshot of {days} could be made"
    features = [column for column in tried.columns if column.role == "feature"]
    bare = sum(column.missing > 0 for column in features)
    label = "" if tried.positive is None else f", labels {tried.positive:.1%} positive"
    judging = (
        f"{trial.judging} days could judge a first champion"
        if trial.short is None
        else f"{trial.short.count} of {trial.short.needed} days could judge a first champion"
    )
    return (
        f"{tried.model}: a snapshot of {tried.rows:,} rows ({days}) was tried in {seconds:.1f} s, none lost: "
        f"{len(features)} features, {bare} of them with gaps{label}; {judging}"
    )
