"""The ledger's tables.

Times ending in ``_at`` are the database's wall clock; ``time``, ``since``, ``as_of``, ``until`` and ``window_end`` are
business time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Timestamps are aware and UTC on every database; SQLite, which knows no zones, stores them as naive UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Aware in, UTC out."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the ledger takes aware times only, got {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Aware UTC out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _column(name: str, kind: Any, *args: Any, **kwargs: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, **{"nullable": False} | kwargs)


clock = sa.Table(
    "clock",
    metadata,
    _column("id", sa.Integer, primary_key=True),
    _column("mode", sa.String(8)),
    _column("now", UtcDateTime, nullable=True),
    comment="One row: business time is the wall clock, or replayed",
)

spec = sa.Table(
    "spec",
    metadata,
    _column("digest", sa.String(64), primary_key=True),
    _column("model", sa.String(100), index=True),
    _column("document", Json),
    _column("deployed_at", UtcDateTime),
)

model = sa.Table(
    "model",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest")),
    _column("retired_at", UtcDateTime, nullable=True),
    comment="The spec registry: which spec is current",
)

touched = sa.Table(
    "touched",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("model", sa.String(100), index=True),
    comment="Models that wait for a decision; rows are only added and removed, so that marking waits for no lock",
)

watermark = sa.Table(
    "watermark",
    metadata,
    _column("dataset", sa.String(100), primary_key=True),
    _column("complete_until", UtcDateTime),
    _column("label_completeness", sa.Float, nullable=True),
    _column("updated_at", UtcDateTime),
)

record = sa.Table(
    "record",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("cluster", sa.String(100)),
    _column("topic", sa.String(249)),
    _column("partition", sa.Integer),
    _column("offset", sa.BigInteger),
    _column("status", sa.String(10)),
    _column("reason", sa.Text, nullable=True),
    _column("key", sa.LargeBinary, nullable=True),
    _column("value", sa.LargeBinary, nullable=True),
    _column("headers", Json, nullable=True),
    _column("received_at", UtcDateTime),
    _column("held_until", UtcDateTime, nullable=True),
    sa.UniqueConstraint("cluster", "topic", "partition", "offset"),
    sa.Index("ix_record_held", "held_until", postgresql_where=sa.text("status = 'held'")),
    sa.Index(
        "ix_record_rejected",
        "received_at",
        postgresql_where=sa.text("status = 'rejected'"),
        sqlite_where=sa.text("status = 'rejected'"),
    ),
    comment="Every offset has exactly one row; stored, held (unknown model) or rejected; bytes kept unless stored",
)

record_floor = sa.Table(
    "record_floor",
    metadata,
    _column("cluster", sa.String(100), primary_key=True),
    _column("topic", sa.String(249), primary_key=True),
    _column("partition", sa.Integer, primary_key=True, autoincrement=False),
    _column("offset", sa.BigInteger),
    comment="Below this offset retention has removed rows of record: whatever is delivered from there is known",
)

event = sa.Table(
    "event",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("source", sa.String(500)),
    _column("event_id", sa.String(255)),
    _column("model", sa.String(100)),
    _column("type", sa.String(100)),
    _column("time", UtcDateTime),
    _column("received_at", UtcDateTime),
    _column("digest", sa.String(64)),
    _column("data", Json),
    _column("origin", sa.String(10)),
    _column("record_id", BigId, sa.ForeignKey("record.id"), nullable=True),
    _column("fate", sa.String(10)),
    _column("reason", sa.Text),
    _column("until", UtcDateTime, nullable=True),
    _column("attempt_id", sa.String(120), nullable=True),
    _column("tries", sa.Integer, default=0),
    _column("incident", sa.String(200), nullable=True),
    _column("told_at", UtcDateTime, nullable=True),
    _column("reopened_at", UtcDateTime, nullable=True),
    _column("traceparent", sa.String(55), nullable=True),
    sa.UniqueConstraint("source", "event_id", "model"),
    sa.Index("ix_event_model_fate", "model", "fate"),
    sa.Index("ix_event_model_time", "model", "time"),
    sa.Index("ix_event_record_id", "record_id", postgresql_where=sa.text("record_id IS NOT NULL")),
    sa.Index("ix_event_until", "until", postgresql_where=sa.text("fate = 'deferred'")),
    sa.Index("ix_event_attempt_id", "attempt_id", postgresql_where=sa.text("attempt_id IS NOT NULL")),
    sa.Index(
        "ix_event_untold",
        "id",
        postgresql_where=sa.text("told_at IS NULL AND fate NOT IN ('pending', 'claimed', 'deferred')"),
    ),
    comment="The inbox: one row per event and model, with its current fate",
)

fate = sa.Table(
    "fate",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("event_pk", BigId, sa.ForeignKey("event.id"), index=True),
    _column("fate", sa.String(10)),
    _column("reason", sa.Text),
    _column("until", UtcDateTime, nullable=True),
    _column("attempt_id", sa.String(120), nullable=True),
    _column("at", UtcDateTime),
    comment="Every fate an event has had after the first, which is its row in the inbox",
)

intake_partition = sa.Table(
    "intake_partition",
    metadata,
    _column("cluster", sa.String(100), primary_key=True),
    _column("topic", sa.String(249), primary_key=True),
    _column("partition", sa.Integer, primary_key=True, autoincrement=False),
    _column("topic_id", sa.String(36), nullable=True),
    _column("incarnation", sa.Integer),
    _column("since_at", UtcDateTime),
    comment="Which topic the offsets of a partition belong to: one made again under its name counts from 0 again",
)

pump = sa.Table(
    "pump",
    metadata,
    _column("instance", sa.String(200), primary_key=True),
    _column("group_id", sa.String(249)),
    _column("started_at", UtcDateTime),
    _column("beat_at", UtcDateTime, index=True),
    _column("lag", Json),
    _column("stored", sa.BigInteger),
    _column("rejected", sa.BigInteger),
    _column("last_error", sa.Text, nullable=True),
    _column("alarm", sa.Text, nullable=True),
    comment="One heartbeat per intake pump; lag is records per assigned partition",
)

doorbell = sa.Table(
    "doorbell",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("due_at", UtcDateTime, nullable=True, index=True),
    _column("rung_at", UtcDateTime, nullable=True),
    _column("rings", sa.Integer, default=0),
    _column("reason", sa.Text, nullable=True),
    _column("since", UtcDateTime, nullable=True),
    _column("incident", sa.String(200), nullable=True),
    _column("held", sa.Text, nullable=True),
    _column("score_rung_at", UtcDateTime, nullable=True),
    _column("score_rung_for", sa.Date, nullable=True),
    comment="When a model is due and was rung; since and incident order the fleet, held says why it waits its turn",
)

snooze = sa.Table(
    "snooze",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("since", UtcDateTime),
    _column("until", UtcDateTime),
    _column("actor", sa.String(200)),
    _column("reason", sa.Text),
    comment="The last snooze of a model that was not lifted, over or not: until then it starts no run by itself",
)

lease = sa.Table(
    "lease",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("epoch", sa.Integer, default=0),
    _column("attempt_id", sa.String(120), nullable=True),
    _column("expires_at", UtcDateTime, nullable=True),
    comment="Exclusion: at most one live attempt per model; every later write carries (attempt, epoch)",
)

attempt = sa.Table(
    "attempt",
    metadata,
    _column("id", sa.String(120), primary_key=True),
    _column("model", sa.String(100), index=True),
    _column("epoch", sa.Integer),
    _column("state", sa.String(20), index=True),
    _column("dag_id", sa.String(250)),
    _column("dag_run_id", sa.String(250)),
    _column("trigger", sa.String(12)),
    _column("trigger_event_pk", BigId, nullable=True),
    _column("actor", sa.String(200), nullable=True),
    _column("reason", sa.Text),
    _column("options", Json),
    _column("business_at", UtcDateTime),
    _column("as_of", UtcDateTime),
    _column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest")),
    _column("code_digest", sa.String(64)),
    _column("champion_seq", sa.Integer),
    _column("champion_version", sa.Integer, nullable=True),
    _column("challenger_version", sa.Integer, nullable=True),
    _column("verdict", sa.String(20), nullable=True),
    _column("verdict_record", Json, nullable=True),
    _column("evidence_digest", sa.String(64), nullable=True),
    _column("model_digest", sa.String(64), nullable=True),
    _column("dossier_uri", sa.Text, nullable=True),
    _column("dossier_sha256", sa.String(64), nullable=True),
    _column("deployed_version", sa.Integer, nullable=True),
    _column("deployed_digest", sa.String(64), nullable=True),
    _column("failure", sa.Text, nullable=True),
    _column("created_at", UtcDateTime),
    _column("judged_at", UtcDateTime, nullable=True),
    _column("concluded_at", UtcDateTime, nullable=True),
    sa.UniqueConstraint("model", "epoch"),
    sa.Index("ix_attempt_run", "dag_id", "dag_run_id"),
    sa.Index("ix_attempt_created_at", "created_at", "id"),
)

step = sa.Table(
    "step",
    metadata,
    _column("attempt_id", sa.String(120), sa.ForeignKey("attempt.id"), primary_key=True),
    _column("step", sa.String(40), primary_key=True),
    _column("result", Json),
    _column("started_at", UtcDateTime),
    _column("finished_at", UtcDateTime),
    sa.Index("ix_step_times", "attempt_id", postgresql_include=["started_at", "finished_at"]),
    comment="What a task answered: a retried task answers the same",
)

used_day = sa.Table(
    "used_day",
    metadata,
    _column("attempt_id", sa.String(120), sa.ForeignKey("attempt.id"), primary_key=True),
    _column("role", sa.String(10), primary_key=True),
    _column("day", sa.Date, primary_key=True),
    _column("model", sa.String(100)),
    _column("champion_version", sa.Integer, nullable=True),
    _column("challenger_version", sa.Integer, nullable=True),
    _column("rows", sa.Integer),
    sa.Index("ix_used_day_model_champion_version", "model", "champion_version"),
    sa.Index("ix_used_day_model_challenger_version", "model", "challenger_version"),
    comment="The rows each attempt used, by whole local days (days are never split): fit, calibrate or holdout",
)

champion = sa.Table(
    "champion",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("seq", sa.Integer, primary_key=True),
    _column("version", sa.Integer),
    _column("attempt_id", sa.String(120), nullable=True),
    _column("kind", sa.String(10)),
    _column("as_of", UtcDateTime),
    _column("actor", sa.String(200), nullable=True),
    _column("reason", sa.Text),
    _column("evidence_digest", sa.String(64), nullable=True),
    _column("model_digest", sa.String(64), nullable=True),
    _column("promoted_at", UtcDateTime),
    _column("since", UtcDateTime, nullable=True),
    comment="Append-only; the primary key is the compare-and-set: two promotions over one champion cannot both insert",
)

probation = sa.Table(
    "probation",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("seq", sa.Integer, primary_key=True),
    _column("version", sa.Integer),
    _column("predecessor_seq", sa.Integer),
    _column("predecessor_version", sa.Integer),
    _column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest")),
    _column("first_day", sa.Date),
    _column("last_day", sa.Date),
    _column("since", UtcDateTime),
    _column("until", UtcDateTime),
    _column("state", sa.String(12), index=True),
    _column("reason", sa.Text),
    _column("plan", Json),
    _column("record", Json),
    _column("opened_at", UtcDateTime),
    _column("rung_at", UtcDateTime, nullable=True),
    _column("ended_at", UtcDateTime, nullable=True),
    sa.ForeignKeyConstraint(["model", "seq"], ["champion.model", "champion.seq"]),
    comment="The watch over one promotion: the champion of this seq against the one it beat",
)

probation_day = sa.Table(
    "probation_day",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("seq", sa.Integer, primary_key=True),
    _column("day", sa.Date, primary_key=True),
    _column("rows", sa.Integer),
    _column("total", sa.Float, nullable=True),
    _column("scored_at", UtcDateTime),
    sa.ForeignKeyConstraint(["model", "seq"], ["probation.model", "probation.seq"]),
    comment="Each day is scored once: the uplift of all its rows in payoff units, null when it is not a number",
)

scored_day = sa.Table(
    "scored_day",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("day", sa.Date, primary_key=True),
    _column("role", sa.String(10), primary_key=True),
    _column("version", sa.Integer),
    _column("attempt_id", sa.String(120), nullable=True),
    _column("run", sa.String(250)),
    _column("as_of", UtcDateTime),
    _column("rows", sa.Integer),
    _column("acted", sa.Integer, nullable=True),
    _column("key", sa.Text, nullable=True),
    _column("sha256", sa.String(64), nullable=True),
    _column("scored_at", UtcDateTime),
    comment="The predictions on one local day, once per role: who made them, and the file by its digest",
)

approval_request = sa.Table(
    "approval_request",
    metadata,
    _column("attempt_id", sa.String(120), sa.ForeignKey("attempt.id"), primary_key=True),
    _column("model", sa.String(100), index=True),
    _column("challenger_version", sa.Integer),
    _column("champion_seq", sa.Integer),
    _column("evidence_digest", sa.String(64)),
    _column("reason", sa.Text),
    _column("people", sa.Integer),
    _column("value_at_risk", sa.Float, nullable=True),
    _column("asked_at", UtcDateTime),
    _column("expires_at", UtcDateTime),
    _column("runs", Json),
    comment="What people were asked, once per attempt; runs are the orchestrator's that showed it, newest last",
)

approval = sa.Table(
    "approval",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("attempt_id", sa.String(120), sa.ForeignKey("approval_request.attempt_id"), index=True),
    _column("challenger_version", sa.Integer),
    _column("champion_seq", sa.Integer),
    _column("evidence_digest", sa.String(64)),
    _column("actor", sa.String(200)),
    _column("answer", sa.String(10)),
    _column("reason", sa.Text),
    _column("via", sa.String(20)),
    _column("at", UtcDateTime),
    comment="Append-only (a trigger refuses the rest): who answered what, when and why, and what it was given to",
)

outbox = sa.Table(
    "outbox",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("dedupe", sa.String(300), unique=True),
    _column("model", sa.String(100), nullable=True),
    _column("kind", sa.String(20)),
    _column("payload", Json),
    _column("created_at", UtcDateTime),
    _column("done_at", UtcDateTime, nullable=True),
    _column("tries", sa.Integer, default=0),
    _column("last_error", sa.Text, nullable=True),
    sa.Index("ix_outbox_open", "kind", "tries", "id", postgresql_where=sa.text("done_at IS NULL")),
)

self_test = sa.Table(
    "self_test",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("model", sa.String(100), index=True),
    _column("at", UtcDateTime),
    _column("passed", sa.Boolean, nullable=True),
    _column("detail", Json),
    comment="The gate's self-tests; passed is null where there were too few days to say anything",
)

monitored = sa.Table(
    "monitored",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("window_end", UtcDateTime, primary_key=True),
    _column("state", sa.String(10)),
    _column("version", sa.Integer, nullable=True),
    _column("spec_digest", sa.String(64), sa.ForeignKey("spec.digest")),
    _column("found", Json),
    _column("report_uri", sa.Text, nullable=True),
    _column("report_sha256", sa.String(64), nullable=True),
    _column("rung_at", UtcDateTime, nullable=True),
    _column("done_at", UtcDateTime, nullable=True),
    comment="Each window of new rows is monitored once: due until it was, broken until its data are mended",
)

removal = sa.Table(
    "removal",
    metadata,
    _column("model", sa.String(100), primary_key=True),
    _column("kind", sa.String(12), primary_key=True),
    _column("name", sa.String(300), primary_key=True),
    _column("why", sa.Text),
    _column("decided_at", UtcDateTime),
    _column("removed_at", UtcDateTime, nullable=True),
    _column("bytes", sa.BigInteger, nullable=True),
    _column("rows", sa.BigInteger, nullable=True),
    comment="What retention removes: decided first, then removed; bytes are those freed, null where unknown; rows are "
    "the ledger's own that have gone so far, of all up to the month that name is",
)

notification = sa.Table(
    "notification",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("kind", sa.String(20)),
    _column("subject", sa.String(300)),
    _column("model", sa.String(100), nullable=True, index=True),
    _column("at", UtcDateTime),
    _column("notice", Json),
    _column("over_at", UtcDateTime, nullable=True),
    sa.Index(
        "uq_notification_open",
        "kind",
        "subject",
        unique=True,
        postgresql_where=sa.text("over_at IS NULL"),
        sqlite_where=sa.text("over_at IS NULL"),
    ),
    comment="What people are told: once per kind and subject until it is over; what does not last is never over",
)

notification_post = sa.Table(
    "notification_post",
    metadata,
    _column("id", BigId, primary_key=True, autoincrement=True),
    _column("notification_id", BigId, sa.ForeignKey("notification.id")),
    _column("channel", sa.String(63)),
    _column("stage", sa.String(12)),
    _column("recipients", Json),
    _column("due_at", UtcDateTime),
    _column("next_at", UtcDateTime),
    _column("tries", sa.Integer, default=0),
    _column("sent_at", UtcDateTime, nullable=True),
    _column("dropped", sa.Text, nullable=True),
    _column("last_error", sa.Text, nullable=True),
    sa.UniqueConstraint("notification_id", "channel", "stage", name="uq_notification_post_notification_id"),
    sa.Index(
        "ix_notification_post_open",
        "channel",
        "next_at",
        postgresql_where=sa.text("sent_at IS NULL AND dropped IS NULL"),
        sqlite_where=sa.text("sent_at IS NULL AND dropped IS NULL"),
    ),
    comment="One message of a notification, per channel and stage: sent, dropped (with the reason), or to be tried",
)

notification_cursor = sa.Table(
    "notification_cursor",
    metadata,
    _column("id", sa.Integer, primary_key=True),
    _column("seq", sa.BigInteger),
    comment="One row: the audit entry up to which notifications were made",
)

signature = sa.Table(
    "signature",
    metadata,
    _column("sender", sa.String(100), primary_key=True),
    _column("signature", sa.String(64), primary_key=True),
    _column("seen_at", UtcDateTime, index=True),
    comment="Signatures of requests that were taken, kept for as long as their timestamps would be believed",
)

audit = sa.Table(
    "audit",
    metadata,
    _column("seq", BigId, primary_key=True, autoincrement=False),
    _column("at", UtcDateTime),
    _column("actor", sa.String(200)),
    _column("action", sa.String(60), index=True),
    _column("model", sa.String(100), nullable=True),
    _column("detail", Json),
    _column("previous_hash", sa.String(64)),
    _column("hash", sa.String(64)),
    comment="Append-only (a trigger refuses the rest) and hash-chained",
)

audit_head = sa.Table(
    "audit_head",
    metadata,
    _column("id", sa.Integer, primary_key=True),
    _column("seq", sa.BigInteger),
    _column("hash", sa.String(64)),
    comment="One row: the end of the audit log; a trigger lets it move forward only",
)
