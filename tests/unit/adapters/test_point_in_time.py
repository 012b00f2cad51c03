"""The order that an as-of join searches in, beside one made by comparisons alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from ratchet.adapters.point_in_time import NONE, KeyCodes, Places, SortedRows, Spine

ROWS = 100_000


def _joined(keys: int, *, rising: bool, known_at: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which source row answers each asked row: ours, and that of a search among the rows of its key alone."""
    random = np.random.default_rng([keys, rising, known_at])
    code, asked_code = (random.integers(0, keys, ROWS) for _ in range(2))
    event = random.integers(0, 10**6, ROWS)
    event = np.sort(event) if rising else event
    created = event + np.where(random.random(ROWS) < 0.9, 10, random.integers(0, 10**5, ROWS))
    asked_at = random.integers(0, 10**6, ROWS)
    spine = Spine(
        pa.table({"key": asked_code, "at": pa.array(asked_at).cast(pa.timestamp("us", "UTC"))}),
        "at",
    )
    values = pa.array(np.arange(keys))
    asked = spine.asked_of(KeyCodes(((values, None),), keys), [("key", pa.int64())])
    rows = SortedRows.of(code, event, created, np.arange(ROWS), keys=keys, known_at=known_at)
    found = asked.in_spine_order(rows.answers(asked, None))
    some = random.choice(ROWS, 300, replace=False)
    expected = []
    for place in some:
        there = (code == asked_code[place]) & (event <= asked_at[place])
        there &= (created <= asked_at[place]) | (not known_at)
        candidates = np.flatnonzero(there)
        newest = np.lexsort((candidates, created[candidates], event[candidates]))
        expected.append(candidates[newest[-1]] if len(candidates) else NONE)
    return found[some], np.array(expected)


@pytest.mark.parametrize("known_at", [False, True], ids=["latest", "known at"])
@pytest.mark.parametrize("rising", [True, False], ids=["appended", "in no order"])
@pytest.mark.parametrize("keys", [1, 3, 65_536, 65_537, 200_000])
def test_the_newest_row_answers_however_many_keys_there_are(keys: int, rising: bool, known_at: bool) -> None:
    ours, expected = _joined(keys, rising=rising, known_at=known_at)
    assert ours.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, -2.5, 3.5]),
        pa.array([1, None, 3], pa.int32()),
        pa.array([9, 1, 2, 3], pa.int64()).slice(1),
        pa.array([True, False, True]),
        pa.array(["a", "b", None]),
        pa.array([datetime(2013, 1, day, tzinfo=UTC) for day in (1, 2, 3)]),
    ],
    ids=["floats", "nulls", "a slice", "truth values", "text", "moments"],
)
def test_values_are_fetched_as_by_arrow_to_the_byte(column: pa.Array) -> None:
    rows = np.array([2, NONE, 0, 2, NONE, 1])
    for pieces in ([column], [column.slice(0, 1), column.slice(1)]):
        ours = _whole(Places(rows, rows != NONE).taken(pa.chunked_array(pieces)))
        arrows = column.take(pa.array(rows, mask=rows == NONE))
        assert ours.equals(arrows)
        assert _bytes_of(ours) == _bytes_of(arrows)


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _bytes_of(values: pa.Array) -> list[bytes | None]:
    """All buffers but the marks of nulls, which may be absent or full."""
    return [buffer and buffer.to_pybytes() for buffer in values.buffers()[1:]]
