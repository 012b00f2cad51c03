"""Where a learning curve can still end: the bound by which a trial is stopped early. Touches nothing."""

from __future__ import annotations

from collections.abc import Sequence


def least_end(curve: Sequence[tuple[float, float]]) -> float:
    """The least loss at share 1 that a convex curve through these points can reach; minus infinity of fewer than two.

    A loss falls ever more slowly: over the rest of the way it gains at most what it gained, per share, between the last
    two points, and once it rises it rises on. Comparing this bound, rather than the loss so far, with the best whole
    trial spares the slow learners that a median at one round drops. Curves of sampled rows are convex in their trend
    only, so a trial may be stopped that would have won by a hair.

    Args:
        curve: (share of the rounds in (0, 1], ascending; loss there). A NaN loss gives NaN, which exceeds nothing.

    """
    if len(curve) < 2:
        return float("-inf")
    (before, earlier), (share, loss) = curve[-2:]
    slope = (loss - earlier) / (share - before)
    return loss + min(slope, 0.0) * (1.0 - share)
