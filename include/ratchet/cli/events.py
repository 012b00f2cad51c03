"""Commands about events: what became of each, live or in the past, and another chance for some."""

from __future__ import annotations

import getpass
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.domain.spec import parse_duration
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import EventRow, FateEntry, Ledger, RecordRow, Tx
from ratchet.workflow.housekeeping import events_removed
from ratchet.workflow.replaying import Letters, Operator

app = typer.Typer(invoke_without_command=True)
FOLLOW_SECONDS = 0.5
MISSING_SECONDS = 60.0
"""How long a number missing in the fate history may still turn up: longer than any transaction lives."""
AT_ONCE = 1_000

Model = Annotated[str | None, typer.Option(help="Only this model's.", autocompletion=known_models)]
MOMENT = "A time such as 2013-04-01T04:00Z, or how long ago: 90m, 6h, 2d."


def instant(text: str) -> datetime:
    """A time with its zone, in UTC. Raises :class:`Refused` for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"a time is written like 2013-04-01T04:00Z, but got {text!r}") from error
    if moment.tzinfo is None:
        raise Refused(f"a time needs its zone, such as a Z at the end, but got {text!r}")
    return moment.astimezone(UTC)


def before(now: datetime, text: str | None) -> datetime | None:
    """A time, or how long before ``now``."""
    if text is None:
        return None
    return now - parse_duration(text) if re.fullmatch(r"\d+\s*[a-z]+", text) else instant(text)


@app.callback()
def events(
    context: typer.Context,
    model: Model = None,
    fate: Annotated[str | None, typer.Option(help="Only those with this fate.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from this source.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Only with this id.")] = None,
    attempt: Annotated[str | None, typer.Option(help="Only those that this attempt took.")] = None,
    since: Annotated[str | None, typer.Option(help=f"Of this business time or later. {MOMENT}")] = None,
    until: Annotated[str | None, typer.Option(help="Of a business time before this.")] = None,
    reason: Annotated[str | None, typer.Option(help="The reason contains this, such as a rule: cooldown.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List events with fate and reason, by business time; `show`, `follow`, `dead-letters` and `replay` do more.

    ratchet events --model flight_delay --fate deferred --since 7d
    """
    if context.invoked_subcommand is not None:
        return
    with wire().ledger.transaction() as tx:
        now = tx.clock()[1]
        rows = tx.events(
            model=model,
            fates=[fate] if fate else None,
            types=[kind] if kind else None,
            source=source,
            event_id=event_id,
            attempt_id=attempt,
            since=before(now, since),
            until=before(now, until),
            reason_contains=reason,
            limit=limit,
        )
        held = [row for row in tx.due_rows() if row.held and model in {None, row.model}]
        taker = tx.attempt(attempt) if attempt is not None else None
        lost = events_removed(tx, taker.model, taker.business_at) if taker is not None else None
    columns = ["time", "model", "type", "event_id", "fate", "until", "reason"]
    print_rows([vars(row) for row in rows], columns, as_json=as_json)
    if not as_json:
        for due in held:
            typer.echo(f"{due.model} is due and waits its turn: {due.held}")
        if lost is not None:
            typer.echo(lost)


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(help="The event's id.")], model: Model = None, as_json: AsJson = False
) -> None:
    """Show all that is known of an event: where it came from, and each fate it had, for each of its models.

    ratchet events show weather-drift-2013-06-14
    """
    with wire().ledger.transaction() as tx:
        found = in_full(tx, tx.events(event_id=event_id, model=model))
        gone = [events_removed(tx, row.model) for row in tx.registered() if model in {None, row.model}]
    if not found:
        told = "".join(f"; {one}" for one in gone if one is not None)
        raise Refused(f"there is no event {event_id!r}{told}. See: ratchet events, ratchet events dead-letters")
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=1))
        return
    for event in found:
        for line in lines_of(event):
            typer.echo(line)


def in_full(tx: Tx, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
    """Each event with its record's place and the fates it has had, oldest first."""
    return [vars(row) | {"record": _origin(tx.record_of(row.pk)), "fates": tx.fate_history(row.pk)} for row in rows]


def lines_of(event: Mapping[str, Any]) -> Iterator[str]:
    """An event in full, for people."""
    yield f"{event['event_id']} of {event['source']}, for {event['model']}"
    yield f"  {event['type']}, business time {event['time']}, received {event['received_at']}"
    yield f"  from {event['record'] or event['origin']}; attempt {event['attempt_id'] or 'none'}"
    yield f"  {event['tries']} tries; data {json.dumps(event['data'])}"
    for fate in event["fates"]:
        until = f" until {fate['until']:%Y-%m-%d %H:%M}" if fate["until"] else ""
        yield f"  {fate['at']:%Y-%m-%d %H:%M:%S} {fate['fate']}{until}: {fate['reason']}"


def _origin(record: RecordRow | None) -> str | None:
    return f"{record.raw.topic}:{record.raw.partition}:{record.raw.offset}" if record else None


@app.command()
def follow(
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print every change of fate as it happens, until Ctrl-C. A new event shows with the first decision on it.

    ratchet events follow --model flight_delay
    """
    try:
        for entry in fate_changes(wire().ledger):
            if model not in {None, entry.model}:
                continue
            if as_json:
                typer.echo(json.dumps(vars(entry), default=str))
                continue
            until = f" until {entry.until:%Y-%m-%d %H:%M}" if entry.until else ""
            typer.echo(f"{entry.at:%H:%M:%S} {entry.model} {entry.event_id} {entry.fate}{until}: {entry.reason}")
    except KeyboardInterrupt:
        typer.echo("", err=True)


def fate_changes(ledger: Ledger) -> Iterator[FateEntry]:
    """Every entry of the fate history written from now on, each once; waits for ever, through outages of the ledger.

    Numbers are given out before their transactions commit, so a number may turn up after a higher one. A gap is asked
    for again until it turns up or is too old to be anything but rolled back.
    """
    last: int | None = None
    missing: dict[int, float] = {}
    while True:
        try:
            with ledger.transaction() as tx:
                if last is None:
                    last = tx.last_fate()
                entries = tx.fates_after(last, missing, AT_ONCE)
        except Unavailable as error:
            typer.echo(f"{error}; still trying", err=True)
            entries = []
        now = time.monotonic()
        for entry in entries:
            if missing.pop(entry.pk, None) is None and last is not None:
                missing |= dict.fromkeys(range(last + 1, entry.pk), now)
                last = entry.pk
            yield entry
        missing = {pk: seen for pk, seen in missing.items() if now - seen < MISSING_SECONDS}
        if len(entries) < AT_ONCE:
            time.sleep(FOLLOW_SECONDS)


@app.command("dead-letters")
def dead_letters(
    reason: Annotated[str | None, typer.Option(help="The reason contains this, such as a rule: not_json.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List rejected records with topic:partition:offset and reason, oldest first.

    ratchet events dead-letters --reason not_json
    """
    with wire().ledger.transaction() as tx:
        records = tx.rejected_records(reason_contains=reason, limit=limit)
    rows = [
        {
            "received_at": record.received_at,
            "record": _origin(record),
            "bytes": len(record.raw.value or b""),
            "reason": record.reason,
        }
        for record in records
    ]
    print_rows(rows, ["received_at", "record", "bytes", "reason"], as_json=as_json)


@app.command()
def replay(
    reason: Annotated[str, typer.Option(help="Why; kept with the events and in the audit log.")],
    since: Annotated[
        str | None,
        typer.Option(help=f"Reopen what ended, and store what Kafka has and the ledger lacks, since. {MOMENT}"),
    ] = None,
    dead_letter: Annotated[
        str | None, typer.Option(help="all, or topic:partition:offset: read these dead letters again.")
    ] = None,
    fate: Annotated[
        list[str] | None, typer.Option(help="With --since: which to reopen; failed and expired when left out.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="With --since: reopen only this model's events.", autocompletion=known_models),
    ] = None,
    reason_contains: Annotated[
        str | None, typer.Option(help="With --dead-letter all: only those whose reason contains this.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give events or dead letters another chance, by today's code, specs and rules. The same again changes nothing.

    `--since` is the wall clock's time at which events ended and records were published. Events that started a concluded
    attempt, or were merged into one, are final.

    ratchet events replay --since 6h --reason "the disk was full" --dry-run
    """
    if (since is None) == (dead_letter is None):
        raise Refused("say either --since <time> or --dead-letter <all or topic:partition:offset>")
    if dead_letter is None and reason_contains:
        raise Refused("--reason-contains narrows --dead-letter all; it says nothing with --since")
    if dead_letter is not None and (fate or model):
        raise Refused("--fate and --model narrow --since; they say nothing with --dead-letter")
    replays, operator = wire().replays, Operator(getpass.getuser(), reason)
    would = "would be " if dry_run else ""
    if since is not None:
        moment = before(datetime.now(UTC), since)
        assert moment is not None  # noqa: S101 - for the type checker: since is given
        fates = fate or ("failed", "expired")
        with working("replaying") as tell:
            got = replays.since(moment, operator, fates=fates, models=model or (), dry_run=dry_run, progress=tell)
        by_model = ", ".join(f"{name} {count:,}" for name, count in sorted(got["by_model"].items()))
        lines = [f"{got['reopened']:,} events {would}pending again{f': {by_model}' if by_model else ''}"]
        if got["too_old"]:
            lines.append(
                f"{got['too_old']:,} left alone: beyond max_event_age of their model's spec. Raise it, then repeat"
            )
        if got["retired"]:
            lines.append(f"{got['retired']:,} left alone: their model is retired. See: ratchet deploy --revive")
        lines.append(f"{got['read']:,} records read from Kafka, {got['stored']:,} lacking ones {would}stored")
    else:
        letters = _letters(str(dead_letter), reason_contains)
        with working("reading dead letters again") as tell:
            got = replays.letters(letters, operator, dry_run=dry_run, progress=tell)
        lines = [f"{got['read']:,} dead letters read, {got['stored']:,} {would}stored as events"]
        lines += [f"{count:,} still rejected: {why}" for why, count in got["still"].items()]
    print_done(got | {"dry_run": dry_run}, lines, as_json=as_json)


def _letters(selection: str, reason_contains: str | None) -> Letters:
    if selection == "all":
        return Letters(reason_contains=reason_contains)
    topic, _, spot = selection.partition(":")
    partition, _, offset = spot.partition(":")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        raise Refused(f"a dead letter is all or topic:partition:offset, like ml.drift:0:17, but got {selection!r}")
    if reason_contains:
        raise Refused("--reason-contains narrows --dead-letter all; it says nothing with one record")
    return Letters((topic, int(partition), int(offset)))
