"""What was tried: the list, each attempt's story, and the one of a run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from ratchet.api import reading
from ratchet.api import schemas as s
from ratchet.api.access import Person
from ratchet.api.door import Door, DoorDep, PersonDep
from ratchet.api.problems import Problem
from ratchet.pages import story, wording
from ratchet.pages.lists import MOST, Filter, Spot
from ratchet.pages.rendering import may, page, pretty

router = APIRouter()
MOST_EVENTS = 12
RunPart = Annotated[str, Path(max_length=250, pattern=r"^[^\x00]*$")]


@router.get("/attempts")
def attempts(
    request: Request,
    door: DoorDep,
    person: PersonDep,
    model: Filter = "",
    state: Filter = "",
    verdict: Filter = "",
    cursor: Spot = None,
) -> Response:
    """Attempts, newest first."""
    told = reading.attempts(
        door,
        person,
        model=model or None,
        state=[state] if state else None,
        verdict=[verdict] if verdict else None,
        cursor=cursor,
        limit=MOST,
    )
    asked = {"model": model, "state": state, "verdict": verdict}
    return page(
        request,
        person,
        "attempts.html",
        attempts=told.items,
        next=told.next,
        cursor=cursor,
        asked=asked,
        models=door.names_seen(person, None),
        w=wording,
    )


@router.get("/attempts/{attempt}")
def attempt(request: Request, door: DoorDep, person: PersonDep, attempt: reading.AttemptPath) -> Response:
    """One attempt's story."""
    return _story(request, door, person, reading.attempt(door, person, attempt))


@router.get("/run/{dag_id}/{run_id:path}")
def run(request: Request, door: DoorDep, person: PersonDep, dag_id: RunPart, run_id: RunPart) -> Response:
    """The story of the attempt that a run of Airflow made; why there is none where it made none."""
    found = reading.attempts(door, person, dag_id=dag_id, dag_run_id=run_id, limit=1).items
    if found:
        return _story(request, door, person, reading.attempt(door, person, found[0].id))
    verb, _, model = dag_id.partition("__")
    known = bool(model) and model in door.names_seen(person, None)
    return page(
        request, person, "run.html", verb=verb, model=model if known else None, dag_id=dag_id, run_id=run_id, w=wording
    )


def _story(request: Request, door: Door, person: Person, told: s.AttemptInFull) -> Response:
    events = reading.events(door, person, attempt=told.id, limit=MOST_EVENTS)
    shown = _trigger_first(door, person, told, events.items)
    whole = events.next is not None or (shown and told.state != "concluded")
    raw = pretty(told.dossier) if told.dossier is not None else ""
    facts, shift = story.data(told)
    what, made, trials = story.tried(told)
    headline, picture, measured = story.judged(told)
    return page(
        request,
        person,
        "story.html",
        told=told,
        chapters=story.chapters(told, events.items),
        lead=story.lead(told),
        events=shown,
        kept=[] if whole else story.events(told, {(event.source, event.id) for event in shown}),
        more_events=events.next is not None,
        facts=facts,
        shift=shift,
        what=what,
        made=made,
        trials=trials,
        headline=headline,
        picture=picture,
        measured=measured,
        deployed=story.deployed(told),
        pinned=story.pinned(told),
        raw=raw if len(raw) <= story.MOST_RAW else None,
        may=may(door, person, told.model),
        w=wording,
    )


def _trigger_first(door: Door, person: Person, told: s.AttemptInFull, events: list[s.Event]) -> list[s.Event]:
    """The event that started the attempt, if the ledger still has it, then the others."""
    if told.trigger_event is None:
        return events
    first = [event for event in events if event.number == told.trigger_event]
    if not first:
        try:
            first = [reading.event(door, person, told.trigger_event)]
        except Problem:
            return events
    return [*first, *(event for event in events if event.number != told.trigger_event)]
