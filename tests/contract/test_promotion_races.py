"""Two promotions raced against each other: one wins each time, and the other is judged again.

In threads and in processes, on SQLite and, where a server is given, on PostgreSQL.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.ledger.schema import metadata
from ratchet.adapters.specs import load_spec
from ratchet.errors import ChampionMoved
from ratchet.ports.bus import InMemoryBus
from ratchet.ports.ledger import AttemptRow, ChampionRow, FateChange, NewEvent
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.promotion import Promotions
from ratchet.workflow.telling import Relay

RACES = 200
NOW = datetime(2013, 4, 1, 4, tzinfo=UTC)
POSTGRES = os.environ.get("RATCHET_TEST_LEDGER_URL")
PATIENCE_SECONDS = 60.0
MODEL = "flight_delay"
SPEC = load_spec(Path(__file__).resolve().parents[2] / "include" / "models" / MODEL)


class AnyAlias:
    """A registry that takes any alias, and whose artifacts are always what was judged."""

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Take it."""

    def download(self, model: str, version: int, *, fresh: bool = False) -> Path:
        """Some folder."""
        return Path(model)

    def load(self, folder: Path, *, expected: str | None = None) -> Path:
        """Whatever is there."""
        return folder


def attempt_id(race: int, number: int) -> str:
    return f"{MODEL}.{2 * race + number + 1}"


def version_of(race: int, number: int) -> int:
    return 2 * race + number + 2


def insert(ledger: SqlLedger, race: int, number: int) -> object:
    """The bare compare-and-set: this contender's champion over the one that both saw."""
    row = ChampionRow(MODEL, race + 2, version_of(race, number), None, "promotion", NOW, None, "r", None, NOW)
    try:
        with ledger.transaction() as tx:
            tx.insert_champion(row)
    except ChampionMoved:
        return None
    return row.version


def promote(ledger: SqlLedger, race: int, number: int) -> object:
    """The verdict of this contender's attempt arrives, and it is promoted: the whole verb."""
    bus = InMemoryBus()
    relay = Relay(ledger, lambda: bus, AnyAlias)  # type: ignore[arg-type,return-value]
    artifacts = Artifacts(ledger, AnyAlias, AnyAlias)  # type: ignore[arg-type,return-value]
    with ledger.transaction() as tx:
        tx.update_attempt(attempt_id(race, number), state="judged", judged_at=tx.wall())
    return Promotions(ledger, relay, 3, artifacts).promote(MODEL)["promoted"]


ACTS: dict[str, Callable[[SqlLedger, int, int], object]] = {"insert": insert, "promote": promote}


def contend(url: str, act: str, number: int, start: Any, answers: Any) -> None:
    """One contender: each race begins when both are there."""
    ledger = SqlLedger(url)
    for race in range(RACES):
        start.wait(PATIENCE_SECONDS)
        try:
            answers.put((number, ACTS[act](ledger, race, number)))
        except BaseException as error:
            answers.put((number, error))
            raise
    ledger.dispose()


@contextmanager
def contenders(kind: str, url: str, act: str) -> Iterator[tuple[Any, Any]]:
    """Two of them, as threads or as processes; gives the starting line and their answers."""
    context = multiprocessing.get_context("spawn")
    start = threading.Barrier(3) if kind == "threads" else context.Barrier(3)
    answers: Any = queue.Queue() if kind == "threads" else context.Queue()
    make: Any = threading.Thread if kind == "threads" else context.Process
    runners = [make(target=contend, args=(url, act, n, start, answers), daemon=True) for n in range(2)]
    for runner in runners:
        runner.start()
    yield start, answers
    for runner in runners:
        runner.join(PATIENCE_SECONDS)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.stack)])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "postgresql" and not POSTGRES:
        pytest.skip("RATCHET_TEST_LEDGER_URL is not set: scripts/integration-tests sets it")
    address = f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else str(POSTGRES)
    ledger = SqlLedger(address)
    if request.param == "postgresql":
        with ledger.engine.begin() as db:
            metadata.drop_all(db)
            db.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    ledger.migrate()
    with ledger.transaction() as tx:
        tx.publish_spec(MODEL, SPEC.digest, SPEC.model_dump(mode="json"))
        tx.insert_champion(ChampionRow(MODEL, 1, 1, None, "init", NOW, None, "r", None, NOW))
    ledger.dispose()
    return address


def lay_out(ledger: SqlLedger, race: int) -> None:
    """Two attempts that were judged against the sitting champion, each with an event of its own."""
    empty = dict.fromkeys(AttemptRow.__dataclass_fields__)
    with ledger.transaction() as tx:
        for number in range(2):
            name = attempt_id(race, number)
            tx.insert_events([NewEvent("monitor", name, MODEL, "ratchet.drift.detected.v1", NOW, "x", {})])
            (event,) = tx.events(event_id=name)
            given = {
                "id": name,
                "model": MODEL,
                "epoch": 2 * race + number + 1,
                "state": "tuned",
                "dag_id": "retrain__m",
                "dag_run_id": name,
                "trigger": "drift",
                "trigger_event_pk": event.pk,
                "reason": "r",
                "options": {},
                "business_at": NOW,
                "as_of": NOW,
                "spec_digest": SPEC.digest,
                "code_digest": "c" * 64,
                "champion_seq": race + 1,
                "champion_version": 1,
                "challenger_version": version_of(race, number),
                "verdict": "promote",
                "verdict_record": {"reasons": []},
                "evidence_digest": "e" * 64,
                "created_at": tx.wall(),
            }
            tx.start_attempt(AttemptRow(**empty | given), 60)
            tx.change_fates([FateChange(event.pk, "claimed", "r", attempt_id=name)])
            tx.release_lease(name)


def answers_of(answers: Any) -> dict[int, object]:
    given = dict(answers.get(timeout=PATIENCE_SECONDS) for _ in range(2))
    for answer in given.values():
        if isinstance(answer, BaseException):
            raise answer
    return given


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_of_two_that_compare_and_set_at_once_one_wins_each_time(url: str, kind: str) -> None:
    ledger = SqlLedger(url)
    with contenders(kind, url, "insert") as (start, answers):
        for race in range(RACES):
            start.wait(PATIENCE_SECONDS)
            won = [answer for answer in answers_of(answers).values() if answer is not None]
            with ledger.transaction() as tx:
                champion = tx.current_champion(MODEL)
            assert champion is not None
            assert (champion.seq, [champion.version]) == (race + 2, won)
    ledger.dispose()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_of_two_promotions_at_once_one_wins_each_time_and_the_other_is_judged_again(url: str, kind: str) -> None:
    ledger = SqlLedger(url)
    with contenders(kind, url, "promote") as (start, answers):
        for race in range(RACES):
            lay_out(ledger, race)
            start.wait(PATIENCE_SECONDS)
            (winner,) = [answer for answer in answers_of(answers).values() if answer is not None]
            with ledger.transaction() as tx:
                champion = tx.current_champion(MODEL)
                names = [attempt_id(race, number) for number in range(2)]
                made = {name: tx.attempt(name) for name in names}
                fates = {name: [(e.fate, e.tries) for e in tx.events(event_id=name)] for name in names}
            assert champion is not None
            (loser,) = set(names) - {winner}
            assert (champion.seq, champion.attempt_id) == (race + 2, winner)
            assert {name: row.state for name, row in made.items() if row} == {
                winner: "concluded",
                loser: "superseded",
            }
            assert fates == {winner: [("started", 0)], loser: [("pending", 0)]}
    with ledger.transaction() as tx:
        assert len(tx.champions(MODEL)) == RACES + 1
        assert len(tx.audit_log(action="champion.promoted")) == RACES
    ledger.dispose()
