"""Who may write for an attempt, what frees a model whose attempt cannot go on, and who is rung for it."""

from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from worlds import Runs

from ratchet.adapters.ledger import schema
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, StaleAttempt, Unavailable
from ratchet.ports.ledger import ChampionRow
from ratchet.workflow.attempting import Attempts, Parts
from ratchet.workflow.claiming import Claims
from ratchet.workflow.leases import held, step
from ratchet.workflow.telling import Relay

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
STEPS = ("snapshot", "tune.0", "tune.1", "evaluate")


def sweep(world, runs: Runs, folders=None) -> dict:
    return world.sweeper.sweep(runs, {world.model} if folders is None else folders)


def attempts(world, code_digest: str = "c" * 64) -> Attempts:
    def none_needed():
        raise AssertionError("this step needs no driver")

    return Attempts(
        Parts(
            ledger=world.ledger,
            settings=world.settings,
            code_digest=code_digest,
            features=none_needed,
            store=none_needed,
            studies=none_needed,
            registry=lambda: world.registry,
            models=none_needed,
            artifacts=none_needed,
            environment=dict,
        )
    )


def changed(spec: ModelSpec, part: str, **values) -> ModelSpec:
    return ModelSpec.model_validate(
        spec.model_copy(update={part: getattr(spec, part).model_copy(update=values)}).model_dump(mode="json")
    )


def deploy(world, spec: ModelSpec) -> None:
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, spec.digest, spec.model_dump(mode="json"))


def seconds_left(world) -> float:
    with world.ledger.transaction() as tx:
        (lease,) = tx.leases()
        return (lease.expires_at - tx.wall()).total_seconds()


def expire(world, attempt_id: str) -> None:
    with world.ledger.transaction() as tx:
        tx.renew_lease(attempt_id, -1)


def fates(world) -> set[str]:
    return {row.fate for row in world.events()}


def doorbell(world) -> tuple[bool, bool, int]:
    """Whether the model is due, whether it was rung, and how often."""
    with world.ledger.engine.connect() as db:
        row = db.execute(sa.select(schema.doorbell)).mappings().one()
    return row["due_at"] is not None, row["rung_at"] is not None, row["rings"]


def ring(world, times: int) -> None:
    with world.ledger.engine.begin() as db:
        db.execute(sa.update(schema.doorbell).values(rung_at=datetime.now(UTC), rings=times))


def age_outbox(world, seconds: float) -> None:
    with world.ledger.engine.begin() as db:
        db.execute(sa.update(schema.outbox).values(created_at=datetime.now(UTC) - timedelta(seconds=seconds)))


@pytest.fixture
def world(world):
    """Without cooldown: what was freed may start again at once."""
    world.spec = changed(world.spec, "retrain", cooldown=timedelta(0))
    deploy(world, world.spec)
    return world


@pytest.fixture
def claimed(world) -> str:
    world.crown()
    world.arrive(MAY)
    return world.claim()["attempt"]


# What frees a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "state"), [("failed", "failed"), ("success", "failed"), ("missing", "abandoned")])
def test_a_run_that_ended_or_vanished_frees_its_model_at_the_next_sweep_however_fresh_the_lease(
    world, claimed, run, state
):
    assert seconds_left(world) > 60
    assert sweep(world, Runs(run))["reaped"] == [claimed]
    assert (world.attempt(claimed).state, fates(world)) == (state, {"pending"})


def test_a_model_whose_folder_was_removed_is_freed_because_its_run_can_never_go_on(world, claimed):
    assert sweep(world, Runs("running"), folders=set())["reaped"] == [claimed]
    assert "missing" in world.attempt(claimed).failure


def test_a_working_step_is_left_alone_until_it_was_silent_for_a_whole_lease(world, claimed):
    assert sweep(world, Runs(working=True))["reaped"] == []
    expire(world, claimed)
    assert sweep(world, Runs(working=True))["reaped"] == [claimed]


@pytest.mark.parametrize("run", ["queued", "running"])
def test_an_attempt_that_waits_for_a_slot_is_renewed_beyond_the_next_sweep(world, claimed, run):
    """Were it not, a step that has just begun when the sweep looks would be taken for a dead worker."""
    expire(world, claimed)
    assert sweep(world, Runs(run))["reaped"] == []
    assert seconds_left(world) > 60


def test_a_step_leaves_its_successor_time_to_begin_and_holds_the_lease_shorter_while_it_works(world, claimed):
    with held(world.ledger, claimed, world.settings):
        assert seconds_left(world) <= world.settings.lease_ttl_seconds
    assert seconds_left(world) > 60


def test_a_ledger_that_was_away_is_asked_again_at_once_and_not_after_a_whole_beat(world, claimed):
    refusals = iter([Unavailable("away")])

    class Away:
        def transaction(self):
            for refusal in refusals:
                raise refusal
            return world.ledger.transaction()

    ledger = Away()
    next_beat = replace(world.settings, lease_ttl_seconds=500.0, lease_renew_seconds=0.01)
    with pytest.raises(Unavailable), held(ledger, claimed, next_beat):
        pass
    with held(ledger, claimed, next_beat):
        refusals = iter([Unavailable("away")])
        while seconds_left(world) < 499:
            pass


# Who may write --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_fails_once_is_done_again_and_then_answers_what_it_stored(world, claimed, name):
    def fails(attempt):
        raise ValueError(name)

    with pytest.raises(ValueError, match=name):
        step(world.ledger, world.settings, claimed, name, fails)
    assert step(world.ledger, world.settings, claimed, name, lambda a: {"of": a.id}) == {"of": claimed}
    assert step(world.ledger, world.settings, claimed, name, fails) == {"of": claimed}


def test_attempts_that_fail_in_every_step_in_turn_give_their_events_back_until_these_have_failed(world):
    world.crown()
    world.arrive(MAY)
    for number, name in enumerate(STEPS[: world.settings.max_event_tries]):
        attempt = world.claim(f"run{number}")["attempt"]
        for before in STEPS[:number]:
            step(world.ledger, world.settings, attempt, before, lambda a: {"of": a.id})
        with pytest.raises(ZeroDivisionError):
            step(world.ledger, world.settings, attempt, name, lambda _: {"never": 1 / 0})
        assert sweep(world, Runs("failed"))["reaped"] == [attempt]
        assert [row.tries for row in world.events()] == [number + 1] * 2
    assert fates(world) == {"failed"}


def test_a_worker_presumed_dead_stores_nothing_when_it_wakes(world, claimed):
    def sleeps_too_long(attempt):
        expire(world, attempt.id)
        sweep(world, Runs(working=True))
        return {"of": attempt.id}

    with pytest.raises(StaleAttempt, match="does not hold the lease"):
        step(world.ledger, world.settings, claimed, "tune.0", sleeps_too_long)
    with world.ledger.transaction() as tx:
        assert tx.step_result(claimed, "tune.0") is None
    assert fates(world) == {"pending"}


@pytest.mark.parametrize("name", ["snapshot", "tune.0"])
def test_a_task_cleared_after_its_attempt_has_ended_fails_with_the_remedy(world, claimed, name):
    step(world.ledger, world.settings, claimed, name, lambda a: {"of": a.id})
    world.judge(claimed, "keep_champion")
    with pytest.raises(StaleAttempt, match=r"concluded \(verdict keep_champion, which stands\).*Start a new run"):
        step(world.ledger, world.settings, claimed, name, lambda _: {})
    with pytest.raises(StaleAttempt, match="Start a new run"):
        attempts(world).plan_tuning(claimed)
    with pytest.raises(StaleAttempt, match="Start a new run"):
        attempts(world).judge(claimed)


def test_a_judge_that_is_run_again_before_the_promotion_answers_its_stored_verdict(world, claimed):
    answer = {"verdict": {"decision": "promote"}}
    step(world.ledger, world.settings, claimed, "evaluate", lambda _: answer)
    world.judge(claimed, "promote")
    assert attempts(world).judge(claimed) == answer


def test_an_attempt_without_its_lease_cannot_be_moved_on_to_the_next_state(world, claimed):
    with world.ledger.transaction() as tx:
        tx.update_attempt(claimed, state="snapshotted")
        tx.release_lease(claimed)
    with pytest.raises(StaleAttempt):
        attempts(world).judge(claimed)
    assert world.attempt(claimed).state == "snapshotted"


def test_mark_success_cannot_promote_because_promotion_requires_the_stored_verdict(world, claimed):
    assert world.promotions.promote(world.model)["promoted"] is None
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).seq == 1


# Redeployment ---------------------------------------------------------------------------------------------------------


def test_other_code_than_the_claims_is_refused_with_the_remedy_and_the_events_start_an_attempt_of_the_new_code(
    world, claimed
):
    redeployed = attempts(world, code_digest="d" * 64)
    for verb in (redeployed.snapshot, redeployed.plan_tuning, lambda a: redeployed.tune(a, 0)):
        with pytest.raises(Refused, match=r"claimed by code cccccccccccc, but dddddddddddd runs now.*Start a new run"):
            verb(claimed)
    sweep(world, Runs("failed"))
    world.claims = Claims(world.ledger, world.settings, "d" * 64)
    successor = world.attempt(world.claim("run2")["attempt"])
    assert successor.code_digest == "d" * 64
    assert {row.attempt_id for row in world.events()} == {successor.id}


def test_a_spec_deployed_during_an_attempt_counts_from_the_next_one(world, claimed):
    deploy(world, changed(world.spec, "train", workers=1))
    assert world.attempt(claimed).spec_digest == world.spec.digest
    assert len(attempts(world).plan_tuning(claimed)) == 2
    sweep(world, Runs("failed"))
    assert len(attempts(world).plan_tuning(world.claim("run2")["attempt"])) == 1


# Bells ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [Runs(paused=True), Runs()])
def test_a_model_that_cannot_start_is_not_rung_and_what_was_rung_in_vain_does_not_count(world, runs):
    world.crown()
    world.arrive(MAY)
    ring(world, times=5)
    folders = {world.model} if runs.paused else set()
    assert sweep(world, runs, folders)["due"] == []
    assert doorbell(world) == (True, False, 0)
    with world.ledger.transaction() as tx:
        assert tx.ring(world.model, 60, 900), "the first bell after the pause need not wait"


def test_a_model_that_can_start_is_rung_within_its_back_off_only(world):
    world.crown()
    world.arrive(MAY)
    ring(world, times=5)
    assert sweep(world, Runs())["due"] == []
    assert doorbell(world) == (True, True, 5)


@pytest.mark.parametrize("awaited", [True, False])
def test_the_sweep_does_not_ring_again_for_a_run_that_waits_for_its_claim(world, awaited):
    world.crown()
    world.arrive(MAY)
    with world.ledger.engine.begin() as db:
        long_ago = datetime.now(UTC) - timedelta(seconds=600)
        db.execute(sa.update(schema.doorbell).values(rung_at=long_ago, due_at=long_ago, rings=1))
    assert sweep(world, Runs(awaited=awaited))["due"] == ([] if awaited else [world.model])
    assert doorbell(world) == (True, True, 2), "counted either way: the next one comes later"


def test_a_promotion_that_was_cut_off_is_announced_by_the_sweep_once(world, claimed):
    world.judge(claimed, "promote")
    world.promotions.promote(world.model)
    assert sweep(world, Runs("success"))["champion"] == [], "its own task has a minute for it"
    age_outbox(world, 61)
    assert sweep(world, Runs("success"))["champion"] == [world.model]
    assert sweep(world, Runs("success"))["champion"] == []
    assert not world.promotions.announce(world.model)


def test_a_promotion_that_was_announced_by_its_own_task_is_not_announced_again(world, claimed):
    world.judge(claimed, "promote")
    world.promotions.promote(world.model)
    assert world.promotions.announce(world.model)
    age_outbox(world, 61)
    assert sweep(world, Runs("success"))["champion"] == []


# Aliases --------------------------------------------------------------------------------------------------------------


def judged(world, claimed: str, decision: str, version: int) -> None:
    """The verdict as ``judge`` stores it, of a version that is registered."""
    world.judge("none", "promote", version)  # registers
    answer = {
        "verdict": {"decision": decision, "estimate": 1.0, "unit": "USD"},
        "evidence_digest": "e" * 64,
        "challenger_version": version,
        "dossier_uri": "file:///d",
        "dossier_sha256": "d" * 64,
        "model_digest": "a" * 64,
        "used_days": {},
    }
    step(world.ledger, world.settings, claimed, "evaluate", lambda _: answer)
    attempts(world).judge(claimed)


def test_the_challenger_alias_names_who_was_judged_last_and_is_moved_through_the_outbox(world, claimed):
    judged(world, claimed, "keep_champion", 2)
    world.relay.run()
    assert world.registry.alias_version(world.model, "challenger") == 2


def test_a_dry_run_does_not_move_the_challenger_alias(world):
    world.crown()
    world.arrive(MAY)
    judged(world, world.claim("run1", "manual", reason="look", dry_run=True)["attempt"], "promote", 2)
    world.relay.run()
    assert world.registry.alias_version(world.model, "challenger") is None


class Watched:
    """The ledger; its open transaction can be written to by what plays another process."""

    def __init__(self, ledger) -> None:
        self.ledger = ledger

    @contextmanager
    def transaction(self):
        with self.ledger.transaction() as self.tx:
            yield self.tx


@pytest.mark.parametrize("alias", ["champion", "challenger"])
def test_a_relay_that_slept_between_looking_and_setting_does_not_leave_the_alias_behind(world, claimed, alias):
    judged(world, claimed, "promote", 2)
    if alias == "champion":
        world.promotions.promote(world.model)
    with world.ledger.engine.begin() as db:
        db.execute(sa.update(schema.outbox).values(done_at=datetime.now(UTC)))
        row = {"kind": "alias", "dedupe": "late", "payload": {"alias": alias}, "model": world.model}
        db.execute(sa.insert(schema.outbox).values(**row, created_at=datetime.now(UTC), tries=0))
    ledger, named = Watched(world.ledger), []

    class Registry:
        def set_alias(self, model, name, version):
            if not named:
                overtake(ledger.tx)
            named.append(version)

    def overtake(tx):
        tx.start_attempt(replace(tx.attempt(claimed), id="flight_delay.2", epoch=2, challenger_version=3), 60)
        tx.insert_champion(
            ChampionRow(world.model, 2 + (alias == "champion"), 3, None, "rollback", MAY, None, "r", None, MAY)
        )

    Relay(ledger, lambda: world.bus, Registry).run()
    assert named == [2, 3]
