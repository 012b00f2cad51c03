"""What the benches that run by themselves write: their rows, and where they were measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(rounds: int, *libraries: str) -> dict[str, Any]:
    """Where, when and with what it was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "rounds": rounds,
        "libraries": {name: version(name) for name in libraries},
    }


def _processor() -> str | None:
    """What the system calls the processor; None where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def write(name: str, rows: Sequence[dict[str, Any]], measured: dict[str, Any], **more: Any) -> None:
    """Keep the rows as ``bench/results/<name>.json`` and say so."""
    file = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({"machine": measured, **more, "rows": list(rows)}, indent=2) + "\n")
    print(f"rows: {file}")
