"""``ratchet models``: every model at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.tables import AsJson, print_rows
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow.approving import verdict_of
from ratchet.workflow.overview import ModelOverview, Overviews


def models(
    owner: Annotated[str | None, typer.Option(help="Only those of this team.")] = None, as_json: AsJson = False
) -> None:
    """Every deployed model at a glance: who serves and for how long, the last verdict, what waits and for what.

    ratchet models --owner ops-analytics
    """
    with wire().ledger.transaction() as tx:
        rows = [row for row in tx.specs() if owner in {None, (row.document.get("owner") or {}).get("team")}]
        told = Overviews().of(tx, rows)
    if as_json:
        print_rows([asdict(one) | {"last_verdict": _verdict(one.last_verdict)} for one in told], [], as_json=True)
        return
    columns = ["model", "owner", "serves", "last verdict", "open events", "waits"]
    print_rows([_row(one) for one in told], columns, as_json=False)


def _row(one: ModelOverview) -> dict[str, Any]:
    age = "" if one.age_days is None else f" for {one.age_days:.1f} days"
    serves = f"version {one.champion.version}{age}" if one.champion else "nobody"
    asked = [f"{attempt} for approval: ratchet approvals" for attempt in one.approvals_waiting]
    return {
        "model": one.model,
        "owner": one.owner.get("team"),
        "serves": f"{serves}, retired" if one.retired else serves,
        "last verdict": _in_words(_verdict(one.last_verdict)),
        "open events": ", ".join(f"{count:,} {fate}" for fate, count in sorted(one.open_events.items())),
        "waits": "; ".join([*asked, *([one.held] if one.held else [])]),
    }


def _verdict(judged: AttemptRow | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    told = verdict_of(judged)
    bounds = {name: told.get(name) for name in ("estimate", "lower", "upper", "unit")}
    return {"attempt": judged.id, "decision": judged.verdict, "judged_at": judged.judged_at} | bounds


def _in_words(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "none yet"
    sure = [verdict[name] for name in ("estimate", "lower", "upper")]
    if None in sure:
        return str(verdict["decision"])
    return "{} {:+.2f} [{:+.2f}, {:+.2f}] {}".format(verdict["decision"], *sure, verdict["unit"])
