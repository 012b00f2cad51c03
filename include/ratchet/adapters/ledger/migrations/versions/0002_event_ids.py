"""Event ids as long as an event may say them

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

from ratchet.errors import Refused

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    _resize(255)


def downgrade() -> None:
    """Back; refused while a longer id is kept."""
    longer = sa.text("SELECT count(*) FROM event WHERE length(event_id) > 200")
    if events := op.get_bind().execute(longer).scalar_one():
        raise Refused(f"revision 0001 keeps ids of events up to 200 characters; longer ones: {events:,}")
    _resize(200)


def _resize(length: int) -> None:
    # SQLite keeps text of any length in any column, and alters none.
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("event", "event_id", type_=sa.String(length), existing_nullable=False)
