"""Notifications: what people are told, by which message, and up to where the audit log was read

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
OPEN = sa.text("over_at IS NULL")
WAITS = sa.text("sent_at IS NULL AND dropped IS NULL")


def upgrade() -> None:
    """Forward; nobody was told anything before."""
    op.create_table(
        "notification",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("model", sa.String(100), nullable=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("notice", JSON, nullable=False),
        sa.Column("over_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notification"),
        comment="What people are told: once per kind and subject until it is over; what does not last is never over",
    )
    op.create_index("ix_notification_model", "notification", ["model"])
    op.create_index(
        "uq_notification_open",
        "notification",
        ["kind", "subject"],
        unique=True,
        postgresql_where=OPEN,
        sqlite_where=OPEN,
    )
    op.create_table(
        "notification_post",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("notification_id", BIG_ID, nullable=False),
        sa.Column("channel", sa.String(63), nullable=False),
        sa.Column("stage", sa.String(12), nullable=False),
        sa.Column("recipients", JSON, nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("sent_at", TIME, nullable=True),
        sa.Column("dropped", sa.Text, nullable=True),
        sa.Column("last_error", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notification_post"),
        sa.ForeignKeyConstraint(["notification_id"], ["notification.id"], name="fk_notification_post_notification_id"),
        sa.UniqueConstraint("notification_id", "channel", "stage", name="uq_notification_post_notification_id"),
        comment="One message of a notification, per channel and stage: sent, dropped (with the reason), or to be tried",
    )
    op.create_index(
        "ix_notification_post_open",
        "notification_post",
        ["channel", "next_at"],
        postgresql_where=WAITS,
        sqlite_where=WAITS,
    )
    op.create_table(
        "notification_cursor",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notification_cursor"),
        comment="One row: the audit entry up to which notifications were made",
    )


def downgrade() -> None:
    """Back."""
    for table in ("notification_cursor", "notification_post", "notification"):
        op.drop_table(table)
