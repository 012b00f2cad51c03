"""What every translator shares: what the caller adds, how a payload is read, what is told of it, and the one error."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

import msgspec

from ratchet.domain.events import MAX_TEXT, DriftCleared, DriftDetected, InboundData
from ratchet.errors import Refused

MAX_BYTES = 8_000_000
"""A workspace's snapshot with its charts is a tenth of this."""
MAX_URI = 2000
ONE_DAY = timedelta(days=1)
GUIDE = "docs/monitoring-systems.md"

Rule = Literal[
    "unknown_system",
    "oversized",
    "not_json",  # malformed, truncated, not UTF-8
    "not_csv",
    "too_deep",
    "wrong_shape",  # a field is missing or of another type than the system's documentation says
    "bad_text",  # empty where a name is needed, or characters no database can store
    "bad_time",
    "bad_data",  # what the payload says makes no event that Ratchet would accept
    "no_model",
    "other_model",  # the payload names one, the caller another
    "no_window",  # the payload has no time, and the caller gave none
    "given_twice",  # the caller says what the payload itself says
    "no_verdict",  # nothing in it was judged
    "unsupported",
    "too_many",
]
_Shape = TypeVar("_Shape")


class Untranslatable(Refused):
    """A payload that cannot be told as events: ``where`` in it (a JSON pointer), ``rule``, ``got``, ``remedy``."""

    def __init__(self, where: str, rule: Rule, got: str, remedy: str) -> None:
        super().__init__(f"{where or 'the payload'}: {rule}: got {got}; {remedy}")
        self.where = where
        self.rule = rule
        self.got = got
        self.remedy = remedy


@dataclass(frozen=True)
class Given:
    """What the caller says of a payload, where the payload itself does not.

    ``window_end`` closes the window of data that a report is about (timezone-aware); ``window_start`` is a day before
    it when left out. ``check`` names the series of observations. ``evidence_uri`` is where a person finds the report.
    """

    model: str | None = None
    window_start: datetime | None = None
    window_end: datetime | None = None
    check: str | None = None
    evidence_uri: str | None = None

    def has_its_own(self, *names: Literal["window_start", "window_end", "check", "evidence_uri"]) -> None:
        """Refuse to be given what the payload says for each of its events."""
        for name in names:
            if getattr(self, name) is not None:
                raise Untranslatable("", "given_twice", name, "leave it out: each of its events says its own")

    def model_of(self, named: str | None, where: str) -> str:
        """The model: the payload's own word for it (found at ``where``), or the caller's. They may not differ."""
        own = name(named, where) if named else None
        given = name(self.model, "") if self.model is not None else None
        if (model := own or given) is None:
            raise Untranslatable(where, "no_model", "no model", "say which: --model, or as " + GUIDE + " has it")
        if given not in {None, model}:
            raise Untranslatable(
                where, "other_model", f"{model!r}, not {given!r}", "leave the model out, or correct it"
            )
        return model

    def window(self, ran_at: datetime | None, where: str) -> tuple[datetime, datetime]:
        """Start and end of the window of a report: the caller's, else a day until ``ran_at``, when it was made."""
        end = self.window_end or ran_at
        if end is None:
            raise Untranslatable(where, "no_window", "no time", "say what it looked at: --window-end")
        end = in_utc(end, where)
        try:
            start = self.window_start or end - ONE_DAY
        except OverflowError:
            start = end
        return in_utc(start, where), end


@dataclass(frozen=True)
class Told:
    """One event in the making: ``key`` is the sender's own name for it, ``where`` the place in the payload."""

    key: str
    model: str
    data: InboundData
    time: datetime
    where: str


def observed(
    check: str,
    how_bad: float | None,
    window: tuple[datetime, datetime],
    *,
    feature: str | None = None,
    evidence: str | None = None,
) -> DriftDetected | DriftCleared:
    """One look of a check at a window: drift of severity ``how_bad``, or an all-clear where that is None."""
    start, end = window
    if how_bad is None:
        return DriftCleared(check=check, window_end=end, evidence_uri=evidence)
    return DriftDetected(
        check=check, severity=how_bad, window_start=start, window_end=end, feature=feature, evidence_uri=evidence
    )


def read(payload: bytes, shape: type[_Shape]) -> _Shape:
    """The JSON payload as ``shape``; fields that the shape does not have are passed over.

    NaN and Infinity, which are no JSON but which Python writes, are read as null.
    """
    try:
        return msgspec.json.decode(payload, type=shape)
    except msgspec.ValidationError as error:
        raise _misshapen(error) from None
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        lenient = json.loads(payload.decode(), parse_constant=lambda _: None, parse_float=_finite)
        return msgspec.convert(lenient, shape)
    except msgspec.ValidationError as error:
        raise _misshapen(error) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Untranslatable("", "not_json", str(error)[:200], "send JSON in UTF-8") from None


def _finite(text: str) -> float | None:
    return value if math.isfinite(value := float(text)) else None


def _too_deep() -> Untranslatable:
    return Untranslatable("", "too_deep", "JSON nested beyond reading", f"send what the system sends: see {GUIDE}")


def _misshapen(error: msgspec.ValidationError) -> Untranslatable:
    said, _, path = str(error).partition(" - at `")
    keys = re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]", path.partition("[...]")[0])
    return Untranslatable(
        "".join(f"/{named or index}" for named, index in keys),
        "wrong_shape",
        said[:1].lower() + said[1:],
        f"send what the system sends: see {GUIDE}",
    )


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def name(value: str, where: str, *, most: int = MAX_TEXT) -> str:
    """Text from outside as the name of something: never empty; what is longer ends in a digest of the whole."""
    if not value.strip():
        raise Untranslatable(where, "bad_text", repr(value[:40]), "give it a name")
    if "\0" in value or not value.isprintable():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Untranslatable(where, "bad_text", "half of a surrogate pair", "send text as Unicode") from None
        if "\0" in value:
            raise Untranslatable(where, "bad_text", "the character U+0000", "leave it out")
    if len(value) <= most:
        return value
    return f"{value[: most - 9]}~{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def uri(value: str | None) -> str | None:
    """An address as evidence; one that cannot be told whole is left out."""
    if not value or len(value) > MAX_URI or not value.isprintable():
        return None
    return value


def in_utc(moment: datetime, where: str) -> datetime:
    """A moment in UTC; one without a zone is taken to be in UTC already."""
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise Untranslatable(where, "bad_time", moment.isoformat(), "times lie between 1970 and 2200") from None


def instant(text: str, where: str) -> datetime:
    """A moment written as ISO 8601, in UTC; without an offset it is taken to be in UTC."""
    try:
        return in_utc(datetime.fromisoformat(text), where)
    except ValueError:
        raise Untranslatable(where, "bad_time", repr(text[:40]), "write ISO 8601, like 2013-06-14T04:00:00Z") from None


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


Translator = Callable[[bytes, Given], list[Told]]
