"""An arm stops one process at one place; nobody else, and nobody where failpoints are off."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ratchet import failpoints

NAME = "rung/not claimed"
REACH = f"from ratchet.failpoints import reach; reach({NAME!r}); print('went on')"


def reaching(home: Path, **variables: str) -> subprocess.Popen[str]:
    env = {**os.environ, "RATCHET_HOME": str(home), **variables}
    return subprocess.Popen([sys.executable, "-c", REACH], env=env, stdout=subprocess.PIPE, text=True)


def waiting_at(home: Path, pid: int) -> Path:
    marker, pause = failpoints.folder(home) / f"{failpoints.slug(NAME)}.{pid}", threading.Event()
    for _ in range(2400):
        if marker.exists():
            return marker
        pause.wait(0.05)
    raise AssertionError(f"process {pid} never waited at {NAME}")


def test_one_arm_stops_one_process_until_its_marker_is_removed(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, NAME)
    first = reaching(tmp_path, RATCHET_FAILPOINTS="1")
    marker = waiting_at(tmp_path, first.pid)
    second = reaching(tmp_path, RATCHET_FAILPOINTS="1")
    assert second.communicate()[0] == "went on\n"
    assert first.poll() is None
    marker.unlink()
    assert first.communicate()[0] == "went on\n"


def test_an_arm_is_not_seen_where_failpoints_are_off(tmp_path: Path) -> None:
    failpoints.arm(tmp_path, NAME)
    assert reaching(tmp_path, RATCHET_FAILPOINTS="").communicate()[0] == "went on\n"
    assert failpoints.disarm(tmp_path, NAME)
    assert not failpoints.disarm(tmp_path, NAME)


def test_the_marker_of_a_dead_process_with_the_same_id_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "_settings", lambda: type("S", (), {"failpoints": True, "home": tmp_path}))
    failpoints.folder(tmp_path).mkdir()
    (failpoints.folder(tmp_path) / f"{failpoints.slug(NAME)}.{os.getpid()}").touch()
    failpoints.reach(NAME)


def test_an_unknown_place_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown failpoint 'rung'; one of inserted"):
        failpoints.arm(tmp_path, "rung")
