"""The real ``SharedStreamManager`` over a pump that is not real: who hears what, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from airflow.sdk.module_loading import import_string
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import SharedStreamManager

import ratchet_intake_trigger as intake
from ratchet_intake_trigger import DueTrigger, IntakeTrigger, MonitorTrigger, Wires

pytestmark = pytest.mark.airflow


class FakePump:
    """Ticks fast, lets every model be rung once, and knows how many of it run."""

    def __init__(self) -> None:
        self.due: list[str] = []
        self.mark = 0
        self.windows: list[str] = []
        self.asked = 0
        self.rung: list[str] = []
        self.running = 0
        self.most_running = 0
        self.sessions = 0
        self.ring_errors = 0
        self.rings_to_win = 1
        self.dies = False
        self.ticks = 0
        self._lock = threading.Lock()

    def run(self, stop: threading.Event, on_due: Callable[[list[str]], None]) -> None:
        with self._lock:
            self.running += 1
            self.sessions += 1
            self.most_running = max(self.most_running, self.running)
        try:
            while not stop.wait(0.01):
                on_due(list(self.due))
                self.ticks += 1
                if self.dies:
                    return
        finally:
            with self._lock:
                self.running -= 1

    def ring(self, model: str) -> int:
        with self._lock:
            if self.ring_errors:
                self.ring_errors -= 1
                raise ConnectionError("the ledger is away")
            if self.rung.count(model) >= self.rings_to_win:
                return 0
            self.rung.append(model)
            return self.rung.count(model)

    def ring_monitor(self, model: str) -> bool:
        with self._lock:
            self.asked += 1
            if self.ring_errors:
                self.ring_errors -= 1
                raise ConnectionError("the ledger is away")
            if model not in self.windows:
                return False
            self.windows.remove(model)
            return True


@pytest.fixture
def pump(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePump]:
    fake = FakePump()

    async def wired() -> Wires:
        return Wires(fake.run, fake.ring, lambda: fake.mark, fake.ring_monitor)

    monkeypatch.setattr(intake, "_wired", wired)
    yield fake
    assert fake.running == 0, "a pump's thread outlived its stream"


class Watchers:
    """What the triggerer does with triggers, without its database: subscribe, filter, collect, unsubscribe."""

    def __init__(self) -> None:
        self.manager = SharedStreamManager()
        self.heard: list[tuple[int, Any]] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def add(self, number: int, trigger: Any) -> asyncio.Task[None]:
        key = trigger.shared_stream_key()

        async def watch() -> None:
            try:
                stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
                async for event in trigger.filter_shared_stream(stream):
                    self.heard.append((number, event.payload))
            finally:
                await self.manager.unsubscribe(number, key)

        self._tasks[number] = asyncio.create_task(watch())
        return self._tasks[number]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def stop(self, *numbers: int) -> None:
        for number in numbers or tuple(self._tasks):
            task = self._tasks.pop(number)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_all_watchers_share_one_pump(pump: FakePump) -> None:
    async def scenario() -> None:
        watchers = Watchers()
        for number, trigger in enumerate([IntakeTrigger(), DueTrigger("a"), DueTrigger("b")]):
            watchers.add(number, trigger)
        pump.due = ["a", "b"]
        await watchers.until(lambda: len(watchers.heard) == 3)
        await watchers.stop()
        assert sorted(watchers.heard) == [(0, {"intake": "running"}), (1, {"model": "a"}), (2, {"model": "b"})]

    asyncio.run(scenario())
    assert (pump.sessions, pump.most_running) == (1, 1)


def test_a_due_model_is_rung_once_however_often_it_is_heard(pump: FakePump) -> None:
    async def scenario() -> None:
        watchers = Watchers()
        watchers.add(1, DueTrigger("a"))
        watchers.add(2, DueTrigger("a"))
        watchers.add(3, DueTrigger("z"))
        pump.due = ["a"]
        await watchers.until(lambda: bool(watchers.heard))
        pump.due = ["z"]
        await watchers.until(lambda: len(watchers.heard) >= 2)
        await watchers.stop()
        assert [payload for _, payload in watchers.heard] == [{"model": "a"}, {"model": "z"}]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("claim_awaited", "heard"),
    [(True, 2), (False, 3), (None, 3)],
    ids=["its run waits", "no run waits", "Airflow does not answer"],
)
def test_while_a_run_waits_for_its_claim_its_doorbell_stays_silent_but_not_for_ever(
    pump: FakePump, monkeypatch: pytest.MonkeyPatch, claim_awaited: bool | None, heard: int
) -> None:
    def answer(_: Any, model: str) -> bool:
        assert model == "a"
        if claim_awaited is None:
            raise ConnectionError("the API server is away")
        return claim_awaited

    monkeypatch.setattr(intake.ratchet_airflow.AirflowRunStates, "claim_awaited", answer)
    pump.rings_to_win, pump.due = 3, ["a"]

    async def scenario() -> None:
        watchers = Watchers()
        watchers.add(1, DueTrigger("a"))
        await watchers.until(lambda: len(pump.rung) == 3 and len(watchers.heard) == heard)
        await watchers.stop()

    asyncio.run(scenario())


def test_a_watcher_that_joins_late_hears_what_is_still_due(pump: FakePump) -> None:
    async def scenario() -> None:
        watchers = Watchers()
        watchers.add(1, IntakeTrigger())
        pump.due = ["a"]
        await watchers.until(lambda: bool(watchers.heard))
        watchers.add(2, DueTrigger("a"))
        await watchers.until(lambda: (2, {"model": "a"}) in watchers.heard)
        await watchers.stop()

    asyncio.run(scenario())


def test_a_window_is_rung_for_when_the_data_have_moved_and_the_ledger_is_asked_once_for_each_move(
    pump: FakePump,
) -> None:
    async def scenario() -> None:
        watchers = Watchers()
        watchers.add(1, MonitorTrigger("a"))
        await watchers.until(lambda: pump.asked == 1)
        pump.windows = ["a", "b"]
        await watchers.until(lambda ticks=pump.ticks: pump.ticks >= ticks + 10)
        assert (pump.asked, watchers.heard) == (1, [])
        pump.mark = 1
        await watchers.until(lambda: bool(watchers.heard))
        await watchers.until(lambda ticks=pump.ticks: pump.ticks >= ticks + 10)
        await watchers.stop()
        assert (pump.asked, watchers.heard) == (2, [(1, {"model": "a"})])

    asyncio.run(scenario())
    assert pump.windows == ["b"]


def test_a_window_that_could_not_be_asked_about_is_asked_about_again(pump: FakePump) -> None:
    pump.ring_errors, pump.windows = 2, ["a"]

    async def scenario() -> None:
        watchers = Watchers()
        task = watchers.add(1, MonitorTrigger("a"))
        await watchers.until(lambda: bool(watchers.heard))
        assert not task.done()
        await watchers.stop()

    asyncio.run(scenario())
    assert pump.asked == 3


def test_a_failing_ledger_kills_no_watcher(pump: FakePump) -> None:
    pump.ring_errors, pump.due = 3, ["a"]

    async def scenario() -> None:
        watchers = Watchers()
        task = watchers.add(1, DueTrigger("a"))
        await watchers.until(lambda: bool(watchers.heard))
        assert not task.done()
        await watchers.stop()

    asyncio.run(scenario())
    assert pump.ring_errors == 0


def test_cancelling_the_last_watcher_ends_the_pump_in_time(pump: FakePump) -> None:
    async def scenario() -> float:
        watchers = Watchers()
        watchers.add(1, IntakeTrigger())
        watchers.add(2, DueTrigger("a"))
        await watchers.until(lambda: pump.running == 1)
        await watchers.stop(1)
        assert pump.running == 1, "the pump serves the other watcher"
        began = time.monotonic()
        await watchers.stop(2)
        return time.monotonic() - began

    assert asyncio.run(scenario()) < 10
    assert pump.running == 0


def test_a_pump_that_died_is_told_to_every_watcher_and_opened_again(pump: FakePump) -> None:
    pump.dies = True

    async def scenario() -> None:
        watchers = Watchers()
        tasks = [watchers.add(1, DueTrigger("a")), watchers.add(2, DueTrigger("b"))]
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["IntakeEndedError"] * 2
        pump.dies, pump.due = False, ["a"]
        watchers.add(3, DueTrigger("a"))
        await watchers.until(lambda: (3, {"model": "a"}) in watchers.heard)
        await watchers.stop(3)

    asyncio.run(scenario())


def test_wiring_is_tried_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    async def resolve_all() -> str:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("the secrets backend is away")
        return "resolver"

    monkeypatch.setattr(intake.ratchet_airflow, "resolve_all", resolve_all)
    monkeypatch.setattr(intake, "_wire", lambda resolver: (resolver, resolver))
    assert asyncio.run(intake._wired()) == ("resolver", "resolver")
    assert len(tries) == 2


def test_without_a_shared_stream_a_trigger_opens_its_own(pump: FakePump) -> None:
    pump.due = ["a"]

    async def scenario() -> TriggerEvent:
        events: AsyncIterator[TriggerEvent] = DueTrigger("a").run()
        event = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        return event

    async def bounded() -> TriggerEvent:
        async with asyncio.timeout(10):
            return await scenario()

    assert asyncio.run(bounded()).payload == {"model": "a"}


@pytest.mark.parametrize("trigger", [IntakeTrigger(), DueTrigger("flight_delay"), MonitorTrigger("flight_delay")])
def test_a_trigger_comes_back_from_its_serialised_form(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    back = import_string(path)(**arguments)
    assert back.serialize() == (path, arguments)
    assert back.shared_stream_key() == IntakeTrigger().shared_stream_key()
