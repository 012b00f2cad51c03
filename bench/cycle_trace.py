"""Where each second of one cycle went: from moments that the ledger, Airflow and the steps recorded, to named parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Whose = Literal["Airflow", "start-up", "Ratchet", "mathematics"]
WHOSE: tuple[Whose, ...] = ("mathematics", "Ratchet", "start-up", "Airflow")
MATHEMATICS = {"snapshot": ("snapshot",), "tune": ("tuning",), "judge": ("fit", "evaluation", "registering")}
"""Parts of the bare script that a step's body has in it."""
Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Moments:
    """One cycle: by task id, start and end of each instance, and of its body where the ledger has it as a step.

    There are several ``tune``, in the same order in both; ``promote`` is of the DAG that acts on the verdict.
    """

    published: datetime
    stored: datetime
    rung: datetime
    heard: datetime
    """Airflow has the asset event."""
    claimed: datetime
    promoted: datetime
    served: datetime
    """The alias names the new champion."""
    tasks: Mapping[str, Sequence[Span]]
    steps: Mapping[str, Sequence[Span]]

    @property
    def seconds(self) -> float:
        """From before the event was published until the alias had moved."""
        return (self.served - self.published).total_seconds()


@dataclass(frozen=True)
class Part:
    """A stretch of the critical path; ``whose`` says who could make it shorter."""

    name: str
    whose: Whose
    seconds: float


def trace(moments: Moments, mathematics: Mapping[str, float]) -> list[Part]:
    """The parts of the critical path in their order; together they are ``moments.seconds``.

    Of workers that run side by side the one that ends last is on the path. ``mathematics`` are the seconds of the bare
    script by its own parts: so much of a step's body is mathematics (never more than it took), the rest is ours.
    ``start-up`` is from the start of a task's process to the first line of the verb: Airflow's runner, the DAG file,
    connections and imports. What follows a body until the task has ended is Airflow's, but for ``judge``, which writes
    the model card and tells the world first.
    """
    parts = [
        Part("event published → in the inbox", "Ratchet", _seconds(moments.published, moments.stored)),
        Part("decided, doorbell rung", "Ratchet", _seconds(moments.stored, moments.rung)),
        Part("triggerer → asset event", "Airflow", _seconds(moments.rung, moments.heard)),
    ]
    before = moments.heard
    for name in ("claim", "snapshot", "plan", "tune", "judge"):
        last = max(range(len(moments.tasks[name])), key=lambda number: moments.tasks[name][number][1])
        start, end = moments.tasks[name][last]
        parts.append(Part(f"→ {name}: scheduled, handed to a worker", "Airflow", _seconds(before, start)))
        parts += _task(name, start, end, _body(moments, name, last), mathematics)
        before = end
    start, _ = moments.tasks["promote"][0]
    return [
        *parts,
        Part("→ promote: asset event, run, worker", "Airflow", _seconds(before, start)),
        Part("promote: start, compare-and-set", "start-up", _seconds(start, moments.promoted)),
        Part("promote: alias moved", "Ratchet", _seconds(moments.promoted, moments.served)),
    ]


def _body(moments: Moments, name: str, number: int) -> Span | None:
    if name == "claim":
        return moments.claimed, moments.claimed
    found = moments.steps.get(name)
    return found[number] if found else None


def _task(name: str, start: datetime, end: datetime, body: Span | None, mathematics: Mapping[str, float]) -> list[Part]:
    if body is None:
        return [Part(f"{name}: start, and its one question", "start-up", _seconds(start, end))]
    began, done = body
    worked = _seconds(began, done)
    pure = min(worked, sum(mathematics[part] for part in MATHEMATICS.get(name, ())))
    parts = [
        Part(f"{name}: start", "start-up", _seconds(start, began)),
        Part(f"{name}: mathematics", "mathematics", pure),
        Part(f"{name}: around it", "Ratchet", worked - pure),
        Part(f"{name}: {'card, news, ' if name == 'judge' else ''}end", _owner(name), _seconds(done, end)),
    ]
    return [part for part in parts if part.seconds or part.whose == "start-up"]


def _owner(name: str) -> Whose:
    return "Ratchet" if name == "judge" else "Airflow"


def by_owner(parts: Sequence[Part]) -> dict[Whose, float]:
    """Seconds of each."""
    return {whose: sum(part.seconds for part in parts if part.whose == whose) for whose in WHOSE}


def table(parts: Sequence[Part]) -> str:
    """Markdown."""
    lines = ["| part | whose | seconds |", "|---|---|--:|"]
    lines += [f"| {part.name} | {part.whose} | {part.seconds:.2f} |" for part in parts]
    lines += [f"| **all of it** | **{whose}** | **{seconds:.2f}** |" for whose, seconds in by_owner(parts).items()]
    return "\n".join([*lines, f"| **the cycle** | | **{sum(part.seconds for part in parts):.2f}** |"])


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
