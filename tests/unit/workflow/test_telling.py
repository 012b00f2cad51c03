"""What is told, in batches: nothing twice without need, nothing held back by what no broker takes."""

import json
from datetime import UTC, datetime

import pytest

from ratchet.domain.events import RetrainRequested
from ratchet.errors import Unavailable
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, InMemoryBus
from ratchet.ports.ledger import FateChange
from ratchet.records import RawRecord
from ratchet.workflow import telling
from ratchet.workflow.telling import MOST_FAILURES, Relay

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


class PickyBus(InMemoryBus):
    """Refuses values that contain any of these texts; counts its flushes."""

    def __init__(self, *refused: bytes) -> None:
        super().__init__()
        self.refused = refused
        self.flushes = 0

    def publish(self, topic, key, value, headers=()) -> None:
        if any(text in (value or b"") for text in self.refused):
            raise Unavailable("too large")
        super().publish(topic, key, value, headers)

    def flush(self, timeout_seconds: float = 30.0) -> None:
        self.flushes += 1


def relay_on(world, bus) -> Relay:
    return Relay(world.ledger, lambda: bus, lambda: world.registry)


def reject(world, *texts: str) -> None:
    world.intake.store([world.raw(text.encode()) for text in texts])


def letters(bus) -> set[bytes]:
    return {record.value for record in bus.records(DEAD_LETTER)}


def resolved(world) -> list[dict]:
    world.relay.publish()
    told = [json.loads(record.value) for record in world.bus.records(DECISIONS)]
    return [event for event in told if event["type"] == "ratchet.event.resolved.v1"]


def ask(world, event_id: str = "ask") -> None:
    world.publish(RetrainRequested(reason="r", actor="ann"), world.model, MAY, event_id)


def end(world, fate: str, reason: str = "by the test") -> None:
    with world.ledger.transaction() as tx:
        tx.change_fates([FateChange(row.pk, fate, reason) for row in tx.events()])


def test_many_rows_are_told_with_one_flush(world):
    reject(world, *(f"letter {number}" for number in range(20)))
    bus = PickyBus()
    assert relay_on(world, bus).publish() == 20
    assert len(letters(bus)) == 20
    assert bus.flushes == 1


def test_a_record_no_broker_takes_holds_back_no_other_and_keeps_its_error(world):
    reject(world, "one", "poison", "two")
    bus = PickyBus(b"poison")
    relay_on(world, bus).publish()
    assert {b"one", b"two"} <= letters(bus)
    reject(world, "three")
    assert relay_on(world, bus).publish() == 1
    with world.ledger.transaction() as tx:
        (row,) = tx.read_outbox(tx.take_outbox("record", 10))
    assert row.tries >= 1
    bus.refused = ()
    assert relay_on(world, bus).publish() == 1
    assert b"poison" in letters(bus)


def test_when_nothing_is_taken_the_relay_gives_up_after_a_few(world):
    reject(world, *(f"letter {number}" for number in range(20)))
    bus = PickyBus(b"letter")
    assert relay_on(world, bus).publish() == 0
    with world.ledger.transaction() as tx:
        assert len(tx.take_outbox("record", 100)) == 20 - MOST_FAILURES


def test_a_letter_too_large_for_the_topic_is_cut_and_says_so(world):
    world.intake.store([world.raw(b"x" * 1_000_100)])
    world.relay.publish()
    (letter,) = world.bus.records(DEAD_LETTER)
    assert len(letter.value) == telling.MOST_LETTER_BYTES
    assert dict(letter.headers)["ratchet-cut"] == b"1000101"


def test_a_letter_without_key_and_value_has_a_key_that_a_client_can_send(world):
    world.intake.store([RawRecord("c", "ml.drift", 0, 7, None, None)])
    world.relay.publish()
    assert world.bus.records(DEAD_LETTER)[0].key == b"ml.drift:0:7"


@pytest.mark.parametrize("fate", ["started", "merged", "suppressed", "rejected", "expired", "failed"])
def test_every_terminal_fate_is_told_once(world, fate):
    ask(world)
    assert resolved(world) == []
    end(world, fate)
    (told,) = resolved(world)
    assert told["subject"] == world.model
    data = {name: told["data"][name] for name in ("model", "event_id", "event_source", "fate", "reason")}
    assert data == {
        "model": world.model,
        "event_id": "ask",
        "event_source": "monitor",
        "fate": fate,
        "reason": "by the test",
    }
    assert len(resolved(world)) == 1


@pytest.mark.parametrize("fate", ["deferred", "claimed"])
def test_an_open_fate_is_not_told(world, fate):
    ask(world)
    end(world, fate)
    assert resolved(world) == []


def test_a_repeat_after_a_crash_has_the_same_id_and_content(world):
    ask(world)
    end(world, "expired")

    def dies_before_it_commits() -> None:
        with world.ledger.transaction() as tx:
            for row in tx.take_resolutions(10):
                world.bus.publish(DECISIONS, *telling.to_record(telling.resolution(row)))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        dies_before_it_commits()
    first, second = resolved(world)
    assert first == second


def test_what_kafka_did_not_take_is_told_by_the_next_relay(world):
    ask(world)
    end(world, "failed")
    relay_on(world, PickyBus(b"failed")).publish()
    assert [told["data"]["fate"] for told in resolved(world)] == ["failed"]
