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

    def verified(self, folder: Path, *, expected: str | None = None) -> Any:
        """Compare the files with their digests, and read no model."""
        ...


class Artifacts:
    """Loads versions from the registry, each time against the digest in the ledger.

    ``packed_elsewhere`` says of a model that its versions are made with other packages than this process has: such a
    version cannot be expected to load here, so that its bytes are what can be proved.
    """

    def __init__(
        self,
        ledger: Ledger,
        registry: Callable[[], Registry],
        loader: Callable[[], Loader],
        packed_elsewhere: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._loader = loader
        self._packed_elsewhere = packed_elsewhere

    def load(self, model: str, version: int) -> Any:
        """The version's model.

        A local copy that does not pass is fetched once more; what the registry holds is judged by its own bytes.

        Raises:
            UnusableArtifact: it does not pass; told in the log and in the audit log.
            Unavailable: the registry did not answer; repeating may help.
        """
        return self._used(model, version, self._loader().load)

    def check(self, model: str, version: int) -> None:
        """That the version can be used, as :meth:`load` finds out; where it cannot be loaded here, by its bytes alone.

        Raises what :meth:`load` raises.
        """
        self._used(model, version, self._proof(model))

    def prove(self, model: str, version: int) -> None:
        """That the version can be used, by the registry's own bytes, whatever a local copy says.

        Raises:
            UnusableArtifact: it does not pass; told in the log and in the audit log.
            Unavailable: the registry did not answer; repeating may help.
        """
        self._proved(model, version, self._proof(model))

    def inspect(self, model: str, version: int) -> None:
        """What :meth:`prove` finds out; nothing is reported.

        Raises:
            UnusableArtifact: it does not pass.
            Unavailable: the registry did not answer.
        """
        self._fetched(model, version, self._proof(model))

    def _proof(self, model: str) -> Callable[..., Any]:
        loader = self._loader()
        return loader.verified if self._packed_elsewhere(model) else loader.load

    def _used(self, model: str, version: int, read: Callable[..., Any]) -> Any:
        try:
            return self._read(model, version, read, fresh=False)
        except RatchetError as error:
            if error.retry_helps:
                raise
        return self._proved(model, version, read)

    def _proved(self, model: str, version: int, read: Callable[..., Any]) -> Any:
        try:
            return self._fetched(model, version, read)
        except UnusableArtifact as unusable:
            self._report(model, version, unusable)
            raise

    def _fetched(self, model: str, version: int, read: Callable[..., Any]) -> Any:
        try:
            return self._read(model, version, read, fresh=True)
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

    def _read(self, model: str, version: int, read: Callable[..., Any], *, fresh: bool) -> Any:
        with self._ledger.transaction() as tx:
            expected, removal = tx.version_digest(model, version), tx.removal(model, "version", str(version))
        if removal is not None:
            raise Refused(f"version {version} of {model} {removal.said}")
        return read(self._registry().download(model, version, fresh=fresh), expected=expected)
