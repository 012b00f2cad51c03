"""What a regression earns on the flights of 2013: minutes late on arrival, too few promised costing 3, too many 1.

Eight months, each judged as an attempt would be (a study, a fit, the gate) on 28 days that nothing was made with,
against the best constant prediction. Beside the recipe that Ratchet uses (the costs' quantile) stand those it could
have used: with one shift, which it does where the spec names the objective, and fitted to the mean. A variant is
compared with the recipe by the gate's own interval over the days of all months. Cancelled and diverted flights have no
arrival and are left out.

    python -m bench.regression        # the rows go to bench/results/regression.json; a few minutes of one core
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.reports import machine, write
from ratchet.adapters import flights
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.models import XGBoostRegressionLearner
from ratchet.adapters.specs import load_spec
from ratchet.domain.artifact import Shift
from ratchet.domain.gate import GatePolicy, decide_promotion, judge
from ratchet.domain.spec import ModelSpec
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow.evaluation import decide, evaluate, labels_of
from ratchet.workflow.training import Columns, Ranges, best_constant, best_trial, calibration_of, fit_final, tune_worker
from ratchet.workflow.valuing import valued

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".ratchet" / "data"
RECIPE = "quantile"
MONTHS = range(5, 13)
TRIALS = 6
COSTS: dict[str, Any] = {"under": -3, "over": -1, "unit": "USD"}
GUARDRAILS = [
    {"metric": "neg_mean_absolute_error", "max_regression": 2.0},
    {"metric": "payoff", "slice": "carrier", "max_regression": 1.0, "min_rows": 500},
    {"metric": "latency_p95_ms", "max": 20},
]


def spec_of(**fixed: Any) -> ModelSpec:
    """The shipped spec, as a regression."""
    plain = load_spec(ROOT / "include" / "models" / "flight_delay").model_dump(mode="json")
    plain["business"] |= {"payoff": COSTS, "decision": None}
    plain["train"] |= {"estimator": "xgboost.XGBRegressor", "fixed": plain["train"]["fixed"] | fixed}
    plain["gate"]["guardrails"] = GUARDRAILS
    return ModelSpec.model_validate(plain)


def arrivals() -> tuple[pa.Table, Columns]:
    """Every flight that arrived, with its features as known six hours before departure; the label is minutes late."""
    flights.build(DATA)
    shipped = load_spec(ROOT / "include" / "models" / "flight_delay")
    store = FeastFeatures(ROOT / "include" / "feature_repo", DATA)
    spine = store.spine(shipped, as_of=datetime(2014, 2, 1, tzinfo=UTC), start=date(2013, 1, 1), end=date(2014, 1, 1))
    rows, names = store.historical(shipped, spine), store.feature_names(shipped)
    raw = flights.read_source("flights")
    parts = (
        raw[name].to_pylist() for name in ("year", "month", "day", "carrier", "flight", "origin", "sched_dep_time")
    )
    ids = [f"{y}-{m:02d}-{d:02d}.{c}.{n}.{o}.{at:04d}" for y, m, d, c, n, o, at in zip(*parts, strict=True)]
    late = raw["arr_delay"].cast(pa.float64()).take(pc.index_in(rows["flight_id"], value_set=pa.array(ids)))
    rows = rows.set_column(rows.column_names.index("label"), "label", late).filter(pc.is_valid(late))
    text = tuple(name for name in names if pa.types.is_string(rows.schema.field(name).type))
    return rows, Columns(names, text)


def month(rows: pa.Table, columns: Columns, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One attempt; returns what is told of it, and payoff by variant with the days."""
    start = date(2013, number, 1)
    bounds = (start - timedelta(days=182), start - timedelta(days=32), start - timedelta(days=30), start - timedelta(2))
    ranges = Ranges(*(day.isoformat() for day in bounds))
    end = (start + timedelta(days=28)).isoformat()
    holdout = rows.filter(pc.and_(pc.greater_equal(rows["day"], start.isoformat()), pc.less(rows["day"], end)))
    quantile = spec_of()
    specs = {
        "quantile": quantile,
        "quantile, shifted": spec_of(quantile_alpha=COSTS["under"] / (COSTS["under"] + COSTS["over"])),
        "mean, shifted": spec_of(objective="reg:squarederror"),
    }
    learner, began = XGBoostRegressionLearner(), time.process_time()
    made: dict[str, Any] = {"constant": best_constant(quantile, rows, ranges)}
    best: dict[str, Any] = {}
    for name, spec in specs.items():
        studies, given = InMemoryStudies(), {"spec": spec, "train": rows, "ranges": ranges, "columns": columns}
        tune_worker(**given, study_name="m", worker=0, trials=TRIALS, seed=number, studies=studies, learner=learner)
        best[name] = best_trial(studies, "m")
        fitted = given | {"params": best[name].params, "seed": number, "learner": learner}
        made[name] = fit_final(**fitted, calibrator=calibration_of(best[name]))
    made["mean"] = fit_final(**fitted, calibrator=Shift())
    worth = valued(quantile, holdout, labels_of(quantile, holdout))
    payoff = {name: decide(holdout, model, worth).payoff for name, model in made.items()}
    evidence = evaluate(quantile, holdout, made["constant"], made[RECIPE])
    verdict = decide_promotion(evidence, GatePolicy.from_spec(quantile.gate))
    told = {
        "month": start.isoformat()[:7],
        "rows": holdout.num_rows,
        "constant": made["constant"].value,
        "shift": {name: calibration_of(trial).offset for name, trial in best.items()},
        "payoff_per_decision": {name: float(each.mean()) for name, each in payoff.items()},
        "verdict": {
            part: asdict(verdict)[part] for part in ("decision", "estimate", "lower", "upper", "n_clusters", "reasons")
        },
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    return told, payoff | {"day": np.array(holdout["day"].to_pylist())}


def main() -> None:
    """Measure, print, write."""
    flown, columns = arrivals()
    print(f"{flown.num_rows:,} flights that arrived")
    found, payoffs = [], []
    for number in MONTHS:
        told, payoff = month(flown, columns, number)
        found.append(told)
        payoffs.append(payoff)
        each = ", ".join(f"{name} {value:.2f}" for name, value in told["payoff_per_decision"].items())
        verdict = told["verdict"]
        print(f"{told['month']}: {each}; against the constant: {verdict['decision']} {verdict['estimate']:+.2f}")
    days = np.concatenate([payoff["day"] for payoff in payoffs])
    earned = {name: np.concatenate([payoff[name] for payoff in payoffs]) for name in payoffs[0] if name != "day"}
    recipe = earned.pop(RECIPE)
    rows = []
    for name, other in earned.items():
        verdict = judge(recipe - other, days)
        parts = ("estimate", "lower", "upper", "n_rows", "n_clusters")
        rows.append(
            {
                "name": f"a regression's payoff, {RECIPE}",
                "peer": name,
                "ours": round(float(recipe.mean()), 2),
                "theirs": round(float(other.mean()), 2),
                "ratio": None,
                "unit": "USD per flight",
                "goal": "none: reported",
                "met": None,
                "less": {part: getattr(verdict, part) for part in parts},
            }
        )
        bounds = f"[{verdict.lower:+.3f}, {verdict.upper:+.3f}]"
        print(f"the recipe less {name}: {verdict.estimate:+.3f} {bounds} per flight")
    write("regression", rows, machine(1, "xgboost"), costs=COSTS, months=found)


if __name__ == "__main__":
    main()
