"""Our offline store gives the answers of a plain loop over all pairs, and those of Feast's DuckDB store."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.adapters import feature_engine, point_in_time, source_index
from ratchet.adapters.offline_store import AsOfOfflineStore, AsOfOfflineStoreConfig, AsOfRetrievalJob
from ratchet.errors import Refused, Unavailable

MINUTE = 60_000_000
START = 1_710_050_400_000_000  # 2024-03-10 06:00 UTC, an hour before New York's clocks change
NO_REGISTRY = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
PLAIN = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
SLOW = settings(PLAIN, max_examples=40)


@dataclass(frozen=True)
class Case:
    """A spine and a source as plain rows; keys are tuples, moments microseconds after ``START``, None is null."""

    kinds: tuple[str, ...]
    asked: list[tuple[tuple[Any, ...], int | None]]
    rows: list[tuple[tuple[Any, ...], int | None, int | None, float | None]]
    ttl: int | None
    known_at: bool
    has_created: bool
    unit: str
    source_zone: str | None
    spine_zone: str | None
    text: Any
    row_group: int

    def expected(self) -> list[tuple[float | None, str | None]]:
        """For each asked row the answer of a loop over all rows of the source."""
        return [self._answer(key, moment) for key, moment in self.asked]

    def _answer(self, key: tuple[Any, ...], moment: int | None) -> tuple[float | None, str | None]:
        best: tuple[Any, ...] | None = None
        for place, (theirs, event, created, value) in enumerate(self.rows):
            if moment is None or None in key or key != theirs or event is None or event > moment:
                continue
            if self.ttl is not None and event + self.ttl < moment:
                continue
            if self.known_at and self.has_created and (created is None or created > moment):
                continue
            rank = (event, (created is not None, created or 0) if self.has_created else (), place)
            if best is None or rank > best[0]:
                best = (rank, value, f"row {place}")
        return (None, None) if best is None else best[1:]

    def has_open_ties(self) -> bool:
        """Whether rows are equal in key, event and creation, so that Feast leaves open which one answers."""
        seen = [(key, event, created if self.has_created else 0) for key, event, created, _ in self.rows]
        return len(set(seen)) < len(seen)

    def names(self) -> list[str]:
        return [f"key_{place}" for place in range(len(self.kinds))]

    def view(self, path: Path) -> FeatureView:
        """Writes the source and declares a view of it."""
        moments = pa.timestamp(self.unit, self.source_zone)
        columns: dict[str, Any] = {}
        kinds = list(zip(self.names(), self.kinds, strict=True))
        for place, (name, kind) in enumerate(kinds):
            values = [row[0][place] for row in self.rows]
            columns[name] = (
                pa.array(values, pa.string()).cast(self.text) if kind == "text" else pa.array(values, pa.int32())
            )
        for name, place in (("at", 1), ("made", 2)):
            shifted = [None if row[place] is None else row[place] + START for row in self.rows]
            columns[name] = (
                pa.array(shifted, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", self.source_zone)).cast(moments)
            )
        columns["value"] = pa.array([row[3] for row in self.rows], pa.float64())
        columns["tag"] = pa.array([f"row {place}" for place in range(len(self.rows))], pa.string())
        pq.write_table(pa.table(columns), path, row_group_size=self.row_group)
        fields = [Field(name=name, dtype=String if kind == "text" else Int64) for name, kind in kinds]
        return FeatureView(
            name="view",
            entities=[
                Entity(name=name, join_keys=[name], value_type=ValueType.STRING if kind == "text" else ValueType.INT64)
                for name, kind in kinds
            ],
            ttl=timedelta(microseconds=self.ttl or 0),
            schema=[*fields, Field(name="value", dtype=Float64), Field(name="tag", dtype=String)],
            source=FileSource(
                path=str(path), timestamp_field="at", created_timestamp_column="made" if self.has_created else ""
            ),
        )

    def spine(self, time: str = "event_timestamp") -> pd.DataFrame:
        asked = [pd.NaT if moment is None else pd.Timestamp(moment + START, unit="us") for _, moment in self.asked]
        moments = pd.Series(asked, dtype="datetime64[ns]").dt.tz_localize("UTC")
        moments = moments.dt.tz_convert(self.spine_zone) if self.spine_zone else moments.dt.tz_localize(None)
        keys = {name: pd.Series([key[place] for key, _ in self.asked]) for place, name in enumerate(self.names())}
        return pd.DataFrame({**keys, time: moments, "number": range(len(self.asked))})


def moments(unit: str) -> st.SearchStrategy[int]:
    """Few minutes, so that many are equal or a TTL apart; a microsecond beside them where the unit has it."""
    nudge = st.sampled_from([-1, 0, 0, 1]) if unit in {"us", "ns"} else st.just(0)
    return st.builds(lambda minute, by: minute * MINUTE + by, st.integers(0, 6), nudge)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kinds = draw(st.sampled_from([("text",), ("whole",), ("text", "whole")]))
    unit = draw(st.sampled_from(["s", "ms", "us", "ns"]))
    known = {"text": ["a", "b", ""], "whole": [0, 1, 2**31 - 1]}
    asked_keys = st.tuples(*(st.sampled_from([*known[kind], "zz" if kind == "text" else 77, None]) for kind in kinds))
    row_keys = st.tuples(*(st.sampled_from([*known[kind], None]) for kind in kinds))
    moment = moments(unit)
    maybe = st.one_of(moment, moment, moment, st.none())
    value = st.one_of(st.none(), st.integers(-3, 3).map(float))
    asked = draw(st.lists(st.tuples(asked_keys, maybe), min_size=1, max_size=12))
    return Case(
        kinds=kinds,
        asked=asked if any(m is not None for _, m in asked) else [*asked, ((*asked[0][0],), 0)],
        rows=draw(st.lists(st.tuples(row_keys, maybe, maybe, value), max_size=14)),
        ttl=draw(st.sampled_from([None, MINUTE, 2 * MINUTE])),
        known_at=draw(st.booleans()),
        has_created=draw(st.booleans()),
        unit=unit,
        source_zone=draw(st.sampled_from([None, "UTC", "America/New_York"])),
        spine_zone=draw(st.sampled_from([None, "UTC", "America/New_York"])),
        text=draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])),
        row_group=draw(st.integers(1, 5)),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source") / "source.parquet"


def job(store: Any, views: list[FeatureView], spine: pd.DataFrame, refs: list[str], **more: Any) -> Any:
    config = SimpleNamespace(offline_store=AsOfOfflineStoreConfig(**more.pop("settings", {})), repo_path=Path.cwd())
    return store.get_historical_features(
        config=config,
        feature_views=views,
        feature_refs=refs,
        entity_df=spine,
        registry=NO_REGISTRY,
        project="test",
        **more,
    )


def joined(store: Any, case: Case, view: FeatureView, **more: Any) -> list[tuple[Any, Any]]:
    refs, known_at = ["view:value", "view:tag"], case.known_at
    table = job(store, [view], case.spine(), refs, filter_by_created_timestamp=known_at, **more).to_arrow()
    if store is DuckDBOfflineStore:
        table = table.sort_by("number")
    assert table["number"].to_pylist() == list(range(len(case.asked)))
    return list(zip(table["value"].to_pylist(), table["tag"].to_pylist(), strict=True))


def answers(store: Any, case: Case, file: Path) -> list[tuple[Any, Any]]:
    return joined(store, case, case.view(file))


@PLAIN
@given(case=cases())
def test_the_join_is_that_of_a_loop_over_all_pairs(case: Case, file: Path) -> None:
    assert answers(AsOfOfflineStore, case, file) == case.expected()


@SLOW
@given(case=cases().filter(lambda case: not case.has_open_ties()))
def test_the_join_is_that_of_feasts_duckdb_store(case: Case, file: Path) -> None:
    assert answers(AsOfOfflineStore, case, file) == answers(DuckDBOfflineStore, case, file)


@PLAIN
@given(case=cases(), bits=st.integers(1, 24))
def test_keys_and_moments_that_do_not_fit_into_one_number_are_ranked(
    case: Case, bits: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hundred years and billions of keys would need, on small ones: the packing has fewer bits."""
    with monkeypatch.context() as small:
        small.setattr(point_in_time, "_PACKED_BITS", bits)
        small.setattr(point_in_time, "_DENSE_KEYS", bits)
        assert answers(AsOfOfflineStore, case, file) == case.expected()


def test_of_rows_alike_in_key_event_and_creation_the_later_in_the_file_answers(file: Path) -> None:
    same = [(("a",), 0, 0, float(place)) for place in range(50)]
    case = Case(("text",), [(("a",), 5)], same, None, True, True, "us", "UTC", "UTC", pa.string(), 7)
    assert answers(AsOfOfflineStore, case, file) == [(49.0, "row 49")]


def test_a_backfilled_row_answers_only_from_its_creation_on(file: Path) -> None:
    rows = [(("a",), 0, 0, 1.0), (("a",), 2 * MINUTE, 9 * MINUTE, 2.0), (("a",), 1 * MINUTE, 5 * MINUTE, 3.0)]
    asked = [(("a",), minute * MINUTE) for minute in (1, 4, 5, 8, 9)]
    case = Case(("text",), asked, rows, None, True, True, "us", "UTC", "UTC", pa.string(), 2)
    assert [value for value, _ in answers(AsOfOfflineStore, case, file)] == [1.0, 1.0, 3.0, 3.0, 2.0]


# -- what is kept of a source between joins ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


SETTLED = itertools.count(1_600_000_000)


def bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return bytes(sink.getvalue())


@pytest.mark.parametrize("encoded", [True, False])
def test_an_index_gives_the_bytes_of_the_file_nulls_among_them(tmp_path: Path, encoded: bool) -> None:
    """Digests of snapshots are made of bytes, and those of a null are free: a plain column is decoded to any."""
    rng = np.random.default_rng(3)
    count = 1_000

    def with_gaps(values: Any) -> pa.Array:
        return pa.Array.from_pandas(values, mask=rng.random(count) < 0.3)

    columns = {
        "key": rng.integers(0, 9, count),
        "at": pa.array(START + rng.integers(0, 99, count) * MINUTE, pa.timestamp("us", "UTC")),
        "plain": rng.normal(size=count),
        "narrow": with_gaps(rng.integers(-9, 9, count).astype(np.int8)),
        "wide": with_gaps(rng.normal(size=count)),
        "half": with_gaps(rng.normal(size=count).astype(np.float32)),
        "moment": with_gaps(rng.integers(0, 9, count)).cast(pa.timestamp("ms", "UTC")),
        "day": with_gaps(rng.integers(0, 9, count).astype(np.int32)).cast(pa.date32()),
        "truth": with_gaps(rng.random(count) < 0.5),
        "text": with_gaps(rng.choice(["a", "bb", ""], count)),
        "list": pa.array([None if place % 3 == 0 else [place, None] for place in range(count)], pa.list_(pa.int64())),
    }
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=300, use_dictionary=encoded)
    os.utime(path, (next(SETTLED),) * 2)
    rows = rng.integers(-1, count, 5_000)
    features = {f"new {name}": name for name in list(columns)[2:]}
    wanted = pa.table(point_in_time.SourceFile(path).fetch(rows, features))
    for many in (10_000, 100):
        source_index._mapped.clear()
        file = source_index.IndexedFile(path, tmp_path / f"index {many}")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(source_index, "_MANY", many)
            patched.setattr(source_index, "_SEGMENT", 1)
            assert bytes_of(pa.table(file.fetch(rows, features))) == bytes_of(wanted)


def from_index(case: Case, file: Path, kept: Path) -> list[tuple[Any, Any]]:
    """The answers by way of an index, which a source has once it has lain still."""
    view = case.view(file)
    os.utime(file, (next(SETTLED),) * 2)
    return joined(AsOfOfflineStore, case, view, settings={"index_folder": str(kept)})


@PLAIN
@given(case=cases())
def test_an_index_gives_the_answers_of_the_file_when_made_and_ever_after(case: Case, file: Path, kept: Path) -> None:
    view = case.view(file)
    os.utime(file, (next(SETTLED),) * 2)
    for _ in ("made", "kept"):
        assert joined(AsOfOfflineStore, case, view, settings={"index_folder": str(kept)}) == case.expected()


@SLOW
@given(case=cases(), bits=st.integers(1, 24))
def test_an_index_keeps_what_did_not_fit_into_one_number(
    case: Case, bits: int, file: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = case.view(file)
    os.utime(file, (next(SETTLED),) * 2)
    with monkeypatch.context() as small:
        small.setattr(point_in_time, "_PACKED_BITS", bits)
        small.setattr(point_in_time, "_DENSE_KEYS", bits)
        for _ in ("made", "kept"):
            assert joined(AsOfOfflineStore, case, view, settings={"index_folder": str(kept)}) == case.expected()


def one_row(value: float) -> Case:
    rows = [(("a",), 0, 0, value)]
    return Case(("text",), [(("a",), MINUTE)], rows, None, True, True, "us", "UTC", "UTC", pa.string(), 1)


def test_a_replaced_source_is_answered_from_anew_and_all_but_the_index_before_goes(file: Path, tmp_path: Path) -> None:
    kept = []
    for value in (1.0, 2.0, 3.0):
        assert from_index(one_row(value), file, tmp_path) == [(value, "row 0")]
        kept.append({path.name for path in next(tmp_path.iterdir()).iterdir()})
    assert [len(commits) for commits in kept] == [1, 2, 2]
    assert not kept[0] & kept[2]


def rows_of(values: list[float | None], late: dict[int, float] | None = None) -> Case:
    """A source of two rows to a row group, a minute apart, some of them overtaken by a value that came later."""
    rows = [((f"key {place % 3}",), place * MINUTE, place * MINUTE, value) for place, value in enumerate(values)]
    for place, value in (late or {}).items():
        key, event, _, _ = rows[place]
        rows.append((key, event, 9 * MINUTE, value))
    asked = [((f"key {place}",), minute * MINUTE) for place in (0, 1, 2) for minute in (4, 9, 20)]
    return Case(("text",), asked, rows, None, True, True, "us", "UTC", "UTC", pa.string(), 2)


def test_of_a_changed_source_only_the_row_groups_that_changed_are_decoded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, tuple[str, ...]]] = []

    def watched(self: Any, group: int, names: Any) -> pa.Table:
        decoded.append((group, tuple(names)))
        return decode(self, group, names)

    decode = source_index.IndexedFile._decoded
    monkeypatch.setattr(source_index.IndexedFile, "_decoded", watched)
    first: list[float | None] = [1.0, None, 3.0, 4.0, 5.0, 6.0]
    backfilled: list[float | None] = [1.0, None, 3.5, 4.0, 5.0, 6.0]
    for case, groups in (
        (rows_of(first), {0, 1, 2}),
        (rows_of(first, late={0: 7.0, 1: 8.0}), {3}),  # two late rows at the end
        (rows_of(backfilled, late={0: 7.0, 1: 8.0}), {1}),  # one value in the middle
        (
            replace(rows_of(backfilled), rows=rows_of(backfilled).rows[2:]),
            set(),
        ),  # the oldest and the late row groups gone
    ):
        decoded.clear()
        assert from_index(case, file, tmp_path) == case.expected()
        assert {group for group, names in decoded if "value" in names} == groups


@SLOW
@given(first=cases(), second=cases())
def test_an_index_made_from_the_one_before_gives_the_answers_of_the_file(
    first: Case, second: Case, file: Path, kept: Path
) -> None:
    """Both sources' rows in turn, so that row groups stay, go, come and move."""
    first = replace(first, unit="us")
    also = [row for row in second.rows if same_kinds(row[0], first.kinds)]
    grown = replace(first, rows=[*first.rows, *also])
    for case in (first, grown, replace(grown, rows=grown.rows[first.row_group :]), first):
        assert from_index(case, file, kept) == case.expected()


def same_kinds(key: tuple[Any, ...], kinds: tuple[str, ...]) -> bool:
    if len(key) != len(kinds):
        return False
    return all(
        part is None or isinstance(part, str if kind == "text" else int) for part, kind in zip(key, kinds, strict=True)
    )


def test_nothing_is_kept_of_a_source_that_changed_just_now(file: Path, tmp_path: Path) -> None:
    view = one_row(1.0).view(file)
    assert joined(AsOfOfflineStore, one_row(1.0), view, settings={"index_folder": str(tmp_path)}) == [(1.0, "row 0")]
    assert list(tmp_path.iterdir()) == []


def test_a_source_written_to_while_it_is_read_leaves_nothing_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, values: Any) -> None:
        write_column(path, values)
        os.utime(file)

    write_column = source_index._write_column
    monkeypatch.setattr(source_index, "_write_column", interrupted)
    with pytest.raises(Unavailable, match="was written to while it was read"):
        from_index(one_row(1.0), file, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_joins_that_make_the_same_index_at_once_all_answer(file: Path, tmp_path: Path) -> None:
    case = one_row(1.0)
    view = case.view(file)
    os.utime(file, (next(SETTLED),) * 2)

    def answer(_: int) -> list[tuple[Any, Any]]:
        return joined(AsOfOfflineStore, case, view, settings={"index_folder": str(tmp_path)})

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, range(32))) == [[(1.0, "row 0")]] * 32
    assert not list(tmp_path.rglob(".making-*"))


# -- Feast's interface around it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """A repository on our store, and the same on Feast's DuckDB store."""

    ours: FeatureStore
    theirs: FeatureStore
    folder: Path
    spine: pd.DataFrame


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("repository")
    rng = np.random.default_rng(5)
    hours = pd.date_range("2024-03-08", periods=96, freq="h", tz="UTC")
    airports = pd.DataFrame(
        [(code, hour) for hour in hours for code in ("EWR", "JFK", "LGA")], columns=["airport", "hour"]
    )
    airports["published"] = airports.hour + pd.to_timedelta(rng.integers(0, 300, len(airports)), unit="min")
    airports["wind_mph"] = rng.normal(10, 3, len(airports)).round(2)
    airports["rain"] = rng.integers(0, 9, len(airports))
    airports.to_parquet(folder / "airports.parquet", index=False)
    routes = pd.DataFrame([(o, d, hour) for hour in hours[::7] for o in ("EWR", "JFK") for d in ("LGA", "JFK")])
    routes.columns = ["from", "to", "hour"]
    routes["flights"] = rng.integers(0, 99, len(routes))
    routes.to_parquet(folder / "routes.parquet", index=False)

    airport = Entity(name="airport", join_keys=["airport"], value_type=ValueType.STRING)
    ends = [Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in ("origin", "to")]
    weather = FeatureView(
        name="weather",
        entities=[airport],
        ttl=timedelta(hours=6),
        schema=[
            Field(name="airport", dtype=String),
            Field(name="wind_mph", dtype=Float64),
            Field(name="rain", dtype=Int64),
        ],
        source=FileSource(
            path=str(folder / "airports.parquet"), timestamp_field="hour", created_timestamp_column="published"
        ),
    )
    traffic = FeatureView(
        name="traffic",
        entities=ends,
        ttl=timedelta(0),
        schema=[Field(name="origin", dtype=String), Field(name="to", dtype=String), Field(name="planes", dtype=Int64)],
        source=FileSource(
            path=str(folder / "routes.parquet"),
            timestamp_field="hour",
            field_mapping={"from": "origin", "flights": "planes"},
        ),
    )

    @on_demand_feature_view(sources=[weather], schema=[Field(name="wind_kmh", dtype=Float64)], mode="pandas")
    def metric(given: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"wind_kmh": given["wind_mph"] * 1.609344})

    both_ends = FeatureService(
        name="both_ends",
        features=[
            weather.with_name("at_origin").with_join_key_map({"airport": "origin"})[["wind_mph"]],
            weather.with_name("at_destination").with_join_key_map({"airport": "to"}),
            traffic,
        ],
    )
    here = FeatureService(name="here", features=[weather[["rain"]], metric, traffic])
    stores = []
    for name, engine in (("ours", feature_engine.AS_OF), ("theirs", feature_engine.DUCKDB)):
        config = RepoConfig(
            project="test",
            provider="local",
            registry=str(folder / f"{name}.db"),
            offline_store={"type": engine},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
        store = FeatureStore(config=config)
        store.apply([airport, *ends, weather, traffic, metric, both_ends, here])
        stores.append(store)
    asked = 60
    spine = pd.DataFrame(
        {
            "airport": rng.choice(["EWR", "JFK", "ZZZ"], asked),
            "origin": rng.choice(["EWR", "JFK", "ZZZ"], asked),
            "to": rng.choice(["LGA", "JFK"], asked),
            "decided": pd.Timestamp("2024-03-07", tz="America/New_York")
            + pd.to_timedelta(rng.integers(0, 6 * 24 * 60, asked), unit="min"),
            "number": range(asked),
        }
    )
    return Repository(
        stores[0], stores[1], folder, pd.concat([spine, spine[:5]], ignore_index=True).assign(number=range(65))
    )


def asked_of(store: FeatureStore, repository: Repository, service: str, **more: Any) -> Any:
    features = store.get_feature_service(service)
    return store.get_historical_features(repository.spine, features, **more)


@pytest.mark.parametrize("known_at", [False, True])
@pytest.mark.parametrize(("service", "full_names"), [("both_ends", True), ("here", False), ("here", True)])
def test_renamed_views_join_keys_services_and_on_demand_views_are_as_with_duckdb(
    repository: Repository, service: str, full_names: bool, known_at: bool
) -> None:
    more = {"full_feature_names": full_names, "filter_by_created_timestamp": known_at}
    ours = asked_of(repository.ours, repository, service, **more)
    theirs = asked_of(repository.theirs, repository, service, **more)
    assert isinstance(ours, AsOfRetrievalJob)
    table, wanted = ours.to_arrow(), theirs.to_arrow().sort_by("number")
    assert table.equals(wanted.cast(table.schema))
    assert table.schema.remove_metadata() == wanted.schema.remove_metadata()
    pd.testing.assert_frame_equal(ours.to_df(), theirs.to_df().sort_values("number", ignore_index=True))
    assert set(ours.metadata.keys) == set(theirs.metadata.keys)
    assert ours.metadata.min_event_timestamp == theirs.metadata.min_event_timestamp
    assert ours.metadata.max_event_timestamp == theirs.metadata.max_event_timestamp


def test_a_saved_dataset_is_written_in_chunks_and_read_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = asked_of(repository.ours, repository, "both_ends", full_feature_names=True)
    wanted = plain.to_arrow()
    monkeypatch.setattr(AsOfRetrievalJob, "needed_bytes", lambda _: (0, 4096 * 2**20 // 7))
    with pytest.raises(Refused, match=r"memory_limit_mb: 65 rows must fit into 4\.0 GiB, but need about 37\.1"):
        plain.to_arrow()
    target = repository.folder / "saved.parquet"
    plain.persist(SavedDatasetFileStorage(path=str(target)))
    assert pq.ParquetFile(target).num_row_groups == 10
    assert pq.read_table(target).equals(wanted)
    with pytest.raises(Exception, match="already exists"):
        plain.persist(SavedDatasetFileStorage(path=str(target)))
    plain.persist(SavedDatasetFileStorage(path=str(target)), allow_overwrite=True)
    assert sorted(path.name for path in repository.folder.glob("saved*")) == ["saved.parquet"]


def test_a_spine_that_cannot_be_sorted_within_the_limit_is_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = asked_of(repository.ours, repository, "both_ends", full_feature_names=True)
    monkeypatch.setattr(AsOfRetrievalJob, "needed_bytes", lambda _: (2**33, 100))
    with pytest.raises(Refused, match=r"sorting 65 rows takes about 8\.0 GiB"):
        plain.persist(SavedDatasetFileStorage(path=str(repository.folder / "never.parquet")))
    assert not list(repository.folder.glob("never*"))


def test_an_entity_frame_that_is_sql_is_refused() -> None:
    with pytest.raises(Refused, match="must be a pandas DataFrame, but is str"):
        job(AsOfOfflineStore, [], "SELECT 1", [])  # type: ignore[arg-type]


# -- the registry, parsed once ------------------------------------------------------------------------------------


@pytest.fixture
def parsed_once(tmp_path: Path) -> tuple[FeatureStore, Path]:
    registry = tmp_path / "registry.db"
    config = RepoConfig(
        project="test",
        provider="local",
        registry={
            "path": str(registry),
            "registry_store_type": "ratchet.adapters.feature_registry.ParsedOnceRegistryStore",
        },
        offline_store={"type": feature_engine.AS_OF},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    return FeatureStore(config=config), registry


def test_a_registry_that_did_not_change_is_parsed_once(parsed_once: tuple[FeatureStore, Path], file: Path) -> None:
    store, registry = parsed_once
    view = one_row(1.0).view(file)
    store.apply([Entity(name="key_0", join_keys=["key_0"], value_type=ValueType.STRING), view])
    known = store.registry.get_any_feature_view("view", "test")
    assert store.registry.get_any_feature_view("view", "test") is known
    registry.write_bytes(registry.read_bytes())
    assert store.registry.get_any_feature_view("view", "test") is known


def test_a_registry_that_another_process_changed_is_parsed_again(
    parsed_once: tuple[FeatureStore, Path], file: Path
) -> None:
    store, _ = parsed_once
    view = one_row(1.0).view(file)
    store.apply([Entity(name="key_0", join_keys=["key_0"], value_type=ValueType.STRING), view])
    assert store.registry.get_any_feature_view("view", "test").ttl == timedelta(0)
    view.ttl = timedelta(days=3)
    FeatureStore(config=store.config).apply([view])
    assert store.registry.get_any_feature_view("view", "test").ttl == timedelta(days=3)


def test_a_registry_changed_in_memory_and_not_written_is_parsed_again(
    parsed_once: tuple[FeatureStore, Path], file: Path
) -> None:
    store, _ = parsed_once
    view = one_row(1.0).view(file)
    store.apply([Entity(name="key_0", join_keys=["key_0"], value_type=ValueType.STRING), view])
    view.ttl = timedelta(days=3)
    store.registry.apply_feature_view(view, "test", commit=False)
    assert store.registry.get_any_feature_view("view", "test").ttl == timedelta(0)


# -- what is left to Feast ---------------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, dict[str, Any], list[Any], str]]:
    """What the join would have to guess: columns of the source, keys of the spine, the file asked for, what is said."""
    at = [datetime(2024, 3, 10, hour, tzinfo=UTC) for hour in (1, 2, 3)]
    plain = {"key": ["a", "a", "b"], "at": pa.array(at, pa.timestamp("us", "UTC")), "value": [1.0, 2.0, 3.0]}
    yield "several files", plain, ["a", "b"], "*.parquet"
    days = [date(2024, 1, 1), date(2024, 1, 1), date(2024, 1, 2)]
    yield "dates as keys", plain | {"key": days}, days[1:], "one.parquet"
    nanoseconds = [moment.value + 1 for moment in pd.DatetimeIndex(at).as_unit("ns")]
    yield "nanoseconds", plain | {"at": pa.array(nanoseconds, pa.timestamp("ns", "UTC"))}, ["a", "b"], "one.parquet"
    yield "fractions as keys", plain | {"key": [0.5, 0.5, 1.5]}, [0.5, 1.5], "one.parquet"


@pytest.mark.parametrize(("columns", "keys", "name"), [s[1:] for s in sources()], ids=[s[0] for s in sources()])
def test_what_the_join_would_have_to_guess_is_left_to_duckdb(
    columns: dict[str, Any], keys: list[Any], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "one.parquet")
    view = FeatureView(
        name="view",
        entities=[Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)],
        ttl=timedelta(hours=1),
        schema=[Field(name="key", dtype=String), Field(name="value", dtype=Float64)],
        source=FileSource(path=str(tmp_path / name), timestamp_field="at"),
    )
    spine = pd.DataFrame(
        {"key": keys, "event_timestamp": pd.Timestamp("2024-03-10 03:00:00.5", tz="UTC"), "number": [0, 1]}
    )
    with caplog.at_level(logging.INFO, logger="ratchet"):
        ours = job(AsOfOfflineStore, [view], spine.copy(), ["view:value"]).to_arrow()
    theirs = job(DuckDBOfflineStore, [view], spine.copy(), ["view:value"]).to_arrow()
    assert ours.sort_by("number").equals(theirs.sort_by("number"))
    assert theirs["value"].null_count == 1
    assert "left to Feast's DuckDB store" in caplog.text
