"""New rows are called drifted when they are, and no oftener than promised when they are not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from ratchet.domain.drift import (
    arrangements,
    blocks_of,
    compare,
    distances,
    least_p_value,
    of_categories,
    of_numbers,
    p_values,
)

WEEKS, NEW = 16, 4
IS_NEW = np.arange(WEEKS) < NEW


def rows_of_weeks(seed: int, *, spread: float = 1.0, weeks: int = WEEKS, per_week: int = 60):
    """Rows whose weeks differ from each other as much as rows within a week do."""
    draw = np.random.default_rng(seed)
    week = np.repeat(np.arange(weeks), per_week)
    return draw.normal(0, 1, week.size) + draw.normal(0, spread, weeks)[week], week


def world(seed: int, shift: float = 0.0, features: int = 6):
    """Several features of one week-wise world, the first moved in the new weeks."""
    profiles = []
    for i in range(features):
        values, week = rows_of_weeks(100 * seed + i)
        profiles.append(of_numbers(f"f{i}", values + (shift * (week < NEW) if i == 0 else 0.0), week, WEEKS))
    return profiles


def test_no_more_worlds_without_drift_alarm_than_the_level_says():
    alarms = sum(bool(compare(world(s), IS_NEW, permutations=99, seed=s).drifted) for s in range(100))
    assert alarms / 100 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 100)


def test_one_feature_at_a_time_would_alarm_far_oftener():
    """What the family's threshold is for: each feature's own p-value promises nothing of all of them."""
    found = [compare(world(s), IS_NEW, permutations=99, seed=s).features for s in range(50)]
    assert np.mean([any(f.p_value <= 0.05 for f in features) for features in found]) > 0.15


def test_rows_taken_for_independent_would_alarm_on_weeks_alone():
    from scipy.stats import ks_2samp  # noqa: PLC0415

    alarms = 0
    for seed in range(40):
        values, week = rows_of_weeks(seed)
        alarms += ks_2samp(values[week < NEW], values[week >= NEW]).pvalue <= 0.05
    assert alarms >= 30


def test_a_planted_shift_is_found_in_its_feature():
    found = compare(world(1, shift=4.0), IS_NEW)
    assert [f.feature for f in found.drifted] == ["f0"]
    assert found.features[0].feature == "f0"
    assert found.severity == found.drifted[0].severity > 0.3
    assert found.p_value <= 0.05
    assert found.drifted[0].distance > found.drifted[0].by_chance


def test_a_larger_shift_is_more_severe():
    found = [compare(world(1, shift=shift), IS_NEW).features for shift in (0.0, 2.0, 4.0, 8.0)]
    severities = [next(f.severity for f in features if f.feature == "f0") for features in found]
    assert severities == sorted(severities)
    assert severities[0] < 0.2
    assert severities[-1] > 0.6


def test_a_share_of_missing_values_that_jumps_is_drift():
    values, week = rows_of_weeks(3, spread=0.0)
    lost = np.where((week < NEW) & (np.arange(week.size) % 2 == 0), np.nan, values)
    (found,) = compare([of_numbers("f", lost, week, WEEKS)], IS_NEW).drifted
    assert (found.missing_before, found.missing_after) == (0.0, 0.5)


def test_categories_that_change_their_shares_are_drift_and_none_is_missing():
    draw = np.random.default_rng(5)
    week = np.repeat(np.arange(WEEKS), 80)
    value = np.where(draw.random(week.size) < np.where(week < NEW, 0.8, 0.3), "a", "b").astype(object)
    value[::10] = None
    (found,) = compare([of_categories("c", value, week, WEEKS)], IS_NEW).drifted
    assert found.shift is None
    assert found.missing_after == pytest.approx(0.1)


def test_what_never_varies_and_what_is_never_known_have_not_moved():
    week = np.repeat(np.arange(WEEKS), 5)
    same = of_numbers("same", np.ones(week.size), week, WEEKS)
    gone = of_numbers("gone", np.full(week.size, np.nan), week, WEEKS)
    none = of_categories("none", [None] * week.size, week, WEEKS)
    found = compare([same, gone, none], IS_NEW)
    assert not found.drifted
    assert {f.p_value for f in found.features} == {1.0}
    assert {f.severity for f in found.features} == {0.0}
    assert all(math.isfinite(f.distance) for f in found.features)


@given(st.integers(0, 10_000), st.floats(-2, 2))
def test_the_distances_are_scipys(seed, shift):
    values, week = rows_of_weeks(seed, per_week=12)
    values = np.round(values + shift * (week < NEW), 1)
    profile = of_numbers("f", values, week, WEEKS)
    shape, moved = distances(profile, arrangements(IS_NEW, 3))
    after, before = values[week < NEW], values[week >= NEW]
    assert moved[0] == pytest.approx(wasserstein_distance(after, before), abs=1e-9)
    counts = profile.binned
    assert shape[0] == pytest.approx(jensenshannon(counts[IS_NEW].sum(0), counts[~IS_NEW].sum(0), base=2))
    assert 0 <= shape.min() <= shape.max() <= 1


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_familys_p_values_are_no_smaller_than_its_members_own(seed, features):
    scores = np.random.default_rng(seed).normal(size=(features, 50))
    own, adjusted = p_values(scores)
    assert (adjusted >= own).all()
    worst = np.argmax(scores[:, 0])
    assert adjusted[worst] == adjusted.min() == (scores.max(axis=0) >= scores[worst, 0]).mean()


def test_the_same_rows_give_the_same_answer_in_any_order_of_rows():
    values, week = rows_of_weeks(9)
    order = np.random.default_rng(1).permutation(week.size)
    plain, mixed = (of_numbers("f", values[o], week[o], WEEKS) for o in (np.arange(week.size), order))
    assert compare([plain], IS_NEW) == compare([mixed], IS_NEW)


def test_all_arrangements_are_taken_where_there_are_few():
    really = np.array([False, False, True, False, True])
    rows = arrangements(really, 999).toarray()
    assert rows.shape == (10, 5)
    assert rows[0].tolist() == [0, 0, 1, 0, 1]
    assert len({tuple(row) for row in rows.tolist()}) == 10
    assert least_p_value(3, 2) == 0.1


@pytest.mark.parametrize(("is_new", "said"), [([True, True], "both sides"), ([True, False, False], "too few")])
def test_too_few_blocks_are_refused_rather_than_called_quiet(is_new, said):
    week = np.arange(len(is_new))
    with pytest.raises(ValueError, match=said):
        compare([of_numbers("f", np.ones(week.size), week, week.size)], is_new)


def test_blocks_are_counted_back_from_the_last_day():
    days = ["2013-03-01", "2013-02-28", "2013-02-22", "2013-02-21", "2013-03-02"]
    assert blocks_of(days, last="2013-02-28").tolist() == [-1, 0, 0, 1, -1]
