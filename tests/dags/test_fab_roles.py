"""With FAB's auth manager the API and the pages obey its roles per DAG. Run: make test-fab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAB = Path(__file__).parents[2] / ".fab"
MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
EVERYTHING = {"read": 200, "retrain": 202, "rollback": 409}
"""409: nobody served before, which only those are told who may take a champion back."""
LOOKING = {"read": 200, "retrain": 403, "rollback": 403}
NOTHING = {"read": 403, "retrain": 403, "rollback": 403}

pytestmark = pytest.mark.skipif(
    not FAB.is_dir(), reason="FAB's packages are not in .fab: make test-fab puts them there"
)


@pytest.fixture(scope="module")
def told(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of its own saw; see fab_roles.py."""
    folder = tmp_path_factory.mktemp("fab")
    asked = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "RATCHET"))}
    asked |= {
        "PYTHONPATH": os.pathsep.join([str(FAB), str(root / "plugins")]),
        "RATCHET_HOME": str(folder),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW_CONN_RATCHET_LEDGER": f"sqlite:///{folder}/ledger.db",
        "AIRFLOW__CORE__AUTH_MANAGER": MANAGER,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of sixty-four characters, that SHA-512 asks for, at least",
    }
    script = [sys.executable, str(root / "tests" / "dags" / "fab_roles.py"), str(folder)]
    done = subprocess.run(script, env=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_who_owns_one_model_sees_and_does_what_is_of_it_alone(told: dict[str, Any]) -> None:
    mia = told["mia"]
    assert mia["models"] == ["m1"]
    assert (mia["m1"], mia["m2"]) == (EVERYTHING, NOTHING)


def test_who_owns_one_model_has_no_right_that_is_over_all(told: dict[str, Any]) -> None:
    mia = told["mia"]
    assert (mia["letters"], mia["again"]) == (403, 403)
    assert mia["audit"] == ["m1"], "nor what is of no model"


def test_an_administrator_does_everything_and_a_viewer_looks(told: dict[str, Any]) -> None:
    ada, vic = told["ada"], told["vic"]
    assert (ada["models"], ada["m1"], ada["m2"]) == (["m1", "m2"], EVERYTHING, EVERYTHING)
    assert (ada["letters"], ada["again"], ada["audit"]) == (200, 200, ["None", "m1", "m2"])
    assert (vic["models"], vic["m1"], vic["m2"]) == (["m1", "m2"], LOOKING, LOOKING)
    assert (vic["letters"], vic["again"]) == (200, 403)
    assert vic["audit"] == [], "FAB's viewer has no audit log"


def test_who_has_no_role_sees_nothing_and_nobody_is_not_let_in(told: dict[str, Any]) -> None:
    sue = told["sue"]
    assert (sue["models"], sue["m1"], sue["m2"], sue["audit"]) == ([], NOTHING, NOTHING, [])
    assert (sue["letters"], sue["again"]) == (403, 403)
    assert told["nobody"] == 401


def test_the_audit_log_names_people_and_their_ids_in_fab(told: dict[str, Any]) -> None:
    assert [(actor, model) for actor, model, _ in told["audited"]] == [("ada", "m1"), ("ada", "m2"), ("mia", "m1")]
    assert len({number for _, _, number in told["audited"]}) == 2
    assert all(number.isdecimal() for _, _, number in told["audited"])
