"""What all sides of the ledger share: the connection, the database's clock, and rows by the chunk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ratchet.adapters.ledger import schema as t
from ratchet.errors import Refused
from ratchet.ports.ledger import AttemptRow, ChampionRow, EventRow, RecordRow
from ratchet.records import RawRecord

_Row = TypeVar("_Row")
AUDIT_LOCK = 0x52415443
FLEET_LOCK = AUDIT_LOCK + 2
CHUNK = 5_000
"""Rows per statement where a selection may be a storm: each stays well below the statement timeout."""
FEW = 50
"""Rows in memory at once where one may hold a megabyte."""
EVENT_ROW = [t.event.c["id" if field.name == "pk" else field.name] for field in fields(EventRow)]
"""A storm is read whole at each decision, so rows become EventRow by position."""
ATTEMPT_ROW = [t.attempt.c[field.name] for field in fields(AttemptRow)]
CHAMPION_ROW = [t.champion.c[field.name] for field in fields(ChampionRow)]
"""So do those of lists, which are looked at all day."""


class Base:
    """What all sides share: the connection and the database's clock."""

    def __init__(self, connection: sa.Connection) -> None:
        self._db = connection
        self._postgres = connection.dialect.name == "postgresql"

    def _insert(self, table: sa.Table) -> Any:
        """An insert that can say ``on_conflict``, in the words of this database."""
        return postgresql.insert(table) if self._postgres else sqlite.insert(table)

    def _one(self, query: sa.Select[Any]) -> Any:
        return self._db.execute(query).mappings().first()

    def _among(self, column: sa.Column[Any], models: Collection[str]) -> sa.ColumnElement[bool]:
        """Whether it is one of these; PostgreSQL takes hundreds of names as one value, not as one parameter each."""
        if self._postgres:
            return column == sa.any_(sa.literal(list(models), postgresql.ARRAY(sa.String)))
        return column.in_(list(models))

    def wall(self) -> datetime:
        """The database's wall clock: one clock for all processes."""
        if not self._postgres:
            return datetime.now(UTC)
        now: datetime = self._db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)

    def clock(self) -> tuple[str, datetime]:
        """Mode (``wall`` or ``replay``) and business time."""
        row = self._one(sa.select(t.clock))
        if row is None or row["mode"] == "wall" or row["now"] is None:
            return ("replay" if row and row["mode"] == "replay" else "wall", self.wall())
        return ("replay", row["now"])

    def set_clock(self, mode: str, now: datetime | None) -> None:
        """Set the mode, and in replay the time, which never moves back."""
        if mode not in {"wall", "replay"}:
            raise Refused(f"clock mode must be wall or replay, but got {mode!r}")
        row = self._one(sa.select(t.clock).with_for_update())
        if row is None:
            self._db.execute(sa.insert(t.clock).values(id=1, mode=mode, now=now))
            return
        if mode == "replay" and row["mode"] == "replay" and row["now"] and now and now < row["now"]:
            return
        self._db.execute(sa.update(t.clock).values(mode=mode, now=now))


def record_row(row: Any) -> RecordRow:
    """One offset from its row."""
    return RecordRow(row["id"], raw_record(row), row["status"], row["reason"], row["received_at"])


def raw_record(row: Any) -> RawRecord:
    """The record as it came, from its row."""
    headers = tuple((name, bytes.fromhex(value)) for name, value in row["headers"] or ())
    return RawRecord(
        cluster=row["cluster"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        key=row["key"],
        value=row["value"],
        headers=headers,
    )


def chunks(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    """The rows, ``size`` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
