"""Ten thousand hostile records: read one by one, and pumped through a real broker into a real database."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from hostile_records import Hostile, NotText, hostile_records, storm, valid
from hypothesis import given, settings
from kafka import KafkaAdminClient, KafkaProducer
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from ratchet.adapters.connections import MappingResolver, parse_uri
from ratchet.adapters.kafka_bus import KafkaBus, raw_record
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.adapters.ledger import schema as t
from ratchet.bootstrap import Ratchet, wire
from ratchet.domain.events import MAX_BYTES, EventRejected, parse
from ratchet.ports.bus import DEAD_LETTER
from ratchet.records import RawRecord
from ratchet.settings import load_settings

BOOTSTRAP = os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP", "")
POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL", "")
COUNT = 10_000
WARM = 3_000
GROWTH_BYTES = 64 * 2**20
"""How much the process may grow between the 3,000th and the last record: one poll's records, were they all large."""


def refusal_of(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> EventRejected | None:
    """Why it is no event; whatever else ``parse`` raises fails the test."""
    try:
        event = parse(value, headers)
    except EventRejected as refusal:
        return refusal
    assert event.id
    return None


def reading(record: Hostile) -> str:
    """The rule it breaks, or ``event``."""
    refusal = refusal_of(record.value, record.headers)
    if refusal is None:
        return "event"
    reason = str(refusal)
    assert refusal.got
    assert refusal.remedy
    assert reason.isprintable(), reason
    assert len(reason) < 1_000, reason[:1_000]
    return refusal.rule


def test_ten_thousand_hostile_records_are_read_or_rejected_by_a_rule_with_a_reason() -> None:
    read = Counter(reading(record) for record in storm(seed=1, count=COUNT))
    assert read.total() == COUNT
    assert read["event"] > COUNT // 20
    rules = {"tombstone", "oversized", "content_type", "not_json", "too_deep", "not_an_event", "specversion"}
    rules |= {"missing_attribute", "bad_attribute", "bad_text", "bad_time", "unknown_type", "bad_data"}
    assert rules - set(read) == set(), "a rule that no record broke"


@settings(deadline=None, derandomize=True, max_examples=500)
@given(hostile_records)
def test_what_hypothesis_makes_up_is_read_or_rejected_by_a_rule_with_a_reason(record: Hostile) -> None:
    reading(record)


def test_the_same_seed_makes_the_same_storm() -> None:
    assert storm(seed=3, count=300) == storm(seed=3, count=300)


def test_a_header_without_a_value_and_one_with_nul_in_its_name_become_storable() -> None:
    message = SimpleNamespace(topic="t", partition=0, offset=1, key=None, value=None, headers=[("a\0", None)])
    assert raw_record("c", message).headers == (("a\\x00", b""),)


def test_header_names_that_are_not_utf8_are_read_with_their_bytes_spelled_out_and_the_rest_of_the_batch_too() -> None:
    names = ["ce_id", NotText("a"), "é", NotText("b")]
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=10_000)
    for name in names:
        assert builder.append(1, b"key", b"value", [(name, b"x"), ("after", b"y")])
    builder.close()
    records = [record for batch in batches(MemoryRecords(builder.buffer())) for record in batch]
    assert [record.headers[0][0] for record in records] == ["ce_id", "ce_\\xffa", "é", "ce_\\xffb"]
    assert {(record.key, record.value, record.headers[1]) for record in records} == {
        (b"key", b"value", ("after", b"y"))
    }


def batches(records: MemoryRecords) -> Iterator[Any]:
    while records.has_next():
        yield records.next_batch()


# -- the whole way -----------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], seconds: float = 1_200.0) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.2)


class Pumped:
    """A topic of its own, an empty ledger, and the pump between them."""

    def __init__(self, ratchet: Ratchet, topic: str) -> None:
        self.ratchet = ratchet
        self.topic = topic

    def publish(self, records: list[Hostile]) -> None:
        with contextlib.closing(kafka_producer()) as producer:
            for record in records:
                headers = [(name, content or b"") for name, content in record.headers]
                key = b"" if record.key is None and record.value is None else record.key  # else kafka-python refuses
                producer.send(self.topic, key=key, value=record.value, headers=headers)
            producer.flush()

    @contextlib.contextmanager
    def pumping(self) -> Iterator[threading.Thread]:
        stop = threading.Event()
        loop = IntakeLoop(
            parse_uri(f"kafka://{BOOTSTRAP}"),
            f"test-{self.topic}",
            self.ratchet.intake_sink(),
            stop,
            lambda _: None,
            topics=[self.topic],
        )
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

    def everything(self) -> list[RawRecord]:
        """The topic as a reader of its own sees it."""
        records: list[RawRecord] = []
        with self.ratchet.bus.follow(self.topic) as reader:

            def all_came() -> bool:
                records.extend(reader.poll(1.0))
                return len(records) > COUNT

            until(all_came, 120)
        return records

    def rows(self, query: sa.Select[Any]) -> list[Any]:
        with self.ratchet.ledger.engine.connect() as db:
            return list(db.execute(query))

    def count(self, table: sa.Table, *where: Any) -> int:
        return int(self.rows(sa.select(sa.func.count()).select_from(table).where(*where))[0][0])


def kafka_producer() -> Any:
    return KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=20, max_request_size=2 * MAX_BYTES)


@pytest.fixture
def pumped() -> Iterator[Pumped]:
    if not (BOOTSTRAP and POSTGRES):
        pytest.skip("RATCHET_TEST_KAFKA_BOOTSTRAP or _LEDGER_URL is not set: scripts/integration-tests sets them")
    topic = f"hostile-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as bus:
        bus.ensure_topics()
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=BOOTSTRAP)) as admin:
        large = {"num_partitions": 3, "configs": {"max.message.bytes": str(2 * MAX_BYTES)}}
        admin.create_topics({topic: large}, wait_for_metadata=True)
    connections = {"ratchet_kafka": parse_uri(f"kafka://{BOOTSTRAP}"), "ratchet_ledger": parse_uri(POSTGRES)}
    base = {"RATCHET_UNKNOWN_HOLD_SECONDS": "1"}
    ratchet = wire(MappingResolver(connections), load_settings(base))
    with ratchet.ledger.engine.begin() as db:
        t.metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    ratchet.ledger.migrate()
    ratchet.deploy()
    yield Pumped(ratchet, topic)
    ratchet.bus.close()
    ratchet.ledger.dispose()


def memory() -> int:
    """Bytes in use: what was freed is given back first, for megabyte records leave the allocator with much of it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


@pytest.mark.stack
@pytest.mark.timeout(1_800)
def test_the_pump_outlives_ten_thousand_hostile_records_and_each_has_its_end(pumped: Pumped) -> None:
    records = storm(seed=2, count=COUNT)
    pumped.publish(records)
    with pumped.pumping() as pump:
        until(lambda: pumped.count(t.record) >= WARM)
        warm = memory()
        until(lambda: pumped.count(t.record) == COUNT)
        until(lambda: pumped.count(t.record, t.record.c.status == "held") == 0)
        until(lambda: pumped.count(t.outbox, t.outbox.c.done_at.is_(None)) == 0)
        grown = memory() - warm
        assert pump.is_alive()

        good = valid(random.Random(99))
        pumped.publish([good])
        event_id = parse(good.value, good.headers).id
        until(lambda: pumped.count(t.event, t.event.c.event_id == event_id) >= 1)

    assert grown < GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more than after {WARM:,} records"
    kept = {(row.partition, row.offset): row for row in pumped.rows(sa.select(t.record))}
    assert len(kept) == COUNT + 1
    assert {row.status for row in kept.values()} == {"stored", "rejected"}
    assert all(row.reason for row in kept.values() if row.status == "rejected")

    rejected = {at: row.reason for at, row in kept.items() if row.status == "rejected"}
    assert dead_letters(pumped, len(rejected)) == rejected

    events = {row.record_id: row for row in pumped.rows(sa.select(t.event))}
    known = {(row.source, row.event_id): row.digest for row in events.values()}
    for raw in pumped.everything():
        row = kept[raw.partition, raw.offset]
        refusal = refusal_of(raw.value, raw.headers)
        if refusal is not None:
            assert (row.status, row.reason) == ("rejected", str(refusal))
        elif row.status == "rejected":
            assert row.reason.startswith(("no registered spec", "id "))
        else:
            event = parse(raw.value, raw.headers)
            assert known[event.source, event.id] == event.digest


def dead_letters(pumped: Pumped, count: int) -> dict[tuple[int, int], str]:
    """The reason told on ``ml.dead-letter`` of each of our topic's records, by partition and offset."""
    found: dict[tuple[int, int], str] = {}
    with pumped.ratchet.bus.follow(DEAD_LETTER) as letters:

        def all_came() -> bool:
            for letter in letters.poll(1.0):
                origin = [dict(letter.headers).get(f"ratchet-{name}", b"") for name in ("topic", "partition", "offset")]
                if origin[0] == pumped.topic.encode():
                    found[int(origin[1]), int(origin[2])] = dict(letter.headers)["ratchet-reason"].decode()
            return len(found) >= count

        until(all_came, 120)
    return found
