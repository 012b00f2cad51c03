"""What every route needs, and who may pass: the parts of one application, and what guards its routes."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer

from ratchet.api.access import Access, Act, Person
from ratchet.api.limits import Buckets
from ratchet.api.problems import Problem
from ratchet.api.publishing import Outgoing
from ratchet.bootstrap import Ratchet
from ratchet.domain.signing import REMEMBERED, SignedRequest, is_fresh, is_signed
from ratchet.errors import Refused
from ratchet.workflow.overview import Overviews

logger = logging.getLogger(__name__)
KEY, TIMESTAMP, SIGNATURE = "Ratchet-Key", "Ratchet-Timestamp", "Ratchet-Signature"
KEYS_SECONDS = 30.0
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

token = HTTPBearer(scheme_name="token", auto_error=False, description="An Airflow token: POST /auth/token gives one.")
cookie = APIKeyCookie(
    name="_token", scheme_name="cookie", auto_error=False, description="Airflow's own pages; never from another site."
)
signature = APIKeyHeader(
    name=SIGNATURE,
    scheme_name="signature",
    auto_error=False,
    description=f"HMAC of the request beside {KEY} and {TIMESTAMP}: docs/api.md says of what.",
)


class Keys:
    """The secrets of those who sign, asked for again every half a minute: replacing one needs no restart."""

    def __init__(self, load: Callable[[], Mapping[str, tuple[str, ...]]]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._known: Mapping[str, tuple[str, ...]] = {}
        self._until = 0.0

    def of(self, name: str) -> tuple[str, ...]:
        """The secrets of the source with this name; none of one that is not known. May block."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._known = self._load()
                except Refused as refusal:
                    # Whoever signs is refused until it is mended; what the secrets are, no message says.
                    self._known = {}
                    logger.error("nobody can sign: %s", refusal)  # noqa: TRY400 - the message is the whole story
                self._until = time.monotonic() + KEYS_SECONDS
            return self._known.get(name, ())


class MetricsToken:
    """The token of whoever scrapes, asked for again every half a minute: replacing it needs no restart."""

    def __init__(self, load: Callable[[], str | None]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._known: str | None = None
        self._until = 0.0

    def is_it(self, given: str) -> bool:
        """Whether this is the token; false where there is none. May block."""
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    self._known = self._load()
                except Refused as refusal:
                    self._known = None
                    logger.error("no token scrapes metrics: %s", refusal)  # noqa: TRY400 - the whole story
                self._until = time.monotonic() + KEYS_SECONDS
            return self._known is not None and hmac.compare_digest(self._known.encode(), given.encode())


@dataclass
class Door:
    """The parts of one application."""

    ratchet: Ratchet
    access: Access
    keys: Keys
    metrics_token: MetricsToken
    outgoing: Outgoing
    buckets: Buckets
    description: dict[str, Any]
    overviews: Overviews = field(default_factory=Overviews)

    @classmethod
    def of(cls, ratchet: Ratchet, access: Access, description: dict[str, Any]) -> Door:
        """The parts on these verbs; none of them connects to anything yet."""
        return cls(
            ratchet=ratchet,
            access=access,
            keys=Keys(ratchet.signing_keys),
            metrics_token=MetricsToken(ratchet.metrics_token),
            outgoing=Outgoing(lambda: ratchet.bus),
            buckets=Buckets(ratchet.settings.http_events_per_minute),
            description=description,
        )

    def names_seen(self, person: Person, model: str | None, act: Act = "read") -> list[str]:
        """The names of the models that this person may see, or the one that is asked for.

        Raises:
            Problem: it may not be seen, or is not there.
        """
        if model is not None:
            return [self.one(person, model, act)]
        with self.ratchet.ledger.transaction() as tx:
            names = [row.model for row in tx.registered()]
        allowed = self.access.allowed(person, act, names)
        return [name for name in names if name in allowed]

    def one(self, person: Person, model: str, act: Act) -> str:
        """The model, with which the person may do this.

        Raises:
            Problem: they may not, or there is no such model; who may not is not told which.
        """
        self.may(person, act, [model])
        with self.ratchet.ledger.transaction() as tx:
            if not any(row.model == model for row in tx.registered()):
                raise Problem("not-found", f"There is no model {model!r}. GET /v1/models lists them.")
        return model

    def may(self, person: Person, act: Act, models: Collection[str]) -> None:
        """Return when the person may do this with all of these. Raises :class:`Problem`."""
        refused = sorted(set(models) - self.access.allowed(person, act, models))
        if refused:
            raise Problem("forbidden", f"{person.name} may not {WORDS[act]} {refused[0]!r}. Ask its owner.")

    def may_everywhere(self, person: Person, act: Act) -> None:
        """Return when the person may do this with every model. Raises :class:`Problem`."""
        if not self.access.allowed_everywhere(person, act):
            raise Problem("forbidden", f"{person.name} may not {WORDS[act]} every model, as this asks for.")


WORDS: Mapping[Act, str] = {
    "read": "see",
    "retrain": "retrain",
    "answer": "answer for",
    "rollback": "roll back",
    "audit": "read the audit log of",
}


@dataclass(frozen=True)
class Sender:
    """Who sends events: a person, or a source by its key. ``speaks_as`` is what a key's events must come from."""

    name: str
    person: Person | None = None
    speaks_as: str | None = None


def door_of(request: Request) -> Door:
    """The application's parts."""
    door: Door = request.app.state.door
    return door


DoorDep = Annotated[Door, Depends(door_of)]


async def person(
    request: Request,
    door: DoorDep,
    _token: Annotated[object, Depends(token)],
    _cookie: Annotated[object, Depends(cookie)],
) -> Person:
    """Who asks; 401 when nobody who is known does, 403 when another site has their browser do it."""
    found = await door.access.identify(request)
    _own_site(request)
    return found


async def sender(
    request: Request,
    door: DoorDep,
    _token: Annotated[object, Depends(token)],
    _cookie: Annotated[object, Depends(cookie)],
    _signature: Annotated[object, Depends(signature)],
) -> Sender:
    """Who sends events: whoever signed the request where a signature is there, else the person who asks."""
    if any(name in request.headers for name in (KEY, TIMESTAMP, SIGNATURE)):
        return await _signer(request, door)
    found = await door.access.identify(request)
    _own_site(request)
    return Sender(f"user {found.id}", person=found)


async def scraper(
    request: Request,
    door: DoorDep,
    _token: Annotated[object, Depends(token)],
    _cookie: Annotated[object, Depends(cookie)],
) -> None:
    """Who scrapes metrics: whoever has the token for that, else a person who may see every model."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and given and await run_in_threadpool(door.metrics_token.is_it, given.strip()):
        return
    found = await door.access.identify(request)
    await run_in_threadpool(door.may_everywhere, found, "read")


PersonDep = Annotated[Person, Depends(person)]
SenderDep = Annotated[Sender, Depends(sender)]


def _own_site(request: Request) -> None:
    """A change that a cookie alone stands for must come from our own pages: a browser says where it comes from."""
    kind, _, credentials = request.headers.get("authorization", "").partition(" ")
    if request.method in SAFE or (kind.lower() == "bearer" and credentials.strip()):
        return
    origin = request.headers.get("origin")
    same = request.headers.get("sec-fetch-site") == "same-origin" or (
        origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    )
    if not same:
        raise Problem("cross-site", "A change needs a token in the header Authorization, or a page of this very site.")


async def _signer(request: Request, door: Door) -> Sender:
    """The source whose key signed the request, which nobody has sent before."""
    said = [request.headers.getlist(name) for name in (KEY, TIMESTAMP, SIGNATURE)]
    if any(len(values) != 1 for values in said):
        raise Problem("unauthenticated", f"A signed request has {KEY}, {TIMESTAMP} and {SIGNATURE}, each once.")
    (name,), (timestamp,), (given,) = said
    secrets = await run_in_threadpool(door.keys.of, name)
    now = datetime.now(UTC)
    if not is_fresh(timestamp, now):
        raise Problem("unauthenticated", f"{TIMESTAMP} is no time near {now.timestamp():.0f}. Sign anew.")
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    query = request.scope["query_string"].decode("latin-1")
    signed = SignedRequest(
        timestamp,
        request.method,
        f"{path}?{query}" if query else path,
        [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.scope["headers"]],
        await request.body(),
    )
    if not is_signed(given, secrets, signed):
        raise Problem("unauthenticated", f"{SIGNATURE} is of no key that is known. docs/api.md says what is signed.")
    if not await run_in_threadpool(_take, door, name, given):
        raise Problem("replayed", "This very request was taken before. Sign anew, with a timestamp of its own.")
    return Sender(f"key {name}", speaks_as=f"/monitors/{name}")


def _take(door: Door, name: str, given: str) -> bool:
    with door.ratchet.ledger.transaction() as tx:
        return tx.take_signature(name, given, REMEMBERED.total_seconds())
