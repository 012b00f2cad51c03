"""Processes by identity: a process id is recycled, a process id with its start time is not.

Every child of the supervisor leads its own session and carries two marks in its environment, so that whatever it left
behind (a LocalExecutor worker, a task) is found again after the child, or the supervisor itself, was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

HOME_MARK = "RATCHET_STACK_HOME"
UNIT_MARK = "RATCHET_STACK_UNIT"
# setproctitle writes its titles over the environment that others see, unless it is told not to.
MARK_KEEPING = {"SPT_NOENV": "1"}
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Identity:
    """One process for all time. ``started`` is its start in the clock of the kernel, fixed for its life."""

    pid: int
    started: str


@dataclass(frozen=True)
class Target:
    """What is to be stopped: a process and all it started. ``grace`` in seconds until it is killed."""

    name: str
    identity: Identity | None
    stop_signal: int = signal.SIGTERM
    grace: float = 10.0


def start_of(pid: int) -> str | None:
    """The kernel's start time of a live process; None when there is none, or only its zombie.

    Linux counts it in ticks since boot, which no change of the wall clock moves; elsewhere psutil's seconds serve.
    """
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def identify(pid: int) -> Identity | None:
    """The identity of a live process."""
    started = start_of(pid)
    return None if started is None else Identity(pid, started)


def is_alive(identity: Identity | None) -> bool:
    """Whether this very process still runs; a recycled id and a zombie do not count."""
    return identity is not None and start_of(identity.pid) == identity.started


def _others() -> Iterator[tuple[psutil.Process, Identity]]:
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        identity = identify(process.pid)
        if identity is not None:
            yield process, identity


def _environment_of(process: psutil.Process) -> Mapping[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def members(home: Path, names: Collection[str], leaders: Iterable[Identity] = ()) -> set[Identity]:
    """Every live process of the units ``names`` of the stack in ``home``.

    Leaders, the members of their sessions, all that carry the marks of these units, and the descendants of all these.
    """
    leader_ids = {leader.pid for leader in leaders if is_alive(leader)}
    found: set[Identity] = set()
    parents: dict[int, list[Identity]] = {}
    sessions = {leader.pid for leader in leaders}
    for process, identity in _others():
        marks = _environment_of(process)
        marked = marks.get(HOME_MARK) == str(home) and marks.get(UNIT_MARK) in names
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            parents.setdefault(process.ppid(), []).append(identity)
            if marked or identity.pid in leader_ids or os.getsid(identity.pid) in sessions & leader_ids:
                found.add(identity)
    queue = [identity.pid for identity in found]
    while queue:
        for child in parents.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child.pid)
    return found


def _send(identity: Identity, number: int) -> None:
    if is_alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def signal_group(identity: Identity, number: int) -> None:
    """Signal the process group that ``identity`` leads, or it alone when it leads none."""
    if not is_alive(identity):
        return
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, number)
        else:
            os.kill(identity.pid, number)


def reap() -> None:
    """Collect the children of this process that ended, so that none stays behind as a zombie."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def stop(home: Path, targets: Collection[Target]) -> None:
    """Stop the targets and everything they started: each by its own signal, after its grace by SIGKILL.

    Returns when no process of them is left.
    """
    if not targets:
        return
    names = {target.name for target in targets}
    leaders = [target.identity for target in targets if target.identity is not None]
    everyone = members(home, names, leaders)
    for target in targets:
        if target.identity is not None:
            signal_group(target.identity, target.stop_signal)
    deadlines = {
        t.identity: time.monotonic() + t.grace for t in targets if t.identity is not None and is_alive(t.identity)
    }
    while any(is_alive(leader) for leader in deadlines):
        reap()
        for leader, deadline in deadlines.items():
            if time.monotonic() > deadline and is_alive(leader):
                everyone |= members(home, names, [leader])
                signal_group(leader, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    kill_leftovers(home, names, everyone)


def kill_leftovers(home: Path, names: Collection[str], known: Iterable[Identity] = ()) -> None:
    """Kill what outlived the leaders of these units, until nothing of them is left."""
    left = set(known) | members(home, names)
    while left := {identity for identity in left if is_alive(identity)} | members(home, names):
        for identity in left:
            _send(identity, signal.SIGKILL)
        reap()
        time.sleep(POLL_SECONDS)
