"""Data that cannot be believed are told apart from a world that moved."""

import numpy as np
import pytest

from ratchet.domain.quality import of_days, of_features

NUMBERS = np.arange(100, dtype=np.float64)
WORDS = np.array(["a", "b"] * 50, dtype=object)


def lost(share: float) -> np.ndarray:
    return np.where(np.arange(100) < share * 100, np.nan, NUMBERS)


def rules(before, after, **options):
    return [(f.rule, f.breaks) for f in of_features({"f": before}, {"f": after}, **options)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (NUMBERS, NUMBERS, []),
        (NUMBERS, lost(0.04), []),
        (NUMBERS, lost(0.2), [("missing", False)]),
        (NUMBERS, lost(0.6), [("missing", True)]),
        (lost(0.6), lost(0.6), []),
        (NUMBERS, NUMBERS + 10, [("range", False)]),
        (NUMBERS, NUMBERS * 1000, [("range", True)]),
        (NUMBERS, WORDS, [("kind", True)]),
        (WORDS, NUMBERS, [("kind", True)]),
        (WORDS, np.where(np.arange(100) < 10, "c", WORDS).astype(object), [("unseen", False)]),
        (WORDS, np.array(["c"] * 100, dtype=object), [("unseen", True)]),
        (WORDS, np.array([None] * 100, dtype=object), [("missing", True)]),
    ],
)
def test_what_is_told_and_what_breaks(before, after, expected):
    assert rules(before, after) == expected


def test_a_feature_that_is_gone_breaks_and_is_named():
    (found,) = of_features({"f": NUMBERS}, {})
    assert (found.feature, found.rule, found.breaks) == ("f", "gone", True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.full(9, 123456.0), np.full(9, 654321.0)),
        (np.array(["Ada"] * 9, dtype=object), np.array(["Bob"] * 9, dtype=object)),
    ],
)
def test_no_value_is_told_for_it_may_be_sensitive(before, after):
    (found,) = of_features({"f": before}, {"f": after})
    assert not any(value in found.said for value in ("123456", "654321", "Ada", "Bob"))


def test_what_moves_with_the_seasons_may_leave_its_range():
    assert rules(NUMBERS, NUMBERS * 1000, moving=["f"]) == []


def test_days_with_few_rows_are_told_and_no_row_at_all_breaks():
    before = {"2013-01-01": 100, "2013-01-02": 100}
    days = ["2013-02-01", "2013-02-02"]
    assert of_days(before, dict.fromkeys(days, 60), days) == []
    (few,) = of_days(before, {"2013-02-01": 100, "2013-02-02": 10}, days)
    assert (few.rule, few.breaks, few.share) == ("days", False, 0.5)
    assert "2013-02-02" in few.said
    (none,) = of_days(before, {}, days)
    assert (none.rule, none.breaks) == ("rows", True)
