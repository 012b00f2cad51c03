"""``ratchet validate`` tries a small snapshot through the real feature store, and tells what is wrong at its line."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ratchet.adapters.connections import EnvResolver
from ratchet.adapters.scaffold import Asked, scaffold
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, operate
from ratchet.settings import load_settings

INCLUDE = Path(__file__).resolve().parents[2] / "include"
DAYS = 90


class Shop:
    """One model, made from a file: two visits a day of 90 days. The repository's own flights are away."""

    def __init__(self, folder: Path) -> None:
        self.models, repo, self.data = folder / "models", folder / "feature_repo", folder / "data"
        shutil.copytree(INCLUDE / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
        first = datetime(2013, 1, 1, 9, tzinfo=UTC)
        rows = {
            "visit": list(range(2 * DAYS)),
            "at": [first + timedelta(days=i // 2, hours=i % 2) for i in range(2 * DAYS)],
            "paid": [i % 3 == 0 for i in range(2 * DAYS)],
            "shop": ["a", "b"] * DAYS,
            "guests": [None, *range(1, 2 * DAYS)],
        }
        pa_csv.write_csv(pa.table(rows), folder / "visits.csv")
        asked = Asked(
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
        )
        scaffold(asked, models_dir=self.models, repo_dir=repo, data_dir=self.data)
        paths = {"HOME": folder / "home", "MODELS_DIR": self.models, "FEATURE_REPO_DIR": repo, "DATA_DIR": self.data}
        settings = load_settings({f"RATCHET_{name}": str(path) for name, path in paths.items()})
        self.ratchet = Ratchet(EnvResolver({}), settings)
        self.spec = self.models / "visits" / "model.yaml"

    def line_of(self, text: str) -> int:
        return next(i for i, line in enumerate(self.spec.read_text().splitlines(), 1) if text in line)

    def change(self, name: str, change: Any) -> None:
        path = self.data / f"{name}.parquet"
        pq.write_table(change(pq.read_table(path)), path)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    made = Shop(tmp_path)
    monkeypatch.setattr(operate, "wire", lambda: made.ratchet)
    return made


def validate(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["validate", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def test_a_snapshot_is_tried_where_data_are_there_and_nothing_is_written_to_the_spec_or_the_data(shop: Shop) -> None:
    before = {path: path.read_bytes() for folder in (shop.models, shop.data) for path in folder.rglob("*.*")}
    said = validate()
    assert "valid: visits" in said
    assert "visits: a snapshot of 14 rows (2013-03-25 to 2013-03-31) was tried in" in said
    assert "2 features, 0 of them with gaps" in said
    assert {path: path.read_bytes() for path in before} == before


def test_a_model_that_is_named_is_told_column_by_column(shop: Shop) -> None:
    listed = shop.spec.with_name("datasets.yaml")
    listed.write_text(
        listed.read_text().replace("created: known_at", "created: known_at\n    sensitive: {guests: secret}")
    )
    features = "features: visits_v1"
    allow = f"{features}\n  allow_sensitive: [{{column: guests, reason: they are only counted}}]"
    shop.spec.write_text(shop.spec.read_text().replace(features, allow))
    said = [line.split() for line in validate("visits").splitlines()]
    for row in (["visit", "key", "string"], ["label", "label", "int8"], ["guests", "feature,", "secret", "double"]):
        assert row in said


def test_a_missing_value_is_a_gap_and_no_fault(shop: Shop) -> None:
    known = pa.array([None] * 3 + [1.0] * (2 * DAYS - 3))
    shop.change("visits_features", lambda t: t.set_column(t.column_names.index("guests"), "guests", known[::-1]))
    assert "1 of them with gaps" in validate()
    assert ["guests", "feature", "21.4%", "double"] in [line.split() for line in validate("visits").splitlines()]


def late(table: pa.Table) -> pa.Table:
    """Every feature is published a day after its decision."""
    moments = pc.add(table["known_at"], pa.scalar(timedelta(days=1)))
    return table.set_column(table.column_names.index("known_at"), "known_at", moments)


def bare(table: pa.Table) -> pa.Table:
    """The fifth visit has no label."""
    labels = [None if i == 4 else value for i, value in enumerate(table["paid"].to_pylist())]
    return table.set_column(table.column_names.index("paid"), "paid", pa.array(labels, pa.int8()))


def paid(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("paid"), "paid", pa.array([1] * table.num_rows, pa.int8()))


@pytest.mark.parametrize(
    ("name", "change", "at", "said"),
    [
        ("visits_features", late, "features:", "data.features: 'guests' has no value on any of the tried rows"),
        ("visits_features", lambda t: t.drop_columns("guests"), "features:", "data.features: failed with"),
        (
            "visits",
            bare,
            "label:",
            "data.spine.label: 1 rows before the newest labelled day have no label (2013-01-03)",
        ),
        ("visits", paid, "label:", "data.spine.label: is 1 on every tried row"),
        ("visits", lambda t: t.slice(0, 100), "min_clusters:", "data.holdout.min_clusters: a first verdict needs 14"),
        ("visits", lambda t: t.drop_columns("paid"), "source:", "data.spine.source: "),
    ],
)
def test_what_is_wrong_with_the_data_is_told_at_the_key_that_names_them(
    shop: Shop, name: str, change: Any, at: str, said: str
) -> None:
    shop.change(name, change)
    told = validate(code=1)
    assert f"{shop.spec}:{shop.line_of(at)}: {said}" in told
    assert "Run: ratchet validate visits" in told
    assert "snapshot" not in validate("--no-snapshot")


def test_a_view_whose_file_is_away_is_told(shop: Shop) -> None:
    (shop.data / "visits_features.parquet").unlink()
    assert "data.features: visits_features: its file must exist at" in validate(code=1)


def test_data_that_are_away_are_told_and_a_fault_only_where_the_trial_was_asked_for(shop: Shop) -> None:
    (shop.data / "visits.parquet").unlink()
    said = "visits: no snapshot was tried: visits/datasets.yaml: dataset 'visits' must exist at"
    assert said in validate()
    assert said in validate("--snapshot", code=1)


def test_a_payoff_that_fails_is_found_before_anything_is_spent(shop: Shop) -> None:
    hook = shop.spec.with_name("worth.py")
    hook.write_text("def value(rows, label, act):\n    return label\n")
    text = shop.spec.read_text()
    begin = text.index("  payoff:")
    end = text.index("  review_by:")
    payoff = '  decision: {threshold: 0.5}\n  payoff: {hook: "worth.py:value", columns: [guests], unit: EUR}\n'
    shop.spec.write_text(text[:begin] + payoff + text[end:])
    told = validate(code=1)
    assert "business.payoff: worth.py:value: must return a NumPy array of float64" in told
