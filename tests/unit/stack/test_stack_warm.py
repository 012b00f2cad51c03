"""What the scheduler imports before it forks, and that a forked process can be relied on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ratchet.errors import Refused
from ratchet.settings import load_settings
from ratchet.stack import warm

EVERY_KIND_OF_WORK = """
import io, os, sys, tempfile, threading
from ratchet.stack import warm

warm.up()
threads = [thread.name for thread in threading.enumerate()]
assert threads == ["MainThread"], threads
assert "polars" not in sys.modules and "ratchet.workflow.training" in sys.modules

def work():
    import duckdb, numpy as np, optuna, pandas as pd, pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
    import scipy.linalg, sqlalchemy as sa, xgboost as xgb

    random = np.random.default_rng(0)
    square = random.normal(size=(300, 300))
    scipy.linalg.inv(square @ square.T + np.eye(300))
    rows = pa.table({f"x{i}": random.normal(size=20_000) for i in range(4)})
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    rows = pq.read_table(io.BytesIO(sink.getvalue()), use_threads=True).sort_by("x0")
    assert duckdb.sql("SELECT x0 FROM rows WHERE x0 > x1").to_arrow_table().num_rows > 0
    xgb.train({"nthread": 2}, xgb.QuantileDMatrix(rows.to_pandas(), random.normal(size=20_000), nthread=2), 5)
    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(storage=f"sqlite:///{folder}/studies.db")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    thread = threading.Thread(target=lambda: pc.sum(rows["x1"]))
    thread.start()
    thread.join()

for _ in range(2):
    pid = os.fork()  # as the executor forks a worker
    if not pid:
        inner = os.fork()  # as a worker forks a task
        if not inner:
            work()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

CHANGED_ON_DISK = """
import os, sys
from pathlib import Path
from ratchet.stack import warm

folder = Path(sys.argv[1]) / "sample"
sys.path.insert(0, sys.argv[1])
import sample.part
warm.follow_sources("sample", folder)
if sys.argv[2] == "changed":
    (folder / "part.py").write_text("answer = 'new, and longer'")
pid = os.fork()
if not pid:
    import sample.part
    print(sample.part.answer, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_thread_of_ours_is_started_before_the_fork_and_a_task_two_forks_on_can_do_every_kind_of_work() -> None:
    run(EVERY_KIND_OF_WORK)


@pytest.mark.parametrize(("disk", "answer"), [("as imported", "old"), ("changed", "new, and longer")])
def test_a_forked_process_runs_the_sources_that_are_on_disk(tmp_path: Path, disk: str, answer: str) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "__init__.py").touch()
    (tmp_path / "sample" / "part.py").write_text("answer = 'old'")
    assert run(CHANGED_ON_DISK, str(tmp_path), disk) == answer


def test_what_must_not_be_imported_before_a_fork_can_be_imported_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ratchet.stack.units")
    with warm._kept_out(("ratchet.stack.units",)), pytest.raises(ImportError):
        __import__("ratchet.stack.units")
    assert "ratchet.stack.units" not in sys.modules


def test_nothing_is_imported_where_warm_workers_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_WARM_WORKERS", "off")
    monkeypatch.setattr(warm, "_import", lambda names: pytest.fail(f"imported {list(names)}"))
    warm.up()


def test_only_the_scheduler_warms_up() -> None:
    asked: list[str] = []
    for component in ("api-server", "dag-processor", "triggerer", "scheduler"):
        code = compile(warm.LOCAL_SETTINGS.replace("warm.up()", f"asked.append({component!r})"), "settings", "exec")
        argv, sys.argv = sys.argv, ["airflow", component]
        try:
            exec(code, {"asked": asked})
        finally:
            sys.argv = argv
    assert asked == ["scheduler"]


def test_the_switch_is_on_or_off() -> None:
    assert load_settings({}).warm_workers
    assert not load_settings({"RATCHET_WARM_WORKERS": "off"}).warm_workers
    with pytest.raises(Refused, match="RATCHET_WARM_WORKERS must be on or off, but got 'no'"):
        load_settings({"RATCHET_WARM_WORKERS": "no"})
