"""Every model at a glance, and one in full."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from ratchet.api import reading
from ratchet.api.door import DoorDep, PersonDep
from ratchet.pages.rendering import page

router = APIRouter()
MOST = 200


@router.get("/models")
def models(request: Request, door: DoorDep, person: PersonDep, cursor: str | None = None) -> HTMLResponse:
    """The list of models."""
    told = reading.models(door, person, owner=None, cursor=cursor, limit=MOST)
    return page(request, person, "models.html", models=told.items, next=told.next)
