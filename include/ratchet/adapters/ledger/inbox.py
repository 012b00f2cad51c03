"""The ledger's side of the intake: records, events, fates, watermarks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.ledger.base import CHUNK, EVENT_ROW, Base, chunks, raw_record
from ratchet.ports.ledger import (
    EventRow,
    FateChange,
    HeldRecord,
    NewEvent,
    NewRecord,
    SeenWindow,
    Watermark,
)

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


class Inbox(Base):
    """Records, events, fates, watermarks."""

    def insert_records(self, records: Sequence[NewRecord]) -> dict[int, int]:
        """Insert what is new; the answer maps positions in ``records`` to row ids, redelivered offsets left out.

        What is delivered again after retention has removed its row is left out too. Floors are read after the insert,
        so that whoever raises one and waits for the inserts at work has waited for all that did not know it.
        """
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
        if ids and (floors := self.floors()):
            known = {key: pk for key, pk in ids.items() if key[3] < floors.get(key[:3], 0)}
            if known:
                self._db.execute(sa.delete(t.record).where(t.record.c.id.in_(known.values())))
                ids = {key: pk for key, pk in ids.items() if key not in known}
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
        self._check_keys_by_index()
        inserted, _ = self._insert_new(t.event, [vars(event) | first for event in events])
        if inserted == len(events):
            return []
        known = self._digests(events)
        refused = [event for event in events if known[event.source, event.event_id, event.model] != event.digest]
        records = {event.record_id for event in refused if event.record_id is not None}
        if records:
            self._db.execute(sa.delete(t.event).where(t.event.c.record_id.in_(records)))
        return refused

    def _check_keys_by_index(self) -> None:
        """Until the transaction ends; for a session keeps the plan by which it checks a foreign key.

        Made while the table was nearly empty, that plan reads the whole of it for each row, in a first storm 50,000
        times, until the next ANALYZE.
        """
        if self._postgres:
            self._db.execute(sa.text("SET LOCAL enable_seqscan = off"))

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
            HeldRecord(r["id"], raw_record(r), r["held_until"])
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

    def lock_model_to_decide(
        self, business_now: datetime, *, after: str | None = None, skip: Collection[str] = ()
    ) -> str | None:
        """The first by name, behind ``after``, that is marked or has a deferral that has run out; None: there is none.

        It is locked until the transaction ends. Those being decided elsewhere are passed over, and those to ``skip``.
        """
        lifted = sa.select(t.event.c.model).where(t.event.c.fate == "deferred", t.event.c.until <= business_now)
        c = t.model.c
        query = (
            sa.select(c.model)
            .where(sa.or_(c.model.in_(sa.select(t.touched.c.model)), c.model.in_(lifted)))
            .order_by(c.model)
            .limit(1)
        )
        if after is not None:
            query = query.where(c.model > after)
        if skip:
            query = query.where(sa.not_(self._among(c.model, skip)))
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
        self._check_keys_by_index()
        for chunk in chunks(rows, CHUNK):
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
