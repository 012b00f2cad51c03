"""One trace from publish to promotion: what the publisher, the intake, the steps and the ledger tell fits together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from worlds import World

from ratchet import events
from ratchet.adapters.lineage_http import lineage_of
from ratchet.domain.events import Announcement, new_event, parse, to_record
from ratchet.domain.tracing import Span, event_trace, read_traceparent
from ratchet.errors import Unavailable
from ratchet.ports.bus import DRIFT, InMemoryBus
from ratchet.ports.telemetry import InMemoryTelemetry, NoTelemetry
from ratchet.workflow.leases import step
from ratchet.workflow.observing import Observer
from ratchet.workflow.promotion import release
from ratchet.workflow.tracing import part

NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
DRIFTED = events.DriftDetected(check="psi", severity=0.8, window_start=NOW - timedelta(days=1), window_end=NOW)
SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def told(world: World, telemetry: InMemoryTelemetry) -> dict[str, Span]:
    Observer(world.ledger, telemetry, None, lambda: world.store).run()
    return {span.name: span for span in telemetry.spans}


def publish(bus: InMemoryBus, telemetry: Any, event_id: str = "w-1", mode: events.Mode = "structured") -> None:
    with events.Publisher(bus=bus, telemetry=telemetry, mode=mode) as publisher:
        publisher.publish([events.Observation(DRIFTED, "flight_delay", event_id, "/monitors/weather", NOW)])


def taken_in(world: World, bus: InMemoryBus) -> None:
    world.intake.store(bus.records(DRIFT))
    world.intake.tick()


@pytest.fixture
def bus() -> InMemoryBus:
    return InMemoryBus()


def sent(world: World, traceparent: str | None, headers: list[tuple[str, bytes]] | None = None) -> None:
    event = new_event(DRIFTED, id="w-1", source="/m", subject="flight_delay", time=NOW)
    _, value, own = to_record(msgspec.structs.replace(event, traceparent=traceparent))
    world.intake.store([world.raw(value, headers if headers is not None else own)])


def kept(world: World) -> dict[int, str]:
    with world.ledger.transaction() as tx:
        return tx.traceparents([row.pk for row in tx.events()])


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_one_trace_leads_from_publish_to_promotion(world: World, bus: InMemoryBus, mode: events.Mode) -> None:
    telemetry = InMemoryTelemetry()
    world.crown(1)
    world.arrive(NOW)
    world.claim("first")
    attempts = [a.id for a in _attempts(world)]
    world.judge(attempts[0], "keep_champion")
    publish(bus, telemetry, mode=mode)
    taken_in(world, bus)
    with world.ledger.transaction() as tx:
        (drift,) = tx.events(types=("ratchet.drift.detected.v1",))
    attempt = _opened_by(world, drift.pk)

    def work(_: Any) -> dict[str, Any]:
        with part("trial"):
            return {}

    step(world.ledger, world.settings, attempt, "tune.0", work, telemetry)
    world.judge(attempt, "promote")
    world.promotions.promote(world.model)
    spans = told(world, telemetry)
    chain = ["publish ml.drift", "inbox flight_delay", "attempt flight_delay", "tune.0", "trial"]
    assert {spans[name].context.trace_id for name in chain} == {event_trace("/monitors/weather", "w-1").trace_id}
    for parent, child in pairwise(chain):
        assert spans[child].parent == spans[parent].context.span_id, f"{child} is not below {parent}"
    assert spans["promotion"].parent == spans["attempt flight_delay"].context.span_id
    assert spans["alias"].parent == spans["ml.decisions"].parent == spans["promotion"].context.span_id
    assert spans["attempt flight_delay"].attributes["ratchet.verdict"] == "promote"


def test_what_is_decided_carries_the_trace_on(world: World) -> None:
    attempt = _traced_attempt(world)
    world.judge(attempt, "keep_champion")
    world.relay.run()
    found = [parse_out(record) for record in world.bus.records("ml.decisions")]
    kept_ = next(body for body in found if body["type"] == "ratchet.model.kept.v1")
    assert kept_["traceparent"].split("-")[1] == SENT.split("-")[1]
    assert kept_["traceparent"] != SENT, "the attempt is a span of its own"


def test_without_a_traceparent_nothing_that_is_told_changes(world: World) -> None:
    attempt = _traced_attempt(world, None)
    world.judge(attempt, "keep_champion")
    world.relay.run()
    assert all("traceparent" not in parse_out(record) for record in world.bus.records("ml.decisions"))
    assert kept(world) == {}


def test_nobody_who_listens_means_no_traceparent_and_no_outbox_row(world: World, bus: InMemoryBus) -> None:
    publish(bus, NoTelemetry())
    (record,) = bus.records(DRIFT)
    assert "traceparent" not in parse_out(record)
    assert [name for name, _ in record.headers] == ["content-type"]
    world.crown(1)
    world.arrive(NOW)
    world.judge(world.claim()["attempt"], "keep_champion")
    assert Observer(world.ledger, NoTelemetry(), None, lambda: world.store).run() == 0
    with world.ledger.transaction() as tx:
        assert "trace" not in {tally.kind for tally in tx.outbox_tallies()}


def test_the_header_counts_where_the_event_says_nothing_and_nonsense_is_passed_over(world: World) -> None:
    kind = ("content-type", b"application/cloudevents+json")
    sent(world, None, [kind, ("traceparent", SENT.encode())])
    assert list(kept(world).values()) == [SENT]


@pytest.mark.parametrize("nonsense", ["x" * 300, "00-zz-1-01", "\u00e9"])
def test_a_traceparent_that_is_none_costs_no_event(world: World, nonsense: str) -> None:
    sent(world, nonsense)
    assert len(world.events()) == 1
    assert kept(world) == {}


def test_the_same_event_sent_on_another_trace_is_the_same_event(world: World) -> None:
    sent(world, SENT)
    sent(world, SENT.replace("b7", "c8"))
    assert len(world.events()) == 1
    assert list(kept(world).values()) == [SENT]


def test_a_trace_that_its_publisher_does_not_follow_is_told_by_nobody(world: World) -> None:
    telemetry = InMemoryTelemetry()
    attempt = _traced_attempt(world, SENT.removesuffix("01") + "00")
    step(world.ledger, world.settings, attempt, "snapshot", lambda _: {}, telemetry)
    world.judge(attempt, "keep_champion")
    assert told(world, telemetry) == {}


def test_an_attempt_is_told_once(world: World) -> None:
    telemetry = InMemoryTelemetry()
    world.judge(_traced_attempt(world), "keep_champion")
    observer = Observer(world.ledger, telemetry, None, lambda: world.store)
    assert (observer.run(), observer.run()) == (1, 0)


def test_an_attempt_that_is_given_up_is_an_error(world: World) -> None:
    telemetry = InMemoryTelemetry()
    attempt = world.attempt(_traced_attempt(world))
    with world.ledger.transaction() as tx:
        release(tx, attempt, "abandoned", "the worker is presumed dead", 3)
    assert told(world, telemetry)["attempt flight_delay"].error == "the worker is presumed dead"


def test_a_step_that_fails_is_an_error_and_raises_what_it_raised(world: World) -> None:
    telemetry = InMemoryTelemetry()
    attempt = _traced_attempt(world)

    def work(_: Any) -> dict[str, Any]:
        raise ValueError("no rows")

    with pytest.raises(ValueError, match="no rows"):
        step(world.ledger, world.settings, attempt, "snapshot", work, telemetry)
    (span,) = telemetry.spans
    assert span.error == "ValueError: no rows"
    assert span.context.trace_id == SENT.split("-")[1]


def test_a_step_done_again_is_another_span_and_an_answer_given_again_is_none(world: World) -> None:
    telemetry = InMemoryTelemetry()
    attempt = _traced_attempt(world)
    for _ in range(2):
        step(world.ledger, world.settings, attempt, "snapshot", lambda _: {"x": 1}, telemetry)
    assert [span.name for span in telemetry.spans] == ["snapshot"]


def test_a_thousand_trials_are_not_a_thousand_spans(world: World) -> None:
    telemetry = InMemoryTelemetry()

    def work(_: Any) -> dict[str, Any]:
        for _ in range(1_000):
            with part("trial"):
                pass
        return {}

    step(world.ledger, world.settings, _traced_attempt(world), "tune.0", work, telemetry)
    assert len(telemetry.spans) == 201


# -- lineage -----------------------------------------------------------------------------------------------------------


class Sink:
    """A lineage server that takes events unless it is away."""

    namespace = "ratchet"

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.away = False
        self.asked = 0

    def tell(self, event: dict[str, Any]) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the lineage server took no event")
        self.events.append(event)


def observer(world: World, sink: Sink) -> Observer:
    return Observer(world.ledger, NoTelemetry(), sink, lambda: world.store)


def test_lineage_is_told_once_when_an_attempt_begins_and_once_when_it_ends(world: World) -> None:
    sink = Sink()
    attempt = _traced_attempt(world)
    observer(world, sink).run()
    world.judge(attempt, "keep_champion")
    observer(world, sink).run()
    observer(world, sink).run()
    assert [event["eventType"] for event in sink.events] == ["START", "COMPLETE"]
    start, end = sink.events
    assert start["run"]["runId"] == end["run"]["runId"]
    assert [each["name"] for each in start["inputs"]] == [
        "ml.data-arrival",
        "tables/flights",
        "tables/weather",
        "flight_delay/versions/1",
    ]
    assert [each["name"] for each in end["outputs"]] == ["flight_delay/versions/2"]
    assert end["run"]["facets"]["ratchet_attempt"]["trace_id"] == SENT.split("-")[1]


def test_what_a_lineage_server_that_is_away_took_not_is_told_later_in_order(world: World) -> None:
    sink = Sink()
    sink.away = True
    world.judge(_traced_attempt(world), "keep_champion")
    assert observer(world, sink).run() == 0
    assert sink.asked == 1, "one that hangs is not waited for again and again"
    assert observer(world, sink).run() == 0
    sink.away = False
    assert observer(world, sink).run() == 2
    assert [event["eventType"] for event in sink.events] == ["START", "COMPLETE"]


def test_what_cannot_be_told_keeps_nothing_else_from_being_told(world: World) -> None:
    sink = Sink()
    attempt = _traced_attempt(world)
    with world.ledger.transaction() as tx:
        tx.enqueue("lineage", "lineage:odd:start", {"attempt": attempt, "stage": "start"}, world.model)
        tx.enqueue("lineage", f"lineage:{attempt}:start", {"attempt": attempt, "stage": "start"}, world.model)
    broken = iter([KeyError("snapshot")])
    honest = sink.tell

    def tell(event: dict[str, Any]) -> None:
        for error in broken:
            raise error
        honest(event)

    sink.tell = tell  # type: ignore[method-assign]
    assert observer(world, sink).run() == 1
    assert [event["eventType"] for event in sink.events] == ["START"]


def test_an_attempt_that_is_given_up_ends_its_run_in_the_lineage(world: World) -> None:
    sink = Sink()
    attempt = world.attempt(_traced_attempt(world))
    with world.ledger.transaction() as tx:
        release(tx, attempt, "failed", "no rows", 3)
    observer(world, sink).run()
    assert sink.events[-1]["eventType"] == "FAIL"
    assert sink.events[-1]["run"]["facets"]["errorMessage"]["message"] == "no rows"


def test_lineage_goes_to_the_server_that_openlineages_variables_name() -> None:
    heard: list[tuple[str, str | None, bytes]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, self.headers["Authorization"], body))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        sink = lineage_of({"OPENLINEAGE_URL": url, "OPENLINEAGE_API_KEY": "k", "OPENLINEAGE_NAMESPACE": "prod"})
        assert sink is not None
        assert sink.namespace == "prod"
        sink.tell({"a": 1})
        server.shutdown()
    assert heard == [("/api/v1/lineage", "Bearer k", b'{"a":1}')]
    with pytest.raises(Unavailable, match="took no event"):
        sink.tell({"a": 1})


@pytest.mark.parametrize("variables", [{}, {"OPENLINEAGE_URL": "http://m", "OPENLINEAGE_DISABLED": "true"}])
def test_no_lineage_is_told_unless_the_variables_say_so(variables: dict[str, str]) -> None:
    assert lineage_of(variables) is None


def parse_out(record: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(record.value)
    return body


def _attempts(world: World) -> list[Any]:
    with world.ledger.transaction() as tx:
        return tx.attempts()


def _opened_by(world: World, pk: int) -> str:
    """An attempt that this event started: admission's rules are tested elsewhere."""
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", NOW + timedelta(days=40))
    world.arrive(NOW + timedelta(days=40))
    attempt = world.claim("second")["attempt"]
    assert attempt is not None
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, trigger_event_pk=pk)
    return str(attempt)


def _traced_attempt(world: World, traceparent: str | None = SENT) -> str:
    """An attempt that an event with this traceparent started."""
    world.crown(1)
    sent(world, traceparent)
    (event,) = world.events()
    world.arrive(NOW)
    attempt = world.claim()["attempt"]
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, trigger_event_pk=event.pk)
    return str(attempt)


def test_an_announcement_reads_as_the_event_that_it_is() -> None:
    event: Announcement = new_event(DRIFTED, id="w-1", source="/m", subject="flight_delay", time=NOW)
    traced = msgspec.structs.replace(event, traceparent=SENT)
    make: Callable[..., Any] = lambda which: to_record(which)[1:]  # noqa: E731
    assert parse(*make(traced)).digest == parse(*make(event)).digest
    assert read_traceparent(parse(*make(traced)).extensions["traceparent"]) is not None
