"""Everything that the ledger names by a digest, looked at again: what was changed afterwards is found by its name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ratchet.errors import RatchetError
from ratchet.ports.ledger import AttemptRow, ChampionRow, Ledger
from ratchet.ports.registry import Registry
from ratchet.ports.store import Store
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.auditing import AuditLog
from ratchet.workflow.monitoring import key_of as report_key
from ratchet.workflow.telling import CHAMPION

Progress = Callable[[str], None]
REMOVED = "removed by retention"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was recorded."""

    kind: str
    name: str
    problem: str


@dataclass(frozen=True)
class Verified:
    """What was looked at, by kind, and what was found wrong."""

    looked_at: dict[str, int]
    findings: tuple[Finding, ...]


class Verifier:
    """Reads all that the ledger names; changes and reports nothing."""

    def __init__(
        self,
        ledger: Ledger,
        audit_log: AuditLog,
        artifacts: Artifacts,
        registry: Callable[[], Registry],
        store: Callable[[], Store],
    ) -> None:
        self._ledger = ledger
        self._audit_log = audit_log
        self._artifacts = artifacts
        self._registry = registry
        self._store = store

    def verify(self, model: str | None = None, tell: Progress = lambda _: None) -> Verified:
        """Look at the audit log, and of models: artifacts, snapshots, dossiers, evidence, predictions, the alias.

        What has no digest on record (it was made before the ledger kept one) is a finding: it cannot be verified. What
        retention removed is counted as such.

        Raises:
            Unavailable: something did not answer; nothing is known then.
        """
        with self._ledger.transaction() as tx:
            models = [row.model for row in tx.registered() if model in {None, row.model}]
        looked: Counter[str] = Counter()
        findings: list[Finding] = []
        for kind, name, problem in self._all(models, tell):
            looked[kind] += 1
            if problem is not None:
                findings.append(Finding(kind, name, problem))
        return Verified(dict(looked), tuple(findings))

    def _all(self, models: list[str], tell: Progress) -> Iterator[tuple[str, str, str | None]]:
        tell("the audit log")
        problems = self._audit_log.verify().problems
        yield from (("audit log", "audit", problem) for problem in problems or (None,))
        for model in models:
            tell(model)
            with self._ledger.transaction() as tx:
                champions = tx.champions(model)
                attempts = tx.attempts(model=model)[::-1]
                snapshots = {a.id: tx.step_result(a.id, "snapshot") for a in attempts}
                scored = tx.scored_days(model)
                removed = {(row.kind, row.name): row for row in tx.removals(model)}
            yield from ((REMOVED, row.name, None) for row in removed.values())
            yield from self._versions(model, champions, attempts, removed)
            yield from self._reports(model, removed)
            for attempt in attempts:
                if ("snapshot", attempt.id) not in removed:
                    yield from self._snapshot(snapshots[attempt.id])
                yield from self._dossier(attempt)
            for day in scored:
                if day.key is not None and day.sha256 is not None and ("predictions", day.key) not in removed:
                    yield self._object("predictions", day.key, day.sha256)
            yield from self._alias(model, champions)

    def _versions(
        self, model: str, champions: list[ChampionRow], attempts: list[AttemptRow], removed: Collection[tuple[str, str]]
    ) -> Iterator[tuple[str, str, str | None]]:
        made = {v for a in attempts for v in (a.challenger_version, a.deployed_version) if v is not None}
        for version in sorted(made | {c.version for c in champions}):
            if ("version", str(version)) in removed:
                continue
            name = f"{model}@{version}"
            with self._ledger.transaction() as tx:
                recorded = tx.version_digest(model, version)
            if recorded is None:
                yield "artifact", name, "the ledger has no digest of it: it was made before digests were kept"
            else:
                yield "artifact", name, _problem(partial(self._artifacts.inspect, model, version))

    def _reports(self, model: str, removed: Collection[tuple[str, str]]) -> Iterator[tuple[str, str, str | None]]:
        """What the monitor found, of the windows that were looked at."""
        with self._ledger.transaction() as tx:
            windows = tx.monitored(model)
        for row in windows:
            if row.report_sha256 is not None:
                key = report_key(model, row.window_end, row.report_sha256)
                if ("report", key) in removed:
                    continue
                yield self._object("monitor report", key, row.report_sha256)

    def _snapshot(self, taken: dict[str, Any] | None) -> Iterator[tuple[str, str, str | None]]:
        if taken is None:
            return
        manifest: dict[str, Any] = {"files": {}}

        def read() -> None:
            manifest.update(json.loads(self._store().get_bytes(taken["manifest"], digest=taken["manifest_sha256"])))

        yield "snapshot", taken["manifest"], _problem(read)
        for file in manifest["files"].values():
            yield self._object("snapshot", file["key"], file["sha256"])

    def _dossier(self, attempt: AttemptRow) -> Iterator[tuple[str, str, str | None]]:
        if attempt.dossier_uri is None:
            return
        found: dict[str, Any] = {}
        key = dossiers.key_of(attempt.id)
        yield "dossier", key, _problem(lambda: found.update(dossiers.read(self._store(), attempt)))
        evidence = found.get("evidence") or {}
        if evidence.get("sha256"):
            yield self._object("evidence", evidence["key"], evidence["sha256"])

    def _object(self, kind: str, key: str, digest: str) -> tuple[str, str, str | None]:
        return kind, key, _problem(lambda: self._store().get_bytes(key, digest=digest))

    def _alias(self, model: str, champions: list[ChampionRow]) -> Iterator[tuple[str, str, str | None]]:
        if not champions:
            return
        serves, named = champions[-1].version, self._registry().alias_version(model, CHAMPION)
        wrong = f"names version {named}, but version {serves} serves by the ledger; the sweep puts it back"
        yield "alias", f"{model}@{CHAMPION}", None if named == serves else wrong


def _problem(look: Callable[[], object]) -> str | None:
    """What is wrong with what was looked at; a driver that does not answer is no finding.

    Raises:
        Unavailable: it did not answer.
    """
    try:
        look()
    except RatchetError as error:
        if error.retry_helps:
            raise
        return str(error)
    return None
