"""Point-in-time features from Parquet files: our offline store beside Feast's own and a bare as-of join.

Two feature views of ten features, 50,000 keys, 200 days, TTL 30 days; 1 % of the source rows share key and event with
a row created later; of the spine 0.1 % are repeated and 1 % have an unknown key. Each contender and round is a process
of its own; contenders take turns. Measured is one call that ends in an Arrow table, after a call for 1,000 rows that
warms imports, registry and page cache: CPU seconds of all threads, wall seconds, and the peak memory of the process.
Every answer is compared, row by row, with that of pandas. Of the rows called warm, the index of the sources was kept by
a process before; for the 10,000 rows, the middle one of 7 calls is told.

    python -m bench.snapshots                 # the rows go to bench/results/snapshots.json
    python -m bench.snapshots --quick         # 50,000 rows, one round: to see that the bench works
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.reports import machine, write

ROUNDS = 3
KEYS = 50_000
DAYS = 200
TTL = timedelta(days=30)
VIEWS = ("first", "second")
FEATURES = 10
START = 1_700_000_000_000_000
DAY = 86_400_000_000
WARM_ROWS = 1_000
OURS = "ratchet.adapters.offline_store.AsOfOfflineStore"
STORES = {"ours": OURS, "ours, warm": OURS, "Feast duckdb": "duckdb", "Feast dask": "dask"}
DUCKDB = "Feast duckdb"
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
    """For each spine row and view the place in the file of the row that answers, NaN for none, by pandas."""
    spine = pd.read_parquet(folder / "spine.parquet").sort_values("event_timestamp", kind="stable")
    found = np.empty((len(VIEWS), len(spine)))
    for place, name in enumerate(VIEWS):
        source = pd.read_parquet(folder / f"{name}.parquet", columns=["key", "ts", "created", f"{name}_0"])
        source = source.sort_values(["ts", "created"], kind="stable").drop_duplicates(["key", "ts"], keep="last")
        joined = pd.merge_asof(spine, source, left_on="event_timestamp", right_on="ts", by="key", tolerance=TTL)
        found[place, joined.number] = joined[f"{name}_0"]
    np.save(folder / "expected.npy", found)


# -- contenders, each in a process of its own ----------------------------------------------------------------------


def feast_store(folder: Path, engine: str, *, known_at: bool, indexed: bool) -> Callable[[pa.Table], pa.Table]:
    """The two views on a store of the given type."""
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
        registry=str(folder / f"registry-{os.getpid()}.db"),
        offline_store={"type": engine} | ({"index_folder": str(folder / "index")} if indexed else {}),
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    store.apply([key, *views])
    refs = [f"{name}:{name}_{number}" for name in VIEWS for number in range(FEATURES)]

    def join(spine: pa.Table) -> pa.Table:
        frame = spine.to_pandas()
        return store.get_historical_features(frame, refs, filter_by_created_timestamp=known_at).to_arrow()

    return join


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


def contend(folder: Path, contender: str, *, known_at: bool, calls: int, rows: int | None) -> dict[str, Any]:
    """The measured calls of one contender, in this process; of several the middle one is told."""
    if contender == "polars":
        join = polars_join(folder)
    else:
        join = feast_store(folder, STORES[contender], known_at=known_at, indexed="warm" in contender)
    spine = pq.read_table(folder / "spine.parquet").slice(0, rows)
    before = resource.getrusage(resource.RUSAGE_SELF)
    join(spine.slice(0, WARM_ROWS))
    after = resource.getrusage(resource.RUSAGE_SELF)
    first = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    spent = []
    for _ in range(calls):
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        answer = join(spine)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    number = answer["number"].to_numpy()
    columns = [answer[f"{name}_0"].to_pandas().to_numpy(dtype=np.float64) for name in VIEWS]
    found = np.full((len(VIEWS), spine.num_rows), -1.0)  # what was not answered stays -1
    for place, column in enumerate(columns):
        found[place, number] = column
    if known_at:
        np.save(folder / f"known_at {contender}.npy", found)
        lost, wrong = int(np.sum(found[0] == -1)), None
    else:
        expected = np.load(folder / "expected.npy")[:, :rows]
        missing = found[0] == -1
        differs = ~((found == expected) | (np.isnan(found) & np.isnan(expected))).all(axis=0)
        lost, wrong = int(missing.sum()), int((differs & ~missing).sum())
    return {
        "cpu": statistics.median(cpu for cpu, _ in spent),
        "wall": statistics.median(wall for _, wall in spent),
        "first_cpu": first,
        "peak_mb": after.ru_maxrss / 1024,
        "lost": lost,
        "wrong": wrong,
    }


# -- the runs ----------------------------------------------------------------------------------------------------


def run(
    folder: Path, contender: str, *, known_at: bool = False, calls: int = 1, rows: int | None = None
) -> dict[str, Any]:
    """One contender in a new process."""
    what = ["--contender", contender, "--folder", str(folder), "--calls", str(calls)]
    what += [*(["--known-at"] if known_at else []), *(["--rows", str(rows)] if rows else [])]
    command = [sys.executable, "-W", "ignore", "-m", "bench.snapshots", *what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told = f"{result['cpu']:>8.3f} CPU s {result['wall']:>8.3f} s {result['peak_mb']:>8.0f} MB"
    print(f"  {contender:<14}{told}  lost {result['lost']} wrong {result['wrong']}", flush=True)
    return result


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
    least: float,
    *,
    key: str = "cpu",
    goal: str | None = None,
) -> dict[str, Any]:
    """One row, of medians; every measure with its least, middle and greatest value beside it."""
    ours, other = (statistics.median(r[key] for r in runs) for runs in (mine, theirs))
    return {
        "name": name,
        "peer": peer,
        "ours": round(ours, 3),
        "theirs": round(other, 3),
        "ratio": round(other / ours, 2),
        "unit": {"cpu": "CPU s", "wall": "s", "peak_mb": "MB at the peak"}[key],
        "goal": goal or f">= {least:g}",
        "met": other / ours >= least,
        "rounds": len(mine),
        "ours_min_median_max": _spread(mine),
        "theirs_min_median_max": _spread(theirs),
        "ours_lost_wrong": [mine[-1]["lost"], mine[-1]["wrong"]],
        "theirs_lost_wrong": [theirs[-1]["lost"], theirs[-1]["wrong"]],
    }


def _spread(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    measured = {key: sorted(r[key] for r in runs) for key in ("cpu", "wall", "peak_mb", "first_cpu")}
    return {
        key: [round(v, 3) for v in (values[0], statistics.median(values), values[-1])]
        for key, values in measured.items()
    }


def one_shot(folder: Path, size: str, rounds: int) -> list[dict[str, Any]]:
    """Without anything kept, beside Feast's store and beside the limit."""
    found = interleaved(folder, ("ours", DUCKDB, "polars"), rounds)
    name = f"snapshot one-shot, {size}"
    return [
        row(name, found["ours"], DUCKDB, found[DUCKDB], 6),
        row(name, found["ours"], "polars", found["polars"], 1 / 1.5, goal="ours <= 1.5 of theirs"),
    ]


def default_store(folder: Path, size: str, _: int) -> list[dict[str, Any]]:
    """Feast's default store, once: what it costs, and what it loses."""
    found = interleaved(folder, ("ours", "Feast dask"), 1)
    return [row(f"snapshot one-shot, {size}", found["ours"], "Feast dask", found["Feast dask"], 75)]


def known_at(folder: Path, size: str, rounds: int) -> list[dict[str, Any]]:
    """With the cut-off of a snapshot, to which pandas has no answer: ours is compared with DuckDB's."""
    found = interleaved(folder, ("ours", DUCKDB), rounds, known_at=True)
    ours, theirs = (np.load(folder / f"known_at {who}.npy") for who in ("ours", DUCKDB))
    differs = int(np.sum(~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs))).all(axis=0)))
    made = row(f"snapshot one-shot, known-at, {size}", found["ours"], DUCKDB, found[DUCKDB], 6)
    return [made | {"differing_rows": differs}]


def few_rows(folder: Path, size: str, rounds: int) -> list[dict[str, Any]]:
    """New rows of a spine whose sources have an index; a process before makes it."""
    run(folder, "ours, warm", rows=FEW)
    found = interleaved(folder, ("ours, warm", DUCKDB), rounds, calls=CALLS, rows=FEW)
    name = f"snapshot of {FEW:,} new rows, {size}"
    made = row(name, found["ours, warm"], DUCKDB, found[DUCKDB], 30)
    wall = row(name, found["ours, warm"], DUCKDB, found[DUCKDB], 0, key="wall", goal="ours <= 0.05")
    return [made, wall | {"met": wall["ours"] <= 0.05}]


def large(folder: Path, rows: int, source_rows: int, rounds: int) -> list[dict[str, Any]]:
    """A larger source by way of its index, and what a spine as large costs, where nobody else is asked."""
    asked = run(folder, "ours")
    run(folder, "ours, warm", rows=FEW)
    found = interleaved(folder, ("ours, warm", DUCKDB), rounds, rows=rows)
    name = f"snapshot warm, {rows:,} x {source_rows:,}"
    return [
        row(name, found["ours, warm"], DUCKDB, found[DUCKDB], 30),
        row(name, found["ours, warm"], DUCKDB, found[DUCKDB], 4, key="peak_mb"),
        {
            "name": f"snapshot one-shot, {source_rows:,} x {source_rows:,}",
            "peer": "the goal",
            "ours": round(asked["peak_mb"]),
            "theirs": 4096,
            "ratio": round(4096 / asked["peak_mb"], 2),
            "unit": "MB at the peak",
            "goal": "ours <= 4096",
            "met": asked["peak_mb"] <= 4096,
            "rounds": 1,
            "ours_min_median_max": _spread([asked]),
            "ours_lost_wrong": [asked["lost"], asked["wrong"]],
        },
    ]


PARTS = {"one-shot": one_shot, "known-at": known_at, "few": few_rows, "default": default_store}


def main() -> None:
    """Measure, print, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one round")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "large"], default=[*PARTS, "large"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--known-at", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        found = contend(given.folder, given.contender, known_at=given.known_at, calls=given.calls, rows=given.rows)
        print(json.dumps(found))
        return
    rows, more_rows, rounds = (50_000, 200_000, 1) if given.quick else (1_000_000, 5_000_000, given.rounds)
    size = f"{rows:,} x {rows:,}, two views of ten"
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-snapshots-") as scratch:
        write_data(Path(scratch), rows, rows)
        write_expected(Path(scratch))
        for part in (name for name in PARTS if name in given.only):
            print(f"{part}: {size}", flush=True)
            made += PARTS[part](Path(scratch), size, rounds)
    if "large" in given.only:
        with tempfile.TemporaryDirectory(prefix="bench-snapshots-") as scratch:
            print(f"large: {more_rows:,} rows of source", flush=True)
            write_data(Path(scratch), more_rows, more_rows)
            write_expected(Path(scratch))
            made += large(Path(scratch), rows, more_rows, rounds)
    for r in made:
        told = f"{r['ours']} against {r['theirs']} {r['unit']}, {r['ratio']}"
        print(f"{r['name']} beside {r['peer']}: {told}; {r['goal']}: {r['met']}")
    if not given.quick:
        write("snapshots", made, machine(rounds, *LIBRARIES))


if __name__ == "__main__":
    main()
