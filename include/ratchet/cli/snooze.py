"""``ratchet snooze``: let a model start no run by itself for a while, wake it, see which models sleep."""

from __future__ import annotations

import getpass
from datetime import UTC, timedelta
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.events import instant
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.domain.spec import parse_duration
from ratchet.errors import Refused
from ratchet.workflow.snoozing import Who, asleep

VIA = "command line"


def snooze(
    model: Annotated[
        str | None,
        typer.Argument(help="Which model; the list of those that sleep when left out.", autocompletion=known_models),
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

    ratchet snooze flight_delay --for 3d --reason "the airport is shut"
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
        with working(f"waking {model}"):
            woken = ratchet.wake(model, by)
        said = f"{model} is awake; what waited is decided again" if woken else f"{model} does not sleep"
        print_done({"model": model, "woken": woken}, [said], as_json=as_json)
        return
    with working(f"letting {model} sleep"):
        told = ratchet.snooze(model, by, length=_length(length), until=instant(until) if until is not None else None)
    lines = [
        f"{model} starts no run by itself until {told.until.astimezone(UTC):%Y-%m-%d %H:%M}Z (business time)",
        f"to wake it before: ratchet snooze {model} --lift --reason …",
    ]
    print_done({"model": model} | vars(told), lines, as_json=as_json)


def _length(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except (ValueError, OverflowError) as error:
        raise Refused(f"--for: {error}") from error
