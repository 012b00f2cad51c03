"""Batch predictions by hand, and a look at them: ``ratchet score`` and ``ratchet predictions``."""

from __future__ import annotations

import getpass
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_rows
from ratchet.errors import Refused
from ratchet.records import RunContext
from ratchet.workflow.probation import readable_spec

Day = Annotated[str | None, typer.Option(help="One local day, such as 2013-05-03.")]
First = Annotated[str | None, typer.Option("--from", help="The first local day.")]
Last = Annotated[str | None, typer.Option("--to", help="The last local day; the newest complete one when left out.")]


def score(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    day: Day = None,
    first: First = None,
    last: Last = None,
    as_json: AsJson = False,
) -> None:
    """Score complete days that have no predictions: those that the spec looks back for, or those named.

    Each day by the version that served it; what was scored stays as it is. Same as DAG score__<model>.

    ratchet score flight_delay --day 2013-05-03
    """
    asked = _asked(day, first, last)
    actor = getpass.getuser()
    run = RunContext("ratchet score", f"{actor} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "manual", actor)
    with working(f"scoring days of {model}"):
        answer = wire().score(model, run, asked)
    if as_json:
        print_rows([answer], [], as_json=True)
        return
    for waiting in answer["waiting"]:
        typer.echo(f"{waiting} waits: not all of its decisions are made")
    if not answer["days"]:
        typer.echo(f"nothing scored: {answer['reason']}")
        return
    by = " and ".join(
        f"version {', '.join(map(str, versions))}" + (" in shadow" if role == "shadow" else "")
        for role, versions in sorted(answer["versions"].items())  # the champion before the shadow
    )
    typer.echo(f"scored {answer['rows']:,} rows of {model} from {answer['from']} to {answer['to']}, by {by}")


def predictions(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    day: Annotated[str | None, typer.Option(help="Show the rows of this local day.")] = None,
    first: First = None,
    last: Last = None,
    role: Annotated[str | None, typer.Option(help="Only champion, or only shadow.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows of a day.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The scored days of a model, newest first: by which version, how many rows, and where; or the rows of one day.

    Sensitive columns whose values the spec does not allow to be shown are left out of the rows.

    ratchet predictions flight_delay --day 2013-05-03 --limit 5
    """
    if role not in {None, "champion", "shadow"}:
        raise Refused(f"--role must be champion or shadow, but got {role!r}")
    asked = _asked(day, first, last)
    since, until = asked or (None, None)
    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        days = tx.scored_days(model, since=since, until=until, role=role)
        spec = next((readable_spec(tx, row.digest) for row in tx.registered() if row.model == model), None)
    if day is None:
        listed = [vars(row) | {"file": ratchet.store.uri(row.key) if row.key else None} for row in reversed(days)]
        columns = ["day", "role", "version", "rows", "acted", "as_of", "scored_at", "run", "file"]
        print_rows(listed, columns, as_json=as_json)
        return
    from ratchet.workflow.scoring import predictions as read  # noqa: PLC0415 - pyarrow

    rows: list[dict[str, Any]] = []
    for scored in days:
        table = read(ratchet.store, scored)
        if table is not None:
            hidden = [name for name in table.column_names if spec is not None and spec.data.hides((name,))]
            rows += table.drop_columns(hidden).slice(0, limit).to_pylist()
    print_rows(rows, list(rows[0]) if rows else [], as_json=as_json)
    if not as_json and rows:
        typer.echo(
            f"{len(rows):,} of {sum(scored.rows for scored in days):,} rows; the files: ratchet predictions {model}"
        )


def _asked(day: str | None, first: str | None, last: str | None) -> tuple[date, date] | None:
    """The days from and to, inclusive, that somebody named; None for no words on it.

    Raises:
        Refused: a day is none, the words contradict each other, or the range is empty.
    """
    if day is not None:
        if first is not None or last is not None:
            raise Refused("--day names one day: leave out --from and --to")
        return _day("--day", day), _day("--day", day)
    if first is None:
        if last is not None:
            raise Refused("--to needs --from, the first day")
        return None
    begins, ends = _day("--from", first), _day("--to", last) if last else date.max
    if ends < begins:
        raise Refused(f"--to must not lie before --from, but got {first} to {last}")
    return begins, ends


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Refused(f"{option} must be a day such as 2013-05-03, but got {text!r}") from None
