"""A fleet of so many models on a real stack, and what `bench.scale` asks of it, of a large and of a small one.

The stack is that of `bench.intake_stack` with MLflow, and our DAGs alone. The models are copies of the shipped spec
with its monitor, so four DAGs and two watchers each; training never gets a slot, so a run ends its part when it has
claimed.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from ruamel.yaml import YAML

from bench.intake_events import Broker, Record, request, storm
from bench.intake_meter import Meter
from bench.intake_stack import CLOSED_POOL, SHIPPED, Say, Stack
from bench.web import AIRFLOW_LIST, FIRST_PAGE, LIST, PEOPLE, TEAMS, Servers, ask, cpu_of, memory_mb
from bench.web_history import Past
from ratchet.api.app import PREFIX
from ratchet.bootstrap import wire
from ratchet.domain import events as cloudevents
from ratchet.ports.bus import INBOUND_TOPICS
from ratchet.ports.ledger import MonitoredRow
from ratchet.workflow.deciding import spec_of
from ratchet.workflow.monitoring import end_of, newest_end
from ratchet.workflow.promotion import release

DAGS_OF_A_MODEL = 4
OWN_DAGS = ("ratchet__intake", "ratchet__sweep", "ratchet__selftest")
WATCHERS_OF_A_MODEL = 2
CAPACITY = 2_000
"""Of the triggerer; Airflow's own 1,000 would leave watchers of 500 models without one."""
DRIFT_TOPIC, ARRIVALS_TOPIC, REQUESTS_TOPIC = INBOUND_TOPICS
STORM, ARRIVAL = "/bench/scale/storm", "/bench/scale/arrival"
PATIENCE_SECONDS = 300.0
METRICS = f"{PREFIX}/v1/metrics"


def write_specs(folder: Path, models: Sequence[str]) -> None:
    """The shipped spec under other names, of ten teams: an hour's debounce, no cooldown, schedule or slot to train in.

    With a schedule Airflow would start a run of each at once, for the date that passed before the models were there.
    """
    yaml = YAML()
    for number, model in enumerate(models):
        spec = yaml.load(SHIPPED.read_text())
        spec["model"] = model
        spec["owner"]["team"] = f"team-{number % TEAMS}"
        del spec["retrain"]["schedule"]
        spec["retrain"] |= {"debounce": "1h", "cooldown": "0s"}
        spec["runtime"]["pool"] = CLOSED_POOL
        file = folder / model / "model.yaml"
        file.parent.mkdir(parents=True)
        with file.open("w") as stream:
            yaml.dump(spec, stream)


class Fleet(Servers):
    """One fleet; ``prepare`` it, then ask, and take it ``down`` in any case."""

    servers = ("postgres", "kafka", "mlflow")

    def __init__(self, home: Path, port_base: int, count: int, say: Say) -> None:
        super().__init__(home, port_base, [f"model_{number:03}" for number in range(count)], say)
        self._pick = random.Random(count)

    def prepare(self) -> None:
        """A new home with servers, topics, and both databases with the models deployed."""
        Stack.prepare(self)
        self._settle()

    def write_specs(self) -> None:
        """The models' specs, below the home."""
        write_specs(self.home / "models", self.models)

    def _spec(self, model: str) -> Path:
        return self.home / "models" / model / "model.yaml"

    def _champions(self) -> None:
        """Left to ``_settle``: the templates are without, for what is written into them later has its own."""

    def _settle(self) -> None:
        """A champion that MLflow knows, complete data and a monitor that has looked today, for each: nothing is due."""
        super()._champions()
        registry = MlflowClient(self.config.mlflow_url)
        for model in self.models:
            registry.create_registered_model(model)
            registry.create_model_version(model, f"s3://nothing/{model}", await_creation_for=0)
            registry.set_registered_model_alias(model, "champion", "1")
        ratchet = wire()
        with ratchet.ledger.transaction() as tx:
            for row in tx.registered():
                spec = spec_of(tx, row.digest)
                end = newest_end(tx, spec)
                if end is not None:
                    tx.save_monitored(MonitoredRow(row.model, end_of(spec, end), "done", row.digest, 1))
                tx.unmark(row.model)
        ratchet.ledger.dispose()

    def _watchers(self, sides: Sequence[str]) -> int:
        return WATCHERS_OF_A_MODEL * len(self.models) + 1 if "ours" in sides else 0

    def _variables(self, form: str) -> dict[str, str]:
        return super()._variables(form) | {"AIRFLOW__TRIGGERER__CAPACITY": str(CAPACITY)}

    @cached_property
    def broker(self) -> Broker:
        """The fleet's."""
        return Broker(self.config.bootstrap)

    @property
    def dags(self) -> int:
        """How many there are."""
        return DAGS_OF_A_MODEL * len(self.models) + len(OWN_DAGS)

    # DAG parse ------------------------------------------------------------------------------------------------------

    def parse(self, changes: int) -> dict[str, Any]:
        """Start Airflow; how long until it knows all DAGs, and later a changed spec."""
        self.deploy(["ours"])
        began = psutil.Process(self.pids(["dag-processor"])["dag-processor"]).create_time()
        self.wait(f"{self.dags} DAGs", lambda: self._known()[0] >= self.dags)
        count, last = self._known()
        took = [self._change(model) for model in self._pick.sample(self.models, changes)]
        return {
            "dags": count,
            "first_known_seconds": round(last - began, 1),
            "file_seconds": self._file_seconds(),
            "changed_spec_seconds": took,
        }

    def _known(self) -> tuple[int, float]:
        """How many DAGs there are in Airflow's database, and when the last of them came."""
        ((count, last),) = self.query(
            "airflow",
            "SELECT count(DISTINCT dag_id), coalesce(extract(epoch FROM max(created_at)), 0) FROM dag_version",
        )
        return int(count), float(last)

    def _file_seconds(self) -> float:
        """What Airflow says the file of all models took, from its process's start to its end."""
        ((seconds,),) = self.query("airflow", "SELECT max(last_parse_duration) FROM dag WHERE dag_id LIKE 'retrain%%'")
        return round(float(seconds or 0), 1)

    def _change(self, model: str) -> float:
        """Seconds from another team in the spec to its name on Airflow's page."""
        time.sleep(self._pick.uniform(0, 30))  # anywhere in the processor's round
        name, file = f"changed-{self._pick.random()}", self._spec(model)
        yaml = YAML()
        spec = yaml.load(file.read_text())
        spec["owner"]["team"] = name
        with file.open("w") as stream:
            yaml.dump(spec, stream)
        began = time.time()
        self.wait(
            f"{model}'s new team in Airflow",
            lambda: self.query("airflow", "SELECT owners FROM dag WHERE dag_id = %s", f"retrain__{model}") == [(name,)],
        )
        return round(time.time() - began, 1)

    # Nothing to do --------------------------------------------------------------------------------------------------

    def idle(self, seconds: float) -> dict[str, Any]:
        """What each component takes while nothing is due: CPU seconds per minute, and the peak of its memory."""
        dag_processor = psutil.Process(self.pids(["dag-processor"])["dag-processor"])
        before, parsed = dag_processor.cpu_times(), set()
        with Meter(self) as meter:
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                parsed |= set(self.query("airflow", "SELECT max(last_parsed_time) FROM dag WHERE dag_id LIKE 'retr%%'"))
                time.sleep(1)
            took = time.monotonic() - began
        after = dag_processor.cpu_times()
        minutes, rounds = took / 60, sorted(at for (at,) in parsed)
        gaps = [(one - before).total_seconds() for before, one in pairwise(rounds)]
        manager = after.user + after.system - before.user - before.system
        return {
            "seconds": round(took, 1),
            "cpu_per_minute": {name: round(spent / minutes, 2) for name, spent in meter.result["cpu_seconds"].items()},
            "dag_processor_stores_per_minute": round(manager / minutes, 2),
            "parsed_every_seconds": round(statistics.median(gaps), 1) if gaps else None,
            "peak_mb": meter.result["peak_mb_by_component"],
            "airflow_rows": meter.result["airflow_rows"],
            "sweep_seconds": self.sweeps(),
        }

    def sweeps(self, since: float = 0.0) -> list[float]:
        """Seconds that each sweep's task took, of those that began since then, the newest first."""
        rows = self.query(
            "airflow",
            "SELECT extract(epoch FROM end_date - start_date) FROM task_instance WHERE task_id = 'sweep' "
            "AND state = 'success' AND extract(epoch FROM start_date) >= %s ORDER BY start_date DESC LIMIT 5",
            since,
        )
        return [round(float(seconds), 2) for (seconds,) in rows]

    # Parsed seldom --------------------------------------------------------------------------------------------------

    def seldom(self, models: Sequence[str], interval: int) -> dict[str, Any]:
        """Have the DAG processor read its file every so many seconds only, and claim one at a time again."""
        began, variables = time.time(), self._variables("documented")
        variables["AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"] = str(interval)
        others = self._with(self._variables("documented"), "api-server", "scheduler", "triggerer")
        self._apply([*self._services(*self.servers), *others, *self._with(variables, "dag-processor")])
        last = "SELECT extract(epoch FROM min(last_parsed_time)) FROM dag WHERE dag_id LIKE 'retrain%%'"
        self.wait("a parse", lambda: self.query("airflow", last)[0][0] > began)
        return {"min_file_process_interval": interval, **self.calm(models)}

    # Claims ---------------------------------------------------------------------------------------------------------

    def calm(self, models: Sequence[str]) -> dict[str, Any]:
        """One request every few seconds, each to a model that has no run."""
        told = {}
        for model in models:
            told |= self._publish([request("/bench/scale/calm", model)])
            time.sleep(self._pick.uniform(3, 6))
        return self._claims(told)

    def burst(self, models: Sequence[str]) -> dict[str, Any]:
        """Requests to all of these at once; then what a sweep takes while so many attempts are held."""
        with Meter(self) as meter:
            began = time.time()
            told = self._publish([request("/bench/scale/burst", model) for model in models])
            claims = self._claims(told)
        ended = time.time()
        with suppress(RuntimeError):
            self.wait("two sweeps", lambda: len(self.sweeps(ended)) >= 2)
        seconds = max(claims["to_claim_seconds"])
        return {
            "models": len(models),
            "all_claimed_seconds": round(seconds, 1),
            "seconds_per_claim": round(seconds / len(models), 3),
            "cpu_seconds": meter.result["cpu_seconds"],
            "measured_seconds": round(ended - began, 1),
            "airflow_rows": meter.result["airflow_rows"],
            "sweep_seconds": self.sweeps(ended),
            **claims,
        }

    def _publish(self, records: Sequence[Record]) -> dict[str, float]:
        began = time.time()
        self.broker.publish(REQUESTS_TOPIC, records)
        return {record.model: began for record in records}

    def _claims(self, told: Mapping[str, float]) -> dict[str, Any]:
        """Seconds from the publishing to the attempt, and of the claim's task, when all have been claimed."""
        self.wait(f"{len(told)} claims", lambda: len(self._claimed(told)) >= len(told))
        claimed = self._claimed(told)
        tasks = self.query(
            "airflow",
            "SELECT extract(epoch FROM end_date - start_date) FROM task_instance "
            "WHERE task_id = 'claim' AND state = 'success' AND dag_id = ANY(%s) AND start_date >= to_timestamp(%s)",
            [f"retrain__{model}" for model in told],
            min(told.values()),
        )
        return {
            "to_claim_seconds": sorted(round(claimed[model] - told[model], 2) for model in told),
            "claim_task_seconds": sorted(round(float(seconds), 2) for (seconds,) in tasks),
        }

    def _claimed(self, told: Mapping[str, float]) -> dict[str, float]:
        rows = self.query(
            "ratchet",
            "SELECT model, extract(epoch FROM created_at) FROM attempt "
            "WHERE model = ANY(%s) AND created_at >= to_timestamp(%s)",
            list(told),
            min(told.values()),
        )
        return {model: float(at) for model, at in rows}

    def free(self) -> None:
        """End every attempt, and its events with it."""
        ratchet = wire()
        with ratchet.ledger.transaction() as tx:
            for lease in tx.leases():
                attempt = tx.attempt(lease.attempt_id) if lease.attempt_id else None
                if attempt is not None:
                    release(tx, attempt, "abandoned", "the bench goes on", 1)
        ratchet.ledger.dispose()

    # Storm ----------------------------------------------------------------------------------------------------------

    def storm(self, count: int, seed: int) -> dict[str, Any]:
        """So many drift events in turns, as fast as Kafka takes them: until all are stored, and have a fate."""
        records = storm(STORM, self.models, count, seed)
        with Meter(self) as meter:
            began = time.time()
            self.broker.publish(DRIFT_TOPIC, records)
            published = time.time() - began
            self.wait(f"{count:,} fates", lambda: self._fated(STORM) >= count)
            fated = time.time() - began
        ((stored,),) = self.query(
            "ratchet", "SELECT extract(epoch FROM max(received_at)) FROM event WHERE source = %s", STORM
        )
        stored_seconds = float(stored) - began
        cpu = meter.result["cpu_seconds"]
        return {
            "events": count,
            "published_seconds": round(published, 1),
            "stored_per_second": round(count / stored_seconds),
            "stored_seconds": round(stored_seconds, 1),
            "fated_seconds": round(fated, 1),
            "cpu_seconds": cpu,
            "triggerer_cpu_us_per_event": round(cpu["triggerer"] / count * 1e6),
            "peak_mb": meter.result["peak_mb_by_component"],
            "ledger_rows": meter.result["ledger_rows"],
        }

    def arrival(self, seconds: float) -> dict[str, Any]:
        """One arrival of data that concerns every model: until each has decided; and what it costs within so long."""
        data = cloudevents.DataArrived(
            dataset="flights", complete_until=datetime.now(UTC), new_rows=1_000, label_completeness=1.0
        )
        event = cloudevents.new_event(data, id=ARRIVAL, source=ARRIVAL, subject=data.dataset, time=data.complete_until)
        key, value, headers = cloudevents.to_record(event)
        with Meter(self) as meter:
            began = time.monotonic()
            self.broker.publish(ARRIVALS_TOPIC, [Record(ARRIVAL, data.dataset, key, value, list(headers))])
            self.wait("a fate of each", lambda: self._fated(ARRIVAL) >= len(self.models))
            fated = time.monotonic() - began
            time.sleep(max(0.0, seconds - fated))
            took = time.monotonic() - began
        return {
            "fated_seconds": round(fated, 1),
            "measured_seconds": round(took, 1),
            "cpu_seconds": meter.result["cpu_seconds"],
            "peak_mb": meter.result["peak_mb_by_component"],
        }

    def _fated(self, source: str) -> int:
        ((count,),) = self.query(
            "ratchet", "SELECT count(*) FROM event WHERE source = %s AND reason <> 'received'", source
        )
        return int(count)

    # Page -----------------------------------------------------------------------------------------------------------

    def page(self, rounds: int) -> dict[str, Any]:
        """A past for each model, and the api-server alone: lists, first page, metrics, beside Airflow's own list."""
        self._apply(self._services("postgres", "kafka"))
        self.renew("ratchet")
        made = wire()
        rows = Past(made).write()
        made.ledger.dispose()
        self.query("airflow", "ANALYZE")
        pid = self.serve()
        clients = [self.client(person) for person in PEOPLE]
        paths = [LIST, *self._further(clients[0]), METRICS, FIRST_PAGE, AIRFLOW_LIST]
        asked = ask(clients, paths, rounds, cpu_of(pid))
        told = {path: each.told() for path, each in asked.items()}
        return {"rows": rows, "paths": told, "whole_list": list(paths[: paths.index(METRICS)]), "mb": memory_mb(pid)}

    @staticmethod
    def _further(client: Any) -> Iterator[str]:
        """The list's other pages, by its cursors."""
        following = client.get(LIST).raise_for_status().json()["next"]
        while following:
            yield f"{LIST}&cursor={following}"
            following = client.get(f"{LIST}&cursor={following}").raise_for_status().json()["next"]
