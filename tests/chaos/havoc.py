"""What is done to the running stack: who is killed and where, and how long it takes until the hurt is made good."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError

from ratchet import failpoints
from ratchet.adapters.connections import EnvResolver, kafka_config
from ratchet.adapters.kafka_bus import CLIENT, probe
from ratchet.adapters.ledger import schema as t
from ratchet.bootstrap import Ratchet
from ratchet.errors import RatchetError
from ratchet.ports.bus import INBOUND_TOPICS
from ratchet.settings import environment
from ratchet.stack import api, processes
from ratchet.stack.processes import Identity
from ratchet.stack.units import Phase

AWAY = (SQLAlchemyError, KafkaError, RatchetError, OSError, LookupError, StopIteration)
"""What is raised while somebody cannot be asked, or does not know yet: that is what was done to them."""
IN_TRIGGERER = ("inserted/not committed", "committed/no offset", "rung/not claimed")
IN_TASKS = ("claimed/no snapshot", "compare-and-set/no alias", "alias/not published")
SERVICES = {"triggerer": 4, "scheduler": 3, "postgres": 4, "kafka": 3}
"""What is killed at random moments, and how often of the whole together with ``TASKS`` and ``STALE``."""
TASKS, STALE = 5, 1
ARMED_SECONDS = 75.0
"""A failpoint that nobody reaches in this time makes room for another one, and has its turn again later."""
STALE_SECONDS = 240.0
RESPITE_SECONDS = 10.0
"""A service that is killed at random moments has answered for so long: one that never answers shows nothing."""


@dataclass
class Kill:
    """One kill; ``recovered`` says whether what it hurt has been made good."""

    component: str
    pid: int
    failpoint: str | None
    recovered: Callable[[], bool]
    at: float = field(default_factory=time.monotonic)
    recovery_seconds: float | None = None

    def row(self) -> dict[str, Any]:
        """Its line in the report."""
        seconds = None if self.recovery_seconds is None else round(self.recovery_seconds, 1)
        return {
            "component": self.component,
            "pid": self.pid,
            "failpoint": self.failpoint,
            "recovery_seconds": seconds,
        }


@dataclass
class Stale:
    """A worker that was stopped long enough to be presumed dead, and then went on."""

    attempt: str
    pid: int
    given_up: bool = False
    resumed: bool = False


class System:
    """The running stack: its rows, its processes, its waiting failpoints."""

    def __init__(self, ratchet: Ratchet, models: Sequence[str]) -> None:
        self.ratchet = ratchet
        self.models = tuple(models)
        self.home = ratchet.settings.home
        variables = environment()
        self.airflow = sa.create_engine(variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], pool_pre_ping=True)
        self.kafka = kafka_config(EnvResolver(ratchet.settings.connections).resolve("ratchet_kafka"))

    def rows(self, query: sa.Select[Any] | sa.TextClause, engine: sa.Engine | None = None, **values: Any) -> list[Any]:
        """The rows of one query."""
        with (engine or self.ratchet.ledger.engine).connect() as db:
            return list(db.execute(query, values))

    def ends(self) -> dict[tuple[str, int], int]:
        """The broker's own end offsets of the inbound topics."""
        probe(self.kafka)
        consumer = KafkaConsumer(**self.kafka, **CLIENT)
        try:
            spots = [
                TopicPartition(topic, number)
                for topic in INBOUND_TOPICS
                for number in sorted(consumer.partitions_for_topic(topic) or ())
            ]
            return {(spot.topic, spot.partition): end for spot, end in consumer.end_offsets(spots).items()}
        finally:
            consumer.close(autocommit=False)

    def stored(self) -> dict[tuple[str, int], int]:
        """How far the ledger knows each partition: the highest offset and one."""
        c = t.record.c
        query = sa.select(c.topic, c.partition, sa.func.max(c.offset) + 1).group_by(c.topic, c.partition)
        return {(topic, partition): end for topic, partition, end in self.rows(query)}

    def running_tasks(self, like: str = "%") -> list[Any]:
        """Task instances whose process runs here and now."""
        found = self.rows(
            sa.text(
                "SELECT dag_id, run_id, task_id, map_index, pid FROM task_instance "
                "WHERE state = 'running' AND pid IS NOT NULL AND dag_id LIKE :like ORDER BY start_date"
            ),
            self.airflow,
            like=like,
        )
        return [row for row in found if self._is_ours(row.pid)]

    def _is_ours(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).environ().get(processes.HOME_MARK) == str(self.home)
        except (psutil.Error, OSError):
            return False

    def waiting_at(self, failpoint: str) -> tuple[Identity, Path] | None:
        """The process that waits there, alive and ours; what is left of dead ones is cleared away."""
        for marker in failpoints.folder(self.home).glob(f"{failpoints.slug(failpoint)}.[0-9]*"):
            identity = processes.identify(int(marker.suffix[1:]))
            if identity is not None and self._is_ours(identity.pid):
                return identity, marker
            marker.unlink(missing_ok=True)
        return None

    def live_attempt(self, model: str) -> str | None:
        """The attempt that holds the model's lease."""
        return next(iter(self.rows(sa.select(t.lease.c.attempt_id).where(t.lease.c.model == model))))[0]


class Havoc:
    """Kills by a seeded agenda: services and tasks at random moments, processes waiting at their failpoints."""

    def __init__(self, system: System, seed: int, kills: int, per_failpoint: int, seconds: float, stale: int) -> None:
        self.system = system
        self.random = random.Random(seed)
        self.kills: list[Kill] = []
        self.stale: list[Stale] = []
        named = {lane: [name for name in lane for _ in range(per_failpoint)] for lane in (IN_TRIGGERER, IN_TASKS)}
        self.lanes = [_Lane(self._shuffled(names)) for names in named.values()]
        spontaneous = max(0, kills - per_failpoint * len(IN_TRIGGERER + IN_TASKS))
        weights = SERVICES | {"task": TASKS}
        kinds = self.random.choices(list(weights), list(weights.values()), k=max(0, spontaneous - len(weights)))
        self.agenda = self._shuffled([*list(weights)[:spontaneous], *kinds])
        moments = (self.random.uniform(0.02, 0.95) * seconds for _ in self.agenda)
        self.moments = sorted(moments)
        self.stale_at = [(number + 0.1) / stale * seconds * 0.8 for number in range(stale)]
        self.began = time.monotonic()
        self.total = spontaneous + per_failpoint * len(IN_TRIGGERER + IN_TASKS)

    def _shuffled(self, names: Sequence[str]) -> list[str]:
        return self.random.sample(list(names), k=len(names))

    def start(self) -> None:
        """From now on moments count."""
        self.began = time.monotonic()

    def stop(self, home: Path) -> None:
        """Arm nothing any more, and let everybody go on who waits."""
        for name in failpoints.NAMES:
            failpoints.disarm(home, name)
            while (found := self.system.waiting_at(name)) is not None:
                found[1].unlink(missing_ok=True)

    @property
    def done(self) -> bool:
        """Whether all that was planned has been done."""
        return not self.agenda and all(lane.done for lane in self.lanes) and not self.stale_at and not self.pending()

    def pending(self) -> bool:
        """Whether a stopped worker is still to go on."""
        return any(not each.resumed for each in self.stale)

    def step(self) -> Kill | None:
        """Do what is due; the kill, if there was one. Who cannot be asked now is asked at the next step."""
        try:
            return self._step()
        except AWAY:
            return None

    def _step(self) -> Kill | None:
        elapsed = time.monotonic() - self.began
        in_triggerer, in_tasks = self.lanes
        wanted = bool(self.stale_at) and elapsed >= self.stale_at[0] and not self.pending()
        if wanted:
            self._stop_a_worker(in_tasks)
        for lane in [in_triggerer] if wanted else self.lanes:
            if (killed := self._at_failpoint(lane)) is not None:
                return killed
        if self.moments and elapsed >= self.moments[0]:
            return self._spontaneous()
        return None

    # Failpoints -----------------------------------------------------------------------------------------------------

    def _at_failpoint(self, lane: _Lane) -> Kill | None:
        name = lane.current(self.system.home)
        if name is None:
            return None
        found = self.system.waiting_at(name)
        if found is None:
            return None
        identity, marker = found
        hurt = self._hurt_at(name, identity.pid)
        if hurt is None:
            if lane.kept_waiting():
                # Airflow knows nothing of it any more (its run was given up): it is no kill to account for.
                os.kill(identity.pid, signal.SIGKILL)
                lane.lent()
            return None
        component, recovered = hurt
        leader = api.component_pid("triggerer") if component == "triggerer" else None
        # It is this very process, it is alive, and it has been waiting at this place since it took the arm.
        if not processes.is_alive(identity) or not marker.exists():
            return None
        os.kill(identity.pid, signal.SIGKILL)
        if leader is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
            recovered = _both(self._service_back("triggerer", leader), recovered)
        marker.unlink(missing_ok=True)
        lane.finished()
        return self._note(Kill(component, identity.pid, name, recovered))

    def _hurt_at(self, name: str, pid: int) -> tuple[str, Callable[[], bool]] | None:
        """Which component waits there, and how to see that what it leaves behind is made good; None: ask again."""
        try:
            if name in {"inserted/not committed", "committed/no offset"}:
                return "triggerer", partial(self._stored_up_to, self.system.ends())
            if name == "rung/not claimed":
                c = t.doorbell.c
                (model, rung_at), *_ = self.system.rows(
                    sa.select(c.model, c.rung_at).where(c.rung_at.is_not(None)).order_by(c.rung_at.desc())
                )
                return "triggerer", partial(self._claimed_since, model, rung_at)
            if name == "claimed/no snapshot":
                task = next(each for each in self.system.running_tasks("retrain__%") if each.pid == pid)
                attempt = self.system.live_attempt(task.dag_id.removeprefix("retrain__"))
                return "task", partial(self._state_left, str(attempt), "claimed")
            open_rows = sa.select(t.outbox.c.id).where(t.outbox.c.kind == "alias", t.outbox.c.done_at.is_(None))
            return "task", partial(self._told, [pk for (pk,) in self.system.rows(open_rows)])
        except AWAY:
            return None

    # Random moments -------------------------------------------------------------------------------------------------

    def _spontaneous(self) -> Kill | None:
        name = self.agenda[0]
        if name == "scheduler" and self.pending():
            # It would take the stopped worker with it: have another one first.
            self.agenda = [*self.agenda[1:], name]
            return None
        killed = self._kill_task() if name == "task" else self._kill_service(name)
        others = self.agenda[1:]
        self.agenda = others if killed is not None else [*others, name]
        self.moments = self.moments[killed is not None :]
        return killed

    def _kill_service(self, name: str) -> Kill | None:
        row = api.status().get(name) or {}
        if row.get("phase") != Phase.READY or time.time() - row["started_at"] - row["ready_after"] < RESPITE_SECONDS:
            return None
        pid = int(row["pid"])
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(pid)]
            if name == "postgres":
                family += family[0].children(recursive=True)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return self._note(Kill(name, pid, None, self._service_back(name, pid)))

    def _kill_task(self) -> Kill | None:
        stopped = {each.pid for each in self.stale if not each.resumed}
        tasks = [each for each in _or_none(self.system.running_tasks) or () if each.pid not in stopped]
        if not tasks:
            return None
        task = self.random.choice(tasks)
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.pid, signal.SIGKILL)
        return self._note(Kill("task", task.pid, None, partial(self._task_went_on, task)))

    # A worker presumed dead -----------------------------------------------------------------------------------------

    def _stop_a_worker(self, lane: _Lane) -> None:
        """Stop a worker that holds its lease and has written nothing; let it go on when it has been given up."""
        name = "claimed/no snapshot"
        if lane.current(self.system.home) != name:
            lane.borrow(name, self.system.home)
            return
        found = self.system.waiting_at(name)
        if found is None:
            return
        identity, marker = found
        tasks = _or_none(partial(self.system.running_tasks, "retrain__%")) or ()
        task = next((each for each in tasks if each.pid == identity.pid), None)
        attempt = task and _or_none(partial(self.system.live_attempt, task.dag_id.removeprefix("retrain__")))
        if not attempt or not processes.is_alive(identity):
            return
        os.kill(identity.pid, signal.SIGSTOP)
        marker.unlink(missing_ok=True)
        lane.lent()
        self.stale_at.pop(0)
        stale = Stale(attempt, identity.pid)
        self.stale.append(stale)
        threading.Thread(target=self._resume, args=(stale, identity), daemon=True).start()

    def _resume(self, stale: Stale, identity: Identity) -> None:
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end and processes.is_alive(identity):
            if _or_none(partial(self._given_up, stale.attempt)):
                stale.given_up = True
                break
            time.sleep(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGCONT)
        stale.resumed = True

    def _given_up(self, attempt: str) -> bool:
        state = self.system.rows(sa.select(t.attempt.c.state).where(t.attempt.c.id == attempt))[0][0]
        return state in {"failed", "abandoned"}

    # Recovery -------------------------------------------------------------------------------------------------------

    def _note(self, kill: Kill) -> Kill:
        self.kills.append(kill)
        return kill

    def look_after(self, stop: threading.Event) -> None:
        """Time every recovery, until ``stop``: for a thread of its own."""
        while not stop.wait(0.5):
            for kill in [each for each in self.kills if each.recovery_seconds is None]:
                if _or_none(kill.recovered):
                    kill.recovery_seconds = time.monotonic() - kill.at

    def unrecovered(self) -> list[Kill]:
        """Kills whose hurt was not made good yet."""
        return [kill for kill in self.kills if kill.recovery_seconds is None]

    @staticmethod
    def _service_back(name: str, killed: int) -> Callable[[], bool]:
        def look() -> bool:
            row = api.status()[name]
            return row["phase"] == Phase.READY and row["pid"] != killed

        return look

    def _stored_up_to(self, ends: Mapping[tuple[str, int], int]) -> bool:
        stored = self.system.stored()
        return all(stored.get(spot, 0) >= end for spot, end in ends.items())

    def _claimed_since(self, model: str, rung_at: datetime) -> bool:
        c = t.attempt.c
        claimed = self.system.rows(sa.select(c.id).where(c.model == model, c.created_at > rung_at))
        (due,) = self.system.rows(sa.select(t.doorbell.c.due_at).where(t.doorbell.c.model == model))
        return bool(claimed) or due[0] is None

    def _state_left(self, attempt: str, state: str) -> bool:
        return self.system.rows(sa.select(t.attempt.c.state).where(t.attempt.c.id == attempt))[0][0] != state

    def _told(self, pks: Sequence[int]) -> bool:
        c = t.outbox.c
        return not self.system.rows(sa.select(c.id).where(c.id.in_(pks), c.done_at.is_(None)))

    def _task_went_on(self, task: Any) -> bool:
        """Another process executes it, or it has ended: a try that only waits for its retry has not gone on."""
        now = self.system.rows(
            sa.text(
                "SELECT state, pid FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id "
                "AND task_id = :task_id AND map_index = :map_index"
            ),
            self.system.airflow,
            **{name: getattr(task, name) for name in ("dag_id", "run_id", "task_id", "map_index")},
        )
        return all(
            row.state in {"success", "failed", "skipped", "upstream_failed"}
            or (row.state == "running" and row.pid not in {task.pid, None})
            for row in now
        )


class _Lane:
    """Failpoints that are armed one at a time, each for a while."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.armed: str | None = None
        self._borrowed = False
        self._since = 0.0

    @property
    def done(self) -> bool:
        return not self.names and self.armed is None

    def current(self, home: Path) -> str | None:
        """The failpoint to look at; arms the next one where none is armed, or where nobody reaches the armed one."""
        if self.armed is not None and time.monotonic() - self._since > ARMED_SECONDS:
            untaken = failpoints.disarm(home, self.armed)
            if untaken and self.names and not self._borrowed:
                self.names.append(self.armed)
                self.armed = None
            else:
                # Nobody else has a turn; or the arm was taken by one that died with its service and is needed again.
                self._arm(self.armed, home)
        if self.armed is None and self.names:
            self._arm(self.names.pop(0), home)
        return self.armed

    def _arm(self, name: str, home: Path) -> None:
        failpoints.arm(home, name)
        self.armed, self._since = name, time.monotonic()

    def kept_waiting(self) -> bool:
        """Whether the one that came has been looked at in vain for long."""
        return time.monotonic() - self._since > ARMED_SECONDS / 2

    def borrow(self, name: str, home: Path) -> None:
        """Arm this one now, instead of whatever is armed; it does not count as the failpoint's turn."""
        if self.armed is not None:
            failpoints.disarm(home, self.armed)
            self.names.append(self.armed)
        self._borrowed = True
        self._arm(name, home)

    def lent(self) -> None:
        """Who came was wanted for something else: the failpoint still has its turn."""
        if not self._borrowed:
            self.names.append(str(self.armed))
        self.finished()

    def finished(self) -> None:
        """Who came was killed, or is not waited for any more."""
        self.armed, self._borrowed = None, False


def _both(first: Callable[[], bool], second: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: first() and second()


def _or_none(ask: Callable[[], Any]) -> Any:
    """None also where nobody can be asked."""
    try:
        return ask()
    except AWAY:
        return None
