"""The local stack as a plan: which units there are, what each waits for, how each says that it is ready."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from ratchet.stack import kafka, postgres
from ratchet.stack.config import LOOPBACK, StackConfig, inputs, stack_environment
from ratchet.stack.units import Unit

GROUPS: Mapping[str, tuple[str, ...]] = {
    "postgres": ("postgres", "databases"),
    "kafka": ("kafka",),
    "mlflow": ("mlflow",),
    "airflow": ("api-server", "scheduler", "dag-processor", "triggerer", "airflow-pool"),
}
RATCHET_STEPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # step: (arguments of the ratchet command, units it waits for)
    "ledger-migrate": (("ledger", "migrate"), ("databases",)),
    "topics": (("topics", "ensure"), ("kafka",)),
    "deploy": (("deploy",), ("ledger-migrate",)),
}
COMPONENTS = ("postgres", "kafka", "mlflow", "api-server", "scheduler", "dag-processor", "triggerer")
TRAINING_POOL_SLOTS = 2
# Five Python servers import at once; seen to take 15 s alone on two cores and 120 s on a crowded machine.
PYTHON_SERVER_SECONDS = 300.0
_HEARTBEATS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}


def _own_tool(name: str) -> str:
    """A console command of the environment that runs this."""
    return str(Path(sys.executable).with_name(name))


def _prepare(step: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ratchet.stack.prepare", step)


def _postgres(config: StackConfig) -> list[Unit]:
    if config.database_url is not None:
        return [Unit("databases", _prepare("databases"), kind="step")]
    return [
        Unit("postgres-init", _prepare("postgres"), kind="step"),
        Unit(
            "postgres",
            postgres.server_command(config),
            after=("postgres-init",),
            probe={"kind": "postgres", "dsn": config.maintenance_dsn},
            stop_signal=signal.SIGINT,
            ready_timeout=60,
        ),
        Unit("databases", _prepare("databases"), kind="step", after=("postgres",)),
    ]


def _kafka(config: StackConfig) -> list[Unit]:
    host, _, port = config.bootstrap.split(",")[0].rpartition(":")
    if config.kafka_bootstrap is not None:
        return [Unit("kafka", _prepare("kafka-given"), kind="step")]
    return [
        Unit("kafka-init", _prepare("kafka"), kind="step"),
        Unit(
            "kafka",
            kafka.server_command(config),
            after=("kafka-init",),
            probe={"kind": "kafka", "host": host, "port": int(port)},
            ready_timeout=90,
        ),
    ]


def _mlflow(config: StackConfig) -> Unit:
    return Unit(
        "mlflow",
        (
            *(sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(config.ports["mlflow"])),
            *("--workers", "1", "--artifacts-destination", str(config.home / "mlflow" / "artifacts")),
        ),
        env={
            "MLFLOW_BACKEND_STORE_URI": config.database("mlflow", "postgresql+psycopg2"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        after=("databases",),
        probe={"kind": "http", "url": f"{config.mlflow_url}/health"},
        ready_timeout=PYTHON_SERVER_SECONDS,
    )


def _airflow(config: StackConfig, after: tuple[str, ...]) -> list[Unit]:
    airflow = (sys.executable, "-m", "airflow")
    health = f"{config.airflow_url}/api/v2/monitor/health"
    needs = ("airflow-migrate", *after)
    return [
        Unit("airflow-migrate", _prepare("airflow-migrate"), kind="step", after=("databases",)),
        Unit("airflow-pool", _prepare("airflow-pool"), kind="step", after=("api-server",)),
        Unit(
            "api-server",
            (*airflow, "api-server"),
            after=needs,
            probe={"kind": "http", "url": health},
            ready_timeout=PYTHON_SERVER_SECONDS,
        ),
        *(
            Unit(
                name,
                (*airflow, name, *(() if name == "dag-processor" else ("--skip-serve-logs",))),
                after=needs,
                probe={"kind": "heartbeat", "url": health, "component": component},
                ready_timeout=PYTHON_SERVER_SECONDS,
            )
            for name, component in _HEARTBEATS.items()
        ),
    ]


def build(config: StackConfig) -> tuple[Unit, ...]:
    """Every unit of the stack in this home, each with all variables it needs: none comes from who started it first."""
    steps = [
        Unit(name, (_own_tool("ratchet"), *arguments), kind="step", after=after)
        for name, (arguments, after) in RATCHET_STEPS.items()
    ]
    airflow = _airflow(config, after=(*RATCHET_STEPS, "study-tables"))
    steps.append(Unit("study-tables", _prepare("study-tables"), kind="step", after=("databases",)))
    everything = (*_postgres(config), *_kafka(config), *steps, _mlflow(config), *airflow)
    variables = {**inputs(config), **stack_environment(config)}
    return tuple(replace(unit, env={**variables, **unit.env}) for unit in everything)


def own_ports(config: StackConfig) -> Mapping[str, int]:
    """The ports that our own servers are going to listen on, by server."""
    ours = dict(config.ports)
    if config.database_url is not None:
        del ours["postgres"]
    if config.kafka_bootstrap is not None:
        del ours["kafka"], ours["kafka_controller"]
    return ours


def database_host(config: StackConfig) -> str:
    """Where the databases live, without its secrets: for messages."""
    address = urlsplit(config.maintenance_dsn)
    return f"{address.hostname}:{address.port or 5432}"
