"""Taking a model out of service."""

from __future__ import annotations

from typing import Any

from ratchet.errors import Refused
from ratchet.ports.ledger import LIVE_STATES, WAITING_STATES, FateChange, Ledger
from ratchet.workflow.promotion import release


def retire(ledger: Ledger, model: str, actor: str, reason: str, most_tries: int) -> dict[str, Any]:
    """End what is open for the model and let nothing new begin, in one transaction; its history stays.

    An attempt at work, or waiting to be promoted or approved, is superseded: the next write of its task is refused.
    Open events are rejected, the doorbell falls silent and a snooze is over. The champion goes on serving. Retiring
    twice changes nothing.

    Returns:
        ``{"retired": false when it was already, "attempts": ids superseded, "events": how many rejected}``

    Raises:
        Refused: no reason, or no such model.
    """
    if not reason.strip():
        raise Refused("retiring a model needs a reason: it is what its events and the audit log will say")
    with ledger.transaction() as tx:
        tx.lock_lease(model)
        if any(row.model == model and row.retired for row in tx.specs()):
            return {"retired": False, "attempts": [], "events": 0}
        tx.retire(model)
        why = f"{model} was retired by {actor}: {reason}"
        ended = tx.attempts(model=model, states=(*LIVE_STATES, *WAITING_STATES))
        for attempt in ended:
            release(tx, attempt, "superseded", why, most_tries)
        rows = tx.events(model=model, fates=("pending", "deferred"))
        tx.change_fates([FateChange(row.pk, "rejected", why) for row in rows])
        tx.set_due(model, None, why)
        tx.wake(model)
        tx.unmark(model)
        answer = {"attempts": [attempt.id for attempt in ended], "events": len(rows)}
        tx.audit(actor, "model.retired", model, {"reason": reason} | answer)
    return {"retired": True} | answer
