"""A new model from a file, by flags or questions: ``ratchet new``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo

import typer

from ratchet.bootstrap import wire
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done
from ratchet.domain.spec import did_you_mean, parse_duration
from ratchet.errors import Refused

T = TypeVar("T")

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
UTC_ZONE = "UTC"
NONE = "none"


@dataclass
class Said:
    """What was said, by flags and answers; None and empty where nothing was."""

    words: dict[str, str | None]
    keys: list[str]
    leave_out: list[str]
    timezone: str | None
    regression: bool


def new(
    model: Annotated[str, typer.Argument(help="Its name: lower-case letters, digits and underscores.")],
    *,
    example: Annotated[bool, typer.Option("--example", help="Take the shipped example of this name.")] = False,
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
    timezone: Annotated[
        str | None, typer.Option(help="Whose days count, and of moments that name no zone; UTC when left out.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A column not known at the decision, or no feature; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the folder of a new model from a file; what no flag says is asked for, where somebody can answer.

    Every column that is not named becomes a feature: leave out what was not known when the decision was made. With
    --example the folder and the data are those of a shipped example, and nothing else need be said. With --json nothing
    is asked.

    ratchet new standby_crew --example
    """
    if example:
        _take_example(model, as_json=as_json)
        return
    from ratchet.adapters.scaffold import Asked, scaffold  # noqa: PLC0415 - pyarrow

    if label is not None and target is not None:
        raise Refused("--label and --target are two kinds of model: name one of them")
    said = Said(
        words={
            "--from": str(source) if source else None,
            "--decided-at": decided_at,
            "--label": target or label,
            "--label-delay": label_delay,
            "--goal": goal,
            "--team": team,
            "--email": email,
            "--unit": unit,
            **{option: _told(value) for option, value in {"--tp": tp, "--fp": fp}.items()},
            **{option: _told(value) for option, value in {"--under": under, "--over": over}.items()},
        },
        keys=list(key or ()),
        leave_out=list(leave_out or ()),
        timezone=timezone,
        regression=target is not None,
    )
    _complete(said, label_known=label is not None or target is not None, may_ask=not as_json)
    words, settings = {option: value or "" for option, value in said.words.items()}, wire().settings
    asked = Asked(
        model=model,
        source=Path(words["--from"]),
        keys=tuple(said.keys),
        decided_at=words["--decided-at"],
        label=words["--label"],
        label_delay=words["--label-delay"],
        payoff={option[2:]: float(words[option]) for option in _costs(said)},
        unit=words["--unit"],
        goal=words["--goal"],
        team=words["--team"],
        email=words["--email"],
        review_by=(datetime.now(UTC) + timedelta(days=365)).date(),
        timezone=said.timezone or UTC_ZONE,
        leave_out=tuple(said.leave_out),
    )
    with working(f"reading {asked.source}"):
        made = scaffold(
            asked, models_dir=settings.models_dir, repo_dir=settings.feature_repo_dir, data_dir=settings.data_dir
        )
    made_of = " ".join(shlex.quote(_shown(path)) for path in (made.spec_file.parent, *made.data_files))
    lines = [
        f"made {_shown(made.spec_file.parent)} from {made.rows:,} rows over {made.days} days",
        f"features, each taken as known at {words['--decided-at']}: {', '.join(made.features)}",
        "is one of them known only later? Then remove what was made, and name it with --leave-out:",
        f"rm -r {made_of}",
        *_next(model, model, made.complete_until, made.rows),
    ]
    done = {"model": model, "source": model} | vars(made) | {"data_files": [str(path) for path in made.data_files]}
    print_done(done | {"features": dict(made.features)}, lines, as_json=as_json)


def _take_example(name: str, *, as_json: bool) -> None:
    from ratchet.adapters.examples import take  # noqa: PLC0415 - duckdb, pyarrow

    settings = wire().settings
    with working(f"making the data of {name}"):
        taken = take(
            name,
            examples_dir=settings.root / "include" / "examples",
            models_dir=settings.models_dir,
            repo_dir=settings.feature_repo_dir,
            data_dir=settings.data_dir,
        )
    lines = [f"made {_shown(taken.spec_file.parent)}; {taken.source} has {taken.rows:,} rows"]
    lines += _next(name, taken.source, taken.complete_until, taken.rows)
    print_done({"model": name} | vars(taken), lines, as_json=as_json)


def _next(model: str, source: str, complete_until: datetime, rows: int) -> list[str]:
    """What to do then."""
    until = f"{complete_until:%Y-%m-%dT%H:%M:%S}"
    return [
        f"next: ratchet validate {model}, then, on a running stack:",
        f"ratchet deploy && ratchet publish data {source} --complete-until {until} --new-rows {rows}",
        f"ratchet champion init {model}",
    ]


def _shown(path: Path) -> str:
    """The path from the working directory, where it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _told(value: float | None) -> str | None:
    return None if value is None else str(value)


def _costs(said: Said) -> tuple[str, str]:
    """The options that value the kind of model."""
    return ("--under", "--over") if said.regression else ("--tp", "--fp")


def _missing(said: Said) -> list[str]:
    """The options without which there is no model, in the order of the questions."""
    needed = [option for option in ASKED if option != "--key"]
    without = {option for option in (*needed, *_costs(said)) if said.words[option] is None}
    without |= set() if said.keys else {"--key"}
    return [option for option in (*ASKED, *COSTS) if option in without]


def _complete(said: Said, *, label_known: bool, may_ask: bool) -> None:
    """Ask for what is missing, and with it for what is easily forgotten; each answer is checked when it is given.

    Raises:
        Refused: something is missing and nobody can be asked; all of it is named at once.
    """
    missing = _missing(said)
    if not missing:
        return
    if not (may_ask and _somebody_answers()):
        told = "; ".join(f"{option} ({(ASKED | COSTS)[option]})" for option in missing)
        raise Refused(f"a new model needs more words, or a terminal to ask in: {told}")
    columns = _columns(said)
    _interview(said, columns, label_known=label_known)
    for option in (*_costs(said), "--unit", "--goal", "--team", "--email"):
        _take(said, option, _number if option in COSTS else str)


def _columns(said: Said) -> list[str]:
    """The file's columns, told to whoever is asked about them."""
    from ratchet.adapters.scaffold import columns_of  # noqa: PLC0415 - pyarrow

    def readable(text: str) -> str:
        columns_of(Path(text))
        return text

    _take(said, "--from", readable)
    columns = columns_of(Path(said.words["--from"] or ""))
    typer.echo(f"its columns are: {', '.join(columns)}")
    return columns


def _interview(said: Said, columns: Sequence[str], *, label_known: bool) -> None:
    """Ask what the columns are."""
    known = _one_of(columns)
    if not said.keys:
        several = f"{ASKED['--key']} (or several, with commas)"
        said.keys = _prompt(several, lambda text: [known(name) for name in _names(text)])
    _take(said, "--decided-at", known)
    if said.timezone is None:
        said.timezone = _prompt("whose days count, and of moments that name no zone", _zone, default=UTC_ZONE)
    if not label_known:
        kinds = _one_of(("label", "number"))
        kind = _prompt("is what is learned a label of 0 and 1, or a number? (label, number)", kinds, default="label")
        said.regression = kind == "number"
        question = "column with the number to predict" if said.regression else "column that is 1 where acting was right"
        said.words["--label"] = _prompt(question, known)
    _take(said, "--label-delay", _duration)
    if not said.leave_out:
        used = {*said.keys, said.words["--decided-at"], said.words["--label"]}
        typer.echo(f"it would learn from: {', '.join(name for name in columns if name not in used)}")
        said.leave_out = _prompt(
            "which of them were not known at the decision? (names with commas, or none)",
            lambda text: [known(name) for name in _names(text) if name != NONE],
            default=NONE,
        )


def _take(said: Said, option: str, check: Callable[[str], str]) -> None:
    """Ask for an option that was not given."""
    if said.words[option] is None:
        said.words[option] = _prompt((ASKED | COSTS)[option], check)


def _prompt(question: str, check: Callable[[str], T], default: str | None = None) -> T:
    """The answer, as ``check`` reads it; what it refuses is said, and asked for again."""

    def read(text: str) -> T:
        try:
            return check(text.strip())
        except (Refused, ValueError) as error:
            raise typer.BadParameter(str(error)) from None

    answer: T = typer.prompt(question, default=default, value_proc=read)
    return answer


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    """A check that an answer is one of these."""

    def check(text: str) -> str:
        if text not in names:
            raise Refused(f"{text!r} is none of them.{did_you_mean(text, tuple(names))}")
        return text

    return check


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise Refused(f"must be a time zone of the IANA database like America/New_York, but got {text!r}") from None
    return text


def _number(text: str) -> str:
    try:
        float(text)
    except ValueError:
        raise Refused(f"must be a number, but got {text!r}") from None
    return text


def _somebody_answers() -> bool:
    return sys.stdin.isatty()
