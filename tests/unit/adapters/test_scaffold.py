"""What ``ratchet new`` makes of a file, what it refuses, and that it overwrites nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from ratchet.adapters.scaffold import Asked, Made, scaffold
from ratchet.adapters.specs import load_spec, validate_all
from ratchet.domain.holdout import HoldoutPlan, plan_holdout
from ratchet.errors import Refused

ROOT = Path(__file__).resolve().parents[3]
DAYS = 90


def rows(days: int = DAYS) -> dict[str, list[Any]]:
    """Two visits a day of a shop; whether they paid is known a day later."""
    first = datetime(2013, 1, 1, 9)  # noqa: DTZ001 - a file's moments name no zone
    moments = [first + timedelta(days=i // 2, hours=i % 2) for i in range(2 * days)]
    return {
        "visit": list(range(len(moments))),
        "at": moments,
        "paid": [i % 3 == 0 for i in range(len(moments))],
        "spent": [1.5 * i for i in range(len(moments))],
        "shop": ["a", "b"] * days,
        "guests": [None, *range(1, len(moments))],
    }


class Workshop:
    """Folders to write to, with the shipped feature repository and model in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models, self.repo, self.data = folder / "models", folder / "feature_repo", folder / "data"
        shutil.copytree(ROOT / "include" / "models", self.models)
        shutil.copytree(ROOT / "include" / "feature_repo", self.repo, ignore=shutil.ignore_patterns("__pycache__"))
        self.asked = Asked(
            model="visits",
            source=folder / "visits.csv",
            keys=("visit",),
            decided_at="at",
            label="paid",
            label_delay="1d",
            payoff={"tp": 5.0, "fp": -1.0},
            unit="EUR",
            goal="greet who pays",
            team="shop",
            email="shop@example.com",
            review_by=date(2027, 1, 1),
            timezone="Europe/Berlin",
            leave_out=("spent",),
        )
        self.write(rows())

    def write(self, columns: dict[str, list[Any]]) -> None:
        pa_csv.write_csv(pa.table(columns), self.asked.source)

    def make(self, **changes: Any) -> Made:
        asked = replace(self.asked, **changes)
        return scaffold(asked, models_dir=self.models, repo_dir=self.repo, data_dir=self.data)

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_label_and_its_features_become_two_datasets_and_a_valid_spec(workshop: Workshop) -> None:
    made = workshop.make()
    assert validate_all(workshop.models) == []
    assert (made.rows, made.days) == (2 * DAYS, DAYS)
    assert made.features == {"shop": "string", "guests": "float64"}
    assert made.complete_until == datetime(2013, 3, 31, 22, tzinfo=UTC), "midnight in Berlin, in summer time"
    spec = load_spec(workshop.models / "visits")
    assert spec.business.payoff.unit == "EUR"
    assert spec.scoring is not None
    spine = pq.read_table(workshop.data / "visits.parquet")
    assert spine.column_names == ["visit", "at", "paid", "label_known_at"]
    assert spine["at"][0].as_py() == datetime(2013, 1, 1, 8, tzinfo=UTC)
    assert spine["label_known_at"][0].as_py() == datetime(2013, 1, 2, 8, tzinfo=UTC)
    assert (spine["visit"][1].as_py(), spine["paid"][0].as_py()) == ("1", 1)
    features = pq.read_table(workshop.data / "visits_features.parquet")
    assert features.column_names == ["visit", "at", "shop", "guests", "known_at"]
    assert features["known_at"].equals(features["at"])


def test_a_number_to_predict_becomes_a_regression(workshop: Workshop) -> None:
    workshop.make(label="spent", leave_out=("paid",), payoff={"under": -3.0, "over": -1.0})
    assert validate_all(workshop.models) == []
    spec = load_spec(workshop.models / "visits")
    assert spec.business.regression
    assert spec.train.estimator == "xgboost.XGBRegressor"
    assert pq.read_schema(workshop.data / "visits.parquet").field("spent").type == pa.float64()


def test_a_parquet_file_is_read_as_a_csv_file_is(workshop: Workshop) -> None:
    table = pa_csv.read_csv(workshop.asked.source)
    source = workshop.folder / "visits.parquet"
    pq.write_table(table, source)
    assert workshop.make(source=source).features == {"shop": "string", "guests": "float64"}


def test_what_was_there_stays_as_it_was(workshop: Workshop) -> None:
    before = workshop.files()
    workshop.make()
    after = workshop.files()
    assert {name: after[name] for name in before} == before
    assert {name.rpartition("/")[0] for name in after.keys() - before} == {"models/visits", "data"}
    listed = YAML(typ="safe").load(after["models/visits/datasets.yaml"].decode())
    assert listed["datasets"]["visits_features"]["features"] == {"shop": "string", "guests": "float64"}
    assert listed["timezone"] == "Europe/Berlin"


@pytest.mark.parametrize("there", ["models/visits", "data/visits.parquet", "data/visits_features.parquet"])
def test_nothing_is_overwritten(workshop: Workshop, there: str) -> None:
    (workshop.folder / there).mkdir(parents=True)
    with pytest.raises(Refused, match="is there already and is not overwritten"):
        workshop.make()


@pytest.mark.parametrize("days", [59, 60, 75, 200, 500])
def test_the_days_of_a_made_spec_suffice_for_its_first_verdict(workshop: Workshop, days: int) -> None:
    workshop.write(rows(days))
    workshop.make()
    spec = load_spec(workshop.models / "visits")
    last = date(2013, 1, 1) + timedelta(days=days)
    planned = plan_holdout(
        as_of=datetime.combine(last, datetime.min.time(), spec.data.spine.zone),
        timezone=spec.data.spine.timezone,
        label_delay=spec.data.spine.label_delay,
        window=spec.data.window,
        last=spec.data.holdout.last,
        min_clusters=spec.data.holdout.min_clusters,
        train_floor=date(2013, 1, 1),
    )
    assert isinstance(planned, HoldoutPlan)
    assert (planned.fit_end - planned.fit_start).days >= 14


def changed(name: str, values: Any) -> dict[str, list[Any]]:
    table = rows()
    table[name] = values(table) if callable(values) else values
    return table


@pytest.mark.parametrize(
    ("columns", "changes", "said"),
    [
        (None, {"source": Path("nowhere.csv")}, "nowhere.csv is no file"),
        (None, {"keys": ("visitor",)}, "--key 'visitor' is no column; there are: visit, at, paid"),
        (None, {"decided_at": "when"}, "--decided-at 'when' is no column"),
        (None, {"label": "visit"}, "named for two things"),
        (None, {"label": "shop"}, "--label 'shop' must hold 0 and 1.*but holds a, b.*--target"),
        (None, {"label": "spent", "leave_out": ()}, "must hold 0 and 1"),
        (None, {"keys": ("spent",), "leave_out": ()}, "key spent must hold text or whole numbers, but holds double"),
        (None, {"decided_at": "shop"}, "must hold moments such as"),
        (None, {"model": "../visits"}, "would not be valid: model: "),
        (None, {"model": "Visits"}, "the spec of 'Visits' would not be valid: model: "),
        (None, {"label_delay": "soon"}, "a duration is written like"),
        (None, {"timezone": "Mars"}, "Mars"),
        (None, {"payoff": {"tp": -5.0, "fp": 1.0}}, "would not be valid: business.payoff: acting must pay"),
        (None, {"leave_out": ("spent", "shop", "guests")}, "has no column beside keys, time and label"),
        (rows(58), {}, "reaches over 58 days, but a first champion needs 59: 14 to fit, 28 to calibrate"),
        (changed("paid", [True] * 2 * DAYS), {}, "has one value on all rows"),
        (changed("paid", lambda t: [None, *t["paid"][1:]]), {}, "paid must be known on every row, but 1 have none"),
        (changed("shop", lambda t: t["at"]), {}, "column 'shop' holds timestamp.*--leave-out shop"),
        (changed("rate_y", lambda t: t["spent"]), {}, "column 'rate_y' is a name that a feature cannot have"),
        (changed("no name", lambda t: t["spent"]), {}, "column 'no name' is a name that a feature cannot have"),
        (changed("day", lambda t: t["shop"]), {}, "column 'day' is a name"),
        (changed("day", lambda t: t["shop"]), {"keys": ("visit", "day")}, "day is a name that a key cannot have"),
    ],
)
def test_what_will_not_do_is_refused_with_its_remedy_and_nothing_is_written(
    workshop: Workshop, columns: dict[str, list[Any]] | None, changes: dict[str, Any], said: str
) -> None:
    if columns is not None:
        workshop.write(columns)
    before = workshop.files()
    with pytest.raises(Refused, match=said):
        workshop.make(**changes)
    assert workshop.files() == before


def test_rows_that_repeat_a_key_at_one_moment_are_refused(workshop: Workshop) -> None:
    table = rows()
    table["visit"][1], table["at"][1] = table["visit"][0], table["at"][0]
    workshop.write(table)
    with pytest.raises(Refused, match=r"visit and at together must name one row, but 1 rows repeat another"):
        workshop.make()


@pytest.mark.parametrize(
    ("where", "said"), [("feature_repo", "datasets.yaml"), ("models/other", "other/datasets.yaml")]
)
def test_a_name_that_some_dataset_has_is_refused(workshop: Workshop, where: str, said: str) -> None:
    listed = workshop.folder / where / "datasets.yaml"
    listed.parent.mkdir(exist_ok=True)
    entry = "  visits_features: {location: x.parquet, keys: [visit], event: at, created: at}\n"
    before = listed.read_text().rstrip() if listed.exists() else "datasets:"
    listed.write_text(f"{before}\n{entry}")
    files = workshop.files()
    with pytest.raises(Refused, match=f"^{said} has a dataset 'visits_features' already. Choose another name"):
        workshop.make()
    assert workshop.files() == files
