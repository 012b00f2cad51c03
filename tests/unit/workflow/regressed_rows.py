"""The labelled rows with a number to predict, and the shipped spec turned into a regression of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from labelled_rows import rows, spec

from ratchet.domain.spec import ModelSpec

COSTS = {"under": -3, "over": -1, "unit": "EUR"}
FIXED = {"tree_method": "hist", "n_estimators": 25}
GUARDRAILS = [
    {"metric": "r2", "max_regression": 0.2},
    {"metric": "payoff", "slice": "carrier", "max_regression": 5.0, "min_rows": 50},
    {"metric": "latency_p95_ms", "max": 100},
]


def regression_spec(payoff: dict[str, Any] | None = None, **train: Any) -> ModelSpec:
    plain = spec().model_dump(mode="json")
    plain["business"] |= {"payoff": payoff or COSTS, "decision": {"act_on": "prediction"}}
    plain["train"] |= {"estimator": "xgboost.XGBRegressor", "fixed": FIXED} | train
    plain["gate"]["guardrails"] = GUARDRAILS
    return ModelSpec.model_validate(plain)


def regression_rows(per_day: int = 60, **given: Any) -> pa.Table:
    """Minutes late: they depend on wind, rate and carrier, vary more in wind, and have a long tail upwards."""
    table = rows(per_day, **given)
    random = np.random.default_rng(11)
    wind = np.nan_to_num(table["wind"].to_numpy())
    united = np.array(table["carrier"].to_pylist()) == "UA"
    noise = random.gamma(2.0, 3.0 + 2.0 * np.abs(wind))
    late = 20 + 9 * wind + 4 * table["rate"].to_numpy().astype(float) + 6 * united + noise
    return with_target(table, late)


def with_target(table: pa.Table, target: Any) -> pa.Table:
    place = table.column_names.index("label")
    return table.set_column(place, "label", pa.array(target, pa.float64()))
