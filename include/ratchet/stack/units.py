"""What the supervisor runs, and when: plain records and pure rules, no process in sight."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 30.0
STABLE_SECONDS = 20.0
MAX_EARLY_EXITS = 4


class Phase(StrEnum):
    """Where a unit stands. ``ready`` and ``done`` let the units behind it start."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    BACKING_OFF = "backing off"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Unit:
    """One child of the supervisor: a service that stays, or a step that ends.

    ``after`` names the units that must be ready (services) or done (steps) first. ``probe`` is for services alone (see
    ``probes``); without one a service is ready as soon as it runs. Times in seconds.
    """

    name: str
    argv: tuple[str, ...]
    kind: Literal["service", "step"] = "service"
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    after: tuple[str, ...] = ()
    probe: Mapping[str, Any] | None = field(default=None, repr=False)
    stop_signal: int = signal.SIGTERM
    stop_grace: float = 10.0
    ready_timeout: float = 120.0

    def digest(self) -> str:
        """Changes whenever a running process would no longer be what the plan asks for."""
        return hashlib.sha256(json.dumps([self.argv, dict(self.env), self.kind], sort_keys=True).encode()).hexdigest()


def to_json(units: Iterable[Unit]) -> str:
    """The plan as it lies in the run folder."""
    return json.dumps([asdict(unit) for unit in units], indent=1)


def from_json(text: str) -> tuple[Unit, ...]:
    """The inverse of ``to_json``."""
    return tuple(
        Unit(**{**entry, "argv": tuple(entry["argv"]), "after": tuple(entry["after"])}) for entry in json.loads(text)
    )


def in_order(units: Sequence[Unit]) -> list[list[Unit]]:
    """The units in waves: each wave only needs those before it. Raises ValueError for a cycle or an unknown name."""
    names = {unit.name for unit in units}
    for unit in units:
        if unknown := set(unit.after) - names:
            raise ValueError(f"unit {unit.name}: after must name units of the plan, but got {sorted(unknown)}")
    waves: list[list[Unit]] = []
    placed: set[str] = set()
    while len(placed) < len(names):
        wave = [unit for unit in units if unit.name not in placed and placed.issuperset(unit.after)]
        if not wave:
            raise ValueError(f"units wait for each other: {sorted(names - placed)}")
        waves.append(wave)
        placed |= {unit.name for unit in wave}
    return waves


def closure(units: Sequence[Unit], wanted: Iterable[str]) -> tuple[Unit, ...]:
    """The wanted units and all they need, in the order of the plan."""
    by_name = {unit.name: unit for unit in units}
    needed: set[str] = set()
    queue = list(wanted)
    while queue:
        name = queue.pop()
        if name not in needed:
            needed.add(name)
            queue.extend(by_name[name].after)
    return tuple(unit for unit in units if unit.name in needed)


def may_start(unit: Unit, phases: Mapping[str, Phase]) -> bool:
    """Whether everything the unit waits for is there."""
    return all(phases.get(name) in {Phase.READY, Phase.DONE} for name in unit.after)


def backoff_seconds(exits: int) -> float:
    """The pause before the next start after ``exits`` exits in a row: doubling, bounded."""
    doublings = min(max(0, exits - 1), 10)
    return min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0**doublings)


def after_exit(*, was_ready: bool, ran_seconds: float, exits_before: int) -> tuple[Phase, int, float]:
    """What follows when a service ended by itself: (phase, exits in a row, pause in seconds).

    A service that was ready is always started again; one that never got there is given up after four exits in a row, so
    that ``up`` can say why instead of waiting for ever.
    """
    exits = 1 if ran_seconds >= STABLE_SECONDS else exits_before + 1
    if not was_ready and exits >= MAX_EARLY_EXITS:
        return Phase.FAILED, exits, 0.0
    return Phase.BACKING_OFF, exits, backoff_seconds(exits)
