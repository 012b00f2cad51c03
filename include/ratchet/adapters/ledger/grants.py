"""What a database role needs that reads and writes the ledger and owns nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from ratchet.adapters.ledger.schema import metadata
from ratchet.errors import Refused

APPEND_ONLY = frozenset({"audit", "champion", "approval"})
"""Guarded by triggers as well; but who owns a table may drop its triggers, and who has this role may not."""
FORWARD = frozenset({"audit_head"})
SEEN = frozenset({"alembic_version"})
BY_OWNER = "Use the owner's connection; under Compose: docker compose run --rm owner ratchet ledger …"
ALL = "SELECT, INSERT, UPDATE, DELETE"


def rights() -> dict[str, str]:
    """Of each table what may be done with its rows."""
    return {
        **dict.fromkeys(metadata.tables, ALL),
        **dict.fromkeys(APPEND_ONLY, "SELECT, INSERT"),
        **dict.fromkeys(FORWARD, "SELECT, INSERT, UPDATE"),
        **dict.fromkeys(SEEN, "SELECT"),
    }


def grant(connection: sa.Connection, role: str) -> tuple[str, ...]:
    """Give the role these rights in place of all it had on the ledger's tables; answers what it has, in words.

    Raises:
        Refused: the database is no PostgreSQL, there is no such role, it owns the tables or is a superuser, or who
            asks does not own them.
    """
    if connection.dialect.name != "postgresql":
        raise Refused(f"roles have rights in PostgreSQL alone, and the ledger is kept in {connection.dialect.name}")
    known = connection.execute(sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = :role"), {"role": role}).first()
    if known is None:
        raise Refused(f"there is no role {role!r} in the ledger's database. Run there: CREATE ROLE … LOGIN PASSWORD …")
    owns = sa.text("SELECT pg_has_role(:role, tableowner, 'MEMBER') FROM pg_tables WHERE tablename = 'audit'")
    asks = connection.execute(sa.text("SELECT current_user")).scalar()
    if not connection.execute(owns, {"role": asks}).scalar():  # PostgreSQL would warn, and give nothing
        raise Refused(f"{asks!r} does not own the ledger, and rights are its owner's to give. {BY_OWNER}")
    if known.rolsuper or connection.execute(owns, {"role": role}).scalar():
        raise Refused(f"{role!r} owns the ledger or is a superuser: no right can be kept from it. Name another role")
    for statement in _statements(connection, role):
        connection.exec_driver_sql(statement)
    by_right: dict[str, list[str]] = {}
    for table, right in rights().items():
        by_right.setdefault(right, []).append(table)
    return tuple(f"{right} on {', '.join(sorted(tables))}" for right, tables in sorted(by_right.items()))


def _statements(connection: sa.Connection, role: str) -> Iterator[str]:
    quote = connection.dialect.identifier_preparer.quote
    whom, schema = quote(role), quote(sa.inspect(connection).default_schema_name or "public")
    yield f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {whom}"
    yield f"GRANT USAGE ON SCHEMA {schema} TO {whom}"
    yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {whom}"
    yield from (f"GRANT {right} ON {schema}.{quote(table)} TO {whom}" for table, right in rights().items())
