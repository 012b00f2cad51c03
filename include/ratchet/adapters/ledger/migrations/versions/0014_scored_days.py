"""Batch predictions: which days were scored, by whom, and since when each champion serves by the business clock

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward; of earlier champions it is not known since when they serve."""
    op.add_column("champion", sa.Column("since", TIME, nullable=True))
    op.add_column("doorbell", sa.Column("score_rung_at", TIME, nullable=True))
    op.add_column("doorbell", sa.Column("score_rung_for", sa.Date, nullable=True))
    op.create_table(
        "scored_day",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("role", sa.String(10), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("attempt_id", sa.String(120), nullable=True),
        sa.Column("run", sa.String(250), nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("acted", sa.Integer, nullable=True),
        sa.Column("key", sa.Text, nullable=True),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("scored_at", TIME, nullable=False),
        comment="The predictions on one local day, once per role: who made them, and the file by its digest",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("scored_day")
    op.drop_column("doorbell", "score_rung_for")
    op.drop_column("doorbell", "score_rung_at")
    op.drop_column("champion", "since")
