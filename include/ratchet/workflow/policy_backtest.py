"""Policies on one and the same stretch of data: replayed side by side, then compared in money.

The policies' requests (:mod:`ratchet.domain.policy_replay`) are answered in the order of what their data reach, so that
those which retrain on the same rows share what is made there. All rows are read once, with the features as known at
each decision; which days a run may read is its plan's to say. What is not replayed is a day published later than its
label delay: rows count as mature by their plan alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from croniter import croniter

from ratchet.domain.admission import OpenEvent
from ratchet.domain.artifact import Floats
from ratchet.domain.candidates import TUNED
from ratchet.domain.events import DataArrived, DriftCleared, DriftDetected, RetrainRequested
from ratchet.domain.holdout import mature_at
from ratchet.domain.inference import group
from ratchet.domain.policies import Conclusion, PolicyTotal, compare, conclude
from ratchet.domain.policy_replay import (
    Found,
    Judged,
    Look,
    Moment,
    Policy,
    Requests,
    Run,
    Serves,
    Trigger,
    replay,
)
from ratchet.domain.spec import ModelSpec, Monitor
from ratchet.domain.unit_errors import Corruption
from ratchet.errors import Refused
from ratchet.ports.features import Features
from ratchet.workflow.backtesting import in_order_of_decision, terms
from ratchet.workflow.evaluation import labels_of
from ratchet.workflow.monitoring import FEATURES, end_of
from ratchet.workflow.new_rows import Window
from ratchet.workflow.training import Columns
from ratchet.workflow.valuing import Hook, valued
from ratchet.workflow.workshop import Evaluated, Made, Place, Recipe, Sharing, Workshop, corrupted

DEFAULT = "ratchet"
MONTHLY = "0 4 1 * *"
"""When a spec without a schedule is retrained by the policy that goes by one."""

Say = Callable[[str], None]
_DAY = timedelta(days=1)
_BEFORE = timedelta(days=60)
"""More than a holdout and its gaps, before which a first champion's window begins."""
_BLIND: Mapping[str, tuple[Trigger, Serves, str]] = {
    "never": ("never", "judged", "the first champion serves all the time"),
    "always": ("arrival", "fresh", "retrain when data arrive, promote blindly"),
    "on_schedule": ("schedule", "fresh", "retrain by the schedule {schedule}, promote blindly"),
    "on_drift": ("drift", "fresh", "retrain when drift is admitted, promote blindly"),
}


@dataclass(frozen=True)
class Stretch:
    """Local days ``[start, end)`` are decided by every policy; those from ``judge_from`` on judge, the others choose.

    The first champion is made of what is known when ``start`` begins, or at the moment ``first_as_of`` of that day.
    """

    start: date
    judge_from: date
    end: date
    first_as_of: datetime | None = None

    def __post_init__(self) -> None:
        if not self.start <= self.judge_from < self.end:
            raise Refused(
                f"the judging months must begin within {self.start} to {self.end}, but begin on {self.judge_from}"
            )

    def begins(self, spec: ModelSpec) -> datetime:
        """From when the first champion serves: its ``as_of``."""
        return self.first_as_of or end_of(spec, self.start)


@dataclass(frozen=True)
class Heard:
    """The events, as moments in time, and in words where they come from."""

    moments: tuple[Moment, ...]
    said: str


@dataclass(frozen=True)
class Lived:
    """One run of a policy, as it came out. ``serves`` is what it let serve; None where it kept the champion."""

    number: int
    at: datetime
    as_of: datetime
    reason: str
    decision: str
    verdict: Mapping[str, Any] | None
    core_seconds: float
    approximate: bool
    serves: Made | None
    recipe: Recipe

    def told(self) -> dict[str, Any]:
        """For the report."""
        return {
            "at": self.at.isoformat(),
            "as_of": self.as_of.isoformat(),
            "reason": self.reason,
            "decision": self.decision,
            "verdict": self.verdict,
            "core_seconds": round(self.core_seconds, 1),
            "approximate": self.approximate,
        }


@dataclass(frozen=True)
class Standing:
    """One policy's row: counts over the judging months, money over both parts, its difference to the default."""

    policy: Policy
    retrains: int
    promotions: int
    false_promotions: int
    core_seconds: float
    approximate: bool
    choosing: float
    found: PolicyTotal
    conclusion: Conclusion
    runs: tuple[Lived, ...]
    daily: Floats


@dataclass(frozen=True)
class World:
    """What came of one world: ``standings`` in the policies' order; ``days`` are those of every ``daily``."""

    corruption: Corruption | None
    standings: tuple[Standing, ...]
    days: tuple[str, ...]
    rows: int
    judging_rows: int
    judging_days: int
    misses: int


@dataclass(frozen=True)
class Rows:
    """All rows of the stretch and of what its models are made of, in total order, with their features."""

    table: pa.Table
    columns: Columns


def policies_of(spec: ModelSpec, variants: Mapping[str, ModelSpec]) -> tuple[Policy, ...]:
    """The blind policies, the shipped default, and each variant of it, in this order."""
    schedule = spec.retrain.schedule or MONTHLY
    blind = [
        Policy(name, spec, trigger, serves, said.format(schedule=schedule))
        for name, (trigger, serves, said) in _BLIND.items()
    ]
    gated = [
        Policy(name, its, "admission", its.gate.deploy, _gate_in_words(its))
        for name, its in {DEFAULT: spec, **variants}.items()
    ]
    for policy in gated:
        _refuse_what_is_not_replayed(policy)
    if taken := sorted(set(_BLIND) & {policy.name for policy in gated}):
        raise Refused(f"a variant must have a name of its own, but {taken[0]!r} is a policy already")
    return (*blind, *gated)


def usual_variants(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Other gates that a spec could have, by name, as dotted keys: the modes, two confidences, and what is deployed."""
    other = "non_inferiority" if spec.gate.mode == "superiority" else "superiority"
    deploy = {"gate.deploy": "refit" if spec.gate.deploy == "judged" else "judged"}
    if spec.probation is None and spec.gate.deploy == "judged":
        deploy |= {"probation.for": "28d"}
    named, less = next(iter(deploy.values())), {"gate.confidence": 0.8}
    return {
        other: {"gate.mode": other},
        f"{spec.gate.mode}_80": less,
        f"{other}_80": {"gate.mode": other} | less,
        named: deploy,
        f"{other}_{named}": {"gate.mode": other} | deploy,
    }


def read_rows(features: Features, policies: Sequence[Policy], stretch: Stretch) -> Rows:
    """Every row that one of the policies could be trained on, or that they decide."""
    features.apply()
    spec = policies[0].spec
    first = stretch.start - max(policy.spec.data.window for policy in policies) - _BEFORE
    until = mature_at(stretch.end - _DAY, spec.data.spine.timezone, spec.data.spine.label_delay)
    spine = features.spine(spec, as_of=until, start=first, end=stretch.end)
    if not spine.num_rows:
        raise Refused(f"{spec.data.spine.source} must hold rows from {first} to {stretch.end}, but holds none")
    table = features.historical(spec, spine)
    names, schema = features.feature_names(spec), table.schema
    texts = (
        n for n in names if pa.types.is_string(schema.field(n).type) or pa.types.is_large_string(schema.field(n).type)
    )
    return Rows(table, Columns(names, tuple(texts)))


def derived(spec: ModelSpec, rows: Rows, stretch: Stretch) -> Heard:
    """What would have been published: each month's data at its end, the schedule's requests, and looks for drift."""
    spine, days = spec.data.spine, rows.table.column("day")
    moments: list[Moment] = []
    key = 0
    for first, end in _months(stretch)[:-1]:  # what comes with the end decides nothing
        at = end_of(spec, end)
        inside = pc.and_(pc.greater_equal(days, first.isoformat()), pc.less(days, end.isoformat()))
        new_rows = int(pc.sum(inside).as_py() or 0)
        events = []
        for dataset in spec.datasets:
            own = dataset == spine.source
            data = DataArrived(
                dataset=dataset,
                complete_until=at,
                new_rows=new_rows if own else 0,
                label_completeness=1.0 if own else None,
            )
            name = f"{dataset}-{first.isoformat()}-{end.isoformat()}"
            events.append(OpenEvent(key, name, "/backtest", "ratchet.data.arrived.v1", at, at, data))
            key += 1
        listens = spec.retrain.on.drift is not None
        moments.append(Moment(at, at, tuple(events), looked_at=listens))
    arrivals = tuple(moments)
    for at in _ticks(spec, stretch):
        asked = RetrainRequested(reason="schedule", actor="schedule")
        event = OpenEvent(key, f"schedule-{at.isoformat()}", "/backtest", "ratchet.retrain.requested.v1", at, at, asked)
        key += 1
        reached = _reached(arrivals, at, stretch.begins(spec))
        moments.append(Moment(at, reached, (event,) if spec.retrain.schedule else (), scheduled=True))
    said = (
        "derived from the datasets: each month's data arrive at its end, the schedule asks, and the monitor's rule "
        "looks for drift of the features at each arrival"
    )
    return Heard(_merged(moments), said)


def heard(spec: ModelSpec, events: Iterable[OpenEvent], stretch: Stretch, said: str) -> Heard:
    """Given events as moments: those of one instant are decided together, and the data reach as far as they tell."""
    start, end = stretch.begins(spec), end_of(spec, stretch.end)
    marks = dict.fromkeys(spec.datasets, start)
    lacking = False
    by_moment: dict[datetime, list[OpenEvent]] = {}
    for event in events:
        by_moment.setdefault(event.time, []).append(event)
    moments: list[Moment] = []
    for at, together in sorted(by_moment.items()):
        for event in together:
            data = event.data
            if isinstance(data, DataArrived) and data.dataset in marks:
                marks[data.dataset] = max(marks[data.dataset], data.complete_until)
                if data.dataset == spec.data.spine.source and data.label_completeness is not None:
                    lacking = data.label_completeness < spec.data.spine.min_label_completeness
        if start < at < end:
            moments.append(Moment(at, None if lacking else min(marks.values()), tuple(together)))
    ticks = [Moment(at, _reached(moments, at, start), scheduled=True) for at in _ticks(spec, stretch)]
    return Heard(_merged([*moments, *ticks]), said)


def _reached(arrivals: Sequence[Moment], at: datetime, start: datetime) -> datetime | None:
    """How far the data are complete at an instant; ``arrivals`` ascend."""
    before = [moment.as_of for moment in arrivals if moment.at <= at]
    return before[-1] if before else start


def backtest(
    place: Place,
    spec: ModelSpec,
    policies: Sequence[Policy],
    rows: Rows,
    events: Heard,
    stretch: Stretch,
    corruption: Corruption | None = None,
    say: Say = lambda _: None,
) -> World:
    """Let every policy live through the stretch, and compare what they earned.

    Raises:
        Refused: there is nothing to learn from or to decide, or a part refuses.
    """
    table = rows.table if corruption is None else corrupted(rows.table, corruption)
    evaluated = _evaluated(spec, rows, stretch, place.hook)
    shops = _shops(place, policies, replace(rows, table=table), evaluated, corruption, say)
    start = stretch.begins(spec)
    players = [_Player(policy, events.moments, start, shops[policy.name]) for policy in policies]
    reached = start
    while waiting := [player for player in players if player.request is not None]:
        player = min(waiting, key=lambda one: one.as_of)
        if player.as_of > reached:
            reached = player.as_of
            for shop in shops.values():
                shop.forget()
        player.answer()
    return _compared(spec, players, evaluated, stretch, corruption)


class _Player:
    """One policy at play: what it asks for next, and how its runs came out."""

    def __init__(self, policy: Policy, moments: Sequence[Moment], start: datetime, shop: Workshop) -> None:
        self.policy, self.shop = policy, shop
        self.runs: list[Lived] = []
        self.champions: dict[int, Made] = {}
        self._requests: Requests = replay(policy, moments, start)
        self.request: Look | Run | None = next(self._requests)

    @property
    def as_of(self) -> datetime:
        """How far the data reach that the request asks about."""
        if self.request is None:
            raise ValueError(f"{self.policy.name} asks for nothing more")
        return self.request.as_of

    def answer(self) -> None:
        """Do what is asked and go on to the next request."""
        asked = self.request
        found: Found | Judged = None
        if isinstance(asked, Look):
            found = self._looked(asked)
        elif asked is not None:
            found = self._ran(asked)
        try:
            self.request = self._requests.send(found)
        except StopIteration:
            self.request = None

    def _looked(self, look: Look) -> Found:
        spec = self.policy.spec
        monitor = spec.monitor or Monitor()
        end = look.as_of.astimezone(spec.data.spine.zone).date()
        window = Window(end - monitor.window, end, monitor.block // _DAY)
        drift = self.shop.drift(monitor, self.champions[look.serving].learned, window)
        if drift is None:
            return None
        if drift["outcome"] == "cleared":
            return DriftCleared(check=FEATURES, window_end=look.as_of)
        return DriftDetected(
            check=FEATURES,
            severity=drift["severity"],
            window_start=end_of(spec, window.start),
            window_end=look.as_of,
            feature=drift["drifted"][0],
        )

    def _ran(self, run: Run) -> Judged | None:
        champion = None if run.champion is None else self.champions[run.champion]
        recipe = self.shop.study(run.as_of, run.plan, None if champion is None else champion.recipe)
        if champion is None or not self.policy.gated:
            fresh = champion is not None and self.policy.serves == "fresh"
            made = self.shop.fresh(recipe) if fresh else self.shop.judged(recipe)
            self._keep(run, recipe, "the first" if champion is None else "promoted blindly", None, made, (made,))
            return None
        choice, judged = self.shop.choice(self.policy.spec, recipe, champion)
        verdict, fits = choice.verdict, [judged[TUNED]]
        serves: Made | None = None
        if verdict.decision == "promote":
            serves = judged[choice.chosen]
            if self.policy.serves == "refit" and choice.chosen == TUNED:
                serves = self.shop.refit(recipe)
                fits.append(serves)
        said = {name: getattr(verdict, name) for name in ("estimate", "lower", "upper", "n_rows", "n_clusters")}
        self._keep(run, recipe, verdict.decision, said | {"reasons": list(verdict.reasons)}, serves, fits)
        return Judged(verdict.decision, verdict.n_rows, verdict.needed_clusters)

    def _keep(
        self,
        run: Run,
        recipe: Recipe,
        decision: str,
        verdict: Mapping[str, Any] | None,
        serves: Made | None,
        fits: Iterable[Made],
    ) -> None:
        if serves is not None:
            self.champions[run.number] = serves
        seconds = recipe.core_seconds + sum(made.core_seconds for made in fits)
        near = recipe.near is not None
        self.runs.append(
            Lived(run.number, run.at, run.as_of, run.reason, decision, verdict, seconds, near, serves, recipe)
        )


def _shops(
    place: Place,
    policies: Sequence[Policy],
    rows: Rows,
    evaluated: Evaluated,
    corruption: Corruption | None,
    say: Say,
) -> dict[str, Workshop]:
    """A workshop per way of making models; policies that differ in the gate or in when they run share one."""
    learners: dict[str, Sharing] = {}
    made: dict[str, Workshop] = {}
    shops: dict[str, Workshop] = {}
    for policy in policies:
        spec = policy.spec
        if spec.train.estimator not in learners:
            learners[spec.train.estimator] = Sharing(place.models.learner_for(spec.train.estimator), place.threads)
        making = f"{spec.train.model_dump_json()}{spec.data.model_dump_json()}"
        if making not in made:
            learner = learners[spec.train.estimator]
            made[making] = Workshop(place, spec, rows.table, rows.columns, evaluated, learner, corruption, say)
        shops[policy.name] = made[making]
    return shops


def _evaluated(spec: ModelSpec, rows: Rows, stretch: Stretch, hook: Hook | None) -> Evaluated:
    """The rows of the stretch in the order of their decisions."""
    start = stretch.begins(spec)
    table = rows.table.append_column("place", pa.array(np.arange(rows.table.num_rows)))
    decided_at = table.column("decided_at")
    inside = pc.and_(
        pc.greater_equal(decided_at, pa.scalar(start, decided_at.type)),
        pc.less(table.column("day"), stretch.end.isoformat()),
    )
    chosen = table.filter(inside)
    if not chosen.num_rows:
        raise Refused(f"no row of {spec.data.spine.source} is decided from {stretch.start} on: name other months")
    ordered, moments = in_order_of_decision(spec, chosen)
    return Evaluated(
        rows=ordered.select(["day"]),
        places=ordered.column("place").to_numpy(),
        decided_at=moments,
        worth=valued(spec, ordered, labels_of(spec, ordered), hook),
        days=(stretch.start.isoformat(), stretch.end.isoformat()),
        tag=f"{start.isoformat()} {stretch.end.isoformat()} {spec.business.model_dump_json()}",
    )


def _compared(
    spec: ModelSpec,
    players: Sequence[_Player],
    evaluated: Evaluated,
    stretch: Stretch,
    corruption: Corruption | None,
) -> World:
    days = group(evaluated.rows.column("day").to_numpy(zero_copy_only=False).astype(np.str_))
    judging = np.asarray(days.labels)[days.codes] >= stretch.judge_from.isoformat()
    if not judging.any():
        raise Refused(f"no decision is of {stretch.judge_from} or later: let the judging months begin sooner")
    earned, false = {}, {}
    for player in players:
        earned[player.policy.name], false[player.policy.name] = _earned(player, evaluated)
    codes = days.codes[judging]
    compared = compare(
        {name: payoff[judging] for name, payoff in earned.items()},
        codes,
        baseline=DEFAULT,
        confidence=spec.gate.confidence,
        simultaneous=True,
    )
    margin = spec.gate.min_uplift * int(judging.sum())
    judge_from = end_of(spec, stretch.judge_from)
    standings = []
    for player in players:
        name = player.policy.name
        runs = [run for run in player.runs[1:] if run.at >= judge_from]
        standings.append(
            Standing(
                policy=player.policy,
                retrains=len(runs),
                promotions=sum(run.serves is not None for run in runs),
                false_promotions=sum(run.number in false[name] for run in runs),
                core_seconds=sum(run.core_seconds for run in runs),
                approximate=any(run.approximate for run in player.runs),
                choosing=float(earned[name][~judging].sum()),
                found=compared[name],
                conclusion=conclude(compared[name], margin),
                runs=tuple(player.runs),
                daily=np.bincount(days.codes, weights=earned[name], minlength=len(days.labels)).astype(np.float64),
            )
        )
    return World(
        corruption=corruption,
        standings=tuple(standings),
        days=tuple(days.labels),
        rows=int(judging.size),
        judging_rows=int(judging.sum()),
        judging_days=int(np.unique(codes).size),
        misses=sum(shop.misses for shop in {id(player.shop): player.shop for player in players}.values()),
    )


def _earned(player: _Player, evaluated: Evaluated) -> tuple[Floats, set[int]]:
    """What the policy earned, (n_rows,) per decision, and its false promotions.

    A promotion is false when, on the rows it then decided, it earned less than what it replaced would have.
    """
    served = [(run.number, run.at, run.serves) for run in player.runs if run.serves is not None]
    payoff = np.empty(evaluated.decided_at.size)
    false = set()
    for index, start, end in terms([at for _, at, _ in served], evaluated.decided_at):
        number, _, made = served[index]
        payoff[start:end] = player.shop.earned(made)[start:end]
        if index and payoff[start:end].sum() < player.shop.earned(served[index - 1][2])[start:end].sum():
            false.add(number)
    return payoff, false


def _months(stretch: Stretch) -> list[tuple[date, date]]:
    """The months of the stretch as half-open ranges of days."""
    months, first = [], stretch.start
    while first < stretch.end:
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        months.append((first, min(after, stretch.end)))
        first = after
    return months


def _ticks(spec: ModelSpec, stretch: Stretch) -> list[datetime]:
    """When the schedule fires within the stretch, as Airflow reads it: in the spine's time zone."""
    zone = spec.data.spine.zone
    clock = croniter(spec.retrain.schedule or MONTHLY, datetime.combine(stretch.start, time(), zone))
    end, ticks = end_of(spec, stretch.end), []
    while (at := clock.get_next(datetime).astimezone(UTC)) < end:
        ticks.append(at)
    return ticks


def _merged(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    """In the order of time; what falls on one instant is one moment."""
    merged: dict[datetime, Moment] = {}
    for moment in moments:
        known = merged.get(moment.at)
        if known is None:
            merged[moment.at] = moment
            continue
        reached = [m.as_of for m in (known, moment) if m.as_of is not None]
        merged[moment.at] = Moment(
            moment.at,
            max(reached, default=None),
            (*known.events, *moment.events),
            scheduled=known.scheduled or moment.scheduled,
            looked_at=known.looked_at or moment.looked_at,
        )
    return tuple(merged[at] for at in sorted(merged))


def _gate_in_words(spec: ModelSpec) -> str:
    gate = spec.gate
    serves = "its refit serves" if gate.deploy == "refit" else "the judged artifact serves"
    return f"admission, then the gate: {gate.mode} at {gate.confidence:g}; {serves}"


def _refuse_what_is_not_replayed(policy: Policy) -> None:
    spec = policy.spec
    tuning = spec.train.tuning
    for key, there in (
        ("gate.looks with more than one", len(spec.gate.looks) > 1),
        ("gate.shadow", spec.gate.shadow),
        ("train.tuning of policy retune", tuning is not None and tuning.policy == "retune"),
    ):
        if there:
            raise Refused(f"{policy.name}: {key} is not replayed by a backtest. Give a variant without it.")
