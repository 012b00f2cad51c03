"""`ratchet purge`: what it prints, and that nothing goes before it is told to."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.cli import app, events, purge
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import FateChange, NewEvent

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world


@pytest.fixture
def world(tmp_path):
    """Three judged attempts, of which the first made the champion."""
    made = new_world(tmp_path)
    made.first = made.run("2013-03-25", first_champion=True)
    made.others = [made.run(day) for day in ("2013-04-20", "2013-05-05")]
    yield made
    made.ledger.dispose()


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.setattr(purge, "wire", lambda: InProcess(world))

    def of(*words: str) -> Result:
        return CliRunner().invoke(app, ["purge", *words], catch_exceptions=True)

    return of


def retain(world: Any, **rules: Any) -> None:
    spec = ModelSpec.model_validate(world.spec.model_dump(mode="json") | {"retention": rules})
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))


def test_it_tells_then_removes_then_finds_nothing(world, run) -> None:
    assert "no deployed spec has a retention: all is kept" in run().output
    retain(world, snapshots=1, studies="1d")
    before = world.store.sizes("snapshots")
    told = run().output
    assert "nothing was removed yet: add --apply" in told
    assert world.store.sizes("snapshots") == before
    assert "flight_delay: 2 to remove" in told, "the studies of the two older attempts; every snapshot has its version"
    assert "version 1 is retained: it is the champion" in told
    done = run("--apply").output
    assert "flight_delay: 2 removed" in done
    assert sorted(world.studies.names()) == [world.others[-1].id]
    (again,) = json.loads(run("flight_delay", "--apply", "--json").output)
    assert (again["remove"], again["removed"], again["freed_bytes"]) == ([], 0, 0)


def test_orphans_are_told_removed_when_asked_and_audited(world, run) -> None:
    assert run("--orphans").output == "0 orphans, 0.0000 GB\n"
    world.store.put_bytes("snapshots/flight_delay.99/train.parquet", b"x" * 1000)
    world.studies._spent["flight_delay.98"] = []
    world.registry._versions["flight_delay"].append("flight_delay.97")
    found = json.loads(run("--orphans", "--json").output)
    assert [(each["kind"], each["name"]) for each in found] == [
        ("object", "snapshots/flight_delay.99/train.parquet"),
        ("study", "flight_delay.98"),
        ("version", "flight_delay@4"),
    ]
    assert "3 orphans, 0.0000 GB: add --apply to remove them" in run("--orphans").output
    assert "3 orphans removed" in run("--orphans", "--apply").output
    assert run("--orphans").output == "0 orphans, 0.0000 GB\n"
    with world.ledger.transaction() as tx:
        (entry,) = tx.audit_log(action="orphans")
    assert entry["detail"]["bytes"] == 1000
    assert len(entry["detail"]["names"]) == 3
    assert isinstance(run("flight_delay", "--orphans").exception, Refused)


def test_old_rows_go_by_month_and_what_is_gone_is_told_where_it_is_looked_for(world, run, monkeypatch) -> None:
    attempt = world.others[0]
    with world.ledger.transaction() as tx:
        old = [
            NewEvent("m", name, "flight_delay", "ratchet.drift.cleared.v1", attempt.business_at, name, {"check": "psi"})
            for name in ("taken", "newest")
        ]
        tx.insert_events(old)
        pks = {row.event_id: row.pk for row in tx.events() if row.source == "m"}
        tx.change_fates(
            [
                FateChange(pks["taken"], "merged", "r", attempt_id=attempt.id),
                FateChange(pks["newest"], "suppressed", "r"),
            ]
        )
        tx.finish_resolutions(list(pks.values()))
        tx.set_clock("replay", datetime(2014, 1, 1, tzinfo=UTC))
    retain(world, events="90d")
    said = run().output
    assert "retention.events: 90d" in said
    assert "1 rows of the ledger" in said
    assert "nothing was removed yet: add --apply" in said
    (told,) = json.loads(run("--apply", "--json").output)
    assert [(row["kind"], row["rows"], row["before"][:10], row["done"]) for row in told["rows"]] == [
        ("events", 1, "2013-10-01", True)
    ]
    with world.ledger.transaction() as tx:
        assert {row.event_id for row in tx.events() if row.source == "m"} == {"newest"}
    monkeypatch.setattr(events, "wire", lambda: InProcess(world))
    lost = "events of flight_delay of before 2013-10-01 were removed by retention on"
    listed = CliRunner().invoke(app, ["events", "--attempt", attempt.id])
    assert lost in listed.output
    assert "ratchet trace" in listed.output
    refused = CliRunner().invoke(app, ["events", "show", "taken"])
    assert lost in str(refused.exception)
