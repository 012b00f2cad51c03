"""Optuna behind the ``Studies`` port, on its relational storage: many workers, in many processes, on one study.

What keeps the budget under kills and retries is the trial number, which Optuna's storage gives out under a lock: a
trial runs only if fewer than ``trials`` trials with smaller numbers have not been given up. At most ``trials`` of them
can ever finish, whoever dies and whoever comes back. Each trial is created together with the name of its worker, so a
worker that is run again knows which running trials are its predecessor's.

Optuna's heartbeat is not used: it covers ``Study.optimize`` only, gives up a trial by the clock (a paused worker is
taken for dead), and costs a thread and a statement a minute per worker. Here the orchestrator knows who died.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, OptunaError, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ratchet.errors import Refused, StaleAttempt, Unavailable
from ratchet.ports.studies import Objective, Params, Pruned, Space, TrialRecord, Until, trial_seed

if TYPE_CHECKING:
    from optuna.study import Study

WORKER = "worker"
START = "start"
OUTCOME = "outcome"
LOST = "lost"
STOPPED = "stopped"
REFUSED = "refused"
NOT_FINITE = "not finite"

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SCHEMA_TRIES = 3


class OptunaStudies:
    """Studies in the database at ``url``: ``postgres://…`` or any SQLAlchemy URL (``sqlite:///file``: one machine)."""

    def __init__(self, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._url = _sqlalchemy_url(url)
        self._opened: optuna.storages.RDBStorage | None = None

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
    ) -> int:
        """See ``ratchet.ports.studies.Studies.run``."""
        if trials < 1:
            raise Refused(f"study {study}: trials must be at least 1, but got {trials}.")
        distributions = {name: _distribution(dimension) for name, dimension in space.items()}
        with self._translated():
            opened = self._create(study)
            self._give_up_predecessor(opened, worker)
            ran = 0
            while _spent(opened.get_trials(deepcopy=False)) < trials and not self._stops(opened, until):
                trial_id = self._storage.create_new_trial(
                    self._storage.get_study_id_from_name(study),
                    template_trial=optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={WORKER: worker}),
                )
                number = self._storage.get_trial(trial_id).number
                earlier = [t for t in opened.get_trials(deepcopy=False) if t.number < number]
                if _spent(earlier) >= trials:
                    self._give_up(trial_id)
                    break
                if (start := _start_to_try(earlier, len(starts))) is not None:
                    self._storage.set_trial_user_attr(trial_id, START, start)
                    fixed = {name: value for name, value in starts[start].items() if name in space}
                    self._storage.set_trial_system_attr(trial_id, "fixed_params", fixed)
                opened.sampler = optuna.samplers.TPESampler(seed=trial_seed(seed, study, number))
                ran += self._evaluate(opened, trial_id, distributions, objective)
            last = [trial for trial in opened.get_trials(deepcopy=False) if not _is_lost(trial)]
            going_on = (TrialState.COMPLETE, TrialState.RUNNING)
            if len(last) >= trials and not any(trial.state in going_on for trial in last):
                raise Refused(
                    f"study {study}: all {trials} trials were refused. Check train.fixed and train.search_space."
                )
            return ran

    def finished(self, study: str) -> list[TrialRecord]:
        """See ``ratchet.ports.studies.Studies.finished``."""
        return self._records(study, (TrialState.COMPLETE,))

    def ended(self, study: str) -> list[TrialRecord]:
        """See ``ratchet.ports.studies.Studies.ended``."""
        return self._records(study, ENDED)

    def stopped(self, study: str) -> str | None:
        """See ``ratchet.ports.studies.Studies.stopped``."""
        with self._translated():
            try:
                reason: str | None = optuna.load_study(study_name=study, storage=self._storage).user_attrs.get(STOPPED)
            except KeyError:
                return None
            return reason

    def _stops(self, opened: Study, until: Until | None) -> bool:
        """Whether the study has been ended by ``until``, now or before."""
        if opened.user_attrs.get(STOPPED) is not None:
            return True
        if until is None:
            return False
        reason = until([_record(trial) for trial in opened.get_trials(deepcopy=False, states=ENDED)])
        if reason is not None:
            opened.set_user_attr(STOPPED, reason)
        return reason is not None

    def _records(self, study: str, states: tuple[TrialState, ...]) -> list[TrialRecord]:
        with self._translated():
            try:
                opened = optuna.load_study(study_name=study, storage=self._storage)
            except KeyError:
                return []
            return [_record(trial) for trial in opened.get_trials(deepcopy=False, states=states)]

    def prepare(self) -> None:
        """Make or check the tables. Workers do it too when they must; once per deployment saves them the wait."""
        with self._translated():
            self._storage.get_all_studies()

    def close(self) -> None:
        """Give back the connections."""
        if self._opened is not None:
            self._opened.engine.dispose()
            self._opened = None

    def _evaluate(
        self,
        opened: Study,
        trial_id: int,
        distributions: Mapping[str, BaseDistribution],
        objective: Objective,
    ) -> int:
        trial = optuna.Trial(opened, trial_id)
        try:
            params = {name: _suggest(trial, name, distribution) for name, distribution in distributions.items()}
            try:
                value, attributes = objective(params)
            except Refused as refusal:
                trial.set_user_attr(OUTCOME, REFUSED)
                trial.set_user_attr("reason", str(refusal))
                opened.tell(trial, state=TrialState.FAIL)
                return 0
            except Pruned as stopped:
                trial.report(stopped.value, step=round(100 * stopped.share))
                opened.tell(trial, state=TrialState.PRUNED)
                return 1
            for name, kept in attributes.items():
                trial.set_user_attr(name, kept)
            if math.isfinite(value):
                opened.tell(trial, value)
            else:
                trial.set_user_attr(OUTCOME, NOT_FINITE)
                opened.tell(trial, state=TrialState.FAIL)
        except UpdateFinishedTrialError as error:
            raise StaleAttempt(
                f"study {opened.study_name}: trial {trial.number} was given up by a newer run of this worker: stop."
            ) from error
        except (OptunaError, sa.exc.SQLAlchemyError):
            raise
        except BaseException:
            self._give_up(trial_id)
            raise
        return 1

    def _give_up_predecessor(self, opened: Study, worker: int) -> None:
        """Fail the trials that an earlier run of this worker left running."""
        for trial in opened.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.user_attrs.get(WORKER) == worker:
                self._give_up(trial._trial_id)  # noqa: SLF001 - the storage's own key, absent from Optuna's public records

    def _give_up(self, trial_id: int) -> None:
        try:
            self._storage.set_trial_user_attr(trial_id, OUTCOME, LOST)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return  # it finished, or was given up, just before

    def _create(self, study: str) -> Study:
        try:
            return optuna.create_study(study_name=study, storage=self._storage, direction="minimize")
        except DuplicatedStudyError:
            return optuna.load_study(study_name=study, storage=self._storage)

    @property
    def _storage(self) -> optuna.storages.RDBStorage:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> optuna.storages.RDBStorage:
        """Open the storage; only a database without Optuna's tables costs the creation of them.

        Workers may race to create the tables: whoever loses finds them there.
        """
        options: dict[str, Any] = {"pool_pre_ping": True}
        options["connect_args"] = {"timeout": 60} if self._url.startswith("sqlite") else {"connect_timeout": 10}
        for last in (False,) * (SCHEMA_TRIES - 1) + (True,):
            try:
                ready = self._has_tables(options)
                return optuna.storages.RDBStorage(
                    self._url, engine_kwargs=dict(options), skip_table_creation=ready, skip_compatibility_check=ready
                )
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.OperationalError):
                if last:
                    raise
        raise AssertionError("unreachable")

    def _has_tables(self, options: Mapping[str, Any]) -> bool:
        engine = sa.create_engine(self._url, **options)
        try:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return False
                return bool(connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one())
        finally:
            engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (StorageInternalError, sa.exc.SQLAlchemyError) as error:
            where = sa.engine.make_url(self._url).render_as_string(hide_password=True)
            raise Unavailable(
                f"{where}: the study's storage failed ({error}). Check connection ratchet_optuna."
            ) from error


def _record(trial: FrozenTrial) -> TrialRecord:
    kept = {name: value for name, value in trial.user_attrs.items() if name not in (WORKER, START, OUTCOME)}
    if trial.state == TrialState.COMPLETE:
        return TrialRecord(trial.number, trial.params, float(trial.values[0]), kept)
    if trial.state == TrialState.PRUNED:
        step, value = max(trial.intermediate_values.items())
        return TrialRecord(trial.number, trial.params, float(value), kept | {"share": step / 100}, "stopped")
    return TrialRecord(trial.number, trial.params, math.nan, kept, "lost" if _is_lost(trial) else "refused")


def _is_lost(trial: FrozenTrial) -> bool:
    """Given up, and so no part of the budget. A trial that was refused, or whose value was NaN, was spent."""
    return bool(trial.state == TrialState.FAIL and trial.user_attrs.get(OUTCOME) == LOST)


def _start_to_try(earlier: list[FrozenTrial], starts: int) -> int | None:
    """The first start that no trial has which was not lost. One without the mark may be about to write it."""
    held = {int(trial.user_attrs.get(START, trial.number)) for trial in earlier if not _is_lost(trial)}
    return next((start for start in range(starts) if start not in held), None)


def _spent(trials: list[FrozenTrial]) -> int:
    return sum(not _is_lost(trial) for trial in trials)


def _distribution(dimension: Any) -> BaseDistribution:
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)  # noqa: S101 - made by _distribution
    return trial.suggest_categorical(name, distribution.choices)


def _sqlalchemy_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg2{separator}{rest}" if scheme in ("postgres", "postgresql") else url
