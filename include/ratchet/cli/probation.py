"""What a watch has found, and what one could find: ``ratchet probation`` and the lines that ``validate`` adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ratchet.bootstrap import Ratchet, wire
from ratchet.cli.completing import known_models
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.spec import ModelSpec
from ratchet.errors import RatchetError
from ratchet.workflow.probation import plan_of


def probation(
    model: Annotated[
        str | None,
        typer.Argument(help="One model, with all its days; all models when left out.", autocompletion=known_models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The watches after promotions, newest first: days so far, estimate and confidence sequence, what it would take.

    ratchet probation flight_delay
    """
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        watches = tx.probations(model=model)
        days = tx.probation_days(model, watches[0].seq) if model and watches else []
        units = {row.model: row.document["business"]["payoff"]["unit"] for row in tx.specs()}
    rows: list[dict[str, Any]] = [
        {
            "model": watch.model,
            "version": watch.version,
            "against": watch.predecessor_version,
            "state": watch.state,
            "from": watch.first_day,
            "to": watch.last_day,
            "days": watch.record.get("n_days", 0),
            "per_decision": _interval(watch.record),
            "total": watch.record.get("total"),
            "e_worse": _number(watch.record.get("worse")),
            "e_better": _number(watch.record.get("better")),
            "reason": watch.reason,
            "record": watch.record,
            "plan": watch.plan,
        }
        for watch in watches
    ]
    if as_json:
        print_rows([row | {"scored": [vars(day) for day in days]} for row in rows[:1]] + rows[1:], [], as_json=True)
        return
    columns = ["model", "version", "against", "state", "from", "to", "days", "per_decision", "e_worse", "e_better"]
    print_rows(rows, [*columns, "reason"], as_json=False)
    if model and watches:
        newest, unit = watches[0], units.get(model, "")
        print_rows([vars(day) for day in days], ["day", "rows", "total"], as_json=False)
        for line in (*_what_it_takes(newest.state, newest.record, unit), *plan_lines(newest.plan, unit)):
            typer.echo(line)


def _interval(record: Mapping[str, Any]) -> str:
    if record.get("estimate") is None:
        return ""
    bounds = f" [{record['lower']:+.3g}, {record['upper']:+.3g}]" if record.get("lower") is not None else ""
    return f"{record['estimate']:+.3g}{bounds}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _what_it_takes(state: str, record: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What would decide the watch now; nothing once it has ended."""
    if state != "watching":
        return
    if record.get("reverts_below") is None:
        yield "too few days yet for any estimate to decide"
        return
    yield (
        f"after these days an estimate below {record['reverts_below']:+.3g} {unit} per decision would be worse, "
        f"one above {record['confirms_above']:+.3g} better"
    )
    needed = record.get("days_needed")
    yield (
        f"the present estimate and spread would decide after {needed} days"
        if needed
        else "the present estimate would not decide within a year"
    )


def plan_lines(plan: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What a watch can see, one sentence per line; ``plan`` is a `ProbationPlan`'s fields, or ``why`` there is none."""
    if "why" in plan:
        yield f"what loss it detects cannot be said yet: {plan['why']}"
        return
    loss, rate = plan["detectable_loss"], plan["false_revert_rate"]
    yield (
        f"a loss of {loss:.3g} {unit} per decision is detected with 80 % power"
        if loss is not None
        else "no loss is detected with 80 % power: the watch is too short"
    ) + f" (days varying as the {plan['n_days']} of the latest verdict)"
    if rate is not None:
        yield f"the loss limit reverts a champion that is exactly as good as its predecessor in {rate:.1%} of watches"


def validate_lines(ratchet: Ratchet, spec: ModelSpec) -> Iterator[str]:
    """What the probation of this spec would see, judged by the model's newest verdict with an uplift by day."""
    if spec.probation is None:
        return
    try:
        with ratchet.ledger.transaction() as tx:
            judged = [a for a in tx.attempts(model=spec.model, limit=50) if a.verdict_record]
        planned, why = plan_of(spec, judged[0] if judged else None)
    except RatchetError as error:
        planned, why = None, f"the ledger cannot be asked ({error})"
    for line in plan_lines(vars(planned) if planned else {"why": why}, spec.business.payoff.unit):
        yield f"probation of {spec.model}: {line}"
