"""docker-compose.yaml and its scripts name only what the installed Airflow, MLflow and Ratchet know."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import pytest
import typer
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
from ruamel.yaml import YAML

import ratchet_airflow
from ratchet import cli
from ratchet.adapters.connections import EnvResolver, http_url, kafka_config, ledger_url, storage_url
from ratchet.stack.prepare import STEPS

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yaml").read_text())["services"]
HAS_CELERY = importlib.util.find_spec("airflow.providers.celery") is not None
HAS_FAB = importlib.util.find_spec("airflow.providers.fab") is not None
# What only the image has (requirements-cluster.txt), and make deploy-check looks at there.
OF_PROVIDERS = {"celery": HAS_CELERY, "users": HAS_FAB}

CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "ratchet_kafka": kafka_config,
    "ratchet_ledger": ledger_url,
    "ratchet_optuna": ledger_url,
    "ratchet_mlflow": http_url,
    "ratchet_storage": storage_url,
    "ratchet_metrics": lambda info: info.password,
}


def commands() -> list[list[str]]:
    """Every command line of the services, their health checks, and the scripts of the steps."""
    found = [service["command"] for service in SERVICES.values() if "build" in service]
    found += [service["healthcheck"]["test"][1:] for service in SERVICES.values() if "healthcheck" in service]
    scripts = "".join((ROOT / "deploy/container" / step).read_text() for step in ("owner", "init"))
    lines = [
        line for line in scripts.replace("\\\n", " ").splitlines() if re.match(r"\s*(airflow|ratchet|python) ", line)
    ]
    return found + [shlex.split(line) for line in lines]


def of(program: str) -> list[list[str]]:
    found = [line[1:] for line in commands() if line[0] == program]
    assert found
    return found


def test_airflow_takes_every_command_that_is_given_to_it() -> None:
    for arguments in of("airflow"):
        if OF_PROVIDERS.get(arguments[0], True):
            parsed = get_parser().parse_args([re.sub(r"^\$.*", "1", argument) for argument in arguments])
            assert callable(parsed.func)


@pytest.mark.skipif(not HAS_CELERY, reason="the Celery provider is in the image (requirements-cluster.txt)")
def test_the_worker_can_be_imported_with_the_locked_celery() -> None:
    assert importlib.import_module("airflow.providers.celery.executors.celery_executor").app


@pytest.mark.parametrize("service", sorted(name for name, found in SERVICES.items() if "environment" in found))
def test_airflow_reads_every_connection_as_the_command_line_does(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {name: str(value) for name, value in SERVICES[service]["environment"].items() if "_CONN_" in name}
    for name, uri in said.items():
        monkeypatch.setenv(name, uri)
    by_airflow, by_us = ratchet_airflow.AirflowResolver(), EnvResolver(said)
    for conn_id in (name.removeprefix("AIRFLOW_CONN_").lower() for name in said):
        convert = CONVERSIONS[conn_id]
        assert convert(by_airflow.resolve(conn_id)) == convert(by_us.resolve(conn_id))


def test_ratchet_takes_every_command_that_is_given_to_it() -> None:
    group: Any = typer.main.get_command(cli.app)
    for arguments in of("ratchet"):
        command, rest = group, arguments
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        assert command.make_context(arguments[0], list(rest)).params


def test_python_is_asked_for_modules_and_steps_that_exist() -> None:
    for flag, module, *rest in of("python"):
        assert flag == "-m"
        assert importlib.util.find_spec(module)
        if module == "ratchet.stack.prepare":
            assert rest[0] in STEPS


def test_airflow_knows_every_setting() -> None:
    described = conf.configuration_description
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            if variable.startswith("AIRFLOW__"):
                section, option = variable.removeprefix("AIRFLOW__").lower().split("__")
                if OF_PROVIDERS.get(section, True):
                    assert option in described[section]["options"], f"{name}: {variable}"


def test_airflow_knows_every_setting_of_the_charts_values() -> None:
    values = YAML(typ="safe").load((ROOT / "deploy/helm/values.yaml").read_text())
    for section, options in values["config"].items():
        assert set(options) <= set(conf.configuration_description[section]["options"]), section


def test_mlflow_knows_every_setting() -> None:
    source = Path(mlflow.environment_variables.__file__).parent
    files = [source / "environment_variables.py", source / "cli/__init__.py", *(source / "server").glob("*.py")]
    read = "".join(file.read_text() for file in files)
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            if variable.startswith("MLFLOW_"):
                assert variable in read, f"{name}: {variable}"
