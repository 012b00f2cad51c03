"""How the image's services and the brokers come up: secrets made once, filled in, and a broker put together."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from compose_file import ROOT, SERVICES, mounts
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ratchet.stack import container_secrets

ENTRYPOINT = ROOT / "deploy/container/entrypoint"


def start(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ENTRYPOINT), *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **variables},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    container_secrets.make(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_secrets_are_made_once_and_differ_between_installations(made: Path, tmp_path: Path) -> None:
    before = contents(made)
    container_secrets.make(made)
    assert contents(made) == before
    container_secrets.make(tmp_path)
    assert not set(contents(tmp_path).values()) & set(before.values())


def test_a_removed_secret_is_made_again_and_no_other(made: Path, tmp_path: Path) -> None:
    container_secrets.make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "ratchet" / "api").unlink()
    container_secrets.make(tmp_path)
    assert {name for name, content in contents(tmp_path).items() if before[name] != content} == {"ratchet/api"}


def test_a_certificate_in_its_last_weeks_is_made_anew_for_the_key_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_secrets, "CERTIFICATE_DAYS", container_secrets.RENEWED_DAYS - 1)
    container_secrets.make(tmp_path)
    old, ends = contents(tmp_path), container_secrets.certificates(tmp_path)
    monkeypatch.undo()
    container_secrets.make(tmp_path)
    new = contents(tmp_path)
    assert {Path(name).suffix for name in new if new[name] != old[name]} == {".pem"}
    later = {name for name, end in container_secrets.certificates(tmp_path).items() if end > ends[name]}
    assert later == {
        f"{folder}/{name}.pem" for name, folder in {"broker": "kafka", **container_secrets.PRINCIPALS}.items()
    }
    store = (tmp_path / "kafka/broker.store.pem").read_bytes()
    shown = x509.load_pem_x509_certificate(store).public_key()
    assert shown == load_pem_private_key(store, password=None).public_key()
    container_secrets.make(tmp_path)
    assert contents(tmp_path) == new


def test_who_needs_a_password_no_more_has_it_no_more(tmp_path: Path) -> None:
    container_secrets.make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "ratchet/postgres").write_bytes(before["postgres/postgres"])  # as an older version did
    container_secrets.make(tmp_path)
    assert contents(tmp_path) == before


def test_the_image_has_every_folder_that_secrets_are_made_in(made: Path) -> None:
    """A volume takes its owner from the image; where there is no folder it is root's, and nothing can be made."""
    (listed,) = re.findall(r"for name in ([\w ]+); do \\\n +install -d .* /secrets/", (ROOT / "Dockerfile").read_text())
    mounted = {target.removeprefix("/secrets/") for target in mounts(SERVICES["secrets"]).values()}
    assert set(listed.split()) == mounted == {file.split("/")[0] for file in contents(made)}


def test_both_sides_have_the_same_password(made: Path) -> None:
    for name, folders in container_secrets.PASSWORDS.items():
        assert len({(made / folder / name).read_text() for folder in folders}) == 1
    assert (made / "redis/redis.conf").read_text() == f"requirepass {(made / 'ratchet/redis').read_text()}\n"


def test_a_broker_shows_its_name_and_a_client_cannot_pose_as_one(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "authority/ca.pem").read_bytes())
    key = authority.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    for name, folder in {"broker": "kafka", **container_secrets.PRINCIPALS}.items():
        certificate = x509.load_pem_x509_certificate((made / folder / f"{name}.store.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
        assert certificate.subject.rfc4514_string() == f"CN={name}"
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (x509.ExtendedKeyUsageOID.SERVER_AUTH in usages) == (name == "broker")
    broker = x509.load_pem_x509_certificate((made / "kafka/broker.pem").read_bytes())
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [name for name in SERVICES if name.startswith("kafka-")]


def test_every_secret_that_a_service_asks_for_is_in_what_it_mounts(made: Path) -> None:
    for name, service in SERVICES.items():
        folders = {source.removesuffix("-secrets") for source in mounts(service) if source.endswith("-secrets")}
        there = {f"/run/secrets/{file}" for file in contents(made) if file.split("/")[0] in folders}
        text = str(service).replace("%2F", "/")
        own = service.get("environment", {}).get("RATCHET_SECRETS", "/run/secrets/ratchet")
        for asked in re.findall(r"\{\{([a-z0-9-]+)\}\}", text):
            assert f"{own}/{asked}" in there, f"{name}: {asked}"
        for path in re.findall(r"/run/secrets/[\w/.-]+\w", text):
            assert path in there or path.count("/") == 3, f"{name}: {path}"


def test_secrets_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("s3cret\n")
    shown = start("printenv", "URL", RATCHET_SECRETS=str(tmp_path), URL="redis://:{{one}}@redis:6379/0")
    assert shown.stdout == "redis://:s3cret@redis:6379/0\n"


def test_a_secret_that_is_missing_is_told_by_name(tmp_path: Path) -> None:
    shown = start("printenv", RATCHET_SECRETS=str(tmp_path), URL="{{absent}}")
    assert shown.returncode == 1
    assert "'absent'" in shown.stderr
    assert str(tmp_path) in shown.stderr


def test_airflows_password_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "admin").write_text("s3cret")
    start("true", RATCHET_SECRETS=str(tmp_path), AIRFLOW_HOME=str(tmp_path), RATCHET_ADMIN_PASSWORD="{{admin}}")
    file = tmp_path / "passwords.json"
    assert file.read_text() == '{"admin": "s3cret"}'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def broker(folder: Path, node: str, **more: str) -> dict[str, str]:
    """Start a node with stand-ins for Kafka's tools; what it is made of, and the tools' arguments as `run`."""
    for tool in ("kafka-storage.sh", "kafka-server-start.sh"):
        file = folder / "bin" / tool
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> {folder}/run\n')
        file.chmod(0o755)
    (folder / "run").unlink(missing_ok=True)
    service = SERVICES[node]
    kind = ROOT / service["command"][1].replace("/etc/ratchet", "deploy/kafka")
    environment = {key: str(value) for key, value in service["environment"].items()}
    environment |= {"PATH": f"{folder}/bin:{os.environ['PATH']}", "SCRATCH": str(folder), **more}
    subprocess.run(["sh", str(ROOT / "deploy/kafka/start"), str(kind)], env=environment, check=True)
    lines = [line for line in (folder / "server.properties").read_text().splitlines() if line and line[0] != "#"]
    assert len({line.split("=")[0] for line in lines}) == len(lines), "a property is said twice"
    return dict(line.split("=", 1) for line in lines) | {"run": (folder / "run").read_text()}


def test_a_node_of_the_cluster_knows_the_others_and_keeps_its_keys_apart(made: Path, tmp_path: Path) -> None:
    node = broker(tmp_path, "kafka-2", KEYS=str(made / "kafka"), DATA=str(tmp_path / "data"))
    assert node["node.id"] == "2"
    assert node["controller.quorum.voters"] == "1@kafka-1:9093,2@kafka-2:9093,3@kafka-3:9093"
    assert node["ssl.keystore.location"] == f"{made}/kafka/broker.store.pem"
    assert node["allow.everyone.if.no.acl.found"] == "false"
    cluster = (made / "kafka/cluster").read_text()
    assert node["run"].splitlines()[0].startswith(f"kafka-storage.sh format --cluster-id {cluster} ")
    assert node["run"].splitlines()[1] == f"kafka-server-start.sh {tmp_path}/server.properties"


def test_a_formatted_node_is_not_formatted_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    first = broker(tmp_path, "kafka", DATA=str(tmp_path / "data"))
    (tmp_path / "data/meta.properties").touch()
    second = broker(tmp_path, "kafka", DATA=str(tmp_path / "data"))
    assert "kafka-storage.sh format" in first["run"]
    assert "kafka-storage.sh" not in second["run"]
