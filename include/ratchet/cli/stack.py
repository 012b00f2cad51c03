"""The local stack: ``ratchet up``, ``down`` and ``status``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.stack import api


def up(
    only: Annotated[
        str | None, typer.Option(help="Comma-separated: postgres, kafka, mlflow, airflow. What they need comes along.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the local stack in the background and wait until it is ready.

    ratchet up --only postgres,kafka
    """
    began, waits = time.monotonic(), [part.strip() for part in only.split(",")] if only else None

    def show(name: str, row: Mapping[str, Any]) -> None:
        seconds = row["ready_after"]
        took = "" if seconds is None else f" {seconds:6.1f} s"
        typer.echo(f"  {name:<16} {row['phase']:<6}{took}", err=as_json)

    config = api.up(waits, on_ready=show)
    rows, seconds = api.status(), time.monotonic() - began
    done: dict[str, Any] = {"home": config.home, "seconds": round(seconds, 1), "units": _units(rows)}
    lines = [f"The stack is up after {seconds:.1f} s; its state and logs: {config.home}"]
    if "api-server" in rows:
        password = config.secrets["admin"]
        done["airflow"] = {"url": config.airflow_url, "user": "admin", "password": password}
        lines.append(f"Airflow   {config.airflow_url}   user admin, password {password}")
    if "mlflow" in rows:
        done["mlflow"] = {"url": config.mlflow_url}
        lines.append(f"MLflow    {config.mlflow_url}")
    if "kafka" in rows:
        done["kafka"] = {"bootstrap": config.bootstrap}
        lines.append(f"Kafka     {config.bootstrap}")
    print_done(done, lines, as_json=as_json)


def down(as_json: AsJson = False) -> None:
    """Stop the local stack; its data stays.

    ratchet down
    """
    with working("stopping the stack"):
        stopped = api.down()
    print_done({"stopped": stopped}, ["The stack is down." if stopped else "Nothing was running."], as_json=as_json)


def status(as_json: AsJson = False) -> None:
    """Tell what runs.

    ratchet status
    """
    units = _units(api.status())
    if not units and not as_json:
        typer.echo("Nothing was started here: `ratchet up`")
        return
    shown = [
        unit | {"ready after": None if unit["ready_after"] is None else f"{unit['ready_after']:.1f} s"}
        for unit in units
    ]
    columns = ["unit", "phase", "pid", "ready after", "exits", "detail"]
    print_rows(units if as_json else shown, columns, as_json=as_json)


def _units(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"unit": name, **row} for name, row in rows.items()]


def register(app: typer.Typer) -> None:
    """Add the three commands to the command line."""
    for command in (up, down, status):
        app.command()(command)
