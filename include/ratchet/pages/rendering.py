"""How a page is made: the templates, what they may call, the headers a page goes out with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from ratchet.api.access import Act, Person
from ratchet.api.app import PREFIX
from ratchet.api.door import Door

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Nothing that somebody wrote into an event can run, load or send anything. A form posted from here must say its
origin, which ``no-referrer`` would hide."""
ACTS: tuple[Act, ...] = ("read", "retrain", "answer", "rollback", "audit")


def page(request: Request, person: Person | None, template: str, status: int = 200, /, **context: Any) -> HTMLResponse:
    """The template as a page for this person; every value in it is escaped.

    ``None`` for the person is nobody who is known. Templates may call ``url(*parts, **query)`` for an address of ours,
    ``airflow(path)`` for one of Airflow's, and ``static(name)``.
    """
    root = request.scope.get("root_path", "")
    functions = {"url": Urls(root), "airflow": Urls(root.removesuffix(PREFIX)), "static": _Static(root)}
    told = context | functions | {"person": person, "path": request.url.path.removeprefix(root), "now": _now()}
    return HTMLResponse(environment().get_template(template).render(told), status, headers=PAGE_HEADERS)


def urls(request: Request) -> Urls:
    """Addresses below where this application is mounted."""
    return Urls(request.scope.get("root_path", ""))


def may(door: Door, person: Person, model: str) -> set[Act]:
    """What the person may do with this model. May block: Airflow is asked."""
    return {act for act in ACTS if door.access.allowed(person, act, [model])}


@cache
def environment() -> Environment:
    """The templates; a name that is not given is an error, not an empty text."""
    made = Environment(
        loader=PackageLoader("ratchet.pages"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "when": when,
        "ago": ago,
        "amount": amount,
        "signed": signed,
        "percent": percent,
        "words": words,
        "pretty": pretty,
        "code": code,
    }
    made.globals["places"] = places
    return made


class Urls:
    """Makes addresses below one root: each part is one segment, whatever is written in it."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __call__(self, *parts: object, **query: object) -> str:
        """The address of these segments, with what of the query is not empty."""
        path = "".join(f"/{quote(str(part), safe='')}" for part in parts)
        asked = {name: value for name, value in query.items() if value not in (None, "", [])}
        return f"{self._root}{path}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")


class _Static:
    """Addresses of our files, changed with their content: a browser may keep them for good."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __call__(self, name: str) -> str:
        _, _, digest = asset(name)
        return f"{self._root}/static/{name}?v={digest[:12]}"


@lru_cache(maxsize=64)
def asset(name: str) -> tuple[bytes, str, str]:
    """Content, content type and SHA-256 of one of our own files. Raises ``KeyError`` of any other name."""
    if name not in {path.name for path in STATIC.iterdir()}:
        raise KeyError(name)
    content = (STATIC / name).read_bytes()
    return content, TYPES[Path(name).suffix], hashlib.sha256(content).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


def when(moment: datetime | None, none: str = "–") -> Markup | str:
    """A moment, in UTC to the minute, for people and for machines."""
    if moment is None:
        return none
    at = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{at:%Y-%m-%d %H:%M}")


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago a moment of the wall clock was, or how soon it will be, in one unit: 3 hours ago."""
    if moment is None:
        return ""
    apart = now - moment
    size = abs(apart)
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        count = int(size / length)
        if count:
            told = f"{count:,} {unit}{'s' if count > 1 else ''}"
            return f"{told} ago" if apart > timedelta(0) else f"in {told}"
    return "just now" if apart >= timedelta(0) else "in a moment"


def amount(value: float | None, digits: int = 2, none: str = "–") -> str:
    """A number for people, thousands apart; a whole one without digits behind the point."""
    if value is None:
        return none
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 2, none: str = "–") -> str:
    """A difference, with its sign: a proper minus."""
    return none if value is None else f"{value:+,.{digits}f}".replace("-", "−")


def places(*values: float | None) -> int:
    """Digits behind the point that tell these from nought: two of amounts of one and more, else three figures."""
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=1.0)
    return 2 if largest >= 1 or largest == 0 else min(2 - math.floor(math.log10(largest)), 8)


def percent(value: float | None, digits: int = 0, none: str = "–") -> str:
    """A share, as so many of a hundred."""
    return none if value is None else f"{value * 100:.{digits}f} %"


def words(name: str) -> str:
    """A name of the code as words: ``not_enough_evidence`` is not enough evidence."""
    return name.replace("_", " ").replace("-", " ")


def pretty(value: Mapping[str, Any] | list[Any]) -> str:
    """A document as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)


def code(text: str) -> Markup:
    """A text of ours, what stands between backticks as code."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in parts)
