"""Translations: what monitoring systems say in their own words, as Ratchet's events.

:func:`translate` takes one payload of one system, and the little that the caller has to add, and gives the events, in
the payload's order, checked as if they had come from Kafka. It reads nothing else: no file, no clock, no network. The
same payload with the same additions gives the same events with the same ids, so that a repetition changes nothing, and
nothing but :class:`Untranslatable` is raised. Texts are data: they are shortened, never interpreted.

Each module beside this one is one system (Grafana's webhook is Alertmanager's with more in it) and says what it
recognises and how it maps; ``severity`` is the scale that they share. ``docs/monitoring-systems.md`` is the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches

import msgspec

from ratchet.domain.events import Announcement, EventRejected, new_event
from ratchet.domain.translations import alerts, evidently, great_expectations, nannyml, sagemaker, vertex
from ratchet.domain.translations.payload import MAX_BYTES, Given, Told, Translator, Untranslatable, read

__all__ = ["MAX_BYTES", "MAX_EVENTS", "SYSTEMS", "Given", "Untranslatable", "source_of", "translate"]

MAX_EVENTS = 1000
NOTHING_GIVEN = Given()

SYSTEMS: Mapping[str, Translator] = {
    "alertmanager": lambda payload, given: alerts.told(read(payload, alerts.AlertmanagerWebhook), given),
    "evidently": evidently.translate,
    "grafana": lambda payload, given: alerts.told(read(payload, alerts.GrafanaWebhook), given),
    "great-expectations": great_expectations.translate,
    "nannyml": nannyml.translate,
    "sagemaker": sagemaker.translate,
    "vertex": vertex.translate,
}

_CANONICAL = msgspec.json.Encoder(order="deterministic")


def source_of(system: str) -> str:
    """The ``source`` of the events of a system, unless the caller names another."""
    return f"/monitors/{system}"


def translate(
    system: str,
    payload: bytes,
    given: Given = NOTHING_GIVEN,
    *,
    source: str | None = None,
) -> tuple[Announcement, ...]:
    """The events that a payload of ``system`` (one of ``SYSTEMS``) tells, each once; none where it tells nothing.

    ``source`` is who speaks; :func:`source_of` the system when left out. An event's id is the sender's own name for it
    (an alert's fingerprint, the check) and a digest of all that it says, so that a payload that says something else is
    another event and never one with other content under a known id.
    """
    translator = SYSTEMS.get(system)
    if translator is None:
        near = get_close_matches(system, SYSTEMS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SYSTEMS)}"
        raise Untranslatable("the system", "unknown_system", repr(system[:40]), remedy)
    if len(payload) > MAX_BYTES:
        raise Untranslatable("", "oversized", f"{len(payload):,} bytes", f"keep a payload within {MAX_BYTES:,} bytes")
    told = translator(payload, given)
    if len(told) > MAX_EVENTS:
        raise Untranslatable("", "too_many", f"{len(told):,} events", f"send at most {MAX_EVENTS:,} at once")
    events = (_event(each, source or source_of(system)) for each in told)
    return tuple({event.id: event for event in events}.values())


def _event(told: Told, source: str) -> Announcement:
    said = _CANONICAL.encode((told.key, told.model, type(told.data).__name__, told.time, told.data))
    digest = hashlib.sha256(said).hexdigest()[:16]
    key = told.key if len(told.key) <= 200 else told.key[:200]
    try:
        return new_event(told.data, id=f"{key}:{digest}", source=source, subject=told.model, time=told.time)
    except EventRejected as error:
        raise Untranslatable(told.where, "bad_data", error.got, error.remedy) from None
