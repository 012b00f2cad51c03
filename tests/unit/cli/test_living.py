"""The year lived on the real ledger, intake, admission and claim; training, Airflow and what is seen are played."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.adapters.storage import ObjectStore
from ratchet.cli import living, report
from ratchet.cli.living import Lived, Unsettled, Year
from ratchet.cli.progress import Teller
from ratchet.cli.year import plan_year
from ratchet.domain.holdout import HoldoutPlan
from ratchet.domain.policies import PolicyTotal
from ratchet.domain.spec import ModelSpec
from ratchet.ports.bus import INBOUND_TOPICS, InMemoryBus
from ratchet.ports.ledger import ChampionRow, FateChange, MonitoredRow, UsedDays
from ratchet.ports.registry import InMemoryRegistry
from ratchet.records import RunContext
from ratchet.settings import load_settings
from ratchet.workflow.backtesting import Backtest
from ratchet.workflow.claiming import Claims
from ratchet.workflow.deciding import plan
from ratchet.workflow.intake import Intake
from ratchet.workflow.monitoring import BrokenData, Monitors, end_of, key_of
from ratchet.workflow.promotion import conclude
from ratchet.workflow.telling import Relay

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


class Seeing(Monitors):
    """The monitor's verb; what it sees of the rows is said beforehand: the severity of the drift by the window's end.

    The window that ends on ``broken`` holds broken data.
    """

    def __init__(self, ledger: SqlLedger, relay: Relay, store: ObjectStore, drift: dict[date, float]) -> None:
        unasked: Any = None
        super().__init__(ledger, relay, features=unasked, artifacts=unasked, store=lambda: store)
        self.drift = drift
        self.broken: date | None = None

    def _look(self, spec: ModelSpec, champion: ChampionRow, end: date) -> dict[str, Any]:
        assert spec.monitor is not None
        start, severity = end - spec.monitor.window, self.drift.get(end)
        window = {"start": start.isoformat(), "end": end.isoformat(), "start_at": end_of(spec, start).isoformat()}
        report = {"model": MODEL, "version": champion.version, "window": window}
        if end == self.broken:
            said = ["temperature_f: the feature is gone"]
            return report | {"quality": {"outcome": "broken", "said": said}, "cause": "the data are broken"}
        found = {"outcome": "drifted", "severity": severity, "drifted": list("abcde"), "said": ["a moved"]}
        return report | {
            "quality": {"outcome": "held", "said": []},
            "features": found if severity else {"outcome": "cleared", "severity": 0.0, "drifted": [], "said": ["no"]},
            "predictions": {"outcome": "unjudged", "said": ["too few weeks"]},
            "payoff": {"outcome": "held", "fallen": {}, "realised": {"estimate": 2.5}, "said": ["+2.5"]},
            "cause": "features drifted" if severity else "nothing moved",
        }


class Machine(InMemoryBus):
    """A bus with the rest of the system behind it: each poll for decisions turns it once.

    ``verdicts`` are given in turn, then ``keep_champion`` for ever. ``lost`` runs by hand end without a verdict.
    ``drift`` is what the monitor finds, by the day before which its window ends; a ``blind`` one looks at nothing.
    """

    def __init__(
        self,
        folder: Path,
        *verdicts: str,
        deaf: bool = False,
        lost: int = 0,
        drift: dict[date, float] | None = None,
        blind: bool = False,
    ) -> None:
        super().__init__()
        self.ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        shipped = load_spec(ROOT / "include" / "models" / MODEL / "model.yaml")
        quick = shipped.retrain.model_copy(update={"debounce": shipped.retrain.debounce * 0})
        self.spec = shipped.model_copy(update={"retrain": quick})
        settings = load_settings({"RATCHET_HOME": str(folder)})
        self.intake = Intake(self.ledger, settings)
        self.claims = Claims(self.ledger, settings, "c" * 64)
        self.verdicts = list(verdicts)
        self.deaf, self.lost, self.blind, self.runs = deaf, lost, blind, 0
        self.store = ObjectStore(str(folder / "storage"))
        relay = Relay(self.ledger, lambda: self, lambda: InMemoryRegistry(folder / "registry"))
        self.monitor = Seeing(self.ledger, relay, self.store, drift or {})
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
            if not self.blind:
                with suppress(BrokenData):
                    self.monitor.monitor(MODEL)
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
            report=self.report,
        )
        return list(lived.live(plan_year(until)))

    def report(self, window: MonitoredRow) -> dict[str, Any]:
        key = key_of(window.model, window.window_end, str(window.report_sha256))
        return dict(json.loads(self.store.get_bytes(key)))

    def document(self, lived: list[Lived]) -> dict[str, Any]:
        with self.ledger.transaction() as tx:
            champion = tx.current_champion(MODEL)
            version = champion.version if champion else None
            return report.document(
                model=MODEL,
                events=tx.events(model=MODEL),
                attempts=tx.attempts(model=MODEL),
                looks=[look for told in lived for look in told.looks],
                version=version,
                alias_version=version,
                backtest=None,
                setup_seconds=1.0,
                year_seconds=2.0,
            )


def test_a_year_ends_with_a_terminal_fate_for_every_event(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote")
    lived = machine.live()
    content = machine.document(lived)
    assert {event["fate"] for event in content["events"]} <= set(report.TERMINAL)
    assert {told.act.month for told in lived if told.attempts} == {f"2013-{m:02d}" for m in range(3, 13)}
    with machine.ledger.transaction() as tx:
        assert report.unresolved(tx.events(model=MODEL)) == []


def test_each_act_does_on_the_ledger_what_the_plan_expects(tmp_path: Path) -> None:
    for told in Machine(tmp_path, "promote").live():
        assert bool(told.attempts) == (told.act.expects != "waits"), told


def test_the_monitor_has_looked_at_every_window_that_data_completed_once_there_is_a_champion(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "not_enough_evidence", "promote")
    lived = machine.live()
    ends = [[look.report["window"]["end"] for look in told.looks] for told in lived]
    assert ends == [[], *([event.end.isoformat() for event in told.act.events] for told in lived[1:])]
    assert [window["window_end"] for window in machine.document(lived)["monitor"]] == [end for (end,) in ends[1:]]


def test_drift_that_is_confirmed_while_data_accumulate_starts_an_attempt(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote", drift={date(2013, 7, 1): 0.5, date(2013, 7, 16): 0.6})
    july = next(told for told in machine.live() if told.act.month == "2013-07")
    (attempt,) = july.attempts
    assert (july.act.what, attempt.trigger, report.reasons_of(july, attempt)) == ("the first half", "drift", "drift")


def test_drift_that_is_confirmed_as_data_start_an_attempt_is_taken_along_and_shown(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote", drift={date(2013, 7, 16): 0.44, date(2013, 8, 1): 0.4})
    first, second = (told for told in machine.live() if told.act.month == "2013-07")
    assert not first.attempts
    assert "unconfirmed: 1 of 2 confirmations" in report.waits(first)
    (attempt,) = second.attempts
    assert report.reasons_of(second, attempt) == "data, drift"
    assert [row.fate for row in second.claimed[attempt.id] if row.type.startswith("ratchet.drift")] == ["merged"] * 2


def test_drift_too_mild_to_count_is_put_aside_and_told(tmp_path: Path) -> None:
    first, *_ = (
        told
        for told in Machine(tmp_path, "promote", drift={date(2013, 5, 16): 0.1}).live("2013-05")
        if told.act.month == "2013-05"
    )
    assert "suppressed, min_severity: 0.1 of 0.3 needed" in report.waits(first)
    assert report.waits(first, aside=False) == "deferred, accumulating: 13,500 of 20,000 new rows of flights"
    assert report.told_of(first.looks[0], "USD") == (
        "feature_drift 0.10 (a, b, c and 2 more); prediction_drift unjudged; payoff held, +2.50 USD per decision"
    )


def test_broken_data_are_told_and_the_year_goes_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote")
    machine.monitor.broken = date(2013, 5, 16)
    first, second = (told for told in machine.live("2013-05") if told.act.month == "2013-05")
    assert [look.window.state for look in first.looks] == ["broken"]
    assert report.told_of(first.looks[0], "USD") == "temperature_f: the feature is gone"
    assert [look.window.state for look in second.looks] == ["done"]


def test_a_window_that_nobody_looks_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(living, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(living, "POLL_SECONDS", 0.01)
    with pytest.raises(Unsettled, match=r"after \d+ s: the monitor's window up to 2013-04-01"):
        Machine(tmp_path, "promote", blind=True).live("2013-03")


def test_a_year_of_undecided_verdicts_goes_from_follow_up_to_follow_up(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote", *["not_enough_evidence"] * 16)
    lived = machine.live()
    content = machine.document(lived)
    assert {a["trigger"] for a in content["attempts"]} == {"init", "data", "follow_up"}
    assert [event["id"] for event in content["events"] if event["fate"] == "expired"] == []
    with machine.ledger.transaction() as tx:
        assert report.unresolved(tx.events(model=MODEL)) == []


def test_until_a_month_leaves_the_next_half_month_with_a_stated_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "promote")
    last = machine.live("2013-05")[-1]
    assert not last.attempts
    data = [row for row in last.events if row.type == "ratchet.data.arrived.v1"]
    assert {row.fate for row in data} == {"deferred"}
    assert all(row.until is not None for row in data)


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
    lived = machine.live("2013-04")
    report.write(tmp_path / "demo.json", machine.document(lived))
    content = json.loads((tmp_path / "demo.json").read_text())
    assert set(content) == {"events", "attempts", "monitor", "champion", "policies", "policy_rows", "seconds"}
    assert set(content["events"][0]) == {"id", "type", "subject", "fate", "reason", "run_id"}
    first, second = content["attempts"]
    assert (first["trigger"], first["champion_before"], first["champion_after"]) == ("init", None, 1)
    assert (second["trigger"], second["champion_before"], second["champion_after"]) == ("data", 1, 2)
    assert content["champion"] == {"model": MODEL, "version": 2, "alias_version": 2}
    assert {event["subject"] for event in content["events"]} == {"flights", "weather", MODEL}


def test_tables_name_the_month_the_event_and_what_waits(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    drift = {date(2013, 5, 16): 0.44}
    console.print(report.year_table(Machine(tmp_path, "promote", drift=drift).live("2013-05"), "USD"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "accumulating: 13,500 of 20,000 new rows" in text
    assert "+0.50 [+0.10, +0.90]" in text
    assert "none → 1" in text
    assert "drift 0.44, a" in text


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
