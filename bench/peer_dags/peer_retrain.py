"""The same job with Airflow's own Kafka provider: one asset, one watcher and one DAG per model.

A run is meant to carry the events that started it; its task counts them. Which form of the provider is used, and for
which models, is read from the file that BENCH_PEER names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher, task

from peer_watchers import ModelDrift, TunedModelDrift

peer = json.loads(Path(os.environ["BENCH_PEER"]).read_text())


def watcher(model: str) -> Any:
    """What fires for this model."""
    if peer["form"] == "message_queue":
        # Imported here: it looks through all providers, which the other forms need not pay at every parse.
        from airflow.providers.common.messaging.triggers.msg_queue import MessageQueueTrigger  # noqa: PLC0415

        # A consumer group of its own, or 50 watchers would share the partitions and swallow each other's events.
        return MessageQueueTrigger(
            scheme="kafka",
            topics=[peer["topic"]],
            kafka_config_id=f"bench_{model}",
            apply_function="peer_watchers.mine",
            apply_function_kwargs={"model": model},
        )
    form = {"documented": ModelDrift, "tuned": TunedModelDrift}[peer["form"]]
    return form(model=model, topics=[peer["topic"]], kafka_config_id="bench_shared")


def peer_dag(model: str) -> DAG:
    """One DAG per model, started by its asset."""
    name = f"peer__{model}"
    asset = Asset(name=name, watchers=[AssetWatcher(name=name, trigger=watcher(model))])
    # As documented there is no limit; tuned: one run at a time, or a storm becomes 16 half-empty runs per model.
    limit = {"max_active_runs": 1} if peer["form"] == "tuned" else {}
    with DAG(
        dag_id=name,
        schedule=[asset],
        start_date=pendulum.datetime(2013, 1, 1, tz="UTC"),
        catchup=False,
        is_paused_upon_creation=False,
        **limit,
    ) as dag:

        @task
        def carry(*, triggering_asset_events: Any = None) -> int:
            """How many asset events came along."""
            return sum(len(events) for events in triggering_asset_events.values())

        carry()
    return dag


for each in peer["models"]:
    globals()[f"peer__{each}"] = peer_dag(each)
