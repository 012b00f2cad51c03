"""Kafka by kafka-python 3: publishing, following whole topics, making topics, measuring lag.

No error of the driver leaves this module: what may pass by itself becomes ``Unavailable``. A broker's port is probed
before any client is constructed, because each constructor that cannot connect leaks a thread (measured on 3.0.12).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.producer.future import FutureRecordMetadata
from kafka.record.default_records import DefaultRecordBatch

from ratchet.adapters.connections import ConnectionInfo, kafka_config
from ratchet.domain.spec import REDELIVERED_FOR
from ratchet.errors import Unavailable
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, INBOUND_TOPICS, TOPICS, Headers
from ratchet.records import RawRecord

PARTITIONS = 3
_DAY_MS = 86_400_000
RETENTION_DAYS = dict.fromkeys(INBOUND_TOPICS, REDELIVERED_FOR.days) | {DEAD_LETTER: 90, DECISIONS: 365}
"""Days a topic keeps its records: inbound ones outlive any outage of the intake, decisions outlive a year."""
PROBE_TIMEOUT_SECONDS = 2.0
CLIENT = {"bootstrap_timeout_ms": 10_000, "reconnect_backoff_max_ms": 2_000}
"""For every client: without the second, a client notices a returned broker up to 30 s late (measured: 48 s)."""

for _name in ("kafka.admin.client", "kafka.net.connection", "kafka.protocol.parser"):
    # Their debug lines hold whole configurations and requests, with the password of SASL PLAIN in them.
    logging.getLogger(_name).addFilter(lambda record: record.levelno > logging.DEBUG)


def probe(config: dict[str, Any], timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> None:
    """Return when one of the brokers accepts a TCP connection; raise ``Unavailable`` when none does."""
    failures = []
    for server in config["bootstrap_servers"]:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()
        except (OSError, ValueError) as error:
            failures.append(f"{server}: {error}")
        else:
            return
    raise Unavailable(f"no Kafka broker answers ({'; '.join(failures)}). Is it running? ratchet status")


class _AnyNames(bytearray):
    """A batch's bytes whose parts decode whatever they hold; header names are the only text in a batch."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _AnyNames(found) if isinstance(at, slice) else found

    def decode(self, *_: Any) -> str:
        """The text, bytes that are not UTF-8 spelled out."""
        return bytes(self).decode("utf-8", "backslashreplace")


_read_strictly = DefaultRecordBatch._read_msg  # noqa: SLF001


def _read_any_names(batch: Any) -> Any:
    """Read one record. kafka-python raises for a header name that is not UTF-8, and then for ever: nobody passes it."""
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        batch._buffer = _AnyNames(batch._buffer)  # noqa: SLF001
        return _read_strictly(batch)


DefaultRecordBatch._read_msg = _read_any_names  # noqa: SLF001


def raw_record(cluster: str, message: Any) -> RawRecord:
    """One ``ConsumerRecord`` as ours; headers that Kafka delivers without a value become empty bytes.

    A NUL in a header's name is spelled out, for no database keeps it in text.
    """
    return RawRecord(
        cluster=cluster,
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple((name.replace("\0", "\\x00"), value or b"") for name, value in message.headers or ()),
    )


def cluster_id(config: dict[str, Any]) -> str:
    """The id the cluster was formatted with: the first part of every record's identity."""
    probe(config)
    try:
        with closing(_admin(config)) as admin:
            return str(admin.describe_cluster()["cluster_id"])
    except KafkaError as error:
        raise Unavailable(f"Kafka did not tell its cluster id: {error!r}") from error


class KafkaBus:
    """``ratchet.ports.bus.Bus`` on Kafka. Clients are made on first use; may be shared by threads.

    Each thread's ``flush`` answers for the records that this thread published, so that none is told of another's.
    """

    def __init__(self, connection: ConnectionInfo) -> None:
        self._config = kafka_config(connection)
        self._lock = threading.Lock()
        self._producer: Any = None
        self._mine = threading.local()

    @property
    def _sent(self) -> list[tuple[str, FutureRecordMetadata]]:
        """What this thread published since its last flush."""
        if not hasattr(self._mine, "sent"):
            self._mine.sent = []
        sent: list[tuple[str, FutureRecordMetadata]] = self._mine.sent
        return sent

    def publish(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Hand one record to the producer (acks from all replicas, no reordering); durable after ``flush``."""
        try:
            with self._lock:
                if self._producer is None:
                    self._producer = _producer(self._config)
                producer = self._producer
            sent = producer.send(topic, key=key, value=value, headers=list(headers))
        except KafkaError as error:
            raise Unavailable(
                f"{topic}: Kafka took no record: {error!r}. Is the topic there? ratchet topics ensure"
            ) from error
        self._sent.append((topic, sent))

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Return once all records of this thread are stored; raise ``Unavailable`` when one is not."""
        sent = self._sent[:]
        self._sent.clear()
        with self._lock:
            producer = self._producer
        if producer is None:
            return
        try:
            producer.flush(timeout=timeout_seconds)
            for topic, future in sent:
                if not future.is_done or future.failed():
                    raise Unavailable(f"{topic}: a record was not stored: {future.exception!r}")
        except KafkaError as error:
            raise Unavailable(f"Kafka stored not everything within {timeout_seconds:g} s: {error!r}") from error

    def ensure_topics(self) -> list[str]:
        """Create the missing ones of ``TOPICS`` with 3 partitions and their retention; return what was created."""
        probe(self._config)
        try:
            with closing(_admin(self._config)) as admin:
                missing = sorted(set(TOPICS) - set(admin.list_topics()))
                if missing:
                    admin.create_topics({name: _topic(name) for name in missing}, wait_for_metadata=True)
                return missing
        except TopicAlreadyExistsError:
            return []
        except KafkaError as error:
            raise Unavailable(f"Kafka made no topics: {error!r}") from error

    def follow(self, *topics: str, from_beginning: bool = True) -> KafkaSubscription:
        """Read topics from their beginning, or from what is published after this call returned."""
        cluster = cluster_id(self._config)
        return KafkaSubscription(self._config, cluster, topics, from_beginning=from_beginning)

    def published_since(self, moment: datetime, *topics: str) -> Iterator[list[RawRecord]]:
        """What the topics hold from ``moment`` on (by the records' timestamps) to what is there at the call."""
        cluster = cluster_id(self._config)
        try:
            with closing(_consumer(self._config)) as consumer:
                spots = _partitions(consumer, topics)
                ends = consumer.end_offsets(spots)
                asked = dict.fromkeys(spots, int(moment.timestamp() * 1000))
                starts = {spot: found.offset for spot, found in consumer.offsets_for_times(asked).items() if found}
                if not starts:
                    return
                consumer.assign(list(starts))
                for spot, offset in starts.items():
                    consumer.seek(spot, offset)
                while any(consumer.position(spot) < ends[spot] for spot in starts):
                    batches = consumer.poll(timeout_ms=1_000)
                    yield [raw_record(cluster, message) for batch in batches.values() for message in batch]
        except KafkaError as error:
            raise Unavailable(f"Kafka gave no records since {moment.isoformat()}: {error!r}") from error

    def lag(self, group_id: str, *topics: str) -> dict[str, int]:
        """Records per topic that the group has not committed yet; a group that never committed lags by all of them."""
        probe(self._config)
        names = topics or INBOUND_TOPICS
        try:
            with closing(_consumer(self._config, group_id=group_id)) as consumer:
                spots = _partitions(consumer, names)
                ends, starts = consumer.end_offsets(spots), consumer.beginning_offsets(spots)
                behind = dict.fromkeys(names, 0)
                for spot in spots:
                    behind[spot.topic] += ends[spot] - (consumer.committed(spot) or starts[spot])
                return behind
        except KafkaError as error:
            raise Unavailable(f"Kafka did not tell the lag of {group_id}: {error!r}") from error

    def close(self) -> None:
        """Close the producer; records that were not flushed get five seconds."""
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout=5)
                self._producer = None


class KafkaSubscription:
    """``ratchet.ports.bus.Subscription`` on Kafka: all partitions, no group, nothing committed. For one thread."""

    def __init__(self, config: dict[str, Any], cluster: str, topics: tuple[str, ...], *, from_beginning: bool) -> None:
        self._cluster = cluster
        self._closed = False
        try:
            self._consumer = _consumer(config)
        except KafkaError as error:
            raise Unavailable(f"Kafka let nobody follow {', '.join(topics)}: {error!r}") from error
        try:
            spots = _partitions(self._consumer, topics)
            self._consumer.assign(spots)
            starts = self._consumer.beginning_offsets(spots) if from_beginning else self._consumer.end_offsets(spots)
            for spot, offset in starts.items():
                self._consumer.seek(spot, offset)
        except KafkaError as error:
            self.close()
            raise Unavailable(f"Kafka let nobody follow {', '.join(topics)}: {error!r}") from error
        except Unavailable:
            self.close()
            raise

    def poll(self, timeout_seconds: float = 1.0) -> list[RawRecord]:
        """Return what came within the time; empty when nothing did or when closed."""
        if self._closed:
            return []
        try:
            batches = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except KafkaError as error:
            raise Unavailable(f"Kafka gave no records: {error!r}") from error
        return [raw_record(self._cluster, message) for batch in batches.values() for message in batch]

    def __iter__(self) -> Iterator[RawRecord]:
        """Yield records until closed."""
        while not self._closed:
            yield from self.poll(0.2)

    def close(self) -> None:
        """Close the consumer; may be called twice."""
        if not self._closed:
            self._closed = True
            self._consumer.close(autocommit=False, timeout_ms=2000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _admin(config: dict[str, Any]) -> Any:
    return KafkaAdminClient(**CLIENT, **config)


def _producer(config: dict[str, Any]) -> Any:
    probe(config)
    return KafkaProducer(**config, acks="all", linger_ms=5, max_block_ms=15_000, **CLIENT)


def _consumer(config: dict[str, Any], group_id: str | None = None) -> Any:
    probe(config)
    return KafkaConsumer(
        **config,
        group_id=group_id,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        allow_auto_create_topics=False,
        **CLIENT,
    )


def _partitions(consumer: Any, topics: tuple[str, ...]) -> list[TopicPartition]:
    spots = []
    for topic in topics:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise Unavailable(f"topic {topic!r} does not exist (yet). Make the topics: ratchet topics ensure")
        spots += [TopicPartition(topic, number) for number in sorted(numbers)]
    return spots


def _topic(name: str) -> dict[str, Any]:
    retention_ms = RETENTION_DAYS[name] * _DAY_MS
    return {"num_partitions": PARTITIONS, "configs": {"retention.ms": str(retention_ms)}}
