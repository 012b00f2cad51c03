"""``ratchet.events`` on a real broker: what a monitoring job published is there, and reads back as what was told."""

from __future__ import annotations

import contextlib
import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ratchet import events
from ratchet.adapters.connections import parse_uri
from ratchet.adapters.kafka_bus import KafkaBus
from ratchet.domain.events import parse
from ratchet.ports.bus import DATA_ARRIVAL, DRIFT
from ratchet.records import RawRecord

BOOTSTRAP = os.environ.get("RATCHET_TEST_KAFKA_BOOTSTRAP", "")
pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(not BOOTSTRAP, reason="scripts/integration-tests names a broker"),
]
NOBODY = "nobody_listens"
"""No model and no dataset of the running stack: its pump hears these events too, and its calendar must not move."""
MIDNIGHT = datetime(2013, 7, 1, tzinfo=UTC)
DRIFTED = events.DriftDetected(
    check="weather_drift", severity=0.6, window_start=MIDNIGHT - timedelta(days=1), window_end=MIDNIGHT
)


def published(since: datetime, topic: str, source: str) -> list[RawRecord]:
    """What this run published, in the order of the partitions."""
    with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as bus:
        records = [record for batch in bus.published_since(since, topic) for record in batch]
    return [record for record in records if source in f"{record.value!r}{record.headers}"]


@pytest.fixture
def run() -> tuple[str, datetime]:
    """A source of this run's own, and when it began: the topics are shared."""
    with contextlib.closing(KafkaBus(parse_uri(f"kafka://{BOOTSTRAP}"))) as bus:
        bus.ensure_topics()
    return f"/monitors/{uuid.uuid4().hex}", datetime.now(UTC) - timedelta(seconds=1)


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_one_call_publishes_one_event_that_reads_back_as_it_was_told(run: tuple[str, datetime], mode: Any) -> None:
    source, began = run
    told = events.publish(
        DRIFTED, subject=NOBODY, source=source, id="weather-1", time=MIDNIGHT, mode=mode, broker=BOOTSTRAP
    )
    (record,) = published(began, DRIFT, source)
    event = parse(record.value, record.headers)
    assert told == "weather-1"
    assert (event.id, event.source, event.subject, event.time) == ("weather-1", source, NOBODY, MIDNIGHT)
    assert event.data == DRIFTED
    assert record.key == NOBODY.encode()


def test_many_events_go_over_one_connection_and_a_bad_one_keeps_all_back(run: tuple[str, datetime]) -> None:
    source, began = run
    arrived = events.DataArrived(dataset=NOBODY, complete_until=MIDNIGHT, new_rows=800)
    good = [events.Observation(arrived, id=str(number), source=source) for number in range(50)]
    bad = events.Observation(DRIFTED, id="no-model", source=source)
    with events.Publisher(BOOTSTRAP) as publisher:
        with pytest.raises(events.EventRejected, match="name the model"):
            publisher.publish([*good, bad])
        assert published(began, DATA_ARRIVAL, source) == []
        assert publisher.publish(good) == [str(number) for number in range(50)]
    found = [parse(record.value, record.headers).id for record in published(began, DATA_ARRIVAL, source)]
    assert found == [str(number) for number in range(50)], "one dataset is one key, so their order holds"
