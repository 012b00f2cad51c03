"""What people do to runs and DAGs in Airflow: the model and its events are free within two minutes, and start again.

One model per deed, all at once, so that they share the sweep's minute: see ``upset``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from running_system import FirstChampion, System
from small_model import BESIDE, write
from upsets import HERE, Upset, ask, claimed, crown, path_of, request

from ratchet.adapters.ledger import schema
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow.leases import ENDED_STATES

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

TWO_MINUTES = timedelta(minutes=2)
NEWCOMER = "newcomer"
FREEING = tuple(name for name in BESIDE if name not in {"task_cleared", "paused"})


def clear(system: System, attempt: AttemptRow, task: str) -> None:
    body = {"dry_run": False, "only_failed": False, "task_ids": [task], "dag_run_id": attempt.dag_run_id}
    ask(system, "POST", f"/dags/{attempt.dag_id}/clearTaskInstances", json=body)


def delete_run(system: System, attempt: AttemptRow) -> None:
    """Airflow deletes no running run: it is marked failed first."""
    ask(system, "PATCH", path_of(attempt), json={"state": "failed"})
    ask(system, "DELETE", path_of(attempt))


DEEDS: dict[str, Callable[[System, AttemptRow], object]] = {
    # in this order: a DAG whose tasks are running cannot be deleted, and the deeds below free slots for others
    "dag_deleted": lambda s, a: ask(s, "DELETE", f"/dags/{a.dag_id}"),
    "task_failed": lambda s, a: ask(s, "PATCH", path_of(a) + "/taskInstances/snapshot", json={"new_state": "failed"}),
    "run_succeeded": lambda s, a: ask(s, "PATCH", path_of(a), json={"state": "success"}),
    "run_deleted": delete_run,
    "run_failed": lambda s, a: ask(s, "PATCH", path_of(a), json={"state": "failed"}),
    "task_cleared": lambda s, a: clear(s, a, "snapshot"),
}


@pytest.fixture(scope="module")
def upset(running: System, first_champion: FirstChampion | None) -> dict[str, Upset]:
    """Each model's first attempt is at its snapshot, waiting for a slot or at work; then all deeds are done at once."""
    del first_champion
    system = running
    system.rest()
    system.fresh_days()
    for model in BESIDE:
        crown(system, model)
    system.arm(HERE, 2)
    asked = {model: request(system, model) for model in ("run_failed", "task_cleared")}
    system.arrival_at(HERE, 2)
    asked |= {model: request(system, model) for model in DEEDS if model not in asked}
    firsts = {model: claimed(asked[model]) for model in DEEDS}

    found = {"paused": paused(system), NEWCOMER: newcomer(system)}
    for model, do in DEEDS.items():
        with system.ratchet.ledger.transaction() as tx:
            at = tx.wall()
        do(system, firsts[model])
        found[model] = Upset(system, model, asked[model].event_id, firsts[model], at)
    return found


def paused(system: System) -> Upset:
    """An event of a model whose DAG is paused; its bell rang in vain so often that the next is due in 15 minutes."""
    ask(system, "PATCH", "/dags/retrain__paused", json={"is_paused": True})
    asked = request(system, "paused")
    mine = schema.doorbell.c.model == asked.model

    def is_due() -> bool:
        with system.ratchet.ledger.engine.connect() as db:
            return db.execute(sa.select(schema.doorbell.c.due_at).where(mine)).scalar_one() is not None

    system.until("the paused model to be due", is_due)
    with system.ratchet.ledger.engine.begin() as db:
        db.execute(sa.update(schema.doorbell).where(mine).values(rung_at=sa.func.now(), rings=6))
    return asked


def newcomer(system: System) -> Upset:
    """An event of a model that nobody knows yet; then its folder comes, and is deployed."""
    asked = request(system, NEWCOMER)

    def held() -> int:
        query = sa.select(sa.func.count()).select_from(schema.record).where(schema.record.c.status == "held")
        with system.ratchet.ledger.engine.connect() as db:
            return int(db.execute(query).scalar_one())

    system.until("the event of an unknown model to be held", held, every=0.1)
    write(system.ratchet.settings.models_dir, NEWCOMER)
    assert NEWCOMER in system.ratchet.deploy()
    return asked


@pytest.mark.parametrize("deed", FREEING)
def test_the_model_and_its_events_are_free_within_two_minutes_of(upset: dict[str, Upset], deed: str) -> None:
    case = upset[deed]
    assert case.first is not None

    def look() -> AttemptRow | None:
        now = case.attempt(case.first.id if case.first else None)
        return now if now and now.state in ENDED_STATES else None

    ended = case.until("its attempt given up", look)
    assert ended.verdict is None
    assert ended.concluded_at - case.at <= TWO_MINUTES
    row = case.event()
    assert row is not None
    assert row.attempt_id != case.first.id


def test_a_cleared_task_of_a_live_attempt_resumes_it_within_two_minutes(upset: dict[str, Upset]) -> None:
    case = upset["task_cleared"]
    attempt = case.answered()
    assert case.first is not None
    assert attempt.id == case.first.id
    with case.system.ratchet.ledger.transaction() as tx:
        resumed_at = tx.steps(attempt.id)["snapshot"]["started_at"]
    assert timedelta(0) < resumed_at - case.at <= TWO_MINUTES
    case.assert_answered_once()


@pytest.mark.parametrize("deed", FREEING)
def test_what_was_freed_starts_again_and_is_answered_once_after(upset: dict[str, Upset], deed: str) -> None:
    """A deleted DAG is back by then, and its bell rings; marking success has promoted nothing."""
    case = upset[deed]
    attempt = case.answered()
    assert case.first is not None
    assert attempt.id != case.first.id
    case.assert_answered_once()


def test_an_event_that_came_before_its_model_starts_it_as_soon_as_it_has_a_champion(upset: dict[str, Upset]) -> None:
    case = upset[NEWCOMER]
    waiting = case.until("its event to wait", lambda: row if (row := case.event()) and row.fate == "deferred" else None)
    assert "no_champion" in waiting.reason
    crown(case.system, NEWCOMER)
    case.answered()
    case.assert_answered_once()


def test_a_pause_loses_nothing_and_bells_that_rang_meanwhile_do_not_delay_the_start_after_it(
    upset: dict[str, Upset],
) -> None:
    case = upset["paused"]
    waiting = case.event()
    assert waiting is not None
    assert (waiting.fate, case.attempts()) == ("pending", [])
    rings = sa.select(schema.doorbell.c.rings).where(schema.doorbell.c.model == case.model)

    def forgotten() -> bool:
        with case.system.ratchet.ledger.engine.connect() as db:
            return db.execute(rings).scalar_one() == 0

    case.until("its bells forgotten by the sweep", forgotten)
    ask(case.system, "PATCH", f"/dags/retrain__{case.model}", json={"is_paused": False})
    case.answered()
    case.assert_answered_once()


def test_a_cleared_task_of_a_concluded_attempt_fails_with_the_remedy(upset: dict[str, Upset]) -> None:
    case = upset["task_cleared"]
    attempt, system = case.answered(), case.system
    case.until("its run ended", lambda: ask(system, "GET", path_of(attempt))["state"] == "success")
    clear(system, attempt, "judge")

    def failed() -> bool:
        return bool(ask(system, "GET", path_of(attempt) + "/taskInstances/judge")["state"] == "failed")

    case.until("the cleared task failed", failed)
    number = ask(system, "GET", path_of(attempt) + "/taskInstances/judge")["try_number"]
    log = ask(system, "GET", f"{path_of(attempt)}/taskInstances/judge/logs/{number}", params={"full_content": True})
    assert "cannot be resumed. Start a new run instead." in str(log)
    assert case.attempt(attempt.id) == attempt
    case.assert_answered_once()


def test_a_backfill_and_two_runs_at_once_make_one_attempt_per_model_and_the_others_say_why_they_do_nothing(
    upset: dict[str, Upset], system: System
) -> None:
    for case in upset.values():
        case.answered()
    system.fresh_days()
    backfilled, twin = "paused", "run_deleted"
    known = {model: len(upset[model].attempts()) for model in (backfilled, twin)}
    dag_id = f"retrain__{backfilled}"
    body = {"dag_id": dag_id, "from_date": "2013-03-03T00:00:00Z", "to_date": "2013-03-20T00:00:00Z"}
    ask(system, "POST", "/backfills", json=body | {"dag_run_conf": {"reason": "a backfill"}, "max_active_runs": 3})
    twins = [system.airflow().trigger(f"retrain__{twin}", {"reason": "two at once"}) for _ in range(2)]
    found = ask(system, "GET", f"/dags/{dag_id}/dagRuns", params={"run_type": "backfill"})["dag_runs"]
    backfills = [run["dag_run_id"] for run in found]
    assert len(backfills) > 1

    for model, runs in ((twin, twins), (backfilled, backfills)):
        assert {system.run_ends(f"retrain__{model}", run) for run in runs} <= {"success"}
        attempts = upset[model].attempts()
        assert len(attempts) == known[model] + 1
        assert attempts[0].dag_run_id in runs
        for run in set(runs) - {attempts[0].dag_run_id}:
            path = f"/dags/retrain__{model}/dagRuns/{quote(run, safe='')}/taskInstances/claim"
            assert ask(system, "GET", path)["state"] == "skipped"
            assert "reason" in str(ask(system, "GET", f"{path}/xcomEntries/outcome")["value"])
