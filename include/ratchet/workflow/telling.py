"""What is told to the world: outbox rows, written with the act they tell of and relayed at least once."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

from ratchet.errors import RatchetError
from ratchet.failpoints import reach
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, Bus
from ratchet.ports.ledger import Ledger, OutboxRow, Tx
from ratchet.ports.registry import Registry
from ratchet.records import RawRecord

logger = logging.getLogger(__name__)
CHAMPION = "champion"
MOST_AT_ONCE = 10_000


def dead_letter(tx: Tx, record_pk: int, raw: RawRecord, reason: str) -> None:
    """Send the record as it came to ``ml.dead-letter``, its origin and the reason in the headers."""
    origin = {
        "ratchet-reason": reason,
        "ratchet-topic": raw.topic,
        "ratchet-partition": str(raw.partition),
        "ratchet-offset": str(raw.offset),
    }
    headers = [[k, v.hex()] for k, v in raw.headers] + [[k, v.encode().hex()] for k, v in origin.items()]
    payload = {"topic": DEAD_LETTER, "key": _packed(raw.key), "value": _packed(raw.value), "headers": headers}
    tx.enqueue("record", f"dead-letter:{record_pk}", payload)


def decision(tx: Tx, dedupe: str, model: str, record: tuple[bytes, bytes, list[tuple[str, bytes]]]) -> None:
    """Publish a decision of ours to ``ml.decisions``."""
    key, value, headers = record
    packed = [[k, v.hex()] for k, v in headers]
    payload = {"topic": DECISIONS, "key": _packed(key), "value": _packed(value), "headers": packed}
    tx.enqueue("record", f"decision:{dedupe}", payload, model)


def champion_alias(tx: Tx, model: str, seq: int) -> None:
    """Let the registry's alias follow the ledger's champion."""
    tx.enqueue("alias", f"alias:{model}:{seq}", {"seq": seq}, model)


class Relay:
    """Empties the outbox: the task that filled it, else the sweep."""

    def __init__(self, ledger: Ledger, bus: Callable[[], Bus], registry: Callable[[], Registry]) -> None:
        self._ledger = ledger
        self._bus = bus
        self._registry = registry

    def run(self, *, kinds: tuple[str, ...] = ("alias", "record")) -> int:
        """Relay what is open, oldest first; what fails is kept for the next relay. Returns how many were told."""
        told = 0
        while told < MOST_AT_ONCE:
            with self._ledger.transaction() as tx:
                row = tx.take_outbox(kinds)
                if row is None:
                    return told
                try:
                    self._tell(tx, row)
                except RatchetError as error:
                    logger.warning("outbox row %s (%s) was not told: %s", row.pk, row.dedupe, error)
                    tx.finish_outbox(row.pk, str(error))
                    return told
                tx.finish_outbox(row.pk)
                told += 1
        return told

    def _tell(self, tx: Tx, row: OutboxRow) -> None:
        if row.kind == "alias":
            self._follow_ledger(tx, str(row.model))
            return
        bus, payload = self._bus(), row.payload
        headers = [(k, bytes.fromhex(v)) for k, v in payload["headers"]]
        bus.publish(payload["topic"], _unpacked(payload["key"]), _unpacked(payload["value"]), headers)
        bus.flush()

    def _follow_ledger(self, tx: Tx, model: str) -> None:
        """The alias is a projection: it is set to who serves now, whichever row asked for it."""
        champion = tx.current_champion(model)
        if champion is None:
            return
        reach("compare-and-set/no alias")
        self._registry().set_alias(model, CHAMPION, champion.version)
        reach("alias/not published")


def _packed(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _unpacked(value: Any) -> bytes | None:
    return None if value is None else base64.b64decode(value)
