"""Every error is a problem document (RFC 9457): what kind, where, the rule, what was got and the remedy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from ratchet.errors import CorruptObjectError, RatchetError, Refused, Unavailable

logger = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 5
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""What is said here is data: no browser may run, frame, sniff or keep it."""


class Fault(BaseModel):
    """One thing that is wrong with what was sent."""

    pointer: str = Field(description="Where in what was sent: a JSON Pointer into the body, or the parameter's name.")
    rule: str = Field(description="The rule that it breaks.")
    got: str = Field(description="What was got.")
    remedy: str = Field(description="What to do.")


class ProblemDocument(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str = Field(description="Which kind of problem: urn:ratchet:problem:… as docs/api.md lists them.")
    title: str = Field(description="The kind in words.")
    status: int = Field(description="The HTTP status, again.")
    detail: str = Field(description="What happened here, and what to do.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[Fault] | None = Field(default=None, description="Each thing that is wrong with what was sent.")


KINDS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "What was sent cannot be read"),
    "no-event": (400, "What was sent is no event"),
    "unauthenticated": (401, "Nobody who is known"),
    "forbidden": (403, "Not allowed"),
    "cross-site": (403, "Sent by another site"),
    "not-found": (404, "Not there"),
    "method-not-allowed": (405, "Not with this method"),
    "refused": (409, "Refused by a rule"),
    "replayed": (409, "Taken before"),
    "too-large": (413, "Too large"),
    "content-type": (415, "Not in this content type"),
    "invalid": (422, "A value breaks a rule"),
    "too-many": (429, "Too many events"),
    "error": (500, "A fault of ours"),
    "unavailable": (503, "Something we depend on did not answer"),
}
_OF_STATUS = {status: kind for kind, (status, _) in reversed(list(KINDS.items()))}


class Problem(HTTPException):
    """Ends a request with a problem document."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[Fault] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(KINDS[kind][0], detail, dict(headers or {}))
        self.kind = kind
        self.errors = errors


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that may end with these statuses; 401, 403, 422 and 503 are of every route."""
    wanted = sorted({401, 403, 422, 503, *statuses})
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in wanted}


def install(app: FastAPI) -> None:
    """Have the application answer every error with a problem document."""

    async def ended(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, Problem):
            return _answer(request, error.kind, str(error.detail), error.errors, error.headers)
        assert isinstance(error, StarletteHTTPException)  # noqa: S101 - for the type checker
        kind = _OF_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "error")
        return _answer(request, kind, str(error.detail), None, error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
        faults = [_fault(each) for each in error.errors()]
        detail = "; ".join(f"{fault.pointer}: {fault.remedy}" for fault in faults[:5])
        return _answer(request, "invalid", detail, faults)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return _answer(request, "refused", str(error))

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        return _answer(request, "unavailable", str(error), headers={"Retry-After": str(RETRY_SECONDS)})

    async def corrupt(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s: %s", request.url.path, error)
        return _answer(request, "error", str(error))

    async def fault(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s failed", request.url.path, exc_info=error)
        return _answer(request, "error", "The server's log says more.")

    app.add_exception_handler(StarletteHTTPException, ended)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(Unavailable, unavailable)
    app.add_exception_handler(CorruptObjectError, corrupt)
    app.add_exception_handler(RatchetError, corrupt)
    app.add_exception_handler(Exception, fault)


def _answer(
    request: Request,
    kind: str,
    detail: str,
    errors: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    status, title = KINDS[kind]
    document = ProblemDocument(
        type=f"urn:ratchet:problem:{kind}",
        title=title,
        status=status,
        detail=detail,
        instance=request.url.path,
        errors=None if errors is None else list(errors),
    )
    named = HEADERS | dict(headers or {})
    if status == 401:
        named.setdefault("WWW-Authenticate", "Bearer")
    content = document.model_dump(exclude_none=True)
    return JSONResponse(content, status, headers=named, media_type=CONTENT_TYPE)


def _fault(error: Mapping[str, Any]) -> Fault:
    place, *path = error["loc"]
    where = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    got = repr(error.get("input"))
    return Fault(
        pointer=where if place == "body" else ".".join(map(str, path)) or str(place),
        rule=str(error["type"]),
        got=got if len(got) <= 120 else f"{got[:117]}...",
        remedy=str(error["msg"]),
    )
