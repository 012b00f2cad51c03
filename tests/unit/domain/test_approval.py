"""When people must agree, and when they have."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.domain.approval import (
    ApprovalNeeded,
    ApprovalPolicy,
    ApprovalRequest,
    ApprovalResponse,
    decide_approval,
    needed,
    value_at_risk,
)
from ratchet.domain.spec import Gate

ASKED = datetime(2026, 7, 1, 9, tzinfo=UTC)
EXPIRES = ASKED + timedelta(days=3)
REQUEST = ApprovalRequest("m.7", 7, 4, "e" * 64, people=1, asked_at=ASKED, expires_at=EXPIRES)
TWO = replace(REQUEST, people=2)
PROMOTE = {"decision": "promote", "estimate": 0.5, "lower": 0.1, "n_rows": 1_000, "n_clusters": 28, "unit": "USD"}
ALWAYS = ApprovalPolicy(None, timedelta(days=3), None)


def answer(actor: str, said: str = "approve", hours: float = 1, **others) -> ApprovalResponse:
    given = ApprovalResponse(actor, said, "because", ASKED + timedelta(hours=hours), 7, 4, "e" * 64)
    return replace(given, **others)


def decide(request: ApprovalRequest, *answers: ApprovalResponse, hours: float = 2, seq: int = 4, evidence: str = "e"):
    return decide_approval(request, answers, ASKED + timedelta(hours=hours), seq, evidence * 64)


answers = st.builds(
    answer,
    actor=st.sampled_from(["ann", "Ann ", "bob", "cy"]),
    said=st.sampled_from(["approve", "reject"]),
    hours=st.floats(-10, 100),
    challenger=st.sampled_from([7, 7, 7, 6]),
)


# Whether to ask -------------------------------------------------------------------------------------------------------


def test_a_spec_without_approval_asks_nobody():
    assert ApprovalPolicy.from_spec(Gate()) is None
    assert needed(PROMOTE, None) is None


def test_always_asks_about_every_promotion_and_only_about_promotions():
    assert ApprovalPolicy.from_spec(Gate(approval="always")) == ALWAYS
    assert needed(PROMOTE, ALWAYS) == ApprovalNeeded("the spec asks for an approval of every promotion", 1, 500.0)
    for decision in ("keep_champion", "not_enough_evidence", None):
        assert needed(PROMOTE | {"decision": decision}, ALWAYS) is None


@pytest.mark.parametrize(("lower", "asks"), [(0.19, True), (0.2, False), (0.3, False), (-1.0, True)])
def test_a_condition_asks_below_its_bound(lower, asks):
    policy = ApprovalPolicy.from_spec(Gate(approval={"when": {"lower_bound_below": 0.2}}))
    assert (needed(PROMOTE | {"lower": lower}, policy) is not None) is asks


@pytest.mark.parametrize("lower", [None, math.nan])
def test_a_bound_that_is_not_known_asks(lower):
    need = needed(PROMOTE | {"lower": lower}, replace(ALWAYS, lower_bound_below=0.2))
    assert need is not None
    assert need.reason.startswith("the lower bound is not known")


@pytest.mark.parametrize(
    ("estimate", "lower", "at_risk"),
    [(0.5, 0.1, 500.0), (0.1, -0.8, 800.0), (-0.3, -0.2, 300.0), (0.5, None, None), (math.nan, 0.1, None)],
)
def test_the_value_at_risk_is_what_the_judged_days_would_have_moved_by_the_larger_of_gain_and_bound(
    estimate, lower, at_risk
):
    assert value_at_risk(PROMOTE | {"estimate": estimate, "lower": lower}) == at_risk


@pytest.mark.parametrize(("above", "people"), [(499.0, 2), (500.0, 1)])
def test_above_the_amount_two_people_are_asked(above, people):
    need = needed(PROMOTE, replace(ALWAYS, two_people_above=above))
    assert need is not None
    assert need.people == people


def test_a_large_amount_asks_two_people_although_the_bound_alone_asks_nobody():
    policy = ApprovalPolicy(0.05, timedelta(days=3), 400.0)
    need = needed(PROMOTE, policy)
    assert need is not None
    assert (need.people, need.reason) == (2, "500 USD at risk: above 400 USD two people must agree")
    assert needed(PROMOTE, replace(policy, two_people_above=600.0)) is None


def test_an_amount_that_nobody_can_tell_is_not_small():
    need = needed(PROMOTE | {"n_rows": None}, replace(ALWAYS, two_people_above=1e12))
    assert need is not None
    assert (need.people, need.value_at_risk) == (2, None)


# What the answers come to ---------------------------------------------------------------------------------------------


def test_one_approval_is_enough_where_one_is_asked():
    decision = decide(REQUEST, answer("ann"))
    assert (decision.state, decision.approvers) == ("approved", ("ann",))


def test_without_an_answer_it_waits_and_then_expires():
    assert decide(REQUEST, hours=71.9).state == "waiting"
    expired = decide(REQUEST, hours=72)
    assert (expired.state, expired.reason) == ("expired", "0 of 1 approvals when it expired at 2026-07-04 09:00Z")


@pytest.mark.parametrize("second", ["ann", "Ann", " ann "])
def test_the_same_person_twice_is_one_person(second):
    decision = decide(TWO, answer("ann"), answer(second, hours=1.5))
    assert (decision.state, decision.reason) == ("waiting", "1 of 2 approvals (ann)")


def test_two_different_people_are_two():
    decision = decide(TWO, answer("ann"), answer("bob", hours=1.5), answer("ann", hours=1.7))
    assert (decision.state, decision.approvers) == ("approved", ("ann", "bob"))


def test_one_rejection_decides_even_of_one_who_had_approved():
    assert decide(TWO, answer("ann"), answer("ann", "reject", 1.5)).reason == "rejected by ann: because"
    assert decide(REQUEST, answer("ann", "reject"), answer("bob", hours=1.5)).state == "rejected"


@pytest.mark.parametrize("hours", [-1, 72, 80])
def test_an_answer_before_the_question_or_after_its_expiry_does_not_count(hours):
    assert decide(REQUEST, answer("ann", hours=hours), hours=90).state == "expired"


def test_an_approval_in_time_counts_although_it_is_looked_at_later():
    assert decide(REQUEST, answer("ann", hours=71), hours=90).state == "approved"


@pytest.mark.parametrize("other", [{"challenger": 8}, {"champion_seq": 5}, {"evidence_digest": "f" * 64}])
def test_an_answer_to_something_else_does_not_count(other):
    assert decide(REQUEST, answer("ann", **other)).state == "waiting"


@pytest.mark.parametrize(
    ("changed", "said"), [({"seq": 5}, "but #5 serves now"), ({"evidence": "f"}, "it is ffffffffffff now")]
)
def test_another_champion_or_other_evidence_makes_it_void(changed, said):
    decision = decide(REQUEST, answer("ann"), **changed)
    assert decision.state == "void"
    assert said in decision.reason


@given(st.lists(answers), st.floats(0, 100), st.randoms())
def test_the_order_in_which_answers_are_read_does_not_matter(given_answers, hours, random):
    shuffled = list(given_answers)
    random.shuffle(shuffled)
    assert decide(TWO, *given_answers, hours=hours).state == decide(TWO, *shuffled, hours=hours).state


@given(st.lists(answers), st.floats(0, 100), st.integers(1, 2))
def test_approved_means_so_many_different_people_agreed_in_time_and_nobody_refused(given_answers, hours, people):
    decision = decide(replace(REQUEST, people=people), *given_answers, hours=hours)
    counted = [a for a in given_answers if a.challenger == 7 and ASKED <= a.at < EXPIRES]
    if decision.state == "approved":
        assert not [a for a in counted if a.answer == "reject"]
        assert len({a.actor.strip().casefold() for a in counted}) >= people
    if any(a.answer == "reject" for a in counted):
        assert decision.state == "rejected"


@given(st.lists(answers), st.floats(0, 100), answers)
def test_what_is_void_stays_void_whatever_is_answered(given_answers, hours, late):
    assert decide(TWO, *given_answers, late, hours=hours, seq=5).state == "void"


@given(st.lists(answers), st.floats(0, 100))
def test_one_person_alone_never_approves_where_two_are_asked(given_answers, hours):
    alone = [replace(a, actor="ann", answer="approve") for a in given_answers]
    assert decide(TWO, *alone, hours=hours).state != "approved"


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(0, 10**7), st.floats(0, 1e9))
def test_a_larger_stake_never_asks_fewer_people(estimate, lower, rows, above):
    policy = ApprovalPolicy(-1e9, timedelta(days=3), above)
    few = needed(PROMOTE | {"estimate": estimate, "lower": lower, "n_rows": rows}, policy)
    more = needed(PROMOTE | {"estimate": estimate, "lower": lower, "n_rows": rows * 2}, policy)
    assert (few.people if few else 0) <= (more.people if more else 0)
