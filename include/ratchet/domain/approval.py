"""Whether people must agree before a challenger serves, and whether they have: two pure decisions.

An approval is an answer to one request, and a request is bound to three things: the challenger, the champion it beat
(by its place in the history) and the digest of the evidence. When one of them changes the request is void, whatever
was answered. A request expires on the wall clock, because people answer by theirs: replayed business time may move by
months in a second.

The **value at risk** of a promotion is the money that the judged days would have moved::

    max(|estimate|, |lower|) [unit per decision]  ×  decisions of the holdout

which is what the change is expected to move, or at the gate's confidence could move the other way, over as many days
as it was judged on: about the time until fresh days can tell whether it was right. It is an amount at stake, not a
quantile of losses as in finance, where a challenger whose lower bound is positive would have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from ratchet.domain.spec import Gate

Answer = Literal["approve", "reject"]
State = Literal["waiting", "approved", "rejected", "expired", "void"]


@dataclass(frozen=True)
class ApprovalPolicy:
    """When to ask, for how long, and how many. Bounds are payoff units per decision, the amount is payoff units."""

    lower_bound_below: float | None
    expires: timedelta
    two_people_above: float | None

    @classmethod
    def from_spec(cls, gate: Gate) -> ApprovalPolicy | None:
        """The policy of a spec; None where nobody is asked. ``lower_bound_below`` None asks always."""
        if gate.approval is None:
            return None
        when = gate.approval.when
        return cls(when.lower_bound_below if when else None, gate.approval.expires, gate.approval.two_people_above)


@dataclass(frozen=True)
class ApprovalNeeded:
    """Why people are asked, how many must agree, and what is at risk (None: not known, which asks for two)."""

    reason: str
    people: int
    value_at_risk: float | None


@dataclass(frozen=True)
class ApprovalRequest:
    """What was asked, when, and what an answer to it is bound to. ``expires_at`` is on the wall clock."""

    attempt: str
    challenger: int
    champion_seq: int
    evidence_digest: str
    people: int
    asked_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class ApprovalResponse:
    """One person's answer, and what that person was shown."""

    actor: str
    answer: Answer
    reason: str
    at: datetime
    challenger: int
    champion_seq: int
    evidence_digest: str


@dataclass(frozen=True)
class ApprovalDecision:
    """How a request stands; ``approvers`` are the distinct people who agreed, first answers first."""

    state: State
    reason: str
    approvers: tuple[str, ...] = ()


def value_at_risk(verdict: Mapping[str, Any]) -> float | None:
    """What is at stake, in payoff units, by the module's definition; None when a number is missing or not finite.

    ``verdict`` is the stored record of a `ratchet.domain.gate.Verdict`: ``estimate`` and ``lower`` in payoff units per
    decision, ``n_rows`` decisions.
    """
    numbers = [verdict.get(name) for name in ("estimate", "lower", "n_rows")]
    if any(number is None or not math.isfinite(number) for number in numbers):
        return None
    estimate, lower, rows = (float(number) for number in numbers if number is not None)
    return max(abs(estimate), abs(lower)) * rows


def needed(verdict: Mapping[str, Any], policy: ApprovalPolicy | None) -> ApprovalNeeded | None:
    """Whether this verdict needs people's agreement to be acted upon; None when it does not.

    A verdict that does not promote needs none. A bound or an amount that is not known asks, and asks for two where the
    spec speaks of two: what nobody can put a number on is not small.
    """
    if policy is None or verdict.get("decision") != "promote":
        return None
    lower, at_risk = verdict.get("lower"), value_at_risk(verdict)
    unit = verdict.get("unit") or "payoff units"
    why = []
    if policy.lower_bound_below is None:
        why.append("the spec asks for an approval of every promotion")
    elif lower is None or math.isnan(lower):
        why.append(f"the lower bound is not known, and below {policy.lower_bound_below:g} the spec asks")
    elif lower < policy.lower_bound_below:
        why.append(f"the lower bound {lower:g} lies below {policy.lower_bound_below:g} {unit} per decision")
    two = policy.two_people_above is not None and (at_risk is None or at_risk > policy.two_people_above)
    if two:
        amount = "an unknown amount" if at_risk is None else f"{at_risk:,.0f} {unit}"
        why.append(f"{amount} at risk: above {policy.two_people_above:,.0f} {unit} two people must agree")
    if not why:
        return None
    return ApprovalNeeded("; ".join(why), 2 if two else 1, at_risk)


def decide_approval(
    request: ApprovalRequest,
    responses: Sequence[ApprovalResponse],
    now: datetime,
    champion_seq: int,
    evidence_digest: str,
) -> ApprovalDecision:
    """How the request stands at ``now``, given who serves (``champion_seq``) and what the evidence is.

    In this order: void when the champion or the evidence is another; rejected when anybody rejected it in time;
    approved when enough different people approved it in time; expired; waiting. Answers that were given to something
    else, before the question or after its expiry do not count. The same person twice is one person; names are compared
    without regard to case and surrounding space. Where two must agree, the one who started the run may be one of them,
    and so is never the only one.
    """
    if champion_seq != request.champion_seq:
        return ApprovalDecision(
            "void", f"asked when champion #{request.champion_seq} served, but #{champion_seq} serves now"
        )
    if evidence_digest != request.evidence_digest:
        return ApprovalDecision(
            "void", f"asked on evidence {request.evidence_digest[:12]}, but it is {evidence_digest[:12]} now"
        )
    counted = sorted((r for r in responses if _counts(r, request)), key=lambda r: r.at)
    for response in counted:
        if response.answer == "reject":
            return ApprovalDecision("rejected", f"rejected by {response.actor}: {response.reason}")
    people: dict[str, str] = {}
    for response in counted:
        people.setdefault(response.actor.strip().casefold(), response.actor.strip())
    approvers = tuple(people.values())
    said = f"{len(approvers)} of {request.people} approvals" + (f" ({', '.join(approvers)})" if approvers else "")
    if len(approvers) >= request.people:
        return ApprovalDecision("approved", said, approvers)
    if now >= request.expires_at:
        return ApprovalDecision("expired", f"{said} when it expired at {request.expires_at:%Y-%m-%d %H:%M}Z", approvers)
    return ApprovalDecision("waiting", said, approvers)


def _counts(response: ApprovalResponse, request: ApprovalRequest) -> bool:
    seen = (response.challenger, response.champion_seq, response.evidence_digest)
    asked = (request.challenger, request.champion_seq, request.evidence_digest)
    return seen == asked and request.asked_at <= response.at < request.expires_at and bool(response.actor.strip())
