"""`ratchet purge`: what it prints, and that nothing goes before it is told to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ratchet.cli import app, purge
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused

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
