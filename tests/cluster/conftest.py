"""The cluster's services, each test module's own; ``scripts/cluster-test`` says what they need."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_processes import Services, missing

from ratchet.stack import container_secrets

NEEDED = ("redis-server", "redis-cli", "versitygw", "wget", "java")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """No service yet, and every secret."""
    if "RATCHET_CLUSTER_PYTHON" not in os.environ:
        pytest.skip("scripts/cluster-test runs these: they need the packages of the image")
    if lacking := missing(*NEEDED):
        pytest.fail(f"{', '.join(lacking)} cannot be found: scripts/cluster-test installs them where it may")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped in any case
    folder = tmp_path_factory.mktemp("cluster")
    made = Services(
        folder, Path(os.environ["RATCHET_CLUSTER_PYTHON"]), int(os.environ.get("RATCHET_CLUSTER_PORT_BASE", "28720"))
    )
    container_secrets.make(folder / "secrets", ["localhost"])
    try:
        yield made
    finally:
        made.stop()
        if keep := os.environ.get("RATCHET_CLUSTER_LOGS"):
            _keep(folder / "out", Path(keep))


def _keep(logs: Path, where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    for log in logs.iterdir():
        (where / log.name).write_bytes(log.read_bytes())
