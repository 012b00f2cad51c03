"""``ratchet costs``: core hours and storage of each owner, model or attempt, month by month."""

from __future__ import annotations

from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.costs import GIGABYTE, By, Cost, Prices, months, report
from ratchet.errors import Refused


def costs(
    month: Annotated[str | None, typer.Option(help="Only this month of business time, such as 2013-05.")] = None,
    by: Annotated[By, typer.Option(help="What a row is of.")] = "owner",
    model: Annotated[str | None, typer.Option(help="Only this model's attempts.")] = None,
    core_hour: Annotated[float | None, typer.Option(help="What a core hour costs.", min=0)] = None,
    gigabyte_month: Annotated[float | None, typer.Option(help="What a gigabyte kept for a month costs.", min=0)] = None,
    unit: Annotated[str, typer.Option(help="Of these prices.")] = "USD",
    as_json: AsJson = False,
) -> None:
    """What attempts took in each month, and what is kept of those that began up to its end; prices where given.

    A core hour is an hour of a finished step times its spec's threads, as budgets count it. Bytes are those of
    snapshots, evidence, dossiers and cards.
    """
    ratchet = wire()
    found = ratchet.costs(model)
    asked = months(found.attempts)
    if month is not None:
        if month not in asked:
            there = f"there are {asked[0]} to {asked[-1]}" if asked else "there are no attempts yet"
            raise Refused(f"--month: no attempt began in {month!r}; {there}")
        asked = (month,)
    prices = None
    if core_hour is not None or gigabyte_month is not None:
        prices = Prices(core_hour or 0.0, gigabyte_month or 0.0, unit)
    # What names no attempt has no month: it stands with the last one.
    rows = [
        row
        for one in asked
        for row in report(
            found.attempts, one, by, orphaned_bytes=found.orphaned_bytes if one == asked[-1] else 0, prices=prices
        )
    ]
    if as_json:
        print_rows([vars(row) | {"by": by, "unit": unit if prices else None} for row in rows], [], as_json=True)
        return
    columns = ["month", "attempts", "promoted", "core_hours", "gigabytes", *(["price"] if prices else []), by]
    print_rows([_told(row, by, unit) for row in rows], columns, as_json=False)


def _told(row: Cost, by: By, unit: str) -> dict[str, object]:
    price = None if row.price is None else f"{row.price:,.4f} {unit}"
    return {
        "month": row.month,
        "attempts": row.attempts,
        "promoted": row.promoted,
        "core_hours": f"{row.core_seconds / 3600:.4f}",
        "gigabytes": f"{row.stored_bytes / GIGABYTE:.4f}",
        "price": price,
        by: row.name,
    }
