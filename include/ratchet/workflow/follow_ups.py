"""What an undecided attempt leaves behind: one event that is due when the days it lacked are fresh."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet.domain.admission import follow_up_reason
from ratchet.domain.events import read_data
from ratchet.domain.holdout import days_to_wait_for, fresh_at
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, FateChange, NewEvent, Tx
from ratchet.workflow.deciding import REQUESTED, spec_of, used_days

UNDECIDED = "not_enough_evidence"


@dataclass(frozen=True)
class FollowUp:
    """``days`` more fresh days are waited for; all of them are mature at ``not_before`` (business)."""

    days: int
    not_before: datetime


def follow_up(tx: Tx, attempt: AttemptRow) -> FollowUp | None:
    """Leave the attempt's follow-up in the inbox where its verdict is not enough evidence; part of its conclusion.

    The event is known by the attempt, so that writing it again changes nothing. None is left by a dry run, and by an
    attempt for a first champion, which a person asks for (docs/decisions/0037).
    """
    if attempt.verdict != UNDECIDED or attempt.dry_run or attempt.champion_seq == 0:
        return None
    due = _due(tx, attempt, spec_of(tx, attempt.spec_digest))
    data: dict[str, Any] = {
        "reason": f"{attempt.id} had not enough evidence; {due.days} more fresh days are waited for",
        "actor": "ratchet",
        "attempt": attempt.id,
        "days": due.days,
        "not_before": due.not_before.isoformat(),
    }
    source, event_id = f"/ratchet/attempts/{attempt.id}", f"{attempt.id}:follow-up"
    tx.insert_events(
        [
            NewEvent(
                source=source,
                event_id=event_id,
                model=attempt.model,
                type=REQUESTED,
                time=attempt.business_at,
                digest=hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest(),
                data=data,
                origin="attempt",
            )
        ]
    )
    (row,) = tx.events(model=attempt.model, source=source, event_id=event_id)
    reason = follow_up_reason(read_data(row.type, row.data), due.not_before)
    tx.change_fates([FateChange(row.pk, "deferred", reason, due.not_before)])
    return due


def _due(tx: Tx, attempt: AttemptRow, spec: ModelSpec) -> FollowUp:
    """Counted from the days that are used by now against whoever serves now."""
    holdout, spine = spec.data.holdout, spec.data.spine
    days = days_to_wait_for(
        (attempt.verdict_record or {}).get("needed_clusters"),
        0,
        last=holdout.last,
        min_clusters=holdout.min_clusters,
        asked=spec.gate.target_gain is not None,
    )
    used = used_days(tx, attempt.model)
    newest = max(used, default=attempt.as_of.astimezone(spine.zone).date() - timedelta(days=1))
    return FollowUp(days, fresh_at(newest + timedelta(days=1), days, spine.timezone, spine.label_delay))
