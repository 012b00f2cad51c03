"""Point-in-time features from Parquet files: our offline store beside Feast's own and a bare as-of join.

Two feature views of ten features, 50,000 keys, 200 days, TTL 30 days; 1 % of the source rows share key and event with
a row created later; of the spine 0.1 % are repeated and 1 % have an unknown key. Each contender and round is a process
of its own; contenders take turns. Measured is one call that ends in an Arrow table, after a call for 1,000 rows that
warms imports, registry and page cache: CPU seconds of all threads, wall seconds, and the peak memory of the process.
Every answer is compared, row by row, with a reference in NumPy that shares no code with ours. Of the rows called warm,
the index of the sources was kept by a process before; for the 10,000 rows, the middle one of 7 calls is told. All
stores have the same registry settings (parsed once) and are told that moments bear their zone.

Each part writes its rows as soon as it has them, in the place of its former ones.

    python -m bench.snapshots                          # all parts; rows in bench/results/snapshots.json
    python -m bench.snapshots --only few --data DIR    # one part; the data are kept in DIR for the next one
    python -m bench.snapshots --quick                  # 50,000 rows, one round: to see that the bench works
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.reports import RESULTS, machine, write

ROUNDS = 3
KEYS = 50_000
DAYS = 200
TTL = timedelta(days=30)
VIEWS = ("first", "second")
FEATURES = 10
START = 1_700_000_000_000_000
DAY = 86_400_000_000
WARM_ROWS = 1_000
REGISTRY = "ratchet.adapters.feature_registry.ParsedOnceRegistryStore"
AS_OF = "ratchet.adapters.offline_store.AsOfOfflineStore"
DUCKDB, DASK, POLARS = "Feast's DuckDB store", "Feast's default store (dask)", "bare polars as-of join (limit)"
WARM, LATE, NEW = "ours, warm", "index before", "index made from nothing"
STORES = {"ours": AS_OF, WARM: AS_OF, DUCKDB: "duckdb", DASK: "dask"}
OURS = "ours"
DASK_LIMIT = 12 * 2**30  # bytes
UNITS = {
    "cpu": "CPU s",
    "wall": "s",
    "peak_mb": "MB at the peak",
    "first_cpu": "CPU s",
    "lost": "rows",
    "wrong": "rows",
}
FEW = 10_000
CALLS = 7
LIBRARIES = ("duckdb", "feast", "numpy", "pandas", "polars", "pyarrow")


# -- data --------------------------------------------------------------------------------------------------------------


def write_data(folder: Path, spine_rows: int, source_rows: int) -> None:
    """Sources and spine as Parquet files, in time order as a feature pipeline leaves them; the spine in no order."""
    rng = np.random.default_rng(1)
    for name in VIEWS:
        event = np.sort(rng.integers(0, DAYS * DAY, source_rows)) + START
        key = rng.integers(0, KEYS, source_rows)
        tied = np.flatnonzero(rng.random(source_rows - 1) < 0.01)
        key[tied + 1], event[tied + 1] = key[tied], event[tied]
        created = event + rng.integers(0, 3 * DAY, source_rows)
        values = {
            f"{name}_{number}": rng.standard_normal(source_rows).astype(np.float64 if number % 2 else np.float32)
            for number in range(1, FEATURES)
        }
        columns = {"key": key, "ts": _utc(event), "created": _utc(created)}
        table = pa.table(columns | {f"{name}_0": np.arange(source_rows, dtype=np.float64)} | values)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    asked = rng.integers(0, DAYS * DAY, spine_rows) + START
    key = rng.integers(0, KEYS, spine_rows)
    key[rng.random(spine_rows) < 0.01] += KEYS
    repeated = rng.integers(0, spine_rows, spine_rows // 1000)
    key[: len(repeated)], asked[: len(repeated)] = key[repeated], asked[repeated]
    spine = pa.table({"key": key, "event_timestamp": _utc(asked), "number": np.arange(spine_rows)})
    pq.write_table(spine, folder / "spine.parquet")


def _utc(microseconds: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us", "UTC"))


def write_expected(folder: Path) -> None:
    """For each spine row and view the number of the source row that answers, NaN for none; then as known at the time.

    The rows of a key lie sorted by (event, created); from the last one not after the moment asked for the reference
    steps back, where it must, to one that had been created by then.
    """
    spine = pq.read_table(folder / "spine.parquet")
    key, asked = spine["key"].to_numpy(), _microseconds(spine["event_timestamp"])
    found = np.full((2, len(VIEWS), len(key)), np.nan)
    for view, name in enumerate(VIEWS):
        source = pq.read_table(folder / f"{name}.parquet", columns=["key", "ts", "created", f"{name}_0"])
        keys, number = source["key"].to_numpy(), source[f"{name}_0"].to_numpy()
        event, created = _microseconds(source["ts"]), _microseconds(source["created"])
        order = np.lexsort((created, event, keys))
        keys, event, created, number = keys[order], event[order], created[order], number[order]
        both = keys * 2**45 + (event - START)  # 200 days are less than 2**45 microseconds
        last = np.searchsorted(both, key * 2**45 + (asked - START), side="right") - 1
        for known_at in (0, 1):
            place = last.copy()
            while known_at:
                late = (place >= 0) & (keys[place] == key) & (created[place] > asked)
                if not late.any():
                    break
                place[late] -= 1
            there = (place >= 0) & (keys[place] == key) & (asked - event[place] <= TTL // timedelta(microseconds=1))
            found[known_at, view, there] = number[place[there]]
    np.save(folder / "expected.npy", found)


def _microseconds(moments: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    return moments.cast(pa.int64()).to_numpy()


def data(folder: Path, spine_rows: int, source_rows: int) -> Path:
    """The folder of data of this size, made where it is not there yet."""
    made = folder / f"{spine_rows}-{source_rows}"
    if not (made / "expected.npy").exists():
        print(f"data: {spine_rows:,} x {source_rows:,}", flush=True)
        made.mkdir(parents=True, exist_ok=True)
        write_data(made, spine_rows, source_rows)
        write_expected(made)
    return made


# -- contenders, each in a process of its own ----------------------------------------------------------------------


def feast_store(folder: Path, engine: str, *, known_at: bool, indexed: bool) -> Callable[[pa.Table], Any]:
    """The two views on a store of the given type: a call that plans the join of a spine."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: PLC0415
    from feast.types import Float32, Float64, Int64  # noqa: PLC0415

    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=name,
            entities=[key],
            ttl=TTL,
            schema=[Field(name="key", dtype=Int64)]
            + [Field(name=f"{name}_{n}", dtype=Float64 if n % 2 or n == 0 else Float32) for n in range(FEATURES)],
            source=FileSource(
                path=str(folder / f"{name}.parquet"), timestamp_field="ts", created_timestamp_column="created"
            ),
        )
        for name in VIEWS
    ]
    config = RepoConfig(
        project="bench",
        provider="local",
        registry={"path": str(folder / f"registry-{os.getpid()}.db"), "registry_store_type": REGISTRY},
        coerce_tz_aware=False,
        offline_store={"type": engine} | ({"index_folder": str(folder / "index")} if indexed else {}),
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply([key, *views])
    refs = [f"{name}:{name}_{number}" for name in VIEWS for number in range(FEATURES)]

    def job(spine: pa.Table) -> Any:
        return store.get_historical_features(spine.to_pandas(), refs, filter_by_created_timestamp=known_at)

    return job


def polars_join(folder: Path) -> Callable[[pa.Table], pa.Table]:
    """As-of joins and nothing else: no order kept, no time at which a value was known."""
    import polars as pl  # noqa: PLC0415 - installed by make bench-setup

    def join(spine: pa.Table) -> pa.Table:
        frame = pl.from_arrow(spine).sort("event_timestamp")
        for name in VIEWS:
            source = pl.read_parquet(folder / f"{name}.parquet").sort("ts", "created").drop("created")
            frame = frame.join_asof(
                source,
                left_on="event_timestamp",
                right_on="ts",
                by="key",
                tolerance=TTL,
                coalesce=True,
                check_sortedness=False,
            )
        return frame.to_arrow()

    return join


def contend(
    folder: Path, contender: str, *, known_at: bool, calls: int, rows: int | None, saved: bool
) -> dict[str, Any]:
    """The measured calls of one contender, in this process; of several the middle one is told."""
    target = folder / f"saved-{os.getpid()}.parquet"
    if contender == POLARS:
        join = polars_join(folder)
    else:
        job = feast_store(folder, STORES[contender], known_at=known_at, indexed="warm" in contender)

        def join(spine: pa.Table) -> pa.Table:
            if not saved:
                return job(spine).to_arrow()
            from feast.infra.offline_stores.file_source import SavedDatasetFileStorage  # noqa: PLC0415

            job(spine).persist(SavedDatasetFileStorage(path=str(target)), allow_overwrite=True)
            return None

    spine = pq.read_table(folder / f"spine-{rows}.parquet" if rows else folder / "spine.parquet")
    first, _ = spent_on(lambda: join(spine.slice(0, WARM_ROWS)))
    spent, answer = [], None
    for _ in range(calls):
        answer = None  # the memory of one answer at a time
        began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        answer = join(spine)
        ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        spent.append((_cpu(ended[0]) - _cpu(began[0]), ended[1] - began[1]))
    peak = peak_mb()
    columns = ["number", *(f"{name}_0" for name in VIEWS)]
    answer = pq.read_table(target, columns=columns) if answer is None else answer.select(columns)
    target.unlink(missing_ok=True)
    number = answer["number"].to_numpy()
    found = np.full((len(VIEWS), spine.num_rows), -1.0)  # what was not answered stays -1
    for place, name in enumerate(VIEWS):
        found[place, number] = answer[f"{name}_0"].to_pandas().to_numpy(dtype=np.float64)
    expected = np.load(folder / "expected.npy", mmap_mode="r")[int(known_at), :, : spine.num_rows]
    missing = found[0] == -1
    differs = ~((found == expected) | (np.isnan(found) & np.isnan(expected))).all(axis=0)
    return {
        "cpu": statistics.median(cpu for cpu, _ in spent),
        "wall": statistics.median(wall for _, wall in spent),
        "first_cpu": first,
        "peak_mb": peak,
        "lost": int(missing.sum()),
        "wrong": int((differs & ~missing).sum()),
        "repeated": len(number) - len(np.unique(number)),
    }


def peak_mb() -> float:
    """The peak of this program's resident memory; ``ru_maxrss`` would begin with that of whoever started it."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmHWM"].split()[0]) / 1024


def spent_on(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of a call."""
    began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    call()
    ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    return _cpu(ended[0]) - _cpu(began[0]), ended[1] - began[1]


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


# -- the runs ----------------------------------------------------------------------------------------------------


def run(folder: Path, contender: str, **more: Any) -> dict[str, Any]:
    """One contender in a new process; the first ``rows`` of a spine are read from a file of their own."""
    if (rows := more.get("rows")) and not (folder / f"spine-{rows}.parquet").exists():
        pq.write_table(pq.read_table(folder / "spine.parquet").slice(0, rows), folder / f"spine-{rows}.parquet")
    what = ["--contender", contender, "--folder", str(folder)]
    for name, value in more.items():
        flag = f"--{name.replace('_', '-')}"
        what += [flag] if value is True else [flag, str(value)]
    command = [sys.executable, "-W", "ignore", "-m", "bench.snapshots", *what]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        preexec_fn=_bounded if contender == DASK else None,
    )
    if done.returncode:
        msg = f"{contender} failed with {done.returncode}: {done.stderr[-2000:]}"
        raise RuntimeError(msg)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told = f"{result['cpu']:>8.3f} CPU s {result['wall']:>8.3f} s {result['peak_mb']:>8.0f} MB"
    print(f"  {contender:<28}{told}  lost {result['lost']} wrong {result['wrong']}", flush=True)
    return result


def _bounded() -> None:
    """Dask takes 7 GB for 1,000,000 rows: it fails before it takes the machine's."""
    resource.setrlimit(resource.RLIMIT_DATA, (DASK_LIMIT, DASK_LIMIT))


def interleaved(folder: Path, contenders: tuple[str, ...], rounds: int, **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Rounds in which each contender has its turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            found[name].append(run(folder, name, **more))
    return found


def row(
    name: str,
    mine: list[dict[str, Any]],
    peer: str,
    theirs: list[dict[str, Any]],
    goal: str,
    met: Callable[[float, float], bool],
    *,
    key: str = "cpu",
) -> dict[str, Any]:
    """One row, of medians; every measure with its least, middle and greatest value beside it.

    ``met`` judges the ratio and our own figure.
    """
    ours, other = (statistics.median(r[key] for r in runs) for runs in (mine, theirs))
    return {
        "name": name,
        "peer": peer,
        "ours": round(ours, 4),
        "theirs": round(other, 4),
        "ratio": round(other / ours, 2) if ours else None,
        "unit": UNITS[key],
        "goal": goal,
        "met": met(other / ours if ours else 0, ours),
        "rounds": len(mine),
        "ours_min_median_max": _spread(mine),
        "theirs_min_median_max": _spread(theirs),
        "ours_lost_wrong": [mine[-1]["lost"], mine[-1]["wrong"]],
        "theirs_lost_wrong": [theirs[-1]["lost"], theirs[-1]["wrong"]],
    }


def at_least(times: float) -> tuple[str, Callable[[float, float], bool]]:
    """The goal of a ratio."""
    return f">= {times:g}", lambda ratio, _: ratio >= times


def none_of_ours(_: float, ours: float) -> bool:
    """The goal of lost and wrong rows."""
    return ours == 0


def _spread(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    measured = {key: sorted(r[key] for r in runs) for key in ("cpu", "wall", "peak_mb", "first_cpu")}
    return {
        key: [round(v, 3) for v in (values[0], statistics.median(values), values[-1])]
        for key, values in measured.items()
    }


def _size(rows: int) -> str:
    return f"{rows // 1_000_000}M" if rows >= 1_000_000 else f"{rows // 1_000}k"


@dataclass(frozen=True)
class Run:
    """Where the data lie, and how much of it is asked for."""

    folder: Path
    rows: int
    more_rows: int
    rounds: int

    def plain(self) -> Path:
        """As many spine rows as source rows."""
        return data(self.folder, self.rows, self.rows)

    def large(self) -> Path:
        """A larger source, and a spine as large."""
        return data(self.folder, self.more_rows, self.more_rows)

    @property
    def size(self) -> str:
        """Of the plain data."""
        return f"{_size(self.rows)} × {_size(self.rows)}"


def one_shot(at: Run) -> list[dict[str, Any]]:
    """Without anything kept, beside Feast's store and beside the limit."""
    found = interleaved(at.plain(), (OURS, DUCKDB, POLARS), at.rounds)
    name = f"snapshot one-shot, {at.size}, two views of ten"
    limit = ("ours <= 1.5 of theirs", lambda ratio, _: ratio >= 1 / 1.5)
    return [
        row(name, found[OURS], DUCKDB, found[DUCKDB], *at_least(6)),
        row(name, found[OURS], POLARS, found[POLARS], *limit),
    ]


def few_rows(at: Run) -> list[dict[str, Any]]:
    """New rows of a spine whose sources have an index; a process before makes it."""
    run(at.plain(), WARM, rows=FEW)
    found = interleaved(at.plain(), (WARM, DUCKDB), at.rounds, calls=CALLS, rows=FEW)
    name = f"snapshot of {FEW:,} new rows"
    wall = ("ours <= 0.05", lambda _, ours: ours <= 0.05)
    return [
        row(name, found[WARM], DUCKDB, found[DUCKDB], *at_least(30)),
        row(f"{name}: median wall time", found[WARM], DUCKDB, found[DUCKDB], *wall, key="wall"),
    ]


def warm(at: Run) -> list[dict[str, Any]]:
    """A larger source by way of its index; a process before makes it."""
    run(at.large(), WARM, rows=FEW)
    found = interleaved(at.large(), (WARM, DUCKDB), at.rounds, rows=at.rows)
    name = f"snapshot warm, {_size(at.rows)} × {_size(at.more_rows)}"
    both = (DUCKDB, found[DUCKDB])
    return [
        row(name, found[WARM], *both, *at_least(30)),
        row(f"{name}: peak memory", found[WARM], *both, *at_least(4), key="peak_mb"),
        row(f"{name}: rows lost", found[WARM], *both, "0 of ours", none_of_ours, key="lost"),
        row(f"{name}: rows wrong", found[WARM], *both, "0 of ours", none_of_ours, key="wrong"),
    ]


def default_store(at: Run) -> list[dict[str, Any]]:
    """Feast's default store, once: what it costs, and what it loses. Ours by way of an index, and without."""
    run(at.plain(), WARM, rows=FEW)
    found = interleaved(at.plain(), (WARM, OURS), at.rounds) | interleaved(at.plain(), (DASK,), 1)
    name = f"snapshot against Feast's default store, {at.size}"
    both = (DASK, found[DASK])
    return [
        row(name, found[WARM], *both, *at_least(75)),
        row(f"{name}, one-shot", found[OURS], *both, "", lambda *_: True) | {"met": None},
        row(f"{name}: rows lost", found[WARM], *both, "0 of ours", none_of_ours, key="lost"),
        row(f"{name}: rows wrong", found[WARM], *both, "0 of ours", none_of_ours, key="wrong"),
    ]


def known_at(at: Run) -> list[dict[str, Any]]:
    """With the cut-off of a snapshot."""
    found = interleaved(at.plain(), (OURS, DUCKDB), at.rounds, known_at=True)
    name = f"snapshot one-shot, known-at, {at.size}, two views of ten"
    return [row(name, found[OURS], DUCKDB, found[DUCKDB], *at_least(6))]


def streamed(at: Run) -> list[dict[str, Any]]:
    """A spine as large as the larger source, written to Parquet in chunks, without an index."""
    found = run(at.large(), OURS, saved=True)
    return [
        {
            "name": f"snapshot streamed to Parquet, {_size(at.more_rows)} × {_size(at.more_rows)}: peak memory",
            "peer": "the goal",
            "ours": round(found["peak_mb"]),
            "theirs": 4096,
            "ratio": round(4096 / found["peak_mb"], 2),
            "unit": UNITS["peak_mb"],
            "goal": "ours <= 4096",
            "met": found["peak_mb"] <= 4096 and not found["lost"] and not found["wrong"],
            "rounds": 1,
            "ours_min_median_max": _spread([found]),
            "ours_lost_wrong": [found["lost"], found["wrong"]],
        }
    ]


def late_rows(at: Run) -> list[dict[str, Any]]:
    """The first join after late rows came: an index made from the one before, beside one made from nothing."""
    before, after = at.large(), at.folder / "late"
    shutil.rmtree(after, ignore_errors=True)
    after.mkdir()
    for name in (*(f"{view}.parquet" for view in VIEWS), "spine.parquet", "expected.npy"):
        shutil.copy2(before / name, after / name)
    run(after, WARM, rows=FEW)
    rng = np.random.default_rng(2)
    for name in VIEWS:
        source = pq.read_table(after / f"{name}.parquet")
        late = source.take(np.sort(rng.integers(0, len(source), FEW)))
        number = pa.array(np.arange(len(source), len(source) + FEW, dtype=np.float64))
        created = pc.add(late["created"], pa.scalar(timedelta(days=1)))
        late = late.set_column(late.column_names.index("created"), "created", created)
        late = late.set_column(late.column_names.index(f"{name}_0"), f"{name}_0", number)
        whole = pa.concat_tables([source, late]).combine_chunks()  # or pages would end elsewhere than in the first file
        pq.write_table(whole, after / "new.parquet", compression="zstd")
        (after / "new.parquet").replace(after / f"{name}.parquet")
    write_expected(after)
    time.sleep(3)  # a file that changed just now is not indexed
    found: dict[str, list[dict[str, Any]]] = {LATE: [], NEW: []}
    shutil.copytree(after / "index", after / "before")
    for _ in range(at.rounds):
        for who, runs in found.items():
            shutil.rmtree(after / "index", ignore_errors=True)
            if who == LATE:
                shutil.copytree(after / "before", after / "index")
            runs.append(run(after, WARM, rows=FEW))
    name = f"first join after {FEW:,} late rows, {_size(at.more_rows)}"
    made = row(name, found[LATE], NEW, found[NEW], "", lambda *_: True, key="first_cpu")
    return [made | {"met": None}]


PARTS: dict[str, Callable[[Run], list[dict[str, Any]]]] = {
    "one-shot": one_shot,
    "few": few_rows,
    "warm": warm,
    "default": default_store,
    "known-at": known_at,
    "streamed": streamed,
    "late": late_rows,
}


def keep(part: str, rows: list[dict[str, Any]], rounds: int) -> None:
    """Write a part's rows in the place of its former ones; each row tells where and when it was measured."""
    measured = machine(rounds, *LIBRARIES)
    file = RESULTS / "snapshots.json"
    kept = json.loads(file.read_text())["rows"] if file.exists() else []
    mine = [r | {"part": part, "measured": {key: measured[key] for key in ("at", "load")}} for r in rows]
    every = [r for r in kept if r["part"] != part] + mine
    order = list(PARTS)
    write("snapshots", sorted(every, key=lambda r: order.index(r["part"])), measured)


def main() -> None:
    """Measure, print, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one round; nothing is written")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--data", type=Path, help="where the data are kept for another run; else they are removed")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--known-at", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--saved", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        asked = {"known_at": given.known_at, "calls": given.calls, "rows": given.rows, "saved": given.saved}
        print(json.dumps(contend(given.folder, given.contender, **asked)))
        return
    rows, more_rows, rounds = (50_000, 200_000, 1) if given.quick else (1_000_000, 5_000_000, given.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-snapshots-") as scratch:
        at = Run(given.data or Path(scratch), rows, more_rows, rounds)
        for part in (name for name in PARTS if name in given.only):
            print(f"{part}:", flush=True)
            made = PARTS[part](at)
            for r in made:
                told = f"{r['ours']} against {r['theirs']} {r['unit']}, {r['ratio']}"
                print(f"{r['name']} beside {r['peer']}: {told}; {r['goal']}: {r['met']}", flush=True)
            if not given.quick:
                keep(part, made, rounds)


if __name__ == "__main__":
    main()
