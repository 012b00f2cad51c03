"""Shipped examples: a model's folder, and SQL that makes its datasets of the flights' tables.

A folder of ``include/examples`` has a ``model.yaml``, a ``datasets.yaml`` of what the model brings along, and for each
of these datasets a file of its name with one SELECT over what :func:`ratchet.adapters.flights.select` offers. Until it
is taken (``ratchet new <name> --example``) it is no model: no DAG and no event knows of it. Nothing that is there is
overwritten, and nothing is written before everything has been made.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.adapters import flights
from ratchet.adapters.catalogue import DATASETS_FILE, Catalogue, own_datasets
from ratchet.adapters.specs import SPEC_FILE, load_spec
from ratchet.adapters.storage import write_atomically
from ratchet.domain.spec import did_you_mean
from ratchet.errors import Refused


@dataclass(frozen=True)
class Taken:
    """What came of it: the spec's file and dataset, its rows, and until when there are any."""

    spec_file: Path
    source: str
    rows: int
    complete_until: datetime


def names(examples_dir: Path) -> tuple[str, ...]:
    """The examples there are, sorted."""
    return tuple(sorted(file.parent.name for file in examples_dir.glob(f"*/{SPEC_FILE}")))


def take(name: str, *, examples_dir: Path, models_dir: Path, repo_dir: Path, data_dir: Path) -> Taken:
    """Make the example's datasets below ``data_dir``, and its folder, the spec last.

    The flights' own datasets are built where they are not there yet.

    Raises:
        Refused: there is no such example, or something of it is there already.

    """
    there = names(examples_dir)
    if name not in there:
        raise Refused(f"{name!r} is not an example.{did_you_mean(name, there)}")
    folder, spec_file = examples_dir / name, models_dir / name / SPEC_FILE
    entries = own_datasets(examples_dir)[name]
    entries.pop("timezone", None)
    files = {dataset: data_dir / entry["location"] for dataset, entry in entries.items()}
    for path in (spec_file.parent, *files.values()):
        if path.exists():
            raise Refused(f"{path} is there already and is not overwritten. Move it away first.")
    listed = Catalogue(repo_dir, models_dir, data_dir)
    if taken := sorted(dataset for dataset in entries if dataset in listed):
        raise Refused(f"{listed[taken[0]].where} has a dataset {taken[0]!r} already. Rename it first.")
    spine = load_spec(folder).data.spine
    flights.build(data_dir)
    made = flights.select({dataset: (folder / f"{dataset}.sql").read_text() for dataset in files})
    for dataset, path in files.items():
        buffer = io.BytesIO()
        pq.write_table(made[dataset], buffer, compression="zstd")
        write_atomically(path, buffer.getvalue(), replace=False)
    for file in (DATASETS_FILE, SPEC_FILE):
        write_atomically(spec_file.with_name(file), (folder / file).read_bytes(), replace=False)
    source = made[spine.source]
    until = pc.max(source[entries[spine.source]["created"]]).as_py() - spine.label_delay
    return Taken(spec_file, spine.source, source.num_rows, until.astimezone(UTC))
