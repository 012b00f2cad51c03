"""From Kafka records to events with a fate: what the pump stores, and what a tick decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from ratchet.domain import events as cloudevents
from ratchet.domain.spec import ModelSpec
from ratchet.failpoints import reach
from ratchet.ports.ledger import Ledger, NewEvent, NewRecord, RecordRow, SpecRow, Tx
from ratchet.records import RawRecord
from ratchet.settings import Settings
from ratchet.workflow.deciding import decide_model
from ratchet.workflow.telling import dead_letter


@dataclass(frozen=True)
class _Routed:
    """A record and the models it concerns; none when the subject is unknown."""

    raw: RawRecord
    event: cloudevents.InboundEvent
    models: tuple[str, ...]


class Intake:
    """The durable side of the pump (``ratchet.ports.intake.IntakeSink``)."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._hold = timedelta(seconds=settings.unknown_hold_seconds)
        self._backoff = (settings.ring_backoff_seconds, settings.ring_backoff_max_seconds)

    def store(self, records: Sequence[RawRecord]) -> None:
        """Keep a batch in one transaction: every offset one row, every event one row per subscribed model.

        A record that cannot be read is kept as rejected and goes to ``ml.dead-letter``; one whose model is not known
        yet is held. Nothing a record contains can make this raise; a lost database does (``Unavailable``).
        """
        with self._ledger.transaction() as tx:
            registry = tx.specs()
            hold_until = tx.wall() + self._hold
            routed: dict[int, _Routed] = {}
            rows = []
            for position, raw in enumerate(records):
                try:
                    event = cloudevents.parse(raw.value, raw.headers)
                except cloudevents.EventRejected as refusal:
                    rows.append(NewRecord(raw, "rejected", str(refusal)))
                    continue
                models, refused = route(event, registry)
                if refused:
                    rows.append(NewRecord(raw, "rejected", refused))
                elif not models:
                    rows.append(NewRecord(raw, "held", unknown(event), hold_until))
                else:
                    routed[position] = _Routed(raw, event, models)
                    rows.append(NewRecord(raw, "stored"))
            ids = tx.insert_records(rows)
            for position, pk in ids.items():
                if position in routed:
                    self._accept(tx, routed[position], pk)
                elif rows[position].status == "rejected":
                    dead_letter(tx, pk, rows[position].raw, rows[position].reason or "")
            reach("inserted/not committed")

    def store_again(self, tx: Tx, record: RecordRow, note: str) -> str | None:
        """Read a rejected record by today's code and registry and keep it as any other when it is fine now.

        Returns None when it is stored, its reason then being ``note``; else why it stays rejected.
        """
        try:
            event = cloudevents.parse(record.raw.value, record.raw.headers)
        except cloudevents.EventRejected as refusal:
            return str(refusal)
        models, refused = route(event, tx.specs())
        if refused or not models:
            return refused or unknown(event)
        tx.resolve_held(record.pk, "stored", note)
        return self._accept(tx, _Routed(record.raw, event, models), record.pk)

    @staticmethod
    def _accept(tx: Tx, routed: _Routed, record_pk: int) -> str | None:
        """Keep the record's events; the answer says why it is rejected after all."""
        event = routed.event
        refused = tx.insert_events(
            [
                NewEvent(
                    source=event.source,
                    event_id=event.id,
                    model=model,
                    type=event.type,
                    time=event.time,
                    digest=event.digest,
                    data=event.payload,
                    record_id=record_pk,
                )
                for model in routed.models
            ]
        )
        if refused:
            reason = f"id {event.id!r} of source {event.source!r} is known with other content: publish under a new id"
            tx.resolve_held(record_pk, "rejected", reason)
            dead_letter(tx, record_pk, routed.raw, reason)
            return reason
        if isinstance(event.data, cloudevents.DataArrived):
            arrived = event.data
            tx.advance_watermark(arrived.dataset, arrived.complete_until, arrived.label_completeness)
            if tx.clock()[0] == "replay":
                tx.set_clock("replay", arrived.complete_until)
        tx.mark(routed.models)
        return None

    def tick(self) -> list[str]:
        """Decide for every model that has something new, resolve held records, and say who is due now."""
        with self._ledger.transaction() as tx:
            self._resolve_held(tx)
            _, business = tx.clock()
            documents = {row.model: row for row in tx.specs()}
            for model in tx.lock_models_to_decide(business):
                row = documents[model]
                decide_model(tx, ModelSpec.model_validate(row.document), retired=row.retired)
            return tx.due_models(*self._backoff)

    def _resolve_held(self, tx: Tx) -> None:
        held = tx.held_records()
        if not held:
            return
        registry, now = tx.specs(), tx.wall()
        for record in held:
            event = cloudevents.parse(record.raw.value, record.raw.headers)
            models, refused = route(event, registry)
            if models:
                tx.resolve_held(record.pk, "stored", None)
                self._accept(tx, _Routed(record.raw, event, models), record.pk)
            elif refused or record.held_until <= now:
                reason = refused or unknown(event)
                tx.resolve_held(record.pk, "rejected", reason)
                dead_letter(tx, record.pk, record.raw, reason)


def route(event: cloudevents.InboundEvent, registry: Sequence[SpecRow]) -> tuple[tuple[str, ...], str | None]:
    """The models an event concerns, or the reason why it concerns none for good.

    A data event concerns every model whose spec names the dataset; all other events the model they are about.
    """
    if isinstance(event.data, cloudevents.DataArrived):
        dataset = event.data.dataset
        return tuple(
            row.model
            for row in registry
            if not row.retired and dataset in ModelSpec.model_validate(row.document).datasets
        ), None
    for row in registry:
        if row.model == event.subject:
            return ((), f"model {row.model!r} is retired") if row.retired else ((row.model,), None)
    return (), None


def unknown(event: cloudevents.InboundEvent) -> str:
    """Why an event is held, and later dead-lettered."""
    what = "dataset" if isinstance(event.data, cloudevents.DataArrived) else "model"
    return f"no registered spec knows the {what} {event.subject!r}. Add include/models/<model>/ and run: ratchet deploy"
