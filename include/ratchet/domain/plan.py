"""What a change of specs brings, before it is merged: DAGs, assets, topics, and what each changed key means.

Pure: two sides of specs, as they are and as they would be, and what is known of the models that run. Nothing here
looks anything up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ratchet.domain.differences import ABSENT, Difference, differences
from ratchet.domain.events import DATA_TOPIC, DECISIONS_TOPIC, DRIFT_TOPIC, REQUESTS_TOPIC
from ratchet.domain.forecasting import RunCost, forecast
from ratchet.domain.spec import ModelSpec

Sign = Literal["+", "~", "-"]
SHOWN_DIGEST = 12
DATASETS = "datasets"
"""Where keys of the model's own ``datasets.yaml`` begin; a spec has no such section."""
_GO_WITH_THE_FOLDER = ("DAG", "asset")


@dataclass(frozen=True)
class Side:
    """One model as one side has it: its spec, read, and the entries of its own ``datasets.yaml`` where they are known.

    ``digest`` is the one it is, or would be, deployed under.
    """

    spec: ModelSpec
    digest: str
    datasets: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Standing:
    """What the ledger knows of a model: nothing, where none was asked.

    ``at_work`` are attempts that hold the lease or wait for people, each with its state. ``past`` is what its finished
    runs took that were tuned as the deployed spec tunes, the newest first. ``waiting`` counts events that are not
    decided yet.
    """

    retired: bool = False
    champion: int | None = None
    at_work: tuple[tuple[str, str], ...] = ()
    waiting: int = 0
    on_probation: bool = False
    past: tuple[RunCost, ...] = ()


@dataclass(frozen=True)
class Resource:
    """Something that comes with a deployed spec; ``said`` is what else is to be known of it, compared like the rest."""

    kind: str
    name: str
    said: str = ""


@dataclass(frozen=True)
class ResourceChange:
    """A resource that comes, goes, or is there on both sides and is said otherwise."""

    sign: Sign
    kind: str
    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class KeyChange:
    """A key of the spec (or of the model's own datasets) and what its change means. ``(absent)`` is no value."""

    sign: Sign
    key: str
    before: Any
    after: Any
    means: str


@dataclass(frozen=True)
class ModelPlan:
    """All that one model's change brings; ``digests`` are shortened, None where the side has no such model."""

    model: str
    sign: Sign
    digests: tuple[str | None, str | None]
    resources: tuple[ResourceChange, ...]
    keys: tuple[KeyChange, ...]
    follows: tuple[str, ...] = field(default=())
    """What it means for the model that runs, a sentence each."""


def plan(
    before: Mapping[str, Side], after: Mapping[str, Side], standing: Mapping[str, Standing] | None = None
) -> list[ModelPlan]:
    """The models that change, by name; a model that is the same on both sides has no entry.

    Args:
        before: as it is deployed, or as another version of the files has it.
        after: as the files have it.
        standing: of the models that run, where the ledger was asked.
    """
    known = standing or {}
    names = sorted({*before, *after})
    made = (_model(name, before.get(name), after.get(name), known.get(name, Standing())) for name in names)
    return [one for one in made if one is not None]


def resources(spec: ModelSpec) -> list[Resource]:
    """Everything that a deployed spec brings, in the order in which it is told."""
    model, zone = spec.model, spec.data.spine.timezone
    on = spec.retrain.on
    found = [
        Resource("DAG", f"retrain__{model}", _by(f"rung by ratchet://{model}/due", spec.retrain.schedule, zone)),
        Resource("DAG", f"promote__{model}", f"rung by ratchet://{model}/judged{_asked(spec)}"),
        Resource("DAG", f"rollback__{model}", "by hand"),
    ]
    if spec.probation is not None:
        found.append(Resource("DAG", f"probation__{model}", f"rung by ratchet://{model}/probation"))
    if spec.monitor is not None:
        said = _by(f"rung by ratchet://{model}/monitor", spec.monitor.schedule, zone)
        found.append(Resource("DAG", f"monitor__{model}", said))
    if spec.scoring is not None:
        said = _by(f"rung by ratchet://{model}/score" if spec.scoring.on_data else "", spec.scoring.schedule, zone)
        found.append(Resource("DAG", f"score__{model}", said))
    found += [Resource("asset", f"ratchet://{model}/{bell}") for bell in bells(spec)]
    heard = [*(("data",) if on.data else ()), *(("drift",) if on.drift else ())]
    heard += ["performance"] if on.performance else []
    found += [
        Resource("topic", DATA_TOPIC, f"read for {', '.join(spec.datasets)}"),
        *([Resource("topic", DRIFT_TOPIC, _drift_words(spec))] if _drift_words(spec) else []),
        Resource("topic", REQUESTS_TOPIC, "read"),
        Resource("topic", DECISIONS_TOPIC, "told of verdicts"),
        Resource("retrains", "on", ", ".join(heard) or "requests only"),
        Resource("registered model", model, "alias champion after a promotion, challenger after a verdict"),
        Resource("pool", spec.runtime.pool, f"{spec.runtime.threads} threads a task, {spec.train.workers} tuning"),
        *([Resource("steps", "where they run", where)] if (where := _where(spec)) else []),
        Resource("budget", "runs", _budget(spec)),
        Resource("study", "trials", f"{spec.train.trials} trials on {spec.train.workers} workers"),
        *(Resource("dataset", name) for name in spec.datasets),
        Resource("feature service", spec.data.features),
    ]
    if spec.scoring is not None:
        found.append(Resource("storage", f"predictions/{model}", "a file for each day and role"))
    return found


def _where(spec: ModelSpec) -> str:
    """Where the steps run that do the work, as far as the spec says so."""
    runtime, asked = spec.runtime, spec.runtime.resources
    told = [f"{name} {value}" for name in ("executor", "queue", "image") if (value := getattr(runtime, name))]
    if runtime.environment is not None:
        told.append(f"environment of {runtime.environment} ({(runtime.environment_sha256 or 'unbound')[:12]})")
    if asked is not None:
        gpus = [f"{asked.gpu} of {asked.gpu_name}"] if asked.gpu else []
        memory = [asked.memory] if asked.memory else []
        told.append("pods of " + ", ".join([f"{asked.cpu or runtime.threads:g} cores", *memory, *gpus]))
    return "; ".join(told)


def dags(spec: ModelSpec) -> list[str]:
    """The ids of the DAGs that a spec brings."""
    return [one.name for one in resources(spec) if one.kind == "DAG"]


def bells(spec: ModelSpec) -> list[str]:
    """The last parts of the assets' addresses that a spec brings."""
    optional = {"probation": spec.probation, "monitor": spec.monitor, "score": spec.scoring}
    return ["due", "judged", "champion", *(name for name, asked in optional.items() if asked is not None)]


def meaning(key: str) -> str:
    """What a change of this key means: the sentence of its longest known beginning."""
    parts = key.replace("[", ".").split(".")
    for length in range(len(parts), 0, -1):
        if (said := MEANS.get(".".join(parts[:length]))) is not None:
            return said
    return "obeyed from the next attempt on"


def expected_cost(spec: ModelSpec, past: Sequence[RunCost]) -> str:
    """What a run of the spec is forecast to take by past runs that compare with it, and what the budget allows."""
    budget = _budget(spec)
    told = forecast(past, spec.train.trials)
    if told is None:
        return f"cost: no run that compares has finished yet, so none can be forecast; the budget allows {budget}"
    return (
        f"cost: a run of {told.trials} trials is forecast to take {told.median:.3g} core hours, {told.upper:.3g} at "
        f"most ({told.basis}); the budget allows {budget}"
    )


def _model(name: str, before: Side | None, after: Side | None, standing: Standing) -> ModelPlan | None:
    sign: Sign = "~" if before and after else "+" if after else "-"
    if sign == "-" and standing.retired:
        return None
    digests = _short(before), _short(after)
    changed = list(_resource_changes(before, after))
    keys = list(_key_changes(before, after)) if before and after else []
    if sign == "~" and digests[0] == digests[1] and not keys and not changed:
        return None
    follows = tuple(_follows(before, after, standing, keys))
    return ModelPlan(name, sign, digests, tuple(changed), tuple(keys), follows)


def _short(side: Side | None) -> str | None:
    return None if side is None else side.digest[:SHOWN_DIGEST]


def _resource_changes(before: Side | None, after: Side | None) -> Iterator[ResourceChange]:
    old = {(one.kind, one.name): one for one in (resources(before.spec) if before else ())}
    new = {(one.kind, one.name): one for one in (resources(after.spec) if after else ())}
    for at in [*new, *(at for at in old if at not in new)]:
        was, now = old.get(at), new.get(at)
        if was != now and (after is not None or at[0] in _GO_WITH_THE_FOLDER):
            sign: Sign = "~" if was and now else "+" if now else "-"
            yield ResourceChange(sign, *at, was.said if was else None, now.said if now else None)


def _key_changes(before: Side, after: Side) -> Iterator[KeyChange]:
    found = differences(_written(before.spec), _written(after.spec))
    if before.datasets is not None and after.datasets is not None:
        found += differences(dict(before.datasets), dict(after.datasets), DATASETS)
    for one in found:
        yield KeyChange(_sign(one), one.field, one.recorded, one.found, meaning(one.field))


def _written(spec: ModelSpec) -> dict[str, Any]:
    """The spec as its digest sees it: keys without a value are not there."""
    return dict(_without_none(spec.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value


def _sign(change: Difference) -> Sign:
    if isinstance(change.recorded, str) and change.recorded == ABSENT:
        return "+"
    return "-" if isinstance(change.found, str) and change.found == ABSENT else "~"


def _follows(before: Side | None, after: Side | None, standing: Standing, keys: Sequence[KeyChange]) -> Iterator[str]:
    """What the change means for the model that runs."""
    at_work = ", ".join(f"{attempt} ({state})" for attempt, state in standing.at_work)
    if after is None:
        yield "its champion goes on serving, and its past stays; nothing retrains it"
        yield "it still counts as a model that should run, until it is taken out of service: ratchet retire --help"
        if at_work:
            yield f"{at_work} cannot go on without its DAGs: the sweep ends it"
        return
    if before is None:
        yield f"no champion serves until one is made: ratchet champion init {after.spec.model}"
    elif before.digest == after.digest:
        yield "the spec's digest stays: attempts and looks under way are as they were"
    else:
        yield from _of_another_digest(standing, keys, at_work)
    if standing.retired:
        yield f"the model is retired and stays so: ratchet deploy --revive {after.spec.model}"
    elif standing.champion is not None:
        yield f"version {standing.champion} goes on serving until a challenger passes"
    if before is None or any(key.key.startswith(_COSTLY) for key in keys):
        yield expected_cost(after.spec, standing.past if before and _alike(before.spec, after.spec) else ())


def _alike(before: ModelSpec, after: ModelSpec) -> bool:
    """Whether a trial of one is as dear as a trial of the other."""
    return (before.train.estimator, before.train.tuning) == (after.train.estimator, after.train.tuning)


def _of_another_digest(standing: Standing, keys: Sequence[KeyChange], at_work: str) -> Iterator[str]:
    yield "the spec's digest changes: attempts from now on are bound to the new one; a look that waits is off"
    if all(key.key.startswith(f"{DATASETS}.") for key in keys):
        yield "no key of it changes: this version of Ratchet fills in other defaults"
    if at_work:
        yield f"{at_work} ends by the spec it began with"
    if standing.on_probation:
        yield "the probation under way goes on by the spec its champion was judged with"
    if standing.waiting:
        yield f"{standing.waiting:,} events that wait are decided by the new spec"


def _by(bell: str, cron: str | None, zone: str) -> str:
    return " and ".join(part for part in (bell, f"at {cron} ({zone})" if cron else "") if part)


def _asked(spec: ModelSpec) -> str:
    approval = spec.gate.approval
    if approval is None:
        return ""
    return "; asks people" if approval.two_people_above is None else "; asks one or two people"


def _drift_words(spec: ModelSpec) -> str:
    on = spec.retrain.on
    words = ["read"] if on.drift or on.performance else []
    return " and ".join([*words, *(["told what the monitor finds"] if spec.monitor else [])])


def _budget(spec: ModelSpec) -> str:
    budget = spec.retrain.budget
    limits = [f"{budget.runs_per_day} runs a day"]
    if budget.core_hours_per_day is not None:
        limits.append(f"{budget.core_hours_per_day:g} core hours a day")
    if budget.core_hours_per_month is not None:
        limits.append(f"{budget.core_hours_per_month:g} core hours a month")
    if (money := budget.money_per_month) is not None:
        limits.append(f"{money.amount:g} {money.unit} a month")
    return ", ".join(limits)


_COSTLY = ("train", "data.window", "data.features", "data.holdout", "retrain.budget", "runtime.threads")
_NEW_SNAPSHOTS = "snapshots from now on are other rows: figures of earlier verdicts are not comparable"
MEANS: Mapping[str, str] = {
    "owner": "whom reports, findings, cards and notifications name; nothing is trained or judged otherwise",
    "notify": "who is told what from now on, and where; nothing is trained or judged otherwise",
    "business.goal": "told on the DAGs' pages and in cards; nothing is trained or judged otherwise",
    "business.review_by": "the audit asks for a review from then on",
    "business.decision": "challengers decide by it from now on; the champion keeps what its artifact has, and the next "
    "verdict compares both as they decide",
    "business.decision.threshold": "challengers decide by it from now on; the champion keeps the threshold in its "
    "artifact, and the next verdict compares both as they decide",
    "business.decision.capacity": "challengers decide within it from now on; the champion keeps the capacity in its "
    "artifact, and the next verdict compares both as they decide",
    "business.payoff": "the next verdict values champion and challenger by it: figures of earlier verdicts are not "
    "comparable, and a champion made for the old values has no advantage",
    "business.payoff.unit": "amounts are in another unit: min_uplift, target_gain, guardrails of payoff and loss "
    "limits are read in it too",
    "data.spine": f"other decisions are looked at: {_NEW_SNAPSHOTS}",
    "data.spine.label": "another outcome is learned: the next verdict judges the champion, made for the old one, by it",
    "data.spine.label_delay": "days mature sooner or later: the days of the next verdict move",
    "data.spine.min_label_completeness": "from which share of known labels on a run may start",
    "data.features": "new snapshots hold other columns, and the champion's window is not comparable; where the new "
    "service does not offer the features that it reads, the next verdict is refused",
    "data.window": "how far back the next challenger learns; verdicts stay comparable",
    "data.holdout": "how many new days judge: the next verdict needs more or fewer of them",
    "data.allow_sensitive": "which tagged columns rows may hold, and whose values may be told",
    "retrain.on": "events that wait, and those that come, are decided by it",
    "retrain.schedule": "when Airflow starts a retrain by itself",
    "retrain.debounce": "how long events are gathered before a run",
    "retrain.cooldown": "how soon after a run the next may start",
    "retrain.max_event_age": "older events expire",
    "retrain.quiet_hours": "when no run starts",
    "retrain.budget": "how much may be spent; what waits for it is decided again",
    "retrain.on_overload": "what a run does that has no room",
    "retrain.priority": "its turn among the models that wait",
    "retrain.group": "with which models it takes turns",
    "retrain.when_it_pays": "whether a run for data or mild drift waits until it pays, and at which price",
    "retrain.urgent": "from which drift on nothing is waited for",
    "train": "the next challenger is made by it; the champion is not touched",
    "train.estimator": "the next challenger is another kind of model; the champion is not touched",
    "train.trials": "the next study's size, and most of what an attempt costs",
    "train.search_space": "the next study searches it; the champion is not touched",
    "gate": "the next verdict is given by it; earlier verdicts stand",
    "gate.mode": "the next verdict asks another question; earlier verdicts stand",
    "gate.confidence": "the next verdict is given at this confidence; earlier verdicts stand",
    "gate.min_uplift": "how much better the next challenger must be; earlier verdicts stand",
    "gate.target_gain": "how many days are waited for where evidence is short",
    "gate.looks": "a look that waits is off; the next challenger has these",
    "gate.also_judge": "what is judged beside the challenger, sharing alpha",
    "gate.deploy": "which artifact serves after the next promotion",
    "gate.shadow": "whether a challenger that passes is promoted at all",
    "gate.guardrails": "what the next challenger must keep; the champion is not judged again",
    "gate.approval": "whether people are asked before the next promotion; an open request stays as it was asked",
    "probation": "the next promotion is watched by it; a probation under way goes on by the old one",
    "monitor": "the next look at new rows goes by it; windows looked at are not looked at again",
    "scoring": "days that have no predictions yet are scored by it; what was written stays",
    "retention": "what ratchet purge may remove from then on; what a champion or an open attempt needs stays",
    "runtime": "where and how the next tasks run; no verdict depends on it",
    "runtime.queue": "the next tasks go to this queue, which a worker must listen to",
    "runtime.executor": "the next tasks run by this executor, which the deployment must have",
    "runtime.resources": "the next tasks' pods ask for this much, and may use no more",
    "runtime.image": "the next tasks run in this image; its code must be what the DAGs were deployed with",
    "runtime.environment": "the next attempts' steps run in another environment, made where it is missing; models that "
    "were made in the one before are loaded there too",
    "runtime.environment_sha256": "the lock file has changed, and with it the packages of the next attempts' steps",
    "runtime.pool": "the next tasks take slots of this pool, which must exist",
    DATASETS: "new snapshots read it so, whatever spec made the champion; the digest of the spec does not tell",
    f"{DATASETS}.timezone": "in whose days rows are counted",
}
"""What a change means, by the key or its beginning; the longest that fits is told."""
