"""The supervisor on trivial children: restart, adoption, and nothing left behind."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet import settings
from ratchet.stack import control, processes, supervisor, units
from ratchet.stack.control import StackError
from ratchet.stack.units import Unit

SLEEP = Unit("sleeper", ("sleep", "600"), stop_grace=2.0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder so deep that its socket would not fit an address by its full name."""
    folder = tmp_path / ("deep" * 20) / "home" / "run"
    folder.parent.mkdir(parents=True)
    yield folder
    control.stop(folder)


def start(run: Path, *plan: Unit) -> dict[str, dict[str, Any]]:
    control.start(run, plan, settings.environment())
    for _ in control.progress(run, plan, timeout=20):
        pass
    return control.request(run, op="status") or {}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    assert control._wait(condition, seconds=seconds), "the condition never held"


def shell(name: str, script: str, **more: Any) -> Unit:
    return Unit(name, ("sh", "-c", script), **more)


def kill_supervisor(run: Path) -> None:
    identity = processes.identify(int((run / "supervisor.pid").read_text()))
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    until(lambda: not processes.is_alive(identity))


def test_a_service_killed_from_outside_is_started_again(run: Path) -> None:
    first = start(run, SLEEP)["sleeper"]["pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: (control.request(run, op="status") or {})["sleeper"]["pid"] not in {None, first})


def test_what_a_killed_service_left_behind_is_ended_before_its_restart(run: Path) -> None:
    # The grandchild leaves the session of its parent, as a daemon would.
    daemon = "import os, time; os.setsid(); time.sleep(600)"
    command = shlex.join([sys.executable, "-c", daemon])
    first = start(run, shell("parent", f"{command} & wait"))["parent"]["pid"]
    until(lambda: len(processes.members(run.parent, {"parent"})) >= 2)
    old = processes.members(run.parent, {"parent"})
    os.kill(first, signal.SIGKILL)
    until(lambda: (control.request(run, op="status") or {})["parent"]["pid"] not in {None, first})
    assert not [identity for identity in old if processes.is_alive(identity)]


def test_a_step_whose_main_thread_ends_before_its_others_is_judged_by_its_exit_code(run: Path) -> None:
    """As a process of many threads ends under load: a zombie that cannot be reaped yet."""
    script = (
        "import ctypes, os, platform, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(1.5), os._exit(0))).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0)  # ends this thread alone\n"
    )
    done = start(run, Unit("step", (sys.executable, "-c", script), kind="step"))["step"]
    assert (done["phase"], done["detail"]) == ("done", "")


def test_children_that_outlived_their_supervisor_are_adopted(run: Path) -> None:
    first = start(run, SLEEP)["sleeper"]["pid"]
    kill_supervisor(run)
    assert start(run, SLEEP)["sleeper"]["pid"] == first


def test_an_adopted_child_that_is_no_longer_what_is_asked_for_is_replaced(run: Path) -> None:
    first = processes.identify(start(run, SLEEP)["sleeper"]["pid"])
    kill_supervisor(run)
    changed = Unit("sleeper", ("sleep", "601"))
    assert first is not None
    assert start(run, changed)["sleeper"]["pid"] != first.pid
    assert not processes.is_alive(first)


def test_children_that_outlived_their_supervisor_are_stopped_by_down(run: Path) -> None:
    identity = processes.identify(start(run, SLEEP)["sleeper"]["pid"])
    kill_supervisor(run)
    assert control.stop(run)
    assert not processes.is_alive(identity)


def test_down_ends_a_child_that_ignores_its_signal(run: Path) -> None:
    deaf = shell("deaf", "trap '' TERM; while :; do sleep 0.1; done", stop_grace=0.5)
    identity = processes.identify(start(run, deaf)["deaf"]["pid"])
    assert control.stop(run)
    assert not processes.is_alive(identity)
    assert not processes.members(run.parent, {"deaf"})


def test_down_twice_says_that_nothing_ran(run: Path) -> None:
    start(run, SLEEP)
    assert control.stop(run)
    assert not control.stop(run)


def test_up_twice_keeps_the_service_and_repeats_the_step(run: Path, tmp_path: Path) -> None:
    step = shell("step", f"echo once >> {tmp_path / 'steps'}", kind="step")
    first = start(run, SLEEP, step)["sleeper"]["pid"]
    assert start(run, SLEEP, step)["sleeper"]["pid"] == first
    assert (tmp_path / "steps").read_text() == "once\nonce\n"


def test_a_second_supervisor_of_one_home_ends_at_once(run: Path) -> None:
    start(run, SLEEP)
    first = (run / "supervisor.pid").read_text()
    control._launch(run, settings.environment())
    assert supervisor.acquire(run) is None
    assert (run / "supervisor.pid").read_text() == first


def test_a_step_that_fails_is_told_with_the_end_of_its_log(run: Path) -> None:
    with pytest.raises(StackError, match=r"(?s)broken: exit code 3.*the disk is full"):
        start(run, shell("broken", "echo the disk is full; exit 3", kind="step"))


def test_nothing_starts_behind_a_step_that_failed(run: Path) -> None:
    broken = shell("broken", "exit 1", kind="step")
    with pytest.raises(StackError):
        start(run, broken, Unit("later", SLEEP.argv, after=("broken",)))
    assert (control.request(run, op="status") or {})["later"]["pid"] is None


def test_a_service_that_was_ready_once_is_not_given_up_while_what_it_needs_is_away(run: Path, tmp_path: Path) -> None:
    needed, starts = tmp_path / "needed", tmp_path / "starts"
    needed.touch()
    script = f"echo once >> {starts}; [ -e {needed} ] && exec sleep 600; exit 1"
    first = start(run, shell("server", script))["server"]["pid"]
    needed.unlink()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(starts.read_text().splitlines()) > units.MAX_EARLY_EXITS)
    needed.touch()
    until(lambda: (control.request(run, op="status") or {})["server"]["phase"] == units.Phase.READY)


def test_a_recycled_process_id_is_not_the_process() -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    assert processes.is_alive(own)
    assert not processes.is_alive(processes.Identity(own.pid, f"{own.started}0"))


def test_the_state_is_on_disk_before_up_returns(run: Path) -> None:
    began = time.time()
    row = start(run, SLEEP)["sleeper"]
    on_disk = supervisor.read_state(run)["sleeper"]
    assert on_disk["pid"] == row["pid"]
    assert on_disk["started_at"] >= began - 1
