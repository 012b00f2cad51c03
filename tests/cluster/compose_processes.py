"""docker-compose.yaml's services as processes of this machine: their commands, environment and health checks.

What an engine would give is put in its place: addresses (a port of this machine for each host), folders (one for each
volume), and of the images that are not ours the program that the image holds. All else is read from the file, so that
what was run here is what the file says.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from ruamel.yaml import YAML

from ratchet.settings import load_settings
from ratchet.stack import kafka as broker
from ratchet.stack import postgres
from ratchet.stack.config import load_config

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yaml").read_text())["services"]
READY_SECONDS, STOP_SECONDS = 300.0, 60.0
BROKERS = (1, 2, 3)
TOOLS = {"kafka-storage.sh": "kafka.tools.StorageTool", "kafka-server-start.sh": "kafka.Kafka"}
PORTS = (
    *("airflow", "mlflow", "postgres", "redis", "storage", "statsd", "worker-1", "worker-2", "scheduler"),
    *("scheduler-1", "scheduler-2", "kafka-1", "kafka-2", "kafka-3", "controller-1", "controller-2", "controller-3"),
)
OWNERS = ("DROP TRIGGER append_only ON audit", "DROP TABLE audit CASCADE", "CREATE TABLE mine (n integer)")
"""What only the ledger's owner may do."""
KEPT = ("HOME", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


@dataclass
class Services:
    """A profile's services below one folder, with the Python of the image's lock."""

    folder: Path
    python: Path
    port_base: int
    models: Path | None = None
    """Where the specs are, if not where the image has them."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.port = {name: self.port_base + place for place, name in enumerate(PORTS)}
        for name in ("secrets", "home", "airflow", "logs", "bin", "storage", "mlflow", "out"):
            (self.folder / name).mkdir(parents=True)
        self._programs()

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    # What an engine would give ---------------------------------------------------------------------------------------

    @property
    def _instead(self) -> Sequence[tuple[str, str]]:
        """What the file says, and what stands for it here; the longer ones first."""
        here, secrets = "127.0.0.1", str(self.folder / "secrets")
        return (
            ("postgres:5432", f"{here}:{self.port['postgres']}"),
            *((f"kafka-{node}:9092", f"localhost:{self.port[f'kafka-{node}']}") for node in BROKERS),
            ("kafka://kafka:9092", f"kafka://localhost:{self.port['kafka-1']}"),
            ("@redis:6379", f"@{here}:{self.port['redis']}"),
            ("storage:7070", f"{here}:{self.port['storage']}"),
            ("//mlflow:5000", f"//{here}:{self.port['mlflow']}"),
            ("api-server:8080", f"{here}:{self.port['airflow']}"),
            ("127.0.0.1:8080", f"{here}:{self.port['airflow']}"),
            ("127.0.0.1:5000", f"{here}:{self.port['mlflow']}"),
            ("/run/secrets", secrets),
            ("%2Frun%2Fsecrets", secrets.replace("/", "%2F")),
            ("%2Fvar%2Flib%2Fratchet", str(self.folder / "home").replace("/", "%2F")),
            ("/var/lib/ratchet", str(self.folder / "home")),
            ("/var/lib/storage", str(self.folder / "storage")),
            ("/var/lib/mlflow", str(self.folder / "mlflow")),
            ("/opt/ratchet", str(ROOT)),
            ("/etc/ratchet", str(ROOT / "deploy/kafka")),
            ("$$", "$"),
        )

    def _here(self, text: str) -> str:
        for said, instead in self._instead:
            text = text.replace(said, instead)
        return text

    def _programs(self) -> None:
        """Kafka's scripts, which its image has, over the jars of the local stack."""
        place = {"RATCHET_HOME": str(self.folder / "home")}
        config = load_config(load_settings(place), place)
        broker.fetch(config)
        for tool, main in TOOLS.items():
            file = self.folder / "bin" / tool
            classes = f"{broker.libraries(config)}/*"
            file.write_text(f'#!/bin/sh\nexec java $KAFKA_HEAP_OPTS $KAFKA_LOG4J_OPTS -cp "{classes}" {main} "$@"\n')
            file.chmod(0o755)

    def _image(self, name: str) -> dict[str, str]:
        """The image's own variables; each service has a home of its own for Airflow, as its container has."""
        home = self.folder / "airflow" / name
        if not home.exists():
            home.mkdir()
            (home / "logs").symlink_to(self.folder / "logs")
        own = {key: os.environ[key] for key in KEPT if key in os.environ}
        if name in self.port:  # where each container has a port of its own
            own["AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT"] = str(self.port[name])
            own["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(self.port[name])
        if self.models is not None:
            own["RATCHET_MODELS_DIR"] = str(self.models)
        return own | {
            "PATH": f"{self.python.parent}:{self.folder / 'bin'}:{ROOT / '.tools/bin'}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "RATCHET_ROOT": str(ROOT),
            "RATCHET_HOME": str(self.folder / "home"),
            "RATCHET_SECRETS": str(self.folder / "secrets" / "ratchet"),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__API__PORT": str(self.port["airflow"]),
            "AIRFLOW__API__HOST": "127.0.0.1",
        }

    def environment(self, service: str, name: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the service's process sees."""
        airflow = str(self.folder / "airflow" / name)
        asked = (SERVICES[service].get("environment") or {}).items()
        said = {key: self._here(str(value)).replace("/var/lib/airflow", airflow) for key, value in asked}
        if "AIRFLOW__METRICS__STATSD_HOST" in said:
            said["AIRFLOW__METRICS__STATSD_HOST"] = "127.0.0.1"
        said["AIRFLOW__METRICS__STATSD_PORT"] = str(self.port["statsd"])
        return self._image(name) | said | dict(more or {})

    def _command(self, service: str) -> list[str]:
        """Its command; where the image is ours, through the image's entrypoint."""
        found = SERVICES[service]
        command = [self._here(part) for part in found["command"]]
        if "build" in found:
            instead = {"0.0.0.0": "127.0.0.1", "5000": str(self.port["mlflow"])}
            return self.through([instead.get(part, part) for part in command])
        return [*found.get("entrypoint", ()), *command]

    def through(self, command: Sequence[str]) -> list[str]:
        """The command by the image's entrypoint."""
        return [str(self.python), str(ROOT / "deploy/container/entrypoint"), *command]

    # Starting and asking ----------------------------------------------------------------------------------------------

    def start(
        self,
        name: str,
        service: str | None = None,
        *,
        command: Sequence[str] | None = None,
        arguments: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> None:
        """The service as a process called ``name``, in a session of its own."""
        service = service or name
        whole = [*(command or self._command(service)), *arguments]
        with (self.folder / "out" / name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                whole,
                env=self.environment(service, name, more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def once(
        self, service: str, command: Sequence[str] | None = None, *, seconds: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A one-off service, or a command as ``docker compose exec <service>`` would run it."""
        whole = self._command(service) if command is None else self.through(list(command))
        environment = self.environment(service, f"once-{service}")
        done = subprocess.run(
            whole, env=environment, capture_output=True, text=True, timeout=seconds, cwd=self.folder, check=False
        )
        assert done.returncode == 0 or not check, f"{shlex.join(whole[2:])}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done

    def await_healthy(self, name: str, service: str | None = None, swap: Sequence[tuple[str, str]] = ()) -> None:
        """Wait until the service's own health check is content. ``swap`` is what differs among replicas."""
        service = service or name
        kind, *test = SERVICES[service]["healthcheck"]["test"]
        words = [self._here(word) for word in test]
        for said, instead in (("127.0.0.1:8974", f"127.0.0.1:{self.port.get(name)}"), *swap):
            words = [word.replace(said, instead) for word in words]
        if kind == "CMD-SHELL":
            words = ["/bin/sh", "-c", *words]
        elif words[0] == "airflow":
            words = self.through(words)
        environment = self.environment(service, name)

        def content() -> bool:
            return subprocess.run(words, check=False, env=environment, capture_output=True, timeout=60).returncode == 0

        self.until(f"{name} is healthy", content, every=1.0)
        self.say(f"{name} is healthy")

    def until(self, what: str, look: Callable[[], Any], *, seconds: float = READY_SECONDS, every: float = 0.25) -> Any:
        """The first answer of ``look`` that is not empty; a service that ended by itself meanwhile is told."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while not (found := look()):
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}: {self.tail(name)}"
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{self.tails()}"
            pause.wait(every)
        return found

    def tail(self, name: str, characters: int = 3000) -> str:
        """The end of what a service said."""
        return (self.folder / "out" / name).read_text(errors="replace")[-characters:]

    def tails(self) -> str:
        """The same of all."""
        return "\n".join(f"--- {name}\n{self.tail(name, 600)}" for name in self.running)

    # Ending -----------------------------------------------------------------------------------------------------------

    def family(self, name: str) -> list[psutil.Process]:
        """The service's process and all that it has started, as its container would hold."""
        try:
            first = psutil.Process(self.running[name].pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, name: str, when: Callable[[], Any] = lambda: True) -> bool:
        """``kill -9`` of everything in the container at once.

        ``when`` is asked while all stand still: where it says no they go on, and False is the answer.
        """
        family = self.family(name)
        for process in family:
            process.send_signal(signal.SIGSTOP)  # nobody of them sees the others die
        if not when():
            for process in family:
                process.send_signal(signal.SIGCONT)
            return False
        for process in family:
            process.kill()
        self.running.pop(name).wait(STOP_SECONDS)
        psutil.wait_procs(family[1:], STOP_SECONDS)
        return True

    def stop(self) -> None:
        """Everything, the last first, as an engine does: asked, then killed; nothing is left in any case."""
        families = [process for name in self.running for process in self.family(name)]
        try:
            for name, process in reversed(self.running.items()):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self.say(f"{name} does not stop: killed")
                    process.kill()
        finally:
            for left in families:
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()

    def powers(self, service: str) -> list[str]:
        """What of OWNERS the service can do in the ledger, by any login in its environment; nothing is kept of it."""
        shown = self.once(service, ["env", "-0"]).stdout.split("\0")
        found = [re.search(r"postgres(?:ql)?(?:\+\w+)?://([^/]+@[^/]+)/\w+$", line) for line in shown]
        addresses = {f"postgresql://{each[1]}/ratchet" for each in found if each}
        assert addresses, f"{service} has no address of a database"
        return [act for address in addresses for act in OWNERS if not _is_refused(address, act)]

    # The servers that are not ours ------------------------------------------------------------------------------------

    def database(self, name: str) -> str:
        """Where a database is, for psycopg2."""
        password = (self.folder / "secrets/postgres/postgres").read_text()
        return f"postgresql://ratchet:{password}@127.0.0.1:{self.port['postgres']}/{name}"

    def start_postgres(self) -> None:
        """The service ``postgres`` by the server of the local stack's wheel."""
        data, programs = self.folder / "postgres", postgres.binaries()
        password = self.folder / "secrets/postgres/postgres"
        made = subprocess.run(
            postgres.as_other_user(
                *(str(programs / "initdb"), "-D", str(data), "-U", "ratchet", "--pwfile", str(password)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        options = (f"port={self.port['postgres']}", "listen_addresses=127.0.0.1", "unix_socket_directories=")
        flags = [part for option in options for part in ("-c", option)]
        _, *said = SERVICES["postgres"]["command"]
        server = postgres.as_other_user(str(programs / "postgres"), "-D", str(data), *flags, *said)
        self.start("postgres", command=server)
        self.until("PostgreSQL answers", lambda: _listens(self.port["postgres"]))
        wanted = SERVICES["postgres"]["environment"]["POSTGRES_DB"]
        self.until("its first database", lambda: _make_database(self.database("postgres"), wanted))

    def build_data(self) -> None:
        """The flights, which are not in the image."""
        place = os.environ | {"RATCHET_HOME": str(self.folder / "home")}
        ratchet = str(Path(sys.executable).with_name("ratchet"))
        subprocess.run([ratchet, "data", "build"], env=place, check=True, capture_output=True)

    def start_redis(self) -> None:
        """The service ``redis`` by the ``redis-server`` of this machine."""
        self.start("redis", arguments=["--port", str(self.port["redis"]), "--bind", "127.0.0.1"])
        self.await_healthy("redis", swap=[("redis-cli ping", f"redis-cli -p {self.port['redis']} ping")])

    def start_storage(self) -> None:
        """The service ``storage``; a shell looks its program up."""
        *shell, said = self._command("storage")
        place = f"127.0.0.1:{self.port['storage']}"
        self.start("storage", command=[*shell, said.replace(":7070", place)])
        self.await_healthy("storage", swap=[("127.0.0.1:7070", place)])

    def start_brokers(self) -> None:
        """The three of the cluster."""
        voters = ",".join(f"{node}@localhost:{self.port[f'controller-{node}']}" for node in BROKERS)
        for node in BROKERS:
            self.start_broker(f"kafka-{node}", node, voters, "SSL")
        for node in BROKERS:
            self.await_broker(node)

    def await_broker(self, node: int) -> None:
        """Its health check needs the image's scripts, so whether its port answers is asked instead."""
        self.until(f"broker {node} answers", lambda: _listens(self.port[f"kafka-{node}"]))
        self.say(f"broker {node} answers")

    def start_broker(self, service: str, node: int, voters: str, protocol: str) -> None:
        """One broker, by the jars of the local stack."""
        scratch, port = self.folder / service, self.port[f"kafka-{node}"]
        scratch.mkdir()
        controller = self.port[f"controller-{node}"]
        more = {
            "SCRATCH": str(scratch),
            "DATA": str(scratch / "data"),
            "VOTERS": voters,
            "LISTENERS": f"{protocol}://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "ADVERTISED": f"{protocol}://localhost:{port}",
            "KAFKA_LOG4J_OPTS": f"-Dlog4j2.configurationFile={ROOT / 'deploy/kafka/log4j2.properties'}",
        }
        self.start(service, more=more)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _is_refused(dsn: str, statement: str) -> bool:
    """By PostgreSQL: the database is closed to this login, or this is not its to do."""
    try:
        with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.errors.InsufficientPrivilege:
        return True
    except psycopg2.OperationalError as error:
        return "permission denied for database" in str(error)
    return False


def _make_database(dsn: str, name: str) -> bool:
    try:
        connection = psycopg2.connect(dsn)
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    connection.close()
    return True


def missing(*programs: str) -> list[str]:
    """Which of them this machine has not."""
    path = f"{ROOT / '.tools/bin'}:{os.environ['PATH']}"
    return [program for program in programs if shutil.which(program, path=path) is None]
