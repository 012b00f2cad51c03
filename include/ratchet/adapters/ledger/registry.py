"""The ledger's side of the specs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.ports.ledger import (
    Registration,
    SpecRow,
)


class Registry(Base):
    """Specs by digest, and which one is current."""

    def publish_spec(self, model: str, digest: str, document: dict[str, Any], *, revive: bool = False) -> bool:
        """Make this the model's current spec; true when that changed anything.

        A retired model is left alone, unless it is to ``revive``.
        """
        known = self._one(sa.select(t.model).where(t.model.c.model == model).with_for_update())
        retired = known is not None and known["retired_at"] is not None
        if (retired and not revive) or (known and not retired and known["spec_digest"] == digest):
            return False
        now = self.wall()
        spec = self._insert(t.spec).values(digest=digest, model=model, document=document, deployed_at=now)
        self._db.execute(spec.on_conflict_do_nothing())
        row = self._insert(t.model).values(model=model, spec_digest=digest, retired_at=None)
        self._db.execute(
            row.on_conflict_do_update(index_elements=["model"], set_={"spec_digest": digest, "retired_at": None})
        )
        self._db.execute(sa.insert(t.touched).values(model=model))
        for table in (t.lease, t.doorbell):
            self._db.execute(self._insert(table).values(model=model).on_conflict_do_nothing())
        return True

    def retire(self, model: str) -> None:
        """Take the model out of service: its events are rejected from now on; its history stays."""
        self._db.execute(sa.update(t.model).where(t.model.c.model == model).values(retired_at=self.wall()))

    def specs(self, models: Collection[str] | None = None) -> list[SpecRow]:
        """The current spec of every registered model, or of these."""
        query = sa.select(t.model.c.model, t.spec.c.digest, t.spec.c.document, t.model.c.retired_at).join(
            t.spec, t.spec.c.digest == t.model.c.spec_digest
        )
        if models is not None:
            query = query.where(t.model.c.model.in_(list(models)))
        return [
            SpecRow(r["model"], r["digest"], r["document"], r["retired_at"] is not None)
            for r in self._db.execute(query.order_by(t.model.c.model)).mappings()
        ]

    def registered(self, models: Collection[str] | None = None) -> list[Registration]:
        """Every registered model, or these, with its current spec's digest only: cheap enough to ask for each batch."""
        c = t.model.c
        query = sa.select(c.model, c.spec_digest, c.retired_at).order_by(c.model)
        if models is not None:
            query = query.where(c.model.in_(list(models)))
        return [Registration(r.model, r.spec_digest, r.retired_at is not None) for r in self._db.execute(query)]

    def spec_document(self, digest: str) -> dict[str, Any]:
        """The spec with this digest, current or not."""
        document: dict[str, Any] = self._db.execute(
            sa.select(t.spec.c.document).where(t.spec.c.digest == digest)
        ).scalar_one()
        return document

    def spec_documents(self, digests: Collection[str]) -> dict[str, dict[str, Any]]:
        """The specs with these digests, current or not."""
        query = sa.select(t.spec.c.digest, t.spec.c.document).where(t.spec.c.digest.in_(list(digests)))
        return {row.digest: row.document for row in self._db.execute(query)}
