"""The small snapshot that ``ratchet validate`` tries, as people see it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import typer

from ratchet.bootstrap import Ratchet
from ratchet.cli.tables import print_rows
from ratchet.domain.rehearsal import Column, sentence
from ratchet.errors import NoData


def try_snapshots(ratchet: Ratchet, models: Iterable[str], *, asked: bool, whole: bool) -> bool:
    """Try a snapshot of each model and print what came of it, column by column for the ``whole``.

    Returns whether nothing is wrong with any. A model whose data are not there is told, and counts as wrong only where
    the trial was ``asked`` for.
    """
    right = True
    for model in models:
        began = time.monotonic()
        try:
            tried, problems = ratchet.rehearse(model)
        except NoData as missing:
            typer.echo(f"{model}: no snapshot was tried: {missing}", err=asked)
            right = right and not asked
            continue
        typer.echo(sentence(tried, time.monotonic() - began))
        if whole and tried.columns:
            rows = [_row(column) for column in tried.columns]
            print_rows(rows, ["column", "is", "missing", "type"], as_json=False)
        for problem in problems:
            typer.secho(problem, fg=typer.colors.RED, err=True)
        right = right and not problems
    return right


def _row(column: Column) -> dict[str, Any]:
    missing = f"{column.missing:.1%}" if column.missing else ""
    told = ", ".join((column.role, *column.tags))
    return {"column": column.name, "is": told, "missing": missing, "type": column.kind}
