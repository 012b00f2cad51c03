"""What may be removed of a model's past, and what somebody still needs. Pure.

:func:`decide_purge` holds for every history: nothing is removed that is

- the champion, its predecessor (the target of a rollback) or another version that is named as needed;
- of an attempt that has not ended, or of one that is named as needed (an open follow-up judges its challenger again);
- the version whose scorer a retained one shares, or whose refit it is; an earlier look at a retained challenger;
- the snapshot of a retained version: without it the version could not be made again.

What a rule would remove and one of these keeps is told with the reason. Ages are of business time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Self, TypeVar

from ratchet.domain.spec import ModelSpec, format_duration

_Name = TypeVar("_Name")
Kind = Literal["snapshot", "version", "study", "predictions", "report"]


@dataclass(frozen=True)
class RetentionRule:
    """A spec's ``retention``: the newest so many, or so long; None keeps all."""

    snapshots: int | None = None
    versions: int | None = None
    studies: timedelta | None = None
    predictions: timedelta | None = None
    reports: timedelta | None = None

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Self | None:
        """The rule of a spec; None for one that has none."""
        asked = spec.retention
        if asked is None:
            return None
        return cls(asked.snapshots, asked.versions, asked.studies, asked.predictions, asked.reports)


@dataclass(frozen=True)
class PastAttempt:
    """One attempt, as far as retention asks. ``number`` orders attempts; ``began`` is business time.

    ``versions`` are those it judged, and refitted; ``champion`` the one it judged against; ``shares`` those whose
    scorer its own may share; ``looked_before`` the attempt whose challenger and training rows it judges again.
    """

    id: str
    number: int
    began: datetime
    is_open: bool
    versions: frozenset[int] = frozenset()
    champion: int | None = None
    shares: frozenset[int] = frozenset()
    looked_before: str | None = None


@dataclass(frozen=True)
class Needed:
    """Versions, attempts and reports (by key) that somebody needs, with who does, in words."""

    versions: Mapping[int, str] = field(default_factory=dict)
    attempts: Mapping[str, str] = field(default_factory=dict)
    reports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InPlace:
    """What there is: snapshots by attempt, versions, studies with their attempt, files with the time they are of."""

    snapshots: frozenset[str] = frozenset()
    versions: frozenset[int] = frozenset()
    studies: Mapping[str, str] = field(default_factory=dict)
    predictions: Mapping[str, datetime] = field(default_factory=dict)
    reports: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One thing by kind and name (attempt, version, study or key), and ``why`` it goes, or stays against its rule."""

    kind: Kind
    name: str
    why: str


@dataclass(frozen=True)
class Purge:
    """What is to be removed, and what a rule would remove that somebody needs."""

    remove: tuple[Item, ...]
    spared: tuple[Item, ...]


def decide_purge(
    rule: RetentionRule, attempts: Sequence[PastAttempt], needed: Needed, there: InPlace, now: datetime
) -> Purge:
    """What the rule removes now (business time) of what is in place, in a total order."""
    versions, snapshots = _wanted(rule, attempts, needed, there)
    by_id = {attempt.id: attempt for attempt in attempts}
    verdicts = [
        *_by_count(
            "version", rule.versions, [str(v) for v in sorted(there.versions)], {str(v): w for v, w in versions.items()}
        ),
        *_by_count("snapshot", rule.snapshots, _oldest_first(there.snapshots, by_id), snapshots),
        *_by_age(
            "study",
            rule.studies,
            {name: by_id[attempt].began for name, attempt in there.studies.items() if attempt in by_id},
            {n: "its attempt has not ended" for n, a in there.studies.items() if a in by_id and by_id[a].is_open},
            now,
        ),
        *_by_age("predictions", rule.predictions, there.predictions, {}, now),
        *_by_age("report", rule.reports, there.reports, _newest(there.reports) | dict(needed.reports), now),
    ]
    return Purge(
        tuple(item for goes, item in verdicts if goes),
        tuple(item for goes, item in verdicts if not goes),
    )


def _wanted(
    rule: RetentionRule, attempts: Sequence[PastAttempt], needed: Needed, there: InPlace
) -> tuple[dict[int, str], dict[str, str]]:
    """Versions and snapshots (by attempt) that somebody needs, whatever their number, each with who does.

    What the rule itself retains needs something too: a version its snapshot, and the version whose scorer it shares.
    """
    versions, snapshots = dict(needed.versions), dict(needed.attempts)
    for attempt in attempts:
        if attempt.is_open:
            snapshots.setdefault(attempt.id, "the attempt has not ended")
            if attempt.champion is not None:
                versions.setdefault(attempt.champion, f"{attempt.id}, which has not ended, judges against it")
        for version in attempt.versions if attempt.id in snapshots else ():
            versions.setdefault(version, f"of {attempt.id}: {snapshots[attempt.id]}")
    _add_makers(versions, snapshots, _newest_of(sorted(there.versions), rule.versions), attempts)
    by_id = {attempt.id: attempt for attempt in attempts}
    _add_looks_before(snapshots, _newest_of(_oldest_first(there.snapshots, by_id), rule.snapshots), by_id)
    return versions, snapshots


def _add_makers(
    versions: dict[int, str], snapshots: dict[str, str], by_number: Sequence[int], attempts: Sequence[PastAttempt]
) -> None:
    """What retained versions need: snapshots of their attempts, versions they share a scorer with or are a refit of."""
    makers: dict[int, list[PastAttempt]] = {}
    for attempt in attempts:
        for version in attempt.versions:
            makers.setdefault(version, []).append(attempt)
    retained = {*versions, *by_number}
    todo = sorted(retained)
    while todo:
        version = todo.pop()
        for attempt in makers.get(version, ()):
            snapshots.setdefault(attempt.id, f"version {version} is retained: {versions.get(version, 'by its number')}")
            for other in (attempt.shares | attempt.versions) - retained:
                of = "judged and refitted together" if other in attempt.versions else "its scorer may be shared"
                versions.setdefault(other, f"version {version} is retained: {of}")
                retained.add(other)
                todo.append(other)


def _add_looks_before(snapshots: dict[str, str], by_number: Sequence[str], by_id: Mapping[str, PastAttempt]) -> None:
    """The snapshots whose training rows another look at a challenger names."""
    chain = [by_id[name] for name in {*snapshots, *by_number} if name in by_id]
    while chain:
        attempt = chain.pop()
        before = by_id.get(attempt.looked_before or "")
        if before is not None and before.id not in snapshots:
            snapshots[before.id] = f"{attempt.id} judges its challenger again, on its training rows"
            chain.append(before)


def _oldest_first(names: Collection[str], by_id: Mapping[str, PastAttempt]) -> list[str]:
    """Snapshots of attempts that are known, in their order; those of others are orphans, not of any rule."""
    return sorted((name for name in names if name in by_id), key=lambda name: by_id[name].number)


def _newest_of(ordered: Sequence[_Name], count: int | None) -> Sequence[_Name]:
    return ordered if count is None else ordered[-count:]


def _newest(reports: Mapping[str, datetime]) -> dict[str, str]:
    newest = max(reports, key=lambda key: (reports[key], key), default=None)
    return {} if newest is None else {newest: "it is the newest report"}


def _by_count(
    kind: Kind, count: int | None, ordered: Sequence[str], wanted: Mapping[str, str]
) -> Iterable[tuple[bool, Item]]:
    """What is beyond the newest ``count``: whether it goes, and why or why not."""
    for name in () if count is None else ordered[:-count]:
        why = wanted.get(name)
        yield why is None, Item(kind, name, why or f"retention.{kind}s: {count}")


def _by_age(
    kind: Kind, limit: timedelta | None, times: Mapping[str, datetime], wanted: Mapping[str, str], now: datetime
) -> Iterable[tuple[bool, Item]]:
    """What is older than ``limit``: whether it goes, and why or why not."""
    if limit is None:
        return
    rule = {"study": "studies", "report": "reports"}.get(kind, kind)
    for name in sorted(times, key=lambda name: (times[name], name)):
        if now - times[name] > limit:
            why = wanted.get(name)
            yield why is None, Item(kind, name, why or f"retention.{rule}: {format_duration(limit)}")
