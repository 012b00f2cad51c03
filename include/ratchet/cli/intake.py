"""``ratchet intake``: is anybody pumping, and how far behind."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import wire
from ratchet.ports.ledger import PumpRow
from ratchet.workflow.sweeping import INTAKE_ABSENT_SECONDS

console = Console(soft_wrap=True)


def intake(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Every pump of the last day: when it last beat, what it reads and its lag, its last error, its alarm.

    Lag is in records per topic/partition. Ends with 1 when no pump has beaten for five minutes: records then wait in
    Kafka, and inbound topics keep them for 30 days.
    """
    with wire().ledger.transaction() as tx:
        pumps, now = tx.pumps(), tx.wall()
    alive = any(_age(row, now) <= INTAKE_ABSENT_SECONDS for row in pumps)
    if as_json:
        typer.echo(json.dumps({"alive": alive, "pumps": [vars(row) for row in pumps]}, default=str, indent=1))
    elif pumps:
        console.print(_table(pumps, now))
    if not alive:
        typer.secho(
            "no pump has beaten for five minutes. Is a triggerer up? ratchet status", fg=typer.colors.RED, err=True
        )
        raise typer.Exit(1)


def _age(row: PumpRow, now: datetime) -> float:
    return float("inf") if row.beat_at is None else (now - row.beat_at).total_seconds()


def _table(pumps: list[PumpRow], now: datetime) -> Table:
    table = Table("pump", "group", "beat", "lag", "stored", "rejected", "last error", "alarm")
    for row in pumps:
        cells: list[Any] = [row.instance, row.group_id, f"{_age(row, now):.0f} s ago", sum(row.lag.values())]
        table.add_row(*map(str, [*cells, row.stored, row.rejected, row.last_error or "", row.alarm or ""]))
        for spot, behind in sorted(row.lag.items()):
            table.add_row("", "", "", f"{spot}: {behind}")
    return table
