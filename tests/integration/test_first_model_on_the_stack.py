"""The guide ends with a champion, on data that is not in the repository, with one folder added; so does another kind.

The data ends with the year 2013 and takes business time with it: this file runs last (see ``conftest``).
"""

from __future__ import annotations

import math
import random
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from guide import Done, follow, run
from running_system import System

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).resolve().parents[2]
GUIDE_SECONDS = 600
DEMAND = """
ratchet new demand --from demand.parquet --key site --key meter --decided-at at --target kilowatts --label-delay 2d \\
  --under -3 --over -1 --unit EUR --goal "Buy tomorrow's power" --team grid --email grid@example.com
ratchet validate demand
ratchet deploy
ratchet publish data demand --complete-until 2013-05-01T00:00:00 --new-rows 5760 --label-completeness 1.0
ratchet champion init demand
"""


def checkout() -> str:
    done = subprocess.run(["git", "status", "--porcelain"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout


def folders(system: System) -> set[str]:
    return {path.name for path in system.ratchet.settings.models_dir.iterdir()}


def serves(system: System, model: str) -> bool:
    """Whether the ledger has a champion of the model, and MLflow's alias names it."""
    with system.ratchet.ledger.transaction() as tx:
        champion = tx.current_champion(model)
    assert champion is not None
    return system.ratchet.registry.alias_version(model, "champion") == champion.version


def tell(capsys: pytest.CaptureFixture[str], what: str, blocks: list[Done]) -> None:
    parts = " + ".join(f"{block.seconds:.1f}" for block in blocks)
    with capsys.disabled():
        print(f"\n{what}: {sum(block.seconds for block in blocks):.1f} s ({parts})")


def test_the_guide_ends_with_a_champion_and_one_folder_more(
    running: System, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, models = checkout(), folders(running)
    blocks = follow(tmp_path)
    assert "verdict promote" in blocks[-1].said
    running.until("the alias of the guide's champion", lambda: serves(running, "departures"))
    assert sum(block.seconds for block in blocks) < GUIDE_SECONDS
    assert folders(running) - models == {"departures"}
    assert "nothing changes" in running.command("plan", "departures", "--detailed-exitcode")
    assert checkout() == before
    tell(capsys, "the guide from a file to a champion", blocks)


def write_demand(file: Path) -> None:
    """Twelve meters of four sites, four times a day for 120 days, whose power follows hour, weather and kind."""
    draw, first = random.Random(7), datetime(2013, 1, 1, tzinfo=UTC)
    rows = []
    for step in range(120 * 4):
        at = first + timedelta(hours=6 * step)
        celsius = 10 - 12 * math.cos(step / 4 / 58) + draw.gauss(0, 3)
        by_day = 1.5 if 6 <= at.hour <= 18 else 0.6
        for number in range(12):
            kind, load = (("shop", 40.0), ("office", 25.0), ("home", 8.0))[number % 3]
            power = load * by_day + max(0.0, 15 - celsius) + draw.gauss(0, 2)
            row = {"site": f"site {number % 4}", "meter": number, "at": at, "hour": at.hour, "celsius": celsius}
            rows.append(row | {"kind": kind, "kilowatts": power})
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_a_number_to_predict_from_parquet_with_two_keys_ends_with_a_champion_too(
    running: System, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_demand(tmp_path / "demand.parquet")
    done = run(DEMAND, tmp_path)
    assert "verdict promote" in done.said
    running.until("the alias of the champion", lambda: serves(running, "demand"))
    tell(capsys, "a regression from a file to a champion", [done])
