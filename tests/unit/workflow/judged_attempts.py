"""A world in which attempts are really judged: small rows, a folder as store; no Feast, MLflow or Optuna."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from labelled_rows import COLUMNS, rows, spec
from worlds import CODE, World

from ratchet.adapters import models
from ratchet.adapters.storage import ObjectStore
from ratchet.domain.sensitive import TaggedColumn
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow
from ratchet.ports.registry import InMemoryRegistry
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow.attempting import Attempts, Parts

TABLE = rows(40, days=140)
KEYS = ["flight_id", "decided_at", "day", "label"]
ENVIRONMENT = {
    "commit": "0" * 40,
    "lock_sha256": "1" * 64,
    "python": "3.11.0",
    "machine": "x86_64",
    "libraries": {"xgboost": "3.2.0"},
}
DATASETS = {"flights": {"rows": TABLE.num_rows, "sha256": "f" * 64}}


class TableFeatures:
    """Features of one table in memory; ``table`` may be changed to play a source that has changed."""

    def __init__(self) -> None:
        self.table = TABLE

    def spine(self, spec: ModelSpec, *, as_of: datetime, start: date, end: date) -> pa.Table:
        day = self.table["day"]
        mature = (as_of - timedelta(days=1) - spec.data.spine.label_delay).date().isoformat()
        inside = pc.and_(pc.greater_equal(day, start.isoformat()), pc.less(day, end.isoformat()))
        return self.table.filter(pc.and_(inside, pc.less_equal(day, mature))).select(KEYS)

    def entities(self, spec: ModelSpec, *, start: date, end: date) -> pa.Table:
        day = self.table["day"]
        inside = pc.and_(pc.greater_equal(day, start.isoformat()), pc.less(day, end.isoformat()))
        return self.table.filter(inside).select([name for name in KEYS if name != "label"])

    def historical(self, spec: ModelSpec, spine: pa.Table) -> pa.Table:
        wanted = pc.is_in(self.table["flight_id"], value_set=spine["flight_id"].combine_chunks())
        kept = [name for name in KEYS if name in spine.column_names]
        return self.table.filter(wanted).select([*kept, *COLUMNS.features])

    def feature_names(self, spec: ModelSpec) -> tuple[str, ...]:
        return COLUMNS.features

    def tagged(self, spec: ModelSpec) -> tuple[TaggedColumn, ...]:
        return ()

    def apply(self) -> None:
        """Nothing to do."""

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        views = {"flights": {"version": 1, "features": dict.fromkeys(COLUMNS.features, "Float32")}}
        return {"views": views, "datasets": DATASETS, "engine": {"feast": "0.67.0"}, "hash": "a" * 64}


class JudgingWorld(World):
    """A world whose attempts go all the way to the verdict; ``train`` changes how its models are made."""

    def __init__(self, folder: Path, template: Path, **train: Any) -> None:
        super().__init__(folder, template)
        self._train = train
        plain = spec(**train).model_dump(mode="json")
        plain["data"]["holdout"] |= {"last": "14d"}
        plain["retrain"] |= {"debounce": "0s", "cooldown": "0s"}
        plain["gate"]["guardrails"] = [
            g | {"min_rows": 50} if g.get("slice") else g for g in plain["gate"]["guardrails"]
        ]
        self.spec = ModelSpec.model_validate(plain)
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))
        self.store = ObjectStore(str(folder / "store"))
        self.loader = models
        self.features = TableFeatures()
        self.studies = InMemoryStudies()
        self.parts = Parts(
            ledger=self.ledger,
            settings=self.settings,
            code_digest=CODE,
            features=lambda: self.features,
            store=lambda: self.store,
            studies=lambda: self.studies,
            registry=lambda: self.registry,
            models=lambda: models,
            artifacts=lambda: self.artifacts,
            environment=lambda: dict(ENVIRONMENT),
        )
        self.attempts = Attempts(self.parts)
        self._runs = 0

    def copy(self, folder: Path) -> JudgingWorld:
        """This world as it is now, in a folder of its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        made = type(self)(folder, self.folder / "ledger.db", **self._train)
        made.registry = InMemoryRegistry(folder / "registry")
        made.registry._versions = copy.deepcopy(self.registry._versions)
        made.studies = copy.deepcopy(self.studies)
        made._runs = self._runs
        return made

    def run(self, day: str, **conf: Any) -> AttemptRow:
        """One attempt by hand on all data before the local day, judged; promoted when the verdict says so."""
        attempt_id = self.tuned(day, **conf)
        self.attempts.judge(attempt_id)
        self.promotions.promote(self.model)
        return self.attempt(attempt_id)

    def tuned(self, day: str, **conf: Any) -> str:
        """An attempt up to its judging step."""
        until = datetime.fromisoformat(day).replace(tzinfo=UTC)
        with self.ledger.transaction() as tx:
            for dataset in self.spec.datasets:
                tx.advance_watermark(dataset, until, 1.0)
            tx.set_clock("replay", until)
        self._runs += 1
        attempt_id = self.claim(f"run{self._runs}", "manual", reason="to see", **conf)["attempt"]
        self.attempts.snapshot(attempt_id)
        for worker in self.attempts.plan_tuning(attempt_id):
            self.attempts.tune(worker["attempt"], worker["worker"])
        return str(attempt_id)

    def with_code(self, digest: str) -> Attempts:
        """The verbs as other code would run them."""
        return Attempts(replace(self.parts, code_digest=digest))
