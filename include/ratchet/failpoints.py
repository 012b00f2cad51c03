"""Places where a test may stop the world: inert unless ``RATCHET_FAILPOINT`` names one.

A process that reaches the named place writes ``<home>/failpoints/<slug>.<pid>`` and waits there until it is killed
(or until the file is removed, which lets it go on), so that a test kills exactly what it meant to kill.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache

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
    return re.sub(r"[^a-z]+", "-", name)


def reach(name: str) -> None:
    """Wait here when this failpoint is armed; return at once otherwise.

    Raises:
        ValueError: the name is not one of ``NAMES`` (a failpoint that cannot be armed proves nothing).
    """
    if name not in NAMES:
        raise ValueError(f"unknown failpoint {name!r}; one of {', '.join(NAMES)}")
    settings = _settings()
    if settings.failpoint != name:
        return
    folder = settings.home / "failpoints"
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f"{slug(name)}.{os.getpid()}"
    marker.touch()
    while marker.exists():
        time.sleep(0.05)
