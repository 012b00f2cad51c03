"""What is told of an error that nobody raised on purpose: one line, and where the whole of it is."""

from __future__ import annotations

import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from ratchet.settings import environment, load_settings

VARIABLE = "RATCHET_TRACEBACK"
UNEXPECTED = 70
"""The exit code, ``EX_SOFTWARE`` of sysexits.h: the fault is the program's, not the request's."""
LOG = Path("logs") / "commands.log"


def wants_traceback() -> bool:
    """Whether the person asked to see tracebacks."""
    try:
        return environment().get(VARIABLE, "") not in {"", "0"}
    except OSError:
        return False


def in_a_line(error: Exception) -> str:
    """What happened, where in our sources, and where its traceback is; writes it there.

    Where it cannot be written, the line says how to see it.
    """
    said = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    ours = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}ratchet{os.sep}" in f.filename]
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    kept = _kept(error)
    there = f"The traceback is in {kept}; " if kept else ""
    return f"unexpected {said}{where}. This is a fault of Ratchet's own. {there}{VARIABLE}=1 shows it"


def _kept(error: Exception) -> Path | None:
    """The file with the traceback; None where the home cannot be found or written to."""
    try:
        path = load_settings().home / LOG
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a") as log:
            path.chmod(0o600)
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} ratchet {' '.join(sys.argv[1:])}\n")
            log.write("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001 - telling of an error must not fail, whatever is broken
        return None
    return path
