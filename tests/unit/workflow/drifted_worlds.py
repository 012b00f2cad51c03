"""A world whose champion's level has drifted, and in which it is judged again with another calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from judged_attempts import JudgingWorld

from ratchet.domain.spec import ModelSpec

SINCE = "2013-03-22"
DULL = {
    "fixed": {"tree_method": "hist", "n_estimators": 1, "min_child_weight": 1e6},
    "search_space": {"max_depth": {"int": [1, 1]}},
    "trials": 1,
    "workers": 1,
}
"""One tree that never splits: a challenger that knows the level and nothing else."""


def drift(world: JudgingWorld, by: float) -> None:
    """From ``SINCE`` on outcomes of the same kind of rows are rarer, or more frequent, by so much on the logit."""
    table = world.features.table
    wind, rate = (np.nan_to_num(table[name].to_numpy().astype(float)) for name in ("wind", "rate"))
    united = np.array([name == "UA" for name in table["carrier"].to_pylist()])
    odds = 1.6 * wind + 0.8 * rate + united - 1.0 + by
    drawn = np.random.default_rng(11).random(table.num_rows) < 1 / (1 + np.exp(-odds))
    late = np.array([day >= SINCE for day in table["day"].to_pylist()])
    label = np.where(late, drawn, table["label"].to_numpy() == 1).astype(np.int8)
    world.features.table = table.set_column(table.column_names.index("label"), "label", pa.array(label))


def deploy(world: JudgingWorld, *, train: dict[str, Any] | None = None, **gate: Any) -> None:
    """A spec that asks for the recalibrated champion as well, with these keys of its gate and of its training."""
    document = world.spec.model_dump(mode="json")
    document["gate"] |= {"also_judge": ["recalibrated_champion"]} | gate
    document["train"] |= train or {}
    world.spec = ModelSpec.model_validate(document)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
