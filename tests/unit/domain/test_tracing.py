"""The trace of an event goes on into its attempt, whoever tells which span of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ratchet.domain.tracing import (
    Told,
    TraceContext,
    TracedAttempt,
    TracedEvent,
    attempt_context,
    attempt_spans,
    event_trace,
    read_traceparent,
)

NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(traceparent: str | None = PARENT, event_id: str = "e1") -> TracedEvent:
    fates = ((NOW + timedelta(seconds=1), "deferred", "1 of 2 confirmations"),)
    return TracedEvent("/monitors/w", event_id, "ratchet.drift.detected.v1", "m", NOW, traceparent, fates)


def attempt(trigger: TracedEvent | None, **values: object) -> TracedAttempt:
    known = {
        "id": "m.7",
        "model": "m",
        "start": NOW + timedelta(seconds=5),
        "judged_at": NOW + timedelta(seconds=50),
        "end": NOW + timedelta(seconds=60),
        "trigger": trigger,
        "others": (),
        "promoted_at": NOW + timedelta(seconds=59),
        "attributes": {"ratchet.model": "m", "ratchet.attempt": "m.7", "ratchet.verdict": "promote"},
        "error": None,
    }
    return TracedAttempt(**known | values)  # type: ignore[arg-type]


def test_a_traceparent_is_read_and_written_as_it_was() -> None:
    read = read_traceparent(PARENT)
    assert read == TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert read.traceparent == PARENT


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        7,
        "nonsense",
        PARENT.upper(),
        f"{PARENT}-more",
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_is_passed_over(text: object) -> None:
    assert read_traceparent(text) is None


def test_a_later_version_may_say_more() -> None:
    assert read_traceparent(f"01{PARENT[2:]}-what-comes") == read_traceparent(PARENT)


def test_every_span_is_of_the_publishers_trace_and_has_its_parent_there() -> None:
    told = (Told("alias", NOW + timedelta(seconds=59), NOW + timedelta(seconds=60)),)
    spans = {span.name: span for span in attempt_spans(attempt(event(), told=told))}
    assert list(spans) == ["inbox m", "attempt m", "promotion", "alias"]
    assert {span.context.trace_id for span in spans.values()} == {"0af7651916cd43dd8448eb211c80319c"}
    assert spans["inbox m"].parent == "b7ad6b7169203331"
    assert spans["attempt m"].parent == spans["inbox m"].context.span_id
    assert spans["promotion"].parent == spans["attempt m"].context.span_id
    assert spans["alias"].parent == spans["promotion"].context.span_id
    assert (spans["inbox m"].start, spans["inbox m"].end) == (NOW, NOW + timedelta(seconds=5))
    assert [moment.name for moment in spans["inbox m"].moments] == ["deferred"]


def test_without_a_publishers_span_the_trace_is_the_events_own() -> None:
    spans = attempt_spans(attempt(event(traceparent=None)))
    assert {span.context.trace_id for span in spans} == {event_trace("/monitors/w", "e1").trace_id}
    assert spans[0].parent is None


def test_a_task_that_knows_only_the_attempt_and_its_event_names_the_same_parent() -> None:
    root = attempt_spans(attempt(event()))[1]
    assert attempt_context("m.7", event()) == root.context


def test_an_attempt_without_an_event_has_a_trace_of_its_own() -> None:
    (root, *_) = attempt_spans(attempt(None))
    assert root.parent is None
    assert root.context == attempt_context("m.7", None)
    assert root.context != attempt_context("m.8", None)


def test_merged_events_are_links_a_hundred_at_most() -> None:
    others = tuple(event(None, f"e{number}") for number in range(150))
    root = attempt_spans(attempt(event(), others=others))[1]
    assert len(root.links) == 100
    assert root.links[0].trace_id == event_trace("/monitors/w", "e0").trace_id


def test_a_trace_that_is_not_sampled_stays_so() -> None:
    spans = attempt_spans(attempt(event(PARENT.removesuffix("01") + "00")))
    assert not any(span.context.sampled for span in spans)


def test_an_attempt_that_failed_says_so_and_promotes_nothing() -> None:
    spans = attempt_spans(attempt(event(), judged_at=None, promoted_at=None, error="the worker is presumed dead"))
    assert [span.name for span in spans] == ["inbox m", "attempt m"]
    assert spans[1].error == "the worker is presumed dead"
