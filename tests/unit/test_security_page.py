"""The threat model names the test that holds each answer to a threat: each must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_the_threat_model_names_exists() -> None:
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", PAGE)
    assert len(named) > 25
    missing = [
        f"{file}::{test}"
        for file, test in named
        if file not in files or (test and f"def {test}(" not in files[file].read_text())
    ]
    assert not missing


def test_no_dag_sets_access_control_as_the_page_says() -> None:
    """A role that does not exist would make all DAGs of the file stale: decision 0091."""
    setting = [path.name for path in (ROOT / "dags").glob("*.py") if "access_control" in path.read_text()]
    assert not setting
