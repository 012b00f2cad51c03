"""One running system for the whole session, and its first champion."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from running_system import MODEL, FirstChampion, System

from ratchet.bootstrap import wire
from ratchet.domain.spec import ModelSpec
from ratchet.ports.bus import DECISIONS

LAST = ("test_first_model_on_the_stack.py", "test_restore_drill.py")
"""The first one's data ends with the year, and replayed business time goes there for good; the other loses it all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what leaves nothing for the others after them."""
    items.sort(key=lambda item: LAST.index(item.path.name) + 1 if item.path.name in LAST else 0)


@pytest.fixture(scope="session")
def running() -> Iterator[System]:
    """The stack of ``scripts/integration-tests``, with business time in replay."""
    if "RATCHET_TEST_LEDGER_URL" not in os.environ:
        pytest.skip("these tests change a running stack: scripts/integration-tests brings up one of their own")
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        spec = next(row for row in tx.specs() if row.model == MODEL)
        marks = tx.watermarks()
    with ratchet.bus.follow(DECISIONS) as decisions:
        system = System(ratchet, ModelSpec.model_validate(spec.document), decisions)
        if marks:
            local = marks["flights"].complete_until.astimezone(system.spec.data.spine.zone)
            system.today = local.date()
        yield system
    system.close()


@pytest.fixture(scope="session")
def first_champion(running: System) -> FirstChampion | None:
    """January to March arrive, and a person asks for the first champion; None where one serves already."""
    with running.ratchet.ledger.transaction() as tx:
        if tx.current_champion(MODEL) is not None:
            return None
    ids = running.fresh_days()
    waiting = tuple(running.fate(event_id, "deferred") for event_id in ids)
    said = running.command("champion", "init", MODEL, "--reason", "the first champion of the tests")
    answered = tuple(running.fate(event_id, "started", "merged") for event_id in ids)
    return FirstChampion(waiting, said, answered)


@pytest.fixture
def system(running: System, first_champion: FirstChampion | None) -> System:
    """The running system with a champion, at rest."""
    running.disarm()
    running.rest()
    return running
