"""The watch after a promotion: reverts what is worse, confirms what is better, and is not fooled by looking daily."""

import math
from datetime import date, timedelta

import numpy as np
import pytest
from scipy import integrate, stats

from ratchet.domain.probation import (
    DayUplift,
    ProbationPolicy,
    critical_t,
    decide_probation,
    e_values,
    plan_probation,
    statistics,
)

FIRST = date(2013, 5, 1)
POLICY = ProbationPolicy(days=28)


def days(totals, rows=100):
    counts = [rows] * len(totals) if isinstance(rows, int) else list(rows)
    pairs = zip(totals, counts, strict=True)
    return [DayUplift(FIRST + timedelta(days=i), count, float(total)) for i, (total, count) in enumerate(pairs)]


def noise(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


def decided(totals, policy=POLICY, *, complete=False, rows=100):
    return decide_probation(days(totals, rows), policy, complete=complete)


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_a_worse_champion_is_reverted_before_its_time_is_over():
    found = decided(-100.0 + 50 * noise(28))
    assert found.outcome == "revert"
    assert found.n_days < 28
    assert found.worse >= 20
    assert found.upper < 0
    assert "worse than its predecessor" in found.reason


def test_a_better_champion_is_confirmed():
    found = decided(100.0 + 50 * noise(28))
    assert found.outcome == "confirm"
    assert found.better >= 20
    assert found.lower > 0


def test_equal_models_are_watched_and_at_the_end_unproven():
    totals = 50 * noise(28, seed=3)
    assert decided(totals[:20]).outcome == "watching"
    found = decided(totals, complete=True)
    assert found.outcome == "unproven"
    assert "the champion stays" in found.reason
    assert found.lower < 0 < found.upper


def test_models_identical_on_every_row_are_unproven():
    assert decided([0.0] * 28, complete=True).outcome == "unproven"


def test_a_loss_beyond_the_limit_is_reverted_at_once():
    policy = ProbationPolicy(days=28, loss_limit=1000.0)
    found = decided([-600.0, -500.0], policy)
    assert found.outcome == "revert"
    assert "more than the limit of 1,000 USD" in found.reason
    assert decided([-600.0, -400.0], policy).outcome == "watching"


def test_the_loss_limit_counts_the_lowest_total_not_the_last():
    policy = ProbationPolicy(days=28, loss_limit=1000.0)
    assert decided([-1100.0, 5000.0], policy).outcome == "revert"


def test_a_tolerated_loss_is_neither_reverted_nor_held_against_the_champion():
    tolerant = ProbationPolicy(days=28, margin=2.0)
    totals = -100.0 + 50 * noise(28)  # one unit per decision worse
    assert decided(totals).outcome == "revert"
    found = decided(totals, tolerant)
    assert found.outcome == "confirm"
    assert "not worse than its predecessor by more than 2 USD" in found.reason


def test_it_does_not_matter_in_which_portions_days_come():
    totals = -60.0 + 80 * noise(28, seed=5)
    whole = decided(totals)
    assert whole.outcome == "revert"
    for stop in range(1, 29):
        part = decided(totals[:stop])
        assert part == whole if stop >= whole.n_days else part.outcome == "watching"


def test_a_later_recovery_does_not_take_a_revert_back():
    totals = np.concatenate([-100.0 + 30 * noise(12), np.full(16, 500.0)])
    assert decided(totals, complete=True).outcome == "revert"


# -- what is no number -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("uplift", [100.0, -100.0])
def test_a_day_without_a_number_decides_nothing_and_is_named(bad, uplift):
    totals = uplift + 20 * noise(28)
    totals[3] = bad
    found = decided(totals)
    assert found.outcome == "watching"
    assert "2013-05-04" in found.reason
    assert decided(totals, complete=True).outcome == "unproven"


def test_the_loss_limit_holds_beside_a_day_without_a_number():
    found = decided([math.nan, -600.0, -500.0], ProbationPolicy(days=28, loss_limit=1000.0))
    assert found.outcome == "revert"
    assert found.total == -1100.0


def test_a_day_without_rows_says_nothing():
    totals = -100.0 + 50 * noise(28)
    empty = DayUplift(FIRST - timedelta(days=1), 0, 0.0)
    assert decide_probation([empty, *days(totals)], POLICY, complete=False) == decided(totals)


def test_no_day_yet_is_watched():
    found = decide_probation([], POLICY, complete=False)
    assert (found.outcome, found.estimate, found.n_days) == ("watching", None, 0)
    assert decide_probation([], POLICY, complete=True).outcome == "unproven"


@pytest.mark.parametrize("wrong", [{"days": 0}, {"days": 400}, {"confidence": 1.0}, {"margin": -1}, {"loss_limit": 0}])
def test_a_policy_that_cannot_be_obeyed_is_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        ProbationPolicy(**{"days": 28} | wrong)


# -- the statistic -----------------------------------------------------------------------------------------------------


def test_the_estimate_is_total_uplift_over_total_decisions():
    found = decided([100.0, -30.0, 50.0], rows=[10, 40, 50])
    assert found.estimate == pytest.approx(120.0 / 100)
    assert found.total == 120.0
    assert found.n_rows == 100


def test_an_e_value_is_the_mixed_likelihood_ratio_of_student_s_t():
    """Checked against the noncentral t density, integrated over the prior of the effect size."""
    n, t = 9, 2.3
    prior = stats.halfnorm(scale=0.5).pdf
    mixed, _ = integrate.quad(lambda d: prior(d) * stats.nct.pdf(t, n - 1, d * math.sqrt(n)), 0, 8)
    distance, std_error = np.zeros(n), np.ones(n)
    distance[-1] = t
    assert e_values(distance, std_error)[-1] == pytest.approx(mixed / stats.t.pdf(t, n - 1), rel=1e-6)


def test_an_e_value_rises_with_the_statistic():
    grid = np.repeat(np.linspace(-6, 6, 200)[:, None], 28, axis=1)
    assert (np.diff(e_values(grid, np.ones_like(grid))[:, 1:], axis=0) > 0).all()


def test_the_interval_excludes_the_bar_exactly_when_the_e_value_decides():
    bound = critical_t(0.05)
    for n in (5, 6, 14, 28, 60):
        reached = e_values(np.full(n, bound[n]), np.ones(n))[-1]
        assert reached == pytest.approx(20.0, rel=1e-6) or math.isinf(bound[n])
    assert math.isinf(bound[3])
    assert math.isfinite(bound[7])


def test_the_running_statistic_is_the_one_computed_anew_each_day():
    totals, rows = 50 * noise(12), np.arange(50.0, 62.0)
    path = statistics(totals, rows)
    for n in (2, 5, 12):
        part, count = totals[:n], rows[:n]
        estimate = part.sum() / count.sum()
        residual = part - estimate * count
        lagged = (residual[1:] * residual[:-1]).sum() / (residual**2).sum()
        r = min(max((n * lagged + 14 * 0.35) / (n + 14), 0), 0.8)
        variance = (residual**2).sum() * n / (n - 1) * (1 + r) / (1 - r) / count.sum() ** 2
        assert path.estimate[n - 1] == pytest.approx(estimate)
        assert path.correlation[n - 1] == pytest.approx(r)
        assert path.std_error[n - 1] == pytest.approx(math.sqrt(variance))


def test_scale_and_unit_do_not_matter():
    totals = -60.0 + 80 * noise(20, seed=5)
    one, thousand = decided(totals), decided(1000 * totals)
    assert thousand.outcome == one.outcome
    assert thousand.worse == pytest.approx(one.worse)


def test_what_it_would_take_is_said():
    found = decided(20.0 + 80 * noise(14, seed=1))
    assert found.outcome == "watching"
    assert found.reverts_below < found.estimate < found.confirms_above
    assert found.days_needed > 14


# -- how often it errs, looked at every day ----------------------------------------------------------------------------


def worlds(paths, length):
    draws = np.random.default_rng(20)
    shocks = draws.standard_normal((paths, length))
    follow = shocks.copy()
    follow[:, 0] /= math.sqrt(1 - 0.35**2)
    for day in range(1, length):
        follow[:, day] += 0.35 * follow[:, day - 1]
    sizes = np.exp(0.6 * draws.standard_normal((paths, length)))
    ones = np.ones((paths, length))
    return {
        "normal": (shocks, ones, 0.05),
        "t4": (draws.standard_t(4, (paths, length)), ones, 0.05),
        "uneven": (shocks, sizes, 0.05),
        "AR(1) 0.35": (follow, ones, 0.07),
        "AR(1) 0.35, uneven": (follow, sizes, 0.07),
    }


@pytest.mark.parametrize("world", ["normal", "t4", "uneven", "AR(1) 0.35", "AR(1) 0.35, uneven"])
def test_a_model_as_good_as_its_predecessor_is_rarely_reverted_in_sixty_days(world):
    """2,000 paths a world; the full table is in decision 0041."""
    means, rows, most = worlds(2_000, 60)[world]
    path = statistics(means * rows, rows)
    worse = e_values(-path.estimate, path.std_error) >= 20
    assert worse.any(axis=1).mean() <= most


def test_without_the_serial_adjustment_correlated_days_would_revert_too_often():
    """The adjustment is needed: the same e-value on plain day means errs in this world."""
    means, rows, most = worlds(2_000, 60)["AR(1) 0.35"]
    path = statistics(means, rows)
    plain = path.std_error * np.sqrt((1 - path.correlation) / (1 + path.correlation))
    assert (e_values(-path.estimate, plain) >= 20).any(axis=1).mean() > most


def test_a_large_loss_is_reverted_with_power():
    means, rows, _ = worlds(2_000, 28)["normal"]
    path = statistics(means - 4 / math.sqrt(28), rows)
    assert (e_values(-path.estimate, path.std_error) >= 20).any(axis=1).mean() > 0.75


# -- what a watch can see ----------------------------------------------------------------------------------------------


def test_the_detectable_loss_is_reverted_with_eighty_percent_power():
    totals, rows = 500 * noise(28, seed=2), np.full(28, 800.0)
    planned = plan_probation(totals, rows, POLICY)
    draws = np.random.default_rng(5)
    centred = totals - totals.mean()
    paths = centred[(draws.integers(0, 28, (2_000, 4, 1)) + np.arange(7)) % 28].reshape(2_000, 28)
    path = statistics(paths - planned.detectable_loss * 800, np.full((2_000, 28), 800.0))
    power = (e_values(-path.estimate, path.std_error) >= 20).any(axis=1).mean()
    assert power == pytest.approx(0.8, abs=0.05)


def test_twice_the_spread_makes_twice_the_detectable_loss_and_a_longer_watch_a_smaller_one():
    totals, rows = 500 * noise(28, seed=2), np.full(28, 800.0)
    one = plan_probation(totals, rows, POLICY).detectable_loss
    assert plan_probation(2 * totals, rows, POLICY).detectable_loss == pytest.approx(2 * one)
    assert plan_probation(totals, rows, ProbationPolicy(days=56)).detectable_loss < one


def test_the_loss_limit_s_false_reverts_are_the_more_the_lower_it_is():
    totals, rows = 500 * noise(28, seed=2), np.full(28, 800.0)
    rates = [
        plan_probation(totals, rows, ProbationPolicy(days=28, loss_limit=amount)).false_revert_rate
        for amount in (500.0, 2_000.0, 50_000.0)
    ]
    assert rates[0] > rates[1] > rates[2] == 0
    assert plan_probation(totals, rows, POLICY).false_revert_rate is None


def test_too_few_days_plan_nothing():
    assert plan_probation(noise(6), np.ones(6), POLICY) is None
    assert plan_probation([math.nan] * 20, np.ones(20), POLICY) is None


def test_a_watch_too_short_to_say_anything_detects_nothing():
    assert plan_probation(noise(28), np.ones(28), ProbationPolicy(days=3)).detectable_loss is None
