"""The watch after a promotion, and the days it scored

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "probation",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("predecessor_seq", sa.Integer, nullable=False),
        sa.Column("predecessor_version", sa.Integer, nullable=False),
        sa.Column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest"), nullable=False),
        sa.Column("first_day", sa.Date, nullable=False),
        sa.Column("last_day", sa.Date, nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("record", JSON, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("rung_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["model", "seq"], ["champion.model", "champion.seq"]),
        comment="The watch over one promotion: the champion of this seq against the one it beat",
    )
    op.create_index("ix_probation_state", "probation", ["state"])
    op.create_table(
        "probation_day",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("total", sa.Float, nullable=True),
        sa.Column("scored_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["model", "seq"], ["probation.model", "probation.seq"]),
        comment="Each day is scored once: the uplift of all its rows in payoff units, null when it is not a number",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("probation_day")
    op.drop_index("ix_probation_state", table_name="probation")
    op.drop_table("probation")
