"""Objects by key: snapshots, dossiers, artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ratchet.errors import Refused


class AlreadyStored(Refused):
    """Other content is kept for good under that key."""


class Store(Protocol):
    """Byte objects under relative keys; a written object is whole or absent."""

    def uri(self, key: str) -> str:
        """The address another process opens the object by."""
        ...

    def exists(self, key: str) -> bool:
        """Whether an object is stored under the key."""
        ...

    def put_bytes(self, key: str, data: bytes) -> str:
        """Store; returns the SHA-256."""
        ...

    def put_once(self, key: str, data: bytes) -> str:
        """Store for good; returns the SHA-256. The same bytes again change nothing.

        Raises:
            AlreadyStored: other bytes are there.

        """
        ...

    def get_bytes(self, key: str, *, digest: str | None = None) -> bytes:
        """Read, and check the digest when given."""
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of every object below a prefix, by its whole key; none where there is none."""
        ...

    def delete(self, key: str) -> int:
        """Remove the object, or every object below the key; returns their bytes, 0 where nothing is there."""
        ...

    def put_dir(self, key: str, folder: Path) -> dict[str, str]:
        """Store a folder; returns the SHA-256 of each file."""
        ...

    def get_dir(self, key: str, folder: Path) -> Path:
        """Fetch a folder."""
        ...
