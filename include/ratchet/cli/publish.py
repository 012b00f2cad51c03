"""Publish events by hand, as a monitoring system would."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.domain import events as cloudevents
from ratchet.errors import Refused

app = typer.Typer(help="Publish an event to Kafka.", no_args_is_help=True)
SOURCE = "ratchet/cli"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the record, publish nothing.")]
Identity = Annotated[str | None, typer.Option("--id", help="The event's id; a new one when left out.")]
When = Annotated[datetime | None, typer.Option("--time", help="Business time of the event; now when left out.")]


def send(
    data: cloudevents.InboundData, subject: str, *, event_id: str | None, at: datetime | None, dry_run: bool
) -> str:
    """Publish one event about ``subject`` and return its id; the broker has stored it when this returns."""
    ratchet = wire()
    if at is None:
        with ratchet.ledger.transaction() as tx:
            at = tx.clock()[1]
    event = cloudevents.new_event(
        data, id=event_id or str(uuid.uuid4()), source=SOURCE, subject=subject, time=_aware(at)
    )
    key, value, headers = cloudevents.to_record(event)
    if dry_run:
        typer.echo(f"{event.topic} {key.decode()} {value.decode()}")
        return event.id
    ratchet.bus.publish(event.topic, key, value, headers)
    ratchet.bus.flush()
    typer.echo(f"published {event.id} to {event.topic}")
    return event.id


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@app.command()
def drift(
    model: str,
    check: Annotated[str, typer.Option(help="The check that looked.")],
    severity: Annotated[float, typer.Option(help="0 to 1.")],
    window_end: Annotated[datetime | None, typer.Option(help="End of the window looked at.")] = None,
    feature: Annotated[str | None, typer.Option(help="Which feature drifted.")] = None,
    event_id: Identity = None,
    at: When = None,
    dry_run: DryRun = False,
) -> None:
    """Tell that a check found drift in a model's features."""
    if window_end is None:
        with wire().ledger.transaction() as tx:
            window_end = tx.clock()[1]
    end = _aware(window_end)
    data = cloudevents.DriftDetected(
        check=check, severity=severity, window_start=end - timedelta(days=1), window_end=end, feature=feature
    )
    send(data, model, event_id=event_id, at=at, dry_run=dry_run)


@app.command()
def data(
    dataset: str,
    complete_until: Annotated[datetime, typer.Option(help="Every row before this moment is there.")],
    new_rows: Annotated[int, typer.Option(help="How many rows came.")],
    label_completeness: Annotated[float | None, typer.Option(help="Share of mature labels that are known.")] = None,
    event_id: Identity = None,
    at: When = None,
    dry_run: DryRun = False,
) -> None:
    """Tell that a dataset has new rows."""
    arrived = cloudevents.DataArrived(
        dataset=dataset,
        complete_until=_aware(complete_until),
        new_rows=new_rows,
        label_completeness=label_completeness,
    )
    send(arrived, dataset, event_id=event_id, at=at or complete_until, dry_run=dry_run)


@app.command()
def performance(
    model: str,
    metric: Annotated[str, typer.Option(help="Which metric fell.")],
    value: Annotated[float, typer.Option(help="What it is.")],
    threshold: Annotated[float, typer.Option(help="What it should be.")],
    window_end: Annotated[datetime, typer.Option(help="End of the window looked at.")],
    event_id: Identity = None,
    at: When = None,
    dry_run: DryRun = False,
) -> None:
    """Tell that the serving model fell behind a threshold."""
    degraded = cloudevents.PerformanceDegraded(
        metric=metric, value=value, threshold=threshold, window_end=_aware(window_end)
    )
    send(degraded, model, event_id=event_id, at=at, dry_run=dry_run)


@app.command()
def retrain(
    model: str,
    reason: Annotated[str, typer.Option(help="Why.")],
    actor: Annotated[str, typer.Option(help="Who asks.")],
    event_id: Identity = None,
    at: When = None,
    dry_run: DryRun = False,
) -> None:
    """Ask for a retrain."""
    if not reason.strip():
        raise Refused("a request needs a reason")
    send(cloudevents.RetrainRequested(reason=reason, actor=actor), model, event_id=event_id, at=at, dry_run=dry_run)
