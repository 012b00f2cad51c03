"""``up``, ``down``, ``status`` and what tests need, over the plan and the supervisor."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet import settings
from ratchet.stack import control, plan, processes, supervisor, units
from ratchet.stack.config import StackConfig, load_config, write_files
from ratchet.stack.control import Rows, StackError
from ratchet.stack.units import Phase, Unit

COMPONENTS = plan.COMPONENTS
UP_SECONDS = 900.0

Progress = Callable[[str, Mapping[str, Any]], None]


def _silent(_name: str, _row: Mapping[str, Any]) -> None:
    return


def _run_folder() -> Path:
    return settings.load_settings().home / "run"


def _wanted(everything: Sequence[Unit], only: Sequence[str] | None) -> tuple[Unit, ...]:
    if not only:
        return tuple(everything)
    names: list[str] = []
    for group in only:
        if group not in plan.GROUPS:
            raise StackError(f"up: --only takes {', '.join(plan.GROUPS)}, but got {group!r}")
        present = {unit.name for unit in everything}
        names += [name for name in plan.GROUPS[group] if name in present]
    return units.closure(everything, names)


def _check_ports(config: StackConfig, starting: Collection[str]) -> None:
    """The ports of the components that are to start are free. Raises StackError naming the variable to change."""
    components = {
        "airflow": "api-server",
        "mlflow": "mlflow",
        "kafka": "kafka",
        "kafka_controller": "kafka",
        "postgres": "postgres",
    }
    for name, port in plan.own_ports(config).items():
        if components[name] not in starting:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise StackError(
                    f"port {port} ({name}): {error.strerror}. Set RATCHET_{name.upper()}_PORT, "
                    "or RATCHET_PORT_BASE for all ports."
                ) from error


def _alive(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {name: row for name, row in state.items() if processes.is_alive(supervisor.identity_of(row))}


def up(only: Sequence[str] | None = None, *, on_ready: Progress = _silent, timeout: float = UP_SECONDS) -> StackConfig:
    """Start what is missing of the stack, wait until all of it is ready, and return where it listens.

    ``only`` names groups (postgres, kafka, mlflow, airflow); what they need comes along, what already runs stays.
    ``on_ready`` hears of every unit as it gets ready. Raises StackError with the end of the log of what failed.
    """
    environment = settings.environment()
    config = load_config(settings.load_settings(), environment)
    config.run.mkdir(exist_ok=True, mode=0o700)
    state = _alive(supervisor.read_state(config.run))
    everything = plan.build(config)
    wanted = _wanted(everything, only)
    _check_ports(config, {unit.name for unit in wanted} - set(state))
    variables = write_files(config)
    names = {unit.name for unit in wanted} | set(state)
    supervised = units.closure(everything, [unit.name for unit in everything if unit.name in names])
    control.start(config.run, supervised, {**environment, **variables})
    for name, row in control.progress(config.run, wanted, timeout=timeout):
        on_ready(name, row)
    return config


def down() -> bool:
    """Stop everything of this home; False when nothing ran. Returns when no process is left."""
    return control.stop(_run_folder())


def status() -> Rows:
    """One row per unit: phase, pid, seconds until ready, detail. Right also where the supervisor was killed."""
    run = _run_folder()
    rows = control.request(run, op="status")
    if rows is not None:
        return rows
    rows = supervisor.read_state(run)
    for row in rows.values():
        alive = processes.is_alive(supervisor.identity_of(row))
        if alive:
            row.update(detail="runs without its supervisor: `ratchet up` adopts it, `ratchet down` stops it")
        elif row["phase"] not in {Phase.DONE, Phase.FAILED}:
            row.update(phase=str(Phase.STOPPED), pid=None, start=None)
    return rows


def component_pid(name: str) -> int:
    """The process id of a running component. Raises StackError when it does not run."""
    row = status().get(name)
    identity = supervisor.identity_of(row) if row else None
    if identity is None or not processes.is_alive(identity):
        raise StackError(f"{name} does not run: see `ratchet status`")
    return identity.pid
