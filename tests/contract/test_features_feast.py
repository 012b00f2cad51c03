"""Features as known at the decision: recomputed from raw records, with planted leaks, on the real Feast and DuckDB."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from raw_flights import RawFlights, leaks, tells_cancellation

from ratchet.adapters import feature_engine, features_feast, flights
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.domain.spec import Spine
from ratchet.errors import Refused
from ratchet.workflow.attempting import table_digest

REPO = Path(__file__).parents[2] / "include" / "feature_repo"
YEAR_KNOWN = datetime(2014, 1, 15, tzinfo=UTC)
SPEC: Any = SimpleNamespace(
    model="flight_delay",
    business=SimpleNamespace(payoff=SimpleNamespace(reads=()), decided_by_columns=frozenset(), regression=False),
    data=SimpleNamespace(
        features="flight_delay_v1",
        spine=Spine(
            source="flights",
            label="late",
            label_delay="2d",
            entity=["flight_id"],
            decided_at="scheduled_departure - 6h",
            timezone="America/New_York",
        ),
    ),
)


@pytest.fixture(scope="module")
def raw() -> RawFlights:
    return RawFlights()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    flights.build(folder)
    return folder


@pytest.fixture(scope="module")
def features(data_dir: Path) -> FeastFeatures:
    return FeastFeatures(REPO, data_dir)


@pytest.fixture(scope="module")
def year(features: FeastFeatures) -> pa.Table:
    return features.spine(SPEC, as_of=YEAR_KNOWN, start=date(2013, 1, 1), end=date(2014, 1, 1))


@pytest.fixture(scope="module")
def sample(raw: RawFlights, year: pa.Table) -> pa.Table:
    """Flights of all seasons; cancelled ones, the days around both clock changes, and the year's ends among them."""
    rng = np.random.default_rng(20130101)
    ids = year["flight_id"].to_numpy(zero_copy_only=False)
    cancelled = raw.all.index[raw.all.dep_time.isna()]
    days = year["day"].to_numpy(zero_copy_only=False)
    edges = ["2013-01-01", "2013-01-04", "2013-03-10", "2013-03-13", "2013-11-03", "2013-11-06", "2013-12-31"]
    chosen = {*rng.choice(ids, 90, replace=False), *rng.choice(cancelled, 30, replace=False)}
    for day in edges:
        chosen |= set(rng.choice(ids[days == day], 6, replace=False))
    return year.filter(pc.is_in(year["flight_id"], pa.array(sorted(chosen))))


# -- spines --------------------------------------------------------------------------------------------------------


def test_every_flight_of_the_range_is_in_the_spine_once_in_total_order(year: pa.Table) -> None:
    ids = year["flight_id"].to_pylist()
    assert len(ids) == 336_776
    assert ids == sorted(set(ids))
    assert year.column_names == ["flight_id", "carrier", "origin", "dest", "decided_at", "day", "label"]
    assert year.schema.field("label").type == pa.int8()


def test_days_are_local_not_utc(year: pa.Table) -> None:
    rows = duckdb.sql("SELECT flight_id, day FROM year WHERE day <> flight_id[:10]").fetchall()
    assert rows == []
    utc_days = pc.strftime(pc.add(year["decided_at"], pa.scalar(timedelta(hours=6))), format="%Y-%m-%d")
    assert pc.sum(pc.not_equal(utc_days, year["day"])).as_py() > 10_000


def test_the_label_is_late_cancelled_or_diverted(raw: RawFlights, year: pa.Table) -> None:
    known = raw.all.loc[year["flight_id"].to_pylist()].late
    assert year["label"].to_pylist() == known.to_list()


@pytest.mark.parametrize(
    ("as_of", "last_day"),
    [
        (datetime(2013, 4, 3, 3, 59, 59, tzinfo=UTC), "2013-03-30"),
        (datetime(2013, 4, 3, 4, 0, tzinfo=UTC), "2013-03-31"),
        (datetime(2013, 11, 5, 4, 0, tzinfo=UTC), "2013-11-02"),
        (datetime(2013, 11, 6, 4, 59, 59, tzinfo=UTC), "2013-11-02"),
        (datetime(2013, 11, 6, 5, 0, tzinfo=UTC), "2013-11-03"),
    ],
)
def test_a_day_matures_as_a_whole_two_days_after_its_local_end(
    features: FeastFeatures, as_of: datetime, last_day: str
) -> None:
    spine = features.spine(SPEC, as_of=as_of, start=date(2013, 3, 1), end=date(2014, 1, 1))
    days = pc.unique(spine["day"]).to_pylist()
    assert max(days) == last_day
    whole = features.count_rows("flights", date.fromisoformat(last_day), date.fromisoformat(last_day) + timedelta(1))
    assert pc.sum(pc.equal(spine["day"], last_day)).as_py() == whole


def spec_that_values(*columns: str, decides: bool) -> Any:
    payoff = SimpleNamespace(reads=columns)
    read = frozenset(columns) if decides else frozenset()
    business = SimpleNamespace(payoff=payoff, decided_by_columns=read, regression=False)
    return SimpleNamespace(**vars(SPEC) | {"business": business})


@pytest.fixture
def with_outcome(tmp_path: Path) -> FeastFeatures:
    """A source whose ``minutes_late`` is known with the label only, and not of every flight."""
    repo, data = tmp_path / "repo", tmp_path / "data"
    shutil.copytree(REPO, repo)
    listed = (
        (repo / "datasets.yaml")
        .read_text()
        .replace("[carrier, origin, dest]", "[origin]\n    outcomes: [minutes_late]")
    )
    (repo / "datasets.yaml").write_text(listed)
    data.mkdir()
    departures = [datetime(2013, 5, 1, hour, tzinfo=UTC) for hour in (12, 13, 14)]
    table = pa.table(
        {
            "flight_id": ["a", "b", "c"],
            "origin": ["JFK"] * 3,
            "late": [1, 0, 1],
            "minutes_late": [45.0, -3.0, None],
            "scheduled_departure": pa.array(departures, pa.timestamp("us", tz="UTC")),
            "label_published_at": pa.array([datetime(2013, 5, 3, tzinfo=UTC)] * 3, pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, data / "flights.parquet")
    return FeastFeatures(repo, data)


def test_an_outcome_is_carried_where_the_payoff_reads_it_and_may_be_unknown(with_outcome: FeastFeatures) -> None:
    when = {"as_of": YEAR_KNOWN, "start": date(2013, 5, 1), "end": date(2013, 5, 2)}
    spine = with_outcome.spine(spec_that_values("minutes_late", "fare", decides=False), **when)
    assert spine.column_names == ["flight_id", "origin", "decided_at", "day", "label", "minutes_late"]
    assert spine["minutes_late"].to_pylist() == [45.0, -3.0, None]
    assert "minutes_late" not in with_outcome.spine(SPEC, **when).column_names


def test_a_decision_cannot_read_an_outcome(with_outcome: FeastFeatures) -> None:
    spec = spec_that_values("minutes_late", decides=True)
    with pytest.raises(Refused, match="'minutes_late' is known only after the outcome"):
        with_outcome.spine(spec, as_of=YEAR_KNOWN, start=date(2013, 5, 1), end=date(2013, 5, 2))


# -- entities to be scored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", [date(2013, 3, 10), date(2013, 7, 4), date(2013, 11, 3), date(2013, 12, 31)])
def test_the_rows_to_score_on_a_day_are_those_that_its_spine_will_have(
    features: FeastFeatures, year: pa.Table, day: date
) -> None:
    found = features.entities(SPEC, start=day, end=day + timedelta(days=1))
    assert found.equals(year.filter(pc.equal(year["day"], day.isoformat())).drop_columns("label"))
    assert found.num_rows > 300


def test_rows_are_scored_though_their_labels_are_unknown(features: FeastFeatures, tmp_path: Path) -> None:
    flights_file = features.dataset("flights").path
    table = pq.read_table(flights_file)
    for name in ("late", "label_published_at"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(name).type))
    pq.write_table(table, tmp_path / "flights.parquet")
    july = {"start": date(2013, 7, 1), "end": date(2013, 7, 3)}
    found = FeastFeatures(REPO, tmp_path).entities(SPEC, **july)
    assert found.equals(features.entities(SPEC, **july))


def test_rows_to_score_have_the_features_that_a_snapshot_gives_them(features: FeastFeatures, year: pa.Table) -> None:
    day = date(2013, 7, 4)
    scored = features.historical(SPEC, features.entities(SPEC, start=day, end=day + timedelta(days=1)))
    frozen = features.historical(SPEC, year.filter(pc.equal(year["day"], day.isoformat())))
    assert scored.equals(frozen.drop_columns("label"))


def test_an_unknown_source_is_refused_with_what_there_is(features: FeastFeatures) -> None:
    with pytest.raises(Refused, match=r"'trains' is not a dataset; there are: .*flights"):
        features.dataset("trains")


def test_a_naive_as_of_is_refused(features: FeastFeatures) -> None:
    with pytest.raises(Refused, match="must be aware of its time zone"):
        features.spine(SPEC, as_of=datetime(2013, 5, 1), start=date(2013, 3, 1), end=date(2013, 4, 1))  # noqa: DTZ001


# -- features as known at the decision ------------------------------------------------------------------------------


def test_features_are_what_the_raw_records_known_at_the_decision_give(
    raw: RawFlights, features: FeastFeatures, sample: pa.Table
) -> None:
    joined = features.historical(SPEC, sample)
    assert joined.num_rows == sample.num_rows >= 150
    assert leaks(raw, joined, features.feature_names(SPEC)) == []


def test_missing_values_do_not_tell_cancelled_flights(raw: RawFlights, features: FeastFeatures, year: pa.Table) -> None:
    cancelled = raw.all.index[raw.all.dep_time.isna()]
    others = np.random.default_rng(7).choice(raw.all.index[~raw.all.dep_time.isna()], 20_000, replace=False)
    rows = year.filter(pc.is_in(year["flight_id"], pa.array([*cancelled, *others])))
    joined = features.historical(SPEC, rows)
    assert tells_cancellation(raw, joined, features.feature_names(SPEC)) == []


def _same_day_rate(data: Path, _: Path) -> None:
    """The carrier's rate is published as the day begins instead of two days after its end."""
    _publish_earlier(data / "carrier_days.parquet", "effective_at", hours=72)


def _weather_at_departure(data: Path, _: Path) -> None:
    """Reports are filed under the time of the decision on a flight that leaves under them."""
    _publish_earlier(data / "weather.parquet", "observed_hour", hours=6)


def _departure_delay(data: Path, repo: Path) -> None:
    raw = RawFlights().all[["flight_id", "dep_delay"]].rename(columns={"dep_delay": "departure_delay"})
    _offer(data, repo, raw, "departure_delay")


def _tail_number(data: Path, repo: Path) -> None:
    planes = flights.read_source("planes").to_pandas().set_index("tailnum").seats
    raw = RawFlights().all[["flight_id", "tailnum"]]
    _offer(data, repo, raw.assign(tail_seats=raw.tailnum.map(planes)), "tail_seats")


def _publish_earlier(path: Path, event: str, *, hours: int) -> None:
    moved = (f"{column} - INTERVAL {hours} HOUR AS {column}" for column in (event, "published_at"))
    _rewrite(path, f"SELECT * REPLACE ({', '.join(moved)})")


def _offer(data: Path, repo: Path, values: Any, name: str) -> None:
    """Make the timetable claim to know ``name``."""
    _rewrite(
        data / "schedule.parquet",
        f"SELECT rows.*, v.{name}::DOUBLE AS {name}",
        "LEFT JOIN v USING (flight_id) ORDER BY flight_id",
        values,
    )
    definitions = repo / "definitions.py"
    text = definitions.read_text()
    assert text.count('"weekday": Int64,') == 1
    definitions.write_text(text.replace('"weekday": Int64,', f'"weekday": Int64, "{name}": Float64,'))


def _rewrite(path: Path, select: str, more: str = "", values: Any = None) -> None:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("rows", pq.read_table(path))
        if values is not None:
            db.register("v", values.reset_index(drop=True))
        pq.write_table(db.sql(f"{select} FROM rows {more}").to_arrow_table(), path)


def _view_of(feature: str, features: FeastFeatures) -> list[str]:
    views = features.describe(SPEC)["views"].values()
    return next(list(view["features"]) for view in views if feature in view["features"])


@pytest.mark.parametrize(
    ("plant", "caught"),
    [
        (_same_day_rate, "carrier_late_rate_1d"),
        (_weather_at_departure, "temperature_f"),
        (_departure_delay, "departure_delay"),
        (_tail_number, "tail_seats"),
    ],
)
def test_a_planted_leak_is_caught(
    raw: RawFlights,
    data_dir: Path,
    sample: pa.Table,
    tmp_path: Path,
    plant: Callable[[Path, Path], None],
    caught: str,
) -> None:
    data, repo = tmp_path / "data", tmp_path / "feature_repo"
    shutil.copytree(data_dir, data, ignore=shutil.ignore_patterns("feast"))
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
    plant(data, repo)
    leaking = FeastFeatures(repo, data)
    names = leaking.feature_names(SPEC)
    assert caught in names
    few = sample.slice(40, 40)
    found = leaks(raw, leaking.historical(SPEC, few), names)
    wrong = {finding.flight_id for finding in found if finding.feature == caught}
    assert len(wrong) > few.num_rows / 2
    assert {finding.feature for finding in found} <= set(_view_of(caught, leaking))


def test_a_tail_number_tells_cancelled_flights_by_its_absence(raw: RawFlights, sample: pa.Table) -> None:
    tails = raw.all.loc[sample["flight_id"].to_pylist()].tailnum
    joined = sample.append_column("tailnum", pa.array(tails))
    assert tells_cancellation(raw, joined, ["tailnum"]) == ["tailnum"]


# -- the join itself -------------------------------------------------------------------------------------------------


def repository_with(data_dir: Path, folder: Path, **told: str) -> FeastFeatures:
    """The repository as it is, but for what its ``feature_store.yaml`` says in place of these words."""
    shutil.copytree(REPO, folder / "repo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(data_dir, folder / "data", ignore=shutil.ignore_patterns("feast"))
    config = folder / "repo" / "feature_store.yaml"
    for was, said in told.items():
        assert config.read_text().count(was) == 1
        config.write_text(config.read_text().replace(was, said))
    return FeastFeatures(folder / "repo", folder / "data")


@pytest.fixture(scope="module")
def on_duckdb(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FeastFeatures:
    """The repository as it is, but joined by Feast's DuckDB store."""
    told = {feature_engine.AS_OF: feature_engine.DUCKDB}
    return repository_with(data_dir, tmp_path_factory.mktemp("on_duckdb"), **told)


@pytest.fixture(scope="module")
def on_index(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FeastFeatures:
    """The repository as it is, with all that makes repeated joins cheap."""
    told = {
        feature_engine.AS_OF: f"{feature_engine.AS_OF}\n  index_folder: ${{RATCHET_DATA_DIR}}/feast/index",
        "registry_type: file": "registry_type: file\n"
        "  registry_store_type: ratchet.adapters.feature_registry.ParsedOnceRegistryStore",
        "provider: local": "provider: local\ncoerce_tz_aware: false",
    }
    made = repository_with(data_dir, tmp_path_factory.mktemp("on_index"), **told)
    for source in made.data_dir.glob("*.parquet"):
        os.utime(source, (1_600_000_000,) * 2)  # as a source that has lain still
    return made


def test_a_snapshot_is_the_same_table_from_our_engine_as_from_duckdb_and_from_an_index(
    features: FeastFeatures, on_duckdb: FeastFeatures, on_index: FeastFeatures, year: pa.Table
) -> None:
    """Thirty thousand flights: rows, order, types and values, and so every digest of a manifest."""
    rows = year.take(np.sort(np.random.default_rng(11).choice(year.num_rows, 30_000, replace=False)))
    ours = features.historical(SPEC, rows)
    for others in (on_duckdb, on_index, on_index):  # an index is made, then kept
        theirs = others.historical(SPEC, rows)
        assert ours.schema == theirs.schema
        assert ours.equals(theirs)
        assert table_digest(ours) == table_digest(theirs)
        assert features.describe(SPEC)["hash"] == others.describe(SPEC)["hash"]
    assert list((on_index.data_dir / "feast" / "index").rglob("rows-*/rows"))


def test_the_manifest_names_the_engine(features: FeastFeatures, on_duckdb: FeastFeatures) -> None:
    assert features.describe(SPEC)["engine"]["offline_store"] == feature_engine.AS_OF
    assert on_duckdb.describe(SPEC)["engine"]["offline_store"] == "duckdb"
    assert set(features.describe(SPEC)["engine"]) == {"offline_store", "duckdb", "feast", "numpy", "pyarrow"}


def test_turning_points_change_no_answer_of_feast(on_duckdb: FeastFeatures, sample: pa.Table) -> None:
    store = on_duckdb._store()
    keys = sample.select(["flight_id", "carrier", "origin", "dest"]).append_column(
        "event_timestamp", sample["decided_at"]
    )
    plain = store.get_historical_features(
        entity_df=keys.to_pandas(),
        features=store.get_feature_service("flight_delay_v1"),
        filter_by_created_timestamp=True,
    )
    names = list(on_duckdb.feature_names(SPEC))
    assert plain.to_arrow().sort_by("flight_id").select(names).equals(on_duckdb.historical(SPEC, sample).select(names))


def test_a_shuffled_spine_gives_the_same_table(features: FeastFeatures, sample: pa.Table) -> None:
    shuffled = sample.take(np.random.default_rng(3).permutation(sample.num_rows))
    assert features.historical(SPEC, shuffled).equals(features.historical(SPEC, sample))


def test_rows_with_one_key_and_moment_or_an_unknown_key_are_kept(features: FeastFeatures, sample: pa.Table) -> None:
    row = sample.slice(70, 1)
    stranger = row.set_column(1, "carrier", pa.array(["ZZ"]))
    joined = features.historical(SPEC, pa.concat_tables([row, row, stranger]))
    assert joined.num_rows == 3
    assert joined["carrier_late_rate_1d"].null_count == 1
    assert joined["origin_late_rate_1d"].null_count == 0


@pytest.mark.parametrize("answer", [[0, 1], [0, 1, 1], [0, 1, 2, 3]])
def test_an_answer_with_other_rows_than_asked_is_refused(answer: list[int]) -> None:
    asked = pa.table({"ratchet_row": [0, 1, 2], "key": ["a", "b", "c"]})
    asked = asked.append_column("event_timestamp", pa.array([YEAR_KNOWN] * 3, pa.timestamp("us", tz="UTC")))
    given = pa.table({"ratchet_row": answer, "key": [("a", "b", "c", "d")[i] for i in answer]})
    given = given.append_column("event_timestamp", pa.array([YEAR_KNOWN] * len(answer), pa.timestamp("us", tz="UTC")))
    with pytest.raises(Refused, match="rows it was asked for"):
        features_feast._same_rows(asked, given, ["key"])


def test_a_spine_without_a_join_key_is_refused(features: FeastFeatures, sample: pa.Table) -> None:
    with pytest.raises(Refused, match="lacks dest"):
        features.historical(SPEC, sample.drop_columns(["dest"]))


# -- the repository ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        ("type: dask", "is 'dask'. Of 1,000,000 entity rows that engine lost 13.6 %"),
        ("type: file", "is 'file'. Of 1,000,000 entity rows that engine lost 13.6 %"),
        ("{}", "is not set, and Feast's default is dask. Of 1,000,000"),
        ("type: bigquery", "is 'bigquery', which is not yet supported"),
    ],
)
def test_an_engine_that_loses_rows_or_is_not_known_is_refused(
    data_dir: Path, tmp_path: Path, type_: str, said: str
) -> None:
    repo = tmp_path / "feature_repo"
    shutil.copytree(REPO, repo)
    config = repo / "feature_store.yaml"
    config.write_text(config.read_text().replace(f"type: {feature_engine.AS_OF}", type_))
    with pytest.raises(Refused, match=said):
        FeastFeatures(repo, data_dir).apply()


def test_the_description_is_the_same_wherever_the_data_lies(
    features: FeastFeatures, data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_dir, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("feast"))
    there = FeastFeatures(REPO, tmp_path / "elsewhere").describe(SPEC)
    assert there["hash"] == features.describe(SPEC)["hash"]
    assert str(tmp_path) not in str(there)


def _apply(data_dir: Path) -> list[str]:
    features = FeastFeatures(REPO, data_dir)
    return list(features.feature_names(SPEC))


def test_concurrent_processes_apply_once_and_read_a_whole_registry(
    features: FeastFeatures, data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_dir, tmp_path / "data", ignore=shutil.ignore_patterns("feast"))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        answers = pool.map(_apply, [tmp_path / "data"] * 3)
    assert answers == [list(features.feature_names(SPEC))] * 3
    registry = tmp_path / "data" / "feast" / "registry.db"
    before = registry.stat().st_mtime_ns
    FeastFeatures(REPO, tmp_path / "data").apply()
    assert registry.stat().st_mtime_ns == before


def test_feature_names_survive_the_engine(features: FeastFeatures) -> None:
    assert [name for name in features.feature_names(SPEC) if name.endswith("_y")] == []
