"""The guide from a file to a first champion, followed word by word up to where a stack is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest

from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.specs import load_spec, validate_all
from ratchet.domain.holdout import HoldoutPlan, plan_holdout

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "first-model.md"
YEAR_KNOWN = datetime(2014, 1, 5, tzinfo=UTC)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


class Newcomer:
    """A checkout under git, with a copy of the feature repository and of the shipped model, and a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout, home = folder / "work", folder / "checkout", folder / "checkout" / ".ratchet"
        self.models, self.repo = self.checkout / "include/models", self.checkout / "include/feature_repo"
        self.home, self.data = home, home / "data"
        shutil.copytree(ROOT / "include" / "models", self.models)
        shutil.copytree(ROOT / "include" / "feature_repo", self.repo, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / ".gitignore", self.checkout)
        self.folder.mkdir()
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("-c", "user.name=n", "-c", "user.email=n@example.com", "commit", "--quiet", "-m", "a checkout")
        self.said: list[str] = []

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.checkout, capture_output=True, text=True, check=True)
        return done.stdout

    def run(self, commands: str) -> None:
        given = {
            "RATCHET_HOME": str(self.home),
            "RATCHET_MODELS_DIR": str(self.models),
            "RATCHET_FEATURE_REPO_DIR": str(self.repo),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", "-euc", commands],
            cwd=self.folder,
            env=os.environ | given,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        self.said.append(done.stdout)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Who has done what the guide says up to its check."""
    made = Newcomer(tmp_path_factory.mktemp("newcomer"))
    (script,) = blocks("python")
    (made.folder / "departures.py").write_text(script)
    for commands in blocks("sh")[:3]:
        made.run(commands)
    return made


def test_the_guide_ends_with_a_valid_spec_beside_the_one_that_was_there(newcomer: Newcomer) -> None:
    assert "valid: departures" in newcomer.said[-1]
    assert "departures: a snapshot of " in newcomer.said[-1]
    assert validate_all(newcomer.models) == []
    shipped = ROOT / "include" / "models" / "flight_delay"
    assert load_spec(newcomer.models / "flight_delay").digest == load_spec(shipped).digest


def test_the_guide_adds_one_folder_and_changes_no_file(newcomer: Newcomer) -> None:
    assert newcomer.git("status", "--porcelain").splitlines() == ["?? include/models/departures/"]
    assert {file.name for file in (newcomer.models / "departures").iterdir()} == {"datasets.yaml", "model.yaml"}


def test_the_guide_says_how_far_the_data_is_complete_as_the_command_does(newcomer: Newcomer) -> None:
    (printed,) = re.findall(r"--complete-until (\S+)", newcomer.said[1])
    (written,) = re.findall(r"--complete-until (\S+)", blocks("sh")[3])
    assert printed == written


def test_what_the_guide_leaves_out_is_no_feature_and_the_rest_is(newcomer: Newcomer) -> None:
    features = FeastFeatures(newcomer.repo, newcomer.data, newcomer.models)
    spec = load_spec(newcomer.models / "departures")
    names = ("airport", "hour", "weekday", "departures", "minutes_late_yesterday")
    assert features.feature_names(spec) == names


def test_the_models_snapshot_can_be_made_and_holds_the_file_as_known_at_each_decision(newcomer: Newcomer) -> None:
    features = FeastFeatures(newcomer.repo, newcomer.data, newcomer.models)
    spec = load_spec(newcomer.models / "departures")
    planned = plan_holdout(
        as_of=YEAR_KNOWN,
        timezone=spec.data.spine.timezone,
        label_delay=spec.data.spine.label_delay,
        window=spec.data.window,
        last=spec.data.holdout.last,
        min_clusters=spec.data.holdout.min_clusters,
        train_floor=date(2013, 1, 1),
    )
    assert isinstance(planned, HoldoutPlan)
    asked = {"start": date(2013, 7, 1), "end": date(2013, 7, 8)}
    rows = features.historical(spec, features.spine(spec, as_of=YEAR_KNOWN, **asked))
    file = pa_csv.read_csv(newcomer.folder / "departures.csv")
    week = file.filter(pc.is_in(file["slot"], rows["slot"].combine_chunks()))
    week = week.sort_by("slot")
    assert rows.num_rows == week.num_rows > 300
    for name in ("airport", "hour", "departures", "minutes_late_yesterday"):
        assert rows[name].to_pylist() == week[name].to_pylist()
    assert rows["label"].to_pylist() == week["crowded"].to_pylist()
    assert features.entities(spec, **asked).num_rows == rows.num_rows
