"""Admission: is it worth a retrain now, and if not, why not and until when? (DESIGN §4, steps 4 and 5).

:func:`decide_admission` looks at all open events of one model at once and is pure. What holds for every input:

- each event gets exactly one fate, and copies of one event (same source and id) the same one;
- the outcome depends on the set of events, the history and the instant, never on arrival order or copies: events
  are ordered by (time, id, source);
- as time passes over a fixed history, a model once admitted stays admitted, expiry of its events and quiet hours aside;
- what an event is told changes only when its own situation does: later events of the same burst leave it alone, so that
  a storm is written once. Counts and moments that move are in the reason of the model.

An event is first judged by itself: *expired*, *suppressed* (not listened to, too mild, an all-clear), *waiting*
(unconfirmed, accumulating), or it *counts*. The follow-up that an undecided attempt left behind counts from its date,
once the data reach so far; until then data and mild drift wait for it, unless something else counts (a request,
degraded performance, urgent drift), which takes all of them along. Where at least one counts, the rules of the model
decide: champion, data that the monitor believes, fresh days, quiet hours, a person's snooze, cooldown, whether it pays,
runs per day, core hours and money, then debounce, which lasts until a look of the monitor that is under way has ended.
Events wait as ``deferred`` with the moment the rule lifts, and at the latest until they are too old; while debounce
runs they are ``pending``. A request passes debounce, cooldown and the question whether it pays; a person's also passes
broken data (whoever asks may have mended them) and a snooze (which is of what comes by itself), and waits for no look.
A schedule asks on whatever rows there are.

Business time rules everything but debounce, which runs on the wall clock. Whose turn it is among several models that
are admitted is another decision: :mod:`ratchet.domain.fleet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self
from zoneinfo import ZoneInfo

from ratchet.domain.events import (
    DataArrived,
    DriftCleared,
    DriftDetected,
    InboundData,
    PerformanceDegraded,
    RetrainRequested,
)
from ratchet.domain.fleet import SHRINKS_TO
from ratchet.domain.forecasting import RunCost, forecast, trials_within
from ratchet.domain.quiet import QuietWindow, quiet_until
from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec, Money, format_duration
from ratchet.domain.waiting import Waiting, pays_at

MAX_DEBOUNCES = 10

AdmissionFate = Literal["pending", "deferred", "suppressed", "expired"]
Origin = Literal["kafka", "schedule", "attempt"]


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
    core_hours_per_month: float | None
    quiet_hours: tuple[QuietWindow, ...]
    timezone: ZoneInfo
    urgent: float | None
    shrink: bool
    trials: int
    core_hours_per_day: float | None = None
    money_per_month: Money | None = None

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
            core_hours_per_month=spec.retrain.budget.core_hours_per_month,
            quiet_hours=spec.retrain.quiet_hours,
            timezone=spec.data.spine.zone,
            urgent=spec.retrain.urgent,
            shrink=spec.retrain.on_overload == "shrink",
            trials=spec.train.trials,
            core_hours_per_day=spec.retrain.budget.core_hours_per_day,
            money_per_month=spec.retrain.budget.money_per_month,
        )


@dataclass(frozen=True)
class OpenEvent:
    """An event of the inbox without a terminal fate. ``time`` is business time, ``received_at`` wall time.

    ``origin`` is ``kafka`` for what was heard or asked by hand, ``schedule`` for what the cron asks, ``attempt`` for a
    follow-up. ``not_before`` (business) is set on the follow-up an attempt left behind: by itself it is due then, not
    sooner.
    ``incident`` is the upstream fault that the sender names.
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
    incident: str | None = None


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
class CoreHours:
    """Core hours of the business-local day or month: ``spent`` until now, and ``resets_at`` when the next one begins.

    ``past`` is what comparable runs took, the newest first; empty while none has finished.
    """

    spent: float
    resets_at: datetime
    past: tuple[RunCost, ...] = ()


@dataclass(frozen=True)
class History:
    """What admission needs to know of the past. Times are business times.

    ``core_hours`` are the month's and ``core_hours_today`` the day's, where there is a budget of any; ``as_of`` is how
    far the data are complete, None when that is not known; ``waiting``, where the spec asks whether a run pays and the
    past tells. ``broken`` is what the monitor could not believe in the newest window that it looked at, in words, and
    ``looked_at`` (wall) when that was: what it found comes in as events, so that it counts as a receipt. ``look_ends``
    (wall) is when a look that is under way is waited for no longer. ``snooze`` is the last one that was not lifted,
    over or not.
    """

    has_champion: bool
    last_started_at: datetime | None
    runs_started_today: int
    day_resets_at: datetime
    observations: tuple[Observation, ...]
    fresh: FreshDays
    core_hours: CoreHours | None = None
    as_of: datetime | None = None
    core_hours_today: CoreHours | None = None
    waiting: Waiting | None = None
    broken: str | None = None
    looked_at: datetime | None = None
    look_ends: datetime | None = None
    snooze: Snooze | None = None


@dataclass(frozen=True)
class Now:
    """The instant of the decision on both clocks."""

    business: datetime
    wall: datetime


@dataclass(frozen=True)
class Outcome:
    """What admission says about one event; ``until`` (business): when a deferred one is decided again, or sooner."""

    key: int
    fate: AdmissionFate
    reason: str
    until: datetime | None = None


@dataclass(frozen=True)
class Admission:
    """The decision: go or not, when debounce ends (wall), which event tipped it, and each open event's outcome.

    ``since`` (business) is the time of the oldest event that counts, ``incident`` the first one named by those that
    count. ``trials`` is how many a shrunk run may have, and ``shrunk`` why; None when the run is whole.
    """

    go: bool
    due_at: datetime | None
    trigger: int | None
    reason: str
    outcomes: tuple[Outcome, ...]
    since: datetime | None = None
    incident: str | None = None
    trials: int | None = None
    shrunk: str | None = None


def observation_of(policy: AdmissionPolicy, data: InboundData) -> Observation | None:
    """The observation that a drift event is, to be stored with it; None for other kinds.

    Drift milder than the spec's ``min_severity`` is a good observation: the check ran and found nothing that counts.
    """
    if isinstance(data, DriftDetected):
        bad = policy.min_severity is not None and data.severity >= policy.min_severity
        return Observation(data.check, data.window_end, bad)
    if isinstance(data, DriftCleared):
        return Observation(data.check, data.window_end, bad=False)
    return None


def decide_admission(policy: AdmissionPolicy, events: Sequence[OpenEvent], history: History, now: Now) -> Admission:
    """Decide on all open events of one model at one instant.

    ``go`` says that a run is due now: the events that count are then ``pending`` with reason ``admitted: …`` and
    ``trigger`` is the key of the one that tipped it: a person's request before all others; where there is a follow-up,
    what took it along, else itself; else the newest. When only debounce is missing, ``due_at`` (wall) says when it
    ends. ``outcomes`` holds one entry per key, ordered by key.
    """
    copies = _by_identity(events)
    ordered = [event for event, _ in copies]
    facts = _Facts.of(policy, ordered, history, now)
    alone = _behind_follow_ups(
        policy, ordered, [_judge_alone(policy, event, facts, now) for event in ordered], history, now
    )
    counting = [event for event, verdict in zip(ordered, alone, strict=True) if verdict is _COUNTS]
    room = _room(policy, history, now)
    due_at: datetime | None = None
    word: _Verdict | None = None
    if counting:
        due_at, word = _decide_for_model(policy, counting, history, room, now)
        reason = word.aloud
    else:
        reason = _at_rest(alone)
    go = due_at is not None and due_at <= now.wall
    outcomes = []
    for (event, keys), judged in zip(copies, alone, strict=True):
        verdict = judged if word is None or judged is not _COUNTS else _for_event(policy, event, word, go=go)
        outcomes += [Outcome(key, verdict.fate, verdict.reason, verdict.until) for key in keys]
    return Admission(
        go=go,
        due_at=due_at,
        trigger=_trigger(policy, counting).key if go else None,
        reason=reason,
        outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.key)),
        since=counting[0].time if counting else None,
        incident=next((event.incident for event in counting if event.incident), None),
        trials=room.trials if go else None,
        shrunk=room.shrunk if go else None,
    )


@dataclass(frozen=True)
class _Verdict:
    """``reason`` is what the event is told, ``detail`` what is said of the model where that is more."""

    fate: AdmissionFate
    reason: str
    until: datetime | None = None
    detail: str | None = None

    @property
    def aloud(self) -> str:
        return self.detail or self.reason


_COUNTS = _Verdict("pending", "counts")


@dataclass(frozen=True)
class _Facts:
    """What one look over all events says, so that a storm is judged in one pass.

    ``windows`` are the last n windows of each check as (end, bad), oldest first. A window seen by several detectors
    (one per feature, say) is bad when one of them says so. ``new_rows`` counts the spine's source; ``rows_by`` counts
    them up to each data event, by its key, so that what it is told stays when more arrive.
    """

    windows: dict[str, list[tuple[datetime, bool]]]
    new_rows: int
    rows_by: dict[int, int]

    @classmethod
    def of(cls, policy: AdmissionPolicy, events: Sequence[OpenEvent], history: History, now: Now) -> Self:
        checks: dict[str, dict[datetime, bool]] = {}
        rows = 0
        rows_by = {}
        seen = [*history.observations, *(observation_of(policy, event.data) for event in events)]
        for observation in seen:
            if observation is not None:
                windows = checks.setdefault(observation.check, {})
                windows[observation.window_end] = windows.get(observation.window_end, False) or observation.bad
        for event in events:
            data = event.data
            is_source = isinstance(data, DataArrived) and data.dataset == policy.spine_source
            if isinstance(data, DataArrived) and is_source and now.business < _expires_at(policy, event):
                rows += data.new_rows
            if isinstance(data, DataArrived):
                rows_by[event.key] = rows
        return cls(
            windows={
                check: sorted(windows.items())[-policy.confirmations_of_last :] for check, windows in checks.items()
            },
            new_rows=rows,
            rows_by=rows_by,
        )


def _by_identity(events: Sequence[OpenEvent]) -> list[tuple[OpenEvent, list[int]]]:
    """Each distinct event, as its first copy (by receipt, then key) with the keys of all, by (time, id, source)."""
    groups: dict[tuple[str, str], dict[int, OpenEvent]] = {}
    for event in events:
        groups.setdefault((event.source, event.event_id), {})[event.key] = event
    firsts = [
        (min(group.values(), key=lambda event: (event.received_at, event.key)), list(group))
        for group in groups.values()
    ]
    return sorted(firsts, key=lambda pair: (pair[0].time, pair[0].event_id, pair[0].source))


def _judge_alone(policy: AdmissionPolicy, event: OpenEvent, facts: _Facts, now: Now) -> _Verdict:
    """What an event is worth before the model's own rules: ``pending`` means that it counts."""
    expires = _expires_at(policy, event)
    if now.business >= expires:
        since = event.not_before or event.time
        return _Verdict(
            "expired", f"max_event_age: {format_duration(policy.max_event_age)} since {_said(since)} are over"
        )
    return _COUNTS if event.origin == "attempt" else _judge_kind(policy, event, facts)


def _behind_follow_ups(
    policy: AdmissionPolicy, events: Sequence[OpenEvent], alone: list[_Verdict], history: History, now: Now
) -> list[_Verdict]:
    """The verdicts, those of follow-ups that are not due and of what waits for them put off, unless one opens."""
    waiting = [
        event.not_before
        for event, verdict in zip(events, alone, strict=True)
        if verdict is _COUNTS and event.not_before is not None and not _is_due(event.not_before, history, now)
    ]
    if not waiting or any(
        verdict is _COUNTS and _opens(policy, event) for event, verdict in zip(events, alone, strict=True)
    ):
        return alone
    first = min(waiting)
    return [
        _put_off(policy, event, first, history, now) if verdict is _COUNTS else verdict
        for event, verdict in zip(events, alone, strict=True)
    ]


def _is_due(not_before: datetime, history: History, now: Now) -> bool:
    """Whether the date has come and the data reach it, where that is known: the days are fresh that it promised."""
    return not_before <= now.business and (history.as_of is None or not_before <= history.as_of)


def _opens(policy: AdmissionPolicy, event: OpenEvent) -> bool:
    """Whether the event, when it counts, starts a run whatever waits: all but follow-ups, data and mild drift."""
    if isinstance(event.data, DriftDetected):
        return policy.urgent is not None and event.data.severity >= policy.urgent
    return event.origin != "attempt" and not isinstance(event.data, DataArrived)


def _put_off(policy: AdmissionPolicy, event: OpenEvent, first: datetime, history: History, now: Now) -> _Verdict:
    """What an event that counts is told while the follow-up that is due ``first`` waits, and the follow-up itself."""
    expires = _expires_at(policy, event)
    if event.origin != "attempt":
        lift = first if now.business < first else expires
        return _Verdict("deferred", f"follow_up: waits for the follow-up due at {_said(first)}", min(lift, expires))
    if event.not_before is None or _is_due(event.not_before, history, now):
        return _COUNTS
    if now.business < event.not_before:
        return _Verdict("deferred", follow_up_reason(event.data, event.not_before), event.not_before)
    due = f"due since {_said(event.not_before)}"
    return _Verdict("deferred", f"follow_up: {due}; waits for the data up to then to be published", expires)


def follow_up_reason(data: InboundData, not_before: datetime) -> str:
    """What a follow-up is told until it is due: the rule, the date, and what it waits for."""
    why = f"; {data.reason}" if isinstance(data, RetrainRequested) else ""
    return f"follow_up: due at {_said(not_before)}{why}"


def _judge_kind(policy: AdmissionPolicy, event: OpenEvent, facts: _Facts) -> _Verdict:
    data = event.data
    if isinstance(data, DriftCleared):
        return _Verdict("suppressed", f"cleared: recorded for check {data.check}; an all-clear starts no run")
    if isinstance(data, DriftDetected):
        return _judge_drift(policy, data, facts, _expires_at(policy, event))
    if isinstance(data, DataArrived):
        return _judge_data(policy, event, data, facts)
    if isinstance(data, PerformanceDegraded) and not policy.on_performance:
        return _Verdict("suppressed", "not_subscribed: the spec's retrain.on has no performance")
    return _COUNTS


def _judge_drift(policy: AdmissionPolicy, data: DriftDetected, facts: _Facts, until: datetime) -> _Verdict:
    if policy.min_severity is None:
        return _Verdict("suppressed", "not_subscribed: the spec's retrain.on has no drift")
    if data.severity < policy.min_severity:
        return _Verdict(
            "suppressed", f"min_severity: {data.severity:g} of {policy.min_severity:g} needed for check {data.check}"
        )
    windows = facts.windows[data.check]
    newest, still_bad = windows[-1]
    if not still_bad:
        return _Verdict(
            "deferred",
            f"recovered: the newest observation of check {data.check} is good; waits for more until {_said(until)}",
            until,
            f"recovered: the newest observation of check {data.check} (to {_said(newest)}) is good; "
            f"waits for more until {_said(until)}",
        )
    bad = sum(is_bad for _, is_bad in windows)
    if bad < policy.confirmations_at_least:
        return _Verdict(
            "deferred",
            f"unconfirmed: {bad} of {policy.confirmations_at_least} confirmations "
            f"(of last {policy.confirmations_of_last}) of check {data.check}; waits for more until {_said(until)}",
            until,
        )
    return _COUNTS


def _judge_data(policy: AdmissionPolicy, event: OpenEvent, data: DataArrived, facts: _Facts) -> _Verdict:
    if policy.datasets is None:
        return _Verdict("suppressed", "not_subscribed: the spec's retrain.on has no data")
    if data.dataset not in policy.datasets:
        return _Verdict("suppressed", f"not_subscribed: retrain.on.data.datasets does not name {data.dataset}")
    if facts.new_rows < policy.min_new_rows:
        until = _expires_at(policy, event)
        wanted = f"of {policy.min_new_rows:,} new rows of {policy.spine_source}; waits for more until {_said(until)}"
        here = facts.rows_by[event.key]
        return _Verdict(
            "deferred", f"accumulating: {here:,} {wanted}", until, f"accumulating: {facts.new_rows:,} {wanted}"
        )
    return _COUNTS


@dataclass(frozen=True)
class _Room:
    """What a budget leaves: the moment and the sentence that say no, or how many trials, or all."""

    lift: datetime | None = None
    reason: str = ""
    trials: int | None = None
    shrunk: str | None = None


@dataclass(frozen=True)
class _Limit:
    """One limit of the budget, in ``unit``, of which a core hour takes ``per_hour``."""

    rule: str
    amount: float
    unit: str
    period: str
    hours: CoreHours
    per_hour: float = 1.0


def _room(policy: AdmissionPolicy, history: History, now: Now) -> _Room:
    """What all limits together leave: the one that lifts last, else the fewest trials."""
    day, month, money = history.core_hours_today, history.core_hours, policy.money_per_month
    limits = []
    if policy.core_hours_per_day is not None and day is not None:
        limits.append(_Limit("core_hours_per_day", policy.core_hours_per_day, "core hours", "day", day))
    if policy.core_hours_per_month is not None and month is not None:
        limits.append(_Limit("core_hours_per_month", policy.core_hours_per_month, "core hours", "month", month))
    if money is not None and month is not None:
        limits.append(_Limit("money_per_month", money.amount, money.unit, "month", month, money.core_hour))
    rooms = [_room_of(policy, limit, now) for limit in limits]
    held = [(room.lift, room.reason, room) for room in rooms if room.lift is not None]
    if held:
        return max(held, key=lambda each: each[:2])[2]
    return min((room for room in rooms if room.trials is not None), key=lambda room: room.trials or 0, default=_Room())


def _room_of(policy: AdmissionPolicy, limit: _Limit, now: Now) -> _Room:
    """Whether the limit has room for a run as forecast; unknown until one has finished.

    A run that does not fit is shrunk to the trials that do, where the spec says so and these are at least a quarter.
    """
    hours, unit = limit.hours, limit.per_hour
    if now.business >= hours.resets_at:
        return _Room()
    left, lifts = limit.amount - hours.spent * unit, f"lifts {_said(hours.resets_at)}"
    spent = f"{limit.rule}: {hours.spent * unit:.3g} of {limit.amount:g} {limit.unit} spent"
    if left <= 0:
        return _Room(hours.resets_at, f"{spent}; {lifts}")
    told = forecast(hours.past, policy.trials)
    if told is None or told.upper * unit <= left:
        return _Room()
    takes = f"{told.upper * unit:.3g} {told.basis}"
    if policy.shrink:
        trials = trials_within(hours.past, left / unit, policy.trials)
        if trials * SHRINKS_TO >= policy.trials:
            return _Room(trials=trials, shrunk=f"{spent}, a whole run takes {takes}")
    raise_it = f" (more than the budget of a {limit.period}: raise it, or lower train.trials)"
    never = raise_it if told.upper * unit > limit.amount else ""
    return _Room(hours.resets_at, f"{spent}, a run takes {takes}{never}; {lifts}")


def _decide_for_model(
    policy: AdmissionPolicy, counting: Sequence[OpenEvent], history: History, room: _Room, now: Now
) -> tuple[datetime | None, _Verdict]:
    """When debounce ends (wall), None where a rule holds the model back, and the word on every event that counts."""
    requested = any(_is_request(event) for event in counting)
    by_person = any(_is_request(event) and event.origin != "schedule" for event in counting)
    amiss = _amiss(policy, history, by_person=by_person)
    if amiss is not None:
        return None, amiss
    waits = [_not_paying(policy, counting, history, now), None if by_person else _snoozed(history, now)]
    block = _blocking_rule(policy, history, room, now, [each for each in waits if each], requested=requested)
    if block is not None:
        return None, block
    received = [event.received_at for event in counting] + ([history.looked_at] if history.looked_at else [])
    due_at = now.wall if requested else _debounced_until(policy.debounce, received)
    many = f"{len(counting):,} event" + ("s" if len(counting) > 1 else "")
    look_ends = None if by_person else history.look_ends
    if look_ends is not None and max(now.wall, due_at) < look_ends:
        goes = "goes when the monitor has looked at the newest rows"
        return look_ends, _Verdict(
            "pending", f"monitor: {goes}", None, f"monitor: {many}; {goes}, at {_said(look_ends)} at the latest"
        )
    if now.wall < due_at:
        goes = f"goes after {format_duration(policy.debounce)} of quiet"
        return due_at, _Verdict("pending", f"debounce: {goes}", None, f"debounce: {many}; {goes}, at {_said(due_at)}")
    less = f"; shrunk to {room.trials} of {policy.trials} trials: {room.shrunk}" if room.trials is not None else ""
    admitted = f"admitted: {many}, by {_worth(policy, _trigger(policy, counting))}{less}"
    return due_at, _Verdict("pending", "admitted", None, admitted)


def _not_paying(
    policy: AdmissionPolicy, counting: Sequence[OpenEvent], history: History, now: Now
) -> tuple[datetime, str] | None:
    """Until when a run would cost more than waiting has lost, and why; it holds data and mild drift only."""
    asked = history.waiting
    if asked is None or any(event.origin == "attempt" or _opens(policy, event) for event in counting):
        return None
    at = pays_at(asked, counting[0].time)
    if at is None:
        return max(_expires_at(policy, event) for event in counting), f"when_it_pays: {asked.said}; never pays as it is"
    return (at, f"when_it_pays: {asked.said}; pays {_said(at)}") if now.business < at else None


def _snoozed(history: History, now: Now) -> tuple[datetime, str] | None:
    """Until when the model sleeps, and by whose word; a person's request does not wait for it."""
    snooze = history.snooze
    if snooze is None or not snooze.holds(now.business):
        return None
    return snooze.until, f"snooze: by {snooze.actor}: {snooze.reason}; lifts {_said(snooze.until)}"


def _blocking_rule(
    policy: AdmissionPolicy,
    history: History,
    room: _Room,
    now: Now,
    waits: Sequence[tuple[datetime, str]],
    *,
    requested: bool,
) -> _Verdict | None:
    """The rule that holds the model back longest, one of ``waits`` too, or None. A request passes the cooldown only."""
    blocks = list(waits)
    fresh = history.fresh
    if fresh.count < fresh.needed:
        text = f"fresh_days: {fresh.count} of {fresh.needed} fresh mature days"
        if fresh.ready_at is None or fresh.ready_at <= now.business:
            return _Verdict("deferred", f"{text}; waits for the data to be published")
        blocks.append((fresh.ready_at, f"{text}; enough at {_said(fresh.ready_at)}"))
    if history.runs_started_today >= policy.runs_per_day and now.business < history.day_resets_at:
        text = f"runs_per_day: {history.runs_started_today} of {policy.runs_per_day} runs started today"
        blocks.append((history.day_resets_at, f"{text}; lifts {_said(history.day_resets_at)}"))
    if history.last_started_at is not None and not requested:
        lift = history.last_started_at + policy.cooldown
        if now.business < lift:
            text = f"cooldown: last run started {_said(history.last_started_at)}"
            blocks.append((lift, f"{text}; lifts {_said(lift)}"))
    if room.lift is not None:
        blocks.append((room.lift, room.reason))
    quiet = quiet_until(policy.quiet_hours, now.business, policy.timezone)
    if quiet is not None:
        windows = " and ".join(str(window) for window in policy.quiet_hours)
        blocks.append((quiet, f"quiet_hours: {windows} ({policy.timezone.key}); lifts {_said(quiet)}"))
    if not blocks:
        return None
    lift, reason = max(blocks)
    return _Verdict("deferred", reason, lift)


def _amiss(policy: AdmissionPolicy, history: History, *, by_person: bool) -> _Verdict | None:
    """What holds the model back until somebody does something about it."""
    if not history.has_champion:
        return _Verdict("deferred", f"no_champion: make the first with 'ratchet champion init {policy.model}'")
    if history.broken is None or by_person:
        return None
    look = f"ratchet monitor {policy.model} --run"
    return _Verdict("deferred", f"broken_data: {history.broken}; mend the data, then look again: {look}")


def _for_event(policy: AdmissionPolicy, event: OpenEvent, word: _Verdict, *, go: bool) -> _Verdict:
    """The model's word as this event's: admitted for what it is worth itself, or waiting no longer than it lives."""
    if go:
        return _Verdict("pending", f"admitted: {_worth(policy, event)}")
    if word.fate == "pending":
        return word
    expires = _expires_at(policy, event)
    if word.until is not None and word.until <= expires:
        return word
    return _Verdict(word.fate, f"{word.reason}; this event expires {_said(expires)}", expires)


def _debounced_until(debounce: timedelta, received: Sequence[datetime]) -> datetime:
    """The end of the quiet after the newest burst of receipts (wall), at most ten times ``debounce`` after its start.

    A burst is a run of receipts less than ``debounce`` apart; the limit keeps an endless storm from starving the model.
    """
    moments = sorted(received)
    start = end = moments[-1]
    for moment in reversed(moments):
        if start - moment > debounce:
            break
        start = moment
    return min(end + debounce, start + MAX_DEBOUNCES * debounce)


def _is_request(event: OpenEvent) -> bool:
    return event.origin != "attempt" and isinstance(event.data, RetrainRequested)


def _trigger(policy: AdmissionPolicy, counting: Sequence[OpenEvent]) -> OpenEvent:
    """The first request; else what took a follow-up along, else the follow-up; else the newest event."""
    request = next((event for event in counting if _is_request(event)), None)
    if request is not None:
        return request
    follow_ups = [event for event in counting if event.origin == "attempt"]
    openers = [event for event in counting if _opens(policy, event)] if follow_ups else []
    return (openers or follow_ups or counting)[-1]


def _at_rest(verdicts: Sequence[_Verdict]) -> str:
    """The reason of a model for which no event counts: the newest one that still waits, else the newest."""
    waiting = [verdict for verdict in verdicts if verdict.fate == "deferred"]
    return (waiting or verdicts)[-1].aloud if verdicts else "nothing to do: no event is open"


def _worth(policy: AdmissionPolicy, event: OpenEvent) -> str:
    """Why an event counts, in words."""
    data = event.data
    if event.origin == "attempt":
        return f"the follow-up of {event.source.rpartition('/')[2]}"
    if isinstance(data, DriftDetected):
        return (
            f"drift of check {data.check}, severity {data.severity:g}, confirmed "
            f"{policy.confirmations_at_least} of last {policy.confirmations_of_last}"
        )
    if isinstance(data, DataArrived):
        return f"{policy.min_new_rows:,} or more new rows of {policy.spine_source}"
    if isinstance(data, PerformanceDegraded):
        return f"{data.metric} {data.value:g} against {data.threshold:g}"
    if isinstance(data, RetrainRequested):
        return f"request of {data.actor}: {data.reason}"
    return "an all-clear"


def _expires_at(policy: AdmissionPolicy, event: OpenEvent) -> datetime:
    return (event.not_before or event.time) + policy.max_event_age


def _said(moment: datetime) -> str:
    """``2013-05-01T04:00Z``; seconds only where there are any."""
    utc = moment.astimezone(UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ" if utc.second or utc.microsecond else "%Y-%m-%dT%H:%MZ")
