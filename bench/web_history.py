"""A past as 200 models may have it, written into a deployed ledger at once: what a page or a list has to read.

Each model has fifty events of all fates (with the fates before), ten attempts, four champions, steps and audit entries.
Twenty attempts wait for people, ten are at work, one in ten failed, was abandoned or superseded. What a verdict says is
what `bench/data/dossier.json` says, an attempt of the tests' world with small made-up rows, under other names and with
other numbers; the newest verdict of each model has its dossier in the store.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ratchet.adapters.ledger import schema as t
from ratchet.bootstrap import Ratchet
from ratchet.domain.audit import GENESIS, Head, entry_hash, settled
from ratchet.ports.ledger import AWAITING_APPROVAL, ApprovalRequestRow, AttemptRow, ChampionRow
from ratchet.workflow import dossiers

DOSSIER = Path(__file__).parent / "data" / "dossier.json"
ATTEMPTS, EVENTS, CHAMPIONS = 10, 50, 4
"""Of each model."""
WAITING, WORKING, LETTERS = 20, 10, 300
BETWEEN = timedelta(days=6)
ENDS = ("started", "merged", "suppressed", "rejected", "expired", "failed")
REASONS = {
    "pending": "received",
    "claimed": "claimed by a run",
    "deferred": "one of the two confirmations that the spec asks for, of the last three observations",
    "started": "started an attempt, which was judged",
    "merged": "merged into an attempt that another event had started",
    "suppressed": "severity 0.21 is below min_severity 0.3",
    "rejected": "the same id was received before, with other content",
    "expired": "older than max_event_age of 30d",
    "failed": "three attempts failed before a verdict",
}
STEPS = ("claim", "snapshot", "tune.0", "tune.1", "evaluate", "conclude")
CODE = "c" * 64


class Past:
    """The rows of each table, gathered and then written in one transaction."""

    def __init__(self, ratchet: Ratchet, seed: int = 0) -> None:
        self._ratchet = ratchet
        self._chance = random.Random(seed)
        self._now = datetime.now(UTC)
        self._dossier: dict[str, Any] = json.loads(DOSSIER.read_text())
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._audits: list[tuple[datetime, str, str, str | None, dict[str, Any]]] = []
        self._alive: dict[str, str] = {}

    def write(self) -> dict[str, int]:
        """Write all of it; returns how many rows each table has got."""
        with self._ratchet.ledger.transaction() as tx:
            digests = {row.model: row.digest for row in tx.registered()}
            before = tx.audit_head() or Head(0, GENESIS)
        for number, (model, digest) in enumerate(digests.items()):
            self._model(number, model, digest)
        for offset in range(LETTERS):
            self._add("record", self._record(offset, "rejected", b'{"specversion": "1.0"}', "no JSON object: byte 22"))
        self._audit_rows(before)
        with self._ratchet.ledger.engine.begin() as db:
            for name in ("record", "event", "fate", "attempt", "step", "champion", "approval_request", "audit"):
                db.execute(sa.insert(t.metadata.tables[name]), self._rows[name])
            last = self._rows["audit"][-1]
            end = {"seq": last["seq"], "hash": last["hash"]}
            db.execute(
                sa.update(t.audit_head).values(end) if before.seq else sa.insert(t.audit_head).values(id=1, **end)
            )
            for model, attempt in self._alive.items():
                lease = sa.update(t.lease).where(t.lease.c.model == model)
                db.execute(lease.values(attempt_id=attempt, epoch=ATTEMPTS, expires_at=self._now + timedelta(hours=9)))
            db.execute(sa.text("SELECT setval('event_id_seq', (SELECT max(id) FROM event))"))
            db.execute(sa.text("SELECT setval('record_id_seq', (SELECT max(id) FROM record))"))
        with self._ratchet.ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(sa.text("ANALYZE"))
        return {name: len(rows) for name, rows in self._rows.items()}

    def _add(self, table: str, row: Mapping[str, Any]) -> None:
        self._rows.setdefault(table, []).append(dict(row))

    def _model(self, number: int, model: str, digest: str) -> None:
        served, attempts = 0, []
        for epoch in range(1, ATTEMPTS + 1):
            at = self._now - BETWEEN * (ATTEMPTS - epoch) - timedelta(minutes=self._chance.randrange(1, 4_000))
            attempt = self._attempt(model, digest, epoch, at, served, self._state(number, epoch))
            attempts.append(attempt)
            if attempt.verdict == "promote" and attempt.state == "concluded":
                served += 1
                self._champion(attempt, served)
        self._events(number, model, attempts)

    @staticmethod
    def _state(number: int, epoch: int) -> str:
        """What became of the attempt; of the newest ones some are still open."""
        if epoch == ATTEMPTS:
            at_work = WAITING <= number < WAITING + WORKING
            return AWAITING_APPROVAL if number < WAITING else "tuned" if at_work else "concluded"
        ends = {13: "failed", 27: "abandoned", 41: "superseded"}
        return ends.get((number * ATTEMPTS + epoch) % 47, "concluded")

    def _attempt(self, model: str, digest: str, epoch: int, at: datetime, served: int, state: str) -> AttemptRow:
        judged = state in {"concluded", "superseded", AWAITING_APPROVAL}
        promotes = epoch % 3 == 1 or state == AWAITING_APPROVAL
        decision = (
            ("promote" if promotes else "keep_champion" if epoch % 3 else "not_enough_evidence") if judged else None
        )
        attempt_id = f"{model}.{epoch}"
        verdict = self._verdict(decision) if decision else None
        uri = sha256 = None
        if verdict and epoch >= ATTEMPTS - 1:
            uri, sha256 = self._keep_dossier(attempt_id, model, verdict, at)
        ended = at + timedelta(minutes=20)
        row = AttemptRow(
            id=attempt_id,
            model=model,
            epoch=epoch,
            state=state,
            dag_id=f"retrain__{model}",
            dag_run_id=f"asset_triggered__{at.isoformat()}",
            trigger="event",
            trigger_event_pk=None,
            actor=None,
            reason="drift of dep_delay, severity 0.62",
            options=self._dossier["options"],
            business_at=at,
            as_of=at - timedelta(hours=6),
            spec_digest=digest,
            code_digest=CODE,
            champion_seq=served,
            champion_version=served or None,
            challenger_version=epoch if judged else None,
            verdict=decision,
            verdict_record=verdict,
            evidence_digest="e" * 64 if judged else None,
            dossier_uri=uri,
            failure="tune: the worker was killed three times" if state == "failed" else None,
            created_at=at,
            judged_at=ended if judged else None,
            concluded_at=ended if state in {"concluded", "superseded", "failed", "abandoned"} else None,
            model_digest="d" * 64 if judged else None,
            dossier_sha256=sha256,
        )
        self._add("attempt", asdict(row))
        self._steps(row, STEPS if judged else STEPS[:3])
        if state in {AWAITING_APPROVAL, "tuned"}:
            self._alive[model] = attempt_id
        if state == AWAITING_APPROVAL:
            self._ask(row, ended)
        elif row.concluded_at:
            said = "champion.kept" if decision else f"attempt.{state}"
            self._audits.append((ended, "ratchet", said, model, {"attempt": attempt_id, "why": "as its verdict says"}))
        return row

    def _steps(self, attempt: AttemptRow, names: Sequence[str]) -> None:
        for place, step in enumerate(names):
            began = attempt.created_at + timedelta(minutes=3 * place)
            times = {"started_at": began, "finished_at": began + timedelta(seconds=self._chance.randrange(5, 170))}
            self._add("step", {"attempt_id": attempt.id, "step": step, "result": {"rows": 100_000}} | times)

    def _verdict(self, decision: str) -> dict[str, Any]:
        """The recorded verdict with other numbers."""
        estimate = self._chance.gauss(0.4, 0.3)
        numbers = {"estimate": estimate, "lower": estimate - 0.5, "upper": estimate + 0.5, "decision": decision}
        return copy.deepcopy(self._dossier["verdict"]) | numbers

    def _keep_dossier(self, attempt_id: str, model: str, verdict: dict[str, Any], at: datetime) -> tuple[str, str]:
        named = {"attempt": attempt_id, "model": model, "verdict": verdict, "as_of": at.isoformat()}
        dossier = self._dossier | named | {"business_at": at.isoformat()}
        content = dossiers.to_json(dossier | {"evidence_digest": dossiers.evidence_digest(dossier)})
        key = dossiers.key_of(attempt_id)
        self._ratchet.store.put_once(key, content)
        return self._ratchet.store.uri(key), hashlib.sha256(content).hexdigest()

    def _ask(self, attempt: AttemptRow, at: datetime) -> None:
        asked = ApprovalRequestRow(
            attempt_id=attempt.id,
            model=attempt.model,
            challenger_version=attempt.challenger_version or 1,
            champion_seq=attempt.champion_seq,
            evidence_digest="e" * 64,
            reason="the lower bound 0.02 is below 0.1",
            people=1,
            value_at_risk=12_400.0,
            asked_at=at,
            expires_at=self._now + timedelta(days=2),
            runs=[],
        )
        self._add("approval_request", asdict(asked))
        self._audits.append((at, "ratchet", "approval.requested", attempt.model, {"attempt": attempt.id}))

    def _champion(self, attempt: AttemptRow, seq: int) -> None:
        at = attempt.concluded_at or attempt.created_at
        row = ChampionRow(
            model=attempt.model,
            seq=seq,
            version=attempt.challenger_version or 1,
            attempt_id=attempt.id,
            kind="init" if seq == 1 else "promotion",
            as_of=attempt.as_of,
            actor=None,
            reason="its lower bound is above the bar",
            evidence_digest="e" * 64,
            promoted_at=at,
            model_digest="d" * 64,
            since=at,
        )
        self._add("champion", asdict(row))
        detail = {"attempt": attempt.id, "version": row.version, "before": attempt.champion_version}
        self._audits.append((at, "ratchet", "champion.promoted", attempt.model, detail))

    def _events(self, number: int, model: str, attempts: Sequence[AttemptRow]) -> None:
        for place, fate in enumerate(self._fates(number)):
            pk = number * EVENTS + place + 1
            attempt = attempts[place % ATTEMPTS] if fate != "claimed" else attempts[-1]
            at = attempt.created_at - timedelta(minutes=1 + place % 7)
            data = {
                "check": "psi",
                "feature": "dep_delay",
                "severity": round(self._chance.random(), 2),
                "window_start": (at - timedelta(days=7)).isoformat(),
                "window_end": at.isoformat(),
            }
            until = self._now + timedelta(days=self._chance.randrange(1, 30)) if fate == "deferred" else None
            kept = attempt.id if fate in {"started", "merged", "claimed"} else None
            now = {"fate": fate, "reason": REASONS[fate], "until": until, "attempt_id": kept}
            self._add("record", self._record(LETTERS + pk, "stored", None, None, pk, at))
            event = {
                "id": pk,
                "source": "https://monitoring.example.com/drift",
                "event_id": f"{model}-{place:04}",
                "model": model,
                "type": "ratchet.drift.detected.v1",
                "time": at,
                "received_at": at,
                "digest": hashlib.sha256(f"{pk}".encode()).hexdigest(),
                "data": data,
                "origin": "kafka",
                "record_id": LETTERS + pk,
                "tries": 0,
                "incident": None,
                "told_at": at,
                "reopened_at": None,
            }
            self._add("event", event | now)
            if fate != "pending":
                waited = {"fate": "deferred", "reason": REASONS["deferred"], "until": self._now, "attempt_id": None}
                self._add("fate", {"event_pk": pk, "at": at + timedelta(seconds=1)} | waited)
                self._add("fate", {"event_pk": pk, "at": at + timedelta(minutes=1)} | now)

    def _fates(self, number: int) -> Iterator[str]:
        """Of fifty events two to four are open, the others ended in every way there is."""
        at_work = WAITING <= number < WAITING + WORKING
        open_ones = [
            "deferred",
            "deferred",
            *(["pending"] if number % 5 == 0 else []),
            *(["claimed"] if at_work else []),
        ]
        for place in range(EVENTS):
            yield open_ones[EVENTS - 1 - place] if place >= EVENTS - len(open_ones) else ENDS[place % len(ENDS)]

    def _record(
        self,
        offset: int,
        status: str,
        value: bytes | None,
        reason: str | None,
        pk: int | None = None,
        at: datetime | None = None,
    ) -> dict[str, Any]:
        return {
            "id": offset + 1 if pk is None else LETTERS + pk,
            "cluster": "bench",
            "topic": "ml.drift",
            "partition": 0,
            "offset": offset,
            "status": status,
            "reason": reason,
            "key": None,
            "value": value,
            "headers": [],
            "received_at": at or self._now - timedelta(minutes=offset),
            "held_until": None,
        }

    def _audit_rows(self, end: Head) -> None:
        """The entries in their order, each chained to the one before, the first to the log's end."""
        before = end.hash
        in_order = sorted(self._audits, key=lambda row: row[0])
        for seq, (at, actor, action, model, detail) in enumerate(in_order, start=end.seq + 1):
            entry = {"seq": seq, "at": at, "actor": actor, "action": action, "model": model, "detail": settled(detail)}
            digest = entry_hash(before, **entry)
            self._add("audit", entry | {"previous_hash": before, "hash": digest})
            before = digest
