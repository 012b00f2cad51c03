"""One retrain as a plain script: the mathematics of an attempt in one process, and nothing around it.

No Airflow, no ledger, no lease, no storage, no study's database, no dossier: the snapshot's query, the same trials
(their parameters, each stopped where it was stopped), the same fit, the same evaluation, one version in MLflow. It has
the cores that the attempt's workers had. `bench.whole_cycle` runs it beside each attempt; both must arrive at the
same model, to the byte.

    python -m bench.bare_script job.json      # prints seconds by part and the model's digest as JSON
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from ratchet.adapters import models
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.registry_mlflow import MlflowRegistry
from ratchet.domain.artifact import ModelArtifact, Platt, log_loss
from ratchet.domain.candidates import TUNED, judge_each
from ratchet.domain.gate import GatePolicy
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.attempting import rows_of
from ratchet.workflow.evaluation import evaluate_each, labels
from ratchet.workflow.training import Columns, Ranges, best_constant, fit_final


class Clock:
    """Wall-clock seconds by part, each from the end of the one before."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def part(self, name: str) -> None:
        """What was done since the last call is this part's."""
        now = time.perf_counter()
        self.parts[name] = round(now - self._last, 3)
        self._last = now


def tuned(spec: ModelSpec, job: dict[str, Any], train: Any, ranges: Ranges, columns: Columns) -> Platt:
    """Run every trial of the study; returns the calibration map of the best one.

    As many threads as the attempt had workers take turns at the trials, each with rows of its own: faster here than to
    give each trial all cores.
    """
    learner, workers = models.learner_for(spec.train.estimator), spec.train.workers
    ordered = train.sort_by([(name, "ascending") for name in (*spec.data.spine.entity, "decided_at")])
    days = ordered.column("day").to_numpy(zero_copy_only=False)
    fit = ordered.filter((days >= ranges.fit_start) & (days < ranges.fit_end))
    later = ordered.filter((days >= ranges.calibrate_start) & (days < ranges.calibrate_end))
    categories, truth, threads = learner.categories(fit, columns.categorical), labels(later), spec.runtime.threads

    def calibrated(scorer: Any) -> Platt:
        raw = scorer.raw(later)
        calibrator = Platt.fit(raw, truth)
        log_loss(calibrator(raw), truth)
        return calibrator

    def share(number: int) -> dict[int, Platt]:
        prepared = learner.prepare(fit, labels(fit), features=columns.features, categories=categories, threads=threads)
        found = {}
        for trial in job["trials"][number::workers]:
            stop = trial["attributes"].get("share", 1.0)

            def watch(grown: float, scorer: Any, stop: float = stop) -> bool:
                calibrated(scorer)
                return grown >= stop

            params = dict(spec.train.fixed) | trial["params"]
            scorer = learner.fit(prepared, params, seed=job["seed"], threads=threads, watch=watch)
            found[trial["number"]] = calibrated(scorer)
        return found

    with ThreadPoolExecutor(workers) as pool:
        maps = [of_share.items() for of_share in pool.map(share, range(workers))]
    return dict(chain.from_iterable(maps))[job["best_trial"]]


def main() -> None:
    """Do what the job says."""
    clock = Clock()
    job = json.loads(Path(sys.argv[1]).read_text())
    spec, plan = ModelSpec.model_validate(job["spec"]), job["plan"]
    features = FeastFeatures(Path(job["feature_repo"]), Path(job["data_dir"]))
    end = date.fromisoformat(max(plan["holdout_days"])) + timedelta(days=1)
    as_of, start = datetime.fromisoformat(job["as_of"]), date.fromisoformat(plan["fit_start"])
    rows = features.historical(spec, features.spine(spec, as_of=as_of, start=start, end=end))
    parts = rows_of(rows, plan["calibrate_end"], plan["holdout_days"])
    clock.part("snapshot")

    ranges = Ranges(*(plan[name] for name in ("fit_start", "fit_end", "calibrate_start", "calibrate_end")))
    columns = Columns(tuple(job["features"]), tuple(job["categorical"]))
    calibrator = tuned(spec, job, parts["train"], ranges, columns)
    clock.part("tuning")

    challenger: ModelArtifact = fit_final(
        spec=spec,
        train=parts["train"],
        ranges=ranges,
        columns=columns,
        params=job["best_params"],
        seed=job["seed"],
        learner=models.learner_for(spec.train.estimator),
        threads=spec.train.workers * spec.runtime.threads,
        calibrator=calibrator,
    )
    clock.part("fit")

    champion = models.load(Path(job["champion"])) if job["champion"] else best_constant(spec, parts["train"], ranges)
    found = evaluate_each(spec, parts["holdout"], champion, [challenger], sizes_mb=[None, None])
    verdict = judge_each({TUNED: found[0]}, GatePolicy.from_spec(spec.gate)).verdict
    clock.part("evaluation")

    with tempfile.TemporaryDirectory() as scratch:
        digest = models.save(challenger, Path(scratch) / "model")
        registry = MlflowRegistry(job["mlflow_url"], lock_file=Path(job["lock_file"]))
        name = f"bare_script_{spec.model}"
        version = registry.register(
            job["attempt"], name, Path(scratch) / "model", metrics={}, params=job["best_params"], tags={}
        )
        registry.set_alias(name, "champion", version)
    clock.part("registering")
    print(json.dumps({"parts": clock.parts, "digest": digest, "decision": verdict.decision}))


if __name__ == "__main__":
    main()
