"""`ratchet costs` on a world in which attempts are really judged."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from ratchet.adapters.ledger import schema as t
from ratchet.cli import app, costs
from ratchet.domain.costs import ORPHANS
from ratchet.domain.monthly import OwnerMonth
from ratchet.errors import Refused
from ratchet.workflow.costing import costs_of
from ratchet.workflow.deciding import spec_of
from ratchet.workflow.monthly import months_of

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One attempt of March and one of April, every step of which took 90 s with two threads; one object of neither."""
    made = new_world(tmp_path_factory.mktemp("costs"))
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    with made.ledger.engine.begin() as db:
        began = sa.select(t.step.c.attempt_id, t.step.c.step, t.step.c.finished_at)
        for attempt, step, finished in db.execute(began).all():
            one = (t.step.c.attempt_id == attempt) & (t.step.c.step == step)
            db.execute(sa.update(t.step).where(one).values(started_at=finished - timedelta(seconds=90)))
        document = made.spec.model_dump(mode="json")
        document["runtime"]["threads"] = 2
        db.execute(sa.update(t.spec).where(t.spec.c.digest == made.spec.digest).values(document=document))
    made.store.put_bytes("snapshots/flight_delay.99/train.parquet", b"x" * 1000)
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(costs, "wire", lambda: InProcess(world))

    def of(*words: str) -> Result:
        return CliRunner().invoke(app, ["costs", *words], catch_exceptions=True)

    return of


def size_of(world, *attempts: str) -> int:
    kept = [file for file in (world.folder / "store").rglob("*") if file.is_file()]
    return sum(f.stat().st_size for f in kept if any(f"/{a}." in str(f) or f"/{a}/" in str(f) for a in attempts))


def test_steps_times_threads_and_the_bytes_of_an_attempts_objects(world, run) -> None:
    rows = json.loads(run("--by", "attempt", "--json").output)
    first, second = world.first.id, world.second.id
    with world.ledger.transaction() as tx:
        steps = {attempt: len(tx.steps(attempt)) for attempt in (first, second)}
    told = {(row["month"], row["name"]): row for row in rows}
    assert set(told) == {("2013-03", first), ("2013-04", first), ("2013-04", second), ("2013-04", ORPHANS)}
    assert told["2013-03", first]["core_seconds"] == pytest.approx(180 * steps[first])
    assert told["2013-04", first]["core_seconds"] == 0
    assert told["2013-04", second]["core_seconds"] == pytest.approx(180 * steps[second])
    for attempt in (first, second):
        assert told["2013-04", attempt]["stored_bytes"] == size_of(world, attempt) > 10_000
    assert told["2013-04", ORPHANS]["stored_bytes"] == 1000


def test_a_models_predictions_and_reports_are_its_own(world, run) -> None:
    keys = ("predictions/flight_delay/2013-04-02/1.parquet", "monitor/flight_delay/20130428T040000Z-ab.json")
    before = json.loads(run("--by", "model", "--month", "2013-04", "--json").output)[0]
    for key in keys:
        world.store.put_bytes(key, b"x" * 500)
    try:
        after = json.loads(run("--by", "model", "--month", "2013-04", "--json").output)[0]
        assert after["stored_bytes"] - before["stored_bytes"] == 1000
        march = json.loads(run("--by", "model", "--month", "2013-03", "--json").output)[0]
        assert march["stored_bytes"] == size_of(world, world.first.id)
        (month,) = world_month(world, "2013-04")
        assert month.models[0].stored_bytes == after["stored_bytes"]
    finally:
        for key in keys:
            world.store.delete(key)


def world_month(world, month: str) -> list[OwnerMonth]:
    return months_of(world.ledger, costs_of(world.ledger, lambda: world.store), [], month)


def test_an_owners_month(world, run) -> None:
    rows = json.loads(run("--month", "2013-04", "--json").output)
    (row,) = [row for row in rows if row["name"] == world.spec.owner.team]
    assert (row["attempts"], row["by"], row["unit"]) == (1, "owner", None)
    assert row["stored_bytes"] == size_of(world, world.first.id, world.second.id)


def test_a_table_for_people_with_prices(run) -> None:
    lines = run("--by", "model", "--core-hour", "3600", "--unit", "EUR").output.splitlines()
    (march,) = [line.split() for line in lines if "2013-03" in line]
    assert march[-1] == "flight_delay"
    assert march[-2] == "EUR"
    assert march[-3] == "720.0000", "four steps of 90 s with two threads, at 1 EUR a second"


def test_another_model_and_another_month_are_told_apart(run) -> None:
    assert json.loads(run("--model", "no_such_model", "--json").output) == []
    refused = run("--month", "2013-05").exception
    assert isinstance(refused, Refused)
    assert str(refused) == "--month: nothing is of '2013-05'; there are 2013-03 to 2013-04"


def test_a_forecast_tells_the_next_run_what_stands_behind_it_and_how_earlier_ones_fared(world, run) -> None:
    (told,) = json.loads(run("--forecast", "--json").output)
    with world.ledger.transaction() as tx:
        steps = tx.step_seconds([world.first.id, world.second.id])
        (opened,) = [entry for entry in tx.audit_log(action="attempt.opened") if "forecast" in entry["detail"]]
        threads = spec_of(tx, world.spec.digest).runtime.threads
    hours = [sum(taken.values()) * threads / 3600 for taken in steps.values()]
    assert told["told"]["runs"] == 2
    assert told["told"]["upper"] == pytest.approx(max(hours))
    assert opened["detail"]["attempt"] == world.second.id, "the first attempt had no run to go by"
    assert (told["held"], told["checked"]) == (0, 1), "its steps were made longer after they were forecast"
    (row,) = [line for line in run("--forecast", "--core-hour", "2").output.splitlines() if "flight_delay" in line]
    assert "by 2 runs only; 0 of 1 runs took no more than was forecast" in row
    assert f"{2 * max(hours):,.4f} USD" in row
    refused = run("--forecast", "--month", "2013-04").exception
    assert isinstance(refused, Refused)
