"""The bench's own stack: one broker and one PostgreSQL server for all contenders, a fresh Airflow for each.

It is the local stack of ``ratchet up`` in another home and on other ports. What differs: the DAG folder holds the
contender's DAGs alone, the models are copies of the shipped one, and training never gets a slot (pool ``bench_closed``
has none), so that a run of ours ends its part of the bench when its first task has claimed the events.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
from ruamel.yaml import YAML

from ratchet.bootstrap import wire
from ratchet.ports.ledger import ChampionRow
from ratchet.settings import environment, load_settings
from ratchet.stack import api, control, plan, units
from ratchet.stack.config import StackConfig, load_config, write_files
from ratchet.stack.units import Unit

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "include" / "models" / "flight_delay" / "model.yaml"
CLOSED_POOL = "bench_closed"
DEBOUNCE_SECONDS = 30
PEER_TOPIC = "bench.drift"
PEER_GROUP = "bench-shared"
READY_SECONDS = 600.0
Say = Callable[[str], None]


def write_specs(folder: Path, models: Sequence[str]) -> None:
    """The shipped spec under other names: its severity, its confirmations; no schedule, monitor or slot to train in."""
    yaml = YAML()
    for model in models:
        spec = yaml.load(SHIPPED.read_text())
        spec["model"] = model
        del spec["retrain"]["schedule"], spec["monitor"]
        spec["retrain"] |= {"debounce": f"{DEBOUNCE_SECONDS}s", "cooldown": "0s"}
        spec["runtime"]["pool"] = CLOSED_POOL
        file = folder / model / "model.yaml"
        file.parent.mkdir(parents=True)
        with file.open("w") as stream:
            yaml.dump(spec, stream)


class Stack:
    """Servers up once, Airflow up anew for each contender. Use it as the bench does; ``down`` in any case."""

    servers: tuple[str, ...] = ("postgres", "kafka")

    def __init__(self, home: Path, port_base: int, models: Sequence[str], say: Say) -> None:
        self._say = say
        self.models = tuple(models)
        self.home = home
        self._deployed = home / "deployed"
        os.environ |= {
            "RATCHET_HOME": str(home),
            "RATCHET_PORT_BASE": str(port_base),
            "RATCHET_MODELS_DIR": str(home / "models"),
        }
        self.config: StackConfig = load_config(load_settings(), environment())

    # Servers --------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """A new home; PostgreSQL and Kafka; both databases as every contender finds them, kept as templates."""
        api.down()
        shutil.rmtree(self.home)
        self.write_specs()
        self.config = load_config(load_settings(), environment())
        names = [name for server in self.servers for name in plan.GROUPS[server]]
        self._apply(units.closure(plan.build(self.config), names))
        ratchet = str(Path(sys.executable).with_name("ratchet"))
        for words in ("ledger migrate", "topics ensure", "deploy"):
            self._run(ratchet, *words.split())
        self._run(sys.executable, "-m", "ratchet.stack.prepare", "airflow-migrate")
        self._champions()
        self.query(
            "airflow", "INSERT INTO slot_pool (pool, slots, include_deferred) VALUES (%s, 0, false)", CLOSED_POOL
        )
        for name in ("airflow", "ratchet"):
            self.query("postgres", f"CREATE DATABASE {name}_fresh TEMPLATE {name}")

    def write_specs(self) -> None:
        """The models' specs, below the home."""
        write_specs(self.home / "models", self.models)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def _champions(self) -> None:
        """Every model has a champion, and data complete until now: what is admitted may run."""
        ratchet, now = wire(), datetime.now(UTC)
        with ratchet.ledger.transaction() as tx:
            for dataset, completeness in (("flights", 1.0), ("weather", None)):
                tx.advance_watermark(dataset, now, completeness)
            for model in self.models:
                tx.insert_champion(
                    ChampionRow(model, 1, 1, None, "init", now, "bench", "the bench starts with one", None, now)
                )
        ratchet.ledger.dispose()

    def _services(self, *names: str) -> list[Unit]:
        """These servers without the steps before them: what those make is in the templates."""
        return [replace(unit, after=()) for unit in plan.build(self.config) if unit.name in names]

    def _apply(self, wanted: Sequence[Unit], *, warm: bool = True) -> None:
        """Have exactly these units run; without ``warm`` the scheduler does not import what our training needs."""
        self.config.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        variables, began = write_files(self.config), time.time()
        if not warm:
            (self.home / "airflow" / "config" / "airflow_local_settings.py").write_text("")
        control.start(self.config.run, tuple(wanted), {**environment(), **variables})
        for name, row in control.progress(self.config.run, tuple(wanted), timeout=READY_SECONDS):
            if row["started_at"] >= began and (row["ready_after"] or 0) > 2:
                self._say(f"{name} {row['phase']} after {row['ready_after']:.0f} s")

    @staticmethod
    def down() -> None:
        """Stop everything."""
        api.down()

    # Airflow, once per contender ------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Stop Airflow; both databases are as new."""
        self._apply(self._services(*self.servers))
        for name in ("airflow", "ratchet"):
            self.renew(name)

    def renew(self, database: str) -> None:
        """Have the database as every contender finds it."""
        self.query("postgres", f"DROP DATABASE {database} WITH (FORCE)")
        self.query("postgres", f"CREATE DATABASE {database} TEMPLATE {database}_fresh")

    def deploy(self, sides: Sequence[str], *, form: str = "documented", triggerers: int = 1) -> None:
        """Start Airflow with the DAGs of ``ours``, ``peer`` or both, and wait until every watcher has a triggerer."""
        shutil.rmtree(self._deployed, ignore_errors=True)
        self._deployed.mkdir()
        for side in sides:
            (self._deployed / side).symlink_to({"ours": ROOT / "dags", "peer": ROOT / "bench" / "peer_dags"}[side])
        peer = {"form": form, "models": self.models, "topic": PEER_TOPIC}
        (self.home / "peer.json").write_text(json.dumps(peer))
        watchers = self._watchers(sides)
        variables = self._variables(form)
        if triggerers > 1:
            variables["AIRFLOW__TRIGGERER__CAPACITY"] = str(-(-watchers // triggerers))
        airflow = self._with(variables, "api-server", "scheduler", "dag-processor", "triggerer")
        triggerer = next(unit for unit in airflow if unit.name == "triggerer")
        airflow += [replace(triggerer, name=f"triggerer-{number}") for number in range(2, triggerers + 1)]
        self._apply([*self._services(*self.servers), *airflow], warm="ours" in sides)
        self.wait(f"{watchers} watchers", lambda: self._watched(watchers, triggerers))

    def _with(self, variables: Mapping[str, str], *names: str) -> list[Unit]:
        """These servers with variables of their own."""
        return [replace(unit, env={**unit.env, **variables}) for unit in self._services(*names)]

    def _watchers(self, sides: Sequence[str]) -> int:
        """How many there are in these sides' DAGs."""
        return (len(self.models) + 1) * ("ours" in sides) + len(self.models) * ("peer" in sides)

    def _variables(self, form: str) -> dict[str, str]:
        bundle = {
            "name": "bench",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(self._deployed)},
        }
        shared = {
            "bootstrap.servers": self.config.bootstrap,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        groups = {"shared": PEER_GROUP}
        if form == "message_queue":
            groups |= {model: f"bench-{model}" for model in self.models}
        return {
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
            "PYTHONPATH": str(ROOT / "bench" / "peer_dags"),
            "BENCH_PEER": str(self.home / "peer.json"),
            **{
                f"AIRFLOW_CONN_BENCH_{name.upper()}": json.dumps(
                    {"conn_type": "kafka", "extra": {**shared, "group.id": group}}
                )
                for name, group in groups.items()
            },
        }

    def _watched(self, watchers: int, triggerers: int) -> bool:
        shares = [count for _, count in self.shares()]
        return sum(shares) == watchers and len(shares) == triggerers

    def shares(self) -> list[tuple[int, int]]:
        """Which triggerer has how many watchers."""
        return self.query(
            "airflow",
            "SELECT triggerer_id, count(*) FROM trigger WHERE triggerer_id IS NOT NULL GROUP BY 1 ORDER BY 1",
        )

    def wait(self, what: str, look: Callable[[], bool]) -> None:
        """Wait for a condition, with progress."""
        began = said = time.monotonic()
        while not look():
            now = time.monotonic()
            if now - began > READY_SECONDS:
                raise RuntimeError(f"not within {READY_SECONDS:.0f} s: {what}. Logs: {self.home / 'logs'}")
            if now - said > 5:
                said = now
                self._say(f"waiting for {what}, {now - began:.0f} s")
            time.sleep(0.5)

    # Questions ------------------------------------------------------------------------------------------------------

    def pids(self, names: Sequence[str]) -> Mapping[str, int]:
        """The processes of those components that run."""
        rows = api.status()
        return {name: int(rows[name]["pid"]) for name in names if rows.get(name, {}).get("pid")}

    def query(self, database: str, statement: str, *values: Any) -> list[Any]:
        """All rows of one statement, in a connection of its own."""
        connection = psycopg2.connect(self.config.database(database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()
