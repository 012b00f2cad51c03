"""What could be known of the flights of 2013 at a moment, straight from the raw records: the leak checker.

Nothing here reads Ratchet's datasets or Feast. Definitions see records only through :class:`RawFlights`, which hides
everything published after the decision, so a feature that knows more cannot agree with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa

from ratchet.adapters import flights

NEW_YORK = ZoneInfo("America/New_York")
DAILY_TTL = timedelta(days=14)
LOOK_BACK = timedelta(days=60)  # more than any feature needs
WEATHER_TTL = timedelta(hours=12)
UNLISTED = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")
TIMETABLE = ["carrier", "flight", "origin", "dest", "sched_dep_time", "sched_arr_time", "distance", "day", "departure"]


@dataclass(frozen=True)
class Finding:
    """A feature of one row that is not what the records known at its decision say."""

    feature: str
    flight_id: str
    got: Any
    known: Any


class RawFlights:
    """The raw records, each shown only from the moment it was published."""

    def __init__(self) -> None:
        raw = flights.read_source("flights").to_pandas()
        day = pd.to_datetime(raw[["year", "month", "day"]])
        number = raw["flight"].astype(str)
        clock = raw["sched_dep_time"].astype(str).str.zfill(4)
        raw["flight_id"] = (
            day.dt.strftime("%Y-%m-%d") + "." + raw.carrier + "." + number + "." + raw.origin + "." + clock
        )
        raw["day"] = day.dt.date
        local = day + pd.to_timedelta(raw.sched_dep_time // 100, "h") + pd.to_timedelta(raw.sched_dep_time % 100, "m")
        # The local clock alone, not time_hour: flights leave at no ambiguous moment of the year (checked here).
        raw["departure"] = local.dt.tz_localize(NEW_YORK, ambiguous="raise", nonexistent="raise").dt.tz_convert(UTC)
        midnight = {d: datetime.combine(d + timedelta(days=1), time(), NEW_YORK).astimezone(UTC) for d in set(raw.day)}
        raw["published"] = raw["day"].map({d: end + timedelta(days=2) for d, end in midnight.items()})
        raw["late"] = (raw.arr_delay.isna() | (raw.arr_delay > 30)).astype(int)
        raw = raw.sort_values(["day", "flight_id"])  # the file is not in the order of time
        self.all = raw.set_index("flight_id", drop=False)
        self._by = {key: dict(list(raw.groupby(key))) for key in ("carrier", "origin", "dest")}
        self._timetable = raw.set_index("flight_id")[TIMETABLE]
        self._departures = dict(list(self._timetable.groupby(["origin", "day"])))
        weather = flights.read_source("weather").to_pandas()
        weather["published"] = weather.time_hour + pd.Timedelta(minutes=75)
        self._weather = {origin: rows.sort_values("time_hour") for origin, rows in weather.groupby("origin")}
        self._planes = flights.read_source("planes").to_pandas().set_index("tailnum")
        airports = flights.read_source("airports").to_pandas()
        self._zones = {k: ZoneInfo(v) for k, v in zip(airports.faa, airports.tzone, strict=True) if v} | {
            k: ZoneInfo(v) for k, v in UNLISTED.items()
        }

    @lru_cache(maxsize=1)  # noqa: B019 - asked for feature after feature of one flight
    def timetable(self, flight_id: str) -> pd.Series:
        """A flight as scheduled: published a month before every decision on it."""
        return self._timetable.loc[flight_id]

    def timetable_at(self, origin: str, day: Any) -> pd.DataFrame:
        """All departures scheduled from one airport on one day."""
        return self._departures[origin, day]

    @lru_cache(maxsize=8)  # noqa: B019 - asked for feature after feature of one flight
    def outcomes(self, key: str, value: str, known_at: datetime) -> pd.DataFrame:
        """Flights of one carrier, origin or destination with an outcome published in the 60 days to ``known_at``."""
        rows = self._by[key][value]
        oldest, newest = rows.published.searchsorted(
            [pd.Timestamp(known_at - LOOK_BACK), pd.Timestamp(known_at)], "right"
        )
        return rows.iloc[oldest:newest]

    def outcome(self, flight_id: str, known_at: datetime) -> pd.Series | None:
        """What came of one flight, the plane it was flown with included; None while that is not published."""
        row = self.all.loc[flight_id]
        return row if row.published <= known_at else None

    def report(self, origin: str, known_at: datetime) -> pd.DataFrame:
        """The newest published weather report and those of the five hours before it; empty when it is too old."""
        rows = self._weather[origin]
        rows = rows[rows.published <= known_at]
        if rows.empty or rows.time_hour.iloc[-1] + WEATHER_TTL < known_at:
            return rows.iloc[:0]
        return rows[rows.time_hour >= rows.time_hour.iloc[-1] - pd.Timedelta(hours=5)]

    def plane(self, tailnum: str | None) -> pd.Series | None:
        """The registered plane, where the register has it."""
        return self._planes.loc[tailnum] if tailnum in self._planes.index else None

    def zone(self, airport: str) -> ZoneInfo:
        return self._zones[airport]


Definition = Callable[[RawFlights, str, datetime], Any]


def _timetable(column: Callable[[pd.Series], Any]) -> Definition:
    return lambda raw, flight_id, _: column(raw.timetable(flight_id))


def _weather(of: Callable[[pd.DataFrame], float]) -> Definition:
    def value(raw: RawFlights, flight_id: str, decided_at: datetime) -> float | None:
        recent = raw.report(raw.timetable(flight_id).origin, decided_at)
        return None if recent.empty else of(recent)

    return value


def _wind(recent: pd.DataFrame) -> float:
    wind = recent.wind_speed.iloc[-1]
    return wind if wind <= 200 else math.nan


def _gust(recent: pd.DataFrame) -> float:
    wind, gust = _wind(recent), recent.wind_gust.iloc[-1]
    return wind if math.isnan(gust) or math.isnan(wind) else max(wind, gust)


def _of_days(key: str, of: Callable[[pd.DataFrame], float], days: int) -> Definition:
    """Of the outcomes of the last fully labelled day of one key, and of the ``days`` up to it."""

    def value(raw: RawFlights, flight_id: str, decided_at: datetime) -> float | None:
        known = raw.outcomes(key, raw.timetable(flight_id)[key], decided_at)
        if known.empty or known.published.iloc[-1] + DAILY_TTL < decided_at:
            return None
        return of(known[known.day > known.day.max() - timedelta(days=days)])

    return value


def _planes(of: Callable[[RawFlights, pd.Series], pd.Series]) -> Definition:
    def value(raw: RawFlights, flight_id: str, decided_at: datetime) -> float | None:
        flight = raw.timetable(flight_id)
        known = raw.outcomes("dest", flight.dest, decided_at)
        known = known[known.carrier == flight.carrier]
        if known.empty or known.published.iloc[-1] + DAILY_TTL < decided_at:
            return None
        recent = known[known.day > known.day.max() - timedelta(days=28)]
        flown = recent.join(raw._planes.rename(columns={"year": "built"}), on="tailnum", rsuffix="_plane")
        return of(raw, flown).mean()

    return value


def _age(_: RawFlights, flown: pd.DataFrame) -> pd.Series:
    built = pd.to_datetime(flown.built.dropna().astype(int).astype(str) + "-01-01")
    return (pd.to_datetime(flown.day).loc[built.index] - built).dt.days / 365.25


def _block(raw: RawFlights, flight_id: str, _: datetime) -> int:
    flight = raw.timetable(flight_id)
    there = flight.departure.tz_convert(raw.zone(flight.dest))
    scheduled = flight.sched_arr_time // 100 * 60 + flight.sched_arr_time % 100
    return (scheduled - there.hour * 60 - there.minute) % 1440


def _same_hour(raw: RawFlights, flight_id: str, _: datetime) -> int:
    flight = raw.timetable(flight_id)
    return int(
        (raw.timetable_at(flight.origin, flight.day).sched_dep_time // 100 == flight.sched_dep_time // 100).sum()
    )


def _carrier_same_day(raw: RawFlights, flight_id: str, _: datetime) -> int:
    flight = raw.timetable(flight_id)
    return int((raw.timetable_at(flight.origin, flight.day).carrier == flight.carrier).sum())


def _departure_delay(raw: RawFlights, flight_id: str, decided_at: datetime) -> float | None:
    outcome = raw.outcome(flight_id, decided_at)
    return None if outcome is None else outcome.dep_delay


def _tail_seats(raw: RawFlights, flight_id: str, decided_at: datetime) -> float | None:
    outcome = raw.outcome(flight_id, decided_at)
    plane = None if outcome is None else raw.plane(outcome.tailnum)
    return None if plane is None else plane.seats


DEFINITIONS: dict[str, Definition] = {
    "airline": _timetable(lambda f: f.carrier),
    "departure_airport": _timetable(lambda f: f.origin),
    "arrival_airport": _timetable(lambda f: f.dest),
    "departure_hour": _timetable(lambda f: f.sched_dep_time // 100),
    "departure_minute_of_day": _timetable(lambda f: f.sched_dep_time // 100 * 60 + f.sched_dep_time % 100),
    "weekday": _timetable(lambda f: f.day.isoweekday()),
    "distance_miles": _timetable(lambda f: f.distance),
    "block_minutes": _block,
    "departures_same_hour": _same_hour,
    "carrier_departures_same_day": _carrier_same_day,
    "temperature_f": _weather(lambda r: r.temp.iloc[-1]),
    "dew_point_f": _weather(lambda r: r.dewp.iloc[-1]),
    "humidity_percent": _weather(lambda r: r.humid.iloc[-1]),
    "wind_mph": _weather(_wind),
    "gust_mph": _weather(_gust),
    "rain_inches": _weather(lambda r: r.precip.iloc[-1]),
    "visibility_miles": _weather(lambda r: r.visib.iloc[-1]),
    "rain_6h_inches": _weather(lambda r: r.precip.sum()),
    "visibility_6h_miles": _weather(lambda r: r.visib.min()),
    "route_seats_28d": _planes(lambda _, flown: flown.seats),
    "route_plane_age_years_28d": _planes(_age),
    # Not offered by the feature service: what a leaking one might offer.
    "departure_delay": _departure_delay,
    "tail_seats": _tail_seats,
}
for _key in ("carrier", "origin", "dest"):
    DEFINITIONS |= {
        f"{_key}_late_rate_1d": _of_days(_key, lambda r: r.late.mean(), 1),
        f"{_key}_not_arrived_rate_1d": _of_days(_key, lambda r: r.arr_delay.isna().mean(), 1),
        f"{_key}_delay_minutes_1d": _of_days(_key, lambda r: r.dep_delay.mean(), 1),
        f"{_key}_late_rate_7d": _of_days(_key, lambda r: r.late.mean(), 7),
    }


def leaks(raw: RawFlights, rows: pa.Table, features: Iterable[str]) -> list[Finding]:
    """Every value of ``features`` that the records known at ``decided_at`` do not give; a null must be one, too."""
    found = []
    for row in rows.to_pylist():
        for feature in features:
            known = DEFINITIONS[feature](raw, row["flight_id"], row["decided_at"])
            if not _same(row[feature], known):
                found.append(Finding(feature, row["flight_id"], row[feature], known))
    return found


def tells_cancellation(raw: RawFlights, rows: pa.Table, features: Iterable[str], tolerance: float = 0.01) -> list[str]:
    """Features missing more or less often on cancelled flights than on the others, by more than ``tolerance``."""
    frame = rows.to_pandas()
    cancelled = raw.all.loc[frame.flight_id].dep_time.isna().to_numpy()
    missing = frame[list(features)].isna()
    gap = (missing[cancelled].mean() - missing[~cancelled].mean()).abs()
    return [str(name) for name in gap.index[gap > tolerance]]


def _same(got: Any, known: Any) -> bool:
    if _absent(got) or _absent(known):
        return _absent(got) and _absent(known)
    if isinstance(known, str):
        return bool(got == known)
    return math.isclose(got, known, rel_tol=1e-9, abs_tol=1e-9)


def _absent(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
