"""What a log line is about: model, attempt, event, run and trace, beside the message, wherever it is logged below.

In Airflow's processes the names go into structlog's context, so that Airflow's own JSON has them; nothing is imported
for it. Our own commands write JSON where ``RATCHET_LOG_FORMAT`` says so.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

_about: ContextVar[Mapping[str, str]] = ContextVar("ratchet_about", default=MappingProxyType({}))
NAMES = ("model", "attempt", "event_id", "run_id", "trace_id")
"""The names that a line may bear; those that are not known are left out."""


@contextmanager
def about(**named: str | None) -> Iterator[None]:
    """Name what is logged within; what is None is left as it was."""
    known = {name: value for name, value in named.items() if value is not None}
    before = _about.set({**_about.get(), **known})
    structlog = sys.modules.get("structlog")
    try:
        with structlog.contextvars.bound_contextvars(**known) if structlog else nullcontext():
            yield
    finally:
        _about.reset(before)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, by the names of Airflow's own: ``timestamp``, ``level``, ``logger``, ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_about.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(log_format: str) -> None:
    """Have this process log as it is asked to: ``json`` lines on stderr from level INFO, or ``text`` as ever."""
    if log_format == "json":
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
