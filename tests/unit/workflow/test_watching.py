"""A new champion is watched: what is worse is taken back, what is better confirmed, and nothing is scored twice."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from worlds import Runs

from ratchet.domain.spec import ModelSpec
from ratchet.workflow.artifacts import UnusableArtifact
from ratchet.workflow.watching import Watch

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
PER_DAY = 40


class Features:
    """Rows of the asked days; what an act is worth on a day is its share of positive labels."""

    def __init__(self) -> None:
        self.share = 0.1
        self.asked: list[tuple[date, date]] = []
        self.empty: set[str] = set()
        self.meanwhile = lambda: None

    def apply(self) -> None: ...

    def spine(self, spec, *, as_of, start, end):
        self.asked.append((start, end))
        names = [(start + timedelta(days=i)).isoformat() for i in range((end - start).days)]
        names = [name for name in names if name not in self.empty]
        draws = [np.random.default_rng(int(name.replace("-", ""))) for name in names]
        labels = [draw.random(PER_DAY) < self.share for draw in draws]
        return pa.table(
            {
                "flight_id": [f"{name}/{i}" for name in names for i in range(PER_DAY)],
                "day": pa.array([name for name in names for _ in range(PER_DAY)], pa.string()),
                "label": pa.array(np.concatenate([np.zeros(0), *labels]).astype(np.int8)),
            }
        )

    def historical(self, spec, spine):
        assert spine.num_rows
        self.meanwhile()
        return spine


@dataclass
class Decider:
    """A model that acts on every row, or on none."""

    acts: bool
    lost: set[str] = field(default_factory=set)

    def decide(self, rows):
        act = np.full(rows.num_rows, self.acts)
        unknown = np.isin(rows.column("day").to_pylist(), sorted(self.lost))
        if unknown.any():
            act = np.where(unknown, math.nan, act.astype(float))
        return np.full(rows.num_rows, 0.5), act


class Shelf:
    """Deciders by version."""

    def __init__(self, **deciders) -> None:
        self.deciders = deciders

    def load(self, model, version):
        return self.deciders[f"v{version}"]


class Watched:
    """The world with a spec that has a probation, and version 2 promoted over version 1 on the first of May."""

    def __init__(self, world, **probation) -> None:
        self.world = world
        plain = world.spec.model_dump(mode="json") | {"probation": {"for": "28d"} | probation}
        self.deploy(ModelSpec.model_validate(plain))
        self.features = Features()
        self.shelf = Shelf(v1=Decider(acts=False), v2=Decider(acts=True), v3=Decider(acts=False))
        self.verb = Watch(
            world.ledger,
            world.relay,
            features=lambda: self.features,
            artifacts=lambda: self.shelf,
        )
        world.crown()
        world.arrive(MAY)
        self.attempt = self.promote(2)

    def deploy(self, spec) -> None:
        self.world.spec = spec
        with self.world.ledger.transaction() as tx:
            tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))

    def promote(self, version: int) -> str:
        attempt = self.judge(version)
        self.world.promotions.promote(self.world.model)
        return attempt

    def judge(self, version: int) -> str:
        attempt = self.world.claim(f"run{version}", "manual", reason="r", override_budget=True)["attempt"]
        self.world.judge(attempt, "promote", version)
        return attempt

    def mature(self, days: int) -> dict:
        """The labels of the first ``days`` days of the watch become known, and they are scored."""
        self.world.arrive(MAY + timedelta(days=days + 3))
        return self.watch()

    def watch(self) -> dict:
        return self.verb.watch(self.world.model)

    def newest(self):
        with self.world.ledger.transaction() as tx:
            return tx.probations(model=self.world.model)[0]

    def days(self):
        with self.world.ledger.transaction() as tx:
            return tx.probation_days(self.world.model, tx.probations(model=self.world.model)[0].seq)

    def champions(self):
        with self.world.ledger.transaction() as tx:
            return [(row.version, row.kind) for row in tx.champions(self.world.model)]

    def audited(self) -> list[str]:
        with self.world.ledger.transaction() as tx:
            return [entry["action"] for entry in tx.audit_log(self.world.model)]

    def sweep(self, **runs) -> dict:
        return self.world.sweeper.sweep(Runs("success", **runs), {self.world.model})


@pytest.fixture
def watched(world):
    return Watched(world)


# -- beginning ---------------------------------------------------------------------------------------------------------


def test_a_promotion_over_a_champion_begins_a_watch_on_the_first_whole_day_it_serves(watched):
    probation = watched.newest()
    assert (probation.version, probation.predecessor_version, probation.state) == (2, 1, "watching")
    assert (probation.first_day, probation.last_day) == (date(2013, 5, 2), date(2013, 5, 29))
    assert probation.until == datetime(2013, 6, 1, 4, tzinfo=UTC)
    assert "probation.begun" in watched.audited()


def test_a_first_champion_has_nothing_to_be_compared_with(world):
    plain = world.spec.model_dump(mode="json") | {"probation": {"for": "28d"}}
    spec = ModelSpec.model_validate(plain)
    with world.ledger.transaction() as tx:
        tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))
    world.arrive(MAY)
    world.judge(world.claim("run", "manual", reason="r", first_champion=True)["attempt"], "promote", 1)
    world.promotions.promote(world.model)
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).kind == "init"
        assert tx.probations() == []


def test_a_spec_without_probation_begins_none(world):
    world.crown()
    world.arrive(MAY)
    world.judge(world.claim()["attempt"], "promote")
    world.promotions.promote(world.model)
    with world.ledger.transaction() as tx:
        assert tx.current_champion(world.model).version == 2
        assert tx.probations() == []


def test_what_the_watch_can_see_is_planned_from_the_verdict_that_promoted(watched, world):
    assert "no verdict tells yet how days vary" in watched.newest().plan["why"]
    world.promotions.rollback(world.model, 1, "ann", "start over")
    attempt = watched.judge(3)
    clusters = [{"label": i, "rows": 800, "total_uplift": float(400 * (-1) ** i + 100)} for i in range(28)]
    with world.ledger.transaction() as tx:
        record = tx.attempt(attempt).verdict_record | {"diagnostics": {"clusters": clusters}}
        tx.update_attempt(attempt, verdict_record=record)
    world.promotions.promote(world.model)
    plan = watched.newest().plan
    assert plan["n_days"] == 28
    assert 0 < plan["detectable_loss"] < 2


# -- deciding ----------------------------------------------------------------------------------------------------------


def test_a_worse_champion_is_reverted_audited_and_told(watched, world):
    answer = watched.mature(20)
    assert answer["state"] == "reverted"
    assert watched.champions() == [(1, "init"), (2, "promotion"), (1, "revert")]
    assert {"probation.reverted", "champion.rolledback"} <= set(watched.audited())
    with world.ledger.transaction() as tx:
        entry = tx.current_champion(world.model)
        assert tx.open_probation(world.model) is None
    assert entry.actor == "ratchet (probation)"
    assert "worse than its predecessor" in entry.reason
    assert "USD per decision" in entry.reason
    told = [json.loads(r.value) for r in world.bus.records("ml.decisions")]
    rolledback = [event for event in told if event["type"] == "ratchet.model.rolledback.v1"]
    assert [(e["data"]["champion_before"], e["data"]["champion_after"]) for e in rolledback] == [(2, 1)]
    assert world.registry.alias_version(world.model, "champion") == 1
    assert world.promotions.announce(world.model)


def test_the_days_of_a_revert_do_not_judge_the_restored_champion_again_and_those_of_others_do(watched, world):
    watched.features.share = 0.24
    watched.mature(3)
    with world.ledger.transaction() as tx:
        assert date(2013, 5, 3) not in tx.used_days(world.model, 1) | tx.used_days(world.model, 2)
    watched.features.share = 0.1
    watched.mature(25)
    assert watched.newest().state == "reverted"
    with world.ledger.transaction() as tx:
        assert {date(2013, 5, 3), date(2013, 5, 20)} <= tx.used_days(world.model, 1)


def test_a_better_champion_is_confirmed_and_serves_on(watched):
    watched.features.share = 0.9
    assert watched.mature(20)["state"] == "confirmed"
    assert watched.champions()[-1] == (2, "promotion")
    assert "probation.confirmed" in watched.audited()
    assert watched.mature(24)["state"] is None


def test_a_champion_that_is_as_good_is_unproven_at_the_end_and_stays(watched):
    watched.shelf.deciders["v2"] = Decider(acts=False)
    assert watched.mature(27)["state"] == "watching"
    answer = watched.mature(28)
    assert answer["state"] == "unproven"
    assert "the champion stays, unproven" in answer["reason"]
    assert watched.champions()[-1] == (2, "promotion")


def test_a_loss_beyond_the_limit_reverts_at_once(world):
    watched = Watched(world, loss_limit={"amount": 200, "unit": "USD"})
    answer = watched.mature(1)
    assert answer["state"] == "reverted"
    assert "more than the limit of 200 USD" in answer["reason"]


def test_where_the_owner_wants_an_alert_nothing_is_reverted(world, caplog):
    watched = Watched(world, revert="alert")
    assert watched.mature(20)["state"] == "alerted"
    assert watched.champions()[-1] == (2, "promotion")
    assert "ratchet rollback flight_delay" in watched.newest().reason
    assert [r.levelname for r in caplog.records if "worse than its predecessor" in r.message] == ["ERROR"]


def test_a_day_whose_payoff_is_no_number_is_kept_as_such_and_decides_nothing(watched):
    watched.shelf.deciders["v2"].lost = {"2013-05-03"}
    assert watched.mature(20)["state"] == "watching"
    assert watched.days()[1].total is None
    assert "2013-05-03 is not a number" in watched.newest().reason
    assert watched.mature(28)["state"] == "unproven"


def test_models_that_cannot_be_loaded_end_the_watch_unproven_and_revert_nothing(watched):
    def tampered(model, version):
        raise UnusableArtifact(f"version {version}: artifact digest must be x, but got y")

    watched.shelf.load = tampered
    answer = watched.mature(5)
    assert (answer["state"], "artifact digest" in answer["reason"]) == ("unproven", True)
    assert watched.champions()[-1] == (2, "promotion")


# -- once, whatever happens --------------------------------------------------------------------------------------------


def test_a_day_is_scored_once_and_only_new_days_are_asked_for(watched):
    watched.features.share = 0.24
    assert watched.mature(3)["days"] == 3
    assert watched.watch()["days"] == 0
    assert watched.mature(5)["days"] == 2
    assert watched.features.asked == [
        (date(2013, 5, 2), date(2013, 5, 5)),
        (date(2013, 5, 5), date(2013, 5, 7)),
    ]
    assert [day.rows for day in watched.days()] == [PER_DAY] * 5


def test_a_process_that_dies_before_it_stored_the_days_leaves_them_due(watched):
    def die():
        raise KeyboardInterrupt

    watched.features.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        watched.mature(20)
    assert watched.days() == []
    watched.features.meanwhile = lambda: None
    assert watched.watch()["state"] == "reverted"


def test_two_that_score_the_same_days_store_one_answer(watched):
    watched.features.share = 0.24

    def other():
        watched.features.meanwhile = lambda: None
        watched.watch()

    watched.features.meanwhile = other
    watched.mature(4)
    assert len(watched.days()) == 4
    assert watched.newest().record["n_days"] == 4


def test_it_does_not_matter_whether_days_come_one_by_one_or_at_once(world):
    watched = Watched(world)
    for days in range(1, 21):
        if watched.mature(days)["state"] != "watching":
            break
    assert watched.newest().state == "reverted"
    assert watched.newest().record["n_days"] == len(watched.days()) < 20


def test_a_day_without_rows_is_scored_as_such(watched):
    watched.features.empty = {"2013-05-02", "2013-05-03"}
    watched.features.share = 0.24
    watched.mature(3)
    assert [(day.rows, day.total == 0) for day in watched.days()[:2]] == [(0, True), (0, True)]
    watched.features.empty = {f"2013-05-{day:02d}" for day in range(1, 32)}
    assert watched.mature(6)["state"] == "watching"


def test_a_promotion_that_came_in_meanwhile_wins(world):
    watched = Watched(world, on_new_promotion="restart")
    watched.features.meanwhile = lambda: watched.promote(3)
    assert watched.mature(20)["state"] is None
    assert [version for version, _ in watched.champions()] == [1, 2, 3]


def test_a_rollback_by_hand_ends_the_watch(watched, world):
    world.promotions.rollback(world.model, None, "ann", "complaints")
    assert watched.newest().state == "superseded"
    assert "ann took version 1 back" in watched.newest().reason
    assert watched.mature(20)["state"] is None
    assert watched.champions()[-1] == (1, "rollback")


# -- new promotions meanwhile ------------------------------------------------------------------------------------------


def test_a_challenger_that_passes_meanwhile_waits_and_is_promoted_when_the_watch_has_ended(watched, world):
    watched.features.share = 0.9
    attempt = watched.promote(3)
    assert world.attempt(attempt).state == "judged"
    assert watched.champions()[-1] == (2, "promotion")
    assert watched.mature(20)["state"] == "confirmed"
    world.promotions.promote(world.model)
    assert watched.champions()[-1] == (3, "promotion")
    assert watched.newest().predecessor_version == 2


def test_a_challenger_that_waited_for_a_champion_that_was_reverted_is_judged_again(watched, world):
    attempt = watched.promote(3)
    watched.mature(20)
    world.promotions.promote(world.model)
    assert world.attempt(attempt).state == "superseded"
    assert watched.champions()[-1] == (1, "revert")


def test_where_a_new_promotion_restarts_the_newest_pair_is_watched(world):
    watched = Watched(world, on_new_promotion="restart")
    watched.promote(3)
    with world.ledger.transaction() as tx:
        found = [(p.version, p.predecessor_version, p.state) for p in tx.probations()]
    assert found == [(3, 2, "watching"), (2, 1, "superseded")]


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_the_sweep_rings_for_days_that_became_mature_and_not_again_at_once(watched, world):
    assert watched.sweep()["probation"] == []
    world.arrive(MAY + timedelta(days=6))
    assert watched.sweep(paused=True)["probation"] == []
    assert watched.sweep()["probation"] == ["flight_delay"]
    assert watched.sweep()["probation"] == []
    with world.ledger.transaction() as tx:
        tx.update_probation(world.model, 2, rung_at=tx.wall() - timedelta(minutes=11))
    assert watched.sweep()["probation"] == ["flight_delay"]


def test_the_sweep_does_not_ring_for_a_verdict_that_waits_for_a_watch(watched, world):
    attempt = watched.judge(3)
    with world.ledger.transaction() as tx:
        tx.update_attempt(attempt, judged_at=tx.wall() - timedelta(minutes=5))
    assert watched.sweep()["judged"] == []
    watched.features.share = 0.9
    watched.mature(20)
    assert watched.sweep()["judged"] == ["flight_delay"]


def test_a_watch_ends_with_the_sweep_when_its_spec_has_no_probation_any_more(watched, world):
    plain = world.spec.model_dump(mode="json")
    watched.deploy(ModelSpec.model_validate(plain | {"probation": None}))
    watched.sweep()
    assert watched.newest().state == "superseded"
    assert "its spec has no probation now" in watched.newest().reason


def test_a_watch_goes_on_by_the_spec_it_began_with(watched, world):
    plain = world.spec.model_dump(mode="json")
    watched.deploy(ModelSpec.model_validate(plain | {"probation": {"for": "7d", "revert": "alert"}}))
    assert watched.mature(20)["state"] == "reverted"
