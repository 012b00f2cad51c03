"""The ledger's side of the intake pumps: heartbeats and partitions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import Base
from ratchet.domain.positions import Known, incarnated
from ratchet.ports.ledger import (
    PumpRow,
)


class Pumps(Base):
    """The pumps' heartbeats, and where each partition was taken up."""

    def beat(self, row: PumpRow) -> None:
        """Keep this pump's heartbeat; forget pumps that have been silent for a day."""
        now = self.wall()
        values = asdict(row) | {"beat_at": now}
        self._db.execute(
            self._insert(t.pump)
            .values(values)
            .on_conflict_do_update(
                index_elements=["instance"], set_={k: v for k, v in values.items() if k != "instance"}
            )
        )
        self._db.execute(sa.delete(t.pump).where(t.pump.c.beat_at < now - timedelta(days=1)))

    def pumps(self) -> list[PumpRow]:
        """Every pump heard of within a day, the latest first."""
        query = sa.select(t.pump).order_by(t.pump.c.beat_at.desc(), t.pump.c.instance)
        return [PumpRow(**r) for r in self._db.execute(query).mappings()]

    def intake_seen_at(self) -> datetime | None:
        """The latest heartbeat of any pump; before the first one, when the first spec was deployed; else None."""
        beat: datetime | None = self._db.execute(sa.select(sa.func.max(t.pump.c.beat_at))).scalar_one()
        return beat or self._db.execute(sa.select(sa.func.min(t.spec.c.deployed_at))).scalar_one()

    def positions(self, cluster: str, spots: Collection[tuple[str, int]]) -> dict[tuple[str, int], Known]:
        """What is known of these partitions; those never taken up are left out."""
        p, r, f = t.intake_partition.c, t.record.c, t.record_floor.c
        known = {}
        for topic, partition in spots:
            row = self._one(
                sa.select(t.intake_partition).where(p.cluster == cluster, p.topic == topic, p.partition == partition)
            )
            if row is None:
                continue
            name = incarnated(cluster, row["incarnation"])
            last = self._db.execute(
                sa.select(sa.func.max(r.offset)).where(r.cluster == name, r.topic == topic, r.partition == partition)
            ).scalar_one()
            floor = self._db.execute(
                sa.select(f.offset).where(f.cluster == name, f.topic == topic, f.partition == partition)
            ).scalar_one_or_none()
            stored_until = max(0 if last is None else last + 1, floor or 0)
            known[topic, partition] = Known(row["topic_id"], row["incarnation"], stored_until)
        return known

    def keep_position(self, cluster: str, topic: str, partition: int, topic_id: str | None, incarnation: int) -> None:
        """Remember which topic a partition's offsets belong to."""
        row = self._insert(t.intake_partition).values(
            cluster=cluster,
            topic=topic,
            partition=partition,
            topic_id=topic_id,
            incarnation=incarnation,
            since_at=self.wall(),
        )
        new = row.excluded
        self._db.execute(
            row.on_conflict_do_update(
                index_elements=["cluster", "topic", "partition"],
                set_={"topic_id": new.topic_id, "incarnation": new.incarnation, "since_at": new.since_at},
                where=sa.or_(
                    t.intake_partition.c.topic_id.is_distinct_from(new.topic_id),
                    t.intake_partition.c.incarnation != new.incarnation,
                ),
            )
        )
