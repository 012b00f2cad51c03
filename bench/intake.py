"""Ratchet's intake beside Airflow's own Kafka provider: one broker, one PostgreSQL server, one machine, one run.

    make bench-intake                                  100,000 events, 50 models, 15 minutes at most per contender
    python bench/intake.py --quick                     a small one, to see that the bench works
    python bench/intake.py --only calm                 one part; storm, calm and pair can be combined

The rows go to ``bench/results/intake.json``. What is compared, and how, is told in ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from intake_events import Broker, Record, Spot, request, storm
from intake_meter import Meter
from intake_stack import DEBOUNCE_SECONDS, PEER_GROUP, PEER_TOPIC, ROOT, Stack
from ratchet.settings import load_settings
from ratchet.stack.control import StackError

DRIFT_TOPIC, REQUESTS_TOPIC = "ml.drift", "ml.retrain-requests"
PARTS = ("storm", "calm", "pair")
FORMS = ("documented", "tuned", "message_queue")
PROVIDER = "apache-airflow-providers-apache-kafka"
PEERS = {
    "documented": "KafkaSharedStreamTrigger, as documented",
    "tuned": "KafkaSharedStreamTrigger's producer, tuned by us",
    "message_queue": "MessageQueueTrigger (AwaitMessageTrigger), a group per model",
}
# Every event of every asset event: a form of the peer puts one or a list of them into the payload.
TOLD = """
    SELECT e.id AS asset_event, e.asset_id, e.timestamp, one ->> 'id' AS event FROM asset_event e,
    json_array_elements(CASE json_typeof(e.extra -> 'payload') WHEN 'array' THEN e.extra -> 'payload'
                        ELSE json_build_array(e.extra -> 'payload') END) one"""
LOOK_SECONDS = 1.0
SAY_SECONDS = 5.0
RESTLESS = ("other_runs", "open_runs")
"""Counts that move although nothing happens to the events: the sweep runs every minute."""
QUIET_SECONDS = 45.0
"""A peer is done when nothing has moved for so long, and nothing is open or queued."""
PAIR_PER_SECOND = 25.0
"""Far below what one triggerer persists: what gets lost is lost by the split, not by load."""
WARM_UPS = 5


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    events: int
    models: tuple[str, ...]
    limit_seconds: float
    calm_events: int
    pair_events: int
    forms: tuple[str, ...]
    seed: int


_began = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - _began:6.0f} s] {text}", flush=True)


class Bench:
    """The contenders, one after the other, on one stack."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._broker = Broker(stack.config.bootstrap)

    # Contenders -----------------------------------------------------------------------------------------------------

    def _deploy(self, *sides: str, form: str = "documented", triggerers: int = 1) -> None:
        say(f"a fresh Airflow for: {' and '.join(sides)}{f' ({form})' if 'peer' in sides else ''}")
        self._stack.clear()
        self._broker.fresh_topics(PEER_TOPIC)
        self._stack.deploy(sides, form=form, triggerers=triggerers)
        for side, group in (("ours", load_settings().group_id), ("peer", PEER_GROUP)):
            if side in sides and not (side == "peer" and form == "message_queue"):
                joined = partial(self._joined, group, triggerers)
                self._stack.wait(f"{triggerers} consumers of {group}", joined)

    def _joined(self, group: str, consumers: int) -> bool:
        return self._broker.members(group) == consumers

    def _ours(self, source: str) -> dict[str, int]:
        """How far the ledger and Airflow are."""
        stored, fated, claimed, models = self._stack.query(
            "ratchet",
            "SELECT count(*), count(*) FILTER (WHERE reason <> 'received'), count(*) FILTER (WHERE fate = 'claimed'), "
            "count(DISTINCT model) FILTER (WHERE fate = 'claimed') FROM event WHERE source = %s",
            source,
        )[0]
        return {"stored": stored, "fated": fated, "claimed": claimed, "models_claimed": models} | self._runs("retrain")

    def _runs(self, kind: str) -> dict[str, int]:
        runs, others, still = self._stack.query(
            "airflow",
            "SELECT count(*) FILTER (WHERE dag_id LIKE %s), count(*) FILTER (WHERE dag_id NOT LIKE %s), "
            "count(*) FILTER (WHERE state IN ('queued', 'running')) FROM dag_run",
            *[f"{kind}\\_\\_%"] * 2,
        )[0]
        return {"runs": runs, "other_runs": others, "open_runs": still}

    def _peer(self) -> dict[str, int]:
        """How far Airflow is: events in an asset event, in a run, and before the start of a later run of the model."""
        stored, carried, reach, rows = self._stack.query(
            "airflow",
            f"""
            SELECT count(DISTINCT event), count(DISTINCT event) FILTER (WHERE d.event_id IS NOT NULL),
              count(DISTINCT event) FILTER (WHERE told.timestamp <= l.latest), count(DISTINCT asset_event)
            FROM ({TOLD}) told JOIN asset a ON a.id = told.asset_id
            LEFT JOIN (SELECT DISTINCT event_id FROM dagrun_asset_event) d ON d.event_id = asset_event
            LEFT JOIN (SELECT dag_id, max(start_date) AS latest FROM task_instance GROUP BY 1) l ON l.dag_id = a.name
            """,
        )[0]
        (queued,) = self._stack.query("airflow", "SELECT count(*) FROM asset_dag_run_queue")[0]
        found = {"stored": stored, "carried": carried, "in_reach": reach, "asset_events": rows, "queued": queued}
        return found | self._runs("peer")

    def _lost(self, side: str, spots: dict[str, Spot]) -> int:
        """Events whose offset is committed and that are stored nowhere: nobody will ever hear of them."""
        database, names, group, topic = {
            "ours": ("ratchet", "SELECT event_id FROM event", load_settings().group_id, DRIFT_TOPIC),
            "peer": ("airflow", f"SELECT event FROM ({TOLD}) told", PEER_GROUP, PEER_TOPIC),
        }[side]
        stored = {name for (name,) in self._stack.query(database, names)}
        committed = self._broker.committed(group, topic)
        return sum(offset < committed[part] and name not in stored for name, (part, offset) in spots.items())

    def _follow(
        self, look: Callable[[], dict[str, int]], over: Callable[[dict[str, int], float], bool], began: float, name: str
    ) -> tuple[dict[str, int], dict[str, float]]:
        """Look until it is over or the limit is reached; returns the last look and when each count last changed."""
        changed: dict[str, float] = {}
        seen: dict[str, int] = {}
        said = 0.0
        while True:
            looked = time.monotonic()
            now_seen, now = look(), time.time() - began
            took = time.monotonic() - looked
            for key, count in now_seen.items():
                if count != seen.get(key):
                    changed[key] = round(now, 1)
            seen = now_seen
            quiet = now - max(at for key, at in changed.items() if key not in RESTLESS)
            if now - said >= SAY_SECONDS:
                said = now
                say(f"{name}: {now:4.0f} s, " + ", ".join(f"{key} {count:,}" for key, count in seen.items()))
            if over(seen, quiet) or now >= self._plan.limit_seconds:
                return seen, changed
            # Looking costs the database too: at most a tenth of the time.
            time.sleep(max(LOOK_SECONDS, 9 * took))

    # Storm ----------------------------------------------------------------------------------------------------------

    def storm(self) -> list[dict[str, Any]]:
        """As fast as the producer can."""
        self._deploy("ours")
        ours = self._storm_ours()
        rows = []
        for form in self._plan.forms:
            self._deploy("peer", form=form)
            rows += storm_rows(self._plan, form, ours, self._storm_peer(form))
        return rows

    def _records(self, source: str, count: int) -> list[Record]:
        say(f"encoding {count:,} events")
        return storm(source, self._plan.models, count, self._plan.seed)

    def _storm_ours(self) -> dict[str, Any]:
        count = self._plan.events
        records = self._records("/bench/storm", count)
        with Meter(self._stack) as meter:
            began = time.time()
            spots = self._broker.publish(DRIFT_TOPIC, records)
            published = time.time() - began
            say(f"storm, ours: {count:,} events published in {published:.1f} s")
            seen, changed = self._follow(
                lambda: self._ours("/bench/storm"),
                lambda now, quiet: now["claimed"] == count or (now["fated"] == count and quiet > 2 * DEBOUNCE_SECONDS),
                began,
                "storm, ours",
            )
        durable = self._stack.query("ratchet", "SELECT extract(epoch FROM max(received_at)) FROM event")[0][0]
        waiting = self._stack.query(
            "ratchet", "SELECT fate, count(*) FROM event WHERE source = '/bench/storm' GROUP BY 1 ORDER BY 1"
        )
        stored_seconds = float(durable or began) - began
        return {
            "events": count,
            "published_seconds": round(published, 1),
            **seen,
            "lost": self._lost("ours", spots),
            "not_yet": count - seen["stored"],
            "stored_seconds": round(stored_seconds, 1),
            "stored_per_second": round(seen["stored"] / stored_seconds) if stored_seconds > 0 else None,
            "fated_seconds": changed["fated"] if seen["fated"] == count else None,
            "claimed_seconds": changed["claimed"] if seen["claimed"] == count else None,
            "fates": dict(waiting),
            **meter.result,
        }

    def _storm_peer(self, form: str) -> dict[str, Any]:
        count = self._plan.events
        records = self._records("/bench/storm", count)
        with Meter(self._stack) as meter:
            began = time.time()
            spots = self._broker.publish(PEER_TOPIC, records)
            published = time.time() - began
            say(f"storm, {form}: {count:,} events published in {published:.1f} s")
            seen, changed = self._follow(self._peer, lambda now, quiet: settled(now, quiet, count), began, form)
        elapsed = time.time() - began
        last = max(changed["stored"], changed["carried"]) if seen["carried"] else elapsed
        return {
            "events": count,
            "published_seconds": round(published, 1),
            **seen,
            "stranded": seen["stored"] - seen["carried"],
            "lost": self._lost("peer", spots) if form != "message_queue" else None,
            "not_yet": count - seen["stored"],
            "seconds": round(elapsed, 1),
            "last_carried_seconds": last,
            "carried_per_second": round(seen["carried"] / last, 1),
            "finished": seen["carried"] == count,
            "stopped_by_limit": elapsed >= self._plan.limit_seconds,
            **meter.result,
        }

    # Calm -----------------------------------------------------------------------------------------------------------

    def calm(self) -> list[dict[str, Any]]:
        """One event every few seconds, by turns, both deployed on one Airflow."""
        self._deploy("ours", "peer")
        pick = random.Random(self._plan.seed)
        told: dict[tuple[str, str], float] = {}
        topics = {"ours": REQUESTS_TOPIC, "peer": PEER_TOPIC}
        measured = self._plan.models[WARM_UPS : WARM_UPS + self._plan.calm_events]
        for number, model in enumerate(self._plan.models[: WARM_UPS + self._plan.calm_events]):
            for side in pick.sample(("ours", "peer"), 2):
                record = request(f"/bench/calm/{side}", model)
                told[side, model] = time.time()
                self._broker.publish(topics[side], [record])
                time.sleep(pick.uniform(2, 5))
            if number % 4 == 3:
                say(f"calm: {number + 1} of {WARM_UPS + self._plan.calm_events} events to each")
        wanted = 2 * (WARM_UPS + self._plan.calm_events)
        self._stack.wait(f"{wanted} first tasks", lambda: len(self._first_tasks()) >= wanted)
        return calm_rows(told, measured, self._first_tasks(), self._ours_hops(), self._asset_events())

    def _first_tasks(self) -> dict[tuple[str, str], dict[str, float]]:
        """When the run was created and started, when the first task was queued and ran: by side and model."""
        rows = self._stack.query(
            "airflow",
            "SELECT r.dag_id, extract(epoch FROM r.queued_at), extract(epoch FROM r.start_date), "
            "extract(epoch FROM t.queued_dttm), extract(epoch FROM t.start_date) FROM dag_run r "
            "JOIN task_instance t ON t.dag_id = r.dag_id AND t.run_id = r.run_id "
            "WHERE t.task_id IN ('claim', 'carry') AND t.start_date IS NOT NULL ORDER BY t.start_date DESC",
        )
        names = ("run_created", "run_started", "task_queued", "task_running")
        return {
            ("ours" if dag_id.startswith("retrain__") else "peer", dag_id.partition("__")[2]): dict(
                zip(names, map(float, times), strict=True)
            )
            for dag_id, *times in rows
        }

    def _ours_hops(self) -> dict[str, dict[str, float]]:
        rows = self._stack.query(
            "ratchet",
            "SELECT e.model, extract(epoch FROM e.received_at), extract(epoch FROM min(f.at) FILTER "
            "(WHERE f.reason LIKE 'admitted%')), extract(epoch FROM min(f.at) FILTER (WHERE f.fate = 'claimed')) "
            "FROM event e JOIN fate f ON f.event_pk = e.id WHERE e.source = '/bench/calm/ours' GROUP BY 1, 2",
        )
        names = ("stored", "admitted", "claimed")
        return {model: {n: float(at) for n, at in zip(names, times, strict=True) if at} for model, *times in rows}

    def _asset_events(self) -> dict[tuple[str, str], float]:
        rows = self._stack.query(
            "airflow",
            "SELECT a.name, extract(epoch FROM min(e.timestamp)) FROM asset_event e JOIN asset a ON a.id = e.asset_id "
            "GROUP BY 1",
        )
        found = {}
        for name, at in rows:
            if name.startswith("peer__"):
                found["peer", name.removeprefix("peer__")] = float(at)
            elif name.endswith("/due"):
                found["ours", name.removeprefix("ratchet://").removesuffix("/due")] = float(at)
        return found

    # Two triggerers -------------------------------------------------------------------------------------------------

    def pair(self) -> list[dict[str, Any]]:
        """Two triggerers with half of the watchers each; a pace at which nobody is overloaded."""
        count = self._plan.pair_events
        self._deploy("ours", triggerers=2)
        ours_shares = [share for _, share in self._stack.shares()]
        records = self._records("/bench/pair", count)
        began = time.time()
        spots = self._broker.publish(DRIFT_TOPIC, records, PAIR_PER_SECOND)
        ours, _ = self._follow(
            lambda: self._ours("/bench/pair"),
            lambda now, quiet: now["claimed"] == count or (now["fated"] == count and quiet > 2 * DEBOUNCE_SECONDS),
            began,
            "pair, ours",
        )
        ours_told = {**ours, "lost": self._lost("ours", spots), "watchers": ours_shares, "events": count}
        rows = []
        for form in [form for form in self._plan.forms if form != "message_queue"]:
            self._deploy("peer", form=form, triggerers=2)
            shares = [share for _, share in self._stack.shares()]
            records = self._records("/bench/pair", count)
            began = time.time()
            spots = self._broker.publish(PEER_TOPIC, records, PAIR_PER_SECOND)
            theirs, _ = self._follow(self._peer, lambda now, quiet: settled(now, quiet, count), began, f"pair, {form}")
            theirs_told = {**theirs, "lost": self._lost("peer", spots), "watchers": shares, "events": count}
            rows += pair_rows(count, form, ours_told, theirs_told)
        return rows


def settled(now: dict[str, int], quiet: float, count: int) -> bool:
    """Whether nothing more will come of what was published."""
    return not now["open_runs"] and not now["queued"] and (now["carried"] == count or quiet > QUIET_SECONDS)


def row(
    name: str,
    form: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    *,
    goal: str | None = None,
    met: bool | None = None,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One line of the result. ``ratio`` is theirs by ours, from what was measured, nothing scaled up."""
    ratio = round(theirs / ours, 2) if ours and theirs is not None else None
    return {
        "name": name,
        "peer": PEERS[form],
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio,
        "unit": unit,
        "goal": goal,
        "met": met,
        **(details or {}),
    }


def storm_rows(plan: Plan, form: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """What the storm showed against one form of the peer."""
    n, models = plan.events, len(plan.models)
    fewer = theirs["airflow_rows"] / ours["airflow_rows"]
    cpu = {side: sum(told["cpu_seconds"].values()) for side, told in (("ours", ours), ("theirs", theirs))}
    return [
        row(
            "storm: all durable, with a fate or in a run",
            form,
            ours["fated_seconds"],
            theirs["last_carried_seconds"] if theirs["finished"] else None,
            "s",
            goal=f"all {n:,} of ours",
            met=ours["fated"] == n,
            details={"events": n, "models": models, "ours_detail": ours, "theirs_detail": theirs},
        ),
        row("storm: events answered (with a fate; in a run)", form, ours["fated"], theirs["carried"], "events"),
        row(
            "storm: events stored, and without an answer",
            form,
            ours["stored"] - ours["fated"],
            theirs["stranded"],
            "events",
        ),
        row(
            "storm: events lost",
            form,
            ours["lost"],
            theirs["lost"],
            "events",
            goal="0 of ours",
            met=ours["lost"] == 0,
        ),
        row(
            "storm: rows written to Airflow's database",
            form,
            ours["airflow_rows"],
            theirs["airflow_rows"],
            "rows",
            goal="at least 20 times fewer",
            met=fewer >= 20,
        ),
        row(
            "storm: DAG runs for the models",
            form,
            ours["runs"],
            theirs["runs"],
            "runs",
            goal="bounded by models",
            met=ours["runs"] <= models,
        ),
        row("storm: peak memory of Airflow (PSS)", form, ours["peak_mb"], theirs["peak_mb"], "MB"),
        row("storm: CPU of Airflow and PostgreSQL", form, round(cpu["ours"], 1), round(cpu["theirs"], 1), "CPU s"),
    ] + (
        [
            row(
                "storm: durable intake",
                form,
                ours["stored_per_second"],
                None,
                "events/s",
                goal="at least 20,000 on one core, or the reason why not",
                met=(ours["stored_per_second"] or 0) >= 20_000,
            )
        ]
        if form == plan.forms[0]
        else []
    )


def pair_rows(count: int, form: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[dict[str, Any]]:
    """What two triggerers showed against one form of the peer."""
    return [
        row(
            "two triggerers: events that reached their model",
            form,
            ours["fated"],
            theirs["stored"],
            "events",
            goal=f"all {count:,} of ours",
            met=ours["fated"] == count,
            details={"ours_detail": ours, "theirs_detail": theirs},
        ),
        row(
            "two triggerers: events lost",
            form,
            ours["lost"],
            theirs["lost"],
            "events",
            goal="0 of ours",
            met=ours["lost"] == 0,
        ),
    ]


HOPS = (
    ("publish to stored", "told", "stored", "broker, poll of the pump (0.2 s at most), insert and commit"),
    ("stored to admitted", "stored", "admitted", "the pump's tick, once a second, decides"),
    ("admitted to asset event", "admitted", "asset_event", "the watcher wins the bell; Airflow's triggerer sync, 1 s"),
    ("asset event to run", "asset_event", "run_created", "Airflow's scheduler loop"),
    ("run to task running", "run_created", "task_running", "Airflow's scheduler and executor"),
)


def calm_rows(
    told: dict[tuple[str, str], float],
    measured: Sequence[str],
    tasks: dict[tuple[str, str], dict[str, float]],
    ours: dict[str, dict[str, float]],
    assets: dict[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """Publish to first task running, and where ours goes."""
    took = {
        side: [tasks[side, model]["task_running"] - told[side, model] for model in measured]
        for side in ("ours", "peer")
    }
    figures = {
        side: {"median": median(times), "p95": float(np.percentile(times, 95)), "worst": max(times)}
        for side, times in took.items()
    }
    moments = [
        {"told": told["ours", m], **ours[m], "asset_event": assets["ours", m], **tasks["ours", m]} for m in measured
    ]
    hops = [
        {
            "hop": name,
            "what": what,
            "median_s": round(median(spans), 2),
            "p95_s": round(float(np.percentile(spans, 95)), 2),
        }
        for name, start, end, what in HOPS
        if (spans := [at[end] - at[start] for at in moments if start in at and end in at])
    ]
    peer = [{"told": told["peer", m], "asset_event": assets["peer", m], **tasks["peer", m]} for m in measured]
    theirs = [
        {"hop": name, "median_s": round(median(at[end] - at[start] for at in peer), 2)}
        for name, start, end in (
            ("publish to asset event", "told", "asset_event"),
            ("asset event to run", "asset_event", "run_created"),
            ("run to task running", "run_created", "task_running"),
        )
    ]
    rows = []
    for figure in ("median", "p95"):
        mine, yours = round(figures["ours"][figure], 2), round(figures["peer"][figure], 2)
        rows.append(
            row(
                f"calm: publish to first task running, {figure}",
                "documented",
                mine,
                yours,
                "s",
                goal="no worse than the provider's",
                met=mine <= yours,
                details={"events": len(measured), "hops": hops, "their_hops": theirs} if figure == "median" else None,
            )
        )
    return rows


def machine(stack: Stack) -> dict[str, Any]:
    """Where this was measured."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "postgresql": stack.query("postgres", "SHOW server_version")[0][0],
        **{name: version(name) for name in ("apache-airflow", PROVIDER, "confluent-kafka", "kafka-python")},
    }


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="drift events of the storm (default 100,000)")
    parser.add_argument("--models", type=int, default=50, help="models, each with its watcher (default 50)")
    parser.add_argument("--limit-seconds", type=float, default=900, help="a contender is stopped then (default 900)")
    parser.add_argument("--calm-events", type=int, default=40, help="events to each side in calm (default 40)")
    parser.add_argument("--pair-events", type=int, default=1_000, help="events for two triggerers (default 1,000)")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated")
    parser.add_argument("--peer", action="append", choices=FORMS, help="one form of the provider; may be repeated")
    parser.add_argument("--quick", action="store_true", help="2,000 events, 12 models, 120 s: does the bench work?")
    parser.add_argument("--seed", type=int, default=20130101)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "intake.json")
    parser.add_argument("--home", type=Path, default=ROOT / ".ratchet" / "bench", help="made anew; the stack's files")
    parser.add_argument("--port-base", type=int, default=28_380, help="five ports from there on (default 28380)")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.events, asked.models, asked.limit_seconds = 2_000, 12, 120.0
        asked.calm_events, asked.pair_events = 6, 200
        asked.peer = asked.peer or ["documented", "tuned"]
    if "calm" in (asked.only or PARTS) and asked.models < WARM_UPS + asked.calm_events:
        parser.error(
            f"--calm-events must be at most --models less {WARM_UPS} for warming up, "
            f"but got {asked.calm_events} of {asked.models} models"
        )
    return asked


def main(arguments: Sequence[str]) -> int:
    """Run the bench; the stack is stopped whatever happens."""
    asked = read_arguments(arguments)
    models = tuple(f"drift_{number:02d}" for number in range(asked.models))
    plan = Plan(
        events=asked.events,
        models=models,
        limit_seconds=asked.limit_seconds,
        calm_events=asked.calm_events,
        pair_events=asked.pair_events,
        forms=tuple(asked.peer or FORMS),
        seed=asked.seed,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = [part for part in PARTS if part in (asked.only or PARTS)]
    stack = Stack(asked.home, asked.port_base, models, say)
    rows: list[dict[str, Any]] = []
    try:
        say("PostgreSQL, Kafka and the templates of both databases")
        stack.prepare()
        bench = Bench(stack, plan)
        header = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(stack)}
        header["asked"] = {
            "events": plan.events,
            "models": len(models),
            "limit_seconds": plan.limit_seconds,
            "parts": parts,
        }
        for part in parts:
            rows += getattr(bench, part)()
            asked.output.parent.mkdir(parents=True, exist_ok=True)
            asked.output.write_text(json.dumps({**header, "rows": rows}, indent=1, default=str) + "\n")
    except KeyboardInterrupt:
        say("interrupted; stopping the stack")
        return 130
    except (StackError, RuntimeError) as error:
        say(f"given up: {error}")
        return 1
    finally:
        stack.down()
    show(rows)
    say(f"written: {asked.output}")
    return 0


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a table."""
    print(f"{'':<48} {'ours':>12} {'theirs':>12} {'ratio':>8}  goal")
    peer = None
    for each in rows:
        if each["peer"] != peer:
            peer = each["peer"]
            print(f"-- against {peer}")
        cells = [f"{each[side]:,}" if each[side] is not None else "-" for side in ("ours", "theirs")]
        met = {None: "", True: "met: ", False: "NOT met: "}[each["met"]]
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.2f}"
        print(
            f"{each['name']:<48} {cells[0]:>12} {cells[1]:>12} {ratio:>8}  {met}{each['goal'] or ''} ({each['unit']})"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
