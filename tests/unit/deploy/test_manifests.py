"""deploy/: what is said there of topics, rights, secrets and settings is what the code says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from compose_file import ROOT
from ruamel.yaml import YAML

from ratchet.adapters import connections, kafka_grants
from ratchet.ports.bus import DECISIONS, INBOUND_TOPICS, TOPICS
from ratchet.stack import manifests
from ratchet.stack.config import COMPONENTS_ROLE

DEPLOY = ROOT / "deploy"


def documents(path: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all((DEPLOY / path).read_text()))


CHART = sorted((DEPLOY / "helm").glob("*.yaml"))
VALUES = documents("helm/values.yaml")[0]
CLAIM, JOB = documents("kubernetes/release.yaml")


@pytest.mark.parametrize("path", manifests.files())
def test_written_files_are_what_the_code_says(path: str) -> None:
    assert (DEPLOY / path).read_text() == manifests.files()[path], "run: make deploy-files"


def test_every_topic_is_there_and_outlives_a_broker() -> None:
    found = {each["metadata"]["name"]: each["spec"] for each in documents("kubernetes/topics.yaml")}
    assert set(found) == set(TOPICS)
    assert all(spec["replicas"] == 3 and spec["config"]["min.insync.replicas"] == 2 for spec in found.values())


def rights(principal: str, operation: str) -> set[str]:
    given = kafka_grants.grants("the-group")[principal]
    return {grant.name for grant in given if operation in grant.operations}


def test_each_principal_may_do_its_work_and_no_more() -> None:
    assert rights("ratchet", "Read") == {*TOPICS, "the-group"}
    assert rights("monitor", "Write") == set(INBOUND_TOPICS)
    assert rights("monitor", "Read") == set()
    assert DECISIONS in rights("audience", "Read")
    assert rights("audience", "Write") == set()


def test_the_users_are_the_principals() -> None:
    assert {each["metadata"]["name"] for each in documents("kubernetes/users.yaml")} == set(kafka_grants.grants("x"))


def test_no_manifest_holds_a_secret() -> None:
    for each in documents("kubernetes/secrets.yaml"):
        assert each["kind"] == "ExternalSecret"
    for file in [*DEPLOY.glob("kubernetes/*.yaml"), *DEPLOY.glob("helm/*.yaml"), *DEPLOY.glob("terraform/**/*.tf")]:
        assert not re.search(r"://[^/@\s]*:[^/@\s]+@|kind: Secret\b", file.read_text()), file


def test_every_connection_comes_from_somewhere() -> None:
    (secret,) = [
        each for each in documents("kubernetes/secrets.yaml") if each["metadata"]["name"].endswith("connections")
    ]
    given = {each["secretKey"] for each in secret["spec"]["data"]} | {each["name"] for each in VALUES["env"]}
    needed = {f"AIRFLOW_CONN_{each.upper()}" for each in connections.CONNECTION_IDS if each != connections.FEAST}
    assert needed <= given


def test_the_ledgers_owner_connects_in_the_step_that_migrates_and_nowhere_else() -> None:
    names = {each["metadata"]["name"]: each["spec"]["data"] for each in documents("kubernetes/secrets.yaml")}
    (owners,), (ledger, _) = names["ratchet-owner"], names["ratchet-connections"]
    assert owners["secretKey"] == ledger["secretKey"] == "AIRFLOW_CONN_RATCHET_LEDGER"
    assert owners["remoteRef"] != ledger["remoteRef"]
    (step,) = JOB["spec"]["template"]["spec"]["initContainers"]
    assert step["args"] == ["/opt/ratchet/deploy/container/owner", "release"]
    assert step["envFrom"] == [{"secretRef": {"name": "ratchet-owner"}}]
    others = [JOB["spec"]["template"]["spec"]["containers"], *(documents(f"helm/{each.name}") for each in CHART)]
    assert "ratchet-owner" not in str(others)


def test_the_components_role_is_the_one_that_is_granted() -> None:
    written = json.loads((DEPLOY / "terraform/ratchet.json").read_text())
    assert written["components"] == {"role": COMPONENTS_ROLE, "database": "ratchet"}
    assert COMPONENTS_ROLE not in written["databases"]


def test_the_chart_finds_its_secrets() -> None:
    keys = {each["metadata"]["name"]: each["spec"]["data"] for each in documents("kubernetes/secrets.yaml")}
    named = {
        VALUES["data"]["metadataSecretName"],
        *(VALUES[f"{key}SecretName"] for key in ("fernetKey", "apiSecretKey", "jwt")),
    }
    assert named == {"ratchet-airflow"}
    assert [each["secretKey"] for each in keys["ratchet-airflow"]] == list(manifests.AIRFLOW_SECRETS)
    assert "ratchet-connections" in VALUES["extraEnvFrom"]
    assert "ratchet-connections" in keys


def test_what_is_mounted_is_a_volume_and_what_kafka_asks_for_is_mounted() -> None:
    pod = JOB["spec"]["template"]["spec"]
    for volumes, mounts in (
        (VALUES["volumes"], VALUES["volumeMounts"]),
        (pod["volumes"], pod["containers"][0]["volumeMounts"]),
    ):
        assert {each["name"] for each in volumes} == {each["name"] for each in mounts}
        claims = {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}
        assert claims == {CLAIM["metadata"]["name"]}
    kafka = next(each["value"] for each in VALUES["env"] if each["name"] == "AIRFLOW_CONN_RATCHET_KAFKA")
    files = {
        f"{mount['mountPath']}/{item['path']}"
        for volume in VALUES["volumes"]
        for mount in VALUES["volumeMounts"]
        for item in volume.get("secret", {}).get("items", ())
        if volume["name"] == mount["name"]
    }
    config = connections.kafka_config(connections.parse_uri(kafka))
    assert {config["ssl_cafile"], config["ssl_certfile"], config["ssl_keyfile"]} == files


def test_pods_are_those_of_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'"apache-airflow=={VALUES["airflowVersion"]}"' in pyproject
    assert f'version = "{VALUES["defaultAirflowTag"]}"' in pyproject
    assert f"AIRFLOW_HOME={VALUES['airflowHome']}" in dockerfile
    assert f"USER {VALUES['uid']}" in dockerfile
    pod = JOB["spec"]["template"]["spec"]
    image = f"{VALUES['defaultAirflowRepository']}:{VALUES['defaultAirflowTag']}"
    steps = [*pod["initContainers"], *pod["containers"]]
    assert {step["image"] for step in steps} == {image}
    for context in (pod["securityContext"], VALUES["securityContexts"]["pod"]):
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == VALUES["uid"]
    for context in (*(step["securityContext"] for step in steps), VALUES["securityContexts"]["containers"]):
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_what_may_be_lost_is_there_twice_and_no_user_has_a_known_password() -> None:
    assert {VALUES[part]["replicas"] for part in ("scheduler", "triggerer", "apiServer")} == {2}
    assert VALUES["createUserJob"]["enabled"] is False


def test_keda_counts_by_the_concurrency_that_workers_have() -> None:
    celery = documents("helm/values-celery.yaml")[0]
    assert celery["config"]["celery"]["worker_concurrency"] > 0
    assert celery["workers"]["celery"]["keda"]["enabled"] is True
    (address,) = celery["secret"]
    assert address["secretKey"] in manifests.AIRFLOW_SECRETS
    assert celery["enableBuiltInSecretEnvVars"][address["envName"]] is False
    assert documents("helm/values-kubernetes.yaml")[0]["executor"] == "KubernetesExecutor"
