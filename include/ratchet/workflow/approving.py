"""What people are asked before a challenger serves; all inside the caller's transaction, under the model's lease."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ratchet.domain.approval import (
    ApprovalDecision,
    ApprovalPolicy,
    ApprovalRequest,
    ApprovalResponse,
    decide_approval,
    needed,
)
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import AWAITING_APPROVAL, ApprovalRequestRow, ApprovalRow, AttemptRow, Tx
from ratchet.workflow.deployment import said

MOST_CHECKS = 20
"""Guardrails in one request, those that did not pass first; the dossier has all."""


def approval_of(tx: Tx, attempt: AttemptRow) -> ApprovalDecision | None:
    """How the attempt's approval stands now, by what is in the ledger; None when its spec asks nobody.

    People are asked by this, if they are needed and were not asked yet: the attempt waits for them from then on. The
    spec is the one the attempt was bound to when it claimed.
    """
    spec = ModelSpec.model_validate(tx.spec_document(attempt.spec_digest))
    policy = ApprovalPolicy.from_spec(spec.gate)
    need = needed(verdict_of(attempt), policy)
    if policy is None or need is None:
        return None
    asked = tx.approval_request(attempt.id)
    if asked is None:
        version = attempt.candidate_version
        if version is None or attempt.evidence_digest is None:
            raise Refused(f"attempt {attempt.id} has a verdict but no registered challenger: start a new run")
        now = tx.wall()
        asked = ApprovalRequestRow(
            attempt_id=attempt.id,
            model=attempt.model,
            challenger_version=version,
            champion_seq=attempt.champion_seq,
            evidence_digest=attempt.evidence_digest,
            reason="; ".join(filter(None, (need.reason, said(tx, attempt)))),
            people=need.people,
            value_at_risk=need.value_at_risk,
            asked_at=now,
            expires_at=now + policy.expires,
            runs=[],
        )
        tx.insert_approval_request(asked)
        tx.update_attempt(attempt.id, state=AWAITING_APPROVAL)
        detail = {
            "attempt": attempt.id,
            "version": asked.challenger_version,
            "before": attempt.champion_version,
            "evidence": asked.evidence_digest,
            "reason": asked.reason,
            "people": asked.people,
            "value_at_risk": asked.value_at_risk,
            "expires_at": asked.expires_at.isoformat(),
        }
        tx.audit(attempt.actor or "ratchet", "approval.requested", attempt.model, detail)
    champion = tx.current_champion(attempt.model)
    return decide_approval(
        _request(asked),
        [_response(row) for row in tx.approvals(attempt.id)],
        tx.wall(),
        champion.seq if champion else 0,
        attempt.evidence_digest or "",
    )


def keep_answer(
    tx: Tx, attempt: AttemptRow, *, actor: str, approve: bool, reason: str, via: str, user_id: str | None
) -> None:
    """Keep one person's answer, bound to what was asked, and audit it."""
    asked = tx.approval_request(attempt.id)
    if asked is None:
        raise Refused(f"nobody was asked about {attempt.id}. See: ratchet approvals")
    answer = ApprovalRow(
        attempt_id=attempt.id,
        challenger_version=asked.challenger_version,
        champion_seq=asked.champion_seq,
        evidence_digest=asked.evidence_digest,
        actor=actor,
        answer="approve" if approve else "reject",
        reason=reason,
        via=via,
        at=tx.wall(),
    )
    tx.insert_approval(answer)
    detail = {
        "attempt": attempt.id,
        "version": asked.challenger_version,
        "evidence": asked.evidence_digest,
        "reason": reason,
        "via": via,
    }
    tx.audit(
        actor,
        "approval.approved" if approve else "approval.rejected",
        attempt.model,
        detail | ({"user_id": user_id} if user_id else {}),
    )


def approvals_of(tx: Tx, attempt_id: str) -> dict[str, Any] | None:
    """What was asked about the attempt, what people answered, JSON-able; None when nobody was asked."""
    return approvals_by_attempt(tx, [attempt_id]).get(attempt_id)


def approvals_by_attempt(tx: Tx, attempt_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The same of many attempts, less those about which nobody was asked."""
    return {asked.attempt_id: _told(asked, answers) for asked, answers in tx.asked_about(attempt_ids)}


def _told(asked: ApprovalRequestRow, answers: Sequence[ApprovalRow]) -> dict[str, Any]:
    return {
        "asked_at": asked.asked_at.isoformat(),
        "expires_at": asked.expires_at.isoformat(),
        "reason": asked.reason,
        "people": asked.people,
        "value_at_risk": asked.value_at_risk,
        "challenger": asked.challenger_version,
        "champion_seq": asked.champion_seq,
        "evidence_digest": asked.evidence_digest,
        "answers": [
            {"actor": row.actor, "answer": row.answer, "reason": row.reason, "via": row.via, "at": row.at.isoformat()}
            for row in answers
        ],
    }


def verdict_of(attempt: AttemptRow) -> dict[str, Any]:
    """The verdict's record, as the pure decisions read it."""
    return (attempt.verdict_record or {}) | {"decision": attempt.verdict}


def subject(asked: ApprovalRequestRow, attempt: AttemptRow) -> str:
    """The question in one line."""
    over = f"over version {attempt.champion_version}" if attempt.champion_version else "as its first champion"
    return f"{asked.model}: let version {asked.challenger_version} serve, {over}?"


def body(asked: ApprovalRequestRow, attempt: AttemptRow, decision: ApprovalDecision) -> str:
    """What a person needs to know to answer, as Markdown."""
    verdict = verdict_of(attempt)
    unit = verdict.get("unit") or "payoff units"
    estimate, lower, upper = (_number(verdict.get(name)) for name in ("estimate", "lower", "upper"))
    rows, days = verdict.get("n_rows"), verdict.get("n_clusters")
    risk = "not known" if asked.value_at_risk is None else f"{asked.value_at_risk:,.0f} {unit}"
    lines = [
        f"Attempt `{attempt.id}` was judged to be worth promoting. Asked because {asked.reason}.",
        "",
        "| | |",
        "|---|---|",
        f"| uplift | **{estimate}** {unit} per decision |",
        f"| bounds | {lower} to {upper}, each one-sided |",
        f"| judged on | {_number(rows, ',.0f')} decisions of {_number(days, ',.0f')} days |",
        f"| value at risk | {risk} over as many days |",
        f"| people | {asked.people} must agree; {decision.reason} so far |",
        f"| expires | {asked.expires_at:%Y-%m-%d %H:%M} UTC: the champion stays then |",
        f"| started by | {_quiet(attempt.actor or attempt.trigger)}: {_quiet(attempt.reason)} |",
        f"| data up to | {attempt.as_of:%Y-%m-%d %H:%M} UTC |",
        f"| evidence | `{asked.evidence_digest}` |",
        f"| dossier | `ratchet trace {attempt.id}`, {_quiet(attempt.dossier_uri or 'none')} |",
        "",
        *_checks(verdict),
        "A rejection by one person decides. An answer counts for this version, this champion and this evidence only.",
    ]
    return "\n".join(lines)


def _checks(verdict: Mapping[str, Any]) -> list[str]:
    checks = sorted(verdict.get("checks") or (), key=lambda check: (check["passed"] is True, check["passed"] is None))
    if not checks:
        return []
    said = {True: "held", False: "broken", None: "not judged"}
    lines = ["| guardrail | slice | champion | challenger | required | |", "|---|---|---|---|---|---|"]
    for check in checks[:MOST_CHECKS]:
        cells = (
            _quiet(check["metric"]),
            _quiet(check["slice"] or ""),
            _number(check["champion"], ".4g"),
            _number(check["challenger"], ".4g"),
            _quiet(check["required"]),
            said[check["passed"]],
        )
        lines.append(f"| {' | '.join(cells)} |")
    if len(checks) > MOST_CHECKS:
        lines.append(f"| and {len(checks) - MOST_CHECKS} more in the dossier | | | | | |")
    return [*lines, ""]


def _number(value: Any, how: str = "+.4g") -> str:
    return "not known" if value is None else format(float(value), how)


def _quiet(text: Any) -> str:
    """Text of others inside a table: one line, and no mark-up of its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _request(row: ApprovalRequestRow) -> ApprovalRequest:
    return ApprovalRequest(
        attempt=row.attempt_id,
        challenger=row.challenger_version,
        champion_seq=row.champion_seq,
        evidence_digest=row.evidence_digest,
        people=row.people,
        asked_at=row.asked_at,
        expires_at=row.expires_at,
    )


def _response(row: ApprovalRow) -> ApprovalResponse:
    return ApprovalResponse(
        actor=row.actor,
        answer="approve" if row.answer == "approve" else "reject",
        reason=row.reason,
        at=row.at,
        challenger=row.challenger_version,
        champion_seq=row.champion_seq,
        evidence_digest=row.evidence_digest,
    )
