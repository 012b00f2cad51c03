"""The application with its pages: the API, and beside it what people look at."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from ratchet.api import app as api
from ratchet.api.access import Access, Person
from ratchet.api.door import door_of
from ratchet.api.problems import Problem
from ratchet.bootstrap import Ratchet
from ratchet.pages import acting, attempts, events, models, oversight, rendering

FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
PAGES = (acting.router, attempts.router, events.router, models.router, oversight.router)

itself = APIRouter(include_in_schema=False)


@itself.get("/")
def front(request: Request) -> RedirectResponse:
    """Where to begin."""
    return RedirectResponse(rendering.urls(request)("models"))


@itself.get("/static/{name}")
def static(name: str) -> Response:
    """One of our own files; public, as Airflow's own are."""
    try:
        content, kind, _ = rendering.asset(name)
    except KeyError:
        raise Problem("not-found", f"There is no file {name!r}.") from None
    return Response(content, media_type=kind, headers=FOREVER)


def create_app(ratchet: Ratchet, access: Access) -> FastAPI:
    """The API and the pages, to be mounted below ``ratchet.api.app.PREFIX``."""
    app = api.create_app(ratchet, access)
    for router in (itself, *PAGES):
        app.include_router(router, include_in_schema=False)
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _shown(handler))
    return app


def _shown(handler: Callable[[Request, Exception], Any]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The handler's problem document, as a page where a page was asked for."""

    async def answer(request: Request, error: Exception) -> Response:
        told: Response = await handler(request, error)
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if path.startswith(("/v1", "/static")):
            return told
        return await run_in_threadpool(problem_page, request, None, json.loads(bytes(told.body)))

    return answer


def problem_page(request: Request, person: Person | None, problem: dict[str, Any]) -> Response:
    """A problem document for people: what happened, and what to do."""
    login = door_of(request).access.login_url(str(request.url)) if problem["status"] == 401 else None
    return rendering.page(request, person, "problem.html", problem["status"], problem=problem, login=login)
