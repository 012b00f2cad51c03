"""The guide from a file to a first champion, followed as it is written: its Python saved, its commands run in order.

    python tests/integration/guide.py <empty folder>

follows it on the stack that runs, and tells how long each block took.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "first-model.md"
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_SAVED_AS = re.compile(r"Save this as `(\w+\.py)`")


@dataclass(frozen=True)
class Done:
    """One block of commands, how long it took, and what it printed."""

    commands: str
    seconds: float
    said: str


def run(commands: str, folder: Path) -> Done:
    """Run a block in a folder, as a person with the environment active would; raises with its output if it fails."""
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return Done(commands, time.monotonic() - began, done.stdout)


def follow(folder: Path) -> list[Done]:
    """Do all that the guide says, in its order."""
    text = GUIDE.read_text()
    (name,) = _SAVED_AS.findall(text)
    done = []
    for kind, block in _BLOCK.findall(text):
        if kind == "python":
            (folder / name).write_text(block)
        else:
            done.append(run(block, folder))
    return done


if __name__ == "__main__":
    blocks = follow(Path(sys.argv[1]))
    for block in blocks:
        print(f"$ {block.commands.strip()}\n{block.said.strip()}\n({block.seconds:.1f} s)\n")
    print(f"the guide took {sum(block.seconds for block in blocks):.1f} s")
