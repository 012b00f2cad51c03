"""What tuning is measured against: the loop everybody writes, and FLAML."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.model_selection import TimeSeriesSplit, cross_val_score
from xgboost import XGBClassifier

from bench.tuning_cases import SPACE, Case
from ratchet.adapters.models import categories_of, encode_frame
from ratchet.domain.artifact import Platt, log_loss
from ratchet.domain.spec import XGBOOST_PARAMETERS
from ratchet.workflow.training import Columns

FOLDS = 3
GAP = 2
"""Days: the label delay."""


def naive(case: Case, rows: pa.Table, columns: Columns, trials: int) -> dict[str, Any]:
    """Optuna, 40 trials, each the mean log loss of three temporal folds of a plain ``XGBClassifier``.

    Returns each trial's parameters, value and the CPU seconds when it was done.
    """
    began = time.process_time()
    frame, label, folds = _folds(case, rows, columns)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=case.seed))
    told: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        params = {name: _suggest(trial, name, dimension) for name, dimension in SPACE.items()}
        value = _value(frame, label, folds, params, case.seed)
        told.append({"params": params, "value": value, "cpu": time.process_time() - began})
        return value

    study.optimize(objective, n_trials=trials)
    return {"cpu": time.process_time() - began, "trials": told}


def loop_value(case: Case, rows: pa.Table, columns: Columns, params: dict[str, Any]) -> float:
    """What the loop's own validation says of parameters it may not have tried."""
    return _value(*_folds(case, rows, columns), params, case.seed)


def _value(frame: Any, label: Any, folds: Sequence[Any], params: dict[str, Any], seed: int) -> float:
    model = XGBClassifier(**params, tree_method="hist", enable_categorical=True, n_jobs=1, random_state=seed)
    return -float(cross_val_score(model, frame, label, cv=folds, scoring="neg_log_loss").mean())


def _folds(case: Case, rows: pa.Table, columns: Columns) -> tuple[Any, Any, list[tuple[Any, Any]]]:
    """A and B as one frame; folds of whole days, each judging days after those it was fitted on, less the gap."""
    ranges = case.ranges()
    day = rows["day"]
    known = rows.filter(pc.and_(pc.greater_equal(day, ranges.fit_start), pc.less(day, ranges.calibrate_end)))
    frame = encode_frame(known, columns.features, categories_of(known, columns.categorical))
    days = np.array(known["day"].to_pylist())
    every = np.unique(days)
    split = TimeSeriesSplit(n_splits=FOLDS, gap=GAP).split(every)
    folds = [(np.flatnonzero(np.isin(days, every[a])), np.flatnonzero(np.isin(days, every[b]))) for a, b in split]
    return frame, known["label"].to_numpy(), folds


def _suggest(trial: optuna.Trial, name: str, dimension: dict[str, Any]) -> Any:
    log = dimension.get("log", False)
    if "int" in dimension:
        return trial.suggest_int(name, *dimension["int"], log=log)
    return trial.suggest_float(name, *dimension["float"], log=log)


class _Enough(Exception):
    """FLAML has had the time it may have."""


def flaml(case: Case, rows: pa.Table, columns: Columns, cpu_limit: float) -> dict[str, Any]:
    """FLAML's cost-frugal search over its own space for depth-limited XGBoost, judged by what judges our trials.

    It fits on A and reads B, as we do, and its metric is ours: the log loss on B after calibration on B. It ends at the
    first trial after so many CPU seconds. Returns each trial's parameters, value and the CPU seconds when it was done.
    """
    from flaml import AutoML  # noqa: PLC0415 - only where it is measured

    began = time.process_time()
    ranges = case.ranges()
    day = rows["day"]
    early = rows.filter(pc.and_(pc.greater_equal(day, ranges.fit_start), pc.less(day, ranges.fit_end)))
    later = rows.filter(pc.and_(pc.greater_equal(day, ranges.calibrate_start), pc.less(day, ranges.calibrate_end)))
    categories = categories_of(early, columns.categorical)
    told: list[dict[str, Any]] = []

    def metric(x_val: Any, y_val: Any, estimator: Any, *others: Any) -> tuple[float, Any]:
        raw = np.asarray(estimator.predict_proba(x_val)[:, 1], dtype=np.float64)
        value = log_loss(Platt.fit(raw, y_val)(raw), y_val)
        config = others[5]  # after labels, training rows and labels, and two of weights
        params = {name: each for name, each in config.items() if name in XGBOOST_PARAMETERS}
        told.append({"params": params, "value": value, "cpu": time.process_time() - began})
        if told[-1]["cpu"] > cpu_limit:
            raise _Enough
        return value, {}

    with contextlib.suppress(_Enough):
        AutoML().fit(
            X_train=encode_frame(early, columns.features, categories),
            y_train=early["label"].to_numpy(),
            X_val=encode_frame(later, columns.features, categories),
            y_val=later["label"].to_numpy(),
            task="classification",
            metric=metric,
            estimator_list=["xgb_limitdepth"],
            eval_method="holdout",
            retrain_full=False,
            time_budget=3_600,
            n_jobs=1,
            seed=case.seed,
            verbose=0,
        )
    return {"cpu": time.process_time() - began, "trials": told}


def first_hit(trials: Sequence[dict[str, Any]], value: float) -> float | None:
    """CPU seconds until a trial was as good; None if none was."""
    return next((trial["cpu"] for trial in trials if trial["value"] <= value), None)
