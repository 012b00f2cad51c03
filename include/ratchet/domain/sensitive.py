"""Columns tagged ``pii`` or ``secret``: which of them rows of a model may hold, and where their values may be told.

Whoever owns a column tags it, in Feast (a field, an entity, a feature view, its source or the service) or under
``sensitive`` of its dataset in ``datasets.yaml``. What a spec does not allow by name and with a reason never leaves its
source. What it allows is kept with the rows (snapshot, evidence) and learned from, and is told nowhere else, unless the
entry says ``show_values``: groups are told by value in dossiers, cards, messages and the ledger; the categories of a
text feature are written out in the model's file; a regression's label is told by quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ratchet.domain.spec import ModelSpec, Problem, did_you_mean

TAGS = ("pii", "secret")
DENIED = frozenset({"false", "no", "0"})
"""Values of a tag that take it back; any other counts, so that a doubtful one errs on the safe side."""

Role = Literal["key", "join key", "label", "moment", "outcome", "feature"]


@dataclass(frozen=True)
class TaggedColumn:
    """A column that rows of a model would hold, with its ``tags`` and ``where`` they stand.

    ``categorical`` is of a feature whose values are text: a model learns them by name.
    """

    column: str
    tags: tuple[str, ...]
    where: str
    role: Role
    categorical: bool = False


@dataclass(frozen=True)
class AllowedColumn:
    """A tagged column that the spec allows, and why."""

    column: str
    tags: tuple[str, ...]
    where: str
    role: str
    reason: str
    show_values: bool

    def __str__(self) -> str:
        shown = "; its values may be shown" if self.show_values else ""
        return f"{self.column} ({', '.join(self.tags)} in {self.where}) is held as {self.role}: {self.reason}{shown}"


@dataclass(frozen=True)
class Ruling:
    """What a spec may hold of the tagged columns; no row may be read while there are ``problems``."""

    allowed: tuple[AllowedColumn, ...]
    problems: tuple[Problem, ...]


def tags_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Which of :data:`TAGS` a mapping of Feast's tags sets, whatever their case."""
    given = {name.casefold(): value.strip().casefold() for name, value in tags.items()}
    return tuple(tag for tag in TAGS if tag in given and given[tag] not in DENIED)


def declared(sensitive: Any) -> dict[str, str]:
    """The columns of a dataset that its entry in ``datasets.yaml`` calls sensitive, with their tag.

    Raises:
        ValueError: it is no mapping of columns to one of :data:`TAGS`. What is misspelt would protect nothing.

    """
    if sensitive is None:
        return {}
    if not isinstance(sensitive, Mapping):
        said = f"sensitive must map columns to {' or '.join(TAGS)}, but got {type(sensitive).__name__}"
        raise ValueError(said)  # noqa: TRY004 - a rule of the file that is broken, like the next
    for column, tag in sensitive.items():
        if tag not in TAGS:
            raise ValueError(f"sensitive.{column} must be {' or '.join(TAGS)}, but got {tag!r}")
    return {str(column): str(tag) for column, tag in sensitive.items()}


def rule_columns(spec: ModelSpec, tagged: Sequence[TaggedColumn]) -> Ruling:
    """Decide on every tagged column that rows of the spec would hold.

    A column is allowed by its name, in whatever role. An entry that names no tagged column is a problem too: it would
    go on allowing when the column it was meant for is gone, or was misspelt.
    """
    entries = {entry.column: entry for entry in spec.data.allow_sensitive or ()}
    allowed: list[AllowedColumn] = []
    problems: list[Problem] = []
    for column in tagged:
        entry = entries.get(column.column)
        if entry is None:
            problems.append(Problem(_place(spec, column), _refused(column)))
            continue
        allowed.append(
            AllowedColumn(column.column, column.tags, column.where, column.role, entry.reason, entry.show_values)
        )
        if not entry.show_values and (told := _told(spec, column)) is not None:
            problems.append(told)
    names = tuple(column.column for column in tagged)
    for index, name in enumerate(entries):
        if name not in names:
            said = f"{name!r} is tagged neither {' nor '.join(TAGS)} where this model reads it: take the entry out."
            problems.append(Problem(("data", "allow_sensitive", index, "column"), said + did_you_mean(name, names)))
    for index, guardrail in enumerate(spec.gate.guardrails):
        if guardrail.column in names and spec.data.hides((guardrail.column,)):
            key = "by" if guardrail.slice is None else "slice"
            problems.append(
                Problem(
                    ("gate", "guardrails", index, key),
                    f"{guardrail.column!r} is sensitive, and its groups would be told by value in dossiers, cards and "
                    "messages. Judge by another column, or add show_values: true to its entry in data.allow_sensitive",
                )
            )
    return Ruling(tuple(allowed), tuple(problems))


def _refused(column: TaggedColumn) -> str:
    return (
        f"{column.column!r} is tagged {', '.join(column.tags)} in {column.where}, and rows would hold it as "
        f"{column.role}. Leave it out, put a pseudonym in its place where the data are made, or allow it: "
        f"data.allow_sensitive: [{{column: {column.column}, reason: …}}]"
    )


def _told(spec: ModelSpec, column: TaggedColumn) -> Problem | None:
    """Why keeping the column's values with the rows alone is not possible; None where it is."""
    remedy = "or add show_values: true to its entry in data.allow_sensitive"
    if column.categorical:
        return Problem(
            ("data", "features"),
            f"{column.column!r} is sensitive text, and a model writes its categories out by name in its file. Encode "
            f"it as a number where the data are made, {remedy}",
        )
    if column.role == "label" and spec.business.regression:
        return Problem(
            ("data", "spine", "label"),
            f"{column.column!r} is sensitive, and a regression's dossier and card tell quantiles of its label. Predict "
            f"something else, {remedy}",
        )
    return None


def _place(spec: ModelSpec, column: TaggedColumn) -> tuple[str | int, ...]:
    """Where the spec brings the column in."""
    spine = spec.data.spine
    if column.role == "key" and column.column in spine.entity:
        return ("data", "spine", "entity", spine.entity.index(column.column))
    if column.role == "outcome":
        found = next((place for place, name in spec.business.payoff.named if name == column.column), ())
        return ("business", "payoff", *found)
    named: dict[str, tuple[str | int, ...]] = {
        "join key": ("data", "spine", "source"),
        "label": ("data", "spine", "label"),
        "moment": ("data", "spine", "decided_at"),
    }
    return named.get(column.role, ("data", "features"))
