"""Records on their way to Kafka: one thread publishes what requests hand to it, many with one wait.

A request awaits its future, so that while Kafka is slow neither the event loop nor any of the server's threads waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ratchet.errors import RatchetError, Unavailable
from ratchet.ports.bus import Bus, Headers

logger = logging.getLogger(__name__)
FLUSH_SECONDS = 10.0
AT_ONCE = 1_000
MOST_WAITING = 10_000
"""Records that may wait: beyond, whoever sends is told to come again."""

Record = tuple[str, bytes, bytes, Headers]
"""Topic, key, value, headers."""


@dataclass
class _Parcel:
    records: Sequence[Record]
    stored: Future[None] = field(default_factory=Future)


class Outgoing:
    """Publishes in the order of submission. Threads may share it."""

    def __init__(self, bus: Callable[[], Bus], flush_seconds: float = FLUSH_SECONDS) -> None:
        self._bus = bus
        self._flush_seconds = flush_seconds
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._waiting = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, records: Sequence[Record]) -> Future[None]:
        """Hand over records; the future ends when the broker has stored all of them, or with ``Unavailable``.

        Raises:
            Unavailable: too many records wait already, or this was closed.
        """
        parcel = _Parcel(records)
        with self._changed:
            if self._closed or self._waiting + len(records) > MOST_WAITING:
                raise Unavailable(f"{self._waiting:,} records wait for Kafka already. Send it again later")
            self._waiting += len(records)
            self._parcels.append(parcel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ratchet-outgoing", daemon=True)
                self._thread.start()
            self._changed.notify()
        return parcel.stored

    def close(self, timeout_seconds: float = 2 * FLUSH_SECONDS) -> None:
        """Publish what waits and stop; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)

    def _run(self) -> None:
        while parcels := self._take():
            self._publish(parcels)
            with self._changed:
                self._waiting -= sum(len(parcel.records) for parcel in parcels)

    def _take(self) -> list[_Parcel]:
        """Some parcels, as soon as there are any; none when this was closed and all are published."""
        taken: list[_Parcel] = []
        count = 0
        with self._changed:
            while not taken and not (self._closed and not self._parcels):
                self._changed.wait_for(lambda: self._parcels or self._closed)
                while self._parcels and count < AT_ONCE:
                    parcel = self._parcels.popleft()
                    # One that nobody waits for any more is not published: its sender was told to send it again.
                    if parcel.stored.set_running_or_notify_cancel():
                        taken.append(parcel)
                        count += len(parcel.records)
                    else:
                        self._waiting -= len(parcel.records)
        return taken

    def _publish(self, parcels: Sequence[_Parcel]) -> None:
        failed: Exception | None = None
        try:
            bus = self._bus()
            for parcel in parcels:
                for topic, key, value, headers in parcel.records:
                    bus.publish(topic, key, value, headers)
            bus.flush(self._flush_seconds)
        except Exception as error:  # noqa: BLE001 - every sender is told, and the thread goes on
            failed = _told(error)
        for parcel in parcels:
            if failed is None:
                parcel.stored.set_result(None)
            else:
                parcel.stored.set_exception(failed)


def _told(error: Exception) -> RatchetError:
    """The error as senders are told; the thread goes on whatever it was."""
    if isinstance(error, RatchetError):
        return error
    logger.error("records were not published", exc_info=error)
    return Unavailable(f"Kafka took no record: {error!r}")
