"""The message bus as the rest of Ratchet sees it, and an in-memory one beside it."""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol, Self

from ratchet.domain import events
from ratchet.records import RawRecord

Headers = Sequence[tuple[str, bytes]]

DRIFT = events.DRIFT_TOPIC
DATA_ARRIVAL = events.DATA_TOPIC
RETRAIN_REQUESTS = events.REQUESTS_TOPIC
DEAD_LETTER = events.DEAD_LETTER_TOPIC
DECISIONS = events.DECISIONS_TOPIC
INBOUND_TOPICS = (DRIFT, DATA_ARRIVAL, RETRAIN_REQUESTS)
TOPICS = (*INBOUND_TOPICS, DEAD_LETTER, DECISIONS)


class Subscription(Protocol):
    """A reader of whole topics, in no group: it commits nothing and sees every partition. Close it after use."""

    def poll(self, timeout_seconds: float = 1.0) -> list[RawRecord]:
        """Return what came, at the latest after ``timeout_seconds``; offsets ascend within a partition."""
        ...

    def __iter__(self) -> Iterator[RawRecord]:
        """Yield records for ever, until the subscription is closed."""
        ...

    def close(self) -> None:
        """Stop reading; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Bus(Protocol):
    """Publishes and follows records. Every method may raise ``ratchet.errors.Unavailable``: repeating may help."""

    def publish(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Hand over one record; it is durable only after ``flush``. Records of one key stay in order."""
        ...

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Return once every published record is stored by the brokers, else raise ``Unavailable``."""
        ...

    def ensure_topics(self) -> list[str]:
        """Create those of ``TOPICS`` that are missing; return the names created."""
        ...

    def follow(self, *topics: str, from_beginning: bool = True) -> Subscription:
        """Read topics from their beginning, or from what is published after this call returned."""
        ...

    def published_since(self, moment: datetime, *topics: str) -> Iterator[list[RawRecord]]:
        """What the topics hold from ``moment`` on (by the records' own timestamps) to what is there at the call."""
        ...

    def close(self) -> None:
        """Release connections; may be called twice."""
        ...


class InMemoryBus:
    """A bus for tests: three partitions per topic, records of one key in one partition, no loss, no retention."""

    def __init__(self, cluster: str = "memory", partitions: int = 3) -> None:
        self.cluster = cluster
        self.partitions = partitions
        self._logs: dict[tuple[str, int], list[RawRecord]] = defaultdict(list)
        self._times: dict[tuple[str, int], list[datetime]] = defaultdict(list)
        self._changed = threading.Condition()

    def publish(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Append at once."""
        partition = zlib.crc32(key or b"") % self.partitions
        with self._changed:
            log = self._logs[topic, partition]
            log.append(RawRecord(self.cluster, topic, partition, len(log), key, value, tuple(headers)))
            self._times[topic, partition].append(datetime.now(UTC))
            self._changed.notify_all()

    def flush(self, timeout_seconds: float = 30.0) -> None:
        """Nothing is ever in flight."""

    def ensure_topics(self) -> list[str]:
        """Topics come into being when written to."""
        return []

    def records(self, topic: str) -> list[RawRecord]:
        """Everything in a topic, by partition and offset."""
        return [record for number in range(self.partitions) for record in self._logs[topic, number]]

    def follow(self, *topics: str, from_beginning: bool = True) -> Subscription:
        """Read topics; see ``Bus.follow``."""
        spots = [(topic, number) for topic in topics for number in range(self.partitions)]
        with self._changed:
            return _InMemorySubscription(self, {at: 0 if from_beginning else len(self._logs[at]) for at in spots})

    def published_since(self, moment: datetime, *topics: str) -> Iterator[list[RawRecord]]:
        """What the topics hold from ``moment`` on; see ``Bus.published_since``."""
        with self._changed:
            spots = [(topic, number) for topic in topics for number in range(self.partitions)]
            yield [r for at in spots for r, time in zip(self._logs[at], self._times[at], strict=True) if time >= moment]

    def close(self) -> None:
        """Nothing to release."""

    def _take(self, positions: dict[tuple[str, int], int], timeout_seconds: float) -> list[RawRecord]:
        with self._changed:
            self._changed.wait_for(
                lambda: any(len(self._logs[at]) > offset for at, offset in positions.items()), timeout_seconds
            )
            taken = [record for at, offset in positions.items() for record in self._logs[at][offset:]]
            positions.update({at: len(self._logs[at]) for at in positions})
        return taken


class _InMemorySubscription:
    def __init__(self, bus: InMemoryBus, positions: dict[tuple[str, int], int]) -> None:
        self._bus = bus
        self._positions = positions
        self._closed = False

    def poll(self, timeout_seconds: float = 1.0) -> list[RawRecord]:
        return [] if self._closed else self._bus._take(self._positions, timeout_seconds)  # noqa: SLF001 (its own bus)

    def __iter__(self) -> Iterator[RawRecord]:
        while not self._closed:
            yield from self.poll(0.2)

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
