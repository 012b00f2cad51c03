"""``ratchet backtest``: what other policies, gates and a corrupted feed would have done to a model's money."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import Ratchet, wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import Teller
from ratchet.cli.tables import AsJson
from ratchet.domain.admission import OpenEvent
from ratchet.domain.events import EventRejected, parse
from ratchet.domain.spec import ModelSpec, explain
from ratchet.errors import RatchetError, Refused

if TYPE_CHECKING:
    from ratchet.domain.unit_errors import Corruption
    from ratchet.workflow.policy_backtest import Heard, Rows, Stretch, World

FIXED = ("business", "owner", "model", "data.spine", "data.features")
"""What a variant may not change: it would be another question, with another payoff or other rows."""

WIDTH = 180
"""Of what is printed where there is no terminal: a row of the table keeps its line."""


def backtest(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    start: Annotated[
        str, typer.Option("--from", metavar="YYYY-MM", help="The first champion is made at the end of this month.")
    ],
    end: Annotated[str, typer.Option("--to", metavar="YYYY-MM", help="The last month whose decisions count.")],
    judge_from: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM", help="The first month that judges; those before it may choose (half)."),
    ] = None,
    corrupt: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM", help="The month reported in other units (the first that judges)."),
    ] = None,
    feed: Annotated[str, typer.Option(help="The feature view that is corrupted.")] = "weather",
    no_corrupt: Annotated[bool, typer.Option("--no-corrupt", help="Only the world as it was.")] = False,
    events: Annotated[
        Path | None, typer.Option(help="Replay these: a CloudEvent in JSON per line.", exists=True, dir_okay=False)
    ] = None,
    derive: Annotated[
        bool, typer.Option("--derive", help="Derive events although the ledger has recorded ones.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="name:key=value,key=value with dotted keys of the spec; may be given more than once."),
    ] = None,
    only_given: Annotated[bool, typer.Option("--only-given", help="Leave out the usual variants of the gate.")] = False,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Take the nearest study instead of making a missing one; rows say so.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one fit may use.")] = os.cpu_count() or 1,
    as_json: AsJson = False,
) -> None:
    """What each retraining policy would have earned on the same decisions, and what retrained, promoted and cost.

    never, always, on_schedule and on_drift promote blindly; ratchet is the spec as it is; its variants change the gate.
    All differences are to ratchet, with intervals that hold for all policies at once. Only the judging months count;
    the split is printed before anything is scored. Everything is done twice: as it was, and with one month of a feed
    in other units, in what is learned as in what is scored. What is made is kept below RATCHET_HOME for the next run.

    ratchet backtest flight_delay --from 2013-03 --to 2013-12

    ratchet backtest flight_delay --from 2013-03 --to 2013-12 --variant lax:gate.min_uplift=0,gate.confidence=0.6
    """
    from ratchet.adapters.specs import load_spec  # noqa: PLC0415 - only here
    from ratchet.workflow import backtest_report, policy_backtest  # noqa: PLC0415 - numpy, pyarrow, scipy

    began, cpu = time.monotonic(), time.process_time()
    ratchet = wire()
    console = Console(stderr=as_json, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    teller = Teller(console)
    folder = ratchet.settings.models_dir / model
    if not folder.is_dir():
        raise Refused(f"there is no model {model!r} in {ratchet.settings.models_dir}. Run: ratchet validate")
    spec = load_spec(folder)
    given = dict(_variant(text, spec) for text in variant or ())
    usual = (
        {} if only_given else {n: _changed(spec, n, keys) for n, keys in policy_backtest.usual_variants(spec).items()}
    )
    policies = policy_backtest.policies_of(spec, usual | given)
    lived = None if events is not None or derive else _lived(ratchet, spec)
    stretch = _stretch(start, end, judge_from, spec, lived)
    teller.say(
        f"{len(policies)} policies decide every row of {stretch.start} until {stretch.end}. Fixed before anything is "
        f"scored: days before {stretch.judge_from} may choose, those from it on judge."
    )
    with teller.during("rows"):
        rows = policy_backtest.read_rows(ratchet.features, policies, stretch)
        described = ratchet.features.describe(spec)
    told = _events(spec, rows, stretch, events, lived)
    teller.say(f"Events: {told.said}.")
    corruptions: list[Corruption | None] = [None]
    if not no_corrupt:
        corruptions += _corruption(described, rows, stretch, corrupt, feed, teller)
    place = ratchet.backtest_place(
        spec,
        source=described["hash"],
        named=lived.named if lived else {},
        threads=threads,
        approximate=approximate,
    )
    worlds: list[World] = []
    for corruption in corruptions:
        what = "the world as it was" if corruption is None else f"{corruption.month:%Y-%m} corrupted"
        with teller.during(what) as tell:
            worlds.append(policy_backtest.backtest(place, spec, policies, rows, told, stretch, corruption, tell))
        if not as_json:
            so_far = backtest_report.document(spec, stretch, told, worlds, {})
            _show(console, so_far, so_far["worlds"][-1])
    made = {
        "code": ratchet.code_digest,
        "source": described["hash"],
        "made_new": sum(world.misses for world in worlds),
        "seconds": round(time.monotonic() - began, 1),
        "core_seconds": round(time.process_time() - cpu, 1),
    }
    report = backtest_report.document(spec, stretch, told, worlds, made)
    uri, diff = backtest_report.keep(place.cache, report)
    if as_json:
        typer.echo(json.dumps(report | {"page": uri}, indent=1))
        return
    if diff is not None:
        _show_diff(console, diff)
    console.print(
        f"{made['seconds']:.0f} s, {made['core_seconds']:.0f} core seconds, {made['made_new']} things made anew."
    )
    console.print(f"Report    {uri}", soft_wrap=True)


@dataclass(frozen=True)
class _Life:
    """What the ledger recorded of a model that has lived: events, its first champion's ``as_of``, names of attempts."""

    events: tuple[OpenEvent, ...]
    began: datetime
    named: Mapping[datetime, str]


def _lived(ratchet: Ratchet, spec: ModelSpec) -> _Life | None:
    """The recorded life of a model; None where there is no ledger, or the model has none."""
    from ratchet.workflow.deciding import open_event  # noqa: PLC0415 - only with a ledger

    try:
        with ratchet.ledger.transaction() as tx:
            champions = [row for row in tx.champions(spec.model) if row.kind == "init"]
            attempts = [row for row in tx.attempts(model=spec.model) if row.verdict is not None]
            events = [row for row in tx.events(model=spec.model) if row.origin != "attempt"]
    except RatchetError:
        return None
    if not champions:
        return None
    named = {row.as_of: row.id for row in sorted(attempts, key=lambda row: -row.epoch) if row.look == 1}
    return _Life(tuple(open_event(row) for row in events), champions[0].as_of, named)


def _events(spec: ModelSpec, rows: Rows, stretch: Stretch, file: Path | None, lived: _Life | None) -> Heard:
    from ratchet.workflow import policy_backtest  # noqa: PLC0415 - numpy, pyarrow

    if file is not None:
        return policy_backtest.heard(spec, _read_events(file, spec), stretch, f"read from {file.name}")
    if lived is not None:
        said = f"the {len(lived.events):,} that the ledger recorded"
        return policy_backtest.heard(spec, lived.events, stretch, said)
    return policy_backtest.derived(spec, rows, stretch)


def _read_events(file: Path, spec: ModelSpec) -> list[OpenEvent]:
    """The file's events that concern the model: its own, and the arrivals of datasets."""
    found = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            event = parse(line)
        except EventRejected as rejected:
            raise Refused(f"{file}:{number}: {rejected}") from None
        if event.subject == spec.model or event.type == "ratchet.data.arrived.v1":
            time_ = event.time
            found.append(OpenEvent(number, event.id, event.source, event.type, time_, time_, event.data))
    return found


def _stretch(start: str, end: str, judge_from: str | None, spec: ModelSpec, lived: _Life | None) -> Stretch:
    from ratchet.workflow.policy_backtest import Stretch  # noqa: PLC0415 - numpy, pyarrow

    first, last = _after(_month("--from", start)), _after(_month("--to", end))
    if first >= last:
        raise Refused(f"--to must name a later month than --from, but got {start} and {end}")
    months = (last.year - first.year) * 12 + last.month - first.month
    middle = first
    for _ in range(months // 2):
        middle = _after(middle)
    judging = middle if judge_from is None else _month("--judge-from", judge_from)
    began = None if lived is None else lived.began
    if began is not None:
        first = max(first, began.astimezone(spec.data.spine.zone).date())
    return Stretch(first, judging, last, began)


def _month(option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a month has no time zone
    except ValueError:
        raise Refused(f"{option} takes a month like 2013-03, but got {text!r}") from None


def _after(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _corruption(
    described: Mapping[str, Any], rows: Rows, stretch: Stretch, month: str | None, feed: str, teller: Teller
) -> list[Corruption | None]:
    """The feed's columns that tell their unit, in the month; none, and why is said, where there is no such feed."""
    from ratchet.domain.unit_errors import BY_ENDING, Corruption, with_units  # noqa: PLC0415 - numpy

    view = described["views"].get(feed, {}).get("features", {})
    columns = with_units([name for name in rows.columns.features if name in view])
    if columns:
        when = stretch.judge_from if month is None else _month("--corrupt", month)
        return [Corruption(when.replace(day=1), columns)]
    why = (
        f"the model reads no feature of the view {feed!r} whose name ends with its unit ({', '.join(BY_ENDING)}); "
        f"there are the views {', '.join(described['views'])}"
    )
    if month is not None:
        raise Refused(f"--corrupt: {why}. Name another one: --feed …")
    teller.say(f"No month is corrupted: {why}.")
    return []


def _variant(text: str, spec: ModelSpec) -> tuple[str, ModelSpec]:
    """``name:key=value,key=value`` as a name and a spec."""
    name, colon, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not name or not colon or not all(key and equals for key, equals, _ in pairs):
        raise Refused(f"--variant takes name:key=value,key=value (gate.mode=non_inferiority, say), but got {text!r}")
    return name, _changed(spec, name, {key: _value(value) for key, _, value in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _changed(spec: ModelSpec, name: str, keys: Mapping[str, Any]) -> ModelSpec:
    """The spec with other values under dotted keys, checked like any spec."""
    document = spec.model_dump(mode="json")
    for key, value in keys.items():
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
            raise Refused(f"variant {name}: {key} may not change, or its payoff could not be compared with the others'")
        *path, last = key.split(".")
        inner = document
        for part in path:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = value
    try:
        return ModelSpec.model_validate(document)
    except ValidationError as error:
        said = "; ".join(str(problem) for problem in explain(error))
        raise Refused(f"variant {name}: {said}") from None


# -- what is shown -----------------------------------------------------------------------------------------------------


def _show(console: Console, report: Mapping[str, Any], world: Mapping[str, Any]) -> None:
    judging, unit = world["judging"], report["unit"]
    console.print(
        f"\nThe world {world['world']}: {judging['rows']:,} decisions of {judging['days']} judging days", style="bold"
    )
    if world["corruption"]:
        console.print(f"In metric units: {', '.join(world['corruption']['columns'])}", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("policy", "retrains", "promoted", "falsely", "core s", f"earned, {unit}", "minus ratchet"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    table.add_column(f"{report['confidence']:.0%} for all {report['compared']}", no_wrap=True)
    table.add_column("earns more", no_wrap=True)
    table.add_column("not worse", no_wrap=True)
    for row in world["policies"]:
        is_default = row["policy"] == report["default"]
        interval = "not known" if row["lower"] is None else f"[{row['lower']:+,.0f}, {row['upper']:+,.0f}]"
        table.add_row(
            row["policy"] + (" ~" if row["approximate"] else ""),
            str(row["retrains"]),
            str(row["promotions"]),
            str(row["false_promotions"]),
            f"{row['core_seconds']:,.0f}",
            f"{row['total']:,.0f}",
            "" if is_default else f"{row['minus_default']:+,.0f}",
            "the default" if is_default else interval,
            "" if is_default else row["superior"],
            "" if is_default else row["non_inferior"],
        )
    console.print(table)
    if any(row["approximate"] for row in world["policies"]):
        console.print("~ approximate: a study that was missing was replaced by the nearest one.")
    apart = world["told_apart"]
    console.print(
        f"Told apart from ratchet: {', '.join(apart)}." if apart else "No policy can be told apart from ratchet."
    )
    best = world["recommended"]
    console.print(
        f"Recommended: gate.mode {best['gate.mode']}, gate.deploy {best['gate.deploy']} ({best['why']}).",
        soft_wrap=True,
    )


def _show_diff(console: Console, diff: Any) -> None:
    from ratchet.workflow.backtest_report import change_in_words  # noqa: PLC0415 - numpy

    console.print("\nSince the report before, the spec changed:", style="bold")
    for changed in diff.spec:
        console.print(f"  {changed.field}: {changed.recorded!r} → {changed.found!r}", soft_wrap=True)
    for change in diff.rows:
        console.print(f"  {change_in_words(change)}", soft_wrap=True)
    if not diff.rows:
        console.print("  no row of a table")
