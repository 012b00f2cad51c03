"""What is judged, deployed and kept: a fitted scorer, its frozen calibration and its frozen threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ratchet.domain.capacity import best_of_each, evenly
from ratchet.domain.inference import group
from ratchet.domain.metrics import Kind
from ratchet.domain.payoff import PayoffMatrix, expected_gain
from ratchet.domain.regression import Errors
from ratchet.errors import Refused

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOGIT_CLIP = 1e-7
"""Raw scores are kept this far from 0 and 1 before the logit (a float32 score of exactly 1 has no logit)."""
NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-12


class Rows(Protocol):
    """A table of rows; ``pyarrow.Table`` is one. Only the scorer behind it knows the columns."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def column_names(self) -> list[str]:
        """What there is to ask for."""
        ...

    def column(self, i: Any) -> Any:
        """One column by its name, which gives its values by ``to_numpy()``: missing ones as NaN or None."""
        ...


def numbers(rows: Rows, names: Iterable[str]) -> dict[str, Floats]:
    """The named columns as (n_rows,) float64; true is 1, false 0, missing NaN.

    Raises:
        Refused: a column is absent or does not hold numbers.

    """
    found: dict[str, Floats] = {}
    for name in names:
        if name not in rows.column_names:
            raise Refused(f"rows must have the column {name!r}, but got {sorted(rows.column_names)}.")
        values = np.asarray(rows.column(name).to_numpy())
        of_numbers = values.dtype.kind in "biuf" or (
            values.dtype.kind == "O" and all(v is None or isinstance(v, bool | int | float | Decimal) for v in values)
        )
        if not of_numbers:
            raise Refused(f"column {name!r} must hold numbers, but holds {values.dtype}.")
        found[name] = values.astype(np.float64)
    return found


def targets(rows: Rows, where: str) -> Floats:
    """The labels of a regression, (n_rows,) float64 and finite.

    Raises:
        Refused: one is missing, NaN or infinite, or they are no numbers; names ``where`` they are.

    """
    try:
        found = numbers(rows, ("label",))["label"]
    except Refused as refused:
        raise Refused(f"{where}: {refused}") from None
    if bad := int((~np.isfinite(found)).sum()):
        raise Refused(
            f"{where}: the label of a regression must be a finite number on every row, but {bad} of {found.size} have "
            "NaN, infinity or none. Leave such rows out of the spine's source, or give them a number."
        )
    return found


class Scorer(Protocol):
    """A fitted estimator in its native form."""

    def raw(self, rows: Any) -> Floats:
        """Uncalibrated, (n_rows,): probability of the positive label in [0, 1], prediction of a regression, or rank.

        Missing features are allowed. A rank is any number; a higher one comes first among the rows of its day.
        """
        ...


def logit(probability: Floats) -> Floats:
    """log(p / (1 - p)), (n,) finite; p is clipped to [1e-7, 1 - 1e-7]. NaN stays NaN."""
    clipped = np.clip(probability.astype(np.float64), LOGIT_CLIP, 1.0 - LOGIT_CLIP)
    odds: Floats = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(value: Floats) -> Floats:
    """1 / (1 + exp(-value)) without overflow, (n,). NaN stays NaN."""
    small = np.exp(-np.abs(value))
    return np.where(value >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def log_loss(probability: Floats, label: NDArray[Any]) -> float:
    """Mean negative log likelihood in nats of (n,) probabilities for (n,) labels in {0, 1}. NaN in, NaN out."""
    clipped = np.clip(probability, LOGIT_CLIP, 1.0 - LOGIT_CLIP)
    return float(-np.mean(np.where(label == 1, np.log(clipped), np.log1p(-clipped))))


@dataclass(frozen=True)
class Platt:
    """Calibration by a straight line on the logit: ``p = sigmoid(slope * logit(raw) + intercept)``.

    Two parameters, because the calibration range is a few weeks of correlated days: few independent clusters, on
    which a step function (isotonic regression) can follow single days. Measured in decision 0007.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, raw: Floats) -> Floats:
        """Calibrated probability (n,) in (0, 1) of raw scores (n,) in [0, 1]. NaN stays NaN."""
        return sigmoid(self.slope * logit(raw) + self.intercept)

    @classmethod
    def fit(cls, raw: Floats, label: NDArray[Any]) -> Platt:
        """Maximum likelihood by Newton steps on Platt's smoothed targets, so that separable rows keep finite weights.

        Args:
            raw: (n,) scores in [0, 1] of rows *later* than those the scorer was fitted on; NaN is refused.
            label: (n,) in {0, 1}; both must occur.

        Raises:
            Refused: one class only, lengths differ, or a score is not finite.

        Source: Platt (1999), Probabilistic outputs for support vector machines; Lin, Lin and Weng (2007).

        """
        if raw.shape != label.shape or raw.ndim != 1:
            raise Refused(f"calibrate: raw and label must be of one shape (n,), but got {raw.shape} and {label.shape}.")
        if not np.isfinite(raw).all():
            raise Refused(
                f"calibrate: every raw score must be finite, but {int((~np.isfinite(raw)).sum())} are not. "
                "Check the estimator's parameters."
            )
        positives = int((label == 1).sum())
        negatives = int(label.size) - positives
        if not positives or not negatives:
            raise Refused(
                f"calibrate: rows of both labels are needed, but got {positives} positive and {negatives} negative. "
                "Widen the calibration range."
            )
        odds = logit(raw)
        target = np.where(label == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
        design = np.stack([odds, np.ones_like(odds)], axis=1)
        weights = np.array([1.0, 0.0])
        loss = _cross_entropy(design @ weights, target)
        for _ in range(NEWTON_STEPS):
            fitted = sigmoid(design @ weights)
            gradient = design.T @ (fitted - target)
            curvature = (design * (fitted * (1.0 - fitted))[:, None]).T @ design
            step = np.linalg.solve(curvature + 1e-9 * np.eye(2), gradient)
            scale = 1.0
            while (candidate := _cross_entropy(design @ (weights - scale * step), target)) > loss and scale > 1e-10:
                scale /= 2.0
            if loss - candidate <= NEWTON_TOLERANCE * abs(loss):
                break
            weights, loss = weights - scale * step, candidate
        return cls(slope=float(weights[0]), intercept=float(weights[1]))


def _cross_entropy(odds: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, odds) - target * odds))


@dataclass(frozen=True)
class Shift:
    """Calibration of a regression: one number added to every prediction.

    One parameter, for the same reason that :class:`Platt` has two: what the later rows know better than the fit is the
    level, and their few weeks of correlated days can tell little more.
    """

    offset: float = 0.0

    def __call__(self, raw: Floats) -> Floats:
        """Calibrated prediction (n,) of raw ones (n,), in the target's unit. NaN stays NaN."""
        return raw + self.offset

    @classmethod
    def fit(cls, raw: Floats, errors: Errors) -> Shift:
        """The shift that earns most on rows *later* than those the scorer was fitted on.

        With constant costs it is the quantile at ``under / (under + over)`` of the residuals there, as the residuals'
        mean is the intercept of least squares (Koenker and Bassett 1978: an equivariant estimator).

        Raises:
            Refused: a raw prediction is not finite, or no row has a known worth.

        """
        if not np.isfinite(raw).all():
            raise Refused(
                f"calibrate: every raw prediction must be finite, but {int((~np.isfinite(raw)).sum())} are not. "
                "Check the estimator's parameters."
            )
        try:
            return cls(errors.best_offset(raw))
        except ValueError as error:
            raise Refused(f"calibrate: {error}") from None


def batches(rows: Rows) -> NDArray[np.intp]:
    """Which local day each row belongs to, (n_rows,) from 0: the batch that a capacity is for.

    Raises:
        Refused: the rows have no ``day``.

    """
    if "day" not in rows.column_names:
        raise Refused(f"rows must have the column 'day' to be decided under a capacity, but got {rows.column_names}.")
    return group(rows.column("day").to_numpy()).codes


def acting(threshold: float | PayoffMatrix, probability: Floats, rows: Rows, capacity: int | None = None) -> Bools:
    """Whether to act on each row, (n_rows,): at or above the threshold, or where acting is expected to pay.

    ``probability`` is (n_rows,) calibrated. NaN, in it or in a formula, is not acted on. Under a ``capacity`` at most
    so many rows of each local day are acted on: those with the highest probability, or with the highest expected gain
    where each row has its own; of equals the first in the order of the rows, which must be the total one.

    Raises:
        Refused: the rows lack a column that a formula of the threshold reads, or ``day`` under a capacity.

    """
    score, floor = probability, threshold
    if isinstance(floor, PayoffMatrix):
        score, floor = expected_gain(floor, probability, numbers(rows, floor.columns)), 0.0
    willing: Bools = score >= floor
    return willing if capacity is None else willing & best_of_each(score, batches(rows), capacity)


@dataclass(frozen=True)
class ModelArtifact:
    """A frozen model: nothing in it is chosen after it has been judged.

    ``features`` is the column order of the scorer; ``categories`` are the values of each categorical feature seen on
    the fitted rows (any other value counts as missing); ``params`` are the scorer's own; ``provenance`` is free text
    for the dossier (seed, ranges, row counts, library versions).

    ``threshold`` is the probability from which on the model acts. Where the payoff differs between rows it is the
    payoff matrix instead, and each row has a break-even of its own: the model acts where that is expected to pay. A
    regression has none (None), and a :class:`Shift` for a calibrator: its decision is the prediction itself.
    ``capacity`` is how many rows of one local day it acts on at most; None is no limit. A ranking has a capacity, and
    neither threshold nor calibrator: it acts on each day's best so many, whatever they score.
    """

    scorer: Scorer
    estimator: str
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    calibrator: Platt | Shift | None
    threshold: float | PayoffMatrix | None
    params: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    capacity: int | None = None

    @property
    def kind(self) -> Kind:
        """Which decisions it takes."""
        if self.threshold is not None:
            return "classifier"
        return "ranking" if self.calibrator is None else "regression"

    def probability(self, rows: Any) -> Floats:
        """Calibrated probability (n_rows,) in (0, 1); a regression's calibrated prediction; a ranking's scores."""
        raw = self.scorer.raw(rows)
        return raw if self.calibrator is None else self.calibrator(raw)

    def decide(self, rows: Any) -> tuple[Floats, Bools | Floats]:
        """Calibrated probability (n_rows,) and whether to act (n_rows,): at or above the threshold, if there is room.

        Of a regression both are the calibrated prediction (n_rows,). A ranking has its score in the place of the
        probability, and acts on each day's best; on a row without a score (NaN) it does not.

        A row on which the expected gain cannot be computed (a missing value in a formula) is not acted on. A capacity
        is for the rows of a day that are given together, in their total order; a lone row is a day of its own.

        Raises:
            Refused: the rows lack a column that a formula of the threshold reads, or ``day`` under a capacity.

        """
        score = self.probability(rows)
        if self.threshold is None:
            if self.calibrator is not None:
                return score, score
            return score, acting(-np.inf, score, rows, self.capacity)
        return score, acting(self.threshold, score, rows, self.capacity)


@dataclass(frozen=True)
class ConstantDecision:
    """The rival of a first champion: one decision for every row, with the training rows' base rate as probability.

    Under a ``capacity`` it cannot act on every row: it acts on so many of each local day, spread evenly over them.
    """

    act: bool
    probability: float
    capacity: int | None = None

    def decide(self, rows: Rows) -> tuple[Floats, Bools]:
        """The same probability for each of the (n_rows,) rows, and the same decision while there is room."""
        act = np.full(rows.num_rows, self.act)
        if self.act and self.capacity is not None:
            act = evenly(batches(rows), self.capacity)
        return np.full(rows.num_rows, self.probability), act


@dataclass(frozen=True)
class ConstantPrediction:
    """The rival of a regression's first champion: one prediction for every row, in the target's unit."""

    value: float

    def decide(self, rows: Rows) -> tuple[Floats, Floats]:
        """The same prediction for each of the (n_rows,) rows, as score and as decision."""
        same = np.full(rows.num_rows, self.value)
        return same, same
