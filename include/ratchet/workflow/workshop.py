"""What a backtest makes, each once: studies, models, what they earn, what the gate and the monitor see of them.

Everything is kept under a digest of all that made it: the source of the rows, the days they are of, the spec's own
parts, the champion's parameters where a study begins with them, the seed, the code and the libraries; and the
corruption of a feed where it touches those days, so that what it does not touch is shared with the backtest without it.
An object is written when it is whole: whoever is killed loses what was in work.

Within one process, studies on the same rows share their fits as well: most of their trials have the same parameters
and the same seed, whichever model serves.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ratchet.domain.artifact import Floats, ModelArtifact, Platt, Scorer, Shift
from ratchet.domain.candidates import Choice, judge_each
from ratchet.domain.gate import GatePolicy
from ratchet.domain.holdout import HoldoutPlan
from ratchet.domain.payoff import Valued
from ratchet.domain.spec import ModelSpec, Monitor
from ratchet.domain.threshold import TunedThreshold
from ratchet.domain.unit_errors import Corruption, in_other_units
from ratchet.errors import Refused
from ratchet.ports.learning import Learner, Watch
from ratchet.ports.store import Store
from ratchet.ports.studies import Studies
from ratchet.workflow import evidence as evidences
from ratchet.workflow.attempting import Models, seed_of
from ratchet.workflow.backtesting import fresh_ranges
from ratchet.workflow.candidates import candidates_of
from ratchet.workflow.evaluation import decide, evaluate_each, latencies
from ratchet.workflow.new_rows import Unjudged, Window, feature_drift
from ratchet.workflow.training import (
    Columns,
    Ranges,
    best_trial,
    calibration_of,
    fit_final,
    recalibrate,
    start_params,
    tune_worker,
    tuned_threshold_of,
)
from ratchet.workflow.valuing import Hook

Say = Callable[[str], None]
MODEL = "model"


@dataclass(frozen=True)
class Recipe:
    """What a study came to: how to fit. ``near`` says which other study it was taken from, where it was not made."""

    key: str
    as_of: datetime
    plan: HoldoutPlan
    params: Mapping[str, Any]
    map: Mapping[str, Any]
    seed: int
    core_seconds: float
    near: str | None = None

    @property
    def ranges(self) -> Ranges:
        """The days that it was tuned on."""
        return _ranges(self.plan)


@dataclass(frozen=True)
class Made:
    """A model that can serve. ``learned`` are the half-open local days that it was fitted and calibrated on.

    ``core_seconds`` are of its own fits, its study's apart. ``model`` is read when it is asked for.
    """

    key: str
    recipe: Recipe
    learned: tuple[str, str]
    core_seconds: float
    megabytes: float
    load: Callable[[], ModelArtifact] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Place:
    """Where things are made and kept. ``source`` is the digest of all that the rows come from, ``code`` of the code."""

    cache: Store
    models: Models
    new_studies: Callable[[], Studies]
    source: str
    code: str
    hook: Hook | None = None
    threads: int = 1
    approximate: bool = False
    named: Mapping[datetime, str] = field(default_factory=dict)
    """The attempts that were lived, by their ``as_of``: their studies had these names, and so the seeds."""


class Sharing:
    """A learner that gives the same scorer again for the same days, parameters and seed, and knows what that spared.

    By the port's contract both are the same to the bit, whatever the threads. ``spared`` are processor seconds.
    """

    def __init__(self, learner: Learner, threads: int) -> None:
        self.estimator = learner.estimator
        self._learner, self._threads = learner, threads
        self._prepared: dict[Any, Any] = {}
        self._fits: dict[Any, _Fit] = {}
        self.spared = 0.0

    def forget(self) -> None:
        """Let go of all rows and fits."""
        self._prepared.clear()
        self._fits.clear()

    def categories(self, rows: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """See ``Learner.categories``."""
        return self._learner.categories(rows, names)

    def prepare(
        self,
        rows: Any,
        label: Any,
        *,
        features: Sequence[str],
        categories: Mapping[str, tuple[str, ...]],
        threads: int,  # noqa: ARG002 - ours
    ) -> Any:
        """See ``Learner.prepare``; the rows are known by their days."""
        days = pc.min_max(rows.column("day"))
        key = (days["min"].as_py(), days["max"].as_py(), rows.num_rows, tuple(features))
        if key not in self._prepared:
            made = self._learner.prepare(rows, label, features=features, categories=categories, threads=self._threads)
            self._prepared[key] = (key, made)
        return self._prepared[key]

    def fit(
        self,
        prepared: Any,
        params: Mapping[str, Any],
        *,
        seed: int,
        threads: int,  # noqa: ARG002 - ours
        watch: Watch | None = None,
    ) -> Scorer:
        """See ``Learner.fit``."""
        rows, made = prepared
        key = (rows, _digest(dict(params)), seed)
        known = self._fits.get(key, _Fit(watched=False))
        for share, scorer in known.seen if watch is not None else ():
            if watch is not None and watch(share, scorer):
                self.spared += known.core_seconds
                return scorer
        if known.whole is not None and (watch is None or known.watched):
            self.spared += known.core_seconds
            return known.whole
        fitted, stopped = _Fit(watched=watch is not None), False

        def look(share: float, scorer: Scorer) -> bool:
            nonlocal stopped
            fitted.seen.append((share, scorer))
            # What a fit before this one was shown has been asked just now, and did not stop.
            stopped = watch is not None and len(fitted.seen) > len(known.seen) and watch(share, scorer)
            return stopped

        began = time.process_time()
        scorer = self._learner.fit(
            made, params, seed=seed, threads=self._threads, watch=None if watch is None else look
        )
        fitted.core_seconds = time.process_time() - began
        fitted.whole = None if stopped else scorer
        self._fits[key] = fitted
        return scorer

    def versions(self) -> dict[str, str]:
        """See ``Learner.versions``."""
        return self._learner.versions()


@dataclass
class _Fit:
    """One fit: what its watch was shown, and the whole scorer where nothing stopped it."""

    watched: bool
    seen: list[tuple[float, Scorer]] = field(default_factory=list)
    whole: Scorer | None = None
    core_seconds: float = 0.0


class Workshop:
    """Makes, or finds in the cache, what policies of one making need: they share rows, training and payoff.

    ``rows`` are all of the stretch, in total order, with the features as known at each decision, as they were or with
    the ``corruption`` in them (:func:`corrupted`). ``misses`` counts what was not found. Raises what the parts raise.
    """

    def __init__(
        self,
        place: Place,
        spec: ModelSpec,
        rows: pa.Table,
        columns: Columns,
        evaluated: Evaluated,
        learner: Sharing,
        corruption: Corruption | None = None,
        say: Say = lambda _: None,
    ) -> None:
        self._place, self._spec, self._columns = place, spec, columns
        self._rows, self._day = rows, rows.column("day")
        self._evaluated, self._corruption, self._say = evaluated, corruption, say
        self._learner, self._versions = learner, learner.versions()
        self._loaded: dict[str, ModelArtifact] = {}
        self.misses = 0

    def forget(self) -> None:
        """Let go of what only the candidates of one ``as_of`` share."""
        self._learner.forget()
        self._loaded.clear()

    # -- studies and models ----------------------------------------------------------------------------------------

    def study(self, as_of: datetime, plan: HoldoutPlan, champion: Recipe | None) -> Recipe:
        """The study of an attempt with this plan, whose first trial is the champion's parameters."""
        name = self._place.named.get(as_of, f"{self._spec.model}@{as_of.isoformat()}")
        seed, params = seed_of(name), None if champion is None else champion.params
        ranges = _ranges(plan)
        of_rows = self._of_days(ranges.fit_start, ranges.calibrate_end) | {"ranges": vars(ranges)}
        family = _digest({"family": "study", "of": self._made_by(), "rows": of_rows, "study": name, "seed": seed})
        key = f"studies/{family}/{_digest(start_params(self._spec.train.search_space, params))}"
        if (known := self._kept(key)) is not None:
            return Recipe(key, as_of, plan, seed=seed, **known)
        if self._place.approximate and (nearest := self._nearest(family)) is not None:
            return Recipe(nearest[0], as_of, plan, seed=seed, near=nearest[0], **nearest[1])
        self._say(f"{self._spec.model} of {as_of:%Y-%m-%d}: study of {self._spec.train.trials} trials")
        with self._measured() as took:
            studies = self._place.new_studies()
            tune_worker(
                spec=self._spec,
                train=self._between(ranges.fit_start, ranges.calibrate_end),
                ranges=ranges,
                columns=self._columns,
                study_name=name,
                worker=0,
                trials=self._spec.train.trials,
                seed=seed,
                studies=studies,
                learner=self._learner,
                champion_params=params,
                hook=self._place.hook,
                alone=True,
            )
            best = best_trial(studies, name)
        found: dict[str, Any] = {
            "params": dict(best.params),
            "map": _map_record(calibration_of(best), tuned_threshold_of(best)),
            "core_seconds": took(),
        }
        self._keep(key, found)
        return Recipe(key, as_of, plan, seed=seed, **found)

    def judged(self, recipe: Recipe) -> Made:
        """What an attempt judges: the recipe on A and B."""
        ranges = recipe.ranges
        calibrator, tuned = _map_of(recipe.map)
        return self._fit("judged", recipe, ranges, calibrator, tuned)

    def refit(self, recipe: Recipe) -> Made:
        """The judged recipe on every mature row of its plan, under the judged one's map and threshold."""
        end = (recipe.plan.holdout_days[-1] + timedelta(days=1)).isoformat()
        calibrator, tuned = _map_of(recipe.map)
        return self._fit("refit", recipe, replace(recipe.ranges, calibrate_end=end), calibrator, tuned)

    def fresh(self, recipe: Recipe) -> Made:
        """The recipe fitted and calibrated on every row that was mature, as with nothing withheld to judge it."""
        return self._fit("fresh", recipe, fresh_ranges(self._spec, recipe.as_of), None, None)

    def _fit(
        self, kind: str, recipe: Recipe, ranges: Ranges, calibrator: Platt | Shift | None, tuned: TunedThreshold | None
    ) -> Made:
        days = (ranges.fit_start, ranges.calibrate_end)
        of_rows = self._of_days(*days) | {"ranges": vars(ranges)}
        made_of = {"kind": kind, "of": self._made_by(), "rows": of_rows, "recipe": recipe.key, "seed": recipe.seed}
        key = f"models/{_digest(made_of | {'params': dict(recipe.params), 'map': dict(recipe.map)})}"
        card = f"{key}.json"
        known = self._kept(card)
        if known is None:
            self._say(f"{self._spec.model} of {recipe.as_of:%Y-%m-%d}: fitting what is to be {kind}")
            with self._measured() as took, tempfile.TemporaryDirectory() as scratch:
                model = fit_final(
                    spec=self._spec,
                    train=self._between(*days),
                    ranges=ranges,
                    columns=self._columns,
                    params=recipe.params,
                    seed=recipe.seed,
                    learner=self._learner,
                    calibrator=calibrator,
                    tuned=tuned,
                    hook=self._place.hook,
                )
                known = self._save(key, model, Path(scratch)) | {"core_seconds": took()}
            self._keep(card, known)
            self._loaded[key] = model
        return self._made(key, recipe, days, known)

    def _save(self, key: str, model: ModelArtifact, scratch: Path) -> dict[str, Any]:
        folder = scratch / MODEL
        digest = self._place.models.save(model, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self._place.cache.put_dir(key, folder)
        return {"digest": digest, "megabytes": size / 1e6}

    def _made(self, key: str, recipe: Recipe, days: tuple[str, str], known: Mapping[str, Any]) -> Made:
        def load() -> ModelArtifact:
            if key not in self._loaded:
                with tempfile.TemporaryDirectory() as scratch:
                    folder = self._place.cache.get_dir(key, Path(scratch) / MODEL)
                    self._loaded[key] = self._place.models.load(folder, expected=known["digest"])
            return self._loaded[key]

        return Made(key, recipe, days, known["core_seconds"], known["megabytes"], load)

    # -- what they are worth ---------------------------------------------------------------------------------------

    @cached_property
    def _decided(self) -> pa.Table:
        """The evaluated rows of this world, in the order of their decisions."""
        return self._rows.take(pa.array(self._evaluated.places)).combine_chunks()

    def earned(self, made: Made) -> Floats:
        """What the model earns on every evaluated row from its own ``as_of`` on: (n_rows,), NaN before."""
        evaluated = self._evaluated
        first = int(np.searchsorted(evaluated.decided_at, _microseconds(made.recipe.as_of)))
        rest = evaluated.rows.column("day").slice(first)
        days = (pc.min(rest).as_py() or evaluated.days[1], evaluated.days[1])
        key = f"earned/{_digest({'model': made.key, 'rows': self._of_days(*days), 'days': days, 'on': evaluated.tag})}"

        def decided() -> pa.Table:
            self._say(f"{self._spec.model} of {made.recipe.as_of:%Y-%m-%d}: scoring")
            n_rows = evaluated.rows.num_rows
            rows = self._decided.slice(first)
            return pa.table({"payoff": decide(rows, made.load(), evaluated.worth.between(first, n_rows)).payoff})

        payoff = self._table(key, decided).column("payoff").to_numpy()
        return np.concatenate([np.full(first, np.nan), payoff])

    def choice(self, spec: ModelSpec, recipe: Recipe, champion: Made) -> tuple[Choice, dict[str, Made]]:
        """The gate's verdicts by ``spec`` on the recipe's holdout, and what was judged by the names of candidates."""
        tuned = self.judged(recipe)
        models = {"tuned_challenger": tuned}
        share, unjudged = 1.0, {}
        if spec.gate.also_judge:
            train = self._between(recipe.ranges.fit_start, recipe.ranges.calibrate_end)

            def again(*, champion: ModelArtifact, version: int) -> ModelArtifact:
                return recalibrate(
                    spec=spec,
                    train=train,
                    ranges=recipe.ranges,
                    champion=champion,
                    version=version,
                    hook=self._place.hook,
                )

            judged = candidates_of(spec, tuned.load(), champion.load(), 0, again)
            share, unjudged = judged.share, dict(judged.not_judged)
            for name, model in judged.models.items():
                if name not in models:
                    models[name] = self._recalibrated(name, model, recipe, champion)
        found = {name: self._evidence(spec, recipe, champion, made) for name, made in models.items()}
        return judge_each(found, GatePolicy.from_spec(spec.gate, alpha_share=share), unjudged), models

    def _recalibrated(self, name: str, model: ModelArtifact, recipe: Recipe, champion: Made) -> Made:
        key = f"models/{_digest({'kind': name, 'recipe': recipe.key, 'champion': champion.key})}"
        known = self._kept(f"{key}.json")
        if known is None:
            with tempfile.TemporaryDirectory() as scratch:
                known = self._save(key, model, Path(scratch)) | {"core_seconds": 0.0}
            self._keep(f"{key}.json", known)
        its = replace(recipe, key=champion.recipe.key, params=champion.recipe.params)
        return self._made(key, its, champion.learned, known)

    def _evidence(self, spec: ModelSpec, recipe: Recipe, champion: Made, challenger: Made) -> Any:
        days = [day.isoformat() for day in recipe.plan.holdout_days]
        slices = list(dict.fromkeys(g.column for g in spec.gate.guardrails if g.column is not None))
        sides = {"champion": champion.key, "challenger": challenger.key, "slices": slices, "days": days}
        business = spec.business.model_dump(mode="json")
        of_rows = self._of_days(days[0], _after(days[-1]))
        key = f"evidence/{_digest({'sides': sides, 'business': business, 'rows': of_rows, 'code': self._place.code})}"
        beside = self._kept(f"{key}.json")
        if beside is not None:
            kept = pq.read_table(io.BytesIO(self._place.cache.get_bytes(f"{key}.parquet")))
            return evidences.from_table(kept, beside, slices, spec.business.payoff.unit)
        self._say(f"{self._spec.model} of {recipe.as_of:%Y-%m-%d}: judging on {len(days)} days")
        self.misses += 1
        holdout = self._rows.filter(pc.is_in(self._day, value_set=pa.array(days)))
        (found,) = evaluate_each(
            spec,
            holdout,
            champion.load(),
            [challenger.load()],
            sizes_mb=[champion.megabytes, challenger.megabytes],
            hook=self._place.hook,
            latencies_ms=[self._latency(made, holdout) for made in (champion, challenger)],
        )
        self._put(f"{key}.parquet", evidences.to_table(spec, holdout, found))
        self._keep(f"{key}.json", evidences.measured(found))
        return found

    def _latency(self, made: Made, holdout: pa.Table) -> Floats:
        """Milliseconds per decision, timed once per model: (n_samples,)."""
        key = f"{made.key}.latency.json"
        known = self._kept(key)
        if known is None:
            known = {"ms": latencies(holdout, [made.load()])[0].tolist()}
            self._keep(key, known)
        return np.asarray(known["ms"], dtype=np.float64)

    def drift(self, monitor: Monitor, learned: tuple[str, str], window: Window) -> dict[str, Any] | None:
        """What the monitor finds in the window's features beside the days learned from; None where nothing is said."""
        days = (window.start.isoformat(), window.end.isoformat())
        of_rows = [self._of_days(*learned), self._of_days(*days), learned, days, window.block_days]
        of = {"rows": of_rows, "monitor": monitor.model_dump(mode="json"), "code": self._place.code}
        key = f"drift/{_digest(of | {'features': self._columns.features})}.json"
        found = self._kept(key)
        if found is None:
            self._say(f"{self._spec.model}: drift of {days[0]} to {days[1]}")
            self.misses += 1
            try:
                train, rows = self._between(*learned), self._between(*days)
                told = feature_drift(monitor, self._columns.features, train, rows, window)
                found = {name: told[name] for name in ("outcome", "severity", "drifted")}
            except Unjudged as why:
                found = {"outcome": "unjudged", "why": str(why)}
            self._keep(key, found)
        return None if found["outcome"] == "unjudged" else found

    # -- keys and the cache ----------------------------------------------------------------------------------------

    def _made_by(self) -> dict[str, Any]:
        spec = self._spec.model_dump(mode="json")
        return {
            "code": self._place.code,
            "libraries": self._versions,
            "columns": vars(self._columns),
            "train": {name: value for name, value in spec["train"].items() if name != "workers"},
            "business": {name: spec["business"][name] for name in ("decision", "payoff")},
        }

    def _of_days(self, start: str, end: str) -> dict[str, Any]:
        """What the rows of the local days ``[start, end)`` are made of."""
        data = self._spec.data.model_dump(mode="json")
        touched = self._corruption is not None and self._corruption.touches(start, end)
        return {
            "source": self._place.source,
            "spine": data["spine"],
            "features": data["features"],
            "corrupted": self._corruption.tag if touched and self._corruption is not None else None,
        }

    def _between(self, start: str, end: str) -> pa.Table:
        return self._rows.filter(pc.and_(pc.greater_equal(self._day, start), pc.less(self._day, end)))

    @contextmanager
    def _measured(self) -> Iterator[Callable[[], float]]:
        """Processor seconds of the block, with those that sharing has spared."""
        self.misses += 1
        began, spared = time.process_time(), self._learner.spared
        yield lambda: round(time.process_time() - began + self._learner.spared - spared, 3)

    def _nearest(self, family: str) -> tuple[str, dict[str, Any]] | None:
        """A study of the same rows and seed that began with another champion's parameters."""
        whole = (key for key in self._place.cache.sizes(f"studies/{family}") if "/." not in key)
        key = min(whole, default=None)
        known = None if key is None else self._kept(key)
        return None if key is None or known is None else (key, known)

    def _kept(self, key: str) -> dict[str, Any] | None:
        if not self._place.cache.exists(key):
            return None
        found: dict[str, Any] = json.loads(self._place.cache.get_bytes(key))
        return found

    def _keep(self, key: str, found: Mapping[str, Any]) -> None:
        self._place.cache.put_bytes(key, json.dumps(found, sort_keys=True).encode())

    def _put(self, key: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._place.cache.put_bytes(key, sink.getvalue().to_pybytes())

    def _table(self, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        if self._place.cache.exists(key):
            return pq.read_table(io.BytesIO(self._place.cache.get_bytes(key)))
        self.misses += 1
        made = make()
        self._put(key, made)
        return made


@dataclass(frozen=True)
class Evaluated:
    """The rows that every policy decides, in the order in which they are decided.

    ``places`` (n_rows,) are their positions among the rows of the world, ``decided_at`` (n_rows,) microseconds since
    1970; ``days`` are the half-open local days they are of, ``tag`` what tells these rows from others.
    """

    rows: pa.Table
    places: NDArray[np.intp]
    decided_at: NDArray[np.int64]
    worth: Valued
    days: tuple[str, str]
    tag: str


def corrupted(rows: pa.Table, corruption: Corruption) -> pa.Table:
    """The rows with the columns of the corrupted month as the faulty feed reports them; as numbers of float64."""
    day = rows.column("day")
    inside = pc.and_(pc.greater_equal(day, corruption.month.isoformat()), pc.less(day, corruption.end.isoformat()))
    for name in corruption.columns:
        if name not in rows.column_names:
            raise Refused(f"the corrupted feed has a column {name!r}, but the model's rows have none of that name")
        values = rows.column(name).cast(pa.float64())
        wrong = in_other_units(name, values.to_numpy(zero_copy_only=False))
        mixed = pc.if_else(inside, pa.array(wrong, from_pandas=True), values)
        rows = rows.set_column(rows.column_names.index(name), name, mixed)
    return rows


def _ranges(plan: HoldoutPlan) -> Ranges:
    days = (plan.fit_start, plan.fit_end, plan.calibrate_start, plan.calibrate_end)
    return Ranges(*(day.isoformat() for day in days))


def _map_record(calibrator: Platt | Shift | None, tuned: TunedThreshold | None) -> dict[str, Any]:
    record: dict[str, Any] = {} if tuned is None else {"tuned": tuned.record()}
    if calibrator is None:  # a ranking's scores are not calibrated
        return record
    if isinstance(calibrator, Shift):
        return record | {"offset": calibrator.offset}
    return record | {"slope": calibrator.slope, "intercept": calibrator.intercept}


def _map_of(record: Mapping[str, Any]) -> tuple[Platt | Shift | None, TunedThreshold | None]:
    tuned = TunedThreshold.of_record(record["tuned"]) if "tuned" in record else None
    if "slope" not in record and "offset" not in record:
        return None, tuned
    if "offset" in record:
        return Shift(record["offset"]), tuned
    return Platt(slope=record["slope"], intercept=record["intercept"]), tuned


def _after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _microseconds(moment: datetime) -> int:
    return (moment - datetime.fromisoformat("1970-01-01T00:00:00+00:00")) // timedelta(microseconds=1)


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
