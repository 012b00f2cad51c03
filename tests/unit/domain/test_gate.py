import json
from dataclasses import asdict, replace
from datetime import date, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ratchet.domain.gate import Evidence, GatePolicy, ScoredRows, decide_promotion, judge
from ratchet.domain.inference import cosine_terms, group, ratio_inference

DAYS = 28
ROWS = 50


def days_of(n_days: int = DAYS, rows: int = ROWS) -> np.ndarray:
    return np.repeat(np.arange(n_days), rows)


def uplift_of(mean: float, n_days: int = DAYS, rows: int = ROWS, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(mean + spread * rng.standard_normal(n_days), rows)


def evidence(mean: float = 5.0, **changes: object) -> Evidence:
    rng = np.random.default_rng(7)
    n = DAYS * ROWS
    probability = rng.uniform(size=n)
    label = (rng.uniform(size=n) < probability).astype(int)
    uplift = uplift_of(mean)
    scored = ScoredRows(probability, np.zeros(n), np.full(100, 2.0))
    made = Evidence(uplift, days_of(), label, scored, replace(scored, payoff=uplift), {"carrier": np.repeat("UA", n)})
    return replace(made, **changes)  # type: ignore[arg-type]


SHIPPED = GatePolicy.from_spec(
    SimpleNamespace(
        mode="superiority",
        confidence=0.95,
        min_uplift=0.05,
        target_gain=0.5,
        guardrails=[
            {"metric": "expected_calibration_error", "max_regression": 0.02},
            SimpleNamespace(metric="payoff", slice="carrier", max_regression=0.5, max=None, min_rows=500),
            {"metric": "latency_p95_ms", "max": 20},
        ],
    )
)


def test_clearly_better_challenger_is_promoted() -> None:
    verdict = judge(uplift_of(5), days_of(), min_uplift=0.05)
    assert verdict.decision == "promote"
    assert verdict.lower is not None
    assert verdict.upper is not None
    assert 0.05 < verdict.lower < verdict.estimate < verdict.upper
    assert (verdict.n_rows, verdict.n_clusters) == (DAYS * ROWS, DAYS)


def test_clearly_worse_challenger_keeps_the_champion() -> None:
    assert judge(uplift_of(-5), days_of()).decision == "keep_champion"


def test_small_gain_in_much_noise_is_not_enough_evidence_and_says_how_many_days_are_needed() -> None:
    verdict = judge(uplift_of(0.1, spread=1), days_of(), target_gain=0.5)
    assert verdict.decision == "not_enough_evidence"
    assert verdict.needed_clusters is not None
    assert 28 < verdict.needed_clusters <= 365


def test_needed_clusters_do_not_depend_on_the_observed_uplift() -> None:
    verdicts = [judge(uplift_of(mean), days_of(), target_gain=0.5) for mean in (0.0, 0.1)]
    assert {v.decision for v in verdicts} == {"not_enough_evidence"}
    assert verdicts[0].needed_clusters == verdicts[1].needed_clusters


def test_needed_clusters_beyond_a_year_are_none_with_a_reason() -> None:
    verdict = judge(uplift_of(0, spread=100), days_of(), target_gain=0.5)
    assert verdict.needed_clusters is None
    assert any("more than 365" in reason for reason in verdict.reasons)


def test_needed_clusters_without_a_target_gain_are_none_with_a_reason() -> None:
    verdict = judge(uplift_of(0, spread=100), days_of())
    assert verdict.needed_clusters is None
    assert any("target_gain" in reason for reason in verdict.reasons)


def test_needed_clusters_have_eighty_percent_power_when_the_variance_is_known_to_be_low() -> None:
    rng = np.random.default_rng(3)
    needed = judge(uplift_of(0.0), days_of(), target_gain=0.5).needed_clusters
    assert needed is not None
    promoted = sum(
        judge(0.5 + rng.standard_normal(needed), np.arange(needed)).decision == "promote" for _ in range(500)
    )
    assert promoted / 500 > 0.75


def test_estimate_is_total_uplift_over_total_rows_not_the_mean_of_days() -> None:
    uplift = np.r_[np.full(10, 1.0), np.full(90, 3.0)]
    assert judge(uplift, np.repeat([0, 1], [10, 90])).estimate == pytest.approx(2.8)


def test_gain_of_one_lucky_day_is_not_promoted() -> None:
    uplift = np.full(DAYS, 0.04)
    uplift[14] = 0.6
    verdict = judge(uplift, np.arange(DAYS), min_uplift=0.045, confidence=0.6)
    assert verdict.lower is not None
    assert verdict.lower > 0.045
    assert verdict.decision == "not_enough_evidence"
    assert verdict.diagnostics["best_cluster"]["label"] == 14
    assert "without the best cluster" in verdict.reasons[0]


def test_non_inferiority_promotes_a_challenger_that_is_worse_by_less_than_the_margin() -> None:
    uplift = uplift_of(-0.1, spread=0.1)
    assert judge(uplift, days_of(), min_uplift=0.5, mode="non_inferiority").decision == "promote"
    assert judge(uplift - 2, days_of(), min_uplift=0.5, mode="non_inferiority").decision == "keep_champion"
    assert (
        judge(uplift_of(-0.1, spread=5), days_of(), min_uplift=0.5, mode="non_inferiority").decision
        == "not_enough_evidence"
    )


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("mode", ["superiority", "non_inferiority"])
@pytest.mark.parametrize(
    ("uplift", "clusters", "named"),
    [
        ([], [], "empty"),
        ([1.0, 2.0, 3.0], ["a", "a", "a"], "one cluster"),
        ([1.0, np.nan, 3.0], [1, 2, 3], "NaN"),
        ([1.0, np.inf, 3.0], [1, 2, 3], "infinite"),
        ([0.0, 0.0, 0.0], [1, 2, 3], "identical"),
        ([1.0, 2.0, 3.0], [1, None, 3], "missing"),
        ([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], "missing"),
        ([1.0, 2.0, 3.0], np.array(["2013-01-01", "NaT", "2013-01-02"], dtype="datetime64[D]"), "missing"),
    ],
)
def test_unusable_uplift_is_never_promoted_and_is_named(uplift, clusters, named, mode, ordered) -> None:  # type: ignore[no-untyped-def]
    verdict = judge(uplift, clusters, mode=mode, ordered=ordered, min_uplift=0.5)
    assert verdict.decision != "promote"
    assert any(named in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "luck"}, {"confidence": 0.4}, {"min_uplift": float("nan")}, {"target_gain": -1}, {"confidence": 1.0}],
)
def test_rules_no_verdict_can_obey_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="but got"):
        judge([1.0, 2.0], [1, 2], **wrong)  # type: ignore[arg-type]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        judge([1.0, 2.0], [1])


def test_verdict_is_plain_json() -> None:
    for verdict in (judge(uplift_of(1), days_of()), judge([], []), decide_promotion(evidence(), SHIPPED)):
        assert json.loads(json.dumps(asdict(verdict), allow_nan=False))["decision"] == verdict.decision


def test_every_kind_of_label_gives_the_same_verdict() -> None:
    uplift, codes = uplift_of(0.5), days_of()
    start = date(2013, 2, 20)
    dates = [start + timedelta(days=int(i)) for i in codes]
    kinds = [
        codes,
        codes.astype(np.int32) - 7,
        codes * 10**12,
        np.array([d.isoformat() for d in dates]),
        [d.isoformat() for d in dates],
        np.array([d.isoformat() for d in dates], dtype=object),
        dates,
        np.array(dates, dtype="datetime64[D]"),
        codes.astype(float),
    ]
    bounds = {(v.lower, v.upper, v.n_clusters) for v in (judge(uplift, kind) for kind in kinds)}
    assert len(bounds) == 1


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab0-é𝔘", max_size=6), min_size=1, max_size=40))
def test_grouping_strings_is_exact_and_sorted(labels: list[str]) -> None:
    labels = [label.rstrip("\0") for label in labels]
    for kind in (np.array(labels), np.array(labels, dtype=object)):
        grouped = group(kind)
        assert grouped.labels == sorted(set(labels))
        assert [grouped.labels[i] for i in grouped.codes] == labels


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_order_of_rows_does_not_change_the_verdict(values: list[float], seed: int, ordered: bool) -> None:
    uplift, days = np.array(values), np.arange(len(values)) // 2
    mixed = np.random.default_rng(seed).permutation(len(values))
    one, other = judge(uplift, days, ordered=ordered), judge(uplift[mixed], days[mixed], ordered=ordered)
    scale = np.abs(uplift).max() + 1e-300
    assert other.lower == pytest.approx(one.lower, abs=1e-9 * scale)
    assert other.n_clusters == one.n_clusters


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.booleans())
def test_interval_scales_with_the_currency_and_mirrors_with_the_sign(seed: int, rate: float, ordered: bool) -> None:
    uplift, days = uplift_of(0.3, seed=seed), days_of()
    one, scaled = judge(uplift, days, ordered=ordered), judge(rate * uplift, days, ordered=ordered)
    mirrored = judge(-uplift, days, ordered=ordered)
    assert scaled.lower == pytest.approx(rate * one.lower)  # type: ignore[operator]
    assert mirrored.upper == pytest.approx(-one.lower)  # type: ignore[operator]


def test_splitting_every_row_in_two_does_not_make_the_gate_surer() -> None:
    uplift, days = uplift_of(0.3), days_of()
    one, twice = judge(uplift, days), judge(np.repeat(uplift, 2), np.repeat(days, 2))
    assert twice.lower == pytest.approx(one.lower)


def test_diagnostics_show_the_days() -> None:
    shown = judge(np.r_[uplift_of(1), -500.0], np.r_[days_of(), 28]).diagnostics
    assert shown["worst_cluster"] == {"label": 28, "rows": 1, "total_uplift": -500.0}
    assert len(shown["clusters"]) == 29
    assert shown["skew"] is not None
    assert -1 <= shown["lag_one_correlation"] <= 1


def _share_promoted(days: np.ndarray, *, ordered: bool) -> float:
    labels = np.arange(days.shape[1])
    return float(np.mean([judge(row, labels, ordered=ordered).decision == "promote" for row in days]))


SIMULATIONS = 2_000
NOISE = 3 * (0.05 * 0.95 / SIMULATIONS) ** 0.5


@pytest.mark.parametrize("n_days", [10, 14, 28, 60])
def test_noise_of_correlated_days_is_promoted_in_at_most_seven_of_a_hundred(n_days: int) -> None:
    rng = np.random.default_rng(28)
    steps = rng.standard_normal((SIMULATIONS, n_days)) * np.r_[1.0, np.full(n_days - 1, (1 - 0.35**2) ** 0.5)]
    days = np.empty_like(steps)
    days[:, 0] = steps[:, 0]
    for t in range(1, n_days):
        days[:, t] = 0.35 * days[:, t - 1] + steps[:, t]
    assert _share_promoted(days, ordered=True) <= 0.07 + NOISE
    if n_days == 28:
        assert _share_promoted(days, ordered=False) > 0.09, "the day t-test must be seen to fail here"


@pytest.mark.parametrize("ordered", [True, False])
def test_noise_of_heavy_tailed_days_is_promoted_in_at_most_six_of_a_hundred(ordered: bool) -> None:
    days = np.random.default_rng(4).standard_t(4, (SIMULATIONS, 28))
    assert _share_promoted(days, ordered=ordered) <= 0.06 + NOISE


@pytest.mark.parametrize("ordered", [True, False])
def test_noise_of_days_of_uneven_size_is_promoted_in_at_most_six_of_a_hundred(ordered: bool) -> None:
    rng = np.random.default_rng(5)
    promoted = 0
    for _ in range(SIMULATIONS):
        rows = np.exp(0.6 * rng.standard_normal(28))
        found = ratio_inference(rows * rng.standard_normal(28), rows, ordered=ordered)
        promoted += found.estimate > found.std_error * _t95(found.dof)
    assert promoted / SIMULATIONS <= 0.06 + NOISE


def _t95(dof: float) -> float:
    return float(stats.t.ppf(0.95, dof))


def test_cosines_grow_slower_than_the_days() -> None:
    assert [cosine_terms(n) for n in (2, 10, 14, 28, 60)] == [1, 3, 4, 8, 15]
    assert cosine_terms(1_000_000) == 64


def test_promotion_needs_uplift_and_every_guardrail() -> None:
    verdict = decide_promotion(evidence(), SHIPPED)
    assert verdict.decision == "promote"
    assert {check.metric for check in verdict.checks} >= {
        "uplift",
        "expected_calibration_error",
        "payoff",
        "latency_p95_ms",
    }
    assert all(check.passed for check in verdict.checks)


def test_clearly_broken_guardrail_keeps_the_champion_despite_the_uplift() -> None:
    base = evidence()
    slow = replace(base.challenger, latency_ms=np.full(100, 50.0))
    verdict = decide_promotion(replace(base, challenger=slow), SHIPPED)
    assert verdict.decision == "keep_champion"
    assert any("latency_p95_ms" in reason for reason in verdict.reasons)


def test_nan_probability_is_named_and_never_promoted() -> None:
    base = evidence()
    holed = np.array(base.challenger.probability)
    holed[3] = np.nan
    verdict = decide_promotion(replace(base, challenger=replace(base.challenger, probability=holed)), SHIPPED)
    assert verdict.decision == "keep_champion"
    assert any("challenger's probability is NaN" in reason for reason in verdict.reasons)


def test_missing_metric_is_never_promoted() -> None:
    base = evidence()
    for changes in ({"latency_ms": None}, {"latency_ms": []}, {"probability": None}):
        verdict = decide_promotion(replace(base, challenger=replace(base.challenger, **changes)), SHIPPED)
        assert verdict.decision == "keep_champion"
        assert any("missing" in reason for reason in verdict.reasons)


def test_guardrails_never_turn_a_refusal_into_a_promotion() -> None:
    for mean in (-5.0, 0.05):
        assert decide_promotion(evidence(mean), SHIPPED).decision != "promote"


def test_empty_and_identical_evidence_end_in_a_named_verdict() -> None:
    nothing = ScoredRows([], [], [])
    empty = decide_promotion(Evidence([], [], [], nothing, nothing), SHIPPED)
    assert (empty.decision, empty.n_rows) == ("not_enough_evidence", 0)
    same = decide_promotion(evidence(uplift=np.zeros(DAYS * ROWS)), SHIPPED)
    assert same.decision == "keep_champion"
    assert "identical" in same.reasons[0]


def test_models_scored_on_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        decide_promotion(evidence(label=[0, 1]), SHIPPED)
