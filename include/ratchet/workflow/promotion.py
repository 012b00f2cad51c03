"""What ends an attempt: promotion by compare-and-set, the verdicts that keep the champion, failure, rollback."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ratchet.domain.events import MOST_NAMED, decision_event, to_record
from ratchet.errors import ChampionMoved, Refused
from ratchet.ports.ledger import AttemptRow, ChampionRow, FateChange, Ledger, Tx
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.follow_ups import UNDECIDED, follow_up
from ratchet.workflow.probation import begin_probation, holding, supersede_probation
from ratchet.workflow.telling import Relay, champion_moved, decision

logger = logging.getLogger(__name__)
KINDS = {"promote": "promoted", "keep_champion": "kept", "not_enough_evidence": "undecided"}


def conclude(tx: Tx, attempt: AttemptRow, *, champion_after: int | None, note: str | None = None) -> None:
    """End a judged attempt: its events reach their fate, the verdict is announced, the model is free to decide again.

    The event that started the attempt is ``started``, the others are ``merged`` into it. A dry run announces nothing.
    A verdict that was not enough evidence leaves a follow-up behind.
    """
    verdict = attempt.verdict_record or {}
    what = note or f"{attempt.id} ended with {attempt.verdict}"
    claimed = tx.events(attempt_id=attempt.id, fates=("claimed",))
    tx.change_fates(
        [
            FateChange(
                row.pk, "started" if row.pk == attempt.trigger_event_pk else "merged", what, attempt_id=attempt.id
            )
            for row in claimed
        ]
    )
    tx.update_attempt(attempt.id, state="concluded", concluded_at=tx.wall())
    tx.release_lease(attempt.id)
    tx.mark([attempt.model])
    if attempt.dry_run:
        return
    undecided = {}
    if attempt.verdict == UNDECIDED:
        left = follow_up(tx, attempt)
        undecided = {
            "needed_clusters": verdict.get("needed_clusters"),
            "follow_up": left.not_before if left else None,
        }
    announcement = decision_event(
        KINDS[str(attempt.verdict)],  # type: ignore[arg-type]
        key=attempt.id,
        model=attempt.model,
        time=attempt.business_at,
        attempt=attempt.id,
        decision=str(attempt.verdict),
        champion_before=attempt.champion_version,
        champion_after=champion_after,
        challenger=attempt.challenger_version,
        uplift=verdict.get("estimate"),
        lower=verdict.get("lower"),
        upper=verdict.get("upper"),
        unit=verdict.get("unit"),
        as_of=attempt.as_of,
        run_id=attempt.dag_run_id,
        reasons=tuple(verdict.get("reasons", ())),
        events=tuple(row.event_id for row in claimed[:MOST_NAMED]),
        event_count=len(claimed),
        **undecided,
    )
    decision(tx, announcement.id, attempt.model, to_record(announcement))


def release(tx: Tx, attempt: AttemptRow, state: str, why: str, most_tries: int) -> None:
    """End an attempt without a verdict: its events wait again, each try counted; after too many they fail.

    ``state`` is ``failed``, ``abandoned`` or ``superseded``; a superseded attempt costs its events no try.
    """
    counts = state != "superseded"
    changes = []
    for row in tx.events(attempt_id=attempt.id, fates=("claimed",)):
        if counts and row.tries + 1 >= most_tries:
            reason = f"{most_tries} attempts in a row ended without a verdict, the last {attempt.id}: {why}"
            changes.append(FateChange(row.pk, "failed", reason, attempt_id=attempt.id, count_try=True))
        else:
            reason = f"{attempt.id} was {state}: {why}"
            changes.append(FateChange(row.pk, "pending", reason, count_try=counts))
    tx.change_fates(changes)
    tx.update_attempt(attempt.id, state=state, failure=why, concluded_at=tx.wall())
    tx.release_lease(attempt.id)
    tx.mark([attempt.model])
    tx.audit("ratchet", f"attempt.{state}", attempt.model, {"attempt": attempt.id, "why": why})


class Promotions:
    """Moves champions, forward by verdict and back by hand."""

    def __init__(self, ledger: Ledger, relay: Relay, most_tries: int, artifacts: Artifacts) -> None:
        self._ledger = ledger
        self._relay = relay
        self._most_tries = most_tries
        self._artifacts = artifacts

    def promote(self, model: str) -> dict[str, Any]:
        """Promote the newest attempt that waits for it; older ones and those whose champion has moved are superseded.

        The champion, the attempt's end, its events' fates and what is to be told are one transaction; telling follows,
        and is taken up by the sweep when this process dies. While the gate's last self-test on this model has failed,
        the attempt is held: it goes on waiting, and the sweep rings for it.
        """
        promoted = held = None
        with self._ledger.transaction() as tx:
            tx.lock_lease(model)
            waiting = [a for a in tx.attempts(model=model, states=("judged",)) if a.verdict == "promote"]
            for older in waiting[1:]:
                release(tx, older, "superseded", f"{waiting[0].id} was judged later", self._most_tries)
            if waiting and (failed := tx.failed_self_test(model)):
                held = f"{waiting[0].id} is held until the gate passes again; failed {failed.why}"
                logger.error("%s. Run: ratchet gate selftest %s", held, model)
            elif waiting:
                promoted = self._promote_one(tx, waiting[0])
        told = self._relay.run()
        return {"promoted": promoted, "held": held, "told": told}

    def announce(self, model: str) -> bool:
        """Take the news that the model has another champion; the caller updates the asset. False: it is out already."""
        with self._ledger.transaction() as tx:
            return bool(tx.take_announcements(model=model))

    def _promote_one(self, tx: Tx, attempt: AttemptRow) -> str | None:
        version = attempt.challenger_version
        if version is None or attempt.evidence_digest is None:
            raise Refused(f"attempt {attempt.id} has a verdict but no registered challenger: start a new run")
        current = tx.current_champion(attempt.model)
        if (current.seq if current else 0) != attempt.champion_seq:
            moved = ChampionMoved(f"judged against champion #{attempt.champion_seq}, another serves now: judge again")
            release(tx, attempt, "superseded", str(moved), self._most_tries)
            return None
        if (watch := holding(tx, attempt.model)) is not None:
            logger.info("%s waits for the probation of version %s, until %s", attempt.id, watch.version, watch.until)
            return None
        entry = ChampionRow(
            model=attempt.model,
            seq=attempt.champion_seq + 1,
            version=version,
            attempt_id=attempt.id,
            kind="init" if attempt.champion_seq == 0 else "promotion",
            as_of=attempt.as_of,
            actor=attempt.actor,
            reason=attempt.reason,
            evidence_digest=attempt.evidence_digest,
            promoted_at=tx.wall(),
            model_digest=attempt.model_digest,
        )
        supersede_probation(tx, attempt.model, f"version {version} was promoted by {attempt.id}")
        tx.insert_champion(entry)
        if current is not None:
            begin_probation(tx, attempt, entry, current)
        champion_moved(tx, attempt.model, entry.seq)
        conclude(tx, attempt, champion_after=version)
        tx.audit(
            attempt.actor or "ratchet",
            "champion.promoted",
            attempt.model,
            {
                "attempt": attempt.id,
                "version": version,
                "before": attempt.champion_version,
                "evidence": attempt.evidence_digest,
                "reason": attempt.reason,
            },
        )
        return attempt.id

    def rollback(self, model: str, version: int | None, actor: str, reason: str) -> dict[str, Any]:
        """Take an earlier champion back, by the same compare-and-set; its artifact is loaded and verified first.

        Args:
            model: whose champion.
            version: a version that has been champion before; None means the one before the current.
            actor: who asks.
            reason: why; it goes into the audit log and to the world.

        Raises:
            Refused: no reason, no champion, or the version was never champion.
            UnusableArtifact: the version's artifact does not load, or is not what the ledger recorded.
            ChampionMoved: a promotion came in between.
            Unavailable: the registry did not answer, so the artifact cannot be verified; nothing was changed.
        """
        if not reason.strip():
            raise Refused("a rollback needs a reason: it is what the audit log will say")
        with self._ledger.transaction() as tx:
            champions = tx.champions(model)
        back, current = _earlier(model, champions, version), champions[-1]
        self._artifacts.load(model, back.version)
        with self._ledger.transaction() as tx:
            tx.lock_lease(model)
            supersede_probation(tx, model, f"{actor} took version {back.version} back: {reason}", actor)
            move_back(tx, current, back, kind="rollback", actor=actor, reason=reason)
        self._relay.run()
        return {"model": model, "version": back.version, "before": current.version}


def move_back(tx: Tx, current: ChampionRow, back: ChampionRow, *, kind: str, actor: str, reason: str) -> None:
    """Let an earlier champion serve again, by compare-and-set, with what is told and audited of it.

    Raises:
        ChampionMoved: ``current`` is not the current champion any more.
    """
    model = current.model
    entry = ChampionRow(
        model=model,
        seq=current.seq + 1,
        version=back.version,
        attempt_id=back.attempt_id,
        kind=kind,
        as_of=back.as_of,
        actor=actor,
        reason=reason,
        evidence_digest=back.evidence_digest,
        promoted_at=tx.wall(),
        model_digest=back.model_digest,
    )
    tx.insert_champion(entry)
    champion_moved(tx, model, entry.seq)
    told = decision_event(
        "rolledback",
        key=f"{model}#{entry.seq}",
        model=model,
        time=tx.clock()[1],
        champion_before=current.version,
        champion_after=back.version,
        actor=actor,
        reason=reason,
    )
    decision(tx, told.id, model, to_record(told))
    tx.audit(actor, "champion.rolledback", model, {"from": current.version, "to": back.version, "reason": reason})
    tx.mark([model])


def _earlier(model: str, champions: Sequence[ChampionRow], version: int | None) -> ChampionRow:
    if not champions:
        raise Refused(f"{model} has no champion to roll back from. Run: ratchet champion init {model}")
    current = champions[-1]
    earlier = [c for c in champions if c.version != current.version]
    if version is None:
        if not earlier:
            raise Refused(f"{model} has had one champion only, version {current.version}: there is none to go back to")
        return earlier[-1]
    for champion in reversed(earlier):
        if champion.version == version:
            return champion
    known = ", ".join(str(v) for v in sorted({c.version for c in earlier})) or "none"
    raise Refused(f"version {version} of {model} was not champion before {current.version}; earlier champions: {known}")
