"""docker-compose.yaml as tests read it: its anchors resolved, the services of a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docker-compose.yaml").read_text()
COMPOSE: dict[str, Any] = YAML(typ="safe").load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
PROFILES = ("minimal", "cluster")


def of_profile(profile: str) -> dict[str, Any]:
    """What `docker compose --profile <profile> up` starts."""
    return {name: service for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}


def is_once(service: dict[str, Any]) -> bool:
    """Whether it ends by itself: a step, not a server."""
    return service["restart"] == "no"


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where each volume or file of ours is mounted, with `:ro` where it is."""
    return dict(mount.split(":", 1) for mount in service.get("volumes", ()))
