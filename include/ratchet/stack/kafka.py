"""Our own broker: Apache Kafka from its Maven artifacts, one KRaft node, run by Java 17 or later."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from ratchet.stack.config import LOOPBACK, StackConfig
from ratchet.stack.control import StackError

JAVA_AT_LEAST = 17
NODE_ID = 1
_INSTEAD = "or set RATCHET_KAFKA_BOOTSTRAP=host:port to use a broker that runs already"


def libraries(config: StackConfig) -> Path:
    """Where the jars lie: shared by all homes of a checkout, another folder for another ``pom.xml``."""
    pom = (config.root / "deploy" / "kafka" / "pom.xml").read_bytes()
    return config.root / ".tools" / "kafka" / hashlib.sha256(pom).hexdigest()[:12]


def java_version(text: str) -> int:
    """The major version in the output of ``java -version``; 0 when there is none."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else 0


def _java_present() -> bool:
    if shutil.which("java") is None:
        return False
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    return java_version(answer.stderr) >= JAVA_AT_LEAST


def _require(tool: str, package: str, *, present: bool) -> None:
    """Install a missing tool where we may, else say in one sentence what to install."""
    if present:
        return
    if os.getuid() == 0 and shutil.which("apt-get"):
        print(f"installing {package}", flush=True)
        quiet = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0"]
        subprocess.run([*quiet, "update"], check=False)
        if subprocess.run([*quiet, "install", "--no-install-recommends", package], check=False).returncode == 0:
            return
    raise StackError(f"Kafka: {tool} is missing. Install it (Debian: apt-get install {package}), {_INSTEAD}.")


def fetch(config: StackConfig) -> None:
    """Java, and the jars, once; a download that was cut off leaves nothing behind."""
    _require(f"Java {JAVA_AT_LEAST} or later", "openjdk-17-jre-headless", present=_java_present())
    target = libraries(config)
    if target.is_dir():
        return
    _require("Maven (mvn)", "maven", present=shutil.which("mvn") is not None)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    pom = config.root / "deploy" / "kafka" / "pom.xml"
    try:
        subprocess.run(
            ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={draft}"],
            check=True,
        )
        if not target.is_dir():
            draft.rename(target)
    except subprocess.CalledProcessError as error:
        raise StackError(
            f"Kafka: Maven could not fetch the broker (its message is above). Try again, {_INSTEAD}."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _java(config: StackConfig, heap: str, main: str, *arguments: str) -> tuple[str, ...]:
    logging = config.root / "deploy" / "kafka" / "log4j2.properties"
    return (
        *("java", *heap.split(), f"-Dlog4j2.configurationFile={logging}", "-Djava.awt.headless=true"),
        *("-cp", str(libraries(config) / "*"), main, *arguments),
    )


def server_command(config: StackConfig) -> tuple[str, ...]:
    """What the supervisor runs."""
    return _java(
        config, "-Xms256m -Xmx512m -XX:+UseG1GC", "kafka.Kafka", str(config.home / "kafka" / "server.properties")
    )


def properties(config: StackConfig) -> str:
    """The whole configuration: the template of the repository and what belongs to this home."""
    host, controller = LOOPBACK, config.ports["kafka_controller"]
    own = {
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{host}:{controller}",
        "listeners": f"PLAINTEXT://{host}:{config.ports['kafka']},CONTROLLER://{host}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{host}:{config.ports['kafka']}",
        "log.dirs": config.home / "kafka" / "data",
    }
    template = (config.root / "deploy" / "kafka" / "server.properties").read_text()
    return template + "\n" + "".join(f"{name}={value}\n" for name, value in own.items())


def prepare(config: StackConfig) -> None:
    """Jars, configuration, and storage formatted once with a cluster id that is kept."""
    fetch(config)
    folder = config.home / "kafka"
    folder.mkdir(exist_ok=True)
    server_properties = folder / "server.properties"
    server_properties.write_text(properties(config))
    if (folder / "data" / "meta.properties").exists():
        return
    cluster = folder / "cluster.id"
    if not cluster.exists():
        cluster.write_text("R" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode()[1:22])
    shutil.rmtree(folder / "data", ignore_errors=True)
    arguments = ("format", "--cluster-id", cluster.read_text(), "--config", str(server_properties))
    subprocess.run(_java(config, "-Xmx128m", "kafka.tools.StorageTool", *arguments), check=True)
