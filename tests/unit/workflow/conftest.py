"""The worlds that tests of the verbs are given; see worlds.py and judged_attempts.py."""

from pathlib import Path

import pytest
from judged_attempts import JudgingWorld
from worlds import World

from ratchet.adapters.ledger import SqlLedger


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.migrate()
    ledger.dispose()
    return path


@pytest.fixture(scope="session")
def judged_template(tmp_path_factory, migrated):
    """A world with a first champion and one attempt to replace it."""
    made = JudgingWorld(tmp_path_factory.mktemp("judged"), migrated)
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


@pytest.fixture
def judging(judged_template, tmp_path):
    """A copy of it, to be spoilt at will; ``first`` and ``second`` are its attempts."""
    made = judged_template.copy(tmp_path)
    made.first, made.second = judged_template.first, judged_template.second
    yield made
    made.ledger.dispose()


@pytest.fixture
def world(tmp_path, migrated):
    made = World(tmp_path, migrated)
    yield made
    made.ledger.dispose()
