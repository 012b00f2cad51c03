"""People answer in Airflow, by REST as the page does, and on the command line; the ledger counts their answers.

The small model's gate lets every challenger through (see ``small_model``), so that each verdict is a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from running_system import FirstChampion, System
from small_model import ASKING
from upsets import Upset, ask, crown, request

from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow, ChampionRow

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

ONE, TWO = ASKING
ENDED = {"success", "failed", "skipped", "upstream_failed"}


@dataclass(frozen=True)
class Question:
    """A request as Airflow shows it: in which run and by which task."""

    system: System
    model: str
    run_id: str
    task: str
    subject: str
    body: str

    @property
    def path(self) -> str:
        return f"/dags/promote__{self.model}/dagRuns/{quote(self.run_id, safe='')}/taskInstances/{self.task}"

    def answer(self, user: str, option: str, reason: str | None = None) -> int:
        """Answer as the page does, and wait until the answer was taken; returns the status.

        Airflow drops an answer that comes before its scheduler heard that the asking process has ended
        (docs/decisions/0039), tries the task again and asks anew: then this answers anew.
        """
        body = {"chosen_options": [option], "params_input": {"reason": reason} if reason else {}}
        client, asked = self.system.airflow(user).client, self.tries()
        status = int(client.patch(f"/api/v2{self.path}/-1/hitlDetails", json=body).status_code)
        if status == 200:
            self.system.until("the answer to be taken", lambda: self.state() in ENDED or self.open(), every=1.0)
        return self.answer(user, option, reason) if status == 200 and self.tries() > asked else status

    def open(self) -> bool:
        """Whether people are asked, and nobody has answered."""
        return self.state() == "awaiting_input" and not self.detail()["response_received"]

    def detail(self) -> dict[str, Any]:
        return dict(ask(self.system, "GET", f"{self.path}/-1/hitlDetails"))

    def state(self) -> str:
        return str(ask(self.system, "GET", self.path)["state"])

    def tries(self) -> int:
        return int(ask(self.system, "GET", self.path)["try_number"])

    def log(self) -> str:
        return str(ask(self.system, "GET", f"{self.path}/logs/{self.tries()}", params={"full_content": True}))


def question(
    system: System, model: str, attempt: str, task: str = "approval", besides: tuple[str, ...] = ()
) -> Question:
    """What Airflow asks about the attempt, as soon as it does, in another run than those ``besides``."""

    def look() -> Question | None:
        path = f"/dags/promote__{model}/dagRuns/~/hitlDetails"
        for detail in ask(system, "GET", path, params={"response_received": False})["hitl_details"]:
            instance = detail["task_instance"]
            found = (instance["task_id"], instance["state"]) == (task, "awaiting_input")
            if found and attempt in detail["body"] and instance["dag_run_id"] not in besides:
                return Question(system, model, instance["dag_run_id"], task, detail["subject"], detail["body"])
        return None

    return system.until(f"{task} of {attempt} to be asked", look, every=1.0)


def ended(case: Upset, attempt: AttemptRow) -> AttemptRow:
    """The attempt as soon as nobody is asked any more."""

    def look() -> AttemptRow | None:
        now = case.attempt(attempt.id)
        return now if now and now.state in {"concluded", "superseded"} else None

    found: AttemptRow = case.until(f"the end of {attempt.id}", look)
    return found


def waiting(case: Upset) -> AttemptRow:
    """The attempt of the case's event, as soon as it waits for people."""

    def look() -> AttemptRow | None:
        row = case.event()
        now = case.attempt(row.attempt_id) if row else None
        return now if now and now.state == AWAITING_APPROVAL else None

    found: AttemptRow = case.until("people to be asked", look)
    return found


def serves(system: System, model: str) -> ChampionRow:
    with system.ratchet.ledger.transaction() as tx:
        champion = tx.current_champion(model)
    assert champion is not None
    return champion


def audited(system: System, model: str, action: str) -> list[dict[str, Any]]:
    with system.ratchet.ledger.transaction() as tx:
        return [entry for entry in tx.audit_log(model) if entry["action"] == action]


@pytest.fixture(scope="module")
def asked(running: System, first_champion: FirstChampion | None) -> dict[str, Upset]:
    """Each model's first challenger is judged, and people are asked about it."""
    del first_champion
    running.rest()
    running.fresh_days()
    for model in ASKING:
        crown(running, model)
    return {model: request(running, model) for model in ASKING}


def test_a_person_who_is_no_admin_approves_and_is_on_record(system: System, asked: dict[str, Upset]) -> None:
    case = asked[ONE]
    attempt = waiting(case)
    before = serves(system, ONE)
    shown = question(system, ONE, attempt.id)
    assert f"version {attempt.challenger_version} serve, over version {before.version}?" in shown.subject
    assert "value at risk" in shown.body
    assert attempt.id in system.command("approvals")
    assert shown.answer("vic", "Approve", "a viewer may not") == 403
    assert serves(system, ONE) == before

    assert shown.answer("ursula", "Approve", "the summer looks right") == 200
    assert ended(case, attempt).state == "concluded"
    champion = serves(system, ONE)
    assert (champion.version, champion.actor, champion.reason) == (
        attempt.challenger_version,
        "ursula",
        "the summer looks right",
    )
    (approved,) = audited(system, ONE, "approval.approved")
    assert (approved["actor"], approved["detail"]["via"]) == ("ursula", "airflow")
    assert audited(system, ONE, "champion.promoted")[-1]["detail"]["approved_by"] == ["ursula"]
    system.until("the alias", lambda: system.ratchet.registry.alias_version(ONE, "champion") == champion.version)
    assert system.run_ends(f"promote__{ONE}", shown.run_id) == "success"
    states = {task["task_id"]: task["state"] for task in system.tasks(f"promote__{ONE}", shown.run_id)}
    assert states == {"promote": "success", "approval": "success", "champion": "success"}


def test_marking_success_approves_nothing_and_two_people_are_asked_until_two_have_agreed(
    system: System, asked: dict[str, Upset]
) -> None:
    case = asked[TWO]
    attempt, before = waiting(case), serves(system, TWO)
    first = question(system, TWO, attempt.id)
    ask(system, "PATCH", first.path, json={"new_state": "success"})
    second = question(system, TWO, attempt.id, "second_approval")
    assert "0 of 2 approvals so far" in second.body
    assert second.answer("ursula", "Approve", "I agree") == 200
    assert system.run_ends(f"promote__{TWO}", second.run_id) == "success"
    assert serves(system, TWO) == before

    again = question(system, TWO, attempt.id, besides=(second.run_id,))
    assert "1 of 2 approvals (ursula) so far" in again.body
    assert again.answer("ursula", "Approve", "I still agree") == 200
    system.until("the same person to be asked to leave it to another", lambda: "has approved" in again.log(), every=2.0)
    system.until("another person to be asked", lambda: again.state() == "awaiting_input")
    assert serves(system, TWO) == before
    assert again.answer("admin", "Approve", "I agree too") == 200
    assert ended(case, attempt).promoted
    assert serves(system, TWO).actor == "admin"
    assert audited(system, TWO, "champion.promoted")[-1]["detail"]["approved_by"] == ["ursula", "admin"]


def test_a_newer_verdict_supersedes_what_waits_and_a_rejection_keeps_the_champion(
    system: System, asked: dict[str, Upset]
) -> None:
    system.until(f"{ONE} at rest", lambda: serves(system, ONE).seq > 1)
    before = serves(system, ONE)
    system.fresh_days()
    older = request(system, ONE)
    first = waiting(older)
    shown = question(system, ONE, first.id)
    system.fresh_days()
    newer = request(system, ONE)
    second = waiting(newer)
    superseded = ended(older, first)
    assert superseded.state == "superseded"
    assert f"{second.id} was judged later" in str(superseded.failure)

    assert shown.answer("ursula", "Approve", "better late than never") == 200
    system.until("the late answer to be refused", lambda: shown.state() == "failed")
    assert "waits for no answer: it is superseded" in shown.log()
    assert [entry["actor"] for entry in audited(system, ONE, "approval.refused")] == ["ursula"]
    assert serves(system, ONE) == before

    assert question(system, ONE, second.id).answer("admin", "Reject", "not before Christmas") == 200
    kept = ended(newer, second)
    assert (kept.state, kept.failure) == ("concluded", "rejected by admin: not before Christmas")
    assert serves(system, ONE) == before
    assert asked[ONE].attempt(second.id) == kept
