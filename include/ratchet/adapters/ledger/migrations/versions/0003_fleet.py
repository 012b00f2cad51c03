"""The fleet: incidents that events name, and whose turn it is

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("event", sa.Column("incident", sa.String(length=200), nullable=True))
    op.add_column("doorbell", sa.Column("since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("doorbell", sa.Column("incident", sa.String(length=200), nullable=True))
    op.add_column("doorbell", sa.Column("held", sa.Text(), nullable=True))


def downgrade() -> None:
    """Back."""
    for column in ("held", "incident", "since"):
        op.drop_column("doorbell", column)
    op.drop_column("event", "incident")
