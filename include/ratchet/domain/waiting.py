"""Does a retrain pay yet? The cost of a run against what waiting has lost so far. Pure.

What a run gains is not known before; what the last ones gained is: the verdict's estimate per decision where it
promoted, nothing where it kept the champion. Their mean, times the decisions of a day, is what a day of waiting is
expected to lose. Estimates that were selected are too high on average, so the rule errs towards running.

A run pays from the moment at which the loss since the first event has reached its cost. Whoever rents until the rent
paid equals the price, and then buys, never pays more than twice what the best decision in hindsight would have cost,
whatever the future holds (Karlin, Manasse, Rudolph, Sleator, "Competitive Snoopy Caching", Algorithmica 3, 1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median

from ratchet.domain.forecasting import FEW_RUNS, Forecast

MOST_TRIED = 10
FOREVER = timedelta(days=3650)


@dataclass(frozen=True)
class Tried:
    """The verdict of a past run: whether it promoted, its estimate per decision, and the rows and days it judged."""

    promoted: bool
    estimate: float | None
    rows: int
    days: int


@dataclass(frozen=True)
class Waiting:
    """What a run costs and a day of waiting is expected to lose, in ``unit``; ``gained`` of ``tried`` runs promoted."""

    cost: float
    loss_per_day: float
    unit: str
    gained: int
    tried: int

    @property
    def said(self) -> str:
        """In words: both sides, and where the loss is from."""
        return (
            f"a run costs {self.cost:.3g} {self.unit}, a day of waiting loses {self.loss_per_day:.3g} {self.unit} "
            f"({self.gained} of the last {self.tried} runs promoted)"
        )


def waiting(tried: Sequence[Tried], run: Forecast | None, core_hour: float, unit: str) -> Waiting | None:
    """Both sides of the question; None where there is no evidence, which holds nobody back.

    Args:
        tried: verdicts, the newest first; those that judged no row are left out.
        run: the forecast of the next run; its median counts.
        core_hour: what one costs, in ``unit``, the payoff's.
        unit: of money.

    """
    judged = [each for each in tried if each.rows > 0 and each.days > 0][:MOST_TRIED]
    if run is None or len(judged) < FEW_RUNS:
        return None
    gains = [max(each.estimate or 0.0, 0.0) if each.promoted else 0.0 for each in judged]
    per_day = median(each.rows / each.days for each in judged)
    gained = sum(each.promoted for each in judged)
    return Waiting(run.median * core_hour, fmean(gains) * per_day, unit, gained, len(judged))


def pays_at(asked: Waiting, since: datetime) -> datetime | None:
    """When a run begins to pay that was first asked for at ``since``; None where it never does."""
    if asked.loss_per_day <= 0 or asked.cost / asked.loss_per_day >= FOREVER.days:
        return None
    return since + timedelta(days=asked.cost / asked.loss_per_day)
