"""One whole cycle on a running stack, from the event to the alias, beside a bare script of the same mathematics.

The shipped model with its own trials, window and workers, and without its monitor; its gate lets every challenger
through, so that each cycle ends in a promotion, and its debounce, cooldown and schedule, which wait on purpose, are not
measured: each cycle starts with a request to retrain, after four weeks of flights have arrived. The first champion and
a first cycle are for warming up. After each cycle the script (`bench.bare_script`) does the same in a process of its
own, and must come to the same model.

    python -m bench.whole_cycle               # its own stack, ports from 28480; always stopped at the end
    python -m bench.whole_cycle --cycles 1    # the rows go to bench/results, the trace to docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import sqlalchemy as sa
from ruamel.yaml import YAML

from bench.cycle_trace import Moments, by_owner, table, trace
from bench.reports import machine, write
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.ledger import schema
from ratchet.bootstrap import Ratchet, wire
from ratchet.cli import airflow_api
from ratchet.cli.year import DATASETS, Arrival, arrived
from ratchet.domain import events as cloudevents
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow import dossiers

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "include" / "models" / "flight_delay" / "model.yaml"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- the trace below is written by `python -m bench.whole_cycle` -->", "<!-- end of the trace -->"
MODEL = "flight_delay"
FIRST_DAY, FIRST_AS_OF, STEP = date(2013, 1, 1), date(2013, 7, 1), timedelta(days=28)
MOST_CYCLES = 5
PATIENCE_SECONDS = 900.0
LOOK_SECONDS = 0.05
SHARE_ABOVE, SECONDS_ABOVE = 1.15, 10.0
GOAL = "at most 15 % or 10 s above"
Found = TypeVar("Found")


def say(text: str) -> None:
    """One line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def until(what: str, look: Callable[[], Found | None]) -> Found:
    """The first answer that is not empty."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(LOOK_SECONDS)
    return found


def write_spec(models: Path) -> None:
    """The shipped spec without its monitor, whose gate lets all through and which waits for nothing on purpose."""
    yaml = YAML()
    spec = yaml.load(SHIPPED.read_text())
    del spec["retrain"]["schedule"], spec["monitor"]
    spec["retrain"] |= {"debounce": "1s", "cooldown": "0s"}
    spec["retrain"]["budget"]["runs_per_day"] = 50
    spec["retrain"]["on"]["data"]["min_new_rows"] = 1_000_000_000
    spec["gate"] |= {"mode": "non_inferiority", "min_uplift": 1000.0}
    spec["gate"]["guardrails"] = [
        {"metric": "expected_calibration_error", "max_regression": 1.0},
        {"metric": "payoff", "slice": "carrier", "max_regression": 1000.0, "min_rows": 500},
        {"metric": "latency_p95_ms", "max": 10_000},
    ]
    file = models / MODEL / "model.yaml"
    file.parent.mkdir(parents=True)
    with file.open("w") as stream:
        yaml.dump(spec, stream)


def command(*words: str) -> None:
    """Run a command of ours as a person does."""
    done = subprocess.run(
        [Path(sys.executable).with_name("ratchet"), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"ratchet {' '.join(words)}: {done.stdout}{done.stderr}")


class Cycles:
    """The running stack and how far its calendar has come."""

    def __init__(self, ratchet: Ratchet) -> None:
        self.ratchet = ratchet
        self.airflow = airflow_api.connect(ratchet.settings)
        self._feast = FeastFeatures(ratchet.settings.feature_repo_dir, ratchet.settings.data_dir)
        with ratchet.ledger.transaction() as tx:
            document = next(row for row in tx.specs() if row.model == MODEL).document
        self.spec = ModelSpec.model_validate(document)
        self.today = FIRST_DAY

    def publish(self, data: cloudevents.InboundData, subject: str, at: datetime) -> str:
        """Publish one event; the broker has it when this returns its id."""
        event_id = f"{subject}-{uuid.uuid4().hex[:12]}"
        event = cloudevents.new_event(data, id=event_id, source="/bench/cycle", subject=subject, time=at)
        self.ratchet.bus.publish(event.topic, *cloudevents.to_record(event))
        self.ratchet.bus.flush()
        return event_id

    def arrive(self, end: date) -> None:
        """The days up to ``end`` are complete, and the events that say so were decided on."""
        piece = Arrival(self.today, end)
        for dataset in DATASETS:
            rows = self._feast.count_rows(dataset, piece.start, piece.end)
            data = arrived(piece, dataset, rows, self.spec.data.spine.zone)
            event_id = self.publish(data, dataset, data.complete_until)
            until(f"a word on {event_id}", lambda i=event_id: self._event(i, decided=True))
        self.today = end

    def first_champion(self) -> None:
        """Half a year arrives, and a champion is made of it."""
        self.arrive(FIRST_AS_OF)
        command("champion", "init", MODEL)
        until("the first champion", lambda: self.ratchet.registry.alias_version(MODEL, "champion"))

    def cycle(self) -> tuple[Moments, AttemptRow]:
        """One request to retrain until its challenger serves."""
        self.arrive(self.today + STEP)
        with self.ratchet.ledger.transaction() as tx:
            business, before = tx.clock()[1], tx.current_champion(MODEL)
        assert before is not None
        published = datetime.now(UTC)
        asked = cloudevents.RetrainRequested(reason="bench", actor="bench")
        event_id = self.publish(asked, MODEL, business)
        rung: dict[str, datetime] = {}

        def promoted() -> AttemptRow | None:
            if bell := self._one(schema.doorbell, model=MODEL):
                rung["at"] = bell["rung_at"] or rung.get("at")
            row = self._event(event_id)
            with self.ratchet.ledger.transaction() as tx:
                attempt = tx.attempt(row["attempt_id"]) if row and row["attempt_id"] else None
            return attempt if attempt and attempt.state == "concluded" else None

        attempt = until("a promotion", promoted)
        if attempt.verdict != "promote":
            raise SystemExit(
                f"{attempt.id}: every challenger is let through here, but the verdict is {attempt.verdict}"
            )
        alias = until("the alias", lambda: self._alias_of(attempt))
        return self._moments(attempt, published, event_id, rung["at"], alias), attempt

    def _moments(
        self, attempt: AttemptRow, published: datetime, event_id: str, rung: datetime, served: datetime
    ) -> Moments:
        event, row = self._event(event_id), self._one(schema.attempt, id=attempt.id)
        assert event is not None
        assert row is not None
        with self.ratchet.ledger.transaction() as tx:
            steps = tx.steps(attempt.id)
        tasks: dict[str, list[tuple[datetime, datetime]]] = {}
        retrain = until("the end of the run's tasks", lambda: self._tasks(str(attempt.dag_id), str(attempt.dag_run_id)))
        for one in sorted(retrain, key=lambda one: int(one["map_index"])):
            tasks.setdefault(one["task_id"], []).append(_span(one))
        judged = tasks["judge"][0][1]
        acted = until("the end of promote", lambda: self._promote(judged - timedelta(seconds=30)))
        tasks["promote"] = [_span(acted)]
        workers = [name for name in sorted(steps) if name.startswith("tune.")]
        named = {"snapshot": ["snapshot"], "tune": workers, "judge": ["evaluate"]}
        bodies = {
            task: [(steps[name]["started_at"], steps[name]["finished_at"]) for name in names]
            for task, names in named.items()
        }
        path = f"/api/v2/dags/{attempt.dag_id}/dagRuns/{quote(str(attempt.dag_run_id), safe='')}/upstreamAssetEvents"
        heard = self.airflow.client.get(path).json()["asset_events"]
        return Moments(
            published=published,
            stored=event["received_at"],
            rung=rung,
            heard=min(datetime.fromisoformat(one["timestamp"]) for one in heard),
            claimed=row["created_at"],
            promoted=row["concluded_at"],
            served=served,
            tasks=tasks,
            steps=bodies,
        )

    def _tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]] | None:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='~')}/taskInstances"
        found = self.airflow.client.get(path, params={"limit": 100}).json()["task_instances"]
        return found if found and all(one["end_date"] for one in found) else None

    def _promote(self, since: datetime) -> dict[str, Any] | None:
        path = f"/api/v2/dags/promote__{MODEL}/dagRuns/~/taskInstances"
        found = self.airflow.client.get(path, params={"start_date_gte": since.isoformat()}).json()["task_instances"]
        return next((one for one in found if one["task_id"] == "promote" and one["end_date"]), None)

    def _event(self, event_id: str, *, decided: bool = False) -> dict[str, Any] | None:
        row = self._one(schema.event, event_id=event_id)
        return None if row is None or (decided and row["reason"] == "received") else row

    def _alias_of(self, attempt: AttemptRow) -> datetime | None:
        """When the alias had followed the promotion."""
        with self.ratchet.ledger.transaction() as tx:
            champion = tx.current_champion(MODEL)
        row = champion and self._one(schema.outbox, dedupe=f"alias:{MODEL}:{champion.seq}")
        known = self.ratchet.registry.alias_version(MODEL, "champion")
        return row["done_at"] if row and known == attempt.challenger_version else None

    def _one(self, table: sa.Table, **where: Any) -> dict[str, Any] | None:
        query = sa.select(table).where(*(table.c[name] == value for name, value in where.items()))
        with self.ratchet.ledger.engine.connect() as db:
            row = db.execute(query).mappings().first()
        return None if row is None else dict(row)

    def script(self, attempt: AttemptRow, folder: Path) -> dict[str, Any]:
        """The same by the bare script, in a new process: its parts, the whole of it, CPU seconds."""
        dossier = dossiers.read(self.ratchet.store, attempt)
        champion = self.ratchet.registry.download(MODEL, attempt.champion_version) if attempt.champion_version else None
        job = {
            "attempt": attempt.id,
            "spec": dossier["spec"]["document"],
            "plan": dossier["snapshot"]["plan"],
            "features": dossier["snapshot"]["features"],
            "categorical": dossier["snapshot"]["categorical"],
            "as_of": attempt.as_of.isoformat(),
            "trials": [one for one in dossier["study"]["trials"] if one["state"] in {"finished", "stopped"}],
            "best_trial": dossier["study"]["best_trial"],
            "best_params": dossier["study"]["params"],
            "seed": dossier["seed"],
            "champion": str(champion) if champion else None,
            "feature_repo": str(self.ratchet.settings.feature_repo_dir),
            "data_dir": str(self.ratchet.settings.data_dir),
            "mlflow_url": os.environ["RATCHET_BENCH_MLFLOW"],
            "lock_file": str(ROOT / "requirements.txt"),
        }
        file = folder / f"{attempt.id}.json"
        file.write_text(json.dumps(job))
        began, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "bench.bare_script", str(file)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, after = time.perf_counter() - began, os.times()
        if done.returncode:
            raise SystemExit(f"bench.bare_script: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if found["digest"] != attempt.model_digest:
            raise SystemExit(
                f"{attempt.id}: the script must come to the same model, but its digest is {found['digest']}"
            )
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return found | {"seconds": round(seconds, 2), "cpu": round(cpu, 1)}


def _span(instance: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(instance["start_date"]), datetime.fromisoformat(instance["end_date"])


def cpu_of_stack(pids: dict[str, int]) -> float:
    """CPU seconds of all servers and their children so far, reaped ones included."""
    total = 0.0
    for pid in pids.values():
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(pid)
            for process in (top, *top.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += sum(process.cpu_times()[:4])
    return total


def measure(cycles: Cycles, pids: dict[str, int], count: int, folder: Path) -> list[dict[str, Any]]:
    """The measured cycles, each followed by the script; the first is for warming up."""
    measured = []
    for turn in range(count + 1):
        before = cpu_of_stack(pids)
        moments, attempt = cycles.cycle()
        spent = cpu_of_stack(pids) - before
        script = cycles.script(attempt, folder)
        parts = trace(moments, script["parts"])
        say(f"cycle {turn} of {count}: {moments.seconds:.1f} s, the script {script['seconds']:.1f} s")
        if turn:
            measured.append(
                {
                    "attempt": attempt.id,
                    "seconds": round(moments.seconds, 2),
                    "cpu": round(spent, 1),
                    "script": script,
                    "by_owner": {whose: round(seconds, 2) for whose, seconds in by_owner(parts).items()},
                    "parts": parts,
                }
            )
    return measured


def rows_of(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cycle beside the script with its imports and without, and their CPU."""
    ours = [one["seconds"] for one in measured]
    whole = [one["script"]["seconds"] for one in measured]
    pure = [sum(one["script"]["parts"].values()) for one in measured]
    return [
        _row("whole cycle, warm", "bare script, same mathematics", ours, whole, "s", GOAL),
        _row("whole cycle, warm", "the bare script's mathematics, its imports not counted", ours, pure, "s", GOAL),
        _row(
            "whole cycle, CPU of the whole stack",
            "bare script, same mathematics",
            [one["cpu"] for one in measured],
            [one["script"]["cpu"] for one in measured],
            "CPU s",
            None,
        ),
    ]


def _row(name: str, peer: str, ours: list[float], theirs: list[float], unit: str, goal: str | None) -> dict[str, Any]:
    mine, other = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "peer": peer,
        "ours": round(mine, 1),
        "theirs": round(other, 1),
        "ratio": round(other / mine, 2),
        "unit": unit,
        "goal": goal,
        "met": None if goal is None else mine <= max(SHARE_ABOVE * other, other + SECONDS_ABOVE),
        "spread": {"ours": [min(ours), max(ours)], "theirs": [round(min(theirs), 1), round(max(theirs), 1)]},
    }


def tell(measured: list[dict[str, Any]]) -> str:
    """Write the trace of the median cycle into docs/performance.md."""
    chosen = sorted(measured, key=lambda one: one["seconds"])[len(measured) // 2]
    made = table(chosen["parts"])
    head, found, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{PAGE} must have the line {BEGIN}, below which the trace goes")
    PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}")
    return made


def main() -> None:
    """Bring a stack up, measure, print, write, and stop the stack whatever happens."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cycles", type=int, default=3, choices=range(1, MOST_CYCLES + 1))
    arguments.add_argument("--home", type=Path, default=ROOT / ".ratchet" / "bench-cycle")
    arguments.add_argument("--port-base", type=int, default=28480)
    arguments.add_argument("--cold", action="store_true", help="workers without warm-up; nothing is written")
    asked = arguments.parse_args()
    home = asked.home.resolve()
    os.environ |= {
        "RATCHET_HOME": str(home),
        "RATCHET_PORT_BASE": str(asked.port_base),
        "RATCHET_MODELS_DIR": str(home / "models"),
        "RATCHET_WARM_WORKERS": "off" if asked.cold else "on",
    }
    from ratchet.stack import api  # noqa: PLC0415 - it reads the variables above

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    api.down()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, mode=0o700)
    write_spec(home / "models")
    try:
        api.up(["postgres"])
        command("ledger", "migrate")
        command("clock", "set", "replay", "2013-01-01T05:00Z")
        say("bringing up the stack")
        config = api.up()
        os.environ["RATCHET_BENCH_MLFLOW"] = config.mlflow_url
        command("data", "build")
        ratchet = wire()
        cycles = Cycles(ratchet)
        say("the first champion")
        cycles.first_champion()
        pids = {name: int(row["pid"]) for name, row in api.status().items() if row["pid"]}
        measured = measure(cycles, pids, asked.cycles, home)
        ratchet.bus.close()
        ratchet.ledger.dispose()
    finally:
        api.down()
    rows = rows_of(measured)
    for row in rows:
        print(f"{row['name']}: {row['ours']} {row['unit']}; {row['peer']}: {row['theirs']}; goal: {row['goal']}")
    if asked.cold:
        print(table(sorted(measured, key=lambda one: one["seconds"])[len(measured) // 2]["parts"]))
        return
    print(tell(measured))
    told = [{**one, "parts": [vars(part) for part in one["parts"]]} for one in measured]
    write("whole_cycle", rows, machine(asked.cycles, "apache-airflow", "mlflow", "xgboost"), cycles=told)


if __name__ == "__main__":
    main()
