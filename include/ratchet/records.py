"""Small typed records that cross process borders (XCom, the ledger, the demo's report); JSON-able, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

RunType = Literal["manual", "scheduled", "asset_triggered"]


@dataclass(frozen=True)
class RunContext:
    """Who started a DAG run and with what: the orchestrator's words, free of its classes.

    ``conf`` is the form as the user sent it; unknown keys are refused by the claim, not here.
    """

    dag_id: str
    dag_run_id: str
    run_type: RunType
    actor: str | None = None
    conf: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RawRecord:
    """One Kafka record as it came: every offset has exactly one row in the ledger."""

    cluster: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
