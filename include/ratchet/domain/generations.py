"""In which order the trials of a study may begin, and what each of them may know: asynchronous, or by generations.

A generation is a run of ``size`` consecutive trial numbers. All of it must have ended before the next one begins, and a
trial knows the earlier generations only. What a trial is proposed from, and what it is compared with while it runs,
then depends on its number and not on who ran what when: the study comes out the same for any number of workers.
Asynchronous trials know everything that has ended when they begin: no worker waits, and no two runs need be alike.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Begin:
    """Begin trial ``number``; it may know of the trials with numbers below ``known``."""

    number: int
    known: int


@dataclass(frozen=True)
class Wait:
    """Nothing can begin before a trial that somebody runs has ended, or was given up."""


def next_trial(
    *, begun: Collection[int], ended: Collection[int], trials: int, generation: int | None
) -> Begin | Wait | None:
    """What a worker does next in a study of ``trials`` trials; None when it is no longer needed.

    ``begun`` are the numbers that somebody runs or ran (and did not lose); ``ended`` is the part of them that has
    ended. ``generation`` is the size of one, at least 1; None for asynchronous trials. Asynchronous workers leave as
    soon as nothing is left to begin; those of a generation wait for its end, to replace what is lost.
    """
    if generation is None:
        number = next((number for number in range(trials) if number not in begun), None)
        return None if number is None else Begin(number, trials)
    first = next((number for number in range(trials) if number not in ended), None)
    if first is None:
        return None
    known = first - first % generation
    number = next((n for n in range(known, min(known + generation, trials)) if n not in begun), None)
    return Wait() if number is None else Begin(number, known)
