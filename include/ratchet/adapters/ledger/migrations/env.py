"""Alembic's environment: the connection is handed in by ``SqlLedger.migrate``."""

from alembic import context

from ratchet.adapters.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
