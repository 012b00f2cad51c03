"""The intake pump: Kafka records go into the ledger, then their offsets are committed. One per process.

Three threads, each with its own work. The *owner* polls, commits and closes the consumer; nobody else touches it. A
*hand* stores one batch at a time, so that the owner goes on polling, and stays in its group, however long the database
takes. A *ticker* asks about once a second who is due, and at once after something new was stored; it goes on while the
broker is away, so that what becomes due by time is rung.

Rules, each learned from a failure: the sink has stored before the offset is committed, on the thread that polls, never
in a rebalance listener; ``CommitFailedError`` and redelivery are normal, the sink's unique key absorbs them; the port
is probed before a consumer is constructed; what is held of a partition that was revoked is dropped, and its offset is
not committed; before a partition is read it is compared with what is stored (``ratchet.domain.positions``), because
``auto_offset_reset`` hides every loss; closing never commits.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import CommitFailedError, KafkaError
from kafka.structs import OffsetAndMetadata

from ratchet.adapters.connections import ConnectionInfo, kafka_config
from ratchet.adapters.kafka_bus import CLIENT, cluster_id, raw_record
from ratchet.domain.positions import Ends, find_position, incarnated
from ratchet.errors import RatchetError, Unavailable
from ratchet.failpoints import reach
from ratchet.ports.bus import INBOUND_TOPICS
from ratchet.ports.intake import IntakeSink
from ratchet.ports.ledger import PumpRow
from ratchet.records import RawRecord

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
POLL_WHILE_STORING_SECONDS = 0.02
TICK_SECONDS = 1.0
TICK_REST_SECONDS = 0.1
"""The least time between two ticks; a tick that takes longer rests as long as it took."""
BEAT_SECONDS = 3.0
COMMIT_TIMEOUT_MS = 2_000
COMMIT_SECONDS = 0.2
COMMIT_RETRY_SECONDS = 2.0
ASK_TIMEOUT_MS = 2_000
LAST_STORE_SECONDS = 3.0
CLOSE_TIMEOUT_MS = 2_000
"""With the last commit these bound the time from ``stop`` to the end: below nine seconds, whatever hangs."""
SESSION_TIMEOUT_MS = 10_000
"""How long a killed pump keeps its partitions from its successor. Heartbeats have a thread of their own."""
MAX_POLL_INTERVAL_MS = 60_000
MAX_BATCH = 2_000
"""Records per transaction: larger ones store no faster (docs/decisions/0020)."""
LEAST_BATCH = 50
"""A failing store halves its batch down to this, so that a slow database gets statements it can end in time."""
MAX_BATCH_BYTES = 4_000_000
MAX_HELD = 2 * MAX_BATCH
MAX_HELD_BYTES = 16_000_000
"""Beyond either the partitions are paused, but polled."""
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


class _Hand:
    """A thread that does what it is given, in order, while the giver goes on. Left behind when the process ends."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have this done; the future tells when, and what came of it."""
        future: Future[Any] = Future()
        self._work.put((future, call, arguments))
        return future

    def release(self) -> None:
        """No more work comes: the thread ends after what it has."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, call, arguments = item
            try:
                future.set_result(call(*arguments))
            except Exception as error:  # noqa: BLE001 - the giver raises it
                future.set_exception(error)


class _Revoked(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what was taken away. Runs on kafka-python's I/O thread, so it only notes."""

    def __init__(self) -> None:
        self._noted: deque[set[TopicPartition]] = deque()

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._noted.append(set(revoked))

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        pass

    def taken(self) -> set[TopicPartition]:
        """What was revoked since the last call, also if it was assigned again."""
        spots: set[TopicPartition] = set()
        while self._noted:
            spots |= self._noted.popleft()
        return spots


class IntakeLoop:
    """Pumps records until ``stop`` is set. ``run`` blocks: give it a thread of its own.

    Args:
        connection: the broker, already resolved: these threads ask nobody for connections.
        group_id: consumer group whose offsets say what is stored; one per deployment.
        sink: stores records and finds due models.
        stop: set it to end ``run``; it returns within nine seconds, whatever hangs.
        on_due: told the due models after every tick, on the ticking thread; it must not block.
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
        self._news = threading.Event()
        self._patience = PATIENCE_SECONDS
        self._started_at = datetime.now(UTC)
        self.lag: Mapping[str, int] = {}
        self.last_error: str | None = None
        self.alarm: str | None = None

    def run(self) -> None:
        """Pump until stopped. Only one pump runs per process: a second one waits for the first to end."""
        while not _one_pump.acquire(timeout=POLL_SECONDS):
            if self._stop.is_set():
                return
        hand = _Hand("ratchet-intake-store")
        ticker = threading.Thread(target=self._keep_ticking, name="ratchet-intake-tick", daemon=True)
        ticker.start()
        try:
            backoff = Backoff()
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    self._session(hand)
                except Exception as error:
                    if time.monotonic() - began > 60:
                        backoff.succeeded()
                    wait = backoff.failed()
                    self.last_error, self.lag = str(error) or repr(error), {}
                    log.exception("intake: the broker is away or the session broke; next try in %.1f s", wait)
                    self._stop.wait(wait)
        finally:
            hand.release()
            ticker.join(POLL_SECONDS * 2)
            _one_pump.release()

    def _session(self, hand: _Hand) -> None:
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
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            max_poll_records=MAX_BATCH,
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )
        try:
            revoked = _Revoked()
            consumer.subscribe(list(self._topics), listener=revoked)
            # Before the first poll: a group led without metadata is assigned nothing, and stays so (measured).
            missing = [topic for topic in self._topics if not consumer.partitions_for_topic(topic)]
            if missing:
                raise Unavailable(f"no such topic: {', '.join(missing)}. Make the topics: ratchet topics ensure")
            log.info("intake: reading %s of cluster %s as %s", ", ".join(self._topics), cluster, self._group_id)
            self._pump(_Reading(consumer, cluster, self._sink, hand, self._stop, revoked))
        finally:
            with suppress(KafkaError):
                consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)

    def _pump(self, reading: _Reading) -> None:
        alone_since = time.monotonic()
        watch_at = 0.0
        while not self._stop.is_set():
            if reading.spots:
                alone_since, self._patience = time.monotonic(), PATIENCE_SECONDS
            elif time.monotonic() - alone_since > self._patience:
                self._patience = min(self._patience * 2, MOST_PATIENCE_SECONDS)
                raise Unavailable("the group assigned no partition to this pump; joining again")
            if reading.turn():
                self._news.set()
            self.last_error, self.alarm = reading.error, reading.alarm or self.alarm
            if time.monotonic() >= watch_at:
                watch_at = time.monotonic() + TICK_SECONDS
                self.lag = reading.watch()
        reading.finish()

    def _keep_ticking(self) -> None:
        """Tick, and beat now and then, until stopped."""
        backoff, beat_at = Backoff(), 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            self._news.clear()
            try:
                self._on_due(self._sink.tick())
                if began >= beat_at:
                    beat_at = began + BEAT_SECONDS
                    self._sink.beat(self._heartbeat())
            except Exception:
                wait = TICK_SECONDS + backoff.failed()
                log.exception("intake: no tick; next one in %.1f s", wait)
                self._stop.wait(wait)
                continue
            backoff.succeeded()
            ended = time.monotonic()
            rest = min(max(ended - began, TICK_REST_SECONDS), TICK_SECONDS)
            self._stop.wait(rest)
            while time.monotonic() < ended + TICK_SECONDS and not self._stop.is_set():
                if self._news.wait(POLL_SECONDS):
                    break

    def _heartbeat(self) -> PumpRow:
        return PumpRow(
            instance=f"{socket.gethostname()}:{os.getpid()}",
            group_id=self._group_id,
            started_at=self._started_at,
            lag=dict(self.lag),
            last_error=self.last_error,
            alarm=self.alarm,
        )


class _Reading:
    """One consumer's partitions: what is held of them, what is being stored, which offsets are owed. For one thread."""

    def __init__(
        self,
        consumer: Any,
        cluster: str,
        sink: IntakeSink,
        hand: _Hand,
        stop: threading.Event,
        revoked: _Revoked,
    ) -> None:
        self._consumer = consumer
        self._cluster = cluster
        self._sink = sink
        self._hand = hand
        self._stop = stop
        self._revoked = revoked
        self.spots: set[TopicPartition] = set()
        self.error: str | None = None
        self.alarm: str | None = None
        self._unsettled: set[TopicPartition] = set()
        self._incarnations: dict[TopicPartition, int] = {}
        self._topic_ids: dict[str, str | None] = {}
        self._expected: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._held: list[RawRecord] = []
        self._held_bytes = 0
        self._storing: tuple[Future[Any], list[RawRecord]] | None = None
        self._lost_while_storing: set[TopicPartition] = set()
        self._owed: dict[TopicPartition, OffsetAndMetadata] = {}
        self._batch = MAX_BATCH
        self._store_at = self._commit_at = self._settle_at = 0.0
        self._store_backoff, self._settle_backoff = Backoff(), Backoff()

    def turn(self) -> bool:
        """Poll, take in, store, commit: none of it waits for the database. True when a batch has become durable."""
        timeout = POLL_WHILE_STORING_SECONDS if self._storing else POLL_SECONDS
        batches = self._consumer.poll(timeout_ms=int(timeout * 1000))
        self._follow_the_group()
        moved = self._settle()
        for spot, messages in batches.items():
            if spot in self.spots and spot not in moved:
                self._take_in(spot, messages)
        self._hold_back()
        stored = self._collect()
        self._store()
        self._commit()
        return stored

    def finish(self) -> None:
        """Give the batch that is being stored a moment, and commit what is stored."""
        if self._storing is not None:
            with suppress(Exception):
                self._storing[0].exception(LAST_STORE_SECONDS)
            self._collect()
        if self._owed:
            _commit(self._consumer, self._owed)

    def watch(self) -> dict[str, int]:
        """Records behind per ``topic/partition``, as of the last fetch. A topic with another id is taken up anew."""
        for topic, known in self._topic_ids.items():
            now = self._topic_id(topic)
            if known and now and known != now:
                self._unsettled |= {spot for spot in self.spots if spot.topic == topic}
        lag = {}
        for spot in sorted(self.spots - self._unsettled):
            with suppress(KafkaError):
                end = self._consumer.highwater(spot) or self._ends[spot]
                lag[f"{spot.topic}/{spot.partition}"] = max(end - self._expected[spot], 0)
        for record in (*self._held, *(self._storing[1] if self._storing else ())):
            name = f"{record.topic}/{record.partition}"
            lag[name] = lag.get(name, 0) + 1
        return lag

    def _follow_the_group(self) -> None:
        """Drop what was taken from us, and note what is new."""
        assigned = set(self._consumer.assignment())
        lost = (self.spots - assigned) | (self._revoked.taken() & self.spots)
        if lost:
            self._lost_while_storing |= lost
            self._owed = {spot: offset for spot, offset in self._owed.items() if spot not in lost}
            self._held = [r for r in self._held if spot_of(r) not in lost]
            self._held_bytes = sum(map(_size, self._held))
            for spot in lost:
                self._expected.pop(spot, None)
        self._unsettled = (self._unsettled | assigned - (self.spots - lost)) & assigned
        self.spots = assigned

    def _settle(self) -> set[TopicPartition]:
        """Compare new partitions with what is stored before they are read; those moved elsewhere are returned."""
        if not self._unsettled or time.monotonic() < self._settle_at:
            return set()
        try:
            moved = self._examine(dict.fromkeys(sorted(self._unsettled)))
        except (RatchetError, KafkaError) as error:
            wait = self._settle_backoff.failed()
            self._settle_at = time.monotonic() + wait
            self.error = str(error)
            log.warning(
                "intake: %d partitions not taken up (%s); next try in %.1f s", len(self._unsettled), error, wait
            )
            return set()
        self._settle_backoff.succeeded()
        return moved

    def _examine(self, reached: Mapping[TopicPartition, int | None]) -> set[TopicPartition]:
        """Ask the ledger, then the broker, and go where the domain says; the answer names those moved."""
        spots = list(reached)
        names = [(spot.topic, spot.partition) for spot in spots]
        known = self._wait(self._hand.do(self._sink.positions, self._cluster, names))
        committed = {spot: self._consumer.committed(spot, timeout_ms=ASK_TIMEOUT_MS) for spot in spots}
        starts = self._consumer.beginning_offsets(spots, timeout_ms=ASK_TIMEOUT_MS)
        ends = self._consumer.end_offsets(spots, timeout_ms=ASK_TIMEOUT_MS)
        seen = {spot: Ends(self._topic_id(spot.topic), committed[spot], starts[spot], ends[spot]) for spot in spots}
        found = {
            spot: find_position(known.get((spot.topic, spot.partition)), seen[spot], reached[spot]) for spot in spots
        }
        taken = {(spot.topic, spot.partition): (seen[spot], found[spot]) for spot in spots}
        self._wait(self._hand.do(self._sink.take_up, self._cluster, taken))
        moved = set()
        for spot, position in found.items():
            self._topic_ids[spot.topic] = seen[spot].topic_id
            if self._incarnations.get(spot) != position.incarnation:
                self._incarnations[spot] = position.incarnation
                self._owed.pop(spot, None)
            if position.alarm:
                self.alarm = f"{spot.topic}/{spot.partition}: {position.alarm}"
                log.error("intake: %s", self.alarm)
            self._ends[spot] = ends[spot]
            if position.offset is not None:
                self._consumer.seek(spot, position.offset)
                self._expected[spot] = position.offset
                moved.add(spot)
            elif reached[spot] is None:
                stands = seen[spot].committed
                self._expected[spot] = starts[spot] if stands is None else stands
            self._unsettled.discard(spot)
        return moved

    def _wait(self, future: Future[Any]) -> Any:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                return future.result(POLL_SECONDS)
        raise Unavailable("stopped while the ledger was asked")

    def _topic_id(self, topic: str) -> str | None:
        """The id the broker gave the topic: another one after it was deleted and made again."""
        found = self._consumer._cluster.topic_id(topic)  # noqa: SLF001 - kafka-python 3.0 tells it nowhere else
        return None if found is None else str(found)

    def _take_in(self, spot: TopicPartition, messages: Sequence[Any]) -> None:
        first = messages[0].offset
        if spot in self._unsettled:
            self._consumer.seek(spot, first)
            return
        if first != self._expected[spot] and self._broken(spot, first, self._expected[spot]):
            return
        self._expected[spot] = messages[-1].offset + 1
        cluster = incarnated(self._cluster, self._incarnations[spot])
        records = [raw_record(cluster, message) for message in messages]
        self._held += records
        self._held_bytes += sum(map(_size, records))

    def _broken(self, spot: TopicPartition, first: int, expected: int) -> bool:
        """Whether reading goes on elsewhere after a jump: offsets have gaps (transactions), or records were lost."""
        try:
            start = self._consumer.beginning_offsets([spot], timeout_ms=ASK_TIMEOUT_MS)[spot]
            return (first < expected or start > expected) and spot in self._examine({spot: expected})
        except (RatchetError, KafkaError) as error:
            self.error = str(error)
            self._consumer.seek(spot, first)
            self._unsettled.add(spot)
            return True

    def _hold_back(self) -> None:
        """Pause while too much is held, or while a partition waits to be compared; polling goes on."""
        full = len(self._held) >= MAX_HELD or self._held_bytes >= MAX_HELD_BYTES
        wanted = self.spots if full else self._unsettled
        paused = set(self._consumer.paused())
        with suppress(KafkaError):
            if wanted - paused:
                self._consumer.pause(*(wanted - paused))
            if paused - wanted:
                self._consumer.resume(*(paused - wanted))

    def _store(self) -> None:
        """Hand the next batch over, unless one is under way or the last one failed just now."""
        if self._storing is not None or not self._held or time.monotonic() < self._store_at:
            return
        count = size = 0
        for record in self._held[: self._batch]:
            size += _size(record)
            if count and size > MAX_BATCH_BYTES:
                break
            count += 1
        batch, self._held = self._held[:count], self._held[count:]
        self._held_bytes -= sum(map(_size, batch))
        self._lost_while_storing = set()
        self._storing = self._hand.do(self._sink.store, batch), batch

    def _collect(self) -> bool:
        """Take note of a batch that ended; offsets are owed only of partitions that stayed ours all the while."""
        if self._storing is None or not self._storing[0].done():
            return False
        future, batch = self._storing
        self._storing = None
        error = future.exception()
        ours = [r for r in batch if spot_of(r) not in self._lost_while_storing]
        if error is not None:
            wait = self._store_backoff.failed()
            self._store_at = time.monotonic() + wait
            self._batch = max(self._batch // 2, LEAST_BATCH)
            self._held = ours + self._held
            self._held_bytes += sum(map(_size, ours))
            self.error = str(error) or repr(error)
            log.error("intake: %d records not stored; next try in %.1f s", len(batch), wait, exc_info=error)
            return False
        self._store_backoff.succeeded()
        self._batch = min(self._batch * 2, MAX_BATCH)
        self.error = None
        reach("committed/no offset")
        current = [r for r in ours if r.cluster == incarnated(self._cluster, self._incarnations[spot_of(r)])]
        self._owed |= next_offsets(current)
        return True

    def _commit(self) -> None:
        now = time.monotonic()
        if self._owed and now >= self._commit_at:
            self._owed = _commit(self._consumer, self._owed)
            self._commit_at = time.monotonic() + (COMMIT_RETRY_SECONDS if self._owed else COMMIT_SECONDS)


def spot_of(record: RawRecord) -> TopicPartition:
    """The partition a record came from."""
    return TopicPartition(record.topic, record.partition)


def _size(record: RawRecord) -> int:
    return len(record.value or b"")


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
