"""The ledger: our own database. One transaction is one ``Tx``; what happens in it happens together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from ratchet.domain.audit import AuditEntry, Head
from ratchet.domain.housekeeping import RowKind
from ratchet.domain.positions import Known
from ratchet.domain.snooze import Snooze
from ratchet.records import RawRecord

OPEN_FATES = ("pending", "claimed", "deferred")
TERMINAL_FATES = ("started", "merged", "suppressed", "rejected", "expired", "failed")
LIVE_STATES = ("claimed", "snapshotted", "tuned")
AWAITING_APPROVAL = "awaiting_approval"
WAITING_STATES = ("judged", AWAITING_APPROVAL)
"""An attempt that holds no lease any more and has not ended: its promotion is to come, or people are asked."""


@dataclass(frozen=True)
class LedgerRevision:
    """Which revision a database's schema has, None before the first, and which the code knows, oldest first."""

    has: str | None
    known: tuple[str, ...]

    @property
    def newest(self) -> str:
        """The revision that the code works with."""
        return self.known[-1]

    @property
    def is_current(self) -> bool:
        """Whether code and database go together."""
        return self.has == self.newest

    @property
    def is_unknown(self) -> bool:
        """Whether other, mostly newer code has made it."""
        return self.has is not None and self.has not in self.known

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions that a migration would go through."""
        return () if self.is_unknown else tuple(each for each in self.known if self.has is None or each > self.has)

    @property
    def said(self) -> str:
        """How the two stand, with the remedy."""
        if self.is_current:
            return f"the ledger is at revision {self.has}, as this code needs it"
        if self.has is None:
            return (
                f"the ledger has no schema yet, and this code needs revision {self.newest}. Run: ratchet ledger migrate"
            )
        if self.is_unknown:
            return (
                f"the ledger is at revision {self.has}, which this code does not know: its newest is {self.newest}. "
                f"Deploy the code that migrated it, or go back with that code: ratchet ledger downgrade {self.newest}"
            )
        return (
            f"the ledger is at revision {self.has}, and this code needs {self.newest}. Stop what runs and make a "
            "backup (docs/operations.md, Upgrades), then: ratchet ledger migrate"
        )


@dataclass(frozen=True)
class EventRow:
    """One event of one model, as the inbox holds it."""

    pk: int
    source: str
    event_id: str
    model: str
    type: str
    time: datetime
    received_at: datetime
    data: dict[str, Any]
    origin: str
    fate: str
    reason: str
    until: datetime | None
    attempt_id: str | None
    tries: int
    incident: str | None = None


@dataclass(frozen=True)
class NewEvent:
    """An event on its way into the inbox."""

    source: str
    event_id: str
    model: str
    type: str
    time: datetime
    digest: str
    data: dict[str, Any]
    origin: str = "kafka"
    record_id: int | None = None
    incident: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class NewRecord:
    """A Kafka record and what intake made of it: stored, held (unknown model) or rejected, with the reason."""

    raw: RawRecord
    status: str
    reason: str | None = None
    held_until: datetime | None = None


@dataclass(frozen=True)
class HeldRecord:
    """A record whose model was not known when it came."""

    pk: int
    raw: RawRecord
    held_until: datetime


@dataclass(frozen=True)
class FateChange:
    """The next fate of one event."""

    pk: int
    fate: str
    reason: str
    until: datetime | None = None
    attempt_id: str | None = None
    count_try: bool = False


@dataclass(frozen=True)
class RecordRow:
    """One offset as the ledger knows it; ``raw`` has its bytes unless it was stored at once."""

    pk: int
    raw: RawRecord
    status: str
    reason: str | None
    received_at: datetime


@dataclass(frozen=True)
class FateEntry:
    """One entry of an event's fate history; ``pk`` ascends in the order of writing."""

    pk: int
    at: datetime
    model: str
    source: str
    event_id: str
    type: str
    fate: str
    reason: str
    until: datetime | None
    attempt_id: str | None


@dataclass(frozen=True)
class Resolution:
    """The terminal fate of an event that the world was not told of; ``pk`` is the event's."""

    pk: int
    source: str
    event_id: str
    model: str
    type: str
    fate: str
    reason: str
    until: datetime | None
    attempt_id: str | None
    reopened_at: datetime | None
    at: datetime


@dataclass(frozen=True)
class SpecRow:
    """The current spec of a registered model, as it was deployed."""

    model: str
    digest: str
    document: dict[str, Any]
    retired: bool


@dataclass(frozen=True)
class Registration:
    """A registered model and the digest of its current spec."""

    model: str
    digest: str
    retired: bool


@dataclass(frozen=True)
class PumpRow:
    """One intake pump: what it reads, how far it is behind (records per ``topic/partition``), what it did.

    ``stored`` and ``rejected`` count records since ``started_at``; ``beat_at`` is set by the ledger.
    """

    instance: str
    group_id: str
    started_at: datetime
    lag: dict[str, int]
    stored: int = 0
    rejected: int = 0
    last_error: str | None = None
    alarm: str | None = None
    beat_at: datetime | None = None


@dataclass(frozen=True)
class Watermark:
    """How far a dataset is complete; never moves back."""

    dataset: str
    complete_until: datetime
    label_completeness: float | None


@dataclass(frozen=True)
class LeaseRow:
    """Who works on a model."""

    model: str
    epoch: int
    attempt_id: str | None
    expires_at: datetime | None


@dataclass(frozen=True)
class DueRow:
    """A model whose doorbell is due and for which nobody works; ``held`` says why it waits its turn, if it does."""

    model: str
    due_at: datetime
    since: datetime | None
    incident: str | None
    rings: int
    held: str | None


@dataclass(frozen=True)
class SeenWindow:
    """Observations of one check's window that ended an event at once: all-clears, and drift up to ``severity``."""

    check: str
    window_end: datetime
    severity: float | None


@dataclass(frozen=True)
class AttemptRow:
    """One attempt to replace a champion.

    ``challenger_version`` and ``model_digest`` are those of the artifact that was judged, ``deployed_version`` and
    ``deployed_digest`` those of its refit; None where the judged one itself is what a promotion lets serve.
    """

    id: str
    model: str
    epoch: int
    state: str
    dag_id: str
    dag_run_id: str
    trigger: str
    trigger_event_pk: int | None
    actor: str | None
    reason: str
    options: dict[str, Any]
    business_at: datetime
    as_of: datetime
    spec_digest: str
    code_digest: str
    champion_seq: int
    champion_version: int | None
    challenger_version: int | None
    verdict: str | None
    verdict_record: dict[str, Any] | None
    evidence_digest: str | None
    dossier_uri: str | None
    failure: str | None
    created_at: datetime
    judged_at: datetime | None
    concluded_at: datetime | None
    model_digest: str | None = None
    dossier_sha256: str | None = None
    deployed_version: int | None = None
    deployed_digest: str | None = None

    @property
    def candidate_version(self) -> int | None:
        """The version that serves when the attempt is promoted: the refit where there is one, else the judged one."""
        return self.challenger_version if self.deployed_version is None else self.deployed_version

    @property
    def candidate_digest(self) -> str | None:
        """The digest of the candidate's artifact."""
        return self.model_digest if self.deployed_version is None else self.deployed_digest

    @property
    def dry_run(self) -> bool:
        """Judge and record, never promote."""
        return bool(self.options.get("dry_run"))

    @property
    def promoted(self) -> bool:
        """Whether its candidate became champion; where people refused it, ``failure`` says so."""
        return self.verdict == "promote" and self.state == "concluded" and not self.dry_run and self.failure is None

    @property
    def look(self) -> int:
        """Which look at its challenger this attempt takes: 1 makes the challenger, later ones judge it again."""
        again = self.options.get("look")
        return int(again["number"]) if again else 1


@dataclass(frozen=True)
class ChampionRow:
    """One entry of a model's champion history; the highest ``seq`` serves.

    ``since`` is the business time from which it does, set by the ledger; None of one from before that was kept.
    """

    model: str
    seq: int
    version: int
    attempt_id: str | None
    kind: str
    as_of: datetime
    actor: str | None
    reason: str
    evidence_digest: str | None
    promoted_at: datetime
    model_digest: str | None = None
    since: datetime | None = None


@dataclass(frozen=True)
class ProbationRow:
    """The watch over one promotion: champion ``seq`` against the one it beat, from ``first_day`` to ``last_day``.

    ``state`` is ``watching`` while it is open, then ``reverted``, ``alerted``, ``confirmed``, ``unproven`` or
    ``superseded``; ``plan`` is what it can see, ``record`` what it has found so far. ``since`` and ``until``, when the
    last day's labels are known, are business time.
    """

    model: str
    seq: int
    version: int
    predecessor_seq: int
    predecessor_version: int
    spec_digest: str
    first_day: date
    last_day: date
    since: datetime
    until: datetime
    state: str
    reason: str
    plan: dict[str, Any]
    record: dict[str, Any]
    opened_at: datetime
    rung_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class ProbationDay:
    """One scored local day: ``total`` uplift in payoff units over ``rows`` decisions; None where it is not a number."""

    day: date
    rows: int
    total: float | None


@dataclass(frozen=True)
class ScoredDay:
    """The predictions of one local day in one role, ``champion`` or ``shadow``: ``rows`` of them by ``version``.

    ``attempt_id`` made the version (None where the ledger knows none), ``run`` the predictions; ``as_of`` is how far
    the data was complete (business time), ``acted`` how many rows are acted on (None of a regression). ``key`` and
    ``sha256`` are the file's; None where the day has no rows. ``scored_at`` is set by the ledger.
    """

    model: str
    day: date
    role: str
    version: int
    attempt_id: str | None
    run: str
    as_of: datetime
    rows: int
    acted: int | None
    key: str | None
    sha256: str | None
    scored_at: datetime | None = None


@dataclass(frozen=True)
class ApprovalRequestRow:
    """What people were asked about an attempt. ``runs`` are those of the orchestrator that showed it, newest last."""

    attempt_id: str
    model: str
    challenger_version: int
    champion_seq: int
    evidence_digest: str
    reason: str
    people: int
    value_at_risk: float | None
    asked_at: datetime
    expires_at: datetime
    runs: list[str]


@dataclass(frozen=True)
class ApprovalRow:
    """One person's answer, and what it was given to; ``via`` is where it was given."""

    attempt_id: str
    challenger_version: int
    champion_seq: int
    evidence_digest: str
    actor: str
    answer: str
    reason: str
    via: str
    at: datetime


@dataclass(frozen=True)
class UsedDays:
    """The whole local days an attempt used in one role, with the rows of each.

    Role ``holdout`` are the days of a verdict and ``probation`` those on which a probation reverted: neither judges the
    attempt's champion again. Every other role (``fit``, ``calibrate``, …) is of days that made its challenger; for a
    refit, ``refit`` are those it was fitted on and ``gap``, of no rows, those that lie too near to them to judge it.
    """

    role: str
    rows_by_day: Mapping[date, int]


@dataclass(frozen=True)
class OutboxRow:
    """Something to tell the world, at least once."""

    pk: int
    dedupe: str
    model: str | None
    kind: str
    payload: dict[str, Any]
    tries: int


@dataclass(frozen=True)
class SelfTestRow:
    """What came of one self-test of the gate on a model's own days; ``passed`` is None where nothing was judged."""

    model: str
    at: datetime
    passed: bool | None
    detail: dict[str, Any]

    @property
    def why(self) -> str:
        """When it was and what it found, in words."""
        return f"self-test of the gate on {self.model}, {self.at:%Y-%m-%d %H:%M}Z: {'; '.join(self.detail['reasons'])}"


@dataclass(frozen=True)
class MonitoredRow:
    """One window of a model's new rows, which ends at ``window_end`` (business time).

    ``state`` is ``due`` while it waits to be looked at, ``done`` once it was, and ``broken`` where its data could not
    be believed: then it is looked at again. ``version`` is the champion's, ``found`` the summary of the report.
    """

    model: str
    window_end: datetime
    state: str
    spec_digest: str
    version: int | None = None
    found: dict[str, Any] = field(default_factory=dict)
    report_uri: str | None = None
    report_sha256: str | None = None
    rung_at: datetime | None = None
    done_at: datetime | None = None


MonitorMark = tuple[tuple[tuple[str, datetime], ...], int]
"""How far each dataset is complete, and how many champions there have been: while it is equal, no window became due."""


@dataclass(frozen=True)
class RemovalRow:
    """One thing that retention removes, by kind and name; ``removed_at`` is None until it is gone.

    ``bytes`` are those that were freed, None where they are not known. Of the ledger's own rows ``name`` is a month,
    and ``rows`` counts those of all months up to it that have gone so far.
    """

    model: str
    kind: str
    name: str
    why: str
    decided_at: datetime
    removed_at: datetime | None
    bytes: int | None
    rows: int | None = None

    @property
    def said(self) -> str:
        """In words, as the end of a sentence."""
        return f"was removed by retention on {self.decided_at:%Y-%m-%d} ({self.why})"


@dataclass(frozen=True)
class RowsWanted:
    """Rows of the ledger that may go: of a ``kind``, from before a moment of the clock by which they age.

    ``model`` is a model's name or :data:`~ratchet.domain.housekeeping.DEPLOYMENT`; ``others`` are models whose dead
    letters follow their own rule, and are not the deployment's; ``spared`` are events that stay whatever they are.
    """

    kind: RowKind
    model: str
    before: datetime
    others: tuple[str, ...] = ()
    spared: tuple[int, ...] = ()


@dataclass(frozen=True)
class RowsFound:
    """Some rows that may go, and the last one that was looked at; None at the end."""

    pks: tuple[int, ...]
    last: int | None


NewPost = tuple[str, str, Sequence[str], datetime]
"""Channel, stage, recipients, and from when on to send it (wall clock)."""


@dataclass(frozen=True)
class NotificationRow:
    """What people are told: a ``Notice`` of the domain, and when it happened; ``over_at`` ends what lasts."""

    id: int
    kind: str
    subject: str
    model: str | None
    at: datetime
    notice: dict[str, Any]
    over_at: datetime | None


@dataclass(frozen=True)
class PostRow:
    """One message: ``sent_at`` or ``dropped`` (with the reason) ends it, else the next try is due at ``next_at``."""

    id: int
    channel: str
    stage: str
    recipients: list[str]
    due_at: datetime
    next_at: datetime
    tries: int
    sent_at: datetime | None
    dropped: str | None
    last_error: str | None
    notification: NotificationRow


@dataclass(frozen=True)
class Used:
    """What a model's attempts have used by business time: runs that were no dry ones, seconds of finished steps."""

    runs_today: int = 0
    seconds_today: float = 0.0
    seconds_month: float = 0.0


@dataclass(frozen=True)
class OutboxTally:
    """How many outbox rows of a kind wait, and since when the oldest does."""

    kind: str
    waiting: int
    oldest: datetime


@dataclass(frozen=True)
class JudgedRow:
    """What one verdict measured, per decision: ``uplift``, and the ``payoff`` of each side on the same rows.

    Each is ``{"estimate"}`` or ``{"value"}`` with ``lower`` and ``upper``, none or null where no number can be given.
    ``version`` is the candidate's; ``rows_by_day`` are the judged ones, by ISO date.
    """

    attempt_id: str
    verdict: str
    champion_version: int | None
    version: int | None
    uplift: dict[str, float | None]
    payoff: dict[str, Any]
    rows_by_day: dict[str, int]


class Tx(Protocol):
    """One transaction. Business decisions are made outside; this reads and writes."""

    # clock
    def wall(self) -> datetime: ...
    def clock(self) -> tuple[str, datetime]: ...
    def set_clock(self, mode: str, now: datetime | None) -> None: ...

    # spec registry
    def publish_spec(self, model: str, digest: str, document: dict[str, Any], *, revive: bool = False) -> bool: ...
    def retire(self, model: str) -> None: ...
    def specs(self, models: Collection[str] | None = None) -> list[SpecRow]: ...
    def registered(self, models: Collection[str] | None = None) -> list[Registration]: ...
    def spec_document(self, digest: str) -> dict[str, Any]: ...
    def spec_documents(self, digests: Collection[str]) -> dict[str, dict[str, Any]]: ...

    # intake
    def insert_records(self, records: Sequence[NewRecord]) -> dict[int, int]: ...
    def insert_events(self, events: Sequence[NewEvent]) -> list[NewEvent]: ...
    def held_records(self) -> list[HeldRecord]: ...
    def resolve_held(self, pk: int, status: str, reason: str | None) -> None: ...
    def advance_watermark(self, dataset: str, until: datetime, completeness: float | None) -> None: ...
    def watermarks(self) -> dict[str, Watermark]: ...
    def beat(self, row: PumpRow) -> None: ...
    def pumps(self) -> list[PumpRow]: ...
    def intake_seen_at(self) -> datetime | None: ...
    def positions(self, cluster: str, spots: Collection[tuple[str, int]]) -> dict[tuple[str, int], Known]: ...
    def keep_position(
        self, cluster: str, topic: str, partition: int, topic_id: str | None, incarnation: int
    ) -> None: ...

    # admission
    def mark(self, models: Collection[str]) -> None: ...
    def lock_model_to_decide(
        self, business_now: datetime, *, after: str | None = None, skip: Collection[str] = ()
    ) -> str | None: ...
    def lock_model(self, model: str) -> bool: ...
    def unmark(self, model: str) -> None: ...
    def events(
        self,
        *,
        model: str | None = None,
        fates: Collection[str] | None = None,
        attempt_id: str | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
        event_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        reason_contains: str | None = None,
        limit: int | None = None,
    ) -> list[EventRow]: ...
    def change_fates(self, changes: Sequence[FateChange]) -> None: ...
    def suppressed_windows(self, model: str) -> list[SeenWindow]: ...
    def fate_history(self, pk: int) -> list[dict[str, Any]]: ...

    # snoozes
    def snooze(self, model: str, snooze: Snooze) -> None: ...
    def wake(self, model: str) -> None: ...
    def snoozes(self, models: Collection[str] | None = None) -> dict[str, Snooze]: ...

    # what operators look at and give another chance
    def last_fate(self) -> int: ...
    def fates_after(self, pk: int, missing: Collection[int], limit: int) -> list[FateEntry]: ...
    def record_of(self, event_pk: int) -> RecordRow | None: ...
    def rejected_records(
        self,
        *,
        spot: tuple[str, int, int] | None = None,
        reason_contains: str | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[RecordRow]: ...
    def unknown_records(self, records: Sequence[RawRecord]) -> list[RawRecord]: ...
    def reopenable(self, models: Collection[str], fates: Collection[str], since: datetime) -> list[EventRow]: ...
    def reopen(self, pks: Sequence[int], reason: str) -> None: ...

    # doorbell
    def set_due(
        self,
        model: str,
        due_at: datetime | None,
        reason: str | None,
        *,
        since: datetime | None = None,
        incident: str | None = None,
    ) -> None: ...
    def due_rows(self) -> list[DueRow]: ...
    def hold(self, model: str, why: str | None) -> None: ...
    def lock_fleet(self) -> None: ...
    def due_models(
        self, backoff_seconds: float, backoff_max_seconds: float, *, overdue_seconds: float = 0.0
    ) -> list[str]: ...
    def ring(self, model: str, backoff_seconds: float, backoff_max_seconds: float) -> int: ...
    def unring(self, model: str) -> None: ...

    # lease and attempts
    def lock_lease(self, model: str) -> LeaseRow: ...
    def leases(self) -> list[LeaseRow]: ...
    def start_attempt(self, attempt: AttemptRow, ttl_seconds: float) -> None: ...
    def renew_lease(self, attempt_id: str, ttl_seconds: float) -> None: ...
    def own_lease(self, attempt_id: str) -> AttemptRow: ...
    def release_lease(self, attempt_id: str) -> None: ...
    def attempt(self, attempt_id: str) -> AttemptRow | None: ...
    def attempts(
        self,
        *,
        model: str | None = None,
        states: Collection[str] | None = None,
        dag_run: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> list[AttemptRow]: ...
    def update_attempt(self, attempt_id: str, **values: Any) -> None: ...
    def step_result(self, attempt_id: str, step: str) -> dict[str, Any] | None: ...
    def save_step(self, attempt_id: str, step: str, result: dict[str, Any], started_at: datetime) -> None: ...
    def step_hours(self, model: str, since: datetime) -> list[tuple[str, float]]: ...
    def step_seconds(self, attempt_ids: Collection[str]) -> dict[str, dict[str, float]]: ...
    def steps(self, attempt_id: str) -> dict[str, dict[str, Any]]: ...
    def save_used_days(self, attempt: AttemptRow, challenger_version: int | None, used: Sequence[UsedDays]) -> None: ...
    def used_days(self, model: str, champion_version: int | None) -> set[date]: ...

    # champions
    def current_champion(self, model: str) -> ChampionRow | None: ...
    def champions(self, model: str) -> list[ChampionRow]: ...
    def version_digest(self, model: str, version: int) -> str | None: ...
    def settled_champions(self, model: str | None = None) -> list[ChampionRow]: ...
    def insert_champion(self, champion: ChampionRow) -> None: ...

    # probation
    def insert_probation(self, probation: ProbationRow) -> None: ...
    def open_probation(self, model: str) -> ProbationRow | None: ...
    def probations(self, *, model: str | None = None, states: Collection[str] | None = None) -> list[ProbationRow]: ...
    def update_probation(self, model: str, seq: int, **values: Any) -> None: ...
    def ring_probation(self, model: str, seq: int, overdue_seconds: float) -> bool: ...
    def save_probation_days(self, model: str, seq: int, days: Sequence[ProbationDay]) -> None: ...
    def probation_days(self, model: str, seq: int) -> list[ProbationDay]: ...

    # scoring
    def ring_scoring(self, model: str, newest: date, overdue_seconds: float) -> bool: ...
    def save_scored_day(self, scored: ScoredDay) -> bool: ...
    def scored_days(
        self, model: str, *, since: date | None = None, until: date | None = None, role: str | None = None
    ) -> list[ScoredDay]: ...

    # the gate's self-test
    def save_self_test(self, model: str, detail: dict[str, Any], *, passed: bool | None) -> None: ...
    def self_tests(self, model: str | None = None, limit: int | None = None) -> list[SelfTestRow]: ...
    def failed_self_test(self, model: str) -> SelfTestRow | None: ...

    # the monitor
    def ring_monitor(self, model: str, window_end: datetime, spec_digest: str, overdue_seconds: float) -> bool: ...
    def monitor_mark(self) -> MonitorMark: ...
    def looked_until(self, models: Collection[str]) -> dict[str, datetime]: ...
    def save_monitored(self, row: MonitoredRow) -> bool: ...
    def monitored(
        self, model: str | None = None, *, window_end: datetime | None = None, limit: int | None = None
    ) -> list[MonitoredRow]: ...

    # retention
    def decide_removals(self, model: str, items: Sequence[tuple[str, str, str]]) -> None: ...
    def finish_removal(self, model: str, kind: str, name: str, freed_bytes: int | None) -> None: ...
    def removal(self, model: str, kind: str, name: str) -> RemovalRow | None: ...
    def removals(self, model: str) -> list[RemovalRow]: ...
    def months_decided(self) -> dict[tuple[str, str], tuple[str, str | None]]: ...
    def decide_rows(self, model: str, kind: RowKind, month: str, why: str) -> bool: ...
    def finish_rows(self, model: str, kind: RowKind, month: str) -> int | None: ...
    def newest_events(self, model: str, types: Collection[str]) -> list[int]: ...
    def count_rows(self, which: RowsWanted) -> int: ...
    def rows_to_remove(self, which: RowsWanted, after: int, limit: int) -> RowsFound: ...
    def raise_floors(self, which: RowsWanted, pks: Sequence[int]) -> None: ...
    def remove_rows(self, which: RowsWanted, pks: Sequence[int], month: str) -> int: ...

    # notifications
    def lock_notifications(self) -> int | None: ...
    def keep_notified(self, seq: int) -> None: ...
    def audit_after(self, seq: int, limit: int) -> list[dict[str, Any]]: ...
    def insert_notification(
        self,
        kind: str,
        subject: str,
        model: str | None,
        at: datetime,
        notice: Mapping[str, Any],
        posts: Sequence[NewPost],
    ) -> bool: ...
    def insert_posts(self, notification_id: int, posts: Sequence[NewPost]) -> None: ...
    def lasting_notifications(self, kinds: Collection[str]) -> list[NotificationRow]: ...
    def end_notification(self, notification_id: int) -> None: ...
    def waiting_channels(self) -> list[str]: ...
    def take_post(self, channel: str) -> PostRow | None: ...
    def try_post(self, post_id: int, again_after: timedelta) -> None: ...
    def finish_post(self, post_id: int, *, error: str | None = None) -> None: ...
    def drop_posts(self, post_ids: Collection[int], why: str) -> None: ...
    def retry_posts(self, given_up: str) -> int: ...
    def posts(
        self, *, notification_id: int | None = None, model: str | None = None, limit: int | None = None
    ) -> list[PostRow]: ...

    # approvals
    def insert_approval_request(self, request: ApprovalRequestRow) -> None: ...
    def approval_request(self, attempt_id: str) -> ApprovalRequestRow | None: ...
    def approval_requests(self, model: str) -> list[ApprovalRequestRow]: ...
    def asked_about(self, attempts: Collection[str]) -> list[tuple[ApprovalRequestRow, list[ApprovalRow]]]: ...
    def show_approval_request(self, attempt_id: str, runs: Sequence[str]) -> None: ...
    def insert_approval(self, approval: ApprovalRow) -> None: ...
    def approvals(self, attempt_id: str) -> list[ApprovalRow]: ...

    # what is shown: pages, newest first, and many models at once
    def events_before(
        self,
        pk: int | None,
        *,
        models: Collection[str],
        fates: Collection[str] | None = None,
        types: Collection[str] | None = None,
        source: str | None = None,
        event_id: str | None = None,
        attempt_id: str | None = None,
        limit: int,
    ) -> list[EventRow]: ...
    def event(self, pk: int) -> EventRow | None: ...
    def attempts_before(
        self,
        spot: tuple[datetime, str] | None,
        *,
        models: Collection[str],
        states: Collection[str] | None = None,
        verdicts: Collection[str] | None = None,
        dag_id: str | None = None,
        dag_run_id: str | None = None,
        limit: int,
    ) -> list[AttemptRow]: ...
    def audited_before(
        self,
        seq: int | None,
        *,
        models: Collection[str],
        general: bool = False,
        actor: str | None = None,
        action: str | None = None,
        limit: int,
    ) -> list[dict[str, Any]]: ...
    def letters_before(self, pk: int | None, *, reason_contains: str | None = None, limit: int) -> list[RecordRow]: ...
    def serving(self, models: Collection[str]) -> dict[str, ChampionRow]: ...
    def last_judged(self, models: Collection[str]) -> dict[str, AttemptRow]: ...
    def awaiting(self, models: Collection[str]) -> dict[str, list[str]]: ...
    def open_event_counts(self, models: Collection[str]) -> dict[str, dict[str, int]]: ...
    def used(self, models: Collection[str], *, day_began: datetime, month_began: datetime) -> dict[str, Used]: ...
    def judged(self, model: str, limit: int) -> list[JudgedRow]: ...
    def watched_until(self, model: str) -> dict[int, date]: ...

    # what is measured: each over all models
    def count_attempts(self) -> dict[tuple[str, str], int]: ...
    def count_verdicts(self) -> dict[tuple[str, str], int]: ...
    def count_champions(self) -> dict[tuple[str, str], int]: ...
    def count_audited(self) -> dict[str, int]: ...
    def waits_for_claim(self, since: datetime) -> dict[str, list[float]]: ...
    def seconds_by_spec(self) -> list[tuple[str, str, float]]: ...
    def tested(self) -> dict[str, tuple[datetime, bool | None]]: ...
    def newest_windows(self) -> dict[str, MonitoredRow]: ...
    def probation_totals(self) -> dict[str, tuple[str, float]]: ...
    def outbox_tallies(self) -> list[OutboxTally]: ...
    def count_due_posts(self) -> dict[str, int]: ...
    def next_expiries(self) -> dict[str, datetime]: ...

    # what is observed
    def traceparents(self, pks: Collection[int]) -> dict[int, str]: ...
    def attempts_since(self, at: datetime) -> list[AttemptRow]: ...
    def outbox_times(self, dedupes: Collection[str]) -> list[tuple[str, datetime, datetime | None]]: ...

    # signed requests
    def take_signature(self, sender: str, signature: str, keep_seconds: float) -> bool: ...

    # outbox and audit
    def enqueue(self, kind: str, dedupe: str, payload: dict[str, Any], model: str | None = None) -> None: ...
    def take_outbox(self, kind: str, limit: int, *, most_tries: int | None = None) -> list[int]: ...
    def read_outbox(self, pks: Sequence[int]) -> Iterator[OutboxRow]: ...
    def finish_outbox(self, pks: Sequence[int], error: str | None = None) -> None: ...
    def take_announcements(self, *, model: str | None = None, overdue_seconds: float = 0.0) -> list[str]: ...
    def take_resolutions(self, limit: int) -> list[Resolution]: ...
    def finish_resolutions(self, pks: Sequence[int]) -> None: ...
    def audit(self, actor: str, action: str, model: str | None, detail: dict[str, Any]) -> None: ...
    def last_audited(self, actions: Collection[str]) -> str | None: ...
    def audit_log(
        self,
        model: str | None = None,
        *,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]: ...
    def audit_chain(self) -> Iterator[AuditEntry]: ...
    def audit_hash(self, seq: int) -> str | None: ...
    def audit_head(self) -> Head | None: ...
    def audit_count(self) -> Head | None: ...


class Ledger(Protocol):
    """Opens transactions; each commits on a clean exit and rolls back on an exception."""

    def transaction(self) -> AbstractContextManager[Tx]: ...
