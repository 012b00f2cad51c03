"""From each revision of the ledger to the newest, back, and forth again: no row is lost, on SQLite and PostgreSQL.

Rows are made from the schema as the database itself tells it, so a new migration needs no fixture of its own.
"""

import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql

from ratchet.adapters.ledger import SqlLedger, revisions
from ratchet.adapters.ledger.schema import metadata
from ratchet.domain.audit import audit_problems
from ratchet.domain.snooze import Snooze
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import NewEvent, PumpRow

POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL")
KNOWN = revisions.known()
NEWEST = KNOWN[-1]
ROWS = 3
NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)

TAKEN_FORWARD = {("model", "marked")}
"""Columns that a later revision has no place for: 0004 keeps marks in a table of their own."""
REWRITTEN_BACK = {("model", "marked"): True}
"""What stands in them after the way back: every model is marked."""
MARKS_APART = "0004"
ADDED_BACK = {"fate": {("pending", "received")}}
"""Rows that the way back beyond it adds: the first fate of an event had a row of its own before."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def ledger(request):
    """An empty database."""
    if request.param == "sqlite":
        url = "sqlite://"
    else:
        if not POSTGRES:
            pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
        url = POSTGRES
        engine = sa.create_engine(url)
        with engine.begin() as db:
            db.execute(sa.text("DROP SCHEMA public CASCADE"))
            db.execute(sa.text("CREATE SCHEMA public"))
        engine.dispose()
    ledger = SqlLedger(url)
    yield ledger
    ledger.dispose()


def alembic(db: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(revisions.MIGRATIONS))
    config.attributes["connection"] = db
    return config


def at(ledger: SqlLedger, revision: str) -> None:
    """An empty ledger becomes one of this revision."""
    with ledger.engine.begin() as db:
        command.upgrade(alembic(db), revision)


def tables(db: sa.Connection) -> list[sa.Table]:
    """The ledger's tables as the database tells of them, those that others name first."""
    found = sa.MetaData()
    found.reflect(db)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value(column: sa.Column[Any], number: int) -> Any:
    """A value of the column's type, another for each number."""
    kind = column.type
    if isinstance(kind, sa.JSON):
        return {"n": number, "list": [1.5, None, "é"], column.name: f"{number}"}
    if isinstance(kind, sa.Boolean):
        return number % 2 == 0
    if isinstance(kind, sa.Integer):
        return 100 + number
    if isinstance(kind, sa.Float | sa.Numeric):
        return 0.1 + number
    if isinstance(kind, sa.DateTime):
        moment = NOW + timedelta(days=number, microseconds=number)
        return moment if isinstance(kind, postgresql.TIMESTAMP) else moment.replace(tzinfo=None)
    if isinstance(kind, sa.Date):
        return date(2013, 4, 1) + timedelta(days=number)
    if isinstance(kind, sa.LargeBinary):
        return bytes([0, 255, number])
    if isinstance(kind, sa.String):
        return f"{number}{column.name}"[: kind.length]
    raise AssertionError(f"{column}: no value is known for {kind!r}")


def numbered_by_itself(db: sa.Connection, table: sa.Table) -> str | None:
    """The column whose numbers the database gives."""
    key = list(table.primary_key.columns)
    if [column.name for column in key] != ["id"] or not isinstance(key[0].type, sa.Integer):
        return None
    return "id" if db.dialect.name == "sqlite" or key[0].server_default is not None else None


def fill(db: sa.Connection) -> None:
    """Rows in every table: one whole, one with nothing that may be nothing, one whole."""
    made: dict[str, list[dict[str, Any]]] = {}
    for table in tables(db):
        named = {}
        for foreign in table.foreign_key_constraints:
            to = foreign.referred_table.name
            named |= {each.parent.name: (to, each.column.name) for each in foreign.elements}
        itself = numbered_by_itself(db, table)
        made[table.name] = []
        for number in range(ROWS):
            row = {}
            for column in table.columns:
                if column.name == itself:
                    continue
                if number == 1 and column.nullable:
                    row[column.name] = None
                elif column.name in named:
                    to, key = named[column.name]
                    row[column.name] = made[to][number][key]
                else:
                    row[column.name] = value(column, number)
            given = db.execute(sa.insert(table).values(row).returning(*table.columns)).mappings().one()
            made[table.name].append(dict(given))


def content(db: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, in the order of their keys."""
    found = {}
    for table in tables(db):
        query = sa.select(table).order_by(*table.primary_key.columns)
        found[table.name] = [dict(row) for row in db.execute(query).mappings()]
    return found


def shape(db: sa.Connection) -> dict[str, Any]:
    """Columns, keys, constraints, indexes and triggers of every table."""
    inspector = sa.inspect(db)
    found: dict[str, Any] = {}
    for table in sorted(inspector.get_table_names()):
        columns = {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)}
        found[table] = {
            "columns": columns,
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(tuple(u["column_names"]) for u in inspector.get_unique_constraints(table)),
            "foreign": sorted(
                (f["referred_table"], *f["constrained_columns"]) for f in inspector.get_foreign_keys(table)
            ),
            "indexes": sorted((i["name"], *i["column_names"], i["unique"]) for i in inspector.get_indexes(table)),
            "checks": sorted(c["sqltext"] for c in inspector.get_check_constraints(table)),
        }
    triggers = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
        if db.dialect.name == "sqlite"
        else "SELECT tgrelid::regclass || '.' || tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    )
    found["triggers"] = list(db.execute(sa.text(triggers)).scalars())
    return found


def test_revisions_are_one_line_and_files_are_named_by_them(ledger):
    at(ledger, "head")
    with ledger.engine.begin() as db:
        scripts = ScriptDirectory.from_config(alembic(db))
    walked = [script.revision for script in scripts.walk_revisions()][::-1]
    assert scripts.get_heads() == [NEWEST], "two migrations follow the same one: change the later's down_revision"
    assert tuple(walked) == KNOWN, "a migration's number is larger than that of the one before it"


@pytest.mark.parametrize("revision", KNOWN)
def test_no_row_is_lost_on_the_way_to_the_newest_revision_back_and_forth(ledger, revision):
    at(ledger, revision)
    with ledger.engine.begin() as db:
        fill(db)
        began, shaped = content(db), shape(db)
    assert all(len(rows) == ROWS for rows in began.values())

    with ledger.engine.begin() as db:
        command.upgrade(alembic(db), "head")
        forward = content(db)
        newest = shape(db)
    for table, rows in began.items():
        kept = [name for name in rows[0] if (table, name) not in TAKEN_FORWARD]
        assert [{name: row[name] for name in kept} for row in forward[table]] == [
            {name: row[name] for name in kept} for row in rows
        ], table

    with ledger.engine.begin() as db:
        command.downgrade(alembic(db), revision)
        back = content(db)
        assert shape(db) == shaped
    for table, rows in began.items():
        rewritten = {name: told for (of, name), told in REWRITTEN_BACK.items() if of == table and name in rows[0]}
        added = ADDED_BACK.get(table, set()) if revision < MARKS_APART else set()
        stands = [row for row in back[table] if (row.get("fate"), row.get("reason")) not in added]
        assert stands == [row | rewritten for row in rows], table

    with ledger.engine.begin() as db:
        command.upgrade(alembic(db), "head")
        assert shape(db) == newest
        again = content(db)
    assert {name: again[name] for name in began} == {name: forward[name] for name in began}


def test_the_migrated_schema_is_the_codes(ledger):
    def differs(context, column, of_code, kind, kind_of_code):
        """SQLite keeps text of any length in any column, and alters none; elsewhere by alembic's own rule."""
        texts = isinstance(kind, sa.String) and isinstance(kind_of_code, sa.String)
        return False if texts and context.dialect.name == "sqlite" else None

    ledger.migrate()
    with ledger.engine.begin() as db:
        context = MigrationContext.configure(db, opts={"compare_type": differs, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_first_fate_of_an_event_is_its_own_row_since_0004_and_is_written_out_again(ledger):
    at(ledger, "0003")
    with ledger.engine.begin() as db:
        fill(db)
        event, fate = (next(table for table in tables(db) if table.name == name) for name in ("event", "fate"))
        first = db.execute(sa.select(event.c.id, event.c.received_at).order_by(event.c.id)).first()
        row = {"event_pk": first.id, "fate": "pending", "reason": "received", "at": first.received_at}
        db.execute(sa.insert(fate).values(row))

        def first_fates():
            query = sa.select(fate.c.event_pk, fate.c.at).where(fate.c.reason == "received").order_by(fate.c.event_pk)
            return [tuple(found) for found in db.execute(query)]

        command.upgrade(alembic(db), "head")
        assert first_fates() == []
        command.downgrade(alembic(db), "0003")
        assert len(first_fates()) == ROWS
        assert first_fates()[0] == tuple(first)


# -- code and database of two revisions --------------------------------------------------------------------------------


def test_code_refuses_an_empty_and_an_older_ledger_with_both_revisions_and_the_remedy(ledger):
    refused = refusal_of(ledger)
    assert (
        refused == f"the ledger has no schema yet, and this code needs revision {NEWEST}. Run: ratchet ledger migrate"
    )
    at(ledger, KNOWN[-2])
    refused = refusal_of(ledger)
    assert refused.startswith(f"the ledger is at revision {KNOWN[-2]}, and this code needs {NEWEST}.")
    assert refused.endswith("ratchet ledger migrate")
    assert ledger.migrate("ann").has == KNOWN[-2]
    with ledger.transaction() as tx:
        (entry,) = tx.audit_log(action="ledger.migrated")
        assert (entry["actor"], entry["detail"]) == ("ann", {"from": KNOWN[-2], "to": NEWEST})


def test_code_refuses_a_ledger_that_newer_code_made_and_changes_nothing(ledger):
    ledger.migrate()
    newer(ledger)
    said = f"at revision 9999, which this code does not know: its newest is {NEWEST}."
    assert said in refusal_of(ledger)
    assert refusal_of(ledger).endswith(f"ratchet ledger downgrade {NEWEST}")
    for act in (ledger.migrate, lambda: ledger.downgrade("0001", "ann", "r", apply=True)):
        with pytest.raises(Refused, match=said):
            act()
    assert ledger.revision().has == "9999"
    assert ledger.revision().pending == ()


def refusal_of(ledger: SqlLedger) -> str:
    """Why a transaction does not begin."""
    with pytest.raises(Unavailable) as refused, ledger.transaction():
        raise AssertionError("it began")
    return str(refused.value)


def newer(ledger: SqlLedger) -> None:
    with ledger.engine.begin() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))


def test_code_that_was_left_running_across_an_upgrade_stops_within_a_minute(ledger, monkeypatch):
    ledger.migrate()
    with ledger.transaction() as tx:
        tx.publish_spec("m", "d" * 64, {})
    newer(ledger)
    with ledger.transaction() as tx:
        assert tx.specs(), "it is not asked before each transaction"
    monkeypatch.setattr("ratchet.adapters.ledger.sql.MATCHED_SECONDS", 0.0)
    with pytest.raises(Unavailable, match="at revision 9999"), ledger.transaction():
        pass


def test_a_ledger_that_is_up_to_date_is_left_alone(ledger):
    assert ledger.migrate().has is None
    assert ledger.migrate().is_current
    with ledger.transaction() as tx:
        assert tx.audit_head() is None


# -- the way back, by command ------------------------------------------------------------------------------------------


@pytest.fixture
def told(ledger):
    """A ledger in which a model sleeps, which revisions before 0020 know nothing of."""
    ledger.migrate()
    with ledger.transaction() as tx:
        tx.snooze("m", Snooze(NOW, NOW + timedelta(days=3), "ann", "labels are being mended"))
    return ledger


def test_a_downgrade_that_is_only_tried_tells_what_would_go_and_changes_nothing(told):
    assert told.downgrade("0019", "ann", "r") == ("1 row of snooze",)
    with told.transaction() as tx:
        assert list(tx.snoozes()) == ["m"]
        assert tx.audit_head() is None
    assert told.revision().is_current


def test_a_downgrade_refuses_to_lose_rows_until_it_is_told_to(told):
    with pytest.raises(Refused, match=r"0019 has no place for 1 row of snooze. Back up first .*: --lose"):
        told.downgrade("0019", "ann", "r", apply=True)
    assert told.revision().is_current
    assert told.downgrade("0020", "ann", "r", apply=True) == ()
    assert told.revision().has == "0020"
    told.migrate()
    assert told.downgrade("0019", "ann", "taken back", apply=True, lose=True) == ("1 row of snooze",)
    with pytest.raises(Unavailable, match=f"at revision 0019, and this code needs {NEWEST}"), told.transaction():
        pass
    told.migrate()
    with told.transaction() as tx:
        assert tx.snoozes() == {}
        acts = [(entry["actor"], entry["detail"].get("reason")) for entry in tx.audit_log(action="ledger.downgraded")]
        assert acts == [("ann", "r"), ("ann", "taken back")]
        assert audit_problems(tx.audit_chain(), [tx.audit_count()]) == []


def test_columns_with_values_are_rows_that_go(told):
    with told.transaction() as tx:
        tx.insert_events([NewEvent("monitor", "a", "m", "ratchet.drift.detected.v1", NOW, "x", {}, traceparent="00-1")])
    assert told.downgrade("0020", "ann", "r") == ("event.traceparent of 1 row",)


@pytest.mark.parametrize("revision", ["0000", NEWEST, "base"])
def test_the_way_back_is_to_an_earlier_revision(told, revision):
    with pytest.raises(Refused, match=f"an earlier revision, but got '{revision}'; there are 0001, 0002"):
        told.downgrade(revision, "ann", "r")


def test_there_is_no_way_back_while_something_runs(told):
    with told.transaction() as tx:
        tx.beat(PumpRow("host:1", "ratchet", tx.wall(), lag={}))
    with pytest.raises(Refused, match=r"the intake pump host:1 beat less than 30 seconds ago.*ratchet down"):
        told.downgrade("0019", "ann", "r")
    with told.engine.begin() as db:
        db.execute(sa.text("DELETE FROM pump"))
        held = {"model": "m", "attempt_id": "m.1", "expires_at": datetime.now(UTC) + timedelta(seconds=40)}
        db.execute(sa.insert(metadata.tables["lease"]).values(held))
    with pytest.raises(Refused, match=r"attempt m.1 runs"):
        told.downgrade("0019", "ann", "r")


def test_people_who_are_asked_are_not_forgotten_by_a_downgrade(ledger):
    ledger.migrate()
    with ledger.engine.begin() as db:
        fill(db)
        db.execute(sa.text("UPDATE attempt SET state = 'awaiting_approval' WHERE epoch = 100"))
        with pytest.raises(Refused, match=r"0009 knows no approvals, and 0id waits for one.*ratchet reject 0id"):
            command.downgrade(alembic(db), "0009")


def test_an_event_with_a_longer_id_is_not_cut(ledger):
    ledger.migrate()
    with ledger.transaction() as tx:
        tx.insert_events([NewEvent("monitor", "a" * 201, "m", "ratchet.drift.detected.v1", NOW, "x", {})])
    with pytest.raises(Refused, match="up to 200 characters; longer ones: 1"):
        ledger.downgrade("0001", "ann", "r", apply=True, lose=True)
    assert ledger.revision().is_current


def test_a_migration_may_take_longer_than_any_other_statement_but_does_not_wait_for_others(ledger, monkeypatch):
    if ledger.engine.dialect.name == "sqlite":
        pytest.skip("SQLite knows no such times")
    monkeypatch.setattr(revisions, "LOCK_SECONDS", 1)
    at(ledger, KNOWN[-2])
    hurried = SqlLedger(str(ledger.engine.url.render_as_string(hide_password=False)), statement_timeout_seconds=0.1)
    with revisions.changing(hurried.engine) as db:
        db.execute(sa.text("SELECT pg_sleep(0.3)"))
    with ledger.engine.begin() as holder:
        holder.execute(sa.text("LOCK TABLE audit IN SHARE MODE"))
        with pytest.raises(Unavailable, match=r"stays as it was: .*lock timeout"):
            hurried.migrate()
    assert hurried.migrate().has == KNOWN[-2]
    hurried.dispose()
