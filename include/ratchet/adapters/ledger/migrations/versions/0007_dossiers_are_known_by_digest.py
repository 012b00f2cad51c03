"""Dossiers are known by their digest

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward; earlier dossiers keep no digest and are not trusted."""
    op.add_column("attempt", sa.Column("dossier_sha256", sa.String(64), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("attempt", "dossier_sha256")
