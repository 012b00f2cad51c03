"""Versions, loaded only as what the ledger recorded when they were made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ratchet.errors import CorruptObjectError, RatchetError, Refused
from ratchet.ports.ledger import Ledger
from ratchet.ports.registry import Registry

logger = logging.getLogger(__name__)


class UnusableArtifact(Refused):
    """The version's artifact is gone, cannot be read, or is not what the ledger recorded; it is named and reported."""


class Loader(Protocol):
    """Reads an artifact from a folder (``ratchet.adapters.models``)."""

    def load(self, folder: Path, *, expected: str | None = None) -> Any:
        """Read, and check the digest when given."""
        ...


class Artifacts:
    """Loads versions from the registry, each time against the digest in the ledger."""

    def __init__(self, ledger: Ledger, registry: Callable[[], Registry], loader: Callable[[], Loader]) -> None:
        self._ledger = ledger
        self._registry = registry
        self._loader = loader

    def load(self, model: str, version: int) -> Any:
        """The version's model.

        A local copy that does not pass is fetched once more; what the registry holds is judged by its own bytes.

        Raises:
            UnusableArtifact: it does not pass; told in the log and in the audit log.
            Unavailable: the registry did not answer; repeating may help.
        """
        try:
            return self._load(model, version, fresh=False)
        except RatchetError as error:
            if error.retry_helps:
                raise
        return self.prove(model, version)

    def prove(self, model: str, version: int) -> Any:
        """The version's model by the registry's own bytes, whatever a local copy says.

        Raises:
            UnusableArtifact: it does not pass; told in the log and in the audit log.
            Unavailable: the registry did not answer; repeating may help.
        """
        try:
            return self.inspect(model, version)
        except UnusableArtifact as unusable:
            self._report(model, version, unusable)
            raise

    def inspect(self, model: str, version: int) -> Any:
        """The version's model by the registry's own bytes; nothing is reported.

        Raises:
            UnusableArtifact: it does not pass.
            Unavailable: the registry did not answer.
        """
        try:
            return self._load(model, version, fresh=True)
        except RatchetError as error:
            if error.retry_helps:
                raise
            raise UnusableArtifact(f"version {version} of {model} cannot be used: {error}") from error

    def _report(self, model: str, version: int, unusable: UnusableArtifact) -> None:
        logger.error("artifact refused: %s", unusable)
        tampered = isinstance(unusable.__cause__, CorruptObjectError)
        with self._ledger.transaction() as tx:
            action = "artifact.tampered" if tampered else "artifact.unusable"
            tx.audit("ratchet", action, model, {"version": version, "why": str(unusable)})

    def _load(self, model: str, version: int, *, fresh: bool) -> Any:
        with self._ledger.transaction() as tx:
            expected, removal = tx.version_digest(model, version), tx.removal(model, "version", str(version))
        if removal is not None:
            raise Refused(f"version {version} of {model} {removal.said}")
        return self._loader().load(self._registry().download(model, version, fresh=fresh), expected=expected)
