"""What ends an attempt: promotion by compare-and-set, the verdicts that keep the champion, failure, rollback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ratchet.domain.approval import ApprovalDecision
from ratchet.domain.events import MOST_NAMED, decision_event, to_record
from ratchet.domain.tracing import attempt_context
from ratchet.errors import ChampionMoved, Refused
from ratchet.ports.ledger import (
    AWAITING_APPROVAL,
    WAITING_STATES,
    AttemptRow,
    ChampionRow,
    FateChange,
    Ledger,
    Tx,
)
from ratchet.workflow.approving import approval_of, body, keep_answer, subject
from ratchet.workflow.artifacts import Artifacts, UnusableArtifact
from ratchet.workflow.deployment import said
from ratchet.workflow.follow_ups import UNDECIDED, follow_up
from ratchet.workflow.probation import begin_probation, holding, supersede_probation
from ratchet.workflow.telling import Relay, champion_moved, decision
from ratchet.workflow.tracing import traced_event

logger = logging.getLogger(__name__)
KINDS = {"promote": "promoted", "keep_champion": "kept", "not_enough_evidence": "undecided"}


def conclude(
    tx: Tx,
    attempt: AttemptRow,
    *,
    champion_after: int | None,
    note: str | None = None,
    kept: str | None = None,
    approved: str | None = None,
) -> None:
    """End a judged attempt: its events reach their fate, the verdict is announced, the model is free to decide again.

    The event that started the attempt is ``started``, the others are ``merged`` into it. A dry run announces nothing.
    A verdict that was not enough evidence leaves a follow-up behind. What is told carries on the trace that the event's
    publisher named.
    ``kept`` is why a verdict to promote kept the champion, ``approved`` who agreed to it; both are told, and so is a
    candidate that is a refit of what was judged.
    """
    verdict = attempt.verdict_record or {}
    what = note or f"{attempt.id} ended with {attempt.verdict}" + (f", {kept}: the champion stays" if kept else "")
    claimed = tx.events(attempt_id=attempt.id, fates=("claimed",))
    tx.change_fates(
        [
            FateChange(
                row.pk, "started" if row.pk == attempt.trigger_event_pk else "merged", what, attempt_id=attempt.id
            )
            for row in claimed
        ]
    )
    tx.update_attempt(attempt.id, state="concluded", concluded_at=tx.wall(), failure=kept)
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
        "kept" if kept else KINDS[str(attempt.verdict)],  # type: ignore[arg-type]
        key=attempt.id,
        model=attempt.model,
        time=attempt.business_at,
        attempt=attempt.id,
        decision=str(attempt.verdict),
        champion_before=attempt.champion_version,
        champion_after=champion_after,
        challenger=attempt.candidate_version,
        uplift=verdict.get("estimate"),
        lower=verdict.get("lower"),
        upper=verdict.get("upper"),
        unit=verdict.get("unit"),
        as_of=attempt.as_of,
        run_id=attempt.dag_run_id,
        reasons=(*filter(None, (kept, approved, said(tx, attempt))), *verdict.get("reasons", ())),
        events=tuple(row.event_id for row in claimed[:MOST_NAMED]),
        event_count=len(claimed),
        **undecided,
    )
    event = traced_event(tx, attempt.trigger_event_pk)
    if event is not None and event.publisher is not None:
        traceparent = attempt_context(attempt.id, event).traceparent
        announcement = msgspec.structs.replace(announcement, traceparent=traceparent)
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

        Where the attempt's spec asks people, nothing is promoted before enough of them agreed: this looks again in
        the same transaction that moves the champion, whoever calls it.

        The champion, the attempt's end, its events' fates and what is to be told are one transaction; telling follows,
        and is taken up by the sweep when this process dies. While the gate's last self-test on this model has failed,
        the attempt is held: it goes on waiting, and the sweep rings for it when a self-test has passed.

        Raises:
            Unavailable: the registry did not answer, so the artifact cannot be verified; the attempt goes on waiting.
        """
        promoted = held = None
        self._prove(model)
        with self._ledger.transaction() as tx:
            tx.lock_lease(model)
            newest = self._supersede(tx, model)
            held = self._held(tx, newest) if newest is not None else None
            if newest is not None and (held is None or newest.state == AWAITING_APPROVAL):
                promoted = self._promote_one(tx, newest)
            waits = [a.id for a in tx.attempts(model=model, states=(AWAITING_APPROVAL,))]
        told = self._relay.run()
        return {
            "promoted": promoted,
            "held": held,
            "awaiting_approval": waits[0] if waits else None,
            "told": told,
        }

    def respond(
        self, attempt_id: str, *, approve: bool, actor: str, reason: str, via: str, user_id: str | None = None
    ) -> dict[str, Any]:
        """Take one person's answer; with the last that is needed the challenger serves, or the champion stays.

        The answer, its audit entry and what follows from it are one transaction.

        Args:
            attempt_id: what was asked about.
            approve: false rejects, which one person may.
            actor: who answers.
            reason: why; it is audited and told.
            via: where the answer was given, such as ``airflow``.
            user_id: the actor's id there, when it is another than the name.

        Returns:
            ``{"attempt": id, "state": of the attempt, "decision": of the request, such as ``waiting`` for another
            person, "stands": the same in words, "counted": false when the actor had approved before}``

        Raises:
            Refused: no actor, no such attempt, or nothing waits for this answer any more; the refusal is audited.
            Unavailable: the registry did not answer, so what is approved cannot be verified; no answer was taken.
        """
        actor, reason = actor.strip(), reason.strip() or "no reason given"
        if not actor:
            raise Refused("an approval needs a person: who answers is what the audit log will say")
        if approve:
            with self._ledger.transaction() as tx:
                named = tx.attempt(attempt_id)
            if named is not None:
                self._prove(named.model, answered=attempt_id)
        refusal, counted, after = None, True, None
        with self._ledger.transaction() as tx:
            attempt = self._asked(tx, attempt_id)
            if attempt.state == AWAITING_APPROVAL:
                before = approval_of(tx, attempt)
                keep_answer(tx, attempt, actor=actor, approve=approve, reason=reason, via=via, user_id=user_id)
                after = approval_of(tx, attempt)
                counted = not approve or before is None or after is None or before.approvers != after.approvers
                self._promote_one(tx, attempt)
            else:
                refusal = (
                    f"{attempt_id} waits for no answer: it is {attempt.state} ({attempt.failure or attempt.verdict})"
                )
                detail = {"attempt": attempt_id, "answer": "approve" if approve else "reject", "reason": reason}
                tx.audit(actor, "approval.refused", attempt.model, detail | {"via": via, "why": refusal})
            ended = tx.attempt(attempt_id) or attempt
        self._relay.run()
        if refusal is not None:
            raise Refused(f"{refusal}. See: ratchet approvals")
        decision, stands = (after.state, after.reason) if after else ("void", "")
        return {
            "attempt": attempt_id,
            "state": ended.state,
            "decision": decision,
            "counted": counted,
            "stands": stands,
        }

    def show_request(self, model: str, run_id: str, is_open: Callable[[str], bool]) -> dict[str, Any] | None:
        """What this run of the orchestrator is to show people; None when there is nothing to show here.

        A request is shown by one open run at a time, and a run shows one request only: an answer given there cannot
        be taken for one to another request.

        Args:
            model: whose promotion.
            run_id: the run that asks.
            is_open: whether another run still shows its request.

        Returns:
            ``{"attempt": id, "subject": one line, "body": Markdown, "seconds": until it expires}``
        """
        self._prove(model)
        with self._ledger.transaction() as tx:
            attempt = self._settle(tx, model)
            requests = tx.approval_requests(model)
        mine = next((r for r in requests if attempt is not None and r.attempt_id == attempt.id), None)
        if attempt is None or mine is None or any(run_id in r.runs for r in requests if r is not mine):
            return None
        if mine.runs[-1:] not in ([], [run_id]) and is_open(mine.runs[-1]):
            return None
        with self._ledger.transaction() as tx:
            again, asked = self._settle(tx, model), tx.approval_request(attempt.id)
            decision = approval_of(tx, again) if again is not None and again.id == attempt.id else None
            if decision is None or decision.state != "waiting" or asked is None or asked.runs != mine.runs:
                return None
            if run_id not in asked.runs[-1:]:
                tx.show_approval_request(attempt.id, [*asked.runs, run_id])
            return {
                "attempt": attempt.id,
                "subject": subject(asked, attempt),
                "body": body(asked, attempt, decision),
                "seconds": max((asked.expires_at - tx.wall()).total_seconds(), 0.0),
            }

    def settle(self, model: str) -> str | None:
        """End what waits for people and cannot be approved any more; returns the attempt that waits for an answer."""
        self._prove(model)
        with self._ledger.transaction() as tx:
            waits = self._settle(tx, model)
            decision = approval_of(tx, waits) if waits else None
        return waits.id if waits and decision and decision.state == "waiting" else None

    def _prove(self, model: str, answered: str | None = None) -> None:
        """Give up what is about to be promoted if its artifact is not the one that was recorded with the verdict.

        Weeks may lie between a verdict and its approval, and who loads by the alias asks no ledger. What still waits
        for people is looked at when they have ``answered``, and what is held when nothing holds it any more.

        Raises:
            Unavailable: the registry did not answer.
        """
        with self._ledger.transaction() as tx:
            waiting = [a for a in tx.attempts(model=model, states=WAITING_STATES) if a.verdict == "promote"]
            newest = max(waiting, key=lambda a: a.epoch, default=None)
            if newest is None or newest.candidate_version is None:
                return
            if holding(tx, model) is not None or tx.failed_self_test(model) is not None:
                return
            if newest.state == AWAITING_APPROVAL and newest.id != answered:
                approval = approval_of(tx, newest)
                if approval is not None and approval.state != "approved":
                    return
        try:
            self._artifacts.prove(model, newest.candidate_version)
        except UnusableArtifact as unusable:
            with self._ledger.transaction() as tx:
                tx.lock_lease(model)
                again = tx.attempt(newest.id)
                if again is not None and again.state in WAITING_STATES:
                    release(tx, again, "failed", str(unusable), self._most_tries)

    def _asked(self, tx: Tx, attempt_id: str) -> AttemptRow:
        """The attempt as it is after what has become void or late has ended."""
        found = tx.attempt(attempt_id)
        if found is None:
            raise Refused(f"there is no attempt {attempt_id!r}. See: ratchet approvals")
        self._settle(tx, found.model)
        return tx.attempt(attempt_id) or found

    def _settle(self, tx: Tx, model: str) -> AttemptRow | None:
        tx.lock_lease(model)
        newest = self._supersede(tx, model)
        if newest is None or newest.state != AWAITING_APPROVAL:
            return None
        self._promote_one(tx, newest)
        now = tx.attempt(newest.id)
        return now if now is not None and now.state == AWAITING_APPROVAL else None

    def _supersede(self, tx: Tx, model: str) -> AttemptRow | None:
        """The newest attempt that waits for its promotion or for people; older ones are superseded.

        What waits for people is superseded by any newer verdict but a dry run's: its evidence is not the newest.
        """
        waiting = [a for a in tx.attempts(model=model, states=WAITING_STATES) if a.verdict == "promote"]
        asked = any(attempt.state == AWAITING_APPROVAL for attempt in waiting)
        judged = [a for a in tx.attempts(model=model) if a.judged_at and not a.dry_run] if asked else []
        left = None
        for attempt in waiting:
            rivals = judged if attempt.state == AWAITING_APPROVAL else waiting
            newer = next((a for a in rivals if a.epoch > attempt.epoch), None)
            if newer is None:
                left = attempt
            else:
                why = f"{newer.id} was judged later" + (", so the approval is void" if rivals is judged else "")
                release(tx, attempt, "superseded", why, self._most_tries)
        return left

    def announce(self, model: str) -> bool:
        """Take the news that the model has another champion; the caller updates the asset. False: it is out already."""
        with self._ledger.transaction() as tx:
            return bool(tx.take_announcements(model=model))

    def _promote_one(self, tx: Tx, attempt: AttemptRow) -> str | None:
        version = attempt.candidate_version
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
        approval = approval_of(tx, attempt)
        if approval is not None and approval.state != "approved":
            self._without_approval(tx, attempt, approval)
            return None
        if self._held(tx, attempt) is not None:
            return None
        last = tx.approvals(attempt.id)[-1:] if approval else []
        actor = last[0].actor if last else attempt.actor
        entry = ChampionRow(
            model=attempt.model,
            seq=attempt.champion_seq + 1,
            version=version,
            attempt_id=attempt.id,
            kind="init" if attempt.champion_seq == 0 else "promotion",
            as_of=attempt.as_of,
            actor=actor,
            reason=last[0].reason if last else attempt.reason,
            evidence_digest=attempt.evidence_digest,
            promoted_at=tx.wall(),
            model_digest=attempt.candidate_digest,
        )
        supersede_probation(tx, attempt.model, f"version {version} was promoted by {attempt.id}")
        tx.insert_champion(entry)
        if current is not None:
            begin_probation(tx, attempt, entry, current)
        champion_moved(tx, attempt.model, entry.seq)
        approvers = list(approval.approvers) if approval else []
        conclude(
            tx, attempt, champion_after=version, approved=f"approved by {', '.join(approvers)}" if approvers else None
        )
        detail = {
            "attempt": attempt.id,
            "version": version,
            "before": attempt.champion_version,
            "evidence": attempt.evidence_digest,
            "reason": entry.reason,
        }
        if approvers:
            detail |= {"approved_by": approvers}
        if (deployed := said(tx, attempt)) is not None:
            detail |= {"judged": attempt.challenger_version, "deployed": deployed}
        tx.audit(actor or "ratchet", "champion.promoted", attempt.model, detail)
        return attempt.id

    @staticmethod
    def _held(tx: Tx, attempt: AttemptRow) -> str | None:
        """Why a failed self-test of the gate holds the promotion, whether or not people agreed; told in the log."""
        failed = tx.failed_self_test(attempt.model)
        if failed is None:
            return None
        held = f"{attempt.id} is held until the gate passes again; failed {failed.why}"
        logger.error("%s. Run: ratchet gate selftest %s", held, attempt.model)
        return held

    def _without_approval(self, tx: Tx, attempt: AttemptRow, approval: ApprovalDecision) -> None:
        """Leave the attempt waiting, or end it: what is void is judged again, what was refused or is late is kept."""
        if approval.state == "void":
            release(tx, attempt, "superseded", approval.reason, self._most_tries)
        elif approval.state in {"rejected", "expired"}:
            kept = approval.reason if approval.state == "rejected" else f"not approved: {approval.reason}"
            conclude(tx, attempt, champion_after=attempt.champion_version, kept=kept)
            if approval.state == "expired":
                tx.audit("ratchet", "approval.expired", attempt.model, {"attempt": attempt.id, "why": approval.reason})

    def rollback(
        self,
        model: str,
        version: int | None,
        actor: str,
        reason: str,
        *,
        via: str | None = None,
        user_id: str | None = None,
    ) -> dict[str, Any]:
        """Take an earlier champion back, by the same compare-and-set; its artifact is checked first.

        Args:
            model: whose champion.
            version: a version that has been champion before, or that was judged where its refit became champion; None
                means the champion before the current.
            actor: who asks.
            reason: why; it goes into the audit log and to the world.
            via: where it was asked for, such as ``api``.
            user_id: the actor's id there.

        Raises:
            Refused: no reason, no champion, or the version was never champion.
            UnusableArtifact: the version's artifact is not what the ledger recorded, or does not load where it should.
            ChampionMoved: a promotion came in between.
            Unavailable: the registry did not answer, so the artifact cannot be verified; nothing was changed.
        """
        if not reason.strip():
            raise Refused("a rollback needs a reason: it is what the audit log will say")
        with self._ledger.transaction() as tx:
            champions = tx.champions(model)
            judged = _judged_for(tx, champions) if version is not None else []
        back, current = _earlier(model, champions, version, judged), champions[-1]
        self._artifacts.check(model, back.version)
        with self._ledger.transaction() as tx:
            tx.lock_lease(model)
            if removal := tx.removal(model, "version", str(back.version)):
                raise Refused(f"version {back.version} of {model} {removal.said}: choose a later one")
            supersede_probation(tx, model, f"{actor} took version {back.version} back: {reason}", actor)
            asked = {name: value for name, value in (("via", via), ("user_id", user_id)) if value is not None}
            move_back(tx, current, back, kind="rollback", actor=actor, reason=reason, asked=asked)
        self._relay.run()
        return {"model": model, "version": back.version, "before": current.version}


def move_back(
    tx: Tx,
    current: ChampionRow,
    back: ChampionRow,
    *,
    kind: str,
    actor: str,
    reason: str,
    asked: Mapping[str, str] | None = None,
) -> None:
    """Let an earlier champion serve again, by compare-and-set, with what is told and audited of it.

    ``asked`` is audited besides: where it was asked for, and by whose id there.

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
    detail = {"from": current.version, "to": back.version, "reason": reason}
    tx.audit(actor, "champion.rolledback", model, detail | dict(asked or {}))
    tx.mark([model])


def _judged_for(tx: Tx, champions: Sequence[ChampionRow]) -> list[ChampionRow]:
    """What was judged where its refit became champion, each as if it had served instead."""
    made = [(row, tx.attempt(row.attempt_id)) for row in champions if row.attempt_id]
    return [
        replace(row, version=attempt.challenger_version, model_digest=attempt.model_digest)
        for row, attempt in made
        if attempt is not None and attempt.challenger_version is not None and attempt.deployed_version == row.version
    ]


def rollback_target(champions: Sequence[ChampionRow]) -> ChampionRow | None:
    """Whom a rollback takes back that names no version: the last champion before the current one; None: nobody."""
    earlier = [c for c in champions if c.version != champions[-1].version]
    return earlier[-1] if earlier else None


def _earlier(
    model: str, champions: Sequence[ChampionRow], version: int | None, judged: Sequence[ChampionRow]
) -> ChampionRow:
    if not champions:
        raise Refused(f"{model} has no champion to roll back from. Run: ratchet champion init {model}")
    current = champions[-1]
    if version is None:
        target = rollback_target(champions)
        if target is None:
            raise Refused(f"{model} has had one champion only, version {current.version}: there is none to go back to")
        return target
    earlier = [c for c in champions if c.version != current.version]
    choice = [*(c for c in judged if c.version != current.version), *earlier]
    for champion in reversed(choice):
        if champion.version == version:
            return champion
    known = ", ".join(str(v) for v in sorted({c.version for c in choice})) or "none"
    raise Refused(f"version {version} of {model} was not champion before {current.version}; earlier champions: {known}")
