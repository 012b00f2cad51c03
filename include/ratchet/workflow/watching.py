"""The watch after a promotion: score the new days, decide, and take the predecessor back when the champion is worse."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ratchet.domain.spec import ModelSpec
from ratchet.errors import StaleAttempt
from ratchet.ports.features import Features
from ratchet.ports.ledger import Ledger, ProbationDay, ProbationRow, Tx, UsedDays
from ratchet.workflow.artifacts import Artifacts, UnusableArtifact
from ratchet.workflow.deciding import as_of, spec_of
from ratchet.workflow.probation import ACTOR, days_due, days_of, end_probation
from ratchet.workflow.promotion import move_back
from ratchet.workflow.telling import Relay

if TYPE_CHECKING:
    from ratchet.domain.artifact import ModelArtifact
    from ratchet.domain.probation import Probation

logger = logging.getLogger(__name__)


class Watch:
    """The watch's verb, with what it needs of the world; each is made when first asked for."""

    def __init__(
        self,
        ledger: Ledger,
        relay: Relay,
        *,
        features: Callable[[], Features],
        artifacts: Callable[[], Artifacts],
        hook: Callable[[ModelSpec], Any] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._relay = relay
        self._features = features
        self._artifacts = artifacts
        self._hook = hook

    def watch(self, model: str) -> dict[str, Any]:
        """Score the days that became mature, keep them, and decide; nothing happens when there are none.

        A day is scored once: a process killed before the days were stored leaves them due, and two that scored the
        same days store one answer. The days, the decision and what follows from it are one transaction.

        Returns:
            ``{"state": of the watch, or None without one; "reason", "days": how many were scored now}``

        Raises:
            Refused: the feature repository does not answer for these days; the message names what to repair.
            Unavailable: something did not answer; the days stay due.
        """
        with self._ledger.transaction() as tx:
            probation = tx.open_probation(model)
            if probation is None:
                return {"state": None, "reason": "no watch is open", "days": 0}
            spec = spec_of(tx, probation.spec_digest)
            due, until = days_due(tx, probation), as_of(tx, spec)
        if not due or until is None:
            return {"state": probation.state, "reason": "no day has become mature", "days": 0}
        try:
            pair = [self._artifacts().load(model, v) for v in (probation.version, probation.predecessor_version)]
        except UnusableArtifact as unusable:
            return self._give_up(probation, str(unusable))
        days = self._score(spec, due, until, *pair)
        answer = self._decide(probation, spec, days)
        self._relay.run()
        return answer

    def _score(
        self,
        spec: ModelSpec,
        due: Sequence[date],
        until: datetime,
        champion: ModelArtifact,
        predecessor: ModelArtifact,
    ) -> list[ProbationDay]:
        """Both models on all rows of the days, by the same path from spine to features as a snapshot's."""
        import numpy as np  # noqa: PLC0415 - only where rows are handled

        from ratchet.workflow.evaluation import decide, labels_of  # noqa: PLC0415 - numpy, pyarrow
        from ratchet.workflow.valuing import valued  # noqa: PLC0415

        features = self._features()
        features.apply()
        spine = features.spine(spec, as_of=until, start=due[0], end=due[-1] + timedelta(days=1))
        names = [day.isoformat() for day in due]
        totals, counts = np.zeros(len(due)), np.zeros(len(due), dtype=np.int64)
        if spine.num_rows:
            rows = features.historical(spec, spine)
            place = {name: i for i, name in enumerate(names)}
            codes = np.array([place.get(day, -1) for day in rows.column("day").to_pylist()])
            worth = valued(spec, rows, labels_of(spec, rows), self._hook(spec))
            uplift = decide(rows, champion, worth).payoff - decide(rows, predecessor, worth).payoff
            wanted = codes >= 0
            totals = np.bincount(codes[wanted], weights=uplift[wanted], minlength=len(due)).astype(np.float64)
            counts = np.bincount(codes[wanted], minlength=len(due)).astype(np.int64)
        return [
            ProbationDay(day, int(rows), float(total) if math.isfinite(total) else None)
            for day, rows, total in zip(due, counts, totals, strict=True)
        ]

    def _decide(self, seen: ProbationRow, spec: ModelSpec, days: Sequence[ProbationDay]) -> dict[str, Any]:
        from ratchet.domain.probation import DayUplift, ProbationPolicy, decide_probation  # noqa: PLC0415 - scipy

        policy = ProbationPolicy.from_spec(spec)
        with self._ledger.transaction() as tx:
            tx.lock_lease(seen.model)
            probation = tx.open_probation(seen.model)
            if probation is None or probation.seq != seen.seq:
                return {"state": None, "reason": "the watch ended while its days were scored", "days": 0}
            tx.save_probation_days(probation.model, probation.seq, days)
            scored = tx.probation_days(probation.model, probation.seq)
            found = decide_probation(
                [DayUplift(day.day, day.rows, math.nan if day.total is None else day.total) for day in scored],
                policy,
                complete=len(scored) == len(days_of(probation)),
            )
            record = asdict(found)
            tx.update_probation(probation.model, probation.seq, record=record, reason=found.reason)
            state = self._conclude(tx, probation, spec, found, record)
        return {"state": state, "reason": found.reason, "days": len(days)}

    def _conclude(
        self, tx: Tx, probation: ProbationRow, spec: ModelSpec, found: Probation, record: dict[str, Any]
    ) -> str:
        """Do what the outcome asks for; returns the state of the watch."""
        ended = ProbationRow(**vars(probation) | {"record": record})
        words = f"probation of {probation.model} version {probation.version}: {_said(found, spec)}"
        if found.outcome == "watching":
            return probation.state
        if found.outcome in {"confirm", "unproven"}:
            state = {"confirm": "confirmed", "unproven": "unproven"}[found.outcome]
            logger.log(logging.INFO if state == "confirmed" else logging.WARNING, "%s", words)
            end_probation(tx, ended, state, found.reason)
            return state
        logger.error("%s", words)
        asked = spec.probation
        if asked is not None and asked.revert == "alert":
            end_probation(tx, ended, "alerted", f"{found.reason}. Run: ratchet rollback {probation.model}")
            return "alerted"
        self._revert(tx, ended, f"probation: {_said(found, spec)}")
        return "reverted"

    def _revert(self, tx: Tx, probation: ProbationRow, reason: str) -> None:
        """Take the predecessor back, by the same compare-and-set as a rollback; its days have judged it now."""
        champions = {row.seq: row for row in tx.champions(probation.model)}
        champion, predecessor = champions[probation.seq], champions[probation.predecessor_seq]
        end_probation(tx, probation, "reverted", reason)
        attempt = tx.attempt(champion.attempt_id) if champion.attempt_id else None
        if attempt is None:
            raise StaleAttempt(f"champion #{champion.seq} of {champion.model} names no attempt that made it")
        days = {day.day: day.rows for day in tx.probation_days(probation.model, probation.seq)}
        judged = replace(attempt, champion_version=probation.predecessor_version)
        tx.save_used_days(judged, probation.version, [UsedDays("probation", days)])
        move_back(tx, champion, predecessor, kind="revert", actor=ACTOR, reason=reason)

    def _give_up(self, seen: ProbationRow, reason: str) -> dict[str, Any]:
        with self._ledger.transaction() as tx:
            tx.lock_lease(seen.model)
            probation = tx.open_probation(seen.model)
            if probation is None or probation.seq != seen.seq:
                return {"state": None, "reason": "the watch ended meanwhile", "days": 0}
            logger.error("the probation of %s version %s ends unproven: %s", seen.model, seen.version, reason)
            end_probation(tx, probation, "unproven", f"the models cannot be compared: {reason}")
        return {"state": "unproven", "reason": reason, "days": 0}


def _said(found: Probation, spec: ModelSpec) -> str:
    """The reason with its numbers, in a sentence."""
    unit = spec.business.payoff.unit
    each = "" if found.estimate is None else f", {found.estimate:+.4g} {unit} per decision"
    bounds = "" if found.lower is None else f" [{found.lower:+.4g}, {found.upper:+.4g}]"
    return f"{found.reason} ({found.total:+,.0f} {unit} over {found.n_days} days{each}{bounds})"
