"""The task that asks people: what it shows, when it looks again, and whose answer it hands on."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.exceptions import HITLTriggerEventError
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from airflow.serialization.serialized_objects import DagSerialization
from ruamel.yaml import YAML

import ratchet_airflow
from ratchet.errors import Refused
from ratchet_approval import AskForApproval

pytestmark = pytest.mark.airflow

SHOWN = {"attempt": "m.7", "subject": "m: let version 7 serve?", "body": "| uplift |", "seconds": 86_400.0}
TIMEOUT = {"error": "nobody answered", "error_type": "timeout"}


class Verbs:
    """Ratchet as the task sees it."""

    def __init__(self) -> None:
        self.request: dict[str, Any] | None = dict(SHOWN)
        self.answers: list[dict[str, Any]] = []
        self.counted = True

    def show_request(self, model: str, run_id: str, is_open: Any) -> dict[str, Any] | None:
        assert (model, run_id) == ("m", "run1")
        return self.request

    def respond(self, attempt: str, **answer: Any) -> dict[str, Any]:
        self.answers.append({"attempt": attempt, **answer})
        return {"attempt": attempt, "state": "concluded", "counted": self.counted, "stands": "1 of 1"}


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    found = Verbs()
    monkeypatch.setattr(ratchet_airflow, "verbs", lambda: found)
    return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Airflow was told to show."""
    pages: list[dict[str, Any]] = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **page: pages.append(page))
    return pages


def context() -> Any:
    run = SimpleNamespace(dag_id="promote__m", run_id="run1")
    return {"dag_run": run, "task_instance": SimpleNamespace(id="ti"), "ti": SimpleNamespace(id="ti")}


def answered(*options: str, reason: str | None = "looks right") -> dict[str, Any]:
    return {
        "chosen_options": list(options),
        "params_input": {"reason": reason} if reason is not None else {},
        "responded_at": datetime(2026, 7, 1, tzinfo=UTC),
        "responded_by_user": {"id": "17", "name": "bea"},
        "timedout": False,
    }


def task() -> AskForApproval:
    return AskForApproval(task_id="approval", model="m")


def test_it_shows_the_request_and_waits_without_a_slot_bound_to_the_attempt(verbs: Verbs, shown: list[Any]) -> None:
    with pytest.raises(TaskAwaitingInput) as waits:
        task().execute(context())
    (page,) = shown
    assert (page["subject"], page["body"]) == (SHOWN["subject"], SHOWN["body"])
    assert page["options"] == ["Approve", "Reject"]
    assert page["params"]["reason"]["schema"]["type"] == "string", "not null: the page insists on a text"
    assert page["defaults"] is None, "nobody's silence is an answer"
    assert waits.value.kwargs == {"attempt": "m.7"}
    assert waits.value.timeout == timedelta(minutes=5)


def test_its_form_is_valid_before_anybody_has_filled_it_or_airflow_would_not_start_it() -> None:
    task().params.validate()


def test_it_waits_no_longer_than_the_request_lives(verbs: Verbs, shown: list[Any]) -> None:
    verbs.request = SHOWN | {"seconds": 9.0}
    with pytest.raises(TaskAwaitingInput) as waits:
        task().execute(context())
    assert waits.value.timeout == timedelta(seconds=10)


def test_it_is_skipped_when_nothing_waits_here(verbs: Verbs, shown: list[Any]) -> None:
    verbs.request = None
    with pytest.raises(AirflowSkipException):
        task().execute(context())
    assert shown == []


@pytest.mark.parametrize(("option", "approve"), [("Approve", True), ("Reject", False)])
def test_the_airflow_user_is_who_answered(verbs: Verbs, option: str, approve: bool) -> None:
    task().execute_complete(context(), answered(option), "m.7")
    assert verbs.answers == [
        {
            "attempt": "m.7",
            "approve": approve,
            "actor": "bea",
            "reason": "looks right",
            "via": "airflow",
            "user_id": "17",
        }
    ]


def test_the_answer_goes_to_what_was_shown_whatever_waits_now(verbs: Verbs) -> None:
    verbs.request = SHOWN | {"attempt": "m.8"}
    task().execute_complete(context(), answered("Approve", reason=None), "m.7")
    assert [answer["attempt"] for answer in verbs.answers] == ["m.7"]


def test_an_answer_that_is_refused_fails_the_task_and_says_so(verbs: Verbs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("m.7 waits for no answer: it is superseded")

    monkeypatch.setattr(verbs, "respond", refuse)
    with pytest.raises(Refused, match="waits for no answer"):
        task().execute_complete(context(), answered("Approve"), "m.7")


def test_the_same_person_again_is_asked_to_leave_it_to_another(verbs: Verbs, shown: list[Any]) -> None:
    verbs.counted = False
    with pytest.raises(TaskAwaitingInput):
        task().execute_complete(context(), answered("Approve"), "m.7")
    assert len(shown) == 1


def test_it_looks_again_now_and_then_and_goes_on_waiting_without_asking_anew(verbs: Verbs, shown: list[Any]) -> None:
    with pytest.raises(TaskAwaitingInput) as waits:
        task().execute_complete(context(), TIMEOUT, "m.7")
    assert waits.value.kwargs == {"attempt": "m.7"}
    assert shown == []
    assert verbs.answers == []


@pytest.mark.parametrize("now", [None, SHOWN | {"attempt": "m.8"}])
def test_it_ends_when_what_it_shows_waits_no_more(verbs: Verbs, now: dict[str, Any] | None) -> None:
    verbs.request = now
    with pytest.raises(AirflowSkipException):
        task().execute_complete(context(), TIMEOUT, "m.7")


def test_another_error_of_airflow_is_no_answer(verbs: Verbs) -> None:
    with pytest.raises(HITLTriggerEventError):
        task().execute_complete(context(), {"error": "broken", "error_type": "unknown"}, "m.7")
    assert verbs.answers == []


# The DAG --------------------------------------------------------------------------------------------------------------


def promote_dag(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approval: Any) -> Any:
    yaml = YAML()
    spec = yaml.load((root / "include" / "models" / "flight_delay" / "model.yaml").read_text())
    spec["gate"]["approval"] = approval
    folder = tmp_path / "flight_delay"
    folder.mkdir()
    with (folder / "model.yaml").open("w") as stream:
        yaml.dump(spec, stream)
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    bag = DagBag(str(root / "dags" / "retrain.py"))
    assert bag.import_errors == {}
    return bag.dags["promote__flight_delay"]


@pytest.mark.parametrize(
    ("approval", "tasks"),
    [
        ("never", ["promote", "champion"]),
        ("always", ["promote", "approval", "champion"]),
        ({"when": {"lower_bound_below": 0.2}}, ["promote", "approval", "champion"]),
        ({"two_people_above": 1000}, ["promote", "approval", "second_approval", "champion"]),
    ],
)
def test_only_a_spec_that_asks_people_has_tasks_that_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approval: Any, tasks: list[str]
) -> None:
    dag = promote_dag(root, tmp_path, monkeypatch, approval)
    edges = {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}
    assert edges == set(itertools.pairwise(tasks))
    back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert set(back.task_dict) == set(tasks)


def test_the_news_is_told_whether_or_not_people_had_to_be_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = promote_dag(root, tmp_path, monkeypatch, {"two_people_above": 1000})
    assert dag.get_task("champion").trigger_rule == "none_failed"
    assert dag.max_active_runs >= 16, "runs that wait for people must not keep others from starting"
