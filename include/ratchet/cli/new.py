"""A new model from a file, by flags or questions: ``ratchet new``."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from ratchet.bootstrap import wire
from ratchet.errors import Refused

ASKED = {
    "--from": "CSV or Parquet file with one row per decision",
    "--key": "column that names what is decided on",
    "--decided-at": "column with the moment of the decision",
    "--label": "column that is 1 where acting was right (for a number to predict use --target)",
    "--label-delay": "how long after its day a label is known, such as 2d",
    "--goal": "what the model is for, in a sentence",
    "--team": "team that owns it",
    "--email": "address of its owner",
    "--unit": "unit of the amounts, such as USD",
}
COSTS = {
    "--tp": "worth of acting where the label is 1",
    "--fp": "worth of acting where the label is 0 (a cost is negative)",
    "--under": "worth of each unit that a prediction was too low (negative)",
    "--over": "worth of each unit that it was too high (negative)",
}


def new(
    model: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits and underscores.")],
    source: Annotated[Path | None, typer.Option("--from", help="A CSV or Parquet file, one row per decision.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A column that names what is decided on; repeatable.")] = None,
    decided_at: Annotated[str | None, typer.Option(help="The column with the moment of the decision.")] = None,
    label: Annotated[str | None, typer.Option(help="The column that is 0 or 1.")] = None,
    target: Annotated[str | None, typer.Option(help="Instead of a label: the column of numbers to predict.")] = None,
    label_delay: Annotated[str | None, typer.Option(help="From the end of the day until labels are known.")] = None,
    tp: Annotated[float | None, typer.Option(help="Worth of acting where the label is 1.")] = None,
    fp: Annotated[float | None, typer.Option(help="Worth of acting where it is 0; a cost is negative.")] = None,
    under: Annotated[float | None, typer.Option(help="Of a target: each unit predicted too low; negative.")] = None,
    over: Annotated[float | None, typer.Option(help="Of a target: each unit predicted too high; negative.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit of these amounts, such as USD.")] = None,
    goal: Annotated[str | None, typer.Option(help="What the model is for.")] = None,
    team: Annotated[str | None, typer.Option(help="The team that owns it.")] = None,
    email: Annotated[str | None, typer.Option(help="Its owner's address.")] = None,
    timezone: Annotated[str, typer.Option(help="Whose days count, and of moments that name no zone.")] = "UTC",
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A column not known at the decision, or no feature; repeatable.")
    ] = None,
) -> None:
    """Make the folder of a new model from a file; what no flag says is asked for, where somebody can answer.

    Every column that is not named becomes a feature: leave out what was not known when the decision was made.
    """
    from ratchet.adapters.scaffold import Asked, scaffold  # noqa: PLC0415 - pyarrow

    if label is not None and target is not None:
        raise Refused("--label and --target are two kinds of model: name one of them")
    given: dict[str, str | None] = {
        "--from": str(source) if source else None,
        "--key": key[0] if key else None,
        "--decided-at": decided_at,
        "--label": target or label,
        "--label-delay": label_delay,
        "--goal": goal,
        "--team": team,
        "--email": email,
        "--unit": unit,
    }
    costs = {"--under": under, "--over": over} if target else {"--tp": tp, "--fp": fp}
    given |= {option: None if value is None else str(value) for option, value in costs.items()}
    said = _completed(given)
    settings = wire().settings
    made = scaffold(
        Asked(
            model=model,
            source=Path(said["--from"]),
            keys=tuple(key or [said["--key"]]),
            decided_at=said["--decided-at"],
            label=said["--label"],
            label_delay=said["--label-delay"],
            payoff={option[2:]: _number(option, said[option]) for option in costs},
            unit=said["--unit"],
            goal=said["--goal"],
            team=said["--team"],
            email=said["--email"],
            review_by=(datetime.now(UTC) + timedelta(days=365)).date(),
            timezone=timezone,
            leave_out=tuple(leave_out or ()),
        ),
        models_dir=settings.models_dir,
        repo_dir=settings.feature_repo_dir,
        data_dir=settings.data_dir,
    )
    typer.echo(f"made {_shown(made.spec_file.parent)} from {made.rows:,} rows over {made.days} days")
    typer.echo(f"features, each taken as known at {said['--decided-at']}: {', '.join(made.features)}")
    made_of = " ".join(shlex.quote(_shown(path)) for path in (made.spec_file.parent, *made.data_files))
    typer.echo("is one of them known only later? Then remove what was made, and name it with --leave-out:")
    typer.echo(f"rm -r {made_of}")
    typer.echo(f"next: ratchet validate {model}, then, on a running stack:")
    until = f"{made.complete_until:%Y-%m-%dT%H:%M:%S}"
    typer.echo(f"ratchet deploy && ratchet publish data {model} --complete-until {until} --new-rows {made.rows}")
    typer.echo(f"ratchet champion init {model}")


def _shown(path: Path) -> str:
    """The path from the working directory, where it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _completed(given: dict[str, str | None]) -> dict[str, str]:
    """What was said, with answers to questions for the rest.

    Raises:
        Refused: something is missing and nobody can be asked; all of it is named at once.
    """
    questions = ASKED | COSTS
    missing = [option for option, value in given.items() if value is None]
    if missing and not _somebody_answers():
        told = "; ".join(f"{option} ({questions[option]})" for option in missing)
        raise Refused(f"a new model needs more words, or a terminal to ask in: {told}")
    return {option: typer.prompt(questions[option]) if value is None else value for option, value in given.items()}


def _somebody_answers() -> bool:
    return sys.stdin.isatty()


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused(f"{option} must be a number, but got {text!r}") from None
