"""A year of rows in the ledger on PostgreSQL: months that are deleted in batches against partitions that are dropped.

Month by month both sides get the same rows (events, one fate of each, and their Kafka records), and from the fifth on
lose their oldest month: the ledger's own tables by ``ratchet purge``'s code, the peer's by DROP: the same tables,
partitioned by month, with the partition key in every key and no foreign key. Autovacuum is on. Say where the server is,
and name an empty database::

    python bench/retention.py --url postgresql+psycopg2://…/empty --per-month 416667
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.base import Base
from ratchet.domain.housekeeping import Month, RowRules
from ratchet.domain.spec import ModelSpec
from ratchet.workflow.housekeeping import Housekeeping

MODEL, KEPT_MONTHS = "flight_delay", 4
TABLES = ("event", "fate", "record")
PEER = """
CREATE TABLE record_p (LIKE record INCLUDING DEFAULTS) PARTITION BY RANGE (received_at);
ALTER TABLE record_p ADD PRIMARY KEY (id, received_at);
ALTER TABLE record_p ADD UNIQUE (cluster, topic, partition, "offset", received_at);
CREATE TABLE event_p (LIKE event INCLUDING DEFAULTS) PARTITION BY RANGE (time);
ALTER TABLE event_p ADD PRIMARY KEY (id, time);
ALTER TABLE event_p ADD UNIQUE (source, event_id, model, time);
CREATE INDEX ON event_p (model, fate);
CREATE INDEX ON event_p (attempt_id) WHERE attempt_id IS NOT NULL;
CREATE TABLE fate_p (LIKE fate INCLUDING DEFAULTS) PARTITION BY RANGE (at);
ALTER TABLE fate_p ADD PRIMARY KEY (id, at);
CREATE INDEX ON fate_p (event_pk);
"""
AT = "CAST(:start AS timestamptz) + (n - :first) * CAST(:step AS interval)"
FILL = (
    """INSERT INTO record{p} (id, cluster, topic, partition, "offset", status, received_at)
       SELECT n, 'c', 'ml.drift', n % 3, n / 3, 'stored', {at}
       FROM generate_series(:first, :last) AS n""",
    """INSERT INTO event{p} (id, source, event_id, model, type, time, received_at, digest, data, origin, record_id,
                            fate, reason, tries, told_at)
       SELECT n, '/monitors/drift', md5(n::text), :model, 'ratchet.drift.detected.v1', at, at,
              md5(n::text) || md5('d' || n),
              jsonb_build_object('check', 'psi', 'severity', 0.1, 'window_start', at, 'window_end', at, 'evidence_uri',
                                 's3://monitors/reports/' || n),
              'kafka', n, 'suppressed', 'severity 0.10 is below min_severity 0.3', 0, at
       FROM (SELECT n, {at} AS at
             FROM generate_series(:first, :last) AS n) AS each""",
    """INSERT INTO fate{p} (id, event_pk, fate, reason, at)
       SELECT n, n, 'suppressed', 'severity 0.10 is below min_severity 0.3',
              {at}
       FROM generate_series(:first, :last) AS n""",
)


def months(count: int) -> list[Month]:
    """The months of 2013, and on."""
    found = [Month(2013, 1)]
    while len(found) < count:
        found.append(Month.of(found[-1].end))
    return found


def timed(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def fill(engine: sa.Engine, suffix: str, month: Month, number: int, rows: int) -> None:
    step = (month.end - month.start) / rows
    given = {"start": month.start, "first": number * rows + 1, "last": (number + 1) * rows, "model": MODEL}
    with engine.begin() as db:
        if suffix:
            for table in TABLES:
                name = f"{table}_p_{month.name.replace('-', '')}"
                span = f"FROM ('{month.start.isoformat()}') TO ('{month.end.isoformat()}')"
                db.exec_driver_sql(f"CREATE TABLE {name} PARTITION OF {table}_p FOR VALUES {span}")
        for statement in FILL:
            query = statement.format(p=suffix, at=AT)
            named = {k: v for k, v in given.items() if f":{k}" in query}
            db.execute(sa.text(query), named | {"step": f"{step.total_seconds()} seconds"})


def _at(_: Base, now: datetime) -> datetime:
    return now


def purge(ledger: SqlLedger) -> int:
    return sum(one.rows for one in Housekeeping(ledger, RowRules()).purge("bench"))


def drop(engine: sa.Engine, month: Month) -> None:
    with engine.begin() as db:
        for table in TABLES:
            db.exec_driver_sql(f"DROP TABLE {table}_p_{month.name.replace('-', '')}")


def megabytes(engine: sa.Engine, suffix: str) -> dict[str, float]:
    """Of each table with its indexes."""
    own = "SELECT pg_total_relation_size('{0}'::regclass)"
    parts = (
        "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = '{0}_p'::regclass"
    )
    with engine.connect() as db:
        query = parts if suffix else own
        return {name: round(float(db.exec_driver_sql(query.format(name)).scalar_one()) / 1e6, 1) for name in TABLES}


def lookup_ms(engine: sa.Engine, suffix: str, upto: int) -> float:
    """A known event's row by its key, as deduplication and `ratchet events show` ask: median of 300."""
    took = []
    with engine.connect() as db:
        query = sa.text(f"SELECT id FROM event{suffix} WHERE source = :s AND event_id = md5(:n) AND model = :m")
        for n in range(upto - 300, upto):
            began = time.perf_counter()
            db.execute(query, {"s": "/monitors/drift", "n": str(n), "m": MODEL}).all()
            took.append((time.perf_counter() - began) * 1e3)
    return round(median(took), 3)


def dead(engine: sa.Engine) -> int:
    with engine.connect() as db:
        query = "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname IN ('event', 'fate', 'record')"
        return int(db.exec_driver_sql(query).scalar_one() or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--per-month", type=int, default=416_667)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    ledger = SqlLedger(asked.url, statement_timeout_seconds=5.0)
    filler = sa.create_engine(asked.url)
    ledger.migrate()
    with filler.begin() as db:
        db.exec_driver_sql(PEER)
    root = Path(__file__).parents[1]
    from ratchet.adapters.specs import load_spec  # noqa: PLC0415

    document = load_spec(root / "include" / "models" / MODEL).model_dump(mode="json")
    spec = ModelSpec.model_validate(document | {"retention": {"events": "90d"}})
    rows: list[dict[str, Any]] = []
    with ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
    for number, month in enumerate(months(asked.months)):
        now = month.end + timedelta(days=1)
        Base.wall = partialmethod(_at, now)  # type: ignore[assignment, method-assign]
        with ledger.transaction() as tx:
            tx.set_clock("replay", now)
        row: dict[str, Any] = {"month": month.name}
        order = ("", "_p") if number % 2 else ("_p", "")
        for suffix in order:
            row[f"fill{suffix}_seconds"] = round(
                timed(lambda s=suffix, m=month, n=number: fill(filler, s, m, n, asked.per_month)), 2
            )
        if number >= KEPT_MONTHS:
            began = time.monotonic()
            row["purged"] = purge(ledger)
            row["purge_seconds"] = round(time.monotonic() - began, 2)
            gone = Month.of(now - timedelta(days=90))
            oldest = Month.of(gone.start - timedelta(microseconds=1))
            row["drop_seconds"] = round(timed(lambda m=oldest: drop(filler, m)), 3)
            if number == KEPT_MONTHS:
                drop(filler, months(1)[0])
        row["dead_rows"] = dead(filler)
        row["megabytes"], row["megabytes_p"] = megabytes(filler, ""), megabytes(filler, "_p")
        row["lookup_ms"] = lookup_ms(filler, "", (number + 1) * asked.per_month)
        row["lookup_p_ms"] = lookup_ms(filler, "_p", (number + 1) * asked.per_month)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if asked.out:
        at = datetime.now(UTC).date().isoformat()
        asked.out.write_text(json.dumps({"at": at, "per_month": asked.per_month, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
