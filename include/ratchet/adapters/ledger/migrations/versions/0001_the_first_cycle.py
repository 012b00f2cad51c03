"""The first cycle's tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=True),
        sa.Column(
            "detail", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        comment="Append-only and hash-chained",
    )
    op.create_table(
        "champion",
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.String(length=120), nullable=True),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence_digest", sa.String(length=64), nullable=True),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "seq", name=op.f("pk_champion")),
        comment="Append-only history; the primary key is the compare-and-set: two promotions over one champion cannot both insert",
    )
    op.create_table(
        "clock",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(length=8), nullable=False),
        sa.Column("now", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock")),
        comment="One row: business time is the wall clock, or replayed",
    )
    op.create_table(
        "doorbell",
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rings", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_doorbell")),
    )
    op.create_index(op.f("ix_doorbell_due_at"), "doorbell", ["due_at"], unique=False)
    op.create_table(
        "lease",
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt_id", sa.String(length=120), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_lease")),
        comment="Exclusion: at most one live attempt per model; every later write carries (attempt, epoch)",
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("dedupe", sa.String(length=300), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column(
            "payload", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("dedupe", name=op.f("uq_outbox_dedupe")),
    )
    op.create_index("ix_outbox_open", "outbox", ["id"], unique=False, postgresql_where=sa.text("done_at IS NULL"))
    op.create_table(
        "record",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("cluster", sa.String(length=100), nullable=False),
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column(
            "headers", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record")),
        sa.UniqueConstraint(
            "cluster", "topic", "partition", "offset", name=op.f("uq_record_cluster_topic_partition_offset")
        ),
        comment="Every offset has exactly one row; status stored, held (unknown model) or rejected. Bytes kept unless stored",
    )
    op.create_index(
        "ix_record_held", "record", ["held_until"], unique=False, postgresql_where=sa.text("status = 'held'")
    )
    op.create_table(
        "spec",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column(
            "document", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_spec")),
    )
    op.create_index(op.f("ix_spec_model"), "spec", ["model"], unique=False)
    op.create_table(
        "watermark",
        sa.Column("dataset", sa.String(length=100), nullable=False),
        sa.Column("complete_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("label_completeness", sa.Float(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("dataset", name=op.f("pk_watermark")),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.String(length=120), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("dag_run_id", sa.String(length=250), nullable=False),
        sa.Column("trigger", sa.String(length=12), nullable=False),
        sa.Column("trigger_event_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("actor", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "options", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("business_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("code_digest", sa.String(length=64), nullable=False),
        sa.Column("champion_seq", sa.Integer(), nullable=False),
        sa.Column("champion_version", sa.Integer(), nullable=True),
        sa.Column("challenger_version", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.String(length=20), nullable=True),
        sa.Column(
            "verdict_record",
            sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"),
            nullable=True,
        ),
        sa.Column("evidence_digest", sa.String(length=64), nullable=True),
        sa.Column("dossier_uri", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("concluded_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["spec_digest"], ["spec.digest"], name=op.f("fk_attempt_spec_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.UniqueConstraint("model", "epoch", name=op.f("uq_attempt_model_epoch")),
    )
    op.create_index(op.f("ix_attempt_model"), "attempt", ["model"], unique=False)
    op.create_index("ix_attempt_run", "attempt", ["dag_id", "dag_run_id"], unique=False)
    op.create_index(op.f("ix_attempt_state"), "attempt", ["state"], unique=False)
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("source", sa.String(length=500), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("type", sa.String(length=100), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column(
            "data", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("origin", sa.String(length=10), nullable=False),
        sa.Column("record_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("fate", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_id", sa.String(length=120), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name=op.f("fk_event_record_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("source", "event_id", "model", name=op.f("uq_event_source_event_id_model")),
        comment="The inbox: one row per event and model, with its current fate",
    )
    op.create_index("ix_event_attempt_id", "event", ["attempt_id"], unique=False)
    op.create_index("ix_event_model_fate", "event", ["model", "fate"], unique=False)
    op.create_index("ix_event_until", "event", ["until"], unique=False, postgresql_where=sa.text("fate = 'deferred'"))
    op.create_table(
        "model",
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("spec_digest", sa.String(length=64), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("marked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["spec_digest"], ["spec.digest"], name=op.f("fk_model_spec_digest")),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_model")),
        comment="The spec registry: which spec is current, and which models wait for a decision",
    )
    op.create_index(op.f("ix_model_marked"), "model", ["marked"], unique=False)
    op.create_table(
        "fate",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fate", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_id", sa.String(length=120), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["event_pk"], ["event.id"], name=op.f("fk_fate_event_pk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fate")),
        comment="Every fate an event has had",
    )
    op.create_index(op.f("ix_fate_event_pk"), "fate", ["event_pk"], unique=False)
    op.create_table(
        "step",
        sa.Column("attempt_id", sa.String(length=120), nullable=False),
        sa.Column("step", sa.String(length=40), nullable=False),
        sa.Column(
            "result", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_step_attempt_id")),
        sa.PrimaryKeyConstraint("attempt_id", "step", name=op.f("pk_step")),
        comment="What a task answered: a retried task answers the same",
    )
    op.create_table(
        "used_day",
        sa.Column("attempt_id", sa.String(length=120), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("champion_version", sa.Integer(), nullable=True),
        sa.Column("challenger_version", sa.Integer(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_used_day_attempt_id")),
        sa.PrimaryKeyConstraint("attempt_id", "role", "day", name=op.f("pk_used_day")),
        comment="The rows each attempt used, by whole local days (days are never split): fit, calibrate or holdout",
    )
    op.create_index("ix_used_day_model_champion_version", "used_day", ["model", "champion_version"], unique=False)


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_used_day_model_champion_version", table_name="used_day")
    op.drop_table("used_day")
    op.drop_table("step")
    op.drop_index(op.f("ix_fate_event_pk"), table_name="fate")
    op.drop_table("fate")
    op.drop_index(op.f("ix_model_marked"), table_name="model")
    op.drop_table("model")
    op.drop_index("ix_event_until", table_name="event", postgresql_where=sa.text("fate = 'deferred'"))
    op.drop_index("ix_event_model_fate", table_name="event")
    op.drop_index("ix_event_attempt_id", table_name="event")
    op.drop_table("event")
    op.drop_index(op.f("ix_attempt_state"), table_name="attempt")
    op.drop_index("ix_attempt_run", table_name="attempt")
    op.drop_index(op.f("ix_attempt_model"), table_name="attempt")
    op.drop_table("attempt")
    op.drop_table("watermark")
    op.drop_index(op.f("ix_spec_model"), table_name="spec")
    op.drop_table("spec")
    op.drop_index("ix_record_held", table_name="record", postgresql_where=sa.text("status = 'held'"))
    op.drop_table("record")
    op.drop_index("ix_outbox_open", table_name="outbox", postgresql_where=sa.text("done_at IS NULL"))
    op.drop_table("outbox")
    op.drop_table("lease")
    op.drop_index(op.f("ix_doorbell_due_at"), table_name="doorbell")
    op.drop_table("doorbell")
    op.drop_table("clock")
    op.drop_table("champion")
    op.drop_table("audit")
