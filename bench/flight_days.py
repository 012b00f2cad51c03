"""The gate on real days: what the demo's year of flights was judged on, with no uplift left in it.

``bench/data/flight_days.json`` holds, for each attempt of ``make demo``'s whole year, the rows and the total uplift of
each day it was judged on; and for each attempt several pairs of challengers that differ in the seed of their training
alone. ``bench/record_flight_days.py`` made it, and makes it again after another year.

Three questions are asked of it:

- *series*: on null copies of all days in one line, whole weeks flipped by coins, is the share promoted consistent with
  alpha? That is the gate's self-test (``ratchet.domain.selftest``). More copies would not ask more: given the days the
  share is a constant of them, which a sound gate scatters by 0.008 (docs/decisions/0032-the-gates-self-test.md).
- *holdouts*: and on the days of single attempts, as the gate meets them? Four or five weeks have so few sign patterns
  that all are judged, for every day a week may begin on. Its share is exact for these days, but these are few worlds:
  it is printed, not judged.
- *seed pairs*: how often does the gate promote a model over its twin? Twins are not a null world (one of a pair may
  really be better on these months): reported, not judged.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.domain import gate
from ratchet.domain.selftest import BLOCK_DAYS, COPIES, LEAST_P_VALUE, JudgedRows, self_test

FILE = Path(__file__).parent / "data" / "flight_days.json"
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Days:
    """What one comparison was judged on, each (n_days,): ISO dates, rows, and the total uplift in USD."""

    attempt: str
    days: tuple[str, ...]
    rows: tuple[int, ...]
    uplift: tuple[float, ...]

    def judge(self, uplift: Floats, confidence: float) -> str:
        """The verdict on these days with other totals (n_days,)."""
        rows = np.asarray(self.rows)
        labels = np.repeat(np.arange(rows.size), rows)
        return gate.judge((uplift / rows)[labels], labels, confidence=confidence).decision


def read(file: Path = FILE) -> tuple[list[Days], list[Days]]:
    """The attempts, oldest first, and the seed pairs."""
    content = json.loads(file.read_text())

    def days(record: dict[str, Any]) -> Days:
        return Days(record["attempt"], *(tuple(record[name]) for name in ("days", "rows", "uplift")))

    return [days(record) for record in content["attempts"]], [days(record) for record in content["seed_pairs"]]


def measure(attempts: Sequence[Days], pairs: Sequence[Days], *, seed: int, confidence: float) -> dict[str, Any]:
    """The answers, JSON-able."""
    found = self_test([_rows(days) for days in reversed(attempts)], seed=seed, confidence=confidence, copies=COPIES)
    verdicts = Counter(verdict for days in attempts for verdict in _every_copy(days, confidence))
    twins = Counter(days.judge(np.asarray(days.uplift), confidence) for days in pairs)
    return {
        "series": {
            "weeks": found.weeks,
            "attempts": len(found.attempts),
            "copies": found.copies,
            "promoted": found.promoted,
            "share": None if not found.copies or found.promoted is None else found.promoted / found.copies,
            "p_value": found.p_value,
            "outcome": found.outcome,
            "reasons": list(found.reasons),
        },
        "holdouts": {
            "attempts": len(attempts),
            "copies": verdicts.total(),
            "promoted": verdicts["promote"],
            "share": verdicts["promote"] / verdicts.total(),
        },
        "seed_pairs": {"pairs": len(pairs), **dict(sorted(twins.items()))},
    }


def failures(found: dict[str, Any]) -> list[str]:
    """What is not as promised, in words."""
    series = found["series"]
    if series["outcome"] == "passed":
        return []
    return [f"real flights, weeks flipped (p must exceed {LEAST_P_VALUE:g}): {'; '.join(series['reasons'])}"]


def told(found: dict[str, Any]) -> list[str]:
    """The answers for a reader."""
    series, holdouts, pairs = (found[name] for name in ("series", "holdouts", "seed_pairs"))
    verdicts = ", ".join(f"{count} {name}" for name, count in pairs.items() if name != "pairs")
    p_value = "none" if series["p_value"] is None else f"{series['p_value']:.2g}"
    in_line = f"{series['weeks']} weeks of {series['attempts']} attempts in one line"
    of_line = f"{series['promoted']} of {series['copies']} copies promoted, p = {p_value}"
    of_holdouts = f"{holdouts['promoted']} of {holdouts['copies']} promoted, {holdouts['share']:.4f}"
    return [
        f"real flights, {in_line}, weeks flipped: {of_line}",
        f"real flights, single holdouts, every pattern of flipped weeks: {of_holdouts} (printed, not judged)",
        f"real flights, {pairs['pairs']} pairs that differ in their seed alone: {verdicts} (reported, not judged)",
    ]


def _rows(days: Days) -> JudgedRows:
    """Rows with the day's mean uplift: their days are what the self-test looks at."""
    labels = np.repeat(np.arange(len(days.rows)), days.rows)
    uplift = (np.asarray(days.uplift) / np.asarray(days.rows))[labels]
    return JudgedRows(days.attempt, np.zeros(uplift.size), uplift, np.asarray(days.days)[labels])


def _every_copy(days: Days, confidence: float) -> list[str]:
    """The verdict on every copy: without the attempt's own estimate, each week's sign either way."""
    rows, uplift = np.asarray(days.rows), np.asarray(days.uplift)
    null = uplift - uplift.sum() / rows.sum() * rows
    calendar = np.array([date.fromisoformat(day).toordinal() for day in days.days])
    verdicts: list[str] = []
    for begins in range(BLOCK_DAYS):
        week = (calendar + begins) // BLOCK_DAYS
        patterns = itertools.product((-1.0, 1.0), repeat=int(week[-1] - week[0]) + 1)
        verdicts += [days.judge(null * np.asarray(signs)[week - week[0]], confidence) for signs in patterns]
    return verdicts
