"""What a verdict to promote lets serve: the artifact that was judged, or its refit where the spec says so."""

from __future__ import annotations

from ratchet.domain.spec import ModelSpec
from ratchet.ports.ledger import AttemptRow, Tx

REFIT = "refit"
"""The step of an attempt that decides it, with the answer that everybody tells of it."""


def to_refit(attempt: AttemptRow, spec: ModelSpec, decision: str) -> bool:
    """Whether the step is due after this verdict: there is something to deploy, and the spec deploys a refit."""
    promotes = decision == "promote" and not attempt.dry_run and not spec.gate.shadow
    return promotes and spec.gate.deploy == "refit"


def said(tx: Tx, attempt: AttemptRow) -> str | None:
    """What people and the world are told of the candidate; None where the judged artifact was to serve anyway."""
    done = tx.step_result(attempt.id, REFIT)
    return str(done["said"]) if done is not None else None
