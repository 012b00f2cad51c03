"""CPU seconds from the event to the first trial that go into starting processes: a warm worker beside new processes.

Four tasks lie on that way: claim, snapshot, plan, tune. Each is started as Airflow's runner does: its own DAG is read
from dags/retrain.py, the verbs are wired, and everything is opened that its verb opens, with inputs so small that
nothing but the start is left: the features of fifty flights, a study whose first trial grows one tree. The event itself
meets a pump that runs already. Both sides find migrated databases (SQLite here).

- *new process per task*: Python, Airflow and all libraries are imported by each
  (`execute_tasks_new_python_interpreter`, or an executor that starts a container for each task).
- *warm worker*: forked from a process that did `ratchet.stack.warm.up()` once, as the local executor's workers are.

CPU of a child is what the kernel says of it when it has ended, the fork's page faults included. Sides take turns.

    python -m bench.warm_worker           # the rows go to bench/results/warm_worker.json
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.reports import machine, write

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("claim", "snapshot", "plan", "tune")
MODEL, DAY = "flight_delay", date(2013, 3, 1)
KEPT = (date(2013, 2, 20), date(2013, 3, 4))
ROUNDS = 5
GOAL = 20.0


def start(task: str) -> None:
    """All that the task does before its verb has anything to work on."""
    from airflow.dag_processing import dagbag  # noqa: F401, PLC0415 - each of these imports is what is measured
    from airflow.sdk.execution_time import task_runner  # noqa: F401, PLC0415

    runpy.run_path(str(ROOT / "dags" / "retrain.py"))
    from ratchet.bootstrap import wire  # noqa: PLC0415

    ratchet = wire()
    assert ratchet.code_digest
    with ratchet.ledger.transaction() as tx:
        tx.clock()
    if task == "snapshot":
        _join(ratchet)
    if task == "tune":
        _first_trial(ratchet)


def _join(ratchet: Any) -> None:
    from ratchet.adapters.specs import load_all  # noqa: PLC0415

    spec = load_all(ratchet.settings.models_dir)[MODEL]
    as_of = datetime(KEPT[1].year, KEPT[1].month, KEPT[1].day, 12, tzinfo=UTC)
    spine = ratchet.features.spine(spec, as_of=as_of, start=DAY, end=DAY + timedelta(days=1))
    rows = ratchet.features.historical(spec, spine.slice(0, 50))
    assert rows.num_rows == 50
    ratchet.store.put_bytes(f"snapshots/{os.getpid()}", b"rows")


def _first_trial(ratchet: Any) -> None:
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    from ratchet.adapters.specs import load_all  # noqa: PLC0415
    from ratchet.workflow.training import start_params  # noqa: PLC0415

    spec = load_all(ratchet.settings.models_dir)[MODEL]
    learner = ratchet.models.learner_for(spec.train.estimator)
    rows, label = pa.table({"x": np.arange(100.0)}), np.arange(100) % 2
    tried = []

    def objective(params: Any, _finished: Any) -> tuple[float, dict[str, Any]]:
        prepared = learner.prepare(rows, label, features=["x"], categories={}, threads=1)
        learner.fit(prepared, {"n_estimators": 1, "max_bin": 64}, seed=1, threads=1)
        tried.append(params)
        return 0.5, {}

    space = dict(spec.train.search_space)
    study = f"study {os.getpid()}"
    ratchet.studies.run(
        study, space=space, trials=1, worker=0, starts=[start_params(space)], seed=1, objective=objective
    )
    assert tried


def forked() -> None:
    """The warm side: one line of JSON per task asked for on standard input, after one about the warming up itself."""
    from ratchet.stack import warm  # noqa: PLC0415

    warm.up()
    gc.freeze()
    spent = resource.getrusage(resource.RUSAGE_SELF)
    known = set(sys.modules)
    print(json.dumps({"cpu": spent.ru_utime + spent.ru_stime, "peak_mb": spent.ru_maxrss / 1024}), flush=True)
    for line in sys.stdin:
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            _alone(line.strip(), writes, known)
        os.close(writes)
        with os.fdopen(reads) as told:
            found = json.loads(told.read() or "null")
        _, status, used = os.wait4(pid, 0)
        if status:
            raise SystemExit(f"the start of {line.strip()} failed in a forked process")
        print(json.dumps({"cpu": used.ru_utime + used.ru_stime, **found}), flush=True)


def _alone(task: str, writes: int, known: set[str]) -> None:
    code = 1
    try:
        start(task)
        late = sorted({name.partition(".")[0] for name in set(sys.modules) - known})
        own = sum(int(line.split()[1]) for line in _rollup() if line.startswith(("Private_Clean", "Private_Dirty")))
        os.write(writes, json.dumps({"own_mb": round(own / 1024), "imported_late": late}).encode())
        code = 0
    finally:
        os._exit(code)


def _rollup() -> list[str]:
    return Path("/proc/self/smaps_rollup").read_text().splitlines()


def fresh(task: str, env: dict[str, str]) -> dict[str, float]:
    """CPU seconds and peak MB of a new process that starts the task."""
    child = subprocess.Popen([sys.executable, "-m", "bench.warm_worker", task], cwd=ROOT, env=env)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"the start of {task} failed in a new process")
    return {"cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def prepare(home: Path) -> dict[str, str]:
    """Databases with their tables, and the datasets cut to two weeks; returns the variables of every process."""
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    from ratchet.bootstrap import wire  # noqa: PLC0415
    from ratchet.settings import load_settings  # noqa: PLC0415

    whole = load_settings().data_dir
    if not whole.exists():
        raise SystemExit(f"no datasets in {whole}. Build them: ratchet data build")
    (home / "data").mkdir()
    for file in sorted(whole.glob("*.parquet")):
        rows = pq.read_table(file)
        when = next(
            (name for name in rows.column_names if str(rows.schema.field(name).type).startswith("timestamp")), None
        )
        if when is not None:
            days = pc.cast(pc.floor_temporal(rows[when], unit="day"), "date32")
            rows = rows.filter(pc.and_(pc.greater_equal(days, KEPT[0]), pc.less(days, KEPT[1])))
        pq.write_table(rows, home / "data" / file.name)
    env = {
        **os.environ,
        "RATCHET_HOME": str(home),
        "RATCHET_DATA_DIR": str(home / "data"),
        "RATCHET_WARM_WORKERS": "on",
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_RATCHET_LEDGER": f"sqlite:///{home}/ledger.db",
        "AIRFLOW_CONN_RATCHET_OPTUNA": f"sqlite:///{home}/studies.db",
        "AIRFLOW_CONN_RATCHET_STORAGE": f"file:///?url={home}/storage",
        "_AIRFLOW_PARSING_CONTEXT_DAG_ID": f"retrain__{MODEL}",
        "PYTHONPATH": str(ROOT / "plugins"),
        "FEAST_USAGE": "False",
    }
    ratchet = wire(settings=load_settings(env))
    ratchet.ledger.migrate()
    ratchet.studies.prepare()  # type: ignore[attr-defined]  # of the adapter, not of the port
    ratchet.features.apply()
    ratchet.ledger.dispose()
    return env


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as scratch:
        env = prepare(Path(scratch))
        warm = subprocess.Popen(
            [sys.executable, "-m", "bench.warm_worker", "forked"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert warm.stdin is not None
        assert warm.stdout is not None
        once = _answer(warm.stdout)
        seen: dict[str, dict[str, list[dict[str, Any]]]] = {
            side: {task: [] for task in TASKS} for side in ("warm", "new")
        }
        for turn in range(ROUNDS):
            for task in TASKS:
                print(task, file=warm.stdin, flush=True)
                seen["warm"][task].append(_answer(warm.stdout))
                seen["new"][task].append(fresh(task, env))
            print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
        warm.stdin.close()
        warm.wait()
    by_task = {
        side: {task: round(statistics.median(one["cpu"] for one in seen[side][task]), 3) for task in TASKS}
        for side in seen
    }
    sums = {side: [sum(seen[side][task][turn]["cpu"] for task in TASKS) for turn in range(ROUNDS)] for side in seen}
    ours, theirs = statistics.median(sums["warm"]), statistics.median(sums["new"])
    row = {
        "name": "warm worker: event to first trial",
        "peer": "new process per task",
        "ours": round(ours, 2),
        "theirs": round(theirs, 2),
        "ratio": round(theirs / ours, 1),
        "unit": "CPU s",
        "goal": f">= {GOAL:g}",
        "met": theirs >= GOAL * ours,
        "spread": {side: [round(min(spent), 2), round(max(spent), 2)] for side, spent in sums.items()},
    }
    late = {task: seen["warm"][task][-1]["imported_late"] for task in TASKS}
    memory = {
        "warm, own": max(one["own_mb"] for task in TASKS for one in seen["warm"][task]),
        "new": round(max(one["peak_mb"] for task in TASKS for one in seen["new"][task])),
    }
    print(f"by task, CPU s: {by_task}\nwarming up once: {once['cpu']:.1f} CPU s; MB: {memory}; imported late: {late}")
    print(f"event to first trial: warm {ours:.2f} CPU s, new processes {theirs:.2f}, ratio {theirs / ours:.1f}")
    more = {"by_task": by_task, "once": once, "memory_mb": memory, "imported_late": late}
    write("warm_worker", [row], machine(ROUNDS, "apache-airflow", "feast", "mlflow", "optuna", "xgboost"), **more)


def _answer(lines: Any) -> dict[str, Any]:
    for line in lines:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit("the warm process ended without an answer")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "forked":
        forked()
    else:
        start(sys.argv[1])
