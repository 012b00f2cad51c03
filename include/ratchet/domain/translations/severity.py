"""One scale of severity for all systems, anchored at the sender's own bound.

====  ===============================================================================
0.25  the sender calls it information or a warning that fails nothing
0.5   the sender's own bound is just crossed: the mildest thing that it calls an alarm
1     as far beyond the bound as there is: certainty, every column, the whole of a distance
====  ===============================================================================

So ``min_severity: 0.5`` in a spec means "whatever the sender calls an alarm", whoever the sender is. Between 0.5 and 1
the scale is linear where the quantity has a largest value, and the bound's share of the quantity where it has none. It
says how far the sender's bound was left behind, not how much the data moved: a p-value is near 1 for a tiny shift of
many rows. Ratchet's own monitor tells a distance corrected for chance instead (``docs/decisions/0060``).
"""

from __future__ import annotations

MILD = 0.25
ALARM = 0.5

_WORDS = {
    **dict.fromkeys(("info", "information", "informational", "notice", "low", "none", "debug"), MILD),
    **dict.fromkeys(("warning", "warn", "minor", "medium", "moderate"), ALARM),
    **dict.fromkeys(("error", "major", "high", "severe"), 0.75),
    **dict.fromkeys(("critical", "crit", "page", "fatal", "emergency", "alert", "disaster"), 1.0),
}


def above(value: float | None, bound: float | None, largest: float | None = None) -> float:
    """Severity in [0.5, 1] of a quantity that is too high, of which ``largest`` is the most there can be."""
    if value is None or bound is None or value <= bound:
        return ALARM
    if largest is not None and bound < largest:
        return _told(ALARM + (min(value, largest) - bound) / (largest - bound) / 2)
    return _told(1 - bound / value / 2) if bound > 0 else ALARM


def below(value: float | None, bound: float | None) -> float:
    """Severity in [0.5, 1] of a quantity of at least 0 that is too low, such as a p-value."""
    if value is None or bound is None or bound <= 0 or value >= bound:
        return ALARM
    return _told(1 - max(value, 0.0) / bound / 2)


def of_share(share: float) -> float:
    """Severity in [0.5, 1] of a verdict by this share of what was looked at."""
    return _told(ALARM + min(max(share, 0.0), 1.0) / 2)


def of_word(word: str | None) -> float:
    """Severity in [0, 1] of an alert's label: a usual word, or itself a number; 0.5 for none and for any other."""
    if word is None:
        return ALARM
    known = _WORDS.get(word.strip().lower())
    if known is not None:
        return known
    try:
        value = float(word)
    except ValueError:
        return ALARM
    return _told(value) if 0 <= value <= 1 else ALARM


def _told(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 4)
