"""Where a page ends: an opaque text that names its last row."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Query

from ratchet.api.problems import Problem
from ratchet.api.schemas import Page

_Row = TypeVar("_Row")
_Shown = TypeVar("_Shown")
MOST = 200

Cursor = Annotated[
    str | None,
    Query(max_length=500, description="Where the page begins: the last page's next."),
]
Limit = Annotated[int, Query(ge=1, le=MOST, description="How many rows at most.")]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


def read(cursor: str | None, kind: Any) -> Any:
    """What the cursor holds, as the ``msgspec`` type; None without a cursor. Raises :class:`Problem`."""
    if cursor is None:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=kind)
    except (ValueError, msgspec.MsgspecError):
        raise Problem("bad-request", "cursor is none of ours: give the last page's next, or leave it out.") from None
    moments = [part for part in (found if isinstance(found, tuple) else ()) if isinstance(part, datetime)]
    if any(not 1970 <= moment.year < 2200 for moment in moments):
        raise Problem("bad-request", "cursor is none of ours: give the last page's next, or leave it out.")
    return found


def page(rows: Sequence[_Row], limit: int, spot: Callable[[_Row], Any], show: Callable[[_Row], _Shown]) -> Page[_Shown]:
    """The page of these rows, of which one more than ``limit`` was asked for; ``spot`` is what a cursor names."""
    shown = rows[:limit]
    following = spot(shown[-1]) if len(rows) > limit else None
    cursor = None if following is None else base64.urlsafe_b64encode(msgspec.json.encode(following)).decode()
    return Page(items=[show(row) for row in shown], next=cursor)


Moment = Annotated[datetime, msgspec.Meta(tz=True)]
