"""Signed requests are taken once: the signatures that were seen lately

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward; no request was signed before."""
    op.create_table(
        "signature",
        sa.Column("sender", sa.String(100), primary_key=True),
        sa.Column("signature", sa.String(64), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, index=True),
        comment="Signatures of requests that were taken, kept for as long as their timestamps would be believed",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("signature")
