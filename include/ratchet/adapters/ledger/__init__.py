"""The ledger on SQLAlchemy: PostgreSQL in production, SQLite for unit tests and the offline command line."""

from ratchet.adapters.ledger.sql import SqlLedger

__all__ = ["SqlLedger"]
