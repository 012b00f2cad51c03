"""An attempt as a story: what its dossier says of each chapter, and each chapter's gist in a few words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ratchet.api import schemas as s
from ratchet.pages import wording
from ratchet.workflow import sections
from ratchet.workflow.guarding import in_words
from ratchet.workflow.sections import Section

Dossier = Mapping[str, Any]
MOST_RAW = 200_000
"""Characters of a dossier that are shown on the page; a larger one is only sent as a file."""
MOST_KEPT = 12
"""Events of a dossier that are shown; all of them are in the dossier."""
UNREADABLE = Markup('<p class="soft">The dossier says this in a way that is not read here; it is below, raw.</p>')


@dataclass(frozen=True)
class Chapter:
    """One part of the story: what it is called in the address and on the page, and what it comes to."""

    key: str
    title: str
    gist: str


def chapters(told: s.AttemptInFull, events: Sequence[s.Event]) -> list[Chapter]:
    """The table of contents, in the order of what happened."""
    return [
        Chapter("why", "Why it started", _why(told, events)),
        Chapter("data", "What data", f"up to {told.as_of:%Y-%m-%d}"),
        Chapter("tried", "What was tried", _tried(told)),
        Chapter("judged", "How it was judged", _judged(told)),
        Chapter("approved", "Who approved", _approved(told)),
        Chapter("became", "What became of it", _became(told)),
        Chapter("again", "Make it again", told.id),
    ]


def lead(told: s.AttemptInFull) -> str:
    """What it came to, in a sentence or two."""
    if told.dossier is not None and told.verdict is not None and told.verdict.estimate is not None:
        found = _plain(sections.verdict_in_words, told.dossier)
        if found:
            return found
    if told.verdict is not None:
        return "; ".join(told.verdict.reasons) or f"The verdict is: {told.verdict.decision.replace('_', ' ')}."
    if wording.at_work(told):
        return "It is at work; this page follows it."
    return told.failure or "It ended without a verdict."


def events(told: s.AttemptInFull, shown: Collection[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """The events as the dossier keeps them, the one that started it first: the ledger's may be gone by retention.

    Those ``shown`` already, by source and id, are left out.
    """
    kept = (told.dossier or {}).get("events") or ()
    rows = [row for row in kept if isinstance(row, Mapping) and isinstance(row.get("data"), Mapping)]
    rows = [row for row in rows if (row.get("source"), row.get("id")) not in shown]
    rows.sort(key=lambda row: not row.get("trigger"))
    return [
        {"kind": wording.kind(str(row.get("type"))), "said": wording.said(str(row.get("type")), row["data"])}
        | {"source": row.get("source"), "time": row.get("time"), "trigger": bool(row.get("trigger"))}
        for row in rows[:MOST_KEPT]
    ]


def data(told: s.AttemptInFull) -> tuple[list[tuple[str, str]], Markup]:
    """The facts of the data (name and value), and how it has changed."""
    if told.dossier is None:
        return [], Markup()
    return _facts_of_data(told.dossier), _html([sections.data_shift], told.dossier)


def tried(told: s.AttemptInFull) -> tuple[str, Markup, list[dict[str, Any]]]:
    """What the challenger is, how it was made, and the trials, the best first."""
    if told.dossier is None:
        return "", Markup(), []
    what = _plain(lambda d: sections.what_it_is(d["challenger"]["provenance"]), told.dossier)
    return what, _html([sections.made_by], told.dossier) if what else Markup(), _trials(told.dossier)


def judged(told: s.AttemptInFull) -> tuple[Markup, Markup, Markup]:
    """Of the verdict: the headline, the picture with the checks, and what else was measured."""
    if told.dossier is None:
        return Markup(), Markup(), Markup()
    compared = bool((told.dossier.get("evidence") or {}).get("key"))
    headline = _html([lambda d: sections.headline(d["verdict"], d["challenger"]["version"])], told.dossier, missing="")
    if not compared:
        return headline, Markup(), Markup()
    first: list[Part] = [sections.looks, sections.uplift, sections.candidates, sections.checks]
    more: list[Part] = [
        sections.metrics,
        sections.slices,
        sections.payoff_by_threshold,
        sections.payoff_by_capacity,
        sections.scored,
    ]
    return headline, _html(first, told.dossier), _html(more, told.dossier)


def deployed(told: s.AttemptInFull) -> Markup:
    """The refit that serves in place of what was judged, where there is one."""
    return _html([sections.deployed], told.dossier, missing="") if told.dossier is not None else Markup()


def pinned(told: s.AttemptInFull) -> Markup:
    """What pins the attempt."""
    if told.dossier is None:
        return Markup()
    return _html([lambda d: sections.pinned(d, told.dossier_sha256 or "")], told.dossier)


Part = Callable[[Dossier], "str | Section | list[Section]"]


def _html(parts: Iterable[Part], dossier: Dossier, missing: str = UNREADABLE) -> Markup:
    """The sections one below the other; their functions have escaped every text.

    A dossier may be of another version of this code, and what it lacks must not take the page with it.
    """
    made = []
    for part in parts:
        try:
            found = part(dossier)
        except (LookupError, TypeError, ValueError, AttributeError):
            made.append(missing)
            continue
        sections_found = [found] if isinstance(found, str | Section) else found
        made += [each.html(3) if isinstance(each, Section) else each for each in sections_found]
    return Markup("".join(dict.fromkeys(made)))  # noqa: S704 - escaped where they are made


def _plain(part: Callable[[Dossier], str], dossier: Dossier) -> str:
    try:
        return part(dossier)
    except (LookupError, TypeError, ValueError, AttributeError):
        return ""


def _facts_of_data(dossier: Dossier) -> list[tuple[str, str]]:
    def days(plan: Mapping[str, Any], start: str, end: str) -> str:
        return f"{plan[start]} until {plan[end]}" if plan.get(start) and plan.get(end) else ""

    snapshot = dossier.get("snapshot") or {}
    plan, files = snapshot.get("plan") or {}, snapshot.get("files") or {}
    held = plan.get("holdout_days") or []
    rows = {name: (files.get(name) or {}).get("rows") for name in ("train", "holdout")}
    told = [
        ("Learned from", days(plan, "fit_start", "fit_end")),
        ("Calibrated on", days(plan, "calibrate_start", "calibrate_end")),
        ("Judged on", f"{held[0]} to {held[-1]}, {len(held)} days" if held else ""),
        ("Rows to learn from", f"{rows['train']:,}" if rows["train"] is not None else ""),
        ("Rows to judge on", f"{rows['holdout']:,}" if rows["holdout"] is not None else ""),
        ("Features", f"{len(snapshot.get('features') or ())}"),
        ("Sensitive columns held", _plain(lambda d: "; ".join(in_words(d["snapshot"])), dossier)),
        ("Snapshot (SHA-256)", str((dossier.get("snapshot_manifest") or {}).get("sha256") or "")),
    ]
    return [(name, value) for name, value in told if value]


def _trials(dossier: Dossier) -> list[dict[str, Any]]:
    study = dossier.get("study") or {}
    best = study.get("best_trial")
    found = [trial for trial in study.get("trials") or () if isinstance(trial, Mapping)]
    told = [
        {
            "number": trial.get("number"),
            "state": str(trial.get("state")),
            "value": trial.get("value") if isinstance(trial.get("value"), int | float) else None,
            "params": ", ".join(f"{k} {_figure(v)}" for k, v in (trial.get("params") or {}).items()),
            "best": trial.get("number") == best,
        }
        for trial in found
    ]
    return sorted(told, key=lambda trial: not trial["best"])


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _why(told: s.AttemptInFull, events: Sequence[s.Event]) -> str:
    count = len(told.dossier.get("events") or ()) if told.dossier else len(events)
    began = "first champion" if told.trigger == "init" else told.trigger.replace("_", " ")
    return began + (f", {count:,} event{'s' if count > 1 else ''}" if count else "")


def _tried(told: s.AttemptInFull) -> str:
    trials = _trials(told.dossier) if told.dossier else []
    if trials:
        return f"{len(trials):,} trial{'s' if len(trials) > 1 else ''}"
    return "at work" if wording.at_work(told) else "nothing" if not told.steps else ""


def _judged(told: s.AttemptInFull) -> str:
    if told.verdict is not None:
        return wording.VERDICTS.get(told.verdict.decision, ("", told.verdict.decision))[1]
    return "not yet" if wording.at_work(told) else "it was not"


def _approved(told: s.AttemptInFull) -> str:
    if told.approval is None:
        return "not yet" if wording.at_work(told) else "nobody had to"
    agreed = sum(answer.answer == "approve" for answer in told.approval.answers)
    refused = [answer.actor for answer in told.approval.answers if answer.answer == "reject"]
    return f"{refused[0]} refused" if refused else f"{agreed} of {told.approval.people}"


def _became(told: s.AttemptInFull) -> str:
    if told.followed_by is not None:
        return "served"
    if told.served:
        return "serves"
    if wording.at_work(told) or told.state in {"judged", "awaiting_approval"}:
        return "not yet known"
    return wording.state(told)[1] if told.verdict is None else "the champion stayed"
