"""When a retraining policy would have retrained, and what it would have let serve: a stretch of events, replayed. Pure.

:func:`replay` is a generator, so that whoever drives it decides what is really trained and when: it yields a
:class:`Look` where the monitor would look at new rows and a :class:`Run` where the policy retrains, and is sent what
was found. Several policies advance side by side that way and share what they have in common.

The *gated* policies obey admission (:mod:`ratchet.domain.admission`), plan their holdout, wait for follow-ups and
promote by the verdict. The *blind* ones promote whatever they have made: on each arrival of data, on a schedule, or
when drift alone would be admitted; they wait for nothing but data that are newer than what they have seen.

What is not replayed: debounce (what comes at one moment is decided together), approvals (given at once), the fleet and
budgets of core hours, whether a run pays, snoozes, data that the monitor cannot believe, probation, and another look at
the same challenger (``gate.looks``).
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

from ratchet.domain.admission import (
    Admission,
    AdmissionPolicy,
    FreshDays,
    History,
    Now,
    Observation,
    OpenEvent,
    decide_admission,
    observation_of,
)
from ratchet.domain.events import DataArrived, DriftCleared, DriftDetected, RetrainRequested
from ratchet.domain.holdout import (
    HoldoutPlan,
    NotEnoughFreshDays,
    days_to_wait_for,
    days_too_near,
    fresh_at,
    mature_at,
    plan_holdout,
)
from ratchet.domain.spec import ModelSpec

Trigger = Literal["never", "arrival", "schedule", "drift", "admission"]
Serves = Literal["judged", "refit", "fresh"]
"""What a promotion lets serve: what was judged, its refit on all mature rows (the map of the judged one kept), or the
recipe fitted and calibrated on all mature rows, none of them withheld to judge."""

MONITOR = "/ratchet/monitor"
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Policy:
    """``gated`` policies promote by the verdict, the others blindly; ``said`` is the policy in words."""

    name: str
    spec: ModelSpec
    trigger: Trigger
    serves: Serves
    said: str

    @property
    def gated(self) -> bool:
        """Whether a verdict decides on a promotion."""
        return self.trigger == "admission"


@dataclass(frozen=True)
class Moment:
    """What comes at one instant of business time: events, and whether the schedule fires.

    ``as_of`` is how far the data are complete from then on; None while that is not known, or labels are lacking.
    ``looked_at``: the monitor looks at the new rows.
    """

    at: datetime
    as_of: datetime | None
    events: tuple[OpenEvent, ...] = ()
    scheduled: bool = False
    looked_at: bool = False


@dataclass(frozen=True)
class Look:
    """The monitor looks at the newest rows up to ``as_of``, beside those that run ``serving`` was made of."""

    at: datetime
    as_of: datetime
    serving: int


@dataclass(frozen=True)
class Run:
    """A retrain: the policy's ``number``-th, 0 for the first champion. ``champion`` is the run whose model serves."""

    number: int
    at: datetime
    as_of: datetime
    plan: HoldoutPlan
    champion: int | None
    reason: str


@dataclass(frozen=True)
class Judged:
    """What a gated policy needs to know of a verdict."""

    decision: str
    n_rows: int
    needed_clusters: int | None


Found = DriftDetected | DriftCleared | None
Requests = Generator[Look | Run, Found | Judged, None]


def replay(policy: Policy, moments: Sequence[Moment], start: datetime) -> Requests:
    """Ask for every look and every run of the policy, in the order of time; the first is its first champion.

    ``moments`` ascend, all after ``start``, which is the first champion's ``as_of``. A :class:`Look` is to be answered
    with what was found, None where nothing can be said; a run of a gated policy with its verdict, the first champion's
    and a blind one's with anything.
    """
    desk = _Desk(policy, start)
    yield desk.first
    if policy.trigger == "never":
        return
    if policy.gated:
        yield from desk.admitted(moments)
    else:
        yield from desk.blind(moments)


class _Desk:
    """One policy's state: who serves, which days are used, what waits."""

    def __init__(self, policy: Policy, start: datetime) -> None:
        self._policy, self._spec = policy, policy.spec
        self._admission = AdmissionPolicy.from_spec(policy.spec)
        self._used_until: date | None = None
        self._observations: list[Observation] = []
        self._started: list[datetime] = []
        self._open: dict[int, OpenEvent] = {}
        self._own_keys = 0
        self._serving = 0
        planned = self._plan(start)
        if isinstance(planned, NotEnoughFreshDays):
            raise ValueError(f"there are days enough where none is used, but {planned} was planned")  # noqa: TRY004
        self.first = Run(0, start, start, planned, None, "the first champion")
        self._trained_as_of = start
        self._started.append(start)
        self._used_until = planned.holdout_days[-1]

    def blind(self, moments: Sequence[Moment]) -> Requests:
        """Every run promotes what it has made; nothing is judged, so that no day is used."""
        self._used_until = None
        arrived = False
        for moment in moments:
            yield from self._arrive(moment)
            arrived |= any(isinstance(event.data, DataArrived) for event in moment.events)
            if moment.as_of is None or moment.as_of <= self._trained_as_of:
                continue
            why = self._blind_reason(moment, arrived=arrived)
            planned = self._plan(moment.as_of)
            if why is not None and isinstance(planned, HoldoutPlan):
                yield self._start(moment.at, moment.as_of, planned, why)
                self._serving, arrived = len(self._started) - 1, False

    def _blind_reason(self, moment: Moment, *, arrived: bool) -> str | None:
        if self._policy.trigger == "arrival":
            return "data arrived" if arrived else None
        if self._policy.trigger == "schedule":
            return "the schedule" if moment.scheduled else None
        needed = self._spec.data.holdout.min_clusters
        admission = self._decide(moment.at, moment.as_of, FreshDays(needed, needed, None))
        if not admission.go:
            return None
        self._claim(admission, moment.at)
        return admission.reason

    def admitted(self, moments: Sequence[Moment]) -> Requests:
        """Admission decides when to run, the verdict what serves; deferred events are decided again when due."""
        waiting: list[datetime] = []
        as_of: datetime | None = self._trained_as_of
        for index, moment in enumerate(moments):
            yield from self._arrive(moment)
            as_of = moment.as_of
            yield from self._settle(moment.at, as_of, waiting)
            until = moments[index + 1].at if index + 1 < len(moments) else moment.at
            while waiting and waiting[0] < until:
                at = heapq.heappop(waiting)
                if at > moment.at:
                    yield from self._settle(at, as_of, waiting)

    def _settle(self, at: datetime, as_of: datetime | None, waiting: list[datetime]) -> Requests:
        """Decide until nothing more is to start at this instant."""
        while True:
            admission = self._decide(at, as_of, self._fresh(as_of))
            for until in {o.until for o in admission.outcomes if o.until is not None and o.until > at} - set(waiting):
                heapq.heappush(waiting, until)
            if not admission.go or as_of is None:
                return
            planned = self._plan(as_of)
            if isinstance(planned, NotEnoughFreshDays):
                return
            self._claim(admission, at)
            run = self._start(at, as_of, planned, admission.reason)
            answer = yield run
            if not isinstance(answer, Judged):
                raise TypeError(f"a run must be answered with its verdict, but got {answer!r}.")
            self._conclude(run, answer)

    def _arrive(self, moment: Moment) -> Generator[Look, Found | Judged, None]:
        """Take what comes, and what the monitor finds in it; a policy on drift hears nothing else."""
        trigger = self._policy.trigger
        if trigger not in {"drift", "admission"}:
            return
        heard = [e for e in moment.events if trigger == "admission" or isinstance(e.data, DriftDetected | DriftCleared)]
        if moment.looked_at and moment.as_of is not None:
            data = yield Look(moment.at, moment.as_of, self._serving)
            if isinstance(data, DriftDetected | DriftCleared):
                kind = f"ratchet.drift.{'detected' if isinstance(data, DriftDetected) else 'cleared'}.v1"
                name = f"{data.check}:{moment.as_of.isoformat()}"
                heard.append(OpenEvent(self._own_key(), name, MONITOR, kind, moment.at, moment.at, data))
        self._open |= {event.key: replace(event, received_at=moment.at) for event in heard}

    def _own_key(self) -> int:
        """A key for an event of our own: those that are given have keys from 0."""
        self._own_keys += 1
        return -self._own_keys

    def _decide(self, at: datetime, as_of: datetime | None, fresh: FreshDays) -> Admission:
        """Ask admission; what it puts aside is open no more, and drift put aside has been observed."""
        local_day = at.astimezone(self._spec.data.spine.zone).date()
        timezone = self._spec.data.spine.timezone
        resets_at, began = (mature_at(day, timezone, timedelta(0)) for day in (local_day, local_day - _DAY))
        history = History(
            has_champion=True,
            last_started_at=self._started[-1],
            runs_started_today=sum(began <= started < resets_at for started in self._started),
            day_resets_at=resets_at,
            observations=tuple(self._observations),
            fresh=fresh,
            as_of=as_of,
        )
        now = Now(business=at, wall=at + self._spec.retrain.debounce)
        admission = decide_admission(self._admission, list(self._open.values()), history, now)
        for outcome in admission.outcomes:
            if outcome.fate in {"suppressed", "expired"}:
                gone = self._open.pop(outcome.key)
                seen = observation_of(self._admission, gone.data)
                if outcome.fate == "suppressed" and seen is not None:
                    self._observations.append(seen)
        return admission

    def _claim(self, admission: Admission, at: datetime) -> None:
        """Every event that counts, and every deferral that has run out, is answered by the run."""
        for outcome in admission.outcomes:
            due = outcome.fate == "deferred" and outcome.until is not None and outcome.until <= at
            if outcome.fate == "pending" or due:
                del self._open[outcome.key]

    def _start(self, at: datetime, as_of: datetime, planned: HoldoutPlan, reason: str) -> Run:
        run = Run(len(self._started), at, as_of, planned, self._serving, reason)
        self._started.append(at)
        self._trained_as_of = as_of
        return run

    def _conclude(self, run: Run, judged: Judged) -> None:
        last = run.plan.holdout_days[-1]
        self._used_until = max(self._used_until or last, last)
        if judged.decision == "promote":
            self._serving = run.number
            if self._policy.serves == "refit":
                near = days_too_near(last, self._spec.data.spine.label_delay)
                self._used_until = max((self._used_until, *near))
        elif judged.decision == "not_enough_evidence":
            self._follow_up(run, judged)

    def _follow_up(self, run: Run, judged: Judged) -> None:
        """What an undecided attempt leaves behind, due when the days it lacked are fresh (docs/decisions/0037)."""
        spine, holdout = self._spec.data.spine, self._spec.data.holdout
        asked = self._spec.gate.target_gain is not None
        days = days_to_wait_for(
            judged.needed_clusters, 0, last=holdout.last, min_clusters=holdout.min_clusters, asked=asked
        )
        newest = run.as_of.astimezone(spine.zone).date() - _DAY
        if self._used_until is not None:
            newest = max(newest, self._used_until) if judged.n_rows == 0 else self._used_until
        due = fresh_at(newest + _DAY, days, spine.timezone, spine.label_delay)
        key = self._own_key()
        self._open[key] = OpenEvent(
            key=key,
            event_id=f"{run.number}:follow-up",
            source=f"/ratchet/attempts/{run.number}",
            type="ratchet.retrain.requested.v1",
            time=run.at,
            received_at=run.at,
            data=RetrainRequested(reason=f"run {run.number} had not enough evidence", actor="ratchet"),
            origin="attempt",
            not_before=due,
        )

    def _plan(self, as_of: datetime) -> HoldoutPlan | NotEnoughFreshDays:
        data = self._spec.data
        return plan_holdout(
            as_of=as_of,
            timezone=data.spine.timezone,
            label_delay=data.spine.label_delay,
            window=data.window,
            last=data.holdout.last,
            min_clusters=data.holdout.min_clusters,
            used_days=() if self._used_until is None else (self._used_until,),
        )

    def _fresh(self, as_of: datetime | None) -> FreshDays:
        needed = self._spec.data.holdout.min_clusters
        if as_of is None:
            return FreshDays(count=0, needed=needed, ready_at=None)
        planned = self._plan(as_of)
        if isinstance(planned, NotEnoughFreshDays):
            return FreshDays(count=planned.count, needed=needed, ready_at=planned.ready_at)
        return FreshDays(count=len(planned.holdout_days), needed=needed, ready_at=None)
