"""Gathers what an audit asks of each model, from ledger and feature repository; the rules are the domain's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any

from ratchet.domain.admission import History
from ratchet.domain.findings import (
    Champion,
    Consent,
    Facts,
    Finding,
    Proof,
    SelfTested,
    Spent,
    Used,
    Watched,
    findings,
)
from ratchet.domain.sensitive import Ruling, rule_columns
from ratchet.domain.spec import Budget, ModelSpec
from ratchet.errors import RatchetError, Refused
from ratchet.ports.features import Features
from ratchet.ports.ledger import AttemptRow, Ledger, SpecRow, Tx
from ratchet.workflow.auditing import AuditLog
from ratchet.workflow.deciding import as_of, history

REPRODUCED = "attempt.reproduced"
KINDS = {
    "ratchet.drift.detected.v1": "drift",
    "ratchet.drift.cleared.v1": "drift",
    "ratchet.data.arrived.v1": "data",
    "ratchet.performance.degraded.v1": "performance",
}


@dataclass(frozen=True)
class Report:
    """What an audit found, and when it looked: by the wall, and by the business clock, which may be a replayed one."""

    at: datetime
    business: datetime
    clock: str
    models: tuple[str, ...]
    findings: tuple[Finding, ...]


class Inspection:
    """The verb of the audit; it changes nothing."""

    def __init__(
        self,
        ledger: Ledger,
        audit_log: AuditLog,
        features: Callable[[], Features],
        folders: Callable[[], Collection[str]],
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._audit_log = audit_log
        self._features = features

    def inspect(self, model: str | None = None) -> Report:
        """Look at one model, or at every model that is deployed, and at the audit log.

        Of a retired model nothing is asked but that it is known to be one.

        Raises:
            Refused: the model is not deployed.
            Unavailable: the ledger or the storage did not answer.

        """
        with self._ledger.transaction() as tx:
            rows = [row for row in tx.specs() if model in {None, row.model}]
            wall, (mode, business) = tx.wall(), tx.clock()
        if model is not None and not rows:
            raise Refused(f"there is no model {model!r}. Deploy its spec first: ratchet deploy")
        found = [finding for row in rows for finding in self._of(row)]
        return Report(wall, business, mode, tuple(row.model for row in rows), (*found, *self._of_the_log()))

    def _of(self, row: SpecRow) -> Sequence[Finding]:
        if row.retired:
            said = "the model is retired; its last champion goes on serving"
            return [Finding(row.model, "retired", "info", said, f"ratchet deploy --revive {row.model}")]
        try:
            spec = ModelSpec.model_validate(row.document)
        except ValueError:
            said = "its deployed spec is none for this code, so nothing of it is decided"
            return [Finding(row.model, "spec", "critical", said, f"ratchet validate {row.model}; ratchet deploy")]
        ruling, unknown = self._ruling(spec)
        with self._ledger.transaction() as tx:
            return findings(facts_of(tx, spec, ruling, unknown, has_folder=row.model in self._folders()))

    def _ruling(self, spec: ModelSpec) -> tuple[Ruling, str | None]:
        try:
            return rule_columns(spec, self._features().tagged(spec)), None
        except RatchetError as error:
            return Ruling((), ()), str(error)

    def _of_the_log(self) -> list[Finding]:
        state = self._audit_log.verify()
        if not state.problems:
            count = state.head.seq if state.head else 0
            return [Finding(None, "log", "ok", f"the audit log is whole: {count:,} entries")]
        remedy = "ratchet audit verify; docs/operations.md"
        return [Finding(None, "log", "critical", problem, remedy) for problem in state.problems]


def facts_of(tx: Tx, spec: ModelSpec, ruling: Ruling, unknown: str | None = None, *, has_folder: bool = True) -> Facts:
    """All that the rules ask of a model that is deployed."""
    _, business = tx.clock()
    past = history(tx, spec, business, as_of(tx, spec))
    marks = tx.watermarks()
    attempts = tx.attempts(model=spec.model)
    budget, hours = spec.retrain.budget, past.core_hours
    source = marks.get(spec.data.spine.source)
    return Facts(
        spec=spec,
        business=business,
        wall=tx.wall(),
        judged=sum(attempt.verdict is not None for attempt in attempts),
        champion=_champion(tx, spec.model),
        heard=_heard(tx, spec.model),
        complete={name: marks[name].complete_until if name in marks else None for name in spec.datasets},
        label_completeness=source.label_completeness if source else None,
        self_test=_self_test(tx, spec.model),
        spent=Spent(
            past.runs_started_today,
            budget.runs_per_day,
            hours.spent if hours else None,
            budget.core_hours_per_month,
            used_of(budget, past),
        ),
        consents=[
            Consent(attempt.id, answer.actor, attempt.actor if attempt.trigger in {"manual", "init"} else None)
            for attempt in attempts
            if attempt.promoted
            for answer in tx.approvals(attempt.id)
            if answer.answer == "approve"
        ],
        sensitive=ruling.allowed,
        sensitive_problems=ruling.problems,
        sensitive_unknown=unknown,
        watched=_watched(tx, spec.model),
        used=_last_used(tx, spec, attempts),
        has_folder=has_folder,
        snooze=past.snooze,
    )


def _last_used(tx: Tx, spec: ModelSpec, attempts: Sequence[AttemptRow]) -> datetime | None:
    """The business time of the newest attempt, or the end of the newest scored day."""
    zone = spec.data.spine.zone
    days = [row.day + timedelta(days=1) for row in tx.scored_days(spec.model)[-1:]]
    return max(
        [*(datetime.combine(day, time(), zone) for day in days), *(attempt.business_at for attempt in attempts)],
        default=None,
    )


def used_of(budget: Budget, past: History) -> tuple[Used, ...]:
    """The day's core hours and the month's money, where they are limited."""
    today, month, money = past.core_hours_today, past.core_hours, budget.money_per_month
    used = []
    if budget.core_hours_per_day is not None and today is not None:
        used.append(Used(today.spent, budget.core_hours_per_day, "core hours today"))
    if money is not None and month is not None:
        used.append(Used(month.spent * money.core_hour, money.amount, f"{money.unit} this month"))
    return tuple(used)


def _champion(tx: Tx, model: str) -> Champion | None:
    serving = tx.current_champion(model)
    if serving is None:
        return None
    again: list[dict[str, Any]] = [
        entry for entry in tx.audit_log(model, action=REPRODUCED) if entry["detail"]["version"] == serving.version
    ]
    proof = Proof(again[-1]["at"], bool(again[-1]["detail"]["same"])) if again else None
    return Champion(serving.version, serving.as_of, proof)


def _heard(tx: Tx, model: str) -> dict[str, datetime]:
    """The business time of the newest event of each kind."""
    newest: dict[str, datetime] = {}
    for type_, kind in KINDS.items():
        for event in tx.events(model=model, types=(type_,), limit=1):
            newest[kind] = max(newest.get(kind, event.time), event.time)
    return newest


def _watched(tx: Tx, model: str) -> Watched | None:
    """The newest window that was looked at; what only waits for it says nothing."""
    seen = next((row for row in tx.monitored(model) if row.state in {"done", "broken"}), None)
    if seen is None:
        return None
    return Watched(seen.window_end, seen.found["quality"]["said"] if seen.state == "broken" else None)


def _self_test(tx: Tx, model: str) -> SelfTested | None:
    tests = tx.self_tests(model, limit=1)
    if not tests:
        return None
    failed = tx.failed_self_test(model)
    newest = tests[0]
    said = "; ".join(newest.detail["reasons"])
    return SelfTested(newest.at, newest.passed, said, failed.why if failed else None)
