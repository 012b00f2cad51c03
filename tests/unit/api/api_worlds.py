"""The application in this process: a small world's verbs, and people of whom the test says what they may do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection
from worlds import World

from ratchet.api.access import Act, Person
from ratchet.api.app import PREFIX
from ratchet.api.problems import Problem
from ratchet.bootstrap import Ratchet
from ratchet.domain.signing import SignedRequest, sign
from ratchet.pages.app import create_app
from ratchet.workflow.replaying import Replays

SECRET = "0123456789abcdef0123456789abcdef"
EVERYTHING = frozenset({"read", "retrain", "answer", "rollback", "audit"})


class InWorld(Ratchet):
    """The verbs on the parts of a world."""

    def __init__(self, world: World) -> None:
        super().__init__(resolver=None, settings=world.settings)  # type: ignore[arg-type]
        for part in ("ledger", "bus", "registry", "store", "artifacts", "relay"):
            self.__dict__[part] = getattr(world, part)
        self.__dict__["_promotions"] = world.promotions
        self.__dict__["replays"] = Replays(world.ledger, world.intake, lambda: self.bus)
        self.keys = {"grafana": (SECRET,)}
        self.scrape_token: str | None = None

    def signing_keys(self) -> dict[str, tuple[str, ...]]:
        return self.keys

    def metrics_token(self) -> str | None:
        return self.scrape_token


@dataclass
class People:
    """Tokens are names. ``may`` says what each may do, with every model or with those named."""

    may: dict[str, frozenset[str]] = field(
        default_factory=lambda: {"ada": EVERYTHING, "vic": frozenset({"read", "audit"}), "nob": frozenset()}
    )
    only: dict[str, set[str]] = field(default_factory=dict)
    started: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    refusal: str | None = None

    async def identify(self, request: HTTPConnection) -> Person:
        kind, _, name = request.headers.get("authorization", "").partition(" ")
        name = name if kind.lower() == "bearer" and name.strip() else request.cookies.get("_token", "")
        if name not in self.may:
            raise HTTPException(401, "Not authenticated")
        return Person(id=f"id of {name}", name=name)

    def allowed(self, person: Person, act: Act, models: Collection[str]) -> set[str]:
        names = self.only.get(person.name, set(models))
        return {model for model in models if model in names} if act in self.may[person.name] else set()

    def allowed_everywhere(self, person: Person, act: Act) -> bool:
        return act in self.may[person.name] and person.name not in self.only

    async def start(self, _request: HTTPConnection, person: Person, model: str, conf: Mapping[str, Any]) -> str:
        if self.refusal is not None:
            raise Problem("refused", self.refusal)
        self.started.append((person.name, model, dict(conf)))
        return f"manual__{len(self.started)}"

    def login_url(self, back_to: str) -> str:
        return f"/auth/login?next={quote(back_to, safe='')}"


class Client:
    """Asks the mounted application, as ``user`` by a token."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people = People()
        self.ratchet = InWorld(world)
        self.app = create_app(self.ratchet, self.people)
        self.outgoing = self.app.state.door.outgoing

    def ask(self, method: str, path: str, user: str | None = "ada", **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers.setdefault("Authorization", f"Bearer {user}")
        return asyncio.run(self._ask(method, path, headers, options))

    async def _ask(self, method: str, path: str, headers: dict[str, str], options: dict[str, Any]) -> httpx.Response:
        outer = FastAPI()
        outer.mount(PREFIX, self.app)
        transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.test") as client:
            return await client.request(method, f"{PREFIX}{path}", headers=headers, **options)

    def get(self, path: str, user: str | None = "ada", **options: Any) -> httpx.Response:
        return self.ask("GET", path, user, **options)

    def post(self, path: str, user: str | None = "ada", **options: Any) -> httpx.Response:
        return self.ask("POST", path, user, **options)

    def signed(self, path: str, body: bytes, headers: dict[str, str], /, **other: Any) -> httpx.Response:
        """Post as source ``grafana`` does; ``other`` is what a forger changes afterwards."""
        timestamp = other.get("timestamp", f"{time.time():.3f}")
        request = SignedRequest(timestamp, "POST", path, tuple(headers.items()), body)
        sent = (
            headers
            | other.get("headers", {})
            | {
                "Ratchet-Key": other.get("key", "grafana"),
                "Ratchet-Timestamp": timestamp,
                "Ratchet-Signature": other.get("signature", sign(other.get("secret", SECRET), request)),
            }
        )
        return self.post(other.get("path", path), None, content=other.get("body", body), headers=sent)

    def audited(self, action: str) -> list[dict[str, Any]]:
        with self.world.ledger.transaction() as tx:
            return tx.audit_log(action=action)

    def published(self) -> list[Any]:
        return [
            record
            for topic in ("ml.drift", "ml.data-arrival", "ml.retrain-requests")
            for record in self.world.bus.records(topic)
        ]


VALUES = {
    "model": "flight_delay",
    "attempt": "flight_delay.1",
    "number": "1",
    "system": "grafana",
    "dag_id": "retrain__flight_delay",
    "run_id": "run1",
    "version": "1",
    "check": "psi",
    "day": "2013-04-01",
    "window_end": "2013-04-01",
    "name": "uplift",
}
"""What a parameter of a path may be."""


def filled(path: str, values: dict[str, str]) -> str:
    """The path with a value for each of its parameters."""
    unknown = set(re.findall(r"{(\w+)(?::\w+)?}", path)) - values.keys()
    assert not unknown, f"{path}: say in api_worlds.py what {unknown} may be"
    return re.sub(r"{(\w+)(?::\w+)?}", lambda found: quote(values[found[1]], safe=""), path)
