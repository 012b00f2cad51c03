"""A Feast registry file that is parsed once, until it changes.

Feast reads and parses its registry at each ``get_historical_features``, and makes its feature views anew, because the
registry's own cache (``cache_ttl_seconds``) is not asked there. Where one process makes many small joins, that is a
good part of each. ``feature_store.yaml`` names this store below ``registry``:
``registry_store_type: ratchet.adapters.feature_registry.ParsedOnceRegistryStore``.
"""

from __future__ import annotations

from typing import Any

from feast.infra.registry.file import FileRegistryStore


class ParsedOnceRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """Feast's registry file; the same object for as long as the file's bytes and the object's content are the same.

    Feast keeps what it made of a registry by the identity of that object. Whoever changes the object without writing it
    (an apply that fails) is not heard: the file is parsed again.
    """

    _parsed: tuple[bytes, bytes, Any] | None = None

    def get_registry_proto(self) -> Any:
        """The registry; raises ``FileNotFoundError`` where there is none, as Feast does."""
        found = self._filepath.read_bytes() if self._filepath.exists() else None
        if found is not None and self._parsed is not None:
            of, content, registry = self._parsed
            if of == found and content == registry.SerializeToString(deterministic=True):
                return registry
        registry = super().get_registry_proto()
        self._parsed = (found or b"", registry.SerializeToString(deterministic=True), registry)
        return registry
