"""What a verdict on 1,000,000 rows costs beyond one pass over them, in CPU milliseconds.

The *pass* is what nobody can do without: the labels grouped to days (``ratchet.domain.inference.group``) and the uplift
summed by day (one ``np.bincount``), timed by themselves in the same run, rounds interleaved. The rest of ``judge`` is
ours: checks, interval, diagnostics. The ratio is ours by one plain NumPy sum by day over the same rows.

Then the whole verdict beside two intervals that people use for clustered rows, on the same rows with integer days: the
*honest* one resamples the sums of whole days (``scipy.stats.bootstrap``, its 9,999 resamples), the *naive* one draws
whole days and takes their rows together, 399 times. Both are percentile intervals of total uplift over rows; what their
level is, is told by ``make calibrate``.

    python -m bench.judging           # the rows go to bench/results/judging.json
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from bench.reports import machine, write
from ratchet.domain.gate import judge
from ratchet.domain.inference import group

ROWS = 1_000_000
DAYS = 28
ROUNDS = 9
GOAL_MS = 50.0
RESAMPLES, NAIVE_RESAMPLES, NAIVE_ROUNDS = 9_999, 399, 3
MOST_OF_HONEST, TIMES_NAIVE = 1.5, 100.0


def labels() -> dict[str, Any]:
    """The day of each row, in the forms that callers have; rows in no order of time."""
    day = np.random.default_rng(0).integers(0, DAYS, ROWS)
    dates = np.datetime64("2013-02-20") + day
    text = np.datetime_as_string(dates).astype("U10")
    return {
        "integers": day,
        "datetime64": dates,
        "ISO dates as text": text,
        "ISO dates as objects": text.astype(object),
    }


def spent_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    gc.collect()
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3


def measure(uplift: np.ndarray[Any, Any], days: Any) -> dict[str, list[float]]:
    """CPU milliseconds per round of the verdict, of the pass it cannot do without, and of one plain NumPy sum."""
    codes = group(days).codes
    parts: dict[str, Callable[[], object]] = {
        "judge": lambda: judge(uplift, days, target_gain=0.5),
        "pass": lambda: np.bincount(group(days).codes, weights=uplift),
        "numpy": lambda: np.bincount(codes, weights=uplift),
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, work in parts.items():
            spent[name].append(spent_ms(work))
    return spent


def honest(uplift: np.ndarray[Any, Any], days: Any) -> float:
    """The lower bound by resampling the sums of whole days."""
    codes = group(days).codes
    sums = np.bincount(codes, weights=uplift), np.bincount(codes).astype(np.float64)
    found = stats.bootstrap(
        sums,
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low)


def naive(uplift: np.ndarray[Any, Any], days: Any) -> float:
    """The lower bound by taking together the rows of the days that were drawn, each time anew."""
    random = np.random.default_rng(0)
    codes = group(days).codes
    rows = [np.flatnonzero(codes == day) for day in range(DAYS)]
    drawn = (random.integers(0, DAYS, DAYS) for _ in range(NAIVE_RESAMPLES))
    means = [uplift[np.concatenate([rows[day] for day in picked])].mean() for picked in drawn]
    return float(np.quantile(means, 0.05))


def whole(uplift: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The verdict beside both bootstraps, interleaved; fewer rounds of the naive one, which takes seconds."""
    days = labels()["integers"]
    ours, theirs, slow = [], [], []
    for turn in range(ROUNDS):
        ours.append(spent_ms(lambda: judge(uplift, days, target_gain=0.5)))
        theirs.append(spent_ms(lambda: honest(uplift, days)))
        if turn < NAIVE_ROUNDS:
            slow.append(spent_ms(lambda: naive(uplift, days)))
    mine = statistics.median(ours)
    peers = (
        ("scipy.stats.bootstrap on sums of days", statistics.median(theirs), 1 / MOST_OF_HONEST, "at most 1.5 times"),
        ("resampling rows by day", statistics.median(slow), TIMES_NAIVE, f">= {TIMES_NAIVE:g} times"),
    )
    return [
        {
            "name": f"verdict on {ROWS:,} rows",
            "peer": peer,
            "ours": round(mine, 2),
            "theirs": round(took, 2),
            "ratio": round(took / mine, 2),
            "unit": "CPU ms",
            "goal": goal,
            "met": took / mine >= least,
        }
        for peer, took, least, goal in peers
    ]


def main() -> None:
    """Measure, print a table, write the rows."""
    uplift = np.random.default_rng(1).standard_normal(ROWS)
    rows = []
    for kind, days in labels().items():
        spent = {name: statistics.median(figures) for name, figures in measure(uplift, days).items()}
        beyond = spent["judge"] - spent["pass"]
        rows.append(
            {
                "name": f"judge {ROWS:,} rows beyond one pass, days as {kind}",
                "peer": "one np.bincount of the uplift by day",
                "ours": round(beyond, 2),
                "theirs": round(spent["numpy"], 2),
                "ratio": round(spent["numpy"] / beyond, 2) if beyond > 0 else None,
                "unit": "CPU ms",
                "goal": f"<= {GOAL_MS:g}",
                "met": beyond <= GOAL_MS,
                "judge_ms": round(spent["judge"], 2),
                "pass_ms": round(spent["pass"], 2),
            }
        )
        print(
            f"{kind:<22} judge {spent['judge']:>7.1f} ms, the pass {spent['pass']:>7.1f}, beyond it {beyond:>6.1f}; "
            f"one plain sum {spent['numpy']:.1f}"
        )
    for row in whole(uplift):
        rows.append(row)
        print(f"{row['name']}: {row['ours']} ms, {row['peer']} {row['theirs']} ms, ratio {row['ratio']}")
    write("judging", rows, machine(ROUNDS, "numpy", "scipy"))


if __name__ == "__main__":
    main()
