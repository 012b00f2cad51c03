"""One suite for every bus: the in-memory one always, Kafka where ``RATCHET_TEST_KAFKA_BOOTSTRAP`` names a broker."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_bus import KafkaBus
from ratchet.adapters.kafka_intake import Backoff, IntakeLoop
from ratchet.domain.positions import Ends, Known, Position
from ratchet.errors import Unavailable
from ratchet.ports.bus import DECISIONS, DRIFT, INBOUND_TOPICS, Bus, InMemoryBus, Subscription
from ratchet.ports.intake import Spot
from ratchet.ports.ledger import PumpRow
from ratchet.records import RawRecord

BOOTSTRAP = os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP", "")
needs_kafka = pytest.mark.skipif(
    not BOOTSTRAP, reason="RATCHET_TEST_KAFKA_BOOTSTRAP names no broker: scripts/integration-tests sets it"
)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, never for a time."""
    deadline = time.monotonic() + seconds
    changed = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        changed.wait(0.02)


def collect(subscription: Subscription, key: bytes, count: int) -> list[RawRecord]:
    found: list[RawRecord] = []
    until(lambda: len(found.extend(r for r in subscription.poll(0.2) if r.key == key) or found) >= count)
    return found


@pytest.fixture(params=["memory", pytest.param("kafka", marks=[pytest.mark.stack, needs_kafka])])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    if request.param == "memory":
        made: Bus = InMemoryBus()
    else:
        made = KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))
    made.ensure_topics()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def key() -> bytes:
    return uuid.uuid4().hex.encode()


def test_a_flushed_record_is_found_from_the_beginning_with_its_headers(bus: Bus, key: bytes) -> None:
    bus.publish(DRIFT, key, b"{}", [("reason", b"because")])
    bus.flush()
    with bus.follow(DRIFT) as reader:
        (record,) = collect(reader, key, 1)
    assert (record.topic, record.value, record.headers) == (DRIFT, b"{}", (("reason", b"because"),))
    assert record.cluster
    assert record.offset >= 0


def test_records_of_one_key_keep_their_order(bus: Bus, key: bytes) -> None:
    with bus.follow(DRIFT, from_beginning=False) as reader:
        for number in range(50):
            bus.publish(DRIFT, key, str(number).encode())
        bus.flush()
        records = collect(reader, key, 50)
    assert [int(record.value or b"") for record in records] == list(range(50))
    assert len({record.partition for record in records}) == 1
    assert [record.offset for record in records] == sorted(record.offset for record in records)


def test_following_from_now_on_does_not_show_the_past(bus: Bus, key: bytes) -> None:
    bus.publish(DECISIONS, key, b"past")
    bus.flush()
    with bus.follow(DECISIONS, from_beginning=False) as reader:
        bus.publish(DECISIONS, key, b"future")
        bus.flush()
        (record,) = collect(reader, key, 1)
    assert record.value == b"future"


def test_a_tombstone_comes_as_no_value(bus: Bus, key: bytes) -> None:
    with bus.follow(DRIFT, from_beginning=False) as reader:
        bus.publish(DRIFT, key, None)
        bus.flush()
        (record,) = collect(reader, key, 1)
    assert record.value is None


def test_several_topics_are_followed_at_once(bus: Bus, key: bytes) -> None:
    with bus.follow(*INBOUND_TOPICS, from_beginning=False) as reader:
        for topic in INBOUND_TOPICS:
            bus.publish(topic, key, b"{}")
        bus.flush()
        records = collect(reader, key, len(INBOUND_TOPICS))
    assert {record.topic for record in records} == set(INBOUND_TOPICS)


def test_what_was_published_since_a_moment_is_read_to_its_end(bus: Bus, key: bytes) -> None:
    bus.publish(DRIFT, key, b"before")
    bus.flush()
    time.sleep(0.01)
    moment = datetime.now(UTC)
    for number in range(1_200):
        bus.publish(DRIFT, key, str(number).encode())
    bus.flush()
    found = [r for batch in bus.published_since(moment, *INBOUND_TOPICS) for r in batch if r.key == key]
    assert [int(record.value or b"") for record in found] == list(range(1_200))
    assert list(bus.published_since(datetime.now(UTC) + timedelta(hours=1), DRIFT)) in ([], [[]])


def test_a_closed_subscription_ends_its_loop(bus: Bus) -> None:
    reader = bus.follow(DRIFT, from_beginning=False)
    reader.close()
    reader.close()
    assert list(reader) == []


def test_topics_are_made_once(bus: Bus) -> None:
    assert bus.ensure_topics() == []


def test_no_broker_is_said_before_a_client_is_made() -> None:

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        threads = threading.active_count()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            KafkaBus(parse_uri(f"kafka://127.0.0.1:{port}")).publish(DRIFT, b"k", b"v")
        assert threading.active_count() == threads


class Shelf:
    """A sink that keeps what it is given; it can be told to fail."""

    def __init__(self) -> None:
        self.batches: list[list[RawRecord]] = []
        self.failures_left = 0
        self.attempts = 0
        self.ticks = 0
        self.alarms: list[str] = []
        self.beats: list[PumpRow] = []

    def store(self, records: Sequence[RawRecord]) -> None:
        self.attempts += 1
        if self.failures_left:
            self.failures_left -= 1
            raise ConnectionError("the ledger is away")
        self.batches.append(list(records))

    def positions(self, cluster: str, spots: Collection[Spot]) -> Mapping[Spot, Known]:
        return {}

    def take_up(self, cluster: str, taken: Mapping[Spot, tuple[Ends, Position]]) -> None:
        self.alarms += [position.alarm for _, position in taken.values() if position.alarm]

    def tick(self) -> list[str]:
        self.ticks += 1
        return ["flight_delay"]

    def beat(self, row: PumpRow) -> None:
        self.beats.append(row)

    def values(self, key: bytes) -> list[bytes | None]:
        return [record.value for batch in self.batches for record in batch if record.key == key]


@contextlib.contextmanager
def pumping(sink: Shelf, group: str) -> Iterator[list[list[str]]]:

    stop, heard = threading.Event(), []
    loop = IntakeLoop(parse_uri(f"kafka://{BOOTSTRAP}"), group, sink, stop, heard.append)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.stack
@needs_kafka
class TestTheIntakePump:
    @pytest.fixture
    def kafka(self) -> Iterator[Bus]:

        with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as made:
            made.ensure_topics()
            yield made

    def test_a_stored_record_is_not_given_to_the_next_pump(self, kafka: Bus, key: bytes) -> None:
        group = f"test-{key.decode()}"
        first, second = Shelf(), Shelf()
        kafka.publish(DRIFT, key, b"one")
        kafka.flush()
        with pumping(first, group):
            until(lambda: first.values(key) == [b"one"])
        kafka.publish(DRIFT, key, b"two")
        kafka.flush()
        with pumping(second, group):
            until(lambda: second.values(key) != [])
        assert second.values(key) == [b"two"]

    def test_what_a_failing_sink_refused_is_kept_and_nothing_is_lost_or_doubled(self, kafka: Bus, key: bytes) -> None:
        sink = Shelf()
        sink.failures_left = 3
        with pumping(sink, f"test-{key.decode()}"):
            for number in range(20):
                kafka.publish(DRIFT, key, str(number).encode())
            kafka.flush()
            until(lambda: len(sink.values(key)) >= 20)
        assert sink.attempts >= 4
        assert sorted(int(value or b"") for value in sink.values(key)) == list(range(20))

    def test_an_unstored_record_comes_again_after_a_restart(self, kafka: Bus, key: bytes) -> None:
        group = f"test-{key.decode()}"
        broken, healthy = Shelf(), Shelf()
        broken.failures_left = 1_000_000
        kafka.publish(DRIFT, key, b"one")
        kafka.flush()
        with pumping(broken, group):
            until(lambda: broken.attempts >= 1)
        with pumping(healthy, group):
            until(lambda: healthy.values(key) == [b"one"])

    def test_due_models_are_told_while_records_flow(self, kafka: Bus, key: bytes) -> None:
        with pumping(Shelf(), f"test-{key.decode()}") as heard:
            until(lambda: len(heard) >= 2)
        assert heard[0] == ["flight_delay"]

    def test_lag_counts_what_is_not_committed(self, kafka: Bus, key: bytes) -> None:

        assert isinstance(kafka, KafkaBus)
        group = f"test-{key.decode()}"
        sink = Shelf()
        with pumping(sink, group):
            kafka.publish(DRIFT, key, b"one")
            kafka.flush()
            until(lambda: sink.values(key) == [b"one"])
            until(lambda: kafka.lag(group)[DRIFT] == 0)
        kafka.publish(DRIFT, key, b"two")
        kafka.flush()
        assert kafka.lag(group)[DRIFT] == 1


def test_two_pumps_of_one_process_take_turns() -> None:

    sessions: list[str] = []
    stops = [threading.Event(), threading.Event()]

    def session_of(name: str) -> Callable[[dict[str, object]], str]:
        def away(_config: dict[str, object]) -> str:
            sessions.append(name)
            raise Unavailable("the broker is away")

        return away

    sinks = [Shelf(), Shelf()]
    threads = [
        threading.Thread(
            target=IntakeLoop(
                parse_uri("kafka://127.0.0.1:1"), "g", sinks[i], stops[i], lambda _: None, cluster=session_of(str(i))
            ).run
        )
        for i in (0, 1)
    ]
    threads[0].start()
    until(lambda: "0" in sessions)
    threads[1].start()
    until(lambda: sinks[0].ticks >= 1)
    assert "1" not in sessions
    stops[0].set()
    until(lambda: "1" in sessions)
    stops[1].set()
    for thread in threads:
        thread.join(10)
    assert sinks[1].ticks >= 1 or sessions.count("1") >= 1


def test_retries_wait_longer_each_time_within_bounds() -> None:

    backoff = Backoff(first=1.0, most=8.0, seed=1)
    waits = [backoff.failed() for _ in range(8)]
    assert all(0.5 <= wait <= 8.0 for wait in waits)
    assert min(waits[4:]) >= 4.0
    backoff.succeeded()
    assert backoff.failed() <= 1.0


def test_a_thread_that_flushes_does_not_answer_for_the_records_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Future:
        is_done = True

        def __init__(self, topic: str) -> None:
            self.exception = ValueError("not stored") if topic == "bad" else None

        def failed(self) -> bool:
            return self.exception is not None

    class Producer:
        def send(self, topic: str, **_: object) -> Future:
            return Future(topic)

        def flush(self, timeout: float) -> None:
            assert timeout > 0

    monkeypatch.setattr("ratchet.adapters.kafka_bus._producer", lambda _: Producer())
    bus = KafkaBus(parse_uri("kafka://127.0.0.1:1"))
    bus.publish("bad", b"k", b"v")

    def other() -> None:
        bus.publish("good", b"k", b"v")
        bus.flush()
        done.set()

    done = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert done.is_set(), "it was told of a record that it did not publish"
    with pytest.raises(Unavailable, match="bad: a record was not stored"):
        bus.flush()
    bus.flush()
