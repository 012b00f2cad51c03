"""Indexes for what is asked all day, where a year of rows lies behind it

Revision ID: 0025
Revises: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_index("ix_attempt_created_at", "attempt", ["created_at", "id"])
    op.create_index("ix_step_times", "step", ["attempt_id"], postgresql_include=["started_at", "finished_at"])
    op.create_index("ix_audit_action", "audit", ["action"])
    op.create_index("ix_used_day_model_challenger_version", "used_day", ["model", "challenger_version"])


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_used_day_model_challenger_version", "used_day")
    op.drop_index("ix_audit_action", "audit")
    op.drop_index("ix_step_times", "step")
    op.drop_index("ix_attempt_created_at", "attempt")
