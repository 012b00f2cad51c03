"""``ratchet snooze``: let a model start no run by itself for a while, wake it, see which models sleep."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, timedelta
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.events import instant
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.spec import parse_duration
from ratchet.errors import Refused
from ratchet.workflow.snoozing import Who, asleep

VIA = "command line"


def snooze(
    model: Annotated[
        str | None, typer.Argument(help="Which model; the list of those that sleep when left out.")
    ] = None,
    length: Annotated[str | None, typer.Option("--for", help="How long, such as 3d or 12h; 30d at most.")] = None,
    until: Annotated[str | None, typer.Option(help="Until when, such as 2013-06-20T04:00Z; business time.")] = None,
    lift: Annotated[bool, typer.Option("--lift", help="Wake it now.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; told to what waits, and kept in the audit log.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model start no run by itself for a while; or --lift that; or list the models that sleep.

    Events, follow-ups and the schedule wait until it ends. A run by hand, an attempt at work, probation, monitor,
    approvals and rollback do not. Another snooze replaces the one before.
    """
    ratchet = wire()
    if model is None:
        if lift or any(option is not None for option in (length, until, reason)):
            raise Refused("which model? Such as: ratchet snooze flight_delay --for 3d --reason …")
        with ratchet.ledger.transaction() as tx:
            rows: list[dict[str, Any]] = [{"model": name} | vars(each) for name, each in asleep(tx).items()]
        print_rows(rows, ["model", "since", "until", "actor", "reason"], as_json=as_json)
        return
    by = Who(getpass.getuser(), reason or "", VIA)
    if lift:
        if length is not None or until is not None:
            raise Refused("--lift ends a snooze now: leave --for and --until out")
        woken = ratchet.wake(model, by)
        said = f"{model} is awake; what waited is decided again" if woken else f"{model} does not sleep"
        typer.echo(json.dumps({"model": model, "woken": woken}) if as_json else said)
        return
    told = ratchet.snooze(model, by, length=_length(length), until=instant(until) if until is not None else None)
    if as_json:
        typer.echo(json.dumps({"model": model} | vars(told), default=str))
        return
    typer.echo(f"{model} starts no run by itself until {told.until.astimezone(UTC):%Y-%m-%d %H:%M}Z (business time)")
    typer.echo(f"to wake it before: ratchet snooze {model} --lift --reason …")


def _length(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise Refused(f"--for: {error}") from error
