"""The pod that a spec's ``runtime`` asks for, as Kubernetes writes it."""

from __future__ import annotations

from typing import Any

from ratchet.domain.spec import Runtime

BASE = "base"
"""The container of a task's pod, as Airflow's Kubernetes executor names it."""


def pod_override(runtime: Runtime) -> dict[str, Any] | None:
    """What differs from the deployment's own pod template; None where the spec asks for nothing.

    Requests are limits: a training that takes more than it asked for would be killed, or kill its neighbours, at a
    moment nobody chose. A GPU is asked for by limit, as Kubernetes demands, and its taint is tolerated.
    """
    if not runtime.makes_pods:
        return None
    container: dict[str, Any] = {"name": BASE}
    if runtime.image is not None:
        container["image"] = runtime.image
    spec: dict[str, Any] = {"containers": [container]}
    asked = runtime.resources
    if asked is not None:
        wanted = {"cpu": f"{asked.cpu or runtime.threads:g}"}
        if asked.memory is not None:
            wanted["memory"] = asked.memory
        devices = {asked.gpu_name: str(asked.gpu)} if asked.gpu else {}
        container["resources"] = {"requests": wanted | devices, "limits": wanted | devices}
        if devices:
            spec["tolerations"] = [{"key": asked.gpu_name, "operator": "Exists", "effect": "NoSchedule"}]
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec}
