"""The ledger's side of attempts: leases, steps, used days."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import CHUNK, Base, chunks
from ratchet.errors import Refused, StaleAttempt
from ratchet.ports.ledger import (
    AttemptRow,
    LeaseRow,
    UsedDays,
)

JUDGED_ON = ("holdout", "probation")
"""Roles of days on which a champion was compared with another model; all others are of days that made a challenger."""


class Attempts(Base):
    """Leases, attempts, steps, used days."""

    def lock_lease(self, model: str) -> LeaseRow:
        """The model's lease, held until the transaction ends.

        The model's own row is locked first: whoever needs both takes them in this order, so nobody waits in a ring.
        """
        self._db.execute(sa.select(t.model.c.model).where(t.model.c.model == model).with_for_update())
        row = self._one(sa.select(t.lease).where(t.lease.c.model == model).with_for_update())
        if row is None:
            raise Refused(f"model {model!r} is not registered. Run: ratchet deploy")
        return LeaseRow(**row)

    def leases(self) -> list[LeaseRow]:
        """All leases that are held."""
        query = sa.select(t.lease).where(t.lease.c.attempt_id.is_not(None))
        return [LeaseRow(**r) for r in self._db.execute(query).mappings()]

    def start_attempt(self, attempt: AttemptRow, ttl_seconds: float) -> None:
        """Insert the attempt and give it the lease (the caller holds ``lock_lease``)."""
        self._db.execute(sa.insert(t.attempt).values(asdict(attempt)))
        self._db.execute(
            sa.update(t.lease)
            .where(t.lease.c.model == attempt.model)
            .values(
                epoch=attempt.epoch,
                attempt_id=attempt.id,
                expires_at=self.wall() + timedelta(seconds=ttl_seconds),
            )
        )

    def renew_lease(self, attempt_id: str, ttl_seconds: float) -> None:
        """Keep the lease; refused when another attempt owns it."""
        answer = self._db.execute(
            sa.update(t.lease)
            .where(t.lease.c.attempt_id == attempt_id)
            .values(expires_at=self.wall() + timedelta(seconds=ttl_seconds))
        )
        if answer.rowcount == 0:
            raise StaleAttempt(f"attempt {attempt_id} no longer holds its model's lease: it was ended or taken over")

    def own_lease(self, attempt_id: str) -> AttemptRow:
        """The live attempt, its lease locked for this transaction; refused when stale or ended."""
        found = self.attempt(attempt_id)
        if found is None:
            raise StaleAttempt(f"there is no attempt {attempt_id!r}")
        lease = self.lock_lease(found.model)
        attempt = self.attempt(attempt_id) or found  # its state as it is under the lock
        if lease.attempt_id != attempt_id or lease.epoch != attempt.epoch:
            raise StaleAttempt(
                f"attempt {attempt_id} (epoch {attempt.epoch}, {attempt.state}) does not hold the lease of "
                f"{attempt.model}: epoch {lease.epoch} is {lease.attempt_id or 'free'}. Start a new run instead."
            )
        return attempt

    def release_lease(self, attempt_id: str) -> None:
        """Free the model; nothing happens when the attempt does not hold it."""
        self._db.execute(
            sa.update(t.lease).where(t.lease.c.attempt_id == attempt_id).values(attempt_id=None, expires_at=None)
        )

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        """One attempt."""
        row = self._one(sa.select(t.attempt).where(t.attempt.c.id == attempt_id))
        return AttemptRow(**row) if row else None

    def attempts(
        self,
        *,
        model: str | None = None,
        states: Collection[str] | None = None,
        dag_run: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[AttemptRow]:
        """Attempts, newest first."""
        c = t.attempt.c
        query = sa.select(t.attempt).order_by(c.created_at.desc(), c.epoch.desc()).limit(limit)
        if model is not None:
            query = query.where(c.model == model)
        if states is not None:
            query = query.where(c.state.in_(list(states)))
        if dag_run is not None:
            query = query.where(c.dag_id == dag_run[0], c.dag_run_id == dag_run[1])
        return [AttemptRow(**r) for r in self._db.execute(query).mappings()]

    def update_attempt(self, attempt_id: str, **values: Any) -> None:
        """Change columns of one attempt."""
        self._db.execute(sa.update(t.attempt).where(t.attempt.c.id == attempt_id).values(**values))

    def step_result(self, attempt_id: str, step: str) -> dict[str, Any] | None:
        """What the step answered, if it ended."""
        query = sa.select(t.step.c.result).where(t.step.c.attempt_id == attempt_id, t.step.c.step == step)
        return self._db.execute(query).scalar_one_or_none()

    def save_step(self, attempt_id: str, step: str, result: dict[str, Any], started_at: datetime) -> None:
        """Keep the step's answer; the first one stands."""
        self._db.execute(
            self._insert(t.step)
            .values(attempt_id=attempt_id, step=step, result=result, started_at=started_at, finished_at=self.wall())
            .on_conflict_do_nothing()
        )

    def step_hours(self, model: str, since: datetime) -> list[tuple[str, float]]:
        """Attempt and hours of each finished step, of the model's attempts since ``since`` (business)."""
        c = t.step.c
        query = (
            sa.select(c.attempt_id, c.started_at, c.finished_at)
            .join(t.attempt, t.attempt.c.id == c.attempt_id)
            .where(t.attempt.c.model == model, t.attempt.c.business_at >= since)
        )
        return [(r.attempt_id, (r.finished_at - r.started_at).total_seconds() / 3600) for r in self._db.execute(query)]

    def step_seconds(self, attempt_ids: Collection[str]) -> dict[str, dict[str, float]]:
        """Seconds of each finished step, by attempt; an attempt without any is left out."""
        c = t.step.c
        taken: dict[str, dict[str, float]] = {}
        for chunk in chunks(list(attempt_ids), CHUNK):
            query = sa.select(c.attempt_id, c.step, c.started_at, c.finished_at).where(c.attempt_id.in_(chunk))
            for row in self._db.execute(query):
                taken.setdefault(row.attempt_id, {})[row.step] = (row.finished_at - row.started_at).total_seconds()
        return taken

    def steps(self, attempt_id: str) -> dict[str, dict[str, Any]]:
        """Every stored step with its times."""
        query = sa.select(t.step).where(t.step.c.attempt_id == attempt_id).order_by(t.step.c.finished_at)
        return {r["step"]: dict(r) for r in self._db.execute(query).mappings()}

    def save_used_days(self, attempt: AttemptRow, challenger_version: int | None, used: Sequence[UsedDays]) -> None:
        """Record which days the attempt used, and for what."""
        rows = [
            {
                "attempt_id": attempt.id,
                "role": part.role,
                "day": day,
                "model": attempt.model,
                "champion_version": attempt.champion_version,
                "challenger_version": challenger_version,
                "rows": count,
            }
            for part in used
            for day, count in part.rows_by_day.items()
        ]
        if rows:
            self._db.execute(self._insert(t.used_day).values(rows).on_conflict_do_nothing())

    def used_days(self, model: str, champion_version: int | None) -> set[date]:
        """Days that are not fresh for judging against this champion; None: the constant decision a first one must beat.

        All days that made it (fit, calibrate, the verdict that promoted it), those of every verdict against it, dry
        runs and shadow too, and those of a probation that reverted to it.
        """
        c = t.used_day.c
        # By index: `IS NOT DISTINCT FROM` would read every day that any attempt of the model has ever used.
        judged = sa.and_(c.champion_version == champion_version, c.role.in_(JUDGED_ON))
        made = c.challenger_version == champion_version if champion_version is not None else sa.false()
        query = sa.select(c.day).where(c.model == model, sa.or_(judged, made))
        return set(self._db.execute(query.distinct()).scalars())
