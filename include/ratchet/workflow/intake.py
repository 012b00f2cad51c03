"""The intake's verb: keep Kafka records as events, decide what has become decidable, say who is due.

A batch costs a handful of statements, however many records it has: what is per record is done in memory. Storing and
ticking may run at the same time, here and in other processes: events are inserted by unique keys, marks are only added,
and a tick decides for one model at a time, under that model's lock, in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ratchet.domain import events as cloudevents
from ratchet.domain.positions import Ends, Known, Position
from ratchet.domain.tracing import read_traceparent
from ratchet.errors import Refused
from ratchet.failpoints import reach
from ratchet.ports.intake import Spot
from ratchet.ports.ledger import Ledger, NewEvent, NewRecord, PumpRow, RecordRow, Registration, Tx
from ratchet.records import RawRecord
from ratchet.settings import Settings
from ratchet.workflow.deciding import Admissions, spec_of
from ratchet.workflow.telling import dead_letter


@dataclass(frozen=True)
class Routes:
    """Which models there are, and which of them a dataset concerns."""

    rows: tuple[Registration, ...] = ()
    retired: Mapping[str, bool] = field(default_factory=dict)
    by_dataset: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        self._routes = Routes()
        self._stored = self._rejected = 0
        self._admissions = Admissions(ledger, settings)

    def store(self, records: Sequence[RawRecord]) -> None:
        """Keep a batch in one transaction: every offset one row, every event one row per subscribed model.

        A record that cannot be read is kept as rejected and goes to ``ml.dead-letter``; one whose model is not known
        yet is held. Nothing a record contains can make this raise; a lost database does (``Unavailable``).
        """
        try:
            self._store(records, None)
        except Refused as refusal:
            # The database cannot keep something in here that no rule foresaw: halve the batch until it is alone.
            if len(records) == 1:
                self._store(records, f"the ledger cannot keep this record: {refusal}")
                return
            middle = len(records) // 2
            self.store(records[:middle])
            self.store(records[middle:])

    def _store(self, records: Sequence[RawRecord], refused: str | None) -> None:
        with self._ledger.transaction() as tx:
            routes, hold_until = self._known_routes(tx), tx.wall() + self._hold
            routed: dict[int, _Routed] = {}
            rows = []
            for position, raw in enumerate(records):
                row = _judged(raw, routes, hold_until, refused)
                if isinstance(row, _Routed):
                    routed[position] = row
                    row = NewRecord(raw, "stored")
                rows.append(row)
            ids = tx.insert_records(rows)
            rejected = 0
            for position, pk in ids.items():
                if rows[position].status == "rejected":
                    dead_letter(tx, pk, rows[position].raw, rows[position].reason or "")
                    rejected += 1
            rejected += len(self._accept(tx, [(routed[i], pk) for i, pk in ids.items() if i in routed]))
            reach("inserted/not committed")
        self._stored += len(ids) - rejected
        self._rejected += rejected

    def store_again(self, tx: Tx, record: RecordRow, note: str) -> str | None:
        """Read a rejected record by today's code and registry and keep it as any other when it is fine now.

        Returns None when it is stored, its reason then being ``note``; else why it stays rejected.
        """
        try:
            event = cloudevents.parse(record.raw.value, record.raw.headers)
        except cloudevents.EventRejected as refusal:
            return str(refusal)
        models, refused = route(event, self._known_routes(tx))
        if refused or not models:
            return refused or unknown(event)
        tx.resolve_held(record.pk, "stored", note)
        return self._accept(tx, [(_Routed(record.raw, event, models), record.pk)]).get(record.pk)

    @staticmethod
    def _accept(tx: Tx, routed: Sequence[tuple[_Routed, int]]) -> dict[int, str]:
        """Keep the events of these records; the answer says which records are rejected after all, and why."""
        refused = {
            event.record_id
            for event in tx.insert_events(
                [
                    NewEvent(
                        source=each.event.source,
                        event_id=each.event.id,
                        model=model,
                        type=each.event.type,
                        time=each.event.time,
                        digest=each.event.digest,
                        data=each.event.payload,
                        record_id=pk,
                        incident=cloudevents.incident_of(each.event),
                        traceparent=_traceparent(each),
                    )
                    for each, pk in routed
                    for model in each.models
                ]
            )
        }
        reasons: dict[int, str] = {}
        models: set[str] = set()
        arrivals = []
        for each, pk in routed:
            event = each.event
            if pk in refused:
                reasons[pk] = (
                    f"id {event.id!r} of source {event.source!r} is known with other content: publish under a new id"
                )
                tx.resolve_held(pk, "rejected", reasons[pk])
                dead_letter(tx, pk, each.raw, reasons[pk])
                continue
            models.update(each.models)
            if isinstance(event.data, cloudevents.DataArrived):
                arrivals.append(event.data)
        for step in marks_of(arrivals):
            tx.advance_watermark(step.dataset, step.complete_until, step.label_completeness)
        if arrivals and tx.clock()[0] == "replay":
            tx.set_clock("replay", max(arrived.complete_until for arrived in arrivals))
        tx.mark(models)
        return reasons

    def positions(self, cluster: str, spots: Collection[Spot]) -> Mapping[Spot, Known]:
        """What is known of these partitions."""
        with self._ledger.transaction() as tx:
            return tx.positions(cluster, spots)

    def take_up(self, cluster: str, taken: Mapping[Spot, tuple[Ends, Position]]) -> None:
        """Keep where these partitions were taken up; an alarm goes into the audit log."""
        with self._ledger.transaction() as tx:
            for (topic, partition), (ends, position) in sorted(taken.items()):
                tx.keep_position(cluster, topic, partition, ends.topic_id, position.incarnation)
                if position.alarm:
                    detail = {"cluster": cluster, "topic": topic, "partition": partition, "alarm": position.alarm}
                    tx.audit("intake", "intake.offsets", None, detail)

    def beat(self, row: PumpRow) -> None:
        """Keep the pump's heartbeat with what was stored and rejected here."""
        with self._ledger.transaction() as tx:
            tx.beat(replace(row, stored=self._stored, rejected=self._rejected))

    def tick(self) -> list[str]:
        """Decide for every model that has something new, resolve held records, and say who is due now.

        Each model is a transaction of its own: one that cannot be decided keeps nobody else from it.
        """
        with self._ledger.transaction() as tx:
            self._resolve_held(tx)
        self._admissions.decide()
        with self._ledger.transaction() as tx:
            return tx.due_models(*self._backoff)

    def _resolve_held(self, tx: Tx) -> None:
        held = tx.held_records()
        if not held:
            return
        routes, now = self._known_routes(tx), tx.wall()
        found = []
        for record in held:
            event = cloudevents.parse(record.raw.value, record.raw.headers)
            models, refused = route(event, routes)
            if models:
                tx.resolve_held(record.pk, "stored", None)
                found.append((_Routed(record.raw, event, models), record.pk))
            elif refused or record.held_until <= now:
                reason = refused or unknown(event)
                tx.resolve_held(record.pk, "rejected", reason)
                dead_letter(tx, record.pk, record.raw, reason)
        self._accept(tx, found)

    def _known_routes(self, tx: Tx) -> Routes:
        """The routes of the registry as it is now; made again only when a spec or a retirement changed.

        A spec that this code cannot read raises, so that the batch waits in Kafka: which data concern it is not known.
        """
        rows = tuple(tx.registered())
        if rows != self._routes.rows:
            by_dataset: dict[str, tuple[str, ...]] = {}
            for row in rows:
                if not row.retired:
                    for dataset in spec_of(tx, row.digest).datasets:
                        by_dataset[dataset] = (*by_dataset.get(dataset, ()), row.model)
            self._routes = Routes(rows, {row.model: row.retired for row in rows}, by_dataset)
        return self._routes


def _traceparent(each: _Routed) -> str | None:
    """The span that the event's publisher named: CloudEvents' extension, else the header that OpenTelemetry sends."""
    said: object = each.event.extensions.get("traceparent")
    if said is None:
        said = next((value.decode("latin-1") for name, value in each.raw.headers if name == "traceparent"), None)
    named = read_traceparent(said) if said is not None else None
    return named.traceparent if named else None


def _judged(raw: RawRecord, routes: Routes, hold_until: datetime, refused: str | None) -> NewRecord | _Routed:
    """What becomes of a record: routed to models, held, or rejected (at once, when it is ``refused`` already)."""
    if refused is not None:
        return NewRecord(raw, "rejected", refused)
    try:
        event = cloudevents.parse(raw.value, raw.headers)
    except cloudevents.EventRejected as refusal:
        return NewRecord(raw, "rejected", str(refusal))
    models, reason = route(event, routes)
    if reason:
        return NewRecord(raw, "rejected", reason)
    return _Routed(raw, event, models) if models else NewRecord(raw, "held", unknown(event), hold_until)


def route(event: cloudevents.InboundEvent, routes: Routes) -> tuple[tuple[str, ...], str | None]:
    """The models an event concerns, or the reason why it concerns none for good.

    A data event concerns every model whose spec names the dataset; all other events the model they are about.
    """
    if isinstance(event.data, cloudevents.DataArrived):
        return routes.by_dataset.get(event.data.dataset, ()), None
    retired = routes.retired.get(event.subject)
    if retired is None:
        return (), None
    return ((), f"model {event.subject!r} is retired") if retired else ((event.subject,), None)


def marks_of(arrivals: Iterable[cloudevents.DataArrived]) -> list[cloudevents.DataArrived]:
    """The fewest arrivals that move the watermarks as all of them would, one after the other: at most two per dataset.

    A later one that says how complete the labels are makes those before it needless; one that does not leaves the share
    that was told before.
    """
    chains: dict[str, list[cloudevents.DataArrived]] = {}
    for arrived in arrivals:
        chain = chains.setdefault(arrived.dataset, [])
        if chain and arrived.complete_until < chain[-1].complete_until:
            continue
        if arrived.label_completeness is not None:
            chain[:] = [arrived]
        elif chain and chain[-1].label_completeness is None:
            chain[-1] = arrived
        else:
            chain.append(arrived)
    return [arrived for _, chain in sorted(chains.items()) for arrived in chain]


def unknown(event: cloudevents.InboundEvent) -> str:
    """Why an event is held, and later dead-lettered."""
    what = "dataset" if isinstance(event.data, cloudevents.DataArrived) else "model"
    return f"no registered spec knows the {what} {event.subject!r}. Add include/models/<model>/ and run: ratchet deploy"
