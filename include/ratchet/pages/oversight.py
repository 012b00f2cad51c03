"""What waits for people, what they did, and what could not be read: approvals, audit log, dead letters."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ratchet.api import reading
from ratchet.api.door import DoorDep, PersonDep
from ratchet.pages import wording
from ratchet.pages.lists import MOST, Filter, Spot
from ratchet.pages.rendering import page

router = APIRouter()


@router.get("/approvals")
def approvals(request: Request, door: DoorDep, person: PersonDep) -> Response:
    """What people are asked, the one that expires first at the top."""
    told = sorted(reading.approvals(door, person), key=lambda asked: asked.expires_at)
    mine = door.access.allowed(person, "answer", {asked.model for asked in told})
    return page(request, person, "approvals.html", approvals=told, mine=mine, w=wording)


@router.get("/audit")
def audit(
    request: Request,
    door: DoorDep,
    person: PersonDep,
    model: Filter = "",
    actor: Filter = "",
    action: Filter = "",
    cursor: Spot = None,
) -> Response:
    """Who did what, newest first."""
    told = reading.audit(
        door, person, model=model or None, actor=actor or None, action=action or None, cursor=cursor, limit=MOST
    )
    return page(
        request,
        person,
        "audit.html",
        entries=told.items,
        next=told.next,
        cursor=cursor,
        asked={"model": model, "actor": actor, "action": action},
        models=door.names_seen(person, None, "audit"),
        w=wording,
    )


@router.get("/dead-letters")
def dead_letters(
    request: Request, door: DoorDep, person: PersonDep, reason: Filter = "", cursor: Spot = None
) -> Response:
    """Records that were no events, newest first, for those who may see every model."""
    if not door.access.allowed_everywhere(person, "read"):
        return page(request, person, "letters.html", 403, seen=False)
    told = reading.dead_letters(door, person, reason=reason or None, cursor=cursor, limit=MOST)
    return page(
        request,
        person,
        "letters.html",
        seen=True,
        letters=told.items,
        next=told.next,
        cursor=cursor,
        asked={"reason": reason},
        replay=door.access.allowed_everywhere(person, "retrain"),
        w=wording,
    )
