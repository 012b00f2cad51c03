"""What is told to the world: outbox rows, written with the act they tell of and relayed at least once."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

from ratchet.errors import RatchetError
from ratchet.failpoints import reach
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, Bus
from ratchet.ports.ledger import AttemptRow, Ledger, OutboxRow, Tx
from ratchet.ports.registry import Registry
from ratchet.records import RawRecord

logger = logging.getLogger(__name__)
CHAMPION = "champion"
CHALLENGER = "challenger"
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


def champion_moved(tx: Tx, model: str, seq: int) -> None:
    """Let the registry's alias follow the ledger's champion, and the orchestrator's asset say that there is another.

    The relay sets the alias. The asset can be updated by the orchestrator's own tasks only: they take the announcement.
    """
    tx.enqueue("alias", f"alias:{model}:{seq}", {"alias": CHAMPION}, model)
    tx.enqueue(CHAMPION, f"champion:{model}:{seq}", {"seq": seq}, model)


def challenger_alias(tx: Tx, attempt: AttemptRow) -> None:
    """Let the registry's alias name the version that was judged last."""
    tx.enqueue("alias", f"challenger:{attempt.id}", {"alias": CHALLENGER}, attempt.model)


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
            self._follow_ledger(tx, str(row.model), row.payload["alias"])
            return
        bus, payload = self._bus(), row.payload
        headers = [(k, bytes.fromhex(v)) for k, v in payload["headers"]]
        bus.publish(payload["topic"], _unpacked(payload["key"]), _unpacked(payload["value"]), headers)
        bus.flush()

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


def _named(tx: Tx, model: str, alias: str) -> int | None:
    """Which version the alias names by the ledger: who serves, or who was judged last, dry runs aside."""
    if alias == CHAMPION:
        champion = tx.current_champion(model)
        return champion.version if champion else None
    judged = (a for a in tx.attempts(model=model) if a.challenger_version is not None and not a.dry_run)
    return next((a.challenger_version for a in judged), None)


def _packed(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _unpacked(value: Any) -> bytes | None:
    return None if value is None else base64.b64decode(value)
