"""``ratchet purge``: what retention removes of models' pasts; it only says so until it is told to."""

from __future__ import annotations

import getpass
import json
from dataclasses import asdict
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows
from ratchet.domain.costs import GIGABYTE
from ratchet.domain.housekeeping import DEPLOYMENT
from ratchet.domain.orphans import Orphan
from ratchet.errors import Refused
from ratchet.workflow.purging import Purged


def purge(
    model: Annotated[str | None, typer.Argument(help="Only this model.", autocompletion=known_models)] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it, for good; else it is only told.")] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Instead, what no row of the ledger names, of all models.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what no ``retention`` keeps: snapshots, versions, studies, predictions, reports, old rows of the ledger.

    Whatever the champion, its predecessor, an open attempt or a retained version needs stays, and is told with who
    needs it. Rows (events, dead letters, and those that ``RATCHET_RETENTION_ROWS`` is about) go by whole months. A
    purge that was killed is completed by the next one.

    ratchet purge

    ratchet purge flight_delay --apply
    """
    if orphans:
        if model is not None:
            raise Refused("--orphans looks for what is of no model that is known: leave the model out")
        with working("removing orphans" if apply else "looking for orphans"):
            nobodys, freed = wire().purges.orphans(apply=apply, actor=getpass.getuser())
        _print_orphans(nobodys, freed, as_json=as_json)
        return
    with working("removing what no spec keeps" if apply else "looking for what no spec keeps"):
        found = wire().purges.purge(model, apply=apply, actor=getpass.getuser())
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], default=str, indent=1))
        return
    rows = [
        {"model": one.model, "": told, "kind": item.kind, "name": item.name, "bytes": size, "why": item.why}
        for one in found
        for told, item, size in [
            *(("removed" if apply else "goes", item, size) for item, size in one.remove),
            *(("stays", item, None) for item in one.spared),
        ]
    ]
    if rows:
        print_rows(rows, ["model", "", "kind", "name", "bytes", "why"], as_json=False)
    by_age = [
        {"model": one.model, "": "removed" if apply else "goes", "rows": row.rows, "of": row.kind}
        | {"before": row.before.date(), "why": row.why}
        for one in found
        for row in one.rows
    ]
    if by_age:
        print_rows(by_age, ["model", "", "rows", "of", "before", "why"], as_json=False)
    for one in found:
        typer.echo(_summary(one))
    if not found:
        typer.echo("no deployed spec has a retention: all is kept. See docs/model-spec.md")
    elif not apply and any(one.remove or one.rows for one in found):
        typer.echo("nothing was removed yet: add --apply")


def _print_orphans(found: list[Orphan], freed: int | None, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
        return
    if found:
        print_rows([vars(one) for one in found], ["kind", "name", "bytes", "why"], as_json=False)
    if freed is None:
        known = sum(one.bytes or 0 for one in found)
        typer.echo(f"{len(found)} orphans, {known / GIGABYTE:.4f} GB{': add --apply to remove them' if found else ''}")
    else:
        typer.echo(f"{len(found)} orphans removed, {freed / GIGABYTE:.4f} GB freed")


def _summary(one: Purged) -> str:
    rows = sum(row.rows for row in one.rows)
    own = f", {rows:,} rows of the ledger" if rows else ""
    if one.model == DEPLOYMENT:
        return f"of no model: {rows:,} rows of the ledger"
    if one.removed is not None and one.freed_bytes is not None:
        return f"{one.model}: {one.removed} removed, {one.freed_bytes / GIGABYTE:.4f} GB freed{own}"
    known = sum(size or 0 for _, size in one.remove)
    unknown = sum(size is None for _, size in one.remove)
    more = f", and what {unknown} of them take that is known when they go" if unknown else ""
    return f"{one.model}: {len(one.remove)} to remove, {known / GIGABYTE:.4f} GB{more}{own}"
