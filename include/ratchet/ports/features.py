"""Features as known at the decision: what a snapshot asks for."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Protocol

from ratchet.domain.rehearsal import SourceDay
from ratchet.domain.sensitive import TaggedColumn
from ratchet.domain.spec import ModelSpec


class Features(Protocol):
    """Spines and point-in-time features; tables are ``pyarrow.Table``."""

    def days(self, spec: ModelSpec) -> list[SourceDay]:
        """The local days of the spine's source that have rows, in order, each with how many of them have labels."""
        ...

    def spine(self, spec: ModelSpec, *, as_of: datetime, start: date, end: date) -> Any:
        """Labelled decisions of the local days ``[start, end)`` whose labels are mature at ``as_of``."""
        ...

    def entities(self, spec: ModelSpec, *, start: date, end: date) -> Any:
        """All decisions of the local days ``[start, end)``, labelled or not, as they are to be scored."""
        ...

    def historical(self, spec: ModelSpec, spine: Any) -> Any:
        """All rows of a spine or of ``entities``, each with the service's features as known at its ``decided_at``."""
        ...

    def feature_names(self, spec: ModelSpec) -> tuple[str, ...]:
        """The service's features in order."""
        ...

    def tagged(self, spec: ModelSpec) -> tuple[TaggedColumn, ...]:
        """Every column that rows of the spec would hold and that is tagged ``pii`` or ``secret``; no row is read."""
        ...

    def apply(self) -> None:
        """Bring the feature registry up to date; repeatable."""
        ...

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        """What a manifest pins of the feature repository: all that rows of the spec are made of, and no more."""
        ...
