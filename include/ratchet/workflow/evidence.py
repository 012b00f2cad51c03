"""Evidence at rest: the rows a verdict was given on as one table, and what is not of rows beside it.

The table has, per row of the holdout and in its order: the entity keys, ``decided_at``, ``day`` (the cluster),
``label``, the slice columns as text, and of each model (``champion_``, ``challenger_``) ``probability`` (null for a
constant decision, which has none), ``act`` and ``payoff`` (payoff units per decision). Of a regression it has
``prediction`` (null for a constant one) in the place of ``probability`` and ``act``; of a ranking ``score`` in that of
``probability``. Where several challengers were
judged on the rows, ``challenger_`` is the one that was chosen, and each other has the same columns under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet.domain.gate import Evidence, ScoredRows
from ratchet.domain.metrics import Kind
from ratchet.domain.spec import ModelSpec

CHALLENGER = "challenger"
SIDES = ("champion", CHALLENGER)
BY_ROW = ("probability", "act", "payoff", "prediction", "score")
SCORE: Mapping[Kind, str] = {"classifier": "probability", "regression": "prediction", "ranking": "score"}
"""What a row's score is called, by the kind of model that gave it."""
BESIDE = tuple(part.name for part in fields(ScoredRows) if part.name not in BY_ROW)
"""What is measured of a model as a whole: numbers, or samples of them."""


def key_of(name: str) -> str:
    """Where the store keeps the rows an attempt was judged on; ``name`` is the attempt's, or begins with it."""
    return f"evidence/{name}.parquet"


def to_table(
    spec: ModelSpec, holdout: pa.Table, evidence: Evidence, others: Mapping[str, ScoredRows] | None = None
) -> pa.Table:
    """What the verdict was given on, row by row; ``others`` are those challengers, by name, that were not chosen."""
    kept = [*spec.data.spine.entity, "decided_at", "day", "label"]
    columns: dict[str, Any] = {name: holdout.column(name) for name in kept}
    columns |= {name: pa.array(values, pa.string()) for name, values in evidence.slices.items() if name not in columns}
    score = SCORE[spec.business.kind]
    for side, scored in _sides(evidence, others).items():
        columns[f"{side}_{score}"] = _floats(getattr(scored, score), holdout.num_rows)
        if not spec.business.regression:
            columns[f"{side}_act"] = pa.array(np.asarray(scored.act, dtype=np.bool_))
        columns[f"{side}_payoff"] = _floats(scored.payoff, holdout.num_rows)
    return pa.table(columns)


def measured(evidence: Evidence, others: Mapping[str, ScoredRows] | None = None) -> dict[str, Any]:
    """What was measured of each model beside its rows, for the dossier."""
    return {
        side: {name: _numbers(getattr(scored, name)) for name in BESIDE}
        for side, scored in _sides(evidence, others).items()
    }


def _sides(evidence: Evidence, others: Mapping[str, ScoredRows] | None) -> dict[str, ScoredRows]:
    return {side: getattr(evidence, side) for side in SIDES} | dict(others or {})


def from_table(
    table: pa.Table, beside: Mapping[str, Any], slices: Sequence[str], unit: str, challenger: str = CHALLENGER
) -> Evidence:
    """The evidence again, to the bit: ``beside`` is what :func:`measured` gave; ``challenger`` is whose columns."""

    def numbers(name: str) -> Any:
        column = table.column(name)
        return None if column.null_count == table.num_rows > 0 else column.to_numpy()

    def side(name: str) -> ScoredRows:
        whole: dict[str, Any] = {
            part: np.asarray(value, dtype=np.float64) if isinstance(value, list) else value
            for part, value in beside[name].items()
        }
        payoff = numbers(f"{name}_payoff")
        if f"{name}_prediction" in table.column_names:
            return ScoredRows(probability=None, payoff=payoff, prediction=numbers(f"{name}_prediction"), **whole)
        act = table.column(f"{name}_act").to_numpy()
        if f"{name}_score" in table.column_names:
            return ScoredRows(probability=None, payoff=payoff, act=act, score=numbers(f"{name}_score"), **whole)
        return ScoredRows(probability=numbers(f"{name}_probability"), payoff=payoff, act=act, **whole)

    champion, rival = side("champion"), side(challenger)
    return Evidence(
        uplift=np.asarray(rival.payoff) - np.asarray(champion.payoff),
        clusters=_texts(table, "day"),
        label=table.column("label").to_numpy(),
        champion=champion,
        challenger=rival,
        slices={name: _texts(table, name) for name in slices},
        unit=unit,
    )


def _floats(values: Any, count: int) -> pa.Array:
    return pa.nulls(count, pa.float64()) if values is None else pa.array(np.asarray(values, dtype=np.float64))


def _numbers(values: Any) -> list[float] | float | None:
    return None if values is None else np.asarray(values, dtype=np.float64).tolist()


def _texts(table: pa.Table, name: str) -> Any:
    return np.asarray(table.column(name).cast(pa.string()).fill_null("missing").to_numpy(), dtype=np.str_)
