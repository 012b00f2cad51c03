"""``ratchet plan`` against what is deployed and against git, its exit codes, and that it changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.adapters.connections import EnvResolver
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app
from ratchet.cli import plan as command
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused, Unavailable
from ratchet.settings import load_settings

INCLUDE = Path(__file__).resolve().parents[3] / "include"
CHANGES = 2
SHIPPED = load_spec(INCLUDE / "models" / "flight_delay").digest[:12]
OWN = "datasets:\n  visits: {location: visits.parquet, keys: [visit], event: at, created: told_at}\n"


class Checkout:
    """A repository with the shipped model in it, committed, and a ledger in which it is deployed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "include" / "models"
        shutil.copytree(INCLUDE / "models", self.models)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()
        settings = load_settings({"RATCHET_HOME": str(folder / ".ratchet"), "RATCHET_MODELS_DIR": str(self.models)})
        self.ratchet = Ratchet(EnvResolver({}), settings)

    def git(self, *words: str) -> None:
        author = ("-c", "user.name=n", "-c", "user.email=n@example.com")
        subprocess.run(["git", *author, *words], cwd=self.folder, capture_output=True, check=True)

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "models")

    def change(self, old: str, new: str) -> None:
        file = self.models / "flight_delay" / "model.yaml"
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))

    def deploy(self) -> SqlLedger:
        ledger = SqlLedger(f"sqlite:///{self.folder}/ledger.db")
        ledger.migrate()
        self.ratchet.__dict__["ledger"] = ledger
        with ledger.transaction() as tx:
            for side in self.ratchet._sides(self.models).values():
                tx.publish_spec(side.spec.model, side.digest, side.spec.model_dump(mode="json"))
        return ledger


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path)
    monkeypatch.setattr(command, "wire", lambda: made.ratchet)
    return made


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def test_no_change_is_said_and_ends_with_nought(checkout: Checkout) -> None:
    assert run("--against", "main", "--detailed-exitcode") == "nothing changes: the specs are those of main\n"
    checkout.deploy()
    assert run("--detailed-exitcode") == "nothing changes: the specs are those of what is deployed\n"


def test_a_change_is_told_against_git_without_a_ledger(checkout: Checkout) -> None:
    checkout.change("confidence: 0.95", "confidence: 0.9")
    said = run("--against", "main")
    for expected in (
        f"~ flight_delay  (spec {SHIPPED} → ",
        "    ~ gate.confidence: 0.95 → 0.9\n        the next verdict is given at this confidence",
        "the spec's digest changes",
        "against main: 0 new, 1 changed, 0 gone",
    ):
        assert expected in said
    run("--against", "main", "--detailed-exitcode", code=CHANGES)
    checkout.commit()
    assert "nothing changes" in run("--against", "main")
    assert "gate.confidence: 0.95 → 0.9" in run("--against", "main~1")


def test_comments_and_layout_change_nothing(checkout: Checkout) -> None:
    checkout.change("confidence: 0.95", "confidence:   0.95  # as ever")
    assert "nothing changes" in run("--against", "main")


def test_a_change_is_told_against_what_is_deployed_and_deploys_nothing(checkout: Checkout) -> None:
    ledger = checkout.deploy()
    checkout.change("confidence: 0.95", "confidence: 0.9")
    (told,) = json.loads(run("--json", "--detailed-exitcode", code=CHANGES))
    (key,) = told["keys"]
    assert (told["model"], told["sign"], key["key"], key["before"], key["after"]) == (
        *("flight_delay", "~", "gate.confidence"),
        *(0.95, 0.9),
    )
    with ledger.transaction() as tx:
        (row,) = tx.specs()
    assert row.digest.startswith(told["digest_before"])
    assert ModelSpec.model_validate(row.document).gate.confidence == 0.95


def test_models_that_come_and_go_are_told_and_can_be_asked_for_alone(checkout: Checkout) -> None:
    checkout.deploy()
    (checkout.models / "flight_delay").rename(checkout.models / "late_flights")
    file = checkout.models / "late_flights" / "model.yaml"
    file.write_text(file.read_text().replace("model: flight_delay", "model: late_flights"))
    said = run()
    assert f"- flight_delay  (spec {SHIPPED})" in said
    assert "    - DAG retrain__flight_delay" in said
    assert "+ late_flights  (spec " in said
    assert "    + asset ratchet://late_flights/due" in said
    assert "against what is deployed: 1 new, 0 changed, 1 gone" in said
    assert "flight_delay  (" not in run("late_flights")
    with pytest.raises(Refused, match=r"there is no model 'late_flight'\. Did you mean 'late_flights'"):
        run("late_flight")


def test_a_models_own_datasets_are_compared_with_gits(checkout: Checkout) -> None:
    own = checkout.models / "flight_delay" / "datasets.yaml"
    own.write_text(OWN)
    assert "+ datasets.visits: {" in run("--against", "main")
    checkout.commit()
    own.write_text(OWN.replace("event: at", "event: came_at"))
    said = run("--against", "main")
    assert '~ datasets.visits.event: "at" → "came_at"' in said
    assert "the spec's digest stays" in said


def test_a_hook_that_git_has_otherwise_is_another_digest(checkout: Checkout) -> None:
    hook = checkout.models / "flight_delay" / "worth.py"
    hook.write_text("def value(rows, label, act):\n    return act\n")
    checkout.change("payoff: {tp: 180, fp: -60, fn: 0, tn: 0,", 'payoff: {hook: "worth.py:value",')
    checkout.change("threshold: payoff", "threshold: 0.3")
    checkout.commit()
    hook.write_text("def value(rows, label, act):\n    return act * 2\n")
    assert "~ business.payoff.sha256: " in run("--against", "main")


def test_where_no_plan_can_be_made_it_is_said_why(checkout: Checkout) -> None:
    with pytest.raises(Unavailable, match="Without a ledger, compare with a git ref: ratchet plan --against main"):
        run()
    with pytest.raises(Refused, match=r"nowhere.*Name a branch, tag or commit"):
        run("--against", "nowhere")
    with pytest.raises(Refused, match="Name a branch, tag or commit"):
        run("--against", "--help")
    checkout.change("confidence: 0.95", "confidence: 95")
    with pytest.raises(Refused, match=r"model\.yaml:\d+: gate\.confidence"):
        run("--against", "main")


def test_models_that_git_does_not_have_yet_are_all_new(checkout: Checkout, tmp_path: Path) -> None:
    checkout.git("rm", "-r", "--quiet", "--cached", "include")
    checkout.git("commit", "--quiet", "--allow-empty", "-m", "no models")
    assert "against main: 1 new, 0 changed, 0 gone" in run("--against", "main")
