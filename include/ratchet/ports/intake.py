"""What the intake pump hands its records to, asks what is due, and tells how it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ratchet.domain.positions import Ends, Known, Position
from ratchet.ports.ledger import PumpRow
from ratchet.records import RawRecord

Spot = tuple[str, int]
"""Topic and partition."""


class IntakeSink(Protocol):
    """The durable side of the intake.

    ``store`` and the two calls about positions come from one thread, ``tick`` and ``beat`` from another, at the same
    time. Each may take seconds, never minutes.
    """

    def store(self, records: Sequence[RawRecord]) -> None:
        """Keep every record, in one transaction, before the offsets are committed.

        The same record may come again (redelivery): it must be absorbed. When this raises, nothing of the batch was
        kept and its records are handed over again later: a bad record must therefore be kept as rejected, not raise.
        """
        ...

    def positions(self, cluster: str, spots: Collection[Spot]) -> Mapping[Spot, Known]:
        """What is known of these partitions; those never taken up are left out."""
        ...

    def take_up(self, cluster: str, taken: Mapping[Spot, tuple[Ends, Position]]) -> None:
        """Keep where these partitions were taken up; an alarm goes into the audit log."""
        ...

    def tick(self) -> list[str]:
        """Decide what is undecided and return the models whose doorbell is due now. Called about once a second."""
        ...

    def beat(self, row: PumpRow) -> None:
        """Keep the pump's heartbeat; the sink adds how many records it stored and rejected."""
        ...
