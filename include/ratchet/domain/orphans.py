"""What lies in storage, registry and studies that no row of the ledger names. Pure.

Only what nobody can be about to name is an orphan: an attempt is in the ledger before anything of it is stored, so that
what names none of them is left from another ledger, or from before a backup was restored. A file of predictions is
stored before its row is written, so of a model in service none is an orphan, and a report only beside another one of
its window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["object", "version", "study"]
BY_ATTEMPT = ("snapshots", "evidence", "dossiers", "cards")
_OURS = re.compile(r"[a-z][a-z0-9_]*\.[0-9]+(\..+)?", re.ASCII)
"""How our studies are named: by their attempt. Others of a database that is shared are somebody else's."""


@dataclass(frozen=True)
class Orphan:
    """One thing by kind and name (key, ``model@version``, study), its bytes where known, and why nobody owns it."""

    kind: Kind
    name: str
    bytes: int | None
    why: str


@dataclass(frozen=True)
class Known:
    """What the ledger names: models, attempts, open attempts, versions by model, and of reports the keys by window."""

    models: frozenset[str]
    attempts: frozenset[str]
    open_attempts: frozenset[str]
    versions: Mapping[str, frozenset[int]]
    reports: Mapping[str, str]


def attempt_in(name: str) -> str:
    """The attempt that an object or study is named by: ``m.1`` of ``m.1.json``, ``m.1.fewer-rows`` and ``m.1``."""
    return ".".join(name.split(".")[:2])


def window_in(key: str) -> str:
    """``monitor/<model>/<window>`` of a report's key, without its digest."""
    return key.rpartition("-")[0]


def find_orphans(
    known: Known,
    objects: Mapping[str, int],
    studies: Mapping[str, int | None],
    versions: Mapping[str, Mapping[int, str]],
) -> tuple[Orphan, ...]:
    """Every orphan, by kind and name.

    Args:
        known: by the ledger.
        objects: bytes by key.
        studies: bytes by name, None where not known; one that is not named as ours are is somebody else's.
        versions: by model and number the attempt that each was registered for, empty where none was said: of a model
            that the ledger does not know such a version is somebody else's.

    """
    found = [*_objects(known, objects), *_versions(known, versions), *_studies(known, studies)]
    return tuple(sorted(found, key=lambda orphan: (orphan.kind, orphan.name)))


def _objects(known: Known, objects: Mapping[str, int]) -> Iterator[Orphan]:
    for key, size in objects.items():
        folder, _, rest = key.partition("/")
        owner = rest.partition("/")[0]
        if folder in BY_ATTEMPT:
            if attempt_in(owner) not in known.attempts:
                yield Orphan("object", key, size, f"the ledger knows no attempt {attempt_in(owner)}")
        elif owner not in known.models:
            yield Orphan("object", key, size, f"the ledger knows no model {owner}")
        elif folder == "monitor" and known.reports.get(window_in(key), key) != key:
            yield Orphan("object", key, size, "the ledger names another report of this window")


def _versions(known: Known, versions: Mapping[str, Mapping[int, str]]) -> Iterator[Orphan]:
    for model, registered in versions.items():
        for version, attempt in registered.items():
            ours = model in known.models or attempt
            if not ours or version in known.versions.get(model, ()) or attempt_in(attempt) in known.open_attempts:
                continue
            yield Orphan("version", f"{model}@{version}", None, "no attempt and no champion of the ledger has it")


def _studies(known: Known, studies: Mapping[str, int | None]) -> Iterator[Orphan]:
    for name, size in studies.items():
        if _OURS.fullmatch(name) and attempt_in(name) not in known.attempts:
            yield Orphan("study", name, size, f"the ledger knows no attempt {attempt_in(name)}")
