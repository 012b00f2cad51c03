"""The sitting champion with another calibration, judged beside the tuned challenger: whole attempts."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from drifted_worlds import DULL, deploy, drift
from judged_attempts import JudgingWorld
from labelled_rows import spec

from ratchet.adapters import models
from ratchet.domain.spec import ModelSpec
from ratchet.workflow import dossiers
from ratchet.workflow.backtesting import World, backtest_year
from ratchet.workflow.cards import card
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.self_testing import SelfTests

TUNED, RECALIBRATED = "tuned_challenger", "recalibrated_champion"


@pytest.fixture(scope="module")
def drifted_template(judged_template, tmp_path_factory):
    """The champion's level has drifted, the tuned challenger knows nothing, and both were judged."""
    made = judged_template.copy(tmp_path_factory.mktemp("drifted"))
    drift(made, -1.5)
    deploy(made, train=DULL)
    made.before = current(made)
    made.third = made.run("2013-05-10")
    yield made
    made.ledger.dispose()


@pytest.fixture
def drifted(drifted_template, tmp_path):
    """A copy of it, to be spoilt at will."""
    made = drifted_template.copy(tmp_path)
    drift(made, -1.5)
    deploy(made, train=DULL)
    made.before, made.third = drifted_template.before, drifted_template.third
    yield made
    made.ledger.dispose()


def current(world):
    with world.ledger.transaction() as tx:
        return tx.current_champion(world.model)


def dossier_of(world, attempt) -> dict:
    return dossiers.read(world.store, attempt)


def judged(dossier: dict) -> dict[str, dict]:
    return {entry["name"]: entry for entry in dossier["candidates"]["judged"]}


def look_again(world):
    """The attempt that the follow-up asks for, judged at its date."""
    world.intake.tick()
    (follow_up,) = [row for row in world.events() if row.origin == "attempt" and row.fate == "deferred"]
    world.arrive(follow_up.until, rows=1)
    attempt_id = world.claim("again")["attempt"]
    world.attempts.snapshot(attempt_id)
    for share in world.attempts.plan_tuning(attempt_id):
        world.attempts.tune(share["attempt"], share["worker"])
    world.attempts.judge(attempt_id)
    return world.attempt(attempt_id)


def served(world, version: int):
    return models.load(world.registry.download(world.model, version))


def test_a_champion_whose_level_has_drifted_is_replaced_by_its_recalibrated_self(drifted):
    third = drifted.third
    assert third.verdict == "promote", third.verdict_record["reasons"]
    assert (third.promoted, current(drifted).version) == (True, third.challenger_version)
    was, now = served(drifted, drifted.before.version), served(drifted, third.challenger_version)
    assert now.scorer.native_bytes() == was.scorer.native_bytes()
    assert (now.features, now.categories, now.params) == (was.features, was.categories, was.params)
    assert now.calibrator != was.calibrator
    assert now.calibrator.intercept < was.calibrator.intercept
    assert now.threshold == was.threshold
    with drifted.ledger.transaction() as tx:
        recorded = tx.version_digest(drifted.model, third.challenger_version)
    assert recorded == dossier_of(drifted, third)["challenger"]["digest"]


def test_its_map_is_learned_only_on_days_after_its_scorers_fit_and_before_the_holdout(drifted):
    dossier = dossier_of(drifted, drifted.third)
    was, made = served(drifted, drifted.before.version), dossier["challenger"]["provenance"]
    plan = dossier["snapshot"]["plan"]
    assert (made["kind"], made["scorer_of"]) == (RECALIBRATED, drifted.before.version)
    assert made["fit"] == was.provenance["fit"]
    assert made["calibrate"] == [max(plan["calibrate_start"], was.provenance["fit"][1]), plan["calibrate_end"]]
    days = list(dossier["used_days"]["calibrate"])
    assert min(days) >= was.provenance["fit"][1]
    assert max(days) < plan["calibrate_end"] < min(plan["holdout_days"])
    assert "held_back_fit" not in made


def test_the_dossier_lists_both_with_interval_share_and_verdict_and_says_why_one_was_chosen(drifted):
    dossier = dossier_of(drifted, drifted.third)
    listed = dossier["candidates"]
    assert (list(judged(dossier)), listed["chosen"], listed["share"]) == ([TUNED, RECALIBRATED], RECALIBRATED, 0.5)
    assert [entry["verdict"]["decision"] for entry in listed["judged"]] != ["promote", "promote"]
    for entry in listed["judged"]:
        assert entry["verdict"]["lower"] < entry["verdict"]["estimate"] < entry["verdict"]["upper"]
        assert len(entry["digest"]) == 64
    assert dossier["policy"]["alpha_share"] == 0.5
    assert listed["why"] in dossier["verdict"]["reasons"]
    assert "the recalibrated champion alone may be promoted" in listed["why"]
    own = judged(dossier)[RECALIBRATED]["verdict"]
    assert dossier["verdict"] == own | {"reasons": [*own["reasons"], listed["why"]]}
    assert dossier["looks"]["taken"][0]["alpha_share"] == 0.5


def test_both_met_the_champion_on_the_same_rows_and_the_evidence_has_them_both(drifted):
    dossier = dossier_of(drifted, drifted.third)
    content = drifted.store.get_bytes(dossier["evidence"]["key"], digest=dossier["evidence"]["sha256"])
    table = pq.read_table(io.BytesIO(content))
    sides = [name.removesuffix("_payoff") for name in table.column_names if name.endswith("_payoff")]
    assert sides == ["champion", "challenger", TUNED]
    for side, name in (("challenger", RECALIBRATED), (TUNED, TUNED)):
        gain = table[f"{side}_payoff"].to_numpy() - table["champion_payoff"].to_numpy()
        assert gain.mean() == pytest.approx(judged(dossier)[name]["verdict"]["estimate"])
    assert set(dossier["evidence"]["beside"]) == set(sides)


def test_both_verdicts_are_replayed_at_their_level_and_a_forged_one_is_found(drifted):
    assert Repeats(drifted.parts).replay(drifted.third, "ann").same

    def rewrite(change) -> None:
        dossier = dossier_of(drifted, drifted.attempt(drifted.third.id))
        change(dossier)
        digest = drifted.store.put_bytes(dossiers.key_of(drifted.third.id), dossiers.to_json(dossier))
        with drifted.ledger.transaction() as tx:
            tx.update_attempt(drifted.third.id, dossier_sha256=digest)

    def forge(dossier: dict) -> None:
        dossier["candidates"]["judged"][0]["verdict"]["lower"] = 1.0

    rewrite(forge)
    told = {d.field for d in Repeats(drifted.parts).replay(drifted.attempt(drifted.third.id), "ann").differences}
    assert "candidates.judged[0].verdict.lower" in told
    assert "ledger.evidence_digest" in told


def test_a_recalibrated_version_is_reproduced_to_the_bit_without_training(drifted, monkeypatch):
    def refused(*given, **named):
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(models.XGBoostLearner, "fit", refused)
    answer = Repeats(drifted.parts).reproduce(drifted.third, "ann", from_source=True)
    assert answer.same
    assert (answer.different, answer.largest, answer.tolerance) == (0, 0.0, 0.0)
    assert answer.model_digest_equal


def test_its_evidence_digest_binds_an_approval_to_both_verdicts(drifted):
    dossier = dossier_of(drifted, drifted.third)
    other = json.loads(json.dumps(dossier))
    other["candidates"]["judged"][0]["verdict"]["decision"] = "promote"
    assert dossiers.evidence_digest(dossier) == drifted.third.evidence_digest
    assert dossiers.evidence_digest(other) != drifted.third.evidence_digest


def test_the_next_attempts_first_trial_has_the_parameters_of_the_scorer_that_it_shares(drifted):
    with drifted.ledger.transaction() as tx:
        maker = tx.attempt(drifted.before.attempt_id)
    shared = dossier_of(drifted, maker)["study"]["params"]
    deploy(drifted, train=spec().model_dump(mode="json")["train"])
    attempt_id = drifted.tuned("2013-05-24")
    assert dict(drifted.studies.ended(attempt_id)[0].params) == shared


def test_a_card_says_which_kind_it_is_and_shows_what_else_was_judged(drifted):
    page = card(dossier_of(drifted, drifted.third), "d" * 64)
    assert f"The champion, version {drifted.before.version}, recalibrated" in page
    assert "tuned challenger" in page
    assert "with 97.5% confidence" in page
    assert "Scorer" in page
    assert "Trials" not in page
    plain = card(dossier_of(drifted, drifted.attempt(drifted.before.attempt_id)), "d" * 64)
    assert "A challenger, trained and tuned by this attempt" in plain
    assert "Challengers judged" not in plain
    assert "with 95% confidence" in plain


def test_the_backtest_gives_the_champions_scorer_a_fresh_map_and_the_self_test_reads_the_chosen_one(drifted):
    with drifted.ledger.transaction() as tx:
        champions, attempts = tx.champions(drifted.model), tx.attempts(model=drifted.model)
        end = tx.clock()[1]
    world = World(drifted.features, drifted.artifacts, drifted.store, models)
    found = backtest_year(world, drifted.spec, champions=champions, attempts=attempts, as_of=end)
    assert found is not None
    assert np.isfinite(found.policies["always_fresh"]["total_usd"])
    answer = SelfTests(drifted.ledger, lambda: drifted.store).run(drifted.model, actor="ann")[drifted.model]
    assert drifted.third.id not in answer.left_out


def test_a_dry_run_judges_both_and_moves_nothing(judging):
    drift(judging, -1.5)
    deploy(judging, train=DULL)
    before = current(judging)
    attempt = judging.run("2013-05-10", dry_run=True)
    assert (attempt.verdict, attempt.state) == ("promote", "concluded")
    assert list(judged(dossier_of(judging, attempt))) == [TUNED, RECALIBRATED]
    assert current(judging) == before


def test_of_two_that_may_be_promoted_the_one_with_the_larger_lower_bound_serves(judging):
    drift(judging, -2.5)
    deploy(judging)
    attempt = judging.run("2013-05-10")
    dossier = dossier_of(judging, attempt)
    found = judged(dossier)
    assert [entry["verdict"]["decision"] for entry in found.values()] == ["promote", "promote"]
    lower = {name: entry["verdict"]["lower"] for name, entry in found.items()}
    best = max(lower, key=lower.__getitem__)
    assert dossier["candidates"]["chosen"] == best
    assert dossier["challenger"]["digest"] == found[best]["digest"]
    assert current(judging).version == attempt.challenger_version
    assert Repeats(judging.parts).replay(attempt, "ann").same
    assert Repeats(judging.parts).reproduce(attempt, "ann").same


def test_where_too_few_later_days_are_left_it_is_not_judged_and_alpha_is_whole(tmp_path, migrated):
    world = JudgingWorld(tmp_path, migrated)
    plain = world.spec.model_dump(mode="json")
    plain["data"]["holdout"] |= {"last": "7d", "min_clusters": 7}
    world.spec = ModelSpec.model_validate(plain)
    deploy(world, mode="non_inferiority", min_uplift=1000.0, guardrails=[])  # any challenger passes
    first = dossier_of(world, world.run("2013-04-20", first_champion=True))
    assert first["candidates"]["not_judged"] == {RECALIBRATED: "there is no champion yet"}
    second = world.run("2013-04-29")
    dossier = dossier_of(world, second)
    listed = dossier["candidates"]
    assert (list(judged(dossier)), listed["chosen"], listed["share"]) == ([TUNED], TUNED, 1.0)
    why = listed["not_judged"][RECALIBRATED]
    assert "days before" in why
    assert "14 are needed" in why
    assert f"the recalibrated champion was not judged: {why}" in dossier["verdict"]["reasons"]
    assert dossier["policy"]["alpha_share"] == first["policy"]["alpha_share"] == 1.0
    assert Repeats(world.parts).replay(second, "ann").same
    world.ledger.dispose()


def test_another_look_is_at_the_chosen_one_alone_and_has_its_share_of_what_the_look_may_spend(judging):
    drift(judging, -1.5)
    high = {"min_uplift": 6.0, "looks": [0.5, 0.5]}  # between the bounds of the recalibrated champion
    deploy(judging, train=DULL, **high)
    first = judging.run("2013-05-10")
    assert first.verdict == "not_enough_evidence", first.verdict_record["reasons"]
    was = dossier_of(judging, first)
    assert (was["candidates"]["chosen"], was["policy"]["alpha_share"]) == (RECALIBRATED, 0.25)
    again = look_again(judging)
    dossier = dossier_of(judging, again)
    assert (again.look, again.challenger_version) == (2, first.challenger_version)
    assert (list(judged(dossier)), dossier["policy"]["alpha_share"]) == ([RECALIBRATED], 0.25)
    assert dossier["challenger"] == was["challenger"]
    assert len(dossier["used_days"]["holdout"]) > len(was["used_days"]["holdout"])
    assert Repeats(judging.parts).replay(again, "ann").same
    assert Repeats(judging.parts).reproduce(again, "ann").same
