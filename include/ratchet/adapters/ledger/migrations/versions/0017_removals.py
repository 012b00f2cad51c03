"""Retention: what was decided to be removed, and whether it was

Revision ID: 0017
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward; nothing was removed before."""
    op.create_table(
        "removal",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("kind", sa.String(12), primary_key=True),
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bytes", sa.BigInteger, nullable=True),
        comment="What retention removes: decided first, then removed; bytes are those freed, null where unknown",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("removal")
