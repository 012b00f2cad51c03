"""Models whose run something was done to, and what becomes of the event that it had claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from running_system import MODEL, System

from ratchet.domain.events import RetrainRequested
from ratchet.ports.ledger import AttemptRow, ChampionRow, EventRow

HERE = "claimed/no snapshot"


@dataclass(frozen=True)
class Upset:
    """A model whose run something was done to: the event it had claimed, by which attempt, and when it was done."""

    system: System
    model: str
    event_id: str
    first: AttemptRow | None
    at: datetime

    def event(self) -> EventRow | None:
        with self.system.ratchet.ledger.transaction() as tx:
            rows = tx.events(model=self.model)
        return next((row for row in rows if row.event_id == self.event_id), None)

    def attempts(self) -> list[AttemptRow]:
        with self.system.ratchet.ledger.transaction() as tx:
            return tx.attempts(model=self.model)

    def attempt(self, attempt_id: str | None) -> AttemptRow | None:
        return next((each for each in self.attempts() if each.id == attempt_id), None)

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """Await it."""
        return self.system.until(f"{self.model}: {what}", look)

    def answered(self) -> AttemptRow:
        """The attempt that answered the event, as soon as it has concluded."""

        def look() -> AttemptRow | None:
            row = self.event()
            return self.attempt(row.attempt_id) if row and row.fate in {"started", "merged"} else None

        found: AttemptRow = self.until("its event answered", look)
        return found

    def assert_answered_once(self) -> None:
        row = self.event()
        assert row is not None
        assert (row.fate, self.system.terminal_fates(row)) == ("started", ["started"])
        with_verdict = [each.id for each in self.attempts() if each.verdict]
        assert with_verdict == [row.attempt_id]
        with self.system.ratchet.ledger.transaction() as tx:
            assert [each.attempt_id for each in tx.champions(self.model)] == [None, row.attempt_id]


def ask(system: System, method: str, path: str, **options: Any) -> Any:
    """Airflow's REST API as an administrator."""
    answer = system.airflow().client.request(method, f"/api/v2{path}", **options)
    assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


def path_of(attempt: AttemptRow) -> str:
    return f"/dags/{attempt.dag_id}/dagRuns/{quote(attempt.dag_run_id, safe='')}"


def crown(system: System, model: str) -> None:
    """Give the model the champion of ``flight_delay``, so that an event alone starts it."""
    with system.ratchet.ledger.transaction() as tx:
        if tx.current_champion(model) is not None:
            return
        now = tx.clock()[1]
    artifact = system.ratchet.registry.download(MODEL, system.champion().version)
    version = system.ratchet.registry.register(f"{model}.0", model, artifact, metrics={}, params={}, tags={})
    with system.ratchet.ledger.transaction() as tx:
        tx.insert_champion(ChampionRow(model, 1, version, None, "init", now, None, "for the tests", None, tx.wall()))
        tx.mark([model])
    system.ratchet.registry.set_alias(model, "champion", version)


def request(system: System, model: str) -> Upset:
    event_id = system.publish(RetrainRequested(reason="the lifecycle of a run", actor="a test"), model)
    with system.ratchet.ledger.transaction() as tx:
        return Upset(system, model, event_id, None, tx.wall())


def claimed(asked: Upset) -> AttemptRow:
    """The attempt that has claimed the event; nobody is let past a failpoint meanwhile."""

    def look() -> AttemptRow | None:
        row = asked.event()
        return asked.attempt(row.attempt_id) if row and row.fate == "claimed" else None

    return asked.system.until(f"{asked.model} to claim its event", look)
