"""The brokers of docker-compose.yaml's cluster as processes: their start script and settings, certificates, and rights.

Only addresses differ: three ports of this machine in place of three hosts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from ruamel.yaml import YAML
from test_bus import Shelf, until
from test_kafka_secured import free_ports

from ratchet.adapters import kafka_grants
from ratchet.adapters.connections import ConnectionInfo, kafka_config, parse_uri
from ratchet.adapters.kafka_bus import KafkaBus
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.errors import Refused, Unavailable
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, DRIFT
from ratchet.settings import load_settings
from ratchet.stack import container_secrets
from ratchet.stack import kafka as broker
from ratchet.stack.config import load_config

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(
        not os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP"), reason="no stack is running (scripts/integration-tests)"
    ),
]
ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yaml").read_text())["services"]
GROUP = load_settings().group_id
TOOLS = {"kafka-storage.sh": "kafka.tools.StorageTool", "kafka-server-start.sh": "kafka.Kafka"}


@dataclass
class Cluster:
    folder: Path
    ports: list[int]
    nodes: list[subprocess.Popen[bytes]]

    def connection(self, principal: str) -> ConnectionInfo:
        keys = self.folder / "secrets" / container_secrets.PRINCIPALS.get(principal, "kafka")
        files = {"cafile": "ca.pem", "certfile": f"{principal}.pem", "keyfile": f"{principal}.key"}
        query = "&".join(f"ssl_{name}={quote(str(keys / file), safe='')}" for name, file in files.items())
        servers = ",".join(f"localhost:{port}" for port in self.ports)
        return parse_uri(f"kafka://?bootstrap_servers={servers}&security_protocol=SSL&{query}")

    def config(self, principal: str) -> dict[str, Any]:
        return kafka_config(self.connection(principal))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    config = load_config(load_settings({"RATCHET_HOME": str(folder)}), {"RATCHET_HOME": str(folder)})
    broker.fetch(config)
    for tool, main in TOOLS.items():
        file = folder / "bin" / tool
        file.parent.mkdir(exist_ok=True)
        classes = f"{broker.libraries(config)}/*"
        file.write_text(f'#!/bin/sh\nexec java $KAFKA_HEAP_OPTS $KAFKA_LOG4J_OPTS -cp "{classes}" {main} "$@"\n')
        file.chmod(0o755)
    container_secrets.make(folder / "secrets", ["localhost"])
    ports = free_ports(6)
    voters = ",".join(f"{node}@localhost:{ports[2 + node]}" for node in (1, 2, 3))
    made = Cluster(folder, ports[:3], [])
    with contextlib.ExitStack() as stack:
        for node in (1, 2, 3):
            service = SERVICES[f"kafka-{node}"]
            scratch = folder / f"node-{node}"
            scratch.mkdir()
            environment = {name: str(value) for name, value in service["environment"].items()} | {
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "SCRATCH": str(scratch),
                "DATA": str(scratch / "data"),
                "KEYS": str(folder / "secrets" / "kafka"),
                "VOTERS": voters,
                "LISTENERS": f"SSL://127.0.0.1:{ports[node - 1]},CONTROLLER://127.0.0.1:{ports[2 + node]}",
                "ADVERTISED": f"SSL://localhost:{ports[node - 1]}",
                "KAFKA_LOG4J_OPTS": f"-Dlog4j2.configurationFile={ROOT / 'deploy/kafka/log4j2.properties'}",
            }
            command = [part.replace("/etc/ratchet", str(ROOT / "deploy/kafka")) for part in service["command"]]
            log = stack.enter_context((scratch / "log").open("w"))
            made.nodes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=scratch))
        try:
            until(lambda: _ready(made), 180)
            assert kafka_grants.give(made.connection("operator"), GROUP) == ["ratchet", "monitor", "audience"]
            until(lambda: _has_rights(made), 30)  # brokers hear of them one after the other
            yield made
        finally:
            for process in made.nodes:
                process.kill()
                process.wait(30)


def _ready(cluster: Cluster) -> bool:
    for node, process in enumerate(cluster.nodes, 1):
        assert process.poll() is None, (cluster.folder / f"node-{node}" / "log").read_text()[-4000:]
    with (
        contextlib.suppress(Unavailable, KafkaError),
        contextlib.closing(KafkaBus(cluster.connection("operator"))) as bus,
    ):
        bus.ensure_topics()
        return True
    return False


def _has_rights(cluster: Cluster) -> bool:
    for principal, topic in (("ratchet", DECISIONS), ("monitor", DRIFT)):
        with contextlib.suppress(KafkaError):
            write(cluster, principal, topic)
            continue
        return False
    return True


def write(cluster: Cluster, principal: str, topic: str) -> None:
    producer = KafkaProducer(**cluster.config(principal), acks="all", max_block_ms=15_000)
    with contextlib.closing(producer):
        producer.send(topic, value=b"{}", key=b"model").get(20)


def read(cluster: Cluster, principal: str, topic: str, group: str) -> int:
    consumer = KafkaConsumer(topic, **cluster.config(principal), group_id=group, auto_offset_reset="earliest")
    found = 0
    with contextlib.closing(consumer):
        for _ in range(60):
            found += sum(len(batch) for batch in consumer.poll(timeout_ms=500).values())
            if found:
                return found
    return found


def pump(cluster: Cluster, key: bytes) -> None:
    connection, sink, stop = cluster.connection("ratchet"), Shelf(), threading.Event()
    with contextlib.closing(KafkaBus(connection)) as bus:
        bus.publish(DRIFT, key, b"{}")
        bus.flush()
        thread = threading.Thread(target=IntakeLoop(connection, GROUP, sink, stop, lambda _: None).run, daemon=True)
        thread.start()
        try:
            until(lambda: sink.values(key) == [b"{}"], 60)
            until(lambda: bus.lag(GROUP)[DRIFT] == 0, 30)
        finally:
            stop.set()
            thread.join(10)


def test_ratchet_takes_in_and_tells(cluster: Cluster) -> None:
    pump(cluster, b"a")
    for topic in (DEAD_LETTER, DECISIONS):
        write(cluster, "ratchet", topic)


def test_a_monitor_publishes_and_reads_nothing(cluster: Cluster) -> None:
    write(cluster, "monitor", DRIFT)
    with pytest.raises(KafkaError):
        write(cluster, "monitor", DECISIONS)
    with pytest.raises((TopicAuthorizationFailedError, GroupAuthorizationFailedError)):
        read(cluster, "monitor", DRIFT, GROUP)


def test_the_audience_reads_what_was_decided_in_a_group_of_its_own_and_writes_nothing(cluster: Cluster) -> None:
    write(cluster, "ratchet", DECISIONS)
    assert read(cluster, "audience", DECISIONS, f"{kafka_grants.AUDIENCE_GROUPS}serving")
    with pytest.raises(GroupAuthorizationFailedError):
        read(cluster, "audience", DECISIONS, GROUP)
    with pytest.raises(KafkaError):
        write(cluster, "audience", DRIFT)


def test_only_the_operator_gives_rights(cluster: Cluster) -> None:
    with pytest.raises((Refused, Unavailable)):
        kafka_grants.give(cluster.connection("ratchet"), GROUP)


def test_who_shows_no_certificate_is_not_heard(cluster: Cluster) -> None:
    stranger = cluster.config("monitor")
    del stranger["ssl_certfile"], stranger["ssl_keyfile"]
    with pytest.raises(KafkaError):
        KafkaConsumer(**stranger, bootstrap_timeout_ms=5_000).topics()


def test_a_broker_may_die(cluster: Cluster) -> None:
    cluster.nodes[1].kill()
    cluster.nodes[1].wait(30)
    pump(cluster, b"b")
    write(cluster, "ratchet", DECISIONS)
