"""Logging, registering and aliasing one version: ours beside MLflow's default calls, in CPU milliseconds.

Children count: MLflow starts one. Wall-clock medians are in the row beside them, and tell of a quiet machine only.

Default calls: ``mlflow.xgboost.log_model(…, registered_model_name=…)`` with an input example and nothing else given, as
its documentation shows, then the alias. MLflow then infers the requirements by importing the model in a process of its
own. Ours takes them from the lock file. Both write to the same tracking database, without MLflow's telemetry, as
`ratchet up` has it; rounds alternate, the first of each is for warming up. After each round both are loaded by their
alias and must predict the same.

    python -m bench.registering           # the rows go to bench/results/registering.json
"""

from __future__ import annotations

import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when MLflow is imported

import mlflow
import numpy as np
import pyarrow as pa

from bench.reports import machine, write
from ratchet.adapters.models import XGBoostLearner, encode_frame, load, save
from ratchet.adapters.registry_mlflow import MlflowRegistry
from ratchet.domain.artifact import ModelArtifact, Platt

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
ROWS, FEATURES, TREES = 20_000, 20, 150
GOAL = 100.0


def artifact(folder: Path) -> pa.Table:
    """A fitted model of the usual size, saved; returns rows to score."""
    random = np.random.default_rng(0)
    names = tuple(f"feature_{number:02}" for number in range(FEATURES))
    rows = pa.table({name: random.normal(size=ROWS) for name in names})
    label = (rows["feature_00"].to_numpy() + random.normal(size=ROWS) > 0.5).astype(np.int8)
    learner = XGBoostLearner()
    prepared = learner.prepare(rows, label, features=names, categories={}, threads=2)
    params = {"n_estimators": TREES, "max_depth": 6, "tree_method": "hist"}
    scorer = learner.fit(prepared, params, seed=1, threads=2)
    save(ModelArtifact(scorer, learner.estimator, names, {}, Platt(1.0, 0.0), 0.25, params), folder)
    return rows.slice(0, 500)


Spent = tuple[float, float]
"""Milliseconds: CPU with that of children, and wall clock."""


def clock() -> Spent:
    """Now, by both clocks."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1e3, time.perf_counter() * 1e3


def since(began: Spent) -> Spent:
    """What passed by both clocks."""
    now = clock()
    return now[0] - began[0], now[1] - began[1]


def ours(registry: MlflowRegistry, folder: Path, turn: int) -> Spent:
    """From an artifact in a folder to a version with the alias."""
    began = clock()
    number = registry.register(f"attempt.{turn}", "ours", folder, metrics={"uplift": 1.5}, params={}, tags={})
    registry.set_alias("ours", "champion", number)
    return since(began)


def defaults(model: Any, example: Any) -> Spent:
    """The same by MLflow's default calls."""
    began = clock()
    with mlflow.start_run():
        mlflow.log_metric("uplift", 1.5)
        info = mlflow.xgboost.log_model(model, name="model", registered_model_name="theirs", input_example=example)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("theirs", "champion", str(info.registered_model_version))
    return since(began)


def main() -> None:
    """Measure, compare, print, write."""
    warnings.filterwarnings("ignore")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    spent: dict[str, list[Spent]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        os.chdir(home)  # a tracking database without a server keeps artifacts below the working directory
        uri = f"sqlite:///{home}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        rows = artifact(home / "artifact")
        registry = MlflowRegistry(uri, lock_file=ROOT / "requirements.txt", download_dir=home / "downloads")
        for turn in range(ROUNDS + 1):
            took = ours(registry, home / "artifact", turn)
            frozen = load(registry.download("ours", registry.alias_version("ours", "champion") or 0, fresh=True))
            model = mlflow.xgboost.load_model("models:/ours@champion")
            frame = encode_frame(rows, frozen.features, frozen.categories)
            theirs = defaults(model, frame.head(5))
            back = mlflow.xgboost.load_model("models:/theirs@champion").predict_proba(frame)[:, 1]
            if not np.array_equal(back.astype(np.float64), frozen.scorer.raw(rows)):
                raise SystemExit("both must predict the same when loaded by their alias")
            if turn:
                spent["ours"].append(took)
                spent["theirs"].append(theirs)
            print(
                f"round {turn} of {ROUNDS}: ours {took[0]:.0f} ms, theirs {theirs[0]:.0f} ms",
                file=sys.stderr,
                flush=True,
            )
    mine, other = (statistics.median(cpu for cpu, _ in took) for took in spent.values())
    row = {
        "name": "register a version",
        "peer": "MLflow's default calls",
        "ours": round(mine, 1),
        "theirs": round(other, 1),
        "ratio": round(other / mine, 1),
        "unit": "CPU ms",
        "goal": f">= {GOAL:g}",
        "met": other >= GOAL * mine,
        "spread": {name: [round(min(took)[0], 1), round(max(took)[0], 1)] for name, took in spent.items()},
        "wall_ms": {name: round(statistics.median(wall for _, wall in took), 1) for name, took in spent.items()},
    }
    print(f"ours {mine:.0f} CPU ms, MLflow's default calls {other:.0f} CPU ms, ratio {other / mine:.0f}")
    write("registering", [row], machine(ROUNDS, "mlflow", "xgboost"))


if __name__ == "__main__":
    main()
