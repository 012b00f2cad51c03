"""What a contender costs: rows written by PostgreSQL, memory and CPU of Airflow's processes, CPU of PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from bench.intake_stack import Stack

SAMPLE_SECONDS = 2.0
COMPONENTS = ("triggerer", "triggerer-2", "scheduler", "dag-processor", "api-server")
SERVERS = ("postgres", "mlflow")
_WRITTEN = "SELECT relname, (n_tup_ins + n_tup_upd)::bigint FROM pg_stat_user_tables"


def _tree(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds by component, those of ended and reaped children included."""
    spent = {}
    for name, pid in pids.items():
        total = 0.0
        for process in _tree(pid):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        spent[name] = total
    return spent


def _pss_mb(pids: Mapping[str, int]) -> dict[str, float]:
    """Memory by component in MB; what processes share is shared out among them (PSS)."""
    held = {}
    for name, pid in pids.items():
        total = 0
        for process in _tree(pid):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        held[name] = total / 1e6
    return held


class Meter:
    """Measures between entering and leaving; ``result`` has what it found."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._pids = stack.pids((*COMPONENTS, *SERVERS))
        self._airflow = {name: pid for name, pid in self._pids.items() if name not in SERVERS}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._peak = 0.0
        self._peaks: dict[str, float] = {}
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._rows = {name: dict(self._stack.query(name, _WRITTEN)) for name in ("airflow", "ratchet")}
        self._spent = _cpu(self._pids)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while True:
            held = _pss_mb(self._airflow)
            self._peak = max(self._peak, sum(held.values()))
            for name, megabytes in held.items():
                self._peaks[name] = max(self._peaks.get(name, 0.0), megabytes)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if kind is not None:
            return
        spent = _cpu(self._pids)
        written = {}
        for database, before in self._rows.items():
            now = dict(self._stack.query(database, _WRITTEN))
            written[database] = {table: count - before.get(table, 0) for table, count in now.items()}
        top = sorted(written["airflow"].items(), key=lambda item: -item[1])[:5]
        self.result = {
            "airflow_rows": sum(written["airflow"].values()),
            "airflow_rows_top": {table: count for table, count in top if count},
            "ledger_rows": sum(written["ratchet"].values()),
            "peak_mb": round(self._peak),
            "peak_mb_by_component": {name: round(peak) for name, peak in self._peaks.items()},
            "cpu_seconds": {name: round(spent[name] - self._spent[name], 1) for name in self._pids},
        }
