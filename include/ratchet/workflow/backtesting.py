"""What the policies would have earned: the same rows, every policy's model on them, and the differences to the gate.

A policy is a succession of models, each from a moment on; a row is decided by the model that serves at its
``decided_at``. *gate* is what was lived; *never* keeps the first champion, *always* takes every challenger that was
judged (of several in one attempt the one that stood for it), *always_fresh* takes what each challenger would have been
with no days held back to judge it: the same recipe and parameters, fitted and calibrated on every row that was mature
when it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ratchet.domain.artifact import ConstantDecision, Floats, ModelArtifact
from ratchet.domain.holdout import CALIBRATE, gap_days
from ratchet.domain.inference import group
from ratchet.domain.payoff import Valued
from ratchet.domain.policies import PolicyTotal, compare
from ratchet.domain.spec import ModelSpec
from ratchet.ports.features import Features
from ratchet.ports.learning import Learner
from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.ports.store import Store
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.attempting import Models, seed_of
from ratchet.workflow.candidates import scorer_of
from ratchet.workflow.evaluation import Decider, decide, labels_of
from ratchet.workflow.training import Columns, Ranges, fit_final, recalibrate
from ratchet.workflow.valuing import Hook, valued

POLICIES = ("never", "always", "always_fresh", "act_never", "act_always", "gate")
FITS_AT_ONCE = 2
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reign:
    """A model and the moment from which it decides."""

    since: datetime
    model: Decider


@dataclass(frozen=True)
class Recipe:
    """How an attempt's challenger was made: enough to make it again on other rows.

    ``scorer_of`` is the version whose scorer a recalibrated champion shares; the rest is then of no account.
    """

    attempt_id: str
    as_of: datetime
    params: Mapping[str, Any]
    columns: Columns
    scorer_of: int | None = None


@dataclass(frozen=True)
class Backtest:
    """Totals in the payoff's unit over ``rows`` decisions from ``start`` to ``end`` (their ``decided_at``).

    ``withholding`` is *always* minus *always_fresh*: what judging every challenger on days withheld from it cost
    (negative: a loss), with its own interval.
    """

    policies: Mapping[str, PolicyTotal]
    withholding: PolicyTotal
    rows: int
    days: int
    start: datetime
    end: datetime
    unit: str


@dataclass(frozen=True)
class World:
    """What the backtest reads: the parts behind the ports."""

    features: Features
    artifacts: Artifacts
    store: Store
    models: Models
    hook: Hook | None = None


def backtest_year(
    world: World,
    spec: ModelSpec,
    *,
    champions: Sequence[ChampionRow],
    attempts: Sequence[AttemptRow],
    as_of: datetime,
    tell: Progress = lambda _: None,
) -> Backtest | None:
    """Let every policy decide every row from the first champion's ``as_of`` to the last label mature at ``as_of``.

    ``champions`` are the model's history, oldest first; ``attempts`` those with a verdict, in any order. Returns None
    when there is no champion or no row. Raises what the parts raise.
    """
    served = [champion for champion in champions if champion.kind in {"init", "promotion"}]
    if not served:
        return None
    start = served[0].as_of
    judged = sorted(
        (a for a in attempts if a.challenger_version is not None and a.as_of >= start), key=lambda a: (a.as_of, a.epoch)
    )
    recipes = [_recipe(world.store, attempt) for attempt in judged]
    tell("joining the features of every flight")
    first_day = min(recipe.as_of for recipe in recipes).date() - spec.data.window - timedelta(days=7)
    spine = world.features.spine(spec, as_of=as_of, start=first_day, end=as_of.date())
    rows = world.features.historical(spec, spine)
    decided_at = rows.column("decided_at")
    evaluated = rows.filter(pc.greater_equal(decided_at, pa.scalar(start, decided_at.type)))
    if not evaluated.num_rows:
        return None
    shared = {recipe.scorer_of for recipe in recipes if recipe.scorer_of is not None}
    versions = sorted({c.version for c in served} | {cast("int", a.challenger_version) for a in judged} | shared)
    tell(f"loading {len(versions)} versions")
    made = {v: world.artifacts.load(spec.model, v) for v in versions}
    learner = world.models.learner_for(spec.train.estimator)
    tell(f"fitting {len(recipes)} challengers again with nothing withheld")
    with ThreadPoolExecutor(FITS_AT_ONCE) as pool:
        fresh = list(pool.map(lambda recipe: refit(spec, rows, recipe, learner, world.hook, made), recipes))
    tell(f"scoring {evaluated.num_rows:,} decisions")
    return compare_policies(
        spec,
        evaluated,
        champions=[Reign(c.as_of, made[c.version]) for c in served],
        challengers=[Reign(a.as_of, made[cast("int", a.challenger_version)]) for a in judged],
        fresh=[Reign(recipe.as_of, model) for recipe, model in zip(recipes, fresh, strict=True)],
        hook=world.hook,
    )


def compare_policies(
    spec: ModelSpec,
    rows: pa.Table,
    *,
    champions: Sequence[Reign],
    challengers: Sequence[Reign],
    fresh: Sequence[Reign],
    hook: Hook | None = None,
) -> Backtest:
    """Score the policies on ``rows`` (``day``, ``label``, ``decided_at``, features), which all of them decide.

    Each succession must begin no later than the first row's decision. Raises ``ValueError`` when one does not. The
    policies without a model, always and never to act, are none of a regression.
    """
    constant = {} if spec.business.regression else {"act_never": False, "act_always": True}
    successions: dict[str, Sequence[Reign]] = {
        "never": champions[:1],
        "always": challengers,
        "always_fresh": fresh,
        **{
            name: [Reign(champions[0].since, ConstantDecision(act, float("nan"), spec.business.capacity))]
            for name, act in constant.items()
        },
        "gate": champions,
    }
    # In the order of time, a model's rows are one slice, and policies that share a model over a slice share its scores.
    rows, decided_at = in_order_of_decision(spec, rows)
    scored: dict[tuple[int, int, int], Floats] = {}
    worth = valued(spec, rows, labels_of(spec, rows), hook)
    earned = {
        name: payoff_of(rows, successions[name], worth, decided_at, scored) for name in POLICIES if name in successions
    }
    days = np.unique(rows.column("day").to_numpy(), return_inverse=True)[1]
    confidence = spec.gate.confidence
    moments = pc.min_max(rows.column("decided_at"))
    return Backtest(
        policies=compare(earned, days, confidence=confidence),
        withholding=compare(
            {name: earned[name] for name in ("always", "always_fresh")},
            days,
            baseline="always_fresh",
            confidence=confidence,
        )["always"],
        rows=rows.num_rows,
        days=int(days.max()) + 1,
        start=moments["min"].as_py(),
        end=moments["max"].as_py(),
        unit=spec.business.payoff.unit,
    )


def payoff_of(
    rows: pa.Table,
    reigns: Sequence[Reign],
    worth: Valued,
    decided_at: NDArray[np.int64],
    scored: dict[tuple[int, int, int], Floats] | None = None,
) -> Floats:
    """What the succession earned: (n_rows,) payoff per decision; a row is decided by the last model made by then.

    ``rows`` and ``worth`` must be in the order of ``decided_at``, (n_rows,) microseconds since 1970. Of two models of
    one moment the later in the sequence decides. ``scored`` keeps what a model (by identity) earned on a slice, for the
    next policy. Raises ``ValueError`` when a row comes before the first model.
    """
    scored = {} if scored is None else scored
    ordered = sorted(reigns, key=lambda reign: reign.since)
    parts = []
    for index, start, end in terms([reign.since for reign in ordered], decided_at):
        reign = ordered[index]
        key = (id(reign.model), start, end)
        if key not in scored:
            scored[key] = decide(rows.slice(start, end - start), reign.model, worth.between(start, end)).payoff
        parts.append(scored[key])
    return np.concatenate(parts) if parts else np.empty(0)


def terms(since: Sequence[datetime], decided_at: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Which rows each model of a succession decides: (its index, first row, end), ascending; none for none.

    ``since`` ascend, and so does ``decided_at``, (n_rows,) microseconds since 1970. Raises ``ValueError`` when a row
    comes before the first model.
    """
    moments = [(moment - EPOCH) // timedelta(microseconds=1) for moment in since]
    starts = [int(start) for start in np.searchsorted(decided_at, moments)]
    n_rows = int(decided_at.size)
    if not starts or starts[0] > 0:
        raise ValueError(
            f"a policy must have a model for every row, but the first of {len(starts)} comes after "
            f"{starts[0] if starts else n_rows} of {n_rows} rows."
        )
    bounds = zip(range(len(starts)), starts, [*starts[1:], n_rows], strict=True)
    return [(index, start, end) for index, start, end in bounds if start < end]


def in_order_of_decision(spec: ModelSpec, rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows in the order in which they are decided, and when that is: (n_rows,) microseconds since 1970.

    Under a capacity a day is decided as a whole when its first row is: a model that comes later takes over with the
    next day, else two models would each have the capacity on one day.
    """
    if spec.business.capacity is None:
        rows = rows.sort_by("decided_at").combine_chunks()
        return rows, microseconds(rows.column("decided_at"))
    codes = group(rows.column("day").to_numpy()).codes
    moments = microseconds(rows.column("decided_at"))
    first = np.full(codes.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, codes, moments)
    order = pa.table({name: rows.column(name) for name in (*spec.data.spine.entity, "decided_at")})
    order = order.append_column("batch", pa.array(codes)).append_column("first", pa.array(first[codes]))
    by = [(name, "ascending") for name in ("first", "batch", *spec.data.spine.entity, "decided_at")]
    taken = pc.sort_indices(order, sort_keys=by)
    return rows.take(taken).combine_chunks(), first[codes][taken.to_numpy()]


def microseconds(moments: pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970 of UTC instants, (n_rows,)."""
    found: NDArray[np.int64] = moments.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return found


def refit(
    spec: ModelSpec,
    rows: pa.Table,
    recipe: Recipe,
    learner: Learner,
    hook: Hook | None = None,
    made: Mapping[int, ModelArtifact] | None = None,
) -> Decider:
    """The recipe on all days mature at its ``as_of``: the last 28 calibrate, those before fit, none judge.

    Of a recalibrated champion the map alone is learned again, for the scorer of its version among ``made``.
    """
    ranges, version = fresh_ranges(spec, recipe.as_of), recipe.scorer_of
    if version is not None:
        champion = (made or {})[version]
        return recalibrate(spec=spec, train=rows, ranges=ranges, champion=champion, version=version, hook=hook)
    return fit_final(
        spec=spec,
        train=rows,
        ranges=ranges,
        columns=recipe.columns,
        params=recipe.params,
        seed=seed_of(recipe.attempt_id),
        learner=learner,
        hook=hook,
    )


def fresh_ranges(spec: ModelSpec, as_of: datetime) -> Ranges:
    """As a plan lays training out, less the holdout: fit, gap of the label delay, 28 days that end with the newest.

    A day counts as mature when its local end plus the label delay has passed at ``as_of``.
    """
    spine = spec.data.spine
    end: date = (as_of - spine.label_delay).astimezone(spine.zone).date()
    calibrate_start = end - CALIBRATE
    bounds = (end - spec.data.window, calibrate_start - gap_days(spine.label_delay), calibrate_start, end)
    return Ranges(*(bound.isoformat() for bound in bounds))


def _recipe(store: Store, attempt: AttemptRow) -> Recipe:
    dossier = dossiers.read(store, attempt)
    return Recipe(
        attempt_id=attempt.id,
        as_of=attempt.as_of,
        params=dossier["study"]["params"],
        columns=Columns.of(dossier["snapshot"]),
        scorer_of=scorer_of(dossier["challenger"]["provenance"]),
    )
