"""``ratchet audit``: findings on every model; and the audit log, what it says, and whether it is whole."""

from __future__ import annotations

import getpass
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.events import MOMENT, before
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done, print_rows, write_page
from ratchet.domain.audit import Head
from ratchet.domain.findings import SEVERITIES, exit_code, worst
from ratchet.errors import Refused
from ratchet.workflow.inspecting import Report

app = typer.Typer()


@app.callback(invoke_without_command=True)
def findings(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only of this model.", autocompletion=known_models)] = None,
    every: Annotated[bool, typer.Option("--all", help="Tell what is in order, too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 where anything is a warning.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the findings to this file, as one HTML page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Findings on every deployed model: how grave, what was found, what to do; its commands are about the audit log.

    Ends with 2 where anything is critical; with --strict with 1 where anything is a warning; else with 0. An audit that
    could not be made ends with 1 too, and says why.

    ratchet audit --model flight_delay --strict
    """
    if ctx.invoked_subcommand is not None:
        return
    with working("looking at every model" if model is None else f"looking at {model}"):
        report = wire().inspection.inspect(model)
    if html is not None:
        from ratchet.workflow.findings_page import page  # noqa: PLC0415 - numpy, by the cards' charts

        write_page(html, page(report))
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"worst": worst(report.findings)}, default=str, indent=1))
    else:
        _print(report, every=every)
        if html is not None:
            typer.echo(f"written to {html}")
    raise typer.Exit(exit_code(report.findings, strict=strict))


def _print(report: Report, *, every: bool) -> None:
    told = [finding for finding in report.findings if every or finding.severity != "ok"]
    told.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    if told:
        rows = [vars(finding) | {"model": finding.model or "–"} for finding in told]
        rows = [row | {"found": f"{row['found']} → {row['remedy']}" if row["remedy"] else row["found"]} for row in rows]
        print_rows(rows, ["severity", "model", "check", "found"], as_json=False)
    counts = Counter(finding.severity for finding in report.findings)
    counted = ", ".join(f"{counts[severity]} {severity}" for severity in SEVERITIES)
    models = "1 model" if len(report.models) == 1 else f"{len(report.models)} models"
    business = "" if report.clock == "wall" else f"; business time is replayed: {report.business:%Y-%m-%d %H:%M}Z"
    typer.echo(f"{models}: {counted}{business}")


@app.command()
def show(
    model: Annotated[str | None, typer.Option(help="Only of this model.", autocompletion=known_models)] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this person or part.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, or all of a family, such as champion.")] = None,
    since: Annotated[str | None, typer.Option(help=f"Of this time or later. {MOMENT}")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Print the log, oldest first, by the wall clock.

    ratchet audit show --model flight_delay --action champion --since 7d
    """
    with wire().ledger.transaction() as tx:
        rows = tx.audit_log(model, actor=actor, action=action, since=before(tx.wall(), since), limit=limit)
    if not as_json:
        rows = [row | {"detail": json.dumps(row["detail"], ensure_ascii=False)} for row in rows]
    print_rows(rows, ["seq", "at", "actor", "action", "model", "detail"], as_json=as_json)


@app.command()
def verify(
    head: Annotated[list[str] | None, typer.Option(help="An end you wrote down: <number>:<sha256>.")] = None,
    as_json: AsJson = False,
) -> None:
    """Walk the whole log: exit code 1, and one line each, when an entry was edited, removed, moved or inserted.

    The end of the log is compared with the ledger's own count and with what the sweep keeps in storage each minute.

    ratchet audit verify
    """
    try:
        heads = [Head.parse(text, "--head") for text in head or ()]
    except ValueError as error:
        raise Refused(f"--head: {error}") from error
    with working("walking the audit log"):
        state = wire().audit_log.verify(heads)
    if as_json:
        ends = {"head": state.head and str(state.head), "kept": state.kept and str(state.kept)}
        typer.echo(json.dumps({"whole": not state.problems, **ends, "problems": list(state.problems)}, indent=1))
        raise typer.Exit(1 if state.problems else 0)
    for problem in state.problems:
        typer.secho(problem, fg=typer.colors.RED, err=True)
    if state.problems:
        raise typer.Exit(1)
    if state.head is None:
        typer.echo("the audit log is empty")
        return
    typer.echo(f"whole: {state.head.seq:,} entries")
    typer.echo(f"head {state.head}")
    kept = f"entry {state.kept.seq} in {state.kept.source}" if state.kept else "nothing yet; the sweep does it"
    typer.echo(f"kept outside the ledger: {kept}")


@app.command()
def accept(
    reason: Annotated[str, typer.Option(help="Why, such as which backup was restored; kept in the audit log.")],
    as_json: AsJson = False,
) -> None:
    """Keep the log's present end although entries kept before are missing, as after restoring a backup.

    ratchet audit accept --reason "restored the backup of Sunday"
    """
    with working("walking the audit log"):
        head = wire().audit_log.accept(getpass.getuser(), reason)
    print_done({"head": str(head)}, [f"accepted; head {head}"], as_json=as_json)
