"""Attempts whose studies follow a policy: what a retune knows of before, what the dossier tells, and made again."""

import pytest
from judged_attempts import JudgingWorld

from ratchet.domain.tuning import PREVIOUS
from ratchet.workflow import dossiers
from ratchet.workflow.cards import card
from ratchet.workflow.repeating import Repeats


@pytest.fixture(scope="module")
def world(tmp_path_factory, migrated):
    """A first champion, one attempt to replace it, and another after that; small models win on the edge."""
    space = {"max_depth": {"int": [2, 4]}, "learning_rate": {"float": [0.05, 0.3], "log": True}}
    train = {"tuning": {"policy": "retune"}, "trials": 8, "search_space": space}
    made = JudgingWorld(tmp_path_factory.mktemp("judged"), migrated, **train)
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    made.third = made.run("2013-05-15")
    yield made
    made.ledger.dispose()


def study(world, attempt) -> dict:
    return dossiers.read(world.store, attempt)["study"]


def ranked(trials: list[dict]) -> list[dict]:
    finished = [trial for trial in trials if trial["state"] == "finished"]
    return [trial["params"] for trial in sorted(finished, key=lambda trial: (trial["value"], trial["number"]))]


def test_a_first_champion_is_tuned_cold_and_the_next_attempt_starts_from_its_best(world):
    before, now = study(world, world.first), study(world, world.second)
    known = ranked(before["trials"])[:PREVIOUS]
    assert [trial["params"] for trial in now["trials"]][: len(known)] == known
    assert before["trials"][0]["params"] not in known[:1] or before["best_trial"] == 0


def test_after_a_challenger_that_lost_its_study_is_known_as_well_as_the_champions(world):
    champions = world.first if world.second.verdict != "promote" else world.second
    last = world.second if champions is world.first else world.first
    best, of_last = ranked(study(world, champions)["trials"]), ranked(study(world, last)["trials"])
    tried = [trial["params"] for trial in study(world, world.third)["trials"]]
    assert tried[0] == best[0]
    assert of_last[0] in tried[:PREVIOUS]


def test_the_dossier_tells_what_the_policy_did_and_so_does_the_card(world):
    dossier = dossiers.read(world.store, world.third)
    told = dossier["study"]["policy"]
    assert told["policy"] == "retune"
    assert told["fewer_rows_trials"] == len(dossier["study"]["fewer_rows"])
    dossier["study"]["policy"] = told | {"edges": {"max_depth": 2}, "stopped": {"m": "9 of 8 core seconds are spent"}}
    page = card(dossier, "d" * 64)
    assert "max_depth at 2" in page
    assert "widen it" in page
    assert "9 of 8 core seconds are spent" in page


@pytest.mark.parametrize("which", ["first", "third"])
def test_a_model_that_was_tuned_by_policy_is_made_again_to_the_bit(world, which):
    repeats, attempt = Repeats(world.parts), getattr(world, which)
    assert repeats.replay(attempt, "ann").same
    again = repeats.reproduce(attempt, "ann", threads=2)
    assert (again.same, again.model_digest_equal) == (True, True)


def test_without_a_policy_neither_step_nor_dossier_tell_of_one(judging):
    dossier = dossiers.read(judging.store, judging.second)
    with judging.ledger.transaction() as tx:
        step = tx.step_result(judging.second.id, "tune.0")
    assert "policy" not in step
    assert not {"policy", "fewer_rows"} & dossier["study"].keys()
