"""What a claim, a tick and a sweep ask of the ledger does not grow with models that they do not concern."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from worlds import Runs, World

from ratchet.domain.events import PerformanceDegraded
from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import ChampionRow, MonitoredRow
from ratchet.records import RunContext
from ratchet.workflow import deciding

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
DEGRADED = PerformanceDegraded(metric="payoff", value=3.1, threshold=4, window_end=MAY)
FEW, MANY = 3, 40


def fleet(tmp_path, migrated, count: int, **sections: object) -> World:
    """So many models with champions and fresh days, of which nothing is due; specs were read by other processes."""
    world = World(tmp_path, migrated)
    for number in range(count):
        model = f"model_{number:02}"
        spec = ModelSpec.model_validate(world.spec.model_dump(mode="json") | {"model": model} | sections)
        with world.ledger.transaction() as tx:
            tx.publish_spec(model, spec.digest, spec.model_dump(mode="json"))
            tx.insert_champion(ChampionRow(model, 1, 1, None, "init", MAY, None, "r", None, MAY))
        world.registry.register(f"filler of {model}", model, filler(tmp_path), metrics={}, params={}, tags={})
        world.registry.set_alias(model, "champion", 1)
        with world.ledger.transaction() as tx:
            tx.save_monitored(MonitoredRow(model, MAY, "done", spec.digest, 1))
    world.arrive(MAY, rows=1)
    return world


def filler(folder) -> Path:
    (folder / "filler").mkdir(exist_ok=True)
    (folder / "filler" / "ratchet.json").write_text("{}")
    return folder / "filler"


@contextmanager
def statements(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every statement of a process that has read no spec yet."""
    monkeypatch.setattr(deciding, "_SPECS", {})
    seen: list[str] = []

    def note(_connection, _cursor, statement, *_) -> None:
        seen.append(statement)

    sa.event.listen(world.ledger.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(world.ledger.engine, "before_cursor_execute", note)


def count(folder, migrated, monkeypatch, models: int, ask, **sections) -> int:
    folder.mkdir()
    world = fleet(folder, migrated, models, **sections)
    with statements(world, monkeypatch) as seen:
        ask(world)
    world.ledger.dispose()
    return len(seen)


def claim(world: World) -> None:
    world.publish(DEGRADED, "model_00", MAY)
    run = RunContext("retrain__model_00", "run1", "manual", "ann", {"reason": "because"})
    assert world.claims.claim("model_00", run)["attempt"] == "model_00.1"


def sweep(world: World) -> None:
    folders = {f"model_{number:02}" for number in range(MANY)}
    world.sweeper.sweep(Runs(), folders)


@pytest.mark.parametrize("ask", [claim, sweep, lambda world: world.intake.tick()], ids=["claim", "sweep", "tick"])
@pytest.mark.parametrize("sections", [{}, {"monitor": {"every": "7d", "window": "28d"}}], ids=["plain", "monitored"])
def test_as_many_statements_for_forty_models_as_for_three(tmp_path, migrated, monkeypatch, ask, sections) -> None:
    few, many = (
        count(tmp_path / str(models), migrated, monkeypatch, models, ask, **sections) for models in (FEW, MANY)
    )
    assert many == few
