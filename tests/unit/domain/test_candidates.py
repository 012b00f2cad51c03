"""Two challengers share alpha, and one of them stands for the attempt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ratchet.domain.candidates import RECALIBRATED, TUNED, choose, judge_each, share_of_each
from ratchet.domain.gate import Evidence, GatePolicy, ScoredRows, Verdict, judge
from ratchet.domain.guardrails import Guardrail
from ratchet.domain.looks import spent_confidence

SIMULATED = 3_000
DAYS = 28
ROWS = 40
PROMOTE, UNDECIDED, KEPT = "promote", "not_enough_evidence", "keep_champion"


def verdict(decision: str, lower: float | None = -0.5, estimate: float | None = 0.0) -> Verdict:
    upper = None if estimate is None else estimate + 1.0
    return Verdict(decision, estimate, lower, upper, 1_000, DAYS, reasons=("its own",))  # type: ignore[arg-type]


def both(tuned: Verdict, recalibrated: Verdict) -> dict[str, Verdict]:
    return {TUNED: tuned, RECALIBRATED: recalibrated}


@pytest.mark.parametrize(
    ("tuned", "recalibrated", "chosen", "decision"),
    [
        (PROMOTE, UNDECIDED, TUNED, PROMOTE),
        (PROMOTE, KEPT, TUNED, PROMOTE),
        (UNDECIDED, PROMOTE, RECALIBRATED, PROMOTE),
        (KEPT, PROMOTE, RECALIBRATED, PROMOTE),
        (UNDECIDED, KEPT, TUNED, UNDECIDED),
        (KEPT, UNDECIDED, RECALIBRATED, UNDECIDED),
        (KEPT, KEPT, TUNED, KEPT),
    ],
)
def test_the_attempt_promotes_when_either_may_be_and_keeps_the_champion_when_both_lost(
    tuned: str, recalibrated: str, chosen: str, decision: str
) -> None:
    found = choose(both(verdict(tuned), verdict(recalibrated)))
    assert (found.chosen, found.verdict.decision) == (chosen, decision)


@pytest.mark.parametrize(("lower", "chosen"), [(0.4, RECALIBRATED), (0.2, TUNED), (0.3, TUNED)])
def test_of_two_that_may_be_promoted_the_larger_lower_bound_is_chosen_and_of_equals_the_tuned_one(
    lower: float, chosen: str
) -> None:
    found = choose(both(verdict(PROMOTE, 0.3, estimate=2.0), verdict(PROMOTE, lower, estimate=0.5)))
    assert found.chosen == chosen


@pytest.mark.parametrize(("estimate", "chosen"), [(0.4, RECALIBRATED), (0.2, TUNED)])
def test_of_two_undecided_ones_the_larger_estimate_goes_on(estimate: float, chosen: str) -> None:
    """The tuned one varies more, so its lower bound is the smaller one whatever it may earn."""
    found = choose(both(verdict(UNDECIDED, -3.0, estimate=0.3), verdict(UNDECIDED, -0.1, estimate=estimate)))
    assert found.chosen == chosen


def test_of_two_that_lost_the_tuned_one_stands_whatever_they_would_have_earned() -> None:
    assert choose(both(verdict(KEPT, estimate=-2.0), verdict(KEPT, estimate=-0.1))).chosen == TUNED


def test_verdicts_without_numbers_leave_it_at_the_tuned_one_and_raise_nothing() -> None:
    nothing = verdict(UNDECIDED, None, None)
    found = choose(both(nothing, nothing))
    assert found.chosen == TUNED
    assert "no numbers" in found.verdict.reasons[-1]


def test_the_verdict_says_what_became_of_both_and_which_was_chosen_by_what() -> None:
    found = choose(both(verdict(PROMOTE, 0.25, 2.0), verdict(PROMOTE, 0.5, 0.75)))
    own, why = found.verdict.reasons
    assert own == "its own"
    assert "the recalibrated champion has the larger lower bound of those that may be promoted" in why
    assert "the tuned challenger: promote, 2 with bounds 0.25 and 3" in why
    assert "the recalibrated champion: promote, 0.75 with bounds 0.5 and 1.75" in why
    assert found.verdict == replace(found.verdicts[RECALIBRATED], reasons=("its own", why))


def test_one_candidate_alone_keeps_its_verdict_as_it_is() -> None:
    alone = verdict(PROMOTE)
    assert choose({TUNED: alone}).verdict == alone


def test_what_could_not_be_judged_is_in_the_verdict_with_its_reason() -> None:
    found = choose({TUNED: verdict(PROMOTE)}, {RECALIBRATED: "3 days are too few"})
    assert found.verdict.reasons == ("its own", "the recalibrated champion was not judged: 3 days are too few")
    assert found.verdict.decision == PROMOTE


def test_without_a_candidate_there_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        choose({})
    with pytest.raises(ValueError, match="at least one candidate"):
        share_of_each(0)


def evidence(uplift: np.ndarray, size_mb: float = 1.0) -> Evidence:
    label = np.arange(uplift.size) % 2
    champion = ScoredRows(np.full(uplift.size, 0.5), np.zeros(uplift.size), act=label == 1, size_mb=1.0)
    challenger = replace(champion, payoff=uplift, size_mb=size_mb)
    return Evidence(uplift, np.repeat(np.arange(DAYS), ROWS), label, champion, challenger)


def gaining(mean: float) -> np.ndarray:
    return np.repeat(mean + np.random.default_rng(3).normal(size=DAYS), ROWS)


def test_each_is_judged_by_its_own_guardrails_against_the_champion() -> None:
    policy = GatePolicy(guardrails=(Guardrail("model_size_mb", max=5.0),), alpha_share=share_of_each(2))
    found = judge_each({TUNED: evidence(gaining(5.0), size_mb=9.0), RECALIBRATED: evidence(gaining(2.0))}, policy)
    assert [each.decision for each in found.verdicts.values()] == [KEPT, PROMOTE]
    assert (found.chosen, found.verdict.decision) == (RECALIBRATED, PROMOTE)
    assert any(check.metric == "model_size_mb" and check.passed for check in found.verdict.checks)


def test_each_is_judged_at_its_share_and_the_days_needed_are_counted_at_that_level() -> None:
    small = {TUNED: evidence(gaining(0.2)), RECALIBRATED: evidence(gaining(0.1))}
    alone = judge_each({TUNED: small[TUNED]}, GatePolicy(target_gain=0.5)).verdict
    shared = judge_each(small, GatePolicy(target_gain=0.5, alpha_share=share_of_each(2))).verdict
    assert alone.decision == shared.decision == UNDECIDED
    assert shared.lower is not None
    assert alone.lower is not None
    assert shared.lower < alone.lower
    assert shared.needed_clusters is not None
    assert alone.needed_clusters is not None
    assert shared.needed_clusters > alone.needed_clusters


def promoted(share: float, correlation: float, days: int = DAYS) -> float:
    """The share of attempts without any uplift that promote; the uplifts of the two are so correlated, day by day."""
    random = np.random.default_rng(20130401)
    clusters, confidence, count = np.arange(days), spent_confidence(0.95, share), 0
    for _ in range(SIMULATED):
        first, own = random.normal(size=(2, days))
        second = correlation * first + (1 - correlation**2) ** 0.5 * own
        found = choose(
            both(judge(first, clusters, confidence=confidence), judge(second, clusters, confidence=confidence))
        )
        count += found.verdict.decision == PROMOTE
    return count / SIMULATED


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.9])
def test_two_challengers_that_are_no_better_promote_at_most_alpha_whatever_their_dependence(correlation: float) -> None:
    two_standard_errors = 2 * (0.05 * 0.95 / SIMULATED) ** 0.5
    assert 0.01 < promoted(share_of_each(2), correlation) <= 0.05 + two_standard_errors


def test_two_challengers_at_full_alpha_each_promote_too_often() -> None:
    assert promoted(1.0, 0.0) > 0.06
