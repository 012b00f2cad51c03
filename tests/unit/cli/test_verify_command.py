"""How ``ratchet verify`` says what it found; what it finds is proved with the verb."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.cli import app, verify
from ratchet.workflow.verifying import Finding, Verified

FOUND = Finding("artifact", "m@2", "version 2 of m cannot be used: model.ubj: sha256 must be …")


def run(monkeypatch: pytest.MonkeyPatch, *words: str, findings: tuple[Finding, ...]) -> Result:
    verifier = SimpleNamespace(verify=lambda model, tell: Verified({"audit log": 1, "artifact": 1_200}, findings))
    monkeypatch.setattr(verify, "wire", lambda: SimpleNamespace(verifier=verifier))
    return CliRunner().invoke(app, ["verify", *words], catch_exceptions=False)


def test_each_finding_is_a_line_that_names_it_and_the_end_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, findings=(FOUND,))
    assert (result.exit_code, result.stdout.strip()) == (1, f"artifact m@2: {FOUND.problem}")


def test_nothing_found_is_said_with_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, findings=())
    assert result.exit_code == 0
    assert result.stdout.strip() == "all is as it was recorded (1 of audit log, 1,200 of artifact)"


@pytest.mark.parametrize("findings", [(), (FOUND,)])
def test_programs_get_the_findings_as_json(monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...]) -> None:
    result = run(monkeypatch, "--json", findings=findings)
    assert json.loads(result.stdout) == [vars(finding) for finding in findings]
    assert result.exit_code == len(findings)
