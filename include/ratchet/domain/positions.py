"""Where to take a Kafka partition up, and whether records were lost on the way. Touches nothing.

A record's identity is its cluster, topic, partition and offset. Two things break that: retention may delete records
before they are stored, and a topic made again under its name (or a log that lost its end) counts offsets from the
beginning again, so that new records would look like redeliveries of old ones. The first is an alarm with the exact
offsets. The second is an alarm and a new *incarnation* of the partition, whose records are new by identity.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """What the ledger knows of a partition; ``stored_until`` is the offset after the highest stored one, 0 for none."""

    topic_id: str | None
    incarnation: int
    stored_until: int


@dataclass(frozen=True)
class Ends:
    """What the broker says: the topic's id, what the group has committed, and the first and next offset of the log."""

    topic_id: str | None
    committed: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Position:
    """Where to go on: seek to ``offset`` (None: stay where the group stands). ``alarm`` says what was lost."""

    incarnation: int
    offset: int | None = None
    alarm: str | None = None


def incarnated(cluster: str, incarnation: int) -> str:
    """The cluster's part of a record's identity: the id itself at first, ``<id>~<n>`` for the n-th log since."""
    return cluster if incarnation == 0 else f"{cluster}~{incarnation}"


def find_position(known: Known | None, ends: Ends, reached: int | None = None) -> Position:
    """Compare what is stored with what is there.

    Args:
        known: None when the partition was never taken up.
        ends: asked from the broker *after* ``known`` was read, or new records would look like a log that shrank.
        reached: the next offset a running pump expects; None at the beginning: what was committed or stored.

    """
    if known is None:
        if ends.committed is not None and ends.committed < ends.start:
            return Position(0, ends.start, _lost(ends.committed, ends.start))
        return Position(0)
    if reached is None:
        reached = max(ends.committed or 0, known.stored_until)
    if known.topic_id and ends.topic_id and known.topic_id != ends.topic_id:
        return Position(
            known.incarnation + 1,
            ends.start,
            f"the topic was deleted and made again (id {known.topic_id}, now {ends.topic_id}): "
            f"what the old one held from offset {reached} on is lost; reading the new one from {ends.start}",
        )
    if reached > ends.end:
        return Position(
            known.incarnation + 1,
            ends.start,
            f"the log ends at {ends.end}, but {reached - 1} was read already: the topic was made again, or the broker "
            f"lost its end; reading from {ends.start} as a new log",
        )
    if reached < ends.start:
        return Position(known.incarnation, ends.start, _lost(reached, ends.start))
    return Position(known.incarnation)


def _lost(first: int, start: int) -> str:
    return (
        f"offsets {first} to {start - 1} ({start - first} records at most) were deleted before they were stored: "
        f"retention is shorter than the intake was away; going on at {start}"
    )
