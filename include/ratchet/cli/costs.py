"""``ratchet costs``: core hours and storage of each owner, model or attempt, month by month."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.costs import GIGABYTE, By, Cost, Prices, months, report
from ratchet.errors import Refused
from ratchet.workflow.costing import ModelForecast


def costs(
    month: Annotated[str | None, typer.Option(help="Only this month of business time, such as 2013-05.")] = None,
    by: Annotated[By, typer.Option(help="What a row is of.")] = "owner",
    model: Annotated[str | None, typer.Option(help="Only this model's attempts.", autocompletion=known_models)] = None,
    core_hour: Annotated[float | None, typer.Option(help="What a core hour costs.", min=0)] = None,
    gigabyte_month: Annotated[float | None, typer.Option(help="What a gigabyte kept for a month costs.", min=0)] = None,
    unit: Annotated[str, typer.Option(help="Of these prices.")] = "USD",
    forecast: Annotated[
        bool, typer.Option("--forecast", help="What the next run of each model is expected to take.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What attempts took in each month, and what is kept of those that began up to its end; prices where given.

    A core hour is an hour of a finished step times its spec's threads, as budgets count it. Bytes are those of
    snapshots, evidence, dossiers and cards, and of a model's predictions and monitor's reports. A forecast is of core
    hours: the median of what the last runs would have taken with the spec's trials, and what four of five of them would
    not exceed.

    ratchet costs --by model --core-hour 0.05
    """
    ratchet = wire()
    if forecast:
        if month is not None:
            raise Refused("--month is of what was spent; a forecast is of the next run")
        with working("forecasting the next runs"):
            forecasts = ratchet.forecasts(model)
        _print_forecasts(forecasts, core_hour, unit, as_json=as_json)
        return
    with working("counting what is kept"):
        found = ratchet.costs(model)
    asked = months((*found.attempts, *found.kept_days))
    if month is not None:
        if month not in asked:
            there = f"there are {asked[0]} to {asked[-1]}" if asked else "there are no attempts yet"
            raise Refused(f"--month: nothing is of {month!r}; {there}")
        asked = (month,)
    prices = None
    if core_hour is not None or gigabyte_month is not None:
        prices = Prices(core_hour or 0.0, gigabyte_month or 0.0, unit)
    # What names no attempt has no month: it stands with the last one.
    rows = [
        row
        for one in asked
        for row in report(
            found.attempts,
            one,
            by,
            kept_days=found.kept_days,
            orphaned_bytes=found.orphaned_bytes if one == asked[-1] else 0,
            prices=prices,
        )
    ]
    if as_json:
        print_rows([vars(row) | {"by": by, "unit": unit if prices else None} for row in rows], [], as_json=True)
        return
    columns = ["month", "attempts", "promoted", "core_hours", "gigabytes", *(["price"] if prices else []), by]
    print_rows([_told(row, by, unit) for row in rows], columns, as_json=False)


def _print_forecasts(found: list[ModelForecast], core_hour: float | None, unit: str, *, as_json: bool) -> None:
    if as_json:
        priced = {} if core_hour is None else {"core_hour": core_hour, "unit": unit}
        print_rows([asdict(one) | priced for one in found], [], as_json=True)
        return
    rows = []
    for one in found:
        told, basis = one.told, "no comparable run has finished yet"
        if told is not None:
            held = f"; {one.held} of {one.checked} runs took no more than was forecast" if one.checked else ""
            basis = f"{told.basis}{held}"
        left = "; ".join(f"{rule}: {spent:.3g} of {most:g} {of}" for rule, spent, most, of in one.limits)
        hours = {"median": told and told.median, "upper": told and told.upper}
        row = {name: None if value is None else f"{value:.4f}" for name, value in hours.items()}
        if core_hour is not None:
            row["price"] = None if told is None else f"{told.upper * core_hour:,.4f} {unit}"
        rows.append(
            {"model": one.model, "trials": one.trials} | row | {"basis": f"{basis}{'; ' + left if left else ''}"}
        )
    columns = ["model", "trials", "median", "upper", *(["price"] if core_hour is not None else []), "basis"]
    print_rows(rows, columns, as_json=False)


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
