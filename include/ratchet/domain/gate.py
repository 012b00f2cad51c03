"""The gate: a challenger passes when it earns more than the champion beyond statistical doubt, and breaks nothing.

`judge` gives the verdict on uplift, `decide_promotion` combines it with the guardrails. Both are pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from ratchet.domain.guardrails import Check, Finding, Guardrail, Scene, ScoredRows, find
from ratchet.domain.inference import Clusters, Floats, RatioInference, cosine_terms, group, ratio_inference
from ratchet.domain.looks import spent_confidence

__all__ = ["Check", "Evidence", "GatePolicy", "ScoredRows", "Verdict", "decide_promotion", "judge"]

Decision = Literal["promote", "keep_champion", "not_enough_evidence"]
Mode = Literal["superiority", "non_inferiority"]

POWER = 0.8
MOST_CLUSTERS = 365
_VARIANCE_CONFIDENCE = 0.8


@dataclass(frozen=True)
class Verdict:
    """What the gate decided and why; `dataclasses.asdict` of it is JSON-able.

    ``estimate``, ``lower`` and ``upper`` are payoff units per decision, the bounds each one-sided at the asked
    confidence; None where no number can be given, and ``reasons`` says why. ``needed_clusters`` is the number of fresh
    clusters that would detect the target gain with 80 % power, None when that is not asked, not needed or hopeless.
    """

    decision: Decision
    estimate: float | None
    lower: float | None
    upper: float | None
    n_rows: int
    n_clusters: int
    needed_clusters: int | None = None
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()
    diagnostics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GatePolicy:
    """What the spec asks of a challenger; see the keys of ``gate`` in ``model.yaml``.

    ``min_uplift`` and ``target_gain`` are in payoff units per decision; ``min_uplift`` is the margin in mode
    ``non_inferiority``. ``alpha_share`` is what this judgement may spend of alpha (:mod:`ratchet.domain.looks`); the
    guardrails keep ``confidence``. Raises ``ValueError`` on values that no verdict can obey.
    """

    mode: Mode = "superiority"
    confidence: float = 0.95
    min_uplift: float = 0.0
    target_gain: float | None = None
    guardrails: tuple[Guardrail, ...] = ()
    ordered: bool = True
    alpha_share: float = 1.0

    def __post_init__(self) -> None:
        _refuse_impossible(self.mode, self.judging_confidence, self.min_uplift, self.target_gain)

    @property
    def judging_confidence(self) -> float:
        """The confidence of the bounds on the uplift."""
        return spent_confidence(self.confidence, self.alpha_share)

    @classmethod
    def from_spec(cls, gate: Any, *, ordered: bool = True, alpha_share: float = 1.0) -> GatePolicy:
        """From any object with the attributes of the spec's ``gate``; its guardrails are objects or mappings."""
        return cls(
            mode=gate.mode,
            confidence=float(gate.confidence),
            min_uplift=float(gate.min_uplift),
            target_gain=None if gate.target_gain is None else float(gate.target_gain),
            guardrails=tuple(Guardrail.from_spec(entry) for entry in gate.guardrails),
            ordered=ordered,
            alpha_share=alpha_share,
        )


def policy_from(document: Mapping[str, Any]) -> GatePolicy:
    """The policy that ``dataclasses.asdict`` made a record of."""
    guardrails = tuple(Guardrail(**entry) for entry in document["guardrails"])
    return GatePolicy(**{**document, "guardrails": guardrails})


@dataclass(frozen=True)
class Evidence:
    """Both models on the same fresh rows.

    ``uplift``: (n_rows,) payoff(challenger) - payoff(champion), in payoff units per decision; ``clusters``: (n_rows,)
    labels that sort in time; ``label``: (n_rows,) 0/1, or a regression's target; ``slices``: column name -> (n_rows,)
    values, for the slices and the groups of guardrails.
    """

    uplift: npt.ArrayLike
    clusters: npt.ArrayLike | Sequence[Any]
    label: npt.ArrayLike
    champion: ScoredRows
    challenger: ScoredRows
    slices: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    unit: str = "USD"


def judge(
    uplift: npt.ArrayLike,
    clusters: npt.ArrayLike | Sequence[Any],
    *,
    min_uplift: float = 0.0,
    confidence: float = 0.95,
    mode: Mode = "superiority",
    ordered: bool = True,
    target_gain: float | None = None,
) -> Verdict:
    """The verdict on uplift alone: total uplift over total rows, with a bound for each side.

    ``uplift`` is ``(n_rows,)`` payoff units per decision; ``clusters`` ``(n_rows,)`` labels (integers, dates, strings)
    of rows that move together, which sort in time when ``ordered``. The interval is that of
    `ratchet.domain.inference.ratio_inference`.

    Superiority promotes when ``lower > min_uplift`` and the estimate without the best cluster is too; it keeps the
    champion when ``upper < min_uplift``. Non-inferiority promotes when ``lower > -min_uplift`` and keeps the champion
    when ``upper < -min_uplift``. Anything else is not enough evidence.

    NaN or infinite uplift, a missing cluster label, no rows, one cluster and uplift that is zero on every row promote
    nothing and are named in ``reasons``. Raises ``ValueError`` only on arguments that no data can repair.
    """
    _refuse_impossible(mode, confidence, min_uplift, target_gain)
    values = np.asarray(uplift, dtype=np.float64)
    if values.ndim != 1 or len(np.asarray(clusters)) != values.size:
        raise ValueError(
            f"uplift and clusters must be one-dimensional and of one length, but got {values.shape} and "
            f"{len(np.asarray(clusters))}. Score both models on the same rows."
        )
    if values.size == 0:
        return _without_numbers("not_enough_evidence", 0, 0, "the holdout is empty: there is nothing to judge on")
    try:
        days = group(clusters)
    except ValueError as error:
        return _without_numbers("keep_champion", values.size, 0, str(error))
    n_clusters = len(days.labels)
    totals = np.bincount(days.codes, weights=values, minlength=n_clusters).astype(np.float64, copy=False)
    if not np.isfinite(totals).all():
        bad = int((~np.isfinite(values)).sum())
        reason = (
            f"uplift is NaN or infinite on {bad} of {values.size} rows: a payoff that is not a number earns nothing"
        )
        return _without_numbers("keep_champion", values.size, n_clusters, reason)
    if n_clusters < 2:
        reason = "all rows are of one cluster: rows of one cluster move together, and one says nothing about doubt"
        verdict = _without_numbers("not_enough_evidence", values.size, n_clusters, reason)
        return replace(verdict, estimate=float(totals.sum()) / values.size)
    rule = _Rule(mode, min_uplift, confidence, target_gain, ordered)
    return _judge_clusters(totals, days, rule, identical=not values.any())


@dataclass(frozen=True)
class _Rule:
    mode: Mode
    min_uplift: float
    confidence: float
    target_gain: float | None
    ordered: bool

    @property
    def bar(self) -> float:
        """What the lower bound must exceed."""
        return self.min_uplift if self.mode == "superiority" else -self.min_uplift

    @property
    def gain(self) -> float | None:
        """The distance above the bar that is worth detecting."""
        if self.target_gain is None:
            return None
        return self.target_gain + (0.0 if self.mode == "superiority" else self.min_uplift)


def _judge_clusters(totals: Floats, days: Clusters, rule: _Rule, *, identical: bool) -> Verdict:
    n_rows, n_clusters, bar = int(days.rows.sum()), len(days.labels), rule.bar
    inference = ratio_inference(totals, days.rows, ordered=rule.ordered)
    reach = float(special.stdtrit(inference.dof, rule.confidence)) * inference.std_error
    lower, upper = inference.estimate - reach, inference.estimate + reach
    diagnostics = _diagnostics(inference, totals, days, ordered=rule.ordered)
    without_best = diagnostics["estimate_without_best_cluster"]
    checks = [
        Check(
            metric="uplift",
            slice=None,
            champion=0.0,
            challenger=inference.estimate,
            required=f"lower bound > {bar:g}",
            passed=lower > bar,
            detail=f"{rule.mode}: {inference.estimate:.4g}, one-sided bounds {lower:.4g} and {upper:.4g}",
        )
    ]
    if rule.mode == "superiority":
        checks.append(
            Check(
                metric="uplift_without_best_cluster",
                slice=None,
                champion=0.0,
                challenger=without_best,
                required=f"> {bar:g}",
                passed=without_best > bar,
                detail=f"the best cluster is {diagnostics['best_cluster']['label']}",
            )
        )
    needed: int | None = None
    decision: Decision
    if identical:
        decision = "keep_champion"
        reasons = ["the models are identical in value: uplift is zero on every row"]
    elif all(check.passed for check in checks):
        decision = "promote"
        reasons = [f"the lower bound {lower:.4g} exceeds {bar:g}"]
    elif upper < bar:
        decision = "keep_champion"
        reasons = [f"the upper bound {upper:.4g} lies below {bar:g}"]
    else:
        decision = "not_enough_evidence"
        reasons = [
            f"without the best cluster the estimate {without_best:.4g} does not exceed {bar:g}"
            if lower > bar
            else f"{bar:g} lies between the lower bound {lower:.4g} and the upper bound {upper:.4g}"
        ]
        needed, why = _needed_clusters(inference, n_clusters, rule)
        reasons.append(why)
    return Verdict(
        decision=decision,
        estimate=inference.estimate,
        lower=lower,
        upper=upper,
        n_rows=n_rows,
        n_clusters=n_clusters,
        needed_clusters=needed,
        checks=tuple(checks),
        reasons=tuple(reasons),
        diagnostics=diagnostics,
    )


def decide_promotion(evidence: Evidence, policy: GatePolicy) -> Verdict:
    """The verdict on uplift combined with the guardrails.

    A guardrail that is clearly broken keeps the champion; one that neither holds nor is broken by its bound turns a
    promotion into not enough evidence; one that the champion breaks too only warns; an unjudged one is reported.
    A metric that is missing or NaN on the challenger is never promoted. Never raises on data, however bad; raises
    ``ValueError`` when the arrays are not of one length.
    """
    verdict = judge(
        evidence.uplift,
        evidence.clusters,
        min_uplift=policy.min_uplift,
        confidence=policy.judging_confidence,
        mode=policy.mode,
        ordered=policy.ordered,
        target_gain=policy.target_gain,
    )
    if verdict.lower is None:
        return _naming_predictions(verdict, evidence)
    _same_rows(evidence, verdict.n_rows)
    findings = _scores_are_numbers(evidence)
    scene = Scene(
        uplift=np.asarray(evidence.uplift, dtype=np.float64),
        days=group(evidence.clusters),
        label=np.asarray(evidence.label, dtype=np.float64),
        champion=evidence.champion,
        challenger=evidence.challenger,
        slices=evidence.slices,
        confidence=policy.confidence,
        ordered=policy.ordered,
    )
    findings += find(policy.guardrails, scene)
    decision = verdict.decision
    if any(finding.outcome == "broken" for finding in findings):
        decision = "keep_champion"
    elif decision == "promote" and any(finding.outcome == "unproven" for finding in findings):
        decision = "not_enough_evidence"
    said = tuple(f"{finding.outcome}: {finding.check.detail}" for finding in findings if finding.outcome != "holds")
    return replace(
        verdict,
        decision=decision,
        needed_clusters=verdict.needed_clusters if decision == "not_enough_evidence" else None,
        checks=verdict.checks + tuple(finding.check for finding in findings),
        reasons=verdict.reasons + said,
    )


def _refuse_impossible(mode: str, confidence: float, min_uplift: float, target_gain: float | None) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"gate.mode must be one of {', '.join(get_args(Mode))}, but got {mode!r}.")
    if not 0.5 < confidence < 1:
        raise ValueError(f"gate.confidence must lie between 0.5 and 1, but got {confidence!r}. 0.95 is usual.")
    if not math.isfinite(min_uplift) or (mode == "non_inferiority" and min_uplift < 0):
        raise ValueError(
            f"gate.min_uplift must be a finite number, and as the margin of non_inferiority not negative, but got "
            f"{min_uplift!r}. Give payoff units per decision."
        )
    if target_gain is not None and not (math.isfinite(target_gain) and target_gain > 0):
        raise ValueError(
            f"gate.target_gain must be a number above 0, but got {target_gain!r}. Give the gain worth waiting for, in "
            "payoff units per decision, or leave it out."
        )


def _without_numbers(decision: Decision, n_rows: int, n_clusters: int, reason: str) -> Verdict:
    check = Check("uplift", None, 0.0, None, "a finite uplift on at least two clusters", passed=False, detail=reason)
    return Verdict(decision, None, None, None, n_rows, n_clusters, None, (check,), (reason,))


def _diagnostics(inference: RatioInference, totals: Floats, days: Clusters, *, ordered: bool) -> dict[str, Any]:
    all_rows, total = float(days.rows.sum()), float(totals.sum())
    left = (total - totals) / (all_rows - days.rows)
    best, worst = int(np.argmin(left)), int(np.argmax(left))
    residual = totals - inference.estimate * days.rows
    spread = float((residual**2).sum())
    lag_one = skew = None
    if spread > 0:
        lag_one = float((residual[1:] * residual[:-1]).sum()) / spread if ordered else None
        scale = math.sqrt(spread / residual.size)
        skew = float(((residual / scale) ** 3).mean())

    def row(i: int) -> dict[str, Any]:
        return {"label": days.labels[i], "rows": int(days.rows[i]), "total_uplift": float(totals[i])}

    return {
        "method": "EWC" if ordered else "CR3",
        "std_error": inference.std_error,
        "dof": inference.dof,
        "lag_one_correlation": lag_one,
        "skew": skew,
        "worst_cluster": row(worst),
        "best_cluster": row(best),
        "estimate_without_best_cluster": float(left[best]),
        "clusters": [row(i) for i in range(len(days.labels))],
    }


def _needed_clusters(inference: RatioInference, n_clusters: int, rule: _Rule) -> tuple[int | None, str]:
    """Clusters that detect the target gain above the bar with 80 % power, from an upper bound of the variance.

    The bound is the one-sided 80 % limit of the long-run variance, as Browne (1995), *On the use of a pilot sample for
    sample size determination*, Statistics in Medicine 14, proposes; the observed uplift plays no part.
    """
    gain = rule.gain
    if gain is None:
        return None, "how many more clusters are needed is not known: gate.target_gain is not given"
    bound = inference.dof / float(stats.chi2.ppf(1 - _VARIANCE_CONFIDENCE, inference.dof))
    counts = np.arange(2, MOST_CLUSTERS + 1)
    std_errors = inference.std_error * math.sqrt(bound) * np.sqrt(n_clusters / counts)
    dof = _planned_dof(counts, ordered=rule.ordered)
    if inference.std_error == 0:
        return 2, "the clusters do not vary: two of them suffice"
    power = stats.nct.sf(stats.t.ppf(rule.confidence, dof), dof, gain / std_errors)
    enough = np.flatnonzero(power >= POWER)
    if enough.size == 0:
        return None, (
            f"a gain of {gain:g} above the bar would need more than {MOST_CLUSTERS} clusters to be seen with "
            f"{POWER:.0%} power"
        )
    needed = int(counts[enough[0]])
    return needed, f"a gain of {gain:g} above the bar needs {needed} clusters to be seen with {POWER:.0%} power"


def _planned_dof(counts: npt.NDArray[np.int_], *, ordered: bool) -> Floats:
    return np.array([cosine_terms(int(n)) if ordered else n - 1 for n in counts], dtype=np.float64)


def _same_rows(evidence: Evidence, n_rows: int) -> None:
    arrays: dict[str, npt.ArrayLike | None] = {"label": evidence.label, **evidence.slices}
    for name, model in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        arrays |= {f"{name}.payoff": model.payoff, f"{name}.probability": model.probability, f"{name}.act": model.act}
        arrays |= {f"{name}.prediction": model.prediction, f"{name}.score": model.score}
    for name, values in arrays.items():
        if values is not None and len(np.asarray(values)) != n_rows:
            raise ValueError(
                f"evidence.{name} must have one value per row of uplift, {n_rows}, but got {len(np.asarray(values))}. "
                "Score both models on the same rows."
            )


def _scores_are_numbers(evidence: Evidence) -> list[Finding]:
    """A NaN probability compares false with any threshold and would pass as a decision not to act."""
    findings = []
    for name, model in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        for what in ("probability", "payoff", "prediction", "score"):
            values = getattr(model, what)
            if values is None:
                continue
            bad = int((~np.isfinite(np.asarray(values, dtype=np.float64))).sum())
            if bad:
                detail = f"the {name}'s {what} is NaN or infinite on {bad} rows"
                check = Check(f"{what}_is_finite", None, None, None, "finite on every row", passed=False, detail=detail)
                findings.append(Finding(check, "broken"))
    return findings


def _naming_predictions(verdict: Verdict, evidence: Evidence) -> Verdict:
    """A payoff is no number where the prediction is none: then the verdict says that too."""
    if evidence.champion.prediction is None and evidence.challenger.prediction is None:
        return verdict
    found = [f.check for f in _scores_are_numbers(evidence) if f.check.metric == "prediction_is_finite"]
    said = tuple(check.detail for check in found)
    return replace(verdict, checks=verdict.checks + tuple(found), reasons=verdict.reasons + said)
