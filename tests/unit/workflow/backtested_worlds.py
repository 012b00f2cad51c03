"""A small world to backtest in: rows in a table, a folder as cache; no ledger, Feast, MLflow or Optuna."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from judged_attempts import CODE, TABLE, TableFeatures
from labelled_rows import spec

from ratchet.adapters import models
from ratchet.adapters.storage import ObjectStore
from ratchet.domain.spec import ModelSpec
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow.policy_backtest import Stretch
from ratchet.workflow.workshop import Place

STRETCH = Stretch(start=date(2013, 3, 25), judge_from=date(2013, 4, 20), end=date(2013, 5, 20))
FAHRENHEIT = "wind_f"


def small_spec(gate: dict[str, Any] | None = None, **train: Any) -> ModelSpec:
    """The shipped spec on rows that are few, without a schedule."""
    plain = spec(**train).model_dump(mode="json")
    plain["data"]["holdout"] |= {"last": "14d"}
    plain["retrain"] |= {"debounce": "0s", "cooldown": "0s", "schedule": None}
    plain["retrain"]["on"]["data"]["min_new_rows"] = 100
    plain["gate"] |= {"guardrails": []} | (gate or {})
    return ModelSpec.model_validate(plain)


class FeatureTable(TableFeatures):
    """Rows in memory, one feature of which tells its unit."""

    def __init__(self) -> None:
        super().__init__()
        names = [FAHRENHEIT if name == "rate" else name for name in TABLE.column_names]
        self.table = TABLE.rename_columns(names)

    def historical(self, spec: ModelSpec, spine: pa.Table) -> pa.Table:
        return self.table.take(pa.compute.index_in(spine["flight_id"], value_set=self.table["flight_id"]))

    def feature_names(self, spec: ModelSpec) -> tuple[str, ...]:
        return ("wind", FAHRENHEIT, "night", "carrier")

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        return {"views": {"weather": {"features": {FAHRENHEIT: "Float64"}}}, "hash": "a" * 64}


class CountingStudies(InMemoryStudies):
    """Counts how many studies there were."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        CountingStudies.made += 1


def place(folder: Path, **changed: Any) -> Place:
    """A place whose studies are counted from here on."""
    CountingStudies.made = 0
    parts = {"cache": ObjectStore(str(folder / "cache")), "models": models, "new_studies": CountingStudies}
    return Place(**(parts | {"source": "s", "code": CODE} | changed))
