"""Living through a year: publish what an act holds, then wait until it was looked at and all of it has a fate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from ratchet.cli import year
from ratchet.cli.airflow_api import OPEN as OPEN_RUNS
from ratchet.cli.airflow_api import Airflow
from ratchet.cli.progress import Tell, Teller
from ratchet.domain import events as cloudevents
from ratchet.domain.spec import ModelSpec
from ratchet.errors import RatchetError, Unavailable
from ratchet.ports.bus import DECISIONS, Bus, Subscription
from ratchet.ports.ledger import (
    AWAITING_APPROVAL,
    LIVE_STATES,
    WAITING_STATES,
    AttemptRow,
    EventRow,
    Ledger,
    MonitoredRow,
    Tx,
)
from ratchet.workflow.monitoring import due_window, end_of, observations

POLL_SECONDS = 0.5
INBOX_SECONDS = 180.0
"""How long an event may take from the broker to the inbox; the first one waits for the pump to start."""
SETTLE_SECONDS = 900.0
"""How long an act may take; two lost attempts with their waits fit in."""
MOST_INITS = 2
DOING = {
    "claimed": "freezing rows",
    "snapshotted": "tuning",
    "tuned": "judging",
    "judged": "promoting",
    AWAITING_APPROVAL: "waiting for approval: ratchet approvals",
}


class Unsettled(RatchetError):
    """Something published has no fate yet, and the wait for it is over."""


class Counts(Protocol):
    """Tells how many rows of a dataset happened on the local days ``[start, end)`` (``FeastFeatures``)."""

    def count_rows(self, dataset: str, start: date, end: date) -> int:
        """The number of rows."""
        ...


@dataclass(frozen=True)
class Looked:
    """A window that the monitor has looked at, with its report and the ids of the events that follow from it."""

    window: MonitoredRow
    report: Mapping[str, Any]

    @property
    def told(self) -> set[str]:
        """The ids of the monitor's events; broken data have none."""
        if self.window.state == "broken":
            return set()
        return {e.id for e in observations(self.report, self.window.window_end, str(self.window.report_uri))}


@dataclass(frozen=True)
class Lived:
    """An act and what came of it: its events and the monitor's, as they stood then, and the attempts that started.

    ``looks`` are the windows that were looked at, ``claimed`` the events that each attempt took, by its id.
    """

    act: year.Act
    events: tuple[EventRow, ...]
    attempts: tuple[AttemptRow, ...]
    seconds: float
    looks: tuple[Looked, ...] = ()
    claimed: Mapping[str, tuple[EventRow, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Look:
    missing: tuple[str, ...]
    moving: tuple[EventRow, ...]
    busy: tuple[AttemptRow, ...]
    unseen: date | None

    @property
    def settled(self) -> bool:
        return not (self.missing or self.moving or self.busy or self.unseen)

    def __str__(self) -> str:
        if self.busy:
            return f"{self.busy[0].id} is {DOING.get(self.busy[0].state, self.busy[0].state)}"
        if self.missing:
            return f"{len(self.missing)} of the events on the way to the inbox"
        if self.unseen and not self.moving:
            return f"the monitor looks at the rows up to {self.unseen}"
        newest = self.moving[-1]
        return f"{newest.type.split('.')[1]} event {newest.fate}: {newest.reason}".partition(";")[0]


class Year:
    """Lives acts on a running system whose clock is in replay."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        bus: Bus,
        airflow: Airflow,
        counts: Counts,
        spec: ModelSpec,
        teller: Teller,
        report: Callable[[MonitoredRow], Mapping[str, Any]],
    ) -> None:
        self._ledger = ledger
        self._bus = bus
        self._airflow = airflow
        self._counts = counts
        self._spec = spec
        self._teller = teller
        self._report = report
        self._looks: dict[datetime, Looked] = {}

    def live(self, acts: Sequence[year.Act]) -> Iterator[Lived]:
        """Publish each act, wait for it, and yield what came of it.

        Until there is a champion, each act that should end in a verdict asks for the first one.

        Raises:
            Unsettled: an event has no fate in time; the message names it.
            Refused: a run by hand was refused, or ended without an attempt.
            Unavailable: the broker, the ledger or Airflow does not answer.
        """
        with self._bus.follow(DECISIONS, from_beginning=False) as decisions:
            for act in acts:
                began = time.monotonic()
                before, seen = {attempt.id for attempt in self._attempts()}, set(self._looks)
                with self._teller.during(f"{act.month}, {act.what}") as tell:
                    ids = self._publish(act)
                    self._settle(ids, decisions, tell)
                    if act.expects != "waits":
                        self._ensure_champion(decisions, tell)
                looks = tuple(look for end, look in self._looks.items() if end not in seen)
                ids = ids.union(*(look.told for look in looks))
                attempts = [attempt for attempt in self._attempts() if attempt.id not in before]
                with self._ledger.transaction() as tx:
                    events = [row for row in tx.events(model=self._spec.model) if row.event_id in ids]
                    claimed = {attempt.id: tuple(tx.events(attempt_id=attempt.id)) for attempt in attempts}
                seconds = time.monotonic() - began
                yield Lived(act, tuple(events), tuple(attempts), seconds, looks, claimed)

    def _publish(self, act: year.Act) -> set[str]:
        zone = self._spec.data.spine.zone
        ids = set()
        for event in act.events:
            for dataset in year.DATASETS:
                rows = self._counts.count_rows(dataset, event.start, event.end)
                data = year.arrived(event, dataset, rows, zone)
                ids.add(self._send(data, dataset, year.event_id(event, dataset), data.complete_until))
        self._bus.flush()
        return ids

    def _send(self, data: cloudevents.InboundData, subject: str, event_id: str, at: datetime) -> str:
        event = cloudevents.new_event(data, id=event_id, source=year.SOURCE, subject=subject, time=at)
        self._bus.publish(event.topic, *cloudevents.to_record(event))
        return event_id

    def _ensure_champion(self, decisions: Subscription, tell: Tell) -> None:
        """Ask for the first champion as a person would; an attempt lost to the machine, not by verdict, is repeated."""
        dag_id = f"retrain__{self._spec.model}"
        for _ in range(MOST_INITS):
            with self._ledger.transaction() as tx:
                if tx.current_champion(self._spec.model) is not None:
                    return
            run_id = self._airflow.trigger(dag_id, {"reason": "first champion of the demo", "first_champion": True})
            attempt = self._opened(dag_id, run_id, decisions, tell)
            self._settle(set(), decisions, tell)
            with self._ledger.transaction() as tx:
                ended = tx.attempt(attempt.id)
            if ended is not None and ended.verdict is not None:
                return

    def _opened(self, dag_id: str, run_id: str, decisions: Subscription, tell: Tell) -> AttemptRow:
        """The run's attempt, as soon as it has claimed."""
        end = time.monotonic() + INBOX_SECONDS
        while time.monotonic() < end:
            with self._ledger.transaction() as tx:
                found = tx.attempts(dag_run=(dag_id, run_id))
            if found:
                return found[0]
            state = self._airflow.run_state(dag_id, run_id)
            if state not in OPEN_RUNS:
                raise Unsettled(f"run {run_id} of {dag_id} is {state} and made no attempt: its first task says why")
            tell(f"asking for the first champion: run {state}")
            decisions.poll(POLL_SECONDS)
        raise Unavailable(
            f"run {run_id} of {dag_id} has not claimed after {INBOX_SECONDS:.0f} s. See the run in Airflow"
        )

    def _settle(self, ids: set[str], decisions: Subscription, tell: Tell) -> None:
        """Wait until nothing moves: no window is due, every event is terminal or put off, and no attempt is open."""
        began = time.monotonic()
        while not (look := self._look(ids)).settled:
            tell(str(look))
            waited = time.monotonic() - began
            if look.missing and waited > INBOX_SECONDS:
                raise Unsettled(
                    f"not in the inbox after {waited:.0f} s: {', '.join(look.missing)}. Run: ratchet status"
                )
            if waited > SETTLE_SECONDS:
                names = [a.id for a in look.busy] + [row.event_id for row in look.moving]
                names += [f"the monitor's window up to {look.unseen}"] if look.unseen else []
                raise Unsettled(
                    f"without a fate after {waited:.0f} s: {', '.join(names)}. See: ratchet events, ratchet attempts, "
                    "ratchet monitor"
                )
            decisions.poll(POLL_SECONDS)

    def _look(self, ids: set[str]) -> _Look:
        with self._ledger.transaction() as tx:
            unseen, windows = self._monitored(tx)
            rows = tx.events(model=self._spec.model)
            _, now = tx.clock()
        for window in windows:
            if window.state != "due" and window.window_end not in self._looks:
                self._looks[window.window_end] = Looked(window, self._report(window))
        told = {event_id for look in self._looks.values() for event_id in look.told}
        here = {row.event_id for row in rows}
        return _Look(
            unseen=unseen,
            missing=tuple(sorted((ids | told) - here)),
            moving=tuple(row for row in rows if is_moving(row, now)),
            busy=tuple(a for a in self._attempts() if a.state in {*LIVE_STATES, *WAITING_STATES}),
        )

    def _monitored(self, tx: Tx) -> tuple[date | None, list[MonitoredRow]]:
        """Up to which day rows are still to be looked at, and the windows so far; broken ones count as looked at."""
        windows = tx.monitored(self._spec.model)
        due = due_window(tx, self._spec)[0]
        broken = due and any(row.state == "broken" and row.window_end == end_of(self._spec, due) for row in windows)
        return (None if broken else due), windows

    def _attempts(self) -> list[AttemptRow]:
        with self._ledger.transaction() as tx:
            return tx.attempts(model=self._spec.model)


def is_moving(row: EventRow, now: datetime) -> bool:
    """Whether the event is still on its way: neither terminal nor deferred to a time after ``now`` (business)."""
    if row.fate == "deferred":
        return row.until is not None and row.until <= now
    return row.fate in {"pending", "claimed"}
