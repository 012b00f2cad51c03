"""Letting a model sleep, and waking it: for a while it starts no run by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet.domain.snooze import Snooze, end_of_snooze
from ratchet.errors import Refused
from ratchet.ports.ledger import Ledger, Tx


@dataclass(frozen=True)
class Who:
    """Who lets a model sleep or wakes it, and why; ``via`` is where, and ``user_id`` the id there."""

    name: str
    reason: str
    via: str
    user_id: str | None = None

    def __post_init__(self) -> None:
        """Neither is done without a reason."""
        if not self.reason.strip():
            raise Refused("a snooze, and its end, need a reason: it is what its events and the audit log will say")

    @property
    def said(self) -> dict[str, str]:
        """What the audit log says beside the name."""
        told = {"reason": self.reason.strip(), "via": self.via}
        return told | ({"user_id": self.user_id} if self.user_id else {})


def snooze(
    ledger: Ledger, model: str, by: Who, *, length: timedelta | None = None, until: datetime | None = None
) -> Snooze:
    """Let the model start no run by itself for so long, or until then (business time); it replaces an earlier snooze.

    Events that count, follow-ups and the schedule's requests are deferred until it ends, a person's request is not. An
    attempt at work goes on, and so do probation, monitor, scoring, approvals and rollback. What waits is decided again
    within a tick, so that a doorbell that was due falls silent.

    Raises:
        Refused: no reason, no such model or a retired one, or an end that :func:`end_of_snooze` refuses.
    """
    with ledger.transaction() as tx:
        _lock(tx, model)
        _, now = tx.clock()
        before = tx.snoozes([model]).get(model)
        asked = Snooze(now, end_of_snooze(now, length=length, until=until), by.name, by.reason.strip()).after(before)
        tx.snooze(model, asked)
        tx.mark([model])
        detail: dict[str, Any] = {"until": asked.until.isoformat()}
        if before is not None and before.holds(now):
            detail["before"] = before.until.isoformat()
        tx.audit(by.name, "model.snoozed", model, detail | by.said)
        return asked


def wake(ledger: Ledger, model: str, by: Who) -> bool:
    """End the model's snooze now: what waited for it is decided again within a tick.

    Returns:
        False where it did not sleep: then nothing changes and nothing is audited.

    Raises:
        Refused: no reason, no such model, or a retired one.
    """
    with ledger.transaction() as tx:
        _lock(tx, model)
        before = tx.snoozes([model]).get(model)
        if before is None or not before.holds(tx.clock()[1]):
            return False
        tx.wake(model)
        tx.mark([model])
        tx.audit(by.name, "model.woken", model, {"before": before.until.isoformat()} | by.said)
        return True


def asleep(tx: Tx, models: list[str] | None = None) -> dict[str, Snooze]:
    """The models, or which of these, that sleep now."""
    _, now = tx.clock()
    return {model: snooze for model, snooze in tx.snoozes(models).items() if snooze.holds(now)}


def _lock(tx: Tx, model: str) -> None:
    """Hold the model's row: no decision and no claim is made meanwhile."""
    if not tx.lock_model(model):
        raise Refused(f"model {model!r} is not deployed or is retired. Run: ratchet deploy")
