"""What is told to the world: outbox rows, written with the act they tell of and relayed at least once."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ratchet.domain.events import Announcement, decision_event, to_record
from ratchet.errors import RatchetError
from ratchet.failpoints import reach
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, Bus
from ratchet.ports.ledger import AttemptRow, Ledger, OutboxRow, Resolution, Tx
from ratchet.ports.registry import Registry
from ratchet.records import RawRecord

logger = logging.getLogger(__name__)
CHAMPION = "champion"
CHALLENGER = "challenger"
ALIAS, RECORD = "alias", "record"
MOST_AT_ONCE = 10_000
BATCH = 1_000
BATCH_SECONDS, SINGLE_SECONDS = 30.0, 5.0
"""How long Kafka may take for a batch, and for one record where a batch failed."""
MOST_FAILURES = 3
MOST_REASON = 2_000
MOST_LETTER_BYTES = 900_000
"""A dead letter with its own headers must stay below Kafka's 1 MiB for a request."""


def dead_letter(tx: Tx, record_pk: int, raw: RawRecord, reason: str) -> None:
    """Send the record as it came to ``ml.dead-letter``, its origin and the reason in the headers.

    One that is too large for the topic is cut, and header ``ratchet-cut`` has its size; the ledger keeps all of it.
    """
    origin = {
        "ratchet-reason": reason,
        "ratchet-topic": raw.topic,
        "ratchet-partition": str(raw.partition),
        "ratchet-offset": str(raw.offset),
    }
    key, value, carried = raw.key, raw.value, raw.headers
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(content) for name, content in carried)
    if size > MOST_LETTER_BYTES:
        key, value, carried = None, (value or b"")[:MOST_LETTER_BYTES], ()
        origin["ratchet-cut"] = str(size)
    if key is None and value is None:
        key = f"{raw.topic}:{raw.partition}:{raw.offset}".encode()  # Kafka's client sends no record without both
    headers = [[k, v.hex()] for k, v in carried] + [[k, v.encode().hex()] for k, v in origin.items()]
    payload = {"topic": DEAD_LETTER, "key": _packed(key), "value": _packed(value), "headers": headers}
    tx.enqueue(RECORD, f"dead-letter:{record_pk}", payload)


def decision(tx: Tx, dedupe: str, model: str, record: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
    """Publish a decision of ours to ``ml.decisions``."""
    key, value, headers = record
    packed = [[k, v.hex()] for k, v in headers]
    payload = {"topic": DECISIONS, "key": _packed(key), "value": _packed(value), "headers": packed}
    tx.enqueue(RECORD, f"decision:{dedupe}", payload, model)


def observation(tx: Tx, event: Announcement) -> None:
    """Publish what our own monitor observed, as any monitoring system would; a repeat of its id tells nothing."""
    key, value, headers = to_record(event)
    packed = [[k, v.hex()] for k, v in headers]
    payload = {"topic": event.topic, "key": _packed(key), "value": _packed(value), "headers": packed}
    tx.enqueue(RECORD, f"observation:{event.id}", payload, event.subject)


def champion_moved(tx: Tx, model: str, seq: int) -> None:
    """Let the registry's alias follow the ledger's champion, and the orchestrator's asset say that there is another.

    The relay sets the alias. The asset can be updated by the orchestrator's own tasks only: they take the announcement.
    """
    tx.enqueue(ALIAS, f"alias:{model}:{seq}", {"alias": CHAMPION}, model)
    tx.enqueue(CHAMPION, f"champion:{model}:{seq}", {"seq": seq}, model)


def alias_moved(tx: Tx, model: str, seq: int) -> None:
    """Have the registry's alias set to the ledger's champion again; each incident is an outbox row of its own."""
    tx.enqueue(ALIAS, f"alias:{model}:{seq}:repair:{tx.wall():%Y%m%dT%H%M%S.%f}", {"alias": CHAMPION}, model)


def challenger_alias(tx: Tx, attempt: AttemptRow) -> None:
    """Let the registry's alias name the version that was judged last, or its refit: what would serve."""
    tx.enqueue(ALIAS, f"challenger:{attempt.id}", {"alias": CHALLENGER}, attempt.model)


def resolution(event: Resolution) -> Announcement:
    """What ``ml.decisions`` says of an event that reached a terminal fate.

    Its id derives from the event, the model and the fate, and from when an operator reopened the event, if ever: a
    repeat is recognisable, and another end after a replay is another id.
    """
    identity = json.dumps([event.source, event.event_id, event.model]).encode()
    key = f"{hashlib.sha256(identity).hexdigest()[:32]}:{event.fate}"
    if event.reopened_at is not None:
        key += f":{event.reopened_at:%Y%m%dT%H%M%S.%fZ}"
    return decision_event(
        "resolved",
        key=key,
        model=event.model,
        time=event.at,
        event_id=event.event_id,
        event_source=event.source,
        event_type=event.type,
        fate=event.fate,
        reason=event.reason[:MOST_REASON],
        attempt=event.attempt_id,
        until=event.until,
    )


class Relay:
    """Tells what is to be told: the task that wrote it, the triggerer within a second, else the sweep."""

    def __init__(self, ledger: Ledger, bus: Callable[[], Bus], registry: Callable[[], Registry]) -> None:
        self._ledger = ledger
        self._bus = bus
        self._registry = registry

    def run(self) -> int:
        """Relay all that is open, aliases first; what fails waits for the next relay. Returns the outbox rows told."""
        told = 0
        while told < MOST_AT_ONCE and (relayed := self._relay_alias()):
            told += relayed
        return told + self.publish()

    def publish(self, *, most_tries: int | None = None) -> int:
        """Relay what goes to Kafka, which may block as long as Kafka does. Returns the outbox rows told.

        Args:
            most_tries: leave rows that were tried so often to another relay.
        """
        told = 0
        while told < MOST_AT_ONCE and (relayed := self._relay_records(most_tries)):
            told += relayed
        resolved = 0
        while resolved < MOST_AT_ONCE and (relayed := self._relay_resolutions()):
            resolved += relayed
        return told

    def _relay_alias(self) -> int:
        with self._ledger.transaction() as tx:
            for row in tx.read_outbox(tx.take_outbox(ALIAS, 1)):
                try:
                    self._follow_ledger(tx, str(row.model), row.payload["alias"])
                except RatchetError as error:
                    _failed(tx, row, error)
                    return 0
                tx.finish_outbox([row.pk])
                return 1
        return 0

    def _follow_ledger(self, tx: Tx, model: str, alias: str) -> None:
        """An alias is a projection: it is set to what the ledger says now, whichever row asked for it.

        The ledger is asked again afterwards, because a relay that slept between looking and setting would otherwise
        leave the alias on the older version.
        """
        version = _named(tx, model, alias)
        if version is None:
            return
        if alias == CHAMPION:
            reach("compare-and-set/no alias")
        followed = None
        while version is not None and version != followed:
            self._registry().set_alias(model, alias, version)
            followed, version = version, _named(tx, model, alias)
        if alias == CHAMPION:
            reach("alias/not published")

    def _relay_records(self, most_tries: int | None) -> int:
        """Publish a batch with one flush. Returns how many were told; 0 when any failed: the next relay goes on."""
        with self._ledger.transaction() as tx:
            pks = tx.take_outbox(RECORD, BATCH, most_tries=most_tries)
            if not pks:
                return 0
            try:
                self._publish(tx.read_outbox(pks))
            except RatchetError as error:
                logger.warning("a batch of %d was not told, now one by one: %s", len(pks), error)
                self._one_by_one(tx, pks)
                return 0
            tx.finish_outbox(pks)
            return len(pks)

    def _one_by_one(self, tx: Tx, pks: Sequence[int]) -> None:
        """One record that no broker takes must not hold back the others; when several fail in a row, all would."""
        failures = 0
        for row in tx.read_outbox(pks):
            try:
                self._publish([row], SINGLE_SECONDS)
            except RatchetError as error:
                _failed(tx, row, error)
                failures += 1
                if failures == MOST_FAILURES:
                    return
            else:
                tx.finish_outbox([row.pk])
                failures = 0

    def _publish(self, rows: Iterable[OutboxRow], timeout_seconds: float = BATCH_SECONDS) -> None:
        bus = self._bus()
        try:
            for row in rows:
                payload = row.payload
                headers = [(k, bytes.fromhex(v)) for k, v in payload["headers"]]
                bus.publish(payload["topic"], _unpacked(payload["key"]), _unpacked(payload["value"]), headers)
        finally:
            bus.flush(timeout_seconds)

    def _relay_resolutions(self) -> int:
        """Tell how a batch of events ended. Returns how many, 0 when Kafka took them not."""
        with self._ledger.transaction() as tx:
            rows = tx.take_resolutions(BATCH)
            if not rows:
                return 0
            bus = self._bus()
            try:
                for row in rows:
                    bus.publish(DECISIONS, *to_record(resolution(row)))
                bus.flush(BATCH_SECONDS)
            except RatchetError as error:
                logger.warning("how %d events ended was not told: %s", len(rows), error)
                return 0
            tx.finish_resolutions([row.pk for row in rows])
            return len(rows)


def _named(tx: Tx, model: str, alias: str) -> int | None:
    """Which version the alias names by the ledger: who serves, or who was judged last or refitted, dry runs aside."""
    if alias == CHAMPION:
        champion = tx.current_champion(model)
        return champion.version if champion else None
    judged = (a for a in tx.attempts(model=model) if a.candidate_version is not None and not a.dry_run)
    return next((a.candidate_version for a in judged), None)


def _failed(tx: Tx, row: OutboxRow, error: RatchetError) -> None:
    logger.warning("outbox row %s (%s) was not told: %s", row.pk, row.dedupe, error)
    tx.finish_outbox([row.pk], str(error))


def _packed(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _unpacked(value: Any) -> bytes | None:
    return None if value is None else base64.b64decode(value)
