"""What deploy/ says of topics, rights, databases and secrets, written from the code: ``scripts/write-deploy-files``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from ratchet.adapters import connections
from ratchet.adapters.kafka_bus import PARTITIONS, RETENTION_DAYS
from ratchet.adapters.kafka_grants import Grant, grants
from ratchet.ports.bus import TOPICS
from ratchet.settings import CONNECTION_PREFIX, load_settings
from ratchet.stack.config import COMPONENTS_ROLE, DATABASES, LEDGER_DATABASE

_HEADER = "# Written by scripts/write-deploy-files from the code; a test compares them.\n"
_DAY_MS = 86_400_000
REPLICAS = 3
CLUSTER = "ratchet"
"""The name of the Kafka resource that topics and users belong to."""
STORE = "ratchet"
"""The name of the ClusterSecretStore, and how the names of secrets in it begin."""
AIRFLOW_SECRETS = ("connection", "fernet-key", "api-secret-key", "jwt-secret", "keda-connection")
"""The keys that Airflow's chart looks for, and the database's address as KEDA reads it: without SQLAlchemy's driver."""
SECRET_CONNECTIONS = (connections.LEDGER, connections.OPTUNA)
"""Those that hold a password; the others stand in deploy/helm/values.yaml."""


def _topics() -> dict[str, dict[str, Any]]:
    return {name: {"partitions": PARTITIONS, "retention_ms": RETENTION_DAYS[name] * _DAY_MS} for name in sorted(TOPICS)}


def _yaml(documents: list[dict[str, Any]]) -> str:
    return _HEADER + "---\n".join(yaml.safe_dump(each, sort_keys=False) for each in documents)


def _labelled(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A resource of the Strimzi operator."""
    metadata = {"name": name, "labels": {"strimzi.io/cluster": CLUSTER}}
    return {"apiVersion": "kafka.strimzi.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _topic(name: str, of: Mapping[str, Any]) -> dict[str, Any]:
    config = {"retention.ms": of["retention_ms"], "min.insync.replicas": REPLICAS - 1}
    return _labelled("KafkaTopic", name, {"partitions": of["partitions"], "replicas": REPLICAS, "config": config})


def _acl(grant: Grant) -> dict[str, Any]:
    pattern = "prefix" if grant.pattern == "prefixed" else "literal"
    resource = {"type": grant.resource, "name": grant.name, "patternType": pattern}
    return {"resource": resource, "operations": list(grant.operations), "host": "*"}


def _user(principal: str, given: tuple[Grant, ...]) -> dict[str, Any]:
    authorization = {"type": "simple", "acls": [_acl(grant) for grant in given]}
    return _labelled("KafkaUser", principal, {"authentication": {"type": "tls"}, "authorization": authorization})


def _secret(name: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """A resource of the External Secrets operator: the secret's keys, and where each comes from."""
    data = [{"secretKey": key, "remoteRef": {"key": remote}} for key, remote in keys.items()]
    spec = {
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "ClusterSecretStore", "name": STORE},
        "target": {"name": name, "creationPolicy": "Owner"},
        "data": data,
    }
    return {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": name}, "spec": spec}


def files() -> dict[str, str]:
    """Each file below deploy/ that is written, by its path there."""
    rights = grants(load_settings({}).group_id)
    topics = _topics()
    variables = {f"{CONNECTION_PREFIX}{each.upper()}": each.replace("_", "-") for each in SECRET_CONNECTIONS}
    named = {
        principal: [
            {"resource": g.resource, "name": g.name, "pattern": g.pattern, "operations": list(g.operations)}
            for g in given
        ]
        for principal, given in rights.items()
    }
    terraform = {"topics": topics, "grants": named, "databases": list(DATABASES)}
    terraform["components"] = {"role": COMPONENTS_ROLE, "database": LEDGER_DATABASE}
    return {
        "kubernetes/topics.yaml": _yaml([_topic(name, of) for name, of in topics.items()]),
        "kubernetes/users.yaml": _yaml([_user(principal, given) for principal, given in rights.items()]),
        "kubernetes/secrets.yaml": _yaml(
            [
                _secret("ratchet-airflow", {key: f"{STORE}-airflow-{key}" for key in AIRFLOW_SECRETS}),
                _secret("ratchet-connections", variables),
                _secret("ratchet-owner", {f"{CONNECTION_PREFIX}{connections.LEDGER.upper()}": "ratchet-ledger-owner"}),
            ]
        ),
        "terraform/ratchet.json": json.dumps(terraform, indent=2) + "\n",
    }
