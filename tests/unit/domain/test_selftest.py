"""The gate's self-test passes with our gate, fails with broken ones, and says when it cannot tell."""

import json
from dataclasses import asdict, replace
from datetime import date, timedelta

import numpy as np
import pytest
from scipy import stats

from ratchet.domain import gate
from ratchet.domain.inference import group
from ratchet.domain.selftest import JudgedRows, self_test

DAYS = 28
ROWS = 12


def judged(number: int, gain: float = 0.5, correlation: float = 0.35, days: int = DAYS) -> JudgedRows:
    """One attempt: AR(1) days of variance one about ``gain``, rows that scatter about their day."""
    rng = np.random.default_rng(number)
    mean = rng.standard_normal(days)
    for day in range(1, days):
        mean[day] = correlation * mean[day - 1] + (1 - correlation**2) ** 0.5 * mean[day]
    start = date(2013, 1, 1) + timedelta(30 * number)
    labels = [(start + timedelta(day)).isoformat() for day in range(days)]
    champion = rng.standard_normal(days * ROWS)
    uplift = np.repeat(mean + gain, ROWS) + rng.standard_normal(days * ROWS)
    return JudgedRows(f"m.{number}", champion, champion + uplift, np.repeat(labels, ROWS))


def recent(count: int = 6, **changes: float) -> list[JudgedRows]:
    return [judged(number, **changes) for number in reversed(range(count))]


def gate_that(monkeypatch: pytest.MonkeyPatch, promotes) -> None:  # type: ignore[no-untyped-def]
    """Put another gate in the place of ours; ``promotes(verdict, uplift, clusters)`` decides."""
    ours = gate.judge

    def judge(uplift, clusters, **rule):  # type: ignore[no-untyped-def]
        verdict = ours(uplift, clusters, **rule)
        return replace(verdict, decision="promote" if promotes(verdict, uplift, clusters) else "keep_champion")

    monkeypatch.setattr(gate, "judge", judge)


def by_rows(_verdict, uplift, _clusters) -> bool:  # type: ignore[no-untyped-def]
    return uplift.mean() > 1.645 * uplift.std() / uplift.size**0.5


def by_day_t(_verdict, uplift, clusters) -> bool:  # type: ignore[no-untyped-def]
    days = np.bincount(clusters, uplift) / np.bincount(clusters)
    return days.mean() > stats.t.ppf(0.95, days.size - 1) * days.std(ddof=1) / days.size**0.5


@pytest.mark.parametrize("gain", [0.0, 0.5, 3.0])
def test_the_gate_passes_whatever_the_uplift_was(gain: float) -> None:
    found = self_test(recent(gain=gain), seed=1)
    assert found.outcome == "passed", found
    assert found.known_bad == "keep_champion"
    assert (found.copies, found.weeks) == (1_000, 24)
    assert found.promoted is not None
    assert 10 < found.promoted < 74, "some of the noise is promoted, as promised, or nothing was tested"


@pytest.mark.parametrize("broken", [by_rows, by_day_t], ids=["rows as if alone", "days as if alone"])
def test_a_gate_that_takes_what_moves_together_for_many_facts_fails(monkeypatch, broken) -> None:  # type: ignore[no-untyped-def]
    gate_that(monkeypatch, broken)
    found = self_test(recent(count=12, correlation=0.5), seed=1)
    assert found.outcome == "failed"
    assert found.p_value is not None
    assert found.p_value <= 0.001
    assert "null copies were promoted" in found.reasons[0]


def test_a_gate_that_promotes_any_clear_difference_fails_by_the_known_bad_model(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    gate_that(monkeypatch, lambda verdict, *_: verdict.lower > 0 or verdict.upper < 0)
    found = self_test(recent(), seed=1)
    assert found.outcome == "failed"
    assert found.known_bad == "promote"
    assert "known-bad" in found.reasons[0]


def test_fewer_than_sixteen_weeks_are_not_judged(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    gate_that(monkeypatch, lambda *_: True)
    found = self_test(recent(count=3), seed=1)
    assert (found.outcome, found.weeks, found.promoted) == ("not_judged", 12, None)
    assert "84 days" in found.reasons[0]
    assert self_test(recent(count=4), seed=1).outcome == "failed"


def test_the_newest_year_is_tested_and_no_more() -> None:
    found = self_test(recent(count=20), seed=1, copies=100)
    assert found.weeks == 52
    assert found.attempts == tuple(f"m.{number}" for number in range(19, 6, -1))


def test_an_attempt_with_nothing_to_flip_is_left_out_and_named() -> None:
    holed, equal, empty = judged(10), judged(11), judged(12)
    holed = replace(holed, challenger_payoff=np.full(DAYS * ROWS, np.nan))
    equal = replace(equal, challenger_payoff=equal.champion_payoff)
    empty = replace(empty, champion_payoff=[], challenger_payoff=[], days=[])
    found = self_test([holed, equal, empty, *recent()], seed=1, copies=100)
    assert found.left_out == ("m.10", "m.11", "m.12")
    assert len(found.attempts) == 6


def test_the_currency_of_one_attempt_does_not_decide() -> None:
    attempts = recent()
    loud = replace(
        attempts[2],
        champion_payoff=1e4 * np.asarray(attempts[2].champion_payoff),
        challenger_payoff=1e4 * np.asarray(attempts[2].challenger_payoff),
    )
    told = self_test(attempts, seed=1, copies=200)
    assert self_test([*attempts[:2], loud, *attempts[3:]], seed=1, copies=200) == told


def test_the_same_evidence_gives_the_same_answer_as_plain_json() -> None:
    one, again = (self_test(recent(), seed=5, copies=100) for _ in range(2))
    assert one == again
    assert json.loads(json.dumps(asdict(one), allow_nan=False))["outcome"] == one.outcome


def test_a_copy_flips_whole_weeks_of_one_attempt_and_imposes_no_uplift(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    attempts = recent(count=4, gain=2.0)
    copies = []
    ours = gate.judge

    def judge(uplift, clusters, **rule):  # type: ignore[no-untyped-def]
        copies.append(np.bincount(clusters, uplift) / np.bincount(clusters))
        return ours(uplift, clusters, **rule)

    monkeypatch.setattr(gate, "judge", judge)
    self_test(attempts, seed=1, copies=200)
    flipped, null = np.array(copies[1:]), np.concatenate([_centred(rows) for rows in reversed(attempts)])
    assert np.allclose(np.abs(flipped), np.abs(null)), "a copy changes signs, and nothing else"
    changes = np.diff(np.sign(flipped / null), axis=1) != 0
    begins = set()
    for number in range(4):
        for copy in changes[:, number * DAYS : (number + 1) * DAYS - 1]:
            weekdays = set(np.flatnonzero(copy) % 7)
            assert len(weekdays) <= 1, "weeks of a copy begin on one day of the week"
            begins |= weekdays
    assert len(begins) == 7, "that day is drawn anew for each copy"


def _centred(rows: JudgedRows) -> np.ndarray:
    uplift = np.subtract(rows.challenger_payoff, rows.champion_payoff)
    days = group(rows.days)
    mean = np.bincount(days.codes, uplift) / days.rows - uplift.mean()
    return mean / np.sqrt((mean**2).mean())


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"m\.0 must be one-dimensional"):
        self_test([replace(judged(0), days=["2013-01-01"])], seed=1)
