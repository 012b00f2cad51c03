"""The audit log and the champions are append-only by the database's own word; versions have their artifact's digest

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit", "champion")
FORWARD = "the head of the audit log only moves forward"


def upgrade() -> None:
    """Forward; the count of a log that is there already starts at its end."""
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    log = sa.table("audit", sa.column("seq"), sa.column("hash"))
    last = sa.select(sa.literal(1), log.c.seq, log.c.hash).order_by(log.c.seq.desc()).limit(1)
    op.execute(head.insert().from_select(["id", "seq", "hash"], last))
    for table in ("attempt", "champion"):
        op.add_column(table, sa.Column("model_digest", sa.String(64), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def _guard_postgresql() -> None:
    op.execute(
        """
        CREATE OR REPLACE FUNCTION ratchet_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP;
        END $$
        """
    )
    op.execute(
        f"""
        CREATE OR REPLACE FUNCTION ratchet_audit_head() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.seq <= OLD.seq THEN
                RAISE EXCEPTION '{FORWARD}';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION ratchet_append_only()"
        )
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON audit_head "
        "FOR EACH STATEMENT EXECUTE FUNCTION ratchet_append_only()"
    )
    op.execute("CREATE TRIGGER forward BEFORE UPDATE ON audit_head FOR EACH ROW EXECUTE FUNCTION ratchet_audit_head()")


def _guard_sqlite() -> None:
    for table, act in [(t, a) for t in APPEND_ONLY for a in ("UPDATE", "DELETE")] + [("audit_head", "DELETE")]:
        op.execute(
            f"CREATE TRIGGER {table}_append_only_{act.lower()} BEFORE {act} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only: {act} is refused'); END"
        )
    op.execute(
        "CREATE TRIGGER audit_head_forward BEFORE UPDATE ON audit_head WHEN NEW.seq <= OLD.seq "
        f"BEGIN SELECT RAISE(ABORT, '{FORWARD}'); END"
    )


def downgrade() -> None:
    """Back."""
    if op.get_bind().dialect.name == "postgresql":
        for table in APPEND_ONLY:
            op.execute(f"DROP TRIGGER append_only ON {table}")
        op.drop_table("audit_head")
        op.execute("DROP FUNCTION ratchet_append_only()")
        op.execute("DROP FUNCTION ratchet_audit_head()")
    else:
        for table in APPEND_ONLY:
            for act in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_append_only_{act}")
        op.drop_table("audit_head")
    for table in ("attempt", "champion"):
        op.drop_column(table, "model_digest")
