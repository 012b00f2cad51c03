"""Where the local stack listens, what its secrets are, and the variables that every part of it reads.

Taken from the environment: ``RATCHET_PORT_BASE`` (five ports from there on) or one variable per port
(``RATCHET_AIRFLOW_PORT``, ``RATCHET_MLFLOW_PORT``, ``RATCHET_KAFKA_PORT``, ``RATCHET_KAFKA_CONTROLLER_PORT``,
``RATCHET_POSTGRES_PORT``), and ``RATCHET_KAFKA_BOOTSTRAP`` or ``RATCHET_DATABASE_URL`` to use servers that run already.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from ratchet.adapters.connections import brokers_uri, parse_uri
from ratchet.errors import Refused
from ratchet.settings import Settings
from ratchet.stack import warm
from ratchet.stack.control import StackError
from ratchet.stack.supervisor import write_private

LOOPBACK = "127.0.0.1"
DEFAULT_PORT_BASE = 28080
PORT_NAMES = ("airflow", "mlflow", "kafka", "kafka_controller", "postgres")
LEDGER_DATABASE = "ratchet"
DATABASES = ("airflow", LEDGER_DATABASE, "mlflow", "optuna")
COMPONENTS_ROLE = "ratchet_components"
"""Who reads and writes the ledger in deploy/ and owns nothing of it."""
USERS = {"admin": "admin", "olga": "op", "ursula": "user", "vic": "viewer"}
SECRET_NAMES = ("fernet_key", "jwt_secret", "api_secret", "postgres", *USERS)


@dataclass(frozen=True)
class StackConfig:
    """Everything the plan is made from. ``database_url`` and ``kafka_bootstrap`` name servers of others, if any."""

    root: Path
    home: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)
    database_url: str | None = field(default=None, repr=False)
    kafka_bootstrap: str | None = None

    @property
    def run(self) -> Path:
        """The supervisor's folder."""
        return self.home / "run"

    def database(self, name: str, scheme: str = "postgresql") -> str:
        """The address of one of our databases, on our server or on the one given."""
        if self.database_url is None:
            authority = f"ratchet:{self.secrets['postgres']}@{LOOPBACK}:{self.ports['postgres']}"
            return f"{scheme}://{authority}/{name}"
        given = urlsplit(self.database_url)
        return f"{scheme}://{given.netloc}/{name}" + (f"?{given.query}" if given.query else "")

    @property
    def maintenance_dsn(self) -> str:
        """Where databases are created from."""
        return self.database_url or self.database("postgres")

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return self.kafka_bootstrap or f"{LOOPBACK}:{self.ports['kafka']}"

    @property
    def airflow_url(self) -> str:
        """The Airflow UI and API."""
        return f"http://{LOOPBACK}:{self.ports['airflow']}"

    @property
    def mlflow_url(self) -> str:
        """The MLflow UI and API."""
        return f"http://{LOOPBACK}:{self.ports['mlflow']}"


def ports_from(environment: Mapping[str, str]) -> dict[str, int]:
    """One port per server. Raises StackError for what is no port, or for one that is given twice."""
    base = _port("RATCHET_PORT_BASE", environment.get("RATCHET_PORT_BASE", str(DEFAULT_PORT_BASE)))
    ports = {}
    for offset, name in enumerate(PORT_NAMES):
        variable = f"RATCHET_{name.upper()}_PORT"
        ports[name] = _port(variable, environment.get(variable, str(base + offset)))
    if len(set(ports.values())) < len(ports):
        raise StackError(f"RATCHET_*_PORT: ports must differ, but got {ports}. Set RATCHET_PORT_BASE alone.")
    return ports


def _port(variable: str, value: str) -> int:
    if not value.isdigit() or not 1024 <= int(value) <= 65_530:
        raise StackError(f"{variable}: a port must be a number from 1024 to 65530, but got {value!r}")
    return int(value)


def keep_secrets(file: Path) -> dict[str, str]:
    """The secrets of this home: made once, then read. The file is readable by its owner alone."""
    kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    missing = [name for name in SECRET_NAMES if name not in kept]
    for name in missing:
        kept[name] = secrets.token_urlsafe(12 if name in USERS else 32)
        if name == "fernet_key":
            kept[name] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if missing:
        write_private(file, json.dumps(kept, indent=1))
    return kept


def _check_readable(url: str) -> None:
    """Raises StackError where PostgreSQL's own client would quote what it cannot read: it may be the password."""
    try:
        parse_uri(url)
    except Refused as refused:
        raise StackError(f"RATCHET_DATABASE_URL: {refused}") from None
    if re.search(r"%(?![0-9A-Fa-f]{2})", url):
        raise StackError("RATCHET_DATABASE_URL: a % in a login or password is written %25")


def load_config(settings: Settings, environment: Mapping[str, str]) -> StackConfig:
    """The configuration of this home; makes the folder (mode 700) and its secrets at the first call."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    database_url = environment.get("RATCHET_DATABASE_URL") or None
    scheme = (database_url or "").partition("://")[0]
    if database_url and scheme not in {"postgres", "postgresql"}:
        told = f", but its scheme is {scheme!r}" if "://" in database_url else ""
        raise StackError(f"RATCHET_DATABASE_URL: must be postgresql://user:password@host:port/database{told}")
    if database_url:
        _check_readable(database_url)
    return StackConfig(
        root=settings.root,
        home=settings.home,
        ports=ports_from(environment),
        secrets=keep_secrets(settings.home / "secrets.json"),
        database_url=database_url.replace("postgres://", "postgresql://", 1) if database_url else None,
        kafka_bootstrap=environment.get("RATCHET_KAFKA_BOOTSTRAP") or None,
    )


def inputs(config: StackConfig) -> dict[str, str]:
    """What this configuration was read from, so that a step reads the same."""
    ports = {f"RATCHET_{name.upper()}_PORT": str(port) for name, port in config.ports.items()}
    return {
        **ports,
        "RATCHET_DATABASE_URL": config.database_url or "",
        "RATCHET_KAFKA_BOOTSTRAP": config.kafka_bootstrap or "",
    }


def stack_environment(config: StackConfig) -> dict[str, str]:
    """The variables of every component, of the commands and of the tests: the content of ``stack.env``."""
    airflow_home = config.home / "airflow"
    own = {
        "RATCHET_HOME": str(config.home),
        "RATCHET_AIRFLOW_URL": config.airflow_url,
        "RATCHET_AIRFLOW_USER": "admin",
        "RATCHET_AIRFLOW_PASSWORD": config.secrets["admin"],
        "AIRFLOW_CONN_RATCHET_KAFKA": brokers_uri(config.bootstrap),
        "AIRFLOW_CONN_RATCHET_LEDGER": config.database("ratchet", "postgres"),
        "AIRFLOW_CONN_RATCHET_MLFLOW": config.mlflow_url,
        "AIRFLOW_CONN_RATCHET_OPTUNA": config.database("optuna", "postgres"),
        "AIRFLOW_CONN_RATCHET_STORAGE": f"file:///?url={quote(str(config.home / 'storage'), safe='')}",
        "MLFLOW_TRACKING_URI": config.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "DO_NOT_TRACK": "true",
        "FEAST_USAGE": "False",
        "NO_COLOR": "1",
    }
    airflow = {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(config.root / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(config.root / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": config.secrets["fernet_key"],
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(airflow_home / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{config.airflow_url}/execution/",
        "AIRFLOW__API__BASE_URL": config.airflow_url,
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(config.ports["airflow"]),
        "AIRFLOW__API__SECRET_KEY": config.secrets["api_secret"],
        "AIRFLOW__API_AUTH__JWT_SECRET": config.secrets["jwt_secret"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": config.database("airflow", "postgresql+psycopg2"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
        "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "60",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
    }
    return own | airflow


def write_files(config: StackConfig) -> dict[str, str]:
    """Write ``stack.env`` and Airflow's password file, both of mode 600; returns the variables."""
    variables = stack_environment(config)
    lines = ["# Written by `ratchet up`; what the process's own environment sets wins over it."]
    write_private(config.home / "stack.env", "\n".join([*lines, *(f"{k}={v}" for k, v in variables.items())]) + "\n")
    (config.home / "airflow" / "config").mkdir(parents=True, exist_ok=True)
    (config.home / "airflow" / "config" / "airflow_local_settings.py").write_text(warm.LOCAL_SETTINGS)
    (config.home / "storage").mkdir(exist_ok=True)
    passwords = {name: config.secrets[name] for name in USERS}
    write_private(config.home / "airflow" / "passwords.json", json.dumps(passwords))
    return variables
