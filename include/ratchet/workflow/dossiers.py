"""Dossiers: the immutable record of one attempt, found by its attempt and known by its digest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ratchet.errors import Refused
from ratchet.ports.ledger import AttemptRow, Tx
from ratchet.ports.store import AlreadyStored, Store

logger = logging.getLogger(__name__)


def key_of(attempt_id: str, *, before_refit: bool = False) -> str:
    """Where the store keeps the attempt's dossier; ``before_refit``, what was known when the verdict was given."""
    return f"dossiers/{attempt_id}{'.verdict' if before_refit else ''}.json"


def evidence_digest(dossier: Mapping[str, Any]) -> str:
    """The SHA-256 of what a promotion is bound to: the rivals, the rows, every verdict on them, and what is to serve.

    ``candidates`` are there only where the spec asked for more than one, ``deployed`` only where it asked for a refit.
    """
    content = {
        "attempt": dossier["attempt"],
        "champion": dossier["champion"]["version"],
        "challenger": dossier["challenger"]["version"],
        "model": dossier["challenger"]["digest"],
        "snapshot": dossier["snapshot_manifest"]["sha256"],
        "rows": dossier["evidence"]["sha256"],
        "verdict": dossier["verdict"],
    }
    if deployed := dossier.get("deployed"):
        content["deployed"] = {name: deployed[name] for name in ("version", "digest")}
    if "candidates" in dossier:
        content["candidates"] = dossier["candidates"]
    return hashlib.sha256(to_json(content)).hexdigest()


def write(store: Store, dossier: Mapping[str, Any], *, before_refit: bool = False) -> tuple[dict[str, Any], str]:
    """Store the attempt's dossier; returns the one that stands, and its SHA-256.

    The first one stands: a judging task that died before the ledger knew, and is run again, answers what it had found
    (timings differ from run to run, and a second verdict on the same rows would be a second look at them).
    """
    key = key_of(dossier["attempt"], before_refit=before_refit)
    try:
        store.put_once(key, to_json(dossier))
    except AlreadyStored:
        logger.warning("%s was judged before its ledger knew; that verdict stands", dossier["attempt"])
    return standing(store, dossier["attempt"], before_refit=before_refit)


def standing(store: Store, attempt_id: str, *, before_refit: bool = False) -> tuple[dict[str, Any], str]:
    """A dossier whose digest the ledger has not recorded yet, and its SHA-256.

    Raises:
        Refused: it contradicts its own evidence digest.
    """
    key = key_of(attempt_id, before_refit=before_refit)
    content = store.get_bytes(key)
    dossier: dict[str, Any] = json.loads(content)
    if dossier["evidence_digest"] != evidence_digest(dossier):
        raise Refused(f"{store.uri(key)} contradicts its own evidence digest. Start a new run.")
    return dossier, hashlib.sha256(content).hexdigest()


def read(store: Store, attempt: AttemptRow) -> dict[str, Any]:
    """The attempt's dossier, to the byte as the ledger recorded it when the attempt was judged.

    Raises:
        Refused, RatchetError: as :func:`stored` does.
    """
    dossier: dict[str, Any] = json.loads(stored(store, attempt))
    return dossier


def stored(store: Store, attempt: AttemptRow) -> bytes:
    """The bytes of the attempt's dossier, which are those whose digest is in the ledger.

    Raises:
        Refused: the attempt has no dossier, or one from before digests were kept.
        RatchetError: its bytes are not those whose digest is in the ledger (``CorruptObjectError``), or are gone.
    """
    if attempt.dossier_sha256 is None:
        before = "was judged before digests of dossiers were kept"
        why = before if attempt.dossier_uri else f"is {attempt.state} and was not judged"
        raise Refused(f"attempt {attempt.id} {why}, so it has no dossier to trust. See: ratchet attempts")
    return store.get_bytes(key_of(attempt.id), digest=attempt.dossier_sha256)


def compared(dossier: dict[str, Any]) -> dict[str, Any]:
    """The dossier, if a challenger was compared with anything.

    Raises:
        Refused: it was not, because the champion could not be used.
    """
    if dossier["evidence"]["key"] is None:
        raise Refused(f"{dossier['attempt']}: {'; '.join(dossier['verdict']['reasons'])}")
    return dossier


def attempt_of(tx: Tx, what: str) -> AttemptRow:
    """The attempt named by ``<attempt>``, or the one that judged ``<model>@<version>`` last, or made it by a refit.

    Raises:
        Refused: there is no such attempt or version.
    """
    if "@" in what:
        model, _, version = what.partition("@")
        for attempt in tx.attempts(model=model):
            if version in {str(attempt.challenger_version), str(attempt.deployed_version)}:
                return attempt
        raise Refused(f"no attempt made version {version!r} of {model!r}. See: ratchet attempts --model {model}")
    found = tx.attempt(what)
    if found is None:
        raise Refused(f"there is no attempt {what!r}. See: ratchet attempts")
    return found


def plain(value: Any) -> Any:
    """JSON-able: dates as ISO strings, tuples as lists, NumPy scalars as Python's, NaN as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - NaN


def to_json(value: Any) -> bytes:
    """The one form in which records are stored and hashed: sorted keys, one space of indent, UTF-8."""
    return json.dumps(plain(value), sort_keys=True, indent=1).encode()
