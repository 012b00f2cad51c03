"""The gate tests itself on what each model was judged on lately; a failed test holds that model's promotions."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ratchet.domain.spec import ModelSpec
from ratchet.errors import RatchetError, Refused
from ratchet.ports.ledger import AttemptRow, Ledger
from ratchet.ports.store import Store
from ratchet.workflow import dossiers

if TYPE_CHECKING:
    from ratchet.domain.selftest import JudgedRows, SelfTest

logger = logging.getLogger(__name__)


class SelfTests:
    """The verb of the gate's self-test."""

    def __init__(self, ledger: Ledger, store: Callable[[], Store]) -> None:
        self._ledger = ledger
        self._store = store

    def run(self, model: str | None = None, *, actor: str) -> dict[str, SelfTest]:
        """Test the gate on this model's judged rows, or on every model's that has any; results are kept and audited.

        The same attempts give the same answer: asking again asks no new question. A model with too few judged days is
        neither passed nor failed, and what its last judged self-test said stays in force.

        Raises:
            Refused: the model is not registered.
            Unavailable: the store or the ledger did not answer.
        """
        with self._ledger.transaction() as tx:
            specs = {row.model: row.digest for row in tx.registered() if not row.retired or row.model == model}
        if model is not None and model not in specs:
            raise Refused(f"there is no model {model!r}. Deploy its spec first: ratchet deploy")
        results = {}
        for name in sorted(specs) if model is None else [model]:
            attempts = self._judged(name)
            if attempts or model is not None:
                results[name] = self._test(name, specs[name], attempts, actor)
        return results

    def _judged(self, model: str) -> list[AttemptRow]:
        """Attempts with a verdict, the newest first."""
        with self._ledger.transaction() as tx:
            return [a for a in tx.attempts(model=model, states=("judged", "concluded")) if a.verdict is not None]

    def _test(self, model: str, spec_digest: str, attempts: list[AttemptRow], actor: str) -> SelfTest:
        from ratchet.domain.selftest import self_test  # noqa: PLC0415 - scipy

        with self._ledger.transaction() as tx:
            spec = ModelSpec.model_validate(tx.spec_document(spec_digest))
        unreadable: dict[str, str] = {}
        recent = list(self._recent(attempts, unreadable))
        seed = int.from_bytes(hashlib.sha256("\n".join(rows.attempt for rows in recent).encode()).digest()[:4], "big")
        found = self_test(recent, seed=seed, confidence=spec.gate.confidence)
        passed = None if found.outcome == "not_judged" else found.outcome == "passed"
        detail: dict[str, Any] = asdict(found) | {"seed": seed, "unreadable": unreadable}
        with self._ledger.transaction() as tx:
            tx.save_self_test(model, detail, passed=passed)
            if passed is not None:
                tx.audit(actor, f"selftest.{found.outcome}", model, detail)
        if passed is False:
            logger.error(
                "the gate failed its self-test on %s, promotions are held: %s", model, "; ".join(found.reasons)
            )
        return found

    def _recent(self, attempts: list[AttemptRow], unreadable: dict[str, str]) -> Iterator[JudgedRows]:
        """What the attempts were judged on, newest first, until there is enough; what cannot be read is named.

        Of several looks at one challenger the last is taken, which has the days of the others; an attempt that compared
        nothing has no rows.
        """
        from ratchet.domain.selftest import BLOCK_DAYS, MOST_WEEKS  # noqa: PLC0415 - scipy

        n_days, seen = 0, set[int]()
        for attempt in attempts:
            version = attempt.challenger_version
            if version is not None and version in seen:
                continue
            try:
                rows, days = self._rows(attempt)
            except RatchetError as error:
                if error.retry_helps:
                    raise
                logger.error("%s is left out of the self-test: %s", attempt.id, error)  # noqa: TRY400
                unreadable[attempt.id] = str(error)
                continue
            if rows is None:
                continue
            seen.update([] if version is None else [version])
            yield rows
            n_days += days
            if n_days >= MOST_WEEKS * BLOCK_DAYS:
                return

    def _rows(self, attempt: AttemptRow) -> tuple[JudgedRows | None, int]:
        """The rows the attempt was judged on, as its dossier names them, and their number of days; None without any."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

        from ratchet.domain.selftest import JudgedRows  # noqa: PLC0415 - scipy

        store = self._store()
        named = dossiers.read(store, attempt)["evidence"]
        if not named["rows"]:
            return None, 0
        columns = ["day", "champion_payoff", "challenger_payoff"]
        table = pq.read_table(io.BytesIO(store.get_bytes(named["key"], digest=named["sha256"])), columns=columns)
        day, champion, challenger = (table.column(name).to_numpy(zero_copy_only=False) for name in columns)
        return JudgedRows(attempt.id, champion, challenger, day), len(set(day))
