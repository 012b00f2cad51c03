"""What is kept of a source file between joins: its rows sorted once, its columns laid out to be fetched by position.

A join of few rows would otherwise decode the whole file. Everything kept lies in a folder named after the file's
*commit*: its size, time of change, inode and the digest of its footer. A file that was replaced, by late or backfilled
rows say, is another commit with an index of its own. Answers are never kept, so that none can be out of date: whoever
adds rows to a spine asks for those alone. As in Git's index, a file changed less than two seconds ago is not yet
trusted to change its time with the next change: nothing is kept of it.

Pieces (a sort order, a column) are made when they are first asked for, written beside their place and renamed into it,
so that a reader sees whole ones; two processes that make the same piece waste one of the two. With the first piece of a
new commit those of older ones go; who still reads them keeps what it has open.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from ratchet.adapters.point_in_time import (
    NEVER,
    NONE,
    Asked,
    AsOf,
    Int64,
    KeyCodes,
    Scale,
    SortedRows,
    SourceFile,
    Spine,
    keys_like,
    moments_of,
)
from ratchet.errors import Unavailable

_VERSION = 1
"""Of the layout: another one is another folder."""
_SETTLED = 2_000_000_000  # nanoseconds


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
        codes, rows = self._order(by)
        if rows is None:
            return np.full(len(spine.moments), NONE, np.int64)
        alike = {ours: self.schema.field(ours).type for ours, _ in by.keys}
        of_spine = codes.of([keys_like(spine.table[theirs], alike[ours]) for ours, theirs in by.keys])
        asked = Asked(spine, codes, of_spine)
        return asked.in_spine_order(rows.answers(asked, by.ttl))

    def fetch(self, rows: Int64, columns: Mapping[str, str]) -> dict[str, pa.ChunkedArray | pa.Array]:
        """As :meth:`SourceFile.fetch`, from the kept columns."""
        if not self._settled:
            return super().fetch(rows, columns)
        there = rows != NONE
        indices = pa.array(rows, mask=None if there.all() else ~there)
        return {new: self._column(name).take(indices) for new, name in columns.items()}

    # -- pieces -----------------------------------------------------------------------------------------------------

    def _order(self, by: AsOf) -> tuple[KeyCodes, SortedRows | None]:
        keys = [ours for ours, _ in by.keys]
        known_at = by.known_at and by.created is not None
        piece = self._piece("order", [keys, by.event, by.created, known_at], lambda at: self._sort(by, at))
        told = json.loads((piece / "told.json").read_text())
        steps = tuple(
            (_read_column(piece / f"values-{place}.arrow"), _load(piece / f"kept-{place}.npy") if kept else None)
            for place, kept in enumerate(told["kept"])
        )
        codes = KeyCodes(steps, told["size"])
        if told["scale"] is None:
            return codes, None
        moments = _load(piece / "moments.npy") if told["ranked"] else None
        scale = Scale(**told["scale"], moments=moments)
        return codes, SortedRows(scale, *(_load(piece / f"{name}.npy") for name in ("keys", "rows", "event")))

    def _sort(self, by: AsOf, at: Path) -> None:
        """Write the order of the whole file, its keys' numbers, and the scale."""
        keys = [ours for ours, _ in by.keys]
        names = [*keys, by.event, *([by.created] if by.created else [])]
        table = self._file.read(columns=list(dict.fromkeys(names)))
        codes, code = KeyCodes.made_of([keys_like(table[name], self.schema.field(name).type) for name in keys])
        event = moments_of(table[by.event])
        created = moments_of(table[by.created]) if by.created else None
        kept = (code != NONE) & (event != NEVER)
        if by.known_at and created is not None:
            kept &= created != NEVER
        told: dict[str, Any] = {"size": codes.size, "kept": [], "scale": None, "ranked": False}
        for place, (values, used) in enumerate(codes.steps):
            told["kept"].append(used is not None)
            _write_column(at / f"values-{place}.arrow", values)
            if used is not None:
                np.save(at / f"kept-{place}.npy", used)
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
                np.save(at / "moments.npy", scale.moments)
            for name in ("keys", "rows", "event"):
                np.save(at / f"{name}.npy", getattr(rows, name))
        (at / "told.json").write_text(json.dumps(told))

    def _column(self, name: str) -> pa.Array:
        """One column in the file's order, not compressed, mapped into memory."""

        def lay_out(at: Path) -> None:
            column = self._file.read(columns=[name]).combine_chunks()[name].cast(self.type_of(name))
            _write_column(at / "column.arrow", column)

        return _read_column(self._piece("column", name, lay_out) / "column.arrow")

    def _piece(self, kind: str, what: Any, make: Callable[[Path], None]) -> Path:
        place = self._commit / f"{kind}-{_digest(json.dumps(what))}"
        if place.is_dir():
            return place
        if not self._commit.is_dir():
            self._commit.mkdir(parents=True, exist_ok=True)
            for other in self._family.iterdir():
                if other != self._commit:
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

    def _commit_name(self) -> str:
        """What tells this content of the file from any other, read from the file that is open."""
        found = os.fstat(self._handle.fileno())
        length = int.from_bytes(self._handle.read_at(4, found.st_size - 8), "little")
        footer = hashlib.sha256(self._handle.read_at(length, found.st_size - 8 - length)).hexdigest()
        return _digest(f"{_VERSION} {found.st_size} {found.st_mtime_ns} {found.st_ino} {footer}")


def _write_column(path: Path, values: pa.Array | pa.ChunkedArray) -> None:
    table = pa.table({"values": values}).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read_column(path: Path) -> Any:
    column = ipc.open_file(pa.memory_map(str(path))).read_all()["values"]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _load(path: Path) -> Int64:
    result: Int64 = np.load(path, mmap_mode="r")
    return result


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
