"""A world whose rows come from a real Feast repository in which columns are sensitive, with values that can be found.

``flight_id`` (a Feast entity), ``passport`` (a join key, by ``datasets.yaml``), ``salary`` (a feature, by its view) and
``gender`` (a text feature, by its field) are tagged; every value of theirs is a canary.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from judged_attempts import TABLE, JudgingWorld
from worlds import ROOT

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.guarding import GuardedFeatures

CANARY = re.compile(r"canary-(?:key|passport|gender)|7777\d{3}\.\d")
"""The text of any planted value, as text or as a number written out."""

DATASETS = """
timezone: America/New_York
datasets:
  flights:
    location: flights.parquet
    keys: [flight_id]
    event: scheduled_departure
    created: label_published_at
    join_keys: [passport]
    sensitive: {passport: pii}
  people:
    location: people.parquet
    keys: [flight_id]
    event: known_at
    created: published_at
  winds:
    location: people.parquet
    keys: [flight_id]
    event: known_at
    created: published_at
"""
DEFINITIONS = '''
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String


def objects(data_dir):
    """Three views of one file, a service without sensitive text and one with it."""
    flight = Entity(name="flight_id", join_keys=["flight_id"], value_type=ValueType.STRING, tags={"pii": "true"})

    def view(name, fields, **more):
        source = FileSource(
            name=name.partition("_")[0],
            path=str(data_dir / "people.parquet"),
            timestamp_field="known_at",
            created_timestamp_column="published_at",
        )
        return FeatureView(
            name=name,
            entities=[flight],
            ttl=timedelta(days=30),
            schema=[Field(name="flight_id", dtype=String), *fields],
            source=source,
            online=False,
            **more,
        )

    winds = view("winds", [Field(name="wind", dtype=Float64), Field(name="rate", dtype=Float64)])
    paid = view("people_paid", [Field(name="salary", dtype=Float64)], tags={"pii": "true"})
    asked = view("people_asked", [Field(name="gender", dtype=String, tags={"secret": "true"})])
    numbers = FeatureService(name="flight_delay_v1", features=[winds, paid])
    with_text = FeatureService(name="with_text", features=[winds, paid, asked])
    return [flight, winds, paid, asked, numbers, with_text]
'''
HOLD = [
    {"column": "flight_id", "reason": "what makes a row"},
    {"column": "passport", "reason": "another model joins by it"},
    {"column": "salary", "reason": "it tells who flies late"},
]


class SensitiveWorld(JudgingWorld):
    """``made`` spec entries allow what they say; the features are guarded, as everywhere."""

    def __init__(self, folder: Path, template: Path, **train: Any) -> None:
        super().__init__(folder, template, **train)
        repo, data = folder / "repo", folder / "data"
        repo.mkdir(exist_ok=True)
        data.mkdir(exist_ok=True)
        shutil.copy(ROOT / "include" / "feature_repo" / "feature_store.yaml", repo)
        (repo / "datasets.yaml").write_text(DATASETS)
        (repo / "definitions.py").write_text(DEFINITIONS)
        self.data = data
        self.feast = FeastFeatures(repo, data)
        self.features = GuardedFeatures(self.feast)

    def build(self) -> None:
        """Write the data sets."""
        n = TABLE.num_rows
        key = pa.array([f"canary-key-{i:05d}" for i in range(n)])
        known, zone = TABLE["decided_at"], pa.duration("us")
        hours = {hours: pa.scalar(hours * 3_600_000_000, zone) for hours in (1, 6, 30)}
        flights = {
            "flight_id": key,
            "scheduled_departure": pc.add(known, hours[6]),
            "label_published_at": pc.add(known, hours[30]),
            "passport": pa.array([f"canary-passport-{i:05d}" for i in range(n)]),
            "late": TABLE["label"],
        }
        people = {
            "flight_id": key,
            "known_at": pc.subtract(known, hours[1]),
            "published_at": pc.subtract(known, hours[1]),
            "wind": TABLE["wind"],
            "rate": TABLE["rate"].cast(pa.float64()),
            "salary": pa.array(7_777_000.5 + np.arange(n) % 1000),
            "gender": pa.array([f"canary-gender-{i % 3}" for i in range(n)]),
        }
        pq.write_table(pa.table(flights), self.data / "flights.parquet")
        pq.write_table(pa.table(people), self.data / "people.parquet")

    def deploy(self, *entries: dict[str, Any], **sections: Any) -> ModelSpec:
        """Have the model's spec allow the entries, with these changes to its other sections."""
        self.spec = allowing(self.spec, *entries, **sections)
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))
        return self.spec


def allowing(spec: ModelSpec, *entries: dict[str, Any], **sections: Any) -> ModelSpec:
    """The spec with these entries and changes to its other sections."""
    plain = spec.model_dump(mode="json")
    for section, values in sections.items():
        plain[section] |= values
    plain["data"] |= {"allow_sensitive": list(entries) or None}
    return ModelSpec.model_validate(plain)


def found_in(folder: Path, leave_out: set[str]) -> dict[str, set[str]]:
    """Which canaries each file below the folder holds; Parquet and archives are opened, all else is read as bytes."""
    found: dict[str, set[str]] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name.partition("/")[0] not in leave_out:
            canaries = {hit for text in texts(file.name, file.read_bytes()) for hit in kinds(text)}
            if canaries:
                found[name] = canaries
    return found


def kinds(text: str) -> set[str]:
    """Whose canaries a text holds."""
    return {"salary" if hit.startswith("7777") else hit.rpartition("-")[2] for hit in CANARY.findall(text)}


def texts(name: str, content: bytes) -> Iterator[str]:
    if name.endswith(".parquet"):
        yield str(pq.read_table(io.BytesIO(content)).to_pydict())
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from texts(member, archive.read(member))
    else:
        yield content.decode("latin-1")
