"""Datasets that a model brings in its own folder: read like shared ones, and no model is in another's way."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.domain.spec import Spine
from ratchet.errors import Refused

REPO = Path(__file__).parents[2] / "include" / "feature_repo"
LISTED = """timezone: {timezone}
datasets:
  {model}:
    location: {model}.parquet
    keys: [visit]
    event: at
    created: told_at
    sensitive: {{visit: pii}}
  {model}_features:
    location: {model}_features.parquet
    keys: [visit]
    event: at
    created: known_at
    service: {model}_v1
    features: {{guests: int64, shop: string}}
"""
SHARED = """timezone: America/New_York
datasets:
  trains: {location: trains.parquet, keys: [train], event: at, created: told_at}
"""
DEFINITIONS = """
from feast import Entity, ValueType


def objects(data_dir):
    return [Entity(name="train", join_keys=["train"], value_type=ValueType.STRING)]
"""
JULY = {"as_of": datetime(2014, 1, 1, tzinfo=UTC), "start": date(2013, 7, 1), "end": date(2013, 7, 8)}


def asking(model: str) -> Any:
    payoff = SimpleNamespace(reads=())
    return SimpleNamespace(
        model=model,
        business=SimpleNamespace(payoff=payoff, decided_by_columns=frozenset(), regression=False),
        data=SimpleNamespace(
            features=f"{model}_v1",
            spine=Spine(source=model, label="paid", label_delay="1d", entity=["visit"], decided_at="at"),
        ),
    )


class Shop:
    """A feature repository that knows trains, and models that bring their visits."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.models, self.data = folder / "repo", folder / "models", folder / "data"
        self.repo.mkdir()
        self.data.mkdir()
        shutil.copy(REPO / "feature_store.yaml", self.repo)
        (self.repo / "datasets.yaml").write_text(SHARED)
        (self.repo / "definitions.py").write_text(DEFINITIONS)

    def bring(self, model: str, timezone: str = "UTC", guests: int = 1) -> Path:
        """A model's list, and a visit at 23:30 UTC of each day of July."""
        own = self.models / model / "datasets.yaml"
        own.parent.mkdir(parents=True)
        own.write_text(LISTED.format(model=model, timezone=timezone))
        days = [datetime(2013, 7, day, 23, 30, tzinfo=UTC) for day in range(1, 31)]
        moments = pa.array(days, pa.timestamp("us", "UTC"))
        told = pa.array([day + timedelta(days=1) for day in days], pa.timestamp("us", "UTC"))
        keys = pa.table({"visit": [str(day) for day in range(1, 31)], "at": moments})
        paid = [day % 2 for day in range(30)]
        spine = keys.append_column("paid", pa.array(paid)).append_column("told_at", told)
        pq.write_table(spine, self.data / f"{model}.parquet")
        known = keys.append_column("guests", pa.array([guests] * 30)).append_column("shop", pa.array(["a"] * 30))
        pq.write_table(known.append_column("known_at", moments), self.data / f"{model}_features.parquet")
        return own

    def features(self) -> FeastFeatures:
        return FeastFeatures(self.repo, self.data, self.models)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_models_own_datasets_are_a_spine_features_and_tags(shop: Shop) -> None:
    shop.bring("visits", guests=3)
    features, spec = shop.features(), asking("visits")
    rows = features.historical(spec, features.spine(spec, **JULY))
    assert rows.num_rows == 7
    assert rows.select(["guests", "shop"]).to_pylist() == [{"guests": 3, "shop": "a"}] * 7
    (told,) = features.tagged(spec)
    assert (told.column, told.tags, told.where) == ("visit", ("pii",), "dataset 'visits' of visits/datasets.yaml")


@pytest.mark.parametrize(("timezone", "count"), [("UTC", 7), ("Europe/Berlin", 6), ("America/New_York", 7)])
def test_the_days_of_a_models_own_data_are_those_of_its_own_time_zone(shop: Shop, timezone: str, count: int) -> None:
    shop.bring("visits", timezone=timezone)
    assert shop.features().count_rows("visits", JULY["start"], JULY["end"]) == count
    assert shop.features().describe(asking("visits"))["timezone"] == timezone


def test_a_snapshot_pins_what_it_reads_and_another_model_changes_nothing_in_it(shop: Shop) -> None:
    shop.bring("visits")
    before = shop.features().describe(asking("visits"))
    assert list(before["datasets"]) == ["visits", "visits_features"]
    shop.bring("calls")
    assert shop.features().describe(asking("visits")) == before
    path = shop.data / "visits_features.parquet"
    pq.write_table(pq.read_table(path).slice(0, 29), path)
    assert shop.features().describe(asking("visits"))["hash"] != before["hash"]


def test_a_model_that_comes_later_is_found_at_once(shop: Shop) -> None:
    shop.bring("visits")
    assert shop.features().feature_names(asking("visits")) == ("guests", "shop")
    shop.bring("calls")
    assert shop.features().feature_names(asking("calls")) == ("guests", "shop")


@pytest.mark.parametrize(
    ("was", "wrong", "said"),
    [
        ("timezone: UTC", "timezone: [", "not valid YAML"),
        ("guests: int64", "guests: number", "datasets.calls_features.features.guests must be one of float64"),
    ],
)
def test_what_is_wrong_in_one_folder_stops_no_other_model(shop: Shop, was: str, wrong: str, said: str) -> None:
    own = shop.bring("calls")
    own.write_text(own.read_text().replace(was, wrong))
    shop.bring("visits")
    assert shop.features().feature_names(asking("visits")) == ("guests", "shop")
    with pytest.raises(Refused) as refused:
        shop.features().feature_names(asking("calls"))
    assert said in str(refused.value)


def test_a_service_that_two_folders_offer_is_that_of_the_first(shop: Shop) -> None:
    shop.bring("calls")
    later = shop.bring("visits")
    later.write_text(later.read_text().replace("visits_v1", "calls_v1"))
    assert shop.features().feature_names(asking("calls")) == ("guests", "shop")
    with pytest.raises(Refused, match=r"datasets\.visits_features: 'calls_v1' is the name of another view or service"):
        shop.features().feature_names(asking("visits"))


def test_a_name_that_two_folders_list_is_nobodys(shop: Shop) -> None:
    shop.bring("visits")
    other = shop.bring("calls")
    other.write_text(other.read_text().replace("calls:", "visits:"))
    with pytest.raises(Refused, match=r"datasets\.visits: is listed in .* too\. Rename one of them"):
        shop.features().spine(asking("visits"), **JULY)
