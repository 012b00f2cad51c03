"""Whether the audit log is whole: checked as a chain, and against its end as it was kept outside the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ratchet.domain.audit import Head, audit_problems
from ratchet.errors import Refused
from ratchet.ports.ledger import Ledger, Tx
from ratchet.ports.store import Store

logger = logging.getLogger(__name__)
HEAD_KEY = "audit/head"
BROKEN, ACCEPTED = "audit.broken", "audit.accepted"


@dataclass(frozen=True)
class AuditState:
    """What a look at the log found: its last entry, how far it was kept elsewhere, and what is wrong."""

    head: Head | None
    kept: Head | None
    problems: tuple[str, ...]


class AuditLog:
    """Checks the log, and keeps its end in object storage, where whoever can write to the ledger cannot reach it."""

    def __init__(self, ledger: Ledger, store: Callable[[], Store]) -> None:
        self._ledger = ledger
        self._store = store

    def verify(self, heads: Sequence[Head] = ()) -> AuditState:
        """Walk the whole log and compare it with every head that is known.

        Args:
            heads: ends of the log that somebody wrote down.
        """
        kept = self.kept()
        with self._ledger.transaction() as tx:
            counted = tx.audit_count()
            known = [head for head in (counted, kept, *heads) if head is not None]
            problems = audit_problems(tx.audit_chain(), known)
            return AuditState(tx.audit_head(), kept, tuple(problems))

    def keep_head(self) -> bool:
        """Keep the log's present end in storage; false, told once, when what was kept is not in the log any more.

        It costs one small read, and one write when the log has grown; the chain between is left to ``verify``.
        """
        kept = self.kept()
        with self._ledger.transaction() as tx:
            head = tx.audit_head()
            if kept is not None and tx.audit_hash(kept.seq) != kept.hash:
                self._tell(tx, kept)
                return False
        if head is not None and (kept is None or kept.seq != head.seq):
            self._keep(head)
        return True

    def accept(self, actor: str, reason: str) -> Head:
        """Keep the log's present end although it lacks what was kept before, as after a restore from a backup.

        Raises:
            Refused: no reason.
        """
        if not reason.strip():
            raise Refused("accepting a log that lacks entries needs a reason: it is what the audit log will say")
        kept = self.kept()
        with self._ledger.transaction() as tx:
            tx.audit(actor, ACCEPTED, None, {"reason": reason, "before": str(kept) if kept else None})
            head = tx.audit_head()
        if head is None:
            raise Refused("the audit log lost the entry that was just written: look at the ledger's database")
        self._keep(head)
        return head

    def kept(self) -> Head | None:
        """The end of the log as it was kept in storage; None when it never was.

        Raises:
            Refused: what is stored there is no head.
        """
        store = self._store()
        if not store.exists(HEAD_KEY):
            return None
        text = store.get_bytes(HEAD_KEY).decode(errors="replace")
        try:
            return Head.parse(text, store.uri(HEAD_KEY))
        except ValueError as error:
            raise Refused(
                f"{store.uri(HEAD_KEY)}: {error}. Restore it, or, when the log is whole: ratchet audit accept"
            ) from error

    def _keep(self, head: Head) -> None:
        self._store().put_bytes(HEAD_KEY, str(head).encode())

    @staticmethod
    def _tell(tx: Tx, kept: Head) -> None:
        logger.error("the audit log lacks entry %d as %s names it. Run: ratchet audit verify", kept.seq, kept.source)
        if tx.last_audited((BROKEN, ACCEPTED)) != BROKEN:
            tx.audit("sweep", BROKEN, None, {"missing": str(kept), "kept_in": kept.source})
