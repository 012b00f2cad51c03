"""A role that owns nothing of the ledger: what it is kept from. That all else works, test_ledger.py says of it."""

import os

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.grants import rights
from ratchet.adapters.ledger.schema import metadata
from ratchet.errors import Refused

POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL")
ROLE = "components"


@pytest.fixture
def owned():
    if not POSTGRES:
        pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
    ledger = SqlLedger(POSTGRES)
    with ledger.engine.begin() as db:
        metadata.drop_all(db)
        db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
        if not db.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = 'components'")).scalar():
            db.execute(sa.text("CREATE ROLE components LOGIN PASSWORD 'of-the-tests'"))
    ledger.migrate()
    yield ledger
    ledger.dispose()


@pytest.fixture
def granted(owned):
    owned.grant(ROLE, "ann")
    url = owned.engine.url.set(username=ROLE, password="of-the-tests")
    ledger = SqlLedger(url.render_as_string(hide_password=False))
    yield ledger
    ledger.dispose()


@pytest.mark.stack
@pytest.mark.parametrize(
    "act",
    [
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM champion",
        "TRUNCATE audit",
        "DELETE FROM audit_head",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "DROP TRIGGER append_only ON audit",
        "DROP TABLE audit CASCADE",
        "CREATE TABLE mine (n integer)",
        "UPDATE alembic_version SET version_num = '0001'",
        "ALTER FUNCTION ratchet_append_only() RENAME TO harmless",
        "SET session_replication_role = replica",
    ],
)
def test_what_is_written_stays_and_the_schema_is_not_its_own(granted, act):
    with pytest.raises(sa.exc.DBAPIError, match=r"permission denied|must be owner"), granted.engine.begin() as db:
        db.execute(sa.text(act))


@pytest.mark.stack
def test_it_can_neither_migrate_nor_go_back_and_is_told_who_can(granted, owned):
    with pytest.raises(Refused, match="by the role that owns it alone"):
        granted.downgrade("0001", "ann", "r", apply=True, lose=True)
    assert granted.migrate().is_current
    with owned.transaction() as tx:
        assert [entry["actor"] for entry in tx.audit_log(action="ledger.granted")] == ["ann"]


@pytest.mark.stack
def test_it_can_give_no_rights_either(granted):
    with pytest.raises(Refused, match=r"'components' does not own the ledger.*docker compose run --rm owner"):
        granted.grant(ROLE, "ann")


@pytest.mark.stack
def test_a_second_grant_takes_what_was_given_beside_it(granted, owned):
    with owned.engine.begin() as db:
        db.execute(sa.text("GRANT DELETE ON audit TO components"))
    owned.grant(ROLE, "ann")
    with owned.engine.begin() as db:
        given = sa.text(
            "SELECT table_name, string_agg(privilege_type, ', ') FROM information_schema.role_table_grants "
            "WHERE grantee = 'components' GROUP BY table_name"
        )
        found = {table: set(right.split(", ")) for table, right in db.execute(given)}
    assert found == {table: set(right.split(", ")) for table, right in rights().items()}


@pytest.mark.stack
def test_a_table_it_was_not_granted_is_told_with_the_remedy(granted, owned):
    with owned.engine.begin() as db:
        db.execute(sa.text("REVOKE ALL ON snooze FROM components"))
    said = r"permission denied for table snooze. See: ratchet ledger grant"
    with pytest.raises(Refused, match=said), granted.transaction() as tx:
        tx.snoozes()


@pytest.mark.stack
@pytest.mark.parametrize("role", ["nobody_of_that_name", "the owner"])
def test_a_role_that_rights_cannot_be_kept_from_is_refused(owned, role):
    name = owned.engine.url.username if role == "the owner" else role
    with pytest.raises(Refused, match=r"no role 'nobody_of_that_name'|owns the ledger or is a superuser"):
        owned.grant(name, "ann")


def test_sqlite_has_no_roles(tmp_path):
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    with pytest.raises(Refused, match="in PostgreSQL alone, and the ledger is kept in sqlite"):
        ledger.grant(ROLE, "ann")
    ledger.dispose()
