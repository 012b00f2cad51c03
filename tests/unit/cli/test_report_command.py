"""`ratchet report` on a world in which attempts are really judged: as text, JSON and a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.cli import app, monthly
from ratchet.errors import Refused

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A first champion of March and an attempt of April."""
    made = new_world(tmp_path_factory.mktemp("report"))
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(monthly, "wire", lambda: InProcess(world))

    def of(*words: str) -> Result:
        return CliRunner().invoke(app, ["report", *words], catch_exceptions=True)

    return of


def test_a_month_tells_what_was_promoted_its_worth_and_its_cost(world, run) -> None:
    (march,) = json.loads(run("--month", "2013-03", "--core-hour", "2", "--json").output)
    (model,) = march["models"]
    assert (march["owner"], model["attempts"], model["verdicts"]) == (world.spec.owner.team, 1, {"promote": 1})
    (promoted,) = model["promotions"]
    verdict = world.first.verdict_record
    assert promoted["lower"] == verdict["lower"]
    assert promoted["worth"] == pytest.approx(verdict["lower"] * verdict["n_rows"] / verdict["n_clusters"] * 30)
    assert march["worth"] == {verdict["unit"]: promoted["worth"]}
    with world.ledger.transaction() as tx:
        seconds = sum(tx.step_seconds([world.first.id])[world.first.id].values())
    assert march["core_hours"] == pytest.approx(seconds * world.spec.runtime.threads / 3600)
    assert march["price"] == pytest.approx(2 * march["core_hours"])
    assert {use["rule"] for use in model["budget"]} == {"runs_per_day"}
    assert all(finding["severity"] != "ok" for finding in model["findings"])


def test_the_present_month_is_that_of_business_time_and_rests_are_told(world, run) -> None:
    lines = run().output.splitlines()
    assert lines[0].startswith(f"{world.spec.owner.team}, 2013-04: 1 model, 1 attempt, 0 promotions, ")
    assert any(line.startswith("budget flight_delay: runs_per_day 1 of ") for line in lines)
    quiet = run("--month", "2013-09").output
    assert "1 model, 0 attempts, 0 promotions, 0.00 core hours" in quiet
    kept = json.loads(run("--month", "2013-09", "--json").output)[0]["models"][0]["stored_bytes"]
    assert kept > 10_000, "what is kept is kept in every later month"


def test_a_page_is_whole_and_escapes_what_it_tells(world, run, tmp_path) -> None:
    assert "written to" in run("--month", "2013-03", "--html", str(tmp_path / "march.html")).output
    text = (tmp_path / "march.html").read_text()
    assert text.startswith("<!doctype html>")
    for told in ("flight_delay@1", "Budgets", "Findings of the audit", "at least, for 30 days"):
        assert told in text
    assert "<script" not in text


def test_an_unknown_owner_or_month_is_refused(run) -> None:
    for words, said in ((("--owner", "nobody"), "'nobody'"), (("--month", "june"), "must be like 2013-06")):
        refused = run(*words).exception
        assert isinstance(refused, Refused)
        assert said in str(refused)
