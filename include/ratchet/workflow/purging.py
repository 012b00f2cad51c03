"""Retention: what a model's past may lose is decided under its lease and recorded, and only then removed.

A purge that is killed leaves either nothing, or removals that are decided and not made: from then on nothing reads what
they name, and the next purge makes them first. Removing is idempotent, so nobody need know how far the killed one came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from typing import Any

from ratchet.domain.housekeeping import DEPLOYMENT
from ratchet.domain.orphans import BY_ATTEMPT, Known, Orphan, find_orphans, window_in
from ratchet.domain.retention import InPlace, Item, Needed, PastAttempt, Purge, RetentionRule, decide_purge
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import (
    LIVE_STATES,
    OPEN_FATES,
    WAITING_STATES,
    AttemptRow,
    ChampionRow,
    Ledger,
    MonitoredRow,
    RemovalRow,
    Tx,
)
from ratchet.ports.registry import Registry
from ratchet.ports.store import Store
from ratchet.ports.studies import Studies
from ratchet.workflow.housekeeping import Housekeeping, RowPurge
from ratchet.workflow.monitoring import key_of as report_key
from ratchet.workflow.probation import readable_spec
from ratchet.workflow.promotion import rollback_target
from ratchet.workflow.scoring import manifest_of

OPEN_STATES = (*LIVE_STATES, *WAITING_STATES)
MARGIN = timedelta(days=2)
"""Beyond what scoring looks back for: a local day and a watermark that moves meanwhile."""
FILES = ("snapshots", "predictions", "monitor")


@dataclass(frozen=True)
class Purged:
    """One model: what goes (or went) with the bytes of each, None where not known, and what stays against its rule.

    ``removed`` and ``freed_bytes`` count what is gone now, what a killed purge had left included; None in a dry run.
    ``rows`` are the ledger's own. What is of no model has the name ``*``, and rows alone.
    """

    model: str
    remove: tuple[tuple[Item, int | None], ...]
    spared: tuple[Item, ...]
    removed: int | None = None
    freed_bytes: int | None = None
    rows: tuple[RowPurge, ...] = ()


class Purges:
    """The verb of retention."""

    def __init__(
        self,
        ledger: Ledger,
        store: Callable[[], Store],
        registry: Callable[[], Registry],
        studies: Callable[[], Studies],
        housekeeping: Housekeeping,
    ) -> None:
        self._ledger = ledger
        self._housekeeping = housekeeping
        self._store = store
        self._registry = registry
        self._studies = studies

    def purge(self, model: str | None = None, *, apply: bool, actor: str) -> list[Purged]:
        """Remove what the spec of the model, or of each, does not retain; without ``apply`` say only what would go.

        Raises:
            Refused: the model is not deployed, or its spec has no ``retention`` that this code reads.
            Unavailable: something did not answer; what was decided is removed by the next purge.
        """
        with self._ledger.transaction() as tx:
            known = {row.model: readable_spec(tx, row.digest) for row in tx.registered()}
        if model is not None and model not in known:
            raise Refused(f"there is no model {model!r}. Deploy its spec first: ratchet deploy")
        asked = {name: spec for name, spec in known.items() if model in {None, name} and spec and spec.retention}
        if model is not None and not asked:
            raise Refused(f"the deployed spec of {model} has no retention: all is kept. See docs/model-spec.md")
        told = []
        if asked:
            sizes = {key: size for kind in FILES for key, size in self._store().sizes(kind).items()}
            studies = self._studies().names()
            told = [self._purge(spec, sizes, studies, actor if apply else None) for _, spec in sorted(asked.items())]
        if model is None and self._housekeeping.asked:
            told.append(Purged(DEPLOYMENT, (), (), *((0, 0) if apply else ())))
        # Rows go last: what of them is needed depends on nothing that went before.
        rows = self._housekeeping.purge(actor, model) if apply else self._housekeeping.plan(model)
        return [replace(one, rows=tuple(row for row in rows if row.model == one.model)) for one in told]

    def orphans(self, *, apply: bool, actor: str) -> tuple[list[Orphan], int | None]:
        """What no row of the ledger names, and with ``apply`` the bytes freed by its removal.

        Raises:
            Unavailable: something did not answer; what is left is found again.
        """
        store, registry = self._store(), self._registry()
        objects = {
            key: size for kind in (*BY_ATTEMPT, "predictions", "monitor") for key, size in store.sizes(kind).items()
        }
        studies = self._studies().names()
        versions = {model: registry.versions(model) for model in registry.models()}
        # The ledger is read last: whatever was stored before is named by then, if it is to be named.
        with self._ledger.transaction() as tx:
            found = list(find_orphans(_known(tx), objects, studies, versions))
        if not apply or not found:
            return found, 0 if apply else None
        freed = sum(self._remove_orphan(orphan) or 0 for orphan in found)
        with self._ledger.transaction() as tx:
            tx.audit(actor, "orphans.removed", None, {"names": [each.name for each in found], "bytes": freed})
        return found, freed

    def _remove_orphan(self, orphan: Orphan) -> int | None:
        if orphan.kind == "version":
            model, _, version = orphan.name.rpartition("@")
            return self._registry().remove(model, int(version))
        if orphan.kind == "study":
            self._studies().remove(orphan.name)
            return orphan.bytes
        return self._store().delete(orphan.name)

    def _purge(
        self, spec: ModelSpec, sizes: Mapping[str, int], studies: Mapping[str, int | None], actor: str | None
    ) -> Purged:
        model = spec.model
        with self._ledger.transaction() as tx:
            if actor is not None:
                tx.lock_lease(model)
            decided = plan_purge(tx, spec, sizes, studies)
            if actor is not None and decided.remove:
                tx.decide_removals(model, [(item.kind, item.name, item.why) for item in decided.remove])
                tx.audit(actor, "retention.decided", model, _named(decided.remove))
        known = tuple((item, _bytes_of(item, sizes, studies)) for item in decided.remove)
        if actor is None:
            return Purged(model, known, decided.spared)
        with self._ledger.transaction() as tx:
            owed = [row for row in tx.removals(model) if row.removed_at is None and row.rows is None]
        counts: Counter[str] = Counter()
        freed = 0
        for row in owed:
            size = self._remove(row, studies)
            with self._ledger.transaction() as tx:
                tx.finish_removal(model, row.kind, row.name, size)
            counts[row.kind] += 1
            freed += size or 0
        if counts:
            with self._ledger.transaction() as tx:
                tx.audit(actor, "retention.removed", model, {"removed": dict(counts), "bytes": freed})
        return Purged(model, known, decided.spared, counts.total(), freed)

    def _remove(self, row: RemovalRow, studies: Mapping[str, int | None]) -> int | None:
        """Remove it if it is there; returns the bytes freed, None where they are not known."""
        if row.kind == "version":
            return self._registry().remove(row.model, int(row.name))
        if row.kind == "study":
            self._studies().remove(row.name)
            return studies.get(row.name)
        store = self._store()
        if row.kind == "snapshot":
            return store.delete(f"snapshots/{row.name}")
        if row.kind == "report":
            return store.delete(row.name)
        return store.delete(row.name) + store.delete(_beside(row.name))


def _known(tx: Tx) -> Known:
    """What the ledger names."""
    attempts = tx.attempts()
    models = [row.model for row in tx.registered()]
    versions: dict[str, set[int]] = {model: {row.version for row in tx.champions(model)} for model in models}
    for attempt in attempts:
        made = {attempt.challenger_version, attempt.deployed_version} - {None}
        versions.setdefault(attempt.model, set()).update(v for v in made if v is not None)
    reports = [_key(row) for row in tx.monitored() if row.report_sha256 is not None]
    return Known(
        models=frozenset(models),
        attempts=frozenset(attempt.id for attempt in attempts),
        open_attempts=frozenset(attempt.id for attempt in attempts if attempt.state in OPEN_STATES),
        versions={model: frozenset(numbers) for model, numbers in versions.items()},
        reports={window_in(key): key for key in reports},
    )


def plan_purge(tx: Tx, spec: ModelSpec, sizes: Mapping[str, int], studies: Mapping[str, int | None]) -> Purge:
    """What retention removes of the model as things stand.

    Args:
        tx: for an answer to act upon, one that holds the model's lease.
        spec: the model's, with a ``retention``.
        sizes: the store's objects by key.
        studies: those that there are.
    """
    rule = RetentionRule.from_spec(spec)
    if rule is None:
        return Purge((), ())
    attempts = tx.attempts(model=spec.model)
    gone = {(row.kind, row.name) for row in tx.removals(spec.model)}
    windows = [row for row in tx.monitored(spec.model) if row.report_sha256 is not None]
    share = {digest: _may_share(tx, digest) for digest in {attempt.spec_digest for attempt in attempts}}
    past = [_past(attempt, may_share=share[attempt.spec_digest]) for attempt in attempts]
    versions = {v for each in past for v in each.versions} | {c.version for c in tx.champions(spec.model)}
    made = {attempt.id for attempt in attempts}
    keys = {key: key.split("/") for key in sizes}
    there = InPlace(
        snapshots=frozenset(
            parts[1] for parts in keys.values() if parts[0] == "snapshots" and parts[1] in made and len(parts) > 2
        )
        - {name for kind, name in gone if kind == "snapshot"},
        versions=frozenset(v for v in versions if ("version", str(v)) not in gone),
        studies={
            name: attempt
            for name in studies
            if ("study", name) not in gone and (attempt := ".".join(name.split(".")[:2])) in made
        },
        predictions={
            row.key: datetime.combine(row.day + timedelta(days=1), time(), spec.data.spine.zone)
            for row in tx.scored_days(spec.model)
            if row.key is not None and row.key in sizes and ("predictions", row.key) not in gone
        },
        reports={key: row.window_end for row in windows if (key := _key(row)) in sizes and ("report", key) not in gone},
    )
    return decide_purge(rule, past, needed_of(tx, spec, attempts, windows), there, tx.clock()[1])


def needed_of(tx: Tx, spec: ModelSpec, attempts: Sequence[AttemptRow], windows: Sequence[MonitoredRow]) -> Needed:
    """What of a model's past somebody needs, beside its attempts that have not ended."""
    champions = tx.champions(spec.model)
    judged = [attempt for attempt in attempts if attempt.judged_at is not None and not attempt.dry_run]
    versions = _to_be_scored(tx, spec, champions, judged) | _serving(tx, spec.model, champions)
    made = {attempt.id: "it gave the newest verdict" for attempt in judged[:1]}
    reports: dict[str, str] = {}
    named: dict[str | None, str] = {row.report_uri: _key(row) for row in windows}
    for event in tx.events(model=spec.model, fates=OPEN_FATES):
        if event.origin == "attempt":
            made.setdefault(str(event.data["attempt"]), "its follow-up is open")
            if look := event.data.get("look"):
                versions.setdefault(int(look["challenger"]), "a follow-up that is open judges it again")
        if (uri := event.data.get("evidence_uri")) in named:
            reports[named[uri]] = f"event {event.event_id}, which is open, names it"
    return Needed(versions, made, reports)


def _serving(tx: Tx, model: str, champions: Sequence[ChampionRow]) -> dict[int, str]:
    """Who serves, who would be taken back, and both sides of an open probation."""
    versions: dict[int, str] = {}
    if champions:
        versions[champions[-1].version] = "it is the champion"
        if back := rollback_target(champions):
            versions[back.version] = "a rollback takes it back"
    if watch := tx.open_probation(model):
        versions.setdefault(watch.version, "it is on probation")
        versions.setdefault(watch.predecessor_version, "the probation that is open compares with it, and may revert")
    return versions


def _to_be_scored(
    tx: Tx, spec: ModelSpec, champions: Sequence[ChampionRow], judged: Sequence[AttemptRow]
) -> dict[int, str]:
    """Versions that served, or stood in the shadow, on days for which scoring still looks back."""
    if spec.scoring is None:
        return {}
    marks, now = tx.watermarks(), tx.clock()[1]
    known = min([now, *(marks[name].complete_until for name in spec.datasets if name in marks)])
    cutoff = known - spec.scoring.catch_up - MARGIN
    versions = {}
    for champion, later in zip(champions, [*champions[1:], None], strict=True):
        if later is None or later.since is None or later.since >= cutoff:
            versions[champion.version] = "days that it served may still be scored"
    ordered = sorted(judged, key=lambda attempt: attempt.as_of)
    for attempt, after in zip(ordered, [*ordered[1:], None], strict=True):
        if attempt.candidate_version is not None and (after is None or after.as_of >= cutoff):
            versions.setdefault(attempt.candidate_version, "days in its shadow may still be scored")
    return versions


def _may_share(tx: Tx, spec_digest: str) -> bool:
    """Whether a challenger may be the recalibrated champion, which shares the champion's scorer."""
    return bool(tx.spec_document(spec_digest)["gate"].get("also_judge"))


def _past(attempt: AttemptRow, *, may_share: bool) -> PastAttempt:
    champion = attempt.champion_version
    look: Mapping[str, Any] = attempt.options.get("look") or {}
    return PastAttempt(
        id=attempt.id,
        number=attempt.epoch,
        began=attempt.business_at,
        is_open=attempt.state in OPEN_STATES,
        versions=frozenset(v for v in (attempt.challenger_version, attempt.deployed_version) if v is not None),
        champion=champion,
        shares=frozenset({champion} if may_share and champion is not None else ()),
        looked_before=look.get("after"),
    )


def _key(row: MonitoredRow) -> str:
    return report_key(row.model, row.window_end, str(row.report_sha256))


def _beside(key: str) -> str:
    """The manifest beside a file of predictions."""
    _, model, day, file = key.split("/")
    return manifest_of(model, datetime.fromisoformat(day).date(), file.removesuffix(".parquet"))


def _bytes_of(item: Item, sizes: Mapping[str, int], studies: Mapping[str, int | None]) -> int | None:
    if item.kind == "version":
        return None
    if item.kind == "study":
        return studies.get(item.name)
    if item.kind == "snapshot":
        return sum(size for key, size in sizes.items() if key.startswith(f"snapshots/{item.name}/"))
    beside = sizes.get(_beside(item.name), 0) if item.kind == "predictions" else 0
    return sizes.get(item.name, 0) + beside


def _named(items: Sequence[Item]) -> dict[str, list[str]]:
    """Names by kind, for the audit log."""
    named: dict[str, list[str]] = {}
    for item in items:
        named.setdefault(item.kind, []).append(item.name)
    return named
