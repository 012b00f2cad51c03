"""A log line says what it is about, in our own JSON and in Airflow's."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import structlog

from ratchet.errors import Refused
from ratchet.logs import JsonFormatter, about
from ratchet.settings import load_settings

logger = logging.getLogger("ratchet.test")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    return caplog


def last(lines: pytest.LogCaptureFixture) -> dict[str, str]:
    return dict(json.loads(lines.text.splitlines()[-1]))


def test_a_line_is_json_with_the_ids_of_what_it_is_about(lines: pytest.LogCaptureFixture) -> None:
    with about(model="m", attempt="m.7", event_id="w-1", run_id="asset__1", trace_id="0af7"):
        logger.warning("kept: %s", "the champion\nstays")
    line = last(lines)
    assert line["event"] == "kept: the champion\nstays"
    assert (line["level"], line["logger"]) == ("warning", "ratchet.test")
    assert (line["model"], line["attempt"], line["event_id"], line["run_id"]) == ("m", "m.7", "w-1", "asset__1")
    assert line["timestamp"].endswith("+00:00")


def test_what_is_inside_adds_and_what_is_over_is_forgotten(lines: pytest.LogCaptureFixture) -> None:
    with about(model="m"):
        with about(attempt="m.7", model=None):
            logger.info("inside")
        assert {"model": "m", "attempt": "m.7"}.items() <= last(lines).items()
        logger.info("outside")
        assert "attempt" not in last(lines)
    logger.info("nothing")
    assert "model" not in last(lines)


def test_an_exception_is_on_the_same_line(lines: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("no rows")  # noqa: TRY301
    except ValueError:
        logger.exception("failed")
    assert "ValueError: no rows" in last(lines)["exception"]


def test_airflows_lines_have_the_same_ids() -> None:
    with about(model="m", attempt="m.7"):
        assert structlog.contextvars.get_contextvars() == {"model": "m", "attempt": "m.7"}
    assert structlog.contextvars.get_contextvars() == {}


def test_where_there_is_no_structlog_nothing_is_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "structlog")
    with about(model="m"):
        pass
    assert "structlog" not in sys.modules


def test_the_format_is_one_of_two(tmp_path: Path) -> None:
    base = {"RATCHET_HOME": str(tmp_path)}
    assert load_settings(base).log_format == "text"
    assert load_settings(base | {"RATCHET_LOG_FORMAT": "JSON"}).log_format == "json"
    with pytest.raises(Refused, match="RATCHET_LOG_FORMAT must be text or json, but got 'yaml'"):
        load_settings(base | {"RATCHET_LOG_FORMAT": "yaml"})
