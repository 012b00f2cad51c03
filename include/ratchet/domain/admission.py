"""Admission: is it worth a retrain now, and if not, why not and until when? (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Self

from ratchet.domain.events import InboundData
from ratchet.domain.spec import ModelSpec

AdmissionFate = Literal["pending", "deferred", "suppressed", "expired"]
Origin = Literal["kafka", "attempt"]


@dataclass(frozen=True)
class AdmissionPolicy:
    """The part of a spec that admission obeys. ``None`` for a kind of event the spec does not listen to."""

    model: str
    spine_source: str
    min_severity: float | None
    confirmations_at_least: int
    confirmations_of_last: int
    datasets: tuple[str, ...] | None
    min_new_rows: int
    on_performance: bool
    debounce: timedelta
    cooldown: timedelta
    max_event_age: timedelta
    runs_per_day: int

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Self:
        """Take the policy from a model's spec."""
        on = spec.retrain.on
        return cls(
            model=spec.model,
            spine_source=spec.data.spine.source,
            min_severity=on.drift.min_severity if on.drift else None,
            confirmations_at_least=on.drift.confirmations.at_least if on.drift else 1,
            confirmations_of_last=on.drift.confirmations.of_last if on.drift else 1,
            datasets=on.data.datasets if on.data else None,
            min_new_rows=on.data.min_new_rows if on.data else 0,
            on_performance=on.performance is not None,
            debounce=spec.retrain.debounce,
            cooldown=spec.retrain.cooldown,
            max_event_age=spec.retrain.max_event_age,
            runs_per_day=spec.retrain.budget.runs_per_day,
        )


@dataclass(frozen=True)
class OpenEvent:
    """An event of the inbox without a terminal fate. ``time`` is business time, ``received_at`` wall time.

    ``not_before`` (business) is set on the follow-up an attempt left behind: it is due then, not sooner.
    """

    key: int
    event_id: str
    source: str
    type: str
    time: datetime
    received_at: datetime
    data: InboundData
    origin: Origin = "kafka"
    not_before: datetime | None = None


@dataclass(frozen=True)
class Observation:
    """One look of a check at a window: bad (drift at or above the severity that counts) or not."""

    check: str
    window_end: datetime
    bad: bool


@dataclass(frozen=True)
class FreshDays:
    """Mature local days that no verdict against the sitting champion has used; ``ready_at`` (business) when enough."""

    count: int
    needed: int
    ready_at: datetime | None


@dataclass(frozen=True)
class History:
    """What admission needs to know of the past. Times are business times."""

    has_champion: bool
    last_started_at: datetime | None
    runs_started_today: int
    day_resets_at: datetime
    observations: tuple[Observation, ...]
    fresh: FreshDays


@dataclass(frozen=True)
class Now:
    """The instant of the decision on both clocks."""

    business: datetime
    wall: datetime


@dataclass(frozen=True)
class Outcome:
    """What admission says about one event; ``until`` (business) is when a deferred one is decided again at the latest."""

    key: int
    fate: AdmissionFate
    reason: str
    until: datetime | None = None


@dataclass(frozen=True)
class Admission:
    """The decision: go or not, when debounce ends (wall), which event tipped it, and each open event's outcome."""

    go: bool
    due_at: datetime | None
    trigger: int | None
    reason: str
    outcomes: tuple[Outcome, ...]


def decide_admission(policy: AdmissionPolicy, events: Sequence[OpenEvent], history: History, now: Now) -> Admission:
    """Decide on all open events of one model at one instant. Pure."""
    raise NotImplementedError


def observation_of(policy: AdmissionPolicy, data: InboundData) -> Observation | None:
    """The observation a drift event is, to be stored with it; None for other kinds."""
    raise NotImplementedError
