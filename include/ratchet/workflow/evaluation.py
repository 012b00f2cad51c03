"""Both models on the same fresh rows: the evidence a gate decides on. Nothing is fitted, chosen or judged here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ratchet.domain.artifact import (
    Bools,
    ConstantDecision,
    ConstantPrediction,
    Floats,
    ModelArtifact,
    batches,
    targets,
)
from ratchet.domain.capacity import best_of_each
from ratchet.domain.gate import Evidence, ScoredRows
from ratchet.domain.payoff import PayoffMatrix, Valued
from ratchet.domain.spec import ModelSpec
from ratchet.domain.threshold import best_in_hindsight, curve, written
from ratchet.errors import Refused
from ratchet.workflow.valuing import Hook, valued, worth_of

CURVE_POINTS = 101
CAPACITIES = 41
LATENCY_SAMPLES = 200
LATENCY_WARMUP = 10
LATENCY_REPEATS = 3
LATENCY_BUDGET_SECONDS = 2.0

Decider = ModelArtifact | ConstantDecision | ConstantPrediction


@dataclass(frozen=True)
class Decisions:
    """What one model did: ``payoff`` (n_rows,) per decision, and ``probability`` and ``act``, (n_rows,) each.

    A regression has ``prediction`` (n_rows,) in their stead, a ranking ``score`` in that of ``probability``.
    """

    probability: Floats | None
    act: Bools | None
    payoff: Floats
    prediction: Floats | None = None
    score: Floats | None = None


def decide(rows: pa.Table, model: Decider, worth: Valued) -> Decisions:
    """The model's decisions on the rows and what each was worth, in the order of the rows."""
    score, decision = model.decide(rows)
    payoff = worth.of(decision)
    if decision.dtype != np.bool_:
        return Decisions(None, None, payoff, score)
    act = np.asarray(decision, dtype=np.bool_)
    if isinstance(model, ModelArtifact) and model.kind == "ranking":
        return Decisions(None, act, payoff, score=score)
    return Decisions(score, act, payoff)


def evaluate(
    spec: ModelSpec,
    holdout: pa.Table,
    champion: Decider,
    challenger: ModelArtifact,
    *,
    sizes_mb: tuple[float | None, float | None] = (None, None),
    clock: Callable[[], float] = time.thread_time,
    hook: Hook | None = None,
) -> Evidence:
    """Score champion and challenger on every row of the holdout.

    Args:
        spec: gives the payoff and which columns the guardrails slice and group by.
        holdout: ``day`` ('YYYY-MM-DD', the cluster), ``label`` (0/1, or a finite number), these columns, what the
            payoff's formulas read, and both models' features. Under a capacity the rows must be in their total order.
        champion: the sitting champion, or the constant decision a first champion must beat. A constant decision has
            no probability and is no model, so nothing but payoff is compared with it; nor with a constant prediction.
        challenger: the candidate.
        sizes_mb: millions of bytes of the champion's and the challenger's files; None where not known.
        clock: seconds; read around each timed call. The thread's own processor time unless given, because a
            neighbour on the same machine must not decide who serves.
        hook: the loaded function of a spec whose payoff names one.

    Latency samples are milliseconds from one Arrow row to its decision (encoding, trees, calibration, threshold) in
    this process, single-threaded; both models are timed in turn on the same rows, after a warm-up. A sample is the best
    of three calls on its row: a call that met a cold cache says little of the model. A holdout without rows is evidence
    of nothing, which is for the gate to say.

    Raises:
        Refused: a column is missing, or a label is missing or not finite.
    """
    (evidence,) = evaluate_each(spec, holdout, champion, [challenger], sizes_mb=sizes_mb, clock=clock, hook=hook)
    return evidence


def evaluate_each(
    spec: ModelSpec,
    holdout: pa.Table,
    champion: Decider,
    challengers: Sequence[ModelArtifact],
    *,
    sizes_mb: Sequence[float | None],
    clock: Callable[[], float] = time.thread_time,
    hook: Hook | None = None,
    latencies_ms: Sequence[Floats] | None = None,
) -> list[Evidence]:
    """:func:`evaluate` for several challengers of one champion, which is scored once; all are timed in turn.

    ``sizes_mb`` are the champion's and each challenger's, in their order; so are ``latencies_ms``, where they were
    timed before (:func:`latencies`), and nothing is timed here.
    """
    columns = [guardrail.column for guardrail in spec.gate.guardrails if guardrail.column is not None]
    slices = list(dict.fromkeys(columns))
    if missing := [name for name in ("day", "label", *slices) if name not in holdout.column_names]:
        raise Refused(f"holdout rows must have the columns {missing}, but got {holdout.column_names}.")
    label = labels_of(spec, holdout)
    worth = valued(spec, holdout, label, hook)
    models = (champion, *challengers)
    old, *others = (decide(holdout, model, worth) for model in models)
    timed = latencies(holdout, models, clock) if latencies_ms is None else latencies_ms
    old_ms, *others_ms = timed
    constant = isinstance(champion, ConstantDecision | ConstantPrediction)
    clusters, sliced = _values(holdout, "day"), {name: _values(holdout, name) for name in slices}
    before = ScoredRows(
        probability=None if constant else old.probability,
        payoff=old.payoff,
        latency_ms=None if constant else old_ms,
        act=old.act,
        size_mb=sizes_mb[0],
        prediction=None if constant else old.prediction,
        score=None if constant else old.score,
    )
    return [
        Evidence(
            uplift=new.payoff - old.payoff,
            clusters=clusters,
            label=label,
            champion=before,
            challenger=ScoredRows(
                probability=new.probability,
                payoff=new.payoff,
                latency_ms=new_ms,
                act=new.act,
                size_mb=size_mb,
                prediction=new.prediction,
                score=new.score,
            ),
            slices=sliced,
            unit=spec.business.payoff.unit,
        )
        for new, new_ms, size_mb in zip(others, others_ms, sizes_mb[1:], strict=True)
    ]


def payoff_curve(
    spec: ModelSpec, holdout: pa.Table, evidence: Evidence, models: Mapping[str, Decider], hook: Hook | None = None
) -> dict[str, Any] | None:
    """What each model would have earned on the holdout with any threshold, for people: the gate reads none of it.

    ``models`` are the ``champion`` and the ``challenger`` of the evidence. Per model, in payoff units per decision:
    its payoff at each of 101 thresholds on the calibrated probability, the threshold it was judged with (``by row``
    where each row has its own, ``constant`` for a decision without a score), and in ``hindsight`` the best threshold
    on these very rows, with what the chosen rule lost against it (below zero where a rule by row beats them all). A
    constant decision earns the same at every threshold and has no hindsight. Under a capacity the curve is that of the
    day's best, at or above each threshold. NaN where the payoff of a row is NaN; None for no rows, and for a
    regression or a ranking, whose decision meets no threshold (of the latter: :func:`payoff_by_capacity`).
    """
    if not holdout.num_rows or spec.business.kind != "classifier":
        return None
    worth = worth_of(spec, holdout, labels(holdout), hook)
    thresholds = np.linspace(0.0, 1.0, CURVE_POINTS)
    told: dict[str, Any] = {"unit": spec.business.payoff.unit, "thresholds": thresholds.tolist()}
    chosen: dict[str, float | str] = {}
    hindsight: dict[str, dict[str, Any] | None] = {}
    for name, scored in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        model, earned = models[name], float(np.asarray(scored.payoff).mean())
        if not isinstance(model, ModelArtifact) or scored.probability is None or model.threshold is None:
            told[name], chosen[name], hindsight[name] = [earned] * CURVE_POINTS, "constant", None
            continue
        probability = np.asarray(scored.probability, dtype=np.float64)
        open_to_it = worth
        if model.capacity is not None:
            open_to_it = worth.limited(best_of_each(probability, batches(holdout), model.capacity))
        best, payoff = best_in_hindsight(probability, open_to_it)
        told[name] = curve(probability, open_to_it, thresholds).tolist()
        chosen[name] = "by row" if isinstance(model.threshold, PayoffMatrix) else written(model.threshold)
        hindsight[name] = {"threshold": written(best), "payoff": payoff, "loss": payoff - earned}
    return told | {"chosen": chosen, "hindsight": hindsight}


def payoff_by_capacity(
    spec: ModelSpec, holdout: pa.Table, evidence: Evidence, hook: Hook | None = None
) -> dict[str, Any] | None:
    """What each ranking would have earned on the holdout with another capacity, for people: the gate reads none of it.

    Payoff units per decision, by how many of each day's best are acted on (``at_most``): none, and about 40 numbers up
    to twice the capacity, the ``chosen`` one among them. None in the place of a constant decision. NaN where the payoff
    of a row is NaN; None for no rows, and for what is no ranking.
    """
    capacity = spec.business.capacity
    if not holdout.num_rows or not spec.business.ranking or capacity is None:
        return None
    worth, days = worth_of(spec, holdout, labels(holdout), hook), batches(holdout)
    rooms = np.unique([capacity, *np.linspace(0, 2 * capacity, CAPACITIES).round().astype(int)])
    told: dict[str, Any] = {"unit": spec.business.payoff.unit, "at_most": rooms.tolist(), "chosen": capacity}
    for name, scored in (("champion", evidence.champion), ("challenger", evidence.challenger)):
        if scored.score is None:
            told[name] = None
            continue
        score = np.asarray(scored.score, dtype=np.float64)
        told[name] = [float(worth.of(best_of_each(score, days, room)).mean()) for room in rooms.tolist()]
    return told


def labels_of(spec: ModelSpec, rows: pa.Table) -> NDArray[Any]:
    """The labels (n_rows,): 0 or 1, or a regression's finite targets; a missing one is refused."""
    return targets(rows, "judged rows") if spec.business.regression else labels(rows)


def labels(rows: pa.Table) -> NDArray[np.int8]:
    """The labels (n_rows,) in {0, 1}; a missing one is refused."""
    column = rows.column("label")
    if column.null_count:
        raise Refused(f"every row must have a label, but {column.null_count} have none. Judge mature days only.")
    return np.asarray(column.to_numpy(), dtype=np.int8)


def _values(rows: pa.Table, name: str) -> NDArray[Any]:
    """One column as (n_rows,) text; missing values are the text ``missing``."""
    column = rows.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return np.asarray(column.cast(pa.string()).fill_null("missing").to_numpy(zero_copy_only=False), dtype=np.str_)


def latencies(rows: pa.Table, models: Sequence[Decider], clock: Callable[[], float] = time.thread_time) -> list[Floats]:
    """Milliseconds per single-row decision of each model: (n_samples,), on rows spread evenly over the table."""
    if not rows.num_rows:
        return [np.empty(0) for _ in models]
    picks = np.linspace(0, rows.num_rows - 1, LATENCY_WARMUP + LATENCY_SAMPLES).astype(int)
    timed: list[list[float]] = [[] for _ in models]
    began = clock()
    for count, pick in enumerate(picks):
        row = rows.slice(int(pick), 1)
        for samples, model in zip(timed, models, strict=True):
            best = min(_seconds(model, row, clock) for _ in range(LATENCY_REPEATS))
            if count >= LATENCY_WARMUP:
                samples.append(best * 1000.0)
        if clock() - began > LATENCY_BUDGET_SECONDS and timed[0]:
            break
    return [np.asarray(samples, dtype=np.float64) for samples in timed]


def _seconds(model: Decider, row: pa.Table, clock: Callable[[], float]) -> float:
    began = clock()
    model.decide(row)
    return clock() - began
