"""What is published during a chaos run: a seeded stream over all models, each record with its fate-to-be in a header.

Business days pass ``FRESH_DAYS`` per beat, so that verdicts do not lack days before the year ends.
Between two arrivals comes everything else that monitoring systems send, also what they should not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from small_fleet import FIRST_AS_OF, FRESH_DAYS, LAST_DAY

from ratchet.cli.year import DATASETS, Arrival, arrived, midnight
from ratchet.domain import events as cloudevents
from ratchet.ports.bus import DRIFT

SOURCE = "/tests/chaos"
ZONE = ZoneInfo("America/New_York")
EXPECTED = "chaos-expected"
"""The header that says what must become of a record: the source, the id, and the models that must have the event."""
CHECKS = ("delay_psi", "weather_psi", "score_ks")
MOST_BEATS = (LAST_DAY - FIRST_AS_OF).days // FRESH_DAYS
KINDS = {
    "drift": 52,
    "mild": 12,
    "cleared": 8,
    "performance": 4,
    "request": 4,
    "duplicate": 8,
    "contradiction": 3,
    "malformed": 6,
    "stranger": 3,
}
"""How often, of a hundred."""
MALFORMED = (
    b"",
    b"\xff\xfe\x00",
    b'{"specversion": "1.0", "id":',
    b"[1, 2, 3]",
    b'{"specversion": "0.3"}',
    b'{"a":' * 200 + b"1" + b"}" * 200,
)


@dataclass(frozen=True)
class Publication:
    """One record and when to send it, in beats since the burst began."""

    at: float
    topic: str
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def expectation(headers: Sequence[tuple[str, bytes]]) -> tuple[str, str, tuple[str, ...]]:
    """Source, id and models, as read back from the broker; no model: it must be rejected."""
    source, event_id, models = json.loads(dict(headers)[EXPECTED])
    return source, event_id, tuple(models)


def first_days(models: Sequence[str]) -> list[Publication]:
    """The data that the first champions are made of."""
    return _arrivals(0.0, Arrival(date(2013, 1, 1), FIRST_AS_OF), models)


def stream(seed: int, models: Sequence[str], per_beat: int) -> Iterator[Publication]:
    """Records by time until the year is over: ``per_beat`` in each of ``MOST_BEATS`` beats, half of them at once."""
    chance = random.Random(seed)
    earlier: list[Publication] = []
    for beat in range(MOST_BEATS):
        day = FIRST_AS_OF + beat * timedelta(days=FRESH_DAYS)
        after = day + timedelta(days=FRESH_DAYS)
        now = midnight(after, ZONE)
        news = _arrivals(float(beat), Arrival(day, after), models)
        burst_at = beat + chance.random()
        good = []
        for number in range(per_beat - len(news)):
            at = burst_at if chance.random() < 0.5 else beat + chance.random()
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            if kind in {"duplicate", "contradiction"} and not earlier:
                kind = "drift"
            one = _one(chance, kind, f"{kind}-{seed}-{beat}-{number}", at, now, models, earlier)
            news.append(one)
            if kind == "drift":
                good.append(one)
        earlier += good
        yield from sorted(news, key=lambda each: each.at)


def _one(
    chance: random.Random,
    kind: str,
    name: str,
    at: float,
    now: datetime,
    models: Sequence[str],
    earlier: Sequence[Publication],
) -> Publication:
    model = chance.choice(models)
    window_end = now - timedelta(minutes=chance.randrange(0, 48 * 60))
    window = {"window_start": window_end - timedelta(days=1), "window_end": window_end}
    check = chance.choice(CHECKS)
    if kind == "duplicate":
        known = chance.choice(earlier)
        return Publication(at, known.topic, known.key, known.value, known.headers)
    if kind == "contradiction":
        _, known_id, (model,) = expectation(chance.choice(earlier).headers)
        data = cloudevents.DriftDetected(check="contradiction", severity=0.99, **window)
        return _event(at, data, model, known_id, now, ())
    if kind == "malformed":
        return Publication(at, DRIFT, model.encode(), chance.choice(MALFORMED), _expected(name, ()))
    if kind == "stranger":
        data = cloudevents.RetrainRequested(reason="nobody knows me", actor="chaos")
        return _event(at, data, "no_such_model", name, now, ())
    said: dict[str, cloudevents.InboundData] = {
        "drift": cloudevents.DriftDetected(check=check, severity=chance.uniform(0.3, 1.0), **window),
        "mild": cloudevents.DriftDetected(check=check, severity=chance.uniform(0.0, 0.29), **window),
        "cleared": cloudevents.DriftCleared(check=check, window_end=window_end),
        "performance": cloudevents.PerformanceDegraded(metric="payoff", value=1.0, threshold=2.0, window_end=now),
        "request": cloudevents.RetrainRequested(reason=f"chaos asks: {name}", actor="chaos"),
    }
    return _event(at, said[kind], model, name, now, (model,), binary=chance.random() < 0.3)


def _arrivals(at: float, piece: Arrival, models: Sequence[str]) -> list[Publication]:
    rows = 90 * (piece.end - piece.start).days
    said = [(name, arrived(piece, name, rows, ZONE)) for name in DATASETS]
    return [_event(at, d, name, f"{name}-{piece.end}", d.complete_until, tuple(models)) for name, d in said]


def _event(
    at: float,
    data: cloudevents.InboundData,
    subject: str,
    event_id: str,
    time: datetime,
    models: tuple[str, ...],
    *,
    binary: bool = False,
) -> Publication:
    event = cloudevents.new_event(data, id=event_id, source=SOURCE, subject=subject, time=time)
    key, value, headers = cloudevents.to_record(event, mode="binary" if binary else "structured")
    return Publication(at, event.topic, key, value, (*headers, *_expected(event_id, models)))


def _expected(event_id: str, models: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    return ((EXPECTED, json.dumps([SOURCE, event_id, models]).encode()),)
