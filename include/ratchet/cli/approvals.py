"""Commands of those who agree, or not, that a challenger serves, where Airflow's page is not at hand."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.ports.ledger import AWAITING_APPROVAL
from ratchet.workflow.approving import approvals_by_attempt, verdict_of

Attempt = Annotated[str, typer.Argument(help="Which attempt; see `ratchet approvals`.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit log, and told with the decision.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for command in (approvals, approve, reject):
        app.command(command.__name__)(command)


def approvals(
    model: Annotated[str | None, typer.Option(help="Only this model's.", autocompletion=known_models)] = None,
    as_json: AsJson = False,
) -> None:
    """What waits for people: until when, how many must agree, who has, and what is at risk.

    ratchet approvals --model flight_delay
    """
    with wire().ledger.transaction() as tx:
        waiting = tx.attempts(model=model, states=(AWAITING_APPROVAL,))
        asked = approvals_by_attempt(tx, [attempt.id for attempt in waiting])
        rows = [_row(attempt.id, verdict_of(attempt), asked[attempt.id]) for attempt in waiting if attempt.id in asked]
    print_rows(
        rows,
        ["attempt", "challenger", "expires_at", "agreed", "value_at_risk", "uplift", "reason"],
        as_json=as_json,
    )


def _row(attempt: str, verdict: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    who = list(dict.fromkeys(a["actor"] for a in asked["answers"] if a["answer"] == "approve"))
    unit = verdict.get("unit") or "payoff units"
    risk = asked["value_at_risk"]
    return {
        "attempt": attempt,
        **{name: value for name, value in asked.items() if name not in {"value_at_risk", "answers"}},
        "expires_at": datetime.fromisoformat(asked["expires_at"]),
        "agreed": f"{len(who)} of {asked['people']}" + (f": {', '.join(who)}" if who else ""),
        "value_at_risk": "not known" if risk is None else f"{risk:,.0f} {unit}",
        "uplift": _uplift(verdict),
        **{name: verdict.get(name) for name in ("estimate", "lower", "upper", "unit")},
        "answers": asked["answers"],
    }


def _uplift(verdict: dict[str, Any]) -> str:
    numbers = [verdict.get(name) for name in ("estimate", "lower", "upper")]
    if any(number is None for number in numbers):
        return "not known"
    estimate, lower, upper = (f"{number:+.2f}" for number in numbers)
    return f"{estimate} [{lower}, {upper}]"


def approve(attempt: Attempt, reason: Reason, as_json: AsJson = False) -> None:
    """Agree that an attempt's challenger serves; with the last person that is needed it does at once.

    ratchet approve flight_delay.4 --reason "seen with Newark"
    """
    _answer(attempt, reason, agree=True, as_json=as_json)


def reject(attempt: Attempt, reason: Reason, as_json: AsJson = False) -> None:
    """Refuse an attempt's challenger: the champion stays. One person's word is enough.

    ratchet reject flight_delay.4 --reason "not before the holidays"
    """
    _answer(attempt, reason, agree=False, as_json=as_json)


def _answer(attempt: str, reason: str, *, agree: bool, as_json: bool) -> None:
    with working(f"answering for {attempt}"):
        answer = wire().respond(attempt, approve=agree, actor=getpass.getuser(), reason=reason, via="command line")
    said = answer["stands"]
    if answer["decision"] == "waiting":
        said += "; another person must agree" if answer["counted"] else "; you had agreed already, another person must"
    print_done({"attempt": attempt} | answer, [f"{attempt}: {answer['state']}, {said}"], as_json=as_json)
