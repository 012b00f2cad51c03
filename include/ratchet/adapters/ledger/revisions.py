"""The ledger's schema by its revisions: which this code knows, which a database has, forward and back.

A database and the code that uses it have the same revision, or nothing is read or written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, ProgrammingError

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import AUDIT_LOCK, Base
from ratchet.adapters.ledger.grants import BY_OWNER
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import LedgerRevision

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
INSUFFICIENT_PRIVILEGE = "42501"
LOCK_SECONDS = 10
"""A change of the schema that waits for somebody's transaction makes all later ones wait behind it."""
ALIVE = timedelta(seconds=30)
"""An intake pump that beat so lately runs: it beats every three seconds."""
_VERSION = sa.table("alembic_version", sa.column("version_num", sa.String))


@cache
def known() -> tuple[str, ...]:
    """The revisions that this code knows, oldest first: a migration's file is named by its revision."""
    return tuple(sorted(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def revision_of(connection: sa.Connection) -> str | None:
    """The revision of a database; None where nothing was migrated yet."""
    if not sa.inspect(connection).has_table(_VERSION.name):
        return None
    return connection.execute(sa.select(_VERSION.c.version_num)).scalar_one_or_none()


@contextmanager
def changing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that changes the schema, one at a time; it may take long, and waits for others only briefly.

    Raises:
        Refused: a row does not fit the other schema, or this role does not own it.
        Unavailable: others hold the tables, or the database is away.
    """
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK + 1)))
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            yield connection
    except OperationalError as error:
        said = str(error.orig).strip().split("\n", 1)[0]
        raise Unavailable(
            f"the ledger's schema stays as it was: {said}. Is it up, and what uses it stopped?"
        ) from error
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != INSUFFICIENT_PRIVILEGE:
            raise
        said = str(error.orig).strip().split("\n", 1)[0]
        raise Refused(f"the ledger's schema is changed by the role that owns it alone: {said}. {BY_OWNER}") from error
    except (DataError, IntegrityError) as error:
        said = str(error.orig).strip().split("\n", 1)[0]
        raise Refused(f"the ledger's schema stays as it was, for a row does not fit the other: {said}") from error


def upgrade(connection: sa.Connection) -> LedgerRevision:
    """To the newest revision that this code knows; answers which the database had.

    Raises:
        Refused: the database's revision is one that this code does not know.
    """
    had = LedgerRevision(revision_of(connection), known())
    if had.is_unknown:
        raise Refused(had.said)
    if not had.is_current:
        from alembic import command  # noqa: PLC0415 - only when migrating

        command.upgrade(_config(connection), "head")
    return had


def downgrade(connection: sa.Connection, revision: str) -> tuple[str, ...]:
    """Back to an earlier revision; answers what of the rows went with its tables and columns, in words.

    Whether that may be is the caller's to decide, before the transaction ends.

    Raises:
        Refused: a migration on the way cannot be taken back.
    """
    from alembic import command  # noqa: PLC0415 - only when migrating

    before = _held(connection)
    command.downgrade(_config(connection), revision)
    return tuple(_lost(before, _held(connection)))


def refuse_way_back(connection: sa.Connection, revision: str) -> None:
    """Let a downgrade begin only where it can end well.

    Raises:
        Refused: there is no such earlier revision, or something still runs.
    """
    has = LedgerRevision(revision_of(connection), known())
    if not has.is_current:
        raise Refused(has.said)
    if revision not in known()[:-1]:
        earlier = ", ".join(known()[:-1])
        raise Refused(f"the way back is to an earlier revision, but got {revision!r}; there are {earlier}")
    if running := _running(connection):
        raise Refused(f"{running}. Stop everything that uses the ledger first: ratchet down")


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - only when migrating

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _running(connection: sa.Connection) -> str | None:
    """Who would go on writing by the newer schema."""
    now = Base(connection).wall()
    beats = sa.select(t.pump.c.instance).where(t.pump.c.beat_at > now - ALIVE)
    if pump := connection.execute(beats.limit(1)).scalar_one_or_none():
        return f"the intake pump {pump} beat less than {ALIVE.seconds} seconds ago"
    lives = sa.select(t.lease.c.attempt_id).where(t.lease.c.attempt_id.is_not(None), t.lease.c.expires_at > now)
    if attempt := connection.execute(lives.limit(1)).scalar_one_or_none():
        return f"attempt {attempt} runs"
    return None


def _held(connection: sa.Connection) -> dict[str, dict[str, int]]:
    """Of each table how many rows there are (``*``), and of each column how many are not null."""
    tables = sa.MetaData()
    tables.reflect(connection)
    held = {}
    for table in tables.sorted_tables:
        counts = [sa.func.count().label("*"), *(sa.func.count(column).label(column.name) for column in table.columns)]
        held[table.name] = dict(connection.execute(sa.select(*counts).select_from(table)).mappings().one())
    return held


def _lost(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> Iterator[str]:
    for table, had in before.items():
        has = after.get(table, {})
        if missing := had["*"] - has.get("*", 0):
            yield f"{missing:,} {'row' if missing == 1 else 'rows'} of {table}"
        if table in after:
            yield from (
                f"{table}.{name} of {n:,} {'row' if n == 1 else 'rows'}"
                for name, n in had.items()
                if name not in has and n
            )
