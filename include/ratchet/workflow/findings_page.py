"""An audit's findings as one HTML file, free of scripts and of anything fetched; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ratchet.domain.findings import CHECKS, SEVERITIES, Finding, Severity, worst
from ratchet.workflow.cards import STYLE
from ratchet.workflow.inspecting import Report

COLOURS: dict[Severity, str] = {"critical": "bad", "warning": "open", "info": "soft", "ok": "good"}


def page(report: Report) -> str:
    """Who has what, at a glance, then every model's findings, the gravest first."""
    counts = ", ".join(f"{sum(f.severity == s for f in report.findings)} {s}" for s in SEVERITIES)
    business = "" if report.clock == "wall" else f" Business time is replayed: {report.business:%Y-%m-%d %H:%M}Z."
    sections = [
        "<h1>Audit</h1>",
        f'<p class="lead">{len(report.models)} models, {counts}.</p>',
        f'<p class="soft">Looked at {report.at:%Y-%m-%d %H:%M}Z.{business}</p>',
        _overview(report),
        *(_section(model, [f for f in report.findings if f.model == model]) for model in report.models),
        _section("The audit log", [f for f in report.findings if f.model is None]),
    ]
    title = f"<title>Audit of {report.at:%Y-%m-%d}</title>"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style>{title}</head>'
        f"<body>{''.join(sections)}</body></html>"
    )


def _overview(report: Report) -> str:
    """A row per model, with how grave each check's worst finding is."""
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("model", "worst", *SEVERITIES[:-1], "checks in order"))
    rows = ""
    for model in report.models:
        found = [f for f in report.findings if f.model == model]
        counts = "".join(f"<td class=n>{sum(f.severity == s for f in found)}</td>" for s in SEVERITIES[:-1])
        in_order = sum(worst(f for f in found if f.check == check) in {"info", "ok"} for check in CHECKS)
        order = f"<td class=n>{in_order} of {len(CHECKS)}</td>"
        rows += f"<tr><td>{escape(model)}</td>{_tag(worst(found))}{counts}{order}</tr>"
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _section(title: str, found: Sequence[Finding]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("check", "severity", "found", "what to do"))
    rows = "".join(
        f"<tr><td>{escape(f.check)}</td>{_tag(f.severity)}<td>{escape(f.found)}</td><td>{escape(f.remedy)}</td></tr>"
        for f in sorted(found, key=lambda f: SEVERITIES.index(f.severity))
    )
    return f"<h2>{escape(title)}</h2><table><tr>{heads}</tr>{rows}</table>"


def _tag(severity: Severity) -> str:
    return f'<td class="tag {COLOURS[severity]}">{severity}</td>'
