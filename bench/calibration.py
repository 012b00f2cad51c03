"""What the gate promises, measured: how often it promotes nothing, and how much of a gain it misses.

Every cell simulates attempts in one world and lets the public ``ratchet.domain.gate.judge`` give each its verdict, with
all its conditions. *Level* is the share promoted when there is no uplift. *Power* is the share promoted when the uplift
is two true standard errors of the estimate; beside it stands the power of the same statistic with its exact critical
value, which nobody has outside a simulation: the 95 % quantile in the same world, from five further draws for each
attempt, and from both tails where the world is symmetric. Under correlated days the yardstick is the day t-test with
its exact critical value, the oracle. Every figure has its Monte Carlo standard error.

Worlds are of day means with variance one; each day has rows that scatter about its mean and sum to it, so that the day
means are the world's and rows of one day still move together:

- ``normal``, ``t4``: independent days, about eight rows each, exactly eight here;
- ``uneven``: normal days, rows in proportion to a lognormal (sigma 0.6) drawn anew each time, one at least;
- ``AR(1) 0.35``: normal days, stationary, correlated 0.35 with the day before;
- ``lognormal left``: many small gains, rare large losses (the negative of a lognormal, sigma 1). The known limit of a
  gate that has few days: printed, not judged.

``EWC`` judges days in their order; ``CR3`` (``ordered=False``) stands beside it where the order says nothing.
*Pairs* are attempts that judge two challengers, each with half of alpha (``gate.also_judge``): the share in which
either is promoted without uplift, and the power of one with half of alpha beside that of the same one with all of it.
Last come the real days of the flights (``bench/flight_days.py``): the share promoted on null copies of them.

*Controls* are methods that are known to fail, on the same attempts. Each must exceed the limit in some cell, or this
simulation could not tell a good gate from a bad one.

    python -m bench.calibration                    # make calibrate; writes .ratchet/calibration.json
    python -m bench.calibration --attempts 500     # a small one, to see that it works

Exits with 1 and the cell's name when a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from bench import flight_days
from ratchet.domain import gate
from ratchet.domain.candidates import RECALIBRATED, TUNED, choose, share_of_each
from ratchet.domain.inference import ratio_inference
from ratchet.domain.looks import spent_confidence

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

OUTPUT = Path(".ratchet/calibration.json")
ATTEMPTS = 10_000
SEED = 20130101
CLUSTERS = (10, 14, 28, 60)
CONFIDENCE = 0.95
TRUE_STANDARD_ERRORS = 2.0
ROWS_PER_CLUSTER = 8
CORRELATION = 0.35
DRAWS_PER_ATTEMPT = 5
RESAMPLES = 399
BATCH = 250
PAIRED = [
    (world, clusters, correlation)
    for world in ("normal", "AR(1) 0.35")
    for clusters in (14, 28, 60)
    for correlation in (0.0, 0.9)
]


@dataclass(frozen=True)
class World:
    """``means(rng, attempts, clusters)`` draws cluster means (attempts, clusters) of variance one and mean nought.

    ``limit`` is the most that may be promoted without uplift, ``shortfall`` how far the power may lie below its
    yardstick; None where nothing is promised.
    """

    name: str
    means: Callable[[np.random.Generator, int, int], Floats]
    limit: float | None = 0.06
    shortfall: float | None = 0.05
    uneven: bool = False
    correlation: float = 0.0
    symmetric: bool = True

    def rows(self, rng: np.random.Generator, clusters: int) -> Counts:
        """Rows of each cluster (clusters,): the same total always."""
        if not self.uneven:
            return np.full(clusters, ROWS_PER_CLUSTER)
        share = np.exp(0.6 * rng.standard_normal(clusters))
        return 1 + rng.multinomial((ROWS_PER_CLUSTER - 1) * clusters, share / share.sum())

    def std_error(self, rows: Counts) -> float:
        """The true standard error of total uplift over total rows, given the rows of each cluster."""
        weight = rows / rows.sum()
        lags = np.abs(np.subtract.outer(np.arange(rows.size), np.arange(rows.size)))
        return math.sqrt(float(weight @ (self.correlation**lags) @ weight))


def _correlated(rng: np.random.Generator, attempts: int, clusters: int) -> Floats:
    days = rng.standard_normal((attempts, clusters))
    for day in range(1, clusters):
        days[:, day] = CORRELATION * days[:, day - 1] + math.sqrt(1 - CORRELATION**2) * days[:, day]
    return days


def _left_skewed(rng: np.random.Generator, attempts: int, clusters: int) -> Floats:
    losses = np.exp(rng.standard_normal((attempts, clusters)))
    return (math.exp(0.5) - losses) / math.sqrt((math.e - 1) * math.e)


WORLDS = {
    world.name: world
    for world in (
        World("normal", lambda rng, attempts, clusters: rng.standard_normal((attempts, clusters))),
        World("t4", lambda rng, attempts, clusters: rng.standard_t(4, (attempts, clusters)) / math.sqrt(2)),
        World("uneven", lambda rng, attempts, clusters: rng.standard_normal((attempts, clusters)), uneven=True),
        World("AR(1) 0.35", _correlated, limit=0.07, shortfall=0.12, correlation=CORRELATION),
        World("lognormal left", _left_skewed, limit=None, shortfall=None, symmetric=False),
    )
}


@dataclass(frozen=True)
class Share:
    """A simulated share and its Monte Carlo standard error."""

    share: float
    mc_error: float

    @classmethod
    def of(cls, hits: npt.NDArray[np.bool_]) -> Share:
        share = float(hits.mean())
        return cls(share, math.sqrt(share * (1 - share) / hits.size))


@dataclass(frozen=True)
class Cell:
    """What was measured in one world with one number of clusters by one method; ``shortfall`` is yardstick - power."""

    world: str
    clusters: int
    method: str
    level: Share
    limit: float | None
    power: Share
    yardstick: str
    yardstick_power: float
    shortfall: Share
    most_shortfall: float | None
    controls: dict[str, Share]

    @property
    def name(self) -> str:
        return f"{self.method}, {self.clusters} days, {self.world}"

    def exceeded(self) -> list[str]:
        """The limits this cell breaks, in words."""
        broken = []
        if self.limit is not None and self.level.share > self.limit:
            broken.append(f"{self.name}: promotes {self.level.share:.4f} without uplift, more than {self.limit:g}")
        if self.most_shortfall is not None and self.shortfall.share > self.most_shortfall:
            broken.append(
                f"{self.name}: power {self.power.share:.4f} lies {self.shortfall.share:.4f} below the "
                f"{self.yardstick}, more than {self.most_shortfall:g}"
            )
        return broken


@dataclass(frozen=True)
class Pair:
    """Two challengers of one attempt, whose uplifts correlate so, day by day; powers are of one with a gain."""

    world: str
    clusters: int
    correlation: float
    level: Share
    limit: float
    power: Share
    power_alone: Share

    def exceeded(self) -> list[str]:
        """The limit, if this pair breaks it, in words."""
        if self.level.share <= self.limit:
            return []
        name = f"two challengers correlated {self.correlation:g}, {self.clusters} days, {self.world}"
        return [f"{name}: promotes one in {self.level.share:.4f} without uplift, more than {self.limit:g}"]


@dataclass(frozen=True)
class Judged:
    """Of each attempt (attempts,): promoted or not, the gate's t statistic, the day t statistic; and the controls."""

    promoted: npt.NDArray[np.bool_]
    statistic: Floats
    day_t: Floats
    controls: dict[str, npt.NDArray[np.bool_]]


def simulate(
    world: World,
    clusters: int,
    attempts: int,
    rng: np.random.Generator,
    *,
    gain: float,
    ordered: bool,
    controls: bool,
) -> Judged:
    """Judge ``attempts`` attempts whose true uplift is ``gain`` true standard errors."""
    promoted = np.zeros(attempts, dtype=np.bool_)
    statistic, day_t = np.zeros(attempts), np.zeros(attempts)
    negative: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for start in range(0, attempts, BATCH):
        batch = range(start, min(start + BATCH, attempts))
        means = world.means(rng, len(batch), clusters)
        rows = np.array([world.rows(rng, clusters) for _ in batch])
        values = np.zeros((len(batch), ROWS_PER_CLUSTER * clusters))
        for i, attempt in enumerate(batch):
            labels = np.repeat(np.arange(clusters), rows[i])
            scatter = rng.standard_normal(labels.size)
            scatter -= (np.bincount(labels, scatter) / rows[i])[labels]
            means[i] += gain * world.std_error(rows[i])
            values[i] = means[i][labels] + scatter
            verdict = gate.judge(values[i], labels, confidence=CONFIDENCE, ordered=ordered)
            promoted[attempt] = verdict.decision == "promote"
            statistic[attempt] = (verdict.estimate or 0.0) / verdict.diagnostics["std_error"]
        day_t[batch.start : batch.stop] = _day_t(means)
        if controls:
            for name, hits in _controls(values, means, rows, rng).items():
                negative.setdefault(name, []).append(hits)
    return Judged(promoted, statistic, day_t, {name: np.concatenate(hits) for name, hits in negative.items()})


def _controls(
    values: Floats, means: Floats, rows: Counts, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.bool_]]:
    """What each method that is known to fail would promote; (batch,) each. Resamples are shared within the batch."""
    clusters, n_rows = means.shape[1], values.shape[1]
    totals, alpha = means * rows, 1 - CONFIDENCE
    by_row = rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), RESAMPLES) @ values.T / n_rows
    by_day = rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES)
    resampled = (by_day @ totals.T) / (by_day @ rows.T)
    rank = round(alpha * (RESAMPLES + 1)) - 1
    estimate = totals.sum(axis=1) / n_rows
    residual = totals - estimate[:, None] * rows
    by_cluster = np.sqrt((residual**2).sum(axis=1) * clusters / (clusters - 1)) / n_rows
    return {
        "row-wise bootstrap": np.partition(by_row, rank, axis=0)[rank] > 0,
        "z": estimate > special.ndtri(CONFIDENCE) * by_cluster,
        "percentile cluster bootstrap": np.partition(resampled, rank, axis=0)[rank] > 0,
        "day t-test": _day_t(means) > special.stdtrit(clusters - 1, CONFIDENCE),
    }


def _day_t(means: Floats) -> Floats:
    """The t statistic of the mean of the days: (attempts,)."""
    statistic: Floats = means.mean(axis=1) / (means.std(axis=1, ddof=1) / math.sqrt(means.shape[1]))
    return statistic


def null_statistics(
    world: World, clusters: int, draws: int, rng: np.random.Generator, *, ordered: bool, oracle: bool
) -> Floats:
    """The yardstick's statistic without uplift, in many draws: the day t of the oracle, or that of the gate."""
    means = world.means(rng, draws, clusters)
    if oracle:
        statistic = _day_t(means)
    else:
        rows = (world.rows(rng, clusters) for _ in range(draws))
        found = (ratio_inference(mean * count, count, ordered=ordered) for mean, count in zip(means, rows, strict=True))
        statistic = np.array([one.estimate / one.std_error for one in found])
    return np.r_[statistic, -statistic] if world.symmetric else statistic


def measure(world: World, clusters: int, attempts: int, seed: int, *, ordered: bool) -> Cell:
    """One cell; the same for the same seed, whatever else is measured."""
    place = [seed, list(WORLDS).index(world.name), clusters, int(ordered)]
    nothing, gaining, drawing = (np.random.default_rng([*place, part]) for part in range(3))
    null = simulate(world, clusters, attempts, nothing, gain=0.0, ordered=ordered, controls=ordered)
    gain = simulate(world, clusters, attempts, gaining, gain=TRUE_STANDARD_ERRORS, ordered=ordered, controls=False)
    oracle = ordered and world.correlation > 0
    yardstick = "day-t oracle" if oracle else "exact critical value"
    draws = DRAWS_PER_ATTEMPT * attempts
    without = null_statistics(world, clusters, draws, drawing, ordered=ordered, oracle=oracle)
    with_gain = gain.day_t if oracle else gain.statistic
    seen = with_gain > np.quantile(without, CONFIDENCE)
    difference = seen.astype(np.float64) - gain.promoted
    # The critical value is simulated too: what its own error does to the power, and the error of the difference.
    off = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / without.size)
    near = np.quantile(without, [CONFIDENCE - off, CONFIDENCE + off])
    slack = float((with_gain > near[0]).mean() - (with_gain > near[1]).mean()) / 2
    return Cell(
        world=world.name,
        clusters=clusters,
        method="EWC" if ordered else "CR3",
        level=Share.of(null.promoted),
        limit=world.limit,
        power=Share.of(gain.promoted),
        yardstick=yardstick,
        yardstick_power=float(seen.mean()),
        shortfall=Share(float(difference.mean()), math.hypot(float(difference.std()) / math.sqrt(attempts), slack)),
        most_shortfall=world.shortfall,
        controls={name: Share.of(hits) for name, hits in null.controls.items()},
    )


def measure_pair(world: World, clusters: int, correlation: float, attempts: int, seed: int) -> Pair:
    """Two challengers on the same days, judged and chosen from as an attempt does; a day is one row here."""
    rng = np.random.default_rng([seed, list(WORLDS).index(world.name), clusters, round(100 * correlation), 2])
    days, sharing = np.arange(clusters), spent_confidence(CONFIDENCE, share_of_each(2))
    first, own = (world.means(rng, attempts, clusters) for _ in range(2))
    second = correlation * first + math.sqrt(1 - correlation**2) * own
    gaining = first + TRUE_STANDARD_ERRORS * world.std_error(np.ones(clusters, dtype=np.int64))

    def passes(values: Floats, confidence: float) -> bool:
        return gate.judge(values, days, confidence=confidence).decision == "promote"

    either = [
        choose({TUNED: gate.judge(a, days, confidence=sharing), RECALIBRATED: gate.judge(b, days, confidence=sharing)})
        for a, b in zip(first, second, strict=True)
    ]
    return Pair(
        world=world.name,
        clusters=clusters,
        correlation=correlation,
        level=Share.of(np.array([choice.verdict.decision == "promote" for choice in either])),
        limit=world.limit or 1.0,
        power=Share.of(np.array([passes(values, sharing) for values in gaining])),
        power_alone=Share.of(np.array([passes(values, CONFIDENCE) for values in gaining])),
    )


def measure_pairs(attempts: int, seed: int, workers: int) -> list[Pair]:
    """Every pair, in the order of ``PAIRED``, several at a time."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_measure_pair, *pair, attempts, seed) for pair in PAIRED]
        return [done.result() for done in running]


def _measure_pair(world: str, clusters: int, correlation: float, attempts: int, seed: int) -> Pair:
    """`measure_pair` by names that another process understands."""
    return measure_pair(WORLDS[world], clusters, correlation, attempts, seed)


def measure_all(attempts: int, seed: int, workers: int) -> list[Cell]:
    """Every cell, each in a process of its own, several at a time; told on stderr as they come."""
    wanted = [
        (world, clusters, ordered)
        for ordered in (True, False)
        for clusters in sorted(CLUSTERS, reverse=True)
        for world in WORLDS.values()
        if ordered or not world.correlation
    ]
    cells: list[Cell] = []
    began = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [
            pool.submit(_measure, world.name, clusters, attempts, seed, ordered) for world, clusters, ordered in wanted
        ]
        for done in as_completed(running):
            cells.append(done.result())
            cell = cells[-1]
            print(
                f"{len(cells):>3} of {len(wanted)} cells, {time.monotonic() - began:.0f} s: {cell.name}: "
                f"level {cell.level.share:.4f}, power {cell.power.share:.3f}",
                file=sys.stderr,
                flush=True,
            )
    return sorted(cells, key=lambda cell: (cell.method != "EWC", list(WORLDS).index(cell.world), cell.clusters))


def _measure(world: str, clusters: int, attempts: int, seed: int, ordered: bool) -> Cell:
    """`measure` by names that another process understands."""
    return measure(WORLDS[world], clusters, attempts, seed, ordered=ordered)


def controls_seen(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Of each control the cell that shows its failure best; the day t-test is asked for under correlation only."""
    worst: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.limit is None:
            continue
        for name, found in cell.controls.items():
            if name == "day t-test" and not WORLDS[cell.world].correlation:
                continue
            over = found.share - cell.limit
            if name not in worst or over > worst[name]["share"] - worst[name]["limit"]:
                worst[name] = {"cell": f"{cell.clusters} days, {cell.world}", "limit": cell.limit, **asdict(found)}
    return worst


def failures(cells: Sequence[Cell], controls: dict[str, dict[str, Any]], pairs: Sequence[Pair] = ()) -> list[str]:
    """What is not as promised, in words; empty when all is well."""
    passed = [
        f"control {name}: promotes at most {found['share']:.4f} without uplift ({found['cell']}): it should exceed "
        f"{found['limit']:g}, or this simulation cannot tell a bad gate"
        for name, found in controls.items()
        if found["share"] <= found["limit"]
    ]
    of_cells = [line for cell in cells for line in cell.exceeded()]
    return of_cells + [line for pair in pairs for line in pair.exceeded()] + passed


def table(cells: Sequence[Cell]) -> str:
    """The cells for a reader."""
    head = (
        f"{'method':<7}{'world':<16}{'days':>5}{'level':>9}{'±':>7}{'limit':>7}{'power':>9}{'yardstick':>11}"
        f"{'short':>8}{'±':>7}{'most':>7}   controls: row-wise, z, cluster bootstrap, day t"
    )
    lines = [head]
    for cell in cells:
        limit = "known" if cell.limit is None else f"{cell.limit:g}"
        most = "" if cell.most_shortfall is None else f"{cell.most_shortfall:g}"
        lines.append(
            f"{cell.method:<7}{cell.world:<16}{cell.clusters:>5}{cell.level.share:>9.4f}{cell.level.mc_error:>7.4f}"
            f"{limit:>7}{cell.power.share:>9.3f}{cell.yardstick_power:>11.3f}{cell.shortfall.share:>8.3f}"
            f"{cell.shortfall.mc_error:>7.3f}{most:>7}   "
            + "  ".join(f"{found.share:.3f}" for found in cell.controls.values())
        )
    return "\n".join(lines)


def table_of_pairs(pairs: Sequence[Pair]) -> str:
    """The pairs for a reader."""
    lines = [f"two challengers  {'days':>5}{'correlated':>12}{'level':>9}{'±':>7}{'limit':>7}{'power':>9}{'alone':>9}"]
    lines += [
        f"{pair.world:<17}{pair.clusters:>5}{pair.correlation:>12g}{pair.level.share:>9.4f}{pair.level.mc_error:>7.4f}"
        f"{pair.limit:>7g}{pair.power.share:>9.3f}{pair.power_alone.share:>9.3f}"
        for pair in pairs
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.calibration", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="simulated attempts per cell")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at once")
    asked = parser.parse_args(arguments)
    cells = measure_all(asked.attempts, asked.seed, asked.workers)
    pairs = measure_pairs(asked.attempts, asked.seed, asked.workers)
    controls = controls_seen(cells)
    flights = flight_days.measure(*flight_days.read(), seed=asked.seed, confidence=CONFIDENCE)
    wrong = failures(cells, controls, pairs) + flight_days.failures(flights)
    print(table(cells))
    print(table_of_pairs(pairs))
    for name, found in controls.items():
        print(f"control {name}: {found['share']:.3f} without uplift ({found['cell']}), the limit is {found['limit']:g}")
    print("\n".join(flight_days.told(flights)))
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("numpy", "scipy")},
        "attempts": asked.attempts,
        "seed": asked.seed,
        "confidence": CONFIDENCE,
        "true_standard_errors": TRUE_STANDARD_ERRORS,
        "cells": [asdict(cell) for cell in cells],
        "pairs": [asdict(pair) for pair in pairs],
        "controls": controls,
        "flights": flights,
        "failures": wrong,
    }
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {asked.output}")
    for line in wrong:
        print(f"exceeded: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
