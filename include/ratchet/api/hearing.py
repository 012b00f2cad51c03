"""Events over HTTP: CloudEvents in every mode of the HTTP binding, and what monitoring systems say in their own words.

All of a request is published or nothing: it is read by the rules of the inbox, and answered when the broker has stored
it. What the sender may say is asked before. A repetition changes nothing, because (source, id) names an event.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool

from ratchet.api import schemas as s
from ratchet.api.door import Door, DoorDep, Sender, SenderDep
from ratchet.api.problems import Fault, Problem, documented
from ratchet.api.publishing import Record
from ratchet.domain.events import (
    STRUCTURED_CONTENT_TYPE,
    TOPICS,
    Announcement,
    DataArrived,
    EventRejected,
    InboundEvent,
    RetrainRequested,
    parse,
    to_record,
)
from ratchet.domain.tracing import read_traceparent
from ratchet.domain.translations import SYSTEMS, Given, Untranslatable, translate
from ratchet.errors import Unavailable

router = APIRouter(prefix="/v1")
BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
MOST_EVENTS = 1_000
MOST_FAULTS = 100
STORED_SECONDS = 20.0
"""How long a request waits for the broker: a flush may be under way when it comes."""
_CONTENT = {
    "required": True,
    "content": {
        STRUCTURED_CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/CloudEvent"}},
        BATCH_CONTENT_TYPE: {
            "schema": {"type": "array", "maxItems": MOST_EVENTS, "items": {"$ref": "#/components/schemas/CloudEvent"}}
        },
        "application/json": {
            "schema": {"type": "object", "description": "The data; attributes are ce-* headers (binary mode)."}
        },
    },
}
_ANY = {"required": True, "content": {"*/*": {"schema": {"description": "The report as the system made it."}}}}


@router.post(
    "/events",
    status_code=202,
    tags=["events"],
    summary="Tell what happened",
    responses=documented(400, 409, 413, 415, 429),
    openapi_extra={"requestBody": _CONTENT},
)
async def hear(request: Request, door: DoorDep, sender: SenderDep) -> s.Accepted:
    """CloudEvents 1.0: structured, binary, or a batch of up to a thousand. Kafka has stored them when this answers 202.

    A signed request's events come from /monitors/ and the key's name, and ask for no retrain; a person's are about
    models that they may retrain, and of datasets where they may retrain every model.
    """
    body = await request.body()
    headers = [(name.decode("latin-1"), value) for name, value in request.scope["headers"]]
    heard = await run_in_threadpool(read, body, headers)
    return await _publish(door, sender, heard, request)


@router.post(
    "/events/{system}",
    status_code=202,
    tags=["events"],
    summary="Tell what a monitoring system says",
    responses=documented(400, 404, 409, 413, 429),
    openapi_extra={"requestBody": _ANY},
)
async def hear_system(
    request: Request,
    door: DoorDep,
    sender: SenderDep,
    system: Annotated[s.Text, Path(description=f"Who made it: {', '.join(SYSTEMS)}.")],
    model: Annotated[s.Text | None, Query(description="The model, where the report does not say.")] = None,
    window_end: Annotated[s.Moment | None, Query(description="End of the data it looked at.")] = None,
    window_start: Annotated[s.Moment | None, Query(description="Start of it; a day before when left out.")] = None,
    check: Annotated[s.Text | None, Query(description="Name of the check, in place of its own.")] = None,
    evidence_uri: Annotated[s.Text | None, Query(description="Where a person finds the report.")] = None,
) -> s.Accepted:
    """A report or webhook message as it is, told as the events of docs/monitoring-systems.md; it may be none."""
    if system not in SYSTEMS:
        raise Problem("not-found", f"{system!r} is no system that is translated; {', '.join(SYSTEMS)} are.")
    body, given = await request.body(), Given(model, window_start, window_end, check, evidence_uri)
    try:
        told = await run_in_threadpool(translate, system, body, given, source=sender.speaks_as)
    except Untranslatable as error:
        fault = Fault(pointer=error.where, rule=error.rule, got=error.got, remedy=error.remedy)
        raise Problem("too-large" if error.rule == "oversized" else "no-event", str(error), errors=[fault]) from None
    return await _publish(door, sender, told, request)


async def _publish(
    door: Door, sender: Sender, heard: Sequence[InboundEvent | Announcement], request: Request
) -> s.Accepted:
    records = await run_in_threadpool(_allowed, door, sender, heard)
    if (caller := read_traceparent(request.headers.get("traceparent"))) is not None:
        travels = ("traceparent", caller.traceparent.encode())
        records = [(topic, key, value, [*headers, travels]) for topic, key, value, headers in records]
    if seconds := door.buckets.take(sender.name, max(len(heard), 1)):
        raise Problem(
            "too-many", f"Send again in {seconds} s, and fewer at once.", headers={"Retry-After": str(seconds)}
        )
    if records:
        stored = door.outgoing.submit(records)
        try:
            await asyncio.wait_for(asyncio.wrap_future(stored), STORED_SECONDS)
        except TimeoutError:
            raise Unavailable("Kafka did not say in time that it has stored this. Send the same again") from None
    return s.Accepted(accepted=[event.id for event in heard])


def _allowed(door: Door, sender: Sender, heard: Sequence[InboundEvent | Announcement]) -> list[Record]:
    """The records of what the sender may say. Raises :class:`Problem`.

    Each is read again as the inbox will: a number may be longer when it is written anew, and Kafka's client would take
    none of the records that are published with one that is too large.
    """
    _may(door, sender, heard)
    records: list[Record] = []
    for event in heard:
        key, value, headers = to_record(event)
        try:
            parse(value, headers)
        except EventRejected as error:
            raise _problem([_fault(error)]) from None
        records.append((TOPICS[event.type], key, value, headers))
    return records


def _may(door: Door, sender: Sender, heard: Sequence[InboundEvent | Announcement]) -> None:
    """Return when the sender may say all of it. Raises :class:`Problem`."""
    if sender.speaks_as is not None:
        for event in heard:
            if event.source != sender.speaks_as and not event.source.startswith(f"{sender.speaks_as}/"):
                raise Problem("forbidden", f"This key speaks as {sender.speaks_as!r}, and not as {event.source!r}.")
            if isinstance(event.data, RetrainRequested):
                raise Problem("forbidden", "A key tells what was seen. A retrain is asked for by a person's token.")
        return
    assert sender.person is not None  # noqa: S101 - a sender has a key or is a person
    door.may(sender.person, "retrain", {e.subject for e in heard if not isinstance(e.data, DataArrived)})
    if any(isinstance(event.data, DataArrived) for event in heard):
        door.may_everywhere(sender.person, "retrain")
    for event in heard:
        if isinstance(event.data, RetrainRequested) and event.data.actor != sender.person.name:
            raise Problem("forbidden", f"You are {sender.person.name!r}: you cannot ask as {event.data.actor!r}.")


# -- the HTTP binding --------------------------------------------------------------------------------------------------


def read(body: bytes, headers: Sequence[tuple[str, bytes]]) -> list[InboundEvent]:
    """The events of a request, by CloudEvents' HTTP binding. Header names in any case.

    Raises:
        Problem: it holds what is no event; each fault with its place.
    """
    named = [(name.lower(), value) for name, value in headers]
    kind, charset = _content_type([value for name, value in named if name == "content-type"])
    if charset not in {None, "utf-8"}:
        raise Problem("content-type", f"charset is {charset!r}; send UTF-8.")
    attributes = [(f"ce_{name[3:]}", unquote_to_bytes(value)) for name, value in named if name.startswith("ce-")]
    if kind == BATCH_CONTENT_TYPE:
        return _batch(body)
    binary = bool(attributes) and not kind.startswith("application/cloudevents")
    if kind != STRUCTURED_CONTENT_TYPE and not (binary and re.fullmatch(r"application/(.+\+)?json", kind)):
        raise Problem(
            "content-type",
            f"content-type is {kind!r}; send {STRUCTURED_CONTENT_TYPE}, {BATCH_CONTENT_TYPE}, or application/json with "
            "ce-* headers.",
        )
    try:
        return [parse(body, [*(attributes if binary else ()), ("content-type", kind.encode())])]
    except EventRejected as error:
        raise _problem([_fault(error)]) from None


def _content_type(values: Sequence[bytes]) -> tuple[str, str | None]:
    """The media type and its charset, both in lower case; the first has nothing in it where there is not one header."""
    kind, *parameters = (values[0].decode("latin-1") if len(values) == 1 else "").lower().split(";")
    named = dict(each.strip().partition("=")[::2] for each in parameters)
    charset = named.get("charset")
    return kind.strip(), None if charset is None else charset.strip('"')


def _batch(body: bytes) -> list[InboundEvent]:
    try:
        parts = msgspec.json.decode(body, type=list[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _problem(
            [Fault(pointer="", rule="not_json", got=str(error), remedy="send a JSON array of CloudEvents")]
        ) from None
    if len(parts) > MOST_EVENTS:
        raise Problem("too-large", f"{len(parts):,} events in one batch; send {MOST_EVENTS:,} at most.")
    events, faults = [], []
    for index, part in enumerate(parts):
        try:
            events.append(parse(bytes(part), [("content-type", STRUCTURED_CONTENT_TYPE.encode())]))
        except EventRejected as error:
            faults.append(_fault(error, f"/{index}"))
    if faults:
        raise _problem(faults)
    return events


def _problem(faults: Sequence[Fault]) -> Problem:
    kinds = {"oversized": "too-large", "content_type": "content-type"}
    kind = kinds.get(faults[0].rule, "no-event") if len(faults) == 1 and not faults[0].pointer else "no-event"
    first = faults[0]
    detail = f"{first.pointer or 'the event'}: {first.rule}: got {first.got}; {first.remedy}. Nothing was published."
    return Problem(kind, detail, errors=faults[:MOST_FAULTS])


def _fault(error: EventRejected, within: str = "") -> Fault:
    return Fault(pointer=within + _pointer(error), rule=error.rule, got=error.got, remedy=error.remedy)


def _pointer(error: EventRejected) -> str:
    """Where in the event the rule is broken, as far as the error says."""
    if path := re.search(r"at `\$([^`]*)`", error.got):
        return "/data" + re.sub(r"\[(\d+)\]|\.([^.\[]+)", lambda found: f"/{found[1] or found[2]}", path[1])
    if error.rule in {"unknown_type", "specversion"}:
        return {"unknown_type": "/type", "specversion": "/specversion"}[error.rule]
    if attribute := re.match(r"(?:no )?([a-z_.]+)(?: =|$| \d{4}-)", error.got):
        name = attribute[1].replace(".", "/")
        return f"/data/{name}" if name.startswith("window_") else f"/{name}"
    return "/data" if error.rule == "bad_data" else ""
