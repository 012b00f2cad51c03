"""The model card of a version: one HTML file, free of scripts and of anything fetched, made from the dossier alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ratchet.workflow import sections

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--paper:#fff;--rule:#d9dee6;--good:#1a7f4b;--bad:#b3372f;
--open:#9a6a00;--band:#1a7f4b22;--champion:#6b7280;--challenger:#2457c5}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--paper:#14181f;--rule:#2d3440;--good:#4cc38a;
--bad:#f2766d;--open:#e0b04c;--band:#4cc38a2e;--champion:#9ca3af;--challenger:#7ba2ff}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:860px;margin:2rem auto;
padding:0 1rem}h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem;border-top:1px solid var(--rule);
padding-top:1.2rem}p.lead{font-size:1.1rem}.soft{color:var(--soft)}.tag{font-weight:600}
table{border-collapse:collapse;width:100%;font-size:.92rem}td,th{text-align:left;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}svg{max-width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--soft)}.good{color:var(--good);fill:var(--good)}.bad{color:var(--bad);fill:var(--bad)}
.open{color:var(--open);fill:var(--open)}.band{fill:var(--band)}.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}
.estimate{stroke:var(--challenger);stroke-width:2}.limit{stroke:var(--bad);stroke-dasharray:5 4}
.whisker{stroke:var(--ink);stroke-width:2}.line{fill:none;stroke:var(--challenger);stroke-width:2}
.champion{color:var(--champion);fill:var(--champion)}.challenger{color:var(--challenger);fill:var(--challenger)}
.champion-line{stroke:var(--champion)}.challenger-line{stroke:var(--challenger)}.plain{fill:var(--challenger)}
.unseen{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden;white-space:nowrap}
thead th{overflow-wrap:normal}.table,.plot{overflow-x:auto}code{font-size:.85em}
@media print{body{margin:0;max-width:none}}
""".replace("\n", "")


def key_of(attempt_id: str) -> str:
    """Where the store keeps the attempt's card."""
    return f"cards/{attempt_id}.html"


def card(dossier: Mapping[str, Any], dossier_sha256: str) -> str:
    """The page of a dossier as :mod:`ratchet.workflow.attempting` writes it; every text in it is escaped."""
    version, verdict = dossier["challenger"]["version"], dossier["verdict"]
    name = escape(dossier["model"])
    lead = f"{sections.headline(verdict, version)} {escape(sections.verdict_in_words(dossier))}"
    told = [
        *sections.candidates(dossier),
        sections.uplift(dossier),
        *sections.payoff_by_threshold(dossier),
        *sections.payoff_by_capacity(dossier),
        *sections.slices(dossier),
        *sections.scored(dossier),
        sections.data_shift(dossier),
        sections.metrics(dossier),
        sections.checks(dossier),
        sections.provenance(dossier, dossier_sha256),
    ]
    parts = [
        f"<h1>{name}, version {version}</h1>",
        f'<p class="lead">{lead}</p>',
        sections.bullets(verdict["reasons"]),
        *(section.html() for section in sections.deployed(dossier)),
        sections.about(dossier),
        *(section.html() for section in told),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">{_STYLE}'
    title = f"<title>{name} version {version}</title>"
    return f'<!doctype html><html lang="en"><head>{head}{title}</head><body>{"".join(parts)}</body></html>'


_STYLE = f"<style>{STYLE}</style>"
