"""What a guardrail may be put on, and which limits each metric takes. Names only: the spec imports this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

AVERAGES = ("", "_macro", "_micro", "_weighted")

Kind = Literal["classifier", "regression", "ranking"]
"""What a model's decision is: to act where a probability says so, a predicted number, or each day's best so many."""

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

OF_PROBABILITIES = frozenset(
    {"average_precision", "d2_brier_score", "d2_log_loss_score", "neg_brier_score", "neg_log_loss", "roc_auc"}
)
"""Those of them that read the probability, or compare the scores of all days; the others read the decision alone."""

RANKING = ("ndcg_at_k", "precision_at_k")
"""What is measured on each day's best (:mod:`ratchet.domain.ranking`); of each, greater is better."""

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
    of: Literal["probabilities", "decisions", "ranks", "predictions"] | None = None
    """What it is measured on; decisions are those to act, and None is any."""


METRICS: Mapping[str, Takes] = {
    "expected_calibration_error": Takes(("max_regression", "max"), of="probabilities"),
    "payoff": Takes(("max_regression",), split="slice"),
    "latency_p95_ms": Takes(("max",)),
    "model_size_mb": Takes(("max",)),
    "decisions_flipped": Takes(("max",), of="decisions"),
    **{
        name: Takes(("max_regression", "min"), of="probabilities" if name in OF_PROBABILITIES else "decisions")
        for name in SCORERS
    },
    **dict.fromkeys(RANKING, Takes(("max_regression", "min"), of="ranks")),
    **dict.fromkeys(REGRESSION_SCORERS, Takes(("max_regression", "min"), of="predictions")),
    **dict.fromkeys(FAIRNESS, Takes(("max_regression", "max"), split="by", of="decisions")),
}


MEASURED: Mapping[Kind, tuple[str, ...]] = {
    "classifier": ("probabilities", "decisions"),
    "regression": ("predictions",),
    "ranking": ("decisions", "ranks"),
}
"""What each kind of model gives to be measured."""


def unfit(metric: str, kind: Kind) -> str | None:
    """Why a known metric cannot be measured on a model of this kind; None when it can."""
    of = METRICS[metric].of
    if of is None or of in MEASURED[kind]:
        return None
    usable = [name for name, takes in METRICS.items() if takes.of is None or takes.of in MEASURED[kind]]
    if kind == "regression":
        either = ", ".join(name for name in usable if name not in REGRESSION_SCORERS)
        return (
            f"{metric!r} is measured on decisions to act or their probability, and a regression has neither: use "
            f"{either}, or one of {', '.join(REGRESSION_SCORERS)}"
        )
    one = f"use one of {', '.join(usable)}"
    if of == "predictions":
        return f"{metric!r} is measured on predicted numbers, and a {kind} predicts none: {one}"
    if of == "ranks":
        return (
            f"{metric!r} is measured on each day's best by a score that ranks them, and a classifier acts by its "
            f"probability: write business.decision as {{act_on: rank, capacity: ...}}, or {one}"
        )
    return (
        f"{metric!r} is measured on probabilities, or on scores across days, and a ranking has no probabilities, and "
        f"scores that compare rows of one day only: {one}"
    )


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
