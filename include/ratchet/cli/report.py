"""What the demo leaves behind: a table for people and ``demo.json`` for programs, both from the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from ratchet.cli.living import Lived, Looked
from ratchet.ports.ledger import AttemptRow, EventRow

if TYPE_CHECKING:
    from ratchet.domain.policies import PolicyTotal
    from ratchet.workflow.backtesting import Backtest

TERMINAL = ("started", "merged", "suppressed", "rejected", "expired", "failed")
CLEARED = "ratchet.drift.cleared"
KINDS = {"ratchet.drift.detected.v1": "drift", "ratchet.performance.degraded.v1": "performance"}
"""What the monitor's events are called beside an attempt's trigger."""
MOST_NAMES = 3
NAMES = {
    "never": "never retraining",
    "always": "always promoting",
    "always_fresh": "always, nothing withheld",
    "act_never": "acting never",
    "act_always": "acting on every flight",
    "gate": "Ratchet's gate",
}


def document(
    *,
    model: str,
    events: Sequence[EventRow],
    attempts: Sequence[AttemptRow],
    looks: Sequence[Looked],
    version: int | None,
    alias_version: int | None,
    backtest: Backtest | None,
    setup_seconds: float,
    year_seconds: float,
) -> dict[str, Any]:
    """The content of ``demo.json``; ``seconds`` of an attempt run from its trigger's receipt to its end."""
    runs = {attempt.id: attempt.dag_run_id for attempt in attempts}
    received = {row.pk: row.received_at for row in events}
    return {
        "events": [
            {
                "id": row.event_id,
                "type": row.type,
                "subject": str(row.data.get("dataset", row.model)),
                "fate": row.fate,
                "reason": row.reason,
                "run_id": runs.get(row.attempt_id or ""),
            }
            for row in sorted(events, key=lambda row: row.pk)
        ],
        "attempts": [_attempt(attempt, received) for attempt in in_order(attempts)],
        "monitor": [_window(look) for look in looks],
        "champion": {"model": model, "version": version, "alias_version": alias_version},
        "policies": {name: dict(backtest.policies[name]) for name in NAMES} if backtest else {},
        "policy_rows": backtest.rows if backtest else 0,
        "seconds": {"setup": round(setup_seconds, 1), "year": round(year_seconds, 1)},
    }


def _window(look: Looked) -> dict[str, Any]:
    report = look.report
    features, payoff = report.get("features", {}), report.get("payoff", {})
    return {
        "window_end": report["window"]["end"],
        "version": look.window.version,
        "state": look.window.state,
        "quality": report["quality"]["said"],
        "features": features.get("outcome"),
        "severity": features.get("severity"),
        "drifted": features.get("drifted", []),
        "predictions": report.get("predictions", {}).get("outcome"),
        "payoff": payoff.get("outcome"),
        "realised": payoff.get("realised"),
        "fallen": sorted(payoff.get("fallen", {})),
        "cause": report["cause"],
        "report_uri": look.window.report_uri,
    }


def _attempt(attempt: AttemptRow, received: Mapping[int, datetime]) -> dict[str, Any]:
    verdict = attempt.verdict_record or {}
    began = min(received.get(attempt.trigger_event_pk or -1, attempt.created_at), attempt.created_at)
    return {
        "run_id": attempt.dag_run_id,
        "trigger": attempt.trigger,
        "verdict": attempt.verdict,
        "uplift": verdict.get("estimate"),
        "lower": verdict.get("lower"),
        "upper": verdict.get("upper"),
        "unit": verdict.get("unit"),
        "champion_before": attempt.champion_version,
        "champion_after": champion_after(attempt),
        "challenger": attempt.challenger_version,
        "seconds": round((attempt.concluded_at - began).total_seconds(), 1) if attempt.concluded_at else None,
    }


def champion_after(attempt: AttemptRow) -> int | None:
    """Who serves when the attempt has ended."""
    return attempt.candidate_version if attempt.promoted else attempt.champion_version


def in_order(attempts: Sequence[AttemptRow]) -> list[AttemptRow]:
    """Oldest first."""
    return sorted(attempts, key=lambda attempt: attempt.epoch)


def unresolved(events: Sequence[EventRow]) -> list[str]:
    """The events without a terminal fate or a stated time, each with what is known of it."""
    return [
        f"{row.event_id} ({row.type}): {row.fate}, {row.reason}"
        for row in events
        if row.fate not in TERMINAL and not (row.fate == "deferred" and row.until is not None)
    ]


def promoted_over_a_champion(attempts: Sequence[AttemptRow]) -> bool:
    """Whether a challenger beat a sitting champion."""
    return any(champion_after(a) != a.champion_version is not None for a in attempts)


def step_seconds(steps: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Wall seconds of each step over all attempts; workers of one study run side by side, so the longest counts."""
    total: dict[str, float] = {}
    for of_attempt in steps:
        longest: dict[str, float] = {}
        for step, record in of_attempt.items():
            name = step.partition(".")[0]
            seconds = (record["finished_at"] - record["started_at"]).total_seconds()
            longest[name] = max(longest.get(name, 0.0), seconds)
        for name, seconds in longest.items():
            total[name] = total.get(name, 0.0) + seconds
    return total


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as a whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    scratch.replace(path)


def year_table(lived: Sequence[Lived], unit: str) -> Table:
    """One line per attempt, and one per act that started none; what the monitor found stands on the act's first."""
    table = Table("month", "event", "monitor", "verdict", f"uplift, {unit} per decision", "champion", "seconds")
    for told in lived:
        found = "\n".join(found_in(look) for look in told.looks)
        for attempt in in_order(told.attempts):
            before, after = attempt.champion_version, champion_after(attempt)
            table.add_row(
                told.act.month,
                escape(f"{reasons_of(told, attempt)}: {told.act.what}"),
                escape(found),
                attempt.verdict or attempt.state,
                uplift_of(attempt),
                "none" if after is None else (f"{before or 'none'} → {after}" if before != after else f"{after} stays"),
                f"{told.seconds:.0f}",
            )
            found = ""
        if not told.attempts:
            named = [told.act.month, f"data: {told.act.what}", found, waits(told, aside=False)]
            table.add_row(*map(escape, named), "", "", f"{told.seconds:.0f}")
    return table


def reasons_of(told: Lived, attempt: AttemptRow) -> str:
    """What started the attempt, and what the monitor had found that it took along: ``data, drift``."""
    taken = [KINDS[row.type] for row in told.claimed.get(attempt.id, ()) if row.type in KINDS]
    return ", ".join(dict.fromkeys([attempt.trigger, *taken]))


def found_in(look: Looked) -> str:
    """What the monitor found in a window, briefly: the severity counts from the spec's ``min_severity`` on."""
    report = look.report
    if look.window.state == "broken":
        return "broken data"
    features, scores = report.get("features", {}), report.get("predictions", {})
    fallen = sorted(report.get("payoff", {}).get("fallen", ()))
    found = []
    if features.get("outcome") == "drifted":
        found.append(f"drift {features['severity']:.2f}, {features['drifted'][0]}")
    if scores.get("outcome") == "drifted":
        found.append(f"scores {scores['severity']:.2f}")
    return ", ".join([*found, *(f"{metric} fell" for metric in fallen)]) or "nothing"


def told_of(look: Looked, unit: str) -> str:
    """One line on a window: each check with its outcome, the features that moved furthest, what was earned."""
    report = look.report
    if look.window.state == "broken":
        return "; ".join(report["quality"]["said"])
    parts = []
    for check, name in (("features", "feature_drift"), ("predictions", "prediction_drift")):
        part = report.get(check, {"outcome": "not looked at"})
        if part["outcome"] == "drifted":
            names = part["drifted"]
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            parts.append(f"{name} {part['severity']:.2f} ({', '.join(names[:MOST_NAMES])}{more})")
        else:
            parts.append(f"{name} {part['outcome']}")
    payoff = report.get("payoff", {"outcome": "not looked at"})
    earned = payoff.get("realised", {}).get("estimate")
    worth = "" if earned is None else f", {earned:+.2f} {unit} per decision"
    fallen = "".join(f", {metric} fell" for metric in sorted(payoff.get("fallen", ())))
    return "; ".join([*parts, f"payoff {payoff['outcome']}{worth}{fallen}"])


def uplift_of(attempt: AttemptRow) -> str:
    """``+0.61 [+0.12, +1.09]``: the estimate and its one-sided bounds."""
    verdict = attempt.verdict_record or {}
    numbers = [verdict.get(name) for name in ("estimate", "lower", "upper")]
    if any(number is None for number in numbers):
        return "not known"
    estimate, lower, upper = (f"{number:+.2f}" for number in numbers)
    return f"{estimate} [{lower}, {upper}]"


def waits(told: Lived, *, aside: bool = True) -> str:
    """Each fate of the act's events with its rule, once; no all-clears, and what was put aside only if asked for."""
    rows = [row for row in reversed(told.events) if not row.type.startswith(CLEARED)]
    rows = [row for row in rows if aside or row.fate != "suppressed"]
    said = dict.fromkeys(f"{row.fate}, {row.reason.partition(';')[0]}" for row in rows)
    return "\n".join(said)


def policy_table(backtest: Backtest) -> Table:
    """What each policy earned and how far from the gate, with the interval of that difference."""
    unit = backtest.unit
    table = Table("policy", f"earned, {unit}", f"minus the gate, {unit}", "95 % interval", "")
    for name, words in NAMES.items():
        found = backtest.policies[name]
        sure = "" if name == "gate" else verdict_on(found)
        table.add_row(words, f"{found['total_usd']:,.0f}", f"{found['minus_gate']:+,.0f}", _interval(found), sure)
    return table


def verdict_on(found: PolicyTotal) -> str:
    """How the gate fares against a policy, in words that claim no more than the interval does."""
    lower, upper = found["lower"], found["upper"]
    if lower is not None and lower > 0:
        return "the gate loses"
    if upper is not None and upper < 0:
        return "the gate wins"
    if found["minus_gate"] == 0:
        return "the same"
    return "the gate earned less; not certain" if found["minus_gate"] > 0 else "the gate earned more; not certain"


def withholding_line(backtest: Backtest) -> str:
    """What it cost to withhold the days that judge a challenger."""
    found = backtest.withholding
    return (
        f"Withholding the holdout (always promoting − always, nothing withheld): {found['minus_gate']:+,.0f} "
        f"{backtest.unit} {_interval(found)}"
    )


def _interval(found: PolicyTotal) -> str:
    if found["lower"] is None or found["upper"] is None:
        return "not known"
    return f"[{found['lower']:+,.0f}, {found['upper']:+,.0f}]"
