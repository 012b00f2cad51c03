"""The supervisor: one process that keeps the children of one home running, and answers on one socket.

``python -m ratchet.stack <run folder>`` detaches and returns once the socket listens. In the run folder lie
``plan.json`` (what to run), ``supervisor.lock`` (held while it runs), ``state.json`` (identity of each child, written
before anything waits on it) and ``control.sock``. Each child leads its own session. A supervisor that was killed leaves
its children running: the next one adopts those that still are what the plan asks for and stops the others, and ``down``
stops them from ``state.json`` alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ratchet import settings
from ratchet.stack import probes, processes, units
from ratchet.stack.processes import Identity, Target
from ratchet.stack.units import Phase, Unit

TICK_SECONDS = 0.1
DYING_SECONDS = 10.0
LOG_LIMIT_BYTES = 20_000_000


@dataclass
class Record:
    """What is known of one unit. ``started_at`` is Unix time, ``not_before`` the monotonic time of the next start."""

    phase: Phase = Phase.WAITING
    identity: Identity | None = None
    digest: str = ""
    started_at: float = 0.0
    ready_after: float | None = None
    exits: int = 0
    not_before: float = 0.0
    detail: str = ""
    probed_at: float = 0.0
    been_ready: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The row of ``state.json`` and of ``ratchet status``."""
        return {
            "phase": str(self.phase),
            "pid": self.identity.pid if self.identity else None,
            "start": self.identity.started if self.identity else None,
            "digest": self.digest,
            "started_at": self.started_at,
            "ready_after": self.ready_after,
            "exits": self.exits,
            "detail": self.detail,
        }


def write_private(path: Path, text: str) -> None:
    """Replace a file at once; readable by its owner alone from its first byte."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


@contextlib.contextmanager
def short_path(path: Path) -> Any:
    """A name for ``path`` that fits a socket address (108 bytes) however deep the home lies."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}" if Path("/proc/self/fd").is_dir() else str(path)
    finally:
        os.close(folder)


def acquire(run: Path) -> IO[str] | None:
    """Take the lock of this home; None when another process holds it. It is free again when its holder ends."""
    lock = (run / "supervisor.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def read_state(run: Path) -> dict[str, dict[str, Any]]:
    """The last state on disk, by unit; empty when nothing was ever started."""
    try:
        state: dict[str, dict[str, Any]] = json.loads((run / "state.json").read_text())
    except FileNotFoundError:
        return {}
    return state


def identity_of(row: Mapping[str, Any]) -> Identity | None:
    """The identity in a row of ``state.json``."""
    return Identity(row["pid"], row["start"]) if row.get("pid") else None


class Supervisor:
    """The state of all units and the loop that moves it. ``home`` is the parent of the run folder."""

    def __init__(self, run: Path) -> None:
        self.run_dir = run
        self.home = run.parent
        self.logs = self.home / "logs"
        self.logs.mkdir(exist_ok=True)
        self.plan: dict[str, Unit] = {}
        self.records: dict[str, Record] = {}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = False

    # The plan -------------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Take up the plan on disk: adopt or stop what a former supervisor left, run every step again."""
        plan = units.from_json((self.run_dir / "plan.json").read_text())
        units.in_order(plan)
        outdated: list[Target] = []
        rows = {**read_state(self.run_dir), **{name: record.to_dict() for name, record in self.records.items()}}
        fresh = {unit.name: unit for unit in plan}
        for name, row in rows.items():
            identity = identity_of(row)
            if not processes.is_alive(identity):
                continue
            unit = fresh.get(name)
            if unit is None or unit.kind == "step" or row["digest"] != unit.digest():
                outdated.append(self._target(name, identity, unit))
            elif name not in self.records:
                self.records[name] = Record(
                    Phase.STARTING,
                    identity,
                    row["digest"],
                    row["started_at"],
                    row["ready_after"],
                    detail="adopted",
                    been_ready=row["ready_after"] is not None,
                )
        processes.stop(self.home, outdated)
        stopped = {target.name for target in outdated}
        kept = {
            name: record
            for name, record in self.records.items()
            if name in fresh and name not in stopped and processes.is_alive(record.identity)
        }
        processes.kill_leftovers(self.home, (set(rows) | set(fresh)) - set(kept))
        self.children = {name: child for name, child in self.children.items() if name in kept}
        self.records = {name: kept.get(name, Record()) for name in fresh}
        self.plan = fresh
        self._save()

    def _target(self, name: str, identity: Identity | None, unit: Unit | None = None) -> Target:
        unit = unit or self.plan.get(name)
        if unit is None:
            return Target(name, identity)
        return Target(name, identity, unit.stop_signal, unit.stop_grace)

    def _save(self) -> None:
        rows = {name: record.to_dict() for name, record in self.records.items()}
        write_private(self.run_dir / "state.json", json.dumps(rows, indent=1))

    # The children ---------------------------------------------------------------------------------------------------

    def _start(self, unit: Unit, record: Record) -> None:
        log = self.logs / f"{unit.name}.log"
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        environment = {
            **settings.environment(),
            **unit.env,
            **processes.MARK_KEEPING,
            processes.HOME_MARK: str(self.home),
            processes.UNIT_MARK: unit.name,
        }
        record.started_at = time.time()
        record.ready_after = None
        record.detail = ""
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    unit.argv,
                    env=environment,
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            record.phase, record.detail = Phase.FAILED, f"{unit.argv[0]}: {error.strerror}"
            return
        self.children[unit.name] = child
        record.identity = processes.identify(child.pid)
        record.digest = unit.digest()
        record.phase = Phase.STARTING

    def _exit_code(self, name: str) -> int | None:
        child = self.children.get(name)
        return child.poll() if child else None

    def _last_code(self, name: str) -> int | None:
        """The exit code of a child that has ended; of one with many threads it may be a moment in coming.

        Its main thread is a zombie as soon as it has ended, and can be reaped only when its last thread has.
        """
        child = self.children.get(name)
        try:
            return child.wait(DYING_SECONDS) if child else None
        except subprocess.TimeoutExpired:
            return None

    def _ended(self, unit: Unit, record: Record) -> None:
        code = self._last_code(unit.name)
        self.children.pop(unit.name, None)
        processes.kill_leftovers(self.home, {unit.name})
        record.identity = None
        if unit.kind == "step":
            record.ready_after = time.time() - record.started_at
            record.phase = Phase.DONE if code == 0 else Phase.FAILED
            record.detail = "" if code == 0 else f"exit code {code}"
            return
        ran = time.time() - record.started_at
        record.phase, record.exits, pause = units.after_exit(
            was_ready=record.been_ready, ran_seconds=ran, exits_before=record.exits
        )
        record.not_before = time.monotonic() + pause
        record.detail = f"ended by itself after {ran:.1f} s" + ("" if code is None else f" with exit code {code}")

    def _probe(self, unit: Unit, record: Record) -> bool:
        now = time.monotonic()
        if now - record.probed_at < 2 * TICK_SECONDS:
            return False
        record.probed_at = now
        reason = probes.check(unit.probe, started_at=record.started_at)
        waited = time.time() - record.started_at
        if reason is None:
            record.phase, record.detail, record.been_ready = Phase.READY, "", True
            record.ready_after = waited if record.ready_after is None else record.ready_after
            return True
        late = waited > unit.ready_timeout
        record.detail = f"not ready after {unit.ready_timeout:.0f} s: {reason}" if late else reason
        return False

    @staticmethod
    def _is_due(unit: Unit, record: Record, phases: Mapping[str, Phase]) -> bool:
        if record.phase is Phase.BACKING_OFF:
            return time.monotonic() >= record.not_before
        return record.phase is Phase.WAITING and units.may_start(unit, phases)

    def tick(self) -> None:
        """Move every unit by at most one step."""
        changed = False
        phases = {name: record.phase for name, record in self.records.items()}
        for name, unit in self.plan.items():
            record = self.records[name]
            before = record.phase
            if record.phase in {Phase.STARTING, Phase.READY}:
                self._exit_code(name)
                if not processes.is_alive(record.identity):
                    self._ended(unit, record)
                elif record.phase is Phase.STARTING and unit.kind == "service":
                    self._probe(unit, record)
            elif self._is_due(unit, record, phases):
                self._start(unit, record)
            changed |= record.phase is not before
        if changed:
            self._save()

    # Requests -------------------------------------------------------------------------------------------------------

    def stop_all(self) -> None:
        """Stop every unit, those that need others first."""
        for wave in reversed(units.in_order(list(self.plan.values()))):
            running = [unit for unit in wave if self.records[unit.name].identity]
            processes.stop(self.home, [self._target(unit.name, self.records[unit.name].identity) for unit in running])
            for unit in running:
                self.records[unit.name] = Record(Phase.STOPPED)
            self._save()
        processes.kill_leftovers(self.home, set(self.plan))

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        operations: dict[str, Callable[[], None]] = {
            "status": lambda: None,
            "apply": self.apply,
            "stop": lambda: setattr(self, "stopping", True),
        }
        try:
            operations[request["op"]]()
        except (KeyError, ValueError, OSError) as error:
            return {"error": f"{error}"}
        return {"units": {name: record.to_dict() for name, record in self.records.items()}}

    def serve(self, listener: socket.socket) -> None:
        """The loop, until ``stop`` is asked or a signal says so."""
        while not self.stopping:
            self.tick()
            if not select.select([listener], [], [], TICK_SECONDS)[0]:
                continue
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(2.0)
                with connection.makefile("rw") as stream:
                    stream.write(json.dumps(self._answer(json.loads(stream.readline()))) + "\n")
        self.stop_all()


def _listen(run: Path) -> socket.socket:
    address = run / "control.sock"
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_path(address) as name:
        listener.bind(name)
    listener.listen(16)
    return listener


def _detach() -> None:
    """Leave the caller's session and its terminal; the caller's child ends at once and is not left to be reaped."""
    if os.fork():
        os._exit(0)
    os.setsid()


def main(run: Path) -> None:
    """Serve this run folder; ends at once when another supervisor does."""
    _detach()
    lock = acquire(run)
    if lock is None:
        return
    supervisor = Supervisor(run)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(supervisor, "stopping", True))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    write_private(run / "supervisor.pid", str(os.getpid()))
    with _listen(run) as listener:
        supervisor.serve(listener)
    (run / "control.sock").unlink(missing_ok=True)
    (run / "supervisor.pid").unlink(missing_ok=True)
    lock.close()
