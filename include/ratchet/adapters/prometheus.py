"""Samples in the words of Prometheus, by its own client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratchet.domain.instruments import INSTRUMENTS, Sample


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def exposition(samples: Iterable[Sample]) -> bytes:
    """The text that Prometheus scrapes (format 0.0.4): each instrument that has samples, with its help."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for sample in samples:
        one = INSTRUMENTS[sample.name]
        family = families.get(sample.name)
        if family is None:
            make = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            family = families[sample.name] = make(one.name.removesuffix("_total"), one.help, labels=one.labels)
        family.add_metric(sample.labels, sample.value)
    registry = CollectorRegistry()
    registry.register(_Once(families.values()))
    return generate_latest(registry)
