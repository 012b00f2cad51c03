"""Ratchet's metrics, read from the ledger when they are asked for: a restart loses none, and none is told twice.

A handful of statements for any number of models: whoever scrapes does so every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ratchet.domain.instruments import QUANTILES, Sample, quantile
from ratchet.ports.ledger import AWAITING_APPROVAL, LIVE_STATES, OPEN_FATES, WAITING_STATES, Ledger, Tx
from ratchet.workflow.leases import ENDED_STATES
from ratchet.workflow.overview import BudgetUse, ModelOverview, Overviews

RECENT = timedelta(days=1)
VERDICTS = ("promote", "keep_champion", "not_enough_evidence")
ALARMS = ("alias.moved_by_hand", "artifact.tampered", "audit.broken", "intake.offsets")
"""Entries of the audit log that are counted from nought: what begins at 1 has never increased, to an alert."""
BOUNDS = ("estimate", "lower", "upper")


@dataclass(frozen=True)
class Priced:
    """What metrics need of a spec, which never changes under its digest: the payoff's unit, and threads of a step."""

    unit: str
    threads: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Priced:
        """From the document as it was deployed."""
        return cls(str(document["business"]["payoff"]["unit"]), int(document["runtime"]["threads"]))


class Measurements:
    """The verb of the metrics; keeps what it has read of specs."""

    def __init__(self, ledger: Ledger, version: str, code_digest: str) -> None:
        self._ledger = ledger
        self._build = (version, code_digest[:12])
        self._overviews = Overviews()
        self._priced: dict[str, Priced] = {}

    def measure(self) -> list[Sample]:
        """Every metric's samples as they are now; what is not known has none.

        Raises:
            Unavailable: the ledger did not answer.
        """
        with self._ledger.transaction() as tx:
            rows = [row for row in tx.registered() if not row.retired]
            told = self._overviews.of(tx, rows)
            spent, watched = tx.seconds_by_spec(), tx.probation_totals()
            digests = {row.model: row.digest for row in rows}
            ever = {digest for _, digest, _ in spent} | {digest for digest, _ in watched.values()}
            specs = self._specs(tx, ever | set(digests.values()))
            units = {model: specs[digest].unit for model, digest in digests.items()}
            return [
                Sample("ratchet_build_info", self._build, 1.0),
                *_intake(tx),
                *_events(tx, told),
                *_attempts(tx, told),
                *_champions(tx, told),
                *_worth(tx, told, units),
                *(
                    Sample("ratchet_probation_uplift", (model, specs[digest].unit), total)
                    for model, (digest, total) in sorted(watched.items())
                ),
                *_gate(tx, units.keys()),
                *_costs(told, spent, specs),
                *_told(tx),
            ]

    def _specs(self, tx: Tx, digests: AbstractSet[str]) -> Mapping[str, Priced]:
        """What these specs say; only those are read that nobody has asked for before."""
        if missing := digests - self._priced.keys():
            read = tx.spec_documents(missing)
            self._priced = self._priced | {digest: Priced.of(document) for digest, document in read.items()}
        return self._priced


def _intake(tx: Tx) -> Iterator[Sample]:
    mode, business = tx.clock()
    yield Sample("ratchet_clock_timestamp_seconds", (mode,), business.timestamp())
    seen = tx.intake_seen_at()
    if seen is not None:
        yield Sample("ratchet_intake_beat_timestamp_seconds", (), seen.timestamp())
    pumps = tx.pumps()
    lag: dict[str, int] = {}
    for pump in reversed(pumps):  # the latest beat says last of a partition that moved from pump to pump
        lag |= pump.lag
        yield Sample("ratchet_intake_records_total", (pump.instance, "stored"), pump.stored)
        yield Sample("ratchet_intake_records_total", (pump.instance, "rejected"), pump.rejected)
    for spot, behind in sorted(lag.items()):
        topic, _, partition = spot.rpartition("/")
        yield Sample("ratchet_intake_lag_records", (topic, partition), behind)
    yield Sample("ratchet_intake_alarms", (), sum(pump.alarm is not None for pump in pumps))
    for name, mark in sorted(tx.watermarks().items()):
        yield Sample("ratchet_dataset_complete_timestamp_seconds", (name,), mark.complete_until.timestamp())
        if mark.label_completeness is not None:
            yield Sample("ratchet_dataset_label_completeness_ratio", (name,), mark.label_completeness)


def _events(tx: Tx, told: list[ModelOverview]) -> Iterator[Sample]:
    wall = tx.wall()
    overdue = {due.model: (wall - due.due_at).total_seconds() for due in tx.due_rows() if due.held is None}
    for row in told:
        for fate in OPEN_FATES:
            yield Sample("ratchet_events_open", (row.model, fate), row.open_events.get(fate, 0))
        yield Sample("ratchet_run_overdue_seconds", (row.model,), max(overdue.get(row.model, 0.0), 0.0))
    for model, waits in sorted(tx.waits_for_claim(wall - RECENT).items()):
        for q in QUANTILES:
            yield Sample("ratchet_event_to_run_seconds", (model, f"{q:g}"), quantile(waits, q))


def _attempts(tx: Tx, told: list[ModelOverview]) -> Iterator[Sample]:
    names = [row.model for row in told]
    attempts = tx.count_attempts()
    ended = {(model, state): 0 for model in names for state in ENDED_STATES}
    ended |= {key: count for key, count in attempts.items() if key[1] in ENDED_STATES}
    for key, count in sorted(ended.items()):
        yield Sample("ratchet_attempts_total", key, count)
    for key, count in sorted(attempts.items()):
        if key[1] in (*LIVE_STATES, *WAITING_STATES):
            yield Sample("ratchet_attempts_live", key, count)
    verdicts = {(model, verdict): 0 for model in names for verdict in VERDICTS} | tx.count_verdicts()
    for key, count in sorted(verdicts.items()):
        yield Sample("ratchet_verdicts_total", key, count)


def _champions(tx: Tx, told: list[ModelOverview]) -> Iterator[Sample]:
    for (model, kind), count in sorted(tx.count_champions().items()):
        yield Sample("ratchet_champion_changes_total", (model, kind), count)
    for row in told:
        if row.champion is not None:
            yield Sample("ratchet_champion_version", (row.model,), row.champion.version)
            if row.champion.since is not None:
                since = row.champion.since.timestamp()
                yield Sample("ratchet_champion_since_timestamp_seconds", (row.model,), since)


def _worth(tx: Tx, told: list[ModelOverview], units: Mapping[str, str]) -> Iterator[Sample]:
    for row in told:
        if row.last_verdict is not None:
            verdict = row.last_verdict.verdict_record or {}
            unit = str(verdict.get("unit") or "")
            yield from _interval("ratchet_uplift_per_decision", row.model, unit, verdict)
    for model, window in sorted(tx.newest_windows().items()):
        if model in units:
            yield Sample("ratchet_monitor_broken", (model,), window.state == "broken")
            realised = (window.found.get("payoff") or {}).get("realised") or {}
            yield from _interval("ratchet_payoff_realised_per_decision", model, units[model], realised)


def _interval(name: str, model: str, unit: str, said: Mapping[str, Any]) -> Iterator[Sample]:
    for bound in BOUNDS:
        if said.get(bound) is not None:
            yield Sample(name, (model, unit, bound), float(said[bound]))


def _gate(tx: Tx, models: AbstractSet[str]) -> Iterator[Sample]:
    for model, (at, passed) in sorted(tx.tested().items()):
        if model in models:
            yield Sample("ratchet_gate_self_test_timestamp_seconds", (model,), at.timestamp())
            if passed is not None:
                yield Sample("ratchet_gate_self_test_passed", (model,), passed)
    waiting: dict[str, int] = dict.fromkeys(sorted(models), 0)
    for attempt in tx.attempts(states=(AWAITING_APPROVAL,)):
        waiting[attempt.model] = waiting.get(attempt.model, 0) + 1
    for model, count in waiting.items():
        yield Sample("ratchet_approvals_waiting", (model,), count)
    until: datetime
    for model, until in sorted(tx.next_expiries().items()):
        yield Sample("ratchet_approval_expiry_timestamp_seconds", (model,), until.timestamp())


def _costs(
    told: list[ModelOverview], spent: list[tuple[str, str, float]], specs: Mapping[str, Priced]
) -> Iterator[Sample]:
    by_model: dict[str, float] = {}
    for model, digest, seconds in spent:
        by_model[model] = by_model.get(model, 0.0) + specs[digest].threads * seconds
    for model, core_seconds in by_model.items():
        yield Sample("ratchet_core_seconds_total", (model,), core_seconds)
    for row in told:
        if row.budget is not None:
            for rule, share in _shares(row.budget):
                yield Sample("ratchet_budget_used_ratio", (row.model, rule), share)


def _shares(budget: BudgetUse) -> Iterator[tuple[str, float]]:
    limits: tuple[tuple[str, float | None, float | None], ...] = (
        ("runs_per_day", budget.runs_today, budget.runs_per_day),
        ("core_hours_per_day", budget.core_hours_today, budget.core_hours_per_day),
        ("core_hours_per_month", budget.core_hours_month, budget.core_hours_per_month),
        ("money_per_month", budget.money_month, budget.money_per_month),
    )
    for rule, used, allowed in limits:
        if used is not None and allowed:
            yield rule, used / allowed


def _told(tx: Tx) -> Iterator[Sample]:
    for tally in tx.outbox_tallies():
        yield Sample("ratchet_outbox_waiting", (tally.kind,), tally.waiting)
        yield Sample("ratchet_outbox_oldest_timestamp_seconds", (tally.kind,), tally.oldest.timestamp())
    for channel, count in tx.count_due_posts().items():
        yield Sample("ratchet_notifications_waiting", (channel,), count)
    for action, count in sorted((dict.fromkeys(ALARMS, 0) | tx.count_audited()).items()):
        yield Sample("ratchet_audit_entries_total", (action,), count)
