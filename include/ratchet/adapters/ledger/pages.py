"""The ledger's side of what is shown: pages by their last row, newest first, and many models in one query each."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import ATTEMPT_ROW, CHAMPION_ROW, EVENT_ROW, Base, record_row
from ratchet.ports.ledger import (
    AWAITING_APPROVAL,
    OPEN_FATES,
    AttemptRow,
    ChampionRow,
    EventRow,
    JudgedRow,
    RecordRow,
    Used,
)

LONG = ("checks", "diagnostics")
"""What takes nearly all of a verdict's record, and is read with one attempt at a time."""


class Pages(Base):
    """Reads alone. ``models`` are those that whoever asks may see; none of them gives nothing."""

    def events_before(
        self,
        pk: int | None,
        *,
        models: Collection[str],
        fates: Collection[str] | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
        event_id: str | None = None,
        attempt_id: str | None = None,
        limit: int,
    ) -> list[EventRow]:
        """Events in the order in which they came, the newest first, of those that came before ``pk``."""
        c = t.event.c
        query = sa.select(*EVENT_ROW).where(self._among(c.model, models)).order_by(c.id.desc()).limit(limit)
        if pk is not None:
            query = query.where(c.id < pk)
        if fates is not None:
            query = query.where(c.fate.in_(list(fates)))
        if types is not None:
            query = query.where(c.type.in_(list(types)))
        for column, asked in ((c.source, source), (c.event_id, event_id), (c.attempt_id, attempt_id)):
            if asked is not None:
                query = query.where(column == asked)
        return [EventRow(*row) for row in self._db.execute(query)]

    def event(self, pk: int) -> EventRow | None:
        """One event of one model."""
        row = self._db.execute(sa.select(*EVENT_ROW).where(t.event.c.id == pk)).first()
        return EventRow(*row) if row else None

    def attempts_before(
        self,
        spot: tuple[datetime, str] | None,
        *,
        models: Collection[str],
        states: Collection[str] | None = None,
        verdicts: Collection[str] | None = None,
        dag_id: str | None = None,
        dag_run_id: str | None = None,
        limit: int,
    ) -> list[AttemptRow]:
        """Attempts, the newest first, of those before ``spot``: the last one's ``created_at`` and id.

        Their verdicts' records are without checks and diagnostics.
        """
        c = t.attempt.c
        newest_first = (c.created_at.desc(), c.id.desc())
        query = sa.select(c.id).where(self._among(c.model, models)).order_by(*newest_first).limit(limit)
        if spot is not None:
            at, attempt = spot
            query = query.where(sa.or_(c.created_at < at, sa.and_(c.created_at == at, c.id < attempt)))
        if states is not None:
            query = query.where(c.state.in_(list(states)))
        if verdicts is not None:
            query = query.where(c.verdict.in_(list(verdicts)))
        for column, asked in ((c.dag_id, dag_id), (c.dag_run_id, dag_run_id)):
            if asked is not None:
                query = query.where(column == asked)
        # Which ones they are is found first: a database may shorten every verdict there is before it sorts and counts.
        chosen = sa.select(*self._at_a_glance()).where(c.id.in_(query)).order_by(*newest_first)
        return [AttemptRow(*row) for row in self._db.execute(chosen)]

    def audited_before(
        self,
        seq: int | None,
        *,
        models: Collection[str],
        general: bool = False,
        actor: str | None = None,
        action: str | None = None,
        limit: int,
    ) -> list[dict[str, Any]]:
        """Entries of the audit log, the newest first, of those before ``seq``; ``general`` are those of no model.

        ``action`` may be a family, such as ``champion``.
        """
        c = t.audit.c
        seen = self._among(c.model, models)
        query = sa.select(t.audit).order_by(c.seq.desc()).limit(limit)
        query = query.where(sa.or_(seen, c.model.is_(None)) if general else seen)
        if seq is not None:
            query = query.where(c.seq < seq)
        if actor is not None:
            query = query.where(c.actor == actor)
        if action is not None:
            query = query.where(sa.or_(c.action == action, c.action.startswith(f"{action}.", autoescape=True)))
        return [dict(r) for r in self._db.execute(query).mappings()]

    def letters_before(self, pk: int | None, *, reason_contains: str | None = None, limit: int) -> list[RecordRow]:
        """Dead letters, the newest first, of those before ``pk``."""
        c = t.record.c
        query = sa.select(t.record).where(c.status == "rejected").order_by(c.id.desc()).limit(limit)
        if pk is not None:
            query = query.where(c.id < pk)
        if reason_contains is not None:
            query = query.where(c.reason.icontains(reason_contains, autoescape=True))
        return [record_row(r) for r in self._db.execute(query).mappings()]

    def serving(self, models: Collection[str]) -> dict[str, ChampionRow]:
        """Who serves, of each of these models that has a champion."""
        c = t.champion.c
        newest = sa.select(c.model, sa.func.max(c.seq).label("seq")).where(self._among(c.model, models))
        last = newest.group_by(c.model).subquery()
        query = sa.select(*CHAMPION_ROW).join(last, sa.and_(last.c.model == c.model, last.c.seq == c.seq))
        return {row.model: ChampionRow(*row) for row in self._db.execute(query)}

    def last_judged(self, models: Collection[str]) -> dict[str, AttemptRow]:
        """The newest attempt with a verdict, dry runs too, of each of these models that has one.

        Their verdicts' records are without checks and diagnostics.
        """
        c = t.attempt.c
        newest = sa.select(c.model, sa.func.max(c.epoch).label("epoch")).where(
            self._among(c.model, models), c.verdict.is_not(None)
        )
        last = newest.group_by(c.model).subquery()
        query = sa.select(*self._at_a_glance()).join(last, sa.and_(last.c.model == c.model, last.c.epoch == c.epoch))
        return {row.model: AttemptRow(*row) for row in self._db.execute(query)}

    def awaiting(self, models: Collection[str]) -> dict[str, list[str]]:
        """The attempts of these models that people are asked about, the newest first, by model."""
        c = t.attempt.c
        query = sa.select(c.model, c.id).where(c.state == AWAITING_APPROVAL, self._among(c.model, models))
        found: dict[str, list[str]] = {}
        for model, attempt in self._db.execute(query.order_by(c.created_at.desc(), c.epoch.desc())):
            found.setdefault(model, []).append(attempt)
        return found

    def open_event_counts(self, models: Collection[str]) -> dict[str, dict[str, int]]:
        """How many events are open, by model and fate; what is nought is left out."""
        c = t.event.c
        query = (
            sa.select(c.model, c.fate, sa.func.count())
            .where(self._among(c.model, models), c.fate.in_(OPEN_FATES))
            .group_by(c.model, c.fate)
        )
        counts: dict[str, dict[str, int]] = {}
        for model, fate, count in self._db.execute(query):
            counts.setdefault(model, {})[fate] = count
        return counts

    def used(self, models: Collection[str], *, day_began: datetime, month_began: datetime) -> dict[str, Used]:
        """What the attempts that were claimed since the day and the month began (business time) have used, by model.

        A model without an attempt this month is left out.
        """
        a, s = t.attempt.c, t.step.c
        seconds = sa.func.coalesce(sa.func.sum(self._seconds(s.started_at, s.finished_at)), 0.0)
        each = (
            sa.select(
                a.model,
                (a.business_at >= day_began).label("today"),
                sa.func.coalesce(a.options["dry_run"].as_boolean(), sa.false()).label("dry_run"),
                sa.cast(seconds, sa.Float).label("seconds"),
            )
            .join(t.step, s.attempt_id == a.id, isouter=True)
            .where(self._among(a.model, models), a.business_at >= month_began)
            .group_by(a.id)
        ).subquery()
        counts, spent = sa.and_(each.c.today, sa.not_(each.c.dry_run)), each.c.seconds
        query = sa.select(
            each.c.model,
            sa.func.sum(sa.case((counts, 1), else_=0)),
            sa.func.sum(sa.case((each.c.today, spent), else_=0.0)),
            sa.func.sum(spent),
        ).group_by(each.c.model)
        return {model: Used(*figures) for model, *figures in self._db.execute(query)}

    def _seconds(self, start: sa.Column[Any], end: sa.Column[Any]) -> Any:
        """Seconds from one column to another."""
        if self._postgres:
            return sa.extract("epoch", end - start)
        return (sa.func.julianday(end) - sa.func.julianday(start)) * 86_400.0

    def _at_a_glance(self) -> list[sa.ColumnElement[Any]]:
        """An attempt's columns, the record of its verdict without what is long."""
        record: sa.ColumnElement[Any] = t.attempt.c.verdict_record
        if self._postgres:
            names = sa.cast(list(LONG), postgresql.ARRAY(sa.Text))
            short: Any = sa.case((sa.func.jsonb_typeof(record) == "object", record.op("-")(names)), else_=record)
        else:
            short = sa.func.json_remove(record, *(f"$.{name}" for name in LONG))
        short = sa.type_coerce(short, t.Json).label(record.key)
        return [short if column is record else column for column in ATTEMPT_ROW]

    def judged(self, model: str, limit: int) -> list[JudgedRow]:
        """What the newest verdicts measured, the newest first; those that compared nothing are left out."""
        a, s = t.attempt.c, t.step.c
        measured = sa.and_(s.attempt_id == a.id, s.step == "evaluate")
        version = sa.func.coalesce(a.deployed_version, a.challenger_version)
        bounds = [a.verdict_record[name].label(name) for name in ("estimate", "lower", "upper")]
        payoff, days = s.result["payoff"].label("payoff"), s.result["used_days"]["holdout"].label("days")
        query = (
            sa.select(a.id, a.verdict, a.champion_version, version.label("version"), *bounds, payoff, days)
            .join(t.step, measured)
            .where(a.model == model, a.verdict.is_not(None))
            .order_by(a.epoch.desc())
            .limit(limit)
        )
        return [
            JudgedRow(
                attempt_id=row.id,
                verdict=row.verdict,
                champion_version=row.champion_version,
                version=row.version,
                uplift={name: getattr(row, name) for name in ("estimate", "lower", "upper")},
                payoff=row.payoff or {},
                rows_by_day=row.days,
            )
            for row in self._db.execute(query)
            if row.days
        ]

    def watched_until(self, model: str) -> dict[int, date]:
        """The last scored day of each probation of the model, by the champion's number."""
        c = t.probation_day.c
        query = sa.select(c.seq, sa.func.max(c.day).label("last")).where(c.model == model).group_by(c.seq)
        return {row.seq: row.last for row in self._db.execute(query)}
