"""The shipped model made small, for the integration tests: seconds per attempt, and every challenger is promoted.

Copies of it stand beside it under other names.

The margin of non-inferiority is larger than any payoff and the guardrails let everything through, so that a challenger
is promoted over a sitting champion whatever the data says: these tests show the path, not the model. What the gate
makes of models is tested without a stack, and told by the demo with the shipped spec.

    python tests/integration/small_model.py <models folder>
"""

from __future__ import annotations

import sys
from pathlib import Path

from ruamel.yaml import YAML

from ratchet.adapters.environments import WISHES
from ratchet.bootstrap import wire

SHIPPED = Path(__file__).resolve().parents[2] / "include" / "models" / "flight_delay" / "model.yaml"
FRESH_DAYS = 14
"""How many unused days a verdict needs here, and takes."""
EVENT_AGE_DAYS = 10
"""Less than ``FRESH_DAYS``: rows that arrived for one test do not count in the next."""
BESIDE = ("run_failed", "task_failed", "task_cleared", "run_succeeded", "run_deleted", "dag_deleted", "paused")
"""Models for ``test_lifecycle``, each named after what is done to its run. No data event starts them."""
WATCHED = "on_probation"
"""A model for ``test_probation``: its spec has a probation with a loss limit. No data event starts it either."""
MONITORED = "monitored"
"""A model for ``test_monitor_on_the_stack``: its new rows are looked at, and what is found starts nothing."""
DRIFTING = "drifting"
"""Another one, for planted drift: what is found twice starts an attempt, and nothing else does."""
SCORED = "scored"
"""A model for ``test_scoring_on_the_stack``: it is scored, and so is its challenger, which nothing promotes."""
ASKING = {"asks_one": "always", "asks_two": {"two_people_above": 0}}
"""Models for ``test_approvals``, and what their specs say of approval. No data event starts them."""
SHOWN = "shown"
"""A model for ``test_pages_in_the_browser``, which asks people like those. No data event starts it either."""

HOOKED, SHADOWED, LOOKED_AT = "hooked", "shadowed", "looked_at"
"""Models for ``test_rules_long``: a payoff in Python under a capacity, shadow mode, two looks at one challenger."""
FORESTED, REFITTED, RECALIBRATED = "forested", "refitted", "recalibrated"
"""Further models for it: scikit-learn's forest, a refit on probation, and the recalibrated champion as a challenger."""
PACKAGED = "packaged"
"""A model for ``test_own_environment``: an older XGBoost, and a package that the deployment does not have."""
WANTS = "xgboost==3.1.2\nroman\n"
CAPACITY = 100
HOOK = """import numpy as np


def value(rows, label, act):
    fare = 60.0 + 0.02 * rows.column("distance_miles").to_numpy()
    return np.where(act, np.where(label == 1, 3.0 * fare, -fare), 0.0)
"""

ROMAN = """import numpy as np
from roman import fromRoman


def value(rows, label, act):
    return np.where(act, np.where(label == 1, float(fromRoman("CL")), -150.0), 0.0)
"""


def write(models_dir: Path, name: str = "flight_delay") -> Path:
    """Write the small model below ``models_dir``; returns its file."""
    yaml = YAML()
    spec = yaml.load(SHIPPED.read_text())
    spec["model"] = name
    del spec["monitor"]
    spec["data"]["window"] = "120d"
    spec["data"]["holdout"] |= {"last": f"{FRESH_DAYS}d", "min_clusters": FRESH_DAYS}
    spec["retrain"] |= {"debounce": "1s", "cooldown": "0s", "max_event_age": f"{EVENT_AGE_DAYS}d"}
    spec["retrain"]["budget"]["runs_per_day"] = 50
    spec["train"]["fixed"]["n_estimators"] = 20
    spec["train"]["search_space"] |= {"max_depth": {"int": [2, 3]}, "learning_rate": {"float": [0.1, 0.3]}}
    spec["train"] |= {"trials": 2, "workers": 2}
    spec["gate"] |= {"mode": "non_inferiority", "min_uplift": 1000.0}
    spec["gate"]["guardrails"] = [
        {"metric": "expected_calibration_error", "max_regression": 1.0},
        {"metric": "payoff", "slice": "carrier", "max_regression": 1000.0, "min_rows": 500},
        {"metric": "latency_p95_ms", "max": 10_000},
    ]
    spec["gate"]["approval"] = "always" if name == SHOWN else ASKING.get(name, "never")
    if name != "flight_delay":
        spec["retrain"]["on"]["data"]["min_new_rows"] = 1_000_000_000
        spec["train"] |= {"trials": 1, "workers": 1}
    if name == WATCHED:
        spec["probation"] = {"for": "7d", "loss_limit": {"amount": 1000, "unit": "USD"}}
    if name == MONITORED:
        spec["monitor"] = {"window": "14d"}
        spec["retrain"]["on"] = {"drift": {"min_severity": 1.0}, "data": spec["retrain"]["on"]["data"]}
        del spec["retrain"]["urgent"]
    if name == DRIFTING:
        seasonal = ["temperature_f", "dew_point_f"]
        spec["monitor"] = {"window": "7d", "every": "1d", "block": "1d", "seasonal": seasonal}
        drift = {"min_severity": 0.6, "confirmations": {"at_least": 2, "of_last": 2}}
        spec["retrain"]["on"] = {"drift": drift, "data": spec["retrain"]["on"]["data"]}
    file = models_dir / name / "model.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    if name == HOOKED:
        (file.parent / "worth.py").write_text(HOOK)
        spec["business"]["payoff"] = {"hook": "worth.py:value", "columns": ["distance_miles"], "unit": "USD"}
        spec["business"]["decision"] = {"threshold": "tuned", "capacity": {"at_most": CAPACITY, "per": "day"}}
    if name == PACKAGED:
        (file.parent / "worth.py").write_text(ROMAN)
        spec["business"]["payoff"] = {"hook": "worth.py:value", "unit": "USD"}
        spec["business"]["decision"] = {"threshold": "tuned"}
        spec["runtime"] = {"environment": "requirements.txt"}
        (wishes := file.with_name(WISHES)).write_text(WANTS)
        ratchet = wire()
        ratchet.environments.lock(wishes, wishes.with_suffix(".txt"), ratchet.settings.root / "requirements.txt")
    if name == FORESTED:
        spec["train"]["estimator"] = "sklearn.ensemble.RandomForestClassifier"
        spec["train"]["fixed"] = {"n_estimators": 20, "min_samples_leaf": 20}
        spec["train"]["search_space"] = {"max_depth": {"int": [4, 8]}}
    if name == REFITTED:
        spec["gate"]["deploy"] = "refit"
        spec["probation"] = {"for": "7d"}
    if name == RECALIBRATED:
        spec["gate"]["also_judge"] = ["recalibrated_champion"]
    if name in {SHADOWED, SCORED}:
        spec["gate"]["shadow"] = True
    if name == SCORED:
        spec["scoring"] = {"shadow": "challenger"}
    if name == LOOKED_AT:
        spec["gate"] |= {"mode": "superiority", "min_uplift": 0.0, "confidence": 0.999, "target_gain": 100_000.0}
        spec["gate"] |= {"looks": [0.5, 0.5]}
    with file.open("w") as stream:
        yaml.dump(spec, stream)
    return file


if __name__ == "__main__":
    beside = (
        *(*BESIDE, *ASKING, SHOWN, WATCHED, MONITORED, DRIFTING, SCORED, PACKAGED),
        *(HOOKED, SHADOWED, LOOKED_AT, FORESTED, REFITTED, RECALIBRATED),
    )
    for model in ("flight_delay", *beside):
        write(Path(sys.argv[1]), model)
