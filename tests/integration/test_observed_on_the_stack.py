"""One trace from publish to promotion, the lineage of what was made, and the metrics, from a running system.

A collector listens in this process: real OTLP over HTTP and OpenLineage's events, from the publisher, Airflow's tasks
and the sweep. ``RATCHET_TEST_TRACE`` names a file for what was seen, to be shown.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from running_system import MODEL, RETRAIN, System
from small_model import FRESH_DAYS

from ratchet import events
from ratchet.domain.instruments import INSTRUMENTS
from ratchet.domain.tracing import event_trace
from ratchet.ports.ledger import AttemptRow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]
SOURCE = "/monitors/weather"


@dataclass
class Collector:
    """What came in: spans by OTLP, lineage as JSON."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def take(self, path: str, body: bytes) -> None:
        if path == "/api/v1/lineage":
            self.lineage.append(json.loads(body))
            return
        assert path == "/v1/traces", path
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [
                    {
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex() or None,
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "links": [link.trace_id.hex() for link in span.links],
                        "attributes": {each.key: each.value.string_value for each in span.attributes},
                        "error": span.status.message or None,
                    }
                    for span in scope.spans
                ]

    def of(self, trace: str) -> dict[str, dict[str, Any]]:
        """The trace's spans by name; of several of one name the first."""
        found: dict[str, dict[str, Any]] = {}
        for span in sorted((s for s in self.spans if s["trace"] == trace), key=lambda s: s["start"]):
            found.setdefault(span["name"], span)
        return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    if "RATCHET_TEST_COLLECTOR_PORT" not in os.environ:
        pytest.skip("scripts/integration-tests tells the stack where this listens")
    took = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            took.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", int(os.environ["RATCHET_TEST_COLLECTOR_PORT"])), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield took
        server.shutdown()


@pytest.fixture(scope="module")
def observed(running: System, first_champion: object, collector: Collector) -> tuple[AttemptRow, str]:
    """An attempt that a published request started, after data arrived, and the trace that its event began."""
    running.disarm()
    running.rest()
    running.fresh_days(FRESH_DAYS - 1)
    request = events.Observation(
        events.RetrainRequested(reason="to see its trace", actor="a monitor"),
        MODEL,
        f"trace-{running.today:%Y%m%d}",
        SOURCE,
        running.now(),
    )
    running.fresh_days(1)
    with events.Publisher() as publisher:
        publisher.publish([request])
    attempt = running.ended(running.attempt_of(event_id=request.id))
    return attempt, request.id


def test_one_trace_leads_from_publish_to_promotion(
    system: System, observed: tuple[AttemptRow, str], collector: Collector
) -> None:
    attempt, event_id = observed
    with system.ratchet.ledger.transaction() as tx:
        trigger = tx.event(attempt.trigger_event_pk or 0)
    assert trigger is not None
    trace = event_trace(trigger.source, trigger.event_id).trace_id
    wanted = {f"attempt {MODEL}", "promotion", "alias", "ml.decisions", "snapshot", "tune.0", "evaluate", "trial"}
    spans = system.until("every span", lambda: found if wanted <= (found := collector.of(trace)).keys() else None)
    root = spans[f"attempt {MODEL}"]
    assert root["parent"] == spans[f"inbox {MODEL}"]["id"]
    for step in ("snapshot", "tune.0", "evaluate", "promotion"):
        assert spans[step]["parent"] == root["id"], step
        assert root["start"] <= spans[step]["start"] <= spans[step]["end"] <= root["end"] + 1e9, step
    assert spans["trial"]["parent"] in {span["id"] for name, span in spans.items() if name.startswith("tune.")}
    assert spans["historical features"]["parent"] == spans["snapshot"]["id"]
    assert spans["alias"]["parent"] == spans["promotion"]["id"]
    assert root["attributes"]["airflow.run_id"] == attempt.dag_run_id
    assert [span["error"] for span in spans.values() if span["error"]] == []
    told = system.until("the decision on ml.decisions", lambda: system.decisions_on(attempt))
    if trigger.event_id == event_id:
        assert spans["publish ml.retrain-requests"]["id"] == spans[f"inbox {MODEL}"]["parent"]
        assert told[0]["traceparent"].split("-")[1:3] == [trace, root["id"]]
    assert trace in system.command("trace", attempt.id)
    _show(collector, trace, attempt)


def test_lineage_leads_from_events_and_features_to_the_version(
    system: System, observed: tuple[AttemptRow, str], collector: Collector
) -> None:
    attempt, _ = observed

    def both() -> list[dict[str, Any]] | None:
        told = [e for e in collector.lineage if e["run"]["facets"]["ratchet_attempt"]["attempt"] == attempt.id]
        return told if len(told) == 2 else None

    start, end = system.until("start and end of its run", both)
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    inputs = {f"{each['namespace']}:{each['name']}" for each in end["inputs"]}
    assert {"kafka:ml.retrain-requests", "feast:features/weather", "feast:tables/flights"} <= inputs
    assert any(name.endswith("/train.parquet") for name in inputs)
    assert f"mlflow:{MODEL}/versions/{attempt.champion_version}" in inputs
    assert [each["name"] for each in end["outputs"]] == [f"{MODEL}/versions/{attempt.challenger_version}"]
    if place := os.environ.get("RATCHET_TEST_TRACE"):
        Path(place).with_suffix(".lineage.json").write_text(json.dumps(end, indent=1))


def test_metrics_are_scraped_with_the_token(system: System, observed: tuple[AttemptRow, str]) -> None:
    attempt, _ = observed
    address = str(system.ratchet.settings.airflow_url).rstrip("/")
    token = json.loads(os.environ["AIRFLOW_CONN_RATCHET_METRICS"])["password"]
    url = f"{address}/ratchet/v1/metrics"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}x"}).status_code == 403, "Airflow's word for it"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert {name for name, _ in samples} <= set(INSTRUMENTS)
    assert samples["ratchet_champion_version", frozenset({("model", MODEL)})] == system.champion().version
    assert samples["ratchet_verdicts_total", frozenset({("model", MODEL), ("verdict", "promote")})] >= 2
    assert samples["ratchet_core_seconds_total", frozenset({("model", MODEL)})] > 0
    assert any(name == "ratchet_intake_lag_records" for name, _ in samples)
    if place := os.environ.get("RATCHET_TEST_TRACE"):
        Path(place).with_suffix(".metrics.txt").write_text(f"{attempt.id} {answer.elapsed}\n{answer.text}")


def test_a_tasks_log_says_what_it_is_about(system: System, observed: tuple[AttemptRow, str]) -> None:
    attempt, _ = observed
    folder = system.ratchet.settings.home
    files = [
        path
        for path in folder.rglob(f"dag_id={RETRAIN}/run_id={attempt.dag_run_id}/task_id=snapshot/*.log")
        if path.is_file()
    ]
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("attempt") == attempt.id]
    assert about, f"no line of {files} names the attempt: {lines[:3]}"
    assert {"model": MODEL, "run_id": attempt.dag_run_id}.items() <= about[0].items()
    assert {"event_id", "trace_id"} <= about[0].keys()


def _show(collector: Collector, trace: str, attempt: AttemptRow) -> None:
    """Keep the trace for the documentation, where it is asked for."""
    if place := os.environ.get("RATCHET_TEST_TRACE"):
        spans = sorted((s for s in collector.spans if s["trace"] == trace), key=lambda s: (s["start"], -s["end"]))
        seconds = timedelta(microseconds=(spans[-1]["end"] - spans[0]["start"]) / 1000).total_seconds()
        content = {"attempt": attempt.id, "trace": trace, "seconds": seconds, "spans": spans}
        Path(place).write_text(json.dumps(content, indent=1))
