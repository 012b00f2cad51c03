"""Import once what every step needs, before the local executor forks its workers.

A step in a cold process spends 5 to 15 CPU seconds on imports (Feast alone 10) before its first row. The scheduler
forks the executor's workers and they fork the tasks, so what the scheduler has imported is there in each task at once.
Only libraries are imported here, none of our own modules: a task must run the code that is on disk when it starts.
"""

from __future__ import annotations

import importlib
import warnings

MODULES = (
    "duckdb",
    "feast",
    "feast.infra.offline_stores.duckdb",
    "fsspec",
    "ibis.backends.duckdb",
    "mlflow.tracking",
    "numpy",
    "optuna",
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "scipy.stats",
    "xgboost",
)

LOCAL_SETTINGS = '''"""Written by `ratchet up`: the scheduler imports what steps need, before it forks their workers."""

import sys

if sys.argv[1:2] == ["scheduler"]:
    from ratchet.stack import warm

    warm.imports()
'''


def imports() -> None:
    """Import the libraries; one that cannot be imported here is left to the step that needs it, which says why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODULES:
            try:
                importlib.import_module(name)
            except ImportError:
                continue
