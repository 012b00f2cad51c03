"""Every bench at full size, one after the other, and the table of them all.

Each part is a process that writes its own ``bench/results/<name>.json`` when it is done: whatever fails, is killed or
is interrupted afterwards, what was finished is kept. A part that fails does not stop those behind it. Those that need
servers bring up their own on ports of their own; they are stopped in any case. It asks for a quiet machine and hours.

    python -m bench.full                         # all
    python -m bench.full --only events judging   # some
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVERS_HOME, SERVERS_PORT_BASE = ROOT / ".ratchet" / "bench-servers", 28580
STOP_SECONDS = 180.0
"""So long a part may take to stop its servers before it is killed."""


@dataclass(frozen=True)
class Part:
    """A bench: ``python -m bench.<name>`` (``script``: by its file), the minutes it takes on two quiet cores.

    ``servers`` names those of the local stack that it wants to find running.
    """

    name: str
    minutes: int
    script: bool = False
    servers: str | None = None

    @property
    def file(self) -> Path:
        """Its source."""
        return ROOT / "bench" / f"{self.name}.py"

    @property
    def command(self) -> list[str]:
        """How it is run."""
        return [sys.executable, *([str(self.file)] if self.script else ["-m", f"bench.{self.name}"])]


PARTS = (
    Part("events", 1),
    Part("dag_parsing", 2),
    Part("judging", 2),
    Part("registering", 1),
    Part("fleet_of_models", 2),
    Part("warm_worker", 3),
    Part("web", 8),
    Part("whole_cycle", 12),
    Part("snapshots", 15),
    Part("regression", 5),
    Part("monitoring", 10),
    Part("intake_rate", 3, script=True, servers="postgres,kafka"),
    Part("distributed_tuning", 20),
    Part("scale", 30),
    Part("tuning", 25),
    Part("intake", 60, script=True),
)


class Interrupted(Exception):
    """Somebody wants it to end."""


def say(text: str) -> None:
    """One line with the time of day."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def environment(part: Part) -> dict[str, str]:
    """The variables of the part's process; where it wants servers, those of their own home."""
    if part.servers is None:
        return dict(os.environ)
    return os.environ | {"RATCHET_HOME": str(SERVERS_HOME), "RATCHET_PORT_BASE": str(SERVERS_PORT_BASE)}


def run(part: Part) -> bool:
    """Whether the part came to its end; its process and the servers it wanted are gone in any case."""
    ratchet, env = str(Path(sys.executable).with_name("ratchet")), environment(part)
    try:
        if part.servers is not None:
            subprocess.run([ratchet, "up", "--only", part.servers], env=env, check=True)
        child = subprocess.Popen(part.command, cwd=ROOT, env=env)
        try:
            return child.wait() == 0
        except BaseException:
            child.send_signal(signal.SIGINT)  # as a person would stop it: it stops what it has started
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            raise
    except subprocess.CalledProcessError:
        return False
    finally:
        if part.servers is not None:
            subprocess.run([ratchet, "down"], env=env, check=False)


def run_all(parts: Sequence[Part]) -> dict[str, str]:
    """What became of each part: ``done``, ``failed``, ``not here``, or ``not run`` after an interruption."""
    became = dict.fromkeys((part.name for part in parts), "not run")
    for place, part in enumerate(parts):
        left = sum(later.minutes for later in parts[place:])
        if not part.file.exists():
            became[part.name] = "not here"
            continue
        say(f"{place + 1} of {len(parts)}: {part.name}, about {part.minutes} min; about {left} min to the end")
        began = time.monotonic()
        try:
            became[part.name] = "done" if run(part) else "failed"
        except (KeyboardInterrupt, Interrupted):
            became[part.name] = "interrupted"
            break
        say(f"{part.name} {became[part.name]} after {(time.monotonic() - began) / 60:.1f} min")
    return became


def _interrupt(_number: int, _frame: object) -> None:
    raise Interrupted


def listen() -> None:
    """Let both signals end what runs; a shell's background jobs, and so the parts, would ignore the second."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> int:
    """Run, sum up, say what became of each; 1 unless all that are here are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts")
    asked = parser.parse_args()
    listen()
    became = run_all([part for part in PARTS if asked.only is None or part.name in asked.only])
    summed = subprocess.run([sys.executable, "-m", "bench.summary"], cwd=ROOT, check=False).returncode == 0
    say("; ".join(f"{name}: {what}" for name, what in became.items()))
    if stale := [name for name, what in became.items() if what not in {"done", "not here"}]:
        say(f"the table has the figures that were there before of: {', '.join(stale)}")
    return 0 if summed and not stale else 1


if __name__ == "__main__":
    raise SystemExit(main())
