"""Optuna behind the ``Studies`` port: many workers, in many processes, on one study.

Optuna proposes, in a study in memory that holds what the trial may know; the storage only remembers. There a trial of
the port may have several entries (Optuna's trials): an entry is created, in one write, with the number of the trial it
claims, the parameters, the worker and a lease. The storage gives out entry numbers under a lock, and of the entries for
one trial the first that was not given up holds it; whoever comes second withdraws. So each trial has one holder at any
time and at most one result, whoever dies and whoever comes back, on any storage.

A lease runs by the storage's clock and is renewed while the trial runs; any worker gives up an entry whose lease has
run out, and the trial is free. Optuna's own heartbeat covers ``Study.optimize`` only. Entries end by compare-and-set:
a worker that was paused meanwhile cannot write into an entry that was given up.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ratchet.adapters.study_storage import StudyStorage, storage_at, translated
from ratchet.domain.generations import Begin, Wait, next_trial
from ratchet.errors import Refused, StaleAttempt
from ratchet.ports.studies import MOST_LOSSES, Objective, Params, Pruned, Space, TrialRecord, Until, trial_seed

logger = logging.getLogger(__name__)

NUMBER = "number"
WORKER = "worker"
LEASE = "lease"
KEPT = "kept"
OUTCOME = "outcome"
LOST = "lost"
WITHDRAWN = "withdrawn"
REFUSED = "refused"
NOT_FINITE = "not finite"
STOPPED = "stopped"
RUN = "run of worker {}"

LEASE_SECONDS = 45.0
RENEWALS_PER_LEASE = 3
RETRY_SECONDS = 1.0
PAUSE_SECONDS = (0.05, 0.5)
"""How long a worker waits before it looks again at a generation that others run: at first, and at most."""
BATCH_SECONDS = 1.0

Held = Mapping[int, FrozenTrial]
"""The entry that holds each trial, by the trial's number, ascending."""


class OptunaStudies:
    """Studies at ``url`` (see :mod:`ratchet.adapters.study_storage`), with leases of ``lease_seconds``."""

    def __init__(self, url: str, lease_seconds: float = LEASE_SECONDS) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url = url
        self._place = storage_at(url)
        self._lease_seconds = lease_seconds

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
        """See ``ratchet.ports.studies.Studies.run``."""
        if trials < 1 or (generation is not None and generation < 1):
            raise Refused(f"study {study}: trials and generation must be at least 1, got {trials} and {generation}.")
        proposals = _Proposals(study, {name: _distribution(of) for name, of in space.items()}, starts, seed, generation)
        ran, (pause, longest) = 0, PAUSE_SECONDS
        kind = _Alone if alone else _Board
        with translated(self._url), kind(self._place, study, worker, self._lease_seconds).at_work() as board:
            while True:
                held = board.held()
                ended = {number for number, entry in held.items() if entry.state.is_finished()}
                turn = next_trial(begun=held, ended=ended, trials=trials, generation=generation)
                if turn is None or board.stopped is not None:
                    break
                if isinstance(turn, Wait):
                    time.sleep(pause)
                    pause = min(2 * pause, longest)
                    continue
                spent = [_record(held[number]) for number in sorted(ended) if number < turn.known]
                if until is not None and (reason := until(spent)) is not None:
                    board.stop(reason)
                    break
                pause = PAUSE_SECONDS[0]
                template = proposals.of(turn, held)
                with board.claimed(turn.number, template) as claim:
                    if claim is not None:
                        known = [record for record in spent if record.state == "finished"]
                        claim.outcome = _outcome(objective, template.params, known)
                        ran += claim.outcome.ran
        going_on = (TrialState.COMPLETE, TrialState.RUNNING)
        if len(held) >= trials and not any(entry.state in going_on for entry in held.values()):
            raise Refused(f"study {study}: all {trials} trials were refused. Check train.fixed and train.search_space.")
        return ran

    def finished(self, study: str) -> list[TrialRecord]:
        """See ``ratchet.ports.studies.Studies.finished``."""
        return [record for record in self.ended(study) if record.state == "finished"]

    def ended(self, study: str) -> list[TrialRecord]:
        """See ``ratchet.ports.studies.Studies.ended``."""
        with translated(self._url):
            entries = self._entries(study)
        told = [entry for entry in _held(entries).values() if entry.state.is_finished()]
        lost = [entry for entry in entries if _is_lost(entry) and entry not in told]
        return sorted(map(_record, [*lost, *told]), key=lambda record: record.number)

    def stopped(self, study: str) -> str | None:
        """See ``ratchet.ports.studies.Studies.stopped``."""
        with translated(self._url):
            if (found := self._find(study)) is None:
                return None
            reason: str | None = self._place.of(study).get_study_user_attrs(found).get(STOPPED)
            return reason

    def names(self) -> dict[str, int | None]:
        """See ``ratchet.ports.studies.Studies.names``."""
        with translated(self._url):
            return self._place.names()

    def remove(self, study: str) -> None:
        """See ``ratchet.ports.studies.Studies.remove``."""
        with translated(self._url):
            self._place.remove(study)

    def prepare(self) -> None:
        """Make or check the tables. Workers do it too when they must; once per deployment saves them the wait."""
        with translated(self._url):
            self._place.prepare()

    def close(self) -> None:
        """Give back the connections."""
        self._place.close()

    def _entries(self, study: str) -> list[FrozenTrial]:
        found = self._find(study)
        return [] if found is None else self._place.of(study).get_all_trials(found, deepcopy=False)

    def _find(self, study: str) -> int | None:
        if not self._place.knows(study):
            return None
        try:
            found: int = self._place.of(study).get_study_id_from_name(study)
        except KeyError:
            return None
        return found


@dataclass(frozen=True)
class _Outcome:
    """How a trial ended; ``ran`` is 0 where its parameters were refused."""

    state: TrialState
    value: float = math.nan
    share: float = 1.0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None
    ran: int = 1


@dataclass
class _Claim:
    """A trial that is this worker's to evaluate; without an outcome it was lost."""

    outcome: _Outcome | None = None


class _Board:
    """One study as one run of one of its workers sees it."""

    shared = True

    def __init__(self, place: StudyStorage, study: str, worker: int, lease_seconds: float) -> None:
        self._place, self._study, self._worker, self._lease_seconds = place, study, worker, lease_seconds
        self._run = uuid.uuid4().hex
        self._storage: BaseStorage = place.of(study)
        try:
            self._id = self._storage.create_new_study([StudyDirection.MINIMIZE], study)
        except DuplicatedStudyError:
            self._id = self._storage.get_study_id_from_name(study)
        self.stopped: str | None = None
        self._storage.set_study_user_attr(self._id, RUN.format(worker), self._run)
        for entry in self._entries():
            if entry.state == TrialState.RUNNING and (entry.user_attrs.get(WORKER) == worker or not self.shared):
                self._end(_key(entry), LOST)

    @contextmanager
    def at_work(self) -> Iterator[_Board]:
        """While the worker runs."""
        yield self

    def held(self) -> Held:
        """Who holds which trial, after what has no living holder was given up.

        Raises:
            StaleAttempt: a newer run of this worker has taken over.
        """
        self._check_run()
        entries = self._entries()
        leased = [entry for entry in entries if entry.state == TrialState.RUNNING and LEASE in entry.user_attrs]
        now = self._place.now() if leased else 0.0
        if expired := [entry for entry in leased if entry.user_attrs[LEASE] < now]:
            for entry in expired:
                self._end(_key(entry), LOST)
            entries = self._entries()
        return _held(entries)

    @contextmanager
    def claimed(self, number: int, template: FrozenTrial) -> Iterator[_Claim | None]:
        """Hold trial ``number`` while the body evaluates it; None where another worker was first.

        Raises:
            StaleAttempt: the trial was given up by a newer run of this worker.
        """
        key = self.enter(number, template)
        if key is None:
            yield None
            return
        claim = _Claim()
        try:
            with self._renewed(key):
                yield claim
        except BaseException:
            self._end(key, LOST)
            raise
        if claim.outcome is not None and not self._write(key, claim.outcome):
            self._check_run()
            logger.warning("study %s: trial %d was given up meanwhile: its result is not kept", self._study, number)

    def enter(self, number: int, template: FrozenTrial) -> int | None:
        """A leased entry for trial ``number``; None where another worker was first."""
        template.user_attrs = {
            NUMBER: number,
            WORKER: self._worker,
            LEASE: self._place.now() + self._lease_seconds,
        }
        key: int = self._storage.create_new_trial(self._id, template)
        if _key(_held(self._entries())[number]) == key:
            return key
        self._end(key, WITHDRAWN)
        return None

    def stop(self, reason: str) -> None:
        """End the study for every worker."""
        self.stopped = reason
        self._storage.set_study_user_attr(self._id, STOPPED, reason)

    def _check_run(self) -> None:
        told = self._storage.get_study_user_attrs(self._id)
        if told[RUN.format(self._worker)] != self._run:
            raise StaleAttempt(f"study {self._study}: a newer run of this worker ({self._worker}) took over: stop.")
        self.stopped = told.get(STOPPED)

    def _entries(self) -> list[FrozenTrial]:
        return list(self._storage.get_all_trials(self._id, deepcopy=False))

    def _write(self, key: int, outcome: _Outcome) -> bool:
        """Whether the entry was still there to be ended."""
        try:
            if outcome.attributes:
                self._storage.set_trial_user_attr(key, KEPT, dict(outcome.attributes))
            if outcome.why is not None:
                return self._end(key, outcome.why)
            if outcome.state == TrialState.PRUNED:
                self._storage.set_trial_intermediate_value(key, _step(outcome), outcome.value)
            self._storage.set_trial_state_values(key, outcome.state, [outcome.value])
        except UpdateFinishedTrialError:
            return False
        return True

    def _end(self, key: int, why: str) -> bool:
        """Fail the entry; False when it had ended just before."""
        try:
            self._storage.set_trial_user_attr(key, OUTCOME, why)
            self._storage.set_trial_state_values(key, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True

    @contextmanager
    def _renewed(self, key: int) -> Iterator[None]:
        """Renew the entry's lease in the background; a storage that is away is asked again every second."""
        done = threading.Event()

        def renew() -> None:
            wait = self._lease_seconds / RENEWALS_PER_LEASE
            while not done.wait(wait):
                wait = self._lease_seconds / RENEWALS_PER_LEASE
                try:
                    self._storage.set_trial_user_attr(key, LEASE, self._place.now() + self._lease_seconds)
                except UpdateFinishedTrialError:
                    return
                except Exception as error:  # noqa: BLE001 - whatever it is, the lease runs on
                    logger.warning("study %s: the lease was not renewed (%s), trying again", self._study, error)
                    wait = min(wait, RETRY_SECONDS)

        thread = threading.Thread(target=renew, name=f"lease of {self._study}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class _Alone(_Board):
    """The same for a worker that shares the study with nobody: entries are written when they have ended, in batches."""

    shared = False

    def __init__(self, place: StudyStorage, study: str, worker: int, lease_seconds: float) -> None:
        super().__init__(place, study, worker, lease_seconds)
        self._check_run()
        self._known = dict(_held(self._entries()))
        self._unwritten: list[FrozenTrial] = []
        self._written_at = time.monotonic()

    @contextmanager
    def at_work(self) -> Iterator[_Board]:
        try:
            yield self
        finally:
            self._write_batch()

    def held(self) -> Held:
        return self._known

    @contextmanager
    def claimed(self, number: int, template: FrozenTrial) -> Iterator[_Claim | None]:
        claim = _Claim()
        yield claim
        if claim.outcome is None:
            return
        outcome, failed = claim.outcome, claim.outcome.state == TrialState.FAIL
        entry = create_trial(
            state=outcome.state,
            value=None if failed else outcome.value,
            params=template.params,
            distributions=template.distributions,
            user_attrs={NUMBER: number, WORKER: self._worker, KEPT: dict(outcome.attributes)}
            | ({} if outcome.why is None else {OUTCOME: outcome.why}),
            intermediate_values={_step(outcome): outcome.value} if outcome.state == TrialState.PRUNED else None,
        )
        self._known[number] = entry
        self._unwritten.append(entry)
        if time.monotonic() - self._written_at >= BATCH_SECONDS:
            self._write_batch()

    def _write_batch(self) -> None:
        if self._unwritten:
            self._check_run()
        while self._unwritten:
            self._storage.create_new_trial(self._id, self._unwritten[0])
            del self._unwritten[0]
        self._written_at = time.monotonic()


class _Proposals:
    """What Optuna would try next, from nothing but the entries it is shown and the trial's own seed.

    The proposals of a generation are made in order of number, each knowing the parameters of those before it and no
    value of theirs (the sampler takes them for bad), so that a generation spreads out; every worker makes them alike.
    """

    def __init__(
        self,
        study: str,
        distributions: Mapping[str, BaseDistribution],
        starts: Sequence[Params],
        seed: int,
        generation: int | None,
    ) -> None:
        self._study, self._seed, self._starts = study, seed, starts
        self._distributions = dict(distributions)
        self._generation = generation
        self._made: dict[int, FrozenTrial] = {}
        self._memory: optuna.Study | None = None

    def of(self, turn: Begin, held: Held) -> FrozenTrial:
        """The running trial, with all its parameters, to be stored."""
        if self._generation is None:
            return self._ask(_in_memory(held.values()), turn.number)
        if turn.known not in self._made or self._memory is None:
            self._made = {}
            self._memory = _in_memory([held[number] for number in sorted(held) if number < turn.known])
        for number in range(turn.known + len(self._made), turn.number + 1):
            self._made[number] = self._ask(self._memory, number)
        return self._made[turn.number]

    def _ask(self, memory: optuna.Study, number: int) -> FrozenTrial:
        memory.sampler = optuna.samplers.TPESampler(seed=trial_seed(self._seed, self._study, number))
        if number < len(self._starts):
            start = self._starts[number]
            memory.enqueue_trial({name: value for name, value in start.items() if name in self._distributions})
        params = memory.ask(self._distributions).params
        return create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)


def _in_memory(entries: Any) -> optuna.Study:
    memory = optuna.create_study()
    seen = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    memory.add_trials([entry for entry in entries if entry.state in seen])
    return memory


def _outcome(objective: Objective, params: Params, known: Sequence[TrialRecord]) -> _Outcome:
    try:
        value, attributes = objective(params, known)
    except Refused as refusal:
        return _Outcome(TrialState.FAIL, attributes={"reason": str(refusal)}, why=REFUSED, ran=0)
    except Pruned as stopped:
        return _Outcome(TrialState.PRUNED, stopped.value, stopped.share)
    if not math.isfinite(value):
        return _Outcome(TrialState.FAIL, attributes=attributes, why=NOT_FINITE)
    return _Outcome(TrialState.COMPLETE, value, attributes=attributes)


def _step(outcome: _Outcome) -> int:
    return round(100 * outcome.share)


def _held(entries: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Of the entries for each trial the first that was not given up, or the last of ``MOST_LOSSES``."""
    held: dict[int, FrozenTrial] = {}
    lost: dict[int, list[FrozenTrial]] = defaultdict(list)
    for entry in entries:
        if _is_lost(entry):
            lost[_number(entry)].append(entry)
        elif entry.user_attrs.get(OUTCOME) != WITHDRAWN:
            held.setdefault(_number(entry), entry)
    given_up = {number: times[-1] for number, times in lost.items() if len(times) >= MOST_LOSSES}
    return dict(sorted((given_up | held).items()))


def _record(entry: FrozenTrial) -> TrialRecord:
    number, kept = _number(entry), entry.user_attrs.get(KEPT, {})
    if entry.state == TrialState.COMPLETE:
        return TrialRecord(number, entry.params, float(entry.values[0]), kept)
    if entry.state == TrialState.PRUNED:
        step, value = max(entry.intermediate_values.items())
        return TrialRecord(number, entry.params, float(value), kept | {"share": step / 100}, "stopped")
    return TrialRecord(number, entry.params, math.nan, kept, "lost" if _is_lost(entry) else "refused")


def _number(entry: FrozenTrial) -> int:
    return int(entry.user_attrs.get(NUMBER, entry.number))


def _key(entry: FrozenTrial) -> int:
    return int(entry._trial_id)  # noqa: SLF001 - the storage's own key, absent from Optuna's public records


def _is_lost(entry: FrozenTrial) -> bool:
    """Given up, and so no part of the budget. A trial that was refused, or whose value was NaN, was spent."""
    return bool(entry.state == TrialState.FAIL and entry.user_attrs.get(OUTCOME) == LOST)


def _distribution(dimension: Any) -> BaseDistribution:
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)
