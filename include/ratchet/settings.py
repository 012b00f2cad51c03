"""Everything that is set from outside, read once and in one place: no other module touches ``os.environ``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ratchet.errors import Refused

CONNECTION_PREFIX = "AIRFLOW_CONN_"
RENEWALS_PER_LEASE = 3


def _repository_root() -> Path:
    """The checkout this package is installed from, or the working directory when installed as a wheel."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "include").is_dir() else Path.cwd()


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The process's environment over what ``ratchet up`` wrote to ``stack.env``.

    A variable that is set in the process wins, so that every value of the local stack can be overridden.
    """
    own = dict(os.environ if base is None else base)
    home = Path(own.get("RATCHET_HOME", _repository_root() / ".ratchet"))
    stack_env = home / "stack.env"
    merged: dict[str, str] = {}
    if stack_env.is_file():
        for line in stack_env.read_text().splitlines():
            name, found, value = line.partition("=")
            if found and not name.startswith("#"):
                merged[name.strip()] = value
    return merged | own


@dataclass(frozen=True)
class Settings:
    """What the parts need to know of where they run. Times in seconds."""

    root: Path
    home: Path
    models_dir: Path
    feature_repo_dir: Path
    data_dir: Path
    connections: Mapping[str, str] = field(repr=False)
    group_id: str = "ratchet-intake"
    unknown_hold_seconds: float = 600.0
    lease_ttl_seconds: float = 45.0
    lease_renew_seconds: float = 15.0
    lease_wait_seconds: float = 120.0
    ring_backoff_seconds: float = 60.0
    ring_backoff_max_seconds: float = 900.0
    max_event_tries: int = 3
    failpoints: bool = False
    fleet_max_attempts: int | None = None
    incident_max_attempts: int | None = 4
    airflow_url: str | None = None
    airflow_user: str | None = None
    airflow_password: str | None = field(default=None, repr=False)
    code_digest: str | None = None
    warm_workers: bool = True
    environments_dir: Path = Path(".ratchet/environments")
    build_environments: bool = True
    notifications_file: Path = Path("include/notifications.yaml")
    http_events_per_minute: int | None = 6_000
    retention_rows: timedelta | None = None
    retention_dead_letters: timedelta | None = None
    sweep_purges: int | None = None
    log_format: str = "text"
    telemetry: Mapping[str, str] = field(default_factory=dict, repr=False)
    lineage: Mapping[str, str] = field(default_factory=dict, repr=False)


def _places(env: Mapping[str, str], name: str, default: str) -> int | None:
    """A limit from 1; empty is none."""
    text = env.get(name, default).strip()
    if text and not (text.isdecimal() and int(text) > 0):
        raise Refused(f"{name} must be a whole number from 1, or empty for no limit, but got {text!r}")
    return int(text) if text else None


def _kept_for(env: Mapping[str, str], name: str) -> timedelta | None:
    """How long rows stay, such as 90d; empty is for ever."""
    text = env.get(name, "").strip()
    if not text:
        return None
    from ratchet.domain.spec import REDELIVERED_FOR, format_duration, parse_duration  # noqa: PLC0415 - rarely needed

    try:
        kept = parse_duration(text)
    except ValueError as error:
        raise Refused(f"{name}: {error}, or empty to keep all") from error
    if kept < REDELIVERED_FOR:
        least = format_duration(REDELIVERED_FOR)
        raise Refused(f"{name} must be {least} or longer, as long as Kafka may deliver a record again, but got {text}")
    return kept


def _switch(env: Mapping[str, str], name: str, default: str) -> bool:
    text = env.get(name, default).strip().lower()
    if text not in {"on", "off"}:
        raise Refused(f"{name} must be on or off, but got {text!r}")
    return text == "on"


def _one_of(env: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first when nothing is said."""
    text = env.get(name, "").strip().lower() or choices[0]
    if text not in choices:
        raise Refused(f"{name} must be {' or '.join(choices)}, but got {text!r}")
    return text


def load_settings(base: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; every path is absolute, every default is the local stack's."""
    env = environment(base)
    root = Path(env.get("RATCHET_ROOT", _repository_root())).resolve()
    home = Path(env.get("RATCHET_HOME", root / ".ratchet")).resolve()
    ttl = float(env.get("RATCHET_LEASE_TTL_SECONDS", "45"))
    return Settings(
        root=root,
        home=home,
        models_dir=Path(env.get("RATCHET_MODELS_DIR", root / "include" / "models")).resolve(),
        feature_repo_dir=Path(env.get("RATCHET_FEATURE_REPO_DIR", root / "include" / "feature_repo")).resolve(),
        data_dir=Path(env.get("RATCHET_DATA_DIR", home / "data")).resolve(),
        connections={name: value for name, value in env.items() if name.startswith(CONNECTION_PREFIX)},
        group_id=env.get("RATCHET_GROUP_ID", "ratchet-intake"),
        unknown_hold_seconds=float(env.get("RATCHET_UNKNOWN_HOLD_SECONDS", "600")),
        lease_ttl_seconds=ttl,
        lease_renew_seconds=ttl / RENEWALS_PER_LEASE,
        failpoints=bool(env.get("RATCHET_FAILPOINTS")),
        fleet_max_attempts=_places(env, "RATCHET_FLEET_MAX_ATTEMPTS", ""),
        incident_max_attempts=_places(env, "RATCHET_INCIDENT_MAX_ATTEMPTS", "4"),
        airflow_url=env.get("RATCHET_AIRFLOW_URL"),
        airflow_user=env.get("RATCHET_AIRFLOW_USER"),
        airflow_password=env.get("RATCHET_AIRFLOW_PASSWORD"),
        code_digest=env.get("RATCHET_CODE_DIGEST") or None,
        http_events_per_minute=_places(env, "RATCHET_HTTP_EVENTS_PER_MINUTE", "6000"),
        retention_rows=_kept_for(env, "RATCHET_RETENTION_ROWS"),
        retention_dead_letters=_kept_for(env, "RATCHET_RETENTION_DEAD_LETTERS"),
        sweep_purges=_places(env, "RATCHET_SWEEP_PURGES", ""),
        environments_dir=Path(env.get("RATCHET_ENVIRONMENTS", home / "environments")).resolve(),
        build_environments=_switch(env, "RATCHET_BUILD_ENVIRONMENTS", "on"),
        warm_workers=_switch(env, "RATCHET_WARM_WORKERS", "on"),
        log_format=_one_of(env, "RATCHET_LOG_FORMAT", ("text", "json")),
        telemetry={name: value for name, value in env.items() if name.startswith("OTEL_")},
        lineage={name: value for name, value in env.items() if name.startswith("OPENLINEAGE_")},
        notifications_file=Path(env.get("RATCHET_NOTIFICATIONS") or root / "include" / "notifications.yaml").resolve(),
    )
