"""The ledger on SQLAlchemy, its sides joined in ``SqlTx``; drivers' errors are translated here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from ratchet.adapters.ledger import grants, revisions
from ratchet.adapters.ledger.approvals import Approvals
from ratchet.adapters.ledger.attempts import Attempts
from ratchet.adapters.ledger.audit import Audit
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
from ratchet.ports.ledger import LedgerRevision, Tx

MATCHED_SECONDS = 60.0
"""How long code may go on that was left running across an upgrade."""


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
        self._matched_at: float | None = None
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
            Unavailable: no answer, or the schema is of another revision than the code.
        """
        with self._translated():
            self._match()
            with self.engine.begin() as connection:
                yield SqlTx(connection)

    def revision(self) -> LedgerRevision:
        """Which revision the schema has, and which this code knows.

        Raises:
            Unavailable: the database is away.
        """
        with self._translated(), self.engine.connect() as connection:
            return LedgerRevision(revisions.revision_of(connection), revisions.known())

    def migrate(self, actor: str = "ratchet") -> LedgerRevision:
        """Bring the schema up to date (Alembic; nothing happens when it is), and answer which it had.

        Raises:
            Refused: its revision is one that this code does not know.
            Unavailable: others hold its tables, or it is away.
        """
        with revisions.changing(self.engine) as connection:
            had = revisions.upgrade(connection)
            if had.has is not None and not had.is_current:
                detail = {"from": had.has, "to": had.newest}
                SqlTx(connection).audit(actor, "ledger.migrated", None, detail)
        return had

    def downgrade(
        self, revision: str, actor: str, reason: str, *, apply: bool = False, lose: bool = False
    ) -> tuple[str, ...]:
        """Take the schema back to an earlier revision; answers what of the rows goes with it, in words.

        Without ``apply`` nothing is changed: all is done, looked at, and rolled back.

        Raises:
            Refused: rows would go and ``lose`` is not given, there is no such revision, something still runs, or
                a migration cannot be taken back.
            Unavailable: others hold its tables, or it is away.
        """
        with revisions.changing(self.engine) as connection:
            revisions.refuse_way_back(connection, revision)
            detail = {"from": revisions.known()[-1], "to": revision, "reason": reason}
            SqlTx(connection).audit(actor, "ledger.downgraded", None, detail)
            lost = revisions.downgrade(connection, revision)
            if not apply:
                connection.rollback()
            elif lost and not lose:
                raise Refused(
                    f"revision {revision} has no place for {', '.join(lost)}. Back up first (ratchet backup); "
                    "to lose them: --lose"
                )
            self._matched_at = None
        return lost

    def grant(self, role: str, actor: str) -> tuple[str, ...]:
        """Give a database role what Ratchet's components need, and no more; answers what it has, in words.

        Raises:
            Refused: the database is no PostgreSQL, or the role is none that rights can be kept from.
            Unavailable: it is away, or of another revision than the code.
        """
        with self._translated():
            self._match()
            with self.engine.begin() as connection:
                granted = grants.grant(connection, role)
                SqlTx(connection).audit(actor, "ledger.granted", None, {"role": role, "rights": list(granted)})
        return granted

    def _match(self) -> None:
        """Refuse to work on another revision than the code's; asked again each minute: it may be migrated meanwhile."""
        now = time.monotonic()
        if self._matched_at is None or now - self._matched_at > MATCHED_SECONDS:
            state = self.revision()
            if not state.is_current:
                raise Unavailable(state.said)
            self._matched_at = now

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            said = str(error.orig).strip().split("\n", 1)[0]
            raise Unavailable(f"the ledger did not answer: {said}. Is it up? ratchet status") from error
        except NoConnectionFree as error:
            raise Unavailable("every connection to the ledger is in use. Try again") from error
        except DataError as error:
            raise Refused(f"the ledger cannot keep a value: {str(error.orig).strip()}") from error
        except ProgrammingError as error:
            if getattr(error.orig, "pgcode", None) != revisions.INSUFFICIENT_PRIVILEGE:
                raise
            said = str(error.orig).strip().split("\n", 1)[0]
            raise Refused(
                f"this role may not do that in the ledger: {said}. See: ratchet ledger grant --help"
            ) from error

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()


def _sqlite_manual_transactions(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=5000")
