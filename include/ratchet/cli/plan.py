"""``ratchet plan``: what a change of the specs brings, before it is merged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ratchet.adapters.connections import UnknownConnection
from ratchet.bootstrap import wire
from ratchet.cli.completing import known_models
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson
from ratchet.domain.differences import ABSENT
from ratchet.domain.plan import KeyChange, ModelPlan, ResourceChange
from ratchet.errors import Unavailable

DEPLOYED = "deployed"
CHANGES = 2
COLORS = {"+": typer.colors.GREEN, "~": typer.colors.YELLOW, "-": typer.colors.RED}


def plan(
    models: Annotated[
        list[str] | None, typer.Argument(help="Only these models; all when left out.", autocompletion=known_models)
    ] = None,
    against: Annotated[
        str, typer.Option(help="A git ref to compare with; it needs no ledger. Left out: what is deployed.")
    ] = DEPLOYED,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="End with 2 where something changes; with 0 where nothing does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the specs of the working tree would change: DAGs, assets, topics, and what each changed key means.

    Nothing is changed by it. Ends with 1 where no plan can be made: a spec is not valid, or the ledger or the ref is
    not there.

    ratchet plan flight_delay

    ratchet plan --against main --detailed-exitcode
    """
    try:
        with working(f"comparing the specs with {'what is deployed' if against == DEPLOYED else against}"):
            made = wire().plan(models or (), None if against == DEPLOYED else against)
    except (Unavailable, UnknownConnection) as error:
        raise Unavailable(f"{error}. Without a ledger, compare with a git ref: ratchet plan --against main") from error
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in made], default=str, indent=1))
    else:
        than = "what is deployed" if against == DEPLOYED else against
        for sign, line in _lines(made, than):
            typer.secho(line, fg=COLORS.get(sign))
    if made and detailed_exitcode:
        raise typer.Exit(CHANGES)


def _plain(made: ModelPlan) -> dict[str, Any]:
    plain = asdict(made)
    before, after = plain.pop("digests")
    return plain | {"digest_before": before, "digest_after": after}


def _lines(made: Sequence[ModelPlan], than: str) -> Iterator[tuple[str, str]]:
    """Each line with the sign that colours it."""
    if not made:
        yield "", f"nothing changes: the specs are those of {than}"
        return
    for one in made:
        before, after = one.digests
        both = f"spec {before} → {after}" if before and after else f"spec {after or before}"
        yield one.sign, f"{one.sign} {one.model}  ({both})"
        for key in one.keys:
            yield key.sign, f"    {key.sign} {_of_key(key)}"
            yield "", f"        {key.means}"
        for resource in one.resources:
            yield resource.sign, f"    {resource.sign} {_of_resource(resource)}"
        for sentence in one.follows:
            yield "", f"    {sentence}"
        yield "", ""
    counted = {sign: sum(one.sign == sign for one in made) for sign in COLORS}
    yield "", f"against {than}: {counted['+']} new, {counted['~']} changed, {counted['-']} gone"


def _of_key(key: KeyChange) -> str:
    if key.sign == "+":
        return f"{key.key}: {_value(key.after)}"
    return f"{key.key}: {_value(key.before)} → {_value(key.after)}"


def _value(value: Any) -> str:
    return "left out" if value == ABSENT else json.dumps(value, ensure_ascii=False)


def _of_resource(change: ResourceChange) -> str:
    said = change.after if change.before is None else change.before
    if change.sign == "~":
        said = f"{change.before} → {change.after}"
    return f"{change.kind} {change.name}" + (f"  ({said})" if said else "")
