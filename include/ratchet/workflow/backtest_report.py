"""A backtest as a record, as a page, and beside the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np

from ratchet.domain.differences import Difference, differences
from ratchet.domain.policies import recommend
from ratchet.domain.spec import ModelSpec
from ratchet.ports.store import Store
from ratchet.workflow import charts
from ratchet.workflow.cards import STYLE
from ratchet.workflow.policy_backtest import DEFAULT, Heard, Standing, Stretch, World

FORMAT = "ratchet.backtest.v1"
MOST_KEPT_DIGITS = 2


@dataclass(frozen=True)
class Change:
    """One row of the table that another spec gave: its difference to the default, and its total, before and now."""

    world: str
    policy: str
    column: str
    before: float | int | str | None
    now: float | int | str | None


@dataclass(frozen=True)
class Diff:
    """What changed since the report before: the spec's keys, and the rows of the tables."""

    before: str
    spec: tuple[Difference, ...]
    rows: tuple[Change, ...]


COMPARED = ("retrains", "promotions", "false_promotions", "total", "minus_default", "superior", "non_inferior")


def document(
    spec: ModelSpec, stretch: Stretch, events: Heard, worlds: Sequence[World], made: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole of a backtest, JSON-able; ``made`` is what else should be kept of how it was made."""
    compared = len(worlds[0].standings) - 1
    return {
        "format": FORMAT,
        "model": spec.model,
        "question": question(spec, stretch, worlds, events),
        "stretch": {"start": f"{stretch.start}", "judge_from": f"{stretch.judge_from}", "end": f"{stretch.end}"},
        "events": events.said,
        "unit": spec.business.payoff.unit,
        "confidence": spec.gate.confidence,
        "compared": compared,
        "margin": spec.gate.min_uplift,
        "default": DEFAULT,
        "spec": {"digest": spec.digest, "document": spec.model_dump(mode="json")},
        "worlds": [_world(world) for world in worlds],
        "made": dict(made),
    }


def question(spec: ModelSpec, stretch: Stretch, worlds: Sequence[World], events: Heard) -> str:
    """What tells one question from another: reports of the same one can be compared, whatever the spec was."""
    parts = [spec.model, *(f"{day}" for day in (stretch.start, stretch.judge_from, stretch.end)), events.said]
    parts += [world.corruption.tag for world in worlds if world.corruption is not None]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _world(world: World) -> dict[str, Any]:
    gated = [standing for standing in world.standings if standing.policy.gated]
    chosen, why = recommend(
        {standing.policy.name: standing.choosing for standing in gated},
        {standing.policy.name: standing.found for standing in gated},
        DEFAULT,
    )
    gate = next(standing.policy.spec.gate for standing in gated if standing.policy.name == chosen)
    corruption = world.corruption
    return {
        "world": "as it was" if corruption is None else f"{corruption.month:%Y-%m} corrupted",
        "corruption": None if corruption is None else {"month": f"{corruption.month}", "columns": corruption.columns},
        "rows": world.rows,
        "judging": {"rows": world.judging_rows, "days": world.judging_days},
        "policies": [_row(standing) for standing in world.standings],
        "recommended": {"policy": chosen, "gate.mode": gate.mode, "gate.deploy": gate.deploy, "why": why},
        "told_apart": [s.policy.name for s in world.standings if s.conclusion.superior != "open" and _differs(s)],
        "days": list(world.days),
    }


def _differs(standing: Standing) -> bool:
    return standing.policy.name != DEFAULT and standing.found["minus_gate"] != 0


def _row(standing: Standing) -> dict[str, Any]:
    found = standing.found
    return {
        "policy": standing.policy.name,
        "said": standing.policy.said,
        "retrains": standing.retrains,
        "promotions": standing.promotions,
        "false_promotions": standing.false_promotions,
        "core_seconds": round(standing.core_seconds, 1),
        "approximate": standing.approximate,
        "choosing_total": round(standing.choosing, MOST_KEPT_DIGITS),
        "total": round(found["total_usd"], MOST_KEPT_DIGITS),
        "minus_default": round(found["minus_gate"], MOST_KEPT_DIGITS),
        "lower": _rounded(found["lower"]),
        "upper": _rounded(found["upper"]),
        **asdict(standing.conclusion),
        "runs": [run.told() for run in standing.runs],
        "promoted_on": [run.at.date().isoformat() for run in standing.runs[1:] if run.serves is not None],
        "daily": [round(float(value), MOST_KEPT_DIGITS) for value in standing.daily],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, MOST_KEPT_DIGITS)


# -- kept, and beside the one before -----------------------------------------------------------------------------------


def keep(store: Store, report: Mapping[str, Any]) -> tuple[str, Diff | None]:
    """Store the report and its page; returns the page's address, and what changed since the newest one before it.

    Reports of one question are kept one after the other; one that says the same as the newest takes its place.
    """
    folder = f"reports/{report['model']}/{report['question']}"
    names = sorted(key for key in store.sizes(folder) if key.endswith(".json"))
    before = json.loads(store.get_bytes(names[-1])) if names else None
    number = len(names)
    diff = None if before is None else difference(before, report)
    if before is not None and diff is None and before["worlds"] == json.loads(json.dumps(report["worlds"])):
        number -= 1
    name = f"{folder}/{number:04d}"
    store.put_bytes(f"{name}.html", page(report, diff).encode())
    store.put_bytes(f"{name}.json", json.dumps(report, indent=1).encode())
    return store.uri(f"{name}.html"), diff


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> Diff | None:
    """What another spec changed; None where it is the same one."""
    if before["spec"]["digest"] == now["spec"]["digest"]:
        return None
    rows = []
    was = {(world["world"], row["policy"]): row for world in before["worlds"] for row in world["policies"]}
    got = {(world["world"], row["policy"]): row for world in now["worlds"] for row in world["policies"]}
    for world, policy in dict.fromkeys([*was, *got]):
        old, new = was.get((world, policy), {}), got.get((world, policy), {})
        rows += [
            Change(world, policy, column, old.get(column), new.get(column))
            for column in COMPARED
            if old.get(column) != new.get(column)
        ]
    changed = differences(before["spec"]["document"], now["spec"]["document"])
    return Diff(before["spec"]["digest"], tuple(changed), tuple(rows))


def change_in_words(change: Change) -> str:
    """``always, total: 1,200 → 1,450 (+250)``; a row that one side lacks is told as such."""
    numbers = isinstance(change.before, int | float) and isinstance(change.now, int | float)
    apart = f" ({change.now - change.before:+,.0f})" if numbers else ""  # type: ignore[operator]
    return f"{change.policy} ({change.world}), {change.column}: {_said(change.before)} → {_said(change.now)}{apart}"


def _said(value: float | str | None) -> str:
    if value is None:
        return "(not there)"
    return value if isinstance(value, str) else f"{value:,.0f}"


# -- the page ----------------------------------------------------------------------------------------------------------

_LINES = ("#2457c5", "#b3372f", "#1a7f4b", "#9a6a00", "#7b3fb5", "#0d8a8a", "#c2498b", "#6b7280", "#4b5d16", "#d9822b")


def page(report: Mapping[str, Any], diff: Diff | None) -> str:
    """One self-contained HTML page: tables, cumulative payoff and its distance to the default, promotions marked."""
    stretch = report["stretch"]
    colours = "".join(
        f".s{i}{{stroke:{colour};fill:{colour}}}polyline.s{i}{{fill:none;stroke-width:2}}"
        for i, colour in enumerate(_LINES)
    )
    parts = [
        f"<h1>Policies for {escape(report['model'])}</h1>",
        f"<p>Decisions of {stretch['start']} until {stretch['end']}; those from {stretch['judge_from']} on judge.</p>",
        f"<p>Events: {escape(report['events'])}.</p>",
    ]
    for world in report["worlds"]:
        parts += [_section(report, world)]
    if diff is not None:
        keys = "".join(f"<li>{escape(f'{d.field}: {d.recorded!r} → {d.found!r}')}</li>" for d in diff.spec)
        rows = "".join(f"<li>{escape(change_in_words(change))}</li>" for change in diff.rows)
        none = "<li>no row of a table</li>"
        parts.append(f"<h2>Since the report before</h2><p>The spec changed:</p><ul>{keys}</ul><ul>{rows or none}</ul>")
    title = f"<title>Backtest of {escape(report['model'])}</title>"
    head = f'<meta charset="utf-8">{title}<style>{STYLE}body{{max-width:1000px}}{colours}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _section(report: Mapping[str, Any], world: Mapping[str, Any]) -> str:
    policies, unit = world["policies"], escape(report["unit"])
    default = next(row for row in policies if row["policy"] == report["default"])
    base = np.cumsum(default["daily"])
    cumulative, apart = [], []
    for row in policies:
        total = np.cumsum(row["daily"])
        cumulative.append(charts.Line(row["policy"], total.tolist(), tuple(row["promoted_on"])))
        apart.append(charts.Line(row["policy"], (total - base).tolist(), tuple(row["promoted_on"])))
    names = ("policy", "retrains", "promotions", "false", "core s", f"earned, {unit}", "minus the default", "interval")
    heads = "".join(f"<th>{name}</th>" for name in (*names, "superior", "non-inferior"))
    body = "".join(_table_row(row) for row in policies)
    corrupted = ""
    if world["corruption"]:
        corrupted = f"<p>In metric units on every day of {world['corruption']['month'][:7]}: "
        corrupted += f"{escape(', '.join(world['corruption']['columns']))}.</p>"
    return (
        f"<h2>The world {escape(world['world'])}</h2>{corrupted}<table><tr>{heads}</tr>{body}</table>"
        f"<p>{escape(world['recommended']['why'])}.</p>"
        f"<h3>Cumulative payoff, {unit}; a dot is a promotion</h3>{charts.paths(world['days'], cumulative)}"
        f"<h3>The same, less that of the default</h3>{charts.paths(world['days'], apart)}"
    )


def _table_row(row: Mapping[str, Any]) -> str:
    near = " (approximate)" if row["approximate"] else ""
    interval = "not known" if row["lower"] is None else f"[{row['lower']:+,.0f}, {row['upper']:+,.0f}]"
    cells = [f"<td title='{escape(row['said'], quote=True)}'>{escape(row['policy'])}{near}</td>"]
    numbers = [row["retrains"], row["promotions"], row["false_promotions"], f"{row['core_seconds']:.0f}"]
    numbers += [f"{row['total']:,.0f}", f"{row['minus_default']:+,.0f}", interval]
    cells += [f'<td class="n">{number}</td>' for number in numbers]
    return f"<tr>{''.join(cells)}<td>{row['superior']}</td><td>{row['non_inferior']}</td></tr>"
