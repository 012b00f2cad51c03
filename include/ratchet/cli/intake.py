"""``ratchet intake``: is anybody pumping, and how far behind."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.tables import AsJson, print_rows
from ratchet.ports.ledger import PumpRow
from ratchet.workflow.sweeping import INTAKE_ABSENT_SECONDS


def intake(as_json: AsJson = False) -> None:
    """Every pump of the last day: when it last beat, what it reads and its lag, its last error, its alarm.

    Lag is in records per topic/partition. Ends with 1 when no pump has beaten for five minutes: records then wait in
    Kafka, and inbound topics keep them for 30 days.

    ratchet intake
    """
    with wire().ledger.transaction() as tx:
        pumps, now = tx.pumps(), tx.wall()
    alive = any(_age(row, now) <= INTAKE_ABSENT_SECONDS for row in pumps)
    if as_json:
        typer.echo(json.dumps({"alive": alive, "pumps": [vars(row) for row in pumps]}, default=str, indent=1))
    elif pumps:
        shown = [_shown(row, now) for row in pumps]
        print_rows(shown, list(shown[0]), as_json=False)
    if not alive:
        typer.secho(
            "no pump has beaten for five minutes. Is a triggerer up? ratchet status", fg=typer.colors.RED, err=True
        )
        raise typer.Exit(1)


def _age(row: PumpRow, now: datetime) -> float:
    return float("inf") if row.beat_at is None else (now - row.beat_at).total_seconds()


def _shown(row: PumpRow, now: datetime) -> dict[str, Any]:
    lag = ", ".join(f"{spot} {behind}" for spot, behind in sorted(row.lag.items()))
    told = [f"{name}: {text}" for name, text in (("alarm", row.alarm), ("last error", row.last_error)) if text]
    return {
        "pump": row.instance,
        "group": row.group_id,
        "beat": f"{_age(row, now):.0f} s ago",
        "stored": row.stored,
        "rejected": row.rejected,
        "behind": sum(row.lag.values()),
        "lag, alarm, error": "; ".join([lag, *told]),
    }
