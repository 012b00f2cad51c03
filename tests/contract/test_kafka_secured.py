"""TLS and SASL through the connection, on a broker of this test's own that speaks nothing else to clients."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion
from test_bus import Shelf, until

from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_bus import KafkaBus
from ratchet.adapters.kafka_intake import IntakeLoop
from ratchet.errors import Unavailable
from ratchet.ports.bus import DRIFT
from ratchet.settings import load_settings
from ratchet.stack import kafka as broker
from ratchet.stack.config import load_config

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(
        not os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP") or shutil.which("openssl") is None,
        reason="no stack is running (scripts/integration-tests), or openssl is missing",
    ),
]
SECRET = "p&ss/w=rd"
WRONG = "n0t/it=at&all"
FORMS = {form for secret in (SECRET, WRONG) for form in (secret, quote(secret, safe=""))}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and the broker's PEM key store."""
    key, certificate, store = folder / "key.pem", folder / "ca.pem", folder / "store.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    store.write_text(key.read_text() + certificate.read_text())
    return certificate, store


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Listeners by name, as connection URIs that can be used at once, and the file of the authority."""
    folder = tmp_path_factory.mktemp("secured")
    plain, controller, sasl, ssl, both = free_ports(5)
    authority, store = make_certificate(folder)
    environment = {
        "RATCHET_HOME": str(folder),
        "RATCHET_KAFKA_PORT": str(plain),
        "RATCHET_KAFKA_CONTROLLER_PORT": str(controller),
    }
    config = load_config(load_settings(environment), environment)
    broker.prepare(config)
    login = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_ratchet="{SECRET}";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    listeners = f"PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl},BOTH://127.0.0.1:{both}"
    own = {
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,SSL:SSL,"
        "BOTH:SASL_SSL",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": login,
        "listener.name.both.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.both.scram-sha-512.sasl.jaas.config": scram,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": store,
    }
    properties = folder / "kafka" / "server.properties"
    properties.write_text(properties.read_text() + "".join(f"{name}={value}\n" for name, value in own.items()))
    with (folder / "kafka.log").open("w") as log:
        server = subprocess.Popen(broker.server_command(config), stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        until(lambda: _answers(both) or server.poll() is not None, 120)
        assert server.poll() is None, (folder / "kafka.log").read_text()[-4000:]
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=[f"127.0.0.1:{plain}"])) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion("ratchet", ScramMechanism.SCRAM_SHA_512, password=SECRET.encode())]
            )
        ca, secret = quote(str(authority), safe=""), quote(SECRET, safe="")
        yield {
            "sasl": f"kafka://ratchet:{secret}@127.0.0.1:{sasl}/?security_protocol=SASL_PLAINTEXT&sasl_mechanism=PLAIN",
            "ssl": f"kafka://127.0.0.1:{ssl}/?security.protocol=SSL&ssl.ca.location={ca}",
            "both": f"kafka://ratchet:{secret}@127.0.0.1:{both}/?sasl_mechanism=SCRAM-SHA-512&ssl_cafile={ca}",
            "wrong password": f"kafka://ratchet:{quote(WRONG, safe='')}@127.0.0.1:{both}/?sasl_mechanism=SCRAM-SHA-512"
            f"&ssl_cafile={ca}",
            "wrong plain password": f"kafka://ratchet:{quote(WRONG, safe='')}@127.0.0.1:{sasl}/"
            "?security_protocol=SASL_PLAINTEXT&sasl_mechanism=PLAIN",
            "wrong authority": f"kafka://127.0.0.1:{ssl}/?security_protocol=SSL",
        }
    finally:
        server.terminate()
        server.wait(30)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.parametrize("listener", ["sasl", "ssl", "both"])
def test_records_are_published_and_pumped_through_a_secured_listener(
    secured: dict[str, str], listener: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = parse_uri(secured[listener])
    sink, stop = Shelf(), threading.Event()
    with contextlib.closing(KafkaBus(connection)) as bus:
        bus.ensure_topics()
        bus.publish(DRIFT, listener.encode(), b"{}")
        bus.flush()
        thread = threading.Thread(target=IntakeLoop(connection, listener, sink, stop, lambda _: None).run, daemon=True)
        thread.start()
        try:
            until(lambda: sink.values(listener.encode()) == [b"{}"], 60)
            until(lambda: bus.lag(listener)[DRIFT] == 0)
        finally:
            stop.set()
            thread.join(10)
    assert_untold(caplog)


@pytest.mark.parametrize("wrong", ["wrong password", "wrong plain password", "wrong authority"])
def test_who_is_not_trusted_is_told_so_and_reads_nothing(
    secured: dict[str, str], wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with contextlib.closing(KafkaBus(parse_uri(secured[wrong]))) as bus, pytest.raises(Unavailable) as refused:
        bus.lag("anybody")
    assert_untold(caplog, "".join(traceback.format_exception(refused.value)))


def assert_untold(caplog: pytest.LogCaptureFixture, said: str = "") -> None:
    """The driver's debug lines would hold the password of PLAIN, in its configuration and in its requests."""
    logged = said + "\n".join(record.getMessage() for record in caplog.records)
    assert "kafka.net" in {record.name.rpartition(".")[0] for record in caplog.records}, "the driver was to log"
    assert not [line for line in logged.splitlines() if any(form in line for form in FORMS)]
