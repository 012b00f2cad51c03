"""What a tick and a claim make of admission and the fleet: who is rung, who waits, and what it costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from worlds import World

from ratchet.domain.events import DriftDetected, PerformanceDegraded
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import ChampionRow
from ratchet.records import RunContext
from ratchet.settings import load_settings
from ratchet.workflow.costing import forecasts_of
from ratchet.workflow.deciding import MANY_EVENTS, Admissions
from ratchet.workflow.promotion import conclude, release

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
DEGRADED = PerformanceDegraded(metric="payoff", value=3.1, threshold=4, window_end=MAY)
THREE = ("flight_delay", "fares", "gates")


def deploy(world: World, model: str, **retrain: object) -> None:
    """The shipped spec under a name, with some keys of its retrain section changed, and a champion."""
    document = world.spec.model_dump(mode="json") | {"model": model}
    spec = ModelSpec.model_validate(document | {"retrain": document["retrain"] | {"cooldown": "0s"} | retrain})
    with world.ledger.transaction() as tx:
        tx.publish_spec(model, spec.digest, spec.model_dump(mode="json"))
        if tx.current_champion(model) is None:
            tx.insert_champion(ChampionRow(model, 1, 1, None, "init", MAY, None, "r", None, MAY))


def claim(world: World, model: str, run_id: str = "run1", run_type: str = "asset_triggered", **conf: object) -> dict:
    return world.claims.claim(model, RunContext(f"retrain__{model}", run_id, run_type, "ann", conf))


def fleet(tmp_path, migrated, **retrain: object) -> World:
    """Three models with fresh days whose clock stands in May."""
    world = World(tmp_path, migrated, **retrain)
    for model in THREE:
        deploy(world, model)
    world.arrive(MAY, rows=1)
    return world


def degrade(world: World, *models: str) -> list[str]:
    for model in models:
        world.publish(DEGRADED, model, MAY)
    return world.intake.tick()


def bell(world: World, model: str) -> str | None:
    with world.ledger.transaction() as tx:
        return next((row.held for row in tx.due_rows() if row.model == model), None)


def end(world: World, attempt_id: str) -> None:
    with world.ledger.transaction() as tx:
        release(tx, tx.attempt(attempt_id), "superseded", "over", 3)


def test_a_full_fleet_rings_nobody_until_an_attempt_ends_and_then_the_next_in_order(tmp_path, migrated):
    world = fleet(tmp_path, migrated, fleet_max_attempts=1)
    deploy(world, "gates", priority=9)
    assert degrade(world, *THREE) == ["gates"]
    assert (
        bell(world, "fares") == "fleet: all 1 places are taken; goes when an attempt ends, by priority 5, after gates"
    )
    attempt = claim(world, "gates")["attempt"]
    assert world.intake.tick() == []
    with world.ledger.transaction() as tx:
        assert not tx.ring("fares", 60, 900)
    with world.ledger.transaction() as tx:
        tx.release_lease(attempt)
        tx.update_attempt(attempt, state="concluded")
    assert world.intake.tick() == ["fares"]


def test_a_claim_counts_again_so_that_the_limit_holds_whoever_was_rung(tmp_path, migrated):
    world = fleet(tmp_path, migrated, fleet_max_attempts=2)
    degrade(world, *THREE)
    answers = {model: claim(world, model) for model in THREE}
    assert [model for model, answer in answers.items() if answer["attempt"]] == ["flight_delay", "fares"]
    assert answers["gates"]["reason"].startswith("fleet: all 2 places are taken")
    assert [row.fate for row in world.events(model="gates", types=["ratchet.performance.degraded.v1"])] == ["pending"]
    looked = claim(world, "gates", "run2", "manual", reason="look", dry_run=True)
    assert looked["attempt"] is None
    assert looked["reason"].endswith("Nothing was queued: start this run again then")


def test_a_claim_does_not_pass_a_model_that_comes_first(tmp_path, migrated):
    world = fleet(tmp_path, migrated, fleet_max_attempts=1)
    deploy(world, "gates", priority=9)
    degrade(world, *THREE)
    assert claim(world, "fares")["reason"].endswith("by priority 5, after gates")
    assert claim(world, "gates")["attempt"]


def test_a_model_that_was_rung_in_vain_lets_the_others_pass(tmp_path, migrated):
    world = fleet(tmp_path, migrated, fleet_max_attempts=1)
    deploy(world, "gates", priority=9)
    degrade(world, "fares", "gates")
    for _ in range(3):
        with world.ledger.transaction() as tx:
            assert tx.ring("gates", 0, 0)
    assert "fares" in world.intake.tick()
    assert claim(world, "fares")["attempt"]


def test_models_of_one_group_share_the_places_of_an_incident(tmp_path, migrated):
    world = fleet(tmp_path, migrated, incident_max_attempts=1)
    deploy(world, "fares", group="feeds")
    deploy(world, "gates", group="feeds")
    assert degrade(world, *THREE) == ["fares", "flight_delay"]
    attempt = world.attempt(claim(world, "fares")["attempt"])
    assert attempt.options["incident"] == "group feeds since 2013-05-01T04:00:00+00:00"
    assert claim(world, "gates")["reason"].startswith("incident: all 1 places of group feeds since 2013-05-01")


def test_an_incident_that_the_sender_names_is_kept_and_counted(tmp_path, migrated):
    world = fleet(tmp_path, migrated, incident_max_attempts=1)
    for model in THREE:
        value = (
            b'{"specversion":"1.0","id":"i","source":"m","type":"ratchet.performance.degraded.v1","incident":"feed 7",'
            b'"time":"2013-05-01T04:00:00Z","subject":"%b","data":{"metric":"payoff","value":3.1,"threshold":4,'
            b'"window_end":"2013-05-01T04:00:00Z"}}' % model.encode()
        )
        world.intake.store([world.raw(value)])
    assert len(world.intake.tick()) == 1
    assert {row.incident for row in world.events(types=["ratchet.performance.degraded.v1"])} == {"feed 7"}


def test_a_crowd_shrinks_the_runs_of_models_that_say_so_and_the_attempt_tells_why(tmp_path, migrated):
    world = fleet(tmp_path, migrated, fleet_max_attempts=2)
    deploy(world, "fares", on_overload="shrink")
    degrade(world, *THREE)
    shrunk = world.attempt(claim(world, "fares")["attempt"])
    assert (shrunk.options["trials"], shrunk.options["shrunk"]) == (8, "8 of 12 trials: 3 models for 2 places")
    whole = world.attempt(claim(world, "flight_delay")["attempt"])
    assert (whole.options["trials"], whole.options["shrunk"]) == (None, None)


def test_core_hours_are_those_of_the_months_steps_and_override_is_audited(tmp_path, migrated):
    world = fleet(tmp_path, migrated)
    deploy(world, "fares", budget={"runs_per_day": 4, "core_hours_per_month": 3})
    degrade(world, "fares")
    attempt = claim(world, "fares")["attempt"]
    with world.ledger.transaction() as tx:
        for step, hours in (("snapshot", 0.5), ("tune.0", 1), ("tune.1", 1), ("evaluate", 0.5)):
            tx.save_step(attempt, step, {}, tx.wall() - timedelta(hours=hours))
    end(world, attempt)
    world.intake.tick()
    (event,) = world.events(model="fares", types=["ratchet.performance.degraded.v1"])
    assert event.reason.startswith("core_hours_per_month: 3 of 3 core hours spent; lifts 2013-06-01T04:00Z")
    assert claim(world, "fares", "run2", "manual", reason="now")["attempt"] is None
    assert claim(world, "fares", "run3", "manual", reason="now", override_budget=True)["attempt"]
    with world.ledger.transaction() as tx:
        assert tx.audit_log("fares")[-1]["detail"]["override_budget"] is True


def spent(world: World, model: str, run_id: str, hours: float) -> str:
    """A judged attempt by hand, whose steps took so many hours, half of them of tuning."""
    attempt = claim(world, model, run_id, "manual", reason="now", override_budget=True)["attempt"]
    with world.ledger.transaction() as tx:
        for step in ("snapshot", "tune.0"):
            tx.save_step(attempt, step, {}, tx.wall() - timedelta(hours=hours / 2))
        record = {
            "estimate": 0.6,
            "lower": 0.1,
            "upper": 1,
            "n_rows": 1400,
            "n_clusters": 14,
            "unit": "USD",
            "reasons": [],
        }
        tx.update_attempt(attempt, state="judged", verdict="keep_champion", verdict_record=record, judged_at=tx.wall())
        tx.update_attempt(attempt, evidence_digest="e" * 64, challenger_version=2)
        conclude(tx, tx.attempt(attempt), champion_after=1)
    return attempt


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"core_hours_per_day": 2.5}, "core_hours_per_day: 2 of 2.5 core hours spent, a run takes 1 by 2 runs only"),
        (
            {"money_per_month": {"amount": 25, "core_hour": 10, "unit": "EUR"}},
            "money_per_month: 20 of 25 EUR spent, a run takes 10 by 2 runs only",
        ),
    ],
    ids=["core hours of the day", "money of the month"],
)
def test_a_run_that_the_budget_has_no_room_for_is_deferred_with_the_forecast_and_the_time(
    tmp_path, migrated, budget, said
):
    world = fleet(tmp_path, migrated)
    deploy(world, "fares", budget={"runs_per_day": 9} | budget)
    first, second = (spent(world, "fares", f"run{number}", 1.0) for number in (1, 2))
    assert degrade(world, "fares") == []
    (event,) = world.events(model="fares", types=["ratchet.performance.degraded.v1"])
    assert event.reason.startswith(f"{said}; lifts 2013-0")
    assert (event.fate, event.until is not None) == ("deferred", True)
    with world.ledger.transaction() as tx:
        told = {
            entry["detail"]["attempt"]: entry["detail"].get("forecast")
            for entry in tx.audit_log("fares", action="attempt.opened")
        }
    assert told[first] is None
    assert (told[second]["runs"], told[second]["trials"], round(told[second]["upper"], 3)) == (1, 12, 1.0)


def test_runs_that_were_tuned_otherwise_tell_nothing_of_the_next_one(tmp_path, migrated):
    world = fleet(tmp_path, migrated)
    deploy(world, "fares", budget={"runs_per_day": 9, "core_hours_per_day": 2.5})
    for number in (1, 2):
        spent(world, "fares", f"run{number}", 1.0)
    with world.ledger.transaction() as tx:
        (before,) = (row.document for row in tx.specs() if row.model == "fares")
        other = ModelSpec.model_validate(before | {"train": before["train"] | {"tuning": {"policy": "cold"}}})
        tx.publish_spec("fares", other.digest, other.model_dump(mode="json"))
    assert degrade(world, "fares") == ["fares"]
    (told,) = forecasts_of(world.ledger, "fares")
    assert (told.told, told.limits) == (None, (("core_hours_per_day", told.limits[0][1], 2.5, "core hours"),))


def test_data_wait_until_a_run_pays_by_what_past_verdicts_gained_and_a_person_does_not(tmp_path, migrated):
    world = fleet(tmp_path, migrated)
    on = {"data": {"datasets": ["flights"], "min_new_rows": 1}, "drift": {"min_severity": 0.3}}
    budget = {"runs_per_day": 99}
    deploy(world, "fares", budget=budget, on=on, when_it_pays={"core_hour": 50.0})
    deploy(world, "gates", budget=budget, on=on)
    for number in range(3):
        attempt = spent(world, "fares", f"run{number}", 2.0)
        if number == 0:
            with world.ledger.transaction() as tx:
                tx.update_attempt(attempt, verdict="promote")
    world.arrive(MAY + timedelta(hours=1), rows=5)
    arrived = world.events(types=["ratchet.data.arrived.v1"], since=MAY + timedelta(minutes=1))
    said = {row.model: row for row in arrived if row.data["dataset"] == "flights"}
    waits = said["fares"]
    assert waits.fate == "deferred"
    assert waits.reason.startswith(
        "when_it_pays: a run costs 100 USD, a day of waiting loses 20 USD (1 of the last 3 runs promoted); pays 2013-05"
    )
    assert said["gates"].reason.startswith("admitted"), "off unless the spec asks for it"
    assert claim(world, "fares", "run9", "manual", reason="now")["attempt"]


def test_in_quiet_hours_nobody_is_rung_and_the_clock_lets_them_go(tmp_path, migrated):
    world = fleet(tmp_path, migrated)
    deploy(world, "fares", quiet_hours=["22:00-06:00"])
    assert degrade(world, "fares") == []
    with world.ledger.transaction() as tx:
        tx.set_clock("replay", MAY + timedelta(hours=6))
    assert world.intake.tick() == ["fares"]


# -- storms ------------------------------------------------------------------------------------------------------------


def storm(world: World, first: int, last: int) -> None:
    for number in range(first, last):
        data = DriftDetected(
            check="psi",
            severity=0.5 + number % 40 / 100,
            window_start=MAY - timedelta(days=2 + number % 2),
            window_end=MAY - timedelta(days=number % 2),
        )
        world.publish(data, world.model, MAY - timedelta(minutes=number), f"s{number}")


def fates_written(world: World) -> int:
    return sum(len(world_history) for world_history in _histories(world))


def _histories(world: World) -> list[list[dict]]:
    with world.ledger.transaction() as tx:
        return [tx.fate_history(row.pk) for row in tx.events(model=world.model)]


def test_a_burst_that_goes_on_writes_its_new_events_only(world):
    world.crown()
    deploy(world, world.model, debounce="1h")
    world.arrive(MAY, rows=1)
    storm(world, 0, 20)
    world.intake.tick()
    before = fates_written(world)
    storm(world, 20, 23)
    world.intake.tick()
    assert fates_written(world) == before + 2 * 3
    assert {row.reason for row in world.events(types=["ratchet.drift.detected.v1"])} == {
        "debounce: goes after 1h of quiet"
    }


@pytest.mark.parametrize("events", [MANY_EVENTS, MANY_EVENTS - 1])
def test_a_tick_that_read_many_events_rests_in_proportion_and_one_that_read_few_does_not(world, monkeypatch, events):
    now = [0.0]
    asked: list[str] = []

    def decided(tx, spec, *, retired):
        asked.append(spec.model)
        tx.unmark(spec.model)
        return events

    monkeypatch.setattr("ratchet.workflow.deciding.decide_model", decided)
    admissions = Admissions(world.ledger, world.settings, clock=lambda: now[0])

    def mark_and_decide() -> int:
        with world.ledger.transaction() as tx:
            tx.mark([world.model])
        admissions.decide()
        return len(asked)

    assert mark_and_decide() == 1
    rests = events == MANY_EVENTS
    assert mark_and_decide() == (1 if rests else 2)
    now[0] += 1
    assert mark_and_decide() == (2 if rests else 3)


def test_a_model_at_work_is_not_read(world):
    world.crown()
    world.arrive(MAY)
    world.claim()
    before = _histories(world)
    with world.ledger.transaction() as tx:
        tx.mark([world.model])
    assert world.intake.tick() == []
    assert _histories(world) == before


def test_a_limit_must_be_a_whole_number(tmp_path):
    home = {"RATCHET_HOME": str(tmp_path)}
    assert load_settings(home).fleet_max_attempts is None
    assert load_settings(home | {"RATCHET_FLEET_MAX_ATTEMPTS": "3"}).fleet_max_attempts == 3
    with pytest.raises(Refused, match="RATCHET_FLEET_MAX_ATTEMPTS must be a whole number from 1"):
        load_settings(home | {"RATCHET_FLEET_MAX_ATTEMPTS": "0"})


@pytest.mark.parametrize(("verdict", "fate"), [(None, "pending"), ("not_enough_evidence", "deferred")])
def test_the_cooldown_runs_from_a_verdict_not_from_a_run_that_died(tmp_path, migrated, verdict, fate):
    world = fleet(tmp_path, migrated)
    deploy(world, "gates", cooldown="6h")
    degrade(world, "gates")
    attempt = claim(world, "gates")["attempt"]
    if verdict:
        world.judge(attempt, verdict)
        world.publish(DEGRADED, "gates", MAY, "later")
    else:
        end(world, attempt)
    world.intake.tick()
    assert world.events(model="gates")[-1].fate == fate
