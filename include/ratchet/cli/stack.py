"""The commands ``ratchet up``, ``down`` and ``status``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ratchet.stack import api
from ratchet.stack.control import StackError


def _refuse(error: StackError) -> typer.Exit:
    typer.secho(f"ratchet: {error}", fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def _show(name: str, row: Mapping[str, Any]) -> None:
    seconds = row["ready_after"]
    typer.echo(f"  {name:<16} {row['phase']:<6}" + ("" if seconds is None else f" {seconds:6.1f} s"))


def up(
    only: Annotated[
        str | None, typer.Option(help="Comma-separated: postgres, kafka, mlflow, airflow. What they need comes along.")
    ] = None,
) -> None:
    """Start the local stack in the background and wait until it is ready."""
    began = time.monotonic()
    try:
        config = api.up([part.strip() for part in only.split(",")] if only else None, on_ready=_show)
    except StackError as error:
        raise _refuse(error) from error
    typer.echo(f"The stack is up after {time.monotonic() - began:.1f} s; its state and logs: {config.home}")
    rows = api.status()
    if "api-server" in rows:
        typer.echo(f"Airflow   {config.airflow_url}   user admin, password {config.secrets['admin']}")
    if "mlflow" in rows:
        typer.echo(f"MLflow    {config.mlflow_url}")
    if "kafka" in rows:
        typer.echo(f"Kafka     {config.bootstrap}")


def down() -> None:
    """Stop the local stack; its data stays."""
    try:
        stopped = api.down()
    except StackError as error:
        raise _refuse(error) from error
    typer.echo("The stack is down." if stopped else "Nothing was running.")


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Tell what runs."""
    rows = api.status()
    if as_json:
        typer.echo(json.dumps([{"unit": name, **row} for name, row in rows.items()], default=str, indent=1))
        return
    if not rows:
        typer.echo("Nothing was started here: `ratchet up`")
        return
    typer.echo(f"{'unit':<16} {'phase':<12} {'pid':>8} {'ready after':>12} {'exits':>6}  detail")
    for name, row in rows.items():
        seconds = "" if row["ready_after"] is None else f"{row['ready_after']:.1f} s"
        typer.echo(
            f"{name:<16} {row['phase']:<12} {row['pid'] or '':>8} {seconds:>12} {row['exits']:>6}  {row['detail']}"
        )


def register(app: typer.Typer) -> None:
    """Add the three commands to the command line."""
    for command in (up, down, status):
        app.command()(command)
