"""Tags as the real Feast keeps them: at every place where one can stand, they are found, and no data set is needed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.domain.sensitive import TaggedColumn
from ratchet.domain.spec import Spine
from ratchet.errors import Refused

REPO = Path(__file__).parents[2] / "include" / "feature_repo"
LISTED = """
timezone: UTC
datasets:
  visits:
    location: visits.parquet
    keys: [visit]
    event: came_at
    created: told_at
    join_keys: [ward, doctor]
    outcomes: [bill, rest]
    sensitive: {doctor: secret, sick: pii, came_at: pii, bill: secret, rest: pii}
  wards:
    location: wards.parquet
    keys: [ward]
    event: seen_at
    created: told_at
    sensitive: {beds_raw: secret}
"""
DEFINITIONS = '''
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String


def objects(data_dir):
    """One tag at each place: entity, key's field, field, view, source, service, and a renamed column's dataset."""
    visit = Entity(name="visit", join_keys=["visit"], value_type=ValueType.STRING, tags={"pii": "true"})
    ward = Entity(name="ward", join_keys=["ward"], value_type=ValueType.STRING)

    def view(name, entity, source, fields, key_tags=None, source_tags=None, **more):
        return FeatureView(
            name=name,
            entities=[entity],
            ttl=timedelta(days=1),
            schema=[Field(name=entity.join_key, dtype=String, tags=key_tags or {}), *fields],
            source=FileSource(
                name=source,
                path=str(data_dir / "wards.parquet"),
                timestamp_field="seen_at",
                created_timestamp_column="told_at",
                field_mapping={"beds_raw": "beds"},
                tags=source_tags or {},
            ),
            online=False,
            **more,
        )

    plain = [Field(name="rooms", dtype=Float64), Field(name="beds", dtype=Float64)]
    wards = view("wards", ward, "wards", plain, {"secret": "yes"})
    notes = [Field(name="note", dtype=String, tags={"pii": "true"}), Field(name="length", dtype=Float64)]
    noted = view("noted", visit, "notes", notes)
    paid = view("paid", visit, "pay", [Field(name="paid", dtype=Float64)], tags={"pii": "true"})
    bank = view("bank", visit, "bank", [Field(name="account", dtype=Float64)], source_tags={"secret": "true"})
    return [
        visit,
        ward,
        wards,
        noted,
        paid,
        bank,
        FeatureService(name="some", features=[wards[["rooms"]], noted[["length"]]]),
        FeatureService(name="all", features=[wards, noted, paid, bank]),
        FeatureService(name="closed", features=[wards[["rooms"]]], tags={"secret": "true"}),
    ]
'''


def asking(service: str, *reads: str, source: str = "visits") -> Any:
    spine = {"source": source, "label": "sick", "label_delay": "2d", "entity": ["visit"], "decided_at": "came_at - 1h"}
    payoff = SimpleNamespace(reads=reads)
    return SimpleNamespace(
        data=SimpleNamespace(features=service, spine=Spine(**spine)), business=SimpleNamespace(payoff=payoff)
    )


@pytest.fixture
def features(tmp_path: Path) -> FeastFeatures:
    repo, data = tmp_path / "repo", tmp_path / "data"
    repo.mkdir()
    shutil.copy(REPO / "feature_store.yaml", repo)
    (repo / "datasets.yaml").write_text(LISTED)
    (repo / "definitions.py").write_text(DEFINITIONS)
    return FeastFeatures(repo, data)


SPINE = {
    ("visit", "key"): (("pii",), "entity 'visit'"),
    ("ward", "join key"): (("secret",), "feature view 'wards'"),
    ("doctor", "join key"): (("secret",), "dataset 'visits' of datasets.yaml"),
    ("sick", "label"): (("pii",), "dataset 'visits' of datasets.yaml"),
    ("came_at", "moment"): (("pii",), "dataset 'visits' of datasets.yaml"),
}


def found(tagged: tuple[TaggedColumn, ...]) -> dict[tuple[str, str], tuple[tuple[str, ...], str]]:
    return {(one.column, one.role): (one.tags, one.where) for one in tagged}


def test_every_place_of_a_tag_counts_for_what_the_rows_would_hold(features: FeastFeatures) -> None:
    assert found(features.tagged(asking("some"))) == SPINE
    assert found(features.tagged(asking("all"))) == SPINE | {
        ("beds", "feature"): (("secret",), "dataset 'wards' of datasets.yaml"),
        ("note", "feature"): (("pii",), "field 'note'"),
        ("paid", "feature"): (("pii",), "feature view 'paid'"),
        ("account", "feature"): (("secret",), "source 'bank'"),
    }
    closed = {("rooms", "feature"): (("secret",), "feature service 'closed'")}
    assert found(features.tagged(asking("closed"))) == SPINE | closed
    assert [one.column for one in features.tagged(asking("all")) if one.categorical] == ["note"]


def test_an_outcome_counts_where_the_payoff_reads_it(features: FeastFeatures) -> None:
    bill = {("bill", "outcome"): (("secret",), "dataset 'visits' of datasets.yaml")}
    assert found(features.tagged(asking("some", "bill", "rooms"))) == SPINE | bill


def test_the_tags_of_applied_definitions_are_read_without_feast(features: FeastFeatures, monkeypatch) -> None:
    before = features.tagged(asking("all"))
    monkeypatch.setitem(sys.modules, "feast", None)
    again = FeastFeatures(features.repo_dir, features.data_dir)
    assert again.tagged(asking("all")) == before
    (features.repo_dir / "definitions.py").write_text(DEFINITIONS + "\n")
    with pytest.raises(ImportError):
        again.tagged(asking("all"))


def test_a_changed_definition_has_changed_tags(features: FeastFeatures) -> None:
    assert ("length", "feature") not in found(features.tagged(asking("some")))
    length = 'Field(name="length", dtype=Float64'
    changed = DEFINITIONS.replace(length, length + ', tags={"pii": "true"}')
    (features.repo_dir / "definitions.py").write_text(changed)
    assert found(features.tagged(asking("some")))["length", "feature"] == (("pii",), "field 'length'")


def test_what_is_misspelt_in_the_catalog_is_refused_and_not_left_unprotected(features: FeastFeatures) -> None:
    (features.repo_dir / "datasets.yaml").write_text(LISTED.replace("sick: pii", "sick: pi"))
    with pytest.raises(Refused, match=r"datasets\.visits\.sensitive\.sick must be pii or secret, but got 'pi'"):
        FeastFeatures(features.repo_dir, features.data_dir).tagged(asking("some"))


def test_an_unknown_service_or_source_is_refused_with_what_there_is(features: FeastFeatures) -> None:
    with pytest.raises(Refused, match="'none' is not a feature service; there are: some, all, closed"):
        features.tagged(asking("none"))
    with pytest.raises(Refused, match="'trains' is not a dataset; there are: visits, wards"):
        features.tagged(asking("some", source="trains"))


def test_the_shipped_repository_tags_nothing(tmp_path: Path) -> None:
    """Flights of 2013 are public: the shipped spec allows nothing, and its snapshots are what they were."""
    features = FeastFeatures(REPO, tmp_path)
    spec = asking("flight_delay_v1", source="flights")
    assert features.tagged(spec) == ()
