"""Retention on a ledger: what is decided is recorded first, and a killed purge is completed by the next one."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from worlds import World

from ratchet.domain.events import DriftDetected
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import MonitoredRow, ProbationRow, ScoredDay
from ratchet.ports.studies import InMemoryStudies
from ratchet.workflow.artifacts import UnusableArtifact
from ratchet.workflow.monitoring import key_of as report_key
from ratchet.workflow.purging import OPEN_STATES, Purges
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.scoring import key_of, manifest_of
from ratchet.workflow.verifying import REMOVED, Verifier

START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def retain(world: World, **rules: Any) -> None:
    document = world.spec.model_dump(mode="json") | {"retention": rules}
    world.spec = ModelSpec.model_validate(document)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))


def purges(world: World) -> Purges:
    if not hasattr(world, "studies"):
        world.studies = InMemoryStudies()
    return Purges(world.ledger, lambda: world.store, lambda: world.registry, lambda: world.studies, world.housekeeping)


def began(world: World, number: int, **conf: Any) -> str:
    """An attempt at work, a day after the one before, with a snapshot and a study."""
    world.arrive(START + number * DAY)
    attempt = world.claim(f"run{number}", "manual", reason="to see", **conf)["attempt"]
    world.store.put_bytes(f"snapshots/{attempt}/train.parquet", b"x" * 1000)
    world.store.put_bytes(f"snapshots/{attempt}/manifest.json", b"{}")
    purges(world)
    world.studies._spent[attempt] = []
    return attempt


def lived(world: World, number: int, decision: str = "keep_champion", **conf: Any) -> str:
    """An attempt that has ended."""
    attempt = began(world, number, **conf)
    world.judge(attempt, decision, version=number)
    if decision == "promote":
        world.promotions.promote(world.model)
    return attempt


@pytest.fixture
def aged(world):
    """Versions 2 to 9: 2 was judged and kept out, 3 and 5 became champion, 9 has not ended."""
    world.crown(1)
    for number in range(2, 9):
        lived(world, number, "promote" if number in {3, 5} else "keep_champion")
    world.open = began(world, 9)
    retain(world, snapshots=1, versions=2, studies="3d")
    return world


def state(world: World) -> dict[str, Any]:
    return {
        "objects": sorted(world.store.sizes("snapshots")),
        "versions": sorted(world.registry.versions(world.model)),
        "studies": sorted(world.studies.names()),
    }


def audited(world: World) -> list[str]:
    with world.ledger.transaction() as tx:
        return [entry["action"] for entry in tx.audit_log(action="retention")]


def test_without_apply_it_is_only_told(aged) -> None:
    before = state(aged)
    (told,) = purges(aged).purge(apply=False, actor="ann")
    assert (told.removed, told.freed_bytes) == (None, None)
    assert {item.name for item, _ in told.remove if item.kind == "version"} == {"1", "2", "4", "6"}
    assert {size for item, size in told.remove if item.kind == "snapshot"} == {1002}
    assert state(aged) == before
    assert audited(aged) == []


def test_what_goes_is_gone_audited_and_gone_once(aged) -> None:
    (told,) = purges(aged).purge(apply=True, actor="ann")
    names = {kind: [item.name for item, _ in told.remove if item.kind == kind] for kind in ("version", "snapshot")}
    assert names["version"] == ["1", "2", "4", "6"]
    ids = {number: f"flight_delay.{number - 1}" for number in range(2, 10)}
    assert names["snapshot"] == [ids[2], ids[4], ids[6]]
    assert sorted(aged.registry.versions(aged.model)) == [3, 5, 7, 8]
    assert {key.split("/")[1] for key in aged.store.sizes("snapshots")} == {ids[n] for n in (3, 5, 7, 8, 9)}
    assert aged.open in aged.studies.names()
    assert told.removed == len(told.remove)
    assert told.freed_bytes == 3 * 1002 + 4 * len("{}")
    assert audited(aged) == ["retention.decided", "retention.removed"]
    (again,) = purges(aged).purge(apply=True, actor="ann")
    assert (again.remove, again.removed, again.freed_bytes) == ((), 0, 0)
    assert len(audited(aged)) == 2
    assert aged.audit_log.verify().problems == ()


def test_a_rollback_goes_to_the_predecessor_and_not_to_what_is_gone(aged) -> None:
    purges(aged).purge(apply=True, actor="ann")
    with pytest.raises(Refused, match=r"version 1 of flight_delay was removed by retention on .* \(retention.versions"):
        aged.promotions.rollback(aged.model, 1, "ann", "to see")
    assert aged.promotions.rollback(aged.model, None, "ann", "to see")["version"] == 3
    with pytest.raises(UnusableArtifact, match="removed by retention"):
        aged.artifacts.load(aged.model, 4)


def test_a_rollback_that_loaded_its_version_before_the_purge_decided_is_refused(aged) -> None:
    check = aged.artifacts.check

    def late(model: str, version: int) -> None:
        check(model, version)
        purges(aged).purge(apply=True, actor="ann")

    aged.artifacts.check = late
    with pytest.raises(Refused, match="removed by retention"):
        aged.promotions.rollback(aged.model, 1, "ann", "to see")
    with aged.ledger.transaction() as tx:
        assert tx.current_champion(aged.model).version == 5


class Killed(BaseException):
    """What a kill looks like from inside."""


class Mortal:
    """A part whose removals count down; at zero the process dies, before or after the removal itself."""

    def __init__(self, part: Any, left: list[int], *, after: bool) -> None:
        self._part, self._left, self._after = part, left, after

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._part, name)
        if name not in {"delete", "remove"}:
            return act

        def mortal(*args: Any) -> Any:
            self._left[0] -= 1
            if self._left[0] == 0 and not self._after:
                raise Killed
            answer = act(*args)
            if self._left[0] == 0:
                raise Killed
            return answer

        return mortal


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 3, 5, 8])
def test_a_killed_purge_leaves_nothing_half_done_and_the_next_completes_it(aged, at, after) -> None:
    left = [at]
    parts = [Mortal(part, left, after=after) for part in (aged.store, aged.registry, aged.studies)]
    with pytest.raises(Killed):
        Purges(aged.ledger, *(lambda part=part: part for part in parts), aged.housekeeping).purge(
            apply=True, actor="ann"
        )
    with aged.ledger.transaction() as tx:
        decided = tx.removals(aged.model)
    gone = [row for row in decided if row.kind == "version" and row.name == "2"]
    assert gone, "what is removed was decided before"
    with pytest.raises(UnusableArtifact, match="removed by retention"):
        aged.artifacts.load(aged.model, 2)
    (told,) = purges(aged).purge(apply=True, actor="bob")
    assert told.remove == ()
    with aged.ledger.transaction() as tx:
        assert all(row.removed_at is not None for row in tx.removals(aged.model))
    assert sorted(aged.registry.versions(aged.model)) == [3, 5, 7, 8]
    assert len({key.split("/")[1] for key in aged.store.sizes("snapshots")}) == 5


def test_predictions_and_reports_go_by_age_and_their_days_are_not_scored_again(world) -> None:
    world.crown(1)
    lived(world, 60)
    retain(world, predictions="30d", reports="30d")
    days = [(START + number * DAY).date() for number in (0, 50)]
    with world.ledger.transaction() as tx:
        for day in days:
            key = key_of(world.model, day, "champion")
            sha = world.store.put_bytes(key, b"rows")
            world.store.put_bytes(manifest_of(world.model, day, "champion"), b"{}")
            tx.save_scored_day(ScoredDay(world.model, day, "champion", 1, None, "run", START, 1, 1, key, sha))
            end = datetime.combine(day, datetime.min.time(), UTC)
            report = report_key(world.model, end, "d" * 64)
            world.store.put_bytes(report, b"report")
            row = MonitoredRow(world.model, end, "done", world.spec.digest, 1, {}, world.store.uri(report), "d" * 64)
            tx.save_monitored(row)
    (told,) = purges(world).purge(world.model, apply=True, actor="ann")
    assert told.freed_bytes == len(b"rows") + len(b"{}") + len(b"report")
    assert list(world.store.sizes("predictions")) == [
        manifest_of(world.model, days[1], "champion"),
        key_of(world.model, days[1], "champion"),
    ]
    assert len(world.store.sizes("monitor")) == 1
    with world.ledger.transaction() as tx:
        assert len(tx.scored_days(world.model)) == 2


def test_a_model_without_retention_loses_nothing(world) -> None:
    assert purges(world).purge(apply=True, actor="ann") == []
    with pytest.raises(Refused, match="has no retention: all is kept"):
        purges(world).purge(world.model, apply=True, actor="ann")
    with pytest.raises(Refused, match="there is no model 'other'"):
        purges(world).purge("other", apply=True, actor="ann")


def spared(told: Any) -> dict[tuple[str, str], str]:
    return {(item.kind, item.name): item.why for item in told.spared}


def test_a_version_that_days_still_to_be_scored_need_stays_as_long_as_they_are_looked_back_for(world) -> None:
    world.crown(1)
    for number in (2, 3, 4):
        lived(world, number, "promote")
    document = world.spec.model_dump(mode="json") | {"scoring": {"catch_up": "7d"}, "retention": {"versions": 1}}
    world.spec = ModelSpec.model_validate(document)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
    (told,) = purges(world).purge(apply=False, actor="ann")
    assert spared(told)["version", "2"] == "days that it served may still be scored"
    world.arrive(START + 40 * DAY)
    (later,) = purges(world).purge(apply=False, actor="ann")
    assert {item.name for item, _ in later.remove} == {"1", "2"}
    assert spared(later) == {("version", "3"): "a rollback takes it back"}


def test_what_an_open_follow_up_judges_again_stays_and_the_report_that_an_open_event_names(world) -> None:
    world.crown(1)
    undecided = lived(world, 2, "not_enough_evidence")
    later = [lived(world, number, dry_run=True) for number in (3, 4, 5)]
    retain(world, snapshots=1, versions=1, reports="1d")
    keys = [report_key(world.model, START + number * DAY, "d" * 64) for number in (0, 1, 30)]
    with world.ledger.transaction() as tx:
        for number, key in zip((0, 1, 30), keys, strict=True):
            world.store.put_bytes(key, b"report")
            end = START + number * DAY
            tx.save_monitored(
                MonitoredRow(world.model, end, "done", world.spec.digest, 1, {}, world.store.uri(key), "d" * 64)
            )
        tx.set_clock("replay", START + 32 * DAY)
        (follow_up,) = [row for row in tx.events(model=world.model) if row.origin == "attempt"]
    assert follow_up.fate == "deferred"
    named = DriftDetected(
        check="features",
        severity=0.5,
        window_start=START - DAY,
        window_end=START + 32 * DAY,
        evidence_uri=world.store.uri(keys[0]),
    )
    world.publish(named, world.model, START + 32 * DAY, "named")
    world.intake.tick()
    (told,) = purges(world).purge(apply=True, actor="ann")
    assert spared(told)["version", "2"] == f"of {undecided}: it gave the newest verdict"
    assert spared(told)["snapshot", undecided] == "it gave the newest verdict"
    assert spared(told)["report", keys[0]] == "event named, which is open, names it"
    gone = {(item.kind, item.name) for item, _ in told.remove}
    assert {("snapshot", later[0]), ("version", "3"), ("report", keys[1])} <= gone
    assert not world.store.exists(keys[1])


def test_both_sides_of_an_open_probation_stay(world) -> None:
    world.crown(1)
    for number in (2, 3, 4, 5):
        lived(world, number)
    retain(world, versions=1)
    with world.ledger.transaction() as tx:
        champion = tx.current_champion(world.model)
        day = START.date()
        watch = ProbationRow(
            *(
                world.model,
                champion.seq,
                3,
                0,
                2,
                world.spec.digest,
                day,
                day,
                START,
                START,
                "watching",
                "",
                {},
                {},
                START,
            )
        )
        tx.insert_probation(watch)
    (told,) = purges(world).purge(apply=False, actor="ann")
    assert [item.name for item, _ in told.remove] == ["4"]
    assert spared(told)["version", "2"].startswith("the probation that is open compares with it")


@pytest.mark.parametrize("seed", range(6))
def test_what_serves_is_watched_or_open_has_all_it_needs_after_any_history(world, seed) -> None:
    """Random lives with purges between: promotions, rollbacks, failures, waiting approvals, killed purges."""
    chance = random.Random(seed)
    retain(world, snapshots=chance.randint(1, 3), versions=chance.randint(1, 3), studies="2d")
    world.crown(1)
    for number in range(2, 14):
        attempt = began(world, number)
        end = chance.choice(["keep_champion", "promote", "promote", "waits", "dies", "rollback"])
        if end in {"keep_champion", "promote", "waits"}:
            world.judge(attempt, "promote" if end == "waits" else end, version=number)
        if end == "promote":
            world.promotions.promote(world.model)
        if end in {"dies", "rollback"}:
            with world.ledger.transaction() as tx:
                tx.update_attempt(attempt, state="failed")
                tx.release_lease(attempt)
        if end == "rollback" and len({c.version for c in champions(world)}) > 1:
            world.promotions.rollback(world.model, None, "ann", "to see")
        purges(world).purge(apply=True, actor="ann")
        everything_needed_is_there(world)
    assert world.audit_log.verify().problems == ()


def champions(world: World) -> list[Any]:
    with world.ledger.transaction() as tx:
        return tx.champions(world.model)


def everything_needed_is_there(world: World) -> None:
    """An account of its own: from the ledger's rows to storage, registry and studies."""
    history = [row.version for row in champions(world)]
    with world.ledger.transaction() as tx:
        attempts = tx.attempts(model=world.model)
        probation = tx.open_probation(world.model)
    there = set(world.registry.versions(world.model))
    snapshots = {key.split("/")[1] for key in world.store.sizes("snapshots")}
    needed = {history[-1], *[v for v in history if v != history[-1]][-1:]}
    if probation:
        needed |= {probation.version, probation.predecessor_version}
    for attempt in attempts:
        if attempt.state in OPEN_STATES:
            needed |= {v for v in (attempt.challenger_version, attempt.champion_version) if v}
            assert attempt.id in snapshots
            assert attempt.id in world.studies.names()
    assert needed <= there
    for attempt in attempts:
        if attempt.challenger_version in there:
            assert attempt.id in snapshots, "the version could not be made again"


def test_after_a_purge_all_that_is_recorded_verifies_and_what_is_kept_is_made_again(judging) -> None:
    judging.registry.set_alias(judging.model, "champion", champions(judging)[-1].version)
    judging.run("2013-05-10")
    retain(judging, snapshots=1, versions=1, studies="1d")
    (told,) = purges(judging).purge(apply=True, actor="ann")
    assert told.removed
    log = judging.audit_log
    verifier = Verifier(judging.ledger, log, judging.artifacts, lambda: judging.registry, lambda: judging.store)
    found = verifier.verify()
    assert found.findings == ()
    assert found.looked_at[REMOVED] == told.removed
    repeats = Repeats(judging.parts)
    serving = champions(judging)[-1].attempt_id
    assert repeats.reproduce(judging.attempt(serving), "ann").same
    (lost, *_) = [item.name for item, _ in told.remove if item.kind == "snapshot"]
    assert repeats.replay(judging.attempt(lost), "ann").same, "the evidence of a verdict stays"
    judging.attempts.card(judging.attempt(lost))
    with pytest.raises(Refused, match=rf"the snapshot of {lost} was removed by retention"):
        repeats.reproduce(judging.attempt(lost), "ann")
