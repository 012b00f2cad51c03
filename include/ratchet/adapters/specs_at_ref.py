"""The models folder as a git ref has it, read without touching the working tree."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet.errors import Refused

GIT_SECONDS = 60


@contextmanager
def models_at(models_dir: Path, ref: str) -> Iterator[Path]:
    """A folder with the models as they are at ``ref``, for as long as the context lasts; empty where it has none.

    Raises:
        Refused: the folder is in no git repository, or there is no such commit.
    """
    there = next(folder for folder in (models_dir, *models_dir.parents) if folder.is_dir())
    top = Path(_git(there, "rev-parse", "--show-toplevel").decode().strip())
    commit = _git(there, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}").decode().strip()
    within = models_dir.resolve().relative_to(top.resolve()).as_posix()
    with tempfile.TemporaryDirectory(prefix="ratchet-plan-") as scratch:
        found = Path(scratch) / within
        found.mkdir(parents=True)
        if _git(top, "ls-tree", commit, "--", within):
            with tarfile.open(fileobj=io.BytesIO(_git(top, "archive", "--format=tar", commit, "--", within))) as tar:
                tar.extractall(scratch, filter="data")
        yield found


def _git(folder: Path, *words: str) -> bytes:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"git {words[0]} cannot be run in {folder}: {error}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise Refused(
            f"git {' '.join(words)} in {folder}: {said[-1]}. Name a branch, tag or commit of this repository."
        )
    return done.stdout
