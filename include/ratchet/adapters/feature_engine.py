"""Which offline store a feature repository may name: the rule of ``ratchet validate`` and of every snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIG_FILE = "feature_store.yaml"
AS_OF = "ratchet.adapters.offline_store.AsOfOfflineStore"
DUCKDB = "duckdb"
_DASK = ("dask", "file", None)  # two names of Feast's default, and none


def engine_refused(config: Mapping[str, Any]) -> str | None:
    """Why the offline store of a ``feature_store.yaml`` may make no snapshot; None where it may."""
    engine = engine_of(config)
    if engine in {AS_OF, DUCKDB}:
        return None
    rule = f"offline_store.type must be {AS_OF!r} or {DUCKDB!r}, but "
    if engine in _DASK:
        found = "is not set, and Feast's default is dask" if engine is None else f"is {engine!r}"
        return (
            f"{rule}{found}. Of 1,000,000 entity rows that engine lost 13.6 % (those whose values have all expired, "
            "and repeated ones) and answered 1 % of the rest wrongly."
        )
    return (
        f"{rule}is {engine!r}, which is not yet supported: a snapshot pins the content of Parquet files, and only "
        "these two are known to answer from them as known at the time."
    )


def engine_of(config: Mapping[str, Any]) -> str | None:
    """The type of the offline store, None where it is not set."""
    offline = config.get("offline_store")
    named = offline.get("type") if isinstance(offline, Mapping) else offline
    return None if named is None else str(named)
