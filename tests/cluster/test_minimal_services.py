"""docker-compose.yaml's minimal profile as processes of this machine: all are healthy, one attempt gets its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from compose_processes import ROOT, SERVICES, Services

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]
MODEL = "flight_delay"
AIRFLOW = ("scheduler", "dag-processor", "triggerer")


@pytest.fixture(scope="module")
def minimal(services: Services) -> Services:
    """Every service of ours that the profile starts, in its order, each by its own health check."""
    services.models = services.folder / "home" / "models"
    subprocess.run([sys.executable, str(ROOT / "tests/integration/small_model.py"), str(services.models)], check=True)
    services.start_postgres()
    services.start_broker("kafka", 1, f"1@localhost:{services.port['controller-1']}", "PLAINTEXT")
    services.await_broker(1)
    services.once("owner")
    services.once("init")
    services.say("init is done")
    services.once("scheduler", ["ratchet", "clock", "set", "replay", "2013-04-01T05:00:00Z"])
    services.build_data()
    services.start("mlflow")
    services.start("api-server")
    services.await_healthy("api-server")
    for name in AIRFLOW:
        services.start(name)
    for name in ("mlflow", *AIRFLOW):
        services.await_healthy(name)
    return services


def told(minimal: Services, *words: str) -> Any:
    """A command as `docker compose exec scheduler` would run it."""
    return json.loads(minimal.once("scheduler", ["ratchet", *words, "--json"]).stdout)


def test_each_of_the_profiles_services_was_started(minimal: Services) -> None:
    steps = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    mine = {name for name, service in SERVICES.items() if "minimal" in service.get("profiles", ["minimal"])}
    assert mine - steps == set(minimal.running)


@pytest.mark.parametrize("service", [*AIRFLOW, "api-server", "mlflow", "init"])
def test_no_service_can_do_what_is_the_ledgers_owners(minimal: Services, service: str) -> None:
    assert minimal.powers(service) == []


def test_an_operator_is_told_who_may_and_may_there(minimal: Services) -> None:
    refused = minimal.once("scheduler", ["ratchet", "ledger", "grant", "ratchet_components"], check=False)
    assert "docker compose run --rm owner ratchet ledger" in refused.stderr
    minimal.once("owner", ["ratchet", "ledger", "status"])
    minimal.once("owner", ["ratchet", "ledger", "grant", "ratchet_components"])


def test_an_event_from_kafka_ends_in_a_verdict(minimal: Services) -> None:
    for dataset in ("weather", "flights"):
        words = ("publish", "data", dataset, "--complete-until", "2013-04-01T04:00:00Z", "--new-rows", "30000")
        complete = ("--label-completeness", "1.0") if dataset == "flights" else ()
        told(minimal, *words, *complete)
    minimal.once("scheduler", ["ratchet", "champion", "init", MODEL, "--reason", "the first on Compose's services"])
    found = told(minimal, "attempts")
    assert [attempt["verdict"] for attempt in found] == ["promote"], found
    fates = {event["type"]: event["fate"] for event in told(minimal, "events", "--model", MODEL)}
    assert fates["ratchet.data.arrived.v1"] == "merged"
    assert set(fates.values()) <= {"started", "merged"}, fates
    assert told(minimal, "champion", "show", MODEL)
