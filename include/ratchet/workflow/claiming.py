"""The first task of a retrain: decide again under the lease, claim every event that counts, open the attempt."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from ratchet.domain import forms
from ratchet.domain.admission import Admission
from ratchet.domain.events import MOST_NAMED
from ratchet.domain.fleet import shrunk_trials
from ratchet.domain.forecasting import forecast
from ratchet.domain.holdout import NotEnoughFreshDays
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import (
    LIVE_STATES,
    AttemptRow,
    EventRow,
    FateChange,
    Ledger,
    NewEvent,
    SpecRow,
    Tx,
)
from ratchet.records import RunContext
from ratchet.settings import Settings
from ratchet.workflow.deciding import (
    MOST_LOOKED_AT,
    REQUESTED,
    admit,
    as_of,
    lacking,
    limits_of,
    past_runs,
    plan,
    turn_of,
    write_fates,
)
from ratchet.workflow.follow_ups import Again, another_look

logger = logging.getLogger(__name__)
TRIGGERS = {
    "ratchet.drift.detected.v1": "drift",
    "ratchet.data.arrived.v1": "data",
    "ratchet.performance.degraded.v1": "performance",
    REQUESTED: "request",
}


@dataclass(frozen=True)
class Form:
    """The manual form, read strictly: the orchestrator accepts unknown keys in silence, so they are refused here."""

    reason: str = ""
    window_end: datetime | None = None
    trials: int | None = None
    dry_run: bool = False
    override_budget: bool = False
    first_champion: bool = False

    @classmethod
    def read(cls, conf: dict[str, Any], spec: ModelSpec) -> Form:
        """Check every key and value.

        Raises:
            Refused: an unknown key, a wrong type, or a missing reason.
        """
        unknown = sorted(set(conf) - set(forms.RETRAIN))
        if unknown:
            raise Refused(f"the run's form has no key {unknown[0]!r}; it has {', '.join(forms.RETRAIN)}")
        trials = conf.get("trials")
        if trials is not None and (not isinstance(trials, int) or isinstance(trials, bool) or trials < 1):
            raise Refused(f"trials must be a whole number from 1, but got {trials!r}")
        flags = {name: conf.get(name, False) for name in ("dry_run", "override_budget", "first_champion")}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise Refused(f"{name} must be true or false, but got {value!r}")
        reason = str(conf.get("reason") or "").strip()
        if not reason:
            raise Refused("a run started by hand needs a reason: it is what the dossier and the audit log will say")
        return cls(reason=reason, window_end=_window_end(conf.get("window_end"), spec), trials=trials, **flags)


def _window_end(value: Any, spec: ModelSpec) -> datetime | None:
    """The start of the named local day: a run uses data before it only."""
    if value is None:
        return None
    try:
        day = date.fromisoformat(str(value))
    except ValueError as error:
        raise Refused(f"window_end must be a date like 2013-04-30, but got {value!r}") from error
    return datetime.combine(day, time(), spec.data.spine.zone).astimezone(UTC)


class Claims:
    """Opens attempts."""

    def __init__(self, ledger: Ledger, settings: Settings, code_digest: str) -> None:
        self._ledger = ledger
        self._settings = settings
        self._code_digest = code_digest

    def claim(self, model: str, run: RunContext) -> dict[str, Any]:
        """Open an attempt for this run, or say why there is nothing to do.

        Returns:
            ``{"attempt": id or None, "reason": sentence}``. A run claims once: a retried task gets its attempt back.

        Raises:
            Refused: the model is unknown, the form is wrong, or the run's attempt has already ended.
        """
        with self._ledger.transaction() as tx:
            if not tx.lock_model(model):
                raise Refused(f"model {model!r} is not deployed or is retired. Run: ratchet deploy")
            (row,) = tx.specs([model])
            spec = ModelSpec.model_validate(row.document)
            known = self._claimed_before(tx, run)
            if known is not None:
                return known
            lease = tx.lock_lease(model)
            if lease.attempt_id is not None:
                return {"attempt": None, "reason": f"attempt {lease.attempt_id} is at work on {model}"}
            mode, _ = tx.clock()
            if run.run_type == "scheduled" and mode == "replay":
                return {"attempt": None, "reason": "the schedule is inert while the clock is in replay"}
            form = Form.read(run.conf, spec) if run.run_type == "manual" else Form(reason="schedule")
            asked = self._ask(tx, spec, run, form) if run.run_type != "asset_triggered" else None
            return self._open(tx, spec, row, run, form, asked)

    @staticmethod
    def _claimed_before(tx: Tx, run: RunContext) -> dict[str, Any] | None:
        for attempt in tx.attempts(dag_run=(run.dag_id, run.dag_run_id)):
            if attempt.state in LIVE_STATES:
                return {"attempt": attempt.id, "reason": attempt.reason}
            raise Refused(
                f"this run's attempt {attempt.id} is {attempt.state}"
                + (f" ({attempt.verdict})" if attempt.verdict else "")
                + " and cannot be resumed. Start a new run."
            )
        return None

    @staticmethod
    def _ask(tx: Tx, spec: ModelSpec, run: RunContext, form: Form) -> str | None:
        """A request by hand or by schedule is an event like any other, except that a dry run leaves none."""
        if form.first_champion and tx.current_champion(spec.model) is not None:
            raise Refused(f"{spec.model} has a champion already: leave first_champion off, or retire the model first")
        if form.first_champion and spec.gate.shadow:
            raise Refused(f"{spec.model} is in shadow mode and promotes nothing: take gate.shadow out of the spec")
        if form.dry_run:
            return None
        _, business = tx.clock()
        request = {"reason": form.reason, "actor": run.actor or run.run_type}
        tx.insert_events(
            [
                NewEvent(
                    source=f"airflow/{run.dag_id}",
                    event_id=run.dag_run_id,
                    model=spec.model,
                    type=REQUESTED,
                    time=business,
                    digest=hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest(),
                    data=request,
                    origin="manual" if run.run_type == "manual" else "schedule",
                )
            ]
        )
        return run.dag_run_id

    def _open(
        self, tx: Tx, spec: ModelSpec, row: SpecRow, run: RunContext, form: Form, asked: str | None
    ) -> dict[str, Any]:
        rows = [] if form.dry_run else tx.events(model=spec.model, fates=("pending", "deferred"))
        until = as_of(tx, spec, form.window_end)
        _, business = tx.clock()
        claimed: list[EventRow] = []
        trigger: EventRow | None = None
        since, incident = business, None
        trials, shrunk = form.trials, None
        again = Again(None, None)
        if form.dry_run:
            reason = f"dry run: {form.reason}"
            if until is None:
                return {"attempt": None, "reason": f"{reason}: {lacking(tx, spec)}"}
            planned = plan(tx, spec, until)
            if isinstance(planned, NotEnoughFreshDays):
                few = f"{planned.count} of {planned.needed} fresh days; enough at {planned.ready_at}"
                return {"attempt": None, "reason": f"{reason}: {few}"}
        else:
            admission = admit(
                tx,
                spec,
                rows,
                override_budget=form.override_budget,
                first_champion=form.first_champion,
                trials=form.trials,
            )
            write_fates(tx, rows, admission)
            if not admission.go or until is None:
                due_at = None if admission.go else admission.due_at
                tx.set_due(spec.model, due_at, admission.reason, since=admission.since, incident=admission.incident)
                tx.unmark(spec.model)
                return {"attempt": None, "reason": lacking(tx, spec) or admission.reason}
            claimed, trigger = _claimable(rows, admission, asked, business)
            reason = form.reason if asked else admission.reason
            again = another_look(tx, trigger, claimed, row, self._code_digest)
            reason = again.told(reason)
            since, incident = admission.since or business, admission.incident
            if admission.trials is not None:
                trials, shrunk = admission.trials, admission.shrunk
        turn = turn_of(tx, spec, limits_of(self._settings), since, incident)
        if not turn.go and (form.dry_run or form.first_champion):
            return {"attempt": None, "reason": f"{turn.reason}. Nothing was queued: start this run again then"}
        if not turn.go:
            tx.set_due(spec.model, tx.wall(), admission.reason, since=since, incident=incident)
            tx.hold(spec.model, turn.reason)
            tx.unmark(spec.model)
            return {"attempt": None, "reason": turn.reason}
        if spec.retrain.on_overload == "shrink" and turn.crowd is not None and form.trials is None:
            fewer = shrunk_trials(spec.train.trials, turn.crowd)
            if fewer < (trials or spec.train.trials):
                trials, shrunk = fewer, f"{turn.crowd[1]} models for {turn.crowd[0]} places"
        champion = tx.current_champion(spec.model)
        lease = tx.lock_lease(spec.model)
        attempt = AttemptRow(
            id=f"{spec.model}.{lease.epoch + 1}",
            model=spec.model,
            epoch=lease.epoch + 1,
            state="claimed",
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            trigger=_trigger_name(run, form, trigger),
            trigger_event_pk=trigger.pk if trigger else None,
            actor=run.actor,
            reason=reason,
            options={
                "trials": trials,
                "shrunk": f"{trials} of {form.trials or spec.train.trials} trials: {shrunk}" if shrunk else None,
                "incident": turn.incident,
                "look": asdict(again.look) if again.look else None,
                "dry_run": form.dry_run,
                "override_budget": form.override_budget,
                "first_champion": form.first_champion,
                "window_end": form.window_end.isoformat() if form.window_end else None,
            },
            business_at=business,
            as_of=until,
            spec_digest=row.digest,
            code_digest=self._code_digest,
            champion_seq=champion.seq if champion else 0,
            champion_version=champion.version if champion else None,
            challenger_version=None,
            verdict=None,
            verdict_record=None,
            evidence_digest=None,
            dossier_uri=None,
            failure=None,
            created_at=tx.wall(),
            judged_at=None,
            concluded_at=None,
        )
        tx.start_attempt(attempt, self._settings.lease_wait_seconds)
        tx.change_fates([FateChange(r.pk, "claimed", f"claimed by {attempt.id}", None, attempt.id) for r in claimed])
        tx.set_due(spec.model, None, None)
        tx.mark([spec.model])
        tx.audit(
            run.actor or "ratchet",
            "attempt.opened",
            spec.model,
            {
                "attempt": attempt.id,
                "run": run.dag_run_id,
                "reason": reason,
                "events": [r.event_id for r in claimed[:MOST_NAMED]],
                "event_count": len(claimed),
            }
            | {key: value for key, value in attempt.options.items() if value}
            | ({} if again.look else _forecast(tx, spec, trials or spec.train.trials)),
        )
        return {"attempt": attempt.id, "reason": reason}


def _forecast(tx: Tx, spec: ModelSpec, trials: int) -> dict[str, Any]:
    """What a run of so many trials is expected to take, for the audit log; empty while no run tells."""
    runs = [known for known in tx.attempts(model=spec.model, limit=MOST_LOOKED_AT) if not known.dry_run]
    told = forecast(past_runs(tx, spec, runs), trials)
    return {} if told is None else {"forecast": asdict(told)}


def _claimable(
    rows: list[EventRow], admission: Admission, asked: str | None, business: datetime
) -> tuple[list[EventRow], EventRow | None]:
    """Every event admission left pending and every deferral that has run out; the trigger is the asked one, if any."""
    fates = {outcome.key: outcome for outcome in admission.outcomes}
    claimed = [
        row
        for row in rows
        if (now := fates.get(row.pk)) is not None
        and (now.fate == "pending" or (now.fate == "deferred" and now.until is not None and now.until <= business))
    ]
    trigger = next((row for row in claimed if asked and row.event_id == asked), None)
    return claimed, trigger or next((row for row in claimed if row.pk == admission.trigger), None)


def _trigger_name(run: RunContext, form: Form, trigger: EventRow | None) -> str:
    if form.first_champion:
        return "init"
    if run.run_type == "manual":
        return "manual"
    if run.run_type == "scheduled":
        return "schedule"
    if trigger is None:
        return "event"
    return "follow_up" if trigger.origin == "attempt" else TRIGGERS[trigger.type]
