"""Probation: after a promotion both models are scored on new days, and a test that may be looked at every day decides.

The estimand is the gate's: total uplift over total decisions (new champion minus predecessor, same rows). The statistic
is Student's t of the linearised ratio by day, adjusted for days that follow each other, and the evidence is a t-mixture
e-value of it:

- Anytime-valid, because days are looked at as they come: the e-value is the likelihood ratio of the t statistic,
  mixed over daily effect sizes from a half-normal prior. On independent normal days of one size and unknown variance it
  is a martingale that starts at one, so that it ever reaches 1 / alpha with probability alpha at most. Robbins (1970),
  *Statistical methods related to the law of the iterated logarithm*; Wang and Ramdas (2023), *Anytime-valid t-tests and
  confidence sequences for Gaussian means with unknown variance*, for the two-sided form; Howard, Ramdas, McAuliffe and
  Sekhon (2021), *Time-uniform, nonparametric, nonasymptotic confidence sequences*. It holds for every uplift on the
  null's side, because it rises with the statistic, path by path.
- Uneven days enter with their rows, by the linearised ratio; so the guarantee is asymptotic there, in the sense of
  Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), *Time-uniform central limit theory and asymptotic confidence
  sequences*.
- Correlated days: the variance is inflated by (1 + r) / (1 - r) with the lag-one correlation r of the days so far,
  shrunk towards a working value, since a few days tell little of it.

Measured levels and powers are in ``docs/decisions/0041-probation.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Outcome = Literal["watching", "revert", "confirm", "unproven"]

EFFECT = 0.5
"""Standard deviation of the half-normal prior of the daily effect size (mean over standard deviation of a day)."""
WORKING_CORRELATION = 0.35
"""Lag-one correlation of days before any is seen; the uplifts of the flights of 2013 have 0.34."""
WORKING_DAYS = 14
"""How many days the working correlation is worth."""
MOST_CORRELATION = 0.8

POWER = 0.8
LEAST_PLANNED = 7
MOST_DAYS = 365
_BLOCK_DAYS = 7
_PATHS = 4_000
_LOSS_PATHS = 20_000


@dataclass(frozen=True)
class ProbationPolicy:
    """What the spec asks of a watch.

    ``days``: whole local days it lasts; ``confidence``: one-sided, of reverting and of confirming; ``margin``: how much
    worse, in payoff units per decision, the new champion may be (the margin of a gate of non-inferiority, else 0);
    ``loss_limit``: the loss in payoff units, over all decisions, that is reverted at once, or None.
    """

    days: int
    confidence: float = 0.95
    margin: float = 0.0
    loss_limit: float | None = None
    unit: str = "USD"

    def __post_init__(self) -> None:
        if not 1 <= self.days <= MOST_DAYS:
            raise ValueError(f"probation.for must lie between 1 and {MOST_DAYS} days, but got {self.days}.")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"gate.confidence must lie between 0.5 and 1, but got {self.confidence!r}.")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"the margin must be a number not below 0, but got {self.margin!r}.")
        if self.loss_limit is not None and not (math.isfinite(self.loss_limit) and self.loss_limit > 0):
            raise ValueError(f"probation.loss_limit.amount must be a number above 0, but got {self.loss_limit!r}.")

    @classmethod
    def from_spec(cls, spec: Any) -> ProbationPolicy:
        """From any object with the attributes ``probation``, ``gate`` and ``business`` of a spec."""
        limit = spec.probation.loss_limit
        return cls(
            days=spec.probation.duration.days,
            confidence=spec.gate.confidence,
            margin=spec.gate.min_uplift if spec.gate.mode == "non_inferiority" else 0.0,
            loss_limit=None if limit is None else limit.amount,
            unit=spec.business.payoff.unit,
        )

    @property
    def alpha(self) -> float:
        """The probability of ever reverting a model that is exactly as good as the bar."""
        return 1.0 - self.confidence


@dataclass(frozen=True)
class DayUplift:
    """One scored day: ``rows`` decisions and their total uplift in payoff units; NaN where a payoff was no number."""

    day: date
    rows: int
    total: float


@dataclass(frozen=True)
class Probation:
    """What the watch has found; `dataclasses.asdict` of it is JSON-able.

    ``estimate``, ``lower`` and ``upper`` are payoff units per decision; the bounds are a confidence sequence, each
    one-sided at the policy's confidence over all days of the watch, None while no number can be given. ``worse`` and
    ``better`` are the e-values for an uplift below and above minus the margin, against it being there. ``total`` is the
    uplift over all decisions so far. ``reverts_below`` and ``confirms_above`` are what the estimate would have to be
    now; ``days_needed`` the days in all until the present estimate and spread decide, None beyond a year.
    """

    outcome: Outcome
    reason: str
    n_days: int
    n_rows: int
    total: float
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    worse: float | None = None
    better: float | None = None
    correlation: float | None = None
    reverts_below: float | None = None
    confirms_above: float | None = None
    days_needed: int | None = None


@dataclass(frozen=True)
class Statistics:
    """After each day, along the last axis: the ratio, its serially adjusted standard error, and the correlation."""

    estimate: Floats
    std_error: Floats
    correlation: Floats


@dataclass(frozen=True)
class ProbationPlan:
    """What a watch can see, from the spread of ``n_days`` earlier days.

    ``detectable_loss``: the loss per decision that is reverted with 80 % power within the declared time, in payoff
    units; None when none is. ``false_revert_rate``: how often the loss limit reverts a model that is exactly as good
    as its predecessor; None without a limit.
    """

    n_days: int
    detectable_loss: float | None
    false_revert_rate: float | None


def decide_probation(days: Sequence[DayUplift], policy: ProbationPolicy, *, complete: bool) -> Probation:
    """The state of the watch after these days, which are in order.

    Days are taken one by one and the first that decides, decides: it does not matter in which portions they came.
    ``revert``: the e-value for "worse" reaches 1 / alpha, or the total falls below minus the loss limit; ``confirm``:
    the e-value for "better" does; ``unproven``: neither, and ``complete`` says that no more days come; else
    ``watching``. A day without rows says nothing. From a day whose total is NaN or infinite on, the test says nothing
    and only the loss limit, on the days that are numbers, can still revert. Never raises on data.
    """
    days = [day for day in days if day.rows > 0]
    known = [day for day in days if math.isfinite(day.total)]
    sound = len(days)
    for place, day in enumerate(days):
        if not math.isfinite(day.total):
            sound = place
            break
    totals = np.array([day.total for day in days[:sound]])
    path = statistics(totals, np.array([float(day.rows) for day in days[:sound]]))
    evidence = [e_values(side * (path.estimate + policy.margin), path.std_error) for side in (-1, 1)]
    limit = math.inf if policy.loss_limit is None else policy.loss_limit
    running, stop, decided = 0.0, len(days), None
    for place, day in enumerate(days):
        running += day.total if math.isfinite(day.total) else 0.0
        decided = _decided(running, [float(e[place]) for e in evidence] if place < sound else [0.0, 0.0], limit, policy)
        if decided is not None:
            stop = place + 1
            break
    seen = min(stop, sound)
    found = _numbers(path, evidence, seen, policy)
    done = [day for day in days[:stop] if math.isfinite(day.total)]
    if decided is None:
        bad = [day.day.isoformat() for day in days if not math.isfinite(day.total)]
        decided = _undecided(bad, len(known), complete=complete)
    return Probation(
        outcome=decided[0],
        reason=decided[1],
        n_days=stop,
        n_rows=sum(day.rows for day in days[:stop]),
        total=float(sum(day.total for day in done)),
        **found,
    )


def _decided(total: float, evidence: list[float], limit: float, policy: ProbationPolicy) -> tuple[Outcome, str] | None:
    unit, needed = policy.unit, 1 / policy.alpha
    if total < -limit:
        return "revert", f"{-total:,.0f} {unit} are lost, more than the limit of {limit:,.0f} {unit}"
    than = "its predecessor" if not policy.margin else f"its predecessor by more than {policy.margin:g} {unit}"
    if evidence[0] >= needed:
        return "revert", f"worse than {than}: e-value {evidence[0]:.3g}, {needed:.3g} suffices"
    if evidence[1] >= needed:
        not_worse = "better than its predecessor" if not policy.margin else f"not worse than {than}"
        return "confirm", f"{not_worse}: e-value {evidence[1]:.3g}, {needed:.3g} suffices"
    return None


def _undecided(bad: list[str], known: int, *, complete: bool) -> tuple[Outcome, str]:
    if bad:
        said = f"the uplift of {', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} is not a number"
    else:
        said = f"{known} days show neither" if complete else f"{known} days so far show neither"
    return ("unproven", f"{said}: the champion stays, unproven") if complete else ("watching", said)


def _numbers(path: Statistics, evidence: list[Floats], seen: int, policy: ProbationPolicy) -> dict[str, Any]:
    if seen == 0:
        return {}
    estimate = float(path.estimate[seen - 1])
    if seen == 1:
        return {"estimate": estimate}
    std_error, t = float(path.std_error[seen - 1]), float(critical_t(policy.alpha)[seen])
    found: dict[str, Any] = {
        "estimate": estimate,
        "worse": float(evidence[0][seen - 1]),
        "better": float(evidence[1][seen - 1]),
        "correlation": float(path.correlation[seen - 1]),
        "days_needed": _days_needed(abs(estimate + policy.margin), std_error, seen, policy.alpha),
    }
    if math.isfinite(t):
        reach = t * std_error
        found |= {"lower": estimate - reach, "upper": estimate + reach}
        found |= {"reverts_below": -policy.margin - reach, "confirms_above": -policy.margin + reach}
    return found


def _days_needed(distance: float, std_error: float, seen: int, alpha: float) -> int | None:
    days = np.arange(seen, MOST_DAYS + 1)
    bound = critical_t(alpha)[days] * max(std_error, 1e-300) * np.sqrt(seen / days)
    enough = np.flatnonzero(distance >= bound)
    return int(days[enough[0]]) if enough.size else None


def statistics(totals: npt.ArrayLike, rows: npt.ArrayLike) -> Statistics:
    """The statistic after each day: ``(..., n_days)`` totals and rows (above 0) in, the same shape out.

    One pass of cumulative sums. The standard error is NaN after the first day; NaN in ``totals`` spreads to all later
    days. It is that of the linearised ratio by day, ``sum of (total - estimate * rows)^2 * n / (n - 1)`` over the
    square of all rows, times ``(1 + r) / (1 - r)``; ``r`` is the lag-one correlation of the residuals, shrunk to
    `WORKING_CORRELATION` as by `WORKING_DAYS` more days, between 0 and `MOST_CORRELATION`.
    """
    total, count = np.asarray(totals, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    n = np.arange(1, total.shape[-1] + 1)
    all_rows = count.cumsum(-1)
    estimate = total.cumsum(-1) / all_rows

    def sum_of_products(lag: int) -> Floats:
        """Cumulative sum of residual(t) * residual(t - lag), the residuals being those of each day's estimate."""
        last, first = slice(lag, None), slice(None, total.shape[-1] - lag)
        products = [
            total[..., last] * total[..., first],
            total[..., last] * count[..., first] + count[..., last] * total[..., first],
            count[..., last] * count[..., first],
        ]
        blank = np.zeros((*total.shape[:-1], min(lag, total.shape[-1])))
        own, cross, size = (np.concatenate([blank, p], axis=-1).cumsum(-1) for p in products)
        summed: Floats = own - estimate * cross + estimate**2 * size
        return summed

    spread = np.maximum(sum_of_products(0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lagged = np.where(spread > 0, sum_of_products(1) / spread, 0.0)
        shrunk = (n * lagged + WORKING_DAYS * WORKING_CORRELATION) / (n + WORKING_DAYS)
        correlation = np.clip(shrunk, 0.0, MOST_CORRELATION)
        inflation = (1 + correlation) / (1 - correlation)
        std_error = np.sqrt(spread * n / (n - 1) * inflation) / all_rows
    std_error[..., :1] = np.nan
    return Statistics(estimate, std_error, correlation)


def e_values(distance: Floats, std_error: Floats) -> Floats:
    """The e-value after each day for a ratio above the bar, ``distance`` being the estimate less the bar.

    Both are ``(..., n_days)``; 1 where the standard error is NaN. Against a half-normal mixture of effect sizes with
    scale ``tau`` the likelihood ratio of Student's t, t² = distance² / std_error², is with ``c = 1 / tau²``,
    ``s = t² n / (n - 1 + t²)`` and ``k = s / (n + c)``: ``2 F_n(sign(t) sqrt(n k / (1 - k))) sqrt(c / (n + c))
    (1 - k)^(-n / 2)``, where ``F_n`` is Student's distribution function: Wang and Ramdas' Gaussian mixture times twice
    the posterior probability of a positive effect.
    """
    n = np.arange(1, distance.shape[-1] + 1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = distance / std_error
    t = np.where(np.isnan(t), 0.0, t)  # the first day, or a distance of zero without any spread
    return np.exp(np.minimum(_log_e(t, np.broadcast_to(n, t.shape)), 700.0))


def _log_e(t: Floats, n: Floats) -> Floats:
    c = 1 / EFFECT**2
    square = np.minimum(t * t, 1e30)
    k = square * n / (n - 1 + np.maximum(square, 1e-300)) / (n + c)
    positive = stats.t.logcdf(np.sign(t) * np.sqrt(n * k / (1 - k)), n)
    value: Floats = np.log(2) + positive + 0.5 * np.log(c / (n + c)) - 0.5 * n * np.log1p(-k)
    return value


@lru_cache(maxsize=16)
def critical_t(alpha: float) -> Floats:
    """``(MOST_DAYS + 1,)``: the t statistic whose e-value is 1 / alpha after that many days, infinite while none is.

    Found by halving, all days at once; the e-value rises with the statistic.
    """
    days, wanted = np.arange(MOST_DAYS + 1, dtype=np.float64), math.log(1 / alpha)
    low, high = np.zeros(days.size), np.full(days.size, 30.0)  # in log(1 + t)
    for _ in range(60):
        middle = (low + high) / 2
        reached = np.append([False, False], _log_e(np.expm1(middle[2:]), days[2:]) >= wanted)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    table: Floats = np.where(high < 30.0, np.expm1(high), np.inf)
    table.setflags(write=False)
    return table


def plan_probation(totals: npt.ArrayLike, rows: npt.ArrayLike, policy: ProbationPolicy) -> ProbationPlan | None:
    """What the watch will see, if days vary as these did: ``(n_days,)`` total uplifts and rows, in time order.

    Simulated with a fixed seed from the centred days, in circular blocks of a week (Politis and Romano 1992), so that
    correlation and tails are the days' own. None below `LEAST_PLANNED` days or when a total is not finite.
    """
    total, count = np.asarray(totals, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    n = total.size
    if n < LEAST_PLANNED or not np.isfinite(total).all() or not (count > 0).all():
        return None
    centred = (total - total.sum() / count.sum() * count) * math.sqrt(n / (n - 1))
    draws = np.random.default_rng(0)
    blocks = -(-policy.days // _BLOCK_DAYS)

    def paths(how_many: int) -> npt.NDArray[np.intp]:
        starts = draws.integers(0, n, (how_many, blocks, 1))
        picks: npt.NDArray[np.intp] = (starts + np.arange(_BLOCK_DAYS)) % n
        return picks.reshape(how_many, -1)[:, : policy.days]

    rate = None
    if policy.loss_limit is not None:
        sums = centred[paths(_LOSS_PATHS)].cumsum(-1)
        rate = float((sums.min(-1) < -policy.loss_limit).mean())
    picks = paths(_PATHS)
    return ProbationPlan(n, _detectable(centred[picks], count[picks], policy), rate)


def _detectable(noise: Floats, rows: Floats, policy: ProbationPolicy) -> float | None:
    """The smallest loss beyond the margin that `POWER` of the paths revert, plus the margin."""
    bar = critical_t(policy.alpha)[1 : noise.shape[-1] + 1]
    if not np.isfinite(bar).any():
        return None
    # A shift by a multiple of the rows moves every estimate and leaves every standard error as it is.
    path = statistics(noise, rows)
    with np.errstate(invalid="ignore"):
        needed = np.nanmin(path.estimate + bar * path.std_error, axis=-1)
    return policy.margin + max(0.0, float(np.quantile(needed, POWER)))
