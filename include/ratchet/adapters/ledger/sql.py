"""One class per side of the ledger, joined in ``SqlTx``; drivers' errors are translated here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from ratchet.adapters.ledger import schema as t
from ratchet.domain.positions import Known, incarnated
from ratchet.errors import ChampionMoved, Refused, StaleAttempt, Unavailable
from ratchet.ports.ledger import (
    OPEN_FATES,
    AttemptRow,
    ChampionRow,
    DueRow,
    EventRow,
    FateChange,
    FateEntry,
    HeldRecord,
    LeaseRow,
    NewEvent,
    NewRecord,
    OutboxRow,
    PumpRow,
    RecordRow,
    Registration,
    Resolution,
    SeenWindow,
    SpecRow,
    Tx,
    UsedDays,
    Watermark,
)
from ratchet.records import RawRecord

_Row = TypeVar("_Row")
AUDIT_LOCK = 0x52415443
FLEET_LOCK = AUDIT_LOCK + 2
MIGRATIONS = Path(__file__).parent / "migrations"
GENESIS = "0" * 64
CHUNK = 5_000
"""Rows per statement where a selection may be a storm: each stays well below the statement timeout."""
FEW = 50
"""Rows in memory at once where one may hold a megabyte."""


# A storm is read whole at each decision, so rows become EventRow by position.
EVENT_ROW = [t.event.c["id" if field.name == "pk" else field.name] for field in fields(EventRow)]
# One statement whatever the number of events: a storm of 100,000 is one round trip per model and chunk.
CHANGE_FATES = sa.text(
    """
    WITH change AS (
        SELECT * FROM unnest(
            CAST(:pk AS bigint[]), CAST(:fate AS text[]), CAST(:reason AS text[]),
            CAST(:until AS timestamptz[]), CAST(:attempt AS text[]), CAST(:more AS integer[])
        ) AS change (pk, fate, reason, until, attempt_id, more)
    ), changed AS (
        UPDATE event
        SET fate = change.fate, reason = change.reason, until = change.until, attempt_id = change.attempt_id,
            tries = event.tries + change.more
        FROM change
        WHERE event.id = change.pk AND (event.fate, event.reason, event.until, event.attempt_id)
            IS DISTINCT FROM (change.fate, change.reason, change.until, change.attempt_id)
        RETURNING event.id
    )
    INSERT INTO fate (event_pk, fate, reason, until, attempt_id, at)
    SELECT pk, fate, reason, until, attempt_id, :at FROM change JOIN changed ON changed.id = change.pk ORDER BY pk
    """
)


def _quoted(name: str) -> str:
    return f'"{name}"'


def audit_hash(previous: str, entry: dict[str, Any]) -> str:
    """SHA-256 over the previous hash and the entry in canonical JSON: any edit or removal breaks the chain."""
    return hashlib.sha256((previous + json.dumps(entry, sort_keys=True, separators=(",", ":"))).encode()).hexdigest()


class _Base:
    """What all sides share: the connection and the database's clock."""

    def __init__(self, connection: sa.Connection) -> None:
        self._db = connection
        self._postgres = connection.dialect.name == "postgresql"

    def _insert(self, table: sa.Table) -> Any:
        """An insert that can say ``on_conflict``, in the words of this database."""
        return postgresql.insert(table) if self._postgres else sqlite.insert(table)

    def _one(self, query: sa.Select[Any]) -> Any:
        return self._db.execute(query).mappings().first()

    def wall(self) -> datetime:
        """The database's wall clock: one clock for all processes."""
        if not self._postgres:
            return datetime.now(UTC)
        now: datetime = self._db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)

    def clock(self) -> tuple[str, datetime]:
        """Mode (``wall`` or ``replay``) and business time."""
        row = self._one(sa.select(t.clock))
        if row is None or row["mode"] == "wall" or row["now"] is None:
            return ("replay" if row and row["mode"] == "replay" else "wall", self.wall())
        return ("replay", row["now"])

    def set_clock(self, mode: str, now: datetime | None) -> None:
        """Set the mode, and in replay the time, which never moves back."""
        if mode not in {"wall", "replay"}:
            raise Refused(f"clock mode must be wall or replay, but got {mode!r}")
        row = self._one(sa.select(t.clock).with_for_update())
        if row is None:
            self._db.execute(sa.insert(t.clock).values(id=1, mode=mode, now=now))
            return
        if mode == "replay" and row["mode"] == "replay" and row["now"] and now and now < row["now"]:
            return
        self._db.execute(sa.update(t.clock).values(mode=mode, now=now))


class _Registry(_Base):
    """Specs by digest, and which one is current."""

    def publish_spec(self, model: str, digest: str, document: dict[str, Any], *, revive: bool = False) -> bool:
        """Make this the model's current spec; true when that changed anything.

        A retired model is left alone, unless it is to ``revive``.
        """
        known = self._one(sa.select(t.model).where(t.model.c.model == model).with_for_update())
        retired = known is not None and known["retired_at"] is not None
        if (retired and not revive) or (known and not retired and known["spec_digest"] == digest):
            return False
        now = self.wall()
        spec = self._insert(t.spec).values(digest=digest, model=model, document=document, deployed_at=now)
        self._db.execute(spec.on_conflict_do_nothing())
        row = self._insert(t.model).values(model=model, spec_digest=digest, retired_at=None)
        self._db.execute(
            row.on_conflict_do_update(index_elements=["model"], set_={"spec_digest": digest, "retired_at": None})
        )
        self._db.execute(sa.insert(t.touched).values(model=model))
        for table in (t.lease, t.doorbell):
            self._db.execute(self._insert(table).values(model=model).on_conflict_do_nothing())
        return True

    def retire(self, model: str) -> None:
        """Take the model out of service: its events are rejected from now on; its history stays."""
        self._db.execute(sa.update(t.model).where(t.model.c.model == model).values(retired_at=self.wall()))

    def specs(self) -> list[SpecRow]:
        """The current spec of every registered model."""
        query = sa.select(t.model.c.model, t.spec.c.digest, t.spec.c.document, t.model.c.retired_at).join(
            t.spec, t.spec.c.digest == t.model.c.spec_digest
        )
        return [
            SpecRow(r["model"], r["digest"], r["document"], r["retired_at"] is not None)
            for r in self._db.execute(query.order_by(t.model.c.model)).mappings()
        ]

    def registered(self) -> list[Registration]:
        """Every registered model with its current spec's digest only: cheap enough to ask for each batch."""
        c = t.model.c
        query = sa.select(c.model, c.spec_digest, c.retired_at).order_by(c.model)
        return [Registration(r.model, r.spec_digest, r.retired_at is not None) for r in self._db.execute(query)]

    def spec_document(self, digest: str) -> dict[str, Any]:
        """The spec with this digest, current or not."""
        document: dict[str, Any] = self._db.execute(
            sa.select(t.spec.c.document).where(t.spec.c.digest == digest)
        ).scalar_one()
        return document


class _Inbox(_Base):
    """Records, events, fates, watermarks."""

    def insert_records(self, records: Sequence[NewRecord]) -> dict[int, int]:
        """Insert what is new; the answer maps positions in ``records`` to row ids, redelivered offsets left out."""
        if not records:
            return {}
        now = self.wall()
        rows = [
            {
                "cluster": r.raw.cluster,
                "topic": r.raw.topic,
                "partition": r.raw.partition,
                "offset": r.raw.offset,
                "status": r.status,
                "reason": r.reason,
                "key": r.raw.key if r.status != "stored" else None,
                "value": r.raw.value if r.status != "stored" else None,
                "headers": [[k, v.hex()] for k, v in r.raw.headers] if r.status != "stored" else None,
                "received_at": now,
                "held_until": r.held_until,
            }
            for r in records
        ]
        _, answer = self._insert_new(t.record, rows, "id", "cluster", "topic", "partition", "offset")
        ids = {(cluster, topic, partition, offset): pk for pk, cluster, topic, partition, offset in answer}
        position = {(r.raw.cluster, r.raw.topic, r.raw.partition, r.raw.offset): i for i, r in enumerate(records)}
        return {position[key]: pk for key, pk in ids.items()}

    def insert_events(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """Insert what is new as ``pending``; the answer lists those refused: known id, other content.

        Of two in one batch the first is kept. A record of which one event is refused keeps none of its events.
        """
        if not events:
            return []
        now = self.wall()
        first = {"received_at": now, "fate": "pending", "reason": "received", "tries": 0}
        inserted, _ = self._insert_new(t.event, [vars(event) | first for event in events])
        if inserted == len(events):
            return []
        known = self._digests(events)
        refused = [event for event in events if known[event.source, event.event_id, event.model] != event.digest]
        records = {event.record_id for event in refused if event.record_id is not None}
        if records:
            self._db.execute(sa.delete(t.event).where(t.event.c.record_id.in_(records)))
        return refused

    def _insert_new(
        self, table: sa.Table, rows: Sequence[dict[str, Any]], *returning: str
    ) -> tuple[int, Sequence[Any]]:
        """Insert the rows that break no unique key, in their order: how many, and the named columns of each.

        PostgreSQL takes all of them as one JSON document in one statement (docs/decisions/0020): the client's share is
        one encoding in C, and nothing needs quoting.
        """
        if not self._postgres:
            insert = (
                sqlite.insert(table)
                .on_conflict_do_nothing()
                .returning(*(table.c[name] for name in returning or ("id",)))
            )
            found = [
                row
                for start in range(0, len(rows), 1_000)
                for row in self._db.execute(insert.values(rows[start : start + 1_000]))
            ]
            return len(found), found
        columns = [table.c[name] for name in rows[0]]
        binary = [isinstance(column.type, sa.LargeBinary) for column in columns]
        kinds = ["text" if raw else c.type.compile(self._db.dialect) for c, raw in zip(columns, binary, strict=True)]
        values = [
            f"decode(new.\"{c.name}\", 'base64')" if raw else f'new."{c.name}"'
            for c, raw in zip(columns, binary, strict=True)
        ]
        statement = (
            f'INSERT INTO "{table.name}" ({", ".join(_quoted(c.name) for c in columns)}) '  # noqa: S608 - our own names
            f"SELECT {', '.join(values)} FROM json_to_recordset(CAST(:rows AS json)) AS new "
            f"({', '.join(f'{_quoted(c.name)} {kind}' for c, kind in zip(columns, kinds, strict=True))}) "
            "ON CONFLICT DO NOTHING" + (f" RETURNING {', '.join(map(_quoted, returning))}" if returning else "")
        )
        answer = self._db.execute(sa.text(statement), {"rows": msgspec.json.encode(rows).decode()})
        return answer.rowcount, answer.all() if returning else ()

    def _digests(self, events: Sequence[NewEvent]) -> dict[tuple[str, str, str], str]:
        """The content digests kept under the ids of these events."""
        c = t.event.c
        keys = list({(event.source, event.event_id, event.model) for event in events})
        return {
            (row.source, row.event_id, row.model): row.digest
            for start in range(0, len(keys), 1_000)
            for row in self._db.execute(
                sa.select(c.source, c.event_id, c.model, c.digest).where(
                    sa.tuple_(c.source, c.event_id, c.model).in_(keys[start : start + 1_000])
                )
            )
        }

    def held_records(self) -> list[HeldRecord]:
        """Records that wait for their model to become known, oldest first."""
        query = sa.select(t.record).where(t.record.c.status == "held").order_by(t.record.c.id)
        return [
            HeldRecord(r["id"], _raw(r), r["held_until"])
            for r in self._db.execute(query.with_for_update(skip_locked=True)).mappings()
        ]

    def resolve_held(self, pk: int, status: str, reason: str | None) -> None:
        """End the wait of a held record."""
        self._db.execute(sa.update(t.record).where(t.record.c.id == pk).values(status=status, reason=reason))

    def advance_watermark(self, dataset: str, until: datetime, completeness: float | None) -> None:
        """Move the dataset's watermark forward; an older ``until`` changes nothing."""
        row = self._insert(t.watermark).values(
            dataset=dataset, complete_until=until, label_completeness=completeness, updated_at=self.wall()
        )
        new = row.excluded
        self._db.execute(
            row.on_conflict_do_update(
                index_elements=["dataset"],
                set_={
                    "complete_until": new.complete_until,
                    "label_completeness": sa.func.coalesce(new.label_completeness, t.watermark.c.label_completeness),
                    "updated_at": new.updated_at,
                },
                where=t.watermark.c.complete_until <= new.complete_until,
            )
        )

    def watermarks(self) -> dict[str, Watermark]:
        """Every dataset's watermark."""
        rows = self._db.execute(sa.select(t.watermark)).mappings()
        return {r["dataset"]: Watermark(r["dataset"], r["complete_until"], r["label_completeness"]) for r in rows}

    def mark(self, models: Collection[str]) -> None:
        """These models have something new to decide. Waits for nobody, whoever holds the models' rows."""
        if models:
            self._db.execute(sa.insert(t.touched), [{"model": model} for model in sorted(models)])

    def lock_model_to_decide(self, business_now: datetime, skip: Collection[str] = ()) -> str | None:
        """A marked model or one with a deferral that has run out, by name; None when there is none.

        It is locked until the transaction ends. Those being decided elsewhere are passed over, and those to ``skip``.
        """
        lifted = sa.select(t.event.c.model).where(t.event.c.fate == "deferred", t.event.c.until <= business_now)
        c = t.model.c
        query = (
            sa.select(c.model)
            .where(sa.or_(c.model.in_(sa.select(t.touched.c.model)), c.model.in_(lifted)), c.model.not_in(list(skip)))
            .order_by(c.model)
            .limit(1)
        )
        return self._db.execute(query.with_for_update(skip_locked=True)).scalar_one_or_none()

    def lock_model(self, model: str) -> bool:
        """Hold the model's row until the transaction ends; false when the model is not registered or is retired."""
        row = self._one(sa.select(t.model).where(t.model.c.model == model).with_for_update())
        return row is not None and row["retired_at"] is None

    def unmark(self, model: str) -> None:
        """The model's open events are decided upon from here on: what is marked later stays marked."""
        self._db.execute(sa.delete(t.touched).where(t.touched.c.model == model))

    def events(
        self,
        *,
        model: str | None = None,
        fates: Collection[str] | None = None,
        attempt_id: str | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
        event_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reason_contains: str | None = None,
        limit: int | None = None,
    ) -> list[EventRow]:
        """Events by business time then id; the newest ``limit`` ones."""
        c = t.event.c
        query = sa.select(*EVENT_ROW).order_by(c.time.desc(), c.event_id.desc(), c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(c.model == model)
        if fates is not None:
            query = query.where(c.fate.in_(list(fates)))
        if attempt_id is not None:
            query = query.where(c.attempt_id == attempt_id)
        if types is not None:
            query = query.where(c.type.in_(list(types)))
        if source is not None:
            query = query.where(c.source == source)
        if event_id is not None:
            query = query.where(c.event_id == event_id)
        if since is not None:
            query = query.where(c.time >= since)
        if until is not None:
            query = query.where(c.time < until)
        if reason_contains is not None:
            query = query.where(c.reason.icontains(reason_contains, autoescape=True))
        rows = [EventRow(*row) for row in self._db.execute(query)]
        return rows[::-1]

    def change_fates(self, changes: Sequence[FateChange]) -> None:
        """Write the next fates and their history, one per event; a change that changes nothing leaves no trace."""
        rows = [
            {
                "pk": x.pk,
                "fate": x.fate,
                "reason": x.reason,
                "until": x.until,
                "attempt": x.attempt_id,
                "more": int(x.count_try),
            }
            for x in {x.pk: x for x in changes}.values()
        ]
        now = self.wall()
        for chunk in _chunks(rows, CHUNK):
            if self._postgres:
                lists = {name: [row[name] for row in chunk] for name in chunk[0]}
                self._db.execute(CHANGE_FATES, lists | {"at": now})
            else:
                self._change_fates_one_by_one(chunk)

    def _change_fates_one_by_one(self, rows: Sequence[dict[str, Any]]) -> None:
        c, now = t.event.c, self.wall()
        known = {
            r.id: (r.fate, r.reason, r.until, r.attempt_id)
            for r in self._db.execute(
                sa.select(c.id, c.fate, c.reason, c.until, c.attempt_id).where(c.id.in_([x["pk"] for x in rows]))
            )
        }
        for row in rows:
            values = {key: row[key] for key in ("fate", "reason", "until")} | {"attempt_id": row["attempt"]}
            if known.get(row["pk"]) not in {None, tuple(values.values())}:
                self._db.execute(
                    sa.update(t.event).where(c.id == row["pk"]).values(values | {"tries": c.tries + row["more"]})
                )
                self._db.execute(sa.insert(t.fate).values(values | {"event_pk": row["pk"], "at": now}))

    def suppressed_windows(self, model: str) -> list[SeenWindow]:
        """What suppressed drift and all-clears said of each check's windows, one entry per window as it was written.

        ``severity`` is the highest one told of the window, None where there are all-clears only.
        """
        c = t.event.c
        check, end = c.data["check"].as_string(), c.data["window_end"].as_string()
        query = (
            sa.select(check, end, sa.func.max(c.data["severity"].as_float()))
            .where(c.model == model, c.fate == "suppressed", c.type.like("ratchet.drift.%"))
            .group_by(check, end)
        )
        return [
            SeenWindow(name, datetime.fromisoformat(moment), severity)
            for name, moment, severity in self._db.execute(query)
        ]

    def fate_history(self, pk: int) -> list[dict[str, Any]]:
        """Every fate the event has had, oldest first. The first, ``pending: received``, is the event's own row."""
        c = t.event.c
        received = self._one(sa.select(c.received_at).where(c.id == pk))
        if received is None:
            return []
        first = {"event_pk": pk, "fate": "pending", "reason": "received", "at": received["received_at"]}
        query = sa.select(t.fate).where(t.fate.c.event_pk == pk).order_by(t.fate.c.id)
        return [first | {"until": None, "attempt_id": None}, *(dict(r) for r in self._db.execute(query).mappings())]


class _Pumps(_Base):
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
        p, r = t.intake_partition.c, t.record.c
        known = {}
        for topic, partition in spots:
            row = self._one(
                sa.select(t.intake_partition).where(p.cluster == cluster, p.topic == topic, p.partition == partition)
            )
            if row is None:
                continue
            last = self._db.execute(
                sa.select(sa.func.max(r.offset)).where(
                    r.cluster == incarnated(cluster, row["incarnation"]), r.topic == topic, r.partition == partition
                )
            ).scalar_one()
            known[topic, partition] = Known(row["topic_id"], row["incarnation"], 0 if last is None else last + 1)
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


class _Operators(_Base):
    """What operators look at, and what they give another chance."""

    def last_fate(self) -> int:
        """The newest entry of the fate history; 0 when there is none."""
        return int(self._db.execute(sa.select(sa.func.coalesce(sa.func.max(t.fate.c.id), 0))).scalar_one())

    def fates_after(self, pk: int, missing: Collection[int], limit: int) -> list[FateEntry]:
        """Entries of the fate history after this one, oldest first, and those of ``missing`` that are there now.

        Entries become visible when their transaction commits, which is not the order of their numbers.
        """
        f, e = t.fate.c, t.event.c
        later = f.id > pk if not missing else sa.or_(f.id > pk, f.id.in_(list(missing)))
        query = (
            sa.select(
                f.id.label("pk"), f.at, e.model, e.source, e.event_id, e.type, f.fate, f.reason, f.until, f.attempt_id
            )
            .join(t.event, e.id == f.event_pk)
            .where(later)
            .order_by(f.id)
            .limit(limit)
        )
        return [FateEntry(**row) for row in self._db.execute(query).mappings()]

    def record_of(self, event_pk: int) -> RecordRow | None:
        """The Kafka record that brought the event; None when a form or a schedule did."""
        row = self._one(
            sa.select(t.record).join(t.event, t.event.c.record_id == t.record.c.id).where(t.event.c.id == event_pk)
        )
        return _record_row(row) if row else None

    def rejected_records(
        self,
        *,
        spot: tuple[str, int, int] | None = None,
        reason_contains: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[RecordRow]:
        """Dead letters, oldest first: the first so many after record ``after``, or the newest so many.

        ``spot`` is topic, partition and offset. With ``after`` rows are locked, and those locked elsewhere left out.
        """
        c = t.record.c
        query = sa.select(t.record).where(c.status == "rejected").limit(limit)
        if spot is not None:
            query = query.where(c.topic == spot[0], c.partition == spot[1], c.offset == spot[2])
        if reason_contains is not None:
            query = query.where(c.reason.icontains(reason_contains, autoescape=True))
        if after is not None:
            query = query.where(c.id > after).order_by(c.id).with_for_update(skip_locked=True)
            return [_record_row(r) for r in self._db.execute(query).mappings()]
        return [_record_row(r) for r in self._db.execute(query.order_by(c.id.desc())).mappings()][::-1]

    def unknown_records(self, records: Sequence[RawRecord]) -> list[RawRecord]:
        """Those of the records whose offset has no row."""
        c = t.record.c
        known: set[tuple[str, str, int, int]] = set()
        for cluster, topic, partition in {(r.cluster, r.topic, r.partition) for r in records}:
            offsets = [r.offset for r in records if (r.cluster, r.topic, r.partition) == (cluster, topic, partition)]
            query = sa.select(c.offset).where(
                c.cluster == cluster, c.topic == topic, c.partition == partition, c.offset.in_(offsets)
            )
            known |= {(cluster, topic, partition, offset) for offset in self._db.execute(query).scalars()}
        return [r for r in records if (r.cluster, r.topic, r.partition, r.offset) not in known]

    def reopenable(self, models: Collection[str], fates: Collection[str], since: datetime) -> list[EventRow]:
        """Events of these models that ended in one of these fates at ``since`` or later, and were not reopened since.

        ``since`` is the wall clock's. The caller holds the models.
        """
        e, f = t.event.c, t.fate.c
        ended = sa.exists().where(f.event_pk == e.id, f.fate == e.fate, f.at >= since)
        query = (
            sa.select(*EVENT_ROW)
            .where(
                e.model.in_(list(models)),
                e.fate.in_(list(fates)),
                sa.or_(e.reopened_at.is_(None), e.reopened_at < since),
                ended,
            )
            .order_by(e.id)
        )
        return [EventRow(*row) for row in self._db.execute(query)]

    def reopen(self, pks: Sequence[int], reason: str) -> None:
        """These events are pending again, with no try counted; how they end will be told anew."""
        now = self.wall()
        for chunk in _chunks(pks, CHUNK):
            fresh = {"fate": "pending", "reason": reason, "until": None, "attempt_id": None}
            self._db.execute(
                sa.update(t.event)
                .where(t.event.c.id.in_(chunk))
                .values(fresh | {"tries": 0, "told_at": None, "reopened_at": now})
            )
            self._db.execute(sa.insert(t.fate), [fresh | {"event_pk": pk, "at": now} for pk in chunk])


class _Doorbell(_Base):
    """Who is due, and who may ring."""

    def set_due(
        self,
        model: str,
        due_at: datetime | None,
        reason: str | None,
        *,
        since: datetime | None = None,
        incident: str | None = None,
    ) -> None:
        """The model is due from ``due_at`` on (None: nothing to do). A new debt starts with no rings and is not held.

        ``since`` (business) and ``incident`` are the oldest event's: they order the fleet.
        """
        values: dict[str, Any] = {"due_at": due_at, "reason": reason, "since": since, "incident": incident}
        known = self._one(sa.select(t.doorbell).where(t.doorbell.c.model == model))
        if due_at is None or known is None or known["due_at"] is None:
            values |= {"rung_at": None, "rings": 0, "held": None}
        self._db.execute(sa.update(t.doorbell).where(t.doorbell.c.model == model).values(**values))

    def due_models(
        self, backoff_seconds: float, backoff_max_seconds: float, *, overdue_seconds: float = 0.0
    ) -> list[str]:
        """Models to ring: due, not held, no attempt alive, and not rung within their back-off."""
        now = self.wall()
        c = t.doorbell.c
        query = (
            sa.select(c.model, c.rung_at, c.rings)
            .join(t.lease, t.lease.c.model == c.model)
            .where(
                c.due_at <= now - timedelta(seconds=overdue_seconds),
                c.held.is_(None),
                t.lease.c.attempt_id.is_(None),
            )
            .order_by(c.due_at)
        )
        return [
            r.model
            for r in self._db.execute(query)
            if self._may_ring(r.rung_at, r.rings, now, backoff_seconds, backoff_max_seconds)
        ]

    @staticmethod
    def _may_ring(rung_at: datetime | None, rings: int, now: datetime, backoff: float, most: float) -> bool:
        if rung_at is None:
            return True
        return rung_at + timedelta(seconds=min(backoff * 2 ** max(rings - 1, 0), most)) <= now

    def ring(self, model: str, backoff_seconds: float, backoff_max_seconds: float) -> bool:
        """Win the right to ring now: one winner among all processes."""
        now = self.wall()
        row = self._one(sa.select(t.doorbell).where(t.doorbell.c.model == model).with_for_update())
        if row is None or row["due_at"] is None or row["due_at"] > now or row["held"] is not None:
            return False
        if not self._may_ring(row["rung_at"], row["rings"], now, backoff_seconds, backoff_max_seconds):
            return False
        held = self._one(sa.select(t.lease.c.attempt_id).where(t.lease.c.model == model))
        if held and held["attempt_id"] is not None:
            return False
        self._db.execute(
            sa.update(t.doorbell).where(t.doorbell.c.model == model).values(rung_at=now, rings=row["rings"] + 1)
        )
        return True

    def unring(self, model: str) -> None:
        """Forget that the doorbell was rung: the model stays due, and the next ring need not wait."""
        self._db.execute(sa.update(t.doorbell).where(t.doorbell.c.model == model).values(rung_at=None, rings=0))

    def due_rows(self) -> list[DueRow]:
        """Every registered model that is due and at which nobody works, held ones too, by name."""
        c = t.doorbell.c
        query = (
            sa.select(c.model, c.due_at, c.since, c.incident, c.rings, c.held)
            .join(t.lease, t.lease.c.model == c.model)
            .join(t.model, t.model.c.model == c.model)
            .where(c.due_at <= self.wall(), t.lease.c.attempt_id.is_(None), t.model.c.retired_at.is_(None))
            .order_by(c.model)
        )
        return [DueRow(*row) for row in self._db.execute(query)]

    def hold(self, model: str, why: str | None) -> None:
        """A due model waits its turn, or (None) may be rung. A doorbell in other hands is left alone."""
        c = t.doorbell.c
        free = sa.select(c.model).where(c.model == model, c.due_at.is_not(None)).with_for_update(skip_locked=True)
        if self._one(free) is not None:
            self._db.execute(sa.update(t.doorbell).where(c.model == model).values(held=why))

    def lock_fleet(self) -> None:
        """Until the transaction ends nobody else starts an attempt, so that the fleet can be counted.

        The last lock to take: after the model's and the lease's, before the doorbell is written.
        """
        if self._postgres:
            self._db.execute(sa.select(sa.func.pg_advisory_xact_lock(FLEET_LOCK)))


class _Attempts(_Base):
    """Leases, attempts, steps, used days."""

    def lock_lease(self, model: str) -> LeaseRow:
        """The model's lease, held until the transaction ends.

        The model's own row is locked first: whoever needs both takes them in this order, so nobody waits in a ring.
        """
        self._db.execute(sa.select(t.model.c.model).where(t.model.c.model == model).with_for_update())
        row = self._one(sa.select(t.lease).where(t.lease.c.model == model).with_for_update())
        if row is None:
            raise Refused(f"model {model!r} is not registered. Run: ratchet deploy")
        return LeaseRow(**row)

    def leases(self) -> list[LeaseRow]:
        """All leases that are held."""
        query = sa.select(t.lease).where(t.lease.c.attempt_id.is_not(None))
        return [LeaseRow(**r) for r in self._db.execute(query).mappings()]

    def start_attempt(self, attempt: AttemptRow, ttl_seconds: float) -> None:
        """Insert the attempt and give it the lease (the caller holds ``lock_lease``)."""
        self._db.execute(sa.insert(t.attempt).values(asdict(attempt)))
        self._db.execute(
            sa.update(t.lease)
            .where(t.lease.c.model == attempt.model)
            .values(
                epoch=attempt.epoch,
                attempt_id=attempt.id,
                expires_at=self.wall() + timedelta(seconds=ttl_seconds),
            )
        )

    def renew_lease(self, attempt_id: str, ttl_seconds: float) -> None:
        """Keep the lease; refused when another attempt owns it."""
        answer = self._db.execute(
            sa.update(t.lease)
            .where(t.lease.c.attempt_id == attempt_id)
            .values(expires_at=self.wall() + timedelta(seconds=ttl_seconds))
        )
        if answer.rowcount == 0:
            raise StaleAttempt(f"attempt {attempt_id} no longer holds its model's lease: it was ended or taken over")

    def own_lease(self, attempt_id: str) -> AttemptRow:
        """The live attempt, its lease locked for this transaction; refused when stale or ended."""
        found = self.attempt(attempt_id)
        if found is None:
            raise StaleAttempt(f"there is no attempt {attempt_id!r}")
        lease = self.lock_lease(found.model)
        attempt = self.attempt(attempt_id) or found  # its state as it is under the lock
        if lease.attempt_id != attempt_id or lease.epoch != attempt.epoch:
            raise StaleAttempt(
                f"attempt {attempt_id} (epoch {attempt.epoch}, {attempt.state}) does not hold the lease of "
                f"{attempt.model}: epoch {lease.epoch} is {lease.attempt_id or 'free'}. Start a new run instead."
            )
        return attempt

    def release_lease(self, attempt_id: str) -> None:
        """Free the model; nothing happens when the attempt does not hold it."""
        self._db.execute(
            sa.update(t.lease).where(t.lease.c.attempt_id == attempt_id).values(attempt_id=None, expires_at=None)
        )

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        """One attempt."""
        row = self._one(sa.select(t.attempt).where(t.attempt.c.id == attempt_id))
        return AttemptRow(**row) if row else None

    def attempts(
        self,
        *,
        model: str | None = None,
        states: Collection[str] | None = None,
        dag_run: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[AttemptRow]:
        """Attempts, newest first."""
        c = t.attempt.c
        query = sa.select(t.attempt).order_by(c.created_at.desc(), c.epoch.desc()).limit(limit)
        if model is not None:
            query = query.where(c.model == model)
        if states is not None:
            query = query.where(c.state.in_(list(states)))
        if dag_run is not None:
            query = query.where(c.dag_id == dag_run[0], c.dag_run_id == dag_run[1])
        return [AttemptRow(**r) for r in self._db.execute(query).mappings()]

    def update_attempt(self, attempt_id: str, **values: Any) -> None:
        """Change columns of one attempt."""
        self._db.execute(sa.update(t.attempt).where(t.attempt.c.id == attempt_id).values(**values))

    def step_result(self, attempt_id: str, step: str) -> dict[str, Any] | None:
        """What the step answered, if it ended."""
        query = sa.select(t.step.c.result).where(t.step.c.attempt_id == attempt_id, t.step.c.step == step)
        return self._db.execute(query).scalar_one_or_none()

    def save_step(self, attempt_id: str, step: str, result: dict[str, Any], started_at: datetime) -> None:
        """Keep the step's answer; the first one stands."""
        self._db.execute(
            self._insert(t.step)
            .values(attempt_id=attempt_id, step=step, result=result, started_at=started_at, finished_at=self.wall())
            .on_conflict_do_nothing()
        )

    def step_hours(self, model: str, since: datetime) -> list[tuple[str, float]]:
        """Attempt and hours of each finished step, of the model's attempts since ``since`` (business)."""
        c = t.step.c
        query = (
            sa.select(c.attempt_id, c.started_at, c.finished_at)
            .join(t.attempt, t.attempt.c.id == c.attempt_id)
            .where(t.attempt.c.model == model, t.attempt.c.business_at >= since)
        )
        return [(r.attempt_id, (r.finished_at - r.started_at).total_seconds() / 3600) for r in self._db.execute(query)]

    def steps(self, attempt_id: str) -> dict[str, dict[str, Any]]:
        """Every stored step with its times."""
        query = sa.select(t.step).where(t.step.c.attempt_id == attempt_id).order_by(t.step.c.finished_at)
        return {r["step"]: dict(r) for r in self._db.execute(query).mappings()}

    def save_used_days(self, attempt: AttemptRow, challenger_version: int | None, used: Sequence[UsedDays]) -> None:
        """Record which days the attempt used, and for what."""
        rows = [
            {
                "attempt_id": attempt.id,
                "role": part.role,
                "day": day,
                "model": attempt.model,
                "champion_version": attempt.champion_version,
                "challenger_version": challenger_version,
                "rows": count,
            }
            for part in used
            for day, count in part.rows_by_day.items()
        ]
        if rows:
            self._db.execute(self._insert(t.used_day).values(rows).on_conflict_do_nothing())

    def used_days(self, model: str, champion_version: int) -> set[date]:
        """Days that are not fresh for judging against this champion.

        All days that made it (fit, calibrate, the holdout that promoted it), and the holdouts of its later verdicts.
        """
        c = t.used_day.c
        query = sa.select(c.day).where(
            c.model == model,
            sa.or_(
                sa.and_(c.champion_version == champion_version, c.role == "holdout"),
                c.challenger_version == champion_version,
            ),
        )
        return set(self._db.execute(query.distinct()).scalars())


class _Promotion(_Base):
    """Champions, outbox, audit."""

    def current_champion(self, model: str) -> ChampionRow | None:
        """Who serves."""
        c = t.champion.c
        row = self._one(sa.select(t.champion).where(c.model == model).order_by(c.seq.desc()).limit(1))
        return ChampionRow(**row) if row else None

    def champions(self, model: str) -> list[ChampionRow]:
        """The whole history, oldest first."""
        query = sa.select(t.champion).where(t.champion.c.model == model).order_by(t.champion.c.seq)
        return [ChampionRow(**r) for r in self._db.execute(query).mappings()]

    def insert_champion(self, champion: ChampionRow) -> None:
        """The compare-and-set: fails when ``seq`` is not the next one.

        Raises:
            ChampionMoved: somebody else promoted first, or the expected champion is not the current one.
        """
        current = self.current_champion(champion.model)
        expected = champion.seq - 1
        if (current.seq if current else 0) != expected:
            raise ChampionMoved(
                f"{champion.model}: judged against champion #{expected}, but #{current.seq if current else 0} serves"
            )
        try:
            self._db.execute(sa.insert(t.champion).values(asdict(champion)))
        except IntegrityError as error:
            raise ChampionMoved(f"{champion.model}: another promotion over champion #{expected} came first") from error

    def enqueue(self, kind: str, dedupe: str, payload: dict[str, Any], model: str | None = None) -> None:
        """Tell the world later, at least once; the same ``dedupe`` is told once."""
        self._db.execute(
            self._insert(t.outbox)
            .values(kind=kind, dedupe=dedupe, payload=payload, model=model, created_at=self.wall(), tries=0)
            .on_conflict_do_nothing()
        )

    def take_outbox(self, kind: str, limit: int, *, most_tries: int | None = None) -> list[int]:
        """Open rows of this kind, locked until the transaction ends: those tried least, all equally often, by age.

        So rows that fail meet only their like. Rows that another relay holds are passed over, and so are those tried
        ``most_tries`` times or more.
        """
        c = t.outbox.c
        query = sa.select(c.id, c.tries).where(c.done_at.is_(None), c.kind == kind)
        if most_tries is not None:
            query = query.where(c.tries < most_tries)
        query = query.order_by(c.tries, c.id).limit(limit).with_for_update(skip_locked=True)
        rows = self._db.execute(query).all()
        return [row.id for row in rows if row.tries == rows[0].tries]

    def read_outbox(self, pks: Sequence[int]) -> Iterator[OutboxRow]:
        """These rows in order; few at a time are in memory, because a row may hold a megabyte."""
        c = t.outbox.c
        for chunk in _chunks(pks, FEW):
            query = sa.select(t.outbox).where(c.id.in_(chunk)).order_by(c.id)
            for row in self._db.execute(query).mappings().all():
                yield OutboxRow(*(row[k] for k in ("id", "dedupe", "model", "kind", "payload", "tries")))

    def finish_outbox(self, pks: Sequence[int], error: str | None = None) -> None:
        """Done, or tried once more in vain."""
        c = t.outbox.c
        values = {"tries": c.tries + 1, "last_error": error} | ({} if error else {"done_at": self.wall()})
        self._db.execute(sa.update(t.outbox).where(c.id.in_(pks)).values(values))

    def take_resolutions(self, limit: int) -> list[Resolution]:
        """Terminal fates that were not told, oldest event first, locked until the transaction ends.

        Those that another relay holds are passed over.
        """
        e, f = t.event.c, t.fate.c
        at = sa.select(sa.func.max(f.at)).where(f.event_pk == e.id).scalar_subquery()
        query = (
            sa.select(
                *(e.id, e.source, e.event_id, e.model, e.type, e.fate, e.reason, e.until, e.attempt_id, e.reopened_at),
                sa.type_coerce(at, t.UtcDateTime).label("at"),
            )
            .where(e.told_at.is_(None), e.fate.not_in(OPEN_FATES))
            .order_by(e.id)
            .limit(limit)
        )
        return [Resolution(*row) for row in self._db.execute(query.with_for_update(of=t.event, skip_locked=True))]

    def finish_resolutions(self, pks: Sequence[int]) -> None:
        """The world was told how these events ended."""
        self._db.execute(sa.update(t.event).where(t.event.c.id.in_(pks)).values(told_at=self.wall()))

    def take_announcements(self, *, model: str | None = None, overdue_seconds: float = 0.0) -> list[str]:
        """The models with news of their champion that no asset event has carried yet; whoever takes them, tells."""
        now, c = self.wall(), t.outbox.c
        query = sa.update(t.outbox).where(
            c.kind == "champion", c.done_at.is_(None), c.created_at <= now - timedelta(seconds=overdue_seconds)
        )
        if model is not None:
            query = query.where(c.model == model)
        taken = self._db.execute(query.values(done_at=now, tries=c.tries + 1).returning(c.model))
        return sorted(set(taken.scalars()))

    def audit(self, actor: str, action: str, model: str | None, detail: dict[str, Any]) -> None:
        """Append to the log; entries are chained by hash, one writer at a time."""
        if self._postgres:
            self._db.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK)))
        last = self._one(sa.select(t.audit).order_by(t.audit.c.seq.desc()).limit(1))
        at = self.wall()
        entry = {
            "seq": (last["seq"] if last else 0) + 1,
            "at": at.isoformat(),
            "actor": actor,
            "action": action,
            "model": model,
            "detail": detail,
        }
        previous = last["hash"] if last else GENESIS
        self._db.execute(
            sa.insert(t.audit).values(
                entry
                | {
                    "at": at,
                    "previous_hash": previous,
                    "hash": audit_hash(previous, entry),
                }
            )
        )

    def last_audited(self, actions: Collection[str]) -> str | None:
        """Which of these actions was audited last; None when none was."""
        c = t.audit.c
        query = sa.select(c.action).where(c.action.in_(list(actions))).order_by(c.seq.desc()).limit(1)
        return self._db.execute(query).scalar_one_or_none()

    def audit_log(self, model: str | None = None) -> list[dict[str, Any]]:
        """The log, oldest first."""
        query = sa.select(t.audit).order_by(t.audit.c.seq)
        if model is not None:
            query = query.where(t.audit.c.model == model)
        return [dict(r) for r in self._db.execute(query).mappings()]


class SqlTx(_Registry, _Inbox, _Pumps, _Operators, _Doorbell, _Attempts, _Promotion):
    """One transaction on the ledger; see ``ratchet.ports.ledger.Tx``."""


class SqlLedger:
    """The ledger on one database.

    Args:
        url: a SQLAlchemy URL, ``postgresql+psycopg2://…`` or ``sqlite:///…``.
        statement_timeout_seconds: PostgreSQL gives up a statement after this long.
    """

    def __init__(self, url: str, *, statement_timeout_seconds: float = 5.0) -> None:
        options: dict[str, Any] = {}
        if url.startswith("postgresql"):
            options = {
                "connect_args": {
                    "options": f"-c statement_timeout={int(statement_timeout_seconds * 1000)} -c timezone=UTC",
                    "connect_timeout": 5,
                    "keepalives_idle": 10,
                    "keepalives_interval": 5,
                    "keepalives_count": 3,
                    "tcp_user_timeout": 15_000,
                },
                "pool_size": 2,
                "pool_pre_ping": True,
            }
        self.engine = sa.create_engine(url, **options)
        if not url.startswith("postgresql"):
            sa.event.listen(self.engine, "connect", _sqlite_manual_transactions)
            sa.event.listen(self.engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """Commit on a clean exit, roll back on an exception; a lost database is ``Unavailable``.

        Raises:
            Refused: a value is none that the database can keep.
        """
        try:
            with self.engine.begin() as connection:
                yield SqlTx(connection)
        except OperationalError as error:
            raise Unavailable(f"the ledger did not answer: {str(error.orig).strip()}") from error
        except DataError as error:
            raise Refused(f"the ledger cannot keep a value: {str(error.orig).strip()}") from error

    def migrate(self) -> None:
        """Bring the schema up to date (Alembic; nothing happens when it is)."""
        from alembic import command  # noqa: PLC0415 - only when migrating
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(AUDIT_LOCK + 1)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()


def _record_row(row: Any) -> RecordRow:
    return RecordRow(row["id"], _raw(row), row["status"], row["reason"], row["received_at"])


def _raw(row: Any) -> RawRecord:
    headers = tuple((name, bytes.fromhex(value)) for name, value in row["headers"] or ())
    return RawRecord(
        cluster=row["cluster"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        key=row["key"],
        value=row["value"],
        headers=headers,
    )


def _chunks(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _sqlite_manual_transactions(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA busy_timeout=5000")
