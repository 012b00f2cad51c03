"""The fleet: whose turn is it, when more models are due than may be at work? (DESIGN §4, step 4).

:func:`decide_fleet` is pure. It looks at the models that admission says are due and at the attempts at work. Two limits
hold: attempts at work in all, and attempts at work for one *incident*: one upstream fault that drifts thirty models is
one incident, and a few retrains show whether it is worth thirty. The order is total: priority (higher first), then the
business time of the oldest event that counts, then the model's name. What holds for every input:

- those who may go and those at work are never more than a limit allows, where those at work were not already;
- nobody goes before a model of the same incident, or of a fleet that is full, that is earlier in the order;
- the first in the order goes as soon as the limits leave one place.

A model that was rung :data:`SILENT_RINGS` times and has not claimed (its DAG is paused, say) keeps nobody waiting: it
comes after all others, until it claims.

An incident is named by the CloudEvents attribute ``incident`` of the event, whatever the group; else models of one
``retrain.group`` are in one incident when their events lie within :data:`INCIDENT_WINDOW` of the first; a model
without either is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

INCIDENT_WINDOW = timedelta(hours=6)
SILENT_RINGS = 3
PATIENT_RINGS = 2
"""Rings after the first, up to this one, stay silent while a run is on its way to its claim."""

SHRINKS_TO = 4
"""A run is shrunk to no less than one trial in so many."""

NAMED = 3


@dataclass(frozen=True)
class Due:
    """A model that admission lets go. ``event_time`` (business) is that of the oldest event that counts."""

    model: str
    priority: int
    event_time: datetime
    group: str | None = None
    incident: str | None = None
    silent: bool = False


@dataclass(frozen=True)
class AtWork:
    """A live attempt's model, and the incident that the attempt was started for."""

    model: str
    incident: str | None = None


@dataclass(frozen=True)
class FleetLimits:
    """Attempts at work at one time: in all, and for one incident; None is unlimited."""

    attempts: int | None = None
    per_incident: int | None = None


@dataclass(frozen=True)
class Turn:
    """A due model's place in the order. ``reason`` says why it waits; empty when it may go.

    ``crowd`` is (places, models that want or have one) for the limit that is tightest, when there are more models
    than places: what ``on_overload: shrink`` goes by.
    """

    model: str
    go: bool
    reason: str
    incident: str | None
    crowd: tuple[int, int] | None


def decide_fleet(due: Sequence[Due], at_work: Sequence[AtWork], limits: FleetLimits) -> tuple[Turn, ...]:
    """Who may go now and who waits, in the order of their turns. A model must not be in ``due`` twice."""
    ordered = sorted(due, key=lambda each: (each.silent, -each.priority, each.event_time, each.model))
    incidents = name_incidents(due, at_work)
    taken = {name: sum(each.incident == name for each in at_work) for name in {*incidents.values()} if name}
    wanted = {name: count + sum(each == name for each in incidents.values()) for name, count in taken.items()}
    free = None if limits.attempts is None else limits.attempts - len(at_work)
    ahead: list[str] = []
    turns = []
    for each in ordered:
        name = incidents[each.model]
        crowd = _tightest(
            (limits.attempts, len(at_work) + len(due)),
            (limits.per_incident if name else None, wanted.get(name or "", 0)),
        )
        reason = ""
        if free is not None and free <= 0:
            reason = _waits("fleet", f"all {limits.attempts} places are taken", each, ahead)
        elif name and limits.per_incident is not None and taken[name] >= limits.per_incident:
            same = [model for model in ahead if incidents[model] == name]
            reason = _waits("incident", f"all {limits.per_incident} places of {name} are taken", each, same)
        else:
            free = None if free is None else free - 1
            if name:
                taken[name] += 1
        ahead.append(each.model)
        turns.append(Turn(each.model, not reason, reason, name, crowd))
    return tuple(turns)


def name_incidents(due: Sequence[Due], at_work: Sequence[AtWork]) -> dict[str, str | None]:
    """The incident of each due model. A group's incident is named by the time of its first event.

    Models at work keep the name they were started with, so that a limit counts what it let go.
    """
    names: dict[str, str | None] = {}
    begun: dict[str, list[datetime]] = {}
    for name in [working.incident for working in at_work]:
        if name and name.startswith("group ") and " since " in name:
            group, _, since = name.removeprefix("group ").rpartition(" since ")
            begun.setdefault(group, []).append(datetime.fromisoformat(since))
    for each in sorted(due, key=lambda each: (each.event_time, each.model)):
        if each.incident:
            names[each.model] = f"incident {each.incident}"
        elif each.group is None:
            names[each.model] = None
        else:
            starts = begun.setdefault(each.group, [])
            near = [start for start in starts if abs(each.event_time - start) <= INCIDENT_WINDOW]
            if not near:
                near = [each.event_time.astimezone(UTC)]
                starts += near
            names[each.model] = f"group {each.group} since {min(near).isoformat()}"
    return names


def shrunk_trials(trials: int, crowd: tuple[int, int]) -> int:
    """How many of ``trials`` an overloaded fleet leaves: the share of the places, at least a quarter, never none.

    ``crowd`` is (places, models that want or have one).
    """
    places, models = crowd
    return min(trials, max(-(-trials // SHRINKS_TO), trials * places // models))


def _tightest(*limits: tuple[int | None, int]) -> tuple[int, int] | None:
    crowded = [(places, models) for places, models in limits if places is not None and models > places]
    return min(crowded, key=lambda limit: limit[0] / limit[1], default=None)


def _waits(rule: str, full: str, each: Due, ahead: Sequence[str]) -> str:
    """``fleet: all 3 places are taken; goes when an attempt ends, by priority 7, after a, b, c and 4 more``."""
    named = ", ".join(ahead[:NAMED]) + (f" and {len(ahead) - NAMED} more" if len(ahead) > NAMED else "")
    turn = f", after {named}" if ahead else ""
    return f"{rule}: {full}; goes when an attempt ends, by priority {each.priority}{turn}"


def heard(rings: int, claim_awaited: Callable[[], bool]) -> bool:
    """Whether a bell that was won is to be heard.

    On a busy cluster a run may wait for minutes before it claims; ringing again meanwhile would only add runs that find
    nothing to do. The first ring is always heard, and so is the third (after three minutes): the worker may be lost.

    Args:
        rings: which ring of the debt it is, counted from 1; 0 when it was not won.
        claim_awaited: asks the orchestrator whether a run has not claimed yet; not asked where it does not matter.
    """
    if not 1 < rings <= PATIENT_RINGS:
        return rings > 0
    return not claim_awaited()
