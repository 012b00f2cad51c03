"""What the intake pump hands its records to, and asks what is due."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ratchet.records import RawRecord


class IntakeSink(Protocol):
    """The durable side of the intake. Called by one thread; both calls may take seconds, never minutes."""

    def store(self, records: Sequence[RawRecord]) -> None:
        """Keep every record, in one transaction, before the offsets are committed.

        The same record may come again (redelivery): it must be absorbed. When this raises, nothing of the batch was
        kept and the same batch is handed over again later; a bad record must therefore be kept as rejected, not raise.
        """
        ...

    def tick(self) -> list[str]:
        """Decide what is undecided and return the models whose doorbell is due now. Called about once a second."""
        ...
