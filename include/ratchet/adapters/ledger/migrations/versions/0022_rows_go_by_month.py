"""The ledger's own rows go by month: what was removed, below which offset, and indexes to find it

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

COMMENT = "What retention removes: decided first, then removed; bytes are those freed, null where unknown"
ROWS = "; rows are the ledger's own that have gone so far, of all up to the month that name is"


def upgrade() -> None:
    """Forward; nothing has been removed yet."""
    op.create_table(
        "record_floor",
        sa.Column("cluster", sa.String(100), primary_key=True),
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        comment="Below this offset retention has removed rows of record: whatever is delivered from there is known",
    )
    op.add_column("removal", sa.Column("rows", sa.BigInteger, nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.create_table_comment("removal", COMMENT + ROWS, existing_comment=COMMENT)
    rejected = sa.text("status = 'rejected'")
    op.create_index("ix_record_rejected", "record", ["received_at"], postgresql_where=rejected, sqlite_where=rejected)
    op.create_index("ix_event_model_time", "event", ["model", "time"])
    named = sa.text("record_id IS NOT NULL")
    op.create_index("ix_event_record_id", "event", ["record_id"], postgresql_where=named)


def downgrade() -> None:
    """Back. An offset that is delivered again from below the floor would then be new."""
    op.drop_index("ix_event_record_id", "event")
    op.drop_index("ix_event_model_time", "event")
    op.drop_index("ix_record_rejected", "record")
    if op.get_bind().dialect.name == "postgresql":
        op.create_table_comment("removal", COMMENT, existing_comment=COMMENT + ROWS)
    with op.batch_alter_table("removal") as table:
        table.drop_column("rows")
    op.drop_table("record_floor")
