"""Admission, wired: load what the decision needs, ask the domain, write fates and the doorbell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ratchet.domain.admission import (
    Admission,
    AdmissionPolicy,
    FreshDays,
    History,
    Now,
    OpenEvent,
    decide_admission,
    observation_of,
)
from ratchet.domain.events import read_data
from ratchet.domain.holdout import HoldoutPlan, NotEnoughFreshDays, plan_holdout
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import EventRow, FateChange, Tx

OBSERVING = ("ratchet.drift.detected.v1", "ratchet.drift.cleared.v1")
CONSUMED = ("rejected", "expired", "failed")


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
        origin="attempt" if row.origin == "attempt" else "kafka",
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
    champion = tx.current_champion(spec.model)
    used = tx.used_days(spec.model, champion.version) if champion else set()
    return plan_holdout(
        as_of=until,
        timezone=spec.data.spine.timezone,
        label_delay=spec.data.spine.label_delay,
        window=spec.data.window,
        last=spec.data.holdout.last,
        min_clusters=spec.data.holdout.min_clusters,
        used_days=used,
    )


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


def history(tx: Tx, spec: ModelSpec, business: datetime, until: datetime | None) -> History:
    """What the past says about the next run: champion, runs of today, unanswered observations, fresh days."""
    day_ends = local_midnight_after(business, spec)
    day_began = day_ends - timedelta(days=1)
    runs = [a for a in tx.attempts(model=spec.model, limit=100) if not a.dry_run]
    observed = tx.events(model=spec.model, types=OBSERVING)
    policy = AdmissionPolicy.from_spec(spec)
    return History(
        has_champion=tx.current_champion(spec.model) is not None,
        last_started_at=max((a.business_at for a in runs), default=None),
        runs_started_today=sum(day_began <= a.business_at < day_ends for a in runs),
        day_resets_at=day_ends,
        observations=tuple(
            seen
            for row in observed
            if row.attempt_id is None
            and row.fate not in CONSUMED
            and (seen := observation_of(policy, read_data(row.type, row.data))) is not None
        ),
        fresh=fresh_days(tx, spec, until),
    )


def admit(
    tx: Tx, spec: ModelSpec, rows: Sequence[EventRow], *, override_budget: bool = False, first_champion: bool = False
) -> Admission:
    """Ask the domain about these open events, as things stand now."""
    _, business = tx.clock()
    past = history(tx, spec, business, as_of(tx, spec))
    if override_budget:
        past = replace(past, runs_started_today=0)
    if first_champion:
        past = replace(past, has_champion=True)
    return decide_admission(
        AdmissionPolicy.from_spec(spec), [open_event(row) for row in rows], past, Now(business=business, wall=tx.wall())
    )


def decide_model(tx: Tx, spec: ModelSpec, *, retired: bool = False) -> Admission | None:
    """Give every open event of the model its fate and set its doorbell; the caller holds the model's row.

    While an attempt is alive nothing is decided: the model is marked again when it ends.
    """
    tx.unmark(spec.model)
    rows = tx.events(model=spec.model, fates=("pending", "deferred"))
    if retired:
        tx.change_fates([FateChange(row.pk, "rejected", "the model is retired") for row in rows])
        tx.set_due(spec.model, None, None)
        return None
    if tx.lock_lease(spec.model).attempt_id is not None:
        return None
    admission = admit(tx, spec, rows)
    tx.change_fates([FateChange(o.key, o.fate, o.reason, o.until) for o in admission.outcomes])
    tx.set_due(spec.model, tx.wall() if admission.go else admission.due_at, admission.reason)
    return admission
