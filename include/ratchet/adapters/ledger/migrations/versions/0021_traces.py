"""Events carry the trace that their publisher named

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward; what came before names no trace."""
    op.add_column("event", sa.Column("traceparent", sa.String(55), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("event", "traceparent")
