"""Does the gate still do, on this model's own days, what it promises? Two questions, asked of what was judged lately.

- *A known-bad model is kept out.* On every row it does what the champion or the challenger did, whichever earned less:
  by construction it never earns more than the champion, on any row.
- *Noise is promoted no more often than the gate admits.* The uplifts of recent attempts become one long series of days.
  Each attempt is centred on its own estimate, so that no uplift is left, and scaled to its own spread, so that none
  outweighs the others. A *null copy* flips the sign of whole blocks of seven calendar days, each by a coin; where the
  weeks begin is drawn anew for each copy. What days of one week have in common stays in a copy: its serial correlation,
  its tails, its sizes. The share of copies that the gate promotes must be consistent with alpha.

Randomising signs of blocks that are symmetric and independent under the null: Canay, Romano and Shaikh (2017),
*Randomization tests under an approximate symmetry assumption*, Econometrica 85(3). With the null imposed on what is
flipped: Cameron, Gelbach and Miller (2008), *Bootstrap-based improvements for inference with clustered errors*, Review
of Economics and Statistics 90(3). Why centred, why pooled, why at least sixteen weeks, and how often it cries wolf:
``docs/decisions/0032-the-gates-self-test.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from ratchet.domain import gate
from ratchet.domain.inference import Floats, group

COPIES = 1_000
BLOCK_DAYS = 7
LEAST_WEEKS = 16
MOST_WEEKS = 52
LEAST_P_VALUE = 0.001
ROWS_PER_DAY = 20
"""The verdict knows a day by its total and its rows: so many on average say the same as all of them, sooner."""
ROUNDING = 1e-12

Outcome = Literal["passed", "failed", "not_judged"]


@dataclass(frozen=True)
class JudgedRows:
    """The rows that one attempt was judged on.

    ``champion_payoff`` and ``challenger_payoff`` are ``(n_rows,)`` payoff units per decision; ``days`` is ``(n_rows,)``
    ISO dates ('YYYY-MM-DD'). Rows with a payoff that is NaN or infinite cannot be flipped: such an attempt is left out.
    """

    attempt: str
    champion_payoff: npt.ArrayLike
    challenger_payoff: npt.ArrayLike
    days: npt.ArrayLike | Sequence[Any]


@dataclass(frozen=True)
class SelfTest:
    """What came of it; ``dataclasses.asdict`` of it is JSON-able.

    ``promoted`` of ``copies`` null copies were promoted; ``p_value`` is the chance of so many or more at ``alpha``.
    Numbers are None where nothing was judged, and ``reasons`` says why.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    alpha: float
    weeks: int
    attempts: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    known_bad: str | None = None
    copies: int | None = None
    promoted: int | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class _Days:
    """One attempt by its days: ``null`` and ``bad`` as in `_Series`, ``rows`` as they are."""

    attempt: str
    null: Floats
    bad: Floats
    rows: Floats
    calendar: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Series:
    """The days of all attempts on one line, each array (n_days,).

    ``null`` and ``bad`` are means per day, the one of uplift without its estimate, the other of the known-bad model's;
    ``rows`` is in proportion to the rows of the day, `ROWS_PER_DAY` on average; ``calendar`` are ordinals of dates,
    ``attempt`` the number of the attempt that was judged on the day.
    """

    null: Floats
    bad: Floats
    rows: npt.NDArray[np.int64]
    calendar: npt.NDArray[np.int64]
    attempt: npt.NDArray[np.int64]


def self_test(recent: Sequence[JudgedRows], *, seed: int, confidence: float = 0.95, copies: int = COPIES) -> SelfTest:
    """Judge a known-bad model and null copies of ``recent``, newest attempt first, by the gate at ``confidence``.

    Takes attempts until they cover `MOST_WEEKS`. Below `LEAST_WEEKS` the outcome is ``not_judged``: flipping few blocks
    makes few different copies, and the share promoted then says more of those weeks than of the gate. Both are judged
    for superiority over a bar of nought, which is the strictest rule; the interval knows no other bar or mode. The same
    ``seed`` and rows give the same answer. Raises ``ValueError`` when an attempt's arrays are not of one length.
    """
    alpha = 1 - confidence
    used, left_out, n_days = _usable(recent)
    weeks, names = n_days // BLOCK_DAYS, tuple(rows.attempt for rows in used)
    if weeks < LEAST_WEEKS:
        reason = f"{n_days} days were judged, a self-test needs {LEAST_WEEKS * BLOCK_DAYS}: wait for more attempts"
        return SelfTest("not_judged", (reason,), alpha, weeks, names, left_out)
    series = _one_series(used)
    labels = np.repeat(np.arange(series.rows.size), series.rows)

    def decision(means: Floats) -> str:
        return gate.judge(means[labels], labels, confidence=confidence).decision

    known_bad = decision(series.bad)
    rng = np.random.default_rng(seed)
    promoted = sum(decision(series.null * _signs(series, rng)) == "promote" for _ in range(copies))
    p_value = float(stats.binom.sf(promoted - 1, copies, alpha))
    wrong = []
    if known_bad == "promote":
        wrong.append("the known-bad model was promoted: on every row it earned no more than the champion")
    if p_value <= LEAST_P_VALUE:
        wrong.append(
            f"{promoted} of {copies} null copies were promoted, {promoted / copies:.1%} where {alpha:.1%} is the "
            f"promise (p = {p_value:.2g}): these days follow each other, or scatter, in a way that the interval of the "
            "gate does not cover"
        )
    right = (
        f"the known-bad model ended with {known_bad}, and {promoted} of {copies} null copies were promoted "
        f"(p = {p_value:.2g})"
    )
    return SelfTest(
        outcome="failed" if wrong else "passed",
        reasons=tuple(wrong or [right]),
        alpha=alpha,
        weeks=weeks,
        attempts=names,
        left_out=left_out,
        known_bad=known_bad,
        copies=copies,
        promoted=promoted,
        p_value=p_value,
    )


def _usable(recent: Sequence[JudgedRows]) -> tuple[list[_Days], tuple[str, ...], int]:
    """Attempts whose uplift is finite and varies, newest first until they cover `MOST_WEEKS`; the others; the days."""
    used: list[_Days] = []
    left_out: list[str] = []
    n_days = 0
    for rows in recent:
        days = _by_day(rows)
        if days is None:
            left_out.append(rows.attempt)
            continue
        if used and n_days + days.rows.size > MOST_WEEKS * BLOCK_DAYS:
            break
        used.append(days)
        n_days += days.rows.size
    return used, tuple(left_out), n_days


def _by_day(judged: JudgedRows) -> _Days | None:
    """The attempt by its days; None when there is nothing to flip."""
    uplift = np.subtract(judged.challenger_payoff, judged.champion_payoff, dtype=np.float64)
    if uplift.ndim != 1 or len(np.asarray(judged.days)) != uplift.size:
        raise ValueError(
            f"payoffs and days of {judged.attempt} must be one-dimensional and of one length, but got {uplift.shape} "
            f"and {len(np.asarray(judged.days))}. Give the rows the attempt was judged on."
        )
    if not uplift.size or not np.isfinite(uplift).all():
        return None
    days = group(judged.days)
    mean, bad = (
        np.bincount(days.codes, weights=values, minlength=days.rows.size) / days.rows
        for values in (uplift, np.minimum(uplift, 0.0))
    )
    calendar = np.array([date.fromisoformat(str(day)).toordinal() for day in days.labels])
    null = mean - uplift.sum() / uplift.size
    spread = float(np.sqrt((null**2).mean()))
    if spread <= ROUNDING * float(np.abs(uplift).max()):
        return None
    return _Days(judged.attempt, null / spread, bad / spread, days.rows, calendar)


def _one_series(used: Sequence[_Days]) -> _Series:
    oldest_first = used[::-1]
    rows = np.concatenate([days.rows for days in oldest_first])
    return _Series(
        null=np.concatenate([days.null for days in oldest_first]),
        bad=np.concatenate([days.bad for days in oldest_first]),
        rows=np.maximum(1, np.rint(rows * (ROWS_PER_DAY / rows.mean()))).astype(np.int64),
        calendar=np.concatenate([days.calendar for days in oldest_first]),
        attempt=np.repeat(np.arange(len(used)), [days.rows.size for days in oldest_first]),
    )


def _signs(series: _Series, rng: np.random.Generator) -> Floats:
    """+1 or -1 of each day (n_days,): one coin for each attempt's days of one week."""
    week = (series.calendar + rng.integers(BLOCK_DAYS)) // BLOCK_DAYS
    changes = (np.diff(week) != 0) | (np.diff(series.attempt) != 0)
    block = np.r_[0, np.cumsum(changes)]
    signs: Floats = rng.choice([-1.0, 1.0], int(block[-1]) + 1)[block]
    return signs
