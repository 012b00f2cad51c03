"""Small labelled rows with a signal worth learning, and the shipped spec cut down to them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet.adapters.specs import load_spec
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.training import Columns, Ranges

SHIPPED = Path(__file__).parents[3] / "include" / "models" / "flight_delay" / "model.yaml"
FIRST_DAY = datetime(2013, 1, 1, tzinfo=UTC)
COLUMNS = Columns(features=("wind", "rate", "night", "carrier"), categorical=("carrier",))
RANGES = Ranges("2013-01-01", "2013-01-31", "2013-02-02", "2013-02-20")
HOLDOUT_START = "2013-02-22"
DAYS = 66


def spec(**train: Any) -> ModelSpec:
    plain = load_spec(SHIPPED).model_dump(mode="json") | {"monitor": None}
    plain["train"] |= {"fixed": {"tree_method": "hist", "n_estimators": 12}, "trials": 4} | train
    return ModelSpec.model_validate(plain)


def rows(per_day: int = 60, *, seed: int = 0, days: int = DAYS) -> pa.Table:
    random = np.random.default_rng(seed)
    n = days * per_day
    day = np.repeat(np.arange(days), per_day)
    carrier = np.array(["AA", "UA", "WN", None], dtype=object)[random.integers(0, 4, n)]
    wind = random.normal(size=n)
    rate = random.normal(size=n)
    odds = 1.6 * wind + 0.8 * rate + (carrier == "UA") - 1.0
    wind[random.random(n) < 0.05] = np.nan
    moments = [FIRST_DAY + timedelta(days=int(d), minutes=int(i)) for i, d in enumerate(day)]
    return pa.table(
        {
            "flight_id": [f"f{i:05d}" for i in range(n)],
            "decided_at": pa.array(moments, type=pa.timestamp("us", tz="UTC")),
            "day": [(FIRST_DAY + timedelta(days=int(d))).date().isoformat() for d in day],
            "label": pa.array((random.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int8)),
            "wind": wind,
            "rate": pa.array(rate.astype(np.float32)),
            "night": pa.array(random.random(n) < 0.3),
            "carrier": pa.array(carrier, type=pa.string()),
        }
    )
