"""Import once what every step needs, in the process from which the local executor forks its workers, and they tasks.

A step in a cold process spends seconds of CPU on imports before its first row. What the scheduler has imported is there
in each task at once, in memory that all of them share (the executor freezes the garbage collector before it forks).

A fork is safe here because nothing is used before it: no connection is opened and no Python thread started. Of the
native threads that imports start, OpenBLAS's are stopped and started again around a fork by its own handlers, and those
of Arrow's allocator by jemalloc's. Polars is the exception: it starts a thread that no handler looks after, and nobody
here needs it, but MLflow imports it where it is installed; it is kept out until the fork.

Our own modules are imported too. A task must run the code that is on disk when it starts, because its attempt pins
that code's digest: a forked process that finds other sources than those imported forgets ours and imports them anew.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ratchet
from ratchet.settings import load_settings

# Some of these only to have beforehand what libraries import when they are first used.
LIBRARIES = (
    "airflow.dag_processing.dagbag",
    "airflow.providers.common.compat.standard.operators",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.hitl",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.retry_policy",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.triggers.base",
    "alembic.command",
    "duckdb",
    "feast",
    "feast.infra.offline_stores.duckdb",
    "feast.infra.online_stores.sqlite",
    "feast.infra.passthrough_provider",
    "feast.infra.registry.file",
    "feast.repo_operations",
    "fsspec.implementations.chained",
    "fsspec.implementations.local",
    "httpx",
    "ibis.backends.duckdb",
    "kafka",
    "mlflow.artifacts",
    "mlflow.tracking",
    "mlflow.xgboost",
    "numpy",
    "optuna",
    "optuna.storages._rdb.models",
    "pandas",
    "psycopg2",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "ruamel.yaml",
    "scipy.stats",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "xgboost",
)
UNSAFE_BEFORE_FORK = ("polars",)
OURS = ("ratchet.adapters", "ratchet.workflow")

LOCAL_SETTINGS = '''"""Written by `ratchet up`: the scheduler imports what steps need, before it forks their workers."""

import sys

if sys.argv[1:2] == ["scheduler"]:
    from ratchet.stack import warm

    warm.up()
'''


def up() -> None:
    """Import libraries and our own modules, unless ``RATCHET_WARM_WORKERS`` is off. Call it before anything is forked.

    What cannot be imported here is left to the step that needs it, which says why.
    """
    if not load_settings().warm_workers:
        return
    with _kept_out(UNSAFE_BEFORE_FORK):
        _import(LIBRARIES)
        _import(("ratchet.bootstrap", *_modules_of(OURS)))
    follow_sources(ratchet.__name__, Path(ratchet.__file__).parent)


def follow_sources(package: str, folder: Path) -> None:
    """From now on a forked process in which the package's sources have changed imports the package anew."""
    known = _sources(folder)

    def look() -> None:
        if _sources(folder) != known:
            for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
                del sys.modules[name]

    os.register_at_fork(after_in_child=look)


def _sources(folder: Path) -> list[tuple[str, int, int]]:
    """Every Python file with its size and time of change."""
    found = []
    for path, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                seen = os.stat(os.path.join(path, name))  # noqa: PTH116, PTH118 (each fork waits for this walk)
                found.append((f"{path}/{name}", seen.st_size, seen.st_mtime_ns))
    return sorted(found)


def _modules_of(packages: Iterable[str]) -> Iterator[str]:
    """The modules that lie directly in these packages; deeper ones, like migrations, are not for importing."""
    for package in packages:
        there = importlib.import_module(package).__path__
        yield from (f"{package}.{module.name}" for module in pkgutil.iter_modules(there) if not module.ispkg)


def _import(names: Iterable[str]) -> None:
    for name in names:
        with warnings.catch_warnings():  # for each anew: Feast turns warnings on for the whole process
            warnings.simplefilter("ignore")
            try:
                importlib.import_module(name)
            except ImportError:
                continue


@contextmanager
def _kept_out(names: Iterable[str]) -> Iterator[None]:
    """Importing these fails meanwhile, as if they were not installed."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None stands for "not to be found"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
