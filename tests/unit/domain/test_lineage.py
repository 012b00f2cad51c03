"""Lineage is OpenLineage: its own client makes the same events of the same facts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ratchet.domain.lineage import PRODUCER, Lineage, run_event, run_id

CLIENT_MODULES = (
    "dataset_type_dataset",
    "dataset_version_dataset",
    "documentation_job",
    "error_message_run",
    "input_statistics_input_dataset",
    "job_type_job",
    "nominal_time_run",
    "ownership_job",
    "schema_dataset",
)
NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
DOSSIER = {
    "verdict": {"decision": "promote", "estimate": 0.4, "lower": 0.1, "upper": 0.7, "unit": "USD"},
    "study": {"params": {"max_depth": 4}},
    "snapshot": {
        "files": {
            "train": {"key": "snapshots/m.7/train.parquet", "sha256": "a" * 64, "rows": 900},
            "holdout": {"key": "snapshots/m.7/holdout.parquet", "sha256": "b" * 64, "rows": 100},
        },
        "feature_repository": {
            "views": {"weather": {"version": 2, "features": {"wind": "Float64", "visib": "Float64"}}},
            "datasets": {"weather": {"rows": 26_000, "sha256": "c" * 64}},
        },
    },
}
STARTED = Lineage(
    attempt="m.7",
    model="m",
    namespace="ratchet",
    spec={
        "owner": {"team": "ops"},
        "business": {"goal": "rebook in time"},
        "train": {"estimator": "xgboost.XGBClassifier"},
    },
    at=NOW,
    type="START",
    business_at=NOW,
    trigger="drift",
    reason="2 of 3 windows",
    actor=None,
    dag_id="retrain__m",
    run_id="asset__1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    error=None,
    events=[("ml.drift", "w-1", "/monitors/w", "ratchet.drift.detected.v1")],
    datasets=["flights", "weather"],
    champion=3,
    versions=[],
    dossier=None,
)
ENDED = replace(STARTED, type="COMPLETE", versions=[(4, "d" * 64, True)], dossier=DOSSIER)
FAILED = replace(STARTED, type="FAIL", error="no rows")


def names(datasets: list[dict[str, Any]]) -> list[str]:
    return [f"{each['namespace']}:{each['name']}" for each in datasets]


def test_the_graph_leads_from_event_and_features_to_the_version() -> None:
    event = run_event(ENDED)
    assert names(event["inputs"]) == [
        "kafka:ml.drift",
        "feast:features/weather",
        "feast:tables/weather",
        "ratchet:snapshots/m.7/holdout.parquet",
        "ratchet:snapshots/m.7/train.parquet",
        "mlflow:m/versions/3",
    ]
    assert names(event["outputs"]) == ["mlflow:m/versions/4"]
    topic = event["inputs"][0]["inputFacets"]["ratchet_events"]
    assert topic["events"] == [{"id": "w-1", "source": "/monitors/w", "type": "ratchet.drift.detected.v1"}]
    model = event["outputs"][0]["facets"]
    assert model["version"]["datasetVersion"] == "d" * 64
    assert model["ratchet_model"]["params"] == {"max_depth": 4}


def test_a_start_names_what_is_known_and_makes_nothing() -> None:
    event = run_event(STARTED)
    assert names(event["inputs"]) == [
        "kafka:ml.drift",
        "feast:tables/flights",
        "feast:tables/weather",
        "mlflow:m/versions/3",
    ]
    assert event["outputs"] == []


def test_start_and_end_are_one_run_and_another_attempt_is_another() -> None:
    assert run_event(STARTED)["run"]["runId"] == run_event(ENDED)["run"]["runId"] == run_id("m.7")
    assert run_id("m.8") != run_id("m.7")


def test_a_failure_says_why_and_makes_nothing() -> None:
    event = run_event(replace(FAILED, versions=[(4, None, True)]))
    assert event["run"]["facets"]["errorMessage"]["message"] == "no rows"
    assert event["outputs"] == []


@pytest.mark.parametrize("told", [STARTED, ENDED, FAILED], ids=["start", "complete", "fail"])
def test_openlineages_own_client_writes_the_same(told: Lineage) -> None:
    client = pytest.importorskip("openlineage.client.event_v2")
    serde = pytest.importorskip("openlineage.client.serde").Serde
    event = run_event(told)

    def dataset(kind: Any, each: dict[str, Any], own: str) -> Any:
        facets = {name: facet(content) for name, content in each["facets"].items()}
        more = {own: {name: facet(content) for name, content in each[own].items()}}
        return kind(namespace=each["namespace"], name=each["name"], facets=facets, **more)

    made = client.RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=client.RunState[event["eventType"]],
        run=client.Run(event["run"]["runId"], {k: facet(v) for k, v in event["run"]["facets"].items()}),
        job=client.Job(
            event["job"]["namespace"],
            event["job"]["name"],
            {k: facet(v) for k, v in event["job"]["facets"].items()},
        ),
        inputs=[dataset(client.InputDataset, each, "inputFacets") for each in event["inputs"]],
        outputs=[dataset(client.OutputDataset, each, "outputFacets") for each in event["outputs"]],
    )
    written = json.loads(serde.to_json(made))
    assert without_empty(written) == without_empty(json.loads(json.dumps(event)))


def facet(content: dict[str, Any]) -> Any:
    """The client's own facet of this schema, which checks what it is given; its base class for facets of ours."""
    base = pytest.importorskip("openlineage.client.generated.base")
    schema = content["_schemaURL"]
    given = {name: value for name, value in content.items() if not name.startswith("_")}
    if schema.startswith("urn:"):
        own = base.BaseFacet(producer=PRODUCER).with_additional_properties(**given)
        own._schemaURL = schema
        return own
    known = {each._get_schema(): each for each in subclasses(base.BaseFacet)}
    assert schema in known, f"{schema} is no schema of this client's version"
    return known[schema](producer=PRODUCER, **given)


def subclasses(of: type) -> list[Any]:
    pytest.importorskip("openlineage.client.facet_v2")
    for name in CLIENT_MODULES:
        pytest.importorskip(f"openlineage.client.generated.{name}")
    return [found for each in of.__subclasses__() for found in (each, *subclasses(each))]


def without_empty(value: Any) -> Any:
    """The client leaves out what is empty, at some places."""
    if isinstance(value, dict):
        kept = {name: without_empty(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each not in ({}, [], None)}
    return [without_empty(each) for each in value] if isinstance(value, list) else value
