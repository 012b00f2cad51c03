"""The audit log as a hash chain: what an entry's hash covers, and what a broken chain tells.

Each entry's hash covers its content and the hash before it, so whoever edits, removes, inserts or moves an entry must
write every later hash anew. That shows against a head (number and hash of the last entry) that was kept elsewhere; the
end of the log can only be seen to be cut against such a head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GENESIS = "0" * 64
"""The hash before the first entry."""


@dataclass(frozen=True)
class AuditEntry:
    """Who did what, when and why. ``seq`` counts from 1 without a gap; ``detail`` is JSON-able."""

    seq: int
    at: datetime
    actor: str
    action: str
    model: str | None
    detail: Mapping[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True)
class Head:
    """The last entry of the log as it was once seen; ``source`` says where that is written down."""

    seq: int
    hash: str
    source: str = "given"

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str, source: str = "given") -> Head:
        """From ``<number>:<sha256>``. Raises ``ValueError`` for anything else."""
        number, _, digest = text.strip().partition(":")
        if not number.isdecimal() or len(digest) != len(GENESIS) or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"a head is <number>:<64 hexadecimal digits>, but got {text!r}")
        return cls(int(number), digest, source)


def entry_hash(
    previous: str, *, seq: int, at: datetime, actor: str, action: str, model: str | None, detail: Mapping[str, Any]
) -> str:
    """SHA-256 over the previous hash and the entry in canonical JSON; ``at`` is aware and UTC."""
    entry = {
        "seq": seq,
        "at": at.isoformat(),
        "actor": actor,
        "action": action,
        "model": model,
        "detail": detail,
    }
    return hashlib.sha256((previous + json.dumps(entry, sort_keys=True, separators=(",", ":"))).encode()).hexdigest()


def settled(detail: Any) -> Any:
    """The detail as a database's JSON gives it back, so that its hash is the same before and after.

    Keys are text, tuples are lists, and a float without a fraction is an integer (databases write 1e20 so).
    """
    if isinstance(detail, Mapping):
        return {str(key): settled(value) for key, value in detail.items()}
    if isinstance(detail, list | tuple):
        return [settled(value) for value in detail]
    return int(detail) if isinstance(detail, float) and detail.is_integer() else detail


def audit_problems(entries: Iterable[AuditEntry], heads: Sequence[Head] = ()) -> list[str]:
    """What is wrong with the log, one sentence each; empty when it is whole.

    Args:
        entries: all of the log, by ascending ``seq``.
        heads: what the log's end once was, kept elsewhere; each must still be an entry with that hash.

    Found: an edited entry, a removed or inserted one, one that was moved, a log that was written anew (by the heads),
    and a cut end, as far as a head reaches. Entries after the newest head can be cut unseen.
    """
    known = {head.seq: "" for head in heads}
    return [*_broken_links(entries, known), *_lost_heads(known, heads)]


def _broken_links(entries: Iterable[AuditEntry], known: dict[int, str]) -> Iterator[str]:
    """Walk the chain; on the way the hashes of the entries numbered in ``known`` are noted there."""
    seq, previous = 0, GENESIS
    for entry in entries:
        if entry.seq in known:
            known[entry.seq] = entry.hash
        name = f"audit entry {entry.seq} ({entry.action} by {entry.actor}, {entry.at:%Y-%m-%d %H:%M:%S})"
        if entry.seq != seq + 1:
            yield _gap(seq, entry.seq)
        elif entry.previous_hash != previous:
            yield f"{name} does not follow entry {seq}: it was moved or inserted, or entry {seq} was replaced"
        content = {key: value for key, value in vars(entry).items() if key not in {"previous_hash", "hash"}}
        if entry.hash != entry_hash(entry.previous_hash, **content):
            yield f"{name} was edited: its content does not have its hash"
        seq, previous = entry.seq, entry.hash


def _gap(before: int, after: int) -> str:
    if after <= before:
        return f"audit entry {after} comes after entry {before}: the order was changed"
    if after == before + 2:
        return f"audit entry {before + 1} was removed"
    return f"audit entries {before + 1} to {after - 1} were removed"


def _lost_heads(known: Mapping[int, str], heads: Sequence[Head]) -> Iterator[str]:
    for head in heads:
        if head.seq == 0 or known[head.seq] == head.hash:
            continue
        if known[head.seq]:
            yield f"audit entry {head.seq} has another hash than {head.source} says: the log was written anew"
        else:
            yield f"audit entry {head.seq}, which {head.source} names, is missing: the end of the log was cut off"
