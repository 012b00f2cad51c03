"""The events of the bench: the same CloudEvents for every contender, seeded, and published as fast as Kafka takes them.

confluent-kafka publishes for all of them, so that the producer is never what is measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from ratchet.domain import events as cloudevents
from ratchet.ports.bus import INBOUND_TOPICS

PARTITIONS = 3
"""As ``ratchet topics ensure`` makes them."""
CHECKS = 10
Spot = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True)
class Record:
    """One event, encoded."""

    id: str
    model: str
    key: bytes
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


def _record(event: cloudevents.Announcement) -> Record:
    key, value, headers = cloudevents.to_record(event)
    return Record(event.id, event.subject, key, value, list(headers))


def storm(source: str, models: Sequence[str], count: int, seed: int) -> list[Record]:
    """Drift of ten checks per model, window after window, every event bad enough to count; models take turns."""
    pick = random.Random(seed)
    now = datetime.now(UTC).replace(microsecond=0)
    records = []
    for number in range(count):
        window = number // (len(models) * CHECKS)
        end = now - timedelta(days=1) + timedelta(seconds=window)
        data = cloudevents.DriftDetected(
            check=f"psi_{number // len(models) % CHECKS}",
            severity=round(pick.uniform(0.4, 1.0), 3),
            window_start=end - timedelta(hours=1),
            window_end=end,
        )
        name, model = f"{source}-{number}", models[number % len(models)]
        records.append(_record(cloudevents.new_event(data, id=name, source=source, subject=model, time=now)))
    return records


def request(source: str, model: str) -> Record:
    """A request to retrain, which waits for no debounce: it is due at once."""
    data = cloudevents.RetrainRequested(reason="bench", actor="bench")
    event = cloudevents.new_event(data, id=f"{source}-{model}", source=source, subject=model, time=datetime.now(UTC))
    return _record(event)


class Broker:
    """The bench's own side of the broker."""

    def __init__(self, bootstrap: str) -> None:
        import confluent_kafka  # noqa: PLC0415 - only the benches' environment has it
        import confluent_kafka.admin  # noqa: PLC0415

        # Failures are raised where they matter; the client's own lines would tell of every stop of the broker.
        client: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap, "log_level": 0}
        self._kafka = confluent_kafka
        self._admin = confluent_kafka.admin.AdminClient(client)
        self._producer = confluent_kafka.Producer(
            {
                **client,
                "linger.ms": 2,
                "queue.buffering.max.messages": 500_000,
                "enable.idempotence": True,
            }
        )

    def publish(self, topic: str, records: Iterable[Record], per_second: float | None = None) -> dict[str, Spot]:
        """Publish, as fast as it goes or at a pace, wait until all are stored; returns where each event lies."""
        spots: dict[str, Spot] = {}
        failed: list[str] = []

        def told(name: str, error: object, message: Any) -> None:
            if error is None:
                spots[name] = (message.partition(), message.offset())
            else:
                failed.append(str(error))

        for record in records:
            self._producer.produce(
                topic, record.value, record.key, headers=record.headers, on_delivery=partial(told, record.id)
            )
            self._producer.poll(0)
            if per_second:
                time.sleep(1 / per_second)
        left = self._producer.flush(120)
        if failed or left:
            raise RuntimeError(f"the broker did not store {len(failed) + left} records of {topic}: {failed[:1]}")
        return spots

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The next offset the group would read, by partition."""
        spots = [self._kafka.TopicPartition(topic, number) for number in range(PARTITIONS)]
        asked = self._kafka.ConsumerGroupTopicPartitions(group, spots)
        told = self._admin.list_consumer_group_offsets([asked])[group].result()
        return {spot.partition: max(0, spot.offset) for spot in told.topic_partitions}

    def fresh_topics(self, *others: str) -> None:
        """The inbound topics and these, empty."""
        names = [*INBOUND_TOPICS, *others]
        for future in self._admin.delete_topics(names).values():
            error = future.exception()
            # One that is not there is as good as empty.
            if error is not None and "UNKNOWN_TOPIC" not in str(error):
                raise error
        wanted, deadline = set(names), time.monotonic() + 60
        while wanted:
            made = self._admin.create_topics([self._kafka.admin.NewTopic(name, PARTITIONS) for name in sorted(wanted)])
            wanted = {name for name, future in made.items() if future.exception() is not None}
            if wanted and time.monotonic() > deadline:
                raise RuntimeError(f"the broker made no topics {sorted(wanted)} within a minute")
            if wanted:
                time.sleep(0.5)

    def members(self, group: str) -> int:
        """How many consumers of the group hold partitions or wait for some; 0 while the group changes."""
        try:
            told = self._admin.describe_consumer_groups([group])[group].result()
        except Exception:  # noqa: BLE001 (a group that nobody joined yet)
            return 0
        return len(told.members) if told.state.name == "STABLE" else 0
