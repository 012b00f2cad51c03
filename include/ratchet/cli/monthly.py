"""``ratchet report``: an owner's month."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows, write_page
from ratchet.domain.costs import GIGABYTE, Prices
from ratchet.domain.monthly import DAYS, OwnerMonth
from ratchet.errors import Refused

MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def report(
    owner: Annotated[str | None, typer.Option(help="Only this team; else every owner.")] = None,
    month: Annotated[str | None, typer.Option(help="Of business time, such as 2013-06; else the present one.")] = None,
    core_hour: Annotated[float | None, typer.Option(help="What a core hour costs.", min=0)] = None,
    gigabyte_month: Annotated[float | None, typer.Option(help="What a gigabyte kept for a month costs.", min=0)] = None,
    unit: Annotated[str, typer.Option(help="Of these prices.")] = "USD",
    html: Annotated[Path | None, typer.Option(help="Write the report to this file, as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """The month of each owner: attempts, verdicts, what promotions are worth at least, costs, budgets, findings.

    Findings are those of today's audit; what promotions are worth is the sum of their verdicts' lower bounds.

    ratchet report --owner ops-analytics --month 2013-06
    """
    if month is not None and not MONTH.fullmatch(month):
        raise Refused(f"--month must be like 2013-06, but got {month!r}")
    prices = None
    if core_hour is not None or gigabyte_month is not None:
        prices = Prices(core_hour or 0.0, gigabyte_month or 0.0, unit)
    with working("gathering the month"):
        months = wire().months(month, owner, prices)
    if owner is not None and not months:
        raise Refused(f"--owner: no deployed model and no attempt is of {owner!r}. See: ratchet costs")
    from ratchet.workflow.monthly_page import page, totals, verdicts  # noqa: PLC0415 - numpy, by the cards' charts

    if html is not None:
        write_page(html, page(months))
    if as_json:
        typer.echo(json.dumps([_record(each) for each in months], default=str, indent=1))
        return
    for each in months:
        typer.echo(f"{each.owner}, {each.month}: {totals(each)}")
        rows = [
            {
                "model": model.model,
                "serving": model.serving,
                "attempts": model.attempts,
                "core_hours": f"{model.core_hours:.4f}",
                "gigabytes": f"{model.stored_bytes / GIGABYTE:.4f}",
                "price": None if model.price is None else f"{model.price:,.2f} {each.unit}",
                "what came of it": verdicts(model),
            }
            for model in each.models
        ]
        columns = ["model", "serving", "attempts", "core_hours", "gigabytes", *(["price"] if prices else [])]
        print_rows(rows, [*columns, "what came of it"], as_json=False)
        _print_details(each)
    if not months:
        typer.echo("no model is deployed yet")
    if html is not None:
        typer.echo(f"written to {html}")


def _print_details(month: OwnerMonth) -> None:
    for model in month.models:
        for each in model.promotions:
            worth = "–" if each.worth is None else f"{each.worth:,.0f} {each.unit} for {DAYS} days"
            lower = "no bound" if each.lower is None else f"at least {each.lower:.4g} {each.unit} per decision"
            typer.echo(f"promoted {model.model}@{each.version} ({each.attempt}): {lower}, {worth}")
        for use in model.budget:
            typer.echo(f"budget {model.model}: {use.rule} {use.spent:.3g} of {use.allowed:g} {use.unit}")
        for finding in model.findings:
            typer.echo(f"{finding.severity} {model.model}: {finding.check}: {finding.found}")


def _record(month: OwnerMonth) -> dict[str, object]:
    return asdict(month) | {"core_hours": month.core_hours, "price": month.price, "worth": month.worth}
