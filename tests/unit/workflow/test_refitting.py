"""Where the spec deploys a refit: the judged recipe on all mature rows serves, watched, and every record says so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pytest
from judged_attempts import TABLE, JudgingWorld

from ratchet.adapters import models
from ratchet.adapters.ledger.attempts import Attempts as Steps
from ratchet.adapters.storage import CorruptObjectError
from ratchet.domain import candidates
from ratchet.domain.holdout import HoldoutPlan, NotEnoughFreshDays
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, StaleAttempt
from ratchet.workflow import dossiers, evaluation, refitting
from ratchet.workflow.attempting import Attempts
from ratchet.workflow.deciding import plan
from ratchet.workflow.refitting import fit_again
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.verifying import Verifier

FIRST_RUN, SECOND_RUN = "2013-03-25", "2013-04-15"
JUDGED, REFITTED = 2, 3
"""The versions that the second attempt makes; the first champion is version 1."""
NEWEST = date(2013, 4, 11)
"""The newest mature day of the second attempt, the last of its holdout."""


def refits(world: JudgingWorld, **changes) -> JudgingWorld:
    """Deploy a spec that any challenger passes and that deploys a refit."""
    plain = world.spec.model_dump(mode="json") | {"probation": {"for": "28d"}}
    wide = {"mode": "non_inferiority", "min_uplift": 1000.0, "guardrails": []}
    plain["gate"] |= wide | {"deploy": "refit"} | changes
    world.spec = ModelSpec.model_validate(plain)
    with world.ledger.transaction() as tx:
        tx.publish_spec(world.model, world.spec.digest, world.spec.model_dump(mode="json"))
    return world


@pytest.fixture(scope="module", autouse=True)
def _few_rows_are_timed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SAMPLES", 5)
        yield


@pytest.fixture(scope="module")
def crowned_template(tmp_path_factory, migrated):
    """A first champion, and a spec that deploys refits from then on."""
    made = JudgingWorld(tmp_path_factory.mktemp("crowned"), migrated)
    made.run(FIRST_RUN, first_champion=True)
    yield made
    made.ledger.dispose()


@pytest.fixture
def crowned(crowned_template, tmp_path):
    made = refits(crowned_template.copy(tmp_path))
    yield made
    made.ledger.dispose()


@pytest.fixture(scope="module")
def tuned_template(crowned_template, tmp_path_factory):
    """An attempt that is to be judged next."""
    made = refits(crowned_template.copy(tmp_path_factory.mktemp("tuned")))
    made.tuned_id = made.tuned(SECOND_RUN)
    yield made
    made.ledger.dispose()


@pytest.fixture
def tuned(tuned_template, tmp_path):
    made = refits(tuned_template.copy(tmp_path))
    made.tuned_id = tuned_template.tuned_id
    yield made
    made.ledger.dispose()


def judged(world: JudgingWorld):
    """The tuned attempt with its verdict, and what follows from it."""
    world.attempts.judge(world.tuned_id)
    world.promotions.promote(world.model)
    return world.attempt(world.tuned_id)


@pytest.fixture(scope="module")
def refitted_template(crowned_template, tmp_path_factory):
    """An attempt whose verdict promoted, and whose refit serves."""
    made = refits(crowned_template.copy(tmp_path_factory.mktemp("refitted")))
    made.second = made.run(SECOND_RUN)
    assert made.second.verdict == "promote", made.second.verdict_record["reasons"]
    yield made
    made.ledger.dispose()


@pytest.fixture
def refitted(refitted_template, tmp_path):
    made = refits(refitted_template.copy(tmp_path))
    made.second = refitted_template.second
    yield made
    made.ledger.dispose()


def champion(world):
    with world.ledger.transaction() as tx:
        return tx.current_champion(world.model)


def version(world, number: int):
    return models.load(world.registry.download(world.model, number))


def audited(world, action: str) -> list[dict]:
    with world.ledger.transaction() as tx:
        return [entry["detail"] for entry in tx.audit_log(world.model, action=action)]


def promoted_event(world, attempt_id: str) -> dict:
    told = [json.loads(message.value) for message in world.bus.records("ml.decisions")]
    mine = (each for each in told if each["data"].get("attempt") == attempt_id)
    (event,) = [each for each in mine if each["type"].startswith("ratchet.model.")]
    return event


def table_of(world, dossier: dict, name: str):
    return refitting.tables_of(world.store, dossier["snapshot"])[name]


# What serves ----------------------------------------------------------------------------------------------------------


def test_a_promotion_deploys_the_refit_and_the_verdict_stays_that_of_the_judged_version(refitted):
    made = refitted.second
    assert (made.challenger_version, made.deployed_version, made.candidate_version) == (JUDGED, REFITTED, REFITTED)
    serves = champion(refitted)
    assert (serves.version, serves.attempt_id) == (REFITTED, made.id)
    assert serves.model_digest == made.deployed_digest
    assert models.digest(refitted.registry.download(refitted.model, REFITTED)) == made.deployed_digest
    dossier = dossiers.read(refitted.store, made)
    assert (dossier["challenger"]["version"], dossier["challenger"]["digest"]) == (JUDGED, made.model_digest)
    assert (dossier["deployed"]["version"], dossier["deployed"]["digest"]) == (REFITTED, made.deployed_digest)
    assert dossier["verdict"] == made.verdict_record
    assert made.promoted


def test_the_aliases_name_what_serves(refitted_template):
    world = refitted_template
    assert world.registry.alias_version(world.model, "champion") == REFITTED
    assert world.registry.alias_version(world.model, "challenger") == REFITTED


def test_the_refit_has_seen_every_mature_row_and_has_the_judged_map_threshold_and_recipe(refitted):
    dossier = dossiers.read(refitted.store, refitted.second)
    deployed, planned = dossier["deployed"], dossier["snapshot"]["plan"]
    assert deployed["fit"] == [planned["fit_start"], (NEWEST + timedelta(days=1)).isoformat()]
    assert deployed["judged_fit"] == [planned["fit_start"], planned["calibrate_end"]]
    inside = pc.and_(
        pc.greater_equal(TABLE["day"], planned["fit_start"]), pc.less_equal(TABLE["day"], NEWEST.isoformat())
    )
    assert deployed["fit_rows"] == TABLE.filter(inside).num_rows
    judged, refit = version(refitted, JUDGED), version(refitted, REFITTED)
    assert (refit.calibrator, refit.threshold, refit.params) == (judged.calibrator, judged.threshold, judged.params)
    assert refit.provenance["seed"] == judged.provenance["seed"] == dossier["seed"]
    assert refit.provenance["calibrate"] == judged.provenance["calibrate"], "the map is that of the judged one"
    assert refit.provenance["refit_of"] == refitted.second.model_digest
    assert refit.provenance["fit"] == deployed["fit"]


def test_how_far_the_refit_moved_is_told_as_in_sample(refitted):
    dossier = dossiers.read(refitted.store, refitted.second)
    rows = table_of(refitted, dossier, "holdout")
    (was, acted), (now, acts) = (version(refitted, number).decide(rows) for number in (JUDGED, REFITTED))
    assert dossier["deployed"]["on_holdout"] == {
        "rows": rows.num_rows,
        "largest": float(np.abs(now - was).max()),
        "mean": float(np.abs(now - was).mean()),
        "flipped": int((acts != acted).sum()),
        "in_sample": True,
    }
    assert np.abs(now - was).max() > 0


def test_what_is_told_and_audited_speaks_of_the_refit_and_says_whose_the_verdict_is(refitted_template):
    world = refitted_template
    event = promoted_event(world, world.second.id)
    assert (event["data"]["champion_after"], event["data"]["challenger"]) == (REFITTED, REFITTED)
    said = event["data"]["reasons"][0]
    assert said.startswith(f"version {REFITTED} is the recipe of version {JUDGED} fitted again on ")
    assert said.endswith(f"up to {NEWEST}; the verdict is that of version {JUDGED}")
    promoted = audited(world, "champion.promoted")[-1]
    assert (promoted["version"], promoted["judged"], promoted["deployed"]) == (REFITTED, JUDGED, said)
    assert audited(world, "attempt.judged")[-1]["deployed"] == said


def test_people_agree_to_the_refit_and_the_digest_they_agree_to_names_it(crowned):
    world = refits(crowned, approval="always")
    made = world.run(SECOND_RUN)
    assert made.state == "awaiting_approval"
    with world.ledger.transaction() as tx:
        asked = tx.approval_request(made.id)
    assert (asked.challenger_version, asked.evidence_digest) == (REFITTED, made.evidence_digest)
    assert f"the verdict is that of version {JUDGED}" in asked.reason
    dossier = dossiers.read(world.store, made)
    other = dossier | {"deployed": dossier["deployed"] | {"digest": "0" * 64}}
    assert dossiers.evidence_digest(dossier) == made.evidence_digest != dossiers.evidence_digest(other)
    world.promotions.respond(made.id, approve=True, actor="bea", reason="seen", via="airflow")
    assert champion(world).version == REFITTED


def test_a_refit_that_people_refuse_does_not_serve_and_nor_does_what_was_judged(crowned):
    world = refits(crowned, approval="always")
    made = world.run(SECOND_RUN)
    world.promotions.respond(made.id, approve=False, actor="bea", reason="no", via="airflow")
    assert champion(world).version == 1
    assert promoted_event(world, made.id)["type"] == "ratchet.model.kept.v1"


def test_a_search_starts_from_the_parameters_of_a_refitted_champion_as_of_any(refitted):
    attempt_id = refitted.tuned("2013-05-05")
    served = dossiers.read(refitted.store, refitted.second)["study"]["params"]
    first = min(refitted.studies.ended(attempt_id), key=lambda trial: trial.number)
    assert dict(first.params) == served


# Days -----------------------------------------------------------------------------------------------------------------


def test_the_next_holdout_begins_after_the_rows_that_the_champion_was_fitted_on_and_a_gap(refitted):
    with refitted.ledger.transaction() as tx:
        used = tx.used_days(refitted.model, REFITTED)
        ready = datetime(2013, 4, 30, 4, tzinfo=UTC)  # fourteen days from the 14th, the last mature two days after
        early, due = (plan(tx, refitted.spec, until) for until in (ready - timedelta(seconds=1), ready))
    assert max(used) == NEWEST + timedelta(days=2)
    assert early == NotEnoughFreshDays(13, 14, ready)
    assert isinstance(due, HoldoutPlan)
    assert due.holdout_start == date(2013, 4, 14)


def test_what_was_judged_alone_leaves_the_next_day_fresh(crowned):
    world = refits(crowned, deploy="judged")
    made = world.run(SECOND_RUN)
    assert made.promoted
    with world.ledger.transaction() as tx:
        assert max(tx.used_days(world.model, JUDGED)) == NEWEST


def test_the_next_attempt_judges_on_no_row_that_the_champion_has_seen(refitted):
    made = refitted.run("2013-05-05")
    dossier = dossiers.read(refitted.store, made)
    assert dossier["champion"]["version"] == REFITTED
    seen = set(dossiers.read(refitted.store, refitted.second)["used_days"]["refit"])
    assert not seen & set(dossier["used_days"]["holdout"])
    assert min(dossier["used_days"]["holdout"]) > (NEWEST + timedelta(days=2)).isoformat()


def test_the_refit_is_watched_against_its_predecessor_on_days_it_has_not_seen(refitted):
    with refitted.ledger.transaction() as tx:
        watch = tx.open_probation(refitted.model)
        used = tx.used_days(refitted.model, REFITTED)
    assert (watch.version, watch.predecessor_version) == (REFITTED, 1)
    assert watch.first_day > max(used)


def test_days_of_the_refit_are_no_days_against_the_predecessor(refitted):
    with refitted.ledger.transaction() as tx:
        dossier = dossiers.read(refitted.store, refitted.second)
        judged = {date.fromisoformat(day) for day in dossier["used_days"]["holdout"]}
        assert max(tx.used_days(refitted.model, 1)) == max(judged) == NEWEST


def test_tuning_is_given_no_row_that_the_refit_adds(refitted):
    files = dossiers.read(refitted.store, refitted.second)["snapshot"]["files"]
    with refitted.ledger.transaction() as tx:
        taken = tx.step_result(refitted.second.id, "snapshot")
    assert taken["train_uri"] == files["train"]["uri"]
    assert set(files) == {"train", "between", "holdout"}
    days = [set(refitting.tables_of(refitted.store, {"files": files})[name]["day"].to_pylist()) for name in files]
    assert sum(map(len, days)) == len(set.union(*days)), "no day is in two files"


# Killed and resumed ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches it, as nobody catches ``kill -9``."""


def dies(*args, **options):
    raise Killed


def dies_where(works, which):
    def acts(*args, **options):
        if which(*args, **options):
            raise Killed
        return works(*args, **options)

    return acts


STEPS = {
    "verdict written, no answer": lambda world, patch: patch.setattr(
        Steps, "save_step", dies_where(Steps.save_step, lambda tx, attempt_id, name, *rest: name == "evaluate")
    ),
    "verdict given, no refit": lambda world, patch: patch.setattr(refitting, "fit_again", dies),
    "refitted, not registered": lambda world, patch: patch.setattr(
        world.registry,
        "register",
        dies_where(world.registry.register, lambda name, *rest, **named: name.endswith(".refit")),
    ),
    "registered, no dossier": lambda world, patch: patch.setattr(
        dossiers,
        "write",
        dies_where(dossiers.write, lambda store, dossier, **named: not named.get("before_refit")),
    ),
    "dossier, no answer": lambda world, patch: patch.setattr(
        Steps, "save_step", dies_where(Steps.save_step, lambda tx, attempt_id, name, *rest: name == "refit")
    ),
    "answered, not in the ledger": lambda world, patch: patch.setattr(Steps, "save_used_days", dies),
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_between_verdict_and_ledger_it_is_resumed_with_one_verdict_and_one_version(tuned, step, monkeypatch):
    attempt_id = tuned.tuned_id
    with monkeypatch.context() as patch:
        STEPS[step](tuned, patch)
        with pytest.raises(Killed):
            tuned.attempts.judge(attempt_id)
    assert tuned.attempt(attempt_id).state == "tuned"
    monkeypatch.setattr(Attempts, "_judged", dies)  # the verdict stands: nothing is judged again
    answer = tuned.attempts.judge(attempt_id)
    tuned.promotions.promote(tuned.model)
    assert tuned.registry._versions[tuned.model] == ["flight_delay.1", attempt_id, f"{attempt_id}.refit"]
    assert champion(tuned).version == answer["deployed_version"] == REFITTED
    assert dossiers.read(tuned.store, tuned.attempt(attempt_id))["deployed"]["version"] == REFITTED


def test_a_stored_refit_is_not_made_again(tuned, monkeypatch):
    attempt_id = tuned.tuned_id
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "save_used_days", dies)
        with pytest.raises(Killed):
            tuned.attempts.judge(attempt_id)
    monkeypatch.setattr(refitting, "fit_again", dies)
    tuned.attempts.judge(attempt_id)
    assert tuned.attempt(attempt_id).deployed_version == REFITTED


def test_a_worker_that_lost_its_lease_while_it_refitted_stores_nothing(tuned, monkeypatch):
    attempt_id = tuned.tuned_id

    def robbed(**given):
        with tuned.ledger.transaction() as tx:
            tx.release_lease(attempt_id)
        return fit_again(**given)

    monkeypatch.setattr(refitting, "fit_again", robbed)
    with pytest.raises(StaleAttempt):
        tuned.attempts.judge(attempt_id)
    with tuned.ledger.transaction() as tx:
        assert tx.step_result(attempt_id, "refit") is None
        assert tx.attempt(attempt_id).deployed_version is None
    assert tuned.promotions.promote(tuned.model)["promoted"] is None
    assert champion(tuned).version == 1


# A refit that is none -------------------------------------------------------------------------------------------------


def refuses(**given):
    raise Refused("train: no tree grows here")


class Broken:
    """A scorer with one answer."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def raw(self, rows):
        return np.full(rows.num_rows, self.answer)


def answers(probability: float):
    return lambda **given: replace(given["judged"], scorer=Broken(probability))


TROUBLE = {
    "the fit is refused": (refuses, "the refit failed (train: no tree grows here)"),
    "NaN": (answers(np.nan), "the refit is no model to deploy (560 of its 560 probabilities are not finite numbers)"),
    "a constant": (answers(0.01), "the refit is no model to deploy (it gives all 560 rows the probability"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_refit_that_is_no_model_leaves_the_judged_one_to_serve_and_everybody_is_told(
    tuned, trouble, monkeypatch, caplog
):
    makes, why = TROUBLE[trouble]
    monkeypatch.setattr(refitting, "fit_again", makes)
    made = judged(tuned)
    assert (made.challenger_version, made.deployed_version, champion(tuned).version) == (JUDGED, None, JUDGED)
    assert champion(tuned).model_digest == made.model_digest
    assert len(tuned.registry._versions[tuned.model]) == JUDGED, "what does not serve is not registered"
    dossier = dossiers.read(tuned.store, made)
    assert (dossier["deployed"]["kind"], dossier["deployed"]["version"]) == ("judged", JUDGED)
    assert dossier["deployed"]["why"].startswith(why)
    said = f"version {JUDGED} serves as it was judged, not refitted: {why}"
    assert promoted_event(tuned, made.id)["data"]["reasons"][0].startswith(said)
    assert audited(tuned, "champion.promoted")[-1]["deployed"].startswith(said)
    assert "deploys the judged version 2" in caplog.text
    with tuned.ledger.transaction() as tx:
        assert tx.open_probation(tuned.model).version == JUDGED
        assert max(tx.used_days(tuned.model, JUDGED)) == NEWEST
    assert Repeats(tuned.parts).replay(made, "ann").same
    assert Repeats(tuned.parts).reproduce(made, "ann").refit is None


def test_what_the_attempt_did_not_fit_itself_has_no_recipe_to_fit_again(refitted):
    """A champion's trees with a new map, say: the study's parameters are another model's."""
    dossier = dossiers.read(refitted.store, refitted.second)
    judged = version(refitted, JUDGED)
    with pytest.raises(Refused, match="this attempt's recipe is not its own"):
        fit_again(
            spec=refitted.spec,
            rows=table_of(refitted, dossier, "train"),
            manifest=dossier["snapshot"],
            study=dossier["study"],
            seed=dossier["seed"],
            judged=replace(judged, provenance=dict(judged.provenance) | {"fit": ["2013-01-01", "2013-02-01"]}),
            judged_digest=dossier["challenger"]["digest"],
            learner=models.learner_for(refitted.spec.train.estimator),
        )


def test_a_judged_artifact_that_was_changed_meanwhile_is_not_deployed_either(tuned, monkeypatch):
    attempt_id = tuned.tuned_id
    with monkeypatch.context() as patch:
        patch.setattr(refitting, "refit", dies)
        with pytest.raises(Killed):
            tuned.attempts.judge(attempt_id)
    card = tuned.registry.download(tuned.model, JUDGED) / "ratchet.json"
    card.write_text(card.read_text().replace('"threshold": 0.', '"threshold": 0.9'))
    with pytest.raises(CorruptObjectError, match=r"artifact digest must be"):
        tuned.attempts.judge(attempt_id)


def test_a_refit_whose_bytes_changed_before_its_promotion_is_not_promoted(tuned):
    tuned.attempts.judge(tuned.tuned_id)
    path = tuned.registry.download(tuned.model, REFITTED) / "model.ubj"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert tuned.promotions.promote(tuned.model)["promoted"] is None
    ended = tuned.attempt(tuned.tuned_id)
    assert ended.state == "failed"
    assert f"version {REFITTED} of flight_delay cannot be used" in ended.failure
    assert champion(tuned).version == 1


# Where nothing is refitted --------------------------------------------------------------------------------------------


def test_a_first_champion_is_deployed_as_it_was_judged_because_nothing_watches_it(tmp_path, migrated):
    world = refits(JudgingWorld(tmp_path, migrated), mode="superiority", min_uplift=0.0)
    made = world.run(FIRST_RUN, first_champion=True)
    assert (champion(world).version, made.deployed_version) == (1, None)
    deployed = dossiers.read(world.store, made)["deployed"]
    assert (deployed["kind"], deployed["why"]) == ("judged", refitting.FIRST)
    assert refitting.FIRST in promoted_event(world, made.id)["data"]["reasons"][0]
    world.ledger.dispose()


@pytest.mark.parametrize("mode", ["dry run", "shadow mode", "champion kept"])
def test_what_promotes_nothing_refits_nothing(crowned, mode):
    changes = {
        "shadow mode": {"shadow": True},
        "champion kept": {"mode": "superiority", "min_uplift": 1000.0, "guardrails": []},
    }.get(mode, {})
    world = refits(crowned, **changes)
    made = world.run(SECOND_RUN, **({"dry_run": True} if mode == "dry run" else {}))
    assert made.state == "concluded"
    assert champion(world).version == 1
    with world.ledger.transaction() as tx:
        assert "refit" not in tx.steps(made.id)
    assert "deployed" not in dossiers.read(world.store, made)
    assert len(world.registry._versions[world.model]) == JUDGED


def test_a_spec_that_deploys_what_was_judged_leaves_no_trace_of_a_refit(judging):
    for made in (judging.first, judging.second):
        dossier = dossiers.read(judging.store, made)
        assert "deployed" not in dossier
        assert set(dossier["snapshot"]["files"]) == {"train", "holdout"}
        with judging.ledger.transaction() as tx:
            assert "refit" not in tx.steps(made.id)


# Another look ---------------------------------------------------------------------------------------------------------


def test_a_challenger_that_passes_at_its_second_look_is_refitted_on_the_days_of_all_looks_and_between(
    crowned, monkeypatch
):
    world = refits(crowned, looks=[0.5, 0.5])
    says = {"decision": "not_enough_evidence"}
    decides = candidates.decide_promotion
    monkeypatch.setattr(candidates, "decide_promotion", lambda *given: replace(decides(*given), **says))
    first = world.run(SECOND_RUN)
    world.intake.tick()
    (follow_up,) = [row for row in world.events() if row.origin == "attempt" and row.fate == "deferred"]
    world.arrive(follow_up.until + timedelta(days=3), rows=1)  # more days than the look judges
    says["decision"] = "promote"
    again = world.claim("again")["attempt"]
    world.attempts.snapshot(again)
    world.attempts.tune(again, 0)
    world.attempts.judge(again)
    world.promotions.promote(world.model)
    made = world.attempt(again)
    assert (made.look, made.challenger_version, made.deployed_version) == (2, first.challenger_version, REFITTED)
    dossier = dossiers.read(world.store, made)
    days = sorted(dossier["used_days"]["refit"])
    start, last = date.fromisoformat(TABLE["day"][0].as_py()), date.fromisoformat(days[-1])
    assert days == [(start + timedelta(days=i)).isoformat() for i in range((last - start).days + 1)]
    assert last == max(date.fromisoformat(day) for day in dossier["used_days"]["holdout"]) > NEWEST
    assert Repeats(world.parts).reproduce(made, "ann").same


# For an auditor -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_both_models_are_made_again_to_the_bit(refitted, threads):
    answer = Repeats(refitted.parts).reproduce(refitted.second, "ann", threads=threads, from_source=True)
    made = [(each.version, each.different, each.largest) for each in answer.each]
    assert made == [(JUDGED, 0, 0.0), (REFITTED, 0, 0.0)]
    assert all(each.model_digest_equal for each in answer.each)
    assert answer.same


def test_the_verdict_is_replayed_and_what_serves_must_be_what_the_dossier_says(refitted):
    repeats = Repeats(refitted.parts)
    assert repeats.replay(refitted.second, "ann").same
    with refitted.ledger.transaction() as tx:
        tx.update_attempt(refitted.second.id, deployed_digest="0" * 64)
    found = repeats.replay(refitted.attempt(refitted.second.id), "ann")
    assert [difference.field for difference in found.differences] == ["deployed.digest"]


def test_a_distance_that_is_not_the_recorded_one_is_a_difference_of_the_refit_alone(refitted):
    dossier = dossiers.read(refitted.store, refitted.second)
    dossier["deployed"]["on_holdout"]["flipped"] += 1
    digest = refitted.store.put_bytes(dossiers.key_of(refitted.second.id), dossiers.to_json(dossier))
    with refitted.ledger.transaction() as tx:
        tx.update_attempt(refitted.second.id, dossier_sha256=digest)
    judged, refit = Repeats(refitted.parts).reproduce(refitted.attempt(refitted.second.id), "ann").each
    assert judged.same
    assert [difference.field for difference in refit.differences] == ["on_holdout.flipped"]


def test_a_changed_refit_is_found_by_its_version(refitted):
    parts = (refitted.ledger, refitted.audit_log, refitted.artifacts, lambda: refitted.registry, lambda: refitted.store)
    refitted.registry.set_alias(refitted.model, "champion", REFITTED)
    assert Verifier(*parts).verify().findings == ()
    assert Verifier(*parts).verify().looked_at["artifact"] == 3
    path = refitted.registry.download(refitted.model, REFITTED) / "model.ubj"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (found,) = Verifier(*parts).verify().findings
    assert (found.kind, found.name) == ("artifact", f"flight_delay@{REFITTED}")
    with pytest.raises(CorruptObjectError):
        Repeats(refitted.parts).reproduce(refitted.second, "ann")


def test_both_versions_lead_to_the_attempt(refitted):
    with refitted.ledger.transaction() as tx:
        assert {dossiers.attempt_of(tx, f"flight_delay@{number}").id for number in (JUDGED, REFITTED)} == {
            refitted.second.id
        }


def test_the_card_says_which_version_serves_and_lies_beside_both(refitted):
    refitted.attempts.card(refitted.second)
    for number in (JUDGED, REFITTED):
        page = (refitted.folder / "registry" / f"flight_delay-{number}-model_card.html").read_text()
        assert f"What serves: version {REFITTED}" in page
        assert f"The recipe of version {JUDGED} fitted again" in page


@pytest.mark.parametrize("to", [1, JUDGED])
def test_a_refit_is_rolled_back_to_its_predecessor_or_to_what_was_judged_and_may_return(refitted, to):
    refitted.registry.set_alias(refitted.model, "champion", REFITTED)
    refitted.promotions.rollback(refitted.model, to, "ann", "looks odd")
    assert champion(refitted).version == to
    assert refitted.registry.alias_version(refitted.model, "champion") == to
    with refitted.ledger.transaction() as tx:
        assert tx.open_probation(refitted.model) is None
        digest = tx.version_digest(refitted.model, to)
    assert champion(refitted).model_digest == digest
    refitted.promotions.rollback(refitted.model, REFITTED, "ann", "it was right")
    assert champion(refitted).model_digest == refitted.second.deployed_digest


def test_without_a_version_a_rollback_goes_to_the_champion_before(refitted):
    assert refitted.promotions.rollback(refitted.model, None, "ann", "r")["version"] == 1
