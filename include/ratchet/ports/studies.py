"""A hyperparameter study shared by workers, and a fake of it for tests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from ratchet.errors import Refused

Params = Mapping[str, Any]


class Pruned(Exception):
    """A trial was stopped early: ``value`` at ``share`` of its way, in (0, 1). It is spent, and never the best."""

    def __init__(self, value: float, share: float) -> None:
        super().__init__(f"stopped at {share:.0%} of the rounds with {value:.5g}")
        self.value = value
        self.share = share


class Dimension(Protocol):
    """One parameter's range, inclusive on both sides, or its choices; ``ratchet.domain.spec.Dimension`` is one."""

    @property
    def kind(self) -> Literal["int", "float", "categorical"]:
        """Which of the three it is."""
        ...

    @property
    def low(self) -> float:
        """Lower bound; an int for kind int."""
        ...

    @property
    def high(self) -> float:
        """Upper bound; an int for kind int."""
        ...

    @property
    def log(self) -> bool:
        """Whether the range is sampled on the logarithmic scale."""
        ...

    @property
    def choices(self) -> tuple[bool | int | float | str, ...]:
        """The choices of kind categorical, else empty."""
        ...


Space = Mapping[str, Dimension]


TrialState = Literal["finished", "stopped", "refused", "lost"]
"""``stopped`` early (pruned), ``refused`` (or without a finite value), ``lost`` with a worker that was killed.

A lost trial is run again under its number, so there are several records of it.
"""


@dataclass(frozen=True)
class TrialRecord:
    """One trial that has ended. ``value`` is minimised; ``attributes`` are what the objective kept.

    The value of a stopped trial is what it had come to; a refused or lost one has NaN.
    """

    number: int
    params: Params
    value: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    state: TrialState = "finished"


Objective = Callable[[Params, Sequence[TrialRecord]], tuple[float, Mapping[str, Any]]]
"""(Parameters, the finished trials that this one may know of, by number) → (value to minimise, attributes to keep).

Refuses parameters by raising ``Refused``, and stops early, where going on cannot pay, by raising ``Pruned``.
"""

Until = Callable[[Sequence[TrialRecord]], str | None]
"""The spent trials that the next one may know of, by number → why none is to begin any more; None to go on. Pure."""


class Studies(Protocol):
    """Studies by name. A study is created by the first worker that asks for it."""

    def run(
        self,
        study: str,
        *,
        space: Space,
        trials: int,
        worker: int,
        starts: Sequence[Params],
        seed: int,
        objective: Objective,
        until: Until | None = None,
        generation: int | None = None,
        alone: bool = False,
    ) -> int:
        """Run trials until the study has spent ``trials`` over all its workers; returns how many ran here.

        Trial k evaluates ``starts[k]``, as long as there are any. Proposals are seeded by (seed, study, trial number).

        Asynchronous trials (``generation`` None) are proposed from what has ended when they begin. With a
        ``generation`` of so many trials they know completed generations only
        (:mod:`ratchet.domain.generations`): then the study is the same to the bit for any number of workers.

        A lost trial is run again under its own number, by its own worker, which first gives up what its predecessor
        left running, or by any other once its lease has run out. A trial that has taken ``MOST_LOSSES`` workers with it
        is given up for good, and spent. What a worker wakes up with after its trial was given up is not kept.

        ``until`` is asked before each trial (once per generation); its reason ends the study for every worker, and
        :meth:`stopped` tells it.

        ``alone`` promises that no other worker shares the study: its trials are claimed from nobody, and written
        when they have ended, those of one second together.

        Raises:
            Refused: every trial was refused by the objective.
            StaleAttempt: a newer run of this worker has taken over.
            Unavailable: the storage did not answer.

        """
        ...

    def finished(self, study: str) -> list[TrialRecord]:
        """The successful trials, run to their end, in order of number; empty for an unknown study."""
        ...

    def ended(self, study: str) -> list[TrialRecord]:
        """Every trial that has ended, however it did, in order of number; empty for an unknown study."""
        ...

    def stopped(self, study: str) -> str | None:
        """Why ``until`` ended the study before its budget was spent; None where it did not, or for an unknown study."""
        ...

    def names(self) -> dict[str, int | None]:
        """Every study with its bytes; None where the storage does not tell them."""
        ...

    def remove(self, study: str) -> None:
        """Remove the study with its trials; nothing happens where there is none. Nobody may be running it."""
        ...


MOST_LOSSES = 3
"""So often a trial is run again that was lost with its worker: its parameters may be what kills (out of memory)."""


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The record with the smallest value, the earliest of equals; None of none."""
    return min(records, key=lambda record: (record.value, record.number), default=None)


def trial_seed(seed: int, study: str, number: int) -> int:
    """A 32-bit seed that differs for each trial of each study and is the same whenever it is asked for."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{study}/{number}".encode()).digest()[:4], "big")


class InMemoryStudies:
    """Random search in one process, by the rules of ``Studies``."""

    def __init__(self) -> None:
        self._spent: dict[str, list[TrialRecord]] = {}
        self._stopped: dict[str, str] = {}

    def run(
        self,
        study: str,
        *,
        space: Space,
        trials: int,
        worker: int,
        starts: Sequence[Params],
        seed: int,
        objective: Objective,
        until: Until | None = None,
        generation: int | None = None,
        alone: bool = False,
    ) -> int:
        """See ``Studies.run``. A trial whose objective raises anything but ``Refused`` is not spent."""
        del worker, alone
        spent = self._spent.setdefault(study, [])
        ran = 0
        while len(spent) < trials and study not in self._stopped:
            number = len(spent)
            known = tuple(spent[: number - number % generation] if generation else spent)
            if until is not None and (reason := until(known)) is not None:
                self._stopped[study] = reason
                break
            params = dict(starts[number]) if number < len(starts) else _sample(space, trial_seed(seed, study, number))
            try:
                value, attributes = objective(params, [record for record in known if record.state == "finished"])
            except Refused as refusal:
                spent.append(TrialRecord(number, params, math.nan, {"reason": str(refusal)}, "refused"))
                continue
            except Pruned as stopped:
                spent.append(TrialRecord(number, params, stopped.value, {"share": stopped.share}, "stopped"))
                ran += 1
                continue
            state: TrialState = "finished" if math.isfinite(value) else "refused"
            spent.append(TrialRecord(number, params, value, attributes, state))
            ran += 1
        if len(spent) >= trials and not self.finished(study):
            raise Refused(f"study {study}: all {trials} trials were refused. Check train.fixed and train.search_space.")
        return ran

    def finished(self, study: str) -> list[TrialRecord]:
        """See ``Studies.finished``."""
        return [record for record in self.ended(study) if record.state == "finished"]

    def ended(self, study: str) -> list[TrialRecord]:
        """See ``Studies.ended``."""
        return list(self._spent.get(study, []))

    def stopped(self, study: str) -> str | None:
        """See ``Studies.stopped``."""
        return self._stopped.get(study)

    def names(self) -> dict[str, int | None]:
        """See ``Studies.names``."""
        return dict.fromkeys(sorted(self._spent))

    def remove(self, study: str) -> None:
        """See ``Studies.remove``."""
        self._spent.pop(study, None)
        self._stopped.pop(study, None)


def _sample(space: Space, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for name, dimension in space.items():
        if dimension.kind == "categorical":
            params[name] = dimension.choices[int(random.integers(len(dimension.choices)))]
        elif dimension.kind == "int":
            params[name] = int(random.integers(int(dimension.low), int(dimension.high) + 1))
        elif dimension.log:
            params[name] = float(np.exp(random.uniform(np.log(dimension.low), np.log(dimension.high))))
        else:
            params[name] = float(random.uniform(dimension.low, dimension.high))
    return params
