"""The year lived on the real ledger, intake, admission and claim; only training and Airflow are played."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.cli import living, report
from ratchet.cli.living import Lived, Teller, Unsettled, Year
from ratchet.cli.year import plan_year
from ratchet.domain.holdout import HoldoutPlan
from ratchet.domain.policies import PolicyTotal
from ratchet.ports.bus import INBOUND_TOPICS, InMemoryBus
from ratchet.ports.ledger import ChampionRow, FateChange, UsedDays
from ratchet.records import RunContext
from ratchet.settings import load_settings
from ratchet.workflow.backtesting import Backtest
from ratchet.workflow.claiming import Claims
from ratchet.workflow.deciding import plan
from ratchet.workflow.intake import Intake
from ratchet.workflow.promotion import conclude

ROOT = Path(__file__).parents[3]
MODEL = "flight_delay"


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("year")
    ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
    ledger.migrate()
    ledger.dispose()
    return folder / "ledger.db"


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, _migrated: Path) -> None:
    """Every test has a copy of one migrated ledger in its folder."""
    shutil.copy(_migrated, tmp_path / "ledger.db")


class Machine(InMemoryBus):
    """A bus with the rest of the system behind it: each poll for decisions turns it once.

    ``verdicts`` are given in turn, then ``keep_champion`` for ever. ``lost`` runs by hand end without a verdict.
    """

    def __init__(self, folder: Path, *verdicts: str, deaf: bool = False, lost: int = 0) -> None:
        super().__init__()
        self.ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        shipped = load_spec(ROOT / "include" / "models" / MODEL / "model.yaml")
        quick = shipped.retrain.model_copy(update={"debounce": shipped.retrain.debounce * 0})
        self.spec = shipped.model_copy(update={"retrain": quick})
        settings = load_settings({"RATCHET_HOME": str(folder)})
        self.intake = Intake(self.ledger, settings)
        self.claims = Claims(self.ledger, settings, "c" * 64)
        self.verdicts = list(verdicts)
        self.deaf, self.lost, self.runs = deaf, lost, 0
        self.inbox = InMemoryBus.follow(self, *INBOUND_TOPICS)
        with self.ledger.transaction() as tx:
            tx.publish_spec(MODEL, self.spec.digest, self.spec.model_dump(mode="json"))
            tx.set_clock("replay", datetime(2013, 1, 1, 5, tzinfo=UTC))

    # -- what stands for Kafka, Airflow and Feast

    def follow(self, *topics: str, from_beginning: bool = True) -> Any:
        decisions = super().follow(*topics, from_beginning=from_beginning)
        decisions.poll = lambda timeout_seconds=1.0: self.turn()  # type: ignore[method-assign]
        return decisions

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        self.runs += 1
        run_id = f"manual{self.runs}"
        self._run(RunContext(dag_id, run_id, "manual", "ann", conf))
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        return "success"

    def count_rows(self, dataset: str, start: date, end: date) -> int:
        return 900 * (end - start).days

    # -- the system

    def turn(self) -> list[Any]:
        if not self.deaf:
            self.intake.store(self.inbox.poll(0))
            for model in self.intake.tick():
                self.runs += 1
                self._run(RunContext(f"retrain__{model}", f"asset{self.runs}", "asset_triggered"))
        return []

    def _run(self, run: RunContext) -> None:
        attempt_id = self.claims.claim(MODEL, run)["attempt"]
        if attempt_id is None:
            return
        with self.ledger.transaction() as tx:
            attempt = tx.own_lease(attempt_id)
            if self.lost:
                self.lost -= 1
                tx.update_attempt(attempt_id, state="failed", failure="lost", concluded_at=tx.wall())
                tx.release_lease(attempt_id)
                claimed = tx.events(attempt_id=attempt_id)
                tx.change_fates([FateChange(row.pk, "pending", "lost", count_try=True) for row in claimed])
                return
            planned = plan(tx, self.spec, attempt.as_of)
            assert isinstance(planned, HoldoutPlan)
            decision = self.verdicts.pop(0) if self.verdicts else "keep_champion"
            record = {"estimate": 0.5, "lower": 0.1, "upper": 0.9, "unit": "USD", "reasons": []}
            tx.update_attempt(
                attempt_id,
                state="judged",
                verdict=decision,
                verdict_record=record,
                evidence_digest="e" * 64,
                challenger_version=attempt.epoch,
                judged_at=tx.wall(),
            )
            used = UsedDays("holdout", dict.fromkeys(planned.holdout_days, 900))
            tx.save_used_days(attempt, attempt.epoch, [used])
            judged = tx.attempt(attempt_id)
            assert judged is not None
            if decision == "promote":
                tx.insert_champion(
                    ChampionRow(
                        model=MODEL,
                        seq=attempt.champion_seq + 1,
                        version=attempt.epoch,
                        attempt_id=attempt_id,
                        kind="init" if attempt.champion_seq == 0 else "promotion",
                        as_of=attempt.as_of,
                        actor=None,
                        reason="test",
                        evidence_digest="e" * 64,
                        promoted_at=tx.wall(),
                    )
                )
            conclude(tx, judged, champion_after=attempt.epoch if decision == "promote" else attempt.champion_version)

    def live(self, until: str | None = None) -> list[Lived]:
        teller = Teller(Console(file=io.StringIO()))
        lived = Year(
            ledger=self.ledger,
            bus=self,
            airflow=self,  # type: ignore[arg-type]
            counts=self,
            spec=self.spec,
            teller=teller,
        )
        return list(lived.live(plan_year(until)))

    def document(self) -> dict[str, Any]:
        with self.ledger.transaction() as tx:
            champion = tx.current_champion(MODEL)
            version = champion.version if champion else None
            return report.document(
                model=MODEL,
                events=tx.events(model=MODEL),
                attempts=tx.attempts(model=MODEL),
                version=version,
                alias_version=version,
                backtest=None,
                setup_seconds=1.0,
                year_seconds=2.0,
            )


def test_a_year_ends_with_a_terminal_fate_for_every_event(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote")
    lived = machine.live()
    content = machine.document()
    assert {event["fate"] for event in content["events"]} <= set(report.TERMINAL)
    assert [attempt["trigger"] for attempt in content["attempts"]].count("drift") == 1
    assert {told.act.month for told in lived if told.attempts} == {f"2013-{m:02d}" for m in range(3, 13)}
    with machine.ledger.transaction() as tx:
        assert report.unresolved(tx.events(model=MODEL)) == []


def test_each_act_does_on_the_ledger_what_the_plan_expects(tmp_path: Path) -> None:
    for told in Machine(tmp_path, "promote").live():
        assert bool(told.attempts) == (told.act.expects != "waits"), told


@pytest.mark.parametrize("june", ["promote", "not_enough_evidence"])
def test_a_year_of_undecided_verdicts_goes_from_follow_up_to_follow_up_and_urgent_drift_comes_in_between(
    tmp_path: Path, june: str
) -> None:
    machine = Machine(tmp_path, "promote", "keep_champion", "not_enough_evidence", june, *["not_enough_evidence"] * 12)
    lived = machine.live()
    content = machine.document()
    assert [told.act.month for told in lived for a in told.attempts if a.trigger == "drift"] == ["2013-07"]
    assert {a["trigger"] for a in content["attempts"]} == {"init", "data", "drift", "follow_up"}
    assert {told.act.month for told in lived if told.attempts} == {f"2013-{m:02d}" for m in range(3, 13)}
    assert [event["id"] for event in content["events"] if event["fate"] == "expired"] == []
    with machine.ledger.transaction() as tx:
        assert report.unresolved(tx.events(model=MODEL)) == []


def test_until_a_month_leaves_the_next_half_month_with_a_stated_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote")
    last = machine.live("2013-05")[-1]
    assert not last.attempts
    assert {row.fate for row in last.events} == {"deferred"}
    assert all(row.until is not None for row in last.events)


def test_a_first_champion_that_does_not_earn_it_is_asked_for_again_a_month_later(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "not_enough_evidence", "promote")
    march, april, *_ = machine.live("2013-04")
    assert [attempt.verdict for attempt in march.attempts] == ["not_enough_evidence"]
    assert [(attempt.trigger, attempt.verdict) for attempt in april.attempts] == [("init", "promote")]


def test_a_first_attempt_lost_to_the_machine_is_repeated(tmp_path: Path) -> None:
    march, *_ = Machine(tmp_path, "promote", lost=1).live("2013-03")
    assert sorted(attempt.state for attempt in march.attempts) == ["concluded", "failed"]


def test_events_that_never_reach_the_inbox_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "INBOX_SECONDS", 0.0)
    with pytest.raises(Unsettled, match="flights-2013-01-01-2013-04-01"):
        Machine(tmp_path, deaf=True).live("2013-03")


def test_the_report_holds_what_was_promised_and_is_plain_json(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote", "promote")
    machine.live("2013-04")
    report.write(tmp_path / "demo.json", machine.document())
    content = json.loads((tmp_path / "demo.json").read_text())
    assert set(content) == {"events", "attempts", "champion", "policies", "policy_rows", "seconds"}
    assert set(content["events"][0]) == {"id", "type", "subject", "fate", "reason", "run_id"}
    first, second = content["attempts"]
    assert (first["trigger"], first["champion_before"], first["champion_after"]) == ("init", None, 1)
    assert (second["trigger"], second["champion_before"], second["champion_after"]) == ("data", 1, 2)
    assert content["champion"] == {"model": MODEL, "version": 2, "alias_version": 2}
    assert {event["subject"] for event in content["events"]} == {"flights", "weather", MODEL}


def test_tables_name_the_month_the_event_and_what_waits(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(report.year_table(Machine(tmp_path, "promote").live("2013-05"), "USD"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "accumulating: 13,500 of 20,000 new rows" in text
    assert "+0.50 [+0.10, +0.90]" in text
    assert "none → 1" in text


def test_the_longest_of_the_workers_counts_as_the_time_of_tuning() -> None:
    def took(seconds: int) -> dict[str, datetime]:
        began = datetime(2013, 1, 1, tzinfo=UTC)
        return {"started_at": began, "finished_at": began + timedelta(seconds=seconds)}

    attempts = [{"snapshot": took(5), "tune.0": took(9), "tune.1": took(7)}, {"snapshot": took(4)}]
    assert report.step_seconds(attempts) == {"snapshot": 9, "tune": 9}


def test_a_losing_gate_is_shown_as_losing_and_withholding_has_its_line() -> None:
    def total(usd: float, lower: float, upper: float) -> PolicyTotal:
        return PolicyTotal(total_usd=usd, minus_gate=usd - 100.0, lower=lower, upper=upper)

    policies = dict.fromkeys(report.NAMES, total(0.0, -150.0, -50.0))
    policies |= {"gate": total(100.0, 0.0, 0.0), "always": total(900.0, 500.0, 1100.0)}
    policies |= {"never": total(150.0, -20.0, 120.0)}
    moment = datetime(2013, 4, 1, tzinfo=UTC)
    found = Backtest(policies, total(70.0, -60.0, 0.0), 10, 2, moment, moment, "USD")
    console = Console(file=io.StringIO(), width=200)
    console.print(report.policy_table(found))
    lines = {line.split("│")[1].strip(): line for line in console.file.getvalue().splitlines() if "│" in line}  # type: ignore[attr-defined]
    assert "the gate loses" in lines["always promoting"]
    assert "the gate earned less; not certain" in lines["never retraining"]
    assert "the gate wins" in lines["acting never"]
    assert "-30 USD [-60, +0]" in report.withholding_line(found)
