"""The demo's year on docker-compose.yaml's cluster, while a worker and a triggerer are killed: as on one machine.

PostgreSQL, Redis, S3, three brokers with TLS, two schedulers, two triggerers, two Celery workers, all of them processes
of this machine. `RATCHET_CLUSTER_YEAR` is the report of the same year by `ratchet demo` on the local stack.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from compose_processes import Services

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(5400)]

WORKERS, TRIGGERERS, SCHEDULERS = (
    ("worker-1", "worker-2"),
    ("triggerer-1", "triggerer-2"),
    ("scheduler-1", "scheduler-2"),
)
YEAR_SECONDS, ACT_SECONDS = 4800.0, 900.0
WORKER_DIES_IN, TRIGGERER_DIES_AFTER = 3, 6
"""Attempts of the year, counted from 1."""
JUDGED = ("trigger", "verdict", "uplift", "lower", "upper", "unit", "champion_before", "champion_after", "challenger")


def start_worker(cluster: Services, name: str) -> None:
    cluster.start(name, "cluster-worker", arguments=["--celery-hostname", f"{name}@%h"])


def rows(cluster: Services, database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(cluster.database(database))) as connection, connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchall()


@pytest.fixture(scope="module")
def cluster(services: Services) -> Services:
    """Every service of ours that the profile starts, in its order, each by its own health check."""
    services.start_postgres()
    services.start_redis()
    services.start_storage()
    services.start_brokers()
    services.once("owner")
    services.once("cluster-init")
    services.say("cluster-init is done")
    # Before a scheduler could ask for a run by the wall clock, as `ratchet demo` does it on a stack of its own.
    services.once("cluster-worker", ["ratchet", "clock", "set", "replay", "2013-01-01T05:00:00Z"])
    services.build_data()
    services.start("cluster-mlflow")
    services.start("cluster-api-server")
    services.await_healthy("cluster-api-server")
    for name in SCHEDULERS:
        services.start(name, "cluster-scheduler")
    for name in TRIGGERERS:
        services.start(name, "cluster-triggerer")
    for name in WORKERS:
        start_worker(services, name)
    services.start("cluster-dag-processor")
    services.await_healthy("cluster-mlflow")
    for name in SCHEDULERS:
        services.await_healthy(name, "cluster-scheduler")
    services.await_healthy("cluster-dag-processor")
    for name in TRIGGERERS:
        services.await_healthy(name, "cluster-triggerer")
    for name in WORKERS:
        services.await_healthy(name, "cluster-worker", swap=[("celery@$HOSTNAME", f"{name}@{os.uname().nodename}")])
    return services


class Upsets:
    """Kills, while the year is lived beside it; what was done and when it was seen to be mended is kept."""

    def __init__(self, cluster: Services, lives: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._lives = lives
        self.attempt: str | None = None
        self.killed: list[str] = []
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            self._kill_a_worker()
            self._kill_the_triggerer_that_pumps()
        except BaseException as error:  # noqa: BLE001 - a thread's trouble is the test's
            self.failed = error

    def _until(self, what: str, look: Callable[[], Any], seconds: float) -> Any:
        def alive() -> Any:
            assert self._lives(), f"the year is over, and yet to come: {what}"
            return look()

        return self._cluster.until(what, alive, seconds=seconds, every=0.1)

    def _attempts(self) -> list[tuple[str, str]]:
        return rows(self._cluster, "ratchet", "SELECT id, state FROM attempt ORDER BY epoch")

    def _kill_a_worker(self) -> None:
        """While it evaluates a trial, and the other worker takes part as well unless it never does."""
        while not self.killed:
            attempt, name, trial = self._until("a worker at a trial", self._worker_at_a_trial, YEAR_SECONDS)
            if self._cluster.kill(name, when=lambda trial=trial, attempt=attempt: trial in self._trials(attempt)):
                self.attempt, self.killed = attempt, [name]
        self._cluster.say(f"killed {name} at a trial of {attempt}")
        self._until(f"the end of {attempt}", lambda: self._ended(attempt), ACT_SECONDS)
        self._cluster.say(f"{attempt} has ended without {name}, which starts again")
        start_worker(self._cluster, name)

    def _worker_at_a_trial(self) -> tuple[str, str, int] | None:
        attempts = self._attempts()
        if len(attempts) < WORKER_DIES_IN or attempts[-1][1] != "snapshotted":
            return None
        attempt, shares = attempts[-1][0], {name: self._shares(name) for name in WORKERS}
        patient = len(attempts) < WORKER_DIES_IN + 3
        if patient and not all(shares.values()):
            return None
        found = [
            (name, key) for key, share in self._trials(attempt).items() for name in WORKERS if share in shares[name]
        ]
        return (attempt, *found[0]) if found else None

    def _trials(self, attempt: str) -> dict[int, int]:
        """The trials of the attempt's study that are being evaluated, and by which of its tuning tasks."""
        asked = """
            SELECT trial_id, value_json::int FROM trials JOIN studies USING (study_id)
            JOIN trial_user_attributes USING (trial_id) WHERE study_name = %s AND state = 'RUNNING' AND key = 'worker'
        """
        return dict(rows(self._cluster, "optuna", asked, attempt))  # type: ignore[arg-type]

    def _shares(self, name: str) -> set[int]:
        """Which of the tuning tasks are the worker's."""
        found: set[int] = set()
        for process in self._cluster.family(name):
            with suppress(psutil.Error):
                title = re.match(r"airflow worker -- ([0-9a-f-]{36})", " ".join(process.cmdline()))
                if title:
                    asked = "SELECT map_index FROM task_instance WHERE id = %s AND task_id LIKE '%%tune%%'"
                    found.update(row[0] for row in rows(self._cluster, "airflow", asked, title[1]))
        return found

    def _ended(self, attempt: str | None) -> bool:
        return any(
            name == attempt and state in {"concluded", "failed", "abandoned"} for name, state in self._attempts()
        )

    def _kill_the_triggerer_that_pumps(self) -> None:
        """As soon as an attempt has ended, so that the next act's events come while it is away."""

        def due() -> bool:
            attempts = self._attempts()
            return len(attempts) >= TRIGGERER_DIES_AFTER and self._ended(attempts[TRIGGERER_DIES_AFTER - 1][0])

        self._until("the attempt after which the triggerer dies", due, YEAR_SECONDS)
        pid = int(
            str(rows(self._cluster, "ratchet", "SELECT instance FROM pump ORDER BY beat_at DESC")[0][0]).rpartition(
                ":"
            )[2]
        )
        name = next(n for n in TRIGGERERS if pid in {process.pid for process in self._cluster.family(n)})
        before = len(self._attempts())
        self._cluster.kill(name)
        self.killed.append(name)
        self._cluster.say(f"killed {name}, whose process {pid} took events in")
        self._until("an attempt without it", lambda: len(self._attempts()) > before, ACT_SECONDS)
        self._cluster.say(f"an attempt began without {name}, which starts again")
        self._cluster.start(name, "cluster-triggerer")


@pytest.fixture(scope="module")
def year(cluster: Services) -> dict[str, Any]:
    """What `ratchet demo --running` tells of its year, and of the kills meanwhile."""
    command = cluster.through(["ratchet", "demo", "--running", "--json"])
    out = cluster.folder / "year.json"
    with out.open("wb") as told, (cluster.folder / "out" / "demo").open("wb") as log:
        demo = subprocess.Popen(
            command, env=cluster.environment("cluster-worker", "demo"), stdout=told, stderr=log, cwd=cluster.folder
        )
        upsets = Upsets(cluster, lambda: demo.poll() is None)
        thread = threading.Thread(target=upsets.run, daemon=True)
        thread.start()
        try:
            code = demo.wait(YEAR_SECONDS)
        finally:
            demo.kill()
        thread.join(60)
    said = (cluster.folder / "out" / "demo").read_text()
    print(said)
    assert upsets.failed is None, upsets.failed
    assert code == 0, said[-6000:]
    cluster.say("the year is over")
    return json.loads(out.read_text()) | {"killed": upsets.killed, "upset": upsets.attempt}


@pytest.fixture(scope="module")
def one_machine() -> dict[str, Any]:
    """The report of the same year on the local stack."""
    report: dict[str, Any] = json.loads(Path(os.environ["RATCHET_CLUSTER_YEAR"]).read_text())
    return report


@pytest.mark.parametrize("service", ["cluster-worker", "cluster-mlflow", "cluster-init"])
def test_no_service_can_do_what_is_the_ledgers_owners(cluster: Services, service: str) -> None:
    assert cluster.powers(service) == []


def test_a_worker_and_a_triggerer_were_killed(year: dict[str, Any]) -> None:
    assert [name.partition("-")[0] for name in year["killed"]] == ["worker", "triggerer"]


def test_the_verdicts_are_those_of_one_machine(year: dict[str, Any], one_machine: dict[str, Any]) -> None:
    def judged(report: dict[str, Any]) -> list[dict[str, Any]]:
        return [{name: attempt[name] for name in JUDGED} for attempt in report["attempts"]]

    assert judged(year) == judged(one_machine)
    assert year["policies"] == one_machine["policies"]
    assert year["champion"] == one_machine["champion"]


def test_the_monitor_found_the_same(year: dict[str, Any], one_machine: dict[str, Any]) -> None:
    def found(report: dict[str, Any]) -> list[dict[str, Any]]:
        return [{name: value for name, value in look.items() if name != "report_uri"} for look in report["monitor"]]

    assert found(year) == found(one_machine)


def known_by(report: dict[str, Any]) -> Counter[tuple[str, str]]:
    """Its events; a run by hand is known by the moment in which it was started."""
    return Counter((re.sub(r"^manual__.*", "manual", event["id"]), event["type"]) for event in report["events"])


def test_no_event_is_without_a_fate_and_none_was_taken_twice(
    cluster: Services, year: dict[str, Any], one_machine: dict[str, Any]
) -> None:
    told = Counter((event["id"], event["type"]) for event in year["events"])
    assert set(told.values()) == {1}
    assert known_by(year) == known_by(one_machine)
    assert rows(cluster, "ratchet", "SELECT count(*) FROM event WHERE fate IN ('pending', 'claimed')") == [(0,)]
    offsets = rows(cluster, "ratchet", 'SELECT count(*), count(DISTINCT (topic, partition, "offset")) FROM record')
    assert offsets[0][0] == offsets[0][1] > 0


def test_the_lost_worker_cost_one_trial(cluster: Services, year: dict[str, Any]) -> None:
    story = json.loads(cluster.once("cluster-worker", ["ratchet", "trace", year["upset"], "--json"]).stdout)
    states = Counter(trial["state"] for trial in story["dossier"]["study"]["trials"])
    assert states["lost"] == 1
    assert states["finished"] + states["stopped"] == 12


def test_one_study_was_tuned_on_both_workers(cluster: Services, year: dict[str, Any]) -> None:
    tuned = rows(
        cluster,
        "airflow",
        "SELECT run_id, external_executor_id FROM task_instance WHERE task_id LIKE %s AND state = 'success'",
        "%tune%",
    )
    logs = {name: cluster.tail(name, 10**8) for name in WORKERS}
    of_run: dict[str, set[str]] = {}
    for run, task in tuned:
        of_run.setdefault(run, set()).update(name for name, log in logs.items() if task in log)
    assert any(len(names) == len(WORKERS) for names in of_run.values()), of_run


def test_what_was_kept_is_in_s3_and_can_be_judged_again(cluster: Services, year: dict[str, Any]) -> None:
    assert not (cluster.folder / "home" / "storage").exists()
    assert list((cluster.folder / "storage" / "ratchet").rglob("dossier*"))
    assert list((cluster.folder / "storage" / "mlflow").iterdir())
    replayed = cluster.once("cluster-worker", ["ratchet", "replay", "--all"]).stdout
    assert replayed.count("the same") == len(year["attempts"])
    cluster.once("cluster-worker", ["ratchet", "audit", "verify"])
