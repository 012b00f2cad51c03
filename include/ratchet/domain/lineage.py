"""What a model version was made of, as OpenLineage tells it: events, features and rows in, a version out. Pure.

One run per attempt of the job ``retrain__<model>``: START when it has claimed, then COMPLETE with what the dossier
names, FAIL or ABORT. A model version is a dataset of its own (``<model>/versions/<n>``), so that the graph shows which
champion a challenger was judged against, and from what each was made.

The shapes are those of OpenLineage 2-0-2 (https://openlineage.io/apidocs/openapi/); a test builds each event with
OpenLineage's own client and finds the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid5

EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]
PRODUCER = "urn:ratchet"
CORE = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/"
FACETS: Mapping[str, str] = {
    "DatasetTypeDatasetFacet": "1-0-1",
    "DatasetVersionDatasetFacet": "1-0-1",
    "DocumentationJobFacet": "1-1-0",
    "ErrorMessageRunFacet": "1-0-1",
    "InputStatisticsInputDatasetFacet": "1-0-0",
    "JobTypeJobFacet": "2-0-4",
    "NominalTimeRunFacet": "1-0-1",
    "OwnershipJobFacet": "1-0-1",
    "SchemaDatasetFacet": "1-2-0",
}
OWN = "urn:ratchet:lineage:1:"
"""Facets of our own: what is in them is told in docs/observability.md."""
_RUNS = UUID("6f1d1c0e-3c1b-5d0b-9a3e-2b7a0f1e4c55")
MOST_EVENTS = 100


@dataclass(frozen=True)
class Lineage:
    """One attempt, as far as it has come. ``dossier`` is None where it has none; ``topics`` are those of its events."""

    attempt: str
    model: str
    namespace: str
    spec: Mapping[str, Any]
    at: datetime
    type: EventType
    business_at: datetime
    trigger: str
    reason: str
    actor: str | None
    dag_id: str
    run_id: str
    trace_id: str
    error: str | None
    events: Sequence[tuple[str, str, str, str]]
    """Topic, id, source and type of each claimed event, a hundred at most."""
    datasets: Sequence[str]
    """Those that the spec names: what is known before there is a snapshot."""
    champion: int | None
    versions: Sequence[tuple[int, str | None, bool]]
    """Version and artifact digest of what was made, and whether it is what a promotion lets serve."""
    dossier: Mapping[str, Any] | None


def run_id(attempt_id: str) -> str:
    """The UUID of an attempt's run."""
    return str(uuid5(_RUNS, attempt_id))


def run_event(told: Lineage) -> dict[str, Any]:
    """The RunEvent of an attempt that has begun or ended, JSON-able."""
    facets: dict[str, Any] = {
        "nominalTime": _facet("NominalTimeRunFacet", nominalStartTime=_moment(told.business_at)),
        "ratchet_attempt": _own("AttemptRunFacet", _without_none(_attempt(told))),
    }
    if told.error is not None:
        facets["errorMessage"] = _facet("ErrorMessageRunFacet", message=told.error, programmingLanguage="Python")
    return {
        "eventTime": _moment(told.at),
        "producer": PRODUCER,
        "schemaURL": f"{CORE}RunEvent",
        "eventType": told.type,
        "run": {"runId": run_id(told.attempt), "facets": facets},
        "job": {"namespace": told.namespace, "name": f"retrain__{told.model}", "facets": _job(told)},
        "inputs": list(_inputs(told)),
        "outputs": list(_outputs(told)),
    }


def _attempt(told: Lineage) -> dict[str, Any]:
    verdict = (told.dossier or {}).get("verdict", {})
    return {
        "attempt": told.attempt,
        "trigger": told.trigger,
        "reason": told.reason,
        "actor": told.actor,
        "trace_id": told.trace_id,
        "airflow": {"dag_id": told.dag_id, "run_id": told.run_id},
        "decision": verdict.get("decision"),
        "uplift": {name: verdict.get(name) for name in ("estimate", "lower", "upper", "unit")} if verdict else None,
    }


def _job(told: Lineage) -> dict[str, Any]:
    owner = told.spec["owner"]["team"]
    kind = _facet("JobTypeJobFacet", processingType="BATCH", integration="RATCHET", jobType="MODEL")
    return {
        "jobType": kind,
        "ownership": _facet("OwnershipJobFacet", owners=[{"name": f"team:{owner}", "type": "OWNER"}]),
        "documentation": _facet("DocumentationJobFacet", description=told.spec["business"]["goal"]),
    }


def _inputs(told: Lineage) -> Iterable[dict[str, Any]]:
    by_topic: dict[str, list[dict[str, str]]] = {}
    for topic, event_id, source, kind in told.events[:MOST_EVENTS]:
        by_topic.setdefault(topic, []).append({"id": event_id, "source": source, "type": kind})
    for topic, events in sorted(by_topic.items()):
        named = {"ratchet_events": _own("EventsInputDatasetFacet", {"events": events})}
        yield _dataset("kafka", topic, _typed("TOPIC"), inputs=named)
    snapshot = (told.dossier or {}).get("snapshot")
    if snapshot is None:
        for name in told.datasets:
            yield _dataset("feast", f"tables/{name}", _typed("TABLE"))
    else:
        yield from _features(snapshot["feature_repository"])
        for _, file in sorted(snapshot["files"].items()):
            facets = _typed("FILE") | _versioned(file["sha256"])
            yield _dataset(told.namespace, file["key"], facets, inputs=_counted(file["rows"]))
    if told.champion is not None:
        yield _dataset("mlflow", f"{told.model}/versions/{told.champion}", _typed("MODEL"))


def _features(repository: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, view in sorted(repository["views"].items()):
        fields = [{"name": feature, "type": kind} for feature, kind in view["features"].items()]
        facets = _typed("VIEW", "FEATURE_VIEW") | {"schema": _facet("SchemaDatasetFacet", fields=fields)}
        yield _dataset("feast", f"features/{name}", facets | _versioned(str(view["version"])))
    for name, dataset in sorted(repository["datasets"].items()):
        facets = _typed("TABLE") | _versioned(dataset["sha256"])
        yield _dataset("feast", f"tables/{name}", facets, inputs=_counted(dataset["rows"]))


def _outputs(told: Lineage) -> Iterable[dict[str, Any]]:
    if told.type != "COMPLETE":
        return
    study = (told.dossier or {}).get("study") or {}
    for number, digest, serves in told.versions:
        made = {
            "version": number,
            "digest": digest,
            "estimator": told.spec["train"]["estimator"],
            "params": study.get("params"),
            "would_serve": serves,
        }
        facets = _typed("MODEL") | {"ratchet_model": _own("ModelDatasetFacet", _without_none(made))}
        if digest is not None:
            facets |= _versioned(digest)
        yield _dataset("mlflow", f"{told.model}/versions/{number}", facets, outputs={})


def _dataset(
    namespace: str,
    name: str,
    facets: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    told: dict[str, Any] = {"namespace": namespace, "name": name, "facets": dict(facets)}
    if outputs is not None:
        return told | {"outputFacets": dict(outputs)}
    return told | {"inputFacets": dict(inputs or {})}


def _typed(kind: str, sub: str | None = None) -> dict[str, Any]:
    return {"datasetType": _facet("DatasetTypeDatasetFacet", datasetType=kind, **({"subType": sub} if sub else {}))}


def _versioned(version: str) -> dict[str, Any]:
    return {"version": _facet("DatasetVersionDatasetFacet", datasetVersion=version)}


def _counted(rows: int) -> dict[str, Any]:
    return {"inputStatistics": _facet("InputStatisticsInputDatasetFacet", rowCount=rows)}


def _facet(kind: str, **content: Any) -> dict[str, Any]:
    url = f"https://openlineage.io/spec/facets/{FACETS[kind]}/{kind}.json#/$defs/{kind}"
    return {"_producer": PRODUCER, "_schemaURL": url} | content


def _own(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{OWN}{kind}"} | dict(content)


def _without_none(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
