"""Asking for a retrain as a person who is known: the same event as another system's, and the audit log says who."""

from __future__ import annotations

import uuid

from ratchet.domain.events import Announcement, RetrainRequested, new_event
from ratchet.errors import Refused
from ratchet.ports.ledger import Ledger
from ratchet.workflow.telling import observation


def request_retrain(
    ledger: Ledger, model: str, actor: str, reason: str, *, via: str, user_id: str | None = None
) -> Announcement:
    """Ask for a retrain: the audit entry and the event, through the outbox, are one transaction.

    Admission decides on it as on any request: budget, quiet hours and lease hold. A relay tells it to Kafka, at least
    once, and its id makes a repetition harmless.

    Args:
        ledger: where it is kept and enqueued.
        model: which is to be retrained.
        actor: who asks; the event says so too.
        reason: why; kept with the event, the attempt and the audit log.
        via: where it was asked for, such as ``api``.
        user_id: the actor's id there.

    Returns:
        The event as it will be told.

    Raises:
        Refused: no reason, no such model, or one that is retired.
        EventRejected: a reason or a name that no event may hold.
    """
    if not reason.strip():
        raise Refused("a request needs a reason: it is what the attempt and the audit log will say")
    with ledger.transaction() as tx:
        row = next((row for row in tx.registered() if row.model == model), None)
        if row is None or row.retired:
            raise Refused(f"{model!r} is {'retired' if row else 'not deployed'}. Run: ratchet deploy")
        event = new_event(
            RetrainRequested(reason=reason.strip(), actor=actor),
            id=str(uuid.uuid4()),
            source=f"/ratchet/{via}",
            subject=model,
            time=tx.clock()[1],
        )
        observation(tx, event)
        detail = {"event": event.id, "reason": reason.strip(), "via": via}
        tx.audit(actor, "retrain.requested", model, detail | ({"user_id": user_id} if user_id else {}))
        return event
