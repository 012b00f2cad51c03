"""A world of one shipped example on real parts: Feast over its real data, and MLflow's registry."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from judged_attempts import JudgingWorld
from worlds import ROOT

from ratchet.adapters.examples import Taken, take
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.registry_mlflow import MlflowRegistry
from ratchet.adapters.specs import load_spec
from ratchet.domain.spec import ModelSpec

EXAMPLES = ROOT / "include" / "examples"


def taken(name: str, folder: Path, data_dir: Path) -> Taken:
    """The example in a repository of its own below ``folder``, its data beside the flights' in ``data_dir``."""
    shutil.copytree(ROOT / "include" / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__*"))
    places = {"models_dir": folder / "models", "repo_dir": folder / "feature_repo", "data_dir": data_dir}
    return take(name, examples_dir=EXAMPLES, **places)


class ExampleWorld(JudgingWorld):
    """``tracking`` is MLflow's database; ``changes`` are made to the spec, section by section."""

    def __init__(
        self, folder: Path, template: Path, name: str, data_dir: Path, tracking: Path, **changes: dict[str, Any]
    ) -> None:
        super().__init__(folder, template)
        self.taken = taken(name, folder, data_dir)
        plain = load_spec(folder / "models" / name).model_dump(mode="json")
        for section, values in changes.items():
            plain[section] |= values
        self.model, self.spec = name, ModelSpec.model_validate(plain)
        with self.ledger.transaction() as tx:
            tx.publish_spec(name, self.spec.digest, self.spec.model_dump(mode="json"))
        self.features = FeastFeatures(folder / "feature_repo", data_dir, folder / "models")
        self.registry = MlflowRegistry(
            f"sqlite:///{tracking}", lock_file=ROOT / "requirements.txt", download_dir=folder / "downloads"
        )
