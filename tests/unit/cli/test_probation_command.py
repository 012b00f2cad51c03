"""What ``ratchet probation`` and ``ratchet validate`` say of watches, on a ledger of their own."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, probation
from ratchet.cli.probation import plan_lines, validate_lines
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import ChampionRow, ProbationDay, ProbationRow
from ratchet.settings import load_settings

MODEL = "flight_delay"
NOW = datetime(2013, 5, 1, 4, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]
RECORD = {
    "n_days": 9,
    "estimate": -0.21,
    "lower": -0.9,
    "upper": 0.5,
    "total": -1500.0,
    "worse": 2.5,
    "better": 0.2,
    "reverts_below": -0.71,
    "confirms_above": 0.71,
    "days_needed": 40,
}
PLAN = {"n_days": 28, "detectable_loss": 0.62, "false_revert_rate": 0.013}


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    made = Ratchet(resolver=None, settings=load_settings({"RATCHET_HOME": str(tmp_path)}))  # type: ignore[arg-type]
    made.__dict__["ledger"] = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    made.ledger.migrate()
    spec = watched_spec()
    with made.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
    monkeypatch.setattr(probation, "wire", lambda: made)
    return made


def watched_spec() -> ModelSpec:
    plain = load_spec(ROOT / "include" / "models" / MODEL).model_dump(mode="json")
    return ModelSpec.model_validate(plain | {"probation": {"for": "28d"}})


def watch(ratchet: Ratchet) -> None:
    with ratchet.ledger.transaction() as tx:
        for seq in (1, 2):
            tx.insert_champion(ChampionRow(MODEL, seq, seq, None, "promotion", NOW, None, "r", None, NOW))
        tx.insert_probation(
            ProbationRow(
                model=MODEL,
                seq=2,
                version=2,
                predecessor_seq=1,
                predecessor_version=1,
                spec_digest=watched_spec().digest,
                first_day=date(2013, 5, 2),
                last_day=date(2013, 5, 29),
                since=NOW,
                until=NOW + timedelta(days=31),
                state="watching",
                reason="9 days so far show neither",
                plan=PLAN,
                record=RECORD,
                opened_at=tx.wall(),
            )
        )
        tx.save_probation_days(MODEL, 2, [ProbationDay(date(2013, 5, 2), 870, -120.5)])


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["probation", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_watch_shows_its_days_its_interval_and_what_it_would_take(ratchet: Ratchet) -> None:
    watch(ratchet)
    said = run(MODEL)
    for expected in (
        "-0.21 [-0.9, +0.5]",
        "2013-05-02",
        "-120.5",
        "below -0.71 USD per decision would be worse",
        "would decide after 40 days",
        "a loss of 0.62 USD per decision is detected with 80 % power",
        "in 1.3% of watches",
    ):
        assert expected in said


def test_programs_get_the_whole_record_and_the_scored_days(ratchet: Ratchet) -> None:
    watch(ratchet)
    (row,) = json.loads(run(MODEL, "--json"))
    assert row["record"] == RECORD
    assert row["scored"] == [{"day": "2013-05-02", "rows": 870, "total": -120.5}]


def test_without_a_watch_there_is_nothing_yet(ratchet: Ratchet) -> None:
    assert "nothing yet" in run()


def test_validate_says_what_it_cannot_say_yet(ratchet: Ratchet) -> None:
    (line,) = validate_lines(ratchet, watched_spec())
    assert "cannot be said yet: no verdict tells yet how days vary" in line
    ratchet.__dict__["ledger"] = SqlLedger("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    (line,) = validate_lines(ratchet, watched_spec())
    assert "the ledger cannot be asked" in line


def test_validate_says_nothing_of_a_spec_without_probation(ratchet: Ratchet) -> None:
    assert list(validate_lines(ratchet, load_spec(ROOT / "include" / "models" / MODEL))) == []


def test_a_watch_that_can_detect_nothing_says_so() -> None:
    (line,) = plan_lines({"n_days": 28, "detectable_loss": None, "false_revert_rate": None}, "USD")
    assert "no loss is detected" in line
