"""One command that looks at all that has a digest."""

from __future__ import annotations

from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows


def verify(
    model: Annotated[
        str | None, typer.Argument(help="One model; all when left out.", autocompletion=known_models)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the audit log, artifacts, snapshots, dossiers, evidence and aliases with the ledger's digests.

    One line per finding, and exit code 1, when something was changed, is gone, or has no digest to compare with.

    ratchet verify flight_delay
    """
    with working("looking at") as tell:
        found = wire().verifier.verify(model, tell=tell)
    if as_json:
        print_rows([vars(finding) for finding in found.findings], ["kind", "name", "problem"], as_json=True)
    for finding in found.findings if not as_json else ():
        typer.secho(f"{finding.kind} {finding.name}: {finding.problem}", fg=typer.colors.RED)
    if found.findings:
        raise typer.Exit(1)
    if not as_json:
        looked = ", ".join(f"{count:,} of {kind}" for kind, count in found.looked_at.items())
        typer.echo(f"all is as it was recorded ({looked})")
