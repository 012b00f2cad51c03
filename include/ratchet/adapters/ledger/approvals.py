"""The ledger's side of approvals: what people were asked, and what they answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import (
    ApprovalRequestRow,
    ApprovalRow,
)

_ANSWER = [t.approval.c[field.name] for field in fields(ApprovalRow)]


class Approvals(Base):
    """Requests and answers."""

    def insert_approval_request(self, request: ApprovalRequestRow) -> None:
        """Ask about an attempt, once."""
        self._db.execute(sa.insert(t.approval_request).values(asdict(request)))

    def approval_request(self, attempt_id: str) -> ApprovalRequestRow | None:
        """What was asked about the attempt."""
        row = self._one(sa.select(t.approval_request).where(t.approval_request.c.attempt_id == attempt_id))
        return ApprovalRequestRow(**row) if row else None

    def approval_requests(self, model: str) -> list[ApprovalRequestRow]:
        """All that was ever asked about the model's attempts, oldest first."""
        c = t.approval_request.c
        query = sa.select(t.approval_request).where(c.model == model).order_by(c.asked_at)
        return [ApprovalRequestRow(**row) for row in self._db.execute(query).mappings()]

    def asked_about(self, attempts: Collection[str]) -> list[tuple[ApprovalRequestRow, list[ApprovalRow]]]:
        """What was asked about these attempts, each with its answers in the order in which they came."""
        c = t.approval_request.c
        asked = self._db.execute(sa.select(t.approval_request).where(c.attempt_id.in_(list(attempts)))).mappings()
        answers: dict[str, list[ApprovalRow]] = {}
        among = t.approval.c.attempt_id.in_(list(attempts))
        for row in self._db.execute(sa.select(*_ANSWER).where(among).order_by(t.approval.c.id)):
            answers.setdefault(row.attempt_id, []).append(ApprovalRow(*row))
        return [(ApprovalRequestRow(**row), answers.get(row["attempt_id"], [])) for row in asked]

    def show_approval_request(self, attempt_id: str, runs: Sequence[str]) -> None:
        """Keep which runs of the orchestrator showed the request."""
        c = t.approval_request.c
        self._db.execute(sa.update(t.approval_request).where(c.attempt_id == attempt_id).values(runs=list(runs)))

    def insert_approval(self, approval: ApprovalRow) -> None:
        """Keep an answer; none is ever changed."""
        self._db.execute(sa.insert(t.approval).values(asdict(approval)))

    def approvals(self, attempt_id: str) -> list[ApprovalRow]:
        """The answers, in the order in which they came."""
        query = sa.select(*_ANSWER).where(t.approval.c.attempt_id == attempt_id).order_by(t.approval.c.id)
        return [ApprovalRow(*row) for row in self._db.execute(query)]
