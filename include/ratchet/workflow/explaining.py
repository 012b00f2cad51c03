"""What a dossier says beside the verdict, so that people can see why: pure numbers from the rows, nothing decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.domain import portrait, shift
from ratchet.domain.gate import Evidence, GatePolicy
from ratchet.workflow.dossiers import plain
from ratchet.workflow.evidence import SIDES


def explain(
    evidence: Evidence, policy: GatePolicy, train: pa.Table, holdout: pa.Table, features: Sequence[str]
) -> dict[str, Any]:
    """Metrics with intervals, payoff by slice, calibration of both models, and what changed in each feature.

    Of a regression also the ``residuals`` of both models (None of a constant one), as there is no calibration to draw.

    Args:
        evidence: both models on the holdout.
        policy: gives the confidence of the one-sided bounds.
        train: the rows that trained and calibrated the challenger.
        holdout: the rows that judge it, in the order of the evidence.
        features: the columns that the models read.

    """
    confidence, ordered = policy.confidence, policy.ordered
    told: dict[str, Any] = {
        "metrics": [
            plain(asdict(metric)) for metric in portrait.metrics(evidence, confidence=confidence, ordered=ordered)
        ],
        "slices": [plain(asdict(part)) for part in portrait.by_slice(evidence, confidence=confidence, ordered=ordered)],
        "calibration": {
            side: [plain(asdict(each)) for each in portrait.calibration(getattr(evidence, side), evidence.label)]
            for side in SIDES
        },
        "data_shift": [plain(asdict(_shift(name, train.column(name), holdout.column(name)))) for name in features],
    }
    if evidence.challenger.prediction is not None:
        found = {side: portrait.residuals(getattr(evidence, side), evidence.label) for side in SIDES}
        told["residuals"] = {side: None if each is None else plain(asdict(each)) for side, each in found.items()}
    return told


def _shift(name: str, before: pa.ChunkedArray, after: pa.ChunkedArray) -> shift.Shift:
    kind = before.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return shift.of_numbers(name, _numbers(before), _numbers(after))
    return shift.of_categories(name, _counts(before), _counts(after))


def _numbers(column: pa.ChunkedArray) -> Any:
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy())


def _counts(column: pa.ChunkedArray) -> dict[str | None, int]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    counted = pc.value_counts(column.cast(pa.string())).to_pylist()
    return {row["values"]: row["counts"] for row in counted}
