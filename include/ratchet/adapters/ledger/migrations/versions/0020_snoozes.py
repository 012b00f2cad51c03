"""Snoozes: until when a model starts no run by itself, by whose word and why

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward; no model sleeps."""
    op.create_table(
        "snooze",
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_snooze"),
        comment="The last snooze of a model that was not lifted, over or not: until then it starts no run by itself",
    )


def downgrade() -> None:
    """Back; what sleeps is awake."""
    op.drop_table("snooze")
