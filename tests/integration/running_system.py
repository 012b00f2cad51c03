"""The running stack as these tests use it: a calendar of real flights, events, attempts, users, failpoints and kills.

Business time only moves forward, and a verdict takes its days for good: a test asks for ``fresh_days`` instead of
naming dates, so that each can run alone and in any order. Everything is awaited by its condition; a wait that is over
says what was awaited and how things stand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from small_model import FRESH_DAYS

from ratchet import failpoints
from ratchet.adapters.features_feast import FeastFeatures
from ratchet.adapters.ledger import schema
from ratchet.bootstrap import Ratchet
from ratchet.cli import airflow_api
from ratchet.cli.year import DATASETS, Arrival, arrived
from ratchet.domain import events as cloudevents
from ratchet.domain.spec import ModelSpec
from ratchet.ports.bus import Subscription
from ratchet.ports.ledger import LIVE_STATES, OPEN_FATES, AttemptRow, ChampionRow, EventRow
from ratchet.records import RawRecord
from ratchet.workflow import dossiers

MODEL = "flight_delay"
RETRAIN, PROMOTE = f"retrain__{MODEL}", f"promote__{MODEL}"
FIRST_DAY, FIRST_AS_OF = date(2013, 1, 1), date(2013, 4, 1)
SOURCE = "/tests/integration"
PATIENCE_SECONDS = 420.0
"""Bounds a wait on a crowded machine; a quiet one needs a tenth of it."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Waiting:
    """A process that stopped at a failpoint, and the file that holds it there."""

    pid: int
    marker: Path

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self) -> None:
        """``kill -9``; its marker goes with it."""
        os.kill(self.pid, signal.SIGKILL)
        self.marker.unlink(missing_ok=True)

    def let_pass(self) -> None:
        """Let it go on."""
        self.marker.unlink(missing_ok=True)


@dataclass(frozen=True)
class FirstChampion:
    """How the first champion came about: the data's events before and after, and what the command said."""

    waiting: tuple[EventRow, ...]
    said: str
    answered: tuple[EventRow, ...]


@dataclass
class System:
    """The stack of ``scripts/integration-tests``, and how far its calendar has come."""

    ratchet: Ratchet
    spec: ModelSpec
    decisions: Subscription
    today: date = FIRST_DAY
    told: list[RawRecord] = field(default_factory=list)
    logins: dict[str, airflow_api.Airflow] = field(default_factory=dict)

    def close(self) -> None:
        """Release every connection."""
        for login in self.logins.values():
            login.client.close()
        self.ratchet.bus.close()
        self.ratchet.ledger.dispose()

    # Waiting --------------------------------------------------------------------------------------------------------

    def until(
        self, what: str, look: Callable[[], Found | None], *, seconds: float = PATIENCE_SECONDS, every: float = 0.5
    ) -> Found:
        """The first answer of ``look`` that is not empty."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while not (found := look()):
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{self.standing()}"
            pause.wait(every)
        return found

    def standing(self) -> str:
        """Events and attempts as they are, for a wait that was in vain."""
        lines = [f"event {row.event_id} {row.fate}: {row.reason}" for row in self.events()]
        lines += [f"attempt {a.id} {a.state} {a.verdict} of {a.dag_run_id}: {a.failure}" for a in self.attempts()]
        return "\n".join(lines[-40:])

    def rest(self) -> None:
        """Wait until nothing moves: no attempt is open, no event is pending, no task is at work for the model."""
        self.until("a system at rest", lambda: not self._moving())

    def _moving(self) -> list[str]:
        return [row.event_id for row in self.events() if row.fate in {"pending", "claimed"}] + [
            attempt.id for attempt in self.attempts() if attempt.state in {*LIVE_STATES, "judged"}
        ]

    # Events ---------------------------------------------------------------------------------------------------------

    def publish(self, data: cloudevents.InboundData, subject: str = MODEL, at: datetime | None = None) -> str:
        """Publish one event and return its id; the broker has stored it."""
        event_id = f"{subject}-{uuid.uuid4().hex[:12]}"
        event = cloudevents.new_event(data, id=event_id, source=SOURCE, subject=subject, time=at or self.now())
        self.ratchet.bus.publish(event.topic, *cloudevents.to_record(event))
        self.ratchet.bus.flush()
        return event_id

    def fresh_days(self, days: int = FRESH_DAYS) -> list[str]:
        """Let so many days of weather and flights arrive (14 days start nothing by themselves); returns the ids."""
        end = FIRST_AS_OF if self.today == FIRST_DAY else self.today + timedelta(days=days)
        piece, zone = Arrival(self.today, end), self.spec.data.spine.zone
        self.today = end
        feast = FeastFeatures(self.ratchet.settings.feature_repo_dir, self.ratchet.settings.data_dir)
        ids = []
        for dataset in DATASETS:
            rows = feast.count_rows(dataset, piece.start, piece.end)
            data = arrived(piece, dataset, rows, zone)
            ids.append(self.publish(data, dataset, at=data.complete_until))
        for event_id in ids:
            self.until(f"a first word on {event_id}", lambda i=event_id: self.decided(i))
        return ids

    def request(self, reason: str) -> str:
        """Ask for a retrain as another system would."""
        return self.publish(cloudevents.RetrainRequested(reason=reason, actor="another system"))

    def now(self) -> datetime:
        """Business time."""
        with self.ratchet.ledger.transaction() as tx:
            return tx.clock()[1]

    def events(self) -> list[EventRow]:
        """All events of the model, oldest first."""
        with self.ratchet.ledger.transaction() as tx:
            return tx.events(model=MODEL)

    def event(self, event_id: str) -> EventRow | None:
        """The event, once it is in the inbox; twice there is a failure of its own."""
        rows = [row for row in self.events() if row.event_id == event_id]
        assert len(rows) <= 1, f"{event_id} is in the inbox {len(rows)} times"
        return rows[0] if rows else None

    def decided(self, event_id: str) -> EventRow | None:
        """The event, once something was said about it beyond that it came."""
        row = self.event(event_id)
        return row if row and row.reason != "received" else None

    def fate(self, event_id: str, *fates: str) -> EventRow:
        """The event, as soon as it has one of these fates."""
        return self.until(
            f"{event_id} to be {' or '.join(fates)}",
            lambda: row if (row := self.event(event_id)) and row.fate in fates else None,
        )

    def terminal_fates(self, row: EventRow) -> list[str]:
        """Every terminal fate the event has had: one, if all is right."""
        with self.ratchet.ledger.transaction() as tx:
            return [was["fate"] for was in tx.fate_history(row.pk) if was["fate"] not in OPEN_FATES]

    def records_in(self, topic: str) -> int:
        """How many records of the topic the ledger knows."""
        query = sa.select(sa.func.count()).select_from(schema.record).where(schema.record.c.topic == topic)
        with self.ratchet.ledger.engine.connect() as db:
            return int(db.execute(query).scalar_one())

    def unsettled(self) -> list[str]:
        """Events that neither are terminal nor wait for a stated time to come."""
        now = self.now()
        return [
            row.event_id
            for row in self.events()
            if row.fate in OPEN_FATES and not (row.fate == "deferred" and row.until is not None and row.until > now)
        ]

    # Attempts and champions -----------------------------------------------------------------------------------------

    def attempts(self) -> list[AttemptRow]:
        """All attempts, newest first."""
        with self.ratchet.ledger.transaction() as tx:
            found = tx.attempts(model=MODEL)
        live = [attempt.id for attempt in found if attempt.state in LIVE_STATES]
        assert len(live) <= 1, f"two attempts are alive at once: {live}"
        return found

    def attempt(self, attempt_id: str) -> AttemptRow:
        """One attempt."""
        return next(attempt for attempt in self.attempts() if attempt.id == attempt_id)

    def attempt_of(self, *, run_id: str | None = None, event_id: str | None = None) -> AttemptRow:
        """The attempt of a run or of an event, as soon as there is one."""

        def look() -> AttemptRow | None:
            named = (row := self.event(event_id)) and row.attempt_id if event_id else None
            return next((a for a in self.attempts() if a.id == named or a.dag_run_id == run_id), None)

        return self.until(f"an attempt of {run_id or event_id}", look)

    def ended(self, attempt: AttemptRow, during: Callable[[], object] = lambda: None) -> AttemptRow:
        """The attempt, as soon as it has ended; ``during`` is called at each look."""

        def look() -> AttemptRow | None:
            during()
            now = self.attempt(attempt.id)
            return now if now.state not in {*LIVE_STATES, "judged"} else None

        return self.until(f"the end of {attempt.id}", look)

    def champion(self) -> ChampionRow:
        """Who serves, by the ledger."""
        with self.ratchet.ledger.transaction() as tx:
            champion = tx.current_champion(MODEL)
        assert champion is not None
        return champion

    def alias(self) -> int | None:
        """Who serves, by MLflow."""
        return self.ratchet.registry.alias_version(MODEL, "champion")

    def alias_follows(self) -> bool:
        """Whether both name the same version."""
        return self.alias() == self.champion().version

    def dossier(self, attempt: AttemptRow) -> dict[str, Any]:
        """What explains the attempt."""
        return dossiers.read(self.ratchet.store, attempt)

    def decisions_on(self, attempt: AttemptRow) -> list[dict[str, Any]]:
        """What ``ml.decisions`` has told of the attempt's verdict so far: whole CloudEvents, keyed by the model.

        The contract suite writes to the same topic, under keys of its own.
        """
        self.told += self.decisions.poll(0.2)
        told = [json.loads(record.value or b"{}") for record in self.told if record.key == MODEL.encode()]
        verdicts = [event for event in told if event.get("type", "").startswith("ratchet.model.")]
        return [event for event in verdicts if event["data"].get("attempt") == attempt.id]

    def outbox(self) -> list[str]:
        """The names of all that was ever to be told."""
        with self.ratchet.ledger.engine.connect() as db:
            return list(db.execute(sa.select(schema.outbox.c.dedupe).order_by(schema.outbox.c.id)).scalars())

    # Airflow --------------------------------------------------------------------------------------------------------

    def airflow(self, user: str = "admin") -> airflow_api.Airflow:
        """The REST API as this user."""
        if user not in self.logins:
            passwords = json.loads((self.ratchet.settings.home / "secrets.json").read_text())
            self.logins[user] = airflow_api.connect(
                replace(self.ratchet.settings, airflow_user=user, airflow_password=passwords[user])
            )
        return self.logins[user]

    def run_ends(self, dag_id: str, run_id: str) -> str:
        """The final state of a run."""
        airflow = self.airflow()

        def look() -> str | None:
            state = airflow.run_state(dag_id, run_id)
            return state if state not in airflow_api.OPEN else None

        return self.until(f"the end of run {run_id}", look, every=1.0)

    def tasks(self, dag_id: str = "~", run_id: str = "~", **query: str) -> list[dict[str, Any]]:
        """Task instances as Airflow knows them."""
        answer = self.airflow().client.get(
            f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='~')}/taskInstances", params=query
        )
        answer.raise_for_status()
        return list(answer.json()["task_instances"])

    def command(self, *arguments: str) -> str:
        """Run ``ratchet`` as a person does; returns what it prints."""
        tool = Path(sys.executable).with_name("ratchet")
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, f"ratchet {' '.join(arguments)}: {done.stdout}{done.stderr}\n{self.standing()}"
        return done.stdout

    # Failpoints -----------------------------------------------------------------------------------------------------

    def arm(self, failpoint: str, count: int = 1) -> None:
        """Have the next ``count`` processes that reach this failpoint wait there."""
        failpoints.arm(self.ratchet.settings.home, failpoint, count)

    def disarm(self) -> None:
        """Have no process wait anywhere, not even those that do."""
        for name in failpoints.NAMES:
            failpoints.disarm(self.ratchet.settings.home, name)
            for waiting in self.at(name):
                waiting.let_pass()

    def at(self, failpoint: str) -> list[Waiting]:
        """The processes that wait there now."""
        markers = failpoints.folder(self.ratchet.settings.home).glob(f"{failpoints.slug(failpoint)}.[0-9]*")
        found = [Waiting(int(file.suffix[1:]), file) for file in markers]
        return [waiting for waiting in found if waiting.alive]

    def arrival_at(self, failpoint: str, count: int = 1) -> Sequence[Waiting]:
        """The first processes to wait there."""
        return self.until(
            f"{count} processes at {failpoint!r}", lambda: w if len(w := self.at(failpoint)) >= count else None
        )
