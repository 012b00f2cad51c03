"""Killed anywhere between the compare-and-set and the last message: one sweep later the world agrees with it."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from worlds import Runs

from ratchet.ports.bus import DECISIONS
from ratchet.workflow import telling

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


class Killed(BaseException):
    """Nobody catches it, as nobody catches ``kill -9``."""


def dies(*args, **options):
    raise Killed


def dies_at(place: str):
    return lambda name: dies() if name == place else None


def dies_after(works):
    def acts(*args, **options):
        works(*args, **options)
        raise Killed

    return acts


STEPS = {
    "committed, nothing relayed": lambda world, patch: patch.setattr(world.relay, "run", dies),
    "relaying, no alias": lambda world, patch: patch.setattr(telling, "reach", dies_at("compare-and-set/no alias")),
    "setting the alias": lambda world, patch: patch.setattr(world.registry, "set_alias", dies),
    "alias set, not recorded": lambda world, patch: patch.setattr(telling, "reach", dies_at("alias/not published")),
    "alias recorded, nothing published": lambda world, patch: patch.setattr(world.relay, "publish", dies),
    "publishing": lambda world, patch: patch.setattr(world.bus, "publish", dies),
    "published, not flushed": lambda world, patch: patch.setattr(world.bus, "flush", dies),
    "flushed, not recorded": lambda world, patch: patch.setattr(world.bus, "flush", dies_after(world.bus.flush)),
}


def decisions(world) -> list[dict]:
    told = [json.loads(record.value) for record in world.bus.records(DECISIONS)]
    return [event for event in told if event["type"].startswith("ratchet.model.")]


def prepare(world, verb: str):
    """What is to be done, the version that will serve, and the type of its announcement."""
    world.crown(1)
    if verb == "rollback":
        world.crown(2)
        return lambda: world.promotions.rollback(world.model, 1, "ann", "r"), 1, "ratchet.model.rolledback.v1"
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "promote", version=2)
    return lambda: world.promotions.promote(world.model), 2, "ratchet.model.promoted.v1"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_what_was_killed_after_the_compare_and_set_is_finished_by_one_sweep(world, verb, step, monkeypatch):
    act, version, kind = prepare(world, verb)
    with monkeypatch.context() as patch:
        STEPS[step](world, patch)
        with pytest.raises(Killed):
            act()
    with world.ledger.transaction() as tx:
        champion = tx.current_champion(world.model)
    assert champion.version == version, "the compare-and-set had happened"

    swept = world.sweeper.sweep(Runs("success"), {world.model})

    assert world.registry.alias_version(world.model, "champion") == version
    assert swept["moved"] == [], "a promotion that was cut off is no alias moved by hand"
    told = decisions(world)
    assert {event["type"] for event in told} == {kind}
    assert len({event["id"] for event in told}) == 1
    world.sweeper.sweep(Runs("success"), {world.model})
    assert decisions(world) == told, "what was told is told no more"


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_was_killed_is_not_made_twice(world, step, monkeypatch):
    act, _, _ = prepare(world, "promote")
    with monkeypatch.context() as patch, suppress(Killed):
        STEPS[step](world, patch)
        act()
    assert act()["promoted"] is None
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).seq == 2
        assert len(tx.audit_log(action="champion.promoted")) == 1
