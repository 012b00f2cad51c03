"""No row of a model is read while its spec does not allow a column that its rows would hold and that is sensitive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from ratchet.domain.rehearsal import SourceDay
from ratchet.domain.sensitive import AllowedColumn, TaggedColumn, rule_columns
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.features import Features


def allowed_columns(features: Features, spec: ModelSpec) -> tuple[AllowedColumn, ...]:
    """The sensitive columns that rows of the spec hold by its word; none of them is read here.

    Raises:
        Refused: one is not allowed, or an entry allows what is not there; the message has a line for each problem.

    """
    ruling = rule_columns(spec, features.tagged(spec))
    if ruling.problems:
        said = "\n".join(f"{spec.model}: {problem}" for problem in ruling.problems)
        raise Refused(f"{said}\nNothing was read. Run: ratchet validate {spec.model}")
    return ruling.allowed


def recorded(allowed: tuple[AllowedColumn, ...]) -> dict[str, Any]:
    """What a manifest and the audit log say of them; nothing where there are none."""
    return {"sensitive": [asdict(column) | {"tags": list(column.tags)} for column in allowed]} if allowed else {}


def in_words(record: Mapping[str, Any]) -> list[str]:
    """The columns of a manifest, or of an entry of the audit log, a sentence each."""
    return [str(AllowedColumn(**each | {"tags": tuple(each["tags"])})) for each in record.get("sensitive", ())]


class GuardedFeatures:
    """Features that give no row of a spec which :func:`allowed_columns` refuses, whoever asks."""

    def __init__(self, features: Features) -> None:
        self._features = features

    def days(self, spec: ModelSpec) -> list[SourceDay]:
        """See the port."""
        allowed_columns(self._features, spec)
        return self._features.days(spec)

    def spine(self, spec: ModelSpec, *, as_of: datetime, start: date, end: date) -> Any:
        """See the port."""
        allowed_columns(self._features, spec)
        return self._features.spine(spec, as_of=as_of, start=start, end=end)

    def entities(self, spec: ModelSpec, *, start: date, end: date) -> Any:
        """See the port."""
        allowed_columns(self._features, spec)
        return self._features.entities(spec, start=start, end=end)

    def historical(self, spec: ModelSpec, spine: Any) -> Any:
        """See the port."""
        allowed_columns(self._features, spec)
        return self._features.historical(spec, spine)

    def feature_names(self, spec: ModelSpec) -> tuple[str, ...]:
        """See the port."""
        return self._features.feature_names(spec)

    def tagged(self, spec: ModelSpec) -> tuple[TaggedColumn, ...]:
        """See the port."""
        return self._features.tagged(spec)

    def apply(self) -> None:
        """See the port."""
        self._features.apply()

    def describe(self, spec: ModelSpec) -> dict[str, Any]:
        """See the port."""
        return self._features.describe(spec)
