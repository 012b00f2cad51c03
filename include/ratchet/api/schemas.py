"""What the API answers and is asked: the shapes of docs/openapi.json. Times are UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

_Row = TypeVar("_Row")


def _storable(moment: datetime) -> datetime:
    if not 1970 <= moment.year < 2200:
        raise ValueError("times lie between 1970 and 2200")
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_storable)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
Fate = Literal["pending", "claimed", "deferred", "started", "merged", "suppressed", "rejected", "expired", "failed"]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Page(_Answer, Generic[_Row]):
    """Some of the rows, in the list's order."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"description": "Some of the list's rows."})

    items: list[_Row]
    next: str | None = Field(description="Where the next page begins: give it as cursor. Null on the last page.")


class Owner(_Answer):
    """Who answers for a model."""

    team: str | None = None
    email: str | None = None
    escalation: str | None = None


class Champion(_Answer):
    """One entry of a model's champion history."""

    seq: int = Field(description="Counts the model's champions; the highest one serves.")
    version: int
    kind: str = Field(description="How it came to serve: init, promotion, rollback or revert.")
    attempt_id: str | None
    as_of: datetime = Field(description="The business time up to which data was used.")
    since: datetime | None = Field(description="The business time from which it serves; null where nobody kept it.")
    promoted_at: datetime
    actor: str | None
    reason: str


class Verdict(_Answer):
    """How an attempt was judged."""

    attempt_id: str
    decision: str = Field(description="promote, keep_champion or not_enough_evidence.")
    judged_at: datetime | None
    dry_run: bool
    estimate: float | None = Field(description="Uplift of challenger over champion, in unit per decision.")
    lower: float | None = Field(description="Its one-sided lower bound.")
    upper: float | None = Field(description="Its one-sided upper bound.")
    unit: str | None
    reasons: list[str]


class Budget(_Answer):
    """What is spent, by the model's local day and month; a limit of null is none."""

    runs_today: int
    runs_per_day: int
    core_hours_today: float
    core_hours_per_day: float | None
    core_hours_month: float
    core_hours_per_month: float | None
    money_month: float | None
    money_per_month: float | None
    unit: str | None


class Snoozed(_Answer):
    """Whose word keeps a model from starting a run by itself. Business time."""

    since: datetime = Field(description="When the sleep began, earlier snoozes that it went on from included.")
    until: datetime = Field(description="When it wakes by itself.")
    actor: str
    reason: str


class Model(_Answer):
    """One model at a glance."""

    model: str
    retired: bool
    owner: Owner
    goal: str
    spec_digest: str
    champion: Champion | None
    age_days: float | None = Field(description="How long the champion has served, in days of business time.")
    last_verdict: Verdict | None
    open_events: dict[str, int] = Field(description="Events that wait, by fate.")
    approvals_waiting: list[str] = Field(description="The attempts that people are asked about.")
    budget: Budget | None = Field(description="Null where the deployed spec is none for this code.")
    held: str | None = Field(description="Why the model is due and waits its turn, if it does.")
    snoozed: Snoozed | None = Field(description="While it starts no run by itself; null while it does.")


class Estimate(_Answer):
    """What decisions were worth on some days: a mean per decision, with one-sided bounds where there are any."""

    measure: Literal["payoff", "uplift"] = Field(description="What the version earned, or that less another's payoff.")
    source: Literal["judged", "realised", "expected", "watched"] = Field(
        description="Measured by a verdict on its days, by the monitor on days with labels, expected by the champion's "
        "own probabilities, or measured by a probation."
    )
    version: int
    over: int | None = Field(description="Of uplift: over which version; null is the best constant decision.")
    first_day: date = Field(description="In the model's time zone.")
    last_day: date
    rows: int = Field(description="How many decisions.")
    days: int = Field(description="On how many days.")
    estimate: float
    lower: float | None
    upper: float | None
    total: float = Field(description="Over all of these decisions.")
    attempt_id: str | None


class Served(_Answer):
    """A change of who serves."""

    seq: int
    version: int
    kind: str = Field(description="How it came to serve: init, promotion, rollback or revert.")
    day: date = Field(description="From which it serves, in the model's time zone.")
    attempt_id: str | None


class Earnings(_Answer):
    """What a model's decisions have been worth over time."""

    unit: str | None = Field(description="Of the deployed spec's payoff; estimates are in it, per decision.")
    estimates: list[Estimate] = Field(description="By day; of verdicts and of windows the newest hundred.")
    champions: list[Served] = Field(description="Every change of who serves, oldest first.")


class Window(_Answer):
    """One window of new rows that the monitor looked at."""

    window_end: datetime
    state: str = Field(description="done, broken until its data are mended, or due.")
    version: int | None
    outcomes: dict[str, str] = Field(description="By check: held, cleared, drifted, told, degraded, broken, unjudged.")
    said: dict[str, str] = Field(description="By check, in words.")
    cause: str | None = Field(description="What the findings together point at.")
    looked_at: datetime | None
    report_uri: str | None


class Cluster(_Answer):
    """The uplift on the rows of one day."""

    label: str
    rows: int
    total_uplift: float


class Check(_Answer):
    """One rule that a verdict looked at."""

    metric: str
    slice: str | None = None
    champion: float | None = None
    challenger: float | None = None
    required: str
    passed: bool | None = Field(description="Null where it could not be judged.")
    detail: str = ""


class VerdictInFull(Verdict):
    """How an attempt was judged, with what it was judged on."""

    champion_version: int | None = Field(description="Null: the best constant decision.")
    challenger_version: int | None
    rows: int | None
    clusters: list[Cluster] = Field(description="Uplift by day, in order; empty where no number can be given.")
    needed_clusters: int | None = Field(description="How many fresh days would tell, where that is known.")
    checks: list[Check]


class Clock(_Answer):
    """The business time that windows, budgets and ages are counted by."""

    mode: Literal["wall", "replay"]
    now: datetime


class Attempt(_Answer):
    """One attempt to replace a champion."""

    id: str
    model: str
    state: str
    trigger: str
    actor: str | None
    reason: str
    dag_id: str
    dag_run_id: str
    dry_run: bool
    business_at: datetime
    as_of: datetime
    created_at: datetime
    judged_at: datetime | None
    concluded_at: datetime | None
    champion_version: int | None
    challenger_version: int | None
    deployed_version: int | None
    verdict: Verdict | None
    failure: str | None
    has_dossier: bool


class Step(_Answer):
    """One step of an attempt that has ended."""

    step: str
    started_at: datetime
    finished_at: datetime


class Probation(_Answer):
    """The watch over a promotion: whether the new champion keeps its word against the one that it beat."""

    seq: int = Field(description="Of the champion that is watched.")
    version: int
    predecessor_version: int
    first_day: date
    last_day: date
    until: datetime = Field(description="When the last day's labels are known, in business time.")
    state: str = Field(description="watching, then reverted, alerted, confirmed, unproven or superseded.")
    reason: str
    opened_at: datetime
    ended_at: datetime | None


class AttemptInFull(Attempt):
    """One attempt with its steps, what people answered, what became of its version, and the dossier.

    /v1/events?attempt=… lists its events.
    """

    spec_digest: str
    code_digest: str
    options: dict[str, Any]
    trigger_event: int | None = Field(description="The number of the event that started it; null of a dry run.")
    steps: list[Step]
    core_hours: float = Field(description="What its finished steps took.")
    approval: Approval | None
    served: list[Champion] = Field(description="What it is in the model's champion history, oldest first.")
    followed_by: Champion | None = Field(description="Who has served after it; null while it serves, or never did.")
    probation: Probation | None = Field(description="The watch over its promotion, where its spec asks for one.")
    dossier: dict[str, Any] | None = Field(
        description="All that explains and repeats it, to the byte as the ledger recorded it; null where there is none."
    )
    dossier_sha256: str | None = Field(description="The SHA-256 that the ledger recorded of it.")
    dossier_problem: str | None = Field(description="Why there is none.")


class Event(_Answer):
    """One event of one model, and what became of it."""

    number: int = Field(validation_alias="pk", description="Names this row: /v1/events/{number}.")
    id: str = Field(validation_alias="event_id")
    source: str
    type: str
    model: str
    time: datetime = Field(description="Business time.")
    received_at: datetime
    data: dict[str, Any]
    origin: str
    fate: str
    reason: str
    until: datetime | None = Field(description="When it is decided again, where it waits.")
    attempt_id: str | None
    tries: int
    incident: str | None


class PastFate(_Answer):
    """One fate that an event has had."""

    at: datetime
    fate: str
    reason: str
    until: datetime | None
    attempt_id: str | None


class EventInFull(Event):
    """One event with its whole history."""

    record: str | None = Field(description="The Kafka record that brought it, topic:partition:offset.")
    fates: list[PastFate]


class Answer(_Answer):
    """One person's answer to a request for approval."""

    actor: str
    answer: str
    reason: str
    via: str
    at: datetime


class Approval(_Answer):
    """What people were asked about an attempt, and what they answered."""

    attempt_id: str
    model: str
    state: str = Field(description="The attempt's: awaiting_approval while an answer is wanted.")
    challenger: int
    champion_seq: int
    reason: str
    people: int = Field(description="How many must agree.")
    value_at_risk: float | None
    unit: str | None
    asked_at: datetime
    expires_at: datetime
    answers: list[Answer]


class Audited(_Answer):
    """One entry of the audit log."""

    seq: int
    at: datetime
    actor: str
    action: str
    model: str | None
    detail: dict[str, Any]
    hash: str


class DeadLetter(_Answer):
    """A record that was no event."""

    record: str = Field(description="Where it lies, topic:partition:offset.")
    received_at: datetime
    bytes: int
    reason: str | None


class Because(_Asked):
    """Why."""

    reason: Reason = Field(description="Why; kept in the audit log beside your name, and told where it counts.")


class RunAsked(Because):
    """How the run is to differ from one that an event starts: the fields of the DAG's own form."""

    first_champion: bool = Field(
        default=False, description="The model has no champion yet: make one, if it beats the best constant decision."
    )
    window_end: date | None = Field(
        default=None, description="Use data up to this local day (exclusive) instead of all that is mature."
    )
    trials: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Trials of the study in total, instead of the spec's."
    )
    dry_run: bool = Field(default=False, description="Train and judge; claim no event, promote and publish nothing.")
    override_budget: bool = Field(default=False, description="Run although today's runs are used up.")


class RollbackAsked(Because):
    """Which version is to serve again."""

    version: Number | None = Field(
        default=None, description="A version that was champion; the one before the current when left out."
    )


class SnoozeAsked(Because):
    """For how long, or until when: one of the two, 30 days at most."""

    length: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,4}[wdhm]$")] | None = Field(
        default=None, alias="for", description="How long, such as 3d, 12h or 90m."
    )
    until: Moment | None = Field(default=None, description="When it is to wake, in business time.")


class ReplayAsked(Because):
    """Which events are to have another chance."""

    since: Moment = Field(description="Those that ended at this moment of the wall clock or later.")
    fates: list[Literal["failed", "expired", "rejected", "suppressed"]] = Field(
        default=["failed", "expired"], min_length=1, max_length=4
    )
    dry_run: bool = Field(default=False, description="Tell what would be; change nothing.")


class LettersAsked(Because):
    """Which dead letters are to be read again; all when nothing narrows it."""

    record: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,249}:[0-9]{1,9}:[0-9]{1,18}$")] | None = Field(
        default=None, description="One, topic:partition:offset."
    )
    reason_contains: Text | None = Field(default=None, description="Those whose reason contains this.")
    dry_run: bool = Field(default=False, description="Tell what would be; change nothing.")


class Requested(_Answer):
    """The event that asks for a retrain: it is on its way to the inbox."""

    id: str
    source: str


class RunStarted(_Answer):
    """A run in Airflow: its claim decides, and says what came of it."""

    dag_id: str
    run_id: str


class RolledBack(_Answer):
    """Who serves now."""

    model: str
    version: int
    before: int


class Woken(_Answer):
    """Whether that changed anything."""

    model: str
    woken: bool = Field(description="False where it did not sleep.")


class Responded(_Answer):
    """What an answer came to."""

    attempt: str
    state: str
    decision: str
    counted: bool = Field(description="False where you had approved before: another person must agree.")
    stands: str


class Replayed(_Answer):
    """What was given another chance."""

    reopened: int
    too_old: int = Field(description="Left alone: beyond max_event_age of the model's spec.")
    retired: int = Field(description="Left alone: the model is retired.")


class LettersReplayed(_Answer):
    """What dead letters came to."""

    read: int
    stored: int
    records: list[str] = Field(description="Those that are events now, the first thousand.")
    still: dict[str, int] = Field(description="How many stay rejected, by reason.")


class Accepted(_Answer):
    """Kafka has stored these events, in this order; the inbox has them in a moment."""

    accepted: list[str] = Field(description="Their ids.")


class CloudEvent(BaseModel):
    """A CloudEvent 1.0; docs/events has the schema of each type's data."""

    model_config = ConfigDict(extra="allow")

    specversion: Literal["1.0"]
    id: Text
    source: Text = Field(description="Who speaks; with a key named k, /monitors/k or below it.")
    type: Literal[
        "ratchet.drift.detected.v1",
        "ratchet.drift.cleared.v1",
        "ratchet.performance.degraded.v1",
        "ratchet.data.arrived.v1",
        "ratchet.retrain.requested.v1",
    ]
    subject: Text = Field(description="The model it is about, or the dataset.")
    time: datetime = Field(description="Business time, with its offset.")
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]
