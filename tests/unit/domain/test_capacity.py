"""Who is acted on when there is not room for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.capacity import best_of_each, evenly

ROWS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.1, 0.2, 0.3])), min_size=1, max_size=40)
ROOM = st.integers(1, 6)


def columns(rows: list) -> tuple[np.ndarray, np.ndarray]:
    batch, score = (np.array(column) for column in zip(*rows, strict=True))
    return np.unique(batch, return_inverse=True)[1], score


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM)
def test_each_batch_gets_its_own_best_and_ties_fall_to_the_first_row(rows: list, room: int) -> None:
    batch, score = columns(rows)
    chosen = set(np.flatnonzero(best_of_each(score, batch, room)))
    expected = set()
    for code in set(batch.tolist()):
        expected |= set(sorted(np.flatnonzero(batch == code), key=lambda i: (-score[i], i))[:room])
    assert chosen == expected


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM)
def test_another_batchs_rows_change_nothing(rows: list, room: int) -> None:
    batch, score = columns(rows)
    chosen = best_of_each(score, batch, room)
    for code in set(batch.tolist()):
        mine = batch == code
        assert best_of_each(score[mine], batch[mine] * 0, room).tolist() == chosen[mine].tolist()


def test_the_best_of_the_whole_are_not_the_best_of_each() -> None:
    batch, score = np.array([0, 0, 1, 1]), np.array([0.9, 0.8, 0.2, 0.1])
    assert best_of_each(score, batch, 1).tolist() == [True, False, True, False]


def test_a_missing_score_comes_last() -> None:
    assert best_of_each(np.array([np.nan, 0.1, 0.2]), np.zeros(3, dtype=int), 2).tolist() == [False, True, True]


@settings(deadline=None, derandomize=True)
@given(ROWS, ROOM)
def test_an_even_choice_fills_the_room_of_every_batch(rows: list, room: int) -> None:
    batch, _ = columns(rows)
    taken = np.bincount(batch, weights=evenly(batch, room))
    assert taken.tolist() == np.minimum(np.bincount(batch), room).tolist()


@pytest.mark.parametrize(("room", "rows"), [(1, [9]), (2, [4, 9]), (5, [1, 3, 5, 7, 9]), (10, list(range(10)))])
def test_an_even_choice_is_spread_over_the_batch(room: int, rows: list[int]) -> None:
    assert np.flatnonzero(evenly(np.zeros(10, dtype=int), room)).tolist() == rows


def test_no_rows_choose_nothing() -> None:
    none = np.array([], dtype=np.intp)
    assert best_of_each(np.array([]), none, 3).size == evenly(none, 3).size == 0
