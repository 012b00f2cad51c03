"""Where two records differ, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """``field`` is a path such as ``checks[2].passed``; a value that one side lacks is ``(absent)``."""

    field: str
    recorded: Any
    found: Any


def differences(recorded: Any, found: Any, field: str = "") -> list[Difference]:
    """Every leaf in which two JSON-able records differ; numbers must be equal to the bit, and 1 is not 1.0 or true."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        names = [*recorded, *(name for name in found if name not in recorded)]
        return [
            each
            for name in names
            for each in differences(
                recorded.get(name, ABSENT), found.get(name, ABSENT), f"{field}.{name}" if field else str(name)
            )
        ]
    if isinstance(recorded, list) and isinstance(found, list):
        longest = range(max(len(recorded), len(found)))
        sides = ([side[i] if i < len(side) else ABSENT for i in longest] for side in (recorded, found))
        return [
            each
            for i, (old, new) in enumerate(zip(*sides, strict=True))
            for each in differences(old, new, f"{field}[{i}]")
        ]
    same = type(recorded) is type(found) and recorded == found
    return [] if same else [Difference(field, recorded, found)]
