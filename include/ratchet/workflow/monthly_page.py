"""Owners' months as one HTML file, free of scripts and of anything fetched; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ratchet.domain.costs import GIGABYTE
from ratchet.domain.findings import SEVERITIES
from ratchet.domain.monthly import DAYS, ModelMonth, OwnerMonth
from ratchet.workflow.cards import STYLE
from ratchet.workflow.findings_page import COLOURS


def page(months: Sequence[OwnerMonth]) -> str:
    """A section per owner: the models at a glance, promotions with their worth, budgets, findings."""
    title = f"<title>{escape(', '.join(month.owner for month in months) or 'nobody')}</title>"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style>{title}</head>'
        f"<body>{''.join(map(_owner, months))}</body></html>"
    )


def totals(month: OwnerMonth) -> str:
    """The month in one sentence."""
    promoted = sum(len(model.promotions) for model in month.models)
    said = [
        _count(len(month.models), "model"),
        _count(sum(model.attempts for model in month.models), "attempt"),
        _count(promoted, "promotion"),
        f"{month.core_hours:.2f} core hours",
        f"{sum(model.stored_bytes for model in month.models) / GIGABYTE:.3f} GB kept",
    ]
    if month.price is not None:
        said.append(f"{month.price:,.2f} {month.unit}")
    idle = [model.model for model in month.models if model.idle]
    worth = "; ".join(f"{value:,.0f} {unit}" for unit, value in sorted(month.worth.items()))
    return (
        ", ".join(said)
        + (f"; worth at least {worth} for {DAYS} days, each bound by itself" if worth else "")
        + (f"; idle: {', '.join(idle)}" if idle else "")
    )


def _owner(month: OwnerMonth) -> str:
    return "".join(
        [
            f"<h1>{escape(month.owner)}, {escape(month.month)}</h1>",
            f'<p class="lead">{escape(totals(month))}.</p>',
            "<h2>Models</h2>",
            _table(
                ("model", "serving", "attempts", "verdicts", "promoted", "taken back", "core hours", "GB", "price"),
                (_model(model, month.unit) for model in month.models),
            ),
            _promotions(month),
            "<h2>Budgets</h2>",
            _table(
                ("model", "limit", "most used", "allowed", "share"),
                (
                    (
                        each.model,
                        use.rule,
                        f"{use.spent:.3g} {use.unit}",
                        f"{use.allowed:g}",
                        _share(use.spent, use.allowed),
                    )
                    for each in month.models
                    for use in each.budget
                ),
            ),
            "<h2>Findings of the audit, as of today</h2>",
            _findings(month),
        ]
    )


def _model(model: ModelMonth, unit: str | None) -> tuple[str, ...]:
    return (
        model.model + (" (retired)" if model.retired else ""),
        "–" if model.serving is None else f"version {model.serving}",
        str(model.attempts),
        verdicts(model),
        str(len(model.promotions)),
        str(model.taken_back),
        f"{model.core_hours:.2f}",
        f"{model.stored_bytes / GIGABYTE:.3f}",
        "" if model.price is None else f"{model.price:,.2f} {unit}",
    )


def verdicts(model: ModelMonth) -> str:
    """``promote 1, keep_champion 2, no verdict 1``."""
    said = [f"{decision} {count}" for decision, count in model.verdicts.items()]
    return ", ".join([*said, *([f"no verdict {model.ended_without}"] if model.ended_without else [])]) or "–"


def _promotions(month: OwnerMonth) -> str:
    rows = [
        (
            f"{model.model}@{each.version}",
            each.attempt,
            _number(each.lower, each.unit),
            _number(each.estimate, each.unit),
            _number(each.worth, each.unit),
        )
        for model in month.models
        for each in model.promotions
    ]
    if not rows:
        return ""
    said = "The lower bound counts: an estimate that was selected is too high on average."
    heads = ("version", "attempt", "at least, per decision", "estimate", f"at least, for {DAYS} days")
    return f'<h2>Promotions</h2><p class="soft">{said}</p>{_table(heads, rows)}'


def _findings(month: OwnerMonth) -> str:
    found = [finding for model in month.models for finding in model.findings]
    if not found:
        return "<p>Nothing but what is in order.</p>"
    rows = "".join(
        f"<tr><td>{escape(f.model or '')}</td><td>{escape(f.check)}</td>"
        f'<td class="tag {COLOURS[f.severity]}">{f.severity}</td>'
        f"<td>{escape(f.found)}</td><td>{escape(f.remedy)}</td></tr>"
        for f in sorted(found, key=lambda f: SEVERITIES.index(f.severity))
    )
    heads = "".join(f"<th>{name}</th>" for name in ("model", "check", "severity", "found", "what to do"))
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    told = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{told}</tr>{body}</table>"


def _number(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:,.4g} {unit}"


def _share(spent: float, allowed: float) -> str:
    return f"{spent / allowed:.0%}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
