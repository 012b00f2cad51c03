"""What several promotion policies earned on the same rows, and how sure their differences to the gate are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

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
) -> dict[str, PolicyTotal]:
    """Totals of each policy and the two-sided interval of (policy - baseline) totals.

    ``payoffs`` maps a policy to its (n_rows,) payoffs per decision, all of the same rows in one order; ``clusters`` is
    (n_rows,), days that sort in time when ``ordered``. The interval is that of the mean difference per decision
    (`ratchet.domain.inference.ratio_inference`, Student's t) times the decisions. Below two clusters it is None.

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
            reach = float(stats.t.ppf((1 + confidence) / 2, inference.dof)) * inference.std_error * n_rows
            lower, upper = minus - reach, minus + reach
        compared[name] = PolicyTotal(total_usd=float(earned.sum()), minus_gate=minus, lower=lower, upper=upper)
    return compared
