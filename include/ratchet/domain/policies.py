"""What several promotion policies earned on the same rows, and how sure their differences to the gate are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats

from ratchet.domain.inference import group, ratio_inference


class PolicyTotal(TypedDict):
    """``total_usd`` earned, ``minus_gate`` the difference to the gate, ``lower`` and ``upper`` its interval."""

    total_usd: float
    minus_gate: float
    lower: float | None
    upper: float | None


def compare(
    payoffs: Mapping[str, npt.ArrayLike],
    clusters: npt.ArrayLike | Sequence[Any],
    *,
    baseline: str = "gate",
    confidence: float = 0.95,
    ordered: bool = True,
    simultaneous: bool = False,
) -> dict[str, PolicyTotal]:
    """Totals of each policy and the two-sided interval of (policy - baseline) totals.

    ``payoffs`` maps a policy to its (n_rows,) payoffs per decision, all of the same rows in one order; ``clusters`` is
    (n_rows,), days that sort in time when ``ordered``. The interval is that of the mean difference per decision
    (`ratchet.domain.inference.ratio_inference`, Student's t) times the decisions. Below two clusters it is None.
    ``simultaneous`` intervals cover all differences at once with ``confidence``: each has its share of what is left,
    whatever the dependence between policies (Dunn (1961), *Multiple Comparisons Among Means*, JASA 56).

    Raises ``ValueError`` on NaN payoffs, on lengths that differ and when the baseline is not among the policies.
    """
    if baseline not in payoffs:
        raise ValueError(f"policies must include the baseline {baseline!r}, but got {', '.join(payoffs) or 'none'}.")
    values = {name: np.asarray(earned, dtype=np.float64) for name, earned in payoffs.items()}
    days = group(clusters)
    n_rows, n_days = days.codes.size, len(days.labels)
    for name, earned in values.items():
        if earned.shape != (n_rows,):
            raise ValueError(
                f"policy {name!r} must have one payoff for each of {n_rows} rows, but got shape {earned.shape}. "
                "Compare all policies on the same rows."
            )
        if not np.isfinite(earned).all():
            raise ValueError(f"policy {name!r} must have finite payoffs, but got NaN or infinity. Score every row.")
    each = 1 - (1 - confidence) / max(len(values) - 1, 1) if simultaneous else confidence
    compared: dict[str, PolicyTotal] = {}
    for name, earned in values.items():
        difference = earned - values[baseline]
        minus = float(difference.sum())
        lower: float | None = None
        upper: float | None = None
        if name == baseline:
            lower = upper = 0.0
        elif n_days >= 2:
            totals = np.bincount(days.codes, weights=difference, minlength=n_days)
            inference = ratio_inference(totals, days.rows, ordered=ordered)
            reach = float(stats.t.ppf((1 + each) / 2, inference.dof)) * inference.std_error * n_rows
            lower, upper = minus - reach, minus + reach
        compared[name] = PolicyTotal(total_usd=float(earned.sum()), minus_gate=minus, lower=lower, upper=upper)
    return compared


Answer = Literal["yes", "no", "open"]


@dataclass(frozen=True)
class Conclusion:
    """What an interval of (policy - baseline) says: the policy earns more (``no``: less), and is not worse by much.

    ``non_inferior`` is ``yes`` when it earns less by the margin at most, ``no`` when it certainly earns less than that.
    """

    superior: Answer
    non_inferior: Answer


def conclude(found: PolicyTotal, margin: float) -> Conclusion:
    """Both conclusions from one interval; ``margin`` is a total, not below zero. Without an interval both are open."""
    return Conclusion(superior=_above(found, 0.0), non_inferior=_above(found, -margin))


def _above(found: PolicyTotal, bar: float) -> Answer:
    if found["lower"] is None or found["upper"] is None:
        return "open"
    if found["lower"] > bar:
        return "yes"
    return "no" if found["upper"] < bar else "open"


def recommend(choosing: Mapping[str, float], judging: Mapping[str, PolicyTotal], baseline: str) -> tuple[str, str]:
    """Which policy to have as the default, and why in words.

    ``choosing`` are totals by policy on the months that may choose, the baseline's among them: the largest names the
    one contender (of equals the baseline, then the first). It replaces the baseline only when it earns more on the
    ``judging`` months beyond doubt, which had no say in choosing it.
    """
    contender = max(choosing, key=lambda name: (choosing[name], name == baseline))
    if choosing[contender] == choosing[baseline]:
        return baseline, f"no policy earned more than {baseline} on the choosing months: keep it"
    found = judging[contender]
    more = f"{contender} earned most on the choosing months ({choosing[contender] - choosing[baseline]:+,.0f})"
    answer = conclude(found, 0.0).superior
    if answer == "yes":
        return contender, f"{more} and earns more on the judging months beyond doubt: take it"
    word = "earns less there beyond doubt" if answer == "no" else "cannot be told apart from it on the judging months"
    return baseline, f"{more}, but {word} ({found['minus_gate']:+,.0f}): keep {baseline}"
