"""`make scan`: what could not be looked up is not clean."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCAN = Path(__file__).resolve().parents[3] / "scripts" / "scan"
SOUND = {"name": "idna", "version": "3.10", "vulns": []}
WEAK = {"name": "jinja2", "version": "3.1.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["3.1.6"], "aliases": []}]}
SKIPPED = {"name": "yarl", "skip_reason": "Dependency not found and could not be audited: yarl (1.25.1)"}


@pytest.fixture
def scan(tmp_path):
    """The script with an advisory service that answers this of each lock file, or nothing."""

    def run(answer: list[dict] | None, **variables: str) -> subprocess.CompletedProcess[str]:
        says = "" if answer is None else json.dumps({"dependencies": answer, "fixes": []})
        stub = tmp_path / "pip_audit.py"
        away = "sys.stderr.write('ConnectionError: no such host\\n')" if answer is None else ""
        stub.write_text(f"import sys\nprint({says!r})\n{away}\nsys.exit({int(not says or 'GHSA' in says)})\n")
        told = {"PIP_AUDIT": f"{sys.executable} {stub}", "PATH": "/usr/bin:/bin"} | variables
        return subprocess.run([sys.executable, SCAN], env=told, capture_output=True, text=True, check=False)

    return run


def test_packages_of_which_nothing_is_known_pass(scan):
    done = scan([SOUND])
    assert (done.returncode, done.stderr) == (0, "")
    assert "requirements.txt: 1 of 1 packages looked up, 0 weaknesses known" in done.stdout


def test_a_known_weakness_is_told_with_its_remedy(scan):
    done = scan([SOUND, WEAK, SKIPPED])
    assert done.returncode == 1
    assert "requirements.txt: jinja2 3.1.0: GHSA-1, mended in 3.1.6" in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "could not be looked up, so nothing is known: ConnectionError: no such host"),
        ([SOUND, SKIPPED], "yarl was not looked up"),
        ([], ""),
    ],
    ids=["the service is away", "a package is not known to it", "an empty answer"],
)
def test_what_could_not_be_looked_up_is_not_clean(scan, answer, said):
    done = scan(answer)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_image_that_could_not_be_looked_into_is_not_clean(scan, tmp_path):
    assert scan([SOUND], IMAGE="ratchet:0.1.0", TRIVY=str(tmp_path / "none")).returncode == 2
    for code, expected in ((0, 0), (3, 1), (1, 2)):
        trivy = tmp_path / "trivy"
        trivy.write_text(f"#!/bin/sh\nexit {code}\n")
        trivy.chmod(0o755)
        assert scan([SOUND], IMAGE="ratchet:0.1.0", TRIVY=str(trivy)).returncode == expected
