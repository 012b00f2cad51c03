"""All benches one after the other: what is finished is kept, whatever becomes of the others."""

from __future__ import annotations

import importlib
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("bench.full")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    return module


def part(full: Any, name: str, code: str) -> Any:
    made = full.Part(name, 1, script=True)
    made.file.write_text(code)
    return made


def test_a_part_that_fails_or_is_not_there_stops_none_behind_it(full: Any) -> None:
    parts = [part(full, "bad", "raise SystemExit(3)"), full.Part("absent", 1, script=True), part(full, "good", "")]
    assert full.run_all(parts) == {"bad": "failed", "absent": "not here", "good": "done"}


def test_an_interruption_stops_the_running_part_first_and_keeps_what_is_done(
    full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, running = tmp_path / "stopped", tmp_path / "running"
    code = f"""
import pathlib, time
try:
    pathlib.Path({str(running)!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({str(stopped)!r}).touch()
"""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    full.listen()
    over = threading.Event()

    def interrupt() -> None:
        while not running.exists() and not over.wait(0.05):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        became = full.run_all([part(full, "first", ""), part(full, "long", code), part(full, "last", "")])
    finally:
        over.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert became == {"first": "done", "long": "interrupted", "last": "not run"}
    assert stopped.exists()


def test_servers_that_a_part_wants_are_stopped_even_where_it_fails(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    monkeypatch.setattr(full.subprocess, "run", lambda words, **_: asked.append(words[1]))
    wants = full.Part("bad", 1, script=True, servers="postgres")
    wants.file.write_text("raise SystemExit(1)")
    assert full.run(wants) is False
    assert asked == ["up", "down"]


def test_a_part_whose_servers_do_not_come_up_has_failed_and_what_came_up_is_stopped(
    full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(words: list[str], **_: Any) -> None:
        asked.append(words[1])
        if words[1] == "up":
            raise full.subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(full.subprocess, "run", run)
    assert full.run(full.Part("any", 1, script=True, servers="kafka")) is False
    assert asked == ["up", "down"]


def test_every_bench_that_writes_a_report_is_a_part() -> None:
    report = re.compile(r"^from bench.reports import .*\bwrite\b", re.MULTILINE)
    writing = {file.stem for file in (ROOT / "bench").glob("*.py") if report.search(file.read_text())}
    parts = (ROOT / "bench" / "full.py").read_text()
    assert writing
    assert not [name for name in writing if f'Part("{name}"' not in parts]
