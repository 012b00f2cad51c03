"""How much one sender may send: a token bucket each, in this process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

MOST_SENDERS = 10_000


class Buckets:
    """A sender may send ``per_minute`` events at once, and as many in every minute after.

    Args:
        per_minute: how many events, 1 or more; None for no limit.
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, per_minute: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._now = now
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, sender: str, count: int) -> int:
        """Take so many of the sender's: 0 when it may send them, else after how many seconds (1 or more) it may.

        More than the bucket holds may be sent from a full one alone, and is paid off before anything else.
        """
        most = self._most
        if most is None:
            return 0
        with self._lock:
            now = self._now()
            if len(self._left) > MOST_SENDERS:
                self._left = {name: kept for name, kept in self._left.items() if now - kept[1] < 60}
            left, since = self._left.get(sender, (float(most), now))
            left = min(most, left + (now - since) * most / 60)
            wanted = min(count, most)
            enough = left >= wanted
            self._left[sender] = (left - count if enough else left, now)
            return 0 if enough else max(1, math.ceil((wanted - left) * 60 / most))
