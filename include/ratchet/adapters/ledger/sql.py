"""The ledger on SQLAlchemy, its sides joined in ``SqlTx``; drivers' errors are translated here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from ratchet.adapters.ledger.approvals import Approvals
from ratchet.adapters.ledger.attempts import Attempts
from ratchet.adapters.ledger.audit import Audit
from ratchet.adapters.ledger.base import AUDIT_LOCK
from ratchet.adapters.ledger.doorbells import Doorbells
from ratchet.adapters.ledger.housekeeping import Housekeeping
from ratchet.adapters.ledger.inbox import Inbox
from ratchet.adapters.ledger.monitored import Monitored
from ratchet.adapters.ledger.notifications import Notifications
from ratchet.adapters.ledger.operators import Operators
from ratchet.adapters.ledger.pages import Pages
from ratchet.adapters.ledger.probations import Probations
from ratchet.adapters.ledger.promotions import Promotions
from ratchet.adapters.ledger.pumps import Pumps
from ratchet.adapters.ledger.registry import Registry
from ratchet.adapters.ledger.removals import Removals
from ratchet.adapters.ledger.scored import Scored
from ratchet.adapters.ledger.self_tests import SelfTests
from ratchet.adapters.ledger.signatures import Signatures
from ratchet.adapters.ledger.snoozes import Snoozes
from ratchet.adapters.ledger.tallies import Tallies
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import Tx

MIGRATIONS = Path(__file__).parent / "migrations"


class SqlTx(
    Registry,
    Inbox,
    Pumps,
    Operators,
    Doorbells,
    Snoozes,
    Attempts,
    Approvals,
    Promotions,
    Probations,
    SelfTests,
    Monitored,
    Scored,
    Removals,
    Housekeeping,
    Notifications,
    Pages,
    Signatures,
    Tallies,
    Audit,
):
    """One transaction on the ledger; see ``ratchet.ports.ledger.Tx``."""


class SqlLedger:
    """The ledger on one database.

    Args:
        url: a SQLAlchemy URL, ``postgresql+psycopg2://…`` or ``sqlite:///…``.
        statement_timeout_seconds: PostgreSQL gives up a statement after this long.
    """

    def __init__(self, url: str, *, statement_timeout_seconds: float = 5.0) -> None:
        options: dict[str, Any] = {}
        if url.startswith("postgresql"):
            options = {
                "connect_args": {
                    "options": f"-c statement_timeout={int(statement_timeout_seconds * 1000)} -c timezone=UTC",
                    "connect_timeout": 5,
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "tcp_user_timeout": 15_000,
                },
                "pool_size": 2,
                "pool_pre_ping": True,
            }
        # Values stay out of errors: what was published or written by people is nothing for a log.
        self.engine = sa.create_engine(url, hide_parameters=True, **options)
        if not url.startswith("postgresql"):
            sa.event.listen(self.engine, "connect", _sqlite_manual_transactions)
            sa.event.listen(self.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Commit on a clean exit, roll back on an exception; a lost database is ``Unavailable``.

        Raises:
            Refused: a value is none that the database can keep.
        """
        try:
            with self.engine.begin() as connection:
                yield SqlTx(connection)
        except OperationalError as error:
            said = str(error.orig).strip().split("\n", 1)[0]
            raise Unavailable(f"the ledger did not answer: {said}. Is it up? ratchet status") from error
        except NoConnectionFree as error:
            raise Unavailable("every connection to the ledger is in use. Try again") from error
        except DataError as error:
            raise Refused(f"the ledger cannot keep a value: {str(error.orig).strip()}") from error

    def migrate(self) -> None:
        """Bring the schema up to date (Alembic; nothing happens when it is)."""
        from alembic import command  # noqa: PLC0415 - only when migrating
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK + 1)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()


def _sqlite_manual_transactions(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=5000")
