"""What a run will take, from the model's past runs. Pure.

A run takes ``fixed`` core hours and so many for each trial. Each past run says what a run of the asked trials would
have taken by its own two numbers; the forecast is the median of these, and ``upper``, the smallest of them that at
least :data:`UPPER` of them do not exceed (an order statistic: no distribution is assumed, and one run that went wrong
moves neither). Budgets go by ``upper``. From fewer than :data:`FEW_RUNS` runs a forecast says little, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MOST_RUNS = 10
FEW_RUNS = 3
UPPER = 0.8


@dataclass(frozen=True)
class RunCost:
    """What one past run took, in core hours: ``per_trial`` for each trial, ``fixed`` for all else."""

    fixed: float
    per_trial: float

    def whole(self, trials: int) -> float:
        """Core hours of a run of so many trials."""
        return self.fixed + trials * self.per_trial


@dataclass(frozen=True)
class Forecast:
    """Core hours of the next run, of ``trials`` trials, from ``runs`` past ones."""

    trials: int
    runs: int
    median: float
    upper: float

    @property
    def basis(self) -> str:
        """How much stands behind it, in words."""
        if self.runs == 1:
            return "by one run only"
        return f"by {self.runs} runs" + (" only" if self.runs < FEW_RUNS else "")


def forecast(past: Sequence[RunCost], trials: int) -> Forecast | None:
    """The forecast for a run of so many trials from at most :data:`MOST_RUNS` runs, the newest first; None of none."""
    taken = sorted(run.whole(trials) for run in past[:MOST_RUNS])
    if not taken:
        return None
    return Forecast(trials, len(taken), median(taken), taken[math.ceil(UPPER * len(taken)) - 1])


def trials_within(past: Sequence[RunCost], core_hours: float, most: int) -> int:
    """The most trials, up to ``most``, of which the forecast's ``upper`` is no more than ``core_hours``; 0: none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        told = forecast(past, middle)
        if told is not None and told.upper <= core_hours:
            low = middle
        else:
            high = middle - 1
    return low
