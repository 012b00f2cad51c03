"""What the monitor has found: ``ratchet monitor``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ratchet.bootstrap import Ratchet, wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import MonitoredRow
from ratchet.workflow.monitoring import key_of

CHECKS = ("quality", "features", "predictions", "payoff")
MOST = 20


def monitor(
    model: Annotated[
        str | None,
        typer.Argument(help="One model, with its newest report; all when left out.", autocompletion=known_models),
    ] = None,
    window_end: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The window that ends before this local day.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Look now at the window that is due, or at the one that is named.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The windows of new rows that were looked at, newest first; of one model its features too, worst first.

    ratchet monitor flight_delay --run --window-end 2013-06-01
    """
    ratchet = wire()
    if model is None and (run or window_end is not None):
        raise Refused("a window is a model's: name the model. Run: ratchet monitor <model> …")
    end = window_end.date() if window_end is not None else None
    if run and model is not None:
        with working(f"looking at the new rows of {model}"):
            answer = ratchet.monitor(model, end)
        if not as_json:
            typer.echo(answer["reason"])
    with ratchet.ledger.transaction() as tx:
        windows = tx.monitored(model, limit=MOST)
        zones = {row.model: row.document["data"]["spine"]["timezone"] for row in tx.specs()}
    rows = [_row(window, zones) for window in windows]
    if end is not None:
        rows = [row for row in rows if row["window_end"] == end.isoformat()]
    read = [monitor_report(ratchet, row["model"], row["at"], row["report_sha256"]) for row in rows[: 1 if model else 0]]
    rows = [row | {"report": read[0] if read and i == 0 else None} for i, row in enumerate(rows)]
    if as_json:
        print_rows(rows, [], as_json=True)
        return
    print_rows(rows, ["model", "window_end", "state", "version", *CHECKS, "cause"], as_json=False)
    if model and rows and rows[0]["report"]:
        _print(rows[0]["report"])


def validate_lines(spec: ModelSpec) -> Iterator[str]:
    """Whether the scores could ever alarm: the rows that judge and the window must give blocks enough."""
    if spec.monitor is None or "predictions" not in spec.monitor.checks:
        return
    from ratchet.domain.drift import least_p_value  # noqa: PLC0415 - scipy

    monitor, most = spec.monitor, spec.data.holdout.last
    judged, new = most // monitor.block, monitor.window // monitor.block
    least = least_p_value(judged, new) if judged else 1.0
    can = "can alarm" if least <= monitor.level else "can never alarm and are reported as unjudged"
    yield (
        f"monitor of {spec.model}: scores {can} at level {monitor.level:g}: {new} new blocks beside at most {judged} "
        f"that judged allow a p-value of {least:.2g}"
    )


def _row(window: MonitoredRow, zones: Mapping[str, str]) -> dict[str, Any]:
    local = window.window_end.astimezone(ZoneInfo(zones.get(window.model, "UTC")))
    return {
        "model": window.model,
        "window_end": local.date().isoformat(),
        "at": window.window_end,
        "state": window.state,
        "version": window.version,
        **{check: window.found.get(check, {}).get("outcome", "") for check in CHECKS},
        "cause": window.found.get("cause", ""),
        "found": window.found,
        "report_uri": window.report_uri,
        "report_sha256": window.report_sha256,
    }


def monitor_report(ratchet: Ratchet, model: str, window_end: datetime, digest: str | None) -> dict[str, Any] | None:
    """The report of a window, against the digest in the ledger; None where it was not looked at yet."""
    if digest is None:
        return None
    content = ratchet.store.get_bytes(key_of(model, window_end, digest), digest=digest)
    report: dict[str, Any] = json.loads(content)
    return report


def _print(report: Mapping[str, Any]) -> None:
    for check in CHECKS:
        if check in report:
            typer.echo(f"{check}: {report[check]['outcome']}. {'; '.join(report[check]['said'])}")
    if scores := report.get("predictions", {}).get("scores"):
        read, scored = scores["days_read"], scores["days_scored"]
        typer.echo(f"scores: read for {read} days as scoring wrote them, made for {scored}")
    for check in ("features", "predictions"):
        drift = report.get(check, {}).get("drift")
        if drift is None:
            continue
        found = [_feature(feature, drift["level"]) for feature in drift["features"]]
        found += [_feature(feature, 0.0) | {"moved": "seasonal"} for feature in report[check].get("seasonal", ())]
        columns = ["feature", "moved", "severity", "distance", "threshold", "shift_sd", "p_adjusted", "missing"]
        print_rows(found, columns, as_json=False)
    typer.echo(f"report: against attempt {report['reference']['attempt']}, {report['reference']['rows']:,} rows")


def _feature(feature: Mapping[str, Any], level: float) -> dict[str, Any]:
    shift = feature["shift"]
    return {
        "feature": feature["feature"],
        "moved": "yes" if feature["adjusted"] <= level else "",
        "severity": f"{feature['severity']:.2f}",
        "distance": f"{feature['distance']:.3f}",
        "threshold": f"{feature['threshold']:.3f}",
        "shift_sd": "" if shift is None else f"{shift:.2f}",
        "p_adjusted": f"{feature['adjusted']:.3f}",
        "missing": f"{feature['missing_before']:.1%} → {feature['missing_after']:.1%}",
    }
