"""What is kept of a source file between joins: its rows sorted once, its columns laid out to be fetched by position.

A join of few rows would otherwise decode the whole file. Everything kept lies in a folder named after the file's
*commit*: its size, time of change, inode and the digest of its footer. A file that was replaced, by late or backfilled
rows say, is another commit with an index of its own. Of it only those row groups are decoded whose bytes are not those
of a row group of the commit before; the other rows are copied. Answers are never kept, so that none can be out of date:
whoever adds rows to a spine asks for those alone. As in Git's index, a file changed less than two seconds ago is not
yet trusted to change its time with the next change: nothing is kept of it.

Columns of a fixed width that are asked for together lie row by row, each row in the same cache line or two, so that a
row costs one look into memory and not one for each column; others (text, lists, truth values) lie one by one.

Pieces (a sort order, rows, a column) are made when they are first asked for, written beside their place and renamed
into it, so that a reader sees whole ones; two processes that make the same piece waste one of the two. Of a source the
newest commit and the one before are kept. A process keeps open what it has mapped of the newest, and gives the memory
back to the page cache after a join of many rows or of a large source.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from ratchet.adapters.point_in_time import (
    CELL,
    NEVER,
    NONE,
    AsOf,
    Int64,
    KeyCodes,
    Scale,
    SortedRows,
    SourceFile,
    Spine,
    is_fixed,
    keys_like,
    moments_of,
    of_cells,
)
from ratchet.errors import Unavailable

_VERSION = 3
"""Of the layout: another one is another folder."""
_SETTLED = 2_000_000_000  # nanoseconds
_MANY = 100_000  # rows of an answer after which mapped memory is given back
_SEGMENT = 64 * 2**20  # bytes of laid out rows in memory at a time
_AT_ONCE = 8192  # rows, to stay in the processor's cache
_TOLD = "told.json"

_mapped: dict[Path, tuple[str, dict[str, Any]]] = {}
"""By source: its newest commit that this process has seen, and the pieces of it that are open."""


class IndexedFile(SourceFile):
    """A source file that is read once; later joins read what was kept of it below ``folder``."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self._path = path
        self._family = Path(folder) / f"{path.stem}-{_digest(str(path.resolve()))}"
        self._commit = self._family / self._commit_name()
        self._settled = time.time_ns() - os.fstat(self._handle.fileno()).st_mtime_ns > _SETTLED

    def answers(self, spine: Spine, by: AsOf) -> Int64:
        """As :meth:`SourceFile.answers`, from the kept order."""
        if not self._settled:
            return super().answers(spine, by)
        order = self._order(by)
        if order.rows is None:
            return np.full(len(spine.moments), NONE, np.int64)
        alike = {ours: self.schema.field(ours).type for ours, _ in by.keys}
        asked = spine.asked_of(order.codes, [(theirs, alike[ours]) for ours, theirs in by.keys])
        found = asked.in_spine_order(order.rows.answers(asked, by.ttl))
        order.release(len(found))
        return found

    def fetch(self, rows: Int64, columns: Mapping[str, str]) -> dict[str, pa.ChunkedArray | pa.Array]:
        """As :meth:`SourceFile.fetch`, from the kept columns."""
        there = rows != NONE
        if not self._settled or not there.any():
            return super().fetch(rows, columns)
        names = sorted(set(columns.values()))
        fixed = [name for name in names if is_fixed(self.type_of(name))]
        values: dict[str, Any] = self._rows(fixed).fetch(rows, there) if fixed else {}
        if others := [name for name in names if name not in values]:
            indices = pa.array(rows, mask=None if there.all() else ~there)
            values |= {name: self._column(name).take(indices) for name in others}
        return {new: values[name] for new, name in columns.items()}

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _order(self, by: AsOf) -> _Order:
        keys = [ours for ours, _ in by.keys]
        known_at = by.known_at and by.created is not None
        name = _name("order", [keys, by.event, by.created, known_at])
        order: _Order = self._piece(name, lambda at: self._sort(by, at), _Order)
        return order

    def _sort(self, by: AsOf, at: Path) -> None:
        """Write the order of the whole file, its keys' numbers, and the scale."""
        names = [*(ours for ours, _ in by.keys), by.event, *([by.created] if by.created else [])]
        column = {name: pa.chunked_array([self._column(name)]) for name in names}
        alike = [keys_like(column[ours], self.schema.field(ours).type) for ours, _ in by.keys]
        codes, code = KeyCodes.made_of(alike, ordered=True)
        event = moments_of(column[by.event])
        created = moments_of(column[by.created]) if by.created else None
        kept = (code != NONE) & (event != NEVER)
        if by.known_at and created is not None:
            kept &= created != NEVER
        told: dict[str, Any] = {"size": codes.size, "kept": [], "scale": None, "ranked": False}
        for place, (values, used) in enumerate(codes.steps):
            told["kept"].append(used is not None)
            _write_column(at / f"values-{place}.arrow", values)
            if used is not None:
                used.tofile(at / f"kept-{place}")
        if kept.any():
            rows = SortedRows.of(
                code[kept],
                event[kept],
                created[kept] if created is not None else None,
                np.flatnonzero(kept),
                keys=codes.size,
                known_at=by.known_at,
            )
            scale = rows.scale
            told["scale"] = {"low": scale.low, "high": scale.high, "unit": scale.unit, "bits": scale.bits}
            told["ranked"] = scale.moments is not None
            if scale.moments is not None:
                scale.moments.tofile(at / "moments")
            for name in ("keys", "rows", "event"):
                getattr(rows, name).tofile(at / name)
        _tell(at, told)

    def _column(self, name: str) -> pa.Array:
        """One column in the file's order, not compressed, mapped into memory."""
        kind = self.type_of(name)

        def lay_out(at: Path) -> None:
            before, plan, told = self._plan(piece, [name])
            old = None if before is None else _read_column(before / "column")
            parts: list[pa.Array] = []
            for group, was in plan:
                if old is not None and was is not None:
                    parts.append(old.slice(was, self._rows_of(group)))
                else:
                    parts += self._decoded(group, [name])[name].chunks
            _write_column(at / "column", pa.chunked_array(parts, kind))
            _tell(at, told)

        piece = _name("column", [name, str(kind)])
        return self._piece(piece, lay_out, lambda at: _read_column(at / "column"))

    def _rows(self, names: Sequence[str]) -> _Rows:
        """Columns of a fixed width in the file's order, row by row, mapped into memory."""
        kinds = {name: self.type_of(name) for name in names}

        def lay_out(at: Path) -> None:
            before, plan, told = self._plan(piece, names)
            layout = _Layout.of(kinds, self._nullable(names))
            old = None if before is None else _Rows(before, kinds)
            with (at / "rows").open("wb") as sink:
                for group, was in plan:
                    if old is not None and was is not None:
                        old.copy(was, was + self._rows_of(group), layout, sink)
                    else:
                        layout.write(self._decoded(group, names), sink)
            _tell(at, told | {"nullable": layout.nullable})

        piece = _name("rows", [(name, str(kind)) for name, kind in kinds.items()])
        rows: _Rows = self._piece(piece, lay_out, lambda at: _Rows(at, kinds))
        return rows

    def _piece(self, name: str, make: Callable[[Path], None], read: Callable[[Path], Any]) -> Any:
        """The piece as this process has it open; else as it lies there; else made."""
        commit, opened = _mapped.get(self._family, ("", {}))
        if commit != self._commit.name:
            commit, opened = _mapped[self._family] = (self._commit.name, {})
        if name not in opened:
            opened[name] = read(self._made(name, make))
        return opened[name]

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        place = self._commit / name
        if place.is_dir():
            return place
        if not self._commit.is_dir():
            older = self._others()
            self._commit.mkdir(parents=True, exist_ok=True)
            for other in older[1:]:
                shutil.rmtree(other, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(
                dir=self._commit, prefix=".making-", ignore_cleanup_errors=True
            ) as scratch:
                draft = Path(scratch) / "piece"
                draft.mkdir()
                make(draft)
                if self._commit_name() != self._commit.name:
                    raise Unavailable(f"{self._path} was written to while it was read. Try again.")
                if not place.is_dir():
                    draft.rename(place)
        except OSError as gone:  # another process made the same piece meanwhile, or began a newer commit
            if not place.is_dir():
                raise Unavailable(f"{self._path} was replaced while it was read. Try again.") from gone
        return place

    def _others(self) -> list[Path]:
        """The folders of other commits, the newest first."""
        try:
            found = [(entry.stat().st_mtime_ns, Path(entry.path)) for entry in os.scandir(self._family)]
        except FileNotFoundError:
            return []
        return [path for _, path in sorted(found, reverse=True) if path != self._commit]

    def _plan(
        self, piece: str, names: Sequence[str]
    ) -> tuple[Path | None, list[tuple[int, int | None]], dict[str, Any]]:
        """How a piece is made: each row group, and where the commit before has its rows (None: they must be decoded).

        Returns the piece of that commit (None: there is none), this plan, and what the new piece tells of its groups.
        """
        groups = [
            [self._rows_of(group), self._digest_of(group, names)] for group in range(self._metadata.num_row_groups)
        ]
        before = next((other / piece for other in self._others() if (other / piece).is_dir()), None)
        old = [] if before is None else json.loads((before / _TOLD).read_text())["groups"]
        starts = np.cumsum([0, *(rows for rows, _ in old)]).tolist()
        plan: list[tuple[int, int | None]] = []
        for number, group in enumerate(groups):
            plan.append((number, starts[old.index(group)] if group in old else None))
        return before, plan, {"groups": groups}

    def _nullable(self, names: Sequence[str]) -> list[str]:
        """The columns that may hold nulls, as far as the file's statistics tell."""
        paths = [self._metadata.schema.column(place).path for place in range(self._metadata.num_columns)]

        def full(name: str) -> bool:
            place = paths.index(name)
            told = [self._metadata.row_group(g).column(place).statistics for g in range(self._metadata.num_row_groups)]
            return all(each is not None and each.has_null_count and each.null_count == 0 for each in told)

        return [name for name in names if not full(name)]

    def _rows_of(self, group: int) -> int:
        return int(self._starts[group + 1] - self._starts[group])

    def _digest_of(self, group: int, names: Sequence[str]) -> str:
        """Of all that the values of a row group's columns are decoded from."""
        digest = hashlib.sha256()
        for place in range(self._metadata.num_columns):
            chunk = self._metadata.row_group(group).column(place)
            path = chunk.path_in_schema
            if not any(path == name or path.startswith(f"{name}.") for name in names):
                continue
            column = self._metadata.schema.column(place)
            how = (path, chunk.compression, chunk.encodings, chunk.num_values, chunk.physical_type)
            levels = (column.max_definition_level, column.max_repetition_level, column.length, str(column.logical_type))
            digest.update(repr((how, levels)).encode())
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            digest.update(self._handle.read_at(chunk.total_compressed_size, start))
        return digest.hexdigest()

    def _decoded(self, group: int, names: Sequence[str]) -> pa.Table:
        table = self._file.read_row_groups([group], columns=list(names))
        return pa.table({name: table[name].cast(self.type_of(name)) for name in names})

    def _commit_name(self) -> str:
        """What tells this content of the file from any other, read from the file that is open."""
        found = os.fstat(self._handle.fileno())
        length = int.from_bytes(self._handle.read_at(4, found.st_size - 8), "little")
        footer = hashlib.sha256(self._handle.read_at(length, found.st_size - 8 - length)).hexdigest()
        return _digest(f"{_VERSION} {found.st_size} {found.st_mtime_ns} {found.st_ino} {footer}")


class _Numbers:
    """A file of equal cells, mapped into memory."""

    def __init__(self, path: Path, kind: Any) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values: np.ndarray[Any, Any] = np.frombuffer(self._map, kind)

    def release(self, start: int = 0, stop: int | None = None) -> None:
        """Give the memory of these cells back, from a whole page on; they stay readable."""
        cell = self.values.itemsize
        stop = len(self.values) if stop is None else stop
        self._map.madvise(mmap.MADV_DONTNEED, start * cell, (stop - start) * cell)


class _Order:
    """A kept order: the numbers of its keys and its sorted rows, None where the source has none."""

    def __init__(self, at: Path) -> None:
        told = json.loads((at / _TOLD).read_text())
        self._open: list[_Numbers] = []

        def numbers(name: str) -> Int64:
            self._open.append(_Numbers(at / name, np.int64))
            return self._open[-1].values

        steps = tuple(
            (_read_column(at / f"values-{place}.arrow"), numbers(f"kept-{place}") if kept else None)
            for place, kept in enumerate(told["kept"])
        )
        self.codes = KeyCodes(steps, told["size"])
        self.rows: SortedRows | None = None
        if told["scale"] is not None:
            scale = Scale(**told["scale"], moments=numbers("moments") if told["ranked"] else None)
            self.rows = SortedRows(scale, *(numbers(name) for name in ("keys", "rows", "event")))

    def release(self, rows: int) -> None:
        """Give its memory back to the page cache, after an answer of so many rows."""
        if _is_much(sum(each.values.nbytes for each in self._open), rows):
            for each in self._open:
                each.release()


@dataclass(frozen=True)
class _Layout:
    """How the columns of a row lie: the widest first, then a bit for each that may hold nulls, set where it is not."""

    kinds: Mapping[str, pa.DataType]
    nullable: tuple[str, ...]
    row: np.dtype[Any]

    @classmethod
    def of(cls, kinds: Mapping[str, pa.DataType], nullable: Sequence[str]) -> _Layout:
        """The layout of columns of these types."""
        widths = {name: kind.bit_width // 8 for name, kind in kinds.items()}
        names = sorted(widths, key=lambda name: (-widths[name], name))
        bits = -(-len(nullable) // 8)
        offsets = np.cumsum([0, *(widths[name] for name in names)]).tolist()
        fields: Any = {
            "names": [*(f"_{name}" for name in names), "bits"],
            "formats": [*(CELL[widths[name]] for name in names), f"({bits},)u1"],
            "offsets": offsets,
            "itemsize": -(-(offsets[-1] + bits) // 8) * 8,
        }
        return cls({name: kinds[name] for name in names}, tuple(nullable), np.dtype(fields))

    def write(self, table: pa.Table, sink: BinaryIO) -> None:
        """Lay out a table's columns."""
        rows = np.zeros(table.num_rows, self.row)
        for name in self.kinds:
            start = 0
            for chunk in table[name].chunks:
                part = rows[start : start + len(chunk)]
                cells = part[f"_{name}"]
                cells[:] = np.frombuffer(chunk.buffers()[1], cells.dtype)[chunk.offset : chunk.offset + len(chunk)]
                if name in self.nullable:
                    there = chunk.is_valid().to_numpy(zero_copy_only=False)
                    cells[~there] = 0  # as Arrow fetches a null: digests are made of all bytes
                    self.mark(part, name, there)
                start += len(chunk)
        sink.write(rows.tobytes())

    def mark(self, rows: np.ndarray[Any, Any], name: str, there: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Say in which rows a column that may hold nulls has a value."""
        byte, bit = divmod(self.nullable.index(name), 8)
        rows["bits"][:, byte] |= there.astype(np.uint8) << bit

    def marked(self, rows: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """In which rows a column has a value."""
        if name not in self.nullable:
            return np.ones(len(rows), bool)
        byte, bit = divmod(self.nullable.index(name), 8)
        found: np.ndarray[Any, np.dtype[np.bool_]] = (rows["bits"][:, byte] >> bit & 1).astype(bool)
        return found


class _Rows:
    """Laid out rows, mapped into memory."""

    def __init__(self, at: Path, kinds: Mapping[str, pa.DataType]) -> None:
        self._layout = _Layout.of(kinds, json.loads((at / _TOLD).read_text())["nullable"])
        self._cells = _Numbers(at / "rows", np.dtype(f"V{self._layout.row.itemsize}"))

    def fetch(self, rows: Int64, there: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, pa.Array]:
        """The columns at ``rows``; null where there is none (``there`` false)."""
        kinds = self._layout.kinds
        values = {name: np.zeros(len(rows), self._layout.row[f"_{name}"]) for name in kinds}
        valid = {name: np.zeros(len(rows), bool) for name in self._layout.nullable}
        for at in self._near(rows, there):
            found = self._cells.values.take(rows[at]).view(self._layout.row)
            for name in kinds:
                values[name][at] = found[f"_{name}"]
            for name, marks in valid.items():
                marks[at] = self._layout.marked(found, name)
        return {name: of_cells(kinds[name], values[name], valid.get(name, there)) for name in kinds}

    def copy(self, start: int, stop: int, layout: _Layout, sink: BinaryIO) -> None:
        """Write a range of the rows as they lie in that layout, of the same columns."""
        for first in range(start, stop, _AT_ONCE):
            here = self._cells.values[first : min(first + _AT_ONCE, stop)]
            if layout != self._layout:
                old, new = here.view(self._layout.row), np.zeros(len(here), layout.row)
                for name in layout.kinds:
                    new[f"_{name}"] = old[f"_{name}"]
                for name in layout.nullable:
                    layout.mark(new, name, self._layout.marked(old, name))
                here = new
            sink.write(here.tobytes())
        self._cells.release()

    def _near(self, rows: Int64, there: np.ndarray[Any, np.dtype[np.bool_]]) -> Iterator[Any]:
        """Places in ``rows``, few at a time; those first that lie in the same part of a large file."""
        length = max(_SEGMENT // self._layout.row.itemsize // mmap.PAGESIZE, 1) * mmap.PAGESIZE
        total = len(self._cells.values)
        segment = rows // length
        for number in range(-(-total // length)):
            places = np.flatnonzero(there if total <= length else segment == number)
            yield from (places[start : start + _AT_ONCE] for start in range(0, len(places), _AT_ONCE))
            if _is_much(self._cells.values.nbytes, len(rows)):
                self._cells.release(number * length, min((number + 1) * length, total))


def _is_much(mapped: int, rows: int) -> bool:
    """Whether memory is given back; else the next join of few rows finds it in place."""
    return mapped > _SEGMENT or rows >= _MANY


def _write_column(path: Path, values: pa.Array | pa.ChunkedArray) -> None:
    table = pa.table({"values": values}).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_column(path: Path) -> Any:
    column = ipc.open_file(pa.memory_map(str(path))).read_all()["values"]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _tell(at: Path, what: Mapping[str, Any]) -> None:
    (at / _TOLD).write_text(json.dumps(what))


def _name(kind: str, what: Any) -> str:
    return f"{kind}-{_digest(json.dumps(what))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
