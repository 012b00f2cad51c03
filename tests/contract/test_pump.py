"""The pump on a real broker and a real PostgreSQL: what it does when one of them misbehaves, or another pump comes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.schema import metadata
from ratchet.adapters.specs import load_spec
from ratchet.domain import events as cloudevents
from ratchet.domain.positions import Known
from ratchet.ports.intake import Spot
from ratchet.settings import load_settings
from ratchet.workflow.intake import Intake

BOOTSTRAP = os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP", "")
POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL", "")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not (BOOTSTRAP and POSTGRES), reason="no servers named: scripts/integration-tests sets both"),
]


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for a condition, never for a time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.05)
    return found


@pytest.fixture
def ledger() -> Iterator[SqlLedger]:
    made = SqlLedger(POSTGRES)
    with made.engine.begin() as db:
        metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    made.migrate()
    spec = load_spec(ROOT / "include" / "models" / "flight_delay")
    fast = spec.retrain.model_copy(update={"debounce": spec.retrain.debounce * 0})
    with made.transaction() as tx:
        for model in ("left", "right"):
            each = spec.model_copy(update={"model": model, "retrain": fast})
            tx.publish_spec(model, each.digest, each.model_dump(mode="json"))
    yield made
    made.dispose()


class Topic:
    """A topic of this test's own, with two partitions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.admin = KafkaAdminClient(bootstrap_servers=[BOOTSTRAP])
        self.make()

    def make(self) -> None:
        until(self._made)

    def _made(self) -> bool:
        with contextlib.suppress(Exception):
            self.admin.create_topics({self.name: {"num_partitions": 2}}, wait_for_metadata=True)
        return self.name in self.admin.list_topics()

    def make_again(self) -> None:
        self.admin.delete_topics([self.name])
        until(lambda: self.name not in self.admin.list_topics())
        self.make()

    def publish(self, *ids: str, model: str = "left", partition: int = 0) -> None:
        now = datetime.now(UTC)
        data = cloudevents.DriftDetected(check="psi", severity=0.95, window_start=now - timedelta(1), window_end=now)
        producer = KafkaProducer(bootstrap_servers=[BOOTSTRAP])
        for event_id in ids:
            event = cloudevents.new_event(data, id=event_id, source="monitor", subject=model, time=now)
            key, value, headers = cloudevents.to_record(event)
            producer.send(self.name, key=key, value=value, headers=headers, partition=partition)
        producer.flush()
        producer.close()


@pytest.fixture
def topic() -> Iterator[Topic]:
    made = Topic(f"pump-{uuid.uuid4().hex[:10]}")
    yield made
    made.admin.delete_topics([made.name])
    made.admin.close()


class Watched(Intake):
    """The real sink; remembers how often partitions were taken up, which is how a rebalance shows."""

    def __init__(self, ledger: SqlLedger) -> None:
        super().__init__(ledger, load_settings())
        self.taken_up = 0

    def positions(self, cluster: str, spots: Collection[Spot]) -> Mapping[Spot, Known]:
        self.taken_up += 1
        return super().positions(cluster, spots)


@contextlib.contextmanager
def pumping(ledger: SqlLedger, topic: Topic, group: str) -> Iterator[tuple[Watched, IntakeLoop]]:
    sink, stop = Watched(ledger), threading.Event()
    loop = IntakeLoop(parse_uri(f"kafka://{BOOTSTRAP}"), group, sink, stop, lambda _: None, topics=(topic.name,))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield sink, loop
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive(), "the pump did not end within ten seconds"


def stored(ledger: SqlLedger) -> list[str]:
    with ledger.transaction() as tx:
        return sorted(event.event_id for event in tx.events())


def alarms(ledger: SqlLedger) -> list[str]:
    with ledger.transaction() as tx:
        return [entry["detail"]["alarm"] for entry in tx.audit_log() if entry["action"] == "intake.offsets"]


def test_records_that_retention_took_are_told_to_the_offset(ledger: SqlLedger, topic: Topic) -> None:
    topic.publish("a", "b")
    with pumping(ledger, topic, topic.name):
        until(lambda: stored(ledger) == ["a", "b"])
    topic.publish("c", "d", "e")
    topic.admin.delete_records({TopicPartition(topic.name, 0): 4})
    with pumping(ledger, topic, topic.name) as (_, loop):
        until(lambda: stored(ledger) == ["a", "b", "e"])
        assert "offsets 2 to 3 (2 records at most)" in (loop.alarm or "")
        until(lambda: (row := _pump(ledger)) and row.alarm)
    assert len(alarms(ledger)) == 1


def _pump(ledger: SqlLedger) -> Any:
    with ledger.transaction() as tx:
        return next(iter(tx.pumps()), None)


@pytest.mark.parametrize("running", [True, False])
def test_a_topic_made_again_is_read_from_its_start_and_told(ledger: SqlLedger, topic: Topic, running: bool) -> None:
    topic.publish("a", "b")
    with contextlib.ExitStack() as pump:
        pump.enter_context(pumping(ledger, topic, topic.name))
        until(lambda: stored(ledger) == ["a", "b"])
        if not running:
            pump.close()
        topic.make_again()
        topic.publish("c", "d", "e")
        if not running:
            pump.enter_context(pumping(ledger, topic, topic.name))
        until(lambda: stored(ledger) == ["a", "b", "c", "d", "e"], 120)
    assert any("made again" in alarm for alarm in alarms(ledger))


def test_a_locked_table_costs_a_retry_and_no_rebalance(ledger: SqlLedger, topic: Topic) -> None:
    with pumping(ledger, topic, topic.name) as (sink, loop):
        until(lambda: sink.taken_up)
        joined = sink.taken_up
        with ledger.engine.begin() as db:
            db.execute(sa.text("LOCK TABLE record IN ACCESS EXCLUSIVE MODE"))
            topic.publish("a", "b")
            until(lambda: "timeout" in (loop.last_error or ""))
        until(lambda: stored(ledger) == ["a", "b"])
        until(lambda: loop.last_error is None)
        assert sink.taken_up == joined


def test_a_pump_ends_in_time_while_the_database_hangs(ledger: SqlLedger, topic: Topic) -> None:
    with ledger.engine.begin() as db, pumping(ledger, topic, topic.name) as (sink, _):
        until(lambda: sink.taken_up)
        db.execute(sa.text("LOCK TABLE record, event, model IN ACCESS EXCLUSIVE MODE"))
        topic.publish("a")
        until(lambda: _waiting(db))
    with pumping(ledger, topic, topic.name):
        until(lambda: stored(ledger) == ["a"])


def _waiting(db: sa.Connection) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(db.execute(sa.text(query)).scalar_one())


def test_lost_database_connections_lose_nothing(ledger: SqlLedger, topic: Topic) -> None:
    kill = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    expected = []
    with pumping(ledger, topic, topic.name):
        for number in range(5):
            ids = [f"{number}-{i}" for i in range(20)]
            topic.publish(*ids, partition=number % 2)
            expected += ids
            other = sa.create_engine(POSTGRES)
            with other.begin() as db:
                db.execute(kill)
            other.dispose()
        until(lambda: _quietly(stored, ledger) == sorted(expected))


def _quietly(call: Callable[[SqlLedger], Any], ledger: SqlLedger) -> Any:
    with contextlib.suppress(Exception):
        return call(ledger)
    return None


def test_the_heartbeat_tells_lag_and_counts(ledger: SqlLedger, topic: Topic) -> None:
    topic.publish("a", "b")
    with pumping(ledger, topic, topic.name):
        until(lambda: stored(ledger) == ["a", "b"])
        row = until(lambda: (row := _pump(ledger)) and row.stored == 2 and row.lag and row)
        assert set(row.lag.values()) == {0}
        assert row.group_id == topic.name


CHILD = """
import sys, threading
from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.adapters.ledger import SqlLedger
from ratchet.settings import load_settings
from ratchet.workflow.intake import Intake
bootstrap, url, topic, model = sys.argv[1:]
ledger = SqlLedger(url)
def ring(due):
    for each in due:
        if each == model:
            with ledger.transaction() as tx:
                if tx.ring(each, 60, 900):
                    print(each, flush=True)
sink = Intake(ledger, load_settings())
IntakeLoop(parse_uri("kafka://" + bootstrap), topic, sink, threading.Event(), ring, topics=(topic,)).run()
"""


def test_of_two_pumps_each_rings_its_models_whoever_stored_the_event(ledger: SqlLedger, topic: Topic) -> None:
    argv = [sys.executable, "-c", CHILD, BOOTSTRAP, POSTGRES, topic.name]
    heard: dict[str, list[str]] = {"left": [], "right": []}
    pumps = {model: subprocess.Popen([*argv, model], stdout=subprocess.PIPE, text=True) for model in heard}
    readers = [
        threading.Thread(target=lambda m=model, p=pump: heard[m].extend(line.strip() for line in p.stdout), daemon=True)
        for model, pump in pumps.items()
    ]
    try:
        for reader in readers:
            reader.start()
        until(lambda: len(_lags(ledger)) == 2 and all(len(lag) == 1 for lag in _lags(ledger)))
        for model in heard:
            for partition in (0, 1):
                topic.publish(f"{model}-{partition}", model=model, partition=partition)
        until(lambda: len(stored(ledger)) == 4)
        until(lambda: _fates(ledger) == {"deferred"})
        with ledger.transaction() as tx:
            for model in heard:
                tx.set_due(model, tx.wall(), "go")
        until(lambda: heard == {"left": ["left"], "right": ["right"]})
    finally:
        for pump in pumps.values():
            pump.kill()
            pump.wait()


def _fates(ledger: SqlLedger) -> set[str]:
    with ledger.transaction() as tx:
        return {event.fate for event in tx.events()}


def _lags(ledger: SqlLedger) -> list[dict[str, int]]:
    with ledger.transaction() as tx:
        return [row.lag for row in tx.pumps()]
