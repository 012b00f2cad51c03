"""The bench of 500 models: what it keeps, what it asks, and that its year is a year of the ledger's own rows."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger import schema as t
from ratchet.adapters.specs import load_all
from ratchet.domain.audit import GENESIS, Head, entry_hash
from ratchet.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.scale")


def calm(seconds: float) -> dict[str, Any]:
    return {"to_claim_seconds": [seconds] * 3, "claim_task_seconds": [0.5]}


def test_a_phase_is_kept_when_it_is_done_and_the_other_fleets_figures_stay(
    scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    monkeypatch.setattr("bench.reports.RESULTS", tmp_path)
    scale.Report(scale.Size(), keep=True).add("small", "calm", calm(2.0))
    assert json.loads((tmp_path / "scale.json").read_text())["rows"] == [], "one fleet alone compares with nothing"
    scale.Report(scale.Size(), keep=True).add("large", "calm", calm(6.0))
    told = json.loads((tmp_path / "scale.json").read_text())
    claim, _ = told["rows"]
    assert (claim["ours"], claim["theirs"], claim["met"]) == (6.0, 2.0, False)
    assert {"at", "processor", "load"} <= told["machine"].keys()


def test_figures_of_another_size_are_not_mixed_with_these(
    scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    monkeypatch.setattr("bench.reports.RESULTS", tmp_path)
    scale.Report(scale.Size(), keep=True).add("small", "calm", calm(2.0))
    scale.Report(replace(scale.Size(), models=300), keep=True).add("large", "calm", calm(6.0))
    told = json.loads((tmp_path / "scale.json").read_text())
    assert (list(told["figures"]), told["rows"]) == (["large"], [])


@pytest.fixture
def made(scale: Any, tmp_path: Path) -> Iterator[Any]:
    """Two models, deployed into a ledger of their own."""
    scale.write_specs(tmp_path / "models", ["a", "b"])
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    with ledger.transaction() as tx:
        for name, spec in load_all(tmp_path / "models").items():
            tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"))
    yield SimpleNamespace(ledger=ledger, settings=load_settings({"RATCHET_HOME": str(tmp_path)}))
    ledger.dispose()


def rows(ledger: SqlLedger) -> dict[str, int]:
    with ledger.engine.connect() as db:
        count = sa.select(sa.func.count())
        return {name: db.execute(count.select_from(table)).scalar_one() for name, table in t.metadata.tables.items()}


def test_a_week_has_the_rows_that_it_says_and_the_audit_log_holds(scale: Any, made: Any) -> None:
    written = scale.Year(made)
    for _ in range(2):
        written.week()
    counts, week, weeks = rows(made.ledger), scale.Week(), 2 * 2
    assert counts["event"] == weeks * week.events
    assert counts["fate"] == 2 * counts["event"], "each waited first"
    assert counts["attempt"] == weeks * week.attempts
    assert counts["step"] == 4 * counts["attempt"]
    assert counts["used_day"] > 180 * counts["attempt"], "a window of 180 days, and those that judge"
    assert counts["monitored"] == weeks * week.windows
    assert counts["self_test"] == weeks * week.self_tests
    end = Head(0, GENESIS)
    with made.ledger.engine.connect() as db:
        entries = [dict(row) for row in db.execute(sa.select(t.audit).order_by(t.audit.c.seq)).mappings()]
    for entry in entries:
        told = {name: entry[name] for name in ("seq", "at", "actor", "action", "model", "detail")}
        assert (entry["previous_hash"], entry["hash"]) == (end.hash, entry_hash(end.hash, **told))
        end = Head(entry["seq"], entry["hash"])


def test_what_is_asked_of_the_ledger_claims_for_real_and_leaves_nothing_behind(scale: Any, made: Any) -> None:
    scale.Year(made).week()
    before = rows(made.ledger)
    took = scale.ask_both({"now": scale.questions(made.ledger, made)}, rounds=1)
    assert all(milliseconds["now"][0] > 0 for milliseconds in took.values())
    assert rows(made.ledger) == before
