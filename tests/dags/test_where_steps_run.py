"""The spec's runtime reaches Airflow's tasks, or the DAG's page says why this deployment cannot obey it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.executors import executor_loader
from airflow.serialization.serialized_objects import DagSerialization
from kubernetes.client import ApiClient

from ratchet.adapters import environments

pytestmark = pytest.mark.airflow

WORK = ("snapshot", "tune", "judge")
KUBERNETES = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
IMAGE = "registry.example/ratchet@sha256:" + "0" * 64


REMEMBERED = ("_executor_names", *(f"_{by}_to_executors_per_team" for by in ("alias", "module", "classname")))
"""What Airflow reads of its executors once in a process."""


@pytest.fixture
def made(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    shipped = (root / "include" / "models" / "flight_delay" / "model.yaml").read_text()
    folder = tmp_path / "flight_delay"
    folder.mkdir()
    monkeypatch.setenv("RATCHET_MODELS_DIR", str(tmp_path))

    def make(runtime: str, executor: str) -> dict[str, Any]:
        before, _, after = shipped.partition("\nruntime:")
        rest = after[after.index("\n") + 1 :] if "\n" in after else ""
        assert not rest.startswith(" ")
        (folder / "model.yaml").write_text(f"{before}\nruntime: {runtime}\n{rest}")
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
        for known in REMEMBERED:
            getattr(executor_loader, known).clear()
        bag = DagBag(str(root / "dags" / "retrain.py"))
        assert bag.import_errors == {}
        return dict(bag.dags)

    yield make
    for known in REMEMBERED:
        getattr(executor_loader, known).clear()


def test_queue_and_executor_are_of_the_steps_that_do_the_work(made: Any) -> None:
    dags = made("{queue: big, executor: CeleryExecutor}", "LocalExecutor,CeleryExecutor")
    tasks = {task.task_id: task for task in dags["retrain__flight_delay"].tasks}
    assert {(tasks[name].queue, tasks[name].executor) for name in WORK} == {("big", "CeleryExecutor")}
    assert (tasks["claim"].queue, tasks["claim"].executor) == ("default", None)
    (look,) = dags["monitor__flight_delay"].tasks
    assert (look.queue, look.executor) == ("big", "CeleryExecutor")


def test_an_executor_may_go_by_its_alias_or_its_path(made: Any) -> None:
    for name in ("pods", KUBERNETES, "KubernetesExecutor"):
        dags = made(f"{{executor: {name!r}, resources: {{memory: 1Gi}}}}", f"LocalExecutor,pods:{KUBERNETES}")
        assert "promote__flight_delay" in dags


def test_the_pod_is_what_kubernetes_understands_and_survives_airflows_storing(made: Any) -> None:
    dags = made(f"{{threads: 2, resources: {{memory: 4Gi, gpu: 1}}, image: {IMAGE!r}}}", KUBERNETES)
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dags["retrain__flight_delay"]))
    config = stored.get_task("judge").executor_config or dags["retrain__flight_delay"].get_task("judge").executor_config
    pod = ApiClient().sanitize_for_serialization(config["pod_override"])
    asked = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    (container,) = pod["spec"]["containers"]
    assert container == {"name": "base", "image": IMAGE, "resources": {"requests": asked, "limits": asked}}
    assert pod["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert not dags["retrain__flight_delay"].get_task("claim").executor_config


def test_packages_of_a_models_own_are_had_on_any_executor(made: Any, tmp_path: Path) -> None:
    pins = "".join(f"{environments._name(each)}==1 --hash=sha256:{'0' * 64}\n" for each in environments.needed())
    (tmp_path / "flight_delay" / "requirements.txt").write_text(pins)
    for executor in ("LocalExecutor", "CeleryExecutor", KUBERNETES):
        assert "promote__flight_delay" in made("{environment: requirements.txt}", executor)


@pytest.mark.parametrize(
    ("runtime", "executor", "said"),
    [
        ("{resources: {memory: 4Gi}}", "LocalExecutor", "runtime.resources: makes pods, which LocalExecutor does not"),
        (f"{{image: {IMAGE!r}}}", "CeleryExecutor", "runtime.image: makes pods, which CeleryExecutor does not"),
        ("{queue: big}", "LocalExecutor", "runtime.queue: LocalExecutor of this deployment has no queues"),
        ("{executor: Dask}", "LocalExecutor", "runtime.executor: 'Dask' is none of this deployment's"),
    ],
)
def test_what_the_deployment_cannot_give_is_said_on_the_dags_page(
    made: Any, runtime: str, executor: str, said: str
) -> None:
    dags = made(runtime, executor)
    assert set(dags) == {"retrain__flight_delay"}
    assert said in dags["retrain__flight_delay"].doc_md
