"""Admission and the fleet, wired: load what a decision needs, ask the domain, write fates and the doorbell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from time import monotonic
from typing import Any

from ratchet.domain.admission import (
    Admission,
    AdmissionPolicy,
    CoreHours,
    FreshDays,
    History,
    Now,
    Observation,
    OpenEvent,
    Origin,
    decide_admission,
)
from ratchet.domain.events import read_data
from ratchet.domain.fleet import SILENT_RINGS, AtWork, Due, FleetLimits, Turn, decide_fleet
from ratchet.domain.forecasting import MOST_RUNS, RunCost, forecast
from ratchet.domain.holdout import HoldoutPlan, NotEnoughFreshDays, plan_holdout
from ratchet.domain.spec import ModelSpec
from ratchet.domain.waiting import Tried, Waiting, waiting
from ratchet.ports.ledger import LIVE_STATES, AttemptRow, DueRow, EventRow, FateChange, Ledger, Registration, Tx
from ratchet.settings import Settings

REQUESTED = "ratchet.retrain.requested.v1"
ORIGINS: Mapping[str, Origin] = {"attempt": "attempt", "schedule": "schedule"}
"""Whose events admission tells apart; what a person asks in Airflow is as if it were heard."""
MOST_LOOKED_AT = 100
"""Attempts of a model, the newest, that say what a run takes and how many there were today."""
MOST_WINDOWS = 10
LONGEST_LOOK = timedelta(minutes=2)
"""How long (wall) a run that is due waits for the monitor to look at the rows that it would learn from and judge on."""
MANY_EVENTS = 1_000
REST_PER_EVENT_SECONDS = 1e-4
MOST_REST_SECONDS = 30.0

logger = logging.getLogger(__name__)
_SPECS: dict[str, ModelSpec] = {}
_UNREADABLE: set[str] = set()
"""Digests that were complained of: a tick comes every second."""


def open_event(row: EventRow) -> OpenEvent:
    """The inbox's row in the domain's words."""
    return OpenEvent(
        key=row.pk,
        event_id=row.event_id,
        source=row.source,
        type=row.type,
        time=row.time,
        received_at=row.received_at,
        data=read_data(row.type, row.data),
        origin=ORIGINS.get(row.origin, "kafka"),
        not_before=datetime.fromisoformat(row.data["not_before"]) if row.origin == "attempt" else None,
        incident=row.incident,
    )


def lacking(tx: Tx, spec: ModelSpec) -> str | None:
    """Why there is no data to learn from yet: a watermark is unknown, or too many labels are; None when there is."""
    marks = tx.watermarks()
    unknown = [name for name in spec.datasets if name not in marks]
    if unknown:
        return f"no data: nothing has told how far {', '.join(unknown)} is complete"
    share, needed = marks[spec.data.spine.source].label_completeness, spec.data.spine.min_label_completeness
    if share is not None and share < needed:
        return f"labels of {spec.data.spine.source} are {share:.3f} complete, {needed:.3f} needed"
    return None


def as_of(tx: Tx, spec: ModelSpec, window_end: datetime | None = None) -> datetime | None:
    """How far all of the spec's datasets are complete (and at most ``window_end``); None while data is ``lacking``."""
    if lacking(tx, spec) is not None:
        return None
    marks = tx.watermarks()
    known = min(marks[name].complete_until for name in spec.datasets)
    return known if window_end is None else min(known, window_end)


def plan(tx: Tx, spec: ModelSpec, until: datetime) -> HoldoutPlan | NotEnoughFreshDays:
    """Which days would be fitted, calibrated and judged on if a run started with this ``as_of``."""
    return plan_holdout(
        as_of=until,
        timezone=spec.data.spine.timezone,
        label_delay=spec.data.spine.label_delay,
        window=spec.data.window,
        last=spec.data.holdout.last,
        min_clusters=spec.data.holdout.min_clusters,
        used_days=used_days(tx, spec.model),
    )


def used_days(tx: Tx, model: str) -> set[date]:
    """The local days that do not judge against the sitting champion, or against the constant before the first one."""
    champion = tx.current_champion(model)
    return tx.used_days(model, champion.version if champion else None)


def fresh_days(tx: Tx, spec: ModelSpec, until: datetime | None) -> FreshDays:
    """How many fresh mature days there are, of how many needed, and when there are enough."""
    needed = spec.data.holdout.min_clusters
    if until is None:
        return FreshDays(count=0, needed=needed, ready_at=None)
    planned = plan(tx, spec, until)
    if isinstance(planned, NotEnoughFreshDays):
        return FreshDays(count=planned.count, needed=needed, ready_at=planned.ready_at)
    return FreshDays(count=len(planned.holdout_days), needed=needed, ready_at=None)


def local_midnight_after(moment: datetime, spec: ModelSpec) -> datetime:
    """When the business-local day of ``moment`` ends."""
    local = moment.astimezone(spec.data.spine.zone)
    return (local.replace(tzinfo=None) + timedelta(days=1)).replace(
        hour=0, minute=0, second=0, microsecond=0, tzinfo=spec.data.spine.zone
    )


def local_month(moment: datetime, spec: ModelSpec) -> tuple[datetime, datetime]:
    """The business-local month of ``moment``: when it began and when the next one begins."""
    local = moment.astimezone(spec.data.spine.zone)
    began = datetime(local.year, local.month, 1, tzinfo=spec.data.spine.zone)
    return began, datetime(local.year + local.month // 12, local.month % 12 + 1, 1, tzinfo=spec.data.spine.zone)


def history(tx: Tx, spec: ModelSpec, business: datetime, until: datetime | None) -> History:
    """What the past says about the next run: champion, runs of today, core hours, unanswered windows, fresh days.

    Of the past, only suppressed events still observe: open ones are decided upon, all others were answered or expired.
    """
    day_ends = local_midnight_after(business, spec)
    day_began = day_ends - timedelta(days=1)
    runs = [a for a in tx.attempts(model=spec.model, limit=MOST_LOOKED_AT) if not a.dry_run]
    mildest = spec.retrain.on.drift.min_severity if spec.retrain.on.drift else None
    today, month = core_hours(tx, spec, business, runs)
    broken, looked_at, look_ends = last_look(tx, spec)
    return History(
        has_champion=tx.current_champion(spec.model) is not None,
        # A run that ended without a verdict answered nothing: its events must not wait for the cooldown after it.
        last_started_at=max((a.business_at for a in runs if a.verdict), default=None),
        runs_started_today=sum(day_began <= a.business_at < day_ends for a in runs),
        day_resets_at=day_ends,
        observations=tuple(
            Observation(
                seen.check,
                seen.window_end,
                bad=mildest is not None and seen.severity is not None and seen.severity >= mildest,
            )
            for seen in tx.suppressed_windows(spec.model)
        ),
        fresh=fresh_days(tx, spec, until),
        core_hours=month,
        as_of=until,
        core_hours_today=today,
        waiting=loss_of_waiting(tx, spec, runs),
        broken=broken,
        looked_at=looked_at,
        look_ends=look_ends,
        snooze=tx.snoozes([spec.model]).get(spec.model),
    )


def last_look(tx: Tx, spec: ModelSpec) -> tuple[str | None, datetime | None, datetime | None]:
    """The monitor's last look: what it could not believe, and when (wall); and until when one under way is waited for.

    Each is None where there is none, and all are where the spec has no monitor.
    """
    if spec.monitor is None:
        return None, None, None
    rows = tx.monitored(spec.model, limit=MOST_WINDOWS)
    rung_at = next((row.rung_at for row in rows if row.state == "due" and row.rung_at is not None), None)
    look_ends = rung_at + LONGEST_LOOK if rung_at is not None else None
    seen = next((row for row in rows if row.state in {"done", "broken"}), None)
    if seen is None:
        return None, None, look_ends
    if seen.state == "done":
        return None, seen.done_at, look_ends
    said = seen.found["quality"]["said"]
    return f"the rows up to {seen.window_end:%Y-%m-%d %H:%M}Z cannot be believed: {said}", seen.done_at, look_ends


def core_hours(
    tx: Tx, spec: ModelSpec, business: datetime, runs: Sequence[AttemptRow]
) -> tuple[CoreHours | None, CoreHours | None]:
    """What today's and this month's attempts took, dry runs too, and what past ones of ``runs`` did; no budget: None.

    A step counts when it has finished, with the threads that the spec gives it now.
    """
    if not spec.retrain.budget.counts_hours:
        return None, None
    day_ends = local_midnight_after(business, spec)
    began, month_ends = local_month(business, spec)
    threads = spec.runtime.threads
    today, month = (
        threads * sum(hours for _, hours in tx.step_hours(spec.model, since))
        for since in (day_ends - timedelta(days=1), began)
    )
    past = past_runs(tx, spec, runs)
    return CoreHours(today, day_ends, past), CoreHours(month, month_ends, past)


def past_runs(tx: Tx, spec: ModelSpec, runs: Sequence[AttemptRow]) -> tuple[RunCost, ...]:
    """What the newest comparable ones of ``runs`` took, the newest first: judged, and tuned as the spec tunes now.

    An attempt that looked at a challenger again does not tell what tuning takes.
    """
    judged = [run for run in runs if run.judged_at is not None and run.look == 1]
    now = _tuning(spec.model_dump(mode="json"))
    alike = {digest: _tuning(tx.spec_document(digest)) == now for digest in {run.spec_digest for run in judged}}
    compared = [run for run in judged if alike[run.spec_digest]][:MOST_RUNS]
    seconds = tx.step_seconds([run.id for run in compared])
    costs = []
    for run in compared:
        hours = {name: spec.runtime.threads * taken / 3600 for name, taken in seconds.get(run.id, {}).items()}
        tuning = sum(taken for name, taken in hours.items() if name.startswith("tune."))
        trials = int(run.options.get("trials") or spec.train.trials)
        costs.append(RunCost(sum(hours.values()) - tuning, tuning / trials))
    return tuple(costs)


def loss_of_waiting(tx: Tx, spec: ModelSpec, runs: Sequence[AttemptRow]) -> Waiting | None:
    """What a run costs and what waiting loses, by past ``runs``, the newest first; None: not asked, or not known."""
    asked = spec.retrain.when_it_pays
    if asked is None:
        return None
    tried = [
        Tried(
            promoted=run.verdict == "promote",
            estimate=run.verdict_record.get("estimate"),
            rows=int(run.verdict_record.get("n_rows") or 0),
            days=int(run.verdict_record.get("n_clusters") or 0),
        )
        for run in runs
        if run.verdict_record is not None and run.champion_seq > 0
    ]
    told = forecast(past_runs(tx, spec, runs), spec.train.trials)
    return waiting(tried, told, asked.core_hour, spec.business.payoff.unit)


def _tuning(document: Mapping[str, Any]) -> tuple[Any, Any]:
    """What makes a trial as dear as another: the estimator, and how a study spends its trials."""
    train = document["train"]
    return train["estimator"], train.get("tuning")


def admit(
    tx: Tx,
    spec: ModelSpec,
    rows: Sequence[EventRow],
    *,
    override_budget: bool = False,
    first_champion: bool = False,
    trials: int | None = None,
) -> Admission:
    """Ask the domain about these open events, as things stand now; ``trials`` as somebody asked for them."""
    _, business = tx.clock()
    past = history(tx, spec, business, as_of(tx, spec))
    if override_budget:
        past = replace(past, runs_started_today=0, core_hours=None, core_hours_today=None)
    if first_champion:
        past = replace(past, has_champion=True)
    policy = AdmissionPolicy.from_spec(spec)
    if trials is not None:
        policy = replace(policy, trials=trials)
    return decide_admission(policy, [open_event(row) for row in rows], past, Now(business=business, wall=tx.wall()))


def write_fates(tx: Tx, rows: Sequence[EventRow], admission: Admission) -> None:
    """Give the events what admission says; those that have been told so already are left out."""
    known = {row.pk: (row.fate, row.reason, row.until) for row in rows}
    tx.change_fates(
        [
            FateChange(each.key, each.fate, each.reason, each.until)
            for each in admission.outcomes
            if known[each.key] != (each.fate, each.reason, each.until)
        ]
    )


def decide_model(tx: Tx, spec: ModelSpec, *, retired: bool = False) -> int:
    """Give every open event of the model its fate and set its doorbell; the caller holds the model's row.

    While an attempt is alive nothing is decided: the model is marked again when it ends. Returns how many events were
    decided on.
    """
    tx.unmark(spec.model)
    if not retired and tx.lock_lease(spec.model).attempt_id is not None:
        return 0
    rows = tx.events(model=spec.model, fates=("pending", "deferred"))
    if retired:
        tx.change_fates([FateChange(row.pk, "rejected", "the model is retired") for row in rows])
        tx.set_due(spec.model, None, None)
        return len(rows)
    admission = admit(tx, spec, rows)
    write_fates(tx, rows, admission)
    due_at = tx.wall() if admission.go else admission.due_at
    tx.set_due(spec.model, due_at, admission.reason, since=admission.since, incident=admission.incident)
    return len(rows)


class Admissions:
    """The tick's decisions: every marked model's admission, each in a transaction of its own, then the fleet's order.

    A decision reads all open events of a model, so in a storm it must not be made anew for each poll's arrivals. A
    tick that read many events makes its models rest in proportion: each for ``REST_PER_EVENT_SECONDS`` times its own
    events times the number of models decided, so that deciding takes a bounded share of one core however many models
    storm, and a model with few events hardly waits. What a rest delays is only when new events are told their fate:
    the doorbell that a first decision has set rings meanwhile, and the claim decides on all of them.
    """

    def __init__(self, ledger: Ledger, settings: Settings, clock: Callable[[], float] = monotonic) -> None:
        self._ledger = ledger
        self._limits = limits_of(settings)
        self._clock = clock
        self._rests_until: dict[str, float] = {}

    def decide(self) -> None:
        """Decide for every model that has something new and does not rest, by name, then whose turn it is."""
        with self._ledger.transaction() as tx:
            known = {row.model: row for row in tx.registered()}
        self._rests_until = {model: end for model, end in self._rests_until.items() if end > self._clock()}
        decided: dict[str, int] = {}
        model: str | None = None
        while True:
            with self._ledger.transaction() as tx:
                model = tx.lock_model_to_decide(tx.clock()[1], after=model, skip=self._rests_until)
                if model is None:
                    break
                decided[model] = _decide(tx, known[model]) if model in known else 0
        self._rest(decided)
        with self._ledger.transaction() as tx:
            take_turns(tx, known, self._limits)

    def _rest(self, decided: dict[str, int]) -> None:
        if sum(decided.values()) >= MANY_EVENTS:
            now = self._clock()
            for model, events in decided.items():
                rest = min(events * len(decided) * REST_PER_EVENT_SECONDS, MOST_REST_SECONDS)
                self._rests_until[model] = now + rest


def limits_of(settings: Settings) -> FleetLimits:
    """The fleet's limits as this deployment sets them."""
    return FleetLimits(settings.fleet_max_attempts, settings.incident_max_attempts)


def _decide(tx: Tx, row: Registration) -> int:
    """Decide for one model; a spec that this code does not read is left alone. How many events were decided on."""
    specs = readable_specs(tx, [row])
    return decide_model(tx, specs[row.model], retired=row.retired) if specs else 0


def take_turns(tx: Tx, known: Mapping[str, Registration], limits: FleetLimits) -> None:
    """Hold the doorbells of due models whose turn it is not, and let those go whose turn has come.

    A hint: the limits hold because every claim counts again under the fleet's lock.
    """
    due = [row for row in tx.due_rows() if row.model in known]
    specs = readable_specs(tx, [known[row.model] for row in due])
    rows = [row for row in due if row.model in specs]
    if not rows:
        return
    held = {row.model: row.held for row in rows}
    for turn in decide_fleet([_due(row, specs[row.model]) for row in rows], _at_work(tx), limits):
        if held[turn.model] != (turn.reason or None):
            tx.hold(turn.model, turn.reason or None)


def turn_of(tx: Tx, spec: ModelSpec, limits: FleetLimits, since: datetime, incident: str | None) -> Turn:
    """The model's turn in the fleet as it is now; nobody else starts an attempt until the transaction ends."""
    tx.lock_fleet()
    due = [row for row in tx.due_rows() if row.model != spec.model]
    specs = readable_specs(tx, tx.registered([row.model for row in due]) if due else ())
    others = [_due(row, specs[row.model]) for row in due if row.model in specs]
    own = Due(spec.model, spec.retrain.priority, since, spec.retrain.group, incident)
    return next(turn for turn in decide_fleet([*others, own], _at_work(tx), limits) if turn.model == spec.model)


def _at_work(tx: Tx) -> list[AtWork]:
    return [AtWork(a.model, a.options.get("incident")) for a in tx.attempts(states=LIVE_STATES)]


def _due(row: DueRow, spec: ModelSpec) -> Due:
    retrain = spec.retrain
    silent = row.rings >= SILENT_RINGS
    return Due(row.model, retrain.priority, row.since or row.due_at, retrain.group, row.incident, silent)


def readable_specs(tx: Tx, rows: Collection[Registration]) -> dict[str, ModelSpec]:
    """The specs of these models by name; what this process has not read before is one query, for a task's knows none.

    A spec that this code does not read (it was deployed by another one) is left out, and the log says so.
    """
    missing = {row.digest for row in rows} - _SPECS.keys()
    documents = tx.spec_documents(missing) if missing else {}
    specs = {}
    for row in rows:
        try:
            specs[row.model] = spec_of(tx, row.digest, documents.get(row.digest))
        except ValueError as error:
            if row.digest not in _UNREADABLE:
                _UNREADABLE.add(row.digest)
                logger.error("%s is not decided: its deployed spec is none for this code (%s)", row.model, error)  # noqa: TRY400
    return specs


def spec_of(tx: Tx, digest: str, document: Mapping[str, Any] | None = None) -> ModelSpec:
    """The spec with this digest, read and checked once per process: what a digest names never changes.

    ``document`` is it, where it has been read already.

    Raises:
        ValueError: this code does not read it.
    """
    spec = _SPECS.get(digest)
    if spec is None:
        spec = _SPECS[digest] = ModelSpec.model_validate(document or tx.spec_document(digest))
    return spec
