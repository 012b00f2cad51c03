"""The application: its routes, its guards, and what it says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratchet.api import acting, hearing, measured, problems, reading, schemas
from ratchet.api.access import Access
from ratchet.api.conditional import Conditional
from ratchet.api.door import Door, DoorDep, PersonDep
from ratchet.api.problems import HEADERS, Problem
from ratchet.bootstrap import Ratchet
from ratchet.domain.translations import MAX_BYTES

PREFIX = "/ratchet"
"""Where the deployment mounts it."""
MOST_BYTES = 64 * 1024
DESCRIPTION = """What Ratchet did and why, what waits for people, and the door for events of systems without Kafka.

Every request needs an Airflow token (`POST /auth/token`) in the header `Authorization`, or the cookie of Airflow's own
pages; events may be signed instead. What you see and may do follows Airflow's permissions on each model's DAGs. Errors
are problem documents (RFC 9457). Lists come in pages: give `next` as `cursor`. Times are UTC. A GET answers with an
`ETag`; given back as `If-None-Match`, it makes the next answer a bare 304 while nothing has changed."""


itself = APIRouter(prefix="/v1")


@itself.get("/openapi.json", tags=["about"], summary="This description", responses=problems.documented())
def description(door: DoorDep, _person: PersonDep) -> dict[str, Any]:
    """The OpenAPI description of this API."""
    return door.description


def create_app(ratchet: Ratchet, access: Access) -> FastAPI:
    """The application, to be mounted below ``PREFIX``; it connects to nothing before the first request."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(door.outgoing.close)

    app = _routes(lifespan)
    problems.install(app)
    app.add_middleware(Conditional)
    app.add_middleware(Guard)
    app.state.door = door = Door.of(ratchet, access, _described(app))
    return app


def document() -> dict[str, Any]:
    """The OpenAPI description, as docs/openapi.json has it."""
    return _described(_routes())


def _routes(lifespan: Any = None) -> FastAPI:
    app = FastAPI(
        title="Ratchet",
        version="1",
        description=DESCRIPTION,
        servers=[{"url": PREFIX}],
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (reading.router, acting.router, hearing.router, measured.router, itself):
        app.include_router(router)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The routes' description, with the shapes that routes name without returning them."""
    described = app.openapi()
    _, named = models_json_schema(
        [(problems.ProblemDocument, "serialization"), (schemas.CloudEvent, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    described["components"]["schemas"] |= named["$defs"]
    return described


class Guard:
    """Says with every answer that it is data, where it does not say what else it is; lets none ask with too much."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        most, read = MAX_BYTES if path.startswith("/v1/events") else MOST_BYTES, 0
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        announced = max((int(value) for value in lengths if value.isdigit()), default=0)

        async def receive_within() -> Message:
            nonlocal read
            message = await receive() if announced <= most else {"body": b""}
            read += len(message.get("body", b""))
            if max(read, announced) > most:
                raise Problem("too-large", f"Send {most:,} bytes at most.")
            return message

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive_within, send_guarded)
