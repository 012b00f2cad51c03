"""The intake pump: Kafka records go into the ledger, then their offsets are committed. One per process.

Rules, each learned from a failure: the sink has stored before the offset is committed, on the thread that polls;
``CommitFailedError`` and redelivery are normal, the sink's unique key absorbs them; the port is probed before a
consumer is constructed; while the sink fails the partitions are paused but polled, so that the group keeps this member;
ticks go on while the broker is away, so that what becomes due by time is rung; closing never commits.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CommitFailedError, KafkaError
from kafka.structs import OffsetAndMetadata

from ratchet.adapters.connections import ConnectionInfo, kafka_config
from ratchet.adapters.kafka_bus import CLIENT, cluster_id, raw_record
from ratchet.errors import Unavailable
from ratchet.failpoints import reach
from ratchet.ports.bus import INBOUND_TOPICS
from ratchet.ports.intake import IntakeSink
from ratchet.records import RawRecord

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
TICK_SECONDS = 1.0
COMMIT_TIMEOUT_MS = 5_000
COMMIT_RETRY_SECONDS = 2.0
CLOSE_TIMEOUT_MS = 3_000
SESSION_TIMEOUT_MS = 10_000
"""How long a killed pump keeps its partitions from its successor. Heartbeats have a thread of their own."""
MAX_RECORDS = 1_000
PATIENCE_SECONDS = 30.0
MOST_PATIENCE_SECONDS = 900.0
"""How long a pump without a partition waits before it joins again; doubles, for it may rightly be a spare one."""

_one_pump = threading.Lock()


class Backoff:
    """Waiting times that double with every failure, with jitter: seconds between half of the bound and the bound."""

    def __init__(self, first: float = 0.5, most: float = 15.0, seed: int | None = None) -> None:
        self._first, self._most = first, most
        self._failures = 0
        self._random = random.Random(seed)  # noqa: S311 (spreads retries, guards nothing)

    def failed(self) -> float:
        """Count a failure and return how long to wait, in seconds."""
        bound = float(min(self._most, self._first * 2.0**self._failures))
        self._failures = min(self._failures + 1, 16)
        return bound * self._random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        """Start from the first waiting time again."""
        self._failures = 0


class IntakeLoop:
    """Pumps records until ``stop`` is set. ``run`` blocks: give it a thread of its own.

    Args:
        connection: the broker, already resolved: this thread asks nobody for connections.
        group_id: consumer group whose offsets say what is stored.
        sink: stores records and finds due models.
        stop: set it to end ``run``; it returns within about five seconds.
        on_due: told the due models after every tick, on this thread; it must not block.
        topics: what to read.
        consumer_factory: how to make a consumer from its configuration (tests replace it).

    """

    def __init__(
        self,
        connection: ConnectionInfo,
        group_id: str,
        sink: IntakeSink,
        stop: threading.Event,
        on_due: Callable[[list[str]], None],
        *,
        topics: Sequence[str] = INBOUND_TOPICS,
        consumer_factory: Callable[..., Any] = KafkaConsumer,
        cluster: Callable[[dict[str, Any]], str] = cluster_id,
    ) -> None:
        self._config = kafka_config(connection)
        self._group_id = group_id
        self._sink = sink
        self._stop = stop
        self._on_due = on_due
        self._topics = tuple(topics)
        self._new_consumer = consumer_factory
        self._find_cluster = cluster
        self._next_tick = 0.0
        self._patience = PATIENCE_SECONDS
        self._tick_backoff = Backoff()
        self._sink_backoff = Backoff()

    def run(self) -> None:
        """Pump until stopped. Only one pump runs per process: a second one waits for the first to end."""
        while not _one_pump.acquire(timeout=POLL_SECONDS):
            if self._stop.is_set():
                return
        try:
            backoff = Backoff()
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    self._session()
                except Exception:
                    if time.monotonic() - began > 60:
                        backoff.succeeded()
                    wait = backoff.failed()
                    log.exception("intake: the broker is away or the session broke; next try in %.1f s", wait)
                    self._rest(wait)
        finally:
            _one_pump.release()

    def _session(self) -> None:
        """One consumer from its making to its closing."""
        cluster = self._find_cluster(self._config)
        consumer = self._new_consumer(
            **CLIENT,
            **self._config,
            group_id=self._group_id,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            metadata_max_age_ms=30_000,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_records=MAX_RECORDS,
        )
        try:
            consumer.subscribe(list(self._topics))
            # Before the first poll: a group led without metadata is assigned nothing, and stays so (measured).
            missing = [topic for topic in self._topics if not consumer.partitions_for_topic(topic)]
            if missing:
                raise Unavailable(f"no such topic: {', '.join(missing)}. Make the topics: ratchet topics ensure")
            log.info("intake: reading %s of cluster %s as %s", ", ".join(self._topics), cluster, self._group_id)
            self._pump(consumer, cluster)
        finally:
            with suppress(KafkaError):
                consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)

    def _pump(self, consumer: Any, cluster: str) -> None:
        held: list[RawRecord] = []
        owed: dict[TopicPartition, OffsetAndMetadata] = {}
        store_at = commit_at = 0.0
        alone_since = time.monotonic()
        while not self._stop.is_set():
            if consumer.assignment():
                alone_since, self._patience = time.monotonic(), PATIENCE_SECONDS
            elif time.monotonic() - alone_since > self._patience:
                self._patience = min(self._patience * 2, MOST_PATIENCE_SECONDS)
                raise Unavailable("the group assigned no partition to this pump; joining again")
            if held:
                consumer.pause(*consumer.assignment())
            batches = consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
            held += [raw_record(cluster, message) for batch in batches.values() for message in batch]
            if held and time.monotonic() >= store_at:
                try:
                    self._sink.store(held)
                except Exception:
                    wait = self._sink_backoff.failed()
                    store_at = time.monotonic() + wait
                    log.exception("intake: %d records not stored; paused, next try in %.1f s", len(held), wait)
                else:
                    self._sink_backoff.succeeded()
                    reach("committed/no offset")
                    owed |= next_offsets(held)
                    held, commit_at = [], 0.0
                    consumer.resume(*consumer.paused())
            if owed and time.monotonic() >= commit_at:
                owed = _commit(consumer, owed)
                commit_at = time.monotonic() + COMMIT_RETRY_SECONDS
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK_SECONDS
        try:
            due = self._sink.tick()
        except Exception:
            wait = self._tick_backoff.failed()
            self._next_tick = now + TICK_SECONDS + wait
            log.exception("intake: no tick; next one in %.1f s", TICK_SECONDS + wait)
        else:
            self._tick_backoff.succeeded()
            self._on_due(due)

    def _rest(self, seconds: float) -> None:
        """Wait for the broker, ticking."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.wait(POLL_SECONDS):
            self._tick()


def next_offsets(records: Sequence[RawRecord]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Per partition the offset to read next, after these records."""
    latest: dict[TopicPartition, int] = {}
    for record in records:
        spot = TopicPartition(record.topic, record.partition)
        latest[spot] = max(latest.get(spot, -1), record.offset)
    return {spot: OffsetAndMetadata(offset + 1) for spot, offset in latest.items()}


def _commit(consumer: Any, offsets: dict[TopicPartition, OffsetAndMetadata]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Commit what is stored and return what is still owed. A lost commit costs a redelivery, which the sink absorbs."""
    try:
        consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
    except CommitFailedError:
        log.info("intake: the group was rebalanced before a commit; the records come again and are absorbed")
    except KafkaError as error:
        log.warning("intake: offsets not committed (%r); tried again in %g s", error, COMMIT_RETRY_SECONDS)
        return offsets
    return {}
