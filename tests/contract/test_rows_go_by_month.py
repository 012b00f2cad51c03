"""The ledger's rows go by age, the same on SQLite and PostgreSQL: what is needed stays, and nothing happens twice."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.base import Base
from ratchet.adapters.ledger.revisions import MIGRATIONS
from ratchet.adapters.ledger.schema import metadata
from ratchet.adapters.studies_optuna import OptunaStudies
from ratchet.domain.events import DriftCleared, DriftDetected
from ratchet.domain.housekeeping import DEPLOYMENT, RowRules
from ratchet.domain.spec import Dimension, ModelSpec
from ratchet.ports.ledger import FateChange, NewEvent, NewRecord
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow import housekeeping
from ratchet.workflow.housekeeping import Housekeeping, events_removed
from ratchet.workflow.purging import Purges

sys.path.append(str(Path(__file__).parents[1] / "unit" / "workflow"))

from worlds import Runs, World

POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL", "")
START = datetime(2013, 1, 1, 6, tzinfo=UTC)
DAY = timedelta(days=1)
MODEL = World.model
RULES = RowRules(rows=60 * DAY, dead_letters=45 * DAY)
SPACE = {"x": Dimension(float=(-1.0, 1.0))}


class Clock:
    """One clock for everything: business time follows it."""

    def __init__(self) -> None:
        self.now = START


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(Base, "wall", lambda self: made.now)
    return made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def ledger(request, tmp_path, clock):
    if request.param == "postgresql" and not POSTGRES:
        pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
    ledger = SqlLedger(POSTGRES if request.param == "postgresql" else f"sqlite:///{tmp_path}/ledger.db")
    if request.param == "postgresql":
        with ledger.engine.begin() as db:
            metadata.drop_all(db)
            db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    ledger.migrate()
    yield ledger
    ledger.dispose()


@pytest.fixture
def world(ledger, tmp_path) -> World:
    made = World(tmp_path, ledger)
    made.studies = InMemoryStudies()
    made.housekeeping = Housekeeping(ledger, RULES)
    made.crown(1)
    return made


def retain(world: World, **rules: Any) -> None:
    world.spec = ModelSpec.model_validate(world.spec.model_dump(mode="json") | {"retention": rules})
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))


def purge(world: World, *, apply: bool = True):
    parts = (lambda: world.store, lambda: world.registry, lambda: world.studies)
    return Purges(world.ledger, *parts, world.housekeeping).purge(apply=apply, actor="ann")


def at(world: World, clock: Clock, moment: datetime) -> None:
    clock.now = moment
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", moment)


def mild(world: World, moment: datetime, name: str):
    """Drift that is too mild to count: suppressed at the next tick."""
    data = DriftDetected(check="psi", severity=0.1, window_start=moment - DAY, window_end=moment)
    return world.publish(data, world.model, moment, name)


def settle(world: World) -> None:
    world.intake.tick()
    world.relay.run()


def count(world: World, table: str, where: str = "true") -> int:
    with world.ledger.engine.connect() as db:
        return db.execute(sa.text(f"SELECT count(*) FROM {table} WHERE {where}")).scalar_one()


def ids(world: World) -> set[str]:
    return {row.event_id for row in world.events()}


@pytest.fixture
def aged(world, clock) -> World:
    """Six suppressed events of January and two of June, each told; it is June."""
    retain(world, events="90d")
    for number in range(6):
        at(world, clock, START + number * DAY)
        mild(world, clock.now, f"old{number}")
    settle(world)
    at(world, clock, START + 160 * DAY)
    for number in range(2):
        mild(world, clock.now, f"new{number}")
    settle(world)
    return world


def test_a_dry_run_counts_and_changes_nothing(aged):
    (told, _) = purge(aged, apply=False)
    assert [(row.kind, row.rows, row.before.date().isoformat()) for row in told.rows] == [("events", 6, "2013-03-01")]
    assert count(aged, "event") == 8
    assert count(aged, "removal") == count(aged, "record_floor") == 0


def test_events_go_with_their_fates_and_records_and_the_audit_log_says_how_many(aged):
    (told, _) = purge(aged)
    assert [(row.kind, row.rows) for row in told.rows] == [("events", 6)]
    assert ids(aged) == {"new0", "new1"}
    assert count(aged, "fate") == count(aged, "record") == 2
    with aged.ledger.transaction() as tx:
        log = [(entry["action"], entry["detail"]) for entry in tx.audit_log(action="retention")]
        assert log == [
            (
                "retention.decided",
                {"rows": "events", "before": "2013-03-01T00:00:00+00:00", "why": "retention.events: 90d"},
            ),
            ("retention.removed", {"rows": "events", "before": "2013-03-01T00:00:00+00:00", "removed": {"events": 6}}),
        ]
        (row,) = tx.removals(MODEL)
        assert (row.kind, row.name, row.rows, row.removed_at is not None) == ("events", "2013-02", 6, True)
        assert events_removed(tx, MODEL, START + 160 * DAY) is None
        assert "of before 2013-03-01 were removed by retention on 2013-06-10" in events_removed(tx, MODEL, START)
    assert purge(aged)[0].rows == ()
    assert len(aged.events()) == 2


@pytest.mark.parametrize("needs", ["open", "untold", "trigger", "at work", "followed"])
def test_what_somebody_needs_stays(aged, needs):
    pk = next(row.pk for row in aged.events() if row.event_id == "old0")
    with aged.ledger.engine.begin() as db:
        if needs == "open":
            db.execute(sa.text("UPDATE event SET fate = 'deferred' WHERE id = :pk"), {"pk": pk})
        if needs == "untold":
            db.execute(sa.text("UPDATE event SET told_at = NULL WHERE id = :pk"), {"pk": pk})
    if needs in {"trigger", "at work", "followed"}:
        aged.arrive(START + 160 * DAY)
        attempt = aged.claim("run1", "manual", reason="to see")["attempt"]
        assert attempt is not None
        with aged.ledger.transaction() as tx:
            if needs == "trigger":
                tx.update_attempt(attempt, trigger_event_pk=pk, state="concluded")
            else:
                tx.change_fates([FateChange(pk, "merged", "into it", attempt_id=attempt)])
            if needs == "followed":
                tx.update_attempt(attempt, state="concluded")
                data = {"reason": "r", "actor": "ratchet", "attempt": attempt, "not_before": "2014-01-01T00:00Z"}
                kind = "ratchet.retrain.requested.v1"
                tx.insert_events([NewEvent("s", "follow-up", MODEL, kind, START, "d", data, origin="attempt")])
                (follow_up,) = tx.events(event_id="follow-up")
                tx.change_fates([FateChange(follow_up.pk, "deferred", "it waits")])
    purge(aged)
    assert {"old0"} == {name for name in ids(aged) if name.startswith("old")}
    assert count(aged, "fate", f"event_pk = {pk}") > 0


def test_the_newest_event_of_a_type_stays_however_old_it_is(aged, clock):
    at(aged, clock, START + 600 * DAY)
    aged.publish(DriftCleared(check="psi", window_end=clock.now), MODEL, clock.now, "clear")
    settle(aged)
    purge(aged)
    assert ids(aged) == {"new1", "clear"}


def test_another_models_events_stay(aged):
    with aged.ledger.engine.begin() as db:
        db.execute(sa.text("UPDATE event SET model = 'other' WHERE event_id IN ('old0', 'old1')"))
    purge(aged)
    assert ids(aged) == {"new0", "new1", "old0", "old1"}


def test_a_record_delivered_again_after_its_row_is_gone_has_no_second_effect(aged):
    old = replace(mild_again(aged, "old5", START + 5 * DAY), offset=offset_of("old5"))
    purge(aged)
    tables = ("event", "record", "fate", "outbox", "audit", "touched")
    before = {name: count(aged, name) for name in tables}
    with aged.ledger.transaction() as tx:
        assert tx.unknown_records([old]) == []
    aged.intake.store([old])
    settle(aged)
    assert before == {name: count(aged, name) for name in tables}


def test_a_restored_ledger_still_reads_what_it_lacks_from_kafka(aged, clock):
    """What came after the backup has offsets above every floor, for a floor is at least a month behind."""
    purge(aged)
    lacking = mild_again(aged, "lacking", clock.now)
    with aged.ledger.transaction() as tx:
        assert tx.unknown_records([lacking]) == [lacking]
    aged.intake.store([lacking])
    assert "lacking" in ids(aged)


def test_the_position_of_a_partition_is_known_though_all_its_rows_are_gone(aged):
    with aged.ledger.transaction() as tx:
        tx.keep_position("c", "ml.drift", 0, None, 0)
        tx.keep_position("c", "ml.drift", 1, None, 0)
    purge(aged)
    with aged.ledger.engine.begin() as db:
        db.execute(sa.text("UPDATE event SET record_id = NULL"))
        db.execute(sa.text("DELETE FROM record"))
    with aged.ledger.transaction() as tx:
        known = tx.positions("c", [("ml.drift", 0), ("ml.drift", 1)])
    assert [known["ml.drift", n].stored_until for n in (0, 1)] == [offset_of("old5") + 1, 0]


def test_an_event_published_again_after_its_row_is_gone_expires_and_starts_nothing(aged):
    purge(aged)
    data = DriftDetected(check="psi", severity=0.95, window_start=START - DAY, window_end=START)
    aged.publish(data, MODEL, START, "old0")
    assert aged.intake.tick() == []
    assert {row.event_id: row.fate for row in aged.events()}["old0"] == "expired"


def offset_of(name: str) -> int:
    """The crown publishes nothing, so that offsets are those of the events in their order."""
    return {"old5": 5}[name]


def mild_again(world: World, name: str, moment: datetime):
    """The record as it was, under the next offset, not yet stored."""
    stored = world.intake.store
    world.intake.store = lambda records: None
    try:
        return mild(world, moment, name)
    finally:
        world.intake.store = stored


class Killed(Exception):
    pass


class MortalLedger:
    """Dies at the end of its n-th transaction, before or after that is committed."""

    def __init__(self, ledger: SqlLedger, left: int, *, committed: bool) -> None:
        self.ledger, self.left, self.committed = ledger, left, committed

    @contextmanager
    def transaction(self):
        self.left -= 1
        with self.ledger.transaction() as tx:
            yield tx
            if self.left == 0 and not self.committed:
                raise Killed
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("left", range(1, 15))
def test_a_purge_that_is_killed_is_completed_by_the_next_and_counted_once(aged, monkeypatch, left, committed):
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    mortal = MortalLedger(aged.ledger, left, committed=committed)
    try:
        Housekeeping(mortal, RULES).purge("ann")
    except Killed:
        pass
    else:
        assert left > 10, "it ends after the eleventh transaction at the earliest"
    assert count(aged, "fate", "event_pk NOT IN (SELECT id FROM event)") == 0
    Housekeeping(aged.ledger, RULES).purge("ann")
    assert ids(aged) == {"new0", "new1"}
    with aged.ledger.transaction() as tx:
        (row,) = tx.removals(MODEL)
        assert (row.rows, row.removed_at is not None) == (6, True)
        log = [entry["action"] for entry in tx.audit_log(MODEL, action="retention")]
    assert log == ["retention.decided", "retention.removed"]


def test_the_sweep_removes_a_bounded_number_each_time_and_none_unless_told_to(aged):
    assert aged.sweeper.sweep(Runs(), {MODEL})["purged"] == 0
    assert len(aged.events()) == 8
    aged.sweeper._settings = replace(aged.settings, sweep_purges=4)
    for gone, left in ((4, 4), (2, 2), (0, 2)):
        assert aged.sweeper.sweep(Runs(), {MODEL})["purged"] == gone
        assert len(aged.events()) == left
    with aged.ledger.transaction() as tx:
        assert [entry["action"] for entry in tx.audit_log(MODEL, action="retention")] == [
            "retention.decided",
            "retention.removed",
        ], "one of each for the month, however many sweeps it took"


def letters(world: World, clock: Clock, key: bytes | None, offset: int) -> None:
    world.intake.store([replace(world.raw(b"{"), key=key, offset=offset)])


def test_dead_letters_with_a_models_name_follow_its_rule_and_others_the_deployments(world, clock):
    retain(world, dead_letters="90d")
    for offset, key in enumerate([MODEL.encode(), b"somebody", None]):
        letters(world, clock, key, 100 + offset)
    settle(world)
    at(world, clock, START + 80 * DAY)
    assert [(one.model, [(row.kind, row.rows) for row in one.rows]) for one in purge(world, apply=False)] == [
        (MODEL, []),
        (DEPLOYMENT, [("dead_letters", 2)]),
    ]
    purge(world)
    with world.ledger.transaction() as tx:
        assert [row.raw.key for row in tx.rejected_records()] == [MODEL.encode()]
    at(world, clock, START + 130 * DAY)
    purge(world)
    with world.ledger.transaction() as tx:
        assert tx.rejected_records() == []
    told = count(world, "outbox")
    letters(world, clock, None, 102)
    assert count(world, "outbox") == told, "delivered again, it is no second dead letter"


def test_of_other_rows_those_go_that_are_over(world, clock):
    with world.ledger.transaction() as tx:
        for passed in (True, False, None):
            tx.save_self_test(MODEL, {"reasons": []}, passed=passed)
        for kind, lasts in (("promoted", False), ("self_test", True)):
            tx.insert_notification(kind, "s", MODEL, clock.now, {"lasts": lasts}, [("mail", "first", ["a"], clock.now)])
        tx.enqueue("record", "told", {}, MODEL)
        tx.enqueue("record", "waits", {}, MODEL)
        tx.finish_outbox(tx.take_outbox("record", 1))
        sent = tx.take_post("mail")
        tx.finish_post(sent.id)
        assert sent.notification.kind == "promoted"
    world.publish(DriftCleared(check="psi", window_end=START), MODEL, START, "twice")
    world.publish(DriftCleared(check="psi", window_end=START), MODEL, START, "twice")
    at(world, clock, START + 200 * DAY)
    purge(world)
    assert count(world, "self_test") == 2, "the newest, and the newest that judged"
    assert count(world, "notification") == count(world, "notification_post") == 1
    assert count(world, "outbox", "dedupe = 'told'") == 0
    assert count(world, "outbox", "dedupe = 'waits'") == 1
    assert count(world, "record") == 1, "the second delivery of an id has a record that no event names"
    with world.ledger.transaction() as tx:
        assert {row.kind for row in tx.removals(DEPLOYMENT)} == {
            "dead_letters",
            "records",
            "outbox",
            "notices",
            "self_tests",
        }


def test_a_floor_waits_for_inserts_that_do_not_know_it(world, clock):
    """PostgreSQL: a delivery that was read before the floor was raised must not come in after the row has gone."""
    if world.ledger.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    (old,) = [mild(world, START, "old")]
    settle(world)
    retain(world, events="90d")
    at(world, clock, START + 200 * DAY)
    mild(world, clock.now, "new")
    settle(world)
    done = threading.Event()

    def run() -> None:
        Housekeeping(world.ledger, RULES).purge("ann")
        done.set()

    other = SqlLedger(POSTGRES)
    with other.transaction() as tx:
        inflight = replace(old, offset=old.offset + 50)
        assert set(tx.insert_records([NewRecord(inflight, "stored")])) == {0}
        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(1.0), "it waits for the insert at work"
    thread.join(10)
    assert done.is_set()
    other.dispose()
    assert ids(world) == {"new"}


def test_the_schema_goes_back_and_forth(ledger):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with ledger.engine.begin() as db:
        config.attributes["connection"] = db
        command.downgrade(config, "0021")
        assert "record_floor" not in sa.inspect(db).get_table_names()
        command.upgrade(config, "head")
    with ledger.transaction() as tx:
        assert tx.floors() == {}


def studies_of(world: World, storage: str, folder: Path) -> OptunaStudies:
    if storage == "journal":
        return OptunaStudies(f"journal://{folder}/studies")
    if world.ledger.engine.dialect.name == "sqlite":
        return OptunaStudies(f"sqlite:///{folder}/studies.db")
    with world.ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        db.execute(sa.text("DROP DATABASE IF EXISTS ratchet_year_studies WITH (FORCE)"))
        db.execute(sa.text("CREATE DATABASE ratchet_year_studies"))
    url = world.ledger.engine.url.set(database="ratchet_year_studies", drivername="postgresql")
    return OptunaStudies(url.render_as_string(hide_password=False))


def live(world: World, clock: Clock, day: int) -> int:
    """Three days of the year: twice told drift, an all-clear, dead letters, data; each week an attempt with a study."""
    moment = START + day * DAY
    at(world, clock, moment)
    mild(world, moment, f"mild{day}")
    mild(world, moment, f"mild{day}")
    world.publish(DriftCleared(check="psi", window_end=moment), MODEL, moment, f"clear{day}")
    for key in (MODEL.encode(), b"somebody"):
        world.intake.store([replace(world.raw(b"{"), key=key)])
    world.arrive(moment)
    with world.ledger.transaction() as tx:
        tx.save_self_test(MODEL, {"reasons": []}, passed=True)
        tx.insert_notification("promoted", f"m.{day}", MODEL, clock.now, {"lasts": False}, [])
    began = day % 7 < 3
    if began:
        attempt = world.claim(f"run{day}", "manual", reason="to see")["attempt"]
        world.store.put_bytes(f"snapshots/{attempt}/train.parquet", b"x" * 100)
        world.studies.run(
            attempt, space=SPACE, trials=1, worker=0, starts=[], seed=1, objective=lambda _, __: (1.0, {})
        )
        world.judge(attempt, "keep_champion", version=2 + day // 7)
    settle(world)
    return int(began)


@pytest.mark.parametrize("storage", ["rdb", "journal"])
def test_a_year_stays_bounded(world, clock, tmp_path, storage):
    """A year, month after month, with a purge after each: what has a rule is bounded from the fifth month on."""
    world.studies = studies_of(world, storage, tmp_path)
    retain(world, events="90d", dead_letters="30d", studies="60d", snapshots=3, versions=3)
    world.housekeeping = Housekeeping(world.ledger, RULES)
    months, attempts = [], 0
    for day in range(0, 396, 3):
        attempts += live(world, clock, day)
        if day % 30 == 27:
            purge(world)
            started = count(world, "event", "id IN (SELECT trigger_event_pk FROM attempt)")
            months.append(
                {name: count(world, name) for name in metadata.tables}
                | {"started": started, "unstarted": count(world, "event") - started, "attempts": attempts}
                | {"studies": len(world.studies.names()), "snapshots": len(world.store.sizes("snapshots"))}
            )
    longest = (90 + 31 + 30) // 3
    """Steps of three days whose rows may be there: the rule's, the rest of its month, and those since a purge."""
    bounds = {
        "unstarted": 4 * longest,
        "outbox": 8 * longest,
        "notification": longest,
        "self_test": longest,
        "studies": (60 + 30) // 7 + 1,
        "snapshots": 6,
        "touched": 1,
        "doorbell": 1,
        "lease": 1,
        "watermark": 2,
        "record_floor": 1,
        "pump": 0,
        "signature": 0,
    }
    for number, month in enumerate(months[4:], 5):
        own = {"record": 7 * longest + month["started"], "fate": 12 * longest + 4 * month["started"]}
        for name, most in (bounds | own).items():
            assert month[name] <= most, f"month {number}: {month[name]} rows of {name}, {most} at most"
    fifth, last = months[4], months[-1]
    assert len(months) == 13
    for name in ("unstarted", "outbox", "notification", "self_test"):
        assert last[name] <= fifth[name] * 1.25 + 4, f"{name} does not grow"
    assert last["attempt"] == last["started"] == last["attempts"] > fifth["attempt"], (
        "each with the event it began with"
    )
    for name in ("audit", "removal", "attempt"):
        assert last[name] > fifth[name], f"{name} is kept for ever"
    assert world.audit_log.verify().problems == ()
