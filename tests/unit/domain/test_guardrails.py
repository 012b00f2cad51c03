from dataclasses import replace

import numpy as np
import pytest

from ratchet.domain.guardrails import (
    Finding,
    Guardrail,
    Scene,
    ScoredRows,
    calibration_error,
    find,
    holm_rejected,
    quantile_bounds,
)
from ratchet.domain.inference import group
from ratchet.domain.metrics import FAIRNESS, SCORERS
from ratchet.domain.scorers import leave_one_out

DAYS, ROWS = 28, 300
N = DAYS * ROWS
RNG = np.random.default_rng(1)
PROBABILITY = RNG.uniform(0.05, 0.95, size=N)
LABEL = (RNG.uniform(size=N) < PROBABILITY).astype(float)
CLUSTERS = group(np.repeat(np.arange(DAYS), ROWS))
GOOD = ScoredRows(PROBABILITY, np.zeros(N), np.full(100, 2.0), PROBABILITY >= 0.5, 1.0)
CALIBRATED = Guardrail("expected_calibration_error", max_regression=0.02)
CARRIER = Guardrail("payoff", slice="carrier", max_regression=0.5, min_rows=500)
FAST = Guardrail("latency_p95_ms", max=20)


def look(*guardrails: Guardrail, challenger=GOOD, champion=GOOD, uplift=None, slices=None) -> list[Finding]:  # type: ignore[no-untyped-def]
    scene = Scene(
        uplift=np.zeros(N) if uplift is None else uplift,
        days=CLUSTERS,
        label=LABEL,
        champion=champion,
        challenger=challenger,
        slices=slices or {},
        confidence=0.95,
        ordered=True,
    )
    return find(guardrails, scene)


def scored(probability: np.ndarray | None = PROBABILITY, latency: object = (2.0,) * 100) -> ScoredRows:
    act = None if probability is None else np.asarray(probability) >= 0.5
    return ScoredRows(probability, np.zeros(N), latency, act)  # type: ignore[arg-type]


def carriers(*names: str) -> dict[str, np.ndarray]:
    return {"carrier": np.resize(np.array(names), N)}


def test_calibration_error_is_zero_when_every_bin_keeps_its_promise() -> None:
    assert calibration_error([0.5, 0.5, 0.0, 1.0], [0, 1, 0, 1])[0] == 0


def test_calibration_error_weighs_each_bin_by_its_rows() -> None:
    error, share = calibration_error([0.1, 0.1, 0.1, 0.9], [0, 0, 0, 0])
    assert error == pytest.approx(0.75 * 0.1 + 0.25 * 0.9)
    assert share.mean() == pytest.approx(error)


def test_calibration_as_good_as_the_champions_holds() -> None:
    (finding,) = look(CALIBRATED)
    assert finding.outcome == "holds"
    assert finding.check.champion == finding.check.challenger


def test_clearly_worse_calibration_is_broken() -> None:
    (finding,) = look(CALIBRATED, challenger=scored(PROBABILITY**3))
    assert finding.outcome == "broken"
    assert finding.check.passed is False


def test_calibration_is_relative_to_the_champion() -> None:
    both = scored(PROBABILITY**3)
    assert look(CALIBRATED, challenger=both, champion=both)[0].outcome == "holds"


def test_calibration_regression_near_its_limit_is_unproven() -> None:
    days = np.repeat(np.random.default_rng(6).normal(0.033, 0.06, DAYS), ROWS)
    (finding,) = look(CALIBRATED, challenger=scored(np.clip(PROBABILITY + days, 0.001, 0.999)))
    assert finding.outcome == "unproven"


def test_limit_that_the_champion_breaks_as_well_warns() -> None:
    strict = Guardrail("expected_calibration_error", max=0.05)
    off = scored(PROBABILITY**3)
    assert look(strict, challenger=off, champion=GOOD)[0].outcome == "broken"
    (finding,) = look(strict, challenger=off, champion=off)
    assert (finding.outcome, finding.check.passed) == ("warns", None)


def test_challenger_without_probabilities_is_broken_and_champion_without_is_unjudged() -> None:
    assert look(CALIBRATED, challenger=scored(None))[0].outcome == "broken"
    assert look(CALIBRATED, champion=scored(None))[0].outcome == "unjudged"


def test_slow_challenger_is_broken_unless_the_champion_is_slow_too() -> None:
    slow = scored(latency=(50.0,) * 100)
    assert look(FAST)[0].outcome == "holds"
    assert look(FAST, challenger=slow)[0].outcome == "broken"
    assert look(FAST, challenger=slow, champion=slow)[0].outcome == "warns"


@pytest.mark.parametrize("latency", [None, (), (1.0, float("nan"))])
def test_unmeasured_latency_is_broken_and_named(latency: object) -> None:
    (finding,) = look(FAST, challenger=scored(latency=latency))
    assert finding.outcome == "broken"
    assert "latency_p95_ms of the challenger is missing" in finding.check.detail


def test_quantile_bounds_cover_at_their_confidence() -> None:
    rng, true = np.random.default_rng(0), 1.6448536
    bounds = np.array([quantile_bounds(rng.standard_normal(300), 0.95, 0.95) for _ in range(1000)])
    assert (bounds[:, 0] <= true).mean() >= 0.935
    assert (bounds[:, 1] >= true).mean() >= 0.935


def test_slice_that_clearly_loses_is_broken_and_the_others_hold() -> None:
    slices = carriers("AA", "UA", "DL")
    uplift = np.where(slices["carrier"] == "UA", -3.0, 1.0) + np.repeat(RNG.normal(0, 0.3, DAYS), ROWS)
    outcomes = {f.check.slice: f.outcome for f in look(CARRIER, uplift=uplift, slices=slices)}
    assert outcomes == {"carrier=AA": "holds", "carrier=UA": "broken", "carrier=DL": "holds"}


def test_small_slice_is_reported_as_unjudged() -> None:
    slices = carriers("AA")
    slices["carrier"][:100] = "F9"
    uplift = np.where(slices["carrier"] == "F9", -100.0, 1.0)
    outcomes = {f.check.slice: (f.outcome, f.check.passed) for f in look(CARRIER, uplift=uplift, slices=slices)}
    assert outcomes["carrier=F9"] == ("unjudged", None)


def test_required_slice_must_show_that_it_does_not_lose() -> None:
    required = Guardrail("payoff", slice="carrier=UA", max_regression=0.5, min_rows=500, required=True)
    doubtful = np.repeat(RNG.normal(0, 5, DAYS), ROWS)
    assert [f.outcome for f in look(required, uplift=doubtful, slices=carriers("UA", "AA"))] == ["unproven"]
    assert [f.outcome for f in look(required, uplift=doubtful * 0 + 1, slices=carriers("UA", "AA"))] == ["holds"]


def test_absent_required_slice_holds_the_promotion_back() -> None:
    required = Guardrail("payoff", slice="carrier=UA", max_regression=0.5, required=True)
    (finding,) = look(required, slices=carriers("AA"))
    assert (finding.outcome, finding.check.passed) == ("unproven", False)
    assert "carrier=UA" in finding.check.detail


@pytest.mark.parametrize("guardrail", [CARRIER, Guardrail("demographic_parity_difference", by="carrier", max=0.5)])
def test_rows_without_the_column_of_a_guardrail_hold_the_promotion_back(guardrail: Guardrail) -> None:
    (finding,) = look(guardrail)
    assert (finding.outcome, finding.check.passed) == ("unproven", False)
    assert "no column 'carrier'" in finding.check.detail


def test_noise_on_sixteen_slices_rarely_blocks() -> None:
    rng, blocked = np.random.default_rng(9), 0
    slices = carriers(*(f"C{i:02d}" for i in range(16)))
    codes = group(slices["carrier"]).codes
    for _ in range(200):
        effects = rng.normal(-0.5, 2, (16, DAYS))
        found = look(CARRIER, uplift=effects[codes, CLUSTERS.codes], slices=slices)
        blocked += any(f.outcome == "broken" for f in found)
    assert blocked / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_holm_steps_down_and_stops_at_the_first_that_stays() -> None:
    assert holm_rejected([0.04, 0.01, 0.03], 0.05) == [False, True, False]
    assert holm_rejected([0.02, 0.01, 0.04], 0.05) == [True, True, True]
    assert holm_rejected([], 0.05) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "expected_calibration_eror", "max": 1},
        {"metric": "expected_calibration_error"},
        {"metric": "payoff", "max_regression": 1},
        {"metric": "latency_p95_ms", "max_regression": 1},
        {"metric": "latency_p95_ms", "max": 1, "max_regression": 1},
        {"metric": "roc_auc"},
        {"metric": "roc_auc", "max": 0.9},
        {"metric": "roc_auc", "min": 0.7, "slice": "carrier"},
        {"metric": "roc_auc", "min": 0.7, "min_rows": 5},
        {"metric": "demographic_parity_difference", "max": 0.1},
        {"metric": "demographic_parity_difference", "max": 0.1, "by": "carrier", "required": True},
        {"metric": "decisions_flipped", "max": 0.1, "by": "carrier"},
    ],
)
def test_guardrail_that_would_judge_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="guardrail"):
        Guardrail.from_spec(wrong)


@pytest.mark.parametrize("metric", SCORERS)
def test_every_scorer_holds_for_the_champions_equal_and_breaks_when_it_is_clearly_worse(metric: str) -> None:
    margin = 0.02 * abs(leave_one_out(metric, LABEL, PROBABILITY, PROBABILITY >= 0.5, CLUSTERS)[0])
    guardrail = Guardrail(metric, max_regression=margin)
    (same,) = look(guardrail)
    assert (same.outcome, same.check.champion) == ("holds", same.check.challenger)
    mixed = np.random.default_rng(3).permutation(PROBABILITY)
    (worse,) = look(guardrail, challenger=scored(mixed))
    assert (worse.outcome, worse.check.passed) == ("broken", False)
    assert look(guardrail, champion=scored(mixed))[0].outcome == "holds"


def test_scorer_regression_near_its_limit_is_unproven() -> None:
    noisy = scored(np.clip(PROBABILITY + np.repeat(np.random.default_rng(6).normal(0, 0.35, DAYS), ROWS), 0.001, 0.999))
    regression = look(Guardrail("roc_auc", max_regression=0.5), challenger=noisy)[0].check
    assert regression.champion is not None
    assert regression.challenger is not None
    limit = regression.champion - regression.challenger
    assert look(Guardrail("roc_auc", max_regression=limit), challenger=noisy)[0].outcome == "unproven"


def test_scorer_below_its_minimum_is_broken_unless_the_champion_is_below_it_too() -> None:
    guardrail = Guardrail("roc_auc", min=0.7)
    mixed = scored(np.random.default_rng(3).permutation(PROBABILITY))
    assert look(guardrail)[0].outcome == "holds"
    (finding,) = look(guardrail, challenger=mixed)
    assert (finding.outcome, finding.check.required) == ("broken", ">= 0.7")
    assert look(guardrail, challenger=mixed, champion=mixed)[0].outcome == "warns"


def test_scorer_that_these_rows_do_not_define_is_unproven_and_named() -> None:
    scene = Scene(np.zeros(N), CLUSTERS, np.zeros(N), GOOD, GOOD, {}, 0.95, ordered=True)
    (finding,) = find([Guardrail("roc_auc", max_regression=0.01)], scene)
    assert (finding.outcome, finding.check.passed) == ("unproven", False)
    assert "not defined on these rows" in finding.check.detail


def test_scorer_that_one_day_alone_defines_is_unproven() -> None:
    label = np.where(CLUSTERS.codes == 3, LABEL, 0.0)
    scene = Scene(np.zeros(N), CLUSTERS, label, GOOD, GOOD, {}, 0.95, ordered=True)
    assert [f.outcome for f in find([Guardrail("roc_auc", max_regression=0.01)], scene)] == ["unproven"]


def test_constant_rival_is_compared_in_nothing_but_payoff() -> None:
    rival = ScoredRows(None, np.zeros(N), None, np.zeros(N, dtype=bool))
    asked = [
        Guardrail("roc_auc", max_regression=0.01),
        Guardrail("f1", max_regression=0.01),
        Guardrail("decisions_flipped", max=0.01),
        Guardrail("demographic_parity_difference", by="carrier", max_regression=0.01),
    ]
    found = look(*asked, champion=rival, slices=carriers("AA", "UA"))
    assert {(f.outcome, f.check.passed) for f in found} == {("unjudged", None)}
    assert len(found) == 4
    assert look(Guardrail("roc_auc", min=0.99), champion=rival)[0].outcome == "broken"


FAIR = Guardrail("demographic_parity_difference", by="carrier", max_regression=0.05, min_rows=500)


def partial_to(name: str, by: float) -> tuple[ScoredRows, dict[str, np.ndarray]]:
    slices = carriers("AA", "UA", "DL")
    return scored(np.clip(PROBABILITY + by * (slices["carrier"] == name), 0.001, 0.999)), slices


@pytest.mark.parametrize("metric", FAIRNESS)
def test_difference_between_groups_that_grows_beyond_its_margin_is_broken(metric: str) -> None:
    partial, slices = partial_to("UA", 0.25)
    guardrail = replace(FAIR, metric=metric)
    (finding,) = look(guardrail, challenger=partial, slices=slices)
    assert (finding.outcome, finding.check.slice) == ("broken", "carrier")
    assert look(guardrail, slices=slices)[0].outcome == "holds"
    assert look(guardrail, champion=partial, slices=slices)[0].outcome == "holds"


def test_difference_between_groups_has_a_limit_of_its_own() -> None:
    partial, slices = partial_to("UA", 0.25)
    limited = replace(FAIR, max_regression=None, max=0.1)
    assert look(limited, challenger=partial, slices=slices)[0].outcome == "broken"
    assert look(limited, challenger=partial, champion=partial, slices=slices)[0].outcome == "warns"


def test_small_group_is_not_compared_and_is_reported() -> None:
    partial, slices = partial_to("F9", 0.0)
    slices["carrier"][:100] = "F9"
    favoured = scored(np.where(slices["carrier"] == "F9", 0.999, PROBABILITY))
    found = {f.check.slice: f.outcome for f in look(FAIR, challenger=favoured, champion=partial, slices=slices)}
    assert found == {"carrier=F9": "unjudged", "carrier": "holds"}


def test_one_group_has_nothing_to_differ_from() -> None:
    (finding,) = look(FAIR, slices=carriers("AA"))
    assert (finding.outcome, finding.check.passed) == ("unjudged", None)


def test_share_of_flipped_decisions_has_its_limit() -> None:
    moved = scored(1 - PROBABILITY)
    assert look(Guardrail("decisions_flipped", max=0.1), challenger=moved)[0].outcome == "broken"
    assert look(Guardrail("decisions_flipped", max=0.1))[0].outcome == "holds"


def test_large_model_is_broken_unless_the_champion_is_as_large_and_an_unknown_size_is_named() -> None:
    guardrail = Guardrail("model_size_mb", max=5)
    large = replace(GOOD, size_mb=5.1)
    assert look(guardrail)[0].outcome == "holds"
    assert look(guardrail, challenger=large)[0].outcome == "broken"
    assert look(guardrail, challenger=large, champion=large)[0].outcome == "warns"
    (finding,) = look(guardrail, challenger=replace(GOOD, size_mb=None))
    assert finding.outcome == "broken"
    assert "missing" in finding.check.detail


def test_slices_of_all_guardrails_are_judged_jointly() -> None:
    slices = carriers(*(f"C{i:02d}" for i in range(16)))
    loss = np.where(slices["carrier"] == "C00", -0.5, 1.0) + np.repeat(RNG.normal(0, 0.01, DAYS), ROWS)
    days = np.where(slices["carrier"] == "C00", np.repeat(np.random.default_rng(5).normal(0, 2.3, DAYS), ROWS), 0)
    one = Guardrail("payoff", slice="carrier=C00", max_regression=0.0)
    others = [Guardrail("payoff", slice=f"carrier=C{i:02d}", max_regression=0.0) for i in range(1, 16)]
    assert look(one, uplift=loss + days, slices=slices)[0].outcome == "broken"
    assert look(one, *others, uplift=loss + days, slices=slices)[0].outcome == "holds"
