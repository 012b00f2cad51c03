"""What Ratchet measures of itself: every metric's name, kind, labels and meaning, by Prometheus' conventions. Pure.

Names end with their unit (``_seconds``, ``_ratio``) and counters with ``_total``; moments are seconds since 1970, so
that an age is ``time() - x``. Labels have few values: models, datasets, partitions, and words of a fixed list. A
counter counts rows that are never removed, or says in its help when it starts anew.

https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Instrument:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One value of an instrument; ``labels`` in the instrument's order."""

    name: str
    labels: tuple[str, ...]
    value: float


INSTRUMENTS: Mapping[str, Instrument] = {
    one.name: one
    for one in (
        Instrument("ratchet_build_info", "gauge", "1; the labels tell which build runs.", ("version", "code")),
        Instrument(
            "ratchet_clock_timestamp_seconds",
            "gauge",
            "Business time: the wall clock, or the replayed one.",
            ("mode",),
        ),
        # intake
        Instrument(
            "ratchet_intake_beat_timestamp_seconds", "gauge", "When any intake pump was last heard of (wall clock)."
        ),
        Instrument(
            "ratchet_intake_lag_records",
            "gauge",
            "Records in Kafka that are not stored yet, as the pump that reads the partition said last.",
            ("topic", "partition"),
        ),
        Instrument("ratchet_intake_alarms", "gauge", "Pumps that raise an alarm: offsets that are lost."),
        Instrument(
            "ratchet_intake_records_total",
            "counter",
            "Records that a pump kept since it was started, by what became of them: stored or rejected.",
            ("pump", "outcome"),
        ),
        Instrument(
            "ratchet_dataset_complete_timestamp_seconds",
            "gauge",
            "How far a dataset is complete (business time): its watermark.",
            ("dataset",),
        ),
        Instrument(
            "ratchet_dataset_label_completeness_ratio",
            "gauge",
            "Share of the mature labels that are known, where the dataset's sender says so.",
            ("dataset",),
        ),
        # events and runs
        Instrument(
            "ratchet_events_open", "gauge", "Events without a terminal fate, by their fate now.", ("model", "fate")
        ),
        Instrument(
            "ratchet_event_to_run_seconds",
            "gauge",
            "From an event's receipt to the claim of the run it started, of the runs of the last 24 hours: "
            "quantile 0.5, 0.95 and 1. What rules made it wait (debounce, cooldown, confirmations) is in it.",
            ("model", "quantile"),
        ),
        Instrument(
            "ratchet_run_overdue_seconds",
            "gauge",
            "How long a model has been due without a run that claimed; 0 when it is not. One that waits its turn in "
            "the fleet is not overdue.",
            ("model",),
        ),
        Instrument(
            "ratchet_attempts_live",
            "gauge",
            "Attempts that have not ended, by state.",
            ("model", "state"),
        ),
        Instrument(
            "ratchet_attempts_total",
            "counter",
            "Attempts that have ended, by how: concluded, failed, abandoned or superseded.",
            ("model", "state"),
        ),
        Instrument(
            "ratchet_verdicts_total",
            "counter",
            "Verdicts of the gate: promote, keep_champion or not_enough_evidence. Dry runs are left out.",
            ("model", "verdict"),
        ),
        # champions and what they are worth
        Instrument(
            "ratchet_champion_changes_total",
            "counter",
            "Times that another version came to serve, by kind: init, promotion, rollback or revert.",
            ("model", "kind"),
        ),
        Instrument("ratchet_champion_version", "gauge", "The version that serves.", ("model",)),
        Instrument(
            "ratchet_champion_since_timestamp_seconds",
            "gauge",
            "Since when it serves (business time).",
            ("model",),
        ),
        Instrument(
            "ratchet_uplift_per_decision",
            "gauge",
            "Of the last verdict that compared anything: the gain of the challenger over the champion, in the payoff's "
            "unit: its estimate and the one-sided bounds.",
            ("model", "unit", "bound"),
        ),
        Instrument(
            "ratchet_payoff_realised_per_decision",
            "gauge",
            "What the champion earned on the newest window with labels that the monitor looked at, in the payoff's "
            "unit: its estimate and the one-sided bounds.",
            ("model", "unit", "bound"),
        ),
        Instrument(
            "ratchet_probation_uplift",
            "gauge",
            "Uplift of the champion on probation over its predecessor, summed over the days scored so far, in the "
            "payoff's unit.",
            ("model", "unit"),
        ),
        Instrument(
            "ratchet_monitor_broken", "gauge", "1 while the newest window of data cannot be believed.", ("model",)
        ),
        # the gate, people
        Instrument(
            "ratchet_gate_self_test_passed",
            "gauge",
            "1 when the gate's last self-test on the model's own days passed, 0 when it failed: promotions are held.",
            ("model",),
        ),
        Instrument(
            "ratchet_gate_self_test_timestamp_seconds",
            "gauge",
            "When the gate was last tested on the model, judged or not (wall clock).",
            ("model",),
        ),
        Instrument("ratchet_approvals_waiting", "gauge", "Promotions that people are asked about.", ("model",)),
        Instrument(
            "ratchet_approval_expiry_timestamp_seconds",
            "gauge",
            "When the next of them expires (wall clock).",
            ("model",),
        ),
        # cost
        Instrument(
            "ratchet_core_seconds_total",
            "counter",
            "Seconds of finished steps times the spec's threads, as budgets count them.",
            ("model",),
        ),
        Instrument(
            "ratchet_budget_used_ratio",
            "gauge",
            "Share of a limit of the budget that its present period has used; 1 is all of it.",
            ("model", "rule"),
        ),
        # what is to be told, and the log
        Instrument("ratchet_outbox_waiting", "gauge", "Outbox rows that are not told yet.", ("kind",)),
        Instrument(
            "ratchet_outbox_oldest_timestamp_seconds",
            "gauge",
            "When the oldest of them was written (wall clock).",
            ("kind",),
        ),
        Instrument(
            "ratchet_notifications_waiting", "gauge", "Messages to people that are due and not sent.", ("channel",)
        ),
        Instrument(
            "ratchet_audit_entries_total",
            "counter",
            "Entries of the audit log, by action: every act of people and every alarm.",
            ("action",),
        ),
    )
}
"""Every metric, by name: dashboards and alert rules use no other (a test holds it)."""
QUANTILES = (0.5, 0.95, 1.0)


def quantile(values: list[float], q: float) -> float:
    """The smallest of the values that at least a share ``q`` of them does not exceed (nearest rank; not empty)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]
