"""What the intake makes of a batch, with a ledger of its own."""

import logging
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from worlds import Runs

from ratchet.adapters.ledger import schema as t
from ratchet.domain.events import DataArrived, DriftDetected
from ratchet.errors import Refused
from ratchet.ports.ledger import PumpRow
from ratchet.workflow import deciding
from ratchet.workflow.intake import Intake, marks_of

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


def arrived(hours: int, completeness: float | None = None, dataset: str = "flights") -> DataArrived:
    until = NOON + timedelta(hours=hours)
    return DataArrived(dataset=dataset, complete_until=until, new_rows=1, label_completeness=completeness)


@pytest.mark.parametrize(
    "steps",
    [
        [arrived(1), arrived(3), arrived(2)],
        [arrived(1, 0.5), arrived(2), arrived(3)],
        [arrived(1, 0.5), arrived(2), arrived(3, 0.7), arrived(2, 0.9)],
        [arrived(4, 0.5), arrived(6), arrived(6, 0.8), arrived(7), arrived(1, 0.1)],
        [arrived(1), arrived(2, 0.4, "weather"), arrived(3), arrived(1, 0.2, "weather")],
    ],
)
@pytest.mark.parametrize("known", [None, arrived(5, 0.95)])
def test_the_fewest_marks_leave_what_all_of_them_would(world, steps, known):
    def after(applied):
        with world.ledger.transaction() as tx:
            tx._db.execute(sa.delete(t.watermark))
            for step in ([known] if known else []) + list(applied):
                tx.advance_watermark(step.dataset, step.complete_until, step.label_completeness)
            return tx.watermarks()

    assert after(marks_of(steps)) == after(steps)
    assert len(marks_of(steps)) <= 2 * len({step.dataset for step in steps})


def test_a_spec_is_read_once_however_many_batches_come(world, monkeypatch):
    reads = []
    original = deciding.ModelSpec.model_validate
    monkeypatch.setattr(deciding.ModelSpec, "model_validate", lambda document: reads.append(1) or original(document))
    monkeypatch.setattr(deciding, "_SPECS", {})
    for day in range(3):
        world.arrive(NOON + timedelta(days=day))
        world.drift(NOON + timedelta(days=day))
    assert len(reads) == 1


def test_a_model_retired_meanwhile_is_routed_to_no_more(world):
    world.drift(NOON)
    with world.ledger.transaction() as tx:
        tx.retire(world.model)
    world.drift(NOON + timedelta(hours=1))
    assert len(world.events()) == 1
    with world.ledger.transaction() as tx:
        assert tx._db.execute(sa.select(sa.func.count()).where(t.record.c.status == "rejected")).scalar_one() == 1


def test_a_record_the_database_refuses_is_rejected_alone(world, monkeypatch):
    class Picky(Intake):
        def _store(self, records, refused):
            if refused is None and any(record.value == b"poison" for record in records):
                raise Refused("not storable")
            super()._store(records, refused)

    values = [b"{}", b"{}", b"poison", b"{}"]
    Picky(world.ledger, world.settings).store([world.raw(value) for value in values])
    with world.ledger.transaction() as tx:
        reasons = list(tx._db.execute(sa.select(t.record.c.reason).order_by(t.record.c.offset)).scalars())
    assert [("not storable" in reason) for reason in reasons] == [False, False, True, False]


def test_a_model_that_cannot_be_decided_keeps_nobody_else_from_it(world, caplog):
    arrival = DriftDetected(check="psi", severity=0.8, window_start=NOON - timedelta(1), window_end=NOON)
    world.publish(arrival, world.model, NOON)
    with world.ledger.transaction() as tx:
        tx.publish_spec("a_broken_one", "b" * 64, {"model": "a_broken_one"})
    world.intake.tick()
    assert [event.reason != "received" for event in world.events()] == [True]
    assert "a_broken_one is not decided" in caplog.text


def test_an_absent_intake_is_logged_each_time_and_audited_once(world, caplog):
    def actions():
        with world.ledger.transaction() as tx:
            return [entry["action"] for entry in tx.audit_log() if entry["action"].startswith("intake.")]

    assert world.sweeper.sweep(Runs("missing"), {world.model})["intake_absent"] is False
    with world.ledger.transaction() as tx:
        tx.beat(PumpRow("host:1", "g", NOON, {}))
        tx._db.execute(sa.update(t.pump).values(beat_at=tx.wall() - timedelta(minutes=6)))
    with caplog.at_level(logging.ERROR):
        assert [world.sweeper.sweep(Runs("missing"), {world.model})["intake_absent"] for _ in range(2)] == [True, True]
    assert caplog.text.count("intake absent") == 2
    assert actions() == ["intake.absent"]
    with world.ledger.transaction() as tx:
        tx.beat(PumpRow("host:1", "g", NOON, {}))
    assert world.sweeper.sweep(Runs("missing"), {world.model})["intake_absent"] is False
    assert actions() == ["intake.absent", "intake.back"]
