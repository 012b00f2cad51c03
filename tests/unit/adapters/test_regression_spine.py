"""The label of a regression on its way from the source to the spine."""

from __future__ import annotations

import copy
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused

sys.path.append(str(Path(__file__).parents[1] / "domain"))

from test_spec import WHOLE

LISTED = """
timezone: UTC
datasets:
  flights: {location: flights.parquet, keys: [flight_id], event: departs, created: known}
"""
FIRST = datetime(2013, 1, 1, 12, tzinfo=UTC)


def spec() -> ModelSpec:
    tree: dict[str, Any] = copy.deepcopy(WHOLE)
    tree["business"]["payoff"] = {"under": -3, "over": -1, "unit": "EUR"}
    tree["train"]["estimator"] = "xgboost.XGBRegressor"
    tree["data"]["spine"] |= {"label": "minutes", "decided_at": "departs - 6h", "timezone": "UTC"}
    return ModelSpec.model_validate(tree)


def spine_of(folder: Path, minutes: pa.Array) -> pa.Table:
    (folder / "repo").mkdir()
    (folder / "repo" / "datasets.yaml").write_text(LISTED)
    departs = [FIRST + timedelta(days=i) for i in range(len(minutes))]
    moment = pa.timestamp("us", tz="UTC")
    table = {
        "flight_id": [f"f{i}" for i in range(len(minutes))],
        "departs": pa.array(departs, moment),
        "known": pa.array([each + timedelta(days=1) for each in departs], moment),
        "minutes": minutes,
    }
    pq.write_table(pa.table(table), folder / "flights.parquet")
    features = FeastFeatures(folder / "repo", folder)
    return features.spine(spec(), as_of=datetime(2013, 6, 1, tzinfo=UTC), start=date(2013, 1, 1), end=date(2013, 2, 1))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32(), pa.float64(), pa.decimal128(8, 2)])
def test_a_number_of_any_type_is_a_label(tmp_path: Path, kind: pa.DataType) -> None:
    label = spine_of(tmp_path, pa.array([5, -3, 400]).cast(pa.float64()).cast(kind))["label"]
    assert label.type == pa.float64()
    assert label.to_pylist() == [5.0, -3.0, 400.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_label_that_is_no_finite_number_is_refused_with_its_file_and_column(tmp_path: Path, bad: float) -> None:
    with pytest.raises(Refused, match=r"flights\.parquet: minutes: the label of a regression must be a finite number"):
        spine_of(tmp_path, pa.array([5.0, bad, 1.0]))


def test_a_label_that_is_missing_or_no_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(Refused, match="label must be known on every row, but 1 rows have none"):
        spine_of(tmp_path / "a", pa.array([5.0, None, 1.0]))
    with pytest.raises(Refused, match=r"flights\.parquet: minutes: column 'label' must hold numbers"):
        spine_of(tmp_path / "b", pa.array(["5", "6"]))
