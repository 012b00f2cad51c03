"""Records that nobody should send, and some that one may: by Hypothesis and by mutation of valid ones, from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratchet.domain.event_schemas import event_schema
from ratchet.domain.events import INBOUND

Headers = tuple[tuple[str, bytes | None], ...]
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json"),)
EXAMPLES = {kind: json.dumps(event_schema(kind)["examples"][0]) for kind in INBOUND}
LARGE_EVERY = 500
"""One record in so many is a megabyte, so that they come evenly."""


@dataclass(frozen=True)
class Hostile:
    """One record, and the name of what made it."""

    made_by: str
    key: bytes | None
    value: bytes | None
    headers: Headers = STRUCTURED


class NotText(str):
    """A header's name that goes over the wire as the byte 0xff: kafka-python writes what ``encode`` says."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b"ce_\xff" + super().encode()


def storm(seed: int, count: int) -> list[Hostile]:
    """``count`` records, the same for the same seed: a tenth each by Hypothesis and as they should be."""
    rng = random.Random(seed)
    by_hypothesis = iter(_examples(count // 10))
    records = []
    for number in range(count):
        if number % LARGE_EVERY == 7:
            records.append(rng.choice(LARGE)(rng))
        elif number % 10 == 0:
            records.append(next(by_hypothesis))
        elif number % 10 == 1:
            records.append(valid(rng))
        elif number % 10 < 5:
            records.append(rng.choice(TRICKS)(rng))
        else:
            records.append(_mutated(rng))
    return records


# -- valid ones --------------------------------------------------------------------------------------------------------


def _example(kind: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(EXAMPLES[kind])
    return event


def body(rng: random.Random, **changes: Any) -> dict[str, Any]:
    kind = rng.choice([*INBOUND])
    return _example(kind) | {"id": f"hostile-{rng.getrandbits(64):x}"} | changes


def valid(rng: random.Random) -> Hostile:
    event = body(rng)
    return (_structured if rng.random() < 0.5 else _binary)("valid", event)


def _structured(made_by: str, event: dict[str, Any], headers: Headers = STRUCTURED) -> Hostile:
    return Hostile(made_by, str(event.get("subject")).encode("utf-8", "replace"), json.dumps(event).encode(), headers)


def _binary(made_by: str, event: dict[str, Any], *more: tuple[str, bytes | None]) -> Hostile:
    attributes = {name: str(value).encode("utf-8", "replace") for name, value in event.items() if name != "data"}
    headers = tuple((f"ce_{name}", value) for name, value in attributes.items())
    return Hostile(made_by, attributes.get("subject"), json.dumps(event.get("data")).encode(), (*headers, *more))


# -- mutation of bytes -------------------------------------------------------------------------------------------------


def _mutated(rng: random.Random) -> Hostile:
    record = valid(rng)
    value = bytearray(record.value or b"")
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(value) + 1)
        to = min(len(value), at + rng.choice((1, 2, 8, 64)))
        match rng.randrange(7):
            case 0:
                value[at:to] = b""
            case 1:
                value[at:at] = rng.randbytes(rng.choice((1, 3, 17)))
            case 2 if at < len(value):
                value[at] ^= 1 << rng.randrange(8)
            case 3:
                value[at:at] = value[at:to]
            case 4:
                del value[at:]
            case 5:
                value[at:to] = rng.choice(
                    (b"\xff\xfe", b"\x00", b'"', b"\\", b"}{", b"1e999", b"NaN", b"null", b"\xed\xa0\x80")
                )
            case 6:
                other = valid(rng).value or b""
                value[at:] = other[min(at, len(other)) :]
    headers = list(record.headers)
    if rng.random() < 0.2:
        at = rng.randrange(len(headers))
        name, content = headers[at]
        headers[at] = rng.choice(((name, rng.randbytes(6)), (name, b""), (name[:-1], content), (name.upper(), content)))
    return replace(record, made_by="mutated", value=bytes(value), headers=tuple(headers))


# -- tricks ------------------------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    None, True, [], {}, "", "x" * 256, "x" * 3000, "\0", "a\0b", -1, 0, 1.5, 2**53 + 1, -(2**53) - 1, 2**64, 10**400,
    1e300, -1e308, "2013-05-08", "2013-13-45T99:99:99Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
    {"a": {"b": [[[]]]}}, [1] * 100, "\u202e", "🂡" * 255, "'; DROP TABLE event; --", "%s%n{0}", "../../etc/passwd",
)  # fmt: skip
SUBJECTS = ("nobody", "Flight_Delay", "flight_delay ", "flight\u200bdelay", "x" * 255, "é" * 255, "'", "%", "\\")


def _wrong_value(rng: random.Random) -> Hostile:
    event = body(rng)
    target = event["data"] if rng.random() < 0.6 else event
    target[rng.choice([*target, "extra"])] = rng.choice(WRONG)
    return _structured("wrong value", event)


def _missing_field(rng: random.Random) -> Hostile:
    event = body(rng)
    target = event["data"] if rng.random() < 0.5 else event
    del target[rng.choice([*target])]
    return _structured("missing field", event)


def _raw_number(rng: random.Random) -> Hostile:
    number = rng.choice(
        (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x10", b"1_000", b"01", b"9" * 5000, b".5")
    )
    value = json.dumps(body(rng, extra="@")).encode().replace(b'"@"', number)
    return Hostile("raw number", b"k", value)


def _nested(rng: random.Random) -> Hostile:
    depth = rng.choice((6, 15, 16, 17, 18, 1000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nest = opening * depth + (b"1" if opening != b"[" else b"") + (closing * depth if rng.random() < 0.7 else b"")
    if rng.random() < 0.3:
        return Hostile("nested", b"k", nest)
    return Hostile("nested", b"k", json.dumps(body(rng) | {"data": "@"}).encode().replace(b'"@"', nest))


def _not_utf8(rng: random.Random) -> Hostile:
    bad = rng.choice(
        (b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\\ud800", b"\\udc00\\ud800", b"\\u0000")
    )
    return Hostile("not UTF-8", bad, json.dumps(body(rng, source="@@@@")).encode().replace(b"@@@@", bad))


def _duplicate_keys(rng: random.Random) -> Hostile:
    text = json.dumps(body(rng))
    name = rng.choice(("id", "subject", "data", "type", "specversion", "time"))
    return Hostile("duplicate keys", b"k", (text[:-1] + f', "{name}": {json.dumps(rng.choice(WRONG))}}}').encode())


def _no_event(rng: random.Random) -> Hostile:
    values = (
        None,
        b"",
        b" ",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b"\xef\xbb\xbf{}",
        b"\x00\x00\x00\x00\x01avro",
        b"{" * 9,
    )
    return Hostile(
        "no event", rng.choice((None, b"", b"k", b"\xff" * 300)), rng.choice(values), rng.choice((STRUCTURED, ()))
    )


def _headers(rng: random.Random) -> Hostile:
    odd: tuple[tuple[str, bytes | None], ...] = (
        ("content-type", b"application/cloudevents-batch+json"),
        ("content-type", b"application/cloudevents-batch\0"),
        ("content-type", b"application/cloudevents+avro"),
        ("content-type", b"text/plain"),
        ("content-type", b"\xff\xfe"),
        ("content-type", b";" * 5000),
        ("ce_id", b"twice"),
        ("CE_ID", b"twice"),
        ("ce_", b"no name"),
        ("ce_\0", b"NUL in the name"),
        ("ce_tenant", b"a\0b"),
        ("ce_tenant", b"\xff"),
        ("\0", b"NUL alone"),
        ("", b""),
        ("a\r\nb: c", b"\r\n"),
        ("ratchet-reason", b"forged"),
        ("x" * 5000, b"y" * 5000),
        ("\U0001f0a1", b"\x00\x01"),
        (NotText("header"), b"the name is not UTF-8"),
        (NotText("\0"), b"nor without NUL"),
    )
    more = tuple(rng.choice(odd) for _ in range(rng.choice((1, 1, 2, 5))))
    return _binary("headers", body(rng), *more) if rng.random() < 0.7 else _structured("headers", body(rng), more)


def _subject(rng: random.Random) -> Hostile:
    return replace(_structured("subject", body(rng, subject=rng.choice(SUBJECTS))), key=b"another key")


def _same_id(rng: random.Random) -> Hostile:
    """One of eight ids: the same content again, or other content."""
    event = _example("ratchet.drift.cleared.v1") | {"id": f"again-{rng.randrange(8)}"}
    event["data"] = event["data"] | {"note": rng.randrange(2)}
    return (_structured if rng.random() < 0.5 else _binary)("same id", event)


def _long_id(rng: random.Random) -> Hostile:
    return _structured(
        "long id", body(rng, id=f"{rng.getrandbits(64):016x}".ljust(rng.choice((200, 201, 255, 256)), "é"))
    )


TRICKS: tuple[Callable[[random.Random], Hostile], ...] = (
    _wrong_value, _wrong_value, _missing_field, _raw_number, _nested, _not_utf8, _duplicate_keys, _no_event, _headers,
    _headers, _subject, _same_id, _long_id,
)  # fmt: skip


def _megabyte_of_text(rng: random.Random) -> Hostile:
    size = rng.choice((990_000, 1_000_000, 1_040_000))
    return _structured("a megabyte of text", body(rng) | {"data": {"reason": "x" * size, "actor": "ada"}})


def _megabyte_of_brackets(rng: random.Random) -> Hostile:
    return Hostile("a megabyte of brackets", b"k", rng.choice((b"[", b'{"a":', b"[]", b"{}")) * 160_000)


def _megabyte_of_headers(_rng: random.Random) -> Hostile:
    return Hostile("a megabyte of headers", b"k", b"{}", tuple((f"ce_{n}", b"x" * 10_000) for n in range(101)))


def _megabyte_of_fields(rng: random.Random) -> Hostile:
    event = body(rng)
    event["data"] |= {f"field {n}": n for n in range(40_000)}
    return _structured("a megabyte of fields", event)


LARGE = (_megabyte_of_text, _megabyte_of_brackets, _megabyte_of_headers, _megabyte_of_fields)


# -- by Hypothesis -----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
attributes = st.sampled_from([*_example("ratchet.drift.detected.v1"), "data_base64", "tenant"])
kinds = st.sampled_from([*INBOUND])
some_headers = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "ce_id", "ce_type", "ce_specversion"]) | st.text(max_size=12),
        st.binary(max_size=30),
    ),
    max_size=4,
)
changed_events = st.builds(
    lambda kind, changes: json.dumps(_example(kind) | changes).encode(),
    kinds,
    st.dictionaries(attributes, json_values, max_size=3),
)
hostile_records: st.SearchStrategy[Hostile] = st.builds(
    lambda key, value, headers: Hostile("Hypothesis", key, value, tuple(headers)),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()) | changed_events,
    st.just(list(STRUCTURED)) | some_headers,
)


def _examples(count: int) -> Iterator[Hostile]:
    """``count`` examples of ``hostile_records``, the same in every run."""
    found: list[Hostile] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile_records)
    def collect(record: Hostile) -> None:
        found.append(record)

    collect()
    for number in range(count):
        yield found[number % len(found)]
