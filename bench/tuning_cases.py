"""The data that tuning is measured on: months of real flights, and made-up months that grow, drift and shift.

Every case has a window of ninety days before the days that judge, laid out as an attempt would: A fits, B judges, and
what comes later is read once, at the end. A made-up case is told by its kind and its seed, which makes its rows too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ratchet.adapters import flights
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.specs import load_spec
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.training import Columns, Ranges

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".ratchet" / "data"
WINDOW, LATER = 90, 28
MONTH = timedelta(days=28)
MADE_UP = date(2013, 7, 1)
SPACE = {
    "n_estimators": {"int": [50, 200]},
    "max_depth": {"int": [2, 8]},
    "learning_rate": {"float": [0.02, 0.3], "log": True},
    "min_child_weight": {"float": [1.0, 50.0], "log": True},
    "subsample": {"float": [0.5, 1.0]},
    "colsample_bytree": {"float": [0.5, 1.0]},
    "reg_lambda": {"float": [0.1, 10.0], "log": True},
}


@dataclass(frozen=True)
class Case:
    """One pair of data and seed: the flights of an airport, or made-up rows of a kind."""

    name: str
    seed: int
    start: date
    origin: str | None = None
    kind: str | None = None
    per_day: int = 0

    def ranges(self, back: timedelta = timedelta(0)) -> Ranges:
        """A and B of an attempt whose judged days begin ``back`` before the case's."""
        start = self.start - back
        bounds = (start - timedelta(WINDOW), start - timedelta(32), start - timedelta(30), start - timedelta(2))
        return Ranges(*(day.isoformat() for day in bounds))

    @property
    def later(self) -> tuple[str, str]:
        """The days that are read once, half-open."""
        return self.start.isoformat(), (self.start + timedelta(LATER)).isoformat()


def _flown(origin: str, month: int) -> Case:
    return Case(f"flights {origin} {month:02d}", month, date(2013, month, 1), origin=origin)


def _made(kind: str, seed: int, per_day: int) -> Case:
    return Case(f"{kind} {seed}", seed, MADE_UP, kind=kind, per_day=per_day)


FLIGHTS = tuple(
    _flown(origin, month)
    for origin, month in (("EWR", 11), ("JFK", 7), ("JFK", 12), ("EWR", 10), ("EWR", 12), ("LGA", 10))
)

MADE = (_made("plain", 1, 150), _made("turning", 2, 300), _made("shifted", 3, 150), _made("turning", 4, 150))
"""Nothing moves, twice as many rows, the numbers wander, the meaning turns."""

CASES = (*FLIGHTS[:2], MADE[0], *FLIGHTS[2:4], MADE[1], *FLIGHTS[4:], *MADE[2:])
"""In an order in which a run that is stopped has some of each."""


def spec_of(trials: int, **train: Any) -> ModelSpec:
    """The shipped spec with a wider search space."""
    plain = load_spec(ROOT / "include" / "models" / "flight_delay").model_dump(mode="json")
    plain["train"] |= {"fixed": {"tree_method": "hist"}, "search_space": SPACE, "trials": trials, "workers": 1} | train
    return ModelSpec.model_validate(plain)


class Rows:
    """The rows of each case; the flights are joined with their features once."""

    def __init__(self) -> None:
        self._flights: tuple[pa.Table, Columns] | None = None

    def of(self, case: Case) -> tuple[pa.Table, Columns]:
        """All rows of the case, the earlier study's among them, and its columns."""
        if case.origin is None:
            return made_up(case)
        if self._flights is None:
            self._flights = _flights()
        rows, columns = self._flights
        first = (case.start - timedelta(WINDOW) - MONTH).isoformat()
        day = rows["day"]
        near = pc.and_(pc.greater_equal(day, first), pc.less(day, case.later[1]))
        return rows.filter(pc.and_(near, pc.equal(rows["origin"], case.origin))), columns


def _flights() -> tuple[pa.Table, Columns]:
    flights.build(DATA)
    shipped = load_spec(ROOT / "include" / "models" / "flight_delay")
    store = FeastFeatures(ROOT / "include" / "feature_repo", DATA)
    spine = store.spine(shipped, as_of=datetime(2014, 2, 1, tzinfo=UTC), start=date(2013, 1, 1), end=date(2014, 1, 1))
    rows, names = store.historical(shipped, spine), store.feature_names(shipped)
    text = tuple(name for name in names if pa.types.is_string(rows.schema.field(name).type))
    return rows, Columns(names, text)


def made_up(case: Case) -> tuple[pa.Table, Columns]:
    """``per_day`` rows a day of twelve numbers (some missing) and two categories.

    ``plain``: nothing moves. ``turning``: what the numbers mean turns by a right angle in about a year. ``shifted``:
    the numbers themselves wander, and the categories' shares with them. Days differ among themselves in all three.
    """
    random = np.random.default_rng([case.seed, len(case.kind or ""), case.per_day])
    days = WINDOW + LATER
    n = days * case.per_day
    day = np.repeat(np.arange(days), case.per_day)
    season = day / 365.0
    x = random.normal(size=(n, 12))
    if case.kind == "shifted":
        x += np.outer(np.sin(2 * np.pi * season), random.normal(size=12))
    angle = season * np.pi / 2 if case.kind == "turning" else np.zeros(n)
    one, other = random.normal(size=12) / 3, random.normal(size=12) / 3
    lean = np.cos(angle) * (x @ one) + np.sin(angle) * (x @ other)
    groups = random.dirichlet(np.ones(20), size=2 if case.kind == "shifted" else 1)
    late_share = (season * 4).clip(0, 1) if case.kind == "shifted" else np.zeros(n)
    first = np.where(
        random.random(n) < late_share, random.choice(20, n, p=groups[-1]), random.choice(20, n, p=groups[0])
    )
    second = random.integers(0, 6, n)
    of_first, of_both = random.normal(size=20) * 0.5, random.normal(size=(20, 6)) * 0.4
    curved = 0.8 * x[:, 0] * x[:, 1] + 0.6 * np.abs(x[:, 2]) - 0.7 * (x[:, 3] > 0.5) * x[:, 4]
    noise = random.normal(size=days)[day] * 0.3
    logit = -2.0 + lean + curved + of_first[first] + of_both[first, second] + noise
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    x[random.random(x.shape) < 0.05] = np.nan
    begin = case.start - timedelta(WINDOW)
    of_day = [(begin + timedelta(i)).isoformat() for i in range(days)]
    at = datetime(begin.year, begin.month, begin.day, 12, tzinfo=UTC)
    table: dict[str, Any] = {
        "flight_id": [f"{i:07d}" for i in range(n)],
        "decided_at": pa.array([at + timedelta(int(i)) for i in day], pa.timestamp("us", "UTC")),
        "day": [of_day[i] for i in day],
        "label": label,
        "first": [f"f{i:02d}" for i in first],
        "second": [f"s{i}" for i in second],
    }
    numbers = tuple(f"x{i:02d}" for i in range(12))
    table |= {name: pa.array(x[:, i], from_pandas=True) for i, name in enumerate(numbers)}
    return pa.table(table), Columns(("first", "second", *numbers), ("first", "second"))
