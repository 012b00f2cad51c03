"""Intake in bulk, and watched: heartbeats, incarnations of topics, marks that wait for nobody

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "touched",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_touched")),
        comment="Models that wait for a decision; rows are only added and removed, so that marking waits for no lock",
    )
    op.create_index(op.f("ix_touched_model"), "touched", ["model"], unique=False)
    op.execute("INSERT INTO touched (model) SELECT model FROM model")
    op.drop_index(op.f("ix_model_marked"), table_name="model")
    with op.batch_alter_table("model") as table:
        table.drop_column("marked")
    op.create_table(
        "intake_partition",
        sa.Column("cluster", sa.String(length=100), nullable=False),
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("topic_id", sa.String(length=36), nullable=True),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("since_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cluster", "topic", "partition", name=op.f("pk_intake_partition")),
        comment="Which topic the offsets of a partition belong to: one made again under its name counts from 0 again",
    )
    op.create_table(
        "pump",
        sa.Column("instance", sa.String(length=200), nullable=False),
        sa.Column("group_id", sa.String(length=249), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lag", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("alarm", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("instance", name=op.f("pk_pump")),
        comment="One heartbeat per intake pump; lag is records per assigned partition",
    )
    op.create_index(op.f("ix_pump_beat_at"), "pump", ["beat_at"], unique=False)
    op.drop_index("ix_event_attempt_id", table_name="event")
    op.create_index(
        "ix_event_attempt_id",
        "event",
        ["attempt_id"],
        unique=False,
        postgresql_where=sa.text("attempt_id IS NOT NULL"),
    )
    op.execute(
        "DELETE FROM fate WHERE fate = 'pending' AND reason = 'received' "
        "AND at = (SELECT received_at FROM event WHERE event.id = fate.event_pk)"
    )


def downgrade() -> None:
    """Back: every model is marked, the first fates are written out again."""
    op.execute("INSERT INTO fate (event_pk, fate, reason, at) SELECT id, 'pending', 'received', received_at FROM event")
    op.drop_index("ix_event_attempt_id", table_name="event")
    op.create_index("ix_event_attempt_id", "event", ["attempt_id"], unique=False)
    op.drop_table("pump")
    op.drop_table("intake_partition")
    with op.batch_alter_table("model") as table:
        table.add_column(sa.Column("marked", sa.Boolean(), nullable=False, server_default=sa.true()))
    with op.batch_alter_table("model") as table:
        table.alter_column("marked", server_default=None)
    op.create_index(op.f("ix_model_marked"), "model", ["marked"], unique=False)
    op.drop_table("touched")
