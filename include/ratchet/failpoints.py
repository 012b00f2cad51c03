"""Places where a test may stop the world: inert, without a look at any file, unless ``RATCHET_FAILPOINTS`` is set.

A test arms a place with ``arm``. The next process that reaches it takes the arm, writes
``<home>/failpoints/<slug>.<pid>`` in the same move, and waits there until it is killed (or until the file is removed,
which lets it go on), so that a test kills exactly what it meant to kill. Every other process goes on.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from functools import cache
from pathlib import Path

from ratchet.settings import Settings, load_settings

NAMES = (
    "inserted/not committed",
    "committed/no offset",
    "rung/not claimed",
    "claimed/no snapshot",
    "tuning",
    "compare-and-set/no alias",
    "alias/not published",
)


@cache
def _settings() -> Settings:
    return load_settings()


def slug(name: str) -> str:
    """The file name of a failpoint: ``alias/not published`` → ``alias-not-published``."""
    return re.sub(r"[^a-z]+", "-", _known(name))


def folder(home: Path) -> Path:
    """Where the files of this home's failpoints lie."""
    return home / "failpoints"


def arm(home: Path, name: str, count: int = 1) -> None:
    """Have the next ``count`` processes that reach this place wait there."""
    folder(home).mkdir(parents=True, exist_ok=True)
    for _ in range(count):
        (folder(home) / f"{slug(name)}.armed-{uuid.uuid4().hex}").touch()


def disarm(home: Path, name: str) -> bool:
    """Take back the arms that nobody has taken; false when there were none."""
    arms = list(folder(home).glob(f"{slug(name)}.armed-*"))
    for each in arms:
        each.unlink(missing_ok=True)
    return bool(arms)


def reach(name: str) -> None:
    """Wait here when this failpoint is armed; return at once otherwise.

    Raises:
        ValueError: the name is not one of ``NAMES`` (a failpoint that cannot be armed proves nothing).
    """
    prefix = slug(name)
    settings = _settings()
    if not settings.failpoints:
        return
    marker = folder(settings.home) / f"{prefix}.{os.getpid()}"
    if any(_taken(each, marker) for each in folder(settings.home).glob(f"{prefix}.armed-*")):
        while marker.exists():
            time.sleep(0.05)


def _taken(arms: Path, marker: Path) -> bool:
    try:
        arms.rename(marker)
    except FileNotFoundError:
        return False
    return True


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"unknown failpoint {name!r}; one of {', '.join(NAMES)}")
    return name
