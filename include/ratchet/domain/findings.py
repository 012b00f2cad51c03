"""What an audit of a model finds: rules over facts, each pure, each with what was found and what to do.

A rule answers at least once: what is in order is told too, so that a report shows what was looked at. Business time
(reviews, the age of champions, events and data) is that of the injected clock; proofs and self-tests are of the wall
clock. Thresholds are the module's constants, told in every finding that they lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from ratchet.domain.sensitive import AllowedColumn
from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec, Problem, format_duration

Severity = Literal["ok", "info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info", "ok")
"""The gravest first."""

REVIEW_SOON = timedelta(days=30)
REVIEW_LONG_OVERDUE = timedelta(days=90)
SILENT_AFTER = timedelta(days=35)
"""Of what is watched or loaded: a month and some days: what publishes monthly is not called silent."""
IDLE_AFTER = timedelta(days=90)
PROOF_AFTER = timedelta(days=180)
SNOOZED_LONG = timedelta(days=14)
SELF_TEST_AFTER = timedelta(days=2)
"""The self-test runs every night."""
BUDGET_NEARLY = 0.8
PLACEHOLDERS = ("example.com", "example.org", "example.net", "example.edu", ".example", ".invalid", ".test")
"""Domains that reach nobody (RFC 2606)."""

CLEAN, WARNED, CRITICAL = 0, 1, 2
"""Exit codes: nothing graver than allowed; warnings where they count; anything critical."""


@dataclass(frozen=True)
class Finding:
    """One answer of one rule: ``check`` is the rule's name, ``model`` None for what is of no single model."""

    model: str | None
    check: str
    severity: Severity
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Proof:
    """The last time a version was made again and compared."""

    at: datetime
    same: bool


@dataclass(frozen=True)
class Consent:
    """One person's yes to a promotion, and who had asked for the attempt."""

    attempt: str
    by: str
    asked_by: str | None


@dataclass(frozen=True)
class Champion:
    """Who serves: learned from data up to ``as_of`` (business time); ``proof`` is of this version."""

    version: int
    as_of: datetime
    proof: Proof | None


@dataclass(frozen=True)
class SelfTested:
    """The gate's newest self-test on the model, and the failed one that holds its promotions, in words."""

    at: datetime
    passed: bool | None
    said: str
    held_by: str | None


@dataclass(frozen=True)
class Watched:
    """The newest window that the model's own monitor looked at: its end in business time, and what broke, if it did."""

    window_end: datetime
    broken: str | None


@dataclass(frozen=True)
class Used:
    """One more limit of the budget: so much was spent of ``allowed``, ``unit`` in words with the period."""

    spent: float
    allowed: float
    unit: str


@dataclass(frozen=True)
class Spent:
    """Runs of the business-local day and core hours of its month, of how many allowed; None is no limit.

    ``more`` are the day's core hours and the month's money, where they are limited.
    """

    runs: int
    runs_allowed: int
    core_hours: float | None
    core_hours_allowed: float | None
    more: Sequence[Used] = ()


@dataclass(frozen=True)
class Facts:
    """All that the rules know of one model.

    ``heard`` has the business time of the newest event by kind (``drift``, ``data``, ``performance``), ``complete`` how
    far each of the spec's datasets is known to be, None where nothing was told. ``sensitive`` are the columns that rows
    hold by the spec's word, ``sensitive_problems`` what it would be refused for now. ``used`` is the business time of
    the newest attempt or scored day; ``has_folder``: whether the spec's folder is still there; ``snooze`` is the last
    one that was not lifted, over or not.
    """

    spec: ModelSpec
    business: datetime
    wall: datetime
    judged: int
    champion: Champion | None
    heard: Mapping[str, datetime]
    complete: Mapping[str, datetime | None]
    label_completeness: float | None
    self_test: SelfTested | None
    spent: Spent
    consents: Sequence[Consent] = ()
    sensitive: Sequence[AllowedColumn] = ()
    sensitive_problems: Sequence[Problem] = field(default=())
    sensitive_unknown: str | None = None
    watched: Watched | None = None
    used: datetime | None = None
    has_folder: bool = True
    snooze: Snooze | None = None


Answers = Iterator[tuple[Severity, str, str]]
"""What a rule says: severity, what was found, and the remedy (empty where all is well)."""


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Every rule's answers on one model, in the order of :data:`CHECKS`."""
    return tuple(
        Finding(facts.spec.model, check, severity, found, remedy)
        for check, rule in CHECKS.items()
        for severity, found, remedy in rule(facts)
    )


def worst(found: Iterable[Finding]) -> Severity:
    """The gravest severity; ``ok`` where nothing was found."""
    return min((one.severity for one in found), key=SEVERITIES.index, default="ok")


def exit_code(found: Iterable[Finding], *, strict: bool) -> int:
    """:data:`CRITICAL` where anything is; with ``strict`` :data:`WARNED` where anything is a warning; else clean."""
    gravest = worst(found)
    if gravest == "critical":
        return CRITICAL
    return WARNED if strict and gravest == "warning" else CLEAN


def _owner(facts: Facts) -> Answers:
    owner = facts.spec.owner
    said = f"{owner.team}, {owner.email}"
    if owner.escalation is None:
        yield "warning", f"{said}: nobody to turn to next", "Name owner.escalation in the spec"
    elif owner.escalation.casefold() == owner.email.casefold():
        yield "warning", f"{said} escalates to itself", "Name somebody else as owner.escalation"
    else:
        yield "ok", f"{said}; next {owner.escalation}", ""
    for address in (owner.email, owner.escalation or ""):
        domain = address.rpartition("@")[2].casefold()
        if domain and any(domain == name.removeprefix(".") or domain.endswith(name) for name in PLACEHOLDERS):
            yield "info", f"{address} is a placeholder: mail to it reaches nobody", "Give an address that is read"


def _review(facts: Facts) -> Answers:
    due = facts.spec.business.review_by
    left = due - facts.business.astimezone(facts.spec.data.spine.zone).date()
    remedy = "Look at goal and payoff with the business, then set business.review_by anew"
    if -left > REVIEW_LONG_OVERDUE:
        yield "critical", f"the review of goal and payoff was due on {due}, {-left.days} days ago", remedy
    elif left < timedelta(0):
        yield "warning", f"the review of goal and payoff was due on {due}, {-left.days} days ago", remedy
    elif left <= REVIEW_SOON:
        yield "info", f"the review of goal and payoff is due on {due}, in {left.days} days", remedy
    else:
        yield "ok", f"goal and payoff are reviewed by {due}", ""


def _starts(facts: Facts) -> Answers:
    retrain = facts.spec.retrain
    kinds = [kind for kind in ("drift", "data", "performance") if getattr(retrain.on, kind) is not None]
    if not kinds and retrain.schedule is None:
        yield (
            "critical",
            "nothing but a person starts a retrain: retrain.on is empty and there is no schedule",
            "Name events in retrain.on, or give retrain.schedule",
        )
        return
    if not kinds:
        yield "info", f"schedule {retrain.schedule}; no event starts a retrain", "Consider retrain.on.drift"
    elif retrain.schedule is None and "data" not in kinds:
        yield (
            "warning",
            f"only {' and '.join(kinds)} events start a retrain: if the monitor falls silent, nothing does",
            "Add retrain.schedule or retrain.on.data",
        )
    else:
        schedule = f"schedule {retrain.schedule}" if retrain.schedule else "no schedule"
        yield "ok", f"{', '.join(kinds)} events; {schedule}", ""


def _snoozed(facts: Facts) -> Answers:
    snooze = facts.snooze
    if snooze is None or not snooze.holds(facts.business):
        yield "ok", "no snooze keeps it from starting a run", ""
        return
    said = f"starts no run by itself until {snooze.until:%Y-%m-%d %H:%M}Z, by {snooze.actor}: {snooze.reason}"
    remedy = f"Ask whether the reason still holds, else: ratchet snooze {facts.spec.model} --lift --reason …"
    slept = facts.business - snooze.since
    if slept > SNOOZED_LONG:
        said = f"has slept for {slept.days} days (limit {_days(SNOOZED_LONG)}) and {said}"
        yield "warning", said, remedy
    else:
        yield "info", said, remedy


def _monitor(facts: Facts) -> Answers:
    """Whether anybody watches the model: its own monitor, or another, whose all-clear says that it found nothing."""
    if facts.spec.monitor is not None:
        yield from _own_monitor(facts, facts.spec.monitor.every)
        return
    watched = [kind for kind in ("drift", "performance") if getattr(facts.spec.retrain.on, kind) is not None]
    remedy = "See to the monitor; one that finds nothing publishes ratchet.drift.cleared.v1"
    if not watched:
        yield "warning", "no event of a monitor is listened to", "Name drift or performance in retrain.on"
        return
    newest = max((at for kind, at in facts.heard.items() if kind in watched), default=None)
    if newest is None:
        yield "warning", f"no {' or '.join(watched)} event has ever come: nobody seems to watch this model", remedy
    elif facts.business - newest > SILENT_AFTER:
        yield (
            "warning",
            f"the monitor's last word was {_ago(facts.business, newest)} (limit {_days(SILENT_AFTER)})",
            remedy,
        )
    else:
        yield "ok", f"the monitor's last word was {_ago(facts.business, newest)}", ""


def _own_monitor(facts: Facts, every: timedelta) -> Answers:
    watched, limit = facts.watched, max(SILENT_AFTER, 2 * every)
    remedy = f"See to the DAG monitor__{facts.spec.model}, or: ratchet monitor {facts.spec.model} --run"
    if watched is None:
        yield "warning", "its monitor has looked at no window yet", remedy
    elif watched.broken is not None:
        said = f"the data up to {watched.window_end:%Y-%m-%d} cannot be believed: {watched.broken}"
        yield "critical", said, f"Mend the data, then: ratchet monitor {facts.spec.model} --run"
    elif facts.business - watched.window_end > limit:
        said = f"the last window that its monitor looked at ended {_ago(facts.business, watched.window_end)}"
        yield "warning", f"{said} (limit {_days(limit)})", remedy
    else:
        yield "ok", f"its monitor looked at the rows up to {watched.window_end:%Y-%m-%d}", ""


def _data(facts: Facts) -> Answers:
    for dataset, until in facts.complete.items():
        remedy = f"Publish ratchet.data.arrived.v1 for {dataset}, or see why its loading stopped"
        if until is None:
            yield "critical", f"nothing has told how far {dataset} is complete: no run can start", remedy
        elif facts.business - until > SILENT_AFTER:
            said = f"{dataset} is complete up to {_ago(facts.business, until)} only (limit {_days(SILENT_AFTER)})"
            yield "warning", said, remedy
        else:
            yield "ok", f"{dataset} is complete up to {until:%Y-%m-%d}", ""


def _labels(facts: Facts) -> Answers:
    share, needed = facts.label_completeness, facts.spec.data.spine.min_label_completeness
    source = facts.spec.data.spine.source
    if share is None:
        yield (
            "info",
            f"nothing tells how complete the labels of {source} are: min_label_completeness {needed:g} binds nothing",
            f"Publish label_completeness with the arrivals of {source}",
        )
    elif share < needed:
        yield (
            "critical",
            f"{share:.3f} of the labels of {source} are known and {needed:g} are needed: no run starts",
            "Repair the label source",
        )
    else:
        yield "ok", f"{share:.3f} of the labels of {source} are known, {needed:g} are needed", ""


def _champion(facts: Facts) -> Answers:
    champion, window = facts.champion, facts.spec.data.window
    if champion is None:
        yield (
            "warning",
            "no champion: nothing serves, and events wait for one",
            f"ratchet champion init {facts.spec.model}",
        )
        return
    age = facts.business - champion.as_of
    said = f"version {champion.version} knows data up to {champion.as_of:%Y-%m-%d}, {age.days} days ago"
    if age > window:
        yield (
            "warning",
            f"{said}: longer ago than the window of {format_duration(window)} that a challenger would learn from",
            f"See why nothing replaced it: ratchet attempts --model {facts.spec.model}",
        )
    else:
        yield "ok", said, ""


def _used(facts: Facts) -> Answers:
    """Whether anybody still needs the model: a folder, an attempt, a scored day."""
    retire = f"Use it, or: ratchet retire {facts.spec.model} --reason …"
    if not facts.has_folder:
        yield "warning", "the folder of its spec is gone, and the model is not retired: no DAG works for it", retire
    if facts.used is None:
        yield "info", "no attempt was ever made and no day scored", retire
    elif facts.business - facts.used > IDLE_AFTER:
        said = f"idle: its last attempt or scored day was {_ago(facts.business, facts.used)}"
        yield "warning", f"{said} (limit {_days(IDLE_AFTER)})", retire
    elif facts.has_folder:
        yield "ok", f"its last attempt or scored day was {_ago(facts.business, facts.used)}", ""


def _reproducible(facts: Facts) -> Answers:
    champion = facts.champion
    if champion is None:
        yield "ok", "no champion to reproduce", ""
        return
    name = f"{facts.spec.model}@{champion.version}"
    remedy = f"ratchet reproduce {name}"
    if champion.proof is None:
        yield "warning", f"{name} was never made again: that it can be is a promise only", remedy
    elif not champion.proof.same:
        at = f"{champion.proof.at:%Y-%m-%d}"
        yield "critical", f"{name} was made again on {at} and was not the same", f"ratchet trace {name}; {remedy}"
    elif facts.wall - champion.proof.at > PROOF_AFTER:
        said = f"{name} was last made again {_ago(facts.wall, champion.proof.at)} (limit {_days(PROOF_AFTER)})"
        yield "info", said, remedy
    else:
        yield "ok", f"{name} was made again, the same, {_ago(facts.wall, champion.proof.at)}", ""


def _gate(facts: Facts) -> Answers:
    tested = facts.self_test
    by_hand = f"ratchet gate selftest {facts.spec.model}"
    if tested is not None and tested.held_by is not None:
        yield "critical", f"promotions are held: failed {tested.held_by}", f"{by_hand}; docs/operations.md"
    elif tested is None:
        severity: Severity = "warning" if facts.judged else "info"
        yield severity, f"the gate never tested itself on this model ({facts.judged} judged attempts)", by_hand
    elif facts.wall - tested.at > SELF_TEST_AFTER:
        said = f"the gate last tested itself {_ago(facts.wall, tested.at)} (limit {_days(SELF_TEST_AFTER)})"
        yield "warning", said, "See that the DAG ratchet__selftest runs every night"
    elif tested.passed is None:
        yield "info", f"too few judged days for the gate to test itself: {tested.said}", ""
    else:
        yield "ok", f"the gate passed its self-test of {tested.at:%Y-%m-%d %H:%M}Z", ""
    if facts.spec.gate.shadow:
        yield "info", "shadow mode: verdicts are recorded and nothing is promoted", "Take gate.shadow out when trusted"


def _budget(facts: Facts) -> Answers:
    spent = facts.spent
    runs = f"{spent.runs} of {spent.runs_allowed} runs today"
    limits = list(spent.more)
    if spent.core_hours is not None and spent.core_hours_allowed is not None:
        limits.insert(0, Used(spent.core_hours, spent.core_hours_allowed, "core hours this month"))
    if not limits:
        yield "info", f"{runs}; no limit on core hours", "Set retrain.budget.core_hours_per_month"
        return
    said = "; ".join([runs, *(f"{each.spent:.2f} of {each.allowed:g} {each.unit}" for each in limits)])
    used = max(each.spent / each.allowed for each in limits)
    remedy = "Raise retrain.budget, or see what took it: ratchet attempts"
    if used >= 1:
        period = next(each.unit.rpartition(" ")[2] for each in limits if each.spent >= each.allowed)
        yield "warning", f"{said}: events wait for the next {period.replace('today', 'day')}", remedy
    elif used >= BUDGET_NEARLY:
        yield "info", said, remedy
    else:
        yield "ok", said, ""


def _access(facts: Facts) -> Answers:
    approval = facts.spec.gate.approval
    for consent in facts.consents:
        if consent.asked_by is not None and consent.by.casefold() == consent.asked_by.casefold():
            yield (
                "warning",
                f"{consent.by} started {consent.attempt} and agreed to its promotion",
                "Let another person agree; approval.two_people_above asks for two",
            )
    if approval is None:
        yield "info", "what the gate passes is promoted and nobody is asked", "Consider gate.approval"
    else:
        when = "always" if approval.when is None else f"below a lower bound of {approval.when.lower_bound_below:g}"
        two = "" if approval.two_people_above is None else f"; two above {approval.two_people_above:g} at risk"
        yield "ok", f"people are asked {when}{two}", ""
    dag = f"retrain__{facts.spec.model}, promote__{facts.spec.model} and rollback__{facts.spec.model}"
    yield (
        "info",
        f"Ratchet sets no access of its own on {dag}: whoever may edit them in Airflow may start, agree and roll back",
        "Restrict these DAGs in Airflow's auth manager",
    )


def _sensitive(facts: Facts) -> Answers:
    if facts.sensitive_unknown is not None:
        yield "warning", f"what is tagged cannot be asked: {facts.sensitive_unknown}", "Repair the feature repository"
        return
    for problem in facts.sensitive_problems:
        yield "critical", f"{problem}", f"The next attempt would be refused. Run: ratchet validate {facts.spec.model}"
    for column in facts.sensitive:
        yield "info", str(column), "Ask whether the reason still holds"
    if not facts.sensitive and not facts.sensitive_problems:
        yield "ok", "its rows hold no column that is tagged pii or secret", ""


CHECKS: Mapping[str, Callable[[Facts], Answers]] = {
    "owner": _owner,
    "review": _review,
    "starts": _starts,
    "snooze": _snoozed,
    "monitor": _monitor,
    "data": _data,
    "labels": _labels,
    "champion": _champion,
    "use": _used,
    "reproducible": _reproducible,
    "gate": _gate,
    "budget": _budget,
    "access": _access,
    "sensitive": _sensitive,
}
"""Every rule by the name of its check, in the order of a report."""


def _ago(now: datetime, then: datetime) -> str:
    days = (now - then).days
    return "today" if days < 1 else f"{days} {'day' if days == 1 else 'days'} ago"


def _days(limit: timedelta) -> str:
    return f"{limit.days} days"
