"""``kill -9`` in the worst places: each event still reaches its fate once, and the alias follows the ledger.

Every test first sees the process that it kills waiting at the failpoint, by its id.
"""

from __future__ import annotations

import contextlib
import os
import signal

import psutil
import pytest
from running_system import PROMOTE, RETRAIN, System

from ratchet.ports.bus import RETRAIN_REQUESTS
from ratchet.ports.ledger import AttemptRow
from ratchet.stack import api

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]


def test_an_event_survives_the_triggerer_that_stored_it_and_rang_nobody(system: System) -> None:
    failpoint, group = "committed/no offset", system.ratchet.settings.group_id
    system.fresh_days()
    known = system.records_in(RETRAIN_REQUESTS)
    triggerer = api.component_pid("triggerer")
    system.arm(failpoint)
    event_id = system.request("a request whose intake dies")

    (waiting,) = system.arrival_at(failpoint)
    assert triggerer in {parent.pid for parent in psutil.Process(waiting.pid).parents()} | {waiting.pid}
    assert system.event(event_id) is not None
    assert system.ratchet.bus.lag(group)[RETRAIN_REQUESTS] == 1
    waiting.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(triggerer, signal.SIGKILL)

    attempt = system.ended(system.attempt_of(event_id=event_id))
    assert api.component_pid("triggerer") != triggerer
    assert_answered_once(system, event_id, attempt)
    system.until("the offset to be committed", lambda: not system.ratchet.bus.lag(group)[RETRAIN_REQUESTS])
    assert system.records_in(RETRAIN_REQUESTS) == known + 1


def test_an_attempt_survives_a_tuning_worker(system: System) -> None:
    failpoint = "tuning"
    system.fresh_days()
    system.arm(failpoint, 3)
    event_id = system.request("a request whose tuning dies")
    victim, colleague = system.arrival_at(failpoint, 2)
    first = system.attempt_of(event_id=event_id)
    assert victim.pid in pids_of(system, "tune", RETRAIN, first.dag_run_id)
    assert victim.alive
    victim.kill()
    colleague.let_pass()

    (again,) = system.arrival_at(failpoint)
    assert again.pid not in {victim.pid, colleague.pid}

    def settled() -> bool:
        for waiting in system.at(failpoint):
            waiting.let_pass()
        return system.unsettled() == []

    system.until("a terminal fate", settled)
    row = system.event(event_id)
    assert row is not None
    assert_answered_once(system, event_id, system.attempt(str(row.attempt_id)))


def test_the_alias_follows_the_ledger_although_the_promoting_process_died_between_them(system: System) -> None:
    failpoint = "compare-and-set/no alias"
    system.fresh_days()
    system.arm(failpoint)
    before = system.champion()
    event_id = system.request("a request whose promotion dies")
    (waiting,) = system.arrival_at(failpoint)
    assert waiting.pid in pids_of(system, "promote", PROMOTE)
    assert system.champion().seq == before.seq + 1
    assert system.alias() == before.version
    assert waiting.alive
    waiting.kill()

    successors: set[int] = set()

    def followed() -> bool:
        for relay in system.at(failpoint):
            successors.add(relay.pid)
            relay.let_pass()
        return system.alias_follows()

    system.until("the alias to follow the ledger", followed)
    assert waiting.pid not in successors
    attempt = system.attempt(str(system.champion().attempt_id))
    assert system.champion().seq == before.seq + 1
    assert_answered_once(system, event_id, attempt)
    told = system.until("the promotion on ml.decisions", lambda: system.decisions_on(attempt))
    assert {event["type"] for event in told} == {"ratchet.model.promoted.v1"}
    assert len({event["id"] for event in told}) == 1


def test_the_decision_appears_although_the_promoting_process_died_before_it_published(system: System) -> None:
    failpoint = "alias/not published"
    system.fresh_days()
    system.arm(failpoint)
    before = system.champion()
    event_id = system.request("a request whose announcement dies")
    (waiting,) = system.arrival_at(failpoint)
    assert waiting.pid in pids_of(system, "promote", PROMOTE)
    assert system.champion().seq == before.seq + 1
    assert system.alias_follows(), "the alias was set before the process came here"
    attempt = system.attempt(str(system.champion().attempt_id))
    waiting.kill()

    told = system.until("the promotion on ml.decisions", lambda: system.decisions_on(attempt))
    assert {event["type"] for event in told} == {"ratchet.model.promoted.v1"}
    assert len({event["id"] for event in told}) == 1
    assert system.alias_follows()
    assert system.champion().seq == before.seq + 1
    assert_answered_once(system, event_id, attempt)


def pids_of(system: System, task: str, dag_id: str, run_id: str = "~") -> set[int]:
    """The processes that execute the task now, by what Airflow knows."""
    return {found["pid"] for found in system.tasks(dag_id, run_id, state="running") if found["task_id"] == task}


def assert_answered_once(system: System, event_id: str, attempt: AttemptRow) -> None:
    """One verdict, one terminal fate, and nobody left to wait."""
    row = system.event(event_id)
    assert row is not None
    assert (row.fate, row.attempt_id) == ("started", attempt.id)
    assert system.terminal_fates(row) == ["started"]
    assert (attempt.state, attempt.verdict) == ("concluded", "promote")
    answers = [each.id for each in system.attempts() if each.verdict and each.trigger_event_pk == row.pk]
    assert answers == [attempt.id]
    assert system.unsettled() == []
