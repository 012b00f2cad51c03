"""The forms that people fill in to have a DAG run: one definition for Airflow's own form, the page's and the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "flag", "day", "count"]
TYPES: Mapping[Kind, str] = {"text": "string", "flag": "boolean", "day": "string", "count": "integer"}


@dataclass(frozen=True)
class Field:
    """One field: a text, a yes or no, a local day, or a number from ``least`` to ``most`` (of a text: its length).

    A day or a number that is left empty is None; a text is demanded where ``least`` is above zero. ``note`` says in
    Markdown what the field is for.
    """

    kind: Kind
    title: str
    section: str
    note: str
    least: int = 0
    most: int | None = None

    @property
    def default(self) -> bool | str | None:
        """What it is when nobody fills it in."""
        return False if self.kind == "flag" else "" if self.kind == "text" else None

    def schema(self) -> dict[str, Any]:
        """The field as JSON Schema, as Airflow's form wants it."""
        told: dict[str, Any] = {"title": self.title, "section": self.section, "description_md": self.note}
        base = TYPES[self.kind]
        told["type"] = base if self.kind in {"text", "flag"} else ["null", base]
        if self.kind == "day":
            told["format"] = "date"
        limits = ("minLength", "maxLength") if self.kind == "text" else ("minimum", "maximum")
        if self.least:
            told[limits[0]] = self.least
        if self.most is not None:
            told[limits[1]] = self.most
        return told


RETRAIN: Mapping[str, Field] = {
    "reason": Field(
        "text",
        "Reason",
        "Why",
        "Shown in the dossier and the audit log, beside your name. `quarterly check`",
        most=500,
    ),
    "first_champion": Field(
        "flag",
        "First champion",
        "Why",
        "The model has no champion yet: make one, if it beats the best constant decision. "
        "Same as `ratchet champion init`.",
    ),
    "window_end": Field(
        "day", "Window end", "What", "Use data up to this local day (exclusive) instead of all that is mature."
    ),
    "trials": Field("count", "Trials", "What", "Trials of the study in total, instead of the spec's.", 1, 1000),
    "dry_run": Field(
        "flag",
        "Dry run",
        "Limits",
        "Train and judge, but claim no event, promote nothing and publish nothing. "
        "The days it was judged on count as used.",
    ),
    "override_budget": Field(
        "flag",
        "Override the budget",
        "Limits",
        "Run although today's runs are used up. Audited with your name.",
    ),
}
"""Of ``retrain__<model>``. The reason may be empty for Airflow, whose scheduled runs fill in nothing; a run that a
person starts is refused without one."""
ROLLBACK: Mapping[str, Field] = {
    "reason": Field(
        "text",
        "Reason",
        "Roll back",
        "Shown in the audit log and in the message on `ml.decisions`, beside your name.",
        3,
        500,
    ),
    "version": Field(
        "count", "Version", "Roll back", "An earlier champion's version; empty: the champion before this one.", 1
    ),
}
"""Of ``rollback__<model>``."""
