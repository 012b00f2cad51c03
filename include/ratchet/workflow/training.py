"""From a snapshot to a challenger: tune on later rows, fit, calibrate, freeze.

Rows come as one table (or the address of a Parquet file) with ``decided_at``, ``day`` ('YYYY-MM-DD', local), ``label``
(0/1, or a number) and the manifest's feature columns. Two ranges of days are used: A, on which every trial is fitted,
and the later B, on which parameters are chosen and probabilities calibrated; the chosen model is then fitted on both.
Rows of other days are not read, and a snapshot for tuning need not hold them: the holdout is no business of this
module.

The study minimises the log loss on B *after* calibration on B: what is deployed is the calibrated model, and the level
of the scores (a season's base rate) is corrected by two parameters whatever the trees do, so what parameters are chosen
for is how well they separate. Log loss rather than payoff, because payoff at one threshold is a step function of the
scores, far noisier over a few weeks of days; the payoff on B is kept beside it, for people.

A regression's payoff is no step function but, up to its sign, a consistent loss of its own
(:mod:`ratchet.domain.regression`): there the study minimises what the predictions cost on B,
after one additive shift where the spec names what the trees are fitted to.

A ranking has no probabilities to calibrate, and no threshold: the study maximises the NDCG of each day's best on B, cut
at the capacity (:mod:`ratchet.domain.ranking`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ratchet.domain.artifact import (
    ConstantDecision,
    ConstantPrediction,
    Floats,
    ModelArtifact,
    Platt,
    Scorer,
    Shift,
    acting,
    batches,
    log_loss,
    targets,
)
from ratchet.domain.candidates import LEAST_LATER_DAYS, RECALIBRATED
from ratchet.domain.capacity import best_of_each
from ratchet.domain.inference import group
from ratchet.domain.learning_curve import least_end
from ratchet.domain.metrics import RANKING, Kind
from ratchet.domain.payoff import PayoffMatrix, Worth, break_even
from ratchet.domain.ranking import by_day
from ratchet.domain.regression import ErrorCosts, Errors
from ratchet.domain.spec import REGRESSORS, ModelSpec, Tuning
from ratchet.domain.threshold import TunedThreshold, tune
from ratchet.domain.tuning import (
    Curve,
    Plan,
    distinct,
    earlier_days,
    edges,
    exhausted,
    grown,
    kept_of,
    lags,
    newcomer_leads,
    next_step,
    overspent,
    previous_best,
    within,
)
from ratchet.errors import Refused
from ratchet.ports.learning import Learner
from ratchet.ports.studies import Dimension, Params, Pruned, Space, Studies, TrialRecord, Until, best_of
from ratchet.workflow.tracing import part
from ratchet.workflow.valuing import Hook, errors_of, payoff_columns, worth_of

USUAL: Mapping[str, float] = {
    "n_estimators": 200,
    "max_depth": 6,
    "learning_rate": 0.1,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_lambda": 1.0,
    "reg_alpha": 0.0,
    "gamma": 0.0,
    "max_bin": 256,
    "max_leaf_nodes": 31,
    "min_samples_leaf": 20,
    "l2_regularization": 0.0,
    "C": 1.0,
}
"""Where a search without a champion starts, as far as the search space allows: ordinary values, mostly of trees."""

CALIBRATION = "calibration"
"""The trial's attribute that keeps the slope and the intercept of its calibration map."""

SHIFT = "shift"
"""The trial's attribute that keeps what its regression adds to every prediction."""

CURVE = "curve"
"""The trial's attribute that keeps its losses at shares of its rounds, where a policy compares them."""

THRESHOLD = "threshold"
"""The trial's attribute that keeps its tuned threshold, where the spec asks for one."""


@dataclass(frozen=True)
class Ranges:
    """Half-open ranges of local days ('YYYY-MM-DD'): A = [fit_start, fit_end), B = [calibrate_start, calibrate_end)."""

    fit_start: str
    fit_end: str
    calibrate_start: str
    calibrate_end: str

    def __post_init__(self) -> None:
        if not self.fit_start < self.fit_end <= self.calibrate_start < self.calibrate_end:
            raise Refused(
                "ranges must satisfy fit_start < fit_end <= calibrate_start < calibrate_end (calibrate on later rows "
                f"only), but got {self.fit_start}, {self.fit_end}, {self.calibrate_start}, {self.calibrate_end}."
            )


@dataclass(frozen=True)
class Columns:
    """What the snapshot's manifest says of the features: all names in order, and which of them are categorical."""

    features: tuple[str, ...]
    categorical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.categorical) - set(self.features)):
            raise Refused(f"manifest: categorical must name features, but got {unknown}.")
        if forbidden := sorted({"label", "day", "decided_at"} & set(self.features)):
            raise Refused(
                f"manifest: {forbidden} must not be features: they tell the outcome or the row's place in time."
            )

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Columns:
        """From a manifest ``{"features": [names], "categorical": [names]}``."""
        return cls(tuple(manifest["features"]), tuple(manifest.get("categorical", ())))


@dataclass(frozen=True)
class TuneResult:
    """What one worker's turn left behind. ``best_*`` are of the whole study so far; ``seconds`` are this turn's.

    ``policy`` is what :func:`policy_record` tells of a study under ``train.tuning``; else None.
    """

    trials_run_here: int
    trials_done: int
    best_value: float
    best_params: dict[str, Any]
    best_trial: int
    seconds: float
    policy: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Split:
    rows: pa.Table
    label: NDArray[Any]


def tune_worker(
    *,
    spec: ModelSpec,
    train: pa.Table | str,
    ranges: Ranges,
    columns: Columns,
    study_name: str,
    worker: int,
    trials: int,
    seed: int,
    studies: Studies,
    learner: Learner,
    champion_params: Params | None = None,
    history: Sequence[Sequence[TrialRecord]] = (),
    hook: Hook | None = None,
    alone: bool = False,
) -> TuneResult:
    """Run this worker's share of the study; safe to repeat after a kill, and to run beside other workers.

    The study (named by the attempt) never finishes more than ``trials`` trials over all workers. Its first trial
    evaluates the champion's parameters when there is a champion, else the usual ones. Under ``train.tuning`` a second
    study, on fewer rows, takes a part of the trials, and ``history`` (the trials of earlier studies) says what is tried
    first; the study itself holds trials on all rows only. ``alone`` promises that the study has no other worker.

    Raises:
        Refused: rows, columns or parameters break a rule (the message says which). Repeating cannot help.
        StaleAttempt: a newer run of this worker took over.
        Unavailable: the study's storage did not answer. Repeating may help.

    """
    began = time.monotonic()
    space: Space = dict(spec.train.search_space)
    kind = TRIALS[spec.business.kind]
    # Without a policy a retry of a finished study reads no rows: it only tells what came out.
    shared = cache(lambda: _Shared.of(spec, train, ranges, columns, learner))
    rows = cache(lambda: kind.of(spec, shared(), hook))

    def earlier() -> _Valued | None:
        found = shared().earlier(ranges)
        return None if found is None else kind.of(spec, found, hook)

    compares, generation = spec.train.tuning is not None, spec.train.generation
    turn = _Turn(studies, space, worker, seed, compares=compares, generation=generation, alone=alone)
    try:
        if spec.train.tuning is None:
            ran = turn.run(study_name, rows, trials, [start_params(space, champion_params)])
        else:
            known = previous_best(champion_params, history)
            ran = _by_policy(spec, spec.train.tuning, turn, study_name, rows, earlier, trials, known)
    except _RowsRefused as found:
        raise found.refused from None
    finished = studies.finished(study_name)
    best = best_of(finished)
    return TuneResult(
        trials_run_here=ran,
        trials_done=len(finished),
        best_value=best.value if best else math.nan,
        best_params=dict(best.params) if best else {},
        best_trial=best.number if best else -1,
        seconds=time.monotonic() - began,
        policy=policy_record(spec, studies, study_name),
    )


@dataclass(frozen=True)
class _Turn:
    """What all studies of one worker's turn share. ``compares``: trials are dropped by the curves of the others."""

    studies: Studies
    space: Space
    worker: int
    seed: int
    compares: bool
    generation: int | None
    alone: bool

    def run(
        self,
        study: str,
        rows: Callable[[], _Valued],
        trials: int,
        starts: Sequence[Params],
        until: Until | None = None,
    ) -> int:
        def objective(params: Params, known: Sequence[TrialRecord]) -> tuple[float, Mapping[str, Any]]:
            try:
                prepared = rows()
            except Refused as refused:
                raise _RowsRefused(refused) from refused
            best = best_of(known)
            curves = [trial.attributes[CURVE] for trial in known] if self.compares else None
            with part("trial"):
                return prepared.value(params, self.seed, _Rivals(best.value if best else math.inf, curves))

        return self.studies.run(
            study,
            space=self.space,
            trials=trials,
            worker=self.worker,
            starts=starts,
            seed=self.seed,
            objective=objective,
            until=until,
            generation=self.generation,
            alone=self.alone,
        )


def fewer_rows_study(study_name: str) -> str:
    """The name of the study that a policy holds on fewer rows."""
    return f"{study_name}.fewer-rows"


def policy_record(spec: ModelSpec, studies: Studies, study_name: str) -> dict[str, Any] | None:
    """What a policy did: why the studies were stopped, if they were, the trials on fewer rows, the winner's edges.

    None without ``train.tuning``.
    """
    if spec.train.tuning is None:
        return None
    fewer = fewer_rows_study(study_name)
    best = best_of(studies.finished(study_name))
    return {
        "policy": spec.train.tuning.policy,
        "stopped": {name: why for name in (study_name, fewer) if (why := studies.stopped(name)) is not None},
        "fewer_rows_trials": len(studies.ended(fewer)),
        "edges": edges(best.params, spec.train.search_space) if best else {},
    }


def _by_policy(
    spec: ModelSpec,
    tuning: Tuning,
    turn: _Turn,
    study: str,
    rows: Callable[[], _Valued],
    earlier: Callable[[], _Valued | None],
    trials: int,
    previous: Sequence[Params],
) -> int:
    """The best of before on all rows, proposals on fewer, what is kept of them on all, and steps from the best.

    Where A is too short for a hold-out of its own, the proposals are made on all rows, in the one study. Returns how
    many trials ran here.
    """
    studies, fewer = turn.studies, fewer_rows_study(study)
    known = distinct([start_params(turn.space, params) for params in previous]) if tuning.policy == "retune" else []
    plan, needed, threads = Plan.of(trials, len(known)), spec.gate.min_uplift, spec.runtime.threads

    def spent(ended: Sequence[TrialRecord]) -> str | None:
        """A study on all rows has one trial at least, or there would be nothing to judge."""
        return overspent([*studies.ended(fewer), *ended], tuning.core_seconds, threads) if ended else None

    def enough(ended: Sequence[TrialRecord]) -> str | None:
        spent_on = overspent([*ended, *studies.ended(study)], tuning.core_seconds, threads)
        return spent_on or exhausted(ended, plan.proposed, needed)

    ran = turn.run(study, rows, plan.previous, known, spent) if known else 0
    best = best_of([trial for trial in studies.finished(study) if trial.number < plan.previous])
    first = best.params if best else start_params(turn.space)
    on_fewer = earlier()
    if on_fewer is not None:
        ran += turn.run(fewer, lambda: on_fewer, plan.proposed, [first], enough) if plan.proposed else 0
        tried = distinct([*known, *kept_of(studies.finished(fewer), turn.space, plan.kept, first, warm=bool(known))])
        total = min(len(tried), plan.previous + plan.kept)
    else:
        tried = [*known, grown(first, turn.space)] if known else [first]
        total = plan.previous + plan.kept + plan.proposed
    ran += turn.run(study, rows, total, tried, spent)
    if known and not newcomer_leads(studies.finished(study), known):
        return ran
    for _ in range(plan.steps):
        ended = [trial for trial in studies.ended(study) if trial.state != "lost"]
        step = next_step(ended, turn.space)
        if step is None or exhausted(ended, total + plan.steps, needed):
            break
        at = min(len(ended) + 1, total + plan.steps)
        ran += turn.run(study, rows, at, [step] * (len(studies.ended(study)) + 1), spent)
    return ran


def best_trial(studies: Studies, study_name: str) -> TrialRecord:
    """The study's best finished trial; the earliest of equals.

    Raises:
        Refused: the study has none.

    """
    best = best_of(studies.finished(study_name))
    if best is None:
        raise Refused(f"study {study_name} must have a finished trial, but has none. Run the tuning step again.")
    return best


def fit_final(
    *,
    spec: ModelSpec,
    train: pa.Table | str,
    ranges: Ranges,
    columns: Columns,
    params: Params,
    seed: int,
    learner: Learner,
    threads: int | None = None,
    calibrator: Platt | Shift | None = None,
    tuned: TunedThreshold | None = None,
    hook: Hook | None = None,
) -> ModelArtifact:
    """Calibrate on B the scores of a fit on A, fit again on all rows up to the end of B, set the threshold, freeze.

    The calibration map is learned out of fold, on rows later than those its scorer was fitted on, and then applied to a
    scorer that has seen the newest rows as well (``CalibratedClassifierCV(ensemble=False)`` does the same over folds):
    holding B back from the trees costs more than the small difference between the two scorers' levels. The study has
    made that fit already: ``calibrator`` is the map its trial kept (:func:`calibration_of`), and is learned here when
    left out. So is a tuned threshold (``tuned``, :func:`tuned_threshold_of`): it is chosen on the same scores of B.

    The same rows (in any order, given unique keys), parameters and seed give the same artifact to the bit, for any
    number of ``threads`` (the spec's when left out). The threshold is the payoff's break-even (of each row, where the
    payoff differs between rows), the tuned one, or the spec's own number. A regression has none, and a shift for its
    calibration map. A ranking has neither, and is not fitted on A alone.

    Raises:
        Refused: a range holds no rows or one label only (of a regression: a label that is not finite), a column is
            missing, or the estimator refuses its parameters.

    """
    regression = spec.business.regression
    rows = _ordered(spec, read_rows(train, spec, columns))
    fit, calibrate = _split(rows, ranges, regression=regression)
    every = _range(rows, ranges.fit_start, ranges.calibrate_end, "fit and calibrate", regression=regression)
    merged = fixed_of(spec) | dict(params)
    threads = threads or spec.runtime.threads

    def fitted(part: _Split) -> tuple[Scorer, Mapping[str, tuple[str, ...]]]:
        prepared, categories = _prepared(learner, part, columns, threads)
        return learner.fit(prepared, merged, seed=seed, threads=threads), categories

    threshold = threshold_of(spec)
    if spec.business.ranking:
        calibrator = None
    elif regression:
        if calibrator is None and spec.train.names_its_objective:
            errors = errors_of(spec, calibrate.rows, calibrate.label, hook)
            calibrator = Shift.fit(fitted(fit)[0].raw(calibrate.rows), errors)
        calibrator = calibrator or Shift()
    elif calibrator is None or (threshold is None and tuned is None):
        held_back, _ = fitted(fit)
        raw = held_back.raw(calibrate.rows)
        calibrator = calibrator or Platt.fit(raw, calibrate.label)
        if threshold is None:
            worth = worth_of(spec, calibrate.rows, calibrate.label, hook)
            tuned = tuned or _tuned(calibrator(raw), worth, calibrate.rows, spec.business.capacity)
    if threshold is None and tuned is not None:
        threshold = tuned.threshold
    scorer, categories = fitted(every)
    return ModelArtifact(
        scorer=scorer,
        estimator=spec.train.estimator,
        features=columns.features,
        categories=categories,
        calibrator=calibrator,
        threshold=threshold,
        params=merged,
        provenance={
            "seed": seed,
            "fit": [ranges.fit_start, ranges.calibrate_end],
            "fit_rows": every.rows.num_rows,
            "held_back_fit": [ranges.fit_start, ranges.fit_end],
            "calibrate": [ranges.calibrate_start, ranges.calibrate_end],
            "calibrate_rows": calibrate.rows.num_rows,
            "libraries": learner.versions(),
        }
        | ({} if tuned is None else {"tuned_threshold": tuned.record()}),
        capacity=spec.business.capacity,
    )


class NotRecalibrated(Refused):
    """The champion cannot be given another calibration from these rows; the message says why."""


def recalibrate(
    *,
    spec: ModelSpec,
    train: pa.Table | str,
    ranges: Ranges,
    champion: ModelArtifact,
    version: int,
    hook: Hook | None = None,
) -> ModelArtifact:
    """The champion (``version``) with a calibration map and a threshold of its own, learned on days of B it never saw.

    Scorer, features, categories and parameters stay the champion's, to the byte. Its fit reached up to the end of its
    own ``provenance.fit``, which may lie within B: only the days after it teach, or the map would be learned on scores
    that had seen their labels. A tuned threshold is chosen on the same days; all else of the decision is the spec's.
    The same rows, in any order given unique keys, give the same artifact to the bit.

    Raises:
        NotRecalibrated: too few days are left, one label only occurs on them, or a score is not finite.
        Refused: a column that the champion or the payoff reads is missing.

    """
    fitted = champion.provenance.get("fit")
    if fitted is None:
        raise NotRecalibrated(f"version {version} does not say which days it was fitted on")
    start, end = max(ranges.calibrate_start, fitted[1]), ranges.calibrate_end
    rows = _ordered(spec, read_rows(train, spec, Columns(champion.features)))
    days = [day for day in rows.column("day").cast(pa.string()).unique().to_pylist() if start <= day < end]
    if len(days) < LEAST_LATER_DAYS:
        raise NotRecalibrated(
            f"version {version} was fitted on days before {fitted[1]}, which leaves {len(days)} days before {end} to "
            f"learn a calibration from; {LEAST_LATER_DAYS} are needed"
        )
    threshold = threshold_of(spec)
    tuned: TunedThreshold | None = None
    try:
        later = _range(rows, start, end, "recalibrate")
        raw = champion.scorer.raw(later.rows)
        calibrator = Platt.fit(raw, later.label)
        if threshold is None:
            worth = worth_of(spec, later.rows, later.label, hook)
            tuned = _tuned(calibrator(raw), worth, later.rows, spec.business.capacity)
            threshold = tuned.threshold
    except Refused as refused:
        raise NotRecalibrated(str(refused)) from refused
    of_map = {"held_back_fit", "tuned_threshold", "refit_of"}
    of_scorer = {name: told for name, told in champion.provenance.items() if name not in of_map}
    return replace(
        champion,
        calibrator=calibrator,
        threshold=threshold,
        provenance=of_scorer
        | {
            "kind": RECALIBRATED,
            "scorer_of": version,
            "calibrate": [start, end],
            "calibrate_rows": later.rows.num_rows,
        }
        | ({} if tuned is None else {"tuned_threshold": tuned.record()}),
        capacity=spec.business.capacity,
    )


def fixed_of(spec: ModelSpec) -> dict[str, Any]:
    """The parameters that are not searched.

    A regression is fitted to the quantile that its costs name, where they name one and the spec fixes nothing else.
    """
    fixed, fitted = dict(spec.train.fixed), REGRESSORS.get(spec.train.estimator)
    if fitted is not None:
        fixed.setdefault(fitted.parameter, fitted.values[0])
        if fitted.quantile is not None and not spec.train.names_its_objective:
            fixed[fitted.quantile] = ErrorCosts.from_spec(spec.business.payoff).quantile
    return fixed


def calibration_of(trial: TrialRecord) -> Platt | Shift | None:
    """The calibration map that the trial learned on B, of its fit on A: to the bit what ``fit_final`` would learn.

    None of a ranking's trial.
    """
    if SHIFT in trial.attributes:
        return Shift(trial.attributes[SHIFT])
    if CALIBRATION not in trial.attributes:
        return None
    slope, intercept = trial.attributes[CALIBRATION]
    return Platt(slope=slope, intercept=intercept)


def tuned_threshold_of(trial: TrialRecord) -> TunedThreshold | None:
    """The threshold that the trial tuned on B; None where the spec asked for none."""
    record = trial.attributes.get(THRESHOLD)
    return None if record is None else TunedThreshold.of_record(record)


def _tuned(probability: Floats, worth: Worth, rows: pa.Table, capacity: int | None) -> TunedThreshold:
    if capacity is not None:
        worth = worth.limited(best_of_each(probability, batches(rows), capacity))
    try:
        return tune(probability, worth, rows.column("day").to_numpy())
    except ValueError as error:
        raise Refused(str(error)) from None


def best_constant(
    spec: ModelSpec, train: pa.Table | str, ranges: Ranges, hook: Hook | None = None
) -> ConstantDecision | ConstantPrediction:
    """The better of *always act* and *never act* on all training rows (A and B); *never* if both are worth the same.

    Of a regression the one prediction that costs least on them: with constant costs their quantile of the labels.

    Rows whose worth is unknown (NaN) have no say. Under a capacity *always* acts on so many rows of each day, spread
    evenly over them: what can be had without a model.
    """
    rows = read_rows(train, spec, Columns(()))
    if spec.business.regression:
        both = _split(_ordered(spec, rows), ranges, regression=True)
        table, target = pa.concat_tables([part.rows for part in both]), np.concatenate([part.label for part in both])
        try:
            return ConstantPrediction(errors_of(spec, table, target, hook).best_offset(np.zeros(target.size)))
        except ValueError as error:
            raise Refused(f"the best constant prediction: {error}") from None
    fit, calibrate = _split(_ordered(spec, rows), ranges)
    label = np.concatenate([fit.label, calibrate.label])
    always = ConstantDecision(act=True, probability=float(label.mean()), capacity=spec.business.capacity)
    gain = [worth_of(spec, part.rows, part.label, hook).gain[always.decide(part.rows)[1]] for part in (fit, calibrate)]
    return always if np.nansum(np.concatenate(gain)) > 0 else replace(always, act=False)


def start_params(space: Space, champion_params: Params | None = None) -> dict[str, Any]:
    """The first trial: the champion's value of each searched parameter if the space holds it, else a usual one."""
    champion = champion_params or {}
    return {
        name: champion[name] if name in champion and within(dimension, champion[name]) else _usual(name, dimension)
        for name, dimension in space.items()
    }


def threshold_of(spec: ModelSpec) -> float | PayoffMatrix | None:
    """The calibrated probability from which the model acts, in [0, 1] (outside of it: one constant decision).

    Break-even with formulas is the payoff itself: each row has a threshold of its own. None: it is to be tuned, or the
    decision meets none (a regression's prediction, a ranking's best of each day).
    """
    threshold = spec.business.decision.threshold
    if threshold is None or threshold == "tuned":
        return None
    if threshold == "payoff":
        matrix = PayoffMatrix.from_spec(spec.business.payoff)
        return matrix if matrix.by_row else break_even(matrix)
    return float(threshold)


def read_rows(train: pa.Table | str, spec: ModelSpec, columns: Columns) -> pa.Table:
    """The columns training needs, of a table or of a Parquet file at any address fsspec opens.

    Raises:
        Refused: a column is missing.

    """
    named = [*spec.data.spine.entity, "decided_at", "day", "label", *columns.features, *payoff_columns(spec)]
    wanted = list(dict.fromkeys(named))
    if isinstance(train, str):
        import fsspec  # noqa: PLC0415 - only for a table that is elsewhere

        filesystem, path = fsspec.core.url_to_fs(train)
        schema = pq.read_schema(path, filesystem=filesystem)
        _require(wanted, schema.names)
        return pq.read_table(path, columns=wanted, filesystem=filesystem)
    _require(wanted, train.column_names)
    return train.select(wanted)


def _require(wanted: Sequence[str], got: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in got]:
        raise Refused(f"training rows must have the columns {missing}, but got {sorted(got)}. Take the snapshot again.")


class _RowsRefused(Exception):
    """No trial's parameters are to blame: the study must not spend its trials on rows that none of them can use."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused


@dataclass(frozen=True)
class _Rivals:
    """What a study knows when a trial starts: the best value, and the finished trials' curves if they are compared."""

    best: float
    curves: Sequence[Curve] | None


@dataclass(frozen=True)
class _Shared:
    """What all trials of one worker share: prepared rows of A, rows of B, and how a trial is fitted."""

    learner: Learner
    columns: Columns
    fit: _Split
    prepared: Any
    calibrate: _Split
    fixed: Mapping[str, Any]
    threads: int
    regression: bool

    @classmethod
    def of(cls, spec: ModelSpec, train: pa.Table | str, ranges: Ranges, columns: Columns, learner: Learner) -> _Shared:
        rows = _ordered(spec, read_rows(train, spec, columns))
        regression, threads = spec.business.regression, spec.runtime.threads
        fit, calibrate = _split(rows, ranges, regression=regression)
        prepared, _ = _prepared(learner, fit, columns, threads)
        return cls(learner, columns, fit, prepared, calibrate, fixed_of(spec), threads, regression)

    def earlier(self, ranges: Ranges) -> _Shared | None:
        """The same a hold-out earlier, within A (:func:`earlier_days`); None where A is too short, or has one label.

        It judges on as many days as B has, after the gap that A and B have between them.
        """
        bounds = (ranges.fit_end, ranges.calibrate_start, ranges.calibrate_end)
        fit_end, start, end = (date.fromisoformat(day) for day in bounds)
        day = self.fit.rows.column("day").cast(pa.string())
        counts = {row["values"]: row["counts"] for row in day.value_counts().to_pylist()}
        days = earlier_days(counts, (end - start).days, (start - fit_end).days)
        if days is None:
            return None
        fit, judge = (self._of_days(chosen) for chosen in (days.fit, days.judge))
        if not self.regression and 0 in (np.ptp(fit.label), np.ptp(judge.label)):
            return None
        prepared, _ = _prepared(self.learner, fit, self.columns, self.threads)
        return replace(self, fit=fit, prepared=prepared, calibrate=judge)

    def _of_days(self, days: Sequence[str]) -> _Split:
        chosen = pc.is_in(self.fit.rows.column("day").cast(pa.string()), value_set=pa.array(days))
        return _Split(self.fit.rows.filter(chosen), self.fit.label[chosen.to_numpy(zero_copy_only=False)])

    def fitted(
        self, params: Params, seed: int, rivals: _Rivals, loss: Callable[[Scorer], float] | None
    ) -> tuple[Scorer, Mapping[str, Any]]:
        """The scorer, and its curve as an attribute where curves are compared; no ``loss`` has no curve.

        Raises ``Pruned`` as soon as its ``loss`` on B can no longer come below the best, or lags behind the others.
        """
        curve: list[tuple[float, float]] = []

        def hopeless() -> bool:
            return least_end(curve) > rivals.best or (rivals.curves is not None and lags(curve, rivals.curves))

        def looked_at(share: float, scorer: Scorer) -> bool:
            curve.append((share, math.nan if loss is None else loss(scorer)))
            return hopeless()

        watch = None if loss is None else looked_at
        scorer = self.learner.fit(
            self.prepared, dict(self.fixed) | dict(params), seed=seed, threads=self.threads, watch=watch
        )
        if hopeless():
            share, last = curve[-1]
            raise Pruned(last, share)
        return scorer, {} if rivals.curves is None else {CURVE: [list(point) for point in curve]}


@dataclass(frozen=True)
class _Trials:
    """How a classifier's trials are valued."""

    shared: _Shared
    worth: Worth
    threshold: float | PayoffMatrix | None
    capacity: int | None

    @classmethod
    def of(cls, spec: ModelSpec, shared: _Shared, hook: Hook | None) -> _Trials:
        worth = worth_of(spec, shared.calibrate.rows, shared.calibrate.label, hook)
        return cls(shared, worth, threshold_of(spec), spec.business.capacity)

    def value(self, params: Params, seed: int, rivals: _Rivals) -> tuple[float, Mapping[str, Any]]:
        """Value the parameters, or raise ``Pruned`` as soon as nothing can be hoped of them."""
        began = time.monotonic()
        rows, label = self.shared.calibrate.rows, self.shared.calibrate.label

        def loss(scorer: Scorer) -> float:
            raw = scorer.raw(rows)
            return log_loss(Platt.fit(raw, label)(raw), label)

        scorer, curve = self.shared.fitted(params, seed, rivals, loss)
        raw: Floats = scorer.raw(rows)
        calibrator = Platt.fit(raw, label)
        probability, tuned = calibrator(raw), None
        if self.threshold is None:
            tuned = _tuned(probability, self.worth, rows, self.capacity)
        threshold = tuned.threshold if tuned is not None else cast("float | PayoffMatrix", self.threshold)
        payoff = self.worth.of(acting(threshold, probability, rows, self.capacity)).mean()
        return log_loss(probability, label), {
            "raw_log_loss": log_loss(raw, label),
            "payoff_per_decision": None if np.isnan(payoff) else float(payoff),
            CALIBRATION: [calibrator.slope, calibrator.intercept],
            **({} if tuned is None else {THRESHOLD: tuned.record()}),
            "seconds": round(time.monotonic() - began, 3),
            **curve,
        }


@dataclass(frozen=True)
class _RegressionTrials:
    """How a regression's trials are valued.

    Trees that are fitted to the costs' own quantile stay as they are (``shifts`` is false): on the flights a shift,
    which takes a restless month over into a calm one, cost more than it saved (docs/decisions/0048).
    """

    shared: _Shared
    errors: Errors
    shifts: bool

    @classmethod
    def of(cls, spec: ModelSpec, shared: _Shared, hook: Hook | None) -> _RegressionTrials:
        errors = errors_of(spec, shared.calibrate.rows, shared.calibrate.label, hook)
        return cls(shared, errors, spec.train.names_its_objective)

    def value(self, params: Params, seed: int, rivals: _Rivals) -> tuple[float, Mapping[str, Any]]:
        """As :meth:`_Trials.value`, by what the predictions cost; rows of unknown worth have no say."""
        began = time.monotonic()

        def shifted(scorer: Scorer) -> tuple[Shift, float]:
            raw = scorer.raw(self.shared.calibrate.rows)
            shift = Shift.fit(raw, self.errors) if self.shifts else Shift()
            return shift, -float(np.nanmean(self.errors.of(shift(raw))))

        scorer, curve = self.shared.fitted(params, seed, rivals, lambda scorer: shifted(scorer)[1])
        shift, cost = shifted(scorer)
        seconds = round(time.monotonic() - began, 3)
        return cost, {"payoff_per_decision": -cost, SHIFT: shift.offset, "seconds": seconds, **curve}


@dataclass(frozen=True)
class _RankingTrials:
    """How a ranking's trials are valued. All run to their end.

    The NDCG of a few weeks' best rows is a step function of their scores, and no convex one of the rounds, so that what
    it is at half of them bounds nothing.
    """

    shared: _Shared
    worth: Worth
    capacity: int

    @classmethod
    def of(cls, spec: ModelSpec, shared: _Shared, hook: Hook | None) -> _RankingTrials:
        worth = worth_of(spec, shared.calibrate.rows, shared.calibrate.label, hook)
        return cls(shared, worth, cast("int", spec.business.capacity))

    def value(self, params: Params, seed: int, rivals: _Rivals) -> tuple[float, Mapping[str, Any]]:
        """As :meth:`_Trials.value`, by what NDCG lacks of one, on average over the days of B."""
        began = time.monotonic()
        rows, label = self.shared.calibrate.rows, self.shared.calibrate.label
        scorer, curve = self.shared.fitted(params, seed, rivals, None)
        score = scorer.raw(rows)
        if bad := int((~np.isfinite(score)).sum()):
            raise Refused(f"rank: every score must be finite, but {bad} are not. Check the estimator's parameters.")
        act = acting(-np.inf, score, rows, self.capacity)
        days = group(rows.column("day").to_numpy())
        ndcg, precision = (float(by_day(name, label, score, act, days).mean()) for name in RANKING)
        payoff = self.worth.of(act).mean()
        return 1.0 - ndcg, {
            "ndcg_at_k": ndcg,
            "precision_at_k": precision,
            "payoff_per_decision": None if np.isnan(payoff) else float(payoff),
            "seconds": round(time.monotonic() - began, 3),
            **curve,
        }


_Valued = _Trials | _RegressionTrials | _RankingTrials
TRIALS: Mapping[Kind, type[_Valued]] = {
    "classifier": _Trials,
    "regression": _RegressionTrials,
    "ranking": _RankingTrials,
}
"""How the trials of each kind of model are valued."""


def _prepared(
    learner: Learner, part: _Split, columns: Columns, threads: int
) -> tuple[Any, Mapping[str, tuple[str, ...]]]:
    """The rows in the learner's own form, and the categories they were given by."""
    categories = learner.categories(part.rows, columns.categorical)
    prepared = learner.prepare(part.rows, part.label, features=columns.features, categories=categories, threads=threads)
    return prepared, categories


def _ordered(spec: ModelSpec, rows: pa.Table) -> pa.Table:
    """The total order (entity keys, decided_at): trees on histograms depend on the order of rows."""
    return rows.sort_by([(name, "ascending") for name in (*spec.data.spine.entity, "decided_at")])


def _split(rows: pa.Table, ranges: Ranges, *, regression: bool = False) -> tuple[_Split, _Split]:
    return (
        _range(rows, ranges.fit_start, ranges.fit_end, "fit", regression=regression),
        _range(rows, ranges.calibrate_start, ranges.calibrate_end, "calibrate", regression=regression),
    )


def _range(rows: pa.Table, start: str, end: str, name: str, *, regression: bool = False) -> _Split:
    day = rows.column("day").cast(pa.string())
    inside = pc.and_(pc.greater_equal(day, start), pc.less(day, end))
    chosen = rows.filter(inside)
    if regression:
        if not chosen.num_rows:
            raise Refused(f"{name} range [{start}, {end}): must hold rows, but holds none. Widen data.window.")
        return _Split(chosen, targets(chosen, f"{name} range [{start}, {end})"))
    label = chosen.column("label")
    if label.null_count:
        raise Refused(f"{name} range [{start}, {end}): every row must have a label, but {label.null_count} have none.")
    values = np.asarray(label.to_numpy(), dtype=np.int8)
    positives = int(values.sum())
    if not 0 < positives < len(values) or not np.isin(values, (0, 1)).all():
        raise Refused(
            f"{name} range [{start}, {end}): labels must be 0 and 1 and both occur, but got {positives} positives of "
            f"{len(values)} rows. Widen data.window."
        )
    return _Split(chosen, values)


def _usual(name: str, dimension: Dimension) -> Any:
    if dimension.kind == "categorical":
        return dimension.choices[0]
    middle = math.sqrt(dimension.low * dimension.high) if dimension.log else (dimension.low + dimension.high) / 2
    value = min(max(USUAL.get(name, middle), dimension.low), dimension.high)
    return round(value) if dimension.kind == "int" else float(value)
