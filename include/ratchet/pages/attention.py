"""What of a model needs people, and what else is worth finding it by: pure rules over what the API tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ratchet.api import schemas as s


@dataclass(frozen=True)
class Matter:
    """One reason to look at a model: how many it makes of it, and how that is said of one and of several."""

    count: Callable[[s.Model], int]
    one: str
    many: str
    urgent: bool = True

    def said(self, count: int) -> str:
        """So many of it, in words."""
        return f"{count:,} {self.one if count == 1 else self.many}"


def _used_up(model: s.Model) -> bool:
    used = model.budget
    if used is None:
        return False
    spent = (
        (used.runs_today, used.runs_per_day),
        (used.core_hours_today, used.core_hours_per_day),
        (used.core_hours_month, used.core_hours_per_month),
        (used.money_month, used.money_per_month),
    )
    return any(limit is not None and taken is not None and taken >= limit for taken, limit in spent)


MATTERS: Mapping[str, Matter] = {
    "approvals": Matter(lambda m: len(m.approvals_waiting), "approval waits", "approvals wait"),
    "champion": Matter(lambda m: m.champion is None, "model has no champion", "models have no champion"),
    "spec": Matter(lambda m: m.budget is None, "spec is none for this code", "specs are none for this code"),
    "budget": Matter(_used_up, "budget is used up", "budgets are used up"),
    "held": Matter(lambda m: m.held is not None, "model waits its turn", "models wait their turn", urgent=False),
    "snoozed": Matter(lambda m: m.snoozed is not None, "model sleeps", "models sleep", urgent=False),
}
"""By the name under which the page of models is narrowed to them; those that are urgent wait for people."""
ATTENTION = "attention"


def matters(model: s.Model) -> list[str]:
    """The names of what there is to say of this model; nothing of one that is retired."""
    return [] if model.retired else [name for name, matter in MATTERS.items() if matter.count(model)]


def shown(model: s.Model, show: str | None) -> bool:
    """Whether the model belongs on a page narrowed to this matter, or to all that are urgent."""
    if show == ATTENTION:
        return any(MATTERS[name].urgent for name in matters(model))
    return show not in MATTERS or show in matters(model)


def summary(models: Iterable[s.Model]) -> list[tuple[str, str]]:
    """What there is, as (name, words): nothing of what there is none of."""
    known = [model for model in models if not model.retired]
    counts = {name: sum(int(matter.count(model)) for model in known) for name, matter in MATTERS.items()}
    return [(name, MATTERS[name].said(count)) for name, count in counts.items() if count]
