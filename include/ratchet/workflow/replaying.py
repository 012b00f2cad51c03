"""Another chance by an operator's word: events that ended without a verdict, records that were rejected or are lacking.

Nothing here goes around the rules: a record is read by today's code and stored as the pump stores it, where the unique
keys absorb what is known; an event is made pending and admitted as any other. The same replay again changes nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ratchet.domain.positions import incarnated
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.bus import INBOUND_TOPICS, Bus
from ratchet.ports.ledger import EventRow, Ledger, RecordRow, Tx
from ratchet.records import RawRecord
from ratchet.workflow.intake import Intake

logger = logging.getLogger(__name__)
REOPENABLE = ("failed", "expired", "rejected", "suppressed")
"""Fates that belong to no concluded attempt; ``started`` and ``merged`` are final."""
LETTERS_AT_ONCE = 100
MOST_NAMED = 1_000

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Operator:
    """Who asks, and why: both go into fates, records and the audit log; where, and the id there, into the log alone."""

    name: str
    reason: str
    via: str | None = None
    user_id: str | None = None

    def __post_init__(self) -> None:
        """A replay without a reason is refused."""
        if not self.reason.strip():
            raise Refused("a replay needs a reason: it is what the events and the audit log will say")

    @property
    def said(self) -> dict[str, str]:
        """What the audit log says beside the name."""
        told = (("reason", self.reason), ("via", self.via), ("user_id", self.user_id))
        return {name: value for name, value in told if value is not None}

    def __str__(self) -> str:
        return f"replayed by {self.name}: {self.reason}"


@dataclass(frozen=True)
class Letters:
    """Which dead letters: all, or one (topic, partition, offset), or those whose reason contains a text."""

    spot: tuple[str, int, int] | None = None
    reason_contains: str | None = None

    def __str__(self) -> str:
        which = ":".join(map(str, self.spot)) if self.spot else "all"
        return which + (f" with a reason that contains {self.reason_contains!r}" if self.reason_contains else "")


class _Undone(Exception):
    """Rolls back what a dry run did to find out."""


class Replays:
    """The operator's verbs. With ``dry_run`` they answer what would be and write nothing."""

    def __init__(self, ledger: Ledger, intake: Intake, bus: Callable[[], Bus]) -> None:
        self._ledger = ledger
        self._intake = intake
        self._bus = bus

    def since(
        self,
        moment: datetime,
        operator: Operator,
        *,
        fates: Collection[str] = ("failed", "expired"),
        models: Collection[str] = (),
        from_kafka: bool = True,
        dry_run: bool = False,
        progress: Progress = logger.info,
    ) -> dict[str, Any]:
        """Reopen events that ended since then, and store what Kafka holds since then and the ledger lacks.

        A reopened event is pending with no try counted. Left alone are events of retired models, events beyond their
        ``max_event_age`` (they would expire again), and those reopened since ``moment`` already. ``models`` narrows
        what is reopened; a lacking record is stored whatever it concerns, and looked for only ``from_kafka``.

        Returns:
            ``{"reopened", "too_old", "retired", "read", "stored": counts, "by_model": reopened events of each}``

        Raises:
            Refused: a fate that cannot be reopened, or a model that is not registered.
            Unavailable: Kafka or the ledger does not answer; repeat it.
        """
        final = sorted(set(fates) - set(REOPENABLE))
        if final:
            raise Refused(f"fate {final[0]!r} cannot be reopened; {', '.join(REOPENABLE)} can")
        with self._ledger.transaction() as tx:
            self._known(tx, models)
        counts = self._restore(moment, dry_run, progress) if from_kafka else {"read": 0, "stored": 0}
        with self._ledger.transaction() as tx:
            live, retired = self._known(tx, models)
            for model in live:
                tx.lock_model(model)
            _, business = tx.clock()
            rows = tx.reopenable(sorted(live), fates, moment)
            fresh = [row for row in rows if not _too_old(row, live[row.model], business)]
            counts |= {
                "reopened": len(fresh),
                "too_old": len(rows) - len(fresh),
                "retired": len(tx.reopenable(retired, fates, moment)),
                "by_model": dict(Counter(row.model for row in fresh)),
            }
            if not dry_run:
                tx.reopen([row.pk for row in fresh], str(operator))
                tx.mark({row.model for row in fresh})
                what = {"since": moment.isoformat(), "fates": list(fates), "models": sorted(models)}
                tx.audit(operator.name, "events.replayed", None, what | operator.said | counts)
        return counts

    @staticmethod
    def _known(tx: Tx, models: Collection[str]) -> tuple[dict[str, ModelSpec], list[str]]:
        """The specs of these models (all when none is named) by name, in order, and the names of the retired ones."""
        rows = tx.specs()
        lacking = sorted(set(models) - {row.model for row in rows})
        if lacking:
            raise Refused(f"model {lacking[0]!r} is not registered; {', '.join(row.model for row in rows)} are")
        chosen = [row for row in rows if not models or row.model in models]
        live = {row.model: ModelSpec.model_validate(row.document) for row in chosen if not row.retired}
        return live, [row.model for row in chosen if row.retired]

    def _restore(self, moment: datetime, dry_run: bool, progress: Progress) -> dict[str, Any]:
        read = stored = 0
        for batch in self._bus().published_since(moment, *INBOUND_TOPICS):
            with self._ledger.transaction() as tx:
                lacking = tx.unknown_records(_named_as_stored(tx, batch))
            if lacking and not dry_run:
                self._intake.store(lacking)
            read, stored = read + len(batch), stored + len(lacking)
            progress(f"{read:,} records read from Kafka, {stored:,} were not in the ledger")
        return {"read": read, "stored": stored}

    def letters(
        self, which: Letters, operator: Operator, *, dry_run: bool = False, progress: Progress = logger.info
    ) -> dict[str, Any]:
        """Read dead letters again, by today's code and registry; what is an event of a known model now is stored.

        A record that is still no event stays as it is. One that is stored keeps in its reason who replayed it, and
        why it had been rejected.

        Returns:
            ``{"read", "stored": counts, "still": how many stay rejected, by reason, "records": those stored,
            topic:partition:offset, the first thousand}``

        Raises:
            Refused: there is no dead letter at ``which.spot``.
            Unavailable: the ledger does not answer; repeat it.
        """
        read, stored, still = 0, [], Counter[str]()
        after: int | None = 0
        while after is not None:
            rows: list[RecordRow] = []
            with suppress(_Undone), self._ledger.transaction() as tx:
                rows = tx.rejected_records(
                    spot=which.spot, reason_contains=which.reason_contains, after=after, limit=LETTERS_AT_ONCE
                )
                for row in rows:
                    refused = self._intake.store_again(tx, row, f"{operator}; rejected before: {row.reason}")
                    if refused is None:
                        stored.append(f"{row.raw.topic}:{row.raw.partition}:{row.raw.offset}")
                    else:
                        still[refused] += 1
                if dry_run:
                    raise _Undone
            read += len(rows)
            after = rows[-1].pk if rows else None
            progress(f"{read:,} dead letters read, {len(stored):,} are events now")
        if which.spot and not read:
            raise Refused(f"there is no dead letter at {which}. See: ratchet events dead-letters")
        answer = {"read": read, "stored": len(stored), "records": stored[:MOST_NAMED]}
        if not dry_run:
            with self._ledger.transaction() as tx:
                what = {"dead_letters": str(which)} | operator.said | answer
                tx.audit(operator.name, "events.replayed", None, what)
        return answer | {"still": dict(still.most_common())}


def _named_as_stored(tx: Tx, records: Sequence[RawRecord]) -> list[RawRecord]:
    """The records under the identity that the pump gives them: a topic that was made again is another log."""
    named = []
    for cluster in {record.cluster for record in records}:
        mine = [record for record in records if record.cluster == cluster]
        known = tx.positions(cluster, {(record.topic, record.partition) for record in mine})
        for record in mine:
            spot = known.get((record.topic, record.partition))
            named.append(replace(record, cluster=incarnated(cluster, spot.incarnation)) if spot else record)
    return named


def _too_old(row: EventRow, spec: ModelSpec, business: datetime) -> bool:
    return row.time + spec.retrain.max_event_age <= business
