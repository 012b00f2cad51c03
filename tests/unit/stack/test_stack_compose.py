"""docker-compose.yaml: no secret of its own, no root, the services of the local stack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ratchet.stack import COMPONENTS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docker-compose.yaml").read_text()
SERVICES: dict[str, Any] = YAML(typ="safe").load(TEXT)["services"]
SECRET_NAME = re.compile(r"PASSWORD|SECRET|FERNET|TOKEN")


def test_it_runs_every_component_of_the_local_stack() -> None:
    assert set(COMPONENTS) <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_runs_as_root(name: str) -> None:
    assert str(SERVICES[name].get("user", "root")).split(":")[0] not in {"root", "0"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_secret_comes_from_outside_and_has_no_default(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAME.search(variable) and not variable.endswith("_FILE"):
            assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", str(value)), f"{variable} must be ${{NAME:?message}}"
        assert not re.search(r"://[^/@$]+:[^$@/][^@]*@", str(value)), f"{variable} holds a password"


def test_every_secret_is_asked_for_with_a_message() -> None:
    secrets = [match for match in re.findall(r"\$\{(\w+)([^}]*)\}", TEXT) if SECRET_NAME.search(match[0])]
    assert secrets
    assert not [name for name, rest in secrets if not rest.startswith(":?")]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


def test_the_image_ends_as_another_user_than_root() -> None:
    users = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert users
    assert users[-1] not in {"root", "0"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_only_for_services_that_exist(name: str) -> None:
    assert set(SERVICES[name].get("depends_on", ())) <= set(SERVICES)
