"""When a watch begins and ends, and what waits for it: what promotions, the sweep and the watch itself agree on."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from ratchet.domain.holdout import mature_at
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, ChampionRow, ProbationRow, Tx
from ratchet.workflow.deciding import as_of, spec_of

if TYPE_CHECKING:
    from ratchet.domain.probation import ProbationPlan

logger = logging.getLogger(__name__)
WATCHING = "watching"
ACTOR = "ratchet (probation)"
_DAY = timedelta(days=1)


def begin_probation(tx: Tx, attempt: AttemptRow, champion: ChampionRow, predecessor: ChampionRow) -> None:
    """Watch a new champion from the first whole local day it serves, where the attempt's spec asks for it."""
    spec = spec_of(tx, attempt.spec_digest)
    if spec.probation is None:
        return
    business, spine = tx.clock()[1], spec.data.spine
    first_day = business.astimezone(spine.zone).date() + _DAY
    last_day = first_day + spec.probation.duration - _DAY
    planned, why = plan_of(spec, attempt)
    tx.insert_probation(
        ProbationRow(
            model=champion.model,
            seq=champion.seq,
            version=champion.version,
            predecessor_seq=predecessor.seq,
            predecessor_version=predecessor.version,
            spec_digest=attempt.spec_digest,
            first_day=first_day,
            last_day=last_day,
            since=business,
            until=mature_at(last_day, spine.timezone, spine.label_delay),
            state=WATCHING,
            reason=f"from {first_day} to {last_day} against version {predecessor.version}",
            plan=asdict(planned) if planned else {"why": why},
            record={},
            opened_at=tx.wall(),
        )
    )
    tx.audit(
        ACTOR,
        "probation.begun",
        champion.model,
        {
            "seq": champion.seq,
            "version": champion.version,
            "predecessor": predecessor.version,
            "days": [first_day.isoformat(), last_day.isoformat()],
        },
    )


def end_probation(tx: Tx, probation: ProbationRow, state: str, reason: str, actor: str = ACTOR) -> None:
    """Close a watch, audited with what it has found; what waited for it is decided at the next sweep."""
    tx.update_probation(probation.model, probation.seq, state=state, reason=reason, ended_at=tx.wall())
    detail = {"seq": probation.seq, "version": probation.version, "reason": reason, "record": probation.record}
    tx.audit(actor, f"probation.{state}", probation.model, detail)


def supersede_probation(tx: Tx, model: str, reason: str, actor: str = ACTOR) -> None:
    """Close the model's watch, if there is one, because another champion serves."""
    probation = tx.open_probation(model)
    if probation is not None:
        end_probation(tx, probation, "superseded", reason, actor)


def holding(tx: Tx, model: str) -> ProbationRow | None:
    """The watch that new promotions of the model wait for; None when there is none, or its spec lets them take over."""
    probation = tx.open_probation(model)
    if probation is None:
        return None
    spec = readable_spec(tx, probation.spec_digest)
    asked = spec.probation if spec else None
    return probation if asked is not None and asked.on_new_promotion == "wait" else None


def readable_spec(tx: Tx, digest: str) -> ModelSpec | None:
    """The spec with this digest; None, and the log says so, when another code deployed it and this one cannot."""
    try:
        return spec_of(tx, digest)
    except ValueError as error:
        logger.error("left alone: spec %s is none for this code (%s)", digest[:12], error)  # noqa: TRY400
        return None


def days_of(probation: ProbationRow) -> list[date]:
    """All local days of the watch."""
    return [probation.first_day + i * _DAY for i in range((probation.last_day - probation.first_day).days + 1)]


def days_due(tx: Tx, probation: ProbationRow) -> list[date]:
    """The days whose labels are known and that were not scored yet, in order."""
    spec = readable_spec(tx, probation.spec_digest)
    until = as_of(tx, spec) if spec else None
    if spec is None or until is None:
        return []
    spine = spec.data.spine
    done = {scored.day for scored in tx.probation_days(probation.model, probation.seq)}
    return [
        day
        for day in days_of(probation)
        if day not in done and mature_at(day, spine.timezone, spine.label_delay) <= until
    ]


def plan_of(spec: ModelSpec, attempt: AttemptRow | None) -> tuple[ProbationPlan | None, str]:
    """What a watch will see if days vary as those of this attempt's verdict did; else None and why."""
    from ratchet.domain.probation import LEAST_PLANNED, ProbationPolicy, plan_probation  # noqa: PLC0415 - scipy

    diagnostics: dict[str, Any] = ((attempt.verdict_record if attempt else None) or {}).get("diagnostics") or {}
    days = diagnostics.get("clusters") or []
    planned = plan_probation(
        [day["total_uplift"] for day in days], [day["rows"] for day in days], ProbationPolicy.from_spec(spec)
    )
    return planned, "" if planned else f"no verdict tells yet how days vary ({len(days)} of {LEAST_PLANNED} days)"
