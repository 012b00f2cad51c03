"""Where things are: one record per connection, the same for Airflow's store and for the environment.

A *resolver* turns a connection id (``ratchet_kafka``) into a ``ConnectionInfo``. The command line resolves from the
environment (``EnvResolver``), Airflow's tasks from whatever secrets backend Airflow has (``plugins/ratchet_airflow``),
and the triggerer from a table filled beforehand (``MappingResolver``), because its threads may not ask Airflow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

from ratchet.domain.signing import LEAST_SECRET
from ratchet.errors import Refused
from ratchet.settings import CONNECTION_PREFIX

KAFKA = "ratchet_kafka"
LEDGER = "ratchet_ledger"
MLFLOW = "ratchet_mlflow"
OPTUNA = "ratchet_optuna"
STORAGE = "ratchet_storage"
FEAST = "ratchet_feast"
HTTP_KEYS = "ratchet_http_keys"
"""Secrets of those who sign what they post; the API alone asks for it, and it need not be there."""
METRICS = "ratchet_metrics"
"""Its password is the token of whoever scrapes metrics; the API alone asks for it, and it need not be there."""
CONNECTION_IDS = (KAFKA, LEDGER, MLFLOW, OPTUNA, STORAGE, FEAST)

_KAFKA_PASSED_ON = frozenset(
    {
        "client_id",
        "request_timeout_ms",
        "sasl_kerberos_domain_name",
        "sasl_kerberos_name",
        "sasl_kerberos_service_name",
        "sasl_mechanism",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_crlfile",
        "ssl_keyfile",
        "ssl_password",
    }
)
_KAFKA_ALIASES = {
    "sasl_username": "sasl_plain_username",
    "sasl_password": "sasl_plain_password",
    "ssl_ca_location": "ssl_cafile",
    "ssl_certificate_location": "ssl_certfile",
    "ssl_key_location": "ssl_keyfile",
}


class UnknownConnection(Refused):
    """Nobody defined the connection; the message says how to."""


@dataclass(frozen=True)
class ConnectionInfo:
    """One connection, as Airflow splits its URIs. Secrets stay out of ``repr``."""

    conn_type: str
    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Resolver(Protocol):
    """Finds connections by id."""

    def resolve(self, conn_id: str) -> ConnectionInfo:
        """Return the connection.

        Raises:
            UnknownConnection: nobody defined it.

        """
        ...


@dataclass(frozen=True)
class MappingResolver:
    """A table filled beforehand: what the triggerer hands to its threads."""

    connections: Mapping[str, ConnectionInfo]

    def resolve(self, conn_id: str) -> ConnectionInfo:
        """Return the connection or raise ``UnknownConnection``."""
        if conn_id not in self.connections:
            raise unknown_connection(conn_id)
        return self.connections[conn_id]


@dataclass(frozen=True)
class EnvResolver:
    """Reads ``AIRFLOW_CONN_<ID>`` from the mapping in ``Settings.connections``."""

    uris: Mapping[str, str] = field(repr=False)

    def resolve(self, conn_id: str) -> ConnectionInfo:
        """Return the connection or raise ``UnknownConnection``."""
        uri = self.uris.get(CONNECTION_PREFIX + conn_id.upper())
        if uri is None:
            raise unknown_connection(conn_id)
        return parse_uri(uri)


def unknown_connection(conn_id: str) -> UnknownConnection:
    """The error of a connection nobody defined, with its remedy."""
    return UnknownConnection(
        f"connection {conn_id!r} is not defined. Set {CONNECTION_PREFIX}{conn_id.upper()} to its URI, "
        "or start the local stack, which sets it: ratchet up"
    )


def brokers_uri(bootstrap: str) -> str:
    """Brokers, ``a:9092,b:9092``, as a connection's URI, which Airflow reads too."""
    return f"kafka://?bootstrap_servers={bootstrap}" if "," in bootstrap else f"kafka://{bootstrap}"


def parse_uri(uri: str) -> ConnectionInfo:
    """Split a connection URI: ``type://login:password@host:port/schema?extra=…`` with percent-encoding.

    A JSON object with Airflow's field names is read too. A value without ``://`` and ``file://`` URIs are folders
    (type ``file``). Extra values from a query are strings. Several Kafka brokers are extra ``bootstrap_servers``,
    ``kafka://?bootstrap_servers=a:9092,b:9092``: Airflow, which reads the same URIs, takes one host.

    Raises:
        Refused: there are several hosts, the port is not a number, a character is not percent-encoded that must be, or
            the JSON is broken. What stands there is not told: it may be a piece of the password.

    """
    if uri.lstrip().startswith("{"):
        return _from_json(uri)
    if "://" not in uri:
        return ConnectionInfo("file", host=uri)
    conn_type = uri.partition("://")[0].replace("-", "_")
    try:
        parts = urlsplit(uri)
        extra: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        if conn_type == "file":
            return ConnectionInfo("file", host=unquote(parts.netloc + parts.path), extra=extra)
        if "," in parts.netloc.rpartition("@")[2]:
            raise Refused(
                f"a {conn_type}:// connection has a comma where its host is, and Airflow takes one host. Several "
                "brokers are written kafka://?bootstrap_servers=a:9092,b:9092"
            )
        port = parts.port
    except ValueError:
        raise _no_uri(conn_type) from None
    if parts.fragment or _cut_short(parts, extra):
        raise _no_uri(conn_type)
    return ConnectionInfo(
        conn_type="postgres" if conn_type == "postgresql" else conn_type,
        host=unquote(parts.hostname) if parts.hostname else None,
        port=port,
        login=unquote(parts.username) if parts.username is not None else None,
        password=unquote(parts.password) if parts.password is not None else None,
        schema=unquote(parts.path[1:]) or None,
        extra=extra,
    )


def _cut_short(parts: SplitResult, extra: Mapping[str, Any]) -> bool:
    """Whether the host seems to be a login and the port a password, which ended at a ``/`` or ``?`` of its own."""
    rest = parts.path if parts.port is not None and "@" not in parts.netloc else ""
    return "@" in rest or any("@" in key for key in extra)


def _no_uri(conn_type: str) -> Refused:
    return Refused(
        f"a connection URI of type {conn_type!r} cannot be read: write type://login:password@host:port, the port as a "
        "number, and the characters : / ? # [ ] @ % of a login, password or path percent-encoded (@ is %40)"
    )


def _from_json(text: str) -> ConnectionInfo:
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
        extra = fields.get("extra") or {}
        extra = msgspec.json.decode(extra, type=dict[str, Any]) if isinstance(extra, str) else dict(extra)
        port = fields.get("port")
        return ConnectionInfo(
            conn_type=str(fields.get("conn_type") or ""),
            host=fields.get("host"),
            port=int(port) if port else None,
            login=fields.get("login"),
            password=fields.get("password"),
            schema=fields.get("schema"),
            extra=extra,
        )
    except (msgspec.MsgspecError, ValueError):
        raise Refused("a connection starts with '{' but is no JSON object with a numeric port") from None


def ledger_url(info: ConnectionInfo) -> str:
    """The SQLAlchemy URL of a database connection: ``postgresql+psycopg2://…`` or ``sqlite:///…``.

    Raises:
        Refused: the connection is neither PostgreSQL nor SQLite.

    """
    if info.conn_type == "sqlite":
        return f"sqlite:///{info.schema or ''}"
    if info.conn_type.partition("+")[0] not in {"postgres", "postgresql"}:
        raise Refused(f"a database connection must be postgres:// or sqlite://, got type {info.conn_type!r}")
    user = "" if info.login is None else quote(info.login, safe="")
    secret = "" if info.password is None else f":{quote(info.password, safe='')}"
    at = "@" if user or secret else ""
    port = f":{info.port}" if info.port else ""
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in info.extra.items())
    asked = f"?{query}" if query else ""
    return f"postgresql+psycopg2://{user}{secret}{at}{info.host or 'localhost'}{port}/{info.schema or ''}{asked}"


def study_url(info: ConnectionInfo) -> str:
    """The URL of the tuning studies: ``journal:///folder`` of this machine, or a database's (:func:`ledger_url`).

    Raises:
        Refused: the connection is none of these, or the journal's folder is not named.

    """
    if info.conn_type != "journal":
        return ledger_url(info)
    if info.host or not info.schema:
        raise Refused("a journal of studies is a folder of this machine: write journal:///folder (three slashes)")
    return f"journal:///{quote(info.schema.lstrip('/'))}"


def kafka_config(info: ConnectionInfo) -> dict[str, Any]:
    """kafka-python's keyword arguments: brokers and security.

    Extra keys may be spelled as kafka-python does or with dots as librdkafka does (``security.protocol``). Login and
    password become SASL credentials. Keys that are neither are refused by name: one that is ignored is a lie.
    """
    config: dict[str, Any] = {"bootstrap_servers": [f"{info.host or 'localhost'}:{info.port or 9092}"]}
    if info.login is not None:
        config |= {"sasl_plain_username": info.login, "sasl_plain_password": info.password}
    for key, value in info.extra.items():
        name = key.replace(".", "_")
        name = _KAFKA_ALIASES.get(name, name)
        if name == "bootstrap_servers":
            config[name] = [server.strip() for server in value.split(",")] if isinstance(value, str) else list(value)
        elif name == "ssl_check_hostname":
            config[name] = str(value).lower() not in {"0", "false", "no"}
        elif name == "request_timeout_ms":
            config[name] = int(value)
        elif name in _KAFKA_PASSED_ON:
            config[name] = value
        else:
            known = ", ".join(sorted(_KAFKA_PASSED_ON))
            raise Refused(f"connection {KAFKA}: extra key {key!r} is not one of bootstrap_servers, {known}")
    if "sasl_plain_username" in config:
        config.setdefault("security_protocol", "SASL_SSL")
        config.setdefault("sasl_mechanism", "PLAIN")
    return config


def signing_keys(info: ConnectionInfo) -> dict[str, tuple[str, ...]]:
    """The secrets of each source, by its name, from the connection's extra: one, or a list while one is replaced.

    Raises:
        Refused: a name or a secret that cannot be one; no secret is told.

    """
    keys = {}
    for name, given in info.extra.items():
        secrets = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise Refused(f"connection {HTTP_KEYS}: {name!r} is no name of a source: letters, digits, '.', '_' and '-'")
        if not secrets or not all(isinstance(each, str) and len(each) >= LEAST_SECRET for each in secrets):
            raise Refused(
                f"connection {HTTP_KEYS}: the key of {name!r} must be a text of {LEAST_SECRET} characters or more, "
                "or a list of such. Make one: openssl rand -hex 32"
            )
        keys[name] = secrets
    return keys


def metrics_token(info: ConnectionInfo) -> str:
    """The token of whoever scrapes metrics: the connection's password.

    Raises:
        Refused: it is too short to be a secret.

    """
    if len(info.password or "") < LEAST_SECRET:
        raise Refused(
            f"connection {METRICS}: its password must be a text of {LEAST_SECRET} characters or more. "
            "Make one: openssl rand -hex 32"
        )
    return str(info.password)


def http_url(info: ConnectionInfo) -> str:
    """``http(s)://[login:password@]host:port[/path]``, without a trailing slash.

    Airflow keeps the scheme in the type, in the schema field (``http``/``https``), or in front of the host.
    """
    host = info.host or "localhost"
    scheme, found, rest = host.partition("://")
    if found:
        host = rest
    else:
        scheme = info.schema if info.schema in {"http", "https"} else info.conn_type
    path = "" if info.schema in {None, "", "http", "https"} else f"/{info.schema}"
    secret = "" if info.password is None else f":{quote(info.password, safe='')}"
    user = "" if info.login is None else f"{quote(info.login, safe='')}{secret}@"
    port = f":{info.port}" if info.port else ""
    return f"{scheme if scheme == 'https' else 'http'}://{user}{host}{port}{path}".rstrip("/")


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address as it may be told, and the login and password that stood in it, if any did."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    login = unquote(parts.username or ""), unquote(parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), login


def storage_url(info: ConnectionInfo) -> str:
    """An absolute folder or an fsspec URL (``s3://bucket/prefix``) for the object store; extra ``url`` wins.

    Raises:
        Refused: the URL has a login in it. Objects' addresses stand in dossiers, messages and logs.

    """
    if info.extra.get("url"):
        url = str(info.extra["url"])
        if "@" in urlsplit(url).netloc:
            raise Refused(
                f"connection {STORAGE}: the url must have no login in it, because every object's address begins with "
                "it. Give the storage's library its login by the environment, or by the machine's own identity"
            )
        return url
    if info.conn_type in {"file", "fs", ""}:
        folder = info.extra.get("path") or f"{info.host or ''}" + (f"/{info.schema}" if info.schema else "")
        return str(Path(folder).absolute())
    prefix = f"/{info.schema}" if info.schema else ""
    scheme = {"aws": "s3", "google_cloud_platform": "gs"}.get(info.conn_type, info.conn_type)
    return f"{scheme}://{info.host or ''}{prefix}"
