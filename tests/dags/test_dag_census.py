"""What DAGs there are, what they promise, and what parsing them may not import."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import process_params
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

pytestmark = pytest.mark.airflow

HEAVY = ("mlflow", "feast", "kafka", "optuna", "sklearn", "xgboost", "pandas", "numpy", "ruamel")
MODELS = ("flight_delay",)
CENSUS = {
    "ratchet__intake",
    "ratchet__selftest",
    "ratchet__sweep",
    *(f"{verb}__{model}" for model in MODELS for verb in ("retrain", "promote", "rollback", "monitor")),
}


@pytest.fixture(scope="module")
def bag(root: Path) -> DagBag:
    return DagBag(str(root / "dags"))


def edges(dag: Any) -> set[tuple[str, str]]:
    return {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}


def test_these_dags_and_no_others(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == CENSUS


@pytest.mark.parametrize("dag_id", ["retrain__flight_delay", "promote__flight_delay", "retrain__broken"])
def test_a_task_builds_its_own_dag_and_reads_its_own_spec_only(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag_id: str
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    for name, text in (("flight_delay", shipped), ("broken", "model: broken")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text(text)
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    everything = set(DagBag(str(root / "dags" / "retrain.py")).dags)
    ours = {f"{verb}__flight_delay" for verb in ("retrain", "promote", "rollback", "monitor")}
    assert everything == ours | {"retrain__broken"}
    # As Airflow's task runner says it.
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
    assert set(DagBag(str(root / "dags" / "retrain.py")).dags) == {dag_id}


def test_of_thirty_specs_every_dag_is_there_and_a_broken_one_spoils_no_other(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    for number in range(30):
        name = f"model_{number:02}"
        (tmp_path / name).mkdir()
        text = shipped.replace("model: flight_delay", f"model: {name}")
        (tmp_path / name / "model.yaml").write_text(text if number != 7 else "model: model_07")
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    bag = DagBag(str(root / "dags" / "retrain.py"))
    verbs = ("retrain", "promote", "rollback", "monitor")
    whole = {f"{verb}__model_{n:02}" for verb in verbs for n in range(30) if n != 7}
    assert bag.import_errors == {}
    assert set(bag.dags) == whole | {"retrain__model_07"}


@pytest.mark.parametrize("dag_id", sorted(CENSUS))
class TestEveryDag:
    def test_runs_without_anyone_unpausing_it_and_never_catches_up(self, bag: DagBag, dag_id: str) -> None:
        dag = bag.dags[dag_id]
        assert dag.is_paused_upon_creation is False
        assert dag.catchup is False

    def test_carries_its_runbook(self, bag: DagBag, dag_id: str) -> None:
        runbook = bag.dags[dag_id].doc_md
        assert runbook is not None
        assert runbook.startswith("### ")
        assert "{" not in runbook, "a placeholder was not filled in"

    def test_serialises_and_comes_back(self, bag: DagBag, dag_id: str) -> None:
        stored = json.loads(json.dumps(DagSerialization.to_dict(bag.dags[dag_id])))
        back = DagSerialization.from_dict(stored)
        assert set(back.task_dict) == set(bag.dags[dag_id].task_dict)

    def test_task_bodies_are_three_lines_or_fewer_beside_their_docstring(self, bag: DagBag, dag_id: str) -> None:
        for task in bag.dags[dag_id].tasks:
            body = task.python_callable
            tree = ast.parse(textwrap.dedent(inspect.getsource(body))).body[0]
            assert isinstance(tree, ast.FunctionDef)
            assert ast.get_docstring(tree)
            statements = tree.body[1:]
            assert len(statements) <= 3, f"{task.task_id}: {len(statements)} statements"


def test_retrain_goes_from_claim_to_judge(bag: DagBag) -> None:
    dag = bag.dags["retrain__flight_delay"]
    assert edges(dag) >= {("claim", "snapshot"), ("snapshot", "plan"), ("plan", "tune"), ("tune", "judge")}
    assert dag.get_task("tune").is_mapped
    assert [asset.uri for asset in dag.get_task("judge").outlets] == ["ratchet://flight_delay/judged"]


def test_retrain_starts_by_doorbell_by_its_own_schedule_or_by_hand(bag: DagBag) -> None:
    stored = DagSerialization.to_dict(bag.dags["retrain__flight_delay"])["dag"]["timetable"]
    assert "AssetOrTimeSchedule" in stored["__type"]
    assert "0 4 * * 1" in json.dumps(stored)
    assert "America/New_York" in json.dumps(stored)
    assert "ratchet://flight_delay/due" in json.dumps(stored)
    assert "DueTrigger" in json.dumps(stored)


def test_heavy_steps_run_in_the_pool_of_the_spec_and_the_claim_does_not(bag: DagBag) -> None:
    dag = bag.dags["retrain__flight_delay"]
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert {pools[step] for step in ("snapshot", "tune", "judge")} == {"ratchet_training"}
    assert pools["claim"] == "default_pool"


def test_a_dead_workers_run_does_not_block_its_successor(bag: DagBag) -> None:
    assert bag.dags["retrain__flight_delay"].max_active_runs > 1


def test_promote_starts_by_the_verdict_and_tells_the_world(bag: DagBag) -> None:
    dag = bag.dags["promote__flight_delay"]
    assert [asset.uri for asset in dag.timetable.asset_condition.objects] == ["ratchet://flight_delay/judged"]
    assert [asset.uri for asset in dag.get_task("champion").outlets] == ["ratchet://flight_delay/champion"]


def test_a_spec_with_a_probation_has_a_dag_that_watches_in_its_pool_and_tells_the_world(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    (tmp_path / "flight_delay").mkdir()
    (tmp_path / "flight_delay" / "model.yaml").write_text(shipped + "probation: {for: 28d}\n")
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    dag = DagBag(str(root / "dags" / "retrain.py")).dags["probation__flight_delay"]
    assert [asset.uri for asset in dag.timetable.asset_condition.objects] == ["ratchet://flight_delay/probation"]
    assert edges(dag) == {("watch", "champion")}
    assert dag.get_task("watch").pool == "ratchet_training"
    assert [asset.uri for asset in dag.get_task("champion").outlets] == ["ratchet://flight_delay/champion"]
    assert dag.doc_md.startswith("### Probation of flight_delay")
    assert "{" not in dag.doc_md


@pytest.mark.parametrize("cron", [None, "0 6 * * *"])
def test_a_spec_with_a_monitor_has_a_dag_that_looks_when_data_arrive_and_by_its_own_schedule(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cron: str | None
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    (tmp_path / "flight_delay").mkdir()
    own = f'  every: 7d\n  schedule: "{cron}"\n' if cron else "  every: 7d\n"
    (tmp_path / "flight_delay" / "model.yaml").write_text(shipped.replace("  every: 7d\n", own))
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    dag = DagBag(str(root / "dags" / "retrain.py")).dags["monitor__flight_delay"]
    stored = json.dumps(DagSerialization.to_dict(dag)["dag"]["timetable"])
    assert "ratchet://flight_delay/monitor" in stored
    assert "MonitorTrigger" in stored
    assert cron is None or (cron in stored and "America/New_York" in stored)
    assert dag.get_task("look").pool == "ratchet_training"
    assert dag.doc_md.startswith("### Monitor flight_delay")
    assert "{" not in dag.doc_md


@pytest.mark.parametrize("schedule", [None, "30 5 * * *"])
def test_a_spec_with_scoring_has_a_dag_that_scores_in_its_pool_by_bell_by_schedule_or_by_hand(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str | None
) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    (tmp_path / "flight_delay").mkdir()
    asked = f"scoring: {{schedule: {schedule}}}\n" if schedule else "scoring: {}\n"
    (tmp_path / "flight_delay" / "model.yaml").write_text(shipped + asked)
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))
    dag = DagBag(str(root / "dags" / "retrain.py")).dags["score__flight_delay"]
    stored = json.dumps(DagSerialization.to_dict(dag)["dag"]["timetable"])
    assert "ratchet://flight_delay/score" in stored
    assert ("30 5 * * *" in stored, "America/New_York" in stored) == ((True, True) if schedule else (False, False))
    assert [(task.task_id, task.pool) for task in dag.tasks] == [("score", "ratchet_training")]
    assert dag.max_active_runs == 1
    assert dag.doc_md.startswith("### Score flight_delay")
    assert "{" not in dag.doc_md


def test_intake_keeps_the_pump_alive_by_its_own_watcher(bag: DagBag) -> None:
    stored = json.dumps(DagSerialization.to_dict(bag.dags["ratchet__intake"]))
    assert "ratchet_intake_trigger.IntakeTrigger" in stored


def test_sweep_runs_every_minute_and_never_twice_at_once(bag: DagBag) -> None:
    dag = bag.dags["ratchet__sweep"]
    assert dag.timetable.expression == "* * * * *"
    assert dag.max_active_runs == 1


def test_the_gate_tests_itself_every_night_and_never_twice_at_once(bag: DagBag) -> None:
    dag = bag.dags["ratchet__selftest"]
    assert dag.timetable.expression == "30 2 * * *"
    assert dag.max_active_runs == 1


class TestTheRetrainForm:
    def form(self, bag: DagBag) -> Any:
        return bag.dags["retrain__flight_delay"].params

    def test_has_these_fields_each_explained_in_a_section(self, bag: DagBag) -> None:
        form = self.form(bag)
        assert set(form) == {"reason", "window_end", "trials", "dry_run", "override_budget", "first_champion"}
        for name in form:
            schema = form.get_param(name).schema
            assert schema["title"]
            assert schema["section"]
            assert schema["description_md"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("window_end", "tomorrow"), ("trials", 0), ("trials", "many"), ("dry_run", "yes"), ("reason", None)],
    )
    def test_refuses(self, bag: DagBag, field: str, value: object) -> None:
        with pytest.raises(ParamValidationError):
            self.form(bag).get_param(field).resolve(value)

    @pytest.mark.parametrize(("field", "value"), [("window_end", "2013-05-01"), ("window_end", None), ("trials", 3)])
    def test_accepts(self, bag: DagBag, field: str, value: object) -> None:
        assert self.form(bag).get_param(field).resolve(value) == value

    def test_is_the_dags_alone_and_every_task_is_told_what_was_sent(self, bag: DagBag) -> None:
        dag = bag.dags["retrain__flight_delay"]
        for task in dag.tasks:
            assert not task.params
            told = process_params(dag, task, {"trials": 3}, suppress_exception=False)
            assert (told["trials"], told["dry_run"], set(told)) == (3, False, set(self.form(bag)))

    def test_its_defaults_are_valid_so_that_scheduled_runs_start(self, bag: DagBag) -> None:
        bag.dags["retrain__flight_delay"].params.validate()


def test_a_rollback_needs_a_reason(bag: DagBag) -> None:
    form = bag.dags["rollback__flight_delay"].params
    with pytest.raises(ParamValidationError):
        form.validate()


def parse(root: Path, models: Path | None = None) -> dict[str, Any]:
    """Parse ``dags/`` in a fresh interpreter; return its DAGs, errors and modules."""
    program = (
        "import json, sys\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(root / 'dags')!r})\n"
        "docs = {name: dag.doc_md for name, dag in bag.dags.items()}\n"
        "answer = {'docs': docs, 'errors': bag.import_errors, 'after': sorted(sys.modules)}\n"
        "json.dump(answer, open(sys.argv[1], 'w'))\n"
    )
    answer = Path(os.environ["AIRFLOW_HOME"]) / f"parsed-{models.name if models else 'shipped'}.json"
    env = os.environ | {"PYTHONPATH": str(root / "plugins")}
    if models is not None:
        env["RATCHET_MODELS_DIR"] = str(models)
    subprocess.run([sys.executable, "-c", program, str(answer)], check=True, env=env, capture_output=True, timeout=300)
    parsed: dict[str, Any] = json.loads(answer.read_text())
    return parsed


def test_parsing_imports_nothing_heavy(root: Path) -> None:
    parsed = parse(root)
    assert parsed["errors"] == {}
    assert [name for name in HEAVY if name in parsed["after"]] == []


def test_a_broken_spec_shows_its_problems_and_leaves_other_models_alone(root: Path, tmp_path: Path) -> None:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    for name, text in (
        ("flight_delay", shipped),
        ("second_model", shipped.replace("model: flight_delay", "model: second_model")),
        ("broken", shipped.replace("model: flight_delay", "model: broken").replace("cooldown:", "coldown:")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.yaml").write_text(text)
    parsed = parse(root, tmp_path)
    assert parsed["errors"] == {}
    assert {"retrain__second_model", "promote__second_model", "rollback__second_model"} < set(parsed["docs"])
    assert "coldown" in parsed["docs"]["retrain__broken"]
    assert "promote__broken" not in parsed["docs"]
