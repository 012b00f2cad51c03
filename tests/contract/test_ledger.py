"""The ledger's rules, the same on SQLite and on PostgreSQL."""

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.grants import grant
from ratchet.adapters.ledger.revisions import MIGRATIONS
from ratchet.adapters.ledger.schema import metadata
from ratchet.domain.audit import audit_problems
from ratchet.domain.positions import Known
from ratchet.domain.snooze import Snooze
from ratchet.errors import ChampionMoved, Refused, StaleAttempt
from ratchet.ports.ledger import (
    OPEN_FATES,
    TERMINAL_FATES,
    ApprovalRequestRow,
    ApprovalRow,
    AttemptRow,
    ChampionRow,
    FateChange,
    MonitoredRow,
    NewEvent,
    NewRecord,
    ProbationDay,
    ProbationRow,
    PumpRow,
    ScoredDay,
    SeenWindow,
    UsedDays,
)
from ratchet.records import RawRecord

NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.stack),
        pytest.param("postgresql, by a role that owns nothing", marks=pytest.mark.stack),
    ]
)
def ledger(request, tmp_path):
    if request.param != "sqlite" and not POSTGRES:
        pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else POSTGRES)
    if request.param != "sqlite":
        with ledger.engine.begin() as db:
            metadata.drop_all(db)
            db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    ledger.migrate()
    if request.param.endswith("owns nothing"):
        ledger = as_component(ledger)
    with ledger.transaction() as tx:
        tx.publish_spec("m", "d" * 64, {"model": "m"})
    yield ledger
    ledger.dispose()


def as_component(owner: SqlLedger) -> SqlLedger:
    """The same ledger by the role that Ratchet's components may have."""
    with owner.engine.begin() as db:
        if not db.execute(sa.text("SELECT 1 FROM pg_roles WHERE rolname = 'components'")).scalar():
            db.execute(sa.text("CREATE ROLE components LOGIN PASSWORD 'of-the-tests'"))
        grant(db, "components")
    owner.dispose()
    url = owner.engine.url.set(username="components", password="of-the-tests")
    return SqlLedger(url.render_as_string(hide_password=False))


@contextmanager
def as_owner(ledger: SqlLedger):
    """What only the owner of the tables can do."""
    engine = ledger.engine if ledger.engine.dialect.name == "sqlite" else sa.create_engine(POSTGRES)
    with engine.begin() as db:
        yield db
    if engine is not ledger.engine:
        engine.dispose()


def record(offset: int) -> NewRecord:
    return NewRecord(RawRecord("c", "ml.drift", 0, offset, b"m", b"{}"), "stored")


def event(event_id: str, digest: str = "x", model: str = "m") -> NewEvent:
    return NewEvent("monitor", event_id, model, "ratchet.drift.detected.v1", NOW, digest, {"check": "psi"})


def attempt(epoch: int = 1, **values) -> AttemptRow:
    empty = dict.fromkeys(AttemptRow.__dataclass_fields__)
    return AttemptRow(
        **empty
        | {
            "id": f"m.{epoch}",
            "model": "m",
            "epoch": epoch,
            "state": "claimed",
            "dag_id": "retrain__m",
            "dag_run_id": f"run{epoch}",
            "trigger": "drift",
            "reason": "r",
            "options": {},
            "business_at": NOW,
            "as_of": NOW,
            "spec_digest": "d" * 64,
            "code_digest": "c" * 64,
            "champion_seq": 0,
            "created_at": NOW,
        }
        | values
    )


def champion(seq: int, version: int) -> ChampionRow:
    return ChampionRow("m", seq, version, None, "promotion", NOW, None, "r", None, NOW)


def test_a_redelivered_offset_gets_no_second_row(ledger):
    with ledger.transaction() as tx:
        assert set(tx.insert_records([record(0), record(1)])) == {0, 1}
    with ledger.transaction() as tx:
        assert set(tx.insert_records([record(1), record(2)])) == {1}


def test_a_known_event_is_absorbed_and_one_with_other_content_is_refused(ledger):
    with ledger.transaction() as tx:
        assert tx.insert_events([event("a")]) == []
        assert tx.insert_events([event("a")]) == []
        changed = event("a", digest="y")
        assert tx.insert_events([changed]) == [changed]
        assert len(tx.events(model="m")) == 1


def test_of_two_contents_under_one_id_in_one_batch_the_first_is_kept(ledger):
    with ledger.transaction() as tx:
        other = event("a", digest="y")
        assert tx.insert_events([event("a"), other, event("b"), event("b")]) == [other]
        assert [e.event_id for e in tx.events(model="m")] == ["a", "b"]


def test_a_record_with_one_refused_event_keeps_none(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event("a")])
        (pk,) = tx.insert_records([record(0)]).values()
        both = [replace(event("a", digest="y", model=model), record_id=pk) for model in ("m", "other")]
        assert tx.insert_events(both) == both[:1]
        assert tx.events(model="other") == []


def test_what_was_received_is_the_first_fate(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event("a")])
        row = tx.events(model="m")[0]
        (first,) = tx.fate_history(row.pk)
        assert (first["fate"], first["reason"], first["at"]) == ("pending", "received", row.received_at)
        assert tx.fate_history(row.pk + 1) == []


def test_bytes_and_headers_of_a_rejected_record_come_back_as_they_were(ledger):
    raw = RawRecord("c", "ml.drift", 0, 7, b"\x00key\xff", bytes(range(256)), (("ce_id", b"\xfe"),))
    with ledger.transaction() as tx:
        until = tx.wall()
        tx.insert_records([NewRecord(raw, "held", "unknown 'm' \\ %s :x", until)])
        (held,) = tx.held_records()
        assert (held.raw, held.held_until) == (raw, until)


def test_a_value_the_database_cannot_keep_is_refused(ledger):
    if ledger.engine.dialect.name == "sqlite":
        pytest.skip("SQLite keeps everything")
    with pytest.raises(Refused, match="cannot keep"), ledger.transaction() as tx:
        tx.insert_events([event("a\0b")])


def test_marking_waits_for_nobody_who_holds_the_model(ledger):
    if ledger.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    with ledger.transaction() as tx:
        tx.unmark("m")
    with ledger.transaction() as deciding:
        assert deciding.lock_model("m")
        deciding.unmark("m")
        with ledger.transaction() as storing:
            storing.mark(["m"])
    with ledger.transaction() as tx:
        assert tx.lock_model_to_decide(NOW) == "m"


def test_models_to_decide_come_one_by_one_in_order(ledger):
    with ledger.transaction() as tx:
        for name in ("z", "a"):
            tx.publish_spec(name, name * 64, {"model": name})
        assert tx.lock_model_to_decide(NOW) == "a"
        assert tx.lock_model_to_decide(NOW, skip=["a"]) == "m"
        assert tx.lock_model_to_decide(NOW, after="a") == "m"
        assert tx.lock_model_to_decide(NOW, after="a", skip=["m"]) == "z"
        assert tx.lock_model_to_decide(NOW, after="m", skip=["z"]) is None
        assert tx.lock_model_to_decide(NOW, skip=["a", "m", "z"]) is None


def test_a_storm_on_a_nearly_empty_ledger_reads_no_table_once_for_each_row(ledger):
    """A session keeps the plan of a foreign key's check, and of a table with ten rows the best plan is to read it."""
    if ledger.engine.dialect.name == "sqlite":
        pytest.skip("SQLite checks keys by index")
    owner = sa.create_engine(POSTGRES)
    for start in (*range(20), *range(1_000, 4_000, 1_000)):
        if start == 10:
            with owner.begin() as db:
                db.execute(sa.text("ANALYZE record, event"))  # as the server does by itself, now and then
        offsets = range(start, start + (1 if start < 1_000 else 1_000))
        with ledger.transaction() as tx:
            pks = tx.insert_records([record(offset) for offset in offsets])
            tx.insert_events([replace(event(f"e{offsets[n]}"), record_id=pk) for n, pk in pks.items()])
        with ledger.transaction() as tx:
            tx.change_fates([FateChange(each.pk, "suppressed", "mild") for each in tx.events(fates=["pending"])])
    with ledger.engine.connect() as db:
        db.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        db.commit()
        query = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname IN ('record', 'event')"
        read = [scans for _, scans in db.execute(sa.text(query))]
    owner.dispose()
    assert max(read) < 1_000


def test_a_pump_is_seen_by_its_latest_beat(ledger):
    with ledger.transaction() as tx:
        deployed = tx.intake_seen_at()
        row = PumpRow("host:1", "g", NOW, {"ml.drift/0": 3})
        tx.beat(row)
        tx.beat(replace(row, stored=5, alarm="lost"))
        (kept,) = tx.pumps()
        assert (kept.lag, kept.stored, kept.alarm) == ({"ml.drift/0": 3}, 5, "lost")
        assert tx.intake_seen_at() == kept.beat_at > deployed


def test_a_partition_is_known_by_its_topic_and_by_what_is_stored_of_this_incarnation(ledger):
    spot = ("ml.drift", 0)
    with ledger.transaction() as tx:
        assert tx.positions("c", [spot]) == {}
        tx.keep_position("c", *spot, "id1", 0)
        tx.insert_records([record(0), record(4)])
        assert tx.positions("c", [spot]) == {spot: Known("id1", 0, 5)}
        tx.keep_position("c", *spot, "id2", 1)
        assert tx.positions("c", [spot]) == {spot: Known("id2", 1, 0)}


def test_migrated_tables_are_the_schema(ledger):
    with ledger.engine.connect() as db:
        found = sa.inspect(db)
        for table in metadata.tables.values():
            assert {c["name"] for c in found.get_columns(table.name)} == set(table.columns.keys()), table.name
            assert {i["name"] for i in found.get_indexes(table.name) if not i.get("duplicates_constraint")} == {
                index.name for index in table.indexes
            }, table.name


def test_nothing_of_a_failed_transaction_is_kept(ledger):
    def half_way() -> None:
        with ledger.transaction() as tx:
            tx.insert_events([event("a")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_way()
    with ledger.transaction() as tx:
        assert tx.events(model="m") == []


def test_a_fate_change_keeps_its_history_and_an_equal_one_leaves_no_trace(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event("a")])
        pk = tx.events(model="m")[0].pk
        change = FateChange(pk, "deferred", "cooldown", NOW + timedelta(hours=6))
        tx.change_fates([change])
        tx.change_fates([change])
        assert [f["fate"] for f in tx.fate_history(pk)] == ["pending", "deferred"]
        now = tx.events(model="m")[0]
        assert (now.fate, now.until) == ("deferred", NOW + timedelta(hours=6))


def test_many_fates_are_changed_at_once_and_only_those_that_differ(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event(f"e{number}") for number in range(300)])
        pks = [row.pk for row in tx.events(model="m")]
        later = NOW + timedelta(hours=6)
        tx.change_fates([FateChange(pk, "deferred", "it's: {cooldown} :x", later) for pk in pks[:200]])
        tx.change_fates(
            [FateChange(pk, "deferred", "it's: {cooldown} :x", later) for pk in pks[:150]]
            + [FateChange(pk, "pending", "again", count_try=True) for pk in pks[150:]]
        )
        assert [len(tx.fate_history(pk)) for pk in (pks[0], pks[150], pks[200])] == [2, 3, 2]
        kept, again, new = (next(row for row in tx.events(model="m") if row.pk == pks[n]) for n in (0, 150, 200))
        assert (kept.fate, kept.reason, kept.until, kept.tries) == ("deferred", "it's: {cooldown} :x", later, 0)
        assert (again.fate, again.until, again.tries, new.tries) == ("pending", None, 1, 1)
        tx.change_fates([])


def test_suppressed_windows_are_told_once_with_the_highest_severity(ledger):
    drift, clear = "ratchet.drift.detected.v1", "ratchet.drift.cleared.v1"
    said = [
        (drift, {"check": "psi", "severity": 0.1, "window_end": "2013-04-01T00:00:00Z"}),
        (drift, {"check": "psi", "severity": 0.2, "window_end": "2013-04-01T00:00:00Z"}),
        (clear, {"check": "psi", "window_end": "2013-04-02T00:00:00+00:00"}),
        (drift, {"check": "open", "severity": 0.9, "window_end": "2013-04-01T00:00:00Z"}),
    ]
    with ledger.transaction() as tx:
        tx.insert_events([NewEvent("mon", f"e{n}", "m", kind, NOW, "x", data) for n, (kind, data) in enumerate(said)])
        tx.change_fates([FateChange(r.pk, "suppressed", "mild") for r in tx.events() if r.data["check"] == "psi"])
        windows = sorted(tx.suppressed_windows("m"), key=lambda window: window.window_end)
    assert windows == [
        SeenWindow("psi", datetime(2013, 4, 1, tzinfo=UTC), 0.2),
        SeenWindow("psi", datetime(2013, 4, 2, tzinfo=UTC), None),
    ]


def test_models_are_locked_for_decision_one_at_a_time_in_order_and_those_to_skip_are(ledger):
    with ledger.transaction() as tx:
        tx.publish_spec("k", "e" * 64, {"model": "k"})
        assert tx.lock_model_to_decide(NOW) == "k"
        tx.unmark("k")
        assert tx.lock_model_to_decide(NOW) == "m"
        assert tx.lock_model_to_decide(NOW, skip={"m"}) is None
        tx.unmark("m")
        tx.insert_events([event("a")])
        tx.change_fates([FateChange(tx.events()[0].pk, "deferred", "cooldown", NOW + timedelta(hours=6))])
        assert tx.lock_model_to_decide(NOW) is None
        assert tx.lock_model_to_decide(NOW + timedelta(hours=6)) == "m"


def test_a_held_model_is_not_rung_until_it_is_let_go_and_a_new_debt_is_not_held(ledger):
    with ledger.transaction() as tx:
        tx.set_due("m", tx.wall(), "go", since=NOW, incident="feed")
        tx.hold("m", "fleet: full")
        assert tx.due_models(60, 900) == []
        assert not tx.ring("m", 60, 900)
        (row,) = tx.due_rows()
        assert (row.model, row.since, row.incident, row.rings, row.held) == ("m", NOW, "feed", 0, "fleet: full")
        tx.hold("m", None)
        assert tx.due_models(60, 900) == ["m"]
        tx.hold("m", "fleet: full")
        tx.set_due("m", None, None)
        assert tx.due_rows() == []
        tx.set_due("m", tx.wall(), "go")
        assert tx.due_models(60, 900) == ["m"]


def test_claims_at_once_never_exceed_the_fleet(ledger):
    """Each of eight threads counts under the fleet's lock and starts an attempt if there is a place among three."""
    names = [f"m{number}" for number in range(8)]
    with ledger.transaction() as tx:
        for name in names:
            tx.publish_spec(name, "d" * 64, {"model": "m"})
    barrier = threading.Barrier(len(names))

    def claim(name: str) -> None:
        barrier.wait()
        with ledger.transaction() as tx:
            tx.lock_lease(name)
            tx.lock_fleet()
            if len(tx.attempts(states=("claimed",))) < 3:
                tx.start_attempt(attempt(1, id=f"{name}.1", model=name), 45)

    threads = [threading.Thread(target=claim, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.transaction() as tx:
        assert len(tx.attempts(states=("claimed",))) == 3


def test_hours_are_those_of_the_steps_of_attempts_since(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1, business_at=NOW - timedelta(days=1)), 45)
        tx.save_step("m.1", "snapshot", {}, tx.wall() - timedelta(hours=5))
        tx.start_attempt(attempt(2), 45)
        tx.save_step("m.2", "snapshot", {}, tx.wall() - timedelta(hours=2))
        ((attempt_id, hours),) = tx.step_hours("m", NOW)
        seconds = tx.step_seconds(["m.1", "m.2", "m.3"])
        assert tx.step_seconds([]) == {}
    assert attempt_id == "m.2"
    assert hours == pytest.approx(2, abs=0.01)
    assert seconds == {
        "m.1": {"snapshot": pytest.approx(5 * 3600, abs=36)},
        "m.2": {"snapshot": pytest.approx(2 * 3600, abs=36)},
    }


def test_a_removal_is_decided_once_and_finished_once(ledger):
    with ledger.transaction() as tx:
        tx.decide_removals("m", [("version", "1", "retention.versions: 2"), ("study", "m.1", "retention.studies: 1d")])
    with ledger.transaction() as tx:
        tx.decide_removals("m", [("version", "1", "another rule")])
        tx.finish_removal("m", "version", "1", 12)
    with ledger.transaction() as tx:
        tx.finish_removal("m", "version", "1", 0)
        row = tx.removal("m", "version", "1")
        assert (row.why, row.bytes, row.removed_at is not None) == ("retention.versions: 2", 12, True)
        assert tx.removal("m", "snapshot", "1") is None
        assert [(each.kind, each.removed_at is None) for each in tx.removals("m")] == [
            ("study", True),
            ("version", False),
        ]
        assert tx.removals("other") == []


def test_a_watermark_never_moves_back(ledger):
    with ledger.transaction() as tx:
        tx.advance_watermark("flights", NOW, 1.0)
        tx.advance_watermark("flights", NOW - timedelta(days=1), 0.5)
        assert tx.watermarks()["flights"].complete_until == NOW
        assert tx.watermarks()["flights"].label_completeness == 1.0


def test_the_replayed_clock_never_moves_back(ledger):
    with ledger.transaction() as tx:
        tx.set_clock("replay", NOW)
        tx.set_clock("replay", NOW - timedelta(days=1))
        assert tx.clock() == ("replay", NOW)


def test_one_of_many_wins_the_doorbell(ledger):
    with ledger.transaction() as tx:
        tx.set_due("m", tx.wall(), "go")
    won = []
    threads = [threading.Thread(target=lambda: won.append(_ring(ledger))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False, False, False, True]


def _ring(ledger) -> bool:
    with ledger.transaction() as tx:
        return tx.ring("m", 60, 900)


def test_a_model_at_work_is_not_rung(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(), 45)
        tx.set_due("m", tx.wall(), "go")
        assert tx.due_models(60, 900) == []
        assert not tx.ring("m", 60, 900)


def test_a_stale_epoch_can_write_nothing(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1), 45)
        assert tx.own_lease("m.1").epoch == 1
        tx.release_lease("m.1")
        tx.start_attempt(attempt(2), 45)
        for write in (lambda: tx.own_lease("m.1"), lambda: tx.renew_lease("m.1", 45)):
            with pytest.raises(StaleAttempt):
                write()


def test_the_first_answer_of_a_step_stands(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(), 45)
        tx.save_step("m.1", "snapshot", {"rows": 1}, NOW)
        tx.save_step("m.1", "snapshot", {"rows": 2}, NOW)
        assert tx.step_result("m.1", "snapshot") == {"rows": 1}


def test_days_that_made_or_judged_the_champion_are_used_and_others_are_not(ledger):
    with ledger.transaction() as tx:
        made, against, other = attempt(1), attempt(2, champion_version=7), attempt(3, champion_version=6)
        for each in (made, against, other):
            tx.start_attempt(each, 45)
        tx.save_used_days(
            made, 7, [UsedDays("fit", {date(2013, 1, 1): 10}), UsedDays("holdout", {date(2013, 2, 1): 10})]
        )
        tx.save_used_days(
            against, 8, [UsedDays("fit", {date(2013, 3, 1): 10}), UsedDays("holdout", {date(2013, 4, 1): 10})]
        )
        tx.save_used_days(other, 9, [UsedDays("holdout", {date(2013, 5, 1): 10})])
        assert tx.used_days("m", 7) == {date(2013, 1, 1), date(2013, 2, 1), date(2013, 4, 1)}


@pytest.mark.parametrize("role", ["fit", "calibrate", "threshold", "holdout"])
def test_days_of_every_role_that_made_the_champion_are_used(ledger, role):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1), 45)
        tx.save_used_days(attempt(1), 7, [UsedDays(role, {date(2013, 1, 1): 10})])
        assert tx.used_days("m", 7) == {date(2013, 1, 1)}


@pytest.mark.parametrize("role", ["holdout", "probation"])
def test_days_that_compared_a_champion_with_another_model_are_used_for_both(ledger, role):
    with ledger.transaction() as tx:
        tried = attempt(1, champion_version=7)
        tx.start_attempt(tried, 45)
        tx.save_used_days(tried, 8, [UsedDays(role, {date(2013, 4, 1): 10})])
        assert tx.used_days("m", 7) == tx.used_days("m", 8) == {date(2013, 4, 1)}
        assert tx.used_days("m", 9) == set()


def test_days_on_which_a_first_champion_failed_are_used_for_the_next_try(ledger):
    with ledger.transaction() as tx:
        first = attempt(1, champion_version=None)
        tx.start_attempt(first, 45)
        tx.save_used_days(
            first, 1, [UsedDays("fit", {date(2013, 1, 1): 10}), UsedDays("holdout", {date(2013, 4, 1): 10})]
        )
        assert tx.used_days("m", None) == {date(2013, 4, 1)}


def test_the_digest_of_a_refit_is_known_beside_that_of_what_was_judged(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1, challenger_version=7, model_digest="a" * 64), 45)
        assert tx.attempt("m.1").candidate_version == 7
        tx.update_attempt("m.1", deployed_version=8, deployed_digest="b" * 64)
        assert [tx.version_digest("m", version) for version in (7, 8, 9)] == ["a" * 64, "b" * 64, None]
        refitted = tx.attempt("m.1")
        assert (refitted.candidate_version, refitted.candidate_digest) == (8, "b" * 64)


def test_two_promotions_over_one_champion_cannot_both_win(ledger):
    with ledger.transaction() as tx:
        tx.insert_champion(champion(1, 1))
    with pytest.raises(ChampionMoved), ledger.transaction() as tx:
        tx.insert_champion(champion(1, 2))
    with ledger.transaction() as tx:
        assert tx.current_champion("m").version == 1
        tx.insert_champion(champion(2, 3))
        assert [c.version for c in tx.champions("m")] == [1, 3]


def test_what_is_told_twice_is_queued_once_and_a_failed_telling_waits_behind_the_others(ledger):
    with ledger.transaction() as tx:
        for dedupe, number in (("a", 1), ("a", 2), ("b", 3), ("c", 4)):
            tx.enqueue("record", dedupe, {"n": number})
        pks = tx.take_outbox("record", 10)
        assert [row.payload["n"] for row in tx.read_outbox(pks)] == [1, 3, 4]
        tx.finish_outbox(pks[:1], "broker away")
        assert tx.take_outbox("record", 10) == pks[1:]
        tx.finish_outbox(pks[1:])
        assert tx.take_outbox("record", 10) == pks[:1]
        assert tx.take_outbox("record", 10, most_tries=1) == []
        assert tx.take_outbox("alias", 10) == []


def test_rows_that_failed_as_often_are_taken_together_and_never_with_fresh_ones(ledger):
    with ledger.transaction() as tx:
        for dedupe in "abcd":
            tx.enqueue("record", dedupe, {})
        a, b, c, d = tx.take_outbox("record", 10)
        tx.finish_outbox([b, d], "too large")
        assert tx.take_outbox("record", 1) == [a]
        assert tx.take_outbox("record", 10) == [a, c]
        tx.finish_outbox([a, c])
        assert tx.take_outbox("record", 10) == [b, d]


def with_fate(tx, event_id: str, fate: str, **values) -> int:
    tx.insert_events([event(event_id)])
    pk = next(row.pk for row in tx.events(model="m") if row.event_id == event_id)
    tx.change_fates([FateChange(pk, fate, "r", **values)])
    return pk


def test_terminal_fates_are_to_be_told_and_open_ones_are_not(ledger):
    with ledger.transaction() as tx:
        for fate in OPEN_FATES:
            with_fate(tx, fate, fate)
        for fate in TERMINAL_FATES:
            with_fate(tx, fate, fate, attempt_id="m.1")
        rows = tx.take_resolutions(100)
        assert [row.fate for row in rows] == list(TERMINAL_FATES)
        assert [row.at for row in rows] == [tx.fate_history(row.pk)[-1]["at"] for row in rows]
        assert {(row.source, row.model, row.attempt_id, row.reopened_at) for row in rows} == {
            ("monitor", "m", "m.1", None)
        }
        tx.finish_resolutions([row.pk for row in rows[:2]])
        assert tx.take_resolutions(1) == rows[2:3]
        tx.finish_resolutions([row.pk for row in rows[2:]])
        assert tx.take_resolutions(100) == []


def test_a_reopened_event_starts_afresh_and_is_to_be_told_again(ledger):
    with ledger.transaction() as tx:
        pk = with_fate(tx, "a", "failed", attempt_id="m.1", count_try=True)
        tx.finish_resolutions([pk])
        ended = tx.wall() - timedelta(minutes=1)
        assert [row.pk for row in tx.reopenable(["m"], ["failed"], ended)] == [pk]
        assert tx.reopenable(["m"], ["expired"], ended) == []
        assert tx.reopenable(["n"], ["failed"], ended) == []
        assert tx.reopenable(["m"], ["failed"], tx.wall() + timedelta(minutes=1)) == []
        tx.reopen([pk], "replayed")
        now = tx.events(model="m")[0]
        assert (now.fate, now.reason, now.attempt_id, now.tries) == ("pending", "replayed", None, 0)
        assert tx.fate_history(pk)[-1]["reason"] == "replayed"
        tx.change_fates([FateChange(pk, "failed", "r")])
        assert tx.reopenable(["m"], ["failed"], ended) == []
        (again,) = tx.take_resolutions(10)
        assert again.reopened_at is not None


def test_the_history_of_fates_is_read_on_from_any_place_with_what_was_missing(ledger):
    with ledger.transaction() as tx:
        assert tx.last_fate() == 0
        with_fate(tx, "a", "deferred")
        with_fate(tx, "b", "expired")
        with_fate(tx, "c", "suppressed")
        entries = tx.fates_after(0, (), 10)
        assert [(e.event_id, e.fate) for e in entries] == [
            ("a", "deferred"),
            ("b", "expired"),
            ("c", "suppressed"),
        ]
        pks = [entry.pk for entry in entries]
        assert tx.last_fate() == pks[-1]
        assert tx.fates_after(pks[1], (), 10) == entries[2:]
        assert tx.fates_after(pks[1], {pks[0]}, 10) == [entries[0], entries[2]]
        assert tx.fates_after(pks[-1], (), 10) == []


def test_an_event_knows_its_record_and_dead_letters_are_found_with_their_bytes(ledger):
    raw = RawRecord("c", "ml.drift", 0, 9, b"k", b"{bad", (("h", b"1"),))
    with ledger.transaction() as tx:
        ids = tx.insert_records([record(8), NewRecord(raw, "rejected", "not_json: 50% is_bad")])
        tx.insert_events([replace(event("a"), record_id=ids[0]), event("b")])
        first, second = tx.events(model="m")
        assert tx.record_of(first.pk).raw.offset == 8
        assert tx.record_of(second.pk) is None
        (letter,) = tx.rejected_records()
        assert letter.raw == raw
        assert tx.rejected_records(spot=("ml.drift", 0, 9), after=0) == [letter]
        assert tx.rejected_records(spot=("ml.drift", 0, 8), after=0) == []
        assert tx.rejected_records(after=letter.pk) == []
        assert tx.rejected_records(reason_contains="50% IS_") == [letter]
        assert tx.rejected_records(reason_contains="0_") == []
        assert tx.unknown_records([raw, replace(raw, offset=10), replace(raw, topic="t")]) == [
            replace(raw, offset=10),
            replace(raw, topic="t"),
        ]


def test_events_are_found_by_each_filter(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event("a"), replace(event("b"), source="s", time=NOW + timedelta(hours=1))])
        for found in (
            tx.events(source="s"),
            tx.events(event_id="b"),
            tx.events(since=NOW + timedelta(minutes=1)),
            tx.events(reason_contains="RECEIVED", source="s"),
        ):
            assert [row.event_id for row in found] == ["b"]
        assert [row.event_id for row in tx.events(until=NOW + timedelta(hours=1))] == ["a"]
        assert tx.events(reason_contains="r%d") == []


def test_a_retired_model_is_left_alone_by_deployments_until_it_is_revived(ledger):
    with ledger.transaction() as tx:
        tx.retire("m")
        assert not tx.publish_spec("m", "d" * 64, {"model": "m"})
        assert not tx.publish_spec("m", "e" * 64, {"model": "m"})
        assert tx.specs()[0].retired
        assert tx.publish_spec("m", "d" * 64, {"model": "m"}, revive=True)
        assert not tx.specs()[0].retired


def test_the_audit_log_is_a_chain_whatever_its_details_hold(ledger):
    hostile = {
        "tuple": (1, 2.0),
        3: "ü\u2028",
        "large": 1e20,
        "tiny": 1e-300,
        "none": None,
        "nested": {"z": 1, "a": []},
    }
    with ledger.transaction() as tx:
        tx.audit("ann", "clock.set", None, {"mode": "replay"})
        tx.audit("bob", "champion.rolledback", "m", hostile)
    with ledger.transaction() as tx:
        assert audit_problems(tx.audit_chain(), [tx.audit_head(), tx.audit_count()]) == []
        assert [entry.seq for entry in tx.audit_chain()] == [1, 2]
        assert tx.audit_hash(2) == tx.audit_head().hash == tx.audit_count().hash


def test_the_audit_log_is_found_by_each_filter(ledger):
    with ledger.transaction() as tx:
        tx.audit("ann", "champion.promoted", "m", {})
        tx.audit("bob", "champion.rolledback", "n", {})
        tx.audit("bob", "championship", None, {})
        now = tx.wall()

        def found(**filters):
            return [entry["seq"] for entry in tx.audit_log(**filters)]

        assert found(model="m") == [1]
        assert found(actor="bob") == found(limit=2) == [2, 3]
        assert found(action="champion") == [1, 2]
        assert found(action="champion.promoted") == [1]
        assert found(since=now) == []
        assert found(since=now - timedelta(minutes=5)) == [1, 2, 3]


@pytest.mark.parametrize("act", ["UPDATE {} SET model = 'x'", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
@pytest.mark.parametrize("table", ["audit", "champion"])
def test_the_database_refuses_to_change_what_is_append_only(ledger, table, act):
    if ledger.engine.dialect.name == "sqlite" and act.startswith("TRUNCATE"):
        pytest.skip("SQLite knows no TRUNCATE")
    with ledger.transaction() as tx:
        tx.audit("ann", "clock.set", "m", {})
        tx.insert_champion(champion(1, 1))
    with pytest.raises(sa.exc.DBAPIError, match=r"append-only|permission denied"), ledger.engine.begin() as db:
        db.execute(sa.text(act.format(table)))
    with ledger.transaction() as tx:
        assert (tx.current_champion("m").version, tx.audit_log()[0]["model"]) == (1, "m")


@pytest.mark.parametrize("act", ["UPDATE audit_head SET seq = 1", "DELETE FROM audit_head"])
def test_the_count_of_the_audit_log_does_not_go_back(ledger, act):
    with ledger.transaction() as tx:
        tx.audit("ann", "a", None, {})
        tx.audit("ann", "b", None, {})
    with pytest.raises(sa.exc.DBAPIError, match=r"forward|append-only|permission denied"), ledger.engine.begin() as db:
        db.execute(sa.text(act))


def unguard(ledger, *tables):
    """Take the triggers away, as somebody with the rights of the owner can."""
    with as_owner(ledger) as db:
        if ledger.engine.dialect.name == "postgresql":
            for table in tables:
                db.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
            return
        names = db.execute(sa.text("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'")).all()
        for name, table in names:
            if table in tables:
                db.execute(sa.text(f"DROP TRIGGER {name}"))


def test_what_was_cut_off_the_end_of_the_audit_log_stays_a_gap(ledger):
    with ledger.transaction() as tx:
        for number in range(3):
            tx.audit("ann", f"act{number}", None, {})
    unguard(ledger, "audit")
    with as_owner(ledger) as db:
        db.execute(sa.text("DELETE FROM audit WHERE seq = 3"))
    with ledger.transaction() as tx:
        (cut,) = audit_problems(tx.audit_chain(), [tx.audit_count()])
        assert "audit entry 3, which the ledger's count names, is missing" in cut
        tx.audit("ann", "later", None, {})
        assert audit_problems(tx.audit_chain(), [tx.audit_count()]) == ["audit entry 3 was removed"]


def test_a_migration_counts_a_log_that_is_there_already(ledger):
    if ledger.engine.dialect.name != "sqlite":
        pytest.skip("one database is enough")
    with ledger.transaction() as tx:
        tx.audit("ann", "a", None, {})
        tx.audit("ann", "b", None, {})
        head = tx.audit_head()
    unguard(ledger, "audit_head")
    with ledger.engine.begin() as db:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = db
        command.downgrade(config, "0005")
        command.upgrade(config, "head")
    with ledger.transaction() as tx:
        assert (tx.audit_count().seq, tx.audit_count().hash) == (head.seq, head.hash)


def test_a_bell_that_was_forgotten_may_ring_at_once_and_the_model_stays_due(ledger):
    with ledger.transaction() as tx:
        tx.set_due("m", tx.wall(), "admitted")
        assert tx.ring("m", 60, 900)
        assert not tx.ring("m", 60, 900)
        tx.unring("m")
        assert tx.ring("m", 60, 900)


def test_news_of_a_champion_are_taken_once_and_left_to_their_own_task_until_they_are_overdue(ledger):
    with ledger.transaction() as tx:
        tx.enqueue("champion", "champion:m:1", {"seq": 1}, "m")
        tx.enqueue("champion", "champion:n:1", {"seq": 1}, "n")
        tx.enqueue("record", "decision:1", {}, "m")
    with ledger.transaction() as tx:
        assert tx.take_announcements(overdue_seconds=60) == []
        assert tx.take_announcements(model="m") == ["m"]
        assert tx.take_announcements(model="m") == []
        assert tx.take_announcements() == ["n"]


def test_the_attempt_is_answered_as_it_is_under_its_lease(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1), 45)
        tx.update_attempt("m.1", state="snapshotted")
        assert tx.own_lease("m.1").state == "snapshotted"


def watch_over(tx, seq: int = 2, **values) -> ProbationRow:
    for each in range(1, seq + 1):
        current = tx.current_champion("m")
        if (current.seq if current else 0) < each:
            tx.insert_champion(ChampionRow("m", each, each, None, "promotion", NOW, None, "r", None, NOW))
    row = ProbationRow(
        model="m",
        seq=seq,
        version=seq,
        predecessor_seq=seq - 1,
        predecessor_version=seq - 1,
        spec_digest="d" * 64,
        first_day=date(2013, 4, 2),
        last_day=date(2013, 4, 29),
        since=NOW,
        until=NOW + timedelta(days=30),
        state="watching",
        reason="r",
        plan={},
        record={},
        opened_at=tx.wall(),
    )
    tx.insert_probation(replace(row, **values))
    return row


def test_a_watch_is_open_until_it_ends_and_the_newest_comes_first(ledger):
    with ledger.transaction() as tx:
        opened = watch_over(tx)
        assert tx.open_probation("m") == opened
        tx.update_probation("m", 2, state="confirmed", record={"estimate": 0.5})
        assert tx.open_probation("m") is None
        watch_over(tx, 3)
        assert [row.seq for row in tx.probations(model="m")] == [3, 2]
        assert [row.record for row in tx.probations(states=("confirmed",))] == [{"estimate": 0.5}]
        assert tx.probations(model="other") == []


def test_a_day_of_a_watch_is_scored_once_and_a_day_that_is_no_number_is_kept(ledger):
    with ledger.transaction() as tx:
        watch_over(tx)
        first, second = ProbationDay(date(2013, 4, 2), 40, 12.5), ProbationDay(date(2013, 4, 3), 41, None)
        tx.save_probation_days("m", 2, [second])
        tx.save_probation_days("m", 2, [replace(second, total=9.0), first])
        tx.save_probation_days("m", 2, [])
        assert tx.probation_days("m", 2) == [first, second]
        assert tx.watched_until("m") == {2: second.day}
        assert tx.watched_until("other") == {}
        assert tx.probation_days("m", 3) == []


def test_one_of_many_wins_the_ring_of_a_watch_and_nobody_rings_one_that_has_ended(ledger):
    with ledger.transaction() as tx:
        watch_over(tx)
    won = []

    def ring() -> None:
        with ledger.transaction() as tx:
            won.append(tx.ring_probation("m", 2, 600))

    threads = [threading.Thread(target=ring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    with ledger.transaction() as tx:
        assert tx.ring_probation("m", 2, -1)
        tx.update_probation("m", 2, state="unproven")
        assert not tx.ring_probation("m", 2, -1)


def test_what_verdicts_measured_comes_newest_first_and_only_of_those_that_compared_something(ledger):
    sides = {"champion": {"value": 7.0, "lower": 6.0, "upper": None}, "challenger": None}
    with ledger.transaction() as tx:
        for epoch in (1, 2, 3, 4):
            tx.start_attempt(attempt(epoch), 60)
            tx.release_lease(f"m.{epoch}")
        record = {"estimate": 0.5, "lower": -1.5, "upper": None}
        verdict = {"verdict": "promote", "verdict_record": record, "challenger_version": 2}
        tx.update_attempt("m.1", **verdict, champion_version=1)
        tx.update_attempt("m.2", **verdict, deployed_version=3)
        tx.update_attempt("m.3", verdict="keep_champion", verdict_record={})
        tx.save_step("m.1", "evaluate", {"payoff": sides, "used_days": {"holdout": {"2013-03-01": 40}}}, NOW)
        tx.save_step("m.2", "evaluate", {"used_days": {"holdout": {"2013-04-01": 30}}}, NOW)
        tx.save_step("m.3", "evaluate", {"payoff": {}, "used_days": {}}, NOW)
        newest, first = tx.judged("m", 10)
        assert (newest.attempt_id, newest.champion_version, newest.version) == ("m.2", None, 3)
        assert (newest.payoff, newest.rows_by_day) == ({}, {"2013-04-01": 30})
        assert (first.attempt_id, first.champion_version, first.version) == ("m.1", 1, 2)
        assert (first.uplift, first.payoff, first.rows_by_day) == (record, sides, {"2013-03-01": 40})
        assert tx.judged("m", 2) == [newest]
        assert tx.judged("other", 10) == []


def window(state: str = "done", days: int = 0, **values) -> MonitoredRow:
    return MonitoredRow("m", NOW + timedelta(days=days), state, "d" * 64, **values)


def test_a_window_is_monitored_once_and_the_newest_comes_first(ledger):
    with ledger.transaction() as tx:
        assert tx.save_monitored(window(found={"features": "cleared"}, version=2))
        assert not tx.save_monitored(window(found={"features": "drifted"}, version=3))
        assert tx.save_monitored(window(days=7))
        newest, first = tx.monitored("m")
        assert (newest.window_end, first.window_end) == (NOW + timedelta(days=7), NOW)
        assert (first.found, first.version) == ({"features": "cleared"}, 2)
        assert first.done_at is not None
        assert tx.monitored("m", window_end=NOW) == [first]
        assert tx.monitored(limit=1) == [newest]
        assert tx.monitored("other") == []


def test_of_many_models_the_last_window_is_known_that_was_looked_at_and_believed(ledger):
    with ledger.transaction() as tx:
        tx.save_monitored(window())
        tx.save_monitored(window("broken", days=7))
        assert tx.looked_until(["m", "other"]) == {"m": NOW}
        tx.save_monitored(window(days=7))
        assert tx.looked_until(["m", "other"]) == {"m": NOW + timedelta(days=7)}
        assert tx.looked_until([]) == {}


def test_a_broken_window_is_monitored_again(ledger):
    with ledger.transaction() as tx:
        assert tx.save_monitored(window("broken"))
        assert tx.save_monitored(window("broken"))
        assert tx.save_monitored(window("done"))
        assert not tx.save_monitored(window("broken"))


def test_the_mark_of_monitors_changes_with_a_watermark_and_with_a_champion_only(ledger):
    with ledger.transaction() as tx:
        before = tx.monitor_mark()
        assert tx.save_monitored(window())
        tx.mark(["m"])
        assert tx.monitor_mark() == before
        tx.advance_watermark("flights", NOW, None)
        moved = tx.monitor_mark()
        tx.insert_champion(champion(1, 1))
        marks = [before, moved, tx.monitor_mark()]
    assert len(set(marks)) == 3


def test_one_of_many_wins_the_ring_of_a_window_and_nobody_rings_for_one_that_was_monitored(ledger):
    won = []

    def ring() -> None:
        with ledger.transaction() as tx:
            won.append(tx.ring_monitor("m", NOW, "d" * 64, 600))

    threads = [threading.Thread(target=ring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    with ledger.transaction() as tx:
        assert tx.ring_monitor("m", NOW, "d" * 64, -1)
        assert tx.save_monitored(window())
        assert not tx.ring_monitor("m", NOW, "d" * 64, -1)
        (kept,) = tx.monitored("m")
        assert (kept.state, kept.rung_at is not None) == ("done", True)


def scored(day: int, role: str = "champion", **values) -> ScoredDay:
    row = ScoredDay("m", date(2013, 4, day), role, 1, "m.1", "run", NOW, 40, 7, f"predictions/m/{day}", "s" * 64)
    return replace(row, **values)


def test_a_day_is_scored_once_in_each_role_and_the_first_to_do_so_stands(ledger):
    with ledger.transaction() as tx:
        assert tx.save_scored_day(scored(3))
        assert tx.save_scored_day(scored(2, acted=None, key=None, sha256=None, rows=0))
        assert not tx.save_scored_day(scored(3, version=2, run="another"))
        assert tx.save_scored_day(scored(3, "shadow", version=2))
        found = tx.scored_days("m")
        assert [replace(row, scored_at=None) for row in found] == [
            scored(2, acted=None, key=None, sha256=None, rows=0),
            scored(3),
            scored(3, "shadow", version=2),
        ]
        assert all(row.scored_at.tzinfo for row in found)


def test_scored_days_are_found_by_each_filter(ledger):
    with ledger.transaction() as tx:
        for day in (2, 3, 4):
            tx.save_scored_day(scored(day))
        tx.save_scored_day(scored(4, "shadow"))

        def found(**asked) -> list[tuple[int, str]]:
            return [(row.day.day, row.role[0]) for row in tx.scored_days("m", **asked)]

        assert found(since=date(2013, 4, 3)) == [(3, "c"), (4, "c"), (4, "s")]
        assert found(until=date(2013, 4, 3)) == [(2, "c"), (3, "c")]
        assert found(role="shadow") == [(4, "s")]
        assert tx.scored_days("other") == []


def test_one_of_many_is_rung_to_score_a_day_and_a_newer_day_rings_at_once(ledger):
    won = []

    def ring() -> None:
        with ledger.transaction() as tx:
            won.append(tx.ring_scoring("m", date(2013, 4, 3), 600))

    threads = [threading.Thread(target=ring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    with ledger.transaction() as tx:
        assert not tx.ring_scoring("m", date(2013, 4, 2), 600)
        assert tx.ring_scoring("m", date(2013, 4, 4), 600)
        assert not tx.ring_scoring("m", date(2013, 4, 4), 600)
        assert tx.ring_scoring("m", date(2013, 4, 4), -1)
        assert not tx.ring_scoring("nobody", date(2013, 4, 4), -1)


def test_a_champion_serves_from_the_business_time_of_its_promotion(ledger):
    with ledger.transaction() as tx:
        tx.set_clock("replay", NOW + timedelta(hours=3))
        tx.insert_champion(champion(1, 1))
        tx.set_clock("replay", NOW + timedelta(days=20))
        tx.insert_champion(champion(2, 2))
        assert [row.since for row in tx.champions("m")] == [NOW + timedelta(hours=3), NOW + timedelta(days=20)]


def test_the_last_self_test_that_was_judged_counts(ledger):
    with ledger.transaction() as tx:
        assert tx.failed_self_test("m") is None
        for passed, why in ((False, "first"), (None, "too few days")):
            tx.save_self_test("m", {"reasons": [why]}, passed=passed)
        tx.save_self_test("other", {"reasons": ["fine"]}, passed=True)
    with ledger.transaction() as tx:
        failed = tx.failed_self_test("m")
        assert failed is not None
        assert "first" in failed.why
        assert failed.at.tzinfo is not None
        assert tx.failed_self_test("other") is None
        assert [(row.model, row.passed) for row in tx.self_tests()] == [("other", True), ("m", None), ("m", False)]
        assert [row.passed for row in tx.self_tests("m", limit=1)] == [None]
        tx.save_self_test("m", {"reasons": ["mended"]}, passed=True)
        assert tx.failed_self_test("m") is None


def test_what_people_were_asked_and_what_they_answered_is_kept_in_order(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(), 60)
        tx.update_attempt("m.1", state="awaiting_approval")
        asked = ApprovalRequestRow("m.1", "m", 7, 4, "e" * 64, "always", 2, None, NOW, NOW + timedelta(days=3), [])
        tx.insert_approval_request(asked)
        answers = [
            ApprovalRow("m.1", 7, 4, "e" * 64, actor, "approve", "why", "airflow", NOW) for actor in ("bea", "ann")
        ]
        for answer in answers:
            tx.insert_approval(answer)
        tx.show_approval_request("m.1", ["a", "b"])
    with ledger.transaction() as tx:
        assert tx.attempt("m.1").state == "awaiting_approval"
        assert tx.approval_request("m.1") == replace(asked, runs=["a", "b"])
        assert tx.approval_requests("m") == [tx.approval_request("m.1")]
        assert tx.approvals("m.1") == answers
        assert tx.asked_about(["m.1", "m.2"]) == [(tx.approval_request("m.1"), answers)]
        assert (tx.approval_request("m.2"), tx.approvals("m.2"), tx.asked_about(["m.2"])) == (None, [], [])
    for act in ("UPDATE approval SET actor = 'cy'", "DELETE FROM approval"):
        with pytest.raises(sa.exc.DBAPIError, match=r"append-only|permission denied"), ledger.engine.begin() as db:
            db.execute(sa.text(act))


def notified(tx, subject: str = "m", **posts) -> bool:
    planned = [(channel, "owner", ["a@b.c"], tx.wall() + due) for channel, due in posts.items()]
    return tx.insert_notification("self_test", subject, "m", NOW, {"title": "t"}, planned)


def test_a_notification_is_made_once_until_it_is_over(ledger):
    with ledger.transaction() as tx:
        assert notified(tx, mail=timedelta(0))
        assert not notified(tx, mail=timedelta(0), chat=timedelta(0))
        assert notified(tx, "other")
    with ledger.transaction() as tx:
        first, other = tx.lasting_notifications(["self_test"])
        assert (first.subject, first.at, first.notice, other.subject) == ("m", NOW, {"title": "t"}, "other")
        tx.end_notification(first.id)
        assert [row.id for row in tx.lasting_notifications(["self_test"])] == [other.id]
        assert notified(tx, mail=timedelta(0))
        assert [post.channel for post in tx.posts(notification_id=first.id)] == ["mail"]
        assert len(tx.posts(model="m")) == 2
        assert tx.posts(model="other") == []


def test_a_message_is_taken_by_one_when_it_is_due_and_rests_while_it_is_tried(ledger):
    with ledger.transaction() as tx:
        notified(tx, mail=timedelta(0), chat=timedelta(hours=1))
        assert tx.waiting_channels() == ["mail"]
        assert tx.take_post("chat") is None
        post = tx.take_post("mail")
        assert (post.recipients, post.tries, post.notification.kind) == (["a@b.c"], 0, "self_test")
        tx.try_post(post.id, timedelta(minutes=2))
    with ledger.transaction() as tx:
        assert tx.waiting_channels() == []
        assert tx.take_post("mail") is None
        tx.finish_post(post.id, error="away")
        assert tx.posts(notification_id=post.notification.id)[1].last_error == "away"
        tx.finish_post(post.id)
        tx.drop_posts([post.id], "too late: it was sent")
        sent = tx.posts(notification_id=post.notification.id)[1]
        assert (sent.sent_at is not None, sent.dropped, sent.last_error, sent.tries) == (True, None, None, 1)
        assert tx.retry_posts("given up") == 0


def test_a_message_that_was_given_up_is_tried_again_when_asked_for_and_one_dropped_otherwise_is_not(ledger):
    with ledger.transaction() as tx:
        notified(tx, mail=timedelta(0), chat=timedelta(0))
        for channel, why in (("mail", "given up"), ("chat", "over")):
            tx.drop_posts([tx.take_post(channel).id], why)
        assert tx.waiting_channels() == []
        assert tx.retry_posts("given up") == 1
        assert tx.waiting_channels() == ["mail"]


def test_the_audit_log_is_read_on_from_where_notifications_were_made(ledger):
    with ledger.transaction() as tx:
        assert tx.lock_notifications() is None
        tx.keep_notified(0)
        for number in range(3):
            tx.audit("ann", f"act.{number}", None, {})
    with ledger.transaction() as tx:
        assert tx.lock_notifications() == 0
        assert [entry["action"] for entry in tx.audit_after(1, 1)] == ["act.1"]
        tx.keep_notified(3)
        assert tx.audit_after(3, 10) == []


def test_two_who_send_take_different_messages(ledger):
    if ledger.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    with ledger.transaction() as tx:
        notified(tx, mail=timedelta(0))
        notified(tx, "other", mail=timedelta(0))
    with ledger.transaction() as one, ledger.transaction() as another:
        assert one.take_post("mail").notification.subject == "m"
        assert another.take_post("mail").notification.subject == "other"


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_pages_of_events_meet_without_gap_or_repetition_and_keep_to_the_models_asked_for(ledger):
    with ledger.transaction() as tx:
        tx.publish_spec("n", "e" * 64, {"model": "n"})
        tx.insert_events([event(f"e{i}", model="mn"[i % 2]) for i in range(7)])
        first = tx.events_before(None, models=["m"], limit=3)
        second = tx.events_before(first[-1].pk, models=["m"], limit=3)
        assert [row.event_id for row in (*first, *second)] == ["e6", "e4", "e2", "e0"]
        assert tx.events_before(None, models=[], limit=3) == []
        assert [row.event_id for row in tx.events_before(None, models=["m", "n"], event_id="e3", limit=3)] == ["e3"]
        assert tx.events_before(None, models=["m", "n"], fates=["started"], limit=3) == []
        assert tx.event(first[0].pk) == first[0]
        assert tx.event(10**9) is None


def test_pages_of_attempts_meet_also_where_two_began_in_the_same_moment(ledger):
    with ledger.transaction() as tx:
        for epoch in (1, 2, 3):
            tx.start_attempt(attempt(epoch), 60)
            tx.update_attempt(f"m.{epoch}", created_at=NOW, state="concluded")
        long = {"estimate": 0.1, "reasons": ["r"], "checks": [{"metric": "payoff"}], "diagnostics": {"days": [1]}}
        tx.update_attempt("m.2", verdict="promote", verdict_record=long)
        first = tx.attempts_before(None, models=["m"], limit=2)
        second = tx.attempts_before((first[-1].created_at, first[-1].id), models=["m"], limit=2)
        assert [row.id for row in (*first, *second)] == ["m.3", "m.2", "m.1"]
        assert [row.id for row in tx.attempts_before(None, models=["m"], verdicts=["promote"], limit=2)] == ["m.2"]
        assert tx.attempts_before(None, models=["m"], states=["claimed"], limit=2) == []
        assert [row.verdict_record for row in first] == [None, {"estimate": 0.1, "reasons": ["r"]}]
        assert tx.last_judged(["m", "n"]) == {"m": first[1]}
        of_run = {"dag_id": first[0].dag_id, "dag_run_id": first[0].dag_run_id}
        assert first[0] in tx.attempts_before(None, models=["m"], **of_run, limit=9)
        assert tx.attempts_before(None, models=["m"], dag_id=first[0].dag_id, dag_run_id="other", limit=2) == []
        assert tx.attempts_before(None, models=["m"], dag_id="other", limit=2) == []


def test_pages_of_the_audit_log_leave_out_what_is_of_other_models(ledger):
    with ledger.transaction() as tx:
        for action, model in (("champion.promoted", "m"), ("clock.set", None), ("spec.deployed", "n"), ("x.y", "m")):
            tx.audit("ann", action, model, {})
        assert [row["action"] for row in tx.audited_before(None, models=["m"], limit=9)] == ["x.y", "champion.promoted"]
        seen = tx.audited_before(None, models=["m"], general=True, limit=2)
        assert [row["action"] for row in seen] == ["x.y", "clock.set"]
        seen = tx.audited_before(seen[-1]["seq"], models=["m"], general=True, action="champion", actor="ann", limit=2)
        assert [row["action"] for row in seen] == ["champion.promoted"]


def test_pages_of_dead_letters_are_of_rejected_records_alone(ledger):
    rejected = [replace(record(i), status="rejected", reason=f"not_json {i}") for i in range(3)]
    with ledger.transaction() as tx:
        tx.insert_records([*rejected, record(9)])
        first = tx.letters_before(None, limit=2)
        assert [row.raw.offset for row in first] == [2, 1]
        assert [row.raw.offset for row in tx.letters_before(first[-1].pk, limit=2)] == [0]
        assert [row.raw.offset for row in tx.letters_before(None, reason_contains="JSON 1", limit=2)] == [1]


def test_many_models_are_told_at_once_each_by_its_newest(ledger):
    with ledger.transaction() as tx:
        tx.publish_spec("n", "e" * 64, {"model": "n"})
        for seq in (1, 2):
            tx.insert_champion(ChampionRow("m", seq, seq + 4, None, "init", NOW, None, "r", None, NOW))
        tx.insert_events([event("a"), event("b"), event("c", model="n")])
        tx.start_attempt(attempt(1), 60)
        tx.save_step("m.1", "snapshot", {}, tx.wall() - timedelta(seconds=60))
        tx.save_step("m.1", "judge", {}, tx.wall() - timedelta(seconds=30))
        business = tx.attempts(model="m")[0].business_at
        assert {name: row.version for name, row in tx.serving(["m", "n"]).items()} == {"m": 6}
        assert tx.open_event_counts(["m", "n"]) == {"m": {"pending": 2}, "n": {"pending": 1}}
        tx.start_attempt(replace(attempt(2), business_at=business, options={"dry_run": True}), 60)
        tx.save_step("m.2", "snapshot", {}, tx.wall() - timedelta(seconds=10))
        tx.start_attempt(replace(attempt(3), business_at=business - timedelta(days=2)), 60)
        tx.save_step("m.3", "snapshot", {}, tx.wall() - timedelta(seconds=1000))
        tx.start_attempt(replace(attempt(4), business_at=business - timedelta(days=20)), 60)
        tx.save_step("m.4", "snapshot", {}, tx.wall() - timedelta(seconds=9000))
        month = business - timedelta(days=9)
        assert list(tx.used(["m", "n"], day_began=business, month_began=month)) == ["m"]
        used = tx.used(["m"], day_began=business, month_began=month)["m"]
        assert used.runs_today == 1  # the dry one is none
        assert used.seconds_today == pytest.approx(100, abs=5)
        assert used.seconds_month == pytest.approx(1100, abs=5)
        later = tx.used(["m"], day_began=business + timedelta(seconds=1), month_began=month)["m"]
        assert (later.runs_today, later.seconds_today) == (0, 0.0)
        assert tx.used([], day_began=business, month_began=month) == {}


# -- signed requests ---------------------------------------------------------------------------------------------------


def test_a_signature_is_taken_once_and_forgotten_when_its_time_is_over(ledger):
    with ledger.transaction() as tx:
        assert tx.take_signature("grafana", "a" * 64, 600)
    with ledger.transaction() as tx:
        assert not tx.take_signature("grafana", "a" * 64, 600)
        assert tx.take_signature("evidently", "a" * 64, 600)
    with ledger.transaction() as tx:
        assert tx.take_signature("grafana", "a" * 64, -1), "older than it is kept: forgotten"


def test_of_two_processes_with_the_same_signature_one_takes_it(ledger):
    taken = []

    def take() -> None:
        with ledger.transaction() as tx:
            taken.append(tx.take_signature("grafana", "b" * 64, 600))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_specs_are_given_of_the_models_asked_for(ledger):
    with ledger.transaction() as tx:
        tx.publish_spec("n", "e" * 64, {"model": "n"})
        assert [row.model for row in tx.specs()] == ["m", "n"]
        assert [row.model for row in tx.specs(["n", "none"])] == ["n"]
        assert tx.specs([]) == []
        documents = {row.digest: row.document for row in tx.specs()}
        assert tx.spec_documents([*documents, "f" * 64]) == documents
        assert tx.spec_documents([]) == {}


# -- snoozes -----------------------------------------------------------------------------------------------------------


def test_a_model_has_one_snooze_and_another_replaces_it_until_it_is_woken(ledger):
    first = Snooze(NOW, NOW + timedelta(days=3), "ann", "labels are being mended")
    with ledger.transaction() as tx:
        assert tx.snoozes() == {}
        tx.snooze("m", first)
        tx.snooze("n", replace(first, actor="bo"))
    second = Snooze(NOW, NOW + timedelta(days=1), "cy", "almost")
    with ledger.transaction() as tx:
        assert tx.snoozes(["m", "z"]) == {"m": first}
        tx.snooze("m", second)
    with ledger.transaction() as tx:
        assert tx.snoozes() == {"m": second, "n": replace(first, actor="bo")}
        assert tx.snoozes([]) == {}
        tx.wake("m")
        tx.wake("m")
        assert list(tx.snoozes()) == ["n"]


def test_what_is_measured_is_counted_over_all_models(ledger):
    with ledger.transaction() as tx:
        tx.start_attempt(attempt(1), 60)
        tx.save_step("m.1", "snapshot", {}, tx.wall() - timedelta(seconds=60))
        tx.update_attempt("m.1", state="concluded", verdict="promote", concluded_at=tx.wall())
        tx.release_lease("m.1")
        tx.start_attempt(attempt(2, options={"dry_run": True}), 60)
        tx.update_attempt("m.2", state="concluded", verdict="promote")
        tx.insert_champion(champion(1, 1))
        tx.audit("ann", "model.retired", "m", {})
        tx.audit("ann", "model.retired", "m", {})
        tx.enqueue("alias", "a", {})
        tx.enqueue("alias", "b", {})
        tx.save_self_test("m", {"n": 1}, passed=False)
        tx.save_self_test("m", {"n": 2}, passed=None)
    with ledger.transaction() as tx:
        assert tx.count_attempts() == {("m", "concluded"): 2}
        assert tx.count_verdicts() == {("m", "promote"): 1}
        assert tx.count_champions() == {("m", "promotion"): 1}
        assert tx.count_audited() == {"model.retired": 2}
        assert [(told.kind, told.waiting) for told in tx.outbox_tallies()] == [("alias", 2)]
        ((model, digest, seconds),) = tx.seconds_by_spec()
        assert (model, digest) == ("m", "d" * 64)
        assert 59 < seconds < 70
        at, passed = tx.tested()["m"]
        assert passed is False, "what could not be judged changes nothing"
        assert at == max(row.at for row in tx.self_tests("m"))
        assert [row.id for row in tx.attempts_since(NOW)] == ["m.1", "m.2"]
        assert [row.id for row in tx.attempts_since(tx.wall() - timedelta(hours=1))] == ["m.1"]


def test_how_long_an_event_waited_for_its_run_is_told_by_model(ledger):
    with ledger.transaction() as tx:
        tx.insert_events([event("a")])
        (row,) = tx.events()
        tx.start_attempt(attempt(1, trigger_event_pk=row.pk, created_at=row.received_at + timedelta(seconds=5)), 60)
        assert tx.waits_for_claim(row.received_at) == {"m": [5.0]}
        assert tx.waits_for_claim(row.received_at + timedelta(seconds=6)) == {}


def test_a_publishers_span_is_kept_with_its_event(ledger):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with ledger.transaction() as tx:
        tx.insert_events([replace(event("a"), traceparent=traceparent), event("b")])
        pks = {row.event_id: row.pk for row in tx.events()}
        assert tx.traceparents(list(pks.values())) == {pks["a"]: traceparent}
        assert tx.traceparents([]) == {}


def test_when_something_was_written_and_told_is_known_by_its_name(ledger):
    with ledger.transaction() as tx:
        tx.enqueue("record", "x", {})
        tx.enqueue("record", "y", {})
        tx.finish_outbox(tx.take_outbox("record", 1))
        ((first, written, told), (second, _, waits)) = tx.outbox_times(["y", "x", "z"])
        assert (first, second, waits) == ("x", "y", None)
        assert told is not None
        assert told >= written
