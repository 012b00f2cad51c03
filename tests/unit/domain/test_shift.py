import numpy as np
import pytest

from ratchet.domain.shift import of_categories, of_numbers, stability_index

RANDOM = np.random.default_rng(3)


def test_the_index_is_that_of_the_textbook():
    """By hand: (0.6-0.5)ln(0.6/0.5) + (0.4-0.5)ln(0.4/0.5)."""
    assert stability_index([50, 50], [60, 40]) == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8))


def test_the_same_rows_have_not_changed():
    values = RANDOM.normal(size=5000)
    found = of_numbers("wind", values, values)
    assert (found.stability_index, found.size) == (0.0, "small")


def test_a_change_of_level_is_told_by_its_size():
    before = RANDOM.normal(size=5000)
    assert of_numbers("wind", before, RANDOM.normal(size=5000)).size == "small"
    assert of_numbers("wind", before, RANDOM.normal(0.45, size=5000)).size == "moderate"
    assert of_numbers("wind", before, RANDOM.normal(1.0, size=5000)).size == "large"


def test_a_bin_that_empties_counts_as_half_a_row_and_not_as_infinity():
    assert np.isfinite(of_numbers("wind", np.arange(100.0), np.full(50, 5.0)).stability_index)
    assert np.isfinite(of_categories("carrier", {"AA": 10}, {"UA": 10}).stability_index)


def test_missing_values_are_shares_and_no_part_of_the_index():
    before = np.array([1.0, 2.0, np.nan, np.nan])
    found = of_numbers("wind", before, np.array([1.0, 2.0, np.nan, np.nan, np.nan, np.nan]))
    assert (found.missing_before, found.missing_after) == (0.5, pytest.approx(2 / 3))
    assert found.stability_index == 0.0
    carriers = of_categories("carrier", {"AA": 3, None: 1}, {"AA": 6})
    assert (carriers.missing_before, carriers.missing_after, carriers.stability_index) == (0.25, 0.0, 0.0)


@pytest.mark.parametrize(("before", "after"), [([], [1.0]), ([np.nan], [1.0]), ([1.0], [np.nan])])
def test_nothing_known_on_one_side_is_unknown_and_not_small(before, after):
    found = of_numbers("wind", np.array(before), np.array(after))
    assert (found.stability_index, found.size) == (None, "unknown")


def test_a_number_with_few_values_is_not_split_within_one():
    before = np.repeat([0.0, 1.0], [900, 100])
    found = of_numbers("night", before, np.repeat([0.0, 1.0], [500, 500]))
    assert found.stability_index == pytest.approx(stability_index([900, 100], [500, 500]))
