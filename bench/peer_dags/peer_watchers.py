"""How a model's drift is watched with Airflow's own Kafka provider: as documented, and as tuned by us.

``ModelDrift`` is the provider's ``KafkaSharedStreamTrigger`` used as its documentation says: one consumer for all
watchers, and ``filter_shared_stream`` overridden to fire for what this watcher cares about. ``TunedModelDrift`` is the
best we could build on the provider's producer: whole polls instead of records, read once instead of once per watcher,
back-pressure, and a commit per poll. ``mine`` is the ``apply_function`` of ``MessageQueueTrigger(scheme="kafka")``.

The triggerer must be able to import this module, so its folder is on the bench stack's PYTHONPATH.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
from airflow.providers.apache.kafka.triggers.shared_stream import KafkaSharedStreamProducer, KafkaSharedStreamTrigger
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem
from asgiref.sync import sync_to_async
from confluent_kafka import TopicPartition

POLL_RECORDS = 2_000
POLL_SECONDS = 0.1
MOST_IN_FLIGHT = 8
"""Polls that are broadcast but not committed: far below the 1,024 at which Airflow fails a subscriber."""


def mine(message: Any, model: str) -> Any:
    """The event, when it is about this model."""
    event = json.loads(message.value())
    return event if event["subject"] == model else None


class ModelDrift(KafkaSharedStreamTrigger):
    """Fires for each event of one model."""

    def __init__(self, *, model: str, **options: Any) -> None:
        super().__init__(**options)
        self.model = model

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, options = super().serialize()
        return f"peer_watchers.{type(self).__name__}", {**options, "model": self.model}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        async for value in shared_stream:
            event = json.loads(value)
            if event["subject"] == self.model:
                yield TriggerEvent(event)


class Polled(NamedTuple):
    """One partition's share of a poll: what to commit when all of it is persisted."""

    topic: str
    partition: int
    next_offset: int


class PollingProducer(KafkaSharedStreamProducer):
    """One raw event is one partition's share of a poll, as ``{model: [event, …]}``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._room = asyncio.Semaphore(MOST_IN_FLIGHT)

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        hook = KafkaConsumerHook(topics=self.topics, kafka_config_id=self.kafka_config_id)
        await self._ensure_manual_commit(hook)
        self._consumer = consumer = await sync_to_async(hook.get_consumer)()
        poll = sync_to_async(consumer.consume, thread_sensitive=False)
        while True:
            shares: dict[tuple[str, int], tuple[int, dict[str, list[Any]]]] = {}
            for message in await poll(POLL_RECORDS, POLL_SECONDS):
                if message.error():
                    raise RuntimeError(f"Kafka consumer error: {message.error()}")
                event = json.loads(message.value())
                spot = (message.topic(), message.partition())
                by_model = shares[spot][1] if spot in shares else {}
                by_model.setdefault(event["subject"], []).append(event)
                shares[spot] = (message.offset() + 1, by_model)
            for (topic, partition), (next_offset, by_model) in shares.items():
                await self._room.acquire()
                yield by_model, Polled(topic, partition, next_offset)

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        for item in batch:
            self._room.release()
            if item.outcome.failed or not item.outcome.acked:
                await asyncio.sleep(5)
                raise RuntimeError("a watcher failed: the stream is opened again at the last committed offset")
        topic, partition, next_offset = batch[-1].broker_payload
        await sync_to_async(self._commit, thread_sensitive=False)(topic, partition, next_offset)

    def _commit(self, topic: str, partition: int, offset: int) -> None:
        self._consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)


class TunedModelDrift(ModelDrift):
    """Fires once per poll with all events of one model in it."""

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> PollingProducer:
        return PollingProducer(topics=kwargs["topics"], kafka_config_id=kwargs["kafka_config_id"])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        async for by_model in shared_stream:
            if self.model in by_model:
                yield TriggerEvent(by_model[self.model])
