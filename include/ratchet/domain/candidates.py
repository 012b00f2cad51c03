"""Several challengers judged on the same rows: each spends its share of alpha, and at most one of them is promoted.

Whatever the dependence between challengers that are no better, the chance that any of them passes is at most the sum of
what they spend (Bonferroni); they meet the same champion on the same days, so they do depend on each other. Holm's
(1979) step-down needs the same share for its first rejection, and its second one would change which of two is promoted,
never whether one is: since one is promoted at most, it gains nothing. Bounds that were given at one level can be
compared, so the larger lower bound chooses among those that may be promoted (docs/decisions/0049).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ratchet.domain.gate import Evidence, GatePolicy, Verdict, decide_promotion

TUNED = "tuned_challenger"
"""The challenger that the attempt's study has tuned; every attempt has one."""

RECALIBRATED = "recalibrated_champion"
"""The sitting champion's scorer with a calibration map and a threshold learned anew, on later rows."""

LEAST_LATER_DAYS = 14
"""Fewer days than two whole weeks teach a calibration map the days themselves; of the 28 that calibrate a challenger,
so many must be later than what the champion was fitted on."""


@dataclass(frozen=True)
class Choice:
    """The verdicts on all candidates by name, in their order, and the one that stands for the attempt.

    ``chosen`` is the candidate that is registered, and promoted where its verdict says so; ``why`` in words, None where
    there was one candidate only and nothing to choose.
    """

    verdicts: Mapping[str, Verdict]
    chosen: str
    why: str | None
    not_judged: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The attempt's verdict: that of the chosen one, which also says how it was chosen and what was not judged."""
        said = [] if self.why is None else [self.why]
        said += [f"{in_words(name)} was not judged: {reason}" for name, reason in self.not_judged.items()]
        own = self.verdicts[self.chosen]
        return replace(own, reasons=(*own.reasons, *said))


def share_of_each(count: int) -> float:
    """The share of alpha that each of ``count`` candidates may spend; that of a look multiplies it."""
    if count < 1:
        raise ValueError(f"at least one candidate must be judged, but got {count}.")
    return 1 / count


def judge_each(
    evidence: Mapping[str, Evidence], policy: GatePolicy, not_judged: Mapping[str, str] | None = None
) -> Choice:
    """Judge every candidate by itself, at the level of the policy, and choose one.

    ``evidence`` is by candidate, in order, all on the same rows and against the same champion; the policy's
    ``alpha_share`` must be what one candidate may spend (:func:`share_of_each`). ``not_judged`` names candidates that
    the spec asks for and that could not be made, each with its reason, which must not depend on the rows judged on.
    """
    return choose({name: decide_promotion(given, policy) for name, given in evidence.items()}, not_judged)


def choose(verdicts: Mapping[str, Verdict], not_judged: Mapping[str, str] | None = None) -> Choice:
    """The candidate that stands for the attempt, so that the attempt's verdict is one.

    Promotion comes first and keeping the champion last: the attempt promotes when any candidate may be promoted, and
    keeps the champion when every candidate has lost. Of several that may be promoted the larger lower bound is chosen;
    of several undecided ones the larger estimate, which further days may show to be true; of several that lost the
    first. Equals, and verdicts without numbers, leave it at the first.

    Raises ``ValueError`` when there is no candidate.
    """
    if not verdicts:
        raise ValueError("at least one candidate must be judged, but got none.")
    unjudged = dict(not_judged or {})
    first = next(iter(verdicts))
    if len(verdicts) == 1:
        return Choice(verdicts, first, None, unjudged)
    for decision in ("promote", "not_enough_evidence"):
        among = [name for name, verdict in verdicts.items() if verdict.decision == decision]
        if not among:
            continue
        by = "lower" if decision == "promote" else "estimate"
        chosen = max(among, key=lambda name: _or_lowest(getattr(verdicts[name], by)))
        if len(among) == 1:
            how = "alone may be promoted" if decision == "promote" else "alone may still show enough"
        elif decision == "promote":
            how = "has the larger lower bound of those that may be promoted"
        else:
            how = "has the larger estimate of those that are undecided"
        return Choice(verdicts, chosen, _told(verdicts, chosen, how), unjudged)
    return Choice(verdicts, first, _told(verdicts, first, "comes first, and none is to replace the champion"), unjudged)


def in_words(name: str) -> str:
    """``recalibrated_champion`` as people write it."""
    return f"the {name.replace('_', ' ')}"


def _told(verdicts: Mapping[str, Verdict], chosen: str, how: str) -> str:
    found = "; ".join(f"{in_words(name)}: {_shown(verdict)}" for name, verdict in verdicts.items())
    return f"{len(verdicts)} challengers were judged on these rows, and {in_words(chosen)} {how} ({found})"


def _shown(verdict: Verdict) -> str:
    if verdict.lower is None or verdict.upper is None or verdict.estimate is None:
        return f"{verdict.decision}, no numbers"
    return f"{verdict.decision}, {verdict.estimate:.4g} with bounds {verdict.lower:.4g} and {verdict.upper:.4g}"


def _or_lowest(value: float | None) -> float:
    return float("-inf") if value is None else value
