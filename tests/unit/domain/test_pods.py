"""A spec says where its steps run; what it asks for becomes a pod, and nothing becomes none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ratchet.domain.pods import pod_override
from ratchet.domain.spec import Runtime

IMAGE = "registry.example/ratchet:2.1@sha256:" + "0" * 64


def runtime(**fields: Any) -> Runtime:
    return Runtime.model_validate(fields)


def test_a_spec_that_asks_for_nothing_gets_the_deployments_own_pod() -> None:
    assert pod_override(runtime(queue="big", executor="CeleryExecutor")) is None


def test_an_environment_makes_no_pod_and_leaves_its_resources() -> None:
    assert pod_override(runtime(environment="own.txt")) is None
    assert pod_override(runtime(environment="own.txt", resources={"memory": "4Gi"})) == pod_override(
        runtime(resources={"memory": "4Gi"})
    )


def test_what_a_pod_asks_for_is_what_it_may_use() -> None:
    override = pod_override(runtime(threads=3, resources={"memory": "4Gi"}))
    assert override is not None
    (container,) = override["spec"]["containers"]
    asked = {"cpu": "3", "memory": "4Gi"}
    assert container == {"name": "base", "resources": {"requests": asked, "limits": asked}}


def test_a_gpu_is_asked_for_by_the_clusters_name_and_its_taint_tolerated() -> None:
    override = pod_override(runtime(resources={"cpu": 1.5, "gpu": 2, "gpu_name": "amd.com/gpu"}, image=IMAGE))
    assert override is not None
    (container,) = override["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "1.5", "amd.com/gpu": "2"}
    assert container["image"] == IMAGE
    assert override["spec"]["tolerations"] == [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image": "ratchet:latest"}, "pinned by its digest"),
        ({"resources": {}}, "names none of cpu, memory and gpu"),
        ({"resources": {"memory": "4GB"}}, "pattern"),
        ({"resources": {"cpu": 1}, "threads": 2}, "each task runs 2 threads"),
        ({"resources": {"gpu": -1}}, "0"),
        ({"environment": "../others.txt"}, "environment"),
        ({"environment": "own.txt", "image": IMAGE}, "names packages, and so does runtime.image"),
        ({"environment_sha256": "0" * 64}, "is of runtime.environment, which is not there"),
    ],
)
def test_what_would_not_be_obeyed_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        runtime(**fields)
