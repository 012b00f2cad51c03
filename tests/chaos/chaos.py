"""The chaos suite: a burst over several models while everything that runs is killed, and the books at the end.

Run by ``scripts/chaos`` on a stack of its own. Exit code 0: the books balance; 1: they do not.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import books
import burst
import small_fleet
import sqlalchemy as sa
from havoc import AWAY, IN_TASKS, IN_TRIGGERER, Havoc, System

from ratchet.adapters.ledger import schema as t
from ratchet.bootstrap import wire
from ratchet.cli import airflow_api
from ratchet.errors import RatchetError
from ratchet.ports.bus import DEAD_LETTER, DECISIONS, INBOUND_TOPICS
from ratchet.stack import api
from ratchet.stack.units import Phase

CHAMPION_SECONDS = 600.0
FIRST_CHAMPION = {"reason": "the first champion of the chaos suite", "first_champion": True}
SETTLE_SECONDS = 1200.0
PROGRESS_SECONDS = 15.0
OVERTIME_SECONDS = 600.0
"""How long after the burst the kills may go on until all failpoints have had their turns."""

AFTERMATH = 3.0
"""How much slower the beats are when all events are out and failpoints still wait for their turns."""
BEGAN = time.monotonic()


def say(text: str) -> None:
    """Progress, with the seconds since the beginning."""
    print(f"{time.monotonic() - BEGAN:7.1f} s  {text}", flush=True)


class Publisher:
    """Sends the burst at its pace; what the broker did not acknowledge is sent again."""

    def __init__(self, system: System, published: Iterator[burst.Publication], beats: int, seconds: float) -> None:
        self.bus = system.ratchet.bus
        self.published = published
        self.beats = beats
        self.beat_seconds = seconds / beats
        self.acknowledged = 0
        self.exhausted = False
        self._next: burst.Publication | None = None

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` or until the year is over, slower when the burst is over: for a thread of its own."""
        beats, last = 0.0, time.monotonic()
        while not stop.wait(0.25):
            now = time.monotonic()
            beats += (now - last) / self.beat_seconds / (1.0 if beats < self.beats else AFTERMATH)
            last = now
            batch = list(self._due(beats))
            if batch:
                self.send(batch)
            if self._next is None:
                self.exhausted = True
                return

    def _due(self, now: float) -> Iterator[burst.Publication]:
        self._next = self._next or next(self.published, None)
        while self._next is not None and self._next.at <= now:
            yield self._next
            self._next = next(self.published, None)

    def send(self, batch: Sequence[burst.Publication]) -> None:
        """Return when the broker has all of it."""
        while True:
            with suppress(RatchetError):
                for each in batch:
                    self.bus.publish(each.topic, each.key, each.value, each.headers)
                self.bus.flush()
                self.acknowledged += len(batch)
                return
            time.sleep(0.5)


def first_champions(system: System, publisher: Publisher) -> None:
    """January and February arrive, and every model gets its first champion; a try that failed is made again."""
    first = burst.first_days(system.models)
    publisher.send(first)
    _until("the first data in the inbox", lambda: sum(system.stored().values()) >= len(first))
    airflow = airflow_api.connect(system.ratchet.settings)
    runs: dict[str, str] = {}
    serving: set[str] = set()

    def all_serve() -> bool:
        now = {model for (model,) in system.rows(sa.select(t.champion.c.model))}
        if now != serving:
            serving.update(now)
            say(f"{len(now)} of {len(system.models)} first champions serve")
        for model in set(system.models) - now:
            with suppress(RatchetError):
                dag_id = f"retrain__{model}"
                if model not in runs or airflow.run_state(dag_id, runs[model]) == "failed":
                    runs[model] = airflow.trigger(dag_id, FIRST_CHAMPION)
        return len(now) == len(system.models)

    _until("the first champions", all_serve)


def _until(what: str, look: Any, seconds: float = CHAMPION_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            raise SystemExit(f"chaos: not within {seconds:.0f} s: {what}")
        time.sleep(1.0)


def rage(system: System, havoc: Havoc, publisher: Publisher, events: int, seconds: float) -> None:
    """Publish and kill until both are done."""
    stop = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stop,), daemon=True)
    thread.start()
    havoc.start()
    told = began = time.monotonic()
    while not (havoc.done and publisher.acknowledged >= events):
        killed = havoc.step()
        now = time.monotonic()
        if killed is not None or now - told > PROGRESS_SECONDS:
            told = now
            what = (
                f"{killed.component} {killed.pid} at {killed.failpoint or 'a random moment'}" if killed else "no kill"
            )
            armed = ", ".join(str(lane.armed) for lane in havoc.lanes if lane.armed)
            say(
                f"{len(havoc.kills)}/{havoc.total} {what}; {publisher.acknowledged:,} published; "
                f"{len(havoc.unrecovered())} recovering; armed: {armed}"
                + ("; a worker is stopped" if havoc.pending() else "")
            )
        over = now - began > seconds + OVERTIME_SECONDS or (publisher.exhausted and now - began > seconds)
        if over and not havoc.pending():
            say(f"time is up, {havoc.total - len(havoc.kills)} kills were not made")
            break
        time.sleep(0.1)
    havoc.stop(system.home)
    stop.set()
    thread.join()


def settle(system: System, havoc: Havoc, patience: float) -> None:
    """Wait until nothing moves any more; what is not settled when patience ends is for the books to tell."""
    end, last, moved, told, calm = time.monotonic() + SETTLE_SECONDS, "", time.monotonic(), 0.0, 0
    while True:
        try:
            left = _unsettled(system, havoc)
        except AWAY as error:
            left = f"not to be asked: {error}"
        # Between two looks the next decision may be on its way: three in a row see none.
        calm = 0 if left else calm + 1
        if calm == 3:
            say("settled")
            return
        if left != last:
            last, moved = left, time.monotonic()
        if left and time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            say(f"settling: {left}")
        if time.monotonic() > end or time.monotonic() - moved > patience:
            say("patience is over")
            return
        time.sleep(2.0)


def _unsettled(system: System, havoc: Havoc) -> str:
    with system.ratchet.ledger.transaction() as tx:
        now = tx.clock()[1]
    e, a = t.event.c, t.attempt.c
    counts = {
        "offsets": sum(system.ends().values()) - sum(system.stored().values()),
        "open events": _count(
            system,
            t.event,
            sa.or_(
                e.fate.in_(("pending", "claimed")),
                sa.and_(e.fate == "deferred", sa.or_(e.until.is_(None), e.until <= now)),
            ),
        ),
        "held records": _count(system, t.record, t.record.c.status == "held"),
        "leases": _count(system, t.lease, t.lease.c.attempt_id.is_not(None)),
        "attempts": _count(system, t.attempt, a.state.in_((*books.LIVE, "judged"))),
        "untold": _count(system, t.outbox, t.outbox.c.done_at.is_(None)),
        "untold ends": _count(system, t.event, sa.and_(e.fate.not_in(books.OPEN), e.told_at.is_(None))),
        "running tasks": len(system.running_tasks("retrain__%") + system.running_tasks("promote__%")),
        "recovering": len(havoc.unrecovered()),
        "services away": sum(row["phase"] not in {Phase.READY, Phase.DONE} for row in api.status().values()),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _count(system: System, table: sa.Table, where: Any) -> int:
    return int(system.rows(sa.select(sa.func.count()).select_from(table).where(where))[0][0])


def collect(system: System, acknowledged: int) -> books.Facts:
    """Everything the books are made of."""
    ledger, r, e, f, a, o = system.ratchet.ledger, t.record.c, t.event.c, t.fate.c, t.attempt.c, t.outbox.c
    with ledger.transaction() as tx:
        now = tx.clock()[1]
    ends = system.ends()
    decisions = sa.select(o.dedupe).where(o.dedupe.like("decision:%"))
    told = [json.loads(record.value or b"{}") for record in _read(system, DECISIONS)]
    return books.Facts(
        now=now,
        acknowledged=acknowledged,
        ends=ends,
        heard=_heard(system, sum(ends.values())),
        records=[
            books.Record((topic, partition, offset), status)
            for topic, partition, offset, status in system.rows(sa.select(r.topic, r.partition, r.offset, r.status))
        ],
        dead_letters=Counter(_origin(record.headers) for record in _read(system, DEAD_LETTER)),
        events=[
            books.Event(*row)
            for row in system.rows(
                sa.select(e.id, e.source, e.event_id, e.model, e.fate, e.until, e.attempt_id).order_by(e.id)
            )
        ],
        fates=[books.Fate(*row) for row in system.rows(sa.select(f.id, f.event_pk, f.fate, f.attempt_id))],
        attempts=[
            books.Attempt(*row[:-1], trigger_pk=row[-1])
            for row in system.rows(
                sa.select(
                    *(a.id, a.model, a.epoch, a.state, a.created_at, a.verdict),
                    a.options["dry_run"].as_boolean(),
                    *(a.judged_at, a.concluded_at, a.trigger_event_pk),
                )
            )
        ],
        leased={
            row.model: row.attempt_id
            for row in system.rows(sa.select(t.lease).where(t.lease.c.attempt_id.is_not(None)))
        },
        steps=[tuple(row) for row in system.rows(sa.select(t.step.c.attempt_id, t.step.c.step, t.step.c.finished_at))],
        champions=[
            books.Champion(row.model, row.seq, row.version, row.attempt_id, row.kind)
            for row in system.rows(sa.select(t.champion))
        ],
        aliases={model: system.ratchet.registry.alias_version(model, "champion") for model in system.models},
        owed=[dedupe for (dedupe,) in system.rows(sa.select(o.dedupe).where(o.done_at.is_(None)))],
        decisions=[dedupe.removeprefix("decision:") for (dedupe,) in system.rows(decisions)],
        told=frozenset(str(event["id"]) for event in told),
        resolved=frozenset(
            (data["event_source"], data["event_id"], data["model"], data["fate"])
            for event in told
            if event["type"] == "ratchet.event.resolved.v1" and (data := event["data"])
        ),
    )


def _heard(system: System, count: int) -> list[books.Heard]:
    heard = [
        books.Heard((record.topic, record.partition, record.offset), *burst.expectation(record.headers))
        for record in _read(system, *INBOUND_TOPICS)
    ]
    if len(heard) != count:
        raise SystemExit(f"chaos: the broker's end offsets say {count} records, but {len(heard)} could be read")
    return heard


def _read(system: System, *topics: str) -> list[Any]:
    """A whole topic as it stands; it has ended when nothing came for three seconds."""
    records = []
    with system.ratchet.bus.follow(*topics) as subscription:
        quiet = time.monotonic()
        while time.monotonic() - quiet < 3.0:
            if found := subscription.poll(0.5):
                records += found
                quiet = time.monotonic()
    return records


def _origin(headers: Sequence[tuple[str, bytes]]) -> books.Spot:
    said = dict(headers)
    return (
        said["ratchet-topic"].decode(),
        int(said["ratchet-partition"]),
        int(said["ratchet-offset"]),
    )


def report(system: System, havoc: Havoc, facts: books.Facts, closed: books.Books, seed: int) -> dict[str, Any]:
    """``chaos.json``."""
    runs = system.rows(sa.text("SELECT count(*) FROM dag_run WHERE dag_id LIKE 'retrain__%'"), system.airflow)[0][0]
    return {
        "published": sum(facts.ends.values()),
        "records": len(facts.records),
        "dead_letter": len(facts.dead_letters),
        "kills": [kill.row() for kill in havoc.kills],
        "lost": closed.lost,
        "doubled": closed.doubled,
        "runs": runs,
        "models": len(system.models),
        "balance": closed.balance,
        "books": {rule: list(cases[:20]) for rule, cases in closed.faults.items()},
        "acknowledged": facts.acknowledged,
        "events": len(facts.events),
        "fates": Counter(event.fate for event in facts.events),
        "attempts": Counter(attempt.state for attempt in facts.attempts),
        "promotions": len(facts.champions),
        "stale_workers": [vars(each) for each in havoc.stale],
        "seed": seed,
        "seconds": round(time.monotonic() - BEGAN, 1),
    }


def summary(told: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = [
        (
            f"{told['published']:,} records published over {told['models']} models, {told['records']:,} record rows, "
            f"{told['dead_letter']:,} dead letters, {told['events']:,} events {dict(told['fates'])}"
        ),
        f"{told['runs']} runs, attempts {dict(told['attempts'])}, {told['promotions']} champions",
    ]
    by_kind: dict[tuple[str, str], list[float | None]] = {}
    for kill in told["kills"]:
        by_kind.setdefault((kill["component"], kill["failpoint"] or "a random moment"), []).append(
            kill["recovery_seconds"]
        )
    for (component, place), seconds in sorted(by_kind.items()):
        known = sorted(each for each in seconds if each is not None)
        middle = f"{known[len(known) // 2]:.1f} s, at most {known[-1]:.1f} s" if known else "never"
        never = len(seconds) - len(known)
        lines.append(
            f"  {len(seconds):>4} x {component:<10} {place:<26} recovered after {middle} (median)"
            + (f"; {never} not recovered" if never else "")
        )
    given_up = sum(each["given_up"] for each in told["stale_workers"])
    lines.append(f"{len(told['stale_workers'])} workers stopped, {given_up} given up before they went on")
    lines.append(f"lost {told['lost']}, doubled {told['doubled']}, {told['seconds']:.0f} s, seed {told['seed']}")
    return "\n".join(lines)


def main() -> int:
    """Bring havoc on the running stack and close the books."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--models", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="how long the burst lasts")
    parser.add_argument("--per-failpoint", type=int, required=True, help="kills at each failpoint")
    parser.add_argument("--stale", type=int, required=True, help="workers to stop until they are presumed dead")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--patience", type=float, required=True, help="seconds in which something must move at the end")
    parser.add_argument("--report", type=Path, required=True)
    asked = parser.parse_args()
    least = asked.per_failpoint * len(IN_TRIGGERER + IN_TASKS)
    if asked.kills < least:
        parser.error(f"--kills must be at least {least} for {asked.per_failpoint} at each failpoint, got {asked.kills}")
    beats = min(asked.events // 125, burst.MOST_BEATS * 4 // 5) or 1

    system = System(wire(), small_fleet.names(asked.models))
    say(f"{asked.kills} kills over {asked.events:,} events for {asked.models} models, seed {asked.seed}")
    stream = burst.stream(asked.seed, system.models, -(-asked.events // beats))
    publisher = Publisher(system, stream, beats, asked.seconds)
    havoc = Havoc(system, asked.seed, asked.kills, asked.per_failpoint, asked.seconds, asked.stale)
    first_champions(system, publisher)
    looked_after = threading.Event()
    nurse = threading.Thread(target=havoc.look_after, args=(looked_after,), daemon=True)
    nurse.start()
    rage(system, havoc, publisher, asked.events, asked.seconds)
    settle(system, havoc, asked.patience)
    looked_after.set()
    nurse.join()
    facts = collect(system, publisher.acknowledged)
    closed = books.close(facts)
    told = report(system, havoc, facts, closed, asked.seed)
    asked.report.parent.mkdir(parents=True, exist_ok=True)
    asked.report.write_text(json.dumps(told, indent=1, default=_plain) + "\n")
    print(f"\n{summary(told)}\n{closed}\nreport: {asked.report}", flush=True)
    # A stopped worker may die of another kill, or its run end, before it is given up: half of them must be.
    made = len(havoc.kills) >= asked.kills and sum(each.given_up for each in havoc.stale) >= asked.stale // 2
    if not made:
        print("chaos: not everything that was planned could be done", flush=True)
    return 0 if closed.balance and made else 1


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


if __name__ == "__main__":
    sys.exit(main())
