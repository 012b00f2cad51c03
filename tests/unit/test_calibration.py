"""``make calibrate`` in small: it asks the gate itself, sees a broken one, and ends with 1 and the cell's name."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def calibration(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.calibration")


def test_worlds_are_what_they_say(calibration: Any) -> None:
    rng = np.random.default_rng(0)
    for world in calibration.WORLDS.values():
        means = world.means(rng, 20_000, 10)
        assert means.mean() == pytest.approx(0, abs=0.02), world.name
        assert means.var() == pytest.approx(1, abs=0.15), world.name
        rows = np.array([world.rows(rng, 10) for _ in range(20_000)])
        assert (rows.sum(axis=1) == 80).all()
        assert rows.min() >= 1
        assert world.uneven == (rows.std() > 2)
        estimates = (means * rows).sum(axis=1) / 80
        true = math.sqrt(np.mean([world.std_error(row) ** 2 for row in rows[:500]]))
        assert estimates.std() == pytest.approx(true, rel=0.03), world.name
    lag = np.corrcoef(calibration.WORLDS["AR(1) 0.35"].means(rng, 20_000, 2).T)[0, 1]
    assert lag == pytest.approx(0.35, abs=0.03)


def test_rows_scatter_about_their_day_and_sum_to_it(calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    ours = calibration.gate.judge

    def judge(uplift: Any, clusters: Any, **rule: Any) -> Any:
        seen.append((uplift, clusters))
        return ours(uplift, clusters, **rule)

    monkeypatch.setattr(calibration.gate, "judge", judge)
    days = np.arange(10.0)
    world = replace(calibration.WORLDS["uneven"], means=lambda _, attempts, __: np.tile(days, (attempts, 1)))
    calibration.simulate(world, 10, 3, np.random.default_rng(0), gain=0.0, ordered=True, controls=False)
    assert len(seen) == 3
    for uplift, clusters in seen:
        assert np.bincount(clusters, uplift) / np.bincount(clusters) == pytest.approx(days, abs=1e-9)
        assert (uplift - days[clusters]).std() > 0.5


def test_a_gate_that_promotes_by_the_estimate_alone_is_named(calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = calibration.gate.judge

    def lenient(*rows: Any, **rule: Any) -> Any:
        verdict = ours(*rows, **rule)
        return replace(verdict, decision="promote" if verdict.estimate > 0 else "keep_champion")

    cell = calibration.measure(calibration.WORLDS["normal"], 28, 400, 1, ordered=True)
    assert cell.exceeded() == []
    monkeypatch.setattr(calibration.gate, "judge", lenient)
    broken = calibration.measure(calibration.WORLDS["normal"], 28, 400, 1, ordered=True)
    assert broken.exceeded()[0].startswith("EWC, 28 days, normal: promotes 0.")


def test_a_gate_that_promotes_nothing_fails_by_its_power(calibration: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = calibration.gate.judge
    monkeypatch.setattr(
        calibration.gate, "judge", lambda *rows, **rule: replace(ours(*rows, **rule), decision="keep_champion")
    )
    told = calibration.measure(calibration.WORLDS["AR(1) 0.35"], 28, 400, 1, ordered=True).exceeded()
    assert len(told) == 1
    assert "below the day-t oracle" in told[0]


def test_controls_fail_where_they_are_known_to(calibration: Any) -> None:
    cells = [
        calibration.measure(calibration.WORLDS[world], days, 400, 1, ordered=True)
        for world, days in (("normal", 10), ("AR(1) 0.35", 28))
    ]
    seen = calibration.controls_seen(cells)
    assert set(seen) == {"row-wise bootstrap", "z", "percentile cluster bootstrap", "day t-test"}
    assert calibration.failures(cells, seen) == []
    tame = {name: found | {"share": 0.05} for name, found in seen.items()}
    assert len(calibration.failures(cells, tame)) == 4


def test_two_challengers_that_share_alpha_keep_the_level_and_pay_in_power(
    calibration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = calibration.measure_pair(calibration.WORLDS["normal"], 28, 0.0, 400, 1)
    assert pair.exceeded() == []
    assert pair.power.share < pair.power_alone.share
    monkeypatch.setattr(calibration, "share_of_each", lambda _: 1.0)
    greedy = calibration.measure_pair(calibration.WORLDS["normal"], 28, 0.0, 400, 1)
    assert greedy.exceeded()[0].startswith("two challengers correlated 0, 28 days, normal: promotes one in 0.")
    assert calibration.failures([], {}, [pair, greedy]) == greedy.exceeded()


def test_the_report_is_written_and_the_exit_code_is_the_verdict(
    calibration: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = calibration.measure(calibration.WORLDS["AR(1) 0.35"], 14, 200, 1, ordered=True)
    bad = replace(cell, level=calibration.Share(0.2, 0.03))
    pair = calibration.measure_pair(calibration.WORLDS["normal"], 14, 0.9, 20, 1)
    pair = replace(pair, level=calibration.Share(0.04, 0.01))
    for cells, code in (([replace(cell, level=calibration.Share(0.06, 0.01))], 0), ([bad], 1)):
        monkeypatch.setattr(calibration, "measure_all", lambda *_, cells=cells: cells)
        monkeypatch.setattr(calibration, "measure_pairs", lambda *_: [pair])
        assert calibration.main(["--output", str(tmp_path / "c.json"), "--attempts", "200"]) == code
        report = json.loads((tmp_path / "c.json").read_text())
        assert report["cells"][0]["level"]["share"] == cells[0].level.share
        assert report["cells"][0]["level"]["mc_error"] > 0
        assert report["pairs"][0]["power_alone"]["share"] == pair.power_alone.share
        assert len(report["failures"]) == code
    assert "exceeded: EWC, 14 days, AR(1) 0.35: promotes 0.2000 without uplift" in capsys.readouterr().err
