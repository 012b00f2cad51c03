"""Approvals: what people were asked, and what they answered

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ratchet.errors import Refused

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Forward."""
    _state_of_an_attempt(sa.String(20))
    op.create_table(
        "approval_request",
        sa.Column("attempt_id", sa.String(120), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("challenger_version", sa.Integer, nullable=False),
        sa.Column("champion_seq", sa.Integer, nullable=False),
        sa.Column("evidence_digest", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("people", sa.Integer, nullable=False),
        sa.Column("value_at_risk", sa.Float, nullable=True),
        sa.Column("asked_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("runs", JSON, nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_approval_request"),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name="fk_approval_request_attempt_id"),
        comment="What people were asked, once per attempt; runs are the orchestrator's that showed it, newest last",
    )
    op.create_index("ix_approval_request_model", "approval_request", ["model"])
    op.create_table(
        "approval",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("attempt_id", sa.String(120), nullable=False),
        sa.Column("challenger_version", sa.Integer, nullable=False),
        sa.Column("champion_seq", sa.Integer, nullable=False),
        sa.Column("evidence_digest", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("answer", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("via", sa.String(20), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_approval"),
        sa.ForeignKeyConstraint(["attempt_id"], ["approval_request.attempt_id"], name="fk_approval_attempt_id"),
        comment="Append-only (a trigger refuses the rest): who answered what, when and why, and what it was given to",
    )
    op.create_index("ix_approval_attempt_id", "approval", ["attempt_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approval "
            "FOR EACH STATEMENT EXECUTE FUNCTION ratchet_append_only()"
        )
        return
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER approval_append_only_{act.lower()} BEFORE {act} ON approval "
            f"BEGIN SELECT RAISE(ABORT, 'approval is append-only: {act} is refused'); END"
        )


def downgrade() -> None:
    """Back; refused while people are asked, for nobody would ask them again."""
    waits = sa.text("SELECT id FROM attempt WHERE state = 'awaiting_approval' ORDER BY id")
    if attempts := op.get_bind().execute(waits).scalars().all():
        raise Refused(
            f"revision 0009 knows no approvals, and {', '.join(attempts)} waits for one. "
            f"End it first: ratchet approve {attempts[0]} or ratchet reject {attempts[0]}, each with a --reason"
        )
    op.drop_table("approval")
    op.drop_table("approval_request")
    _state_of_an_attempt(sa.String(12))


def _state_of_an_attempt(kind: sa.String) -> None:
    """``awaiting_approval`` is a longer word than any before; SQLite has no lengths to change."""
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("attempt", "state", type_=kind)
