"""Where spans go. Nothing that goes wrong there reaches whoever tells them, and telling waits for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ratchet.domain.tracing import Span


class Telemetry(Protocol):
    """Takes spans. No method raises."""

    @property
    def on(self) -> bool:
        """Whether anybody listens: what is made for telling alone need not be made else."""
        ...

    def emit(self, spans: Iterable[Span]) -> None:
        """Take spans that have ended; those of a trace that is not sampled are dropped, and so is what overflows."""
        ...

    def flush(self) -> None:
        """Give what was taken a moment to be told: before a short-lived process ends. Bounded, whoever listens."""
        ...


class NoTelemetry:
    """Nobody listens."""

    on = False

    def emit(self, spans: Iterable[Span]) -> None:
        """Forget them."""

    def flush(self) -> None:
        """Nothing is kept."""


NOBODY = NoTelemetry()


class InMemoryTelemetry:
    """Keeps spans, for tests."""

    on = True

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def emit(self, spans: Iterable[Span]) -> None:
        """Keep them."""
        self.spans += [span for span in spans if span.context.sampled]

    def flush(self) -> None:
        """All are kept."""
