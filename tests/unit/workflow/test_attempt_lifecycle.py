"""From records to fates, and what happens to events when attempts end in any way."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from worlds import Runs

from ratchet.domain.events import DataArrived, RetrainRequested
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, StaleAttempt
from ratchet.ports.ledger import MonitoredRow

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)


def decisions(world) -> list[dict]:
    world.relay.run()
    told = [json.loads(record.value) for record in world.bus.records("ml.decisions")]
    return [event for event in told if event["type"].startswith("ratchet.model.")]


def expire(world, attempt_id: str) -> None:
    with world.ledger.transaction() as tx:
        tx.renew_lease(attempt_id, -1)


def test_an_arrival_of_enough_rows_makes_the_model_due_and_one_run_claims_all_of_it(world):
    world.crown()
    assert world.arrive(MAY) == ["flight_delay"]
    claimed = world.claim()
    assert claimed["attempt"] == "flight_delay.1"
    assert {row.fate for row in world.events()} == {"claimed"}
    assert world.intake.tick() == []


def test_without_a_champion_events_wait_and_say_what_to_do(world):
    assert world.arrive(MAY) == []
    row = world.events()[0]
    assert row.fate == "deferred"
    assert "ratchet champion init" in row.reason
    assert row.until is not None


def test_an_arrival_below_the_minimum_accumulates_until_the_rest_comes(world):
    world.crown()
    assert world.arrive(MAY - timedelta(days=15), rows=13_000) == []
    assert world.events()[0].reason.startswith("accumulating: 13,000 of 20,000")
    assert world.arrive(MAY, rows=13_000) == ["flight_delay"]
    world.claim()
    assert [row.fate for row in world.events()] == ["claimed"] * 4


def test_redelivery_changes_nothing(world):
    world.crown()
    record = world.publish(RetrainRequested(reason="r", actor="ann"), world.model, MAY, "same")
    world.intake.store([record])
    assert len(world.events()) == 1


def test_a_record_that_cannot_be_read_is_dead_lettered_with_its_reason_and_the_intake_goes_on(world):
    world.crown()
    world.intake.store([world.raw(b"{not json")])
    assert world.arrive(MAY) == ["flight_delay"]
    world.relay.run()
    (letter,) = world.bus.records("ml.dead-letter")
    assert letter.value == b"{not json"
    assert dict(letter.headers)["ratchet-reason"]


def test_the_same_id_with_other_content_is_dead_lettered(world):
    world.publish(RetrainRequested(reason="r", actor="ann"), world.model, MAY, "same")
    world.publish(RetrainRequested(reason="another", actor="ann"), world.model, MAY, "same")
    world.relay.run()
    (letter,) = world.bus.records("ml.dead-letter")
    assert b"other content" in dict(letter.headers)["ratchet-reason"]
    assert len(world.events()) == 1


def test_an_event_of_an_unknown_model_is_held_then_dead_lettered(tmp_path, migrated):
    from worlds import World  # noqa: PLC0415 - the class behind the fixture, with other settings

    world = World(tmp_path, migrated, unknown_hold_seconds=0.0)
    world.publish(RetrainRequested(reason="r", actor="ann"), "nobody", MAY)
    world.intake.tick()
    world.relay.run()
    (letter,) = world.bus.records("ml.dead-letter")
    assert b"no registered spec knows the model 'nobody'" in dict(letter.headers)["ratchet-reason"]


def test_an_event_that_came_before_its_model_is_not_lost(world):
    world.publish(RetrainRequested(reason="r", actor="ann"), "newcomer", MAY)
    world.intake.tick()
    assert world.events() == []
    newcomer = world.spec.model_copy(update={"model": "newcomer"})
    with world.ledger.transaction() as tx:
        tx.publish_spec("newcomer", newcomer.digest, newcomer.model_dump(mode="json"))
    world.intake.tick()
    assert [row.model for row in world.events()] == ["newcomer"]


def test_a_first_drift_waits_for_its_confirmation_and_the_second_starts_the_run(world):
    world.crown()
    world.arrive(MAY, rows=1_000)
    assert world.drift(MAY) == []
    assert "unconfirmed: 1 of 2" in world.events(types=["ratchet.drift.detected.v1"])[0].reason
    assert world.drift(MAY + timedelta(hours=1)) == ["flight_delay"]
    attempt = world.attempt(world.claim()["attempt"])
    assert attempt.trigger == "drift"


def test_a_retried_claim_gets_its_attempt_back_and_an_ended_one_is_refused_with_the_remedy(world):
    world.crown()
    world.arrive(MAY)
    first = world.claim("run1")
    assert world.claim("run1")["attempt"] == first["attempt"]
    world.judge(first["attempt"], "keep_champion")
    with pytest.raises(Refused, match="Start a new run"):
        world.claim("run1")


def test_a_second_run_finds_the_model_at_work(world):
    world.crown()
    world.arrive(MAY)
    world.claim("run1")
    assert world.claim("run2") == {"attempt": None, "reason": "attempt flight_delay.1 is at work on flight_delay"}


def test_an_unknown_form_key_is_refused(world):
    world.crown()
    world.arrive(MAY, rows=10)
    with pytest.raises(Refused, match="no key 'trails'"):
        world.claim("run1", "manual", reason="r", trails=3)


def test_a_manual_run_needs_a_reason_and_keeps_who_and_why(world):
    world.crown()
    world.arrive(MAY, rows=10)
    with pytest.raises(Refused, match="needs a reason"):
        world.claim("run0", "manual")
    attempt = world.attempt(world.claim("run1", "manual", reason="quarterly check")["attempt"])
    assert (attempt.trigger, attempt.actor, attempt.reason) == ("manual", "ann", "quarterly check")


def test_the_schedule_is_inert_in_replay(world):
    world.crown()
    world.arrive(MAY)
    assert "inert" in world.claim("run1", "scheduled")["reason"]


def test_rows_that_the_monitor_could_not_believe_are_for_a_person_to_run_on_not_for_a_schedule_or_data(world):
    world.crown()
    world.arrive(MAY, rows=30_000)
    with world.ledger.transaction() as tx:
        tx.set_clock("wall", None)
        spec = ModelSpec.model_validate(world.spec.model_dump(mode="json") | {"monitor": {}})
        tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))
        found = {"quality": {"outcome": "broken", "said": "no wind"}}
        tx.save_monitored(MonitoredRow(spec.model, MAY, "broken", spec.digest, version=1, found=found))
    assert world.claim("run1", "scheduled")["attempt"] is None
    assert {row.reason.partition(":")[0] for row in world.events() if row.origin == "schedule"} == {"broken_data"}
    assert world.claim("run2", "manual", reason="the wind is back")["attempt"]


def test_a_dry_run_claims_no_event(world):
    world.crown()
    world.arrive(MAY)
    assert world.claim("run1", "manual", reason="look", dry_run=True)["attempt"]
    assert {row.fate for row in world.events()} == {"pending"}


def test_a_promotion_moves_champion_alias_and_fates_together(world):
    world.crown(1)
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    world.judge(claimed, "promote", version=2)
    assert world.promotions.promote(world.model)["promoted"] == claimed
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).version == 2
    assert world.registry.alias_version(world.model, "champion") == 2
    assert sorted(row.fate for row in world.events()) == ["merged", "started"]
    (told,) = decisions(world)
    assert told["type"] == "ratchet.model.promoted.v1"
    assert (told["data"]["champion_before"], told["data"]["champion_after"]) == (1, 2)


def test_a_second_promotion_finds_nothing_to_do(world):
    world.crown(1)
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "promote")
    world.promotions.promote(world.model)
    assert world.promotions.promote(world.model)["promoted"] is None
    assert len(decisions(world)) == 1


def test_a_verdict_against_a_champion_that_moved_is_judged_again(world):
    world.crown(1)
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    world.judge(claimed, "promote", version=3)
    world.crown(2)
    assert world.promotions.promote(world.model)["promoted"] is None
    assert world.attempt(claimed).state == "superseded"
    assert {row.fate for row in world.events()} == {"pending"}
    assert {row.tries for row in world.events()} == {0}


@pytest.mark.parametrize(("verdict", "kind"), [("keep_champion", "kept"), ("not_enough_evidence", "undecided")])
def test_a_verdict_that_keeps_the_champion_is_told_and_ends_the_attempt(world, verdict, kind):
    world.crown(1)
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    world.judge(claimed, verdict)
    assert world.attempt(claimed).state == "concluded"
    assert [told["type"] for told in decisions(world)] == [f"ratchet.model.{kind}.v1"]


def test_a_storm_is_announced_with_its_count_and_a_hundred_of_its_ids(world):
    world.crown()
    for n in range(110):
        world.publish(RetrainRequested(reason="r", actor="ann"), world.model, MAY, f"asked {n}")
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "keep_champion")
    (told,) = decisions(world)
    assert told["data"]["event_count"] == 112
    assert len(told["data"]["events"]) == 100


def test_a_failed_run_frees_its_events_and_counts_the_try_until_they_fail(world):
    world.crown()
    world.arrive(MAY)
    for attempt in range(1, world.settings.max_event_tries + 1):
        claimed = world.claim(f"run{attempt}")["attempt"]
        assert world.sweeper.sweep(Runs("failed"), {world.model})["reaped"] == [claimed]
        assert world.attempt(claimed).state == "failed"
        with world.ledger.transaction() as tx:
            tx.set_clock("replay", tx.clock()[1] + timedelta(days=1))
            tx.mark([world.model])
        world.intake.tick()
    assert {row.fate for row in world.events()} == {"failed"}
    assert "3 attempts in a row" in world.events()[0].reason


@pytest.mark.parametrize(
    ("runs", "reaped"),
    [
        (Runs("queued"), False),
        (Runs("running"), False),
        (Runs("running", working=True), True),
        (Runs("missing"), True),
        (Runs("success"), True),
    ],
)
def test_a_silent_attempt_is_given_up_unless_its_run_waits_for_a_slot(world, runs, reaped):
    world.crown()
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    expire(world, claimed)
    assert world.sweeper.sweep(runs, {world.model})["reaped"] == ([claimed] if reaped else [])


def test_a_worker_presumed_dead_can_write_nothing(world):
    world.crown()
    world.arrive(MAY)
    claimed = world.claim("run1")["attempt"]
    expire(world, claimed)
    world.sweeper.sweep(Runs("missing"), {world.model})
    with pytest.raises(StaleAttempt), world.ledger.transaction() as tx:
        tx.own_lease(claimed)


def test_a_rollback_takes_the_champion_before_back_and_needs_a_reason(world):
    world.crown(1)
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "promote", version=2)
    world.promotions.promote(world.model)
    with pytest.raises(Refused, match="needs a reason"):
        world.promotions.rollback(world.model, None, "ann", " ")
    assert world.promotions.rollback(world.model, None, "ann", "bookings fell")["version"] == 1
    assert world.registry.alias_version(world.model, "champion") == 1
    assert decisions(world)[-1]["data"]["actor"] == "ann"


def test_a_version_that_never_served_cannot_be_rolled_back_to(world):
    world.crown(1)
    with pytest.raises(Refused, match="was not champion"):
        world.promotions.rollback(world.model, 7, "ann", "try")


def test_too_few_known_labels_are_no_labels(world):
    world.crown()
    arrived = DataArrived(dataset="flights", complete_until=MAY, new_rows=30_000, label_completeness=0.5)
    world.publish(arrived, "flights", MAY)
    weather = DataArrived(dataset="weather", complete_until=MAY, new_rows=700)
    world.publish(weather, "weather", MAY)
    assert world.intake.tick() == []
    assert "0 of 14 fresh mature days" in world.events()[0].reason
    answer = world.claim("run1", "manual", reason="now")
    assert answer == {"attempt": None, "reason": "labels of flights are 0.500 complete, 0.990 needed"}
