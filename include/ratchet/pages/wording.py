"""How the pages say what the ledger holds: states, verdicts, fates, events and why an attempt began, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ratchet.api import schemas as s
from ratchet.ports.ledger import AWAITING_APPROVAL, LIVE_STATES

Tag = tuple[str, str]
"""The class of a tag, and what it says."""

STATES: Mapping[str, Tag] = {
    "claimed": ("open", "at work: snapshot"),
    "snapshotted": ("open", "at work: tuning"),
    "tuned": ("open", "at work: judging"),
    "judged": ("open", "judged"),
    AWAITING_APPROVAL: ("open", "waits for approval"),
    "concluded": ("plain", "concluded"),
    "failed": ("bad", "failed"),
    "abandoned": ("bad", "abandoned"),
    "superseded": ("plain", "superseded"),
}
VERDICTS: Mapping[str, Tag] = {
    "promote": ("good", "promote"),
    "keep_champion": ("plain", "keep the champion"),
    "not_enough_evidence": ("open", "not enough evidence"),
}
STATE_NAMES = [(name, said) for name, (_, said) in STATES.items()]
VERDICT_NAMES = [(name, said) for name, (_, said) in VERDICTS.items()]
FATES: Mapping[str, tuple[str, str]] = {
    "pending": ("open", "It is to be decided on, or waits for the next run to claim it."),
    "claimed": ("open", "An attempt has it; what becomes of the attempt becomes of it."),
    "deferred": ("open", "It waits: until the time that is told, or until another event makes it count sooner."),
    "started": ("good", "It started an attempt, and the attempt came to a verdict."),
    "merged": ("good", "An attempt that another event started answered it too."),
    "suppressed": ("plain", "It was looked at and asks for nothing: too weak, an all-clear, or known already."),
    "rejected": ("bad", "It cannot be used, and the reason says why."),
    "expired": ("bad", "It grew older than the spec's max_event_age before anything could be done about it."),
    "failed": (
        "bad",
        "Several attempts in a row ended without a verdict; a person has to look, then give it a chance.",
    ),
}
"""Of each fate the tag's class, and what it means."""
FATE_NAMES = [(name, name) for name in FATES]
TYPES: Mapping[str, str] = {
    "ratchet.drift.detected.v1": "drift detected",
    "ratchet.drift.cleared.v1": "drift cleared",
    "ratchet.performance.degraded.v1": "performance degraded",
    "ratchet.data.arrived.v1": "data arrived",
    "ratchet.retrain.requested.v1": "retrain requested",
}
BEGAN: Mapping[str, str] = {
    "init": "{actor} asked for the model's first champion.",
    "manual": "{actor} started it by hand.",
    "schedule": "The schedule of the spec was due.",
    "follow_up": "An earlier attempt had not enough evidence; the fresh days that it waited for are here.",
    "drift": "Drift was seen often enough to count.",
    "data": "Enough new data had arrived.",
    "performance": "The model earned less than it should.",
    "request": "An event asked for a retrain.",
    "event": "Events waited for an answer.",
}
CAME: Mapping[str, str] = {
    "init": "first champion",
    "promotion": "promoted",
    "rollback": "taken back by hand",
    "revert": "taken back by probation",
}
ORIGINS: Mapping[str, str] = {
    "manual": "none: a person asked in Airflow",
    "schedule": "none: the schedule asked",
    "attempt": "none: an attempt left it for later",
}
"""Where an event came from that no record brought."""
STEPS: Mapping[str, str] = {
    "snapshot": "Snapshot: the rows, joined as known when each decision was made, and frozen",
    "tune": "Tuning: challengers tried on the older rows",
    "evaluate": "Judging: both models on the same fresh rows",
    "refit": "Refit: the same recipe on the newest rows",
}
PROBATION: Mapping[str, Tag] = {
    "watching": ("open", "watched"),
    "confirmed": ("good", "confirmed"),
    "unproven": ("plain", "not proven"),
    "reverted": ("bad", "taken back"),
    "alerted": ("bad", "should be taken back"),
    "superseded": ("plain", "ended early"),
}


def state(told: s.Attempt) -> Tag:
    """The tag of an attempt's state; one that is unknown here is said as it is."""
    if told.state == "concluded" and told.dry_run:
        return "plain", "dry run, concluded"
    if told.state == "concluded" and told.verdict and told.verdict.decision == "promote" and not told.failure:
        return "good", "promoted"
    return STATES.get(told.state, ("plain", told.state.replace("_", " ")))


def at_work(told: s.Attempt) -> bool:
    """Whether its run is not through."""
    return told.state in LIVE_STATES


def began(told: s.Attempt) -> str:
    """Why an attempt began, in a sentence."""
    said = BEGAN.get(told.trigger, "It was started by {trigger}.")
    return said.format(actor=told.actor or "Somebody", trigger=told.trigger.replace("_", " "))


def step(name: str) -> str:
    """What a step does."""
    kind, _, number = name.partition(".")
    return STEPS.get(kind, name) + (f" (worker {number})" if number else "")


def kind(event_type: str) -> str:
    """The type of an event, in words."""
    return TYPES.get(event_type, event_type)


def said(event_type: str, data: Mapping[str, Any]) -> str:
    """What an event says, in a line; empty of a type that is unknown here. Whatever its data is, nothing is raised."""
    has = {name: value for name, value in data.items() if value is not None}
    if event_type == "ratchet.drift.detected.v1":
        parts = [has.get("check"), _of("of ", has, "feature"), _of("severity ", has, "severity"), _window(has)]
    elif event_type == "ratchet.drift.cleared.v1":
        parts = [has.get("check"), _of("in order up to ", has, "window_end")]
    elif event_type == "ratchet.performance.degraded.v1":
        parts = [_of(f"{has.get('metric', 'metric')} ", has, "value"), _of("threshold ", has, "threshold")]
    elif event_type == "ratchet.data.arrived.v1":
        parts = [
            has.get("dataset"),
            _of("complete until ", has, "complete_until"),
            _of("", has, "new_rows", " new rows"),
        ]
    elif event_type == "ratchet.retrain.requested.v1":
        parts = [_of("", has, "actor", ":"), has.get("reason")]
        return " ".join(str(part) for part in parts if part)
    else:
        parts = []
    return ", ".join(str(part) for part in parts if part)


def _of(before: str, data: Mapping[str, Any], name: str, after: str = "") -> str:
    value = data.get(name)
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{before}{value:,.6g}{after}" if isinstance(value, float) else f"{before}{value:,}{after}"
    text = str(value)
    return f"{before}{text[:16].replace('T', ' ') if _is_moment(text) else text}{after}"


def _window(data: Mapping[str, Any]) -> str:
    start, end = _of("", data, "window_start"), _of("", data, "window_end")
    return f"window {start} to {end}" if start and end else ""


def _is_moment(text: str) -> bool:
    return len(text) >= 16 and text[4:5] == text[7:8] == "-" and text[10:11] == "T" and text[13:14] == ":"


def because(detail: Mapping[str, Any]) -> str:
    """Why something was done, as an entry of the audit log has it; empty where it does not say."""
    why = detail.get("reason") or detail.get("why") or ""
    return "; ".join(str(each) for each in why) if isinstance(why, list) else str(why)


def web(address: Any) -> str | None:
    """The address if a browser may be led there: http or https, nothing that runs."""
    if not isinstance(address, str):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return address if parts.scheme in {"http", "https"} and parts.netloc else None


def lasted(seconds: float) -> str:
    """A duration in its two largest units: 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")
