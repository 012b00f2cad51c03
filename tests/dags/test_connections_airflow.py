"""Airflow splits a URI its own way: what comes out for a driver must be what the environment's way gives."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

import ratchet_airflow
from ratchet.adapters.connections import (
    UnknownConnection,
    http_url,
    kafka_config,
    ledger_url,
    parse_uri,
    storage_url,
)

pytestmark = pytest.mark.airflow

URIS = {
    "ratchet_kafka": "kafka://127.0.0.1:9092?security_protocol=PLAINTEXT",
    "ratchet_ledger": "postgres://me:s%40cret%2F@127.0.0.1:5433/ratchet",
    "ratchet_mlflow": "http://127.0.0.1:5000",
    "ratchet_optuna": "postgresql://me:s%40cret%2F@127.0.0.1:5433/optuna",
    "ratchet_storage": "file:///srv/ratchet/storage",
}
BROKERS = "kafka://?bootstrap_servers=kafka-1:9092,kafka-2:9092&security_protocol=SSL&ssl_cafile=%2Fetc%2Fca.pem"
CONVERSIONS = {
    "ratchet_kafka": kafka_config,
    "ratchet_ledger": ledger_url,
    "ratchet_mlflow": http_url,
    "ratchet_optuna": ledger_url,
    "ratchet_storage": storage_url,
}


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> None:
    for conn_id, uri in URIS.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", uri)


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize("conn_id", sorted(URIS))
def test_airflow_and_the_environment_lead_to_the_same_place(conn_id: str) -> None:
    convert = CONVERSIONS[conn_id]
    assert convert(ratchet_airflow.AirflowResolver().resolve(conn_id)) == convert(parse_uri(URIS[conn_id]))


def test_airflow_reads_several_brokers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_KAFKA", BROKERS)
    found = kafka_config(asyncio.run(ratchet_airflow.resolve_all()).resolve("ratchet_kafka"))
    assert found == kafka_config(parse_uri(BROKERS))
    assert found["bootstrap_servers"] == ["kafka-1:9092", "kafka-2:9092"]


@pytest.mark.usefixtures("defined")
def test_the_triggerer_resolves_all_that_are_defined_beforehand() -> None:
    resolver = asyncio.run(ratchet_airflow.resolve_all())
    assert set(resolver.connections) == set(URIS)
    assert ledger_url(resolver.resolve("ratchet_ledger")) == ledger_url(parse_uri(URIS["ratchet_ledger"]))


def test_an_undefined_connection_is_refused_with_its_remedy() -> None:
    with pytest.raises(UnknownConnection, match="AIRFLOW_CONN_RATCHET_FEAST"):
        ratchet_airflow.AirflowResolver().resolve("ratchet_feast")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("manual", "manual"), ("scheduled", "scheduled"), ("asset_triggered", "asset_triggered"), ("backfill", "manual")],
)
def test_a_run_is_told_by_who_started_it_and_its_form_as_sent(kind: str, said: str) -> None:
    run = SimpleNamespace(dag_id="d", run_id="r", run_type=kind, triggering_user_name="ursula", conf={"typo": 1})
    context = ratchet_airflow.run_context({"dag_run": run})
    assert (context.run_type, context.actor, context.conf) == (said, "ursula", {"typo": 1})


def test_a_claim_with_nothing_to_do_skips_the_rest_and_keeps_its_reason() -> None:
    pushed: dict[str, object] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    with pytest.raises(AirflowSkipException, match="cooldown until noon"):
        ratchet_airflow.go_on({"attempt": None, "reason": "cooldown until noon"}, {"ti": ti})
    assert pushed["outcome"] == {"attempt": None, "reason": "cooldown until noon"}
    assert ratchet_airflow.go_on({"attempt": "m.1", "reason": "due"}, {"ti": ti}) == "m.1"


class TestWhatAirflowBelievesOfARun:
    @pytest.mark.parametrize("state", ["null", "scheduled", "queued", "running", "success", "up_for_retry", "failed"])
    def test_a_claim_is_awaited_until_it_ended_or_failed(self, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
        def count(dag_id: str, task_ids: list[str], states: list[str]) -> int:
            return int((dag_id, task_ids) == ("retrain__m", ["claim"]) and state in states)

        monkeypatch.setattr(RuntimeTaskInstance, "get_ti_count", staticmethod(count))
        awaited = state in {"null", "scheduled", "queued", "running"}
        assert ratchet_airflow.AirflowRunStates().claim_awaited("m") is awaited

    def test_a_deleted_run_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def deleted(dag_id: str, run_id: str) -> str:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 404}))

        monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(deleted))
        assert ratchet_airflow.AirflowRunStates().state("d", "r") == "missing"

    def test_an_api_that_is_away_is_not_taken_for_a_deleted_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(dag_id: str, run_id: str) -> str:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 500}))

        monkeypatch.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(away))
        with pytest.raises(AirflowRuntimeError):
            ratchet_airflow.AirflowRunStates().state("d", "r")

    @pytest.mark.parametrize(
        ("states", "started"),
        [
            ({"claim": "success", "snapshot": "scheduled"}, False),
            ({"claim": "success", "snapshot": "queued"}, False),
            ({"claim": "success", "snapshot": "up_for_retry"}, False),
            ({"claim": "success", "snapshot": None}, False),
            ({"claim": "success", "tune_0": "success", "tune_1": "running"}, True),
            ({}, False),
        ],
    )
    def test_a_step_that_waits_has_not_started(
        self, monkeypatch: pytest.MonkeyPatch, states: dict[str, str | None], started: bool
    ) -> None:
        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: {"r": states}))
        assert ratchet_airflow.AirflowRunStates().started_step("d", "r") is started
