"""What an undecided attempt leaves behind: one event that is due when the days it lacked are fresh."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet.domain.admission import follow_up_reason
from ratchet.domain.events import read_data
from ratchet.domain.holdout import days_to_wait_for, fresh_at
from ratchet.domain.looks import Look, has_another, why_off
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, EventRow, FateChange, NewEvent, SpecRow, Tx
from ratchet.workflow.deciding import REQUESTED, spec_of, used_days

UNDECIDED = "not_enough_evidence"


@dataclass(frozen=True)
class Again:
    """The look that an attempt takes, or why one that was asked for is ``off``; neither when none was."""

    look: Look | None
    off: str | None

    def told(self, reason: str) -> str:
        """The attempt's reason, with why it takes no other look where one was asked for."""
        return f"{reason}; {self.off}" if self.off else reason


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
    spec = spec_of(tx, attempt.spec_digest)
    look = _next_look(attempt, spec)
    due = _due(tx, attempt, spec, again=look is not None)
    wish = f", for look {look.number} of {len(spec.gate.looks)} at version {look.challenger}" if look else ""
    data: dict[str, Any] = {
        "reason": f"{attempt.id} had not enough evidence; {due.days} more fresh days are waited for{wish}",
        "actor": "ratchet",
        "attempt": attempt.id,
        "days": due.days,
        "not_before": due.not_before.isoformat(),
        "look": asdict(look) if look else None,
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


def another_look(tx: Tx, trigger: EventRow | None, claimed: Sequence[EventRow], spec: SpecRow, code: str) -> Again:
    """Whether an attempt that claims these events looks at an earlier challenger again, or why it does not.

    It does when its trigger is the follow-up that asks for it. What takes a follow-up along before its date, or comes
    with it, asks for a model that knows the new situation, so that the look is off.
    """
    asking = next((row for row in claimed if row.origin == "attempt" and row.data.get("look")), None)
    if asking is None:
        return Again(None, None)
    look = Look(**asking.data["look"])
    champion = tx.current_champion(spec.model)
    judged = (attempt.id for attempt in tx.attempts(model=spec.model) if attempt.judged_at is not None)
    off = why_off(
        look,
        champion_seq=champion.seq if champion else 0,
        spec=spec.digest,
        code=code,
        last_judged=next(judged, None),
    )
    if trigger is None or trigger.pk != asking.pk:
        off = off or "another event asks for a new challenger"
    if off:
        return Again(None, f"look {look.number} at version {look.challenger} is off: {off}")
    return Again(look, None)


def _next_look(attempt: AttemptRow, spec: ModelSpec) -> Look | None:
    """The look that the plan has left for this attempt's challenger."""
    if attempt.challenger_version is None or not has_another(spec.gate.looks, attempt.look):
        return None
    return Look(
        number=attempt.look + 1,
        challenger=attempt.challenger_version,
        champion_seq=attempt.champion_seq,
        spec=attempt.spec_digest,
        code=attempt.code_digest,
        after=attempt.id,
    )


def _due(tx: Tx, attempt: AttemptRow, spec: ModelSpec, *, again: bool) -> FollowUp:
    """Counted from the days that are used by now against whoever serves now; another look has its own days already."""
    holdout, spine = spec.data.holdout, spec.data.spine
    verdict = attempt.verdict_record or {}
    days = days_to_wait_for(
        verdict.get("needed_clusters"),
        int(verdict.get("n_clusters") or 0) if again else 0,
        last=holdout.last,
        min_clusters=holdout.min_clusters,
        asked=spec.gate.target_gain is not None,
    )
    used, last = used_days(tx, attempt.model), attempt.as_of.astimezone(spine.zone).date() - timedelta(days=1)
    newest = max(used, default=last)
    if verdict.get("n_rows") == 0:
        # Days without a single row are used by nobody: counted from them, the follow-up would be due at once, for ever.
        newest = max(newest, last)
    return FollowUp(days, fresh_at(newest + timedelta(days=1), days, spine.timezone, spine.label_delay))
