"""What a guardrail may be put on, and which limits each metric takes. Names only: the spec imports this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

AVERAGES = ("", "_macro", "_micro", "_weighted")

SCORERS = (
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "d2_brier_score",
    "d2_log_loss_score",
    *(f"f1{average}" for average in AVERAGES),
    *(f"jaccard{average}" for average in AVERAGES),
    "matthews_corrcoef",
    "neg_brier_score",
    "neg_log_loss",
    "neg_negative_likelihood_ratio",
    "positive_likelihood_ratio",
    *(f"precision{average}" for average in AVERAGES),
    *(f"recall{average}" for average in AVERAGES),
    "roc_auc",
)
"""scikit-learn's scorers of a binary decision or its probability, by its names; of each, greater is better."""

REGRESSION_SCORERS = (
    "d2_absolute_error_score",
    "explained_variance",
    "neg_mean_absolute_error",
    "neg_mean_absolute_percentage_error",
    "neg_mean_gamma_deviance",
    "neg_mean_poisson_deviance",
    "neg_mean_squared_error",
    "neg_mean_squared_log_error",
    "neg_root_mean_squared_error",
    "neg_root_mean_squared_log_error",
    "r2",
)
"""scikit-learn's scorers of a predicted number, by its names; of each, greater is better.

Not among them are ``neg_max_error`` and ``neg_median_absolute_error``: the jackknife gives no interval for what is not
smooth in the rows (Efron 1982, *The jackknife, the bootstrap and other resampling plans*, ch. 3).
"""

FAIRNESS = ("demographic_parity_difference", "equal_opportunity_difference", "equalized_odds_difference")
"""Fairlearn's names; each is a difference between the groups of a column, of which less is better."""

LIMITS = ("max_regression", "max", "min")


@dataclass(frozen=True)
class Takes:
    """The limits that a metric takes, at least one of them, and the key that splits its rows where it needs one."""

    limits: tuple[str, ...]
    split: Literal["slice", "by"] | None = None
    of: Literal["decisions", "predictions"] | None = None
    """What it is measured on: decisions to act, or a regression's predictions; None: either."""


METRICS: Mapping[str, Takes] = {
    "expected_calibration_error": Takes(("max_regression", "max"), of="decisions"),
    "payoff": Takes(("max_regression",), split="slice"),
    "latency_p95_ms": Takes(("max",)),
    "model_size_mb": Takes(("max",)),
    "decisions_flipped": Takes(("max",), of="decisions"),
    **dict.fromkeys(SCORERS, Takes(("max_regression", "min"), of="decisions")),
    **dict.fromkeys(REGRESSION_SCORERS, Takes(("max_regression", "min"), of="predictions")),
    **dict.fromkeys(FAIRNESS, Takes(("max_regression", "max"), split="by", of="decisions")),
}


def unfit(metric: str, *, regression: bool) -> str | None:
    """Why a known metric cannot be measured on a regression, or on a classifier; None when it can."""
    of = METRICS[metric].of
    if regression and of == "decisions":
        either = ", ".join(name for name, takes in METRICS.items() if takes.of is None)
        return (
            f"{metric!r} is measured on decisions to act or their probability, and a regression has neither: use "
            f"{either}, or one of {', '.join(REGRESSION_SCORERS)}"
        )
    if not regression and of == "predictions":
        return f"{metric!r} is measured on predicted numbers, and a classifier predicts none: use one of " + ", ".join(
            name for name, takes in METRICS.items() if takes.of != "predictions"
        )
    return None


def misfit(metric: str, given: Mapping[str, Any]) -> str | None:
    """Why a guardrail on a known metric would judge nothing or not what it says; None when it is sound.

    ``given`` holds ``slice``, ``by``, the limits and ``min_rows`` (None where absent) and ``required``.
    """
    takes = METRICS[metric]
    limits = " or ".join(takes.limits)
    needs = f"{takes.split} and {limits}" if takes.split else limits
    has = {name for name, value in given.items() if value is not None and value is not False}
    surplus = [name for name in LIMITS if name not in takes.limits and name in has]
    rules = (
        (not has & set(takes.limits), f"a guardrail on {metric} needs {needs}"),
        (takes.split is not None and takes.split not in has, f"a guardrail on {metric} needs {needs}"),
        (bool(surplus), f"a guardrail on {metric} takes {limits}, not {', '.join(surplus)}"),
        (takes.split != "slice" and "slice" in has, f"slice names slices of payoff, not of {metric}"),
        (takes.split != "by" and "by" in has, f"by names the groups of {', '.join(FAIRNESS)}, not of {metric}"),
        (takes.split is None and "min_rows" in has, f"min_rows applies to slices and groups, and {metric} has neither"),
        (takes.split != "slice" and "required" in has, f"required applies to slices of payoff, not to {metric}"),
    )
    return next((problem for broken, problem in rules if broken), None)
