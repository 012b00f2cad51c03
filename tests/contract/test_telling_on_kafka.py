"""Telling and replaying on a real broker and a real PostgreSQL: at least once, by any number of relays."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_bus import KafkaBus
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.schema import metadata
from ratchet.adapters.specs import load_spec
from ratchet.domain.events import RetrainRequested, new_event, to_record
from ratchet.ports.bus import DEAD_LETTER, DECISIONS
from ratchet.ports.ledger import FateChange, NewEvent
from ratchet.records import RawRecord
from ratchet.settings import Settings, load_settings
from ratchet.workflow.intake import Intake
from ratchet.workflow.replaying import Letters, Operator, Replays
from ratchet.workflow.telling import Relay

LEDGER, BOOTSTRAP = os.environ.get("RATCHET_TEST_LEDGER_URL"), os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP")
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not (LEDGER and BOOTSTRAP), reason="needs both servers: scripts/integration-tests names them"),
]
MODEL = "flight_delay"
ANN = Operator("ann", "restored a backup")
MANY = 2_500


@dataclass
class System:
    """A ledger, a broker, and a run's own name: the topics are shared."""

    ledger: SqlLedger
    bus: KafkaBus
    settings: Settings
    run: str
    began: datetime

    def __post_init__(self) -> None:
        self.intake = Intake(self.ledger, self.settings)
        self.replays = Replays(self.ledger, self.intake, lambda: self.bus)

    def relay(self, bus: KafkaBus | None = None) -> Relay:
        return Relay(self.ledger, lambda: bus or self.bus, lambda: pytest.fail("no alias is to be moved"))

    def told(self, topic: str) -> list[RawRecord]:
        records = [record for batch in self.bus.published_since(self.began, topic) for record in batch]
        return [record for record in records if self.run in f"{record.headers}{record.value!r}"]

    def resolved(self, count: int, fate: str = "failed") -> None:
        with self.ledger.transaction() as tx:
            tx.insert_events(
                [
                    NewEvent(self.run, str(number), MODEL, "ratchet.retrain.requested.v1", self.began, "x", {})
                    for number in range(count)
                ]
            )
            tx.change_fates([FateChange(row.pk, fate, "by the test") for row in tx.events(source=self.run)])

    def fates(self) -> dict[str, str]:
        with self.ledger.transaction() as tx:
            return {row.event_id: row.fate for row in tx.events(source=self.run)}


@pytest.fixture
def system() -> Iterator[System]:
    ledger = SqlLedger(str(LEDGER))
    with ledger.engine.begin() as db:
        metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    ledger.migrate()
    settings = load_settings()
    spec = load_spec(settings.root / "include" / "models" / MODEL)
    with ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
    with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as bus:
        bus.ensure_topics()
        yield System(ledger, bus, settings, uuid.uuid4().hex, datetime.now(UTC))
    ledger.dispose()


def test_two_relays_share_the_work_and_tell_each_thing_once(system: System) -> None:
    with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as other:
        system.resolved(MANY)
        system.intake.store(
            [RawRecord("c", "ml.drift", 1, n, b"k", f"{{bad {system.run}".encode()) for n in range(MANY)]
        )
        relays = [threading.Thread(target=system.relay(bus).publish) for bus in (system.bus, other)]
        for relay in relays:
            relay.start()
        for relay in relays:
            relay.join()
    told = [json.loads(record.value or b"") for record in system.told(DECISIONS)]
    assert {event["data"]["event_id"] for event in told} == {str(number) for number in range(MANY)}
    assert len({event["id"] for event in told}) == len(told) == MANY
    offsets = [dict(record.headers)["ratchet-offset"] for record in system.told(DEAD_LETTER)]
    assert sorted(map(int, offsets)) == list(range(MANY))
    assert system.relay().publish() == 0


def test_the_largest_letters_are_taken_by_the_broker(system: System) -> None:
    text = system.run.encode()
    system.intake.store(
        [
            RawRecord("c", "ml.drift", 0, 0, None, None, (("run", text),)),
            RawRecord("c", "ml.drift", 0, 1, b"k", text + b"x" * 1_048_000),
            RawRecord("c", "ml.drift", 0, 2, text, text, (("h", b"x" * 1_048_000),)),
        ]
    )
    assert system.relay().publish() == 3
    assert len(system.told(DEAD_LETTER)) == 3


def test_after_a_restored_backup_the_lost_records_are_read_from_kafka_once(system: System) -> None:
    for number in range(5):
        data = RetrainRequested(reason="r", actor="ann")
        event = new_event(data, id=str(number), source=system.run, subject=MODEL, time=system.began)
        system.bus.publish(event.topic, *to_record(event))
    system.bus.flush()
    batches = list(system.bus.published_since(system.began, "ml.retrain-requests"))
    system.intake.store([record for batch in batches for record in batch][:2])
    known = set(system.fates())
    assert len(known) == 2
    dry = system.replays.since(system.began, ANN, dry_run=True)
    assert set(system.fates()) == known
    answer = system.replays.since(system.began, ANN)
    assert answer == dry
    assert answer["stored"] >= 3
    assert system.fates() == dict.fromkeys(map(str, range(5)), "pending")
    assert system.replays.since(system.began, ANN)["stored"] == 0


def test_a_storm_of_failed_events_is_reopened_and_told_anew(system: System) -> None:
    system.resolved(MANY)
    system.relay().publish()
    assert system.replays.since(system.began, ANN)["reopened"] == MANY
    assert set(system.fates().values()) == {"pending"}
    assert system.replays.since(system.began, ANN)["reopened"] == 0
    with system.ledger.transaction() as tx:
        tx.change_fates([FateChange(row.pk, "failed", "again") for row in tx.events(source=system.run)])
    system.relay().publish()
    assert len({json.loads(record.value or b"")["id"] for record in system.told(DECISIONS)}) == 2 * MANY


def test_a_dead_letter_is_replayed_with_its_bytes(system: System) -> None:
    event = new_event(
        RetrainRequested(reason="r", actor="ann"), id="early", source=system.run, subject=MODEL, time=system.began
    )
    _, value, headers = to_record(event)
    with system.ledger.transaction() as tx:
        tx.retire(MODEL)
    system.intake.store([RawRecord("c", event.topic, 0, 4, b"k", value, tuple(headers))])
    spec = load_spec(system.settings.root / "include" / "models" / MODEL)
    with system.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"), revive=True)
    assert system.replays.letters(Letters((event.topic, 0, 4)), ANN)["stored"] == 1
    assert system.fates() == {"early": "pending"}
    assert system.replays.letters(Letters(), ANN)["read"] == 0
