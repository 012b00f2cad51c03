"""What a study tries first, on how many days, and when more of it cannot pay. Touches nothing.

A study's value (a loss on days later than those fitted on) is minimised; payoffs are maximised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, Protocol

import numpy as np

PREVIOUS = 3
"""So many of the last studies' best parameter sets a retune tries first, one full fit each (PERFORMANCE.md, B)."""

EXPLORED = 4
"""Fresh proposals that a retune looks at on fewer rows, beside the best known, so that drift cannot lock it in."""

PROPOSED, KEPT, MOST_STEPS = 16, 3, 6
"""A cold start's proposals, how many of them are kept, and a retune's steps to larger and smaller models, at most."""

FEWEST_ROWS, MOST_STRIDE = 8_000, 9
"""Fewer rows are so many at least, of every ninth day at the rarest."""

FEWEST_DAYS = 14
"""On fewer days nothing is learned of how days differ."""

LEAD = 0.002
"""A loss so much less, as a share of it, is less by more than another seed would make it."""

LEAST_KNOWN = 8
"""Trials with a payoff before the gain still possible is estimated at all."""

EDGE = 0.02
"""A winner so near a bound, as a share of the range on its own scale, sits on the edge."""

GROWS: Mapping[str, int] = {
    "n_estimators": 1,
    "max_iter": 1,
    "max_depth": 1,
    "max_leaves": 1,
    "max_leaf_nodes": 1,
    "min_child_weight": -1,
    "min_samples_leaf": -1,
    "C": 1,
}
"""Parameters by which a model can hold more: which way each grows it. More rows carry larger models."""

STEP = 1.5
"""By what a growing parameter is multiplied or divided; a depth goes one further."""

NATURAL: Mapping[str, tuple[float, float]] = {
    "max_depth": (1, math.inf),
    "subsample": (0, 1),
    "colsample_bytree": (0, 1),
    "colsample_bylevel": (0, 1),
    "colsample_bynode": (0, 1),
    "max_features": (0, 1),
    "min_child_weight": (0, math.inf),
    "min_samples_leaf": (1, math.inf),
    "gamma": (0, math.inf),
    "reg_alpha": (0, math.inf),
    "reg_lambda": (0, math.inf),
    "l2_regularization": (0, math.inf),
}
"""Where a parameter ends by its nature: no space can be widened beyond."""

Params = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plan:
    """How many trials each part may have.

    In order: the best of before on all rows, proposals on fewer, what is kept of these on all rows, steps from the best
    on all rows.
    """

    previous: int
    proposed: int
    kept: int
    steps: int

    @classmethod
    def of(cls, trials: int, previous: int) -> Plan:
        """Of at most ``trials`` in all, where so many earlier parameter sets are known; none is a cold start.

        A retune fits the best of before first, then a larger model, then it explores, and then it goes on in steps; a
        cold start has a third of its trials, and four at most, for what is kept.
        """
        if previous:
            known = min(previous, trials)
            kept = min(2, trials - known)
            proposed = min(EXPLORED + 1, trials - known - kept)
            return cls(known, proposed, kept, min(MOST_STEPS, trials - known - kept - proposed))
        kept = min(KEPT + 1, max(1, trials // 3))
        return cls(0, min(PROPOSED, trials - kept), kept, 0)


class Range(Protocol):
    """One parameter's range or choices; a spec's dimension is one."""

    @property
    def kind(self) -> Literal["int", "float", "categorical"]: ...  # noqa: D102

    @property
    def low(self) -> float: ...  # noqa: D102

    @property
    def high(self) -> float: ...  # noqa: D102

    @property
    def log(self) -> bool: ...  # noqa: D102

    @property
    def choices(self) -> tuple[bool | int | float | str, ...]: ...  # noqa: D102


class Trial(Protocol):
    """One trial that has ended."""

    @property
    def number(self) -> int: ...  # noqa: D102

    @property
    def params(self) -> Params: ...  # noqa: D102

    @property
    def value(self) -> float: ...  # noqa: D102

    @property
    def attributes(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def state(self) -> str: ...  # noqa: D102


def stride_of(rows: int) -> int:
    """Every how many days a look at fewer rows takes one; 1 is all of them. Never a week, or one weekday would do."""
    stride = max(1, min(MOST_STRIDE, rows // FEWEST_ROWS))
    return stride - 1 if stride == 7 else stride


@dataclass(frozen=True)
class Earlier:
    """Whole days of A, ascending: on which proposals are fitted, and the later ones that judge them."""

    fit: tuple[str, ...]
    judge: tuple[str, ...]


def earlier_days(rows_by_day: Mapping[str, int], judging: int, gap: int) -> Earlier | None:
    """A hold-out within A: its last ``judging`` days judge what the days before them, less ``gap``, are fitted on.

    Proposals that are picked there have not been picked by B, and so B judges those that survive afresh. Of many rows
    every ``stride``-th day is fitted on, the newest among them. None where fewer than :data:`FEWEST_DAYS` would be.
    """
    last = date.fromisoformat(max(rows_by_day))
    first_judged, end = (last - timedelta(days=back) for back in (judging - 1, judging - 1 + gap))
    days = sorted(day for day in rows_by_day if day < end.isoformat())
    stride = stride_of(sum(rows_by_day[day] for day in days))
    fit = tuple(days[::-1][::stride][::-1])
    if len(fit) < FEWEST_DAYS:
        return None
    return Earlier(fit, tuple(sorted(day for day in rows_by_day if day >= first_judged.isoformat())))


def within(dimension: Range, value: Any) -> bool:
    """Whether a search space holds the value."""
    if dimension.kind == "categorical":
        return value in dimension.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = dimension.kind != "int" or float(value).is_integer()
    return whole and dimension.low <= value <= dimension.high


def previous_best(champion: Params | None, studies: Sequence[Sequence[Trial]], most: int = PREVIOUS) -> list[Params]:
    """The champion's parameters, then in turn the best, second best … of each earlier study; each set once.

    Losses of different studies are of different days and do not compare, so each study is ranked by itself.
    """
    ranked = [[trial.params for trial in _best_first(trials)] for trials in studies]
    places = range(max(map(len, ranked), default=0))
    in_turn = [each[place] for place in places for each in ranked if place < len(each)]
    return distinct([*([champion] if champion else []), *in_turn])[:most]


def kept_of(
    trials: Sequence[Trial], space: Mapping[str, Range], most: int, first: Params, *, warm: bool
) -> list[Params]:
    """What is fitted on all rows after a look at fewer; ``first`` is what started it.

    Cold: the best there, the best grown by a step, and the next best. Warm, where ``first`` has been fitted on all rows
    already: ``first`` grown by a step, and the best if that is another. Fewer rows promote small models, so they never
    judge capacity alone: a larger one than won there, or has won before, is always tried.
    """
    best = [trial.params for trial in _best_first(trials)]
    if warm:
        return distinct([grown(first, space), *(params for params in best[:1] if dict(params) != dict(first))])[:most]
    best = best or [first]
    return distinct([best[0], grown(best[0], space), *best[1:]])[:most]


def next_step(trials: Sequence[Trial], space: Mapping[str, Range]) -> Params | None:
    """The best grown by a step, or else shrunk by one, if that has not been tried; None where both have been."""
    best = _best_first(trials)
    tried = [dict(trial.params) for trial in trials]
    moves = [grown(best[0].params, space), grown(best[0].params, space, by=-1)] if best else []
    return next((params for params in moves if dict(params) not in tried), None)


def newcomer_leads(trials: Sequence[Trial], known: Sequence[Params]) -> bool:
    """Whether parameters that were not ``known`` before have clearly the least loss: the past is no guide then."""
    sides: dict[bool, list[float]] = {True: [math.inf], False: [math.inf]}
    for trial in _best_first(trials):
        sides[dict(trial.params) in [dict(params) for params in known]].append(trial.value)
    best, newest = min(sides[True]), min(sides[False])
    return newest < best - LEAD * abs(best) if math.isfinite(best) else math.isfinite(newest)


def grown(params: Params, space: Mapping[str, Range], by: int = 1) -> Params:
    """The same parameters with each that :data:`GROWS` names a step larger (``by`` -1: smaller), within the space."""
    return {name: _grown(name, value, space.get(name), by) for name, value in params.items()}


def _grown(name: str, value: Any, dimension: Range | None, by: int) -> Any:
    if dimension is None or name not in GROWS or dimension.kind == "categorical":
        return value
    way = GROWS[name] * by
    moved = value + way if name == "max_depth" else value * STEP**way
    moved = min(max(moved, dimension.low), dimension.high)
    return round(moved) if dimension.kind == "int" else float(moved)


def lags(curve: Curve, others: Sequence[Curve]) -> bool:
    """Whether a trial lies behind the median of the others at the same share of its rounds; false of fewer than three.

    The median rule of Vizier (Golovin et al., 2017), by share: at the same *round* it drops those that learn slowly
    because they have many rounds to learn in.
    """
    if not curve:
        return False
    share, loss = curve[-1]
    there = [value for other in others for at, value in other if math.isclose(at, share, abs_tol=0.02)]
    return len(there) >= 3 and loss > float(np.median(there))


def possible_gain(payoffs: Sequence[float], remaining: int, *, confidence: float = 0.9) -> float:
    """How much payoff ``remaining`` more trials can be expected to add to the best of those known; infinity of few.

    Peaks over a threshold (Pickands, 1975; Coles, *An Introduction to Statistical Modeling of Extreme Values*, 2001,
    ch. 4): the best quarter of the trials (k of n) exceed the next one by amounts that are taken as exponential, the
    heaviest tail that a bounded objective can have, with the scale at its upper ``confidence`` bound (a sum of k
    exponentials is a gamma). A draw then beats the best with probability q = k/n · exp(-(best - threshold) / scale),
    and the largest of N that do beats it by scale · (1 + 1/2 + … + 1/N) (Rényi, 1953). Over the binomial N of m draws
    that is scale · Σ (1 - (1-q)^j) / j, j = 1 … m, on average: the expected improvement. Draws are taken as alike and
    independent. A sampler that learns does better, which the bound on the scale is to make up for: of independent draws
    it is some four (exponential) to seventeen times (uniform) what they gain on average.

    Args:
        payoffs: per decision, of each finished trial; NaN of a trial that has none, which is left out.
        remaining: trials that could still be run.
        confidence: of the bound on the scale, in (0, 1).

    """
    from scipy.special import gammaincinv  # noqa: PLC0415 - seconds that a reader of the spec need not wait

    known = np.sort(np.array([payoff for payoff in payoffs if math.isfinite(payoff)]))[::-1]
    if len(known) < LEAST_KNOWN:
        return math.inf
    most = max(3, len(known) // 4)
    excess = known[:most] - known[most]
    if excess[0] <= 0:
        return 0.0
    scale: float = excess.sum() / gammaincinv(most, 1 - confidence)
    beats = most / len(known) * math.exp(-float(excess[0]) / scale)
    nth = np.arange(1, remaining + 1)
    return float(scale * ((1 - (1 - beats) ** nth) / nth).sum())


def overspent(trials: Sequence[Trial], core_seconds: float | None, threads: int) -> str | None:
    """Whether the trials, each on so many threads, have spent the budget (None: there is none), in words."""
    if core_seconds is None or (spent := seconds_of(trials) * threads) < core_seconds:
        return None
    return f"{spent:.0f} of {core_seconds:g} core seconds are spent"


def exhausted(trials: Sequence[Trial], planned: int, needed: float) -> str | None:
    """Why the gain still possible in the trials that are left is less than the gate counts; None where it may not be.

    Args:
        trials: those that have ended, in order of number.
        planned: how many trials the study may have.
        needed: the least gain in payoff per decision that the gate counts (``min_uplift``); 0 is any, so never by gain.

    """
    finished = [trial for trial in trials if trial.state == "finished"]
    remaining = planned - len(trials)
    if needed <= 0 or remaining <= 0:
        return None
    payoffs = [trial.attributes.get("payoff_per_decision") for trial in finished]
    gain = possible_gain([math.nan if payoff is None else payoff for payoff in payoffs], remaining)
    if gain >= needed:
        return None
    return f"{remaining} more trials could add {gain:.2g} per decision, and the gate counts no less than {needed:g}"


def seconds_of(trials: Sequence[Trial]) -> float:
    """Seconds that the trials took; of one that was stopped early its share of what the finished ones took on average.

    A finished trial tells its ``seconds``; of one that ended otherwise only how far it came is known.
    """
    took = [float(trial.attributes["seconds"]) for trial in trials if "seconds" in trial.attributes]
    mean = sum(took) / len(took) if took else 0.0
    shares = [float(trial.attributes.get("share", 0.0)) for trial in trials if trial.state == "stopped"]
    return sum(took) + mean * sum(shares)


def edges(params: Params, space: Mapping[str, Range]) -> dict[str, float]:
    """The searched parameters whose value sits on a bound of their range that could be moved, with the bound."""
    found = {}
    for name, dimension in space.items():
        if dimension.kind == "categorical" or name not in params or dimension.low == dimension.high:
            continue
        low, high, value = (_scaled(x, dimension) for x in (dimension.low, dimension.high, params[name]))
        least, largest = NATURAL.get(name, (-math.inf, math.inf))
        near = EDGE * (high - low)
        if value - low <= near and dimension.low > least:
            found[name] = dimension.low
        if high - value <= near and dimension.high < largest:
            found[name] = dimension.high
    return found


def _scaled(value: float, dimension: Range) -> float:
    return math.log(value) if dimension.log else float(value)


def _best_first(trials: Sequence[Trial]) -> list[Trial]:
    finished = [trial for trial in trials if trial.state == "finished"]
    return sorted(finished, key=lambda trial: (trial.value, trial.number))


def distinct(sets: Sequence[Params]) -> list[Params]:
    """Each parameter set once, in the order of the first."""
    kept: list[Params] = []
    for params in sets:
        if dict(params) not in [dict(other) for other in kept]:
            kept.append(params)
    return kept
