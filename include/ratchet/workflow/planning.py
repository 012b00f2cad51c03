"""What the ledger knows for a plan: which specs are deployed, and how the models stand that they are of."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from ratchet.domain.plan import Side, Standing
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import LIVE_STATES, WAITING_STATES, Ledger, SpecRow, Tx

MOST_ATTEMPTS = 20
"""How many finished attempts say what one costs."""


def deployed(ledger: Ledger) -> tuple[dict[str, Side], dict[str, Standing]]:
    """Every registered model as it is deployed, and how it stands.

    Raises:
        Unavailable: the ledger did not answer.
        Refused: this version of Ratchet cannot read a spec that an earlier one has kept.
    """
    with ledger.transaction() as tx:
        rows = tx.specs()
        return {row.model: _side(row) for row in rows}, {row.model: _standing(tx, row) for row in rows}


def _side(row: SpecRow) -> Side:
    try:
        return Side(ModelSpec.model_validate(row.document), row.digest)
    except ValidationError:
        raise Refused(
            f"the spec of {row.model} as it is deployed cannot be read by this version of Ratchet. Compare with the "
            "files instead: ratchet plan --against REF"
        ) from None


def _standing(tx: Tx, row: SpecRow) -> Standing:
    attempts, champion = tx.attempts(model=row.model), tx.current_champion(row.model)
    at_work = [(a.id, a.state) for a in attempts if a.state in {*LIVE_STATES, *WAITING_STATES}]
    ended = [attempt.id for attempt in attempts if attempt.judged_at is not None][:MOST_ATTEMPTS]
    return Standing(
        retired=row.retired,
        champion=champion.version if champion else None,
        at_work=tuple(at_work),
        waiting=len(tx.events(model=row.model, fates=("pending", "deferred"))),
        on_probation=tx.open_probation(row.model) is not None,
        core_seconds=tuple(_core_seconds(tx, ended, row)),
    )


def _core_seconds(tx: Tx, attempts: Iterable[str], row: SpecRow) -> Iterable[float]:
    """Of each attempt: the seconds of its steps times the threads that the spec gives them, as budgets count them."""
    threads = row.document["runtime"]["threads"]
    for attempt in attempts:
        steps = tx.steps(attempt).values()
        yield threads * sum((step["finished_at"] - step["started_at"]).total_seconds() for step in steps)
