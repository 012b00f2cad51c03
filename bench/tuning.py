"""Tuning by policy beside the loop everybody writes and FLAML: real flights, and made-up months that grow and drift.

Every pair of data and seed is measured whole, its contenders one after the other on one core, in CPU seconds. What each
found is fitted by one recipe and judged on four weeks that none of them saw, read once. The times until a peer was as
good read validation scores only. Of the loop there are two: what B, our hold-out, says of the best it had found by then
(``hit``), where ours was picked from a few by B and theirs was not; and what its own cross-validation, by which it has
picked and we have not, says of ours (``hit_by_its_own``). The first favours us, the second the loop.

    python -m bench.tuning               # all pairs that are not measured yet; rows go to bench/results/tuning.json
    python -m bench.tuning --again       # all pairs anew; some 20 minutes of one core
    python -m bench.tuning --quick       # two small pairs, to see that the bench works; writes no rows

A pair that is done is kept in .ratchet/bench/tuning, so a run that was stopped goes on after it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and XGBoost are loaded

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats
from sklearn.metrics import roc_auc_score

from bench.reports import machine, write
from bench.tuning_cases import CASES, MADE, MONTH, ROOT, Case, Rows, spec_of
from bench.tuning_peers import first_hit, flaml, loop_value, naive
from ratchet.adapters.models import XGBoostLearner
from ratchet.adapters.studies_optuna import OptunaStudies
from ratchet.domain.artifact import log_loss
from ratchet.domain.spec import ModelSpec
from ratchet.ports.studies import InMemoryStudies, TrialRecord
from ratchet.workflow.evaluation import decide, labels_of
from ratchet.workflow.training import Columns, fit_final, tune_worker
from ratchet.workflow.valuing import valued

KEPT = ROOT / ".ratchet" / "bench" / "tuning"
TRIALS = 40
FLAML_TIMES = 2
"""FLAML may have so many times our CPU seconds to become as good."""

DRIFTING = 0.3
MARGIN = 0.002
"""Of AUC: no worse than this is as good."""


class Bench:
    """One process, one core, one study database."""

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._folder = tempfile.TemporaryDirectory()
        self._studies = OptunaStudies(f"sqlite:///{self._folder.name}/optuna.db")
        self._studies.prepare()
        self._learner = XGBoostLearner()

    def pair(self, case: Case, rows: pa.Table, columns: Columns) -> dict[str, Any]:
        """All contenders on one pair."""
        loop = naive(case, rows, columns, self._trials)
        cold = self._ours(case, rows, columns, "cold")
        automl = flaml(case, rows, columns, FLAML_TIMES * cold["cpu"])
        loop["on_b"] = self._on_b(case, rows, columns, loop)
        found = {"loop": _best(loop["trials"]), "cold": cold["params"], "flaml": _best(automl["trials"])}
        if case.origin is not None:
            retune = self._retune(case, rows, columns)
            found["retune"] = retune["params"]
        told: dict[str, Any] = {
            "case": case.name,
            "seed": case.seed,
            "rows": {name: _count(rows, *days) for name, days in _days(case).items()},
            "late_rates": _rates(case, rows),
            "loop": loop | {"value": min(trial["value"] for trial in loop["trials"])},
            "cold": cold | self._beside_loop(case, rows, columns, cold, loop),
            "flaml": {
                "cpu": automl["cpu"],
                "trials": len(automl["trials"]),
                "value": min(trial["value"] for trial in automl["trials"]),
                "hit": first_hit(automl["trials"], cold["value"]),
                "value_in_our_time": min(
                    (trial["value"] for trial in automl["trials"] if trial["cpu"] <= cold["cpu"]), default=None
                ),
            },
            "params": found,
        }
        if case.origin is not None:
            told["retune"] = retune | self._beside_loop(case, rows, columns, retune, loop)
        told["later"] = {name: self._later(case, rows, columns, params) for name, params in found.items()}
        return told

    def _ours(self, case: Case, rows: pa.Table, columns: Columns, policy: str, **more: Any) -> dict[str, Any]:
        back = more.pop("back", timedelta(0))
        spec, name = spec_of(self._trials, tuning={"policy": policy}), f"{case.name}, {policy}, {back.days}"
        began = time.process_time()
        result = tune_worker(
            spec=spec,
            train=rows,
            ranges=case.ranges(back),
            columns=columns,
            study_name=name,
            worker=0,
            trials=self._trials,
            seed=case.seed,
            studies=self._studies,
            learner=self._learner,
            **more,
        )
        cpu = time.process_time() - began
        ended = self._studies.ended(name)
        return {
            "cpu": cpu,
            "value": result.best_value,
            "params": result.best_params,
            "best_trial": result.best_trial,
            "states": "".join(trial.state[0] for trial in ended),
            "policy": result.policy,
        }

    def _retune(self, case: Case, rows: pa.Table, columns: Columns) -> dict[str, Any]:
        """As four weeks after a cold study, whose winner is the champion; that study was paid for then."""
        before = self._ours(case, rows, columns, "cold", back=MONTH)
        history: list[TrialRecord] = self._studies.ended(f"{case.name}, cold, {MONTH.days}")
        retune = self._ours(case, rows, columns, "retune", champion_params=before["params"], history=[history])
        return retune | {"study_before": {"cpu": before["cpu"], "value": before["value"]}}

    def _on_b(self, case: Case, rows: pa.Table, columns: Columns, loop: dict[str, Any]) -> list[dict[str, Any]]:
        """The value on B, as a trial of ours would have it, of each trial that was the loop's best when it was done."""
        found: list[dict[str, Any]] = []
        least = np.inf
        for trial in loop["trials"]:
            if trial["value"] >= least:
                continue
            least = trial["value"]
            result = tune_worker(
                spec=spec_of(1),
                train=rows,
                ranges=case.ranges(),
                columns=columns,
                study_name="one",
                worker=0,
                trials=1,
                seed=case.seed,
                studies=InMemoryStudies(),
                learner=self._learner,
                champion_params=trial["params"],
            )
            found.append({"cpu": trial["cpu"], "value": result.best_value})
        return found

    @staticmethod
    def _beside_loop(
        case: Case, rows: pa.Table, columns: Columns, ours: dict[str, Any], loop: dict[str, Any]
    ) -> dict[str, Any]:
        """What the loop's own validation says of our parameters, and when it had found as good ones; not timed."""
        value = loop_value(case, rows, columns, ours["params"])
        return {
            "loop_value": value,
            "hit_by_its_own": first_hit(loop["trials"], value),
            "hit": first_hit(loop["on_b"], ours["value"]),
        }

    def _later(self, case: Case, rows: pa.Table, columns: Columns, params: dict[str, Any]) -> dict[str, float]:
        """The later period, read once: what a model with these parameters is worth there, made by our recipe."""
        spec: ModelSpec = spec_of(self._trials)
        fitted = fit_final(
            spec=spec,
            train=rows,
            ranges=case.ranges(),
            columns=columns,
            params=params,
            seed=case.seed,
            learner=self._learner,
        )
        start, end = case.later
        later = rows.filter(pc.and_(pc.greater_equal(rows["day"], start), pc.less(rows["day"], end)))
        label = labels_of(spec, later)
        decided = decide(later, fitted, valued(spec, later, label))
        probability = fitted.decide(later)[0]
        return {
            "auc": float(roc_auc_score(label, probability)),
            "log_loss": log_loss(probability, label),
            "payoff_per_decision": float(np.nanmean(decided.payoff)),
        }


def _best(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best: dict[str, Any] = min(trials, key=lambda trial: trial["value"])["params"]
    return best


def _days(case: Case) -> dict[str, tuple[str, str]]:
    ranges = case.ranges()
    return {
        "A": (ranges.fit_start, ranges.fit_end),
        "B": (ranges.calibrate_start, ranges.calibrate_end),
        "later": case.later,
    }


def _count(rows: pa.Table, start: str, end: str) -> int:
    return int(pc.sum(pc.and_(pc.greater_equal(rows["day"], start), pc.less(rows["day"], end))).as_py())


def _rates(case: Case, rows: pa.Table) -> dict[str, float]:
    """Share of label 1 in B, and of flights in the B of the study before: what is called stable or drifting."""
    asked = {"B": case.ranges()} | ({} if case.origin is None else {"B before": case.ranges(MONTH)})
    found = {}
    for name, ranges in asked.items():
        inside = pc.and_(
            pc.greater_equal(rows["day"], ranges.calibrate_start), pc.less(rows["day"], ranges.calibrate_end)
        )
        found[name] = round(float(pc.mean(rows.filter(inside)["label"]).as_py()), 4)
    return found


def _drifts(pair: dict[str, Any]) -> bool:
    """Whether the late rate of B is more than 30 % off that of the B of the study before."""
    rates = pair["late_rates"]
    return abs(rates["B"] / rates["B before"] - 1) > DRIFTING


def summarised(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, one of each comparison."""
    flights = [pair for pair in pairs if "retune" in pair]
    drifting = [pair for pair in flights if _drifts(pair)]
    stable = [pair for pair in flights if not _drifts(pair)]
    return [
        _beside_the_loop("retune to the naive loop's quality, stable months", "retune", stable, 20),
        _beside_the_loop("retune to the naive loop's quality, drifting months", "retune", drifting, 8),
        _beside_the_loop(f"tune cold, {len(pairs)} seed × data pairs", "cold", pairs, 5),
        _beside_flaml(f"tune cold, {len(pairs)} seed × data pairs", pairs),
    ]


def _beside_the_loop(name: str, ours: str, pairs: Sequence[dict[str, Any]], goal: float) -> dict[str, Any]:
    """The ratio of a pair: the loop's CPU seconds until its best was as good on B as ours (all, if it never was)."""

    def times(hit: str) -> list[float]:
        return [pair[ours][hit] or pair["loop"]["cpu"] for pair in pairs]

    def by(seconds: Sequence[float]) -> list[float]:
        return [each / pair[ours]["cpu"] for each, pair in zip(seconds, pairs, strict=True)]

    ratios, quality = by(times("hit")), _quality(pairs, ours, "loop")
    ratio = float(np.median(ratios))
    return {
        "name": name,
        "peer": f"{TRIALS}-trial Optuna loop with temporal cross-validation",
        "ours": round(float(np.median([pair[ours]["cpu"] for pair in pairs])), 2),
        "theirs": round(float(np.median(times("hit"))), 2),
        "ratio": round(ratio, 2),
        "unit": "CPU s",
        "goal": f"at least {goal} times, AUC within {MARGIN}",
        "met": ratio >= goal and quality["auc"]["lower"] > -MARGIN,
        "ratios": [round(each, 1) for each in ratios],
        "never_as_good": sum(pair[ours]["hit"] is None for pair in pairs),
        "ratio_by_its_own_validation": round(float(np.median(by(times("hit_by_its_own")))), 2),
        "ratio_by_budget": round(float(np.median(by([pair["loop"]["cpu"] for pair in pairs]))), 2),
        "later_less_theirs": quality,
    }


def _beside_flaml(name: str, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hits = [pair["flaml"]["hit"] or pair["flaml"]["cpu"] for pair in pairs]
    ratios = [hit / pair["cold"]["cpu"] for hit, pair in zip(hits, pairs, strict=True)]
    ratio = float(np.median(ratios))
    return {
        "name": name,
        "peer": "FLAML until its validation is as good",
        "ours": round(float(np.median([pair["cold"]["cpu"] for pair in pairs])), 2),
        "theirs": round(float(np.median(hits)), 2),
        "ratio": round(ratio, 2),
        "unit": "CPU s",
        "goal": "no slower",
        "met": ratio >= 1,
        "ratios": [round(each, 2) for each in ratios],
        "never_as_good": sum(pair["flaml"]["hit"] is None for pair in pairs),
        "later_less_theirs": _quality(pairs, "cold", "flaml"),
    }


def _quality(pairs: Sequence[dict[str, Any]], ours: str, theirs: str) -> dict[str, dict[str, float]]:
    """Ours less theirs on the later period: mean over the pairs, and its one-sided 95 % lower and upper t-bounds."""
    found = {}
    for metric in ("auc", "log_loss", "payoff_per_decision"):
        less = np.array([pair["later"][ours][metric] - pair["later"][theirs][metric] for pair in pairs])
        mean, error = float(less.mean()), float(less.std(ddof=1) / np.sqrt(len(less))) if len(less) > 1 else np.inf
        reach = float(stats.t.ppf(0.95, max(len(less) - 1, 1))) * error
        found[metric] = {"mean": round(mean, 5), "lower": round(mean - reach, 5), "upper": round(mean + reach, 5)}
    return found


def main() -> None:
    """Measure what is missing, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure every pair anew")
    parser.add_argument("--quick", action="store_true", help="two small pairs; writes no rows")
    asked = parser.parse_args()
    small = [replace(case, per_day=60) for case in MADE[:2]]
    cases, trials = (small, 8) if asked.quick else (list(CASES), TRIALS)
    bench, rows = Bench(trials), Rows()
    pairs, warm = [], False
    for case in cases:
        kept = KEPT / f"{case.name}.json"
        if kept.exists() and not asked.again and not asked.quick:
            pairs.append(json.loads(kept.read_text()))
            continue
        if not warm:
            _warm_up(rows)
            warm = True
        pair = bench.pair(case, *rows.of(case))
        pairs.append(pair)
        print(_line(pair), flush=True)
        if not asked.quick:
            KEPT.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(pair, indent=2))
    found = summarised(pairs) if not asked.quick else []
    for row in found:
        print(json.dumps(row))
    if found:
        measured = machine(1, "xgboost", "optuna", "scikit-learn", "flaml", "numpy")

        told = [pair | {"loop": {k: v for k, v in pair["loop"].items() if k != "trials"}} for pair in pairs]
        write("tuning", found, measured, pairs=told)


def _warm_up(rows: Rows) -> None:
    """Every contender once on few rows: imports and first calls are not what is measured."""
    case = replace(MADE[0], per_day=30)
    Bench(4).pair(case, *rows.of(case))


def _line(pair: dict[str, Any]) -> str:
    parts = [f"{pair['case']} ({pair['rows']['A']:,} rows): loop {pair['loop']['cpu']:.1f} s"]
    for name in ("cold", "retune"):
        if name in pair:
            hit, own = (pair[name][each] for each in ("hit", "hit_by_its_own"))
            when = f"{hit and round(hit, 1)}, by its own validation at {own and round(own, 1)}"
            parts.append(f"{name} {pair[name]['cpu']:.1f} s (the loop was as good at {when})")
    hit = pair["flaml"]["hit"]
    parts.append(f"FLAML as good as cold at {hit and round(hit, 1)} of {pair['flaml']['cpu']:.1f} s")
    parts.append("AUC later " + ", ".join(f"{name} {each['auc']:.4f}" for name, each in pair["later"].items()))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
