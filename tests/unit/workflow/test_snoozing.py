"""A model that sleeps starts no run by itself, and one that wakes decides at once on what waited."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from worlds import World

from ratchet.domain.events import RetrainRequested
from ratchet.domain.snooze import Snooze
from ratchet.errors import Refused
from ratchet.workflow.retiring import retire
from ratchet.workflow.snoozing import Who, asleep, snooze, wake

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)
ADA = Who("ada", " labels are being mended ", "command line")


@pytest.fixture
def may(world: World) -> World:
    """With a champion, in May."""
    world.crown()
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", MAY)
    return world


def sleep(world: World, **asked: object) -> Snooze:
    return snooze(world.ledger, world.model, ADA, **(asked or {"length": 3 * DAY}))  # type: ignore[arg-type]


def sleeping(world: World) -> Snooze | None:
    with world.ledger.transaction() as tx:
        return asleep(tx, [world.model]).get(world.model)


def told(world: World) -> set[tuple[str, str, datetime | None]]:
    return {(row.fate, row.reason, row.until) for row in world.events()}


def at(world: World, moment: datetime) -> list[str]:
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", moment)
    return world.intake.tick()


def test_events_wait_while_it_sleeps_and_start_the_run_when_it_wakes_by_itself(may: World) -> None:
    sleep(may)
    assert may.arrive(MAY) == []
    said = "snooze: by ada: labels are being mended; lifts 2013-05-04T04:00Z"
    assert told(may) == {("deferred", said, MAY + 3 * DAY)}
    assert at(may, MAY + 3 * DAY - timedelta(seconds=1)) == []
    assert at(may, MAY + 3 * DAY) == [may.model]
    assert sleeping(may) is None
    assert not wake(may.ledger, may.model, ADA), "it woke by itself"
    assert may.claim()["attempt"]


def test_a_bell_that_was_due_falls_silent_and_a_run_that_was_rung_finds_nothing_to_do(may: World) -> None:
    assert may.arrive(MAY) == [may.model]
    sleep(may)
    assert may.intake.tick() == []
    rung = may.claim()
    assert (rung["attempt"], rung["reason"][:14]) == (None, "snooze: by ada")


def test_woken_early_it_decides_at_once(may: World) -> None:
    sleep(may)
    may.arrive(MAY)
    assert wake(may.ledger, may.model, Who("bo", "mended", "api", "7"))
    assert sleeping(may) is None
    assert may.intake.tick() == [may.model]
    assert not wake(may.ledger, may.model, ADA), "it is awake: nothing to tell"
    with may.ledger.transaction() as tx:
        (entry,) = tx.audit_log(may.model, action="model.woken")
    before = (MAY + 3 * DAY).isoformat()
    assert (entry["actor"], entry["detail"]) == (
        "bo",
        {"before": before, "reason": "mended", "via": "api", "user_id": "7"},
    )


def test_a_run_by_hand_and_a_persons_request_pass_and_it_sleeps_on(may: World) -> None:
    may.arrive(MAY, rows=1)
    sleep(may)
    may.publish(RetrainRequested(reason="now", actor="ann"), may.model, MAY)
    assert may.intake.tick() == [may.model]
    claimed = may.claim("hand", "manual", reason="now")
    assert claimed["attempt"]
    assert sleeping(may) is not None


def test_a_schedules_request_waits_for_the_end(may: World) -> None:
    may.arrive(MAY, rows=1)
    with may.ledger.transaction() as tx:
        tx.set_clock("wall", None)
        tx.advance_watermark("flights", tx.wall(), 1.0)
        tx.advance_watermark("weather", tx.wall(), 1.0)
    sleep(may)
    answer = may.claim("tick", "scheduled")
    assert (answer["attempt"], answer["reason"][:14]) == (None, "snooze: by ada")
    (row,) = may.events(types=["ratchet.retrain.requested.v1"])
    assert (row.fate, row.origin) == ("deferred", "schedule")


def test_an_attempt_at_work_goes_on(may: World) -> None:
    may.arrive(MAY)
    attempt = may.claim()["attempt"]
    sleep(may)
    may.judge(attempt, "promote")
    assert may.promotions.promote(may.model)["promoted"] == attempt


def test_another_snooze_replaces_the_one_before_and_what_waits_is_told_the_new_end(may: World) -> None:
    sleep(may)
    may.arrive(MAY)
    with may.ledger.transaction() as tx:
        tx.set_clock("replay", MAY + DAY)
    shorter = snooze(may.ledger, may.model, Who("bo", "almost", "api"), until=MAY + 2 * DAY)
    assert shorter == Snooze(MAY, MAY + 2 * DAY, "bo", "almost")
    assert sleeping(may) == shorter
    may.intake.tick()
    assert told(may) == {("deferred", "snooze: by bo: almost; lifts 2013-05-03T04:00Z", MAY + 2 * DAY)}
    with may.ledger.transaction() as tx:
        first, second = tx.audit_log(may.model, action="model.snoozed")
    assert first["detail"] == {
        "until": "2013-05-04T04:00:00+00:00",
        "reason": "labels are being mended",
        "via": "command line",
    }
    assert second["detail"]["before"] == first["detail"]["until"]


def test_a_retired_model_sleeps_no_more_and_cannot_be_snoozed(may: World) -> None:
    sleep(may)
    retire(may.ledger, may.model, "ann", "replaced", 3)
    with pytest.raises(Refused, match="is not deployed or is retired"):
        sleep(may)
    with pytest.raises(Refused, match="is not deployed or is retired"):
        wake(may.ledger, may.model, ADA)
    with may.ledger.transaction() as tx:
        tx.publish_spec(may.model, may.spec.digest, may.spec.model_dump(mode="json"), revive=True)
    assert sleeping(may) is None


def test_no_snooze_without_a_reason_a_model_and_an_end_in_sight(may: World) -> None:
    with pytest.raises(Refused, match="need a reason"):
        replace(ADA, reason=" ")
    with pytest.raises(Refused, match="'nobody' is not deployed"):
        snooze(may.ledger, "nobody", ADA, length=DAY)
    with pytest.raises(Refused, match="30d at most"):
        sleep(may, length=31 * DAY)
    assert sleeping(may) is None
    with may.ledger.transaction() as tx:
        assert tx.audit_log(action="model") == []
