"""What is deployed may be a refit of what was judged

Revision ID: 0012
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward; earlier attempts deploy what they judged."""
    op.add_column("attempt", sa.Column("deployed_version", sa.Integer, nullable=True))
    op.add_column("attempt", sa.Column("deployed_digest", sa.String(64), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("attempt", "deployed_digest")
    op.drop_column("attempt", "deployed_version")
