"""How fast the pump stores what already lies in the topic: the real loop, broker and database, in one process.

    ratchet up --only postgres,kafka
    .venv/bin/python bench/intake_rate.py --events 100000 --models 50

A database and a topic of its own are made and removed. Three rows go to ``bench/results/intake_rate.json``: storing
alone, storing while all models are decided about once a second, and storing under a profiler that reads each thread's
own CPU clock, for the shares. ``pump_cpu_us`` is the process's CPU time per event over all of its threads,
``backend_cpu_us`` that of its PostgreSQL backends (read from ``/proc``).
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import threading
import time
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from kafka import KafkaAdminClient, KafkaProducer

from ratchet.adapters.connections import EnvResolver, kafka_config, ledger_url
from ratchet.adapters.kafka_intake import MAX_BATCH, IntakeLoop
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.domain import events as cloudevents
from ratchet.settings import load_settings
from ratchet.workflow.intake import Intake

ROOT = Path(__file__).resolve().parents[1]
GOAL_PER_SECOND = 20_000
RESULTS = ROOT / "bench" / "results" / "intake_rate.json"
SHARES = {
    "kafka-python": ("/kafka/",),
    "parse": ("/ratchet/domain/events.py", "/ratchet/errors.py", "msgspec"),
    "ledger client": ("/ratchet/adapters/ledger/", "/sqlalchemy/", "psycopg2"),
    "intake": ("/ratchet/workflow/", "/ratchet/adapters/kafka_", "/ratchet/domain/", "<string>"),
}


class Sink(Intake):
    """The real intake; ticks only when told to; profiles the storing thread when given a profiler."""

    def __init__(self, ledger: SqlLedger, *, ticks: bool, profile: cProfile.Profile | None = None) -> None:
        super().__init__(ledger, load_settings())
        self.ticks: list[float] = []
        self._ticking, self._profile = ticks, profile

    def store(self, records: Any) -> None:
        if self._profile is None:
            super().store(records)
        else:
            self._profile.runcall(super().store, records)

    def tick(self) -> list[str]:
        if not self._ticking:
            return []
        began = time.perf_counter()
        due = super().tick()
        self.ticks.append(time.perf_counter() - began)
        return due

    @property
    def done(self) -> int:
        return self._stored + self._rejected


def produce(config: dict[str, Any], topic: str, events: int, models: int) -> None:
    """Publish drift events round robin over the models, as a monitoring system would."""
    now = datetime.now(UTC)
    with closing(KafkaProducer(**config, linger_ms=20, batch_size=262_144)) as producer:
        for number in range(events):
            data = cloudevents.DriftDetected(
                check="psi", feature="dep_delay", severity=0.5, window_start=now - timedelta(hours=1), window_end=now
            )
            event = cloudevents.Announcement(
                id=str(uuid.uuid4()),
                source="https://monitoring.example.com/drift",
                type="ratchet.drift.detected.v1",
                subject=f"m{number % models}",
                time=now,
                data=data,
            )
            key, value, headers = cloudevents.to_record(event)
            producer.send(topic, key=key, value=value, headers=headers)
        producer.flush()


def backends_cpu(ledger: SqlLedger) -> float:
    """CPU seconds of all backends of the ledger's database."""
    with ledger.engine.connect() as db:
        pids = db.execute(sa.text("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")).scalars()
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def measure(
    connection: Any, ledger: SqlLedger, topic: str, events: int, *, ticks: bool, profiled: bool = False
) -> dict[str, Any]:
    """One run over the whole topic by a new group into an empty inbox."""
    with ledger.engine.begin() as db:
        db.execute(sa.text("TRUNCATE fate, event, record, touched, intake_partition, pump, outbox CASCADE"))
    profiles = [cProfile.Profile(time.thread_time) for _ in range(2)]
    sink = Sink(ledger, ticks=ticks, profile=profiles[1] if profiled else None)
    stop = threading.Event()
    loop = IntakeLoop(connection, f"bench-{uuid.uuid4().hex}", sink, stop, lambda _: None, topics=(topic,))
    run = loop.run if not profiled else lambda: profiles[0].runcall(loop.run)
    thread = threading.Thread(target=run, daemon=True)
    backend = backends_cpu(ledger)
    thread.start()
    while sink.done == 0:
        time.sleep(0.001)
    first, began, cpu = sink.done, time.perf_counter(), time.process_time()
    while sink.done < events:
        time.sleep(0.005)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    backend = backends_cpu(ledger) - backend
    stop.set()
    thread.join()
    for ticker in [each for each in threading.enumerate() if each.name == "ratchet-intake-tick"]:
        ticker.join()
    counted = events - first
    row = {
        "run": "profiled" if profiled else "deciding" if ticks else "storing",
        "events": events,
        "batch": MAX_BATCH,
        "wall_events_per_second": round(counted / wall),
        "pump_cpu_us": round(cpu / counted * 1e6, 1),
        "events_per_second_and_pump_core": round(counted / cpu),
        "backend_cpu_us": round(backend / events * 1e6, 1),
        "slowest_tick_seconds": round(max(sink.ticks, default=0.0), 2),
        "load_average": os.getloadavg()[0],
    }
    if profiled:
        row["shares"] = shares(profiles)
    return row


def goal_row(storing: dict[str, Any]) -> dict[str, Any]:
    """The storing run as a row of the summary; the ratio is ours by the goal."""
    rate = storing["events_per_second_and_pump_core"]
    return {
        "name": "store events durably",
        "peer": "the goal",
        "ours": rate,
        "theirs": GOAL_PER_SECOND,
        "ratio": round(rate / GOAL_PER_SECOND, 2),
        "unit": "events/s on one pump core",
        "goal": f">= {GOAL_PER_SECOND:,}",
        "met": rate >= GOAL_PER_SECOND,
    }


def shares(profiles: list[cProfile.Profile]) -> dict[str, float]:
    """CPU time by part, as shares of one; whatever is built in is counted with its caller."""
    spent = dict.fromkeys([*SHARES, "other"], 0.0)
    stats = pstats.Stats(*profiles).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, _, own, _, callers) in stats.items():
        if file == "~":
            for (caller, _, _), (_, _, part, _) in callers.items():
                spent[_part(f"{name} {caller}" if caller == "~" else caller)] += part
        else:
            spent[_part(file)] += own
    total = sum(spent.values())
    return {part: round(seconds / total, 3) for part, seconds in spent.items()}


def _part(text: str) -> str:
    return next((part for part, marks in SHARES.items() if any(mark in text for mark in marks)), "other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--models", type=int, default=50)
    options = parser.parse_args()
    resolver = EnvResolver(load_settings().connections)
    connection = resolver.resolve("ratchet_kafka")
    config, url = kafka_config(connection), ledger_url(resolver.resolve("ratchet_ledger"))
    name = f"bench_{uuid.uuid4().hex[:8]}"
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as db:
        db.execute(sa.text(f"CREATE DATABASE {name}"))
    ledger = SqlLedger(sa.make_url(url).set(database=name).render_as_string(hide_password=False))
    with closing(KafkaAdminClient(**config)) as admin:
        admin.create_topics({name: {"num_partitions": 3}}, wait_for_metadata=True)
        try:
            ledger.migrate()
            spec = load_spec(ROOT / "include" / "models" / "flight_delay")
            with ledger.transaction() as tx:
                for number in range(options.models):
                    each = spec.model_copy(update={"model": f"m{number}"})
                    tx.publish_spec(each.model, each.digest, each.model_dump(mode="json"))
            print(f"publishing {options.events} events", flush=True)
            produce(config, name, options.events, options.models)
            runs = []
            for settings in ({"ticks": False}, {"ticks": True}, {"ticks": False, "profiled": True}):
                runs.append(measure(connection, ledger, name, options.events, **settings))
                print(json.dumps(runs[-1]), flush=True)
            told = {"at": datetime.now(UTC).isoformat(), "rows": [goal_row(runs[0])], "runs": runs}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(told, indent=1) + "\n")
        finally:
            admin.delete_topics([name])
            ledger.dispose()
            with server.connect() as db:
                db.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


if __name__ == "__main__":
    main()
