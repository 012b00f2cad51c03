"""Another look at a frozen challenger: really judged, on the days of the look before and those that came in."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from ratchet.domain.spec import ModelSpec
from ratchet.workflow import dossiers


def ask_for_much(judging, looks: list[float], min_uplift: float = 0.05) -> None:
    """A spec with this plan; its bar lies where no sample of so few rows is sure."""
    document = judging.spec.model_dump(mode="json")
    gate = document["gate"] | {"looks": looks, "min_uplift": min_uplift}
    judging.spec = ModelSpec.model_validate(document | {"gate": gate})
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, judging.spec.digest, judging.spec.model_dump(mode="json"))


def wait(judging, more: timedelta = timedelta(0)) -> list[str]:
    """Let the data come up to the follow-up's date, or later."""
    return judging.arrive(judging.follow_up.until + more, rows=1)


def steps(judging, attempt_id: str) -> dict:
    with judging.ledger.transaction() as tx:
        return tx.steps(attempt_id)


def take(judging, run_id: str) -> str:
    """The attempt of a rung bell, up to its verdict."""
    attempt_id = judging.claim(run_id)["attempt"]
    judging.attempts.snapshot(attempt_id)
    for share in judging.attempts.plan_tuning(attempt_id):
        judging.attempts.tune(share["attempt"], share["worker"])
    judging.attempts.judge(attempt_id)
    return attempt_id


@pytest.fixture(scope="module")
def looked_template(judged_template, tmp_path_factory):
    """An undecided first look by a plan of two, and the follow-up it left."""
    made = judged_template.copy(tmp_path_factory.mktemp("looked"))
    ask_for_much(made, [0.5, 0.5])
    made.looked = made.run("2013-05-10")
    assert made.looked.verdict == "not_enough_evidence", made.looked.verdict_record["reasons"]
    made.intake.tick()
    yield made
    made.ledger.dispose()


@pytest.fixture
def looked(looked_template, tmp_path):
    """A copy of it, to be spoilt at will."""
    made = looked_template.copy(tmp_path)
    ask_for_much(made, [0.5, 0.5])
    made.looked = looked_template.looked
    (made.follow_up,) = [row for row in made.events() if row.origin == "attempt" and row.fate == "deferred"]
    yield made
    made.ledger.dispose()


def test_the_first_look_spends_its_share_and_the_follow_up_asks_for_the_next(looked):
    first = looked.looked
    (only,) = dossiers.read(looked.store, first)["looks"]["taken"]
    assert (only["look"], only["alpha_share"], only["decision"]) == (1, 0.5, "not_enough_evidence")
    asked = looked.follow_up.data["look"]
    assert (asked["number"], asked["challenger"], asked["after"]) == (2, first.challenger_version, first.id)
    assert f"for look 2 of 2 at version {first.challenger_version}" in looked.follow_up.reason


def test_another_look_trains_nothing_and_judges_the_frozen_challenger_on_its_days_and_the_new_ones(looked):
    first = looked.looked
    wait(looked)
    again = looked.attempt(take(looked, "again"))
    assert (again.trigger, again.challenger_version) == ("follow_up", first.challenger_version)
    assert steps(looked, again.id)["tune.0"]["result"] == {"skipped": f"look 2 at version {first.challenger_version}"}
    assert [name for name in steps(looked, again.id) if name.startswith("tune.")] == ["tune.0"]
    was, now = dossiers.read(looked.store, first), dossiers.read(looked.store, again)
    assert now["challenger"]["digest"] == was["challenger"]["digest"]
    assert (now["study"], now["seed"]) == (was["study"], was["seed"])
    assert now["snapshot"]["files"]["train"] == was["snapshot"]["files"]["train"]
    days = list(now["used_days"]["holdout"])
    assert days[:14] == list(was["used_days"]["holdout"])
    assert len(days) == 28
    assert days == sorted(days)


def test_every_look_is_listed_with_its_days_and_what_it_spent(looked):
    wait(looked)
    again = looked.attempt(take(looked, "again"))
    looks = dossiers.read(looked.store, again)["looks"]
    assert looks["plan"] == [0.5, 0.5]
    assert [(look["attempt"], look["look"], look["alpha_share"], len(look["days"])) for look in looks["taken"]] == [
        (looked.looked.id, 1, 0.5, 14),
        (again.id, 2, 0.5, 28),
    ]
    assert looks["taken"][1]["lower"] == again.verdict_record["lower"]


def test_after_the_last_look_the_follow_up_asks_for_a_new_challenger(looked):
    wait(looked)
    again = looked.attempt(take(looked, "again"))
    assert again.verdict == "not_enough_evidence", again.verdict_record["reasons"]
    last = [row for row in looked.events() if row.source.endswith(again.id)]
    assert [row.data["look"] for row in last] == [None]


def test_a_plan_of_one_look_asks_for_none_more(judging):
    ask_for_much(judging, [1.0])
    first = judging.run("2013-05-10")
    assert first.verdict == "not_enough_evidence", first.verdict_record["reasons"]
    assert [row.data["look"] for row in judging.events() if row.origin == "attempt" and first.id in row.source] == [
        None
    ]


def test_a_look_that_promotes_makes_the_frozen_challenger_champion(looked):
    document = looked.spec.model_dump(mode="json")
    assert document["gate"]["looks"] == [0.5, 0.5]
    wait(looked)
    claimed = looked.claim("again")["attempt"]
    with looked.ledger.transaction() as tx:
        tx.update_attempt(
            claimed,
            state="judged",
            verdict="promote",
            verdict_record={"reasons": []},
            evidence_digest="e" * 64,
            challenger_version=looked.looked.challenger_version,
            judged_at=tx.wall(),
        )
        tx.release_lease(claimed)
    looked.promotions.promote(looked.model)
    with looked.ledger.transaction() as tx:
        assert tx.current_champion(looked.model).version == looked.looked.challenger_version


def changed_spec(judging) -> None:
    ask_for_much(judging, [0.5, 0.25, 0.25])


def changed_champion(judging) -> None:
    judging.crown(1)


def other_code(judging) -> None:
    judging.claims._code_digest = hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed_spec, "the spec has changed since the look before"),
        (changed_champion, "serves now"),
        (other_code, "the code has changed since the look before"),
    ],
)
def test_when_what_it_compares_has_changed_a_normal_attempt_is_made_and_says_why(looked, change, why):
    change(looked)
    wait(looked)
    again = looked.attempt(looked.claim("again")["attempt"])
    assert again.look == 1
    assert f"look 2 at version {looked.looked.challenger_version} is off: " in again.reason
    assert why in again.reason


def test_a_run_by_hand_asks_for_a_new_challenger_and_ends_the_looks(looked):
    wait(looked)
    again = looked.attempt(looked.claim("now", "manual", reason="new routes")["attempt"])
    off = f"look 2 at version {looked.looked.challenger_version} is off: another event asks for a new challenger"
    assert (again.look, again.reason) == (1, f"new routes; {off}")


def test_a_dry_run_in_between_ends_the_looks(looked):
    wait(looked)
    dry = looked.claim("dry", "manual", reason="look", dry_run=True)["attempt"]
    looked.attempts.snapshot(dry)
    for share in looked.attempts.plan_tuning(dry):
        looked.attempts.tune(share["attempt"], share["worker"])
    looked.attempts.judge(dry)
    wait(looked, timedelta(days=14))
    again = looked.attempt(looked.claim("again")["attempt"])
    assert again.reason.endswith(f"is off: {dry} was judged after {looked.looked.id}")
