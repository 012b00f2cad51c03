"""An alias that somebody moved by hand is found, told, and put back: the ledger says who serves."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ratchet.errors import RatchetError
from ratchet.ports.ledger import ChampionRow, Ledger
from ratchet.ports.registry import Registry
from ratchet.workflow.telling import CHAMPION, alias_moved

logger = logging.getLogger(__name__)


class Reconciler:
    """Compares the registry's alias ``champion`` with the ledger: one question to the registry for all models.

    A model whose alias is on its way (an open row in the outbox) is left to the relay, so a promotion in flight is
    never taken for an alias moved by hand: the row opens with the compare-and-set and closes when the alias is set.
    """

    def __init__(self, ledger: Ledger, registry: Callable[[], Registry]) -> None:
        self._ledger = ledger
        self._registry = registry

    def run(self) -> list[str]:
        """Models whose alias named another version, or none; the outbox then asks for its repair.

        A registry that does not answer ends the round: the next one asks again.
        """
        with self._ledger.transaction() as tx:
            settled = tx.settled_champions()
        if not settled:
            return []
        try:
            aliased = self._registry().aliased(CHAMPION)
        except RatchetError as error:
            logger.warning("the aliases were not compared with the ledger: %s", error)
            return []
        moved = []
        for champion in settled:
            named = aliased.get(champion.model)
            if named != champion.version and self._report(champion, named):
                moved.append(champion.model)
        return moved

    def _report(self, champion: ChampionRow, named: int | None) -> bool:
        """Tell, and ask for the repair, in one transaction; false when the champion moved while we looked."""
        with self._ledger.transaction() as tx:
            tx.lock_lease(champion.model)
            if champion not in tx.settled_champions(champion.model):
                return False
            found = "was removed" if named is None else f"named version {named}"
            logger.error(
                "alias moved by hand: %s@%s %s, but version %d serves by the ledger; it is put back. "
                "To serve another version: ratchet rollback",
                *(champion.model, CHAMPION, found, champion.version),
            )
            detail = {"alias": CHAMPION, "named": named, "repaired_to": champion.version, "champion": champion.seq}
            tx.audit("sweep", "alias.moved_by_hand", champion.model, detail)
            alias_moved(tx, champion.model, champion.seq)
        return True
