"""What an undecided attempt leaves behind: one event, due when the days it lacked are fresh, answered once."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from ratchet.domain.events import DriftDetected
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import UsedDays
from ratchet.workflow.follow_ups import follow_up
from ratchet.workflow.promotion import conclude, release
from ratchet.workflow.retiring import retire

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)
DUE = datetime(2013, 5, 29, 4, tzinfo=UTC)
"""Judged up to 28 April, so that 28 more days end on 26 May, and their labels are known two days later."""


def judged(world, decision: str = "not_enough_evidence", needed: int | None = None, run: str = "run1", **conf) -> str:
    """An attempt on the newest days with this verdict."""
    claimed = world.claim(run, "manual" if conf else "asset_triggered", **conf)["attempt"]
    with world.ledger.transaction() as tx:
        attempt = tx.own_lease(claimed)
        newest = attempt.as_of.date() - 3 * DAY
        days = [newest - n * DAY for n in range(28)]
        tx.save_used_days(attempt, 2, [UsedDays("holdout", dict.fromkeys(days, 900))])
        tx.update_attempt(
            claimed,
            state="judged",
            verdict=decision,
            verdict_record={"estimate": 1.0, "unit": "USD", "reasons": [], "needed_clusters": needed},
            evidence_digest="e" * 64,
            challenger_version=2,
            judged_at=tx.wall(),
        )
        conclude(tx, tx.attempt(claimed), champion_after=attempt.champion_version)
    world.intake.tick()
    return claimed


def undecided(world, **changes) -> str:
    world.crown(1)
    world.arrive(MAY)
    return judged(world, **changes)


def left(world):
    """The follow-ups in the inbox."""
    return [row for row in world.events() if row.origin == "attempt"]


def history(world, row) -> list[tuple[str, str]]:
    with world.ledger.transaction() as tx:
        return [(was["fate"], was["reason"]) for was in tx.fate_history(row.pk)]


def test_an_undecided_attempt_leaves_one_event_that_names_it_the_rule_and_the_date(world):
    attempt = undecided(world)
    (row,) = left(world)
    assert (row.source, row.event_id) == (f"/ratchet/attempts/{attempt}", f"{attempt}:follow-up")
    assert (row.fate, row.until) == ("deferred", DUE)
    assert row.reason == (
        f"follow_up: due at 2013-05-29T04:00Z; {attempt} had not enough evidence; 28 more fresh days are waited for"
    )
    assert [fate for fate, _ in history(world, row)] == ["pending", "deferred"]


@pytest.mark.parametrize(("needed", "days"), [(20, 20), (3, 14), (60, 28), (None, 28)])
def test_the_date_is_that_of_the_needed_days_between_the_fewest_and_the_most_that_judge(world, needed, days):
    undecided(world, needed=needed)
    assert left(world)[0].until == datetime(2013, 5, 1, 4, tzinfo=UTC) + days * DAY


def test_without_a_target_gain_nobody_knows_how_many_days_so_the_fewest_are_waited_for(world):
    document = world.spec.model_dump(mode="json")
    spec = ModelSpec.model_validate(document | {"gate": document["gate"] | {"target_gain": None}})
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))
    undecided(world)
    assert left(world)[0].until == datetime(2013, 5, 15, 4, tzinfo=UTC)


@pytest.mark.parametrize("decision", ["keep_champion", "promote"])
def test_a_decided_attempt_leaves_nothing(world, decision):
    undecided(world, decision=decision)
    assert left(world) == []


def test_a_dry_run_leaves_nothing(world):
    world.crown(1)
    world.arrive(MAY)
    judged(world, reason="look", dry_run=True)
    assert left(world) == []


def test_an_attempt_for_a_first_champion_leaves_nothing_because_a_person_asks_for_it(world):
    world.arrive(MAY)
    judged(world, reason="first", first_champion=True)
    assert left(world) == []


def test_written_again_it_is_the_same_event(world):
    attempt = undecided(world)
    with world.ledger.transaction() as tx:
        follow_up(tx, tx.attempt(attempt))
    assert len(left(world)) == 1


def test_the_world_is_told_when_the_next_attempt_is_due(world):
    undecided(world, needed=60)
    world.relay.run()
    told = [json.loads(record.value) for record in world.bus.records("ml.decisions")]
    (said,) = [event["data"] for event in told if event["type"] == "ratchet.model.undecided.v1"]
    assert (said["follow_up"], said["needed_clusters"]) == ("2013-05-29T04:00:00Z", 60)


def test_data_and_mild_drift_wait_for_it_until_it_starts_the_attempt_that_claims_them_all(world):
    undecided(world)
    assert world.arrive(datetime(2013, 5, 20, 4, tzinfo=UTC)) == []
    assert world.drift(datetime(2013, 5, 19, 4, tzinfo=UTC)) == []
    assert world.drift(datetime(2013, 5, 20, 4, tzinfo=UTC)) == []
    waiting = [row for row in world.events(fates=["deferred"]) if row.origin != "attempt"]
    assert {(row.until, row.reason) for row in waiting} == {
        (DUE, "follow_up: waits for the follow-up due at 2013-05-29T04:00Z")
    }
    assert world.arrive(DUE, rows=1) == [world.model]
    again = world.attempt(world.claim("run2")["attempt"])
    assert (again.trigger, again.reason) == ("follow_up", "admitted: 7 events, by the follow-up of flight_delay.1")
    judged_rows = world.events(attempt_id=again.id)
    assert {row.fate for row in judged_rows} == {"claimed"}
    assert len(judged_rows) == 7
    world.judge(again.id, "keep_champion")
    assert left(world)[0].fate == "started"
    assert {row.fate for row in world.events(attempt_id=again.id) if row.origin != "attempt"} == {"merged"}


def test_it_waits_for_the_data_of_its_days_and_not_for_the_calendar_alone(world):
    undecided(world)
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", DUE)
        tx.mark([world.model])
    assert world.intake.tick() == []
    assert "waits for the data up to then to be published" in left(world)[0].reason
    assert world.arrive(DUE, rows=1) == [world.model]


def urgent(world, at: datetime) -> list[str]:
    document = world.spec.model_dump(mode="json")
    spec = ModelSpec.model_validate(document | {"retrain": document["retrain"] | {"urgent": 0.9}})
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))
    for day in (1, 0):
        drift = DriftDetected(check="psi", severity=0.95, window_start=at - 3 * DAY, window_end=at - day * DAY)
        world.publish(drift, world.model, at - day * DAY)
    return world.intake.tick()


def test_urgent_drift_starts_at_once_where_fresh_days_suffice_and_takes_it_along(world):
    undecided(world)
    at = datetime(2013, 5, 20, 4, tzinfo=UTC)
    world.arrive(at, rows=1)
    assert urgent(world, at) == [world.model]
    again = world.attempt(world.claim("run2")["attempt"])
    assert again.trigger == "drift"
    world.judge(again.id, "keep_champion")
    assert left(world)[0].fate == "merged"


def test_urgent_drift_waits_for_the_fewest_days_that_may_judge(world):
    undecided(world)
    at = datetime(2013, 5, 10, 4, tzinfo=UTC)
    world.arrive(at, rows=1)
    assert urgent(world, at) == []
    assert left(world)[0].until == datetime(2013, 5, 15, 4, tzinfo=UTC)


def test_a_run_by_hand_takes_it_along_and_leaves_one_of_its_own(world):
    undecided(world)
    world.arrive(datetime(2013, 5, 20, 4, tzinfo=UTC))
    again = judged(world, run="run2", reason="now")
    first, second = left(world)
    assert (first.fate, first.attempt_id) == ("merged", again)
    assert (second.fate, second.event_id) == ("deferred", f"{again}:follow-up")


def test_an_attempt_that_dies_gives_it_back_and_the_next_one_answers_it_once(world):
    undecided(world)
    world.arrive(datetime(2013, 5, 20, 4, tzinfo=UTC))
    claimed = world.claim("run2", "manual", reason="now")["attempt"]
    with world.ledger.transaction() as tx:
        release(tx, tx.attempt(claimed), "abandoned", "killed", 3)
    assert world.intake.tick() == [world.model]
    again = world.claim("run3")["attempt"]
    world.judge(again, "keep_champion")
    (row,) = left(world)
    assert (row.fate, row.attempt_id) == ("merged", again)
    fates = [fate for fate, _ in history(world, row)]
    assert (fates.count("claimed"), fates.count("merged")) == (2, 1)


def test_a_retired_model_has_its_follow_up_rejected(world):
    undecided(world)
    retire(world.ledger, world.model, "ann", "over", 3)
    assert left(world)[0].fate == "rejected"
    with pytest.raises(Refused, match="retired"):
        world.claim("run2")


def test_after_a_rollback_it_stays_a_wake_up_like_any_other(world):
    world.crown(1)
    world.crown(2)
    world.arrive(MAY)
    judged(world)
    for number in (1, 2):
        artifact = world.folder / f"artifact{number}"
        artifact.mkdir(exist_ok=True)
        (artifact / "ratchet.json").write_text("{}")
        world.registry.register(f"filler {number}", world.model, artifact, metrics={}, params={}, tags={})
    world.promotions.rollback(world.model, 1, "ann", "bookings fell")
    assert world.intake.tick() == []
    (row,) = left(world)
    assert (row.fate, row.until) == ("deferred", DUE)
    assert world.arrive(DUE, rows=1) == [world.model]
    assert world.attempt(world.claim("run2")["attempt"]).champion_version == 1


def test_after_days_without_a_single_row_it_waits_for_days_to_come_and_not_for_the_same_ones_again(world):
    world.crown(1)
    world.arrive(MAY)
    claimed = world.claim()["attempt"]
    with world.ledger.transaction() as tx:
        attempt = tx.own_lease(claimed)
        long_ago = {attempt.as_of.date() - 60 * DAY: 900}
        tx.save_used_days(attempt, 1, [UsedDays("holdout", long_ago)])
        tx.update_attempt(
            claimed,
            state="judged",
            verdict="not_enough_evidence",
            verdict_record={"estimate": None, "unit": "USD", "reasons": ["the holdout is empty"], "n_rows": 0},
            evidence_digest="e" * 64,
            challenger_version=2,
            judged_at=tx.wall(),
        )
        due = follow_up(tx, tx.attempt(claimed))
        assert due.not_before >= tx.clock()[1] + world.spec.data.holdout.min_clusters * DAY


def test_days_that_a_dry_run_was_judged_on_are_no_days_to_wait_for(world):
    world.crown(1)
    world.arrive(MAY)
    judged(world, reason="look", dry_run=True)
    world.arrive(datetime(2013, 5, 20, 4, tzinfo=UTC))
    judged(world, run="run2", needed=14)
    (row,) = left(world)
    assert date(2013, 5, 17) in _used(world)
    assert row.until == datetime(2013, 6, 3, 4, tzinfo=UTC)


def _used(world) -> set[date]:
    with world.ledger.transaction() as tx:
        return tx.used_days(world.model, 1)
