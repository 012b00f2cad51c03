"""The other side of the supervisor's socket: start it, ask it, stop it, and clean up after one that was killed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.stack import processes, supervisor, units
from ratchet.stack.processes import Target
from ratchet.stack.units import Phase, Unit

START_SECONDS = 20.0
STOP_SECONDS = 90.0
REQUEST_SECONDS = 120.0

Rows = dict[str, dict[str, Any]]


class StackError(RatchetError):
    """The local stack cannot do what was asked; the message says what to do."""


def request(run: Path, **content: Any) -> Rows | None:
    """Ask the supervisor of this run folder; None when none is there. Raises StackError with its refusal."""
    if not run.is_dir():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(REQUEST_SECONDS)
    with connection:
        try:
            with supervisor.short_path(run / "control.sock") as name:
                connection.connect(name)
            with connection.makefile("rw") as stream:
                stream.write(json.dumps(content) + "\n")
                stream.flush()
                line = stream.readline()
        except (FileNotFoundError, ConnectionError):
            return None
    if not line:
        return None
    answer = json.loads(line)
    if "error" in answer:
        raise StackError(answer["error"])
    rows: Rows = answer["units"]
    return rows


def start(run: Path, plan: tuple[Unit, ...], environment: Mapping[str, str]) -> None:
    """Have this plan supervised: by the supervisor that runs, else by a new one in the background."""
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    supervisor.write_private(run / "plan.json", units.to_json(plan))
    deadline = time.monotonic() + START_SECONDS
    while request(run, op="apply") is None:
        if time.monotonic() > deadline:
            raise StackError(f"the supervisor did not start: read {run.parent / 'logs' / 'supervisor.log'}")
        _launch(run, environment)
        _wait(lambda: request(run, op="status") is not None, seconds=3.0)


def _launch(run: Path, environment: Mapping[str, str]) -> None:
    logs = run.parent / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / "supervisor.log").open("ab") as output:
        subprocess.run(
            [sys.executable, "-m", "ratchet.stack", str(run)],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=run.parent,
            check=True,
        )


def _wait(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(processes.POLL_SECONDS)
    return True


def progress(run: Path, wanted: tuple[Unit, ...], *, timeout: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each unit as it becomes ready or done. Raises StackError, with the end of its log, for one that failed."""
    names = [unit.name for unit in wanted]
    seen: set[str] = set()
    deadline = time.monotonic() + timeout
    while len(seen) < len(names):
        rows = request(run, op="status")
        if rows is None:
            raise StackError(f"the supervisor ended: read {run.parent / 'logs' / 'supervisor.log'}")
        for name in names:
            row = rows[name]
            if row["phase"] == Phase.FAILED or str(row["detail"]).startswith("not ready after"):
                raise StackError(f"{name}: {row['detail']}\n{tail(run, name)}")
            if name not in seen and row["phase"] in {Phase.READY, Phase.DONE}:
                seen.add(name)
                yield name, row
        if time.monotonic() > deadline:
            missing = "; ".join(
                f"{name}: {rows[name]['phase']} {rows[name]['detail']}" for name in names if name not in seen
            )
            raise StackError(f"not ready within {timeout:.0f} s: {missing}. Logs: {run.parent / 'logs'}")
        time.sleep(2 * processes.POLL_SECONDS)


def tail(run: Path, name: str, lines: int = 15) -> str:
    """The end of a unit's log."""
    log = run.parent / "logs" / f"{name}.log"
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in text)])


def stop(run: Path) -> bool:
    """Stop everything of this run folder, whoever started it; False when nothing ran.

    Asks the supervisor; where it was killed, or does not come to an end, its children are stopped from their records.
    """
    if not run.is_dir():
        return False
    was_running = request(run, op="stop") is not None
    lock = None

    def free() -> bool:
        nonlocal lock
        lock = supervisor.acquire(run)
        return lock is not None

    if not _wait(free, seconds=STOP_SECONDS):
        _kill_supervisor(run)
        if not _wait(free, seconds=5.0) or lock is None:
            raise StackError(f"{run / 'supervisor.lock'} is held by a process that does not end")
    try:
        return stop_recorded(run) or was_running
    finally:
        if lock is not None:
            lock.close()


def _kill_supervisor(run: Path) -> None:
    identity = processes.identify(int((run / "supervisor.pid").read_text()))
    if identity is not None:
        processes.signal_group(identity, 9)


def stop_recorded(run: Path) -> bool:
    """Stop the children that ``state.json`` knows; the caller holds the lock. False when none was left."""
    state = supervisor.read_state(run)
    plan_file = run / "plan.json"
    plan = units.from_json(plan_file.read_text()) if plan_file.exists() else ()
    known = {unit.name: unit for unit in plan}
    waves = [[unit.name for unit in wave] for wave in units.in_order(plan)]
    waves.append([name for name in state if name not in known])
    alive = processes.members(
        run.parent, set(state), [each for row in state.values() if (each := supervisor.identity_of(row))]
    )
    for wave in reversed(waves):
        targets = []
        for name in wave:
            identity = supervisor.identity_of(state.get(name, {}))
            unit = known.get(name)
            targets.append(
                Target(name, identity, unit.stop_signal, unit.stop_grace) if unit else Target(name, identity)
            )
        processes.stop(run.parent, targets)
    for row in state.values():
        row.update(phase=str(Phase.STOPPED), pid=None, start=None, detail="")
    if state:
        supervisor.write_private(run / "state.json", json.dumps(state, indent=1))
    (run / "control.sock").unlink(missing_ok=True)
    (run / "supervisor.pid").unlink(missing_ok=True)
    return bool(alive)
