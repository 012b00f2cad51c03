"""The application on a small world; see api_worlds.py."""

import sys
from pathlib import Path

import pytest

from ratchet.adapters.ledger import SqlLedger

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from datetime import UTC, datetime

from api_worlds import Client
from worlds import World


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.migrate()
    ledger.dispose()
    return path


@pytest.fixture
def api(tmp_path, empty_ledger):
    world = World(tmp_path, empty_ledger)
    client = Client(world)
    yield client
    client.outgoing.close()
    world.ledger.dispose()


@pytest.fixture
def world_with_history(api):
    """Champions, an attempt with a verdict, events and a dead letter."""
    world = api.world
    world.crown(1)
    world.arrive(datetime(2013, 4, 1, 4, tzinfo=UTC))
    world.judge(world.claim()["attempt"], "keep_champion")
    world.drift(datetime(2013, 4, 1, 4, tzinfo=UTC), severity=0.01)
    world.intake.store([world.raw(b"no JSON")])
