"""Ordinary YAML read by libyaml, ten and more times as fast as the reader that knows lines and columns.

libyaml reads YAML 1.1, a spec is YAML 1.2: ``on``, ``no``, ``0777`` and ``12:30`` mean other things. So only what both
read alike is read here, and scalars get their 1.2 meaning from the few forms below. Everything else, above all
everything that is wrong, is left to the careful reader, whose answer counts: :func:`read_ordinary` returns what it
would, or None.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from yaml import YAMLError
from yaml.events import (
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

try:
    from yaml.cyaml import CParser
except ImportError:  # PyYAML was built without libyaml
    CParser = None

_ORDINARY_TEXT = re.compile(r"[\n -\[\]-~\u00a1-\u1fff\u2010-\u2027\u2030-\u2fff\u3001-\ud7ff]*")
"""No tabs, carriage returns, backslashes or byte order marks, nor what YAML 1.1 takes for line breaks."""
_MARKER = re.compile(r"^(?:%|---|\.\.\.)", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]+")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WORD = re.compile(r"[0-9]+[wdhms]|[0-9*/,-]+(?: [0-9*/,-]+){4}")
"""What starts like a number and is text: a duration, a schedule."""
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMERIC = frozenset("+-.0123456789")
_OTHERS = frozenset({"=", "<<"})
_BLOCKS = frozenset("|>")
MAX_ORDINARY_DEPTH = 16


class _NotOrdinary(Exception):
    """Left to the careful reader."""


def read_ordinary(text: str) -> dict[str, Any] | None:
    """The mapping that ``text`` is, as plain dicts, lists, strings, numbers and dates; None where it is not ordinary.

    None says nothing about whether the text is YAML.
    """
    if CParser is None or _ORDINARY_TEXT.fullmatch(text) is None or _MARKER.search(text) is not None:
        return None
    parser = CParser(text)
    try:
        parser.get_event()  # the stream begins
        parser.get_event()  # the document begins
        opening = parser.get_event()
        if type(opening) is not MappingStartEvent:
            return None
        found = _value(parser, opening, 0)
        parser.get_event()  # the document ends
        return found if type(parser.get_event()) is StreamEndEvent else None
    except (YAMLError, ValueError, _NotOrdinary):
        return None
    finally:
        parser.dispose()


def _value(parser: Any, event: Any, depth: int) -> Any:
    """What begins with ``event``. A key is text, and stands once in its mapping."""
    kind = type(event)
    if kind is ScalarEvent:
        return _scalar(event)
    if (kind is not MappingStartEvent and kind is not SequenceStartEvent) or event.anchor or event.tag:
        raise _NotOrdinary
    if depth >= MAX_ORDINARY_DEPTH:
        raise _NotOrdinary
    following = parser.get_event
    if kind is SequenceStartEvent:
        items = []
        while type(inner := following()) is not SequenceEndEvent:
            items.append(_value(parser, inner, depth + 1))
        return items
    mapping: dict[str, Any] = {}
    while type(inner := following()) is not MappingEndEvent:
        key = _scalar(inner) if type(inner) is ScalarEvent else None
        if type(key) is not str or key in mapping:
            raise _NotOrdinary
        mapping[key] = _value(parser, following(), depth + 1)
    return mapping


def _scalar(event: Any) -> Any:
    if event.anchor or event.tag or event.style in _BLOCKS:
        raise _NotOrdinary
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text in _OTHERS:
        raise _NotOrdinary
    if text[0] not in _NUMERIC or _WORD.fullmatch(text):
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _DATE.fullmatch(text):
        return date.fromisoformat(text)
    raise _NotOrdinary
