"""Rows for people and for programs: how every listing command prints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ratchet.errors import Refused

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of words and tables.")]
MOST_WIDTH = 10_000
LEAST_TEXT = 40
"""Characters a row's last column, its prose, is given at least."""


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as a table of these columns, or all of them as JSON.

    The last column is prose and is folded to fit a terminal; the others keep their line, so that ids can be copied.
    What is no terminal (a pipe, a file) gets one line per row.
    """
    if as_json:
        typer.echo(json.dumps([dict(row) for row in rows], default=str, indent=1))
        return
    if not rows:
        typer.echo("nothing yet")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(said(row[name]) for name in columns))
    terminal = Console()
    whole = Console(width=MOST_WIDTH, markup=False).measure(table).maximum
    least = whole - max(len(said(row[columns[-1]])) for row in rows) + LEAST_TEXT
    width = min(whole, max(terminal.width, least)) if terminal.is_terminal else whole
    Console(width=width, highlight=False, markup=False).print(table)


def print_done(done: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print what a command did: as an object for a program, else in these lines."""
    if as_json:
        typer.echo(json.dumps(dict(done), default=str, ensure_ascii=False, indent=1))
        return
    for line in lines:
        typer.echo(line)


def write_page(path: Path, page: str) -> None:
    """Write a page where somebody asked for it. Raises :class:`Refused` where that cannot be."""
    try:
        path.write_text(page)
    except OSError as error:
        raise Refused(
            f"--html: {path} cannot be written: {error.strerror}. Name a file in a folder of yours"
        ) from error


def said(value: Any) -> str:
    """A cell: times in UTC to the second, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    return str(value)
