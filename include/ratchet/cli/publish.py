"""Publish events by hand, as a monitoring system would, or a monitoring system's own report as the events it tells."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ratchet import events
from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.events import Announcement
from ratchet.domain.translations import MAX_BYTES, SYSTEMS, Given, Untranslatable, translate
from ratchet.errors import Refused

app = typer.Typer(
    help="Publish an event to Kafka, checked first; it is stored by the broker when the command returns.",
    no_args_is_help=True,
)
SOURCE = "ratchet/cli"
Model = Annotated[str, typer.Argument(help="The model it is about.", autocompletion=known_models)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the record, publish nothing.")]
Identity = Annotated[
    str | None,
    typer.Option("--id", help="The event's id: with --source it names the event, and a repetition changes nothing."),
]
Source = Annotated[str, typer.Option("--source", help="Who speaks, like /monitors/weather.")]
Binary = Annotated[bool, typer.Option("--binary", help="Attributes as ce_ headers, instead of the event as the value.")]
When = Annotated[
    datetime | None, typer.Option("--time", help="Business time of the event, UTC unless it says; now when left out.")
]
WindowEnd = Annotated[datetime | None, typer.Option(help="End of the window looked at; now when left out.")]


def business_now() -> datetime:
    """What time it is for the business: the ledger's clock."""
    with wire().ledger.transaction() as tx:
        return tx.clock()[1]


def send(
    data: events.InboundData,
    subject: str,
    *,
    event_id: str | None,
    source: str,
    at: datetime | None,
    binary: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish one event about ``subject``, or print the record that it would be."""
    observation = events.Observation(
        data,
        subject,
        event_id if event_id is not None else str(uuid.uuid4()),
        source,
        _aware(at) if at is not None else business_now(),
    )
    _send([observation], binary=binary, dry_run=dry_run, as_json=as_json)


def _send(observations: Sequence[events.Observation], *, binary: bool, dry_run: bool, as_json: bool) -> None:
    mode: events.Mode = "binary" if binary else "structured"
    checked = [observation.checked() for observation in observations]
    if not dry_run:
        with working("publishing"), events.Publisher(mode=mode, bus=wire().bus) as publisher:
            publisher.publish(observations)
    if as_json:
        print_rows([_row(event, mode) | {"published": not dry_run} for event in checked], [], as_json=True)
    elif dry_run:
        for index, event in enumerate(checked):
            key, value, headers = events.record(event, mode)
            separator = "\n" if index else ""
            typer.echo(f"{separator}topic {event.topic}, key {key.decode()}")
            for name, content in headers:
                typer.echo(f"{name}: {content.decode()}")
            typer.echo(f"\n{value.decode()}")
    else:
        for event in checked:
            typer.echo(f"published {event.id} to {event.topic}")


def _row(event: Announcement, mode: events.Mode) -> dict[str, Any]:
    """The record that an event is."""
    key, value, headers = events.record(event, mode)
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "topic": event.topic,
        "key": key.decode(),
        "headers": {name: content.decode() for name, content in headers},
        "value": json.loads(value),
    }


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@app.command()
def drift(
    model: Model,
    check: Annotated[str, typer.Option(help="The check that looked: names the series of observations.")],
    severity: Annotated[float, typer.Option(help="How bad it is, 0 to 1.")],
    window_end: WindowEnd = None,
    window_start: Annotated[
        datetime | None, typer.Option(help="Start of the window looked at; a day before its end when left out.")
    ] = None,
    feature: Annotated[str | None, typer.Option(help="Which feature drifted.")] = None,
    evidence_uri: Annotated[str | None, typer.Option(help="Where a person finds the check's report.")] = None,
    event_id: Identity = None,
    source: Source = SOURCE,
    at: When = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell that a check found drift in a model's features.

    ratchet publish drift flight_delay --check weather_drift --severity 0.6 --window-end 2013-06-14T04:00:00
    """
    end = _aware(window_end) if window_end is not None else business_now()
    data = events.DriftDetected(
        check=check,
        severity=severity,
        window_start=_aware(window_start) if window_start is not None else end - timedelta(days=1),
        window_end=end,
        feature=feature,
        evidence_uri=evidence_uri,
    )
    send(data, model, event_id=event_id, source=source, at=at, binary=binary, dry_run=dry_run, as_json=as_json)


@app.command()
def cleared(
    model: Model,
    check: Annotated[str, typer.Option(help="The check that looked, as named when it found drift.")],
    window_end: WindowEnd = None,
    event_id: Identity = None,
    source: Source = SOURCE,
    at: When = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell that a check found no drift any more.

    ratchet publish cleared flight_delay --check weather_drift --window-end 2013-06-18T04:00:00
    """
    end = _aware(window_end) if window_end is not None else business_now()
    data = events.DriftCleared(check=check, window_end=end)
    send(data, model, event_id=event_id, source=source, at=at, binary=binary, dry_run=dry_run, as_json=as_json)


@app.command()
def data(
    dataset: Annotated[str, typer.Argument(help="The dataset, as the specs of models name it.")],
    complete_until: Annotated[datetime, typer.Option(help="Every row before this moment is there.")],
    new_rows: Annotated[int, typer.Option(help="How many rows came.")],
    label_completeness: Annotated[
        float | None, typer.Option(help="Share of mature labels that are known, 0 to 1.")
    ] = None,
    event_id: Identity = None,
    source: Source = SOURCE,
    at: When = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell that a dataset has new rows. Its time is COMPLETE_UNTIL unless --time says another.

    ratchet publish data flights --complete-until 2013-07-01T04:00:00 --new-rows 14299 --label-completeness 1.0
    """
    arrived = events.DataArrived(
        dataset=dataset,
        complete_until=_aware(complete_until),
        new_rows=new_rows,
        label_completeness=label_completeness,
    )
    moment = at if at is not None else complete_until
    send(arrived, dataset, event_id=event_id, source=source, at=moment, binary=binary, dry_run=dry_run, as_json=as_json)


@app.command()
def performance(
    model: Model,
    metric: Annotated[str, typer.Option(help="Which metric fell.")],
    value: Annotated[float, typer.Option(help="What it is.")],
    threshold: Annotated[float, typer.Option(help="What it should be, in the same unit.")],
    window_end: WindowEnd = None,
    event_id: Identity = None,
    source: Source = SOURCE,
    at: When = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell that the serving model fell behind a threshold.

    ratchet publish performance flight_delay --metric payoff --value 3.1 --threshold 4 --window-end 2013-06-18T04:00:00
    """
    end = _aware(window_end) if window_end is not None else business_now()
    degraded = events.PerformanceDegraded(metric=metric, value=value, threshold=threshold, window_end=end)
    send(degraded, model, event_id=event_id, source=source, at=at, binary=binary, dry_run=dry_run, as_json=as_json)


@app.command()
def retrain(
    model: Model,
    reason: Annotated[str, typer.Option(help="Why.")],
    actor: Annotated[str, typer.Option(help="Who asks.")],
    event_id: Identity = None,
    source: Source = SOURCE,
    at: When = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a retrain.

    ratchet publish retrain flight_delay --reason "new routes since Monday" --actor ada
    """
    if not reason.strip():
        raise Refused("a request needs a reason. Say why: --reason '…'")
    request = events.RetrainRequested(reason=reason, actor=actor)
    send(request, model, event_id=event_id, source=source, at=at, binary=binary, dry_run=dry_run, as_json=as_json)


@app.command()
def report(
    system: Annotated[
        str,
        typer.Argument(help=f"Who made it: {', '.join(SYSTEMS)}.", autocompletion=lambda: list(SYSTEMS)),
    ],
    file: Annotated[Path, typer.Argument(help="Its report, result or webhook message; - is the standard input.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model it is about, where the report does not say.", autocompletion=known_models),
    ] = None,
    window_end: Annotated[
        datetime | None,
        typer.Option(help="End of the data it looked at; when it was made, where it says, if left out."),
    ] = None,
    window_start: Annotated[
        datetime | None, typer.Option(help="Start of the data it looked at; a day before the end when left out.")
    ] = None,
    check: Annotated[str | None, typer.Option(help="Name of the check, in place of the one that it makes.")] = None,
    evidence_uri: Annotated[str | None, typer.Option(help="Where a person finds the report.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Who speaks; /monitors/SYSTEM when left out.")] = None,
    binary: Binary = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell what a monitoring system's report says: the same report again changes nothing.

    ratchet publish report evidently drift.json --model flight_delay --window-end 2013-06-14T04:00:00

    docs/monitoring-systems.md says what each system's reports become. It may be nothing.
    """
    given = Given(
        model=model,
        window_start=None if window_start is None else _aware(window_start),
        window_end=None if window_end is None else _aware(window_end),
        check=check,
        evidence_uri=evidence_uri,
    )
    try:
        told = translate(system, _read(file), given, source=source)
    except Untranslatable as error:
        raise Refused(f"{file}: {error}") from error
    if not told and not as_json:
        typer.echo("nothing published: the report tells nothing that counts")
        return
    observations = [
        events.Observation(cast("events.InboundData", event.data), event.subject, event.id, event.source, event.time)
        for event in told
    ]
    _send(observations, binary=binary, dry_run=dry_run, as_json=as_json)


def _read(file: Path) -> bytes:
    """No more of it than is needed to see that it is too long."""
    if file == Path("-"):
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}. Name a file, or - for the standard input") from error
