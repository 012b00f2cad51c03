"""The point-in-time join of Parquet files as an as-of join: its work grows as spine rows plus source rows.

A spine row asks, for its key and its moment ``t``, for the source row of that key with the greatest
``(event, created, place in the file)`` among those with ``event <= t``, ``event + ttl >= t`` and, where the source is
read as known at the time, ``created <= t``.

That cut-off too is one as-of join. A source row can be an answer from ``max(event, created)`` on; with the rows of a
key sorted by that moment, the running maximum of their rank by ``(event, created)`` tells the newest of those known.
The time to live is asked last: where the newest row has expired, every older one has.

Moments are whole microseconds since 1970, naive ones read as UTC; keys are whole numbers or text. What cannot be held
so exactly raises :class:`LeftToFeast`. No row of a file is decoded but those whose row group can hold an answer, and
features are fetched by position, some columns at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Int64: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

NONE = -1
"""No row, no key."""
NEVER = int(np.iinfo(np.int64).min)
"""No moment."""
_FAR = 2**60  # microseconds, the year 38,500: beyond it differences might not fit into 64 bits
_PACKED_BITS = 62
_DENSE_KEYS = 2**31
_READ_AT_ONCE = 32 * 2**20  # bytes of columns decoded at a time: memory that is still warm is used again
_COLUMNS_AT_ONCE = 2  # at least, for Arrow decodes each on a thread of its own
_DIGIT = 16  # bits: NumPy sorts so many in one pass, without a comparison
CELL = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}
"""Whole numbers by their width in bytes."""
_MICROSECONDS = {"milliseconds": (1000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1000)}


class LeftToFeast(Exception):
    """The join would not be exact here; Feast's own store must answer. The message says why."""


@dataclass(frozen=True)
class AsOf:
    """How the rows of a file answer: by which columns, and for how long.

    ``keys`` pairs columns of the file with columns of the spine; ``ttl`` is in microseconds, None for ever.
    ``known_at`` leaves out what was created after the spine row's moment.
    """

    keys: tuple[tuple[str, str], ...]
    event: str
    created: str | None
    ttl: int | None
    known_at: bool


class Spine:
    """The rows that ask: a table and the moment of each row."""

    def __init__(self, table: pa.Table, time: str) -> None:
        self.table = table
        self.moments = moments_of(table[time])
        asked = self.moments[self.moments != NEVER]
        self.first, self.last = (int(asked.min()), int(asked.max())) if len(asked) else (0, -1)
        self._sorted: dict[tuple[tuple[str, str], ...], Asked] = {}
        self._orders: dict[tuple[str, ...], Int64] = {}

    def asked(self, keys: Sequence[tuple[str, pa.DataType]]) -> Asked:
        """The rows in the order of their keys and moments, made once for all views with the same keys."""
        name = tuple((column, str(alike)) for column, alike in keys)
        if name not in self._sorted:
            codes, of_spine = KeyCodes.made_of(self._keys(keys))
            self._sorted[name] = self._in_order(keys, codes, of_spine)
        return self._sorted[name]

    def asked_of(self, codes: KeyCodes, keys: Sequence[tuple[str, pa.DataType]]) -> Asked:
        """As :meth:`asked`, with the keys' numbers of a source; sorted once for all sources with the same keys."""
        return self._in_order(keys, codes, codes.of(self._keys(keys)))

    def _keys(self, keys: Sequence[tuple[str, pa.DataType]]) -> list[pa.ChunkedArray]:
        return [keys_like(self.table[column], alike) for column, alike in keys]

    def _in_order(self, keys: Sequence[tuple[str, pa.DataType]], codes: KeyCodes, of_spine: Int64) -> Asked:
        name = tuple(column for column, _ in keys)
        asked = Asked(self, codes, of_spine, self._orders.get(name))
        self._orders[name] = asked.order
        return asked


@dataclass(frozen=True)
class KeyCodes:
    """Turns keys into whole numbers below ``size``, by the keys of one table.

    ``steps`` has, for each key column, its distinct values and, where their combinations grew too many, those in use.
    """

    steps: tuple[tuple[pa.Array, Int64 | None], ...]
    size: int

    @classmethod
    def made_of(cls, columns: Sequence[pa.ChunkedArray], *, ordered: bool = False) -> tuple[KeyCodes, Int64]:
        """Numbers for the distinct keys of a table, and those of its rows; ``NONE`` where a part of a key is null.

        With ``ordered`` they rise with the keys, so that two tables number the keys they share in the same order.
        """
        steps: list[tuple[pa.Array, Int64 | None]] = []
        codes, size = np.zeros(len(columns[0]), np.int64), 1
        for column in columns:
            values = column.unique().drop_null()
            values = values.take(pc.sort_indices(values)) if ordered else values
            codes, size = _joined(codes, column, values), size * len(values)
            kept = None
            if size > _DENSE_KEYS:
                kept = np.unique(codes[codes >= 0])
                codes, size = _ranked(codes, kept), len(kept)
            steps.append((values, kept))
        return cls(tuple(steps), size), codes

    def of(self, columns: Sequence[pa.ChunkedArray]) -> Int64:
        """The numbers of another table's keys; ``NONE`` for those that the first one does not have."""
        codes = np.zeros(len(columns[0]), np.int64)
        for column, (values, kept) in zip(columns, self.steps, strict=True):
            codes = _joined(codes, column, values)
            if kept is not None:
                codes = _ranked(codes, kept)
        return codes


class Asked:
    """The spine's keys and moments, key by key: searched for in that order, each answer lies near the one before.

    Any ``order`` is right; one made with another source's numbers is good for both where both rise with the keys.
    """

    def __init__(self, spine: Spine, codes: KeyCodes, of_spine: Int64, order: Int64 | None = None) -> None:
        self.codes = codes
        code = np.where(spine.moments == NEVER, NONE, of_spine)
        self.order = self._order(spine, code, codes.size) if order is None else order
        self.code, self.moments = code[self.order], spine.moments[self.order]

    @staticmethod
    def _order(spine: Spine, code: Int64, keys: int) -> Int64:
        """Key by key, within a key roughly by moment."""
        order = None
        if np.any(spine.moments[1:] < spine.moments[:-1]):
            unit = max(spine.last - spine.first, 0).bit_length() - _DIGIT
            since = np.clip(spine.moments, spine.first, spine.last) - spine.first
            order = _by_digits(since >> max(unit, 0), 1 << _DIGIT)
        return _by_digits(code + 1, keys + 1, order)

    def in_spine_order(self, rows: Int64) -> Int64:
        """Answers to the sorted rows, put where the spine has these rows."""
        result = np.empty_like(rows)
        result[self.order] = rows
        return result


@dataclass(frozen=True)
class Scale:
    """Moments as small whole numbers in the same order, so that a key fits beside one into 62 bits.

    They are counted from ``low`` in ``unit`` microseconds or, where that does not fit, ranked among ``moments``.
    """

    low: int
    high: int
    unit: int
    bits: int
    moments: Int64 | None = None

    @classmethod
    def of(cls, event: Int64, visible: Int64, key_bits: int) -> Scale:
        """The scale on which every one of these moments is exact; ``visible`` is never before ``event``."""
        low, high = int(event.min()), int(visible.max())
        unit, bits = 1, (high - low).bit_length()
        if key_bits + bits > _PACKED_BITS:
            unit = _common_unit(event - low, visible - low)
            bits = ((high - low) // unit).bit_length()
        if key_bits + bits <= _PACKED_BITS:
            return cls(low, high, unit, bits)
        moments = np.unique(np.concatenate([event, visible]))
        return cls(low, high, unit, len(moments).bit_length(), moments)

    def packed(self, code: Int64, moments: Int64) -> Int64:
        """Key and moment as one number; a moment before all others sorts below the key's rows."""
        if self.moments is not None:
            return (code << self.bits) + np.searchsorted(self.moments, moments, side="right") - 1
        # What lies before ``low`` is one microsecond before it, so that the difference cannot overflow.
        since = np.clip(moments, self.low - 1, self.high) - self.low
        return (code << self.bits) + (since if self.unit == 1 else since // self.unit)


@dataclass(frozen=True)
class SortedRows:
    """A source's rows, sorted so that one binary search finds the newest row that was known at a moment.

    ``keys`` are packed keys and moments from which on a row can answer; at each, ``rows`` has the row of the file that
    does, and ``event`` its event.
    """

    scale: Scale
    keys: Int64
    rows: Int64
    event: Int64

    @classmethod
    def of(
        cls, code: Int64, event: Int64, created: Int64 | None, row: Int64, *, keys: int, known_at: bool
    ) -> SortedRows:
        """Sort rows by their keys' numbers (below ``keys``); at least one row, and none without key or event.

        Feature pipelines append what is new, so moments lie in long rising runs, which a stable sort finds and merges
        (Timsort); keys are counted.
        """
        visible = np.maximum(event, created) if known_at and created is not None else event
        scale = Scale.of(event, visible, keys.bit_length())
        packed = scale.packed(code, event)
        newest = _by_digits(code, keys, np.argsort(event, kind="stable"))
        _settle_ties(newest, packed, created)
        packed = packed[newest]
        if visible is not event:
            packed = scale.packed(code, visible)[newest]
            if np.any(packed[1:] < packed[:-1]):
                rank = np.argsort(packed, kind="stable")
                newest, packed = newest[np.maximum.accumulate(rank)], packed[rank]
        return cls(scale, packed, row[newest], event[newest])

    def answers(self, asked: Asked, ttl: int | None) -> Int64:
        """The row of the file that answers each asked row, ``NONE`` where there is none."""
        place = np.searchsorted(self.keys, self.scale.packed(asked.code, asked.moments), side="right") - 1
        found = (place >= 0) & (asked.code >= 0)
        np.maximum(place, 0, out=place)
        found &= self.keys[place] >> self.scale.bits == asked.code
        if ttl is not None:
            found &= asked.moments - self.event[place] <= ttl
        return np.where(found, self.rows[place], NONE)


class SourceFile:
    """One Parquet file, opened; raises :class:`LeftToFeast` where its columns are not what the join needs."""

    def __init__(self, path: Path) -> None:
        self._handle = pa.OSFile(str(path))
        self._file = pq.ParquetFile(self._handle)
        self.schema: pa.Schema = self._file.schema_arrow
        if len(set(self.schema.names)) < len(self.schema.names):
            raise LeftToFeast(f"{path} repeats a column name")
        self._metadata = self._file.metadata
        counts = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        self._starts: Int64 = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def num_rows(self) -> int:
        """Rows of the whole file."""
        return int(self._metadata.num_rows)

    def answers(self, spine: Spine, by: AsOf) -> Int64:
        """The row of the file that answers each row of the spine, ``NONE`` where there is none."""
        alike = {ours: self.schema.field(ours).type for ours, _ in by.keys}
        asked = spine.asked([(theirs, alike[ours]) for ours, theirs in by.keys])
        earliest = None if by.ttl is None else spine.first - by.ttl
        groups = self._groups_between(by.event, earliest, spine.last)
        names = [*alike, by.event, *([by.created] if by.created else [])]
        table = self._file.read_row_groups(groups, columns=list(dict.fromkeys(names)))
        event = moments_of(table[by.event])
        created = moments_of(table[by.created]) if by.created else None
        code = asked.codes.of([keys_like(table[ours], alike[ours]) for ours, _ in by.keys])
        kept = (code != NONE) & (event != NEVER) & (event <= spine.last)
        if earliest is not None:
            kept &= event >= earliest
        if by.known_at and created is not None:
            kept &= (created != NEVER) & (created <= spine.last)
        if not kept.any():
            return np.full(len(spine.moments), NONE, np.int64)
        row = np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in groups])
        if not kept.all():
            code, event, row = code[kept], event[kept], row[kept]
            created = created[kept] if created is not None else None
        rows = SortedRows.of(code, event, created, row, keys=asked.codes.size, known_at=by.known_at)
        return asked.in_spine_order(rows.answers(asked, by.ttl))

    def fetch(self, rows: Int64, columns: Mapping[str, str]) -> dict[str, pa.ChunkedArray | pa.Array]:
        """The values at ``rows`` by their new names (``columns``: new name -> name in the file); null at ``NONE``."""
        there = rows != NONE
        if not there.any():
            return {new: pa.nulls(len(rows), self.type_of(name)) for new, name in columns.items()}
        groups = self._groups_of(rows[there])
        starts = self._starts[groups]
        shift = starts - np.concatenate([[0], np.cumsum(self._starts[groups + 1] - starts)[:-1]])
        if shift.any():
            rows = rows - shift[np.searchsorted(starts, np.maximum(rows, starts[0]), side="right") - 1]
        places = Places(rows, there)
        values: dict[str, Any] = {}
        for batch in self._batches(sorted(set(columns.values())), groups):
            table = self._file.read_row_groups(groups.tolist(), columns=batch).combine_chunks()
            values |= {name: places.taken(table[name].cast(self.type_of(name))) for name in batch}
            del table  # or its memory would be held while the next columns are decoded
        return {new: values[name] for new, name in columns.items()}

    def type_of(self, column: str) -> pa.DataType:
        """The type of a column's values; a dictionary is how they are stored, not what they are."""
        found = self.schema.field(column).type
        return found.value_type if pa.types.is_dictionary(found) else found

    def row_bytes(self, columns: Sequence[str]) -> int:
        """Roughly what these columns of one row take in memory: exact for fixed widths, a guess of 32 for the rest."""
        return sum(_width(self.type_of(name)) for name in columns)

    def decoding_bytes(self, columns: Sequence[str]) -> int:
        """Roughly what decoding these columns takes: values as decoded and as one piece, some columns at a time."""
        batches = self._batches(sorted(set(columns)), np.arange(len(self._starts) - 1))
        return 2 * self.num_rows * max(map(self.row_bytes, batches), default=0)

    def _batches(self, columns: Sequence[str], groups: Int64) -> list[list[str]]:
        rows = int((self._starts[groups + 1] - self._starts[groups]).sum())
        batches: list[list[str]] = []
        room = 0
        for name in columns:
            need = rows * _width(self.type_of(name))
            if not batches or (need > room and len(batches[-1]) >= _COLUMNS_AT_ONCE):
                batches.append([])
                room = _READ_AT_ONCE
            batches[-1].append(name)
            room -= need
        return batches

    def _groups_of(self, rows: Int64) -> Int64:
        if len(self._starts) == 2:
            return np.zeros(1, np.int64)
        hit = np.zeros(len(self._starts) - 1, bool)
        hit[np.searchsorted(self._starts, rows, side="right") - 1] = True
        return np.flatnonzero(hit)

    def _groups_between(self, event: str, low: int | None, high: int) -> list[int]:
        """The row groups that may hold an event of ``[low, high]``, as far as their statistics tell."""
        everything = range(self._metadata.num_row_groups)
        paths = [self._metadata.schema.column(index).path for index in range(self._metadata.num_columns)]
        if event not in paths:
            return list(everything)
        column = paths.index(event)
        kept = []
        for group in everything:
            bounds = _bounds(self._metadata.row_group(group).column(column).statistics)
            if bounds is None or (bounds[0] <= high and (low is None or bounds[1] >= low)):
                kept.append(group)
        return kept


class Places:
    """Rows of a file to be fetched, ``NONE`` where ``there`` is false."""

    def __init__(self, rows: Int64, there: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        self._rows, self._there = rows, there
        self._absent = np.flatnonzero(~there)
        self._cells = np.where(there, rows, 0) if len(self._absent) else rows

    @cached_property
    def _indices(self) -> pa.Array:
        return pa.array(self._rows, mask=~self._there if len(self._absent) else None)

    def taken(self, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        """The column's values at these rows, null where there is none.

        Arrow takes three times as long for cells without nulls where an index is null: these are taken from anywhere
        and marked afterwards.
        """
        kind = column.type
        if column.null_count or not is_fixed(kind) or column.num_chunks != 1:
            return column.take(self._indices)
        piece = column.chunk(0)
        cells = np.frombuffer(piece.buffers()[1], CELL[kind.bit_width // 8])
        found = np.empty(len(self._cells), cells.dtype)
        np.take(cells[piece.offset : piece.offset + len(piece)], self._cells, out=found, mode="clip")
        found[self._absent] = 0  # as Arrow takes a null: digests are made of all bytes
        return of_cells(kind, found, self._there)


def is_fixed(kind: pa.DataType) -> bool:
    """Whether values are cells of 1, 2, 4 or 8 bytes."""
    return bool(pa.types.is_primitive(kind) and kind.bit_width // 8 in CELL and kind.bit_width % 8 == 0)


def of_cells(kind: pa.DataType, cells: np.ndarray[Any, Any], valid: np.ndarray[Any, np.dtype[np.bool_]]) -> pa.Array:
    """Cells of a fixed width as an array; null where they are not valid."""
    nulls = len(valid) - int(np.count_nonzero(valid))
    bits = pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
    return pa.Array.from_buffers(kind, len(cells), [bits, pa.py_buffer(cells)], nulls)


def keys_like(column: pa.ChunkedArray, alike: pa.DataType) -> pa.ChunkedArray:
    """Keys in the form in which spine and source compare: whole numbers or text, as the source (``alike``) has them."""
    alike = alike.value_type if pa.types.is_dictionary(alike) else alike
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found = column.type
    if _is_text(alike) and (_is_text(found) or pa.types.is_null(found)):
        return column.cast(pa.large_string())
    if _is_whole(alike) and (_is_whole(found) or pa.types.is_null(found)):
        return column.cast(pa.int64())
    if _is_whole(alike) and pa.types.is_floating(found):  # pandas has whole numbers with gaps as floats
        numbers = column.drop_null().to_numpy()
        if np.all(np.abs(numbers) <= 2**53) and np.all(numbers == np.floor(numbers)):
            return column.cast(pa.int64())
    raise LeftToFeast(f"keys of type {found} are compared with keys of type {alike}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) and kind != pa.uint64())


def moments_of(column: pa.ChunkedArray) -> Int64:
    """Microseconds since 1970; ``NEVER`` where null. Raises :class:`LeftToFeast` where they are finer than that."""
    if not pa.types.is_timestamp(column.type):
        raise LeftToFeast(f"moments have the type {column.type}")
    try:
        exact = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    except pa.ArrowInvalid as lost:
        raise LeftToFeast("moments are no whole microseconds") from lost
    if len(exact) > exact.null_count:
        bounds = pc.min_max(exact).as_py()
        if max(-bounds["min"], bounds["max"]) > _FAR:
            raise LeftToFeast("moments lie too far from 1970")
    result: Int64 = exact.fill_null(NEVER).to_numpy()
    return result


def _joined(codes: Int64, column: pa.ChunkedArray, values: pa.Array) -> Int64:
    """The codes of keys that have one part more."""
    part = pc.index_in(column, value_set=values).fill_null(NONE).to_numpy().astype(np.int64)
    return np.where((codes < 0) | (part < 0), NONE, codes * len(values) + part)


def _ranked(codes: Int64, kept: Int64) -> Int64:
    """The place of each code among the sorted ``kept`` ones, ``NONE`` where it is not one of them."""
    if not len(kept):
        return np.full(len(codes), NONE, np.int64)
    place = np.minimum(np.searchsorted(kept, codes), len(kept) - 1)
    return np.where(kept[place] == codes, place, NONE)


def _by_digits(numbers: Int64, below: int, order: Int64 | None = None) -> Int64:
    """The order of whole numbers from 0 to ``below``; of equal ones that of ``order``, else that in which they lie.

    From the lowest digit on, each digit by counting, which grows as rows do and knows no comparison (Knuth, TAOCP 3,
    5.2.5).
    """
    digits = [(numbers >> shift).astype(np.uint16) for shift in range(0, max(below - 1, 1).bit_length(), _DIGIT)]
    if order is None:
        order, digits = np.argsort(digits[0], kind="stable"), digits[1:]
    for each in digits:
        order = order[np.argsort(each[order], kind="stable")]
    return order


def _common_unit(*spans: Int64) -> int:
    """The coarsest of second, millisecond and microsecond that divides all spans."""
    return next(
        (unit for unit in (1_000_000, 1_000) if all(not np.any(span % unit) for span in spans)),
        1,
    )


def _settle_ties(order: Int64, keys: Int64, created: Int64 | None) -> None:
    """Sort rows of equal key and event by creation (null first), then by their place in the file; in place."""
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return
    tied = np.zeros(len(order), bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    rows = order[places]
    parts = (rows, keys[rows]) if created is None else (rows, created[rows], keys[rows])
    order[places] = rows[np.lexsort(parts)]


def _bounds(statistics: Any) -> tuple[int, int] | None:
    """The least and the greatest moment of a row group's column in microseconds, None where they are not told."""
    if statistics is None or not statistics.has_min_max or statistics.physical_type != "INT64":
        return None
    unit = json.loads(statistics.logical_type.to_json()).get("timeUnit")
    if unit not in _MICROSECONDS:
        return None
    times, parts = _MICROSECONDS[unit]
    return statistics.min_raw * times // parts, statistics.max_raw * times // parts


def _width(kind: pa.DataType) -> int:
    try:
        return max(int(kind.bit_width) // 8, 1)
    except ValueError:  # text, lists and the like
        return 32
