"""The labelled rows in an order that days are not in, and the shipped spec turned into a ranking of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from labelled_rows import rows, spec

from ratchet.domain.spec import ModelSpec

CAPACITY = 8
DECISION = {"act_on": "rank", "capacity": {"at_most": CAPACITY}}
FIXED = {"tree_method": "hist", "n_estimators": 15, "lambdarank_pair_method": "mean"}
GUARDRAILS = [
    {"metric": "ndcg_at_k", "max_regression": 0.2},
    {"metric": "precision", "max_regression": 0.2},
    {"metric": "decisions_flipped", "max": 0.9},
    {"metric": "payoff", "slice": "carrier", "max_regression": 50.0, "min_rows": 50},
    {"metric": "latency_p95_ms", "max": 100},
]


def ranking_spec(payoff: dict[str, Any] | None = None, **train: Any) -> ModelSpec:
    plain = spec().model_dump(mode="json")
    plain["business"] |= {"decision": DECISION} | ({"payoff": payoff} if payoff else {})
    plain["train"] |= {"estimator": "xgboost.XGBRanker", "fixed": FIXED} | train
    plain["gate"]["guardrails"] = GUARDRAILS
    return ModelSpec.model_validate(plain)


def ranking_rows(per_day: int = 60, **given: Any) -> pa.Table:
    """A key says nothing of the day, so that the rows' total order runs through all of them."""
    table = rows(per_day, **given)
    keys = [f"f{i:05d}" for i in np.random.default_rng(5).permutation(table.num_rows)]
    return table.set_column(0, "flight_id", pa.array(keys)).sort_by("flight_id")
