"""What reading the DAG files costs with 200 models, in CPU milliseconds beyond the import of Airflow itself.

- *parse*: what the DAG processor does: every spec read, every DAG built. Its peer is the same DAGs written out as
  Airflow's documentation has it, no spec read: what Airflow itself takes for so many.
- *task start*: what each task pays before its first line: its own spec and DAG only (``get_parsing_context``). Its peer
  is an eager loader, the same file read as the DAG processor reads it, which is what a task did before.

Each measurement is a process of its own; contenders take turns.

    python -m bench.dag_parsing           # the rows go to bench/results/dag_parsing.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.reports import machine, write

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "include" / "models" / "flight_delay" / "model.yaml"
MODELS = 200
OURS, BY_HAND = "dags/retrain.py", "bench/peer_dags/eager_models.py"
ROUNDS = 5
PARSE_GOAL_MS, START_GOAL_MS = 1_000.0, 150.0
CHILD = """
import resource, runpy, sys, time
import airflow.sdk, pendulum
from airflow.sdk import DAG, AssetOrTimeSchedule, AssetWatcher, ExceptionRetryPolicy, Param, task
from airflow.triggers.base import BaseEventTrigger
from airflow.providers.standard.operators.hitl import HITLOperator
began = time.process_time()
found = runpy.run_path(sys.argv[1])
spent = (time.process_time() - began) * 1e3
dags = sum(isinstance(value, DAG) for value in found.values())
print(spent, dags, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def once(models: Path, file: str, dag_id: str | None) -> tuple[float, int, float]:
    """CPU milliseconds, DAGs built, peak MB of one process that reads the DAG file."""
    env = {**os.environ, "RATCHET_MODELS_DIR": str(models), "PYTHONPATH": str(ROOT / "plugins")}
    env |= {} if dag_id is None else {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id}
    command = [sys.executable, "-c", CHILD, str(ROOT / file)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    spent, dags, peak = done.stdout.split()[-3:]
    return float(spent), int(dags), float(peak)


def write_models(folder: Path) -> None:
    """The shipped spec without its monitor, under so many names."""
    above, _, below = SHIPPED.read_text().partition("monitor:")
    text = f"{above}runtime:{below.partition('runtime:')[2]}"
    for number in range(MODELS):
        name = f"model_{number:03}"
        (folder / name).mkdir()
        (folder / name / "model.yaml").write_text(text.replace("model: flight_delay", f"model: {name}"))


def main() -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch)
        write_models(models)
        contenders = {
            "parse": (OURS, None),
            "by hand": (BY_HAND, None),
            "task start": (OURS, f"retrain__model_{MODELS // 2:03}"),
        }
        spent: dict[str, list[tuple[float, int, float]]] = {name: [] for name in contenders}
        for turn in range(ROUNDS):
            for name, (file, dag_id) in contenders.items():
                spent[name].append(once(models, file, dag_id))
            print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    parse, by_hand, start = (statistics.median(ms for ms, _, _ in spent[name]) for name in contenders)
    rows = [
        _row(f"parse {MODELS} specs", "the same DAGs by hand, no spec", parse, by_hand, PARSE_GOAL_MS, spent["parse"]),
        _row(f"task start among {MODELS} specs", "eager loader", start, parse, START_GOAL_MS, spent["task start"]),
    ]
    for row in rows:
        print(f"{row['name']:<32} {row['ours']:>9.1f} ms, goal {row['goal']}, {row['dags']} DAGs, ratio {row['ratio']}")
    write("dag_parsing", rows, machine(ROUNDS, "apache-airflow", "pydantic", "pyyaml"))


def _row(
    name: str, peer: str, ours: float, theirs: float, goal: float, seen: list[tuple[float, int, float]]
) -> dict[str, Any]:
    return {
        "name": name,
        "peer": peer,
        "ours": round(ours, 1),
        "theirs": round(theirs, 1),
        "ratio": round(theirs / ours, 1),
        "unit": "CPU ms",
        "goal": f"< {goal:g}",
        "met": ours < goal,
        "dags": seen[0][1],
        "spread": [round(min(ms for ms, _, _ in seen), 1), round(max(ms for ms, _, _ in seen), 1)],
        "peak_mb": round(max(peak for _, _, peak in seen)),
    }


if __name__ == "__main__":
    main()
