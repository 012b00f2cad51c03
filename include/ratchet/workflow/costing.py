"""What every attempt took and what it keeps, from the ledger's steps and the sizes of its objects in storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from ratchet.domain.costs import AttemptCost, owners_of
from ratchet.ports.ledger import AttemptRow, Ledger, Tx
from ratchet.ports.store import Store

KINDS = ("snapshots", "evidence", "dossiers", "cards")
"""Where storage keeps what an attempt leaves behind."""


@dataclass(frozen=True)
class Costs:
    """Every attempt's cost, the newest first, and the bytes of objects that name no attempt."""

    attempts: tuple[AttemptCost, ...]
    orphaned_bytes: int


def costs_of(ledger: Ledger, store: Callable[[], Store], model: str | None = None) -> Costs:
    """What the attempts of one model, or of all, have cost; orphans are looked for only among all.

    Raises:
        Unavailable: ledger or storage did not answer.

    """
    objects = {key: size for kind in KINDS for key, size in store().sizes(kind).items()}
    with ledger.transaction() as tx:
        attempts = tx.attempts(model=model)
        held, orphaned = owners_of(objects, (attempt.id for attempt in attempts))
        documents = {digest: tx.spec_document(digest) for digest in {attempt.spec_digest for attempt in attempts}}
        told = tuple(_cost(tx, a, documents[a.spec_digest], held.get(a.id, 0)) for a in attempts)
    return Costs(told, orphaned if model is None else 0)


def _cost(tx: Tx, attempt: AttemptRow, spec: Mapping[str, Any], stored_bytes: int) -> AttemptCost:
    """Of an attempt, by its own spec as it was kept: this code need not read it."""
    zone = ZoneInfo(spec["data"]["spine"]["timezone"])
    seconds = sum((step["finished_at"] - step["started_at"]).total_seconds() for step in tx.steps(attempt.id).values())
    return AttemptCost(
        attempt=attempt.id,
        model=attempt.model,
        owner=spec["owner"]["team"],
        month=f"{attempt.business_at.astimezone(zone):%Y-%m}",
        core_seconds=seconds * spec["runtime"]["threads"],
        stored_bytes=stored_bytes,
        promoted=attempt.promoted,
    )
