"""The Feast repository: entities, feature views and the service ``flight_delay_v1``.

When each row could be known is decided where the datasets are built (``ratchet.adapters.flights``) and declared in
``datasets.yaml``; here each view names what it offers and how long a value may be carried over a gap (TTL):
weather 12 hours (the file lacks single hours), what is published daily 14 days (some routes are flown weekly).
A dataset that lists its own ``features`` is a view and a service without a line here
(``ratchet.adapters.declared_views``).

Feature names must not end in ``_y``: Feast's DuckDB engine drops such columns after its joins.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, PrimitiveFeastType, String
from ruamel.yaml import YAML

from ratchet.adapters.catalogue import Catalogue
from ratchet.adapters.declared_views import declared_views

REPO = Path(__file__).parent


def objects(data_dir: Path) -> list[Any]:
    """Every Feast object of the repository, reading its datasets below ``data_dir``."""
    datasets = YAML(typ="safe").load(REPO / "datasets.yaml")["datasets"]
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=description)
        for name, description in {
            "flight_id": "a scheduled flight: date, carrier, number, origin and scheduled time",
            "carrier": "two-letter code of the airline",
            "origin": "airport of departure: EWR, JFK or LGA",
            "dest": "airport of arrival",
        }.items()
    }

    def view(name: str, ttl: timedelta, features: dict[str, PrimitiveFeastType], description: str) -> FeatureView:
        dataset = datasets[name]
        keys = dataset["keys"]
        return FeatureView(
            name=name,
            description=description,
            entities=[entities[key] for key in keys],
            ttl=ttl,
            schema=[Field(name=key, dtype=String) for key in keys]
            + [Field(name=feature, dtype=dtype) for feature, dtype in features.items()],
            source=FileSource(
                name=name,
                path=str(data_dir / dataset["location"]),
                timestamp_field=dataset["event"],
                created_timestamp_column=dataset["created"],
            ),
            online=False,
        )

    def days_of(key: str) -> FeatureView:
        rates = ("late_rate_1d", "not_arrived_rate_1d", "delay_minutes_1d", "late_rate_7d")
        return view(
            f"{key}_days",
            timedelta(days=14),
            {f"{key}_{rate}": Float64 for rate in rates},
            f"outcomes of the last fully labelled local day of one {key}, and of the week up to it",
        )

    views = [
        view(
            "schedule",
            timedelta(days=31),
            {
                "airline": String,
                "departure_airport": String,
                "arrival_airport": String,
                "departure_hour": Int64,
                "departure_minute_of_day": Int64,
                "weekday": Int64,
                "distance_miles": Int64,
                "block_minutes": Int64,
                "departures_same_hour": Int64,
                "carrier_departures_same_day": Int64,
            },
            "what the timetable says of a flight a month ahead",
        ),
        view(
            "weather",
            timedelta(hours=12),
            dict.fromkeys(
                (
                    "temperature_f",
                    "dew_point_f",
                    "humidity_percent",
                    "wind_mph",
                    "gust_mph",
                    "rain_inches",
                    "visibility_miles",
                    "rain_6h_inches",
                    "visibility_6h_miles",
                ),
                Float64,
            ),
            "the newest published hourly report at the origin",
        ),
        days_of("carrier"),
        days_of("origin"),
        days_of("dest"),
        view(
            "route_planes",
            timedelta(days=14),
            {"route_seats_28d": Float64, "route_plane_age_years_28d": Float64},
            "typical planes of a carrier to a destination; never the plane of the flight itself",
        ),
    ]
    service = FeatureService(
        name="flight_delay_v1",
        features=views,
        description="everything known six hours before departure that the flight_delay model reads",
    )
    return [*entities.values(), *views, service]


# For the `feast` command, which looks for objects in the module; Ratchet calls objects() with its own data folder.
DATA = Path(os.environ.get("RATCHET_DATA_DIR", REPO.parents[1] / ".ratchet" / "data"))
MODELS = Path(os.environ.get("RATCHET_MODELS_DIR", REPO.parent / "models"))
shipped = objects(DATA)
(
    flight_id,
    carrier,
    origin,
    dest,
    schedule,
    weather,
    carrier_days,
    origin_days,
    dest_days,
    route_planes,
    flight_delay_v1,
) = shipped
listed = Catalogue(REPO, MODELS, DATA).sound()
globals().update({f"declared_{number}": each for number, each in enumerate(declared_views(listed, shipped)[0])})
