"""Windows of new rows are monitored, each once

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward; nothing was monitored before."""
    op.create_table(
        "monitored",
        sa.Column("model", sa.String(100), primary_key=True),
        sa.Column("window_end", TIME, primary_key=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("version", sa.Integer, nullable=True),
        sa.Column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest"), nullable=False),
        sa.Column("found", JSON, nullable=False),
        sa.Column("report_uri", sa.Text, nullable=True),
        sa.Column("report_sha256", sa.String(64), nullable=True),
        sa.Column("rung_at", TIME, nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        comment="Each window of new rows is monitored once: due until it was, broken until its data are mended",
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("monitored")
