"""Repeated looks at one frozen challenger: how much of alpha each may spend, and when another look is off.

A challenger that was judged once with not enough evidence may be judged again on more days, by a plan made before
the first look: look k promotes at confidence 1 - alpha * share_k. Whatever the dependence between the looks, the
chance that any of them promotes a challenger that is no better is at most the sum of what they spend (weighted
Bonferroni), and the plan's shares sum to one at most. Spending increments of alpha that are fixed per look is the
way of Slud and Wei (1982), *Two-sample repeated significance tests based on the modified Wilcoxon statistic*, JASA 77,
without the joint distribution that sharpens it there (docs/decisions/0038).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE = 1e-9
"""How far shares written in decimals may sum above one."""


@dataclass(frozen=True)
class Look:
    """Another look that an attempt asks for: ``number`` counts from 1, so that this one is at least 2.

    It is a look at ``challenger`` (its version) against the champion ``champion_seq``, by the spec and the code (their
    digests) of the looks before; ``after`` is the attempt of the last of them.
    """

    number: int
    challenger: int
    champion_seq: int
    spec: str
    code: str
    after: str


def spent_confidence(confidence: float, share: float) -> float:
    """The confidence at which a judgement may promote that spends ``share`` of alpha, where alpha = 1 - confidence.

    The one place that says so: a share is that of a look, of a challenger among several, or the product of both.
    Raises ``ValueError`` unless 0 < share <= 1.
    """
    if not 0 < share <= 1 + TOLERANCE:
        raise ValueError(f"a judgement spends a share of alpha above 0 and at most 1, but got {share!r}.")
    return 1 - (1 - confidence) * min(share, 1.0)


def has_another(shares: Sequence[float], look: int) -> bool:
    """Whether the plan has a look after number ``look``."""
    return look < len(shares)


def why_off(look: Look, *, champion_seq: int, spec: str, code: str, last_judged: str | None) -> str | None:
    """Why another look is not taken, None when it is: the pair, the plan and the order of looks must be as they were.

    ``last_judged`` is the model's newest attempt with a verdict, dry runs too: another challenger's days lie between.
    """
    if champion_seq != look.champion_seq:
        return f"champion #{look.champion_seq} was looked at, #{champion_seq} serves now"
    if spec != look.spec:
        return "the spec has changed since the look before"
    if code != look.code:
        return "the code has changed since the look before"
    if last_judged != look.after:
        return f"{last_judged} was judged after {look.after}"
    return None
