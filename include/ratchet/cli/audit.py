"""The audit log's commands: what it says, and whether it is whole."""

from __future__ import annotations

import getpass
import json
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.events import MOMENT, before
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.audit import Head
from ratchet.errors import Refused

app = typer.Typer(help="Who did what, when and why; and whether that log is whole.", no_args_is_help=True)


@app.command()
def show(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only by this person or part.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, or all of a family, such as champion.")] = None,
    since: Annotated[str | None, typer.Option(help=f"Of this time or later. {MOMENT}")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Print the log, oldest first, by the wall clock."""
    with wire().ledger.transaction() as tx:
        rows = tx.audit_log(model, actor=actor, action=action, since=before(tx.wall(), since), limit=limit)
    if not as_json:
        rows = [row | {"detail": json.dumps(row["detail"], ensure_ascii=False)} for row in rows]
    print_rows(rows, ["seq", "at", "actor", "action", "model", "detail"], as_json=as_json)


@app.command()
def verify(
    head: Annotated[list[str] | None, typer.Option(help="An end you wrote down: <number>:<sha256>.")] = None,
) -> None:
    """Walk the whole log: exit code 1, and one line each, when an entry was edited, removed, moved or inserted.

    The end of the log is compared with the ledger's own count and with what the sweep keeps in storage each minute.
    """
    try:
        heads = [Head.parse(text, "--head") for text in head or ()]
    except ValueError as error:
        raise Refused(f"--head: {error}") from error
    state = wire().audit_log.verify(heads)
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
) -> None:
    """Keep the log's present end although entries kept before are missing, as after restoring a backup."""
    head = wire().audit_log.accept(getpass.getuser(), reason)
    typer.echo(f"accepted; head {head}")
