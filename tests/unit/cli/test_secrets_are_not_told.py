"""Every connection holds a secret that can be recognised: nothing said while a server is away or refuses has it.

What is said: messages, the whole chain of tracebacks, everything logged at any level, both streams. The servers refuse
as the real ones do; with a real broker see test_kafka_secured.py.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import logging
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy as sa

from ratchet import cli
from ratchet.adapters import kafka_bus
from ratchet.adapters.connections import EnvResolver, parse_uri, storage_url
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.registry_mlflow import MlflowRegistry
from ratchet.adapters.telemetry import telemetry_of
from ratchet.bootstrap import Ratchet
from ratchet.cli import airflow_api
from ratchet.errors import RatchetError, Refused
from ratchet.ports.bus import DRIFT
from ratchet.records import RawRecord
from ratchet.settings import load_settings
from ratchet.stack.config import load_config
from ratchet.stack.control import StackError
from ratchet.stack.plan import build

LOCK_FILE = Path(__file__).parents[3] / "requirements.txt"
LOGIN = "robin"
SECRETS = {
    name: f"pl4nted/{name}%s@cret" for name in ("kafka", "ledger", "mlflow", "optuna", "storage", "airflow", "keys")
}
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
KINDS = ("away", "deaf", "refusing")


def forms(secret: str) -> set[str]:
    """How a secret may look in what is said."""
    basic = base64.b64encode(f"{LOGIN}:{secret}".encode()).decode()
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), secret.partition("/")[2], basic}


# Servers that refuse -------------------------------------------------------------------------------------------------


class Deaf(socketserver.BaseRequestHandler):
    """Takes a connection and drops it."""

    def handle(self) -> None:
        self.request.recv(1)


class RefusingPostgres(socketserver.StreamRequestHandler):
    """Asks for the password and does not like it (protocol 3.0)."""

    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            length, code = struct.unpack("!ii", self.rfile.read(8))
            while code in {SSL_REQUEST, GSS_REQUEST}:
                self.wfile.write(b"N")
                length, code = struct.unpack("!ii", self.rfile.read(8))
            self.rfile.read(length - 8)
            self.wfile.write(b"R" + struct.pack("!ii", 8, 3))
            kind, length = self.rfile.read(1), struct.unpack("!i", self.rfile.read(4))[0]
            self.server.heard = (kind, self.rfile.read(length - 4))  # type: ignore[attr-defined]
            fields = (
                b"SFATAL\0VFATAL\0C28P01\0M" + f'password authentication failed for user "{LOGIN}"'.encode() + b"\0\0"
            )
            self.wfile.write(b"E" + struct.pack("!i", 4 + len(fields)) + fields)


class RefusingHttp(http.server.BaseHTTPRequestHandler):
    """Answers with the server's status and tells what it was asked for, as many do."""

    server: Any

    def do_GET(self) -> None:
        self.server.got.append((self.path, self.headers.get("Authorization")))
        answer = self.server.answers.get(self.path.partition("?")[0])
        said = f"Cannot {self.command} {self.path}" if answer is None else json.dumps(answer)
        self.send_response(self.server.status if answer is None else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    do_POST = do_PATCH = do_GET  # noqa: N815 - the library's names

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler], status: int = 401) -> Iterator[Any]:
    kind = http.server.ThreadingHTTPServer if handler is RefusingHttp else socketserver.ThreadingTCPServer
    with kind(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.got, server.status, server.answers = [], status, {}  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture(params=KINDS)
def ports(request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    """Where each server should be: nobody listens, or what listens hangs up, or it refuses the login."""
    if request.param == "away":
        yield dict.fromkeys(("postgres", "http", "kafka"), closed_port())
        return
    refuses = request.param == "refusing"
    with (
        serving(RefusingPostgres if refuses else Deaf) as postgres,
        serving(RefusingHttp if refuses else Deaf) as web,
        serving(Deaf) as kafka,
    ):
        servers = {"postgres": postgres, "http": web, "kafka": kafka}
        yield {name: server.server_address[1] for name, server in servers.items()}


def connections(ports: dict[str, int]) -> dict[str, str]:
    def at(kind: str, name: str, port: str, rest: str) -> str:
        return f"{kind}://{LOGIN}:{quote(SECRETS[name], safe='')}@127.0.0.1:{ports[port]}/{rest}"

    return {
        "AIRFLOW_CONN_RATCHET_KAFKA": at("kafka", "kafka", "kafka", "?security_protocol=SASL_PLAINTEXT"),
        "AIRFLOW_CONN_RATCHET_LEDGER": at("postgres", "ledger", "postgres", "ratchet"),
        "AIRFLOW_CONN_RATCHET_MLFLOW": at("http", "mlflow", "http", ""),
        "AIRFLOW_CONN_RATCHET_OPTUNA": at("postgresql", "optuna", "postgres", "optuna"),
        "AIRFLOW_CONN_RATCHET_STORAGE": at("memory", "storage", "http", "bucket"),
        "AIRFLOW_CONN_RATCHET_HTTP_KEYS": json.dumps(
            {"conn_type": "generic", "extra": {"grafana": SECRETS["keys"] * 2}}
        ),
    }


# What is said --------------------------------------------------------------------------------------------------------


class Heard:
    """Everything that a call says, in one text."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._caplog, self._capfd = caplog, capfd

    def of(self, call: Callable[[], Any]) -> str:
        self._caplog.clear()
        said = ""
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is read like any other
            said = f"{error}\n{error!r}\n" + "".join(traceback.format_exception(error))
        out, err = self._capfd.readouterr()
        logged = [logging.Formatter("%(name)s %(message)s").format(record) for record in self._caplog.records]
        return "\n".join([said, out, err, *logged])


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> Heard:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # what the registry sets is taken back after the test
    monkeypatch.setattr(kafka_bus, "CLIENT", {"bootstrap_timeout_ms": 400, "reconnect_backoff_max_ms": 100})
    return Heard(caplog, capfd)


def assert_untold(said: str) -> None:
    told = [name for name, secret in SECRETS.items() if any(form in said for form in forms(secret))]
    assert not told, f"the secret of {told} is told in: {said}"


ADAPTERS: dict[str, Callable[[Ratchet], Any]] = {
    "ledger": lambda ratchet: ratchet.forecasts(),
    "ledger migration": lambda ratchet: ratchet.ledger.migrate(),
    "studies": lambda ratchet: ratchet.studies.names(),
    "study tables": lambda ratchet: ratchet.studies.prepare(),
    "mlflow by HTTP": lambda ratchet: ratchet.registry.alias_version("m", "champion"),
    "mlflow by its client": lambda ratchet: ratchet.registry.set_alias("m", "champion", 1),
    "kafka": lambda ratchet: ratchet.bus.lag("group"),
    "kafka topics": lambda ratchet: ratchet.bus.ensure_topics(),
    "kafka producer": lambda ratchet: (ratchet.bus.publish(DRIFT, b"k", b"v"), ratchet.bus.flush(0.5)),
    "storage": lambda ratchet: ratchet.store.get_bytes("dossiers/a.json"),
}


@pytest.mark.parametrize("part", ADAPTERS)
def test_no_part_tells_a_secret_when_its_server_is_away_or_refuses(
    ports: dict[str, int], heard: Heard, tmp_path: Path, part: str
) -> None:
    environment = connections(ports) | {"RATCHET_HOME": str(tmp_path)}
    settings = load_settings(environment)
    ratchet = Ratchet(EnvResolver(settings.connections), settings)
    said = heard.of(lambda: ADAPTERS[part](ratchet))
    assert any(how in said for how in ("Unavailable", "Refused", "MissingObject", "OperationalError")), (
        "the call was to fail"
    )
    assert_untold(said)
    assert_untold(repr((settings, ratchet._resolver)))


def test_the_login_does_reach_a_server_that_asks_for_it(heard: Heard) -> None:
    """Or the tests above would pass because no secret was ever used."""
    with serving(RefusingPostgres) as postgres, serving(RefusingHttp) as web:
        ports = {"postgres": postgres.server_address[1], "http": web.server_address[1], "kafka": closed_port()}
        settings = load_settings(connections(ports))
        ratchet = Ratchet(EnvResolver(settings.connections), settings)
        for part in ("ledger", "mlflow by HTTP", "mlflow by its client"):
            heard.of(lambda part=part: ADAPTERS[part](ratchet))
        assert postgres.heard == (b"p", SECRETS["ledger"].encode() + b"\0")
        basic = "Basic " + base64.b64encode(f"{LOGIN}:{SECRETS['mlflow']}".encode()).decode()
        assert len(web.got) >= 3
        assert {sent for _, sent in web.got} == {basic}


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_mlflow_quotes_no_login_whatever_it_answers(heard: Heard, status: int) -> None:
    with serving(RefusingHttp, status) as web:
        uri = f"http://{LOGIN}:{quote(SECRETS['mlflow'], safe='')}@127.0.0.1:{web.server_address[1]}"
        registry = MlflowRegistry(uri, lock_file=LOCK_FILE)
        for call in (lambda: registry.set_alias("m", "a", 1), lambda: registry.alias_version("m", "a")):
            assert_untold(heard.of(call))


def test_mlflow_prints_the_address_of_a_run_without_its_login(heard: Heard) -> None:
    """Its client does so when a run ends."""
    run = {"run_id": "r", "run_name": "r", "experiment_id": "1", "status": "FINISHED", "artifact_uri": "x"}
    with serving(RefusingHttp) as web:
        path = "/api/2.0/mlflow/runs"
        web.answers |= {f"{path}/update": {"run_info": run}, f"{path}/get": {"run": {"info": run, "data": {}}}}
        uri = f"http://{LOGIN}:{quote(SECRETS['mlflow'], safe='')}@127.0.0.1:{web.server_address[1]}"
        client = MlflowRegistry(uri, lock_file=LOCK_FILE)._client
        said = heard.of(lambda: client.set_terminated("r"))
        assert f"http://127.0.0.1:{web.server_address[1]}/#/experiments/1/runs/r" in said
        assert_untold(said)


def test_the_intake_logs_no_secret_and_keeps_none_in_its_heartbeat(ports: dict[str, int], heard: Heard) -> None:
    stop, told = threading.Event(), threading.Event()

    class Sink:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: []

        def store(self, records: list[RawRecord]) -> None:
            del records

    connection = parse_uri(connections(ports)["AIRFLOW_CONN_RATCHET_KAFKA"])
    loop = IntakeLoop(connection, "group", Sink(), stop, lambda _: told.set())  # type: ignore[arg-type]

    def pump() -> None:
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        for _ in range(100):
            if loop.last_error is not None or stop.wait(0.1):
                break
        stop.set()
        thread.join(12)

    said = heard.of(pump)
    assert loop.last_error is not None
    assert_untold(said + repr(loop.last_error) + repr(loop._heartbeat()))


COMMANDS = [
    "attempts",
    "approvals --json",
    "audit show",
    "audit verify",
    "champion show flight_delay",
    "champion init flight_delay",
    "clock show --json",
    "costs",
    "deploy",
    "events dead-letters --json",
    "intake --json",
    "ledger migrate",
    "monitor flight_delay",
    "notifications --json",
    "plan flight_delay",
    "predictions flight_delay",
    "purge",
    "report --json",
    "status --json",
    "topics ensure",
    "trace flight_delay@1",
    "verify",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_tells_a_secret_when_everything_is_away(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for name, value in connections(dict.fromkeys(("postgres", "http", "kafka"), closed_port())).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("RATCHET_AIRFLOW_URL", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("RATCHET_AIRFLOW_USER", LOGIN)
    monkeypatch.setenv("RATCHET_AIRFLOW_PASSWORD", SECRETS["airflow"])
    monkeypatch.setattr(sys, "argv", ["ratchet", *command.split()])
    said = heard.of(cli.main)
    assert "Usage" not in said, "the command was to run"
    assert_untold(said)


@pytest.mark.parametrize("status", [401, 500])
def test_the_login_to_airflow_is_told_by_no_error(heard: Heard, tmp_path: Path, status: int) -> None:
    with serving(RefusingHttp, status) as web:
        settings = replace(
            load_settings({"RATCHET_HOME": str(tmp_path)}),
            airflow_url=f"http://127.0.0.1:{web.server_address[1]}",
            airflow_user=LOGIN,
            airflow_password=SECRETS["airflow"],
        )
        assert_untold(heard.of(lambda: airflow_api.connect(settings)))
        inside = f"http://{LOGIN}:{quote(SECRETS['airflow'], safe='')}@127.0.0.1:{web.server_address[1]}"
        with pytest.raises(Refused, match="no login in it"):
            airflow_api.connect(replace(settings, airflow_url=inside))
        assert_untold(heard.of(lambda: airflow_api.connect(replace(settings, airflow_url=inside))))


def test_a_collector_of_traces_that_is_away_is_named_without_login_and_headers(heard: Heard) -> None:
    login, port = f"{LOGIN}:{quote(SECRETS['airflow'], safe='')}", closed_port()
    telemetry = telemetry_of(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{login}@127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={quote(SECRETS['keys'], safe='')}",
        }
    )
    said = heard.of(telemetry.flush)
    assert f"http://127.0.0.1:{port}/v1/traces" in said
    assert_untold(said)


# What is written wrongly ---------------------------------------------------------------------------------------------

UNESCAPED = ["pl4nted/x", "pl4nted?x", "pl4nted#x", "pl4nted[x", "pl4nted]x", "1234/x", "1234?x", "1234#x", "pl4nted℀"]


@pytest.mark.parametrize("password", UNESCAPED)
@pytest.mark.parametrize("kind", ["postgres", "kafka", "http", "s3"])
def test_of_a_password_that_was_not_escaped_not_a_piece_is_told(heard: Heard, password: str, kind: str) -> None:
    uri = f"{kind}://{LOGIN}:{password}@db:1/name"
    said = heard.of(lambda: parse_uri(uri))
    assert "percent-encoded" in said
    assert not [piece for piece in (password, "pl4nted", "1234") if piece in said]


def test_a_connection_as_json_that_is_wrong_is_refused_without_its_fields(heard: Heard) -> None:
    for text in (json.dumps({"port": SECRETS["ledger"]}), json.dumps({"password": SECRETS["ledger"]})[:-1]):
        said = heard.of(lambda text=text: parse_uri(text))
        assert "no JSON object" in said
        assert_untold(said)


def test_a_login_in_the_address_of_the_storage_is_refused_because_every_object_would_have_it(heard: Heard) -> None:
    url = f"s3://{LOGIN}:{quote(SECRETS['storage'], safe='')}@bucket/prefix"
    info = parse_uri(f"file:///?url={quote(url, safe='')}")
    with pytest.raises(Refused, match="no login in it"):
        storage_url(info)
    assert_untold(heard.of(lambda: storage_url(info)))


@pytest.mark.parametrize("password", [*UNESCAPED, "pl4%zz"])
def test_of_a_given_database_server_whose_password_was_not_escaped_nothing_is_told(
    heard: Heard, tmp_path: Path, password: str
) -> None:
    environment = {
        "RATCHET_HOME": str(tmp_path / "home"),
        "RATCHET_DATABASE_URL": f"postgresql://{LOGIN}:{password}@db.example:5432/postgres",
    }
    with pytest.raises(StackError, match="RATCHET_DATABASE_URL"):
        load_config(load_settings(environment), environment)
    said = heard.of(lambda: load_config(load_settings(environment), environment))
    assert not [piece for piece in (password, "pl4nted", "1234", "zz") if piece in said]


# What is kept or shown -----------------------------------------------------------------------------------------------


def test_neither_the_stack_nor_its_plan_shows_secrets(tmp_path: Path) -> None:
    environment = {
        "RATCHET_HOME": str(tmp_path / "home"),
        "RATCHET_DATABASE_URL": f"postgresql://{LOGIN}:{quote(SECRETS['ledger'], safe='')}@db.example:5432/postgres",
    }
    config = load_config(load_settings(environment), environment)
    shown = repr(config) + repr(build(config))
    assert_untold(shown)
    assert not [name for name, secret in config.secrets.items() if secret in shown]
    started = [" ".join(unit.argv) for unit in build(config)]
    assert_untold(str(started)), "anybody may list processes"
    assert not [name for name, secret in config.secrets.items() if any(secret in line for line in started)]


def test_values_given_to_the_ledger_are_in_no_error(heard: Heard, tmp_path: Path) -> None:
    """What was published or typed may hold anything, and errors go to logs."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()

    def ask() -> None:
        with ledger.transaction() as tx:
            tx._db.execute(sa.text("SELECT 1 FROM nowhere WHERE a = :a"), {"a": SECRETS["keys"]})  # type: ignore[attr-defined]

    said = heard.of(ask)
    assert "no such table: nowhere" in said
    assert_untold(said)
    ledger.dispose()


def test_a_dossier_names_the_environment_without_its_variables(tmp_path: Path, monkeypatch: Any) -> None:
    environment = connections(dict.fromkeys(("postgres", "http", "kafka"), 1)) | {"RATCHET_HOME": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(environment)
    assert_untold(json.dumps(Ratchet(EnvResolver(settings.connections), settings).environment()))


def test_what_is_looked_for_would_be_found(heard: Heard) -> None:
    def careless() -> None:
        logging.getLogger("any").debug("connecting to %s", f"http://{LOGIN}:{quote(SECRETS['mlflow'], safe='')}@m")
        raise RatchetError(f"login {SECRETS['kafka']} failed")

    with pytest.raises(AssertionError, match=r"\['kafka', 'mlflow'\]"):
        assert_untold(heard.of(careless))
