"""What takes minutes by its nature: a worker that sleeps through its lease, two schedulers, a folder that is removed.

`make test-long` runs these; `make test` leaves them out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
from running_system import MODEL, RETRAIN, System
from upsets import HERE, Upset, ask, claimed, crown, request

from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.settings import environment
from ratchet.stack.config import load_config, stack_environment
from ratchet.workflow.leases import ENDED_STATES

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]

TWO_MINUTES = timedelta(minutes=2)


def champions(system: System) -> list[ChampionRow]:
    with system.ratchet.ledger.transaction() as tx:
        return tx.champions(MODEL)


def steps(system: System, attempt: AttemptRow) -> dict[str, object]:
    with system.ratchet.ledger.transaction() as tx:
        return dict(tx.steps(attempt.id))


def test_a_worker_that_was_presumed_dead_wakes_and_its_next_write_is_refused(system: System) -> None:
    failpoint = "tuning"
    system.fresh_days()
    system.arm(failpoint)
    run_id = system.airflow().trigger(RETRAIN, {"reason": "a worker that sleeps", "trials": 1})
    (sleeper,) = system.arrival_at(failpoint)
    first = system.attempt_of(run_id=run_id)
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        system.until("the sleeper given up", lambda: system.attempt(first.id).state == "abandoned")
        before = steps(system, first)

        def succeeded() -> AttemptRow | None:
            for waiting in system.at(failpoint):
                if waiting.pid != sleeper.pid:
                    waiting.let_pass()
            row = system.event(run_id)
            return system.attempt(str(row.attempt_id)) if row and row.fate == "started" else None

        second = system.until("another attempt to answer the event", succeeded)
        assert second.id != first.id
        champion = system.champion()
    finally:
        sleeper.let_pass()
        os.kill(sleeper.pid, signal.SIGCONT)

    assert system.run_ends(RETRAIN, run_id) == "failed"
    assert steps(system, first) == before
    assert "tune.0" not in before
    assert system.attempt(first.id).state == "abandoned"
    assert system.champion() == champion
    row = system.event(run_id)
    assert row is not None
    assert system.terminal_fates(row) == ["started"]


@contextlib.contextmanager
def second_scheduler(system: System) -> Iterator[None]:
    """Another scheduler with an executor of its own, on the same databases."""

    def running() -> int:
        query = {"job_type": "SchedulerJob", "job_state": "running", "is_alive": "true"}
        return int(ask(system, "GET", "/jobs", params=query)["total_entries"])

    settings = system.ratchet.settings
    log = settings.home / "logs" / "second-scheduler.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"],
            env={**environment(), **stack_environment(load_config(settings, environment()))},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        system.until("two schedulers alive", lambda: running() == 2, every=2.0)
        yield
        assert running() == 2
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_two_schedulers_make_one_attempt_per_event(system: System) -> None:
    with second_scheduler(system):
        for cycle in range(3):
            system.fresh_days()
            before = len(system.attempts())
            event_id = system.request(f"cycle {cycle} of two schedulers")
            attempt = system.ended(system.attempt_of(event_id=event_id))
            assert (attempt.state, attempt.verdict) == ("concluded", "promote")
            row = system.event(event_id)
            assert row is not None
            assert system.terminal_fates(row) == ["started"]
            assert len(system.attempts()) == before + 1
        assert system.unsettled() == []


def test_a_removed_folder_frees_the_model_within_two_minutes_and_its_events_wait_for_the_folder(
    system: System,
) -> None:
    model = "task_failed"
    system.fresh_days()
    crown(system, model)
    system.arm(HERE)
    asked = request(system, model)
    first = claimed(asked)
    system.arrival_at(HERE)
    folder = system.ratchet.settings.models_dir / model
    aside = folder.with_name(f".{model}")
    with system.ratchet.ledger.transaction() as tx:
        case = Upset(system, model, asked.event_id, first, tx.wall())
    folder.rename(aside)
    try:

        def given_up() -> AttemptRow | None:
            now = case.attempt(first.id)
            return now if now and now.state in ENDED_STATES else None

        ended = case.until("its attempt given up", given_up)
        assert (ended.state, ended.verdict) == ("abandoned", None)
        assert ended.concluded_at - case.at <= TWO_MINUTES
    finally:
        aside.rename(folder)
    assert case.answered().id != first.id


def test_a_champion_that_moved_outside_airflow_is_announced_on_its_asset_by_the_sweep_once(system: System) -> None:
    uri = f"ratchet://{MODEL}/champion"

    def told() -> list[int]:
        events = ask(system, "GET", "/assets/events", params={"source_dag_id": "ratchet__sweep", "limit": 1000})
        return [event["id"] for event in events["asset_events"] if event["uri"] == uri]

    if len(champions(system)) < 2:
        system.fresh_days()
        system.ended(system.attempt_of(event_id=system.request("a champion to roll back from")))
    before = told()
    system.command("rollback", MODEL, "--reason", "the sweep has to tell it")
    after = system.until("the asset updated", lambda: found if len(found := told()) > len(before) else None, every=2.0)
    assert len(after) == len(before) + 1
    with system.ratchet.ledger.transaction() as tx:
        assert tx.take_announcements(model=MODEL) == []
