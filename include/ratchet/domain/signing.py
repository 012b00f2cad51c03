"""Signed requests: how a source without an account proves that a request is its own, whole and fresh.

The signature is the HMAC-SHA-256, in hexadecimal, of these lines, joined by newlines::

    ratchet-v1
    <timestamp>                          as sent: seconds since 1970, fractions allowed
    <method> <path>[?<query>]            the path below the API's own address, as sent: POST /v1/events
    <name>:<value>                       content-type and every ce-* header: lower-case names, in alphabetical order
    <SHA-256 of the body, hexadecimal>

The headers are covered because in the binary mode they are the event. A request is believed for as long as its
timestamp is near the clock; within that time whoever receives it remembers its signature (RFC 2104 for the HMAC).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

CLOCK_WINDOW = timedelta(minutes=5)
REMEMBERED = 3 * CLOCK_WINDOW
"""A timestamp may lie ahead of the clock and is believed until it lies as far behind; and clocks differ."""
LEAST_SECRET = 32
_TIMESTAMP = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class SignedRequest:
    """What is signed. ``headers`` are all that were sent; only those that are covered count."""

    timestamp: str
    method: str
    target: str
    headers: Iterable[tuple[str, str]]
    body: bytes

    def content(self) -> bytes:
        """The bytes that the HMAC is of."""
        named = ((name.lower(), value.strip()) for name, value in self.headers)
        covered = sorted(f"{n}:{value}" for n, value in named if n == "content-type" or n.startswith("ce-"))
        lines = ("ratchet-v1", self.timestamp, f"{self.method} {self.target}", *covered)
        return "\n".join((*lines, hashlib.sha256(self.body).hexdigest())).encode()


def sign(secret: str, request: SignedRequest) -> str:
    """The request's signature, 64 hexadecimal digits."""
    return hmac.new(secret.encode(), request.content(), hashlib.sha256).hexdigest()


def is_fresh(timestamp: str, now: datetime) -> bool:
    """Whether a request of this time is believed now: it lies within ``CLOCK_WINDOW`` of the clock, either way."""
    if not _TIMESTAMP.fullmatch(timestamp):
        return False
    return abs(now.timestamp() - float(timestamp)) <= CLOCK_WINDOW.total_seconds()


def is_signed(signature: str, secrets: Collection[str], request: SignedRequest) -> bool:
    """Whether the signature is that of one of the secrets; comparing takes the same time wherever it differs."""
    if not _SIGNATURE.fullmatch(signature):
        return False
    return any(hmac.compare_digest(sign(secret, request), signature) for secret in secrets)
