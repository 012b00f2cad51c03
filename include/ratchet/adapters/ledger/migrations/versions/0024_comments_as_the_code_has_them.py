"""Comments of tables say what the code says of them

Revision ID: 0024
Revises: 0022
"""

from alembic import op

revision = "0024"
down_revision = "0022"
branch_labels = None
depends_on = None

COMMENTS = {
    "audit": ("Append-only and hash-chained", "Append-only (a trigger refuses the rest) and hash-chained"),
    "audit_head": (None, "One row: the end of the audit log; a trigger lets it move forward only"),
    "champion": (
        "Append-only history; the primary key is the compare-and-set: two promotions over one champion cannot both insert",
        "Append-only; the primary key is the compare-and-set: two promotions over one champion cannot both insert",
    ),
    "doorbell": (
        None,
        "When a model is due and was rung; since and incident order the fleet, held says why it waits its turn",
    ),
    "fate": (
        "Every fate an event has had",
        "Every fate an event has had after the first, which is its row in the inbox",
    ),
    "model": (
        "The spec registry: which spec is current, and which models wait for a decision",
        "The spec registry: which spec is current",
    ),
    "record": (
        "Every offset has exactly one row; status stored, held (unknown model) or rejected. Bytes kept unless stored",
        "Every offset has exactly one row; stored, held (unknown model) or rejected; bytes kept unless stored",
    ),
}
"""Of each table the comment before, and after."""


def upgrade() -> None:
    """Forward; SQLite keeps no comments."""
    if op.get_bind().dialect.name == "postgresql":
        for table, (before, after) in COMMENTS.items():
            op.create_table_comment(table, after, existing_comment=before)


def downgrade() -> None:
    """Back."""
    if op.get_bind().dialect.name == "postgresql":
        for table, (before, after) in COMMENTS.items():
            op.create_table_comment(table, before, existing_comment=after)
