"""Which terminal fates were told, and which events an operator opened again

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNTOLD = "told_at IS NULL AND fate NOT IN ('pending', 'claimed', 'deferred')"
OPEN = "done_at IS NULL"


def upgrade() -> None:
    """Forward; what was resolved before this is told now."""
    op.add_column("event", sa.Column("told_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("event", sa.Column("reopened_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_event_untold", "event", ["id"], postgresql_where=sa.text(UNTOLD))
    op.drop_index("ix_outbox_open", table_name="outbox")
    op.create_index("ix_outbox_open", "outbox", ["kind", "tries", "id"], postgresql_where=sa.text(OPEN))


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_outbox_open", table_name="outbox")
    op.create_index("ix_outbox_open", "outbox", ["id"], postgresql_where=sa.text(OPEN))
    op.drop_index("ix_event_untold", table_name="event")
    op.drop_column("event", "reopened_at")
    op.drop_column("event", "told_at")
