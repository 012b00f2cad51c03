"""The ledger's side of metrics and traces: counts and sums, one statement each for any number of models."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import AttemptRow, MonitoredRow, OutboxTally


class Tallies(Base):
    """Reads alone."""

    def count_attempts(self) -> dict[tuple[str, str], int]:
        """Attempts by model and state, dry runs too."""
        c = t.attempt.c
        return self._counted(sa.select(c.model, c.state, sa.func.count()).group_by(c.model, c.state))

    def count_verdicts(self) -> dict[tuple[str, str], int]:
        """Verdicts by model and decision, dry runs left out."""
        c = t.attempt.c
        dry_run = c.options["dry_run"].as_boolean()
        query = sa.select(c.model, c.verdict, sa.func.count()).where(
            c.verdict.is_not(None), sa.or_(dry_run.is_(None), dry_run.is_(sa.false()))
        )
        return self._counted(query.group_by(c.model, c.verdict))

    def count_champions(self) -> dict[tuple[str, str], int]:
        """Entries of the champion history by model and kind."""
        c = t.champion.c
        return self._counted(sa.select(c.model, c.kind, sa.func.count()).group_by(c.model, c.kind))

    def count_audited(self) -> dict[str, int]:
        """Entries of the audit log by action."""
        c = t.audit.c
        query = sa.select(c.action, sa.func.count()).group_by(c.action).order_by(c.action)
        return {row[0]: row[1] for row in self._db.execute(query)}

    def waits_for_claim(self, since: datetime) -> dict[str, list[float]]:
        """Seconds from the receipt of the event that started it to the claim, of each attempt since then (wall)."""
        a, e = t.attempt.c, t.event.c
        query = (
            sa.select(a.model, a.created_at, e.received_at)
            .join(t.event, e.id == a.trigger_event_pk)
            .where(a.created_at >= since)
        )
        waits: dict[str, list[float]] = {}
        for model, claimed, received in self._db.execute(query):
            waits.setdefault(model, []).append((claimed - received).total_seconds())
        return waits

    def seconds_by_spec(self) -> list[tuple[str, str, float]]:
        """Model, digest of the spec, and seconds of all finished steps of its attempts."""
        a, s = t.attempt.c, t.step.c
        joined = sa.join(t.step, t.attempt, a.id == s.attempt_id)
        sums: dict[tuple[str, str], float] = {}
        rows: Iterator[tuple[str, str, float]]
        if self._postgres:
            spent = sa.func.sum(sa.extract("epoch", s.finished_at - s.started_at))
            query = sa.select(a.model, a.spec_digest, spent).select_from(joined).group_by(a.model, a.spec_digest)
            rows = ((model, digest, float(seconds)) for model, digest, seconds in self._db.execute(query))
        else:
            each = sa.select(a.model, a.spec_digest, s.started_at, s.finished_at).select_from(joined)
            rows = ((m, digest, (end - start).total_seconds()) for m, digest, start, end in self._db.execute(each))
        for model, digest, seconds in rows:
            sums[model, digest] = sums.get((model, digest), 0.0) + seconds
        return [(*key, sums[key]) for key in sorted(sums)]

    def tested(self) -> dict[str, tuple[datetime, bool | None]]:
        """When each model's gate was last tested, and what the last judged test said; None where none was judged."""
        c = t.self_test.c
        judged = sa.func.max(sa.case((c.passed.is_not(None), c.id))).label("judged")
        last = sa.select(c.model, sa.func.max(c.at).label("at"), judged).group_by(c.model).subquery()
        query = sa.select(last.c.model, last.c.at, c.passed).join(t.self_test, c.id == last.c.judged, isouter=True)
        return {model: (at, passed) for model, at, passed in self._db.execute(query)}

    def newest_windows(self) -> dict[str, MonitoredRow]:
        """The newest window that each model's monitor has looked at."""
        c = t.monitored.c
        newest = sa.select(c.model, sa.func.max(c.window_end).label("end")).where(c.state != "due").group_by(c.model)
        last = newest.subquery()
        query = sa.select(t.monitored).join(last, sa.and_(last.c.model == c.model, last.c.end == c.window_end))
        return {row["model"]: MonitoredRow(**row) for row in self._db.execute(query).mappings()}

    def probation_totals(self) -> dict[str, tuple[str, float]]:
        """Of each model on probation: its spec's digest, and the uplift of its scored days that are a number."""
        p, d = t.probation.c, t.probation_day.c
        query = (
            sa.select(p.model, p.spec_digest, sa.func.coalesce(sa.func.sum(d.total), 0.0))
            .join(t.probation_day, sa.and_(d.model == p.model, d.seq == p.seq), isouter=True)
            .where(p.state == "watching")
            .group_by(p.model, p.spec_digest)
        )
        return {model: (digest, float(total)) for model, digest, total in self._db.execute(query)}

    def outbox_tallies(self) -> list[OutboxTally]:
        """What waits in the outbox, by kind."""
        c = t.outbox.c
        query = sa.select(c.kind, sa.func.count(), sa.func.min(c.created_at)).where(c.done_at.is_(None))
        return [OutboxTally(*row) for row in self._db.execute(query.group_by(c.kind).order_by(c.kind))]

    def count_due_posts(self) -> dict[str, int]:
        """Messages to people that are due and neither sent nor dropped, by channel."""
        c = t.notification_post.c
        waits = sa.and_(c.sent_at.is_(None), c.dropped.is_(None), c.due_at <= self.wall())
        query = sa.select(c.channel, sa.func.count()).where(waits).group_by(c.channel).order_by(c.channel)
        return {row[0]: row[1] for row in self._db.execute(query)}

    def next_expiries(self) -> dict[str, datetime]:
        """When the next request for approval that still waits expires, by model."""
        r, a = t.approval_request.c, t.attempt.c
        query = (
            sa.select(r.model, sa.func.min(r.expires_at))
            .join(t.attempt, a.id == r.attempt_id)
            .where(a.state == "awaiting_approval")
            .group_by(r.model)
        )
        return {row[0]: row[1] for row in self._db.execute(query)}

    def traceparents(self, pks: Collection[int]) -> dict[int, str]:
        """The publishers' spans of these events, of those that named one."""
        c = t.event.c
        query = sa.select(c.id, c.traceparent).where(c.id.in_(list(pks)), c.traceparent.is_not(None))
        return {row[0]: row[1] for row in self._db.execute(query)}

    def attempts_since(self, at: datetime) -> list[AttemptRow]:
        """Attempts that were opened or have ended since then (wall clock), the oldest first."""
        c = t.attempt.c
        query = sa.select(t.attempt).where(sa.or_(c.created_at >= at, c.concluded_at >= at)).order_by(c.created_at)
        return [AttemptRow(**row) for row in self._db.execute(query).mappings()]

    def outbox_times(self, dedupes: Collection[str]) -> list[tuple[str, datetime, datetime | None]]:
        """When each of these was written and told, of those that are there, in the order of writing."""
        c = t.outbox.c
        query = sa.select(c.dedupe, c.created_at, c.done_at).where(c.dedupe.in_(list(dedupes))).order_by(c.id)
        return [(row[0], row[1], row[2]) for row in self._db.execute(query)]

    def _counted(self, query: Any) -> dict[tuple[str, str], int]:
        return {(first, second): count for first, second, count in self._db.execute(query)}
