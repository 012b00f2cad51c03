"""Is it ready? One question per kind of server, asked over the wire; a probe that cannot ask says why not.

A probe is a small JSON record, so that it can lie in the plan: ``{"kind": "tcp" | "http" | "kafka" | "postgres" |
"heartbeat", ...}``. ``check`` returns None when the server is ready, else the reason in a few words.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

TIMEOUT_SECONDS = 2.0
_API_VERSIONS_REQUEST = struct.pack(">hhih", 18, 0, 1, -1)


def connect(host: str, port: int) -> socket.socket:
    """A connection to the server, and not to itself.

    While nobody listens on a port of the range that outgoing connections take theirs from, the kernel may give the
    connection that very port: it then talks to itself (TCP's simultaneous open), and says back whatever it is asked.
    """
    connection = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
    if connection.getsockname() == connection.getpeername():
        connection.close()
        raise ConnectionRefusedError(f"nobody listens on port {port}")
    return connection


def _tcp(probe: Mapping[str, Any], _: float) -> str | None:
    connect(probe["host"], probe["port"]).close()
    return None


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - our own loopback address
        return bytes(answer.read())


def _http(probe: Mapping[str, Any], _: float) -> str | None:
    _fetch(probe["url"])
    return None


def _kafka(probe: Mapping[str, Any], _: float) -> str | None:
    """ApiVersions v0: the one request that every broker answers to anyone (Kafka protocol guide, key 18)."""
    with connect(probe["host"], probe["port"]) as connection:
        connection.sendall(struct.pack(">i", len(_API_VERSIONS_REQUEST)) + _API_VERSIONS_REQUEST)
        answer = connection.recv(10)
    if len(answer) < 10:
        return "the broker closed the connection"
    correlation, error = struct.unpack(">ih", answer[4:10])
    return None if (correlation, error) == (1, 0) else f"the broker answered with error {error}"


def _postgres(probe: Mapping[str, Any], _: float) -> str | None:
    import psycopg2  # noqa: PLC0415 - a driver that a plan of other units does not need

    try:
        psycopg2.connect(probe["dsn"], connect_timeout=int(TIMEOUT_SECONDS)).close()
    except psycopg2.OperationalError as error:
        return str(error).strip().splitlines()[-1]
    return None


def _heartbeat(probe: Mapping[str, Any], started_at: float) -> str | None:
    """An Airflow component is ready when it beat after this process started: an older beat is its predecessor's."""
    component = probe["component"]
    health = json.loads(_fetch(probe["url"])).get(component) or {}
    beat = health.get(f"latest_{component}_heartbeat")
    if not beat or datetime.fromisoformat(beat).timestamp() < started_at:
        return "no heartbeat yet"
    return None if health.get("status") == "healthy" else f"{component} is {health.get('status')}"


_PROBES: Mapping[str, Callable[[Mapping[str, Any], float], str | None]] = {
    "tcp": _tcp,
    "http": _http,
    "kafka": _kafka,
    "postgres": _postgres,
    "heartbeat": _heartbeat,
}


def check(probe: Mapping[str, Any] | None, *, started_at: float) -> str | None:
    """None when ready, else why not yet. ``started_at`` is the Unix time at which the process was started."""
    if probe is None:
        return None
    try:
        return _PROBES[probe["kind"]](probe, started_at)
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", None) or error) or type(error).__name__
