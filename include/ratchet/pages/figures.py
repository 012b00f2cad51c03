"""What the pages of models draw, from what the API tells; every text in a figure is escaped by the charts."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ratchet.api import schemas as s
from ratchet.pages.rendering import places, signed
from ratchet.workflow import charts
from ratchet.workflow.charts import Interval, Mark, Span

CAME = {
    "init": "was made the first champion",
    "promotion": "was promoted",
    "rollback": "was rolled back to",
    "revert": "was taken back by probation",
}


def payoff_over_time(told: s.Earnings) -> Markup | None:
    """What was earned per decision: realised, else expected, and as verdicts measured it; None of what is not known."""
    payoffs = [each for each in told.estimates if each.measure == "payoff"]
    realised = [each for each in payoffs if each.source == "realised"]
    rolled, kind = (realised, "realised") if realised else ([e for e in payoffs if e.source == "expected"], "expected")
    serving = {each.attempt_id: each.version for each in told.champions}
    judged = [each for each in payoffs if each.source == "judged"]
    beaten = [each for each in judged if serving.get(each.attempt_id) != each.version]
    promoted = [each for each in judged if serving.get(each.attempt_id) == each.version]
    if not rolled and not judged:
        return None
    drawn = charts.history(
        [("champion", _spans(beaten, told.unit)), ("challenger", _spans(promoted, told.unit))],
        [(kind, _spans(group, told.unit)) for group in _by_version(rolled)],
        [Mark(each.day, f"v{each.version}", _came(each)) for each in told.champions],
        f"Payoff in {told.unit or 'payoff units'} per decision",
    )
    return Markup(drawn)  # noqa: S704 - charts escape every text


def uplift_by_day(told: s.VerdictInFull) -> Markup | None:
    """The last verdict as a picture; None where no number could be given."""
    if told.estimate is None or not told.clusters:
        return None
    days = [day for day in told.clusters if day.rows]
    overall = Interval("", told.estimate, told.lower, told.upper)
    each = [day.total_uplift / day.rows for day in days]
    unit = f"{told.unit or 'payoff units'} per decision"
    return Markup(charts.days([day.label for day in days], each, overall, unit))  # noqa: S704 - charts escape


def _by_version(rolled: Sequence[s.Estimate]) -> list[list[s.Estimate]]:
    """Runs of one version: no line joins what two models earned."""
    groups: list[list[s.Estimate]] = []
    for each in rolled:
        if not groups or groups[-1][-1].version != each.version:
            groups.append([])
        groups[-1].append(each)
    return groups


def _spans(estimates: Sequence[s.Estimate], unit: str | None) -> list[Span]:
    return [Span(e.first_day, e.last_day, e.estimate, e.lower, e.upper, _said(e, unit)) for e in estimates]


def _said(told: s.Estimate, unit: str | None) -> str:
    digits = places(told.estimate, told.lower, told.upper)
    bounds = ""
    if told.lower is not None and told.upper is not None:
        bounds = f" ({signed(told.lower, digits)} to {signed(told.upper, digits)})"
    days = f"{told.first_day} to {told.last_day}"
    return f"version {told.version}, {told.source}: {signed(told.estimate, digits)} {unit or ''}{bounds}, {days}"


def _came(served: s.Served) -> str:
    return f"version {served.version} {CAME.get(served.kind, 'came to serve')} on {served.day}"
