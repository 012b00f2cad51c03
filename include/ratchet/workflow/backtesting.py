"""What the policies would have earned: the same rows, every policy's model on them, and the differences to the gate.

A policy is a succession of models, each from a moment on; a row is decided by the model that serves at its
``decided_at``. *gate* is what was lived; *never* keeps the first champion, *always* takes every challenger that was
judged, *always_fresh* takes what each challenger would have been with no days held back to judge it: the same recipe
and parameters, fitted and calibrated on every row that was mature when it was made.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ratchet.domain.artifact import ConstantDecision, Floats
from ratchet.domain.holdout import CALIBRATE, gap_days
from ratchet.domain.policies import PolicyTotal, compare
from ratchet.domain.spec import ModelSpec
from ratchet.ports.features import Features
from ratchet.ports.learning import Learner
from ratchet.ports.ledger import AttemptRow, ChampionRow
from ratchet.ports.registry import Registry
from ratchet.ports.store import Store
from ratchet.workflow.attempting import Models, seed_of
from ratchet.workflow.evaluation import Decider, decide
from ratchet.workflow.training import Columns, Ranges, fit_final

POLICIES = ("never", "always", "always_fresh", "act_never", "act_always", "gate")
FITS_AT_ONCE = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reign:
    """A model and the moment from which it decides."""

    since: datetime
    model: Decider


@dataclass(frozen=True)
class Recipe:
    """How an attempt's challenger was made: enough to make it again on other rows."""

    attempt_id: str
    as_of: datetime
    params: Mapping[str, Any]
    columns: Columns


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
    registry: Registry
    store: Store
    models: Models


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
    served = [champion for champion in champions if champion.kind != "rollback"]
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
    versions = sorted({c.version for c in served} | {cast("int", a.challenger_version) for a in judged})
    tell(f"loading {len(versions)} versions")
    made = {v: world.models.load(world.registry.download(spec.model, v)) for v in versions}
    learner = world.models.learner_for(spec.train.estimator)
    tell(f"fitting {len(recipes)} challengers again with nothing withheld")
    with ThreadPoolExecutor(FITS_AT_ONCE) as pool:
        fresh = list(pool.map(lambda recipe: refit(spec, rows, recipe, learner), recipes))
    tell(f"scoring {evaluated.num_rows:,} decisions")
    return compare_policies(
        spec,
        evaluated,
        champions=[Reign(c.as_of, made[c.version]) for c in served],
        challengers=[Reign(a.as_of, made[cast("int", a.challenger_version)]) for a in judged],
        fresh=[Reign(recipe.as_of, model) for recipe, model in zip(recipes, fresh, strict=True)],
    )


def compare_policies(
    spec: ModelSpec,
    rows: pa.Table,
    *,
    champions: Sequence[Reign],
    challengers: Sequence[Reign],
    fresh: Sequence[Reign],
) -> Backtest:
    """Score the policies on ``rows`` (``day``, ``label``, ``decided_at``, features), which all of them decide.

    Each succession must begin no later than the first row's decision. Raises ``ValueError`` when one does not.
    """
    constant = {"act_never": False, "act_always": True}
    successions: dict[str, Sequence[Reign]] = {
        "never": champions[:1],
        "always": challengers,
        "always_fresh": fresh,
        **{
            name: [Reign(champions[0].since, ConstantDecision(act=act, probability=float("nan")))]
            for name, act in constant.items()
        },
        "gate": champions,
    }
    earned = {name: payoff_of(spec, rows, successions[name]) for name in POLICIES}
    days = np.asarray(rows.column("day").to_pylist())
    confidence = spec.gate.confidence
    moments = rows.column("decided_at")
    return Backtest(
        policies=compare(earned, days, confidence=confidence),
        withholding=compare(
            {name: earned[name] for name in ("always", "always_fresh")},
            days,
            baseline="always_fresh",
            confidence=confidence,
        )["always"],
        rows=rows.num_rows,
        days=len(set(days.tolist())),
        start=pc.min(moments).as_py(),
        end=pc.max(moments).as_py(),
        unit=spec.business.payoff.unit,
    )


def payoff_of(spec: ModelSpec, rows: pa.Table, reigns: Sequence[Reign]) -> Floats:
    """What the succession earned: (n_rows,) payoff per decision; a row is decided by the last model made by then.

    Of two models of one moment the later in the sequence decides. Raises ``ValueError`` when a row comes before all.
    """
    ordered = sorted(reigns, key=lambda reign: reign.since)
    since = [reign.since for reign in ordered]
    moments = rows.column("decided_at").to_pylist()
    serving: NDArray[np.intp] = np.array([bisect_right(since, moment) - 1 for moment in moments], dtype=np.intp)
    if (serving < 0).any():
        raise ValueError(f"a policy must have a model for every row, but its first serves from {since[:1]} on.")
    payoff = np.full(rows.num_rows, np.nan)
    for position, reign in enumerate(ordered):
        chosen = np.flatnonzero(serving == position)
        if chosen.size:
            payoff[chosen] = decide(spec, rows.take(pa.array(chosen)), reign.model).payoff
    return payoff


def refit(spec: ModelSpec, rows: pa.Table, recipe: Recipe, learner: Learner) -> Decider:
    """The recipe on all days mature at its ``as_of``: the last 28 calibrate, those before fit, none judge."""
    return fit_final(
        spec=spec,
        train=rows,
        ranges=fresh_ranges(spec, recipe.as_of),
        columns=recipe.columns,
        params=recipe.params,
        seed=seed_of(recipe.attempt_id),
        learner=learner,
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
    dossier = json.loads(store.get_bytes(f"dossiers/{attempt.id}.json"))
    return Recipe(
        attempt_id=attempt.id,
        as_of=attempt.as_of,
        params=dossier["study"]["params"],
        columns=Columns.of(dossier["snapshot"]),
    )
