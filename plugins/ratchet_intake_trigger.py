# ruff: noqa: PLC0415 (every component loads this file: what is heavy is imported where it is used)
"""The doorbells' triggers, fed by one intake pump per triggerer.

All watchers share one stream (fast path of Airflow's shared streams): it runs the pump in a thread of its own and
repeats about once a second which models are due. A late or restarted watcher therefore misses nothing: the model is
still due at the next tick. A watcher rings only after it won the compare-and-set in the ledger, so that two triggerers,
or the sweep, never ring twice for the same reason. No exception leaves a filter: it would restart every watcher.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import sync_to_async

import ratchet_airflow

log = logging.getLogger(__name__)

PumpRun = Callable[[threading.Event, Callable[[list[str]], None]], None]
JOIN_SECONDS = 9.0
REPORT_SECONDS = 3600.0


@dataclass(frozen=True)
class Wires:
    """What a stream needs of Ratchet.

    ``run`` is the pump; ``ring(model)`` says which ring of a due model was won, counted from 1, and 0 if none was;
    ``mark()`` changes with what windows of new rows follow from, and ``ring_monitor(model)`` says whether the right was
    won to have one looked at.
    """

    run: PumpRun
    ring: Callable[[str], int]
    mark: Callable[[], Hashable]
    ring_monitor: Callable[[str], bool]


@dataclass(frozen=True)
class Tick:
    """What every watcher hears about once a second: the due models, the mark, and how to win the right to ring."""

    due: tuple[str, ...]
    mark: Hashable
    wires: Wires


class IntakeEndedError(RuntimeError):
    """The pump's thread ended although nobody stopped it; the stream is opened again."""


class _SharesTheIntake(BaseEventTrigger):
    """All triggers: one key, one stream."""

    def shared_stream_key(self) -> Hashable:
        """One pump for all watchers of a triggerer."""
        return ("ratchet", "intake")

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Tick]:  # noqa: ARG003 (shared: the same for all)
        """Run the pump in a thread and yield its ticks until cancelled; then stop it and wait for its end."""
        wires = await _wired()
        loop, stop = asyncio.get_running_loop(), threading.Event()
        ticks: asyncio.Queue[Tick | None] = asyncio.Queue()

        def tell(item: Tick | None) -> None:
            try:
                loop.call_soon_threadsafe(ticks.put_nowait, item)
            except RuntimeError:
                stop.set()

        def pump() -> None:
            try:
                wires.run(stop, lambda due: tell(Tick(tuple(due), wires.mark(), wires)))
            finally:
                tell(None)

        thread = threading.Thread(target=pump, name="ratchet-intake", daemon=True)
        thread.start()
        try:
            while (tick := await ticks.get()) is not None:
                yield tick
            raise IntakeEndedError("the intake pump ended by itself; see the triggerer's log")
        finally:
            stop.set()
            await asyncio.to_thread(thread.join, JOIN_SECONDS)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Without a shared stream: a stream of one's own."""
        async for event in self.filter_shared_stream(self.open_shared_stream({})):
            yield event


class IntakeTrigger(_SharesTheIntake):
    """Keeps the pump running for DAG ``ratchet__intake``, whatever models there are. Reports at once, then hourly."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """No arguments: one intake per installation."""
        return "ratchet_intake_trigger.IntakeTrigger", {}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Tick]) -> AsyncIterator[TriggerEvent]:
        """One event when ticks begin to come, and one per hour."""
        reported = float("-inf")
        async for _ in shared_stream:
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                yield TriggerEvent({"intake": "running"})


class DueTrigger(_SharesTheIntake):
    """Rings for one model when it is due: the asset event carries no truth, only the model's name."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The model's name is all."""
        return "ratchet_intake_trigger.DueTrigger", {"model": self.model}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Tick]) -> AsyncIterator[TriggerEvent]:
        """Yield after the compare-and-set on the doorbell was won; losing it, or failing, waits for the next tick."""
        async for tick in shared_stream:
            if self.model in tick.due and await sync_to_async(self._won, thread_sensitive=False)(tick):
                yield TriggerEvent({"model": self.model})

    def _won(self, tick: Tick) -> bool:
        from ratchet.domain.fleet import heard
        from ratchet.failpoints import reach

        try:
            won = heard(tick.wires.ring(self.model), self._claim_awaited)
        except Exception:
            log.exception("doorbell of %s not rung; tried again at the next tick", self.model)
            return False
        if won:
            reach("rung/not claimed")
        return won

    def _claim_awaited(self) -> bool:
        """Whether a run waits for its claim; if Airflow does not answer, the bell had better ring."""
        try:
            return ratchet_airflow.AirflowRunStates().claim_awaited(self.model)
        except Exception:
            log.exception("whether a run of %s waits is not known; its doorbell is rung again", self.model)
            return False


class MonitorTrigger(_SharesTheIntake):
    """Rings for a window of one model's new rows as soon as data or a champion make it due."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The model's name is all."""
        return "ratchet_intake_trigger.MonitorTrigger", {"model": self.model}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Tick]) -> AsyncIterator[TriggerEvent]:
        """Ask when the mark has changed, and when the ticks begin; a failure asks again at the next tick."""
        asked: Hashable = None
        async for tick in shared_stream:
            if tick.mark == asked:
                continue
            won = await sync_to_async(self._won, thread_sensitive=False)(tick)
            if won is not None:
                asked = tick.mark
            if won:
                yield TriggerEvent({"model": self.model})

    def _won(self, tick: Tick) -> bool | None:
        try:
            return tick.wires.ring_monitor(self.model)
        except Exception:
            log.exception(
                "whether new rows of %s are to be looked at is not known; asked again at the next tick", self.model
            )
            return None


async def _wired() -> Wires:
    """The pump and the doorbells, wired to Airflow's connections; tried until it works: no watcher dies of it."""
    wait = 1.0
    while True:
        try:
            resolver = await ratchet_airflow.resolve_all()
            return await asyncio.to_thread(_wire, resolver)
        except Exception:
            log.exception("intake: not wired yet; next try in %.0f s", wait)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (spreads retries, guards nothing)
            wait = min(wait * 2, 30.0)


def _wire(resolver: Any) -> Wires:
    from ratchet.adapters.connections import KAFKA
    from ratchet.adapters.kafka_intake import IntakeLoop
    from ratchet.bootstrap import wire
    from ratchet.settings import load_settings

    ratchet = wire(resolver)
    sink, group_id, connection = ratchet.intake_sink(), load_settings().group_id, resolver.resolve(KAFKA)

    def run(stop: threading.Event, on_due: Callable[[list[str]], None]) -> None:
        IntakeLoop(connection, group_id, sink, stop, on_due).run()

    return Wires(run, ratchet.ring, ratchet.monitor_mark, ratchet.ring_monitor)
