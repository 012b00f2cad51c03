"""Every event with its fate: the list, and one with each fate it had."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from ratchet.api import reading
from ratchet.api.door import DoorDep, PersonDep
from ratchet.pages import wording
from ratchet.pages.lists import MOST, Filter, Spot
from ratchet.pages.rendering import may, page

router = APIRouter()


@router.get("/events")
def events(
    request: Request,
    door: DoorDep,
    person: PersonDep,
    model: Filter = "",
    fate: Filter = "",
    type: Filter = "",  # noqa: A002 - the name of the field
    source: Filter = "",
    attempt: Filter = "",
    cursor: Spot = None,
) -> Response:
    """Events as they came, newest first."""
    told = reading.events(
        door,
        person,
        model=model or None,
        fate=[fate] if fate else None,  # type: ignore[list-item] # one that is none finds nothing
        kind=[type] if type else None,
        source=source or None,
        attempt=attempt or None,
        cursor=cursor,
        limit=MOST,
    )
    asked = {"model": model, "fate": fate, "type": type, "source": source, "attempt": attempt}
    return page(
        request,
        person,
        "events.html",
        events=told.items,
        next=told.next,
        cursor=cursor,
        asked=asked,
        models=door.names_seen(person, None),
        w=wording,
    )


@router.get("/events/{number}")
def event(
    request: Request, door: DoorDep, person: PersonDep, number: Annotated[int, Path(ge=1, le=2**63 - 1)]
) -> Response:
    """One event, and each fate it had."""
    told = reading.event(door, person, number)
    return page(request, person, "event.html", event=told, may=may(door, person, told.model), w=wording)
