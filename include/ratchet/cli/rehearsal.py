"""The small snapshot that ``ratchet validate`` tries, as people and programs see it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import typer

from ratchet.bootstrap import Ratchet
from ratchet.cli.progress import working
from ratchet.cli.tables import print_rows
from ratchet.domain.rehearsal import Column, sentence
from ratchet.errors import NoData


@dataclass(frozen=True)
class Tried:
    """What came of one model: in a sentence, by column, and what is wrong. Not ``done``: its data are not there."""

    model: str
    done: bool
    said: str
    columns: tuple[Column, ...] = ()
    problems: tuple[str, ...] = ()

    def is_right(self, *, asked: bool) -> bool:
        """Whether nothing is wrong; data that are not there are so only where the trial was ``asked`` for."""
        return not self.problems and (self.done or not asked)


def try_snapshots(ratchet: Ratchet, models: Iterable[str]) -> Iterator[Tried]:
    """Try a snapshot of each model."""
    for model in models:
        began = time.monotonic()
        try:
            with working(f"trying a snapshot of {model}"):
                tried, problems = ratchet.rehearse(model)
        except NoData as missing:
            yield Tried(model, done=False, said=f"{model}: no snapshot was tried: {missing}")
            continue
        said = sentence(tried, time.monotonic() - began)
        yield Tried(model, done=True, said=said, columns=tried.columns, problems=tuple(problems))


def show(tried: Tried, *, asked: bool, whole: bool) -> None:
    """Print what came of a model, column by column for the ``whole``."""
    typer.echo(tried.said, err=asked and not tried.done)
    if whole and tried.columns:
        print_rows([_row(column) for column in tried.columns], ["column", "is", "missing", "type"], as_json=False)
    for problem in tried.problems:
        typer.secho(problem, fg=typer.colors.RED, err=True)


def _row(column: Column) -> dict[str, str]:
    missing = f"{column.missing:.1%}" if column.missing else ""
    told = ", ".join((column.role, *column.tags))
    return {"column": column.name, "is": told, "missing": missing, "type": column.kind}
