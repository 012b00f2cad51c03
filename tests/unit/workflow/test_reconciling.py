"""An alias that was moved by hand is told once and put back; a promotion in flight is never taken for one."""

import logging
from datetime import UTC, datetime

import pytest
from worlds import Runs

from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import ChampionRow
from ratchet.workflow.telling import champion_moved

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


def sweep(world) -> list[str]:
    return world.sweeper.sweep(Runs("success"), {world.model})["moved"]


def alias(world) -> int | None:
    return world.registry.alias_version(world.model, "champion")


def incidents(world) -> list[dict]:
    with world.ledger.transaction() as tx:
        return [entry["detail"] for entry in tx.audit_log(world.model, action="alias.moved_by_hand")]


def move(world, version: int) -> None:
    world.register(version)
    world.registry.set_alias(world.model, "champion", version)


def open_promotion(world, version: int) -> None:
    """The compare-and-set has happened, and nobody has told of it yet."""
    world.register(version)
    with world.ledger.transaction() as tx:
        seq = tx.current_champion(world.model).seq + 1
        tx.insert_champion(ChampionRow(world.model, seq, version, None, "promotion", MAY, None, "r", None, MAY))
        champion_moved(tx, world.model, seq)


def test_an_alias_moved_by_hand_is_told_and_put_back_by_one_sweep(world, caplog):
    world.crown(1)
    move(world, 2)
    with caplog.at_level(logging.ERROR):
        assert sweep(world) == [world.model]
    assert alias(world) == 1
    assert incidents(world) == [{"alias": "champion", "named": 2, "repaired_to": 1, "champion": 1}]
    assert "flight_delay@champion named version 2, but version 1 serves" in caplog.text


def test_an_incident_is_told_once_and_a_second_one_again(world):
    world.crown(1)
    move(world, 2)
    assert [sweep(world), sweep(world)] == [[world.model], []]
    move(world, 3)
    assert sweep(world) == [world.model]
    assert [detail["named"] for detail in incidents(world)] == [2, 3]
    assert alias(world) == 1


def test_an_alias_that_was_removed_is_put_back(world):
    world.crown(1)
    del world.registry._aliases[world.model, "champion"]
    assert sweep(world) == [world.model]
    assert (alias(world), incidents(world)[0]["named"]) == (1, None)


def test_an_alias_that_agrees_is_left_alone_and_a_model_without_champion_is_not_asked_for(world):
    assert sweep(world) == []
    world.crown(1)
    assert sweep(world) == []
    assert incidents(world) == []


def test_a_promotion_in_flight_is_no_moved_alias(world):
    world.crown(1)
    open_promotion(world, 2)
    assert world.reconciler.run() == []
    assert sweep(world) == []
    assert (alias(world), incidents(world)) == (2, [])


@pytest.mark.parametrize("told", [True, False])
def test_a_promotion_between_two_looks_is_no_moved_alias(world, told):
    """The alias is read before the promotion, the ledger after it."""
    world.crown(1)
    move(world, 2)

    def promoted_meanwhile(name):
        open_promotion(world, 3)
        if told:
            world.relay.run()
        return {world.model: 2}

    world.registry.aliased = promoted_meanwhile
    assert world.reconciler.run() == []
    assert incidents(world) == []


def test_a_repair_that_fails_is_told_once_and_tried_again(world):
    world.crown(1)
    move(world, 2)
    works, world.registry.set_alias = world.registry.set_alias, refuse(Unavailable("away"))
    assert sweep(world) == [world.model]
    assert sweep(world) == []
    world.registry.set_alias = works
    assert sweep(world) == []
    assert (alias(world), len(incidents(world))) == (1, 1)


def refuse(error: Exception):
    def raises(*args):
        raise error

    return raises


@pytest.mark.parametrize("error", [Unavailable("MLflow does not answer"), Refused("no such thing")])
def test_a_registry_that_does_not_answer_does_not_stop_the_sweep(world, error):
    world.crown(1)
    world.registry.aliased = refuse(error)
    assert world.sweeper.sweep(Runs("success"), {world.model})["moved"] == []
    assert world.audit_log.kept() == world.audit_log.verify().kept


def test_a_registry_is_asked_once_per_sweep_however_many_champions_there_are(world):
    world.crown(1)
    other = world.spec.model_copy(update={"model": "another"})
    with world.ledger.transaction() as tx:
        tx.publish_spec("another", other.digest, other.model_dump(mode="json"))
        tx.insert_champion(ChampionRow("another", 1, 1, None, "init", MAY, None, "r", None, MAY))
    asked = []

    def answers(name):
        asked.append(name)
        return {world.model: 1}

    world.registry.aliased = answers
    assert world.reconciler.run() == ["another"], "whose alias is on nothing"
    assert asked == ["champion"]


def test_the_sweep_keeps_the_end_of_the_audit_log_outside_the_ledger(world):
    world.crown(1)
    move(world, 2)
    sweep(world)
    assert world.audit_log.kept().seq == world.audit_log.verify().head.seq > 0
