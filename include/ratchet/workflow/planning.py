"""What the ledger knows for a plan: which specs are deployed, and how the models stand that they are of."""

from __future__ import annotations

from pydantic import ValidationError

from ratchet.domain.plan import Side, Standing
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import LIVE_STATES, WAITING_STATES, Ledger, SpecRow, Tx
from ratchet.workflow.deciding import past_runs


def deployed(ledger: Ledger) -> tuple[dict[str, Side], dict[str, Standing]]:
    """Every registered model as it is deployed, and how it stands.

    Raises:
        Unavailable: the ledger did not answer.
        Refused: this version of Ratchet cannot read a spec that an earlier one has kept.
    """
    with ledger.transaction() as tx:
        rows = tx.specs()
        sides = {row.model: _side(row) for row in rows}
        return sides, {row.model: _standing(tx, sides[row.model].spec, retired=row.retired) for row in rows}


def _side(row: SpecRow) -> Side:
    try:
        return Side(ModelSpec.model_validate(row.document), row.digest)
    except ValidationError:
        raise Refused(
            f"the spec of {row.model} as it is deployed cannot be read by this version of Ratchet. Compare with the "
            "files instead: ratchet plan --against REF"
        ) from None


def _standing(tx: Tx, spec: ModelSpec, *, retired: bool) -> Standing:
    attempts, champion = tx.attempts(model=spec.model), tx.current_champion(spec.model)
    at_work = [(a.id, a.state) for a in attempts if a.state in {*LIVE_STATES, *WAITING_STATES}]
    return Standing(
        retired=retired,
        champion=champion.version if champion else None,
        at_work=tuple(at_work),
        waiting=len(tx.events(model=spec.model, fates=("pending", "deferred"))),
        on_probation=tx.open_probation(spec.model) is not None,
        past=past_runs(tx, spec, [attempt for attempt in attempts if not attempt.dry_run]),
    )
