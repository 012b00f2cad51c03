"""Several looks at one challenger spend alpha once."""

from __future__ import annotations

import numpy as np
import pytest

from ratchet.domain.gate import judge
from ratchet.domain.looks import Look, has_another, spent_confidence, why_off

LOOK = Look(number=2, challenger=7, champion_seq=3, spec="s", code="c", after="toy.4")
SAME = {"champion_seq": 3, "spec": "s", "code": "c", "last_judged": "toy.4"}
SIMULATED = 3_000


def promoted(shares: tuple[float, ...], *, correlation: float = 0.0, days: int = 28) -> float:
    """The share of worlds without uplift in which any look promotes; each adds as many days."""
    random = np.random.default_rng(20130401)
    count = 0
    for _ in range(SIMULATED):
        noise = random.normal(size=days * len(shares))
        for day in range(1, noise.size):
            noise[day] += correlation * noise[day - 1]
        count += any(
            judge(
                noise[: days * look], np.arange(days * look), confidence=spent_confidence(0.95, shares[look - 1])
            ).decision
            == "promote"
            for look in range(1, len(shares) + 1)
        )
    return count / SIMULATED


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.2, 0.2)])
def test_the_level_over_all_looks_of_a_plan_stays_within_alpha(shares: tuple[float, ...]) -> None:
    two_standard_errors = 2 * (0.05 * 0.95 / SIMULATED) ** 0.5
    assert 0.01 < promoted(shares) <= 0.05 + two_standard_errors


def test_looking_twice_at_full_alpha_promotes_too_often() -> None:
    assert promoted((1.0, 1.0)) > 0.06


def test_correlated_days_leave_a_plan_within_the_gates_own_tolerance() -> None:
    assert promoted((0.5, 0.5), correlation=0.35) <= 0.07


@pytest.mark.parametrize(("share", "confidence"), [(1.0, 0.95), (0.5, 0.975), (0.1, 0.995)])
def test_a_judgement_spends_its_share_of_alpha(share: float, confidence: float) -> None:
    assert spent_confidence(0.95, share) == pytest.approx(confidence)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1, float("nan")])
def test_no_judgement_spends_nothing_or_more_than_there_is(share: float) -> None:
    with pytest.raises(ValueError, match="a share of alpha"):
        spent_confidence(0.95, share)


def test_a_plan_has_as_many_looks_as_shares() -> None:
    assert [has_another((0.5, 0.25, 0.25), look) for look in (1, 2, 3)] == [True, True, False]


def test_a_look_at_the_same_pair_by_the_same_plan_is_taken() -> None:
    assert why_off(LOOK, **SAME) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"champion_seq": 4}, "champion #3 was looked at, #4 serves now"),
        ({"spec": "t"}, "the spec has changed since the look before"),
        ({"code": "d"}, "the code has changed since the look before"),
        ({"last_judged": "toy.5"}, "toy.5 was judged after toy.4"),
    ],
)
def test_a_look_is_off_when_anything_it_compares_has_changed(changed: dict[str, object], why: str) -> None:
    assert why_off(LOOK, **(SAME | changed)) == why
