"""What a model's lock file must be: every package by its exact version and its hashes, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ratchet.errors import Refused

MOST_LOCK_BYTES = 4_000_000
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[\w,.\s-]*\])?==([A-Za-z0-9][A-Za-z0-9.!+_-]*)\s*(;.*)?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """One package at one version, by its normal name; ``marker`` says where, such as on which system."""

    name: str
    version: str
    marker: str | None = None


def pins_of(text: str) -> list[Pin]:
    """What a lock file pins; a package several times where markers choose among its versions.

    Raises:
        Refused: a line is no pin with hashes. An option, such as an index's address or another file, is refused: what
            is installed must not depend on where it is installed.
    """
    found = []
    for number, line in _requirements(text):
        written, *hashes = re.split(r"\s+(?=--)", line)
        pin = _PIN.fullmatch(written.strip())
        if pin is None:
            raise Refused(f"line {number} must be a pin as name==version, but is {written.strip()[:80]!r}")
        if not hashes or not all(_HASH.fullmatch(each.strip()) for each in hashes):
            raise Refused(f"line {number}: {pin[1]} must have a hash, as --hash=sha256:…, and nothing else")
        found.append(Pin(normal(pin[1]), pin[2], pin[3] and pin[3].removeprefix(";").strip()))
    if not found:
        raise Refused("pins no package")
    return found


def normal(name: str) -> str:
    """The name of a package as every spelling of it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(text: str) -> Iterator[tuple[int, str]]:
    """Each requirement in one line, with the number of its first; comments and empty lines are left out."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        said = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not said:
            continue
        first = first if begun else number
        begun += said.removesuffix("\\").strip() + " "
        if not said.endswith("\\"):
            yield first, begun.strip()
            begun = ""
    if begun:
        yield first, begun.strip()
