"""How long a deployment keeps rows that are of no model: for ever unless it says so, and never less than Kafka."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ratchet.errors import Refused
from ratchet.settings import load_settings

NAMES = ("RATCHET_RETENTION_ROWS", "RATCHET_RETENTION_DEAD_LETTERS")


def test_all_is_kept_unless_it_is_said(tmp_path) -> None:
    settings = load_settings({"RATCHET_HOME": str(tmp_path)})
    assert (settings.retention_rows, settings.retention_dead_letters, settings.sweep_purges) == (None, None, None)


def test_each_is_read(tmp_path) -> None:
    told = dict.fromkeys(NAMES, "90d") | {"RATCHET_SWEEP_PURGES": "20000"}
    settings = load_settings({"RATCHET_HOME": str(tmp_path)} | told)
    assert settings.retention_rows == settings.retention_dead_letters == timedelta(days=90)
    assert settings.sweep_purges == 20_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("text", "said"),
    [("29d", "must be 30d or longer, as long as Kafka .* but got 29d"), ("a month", "a duration is written like")],
)
def test_less_than_kafka_keeps_and_what_is_no_duration_is_refused(tmp_path, name: str, text: str, said: str) -> None:
    with pytest.raises(Refused, match=rf"{name}.*{said}"):
        load_settings({"RATCHET_HOME": str(tmp_path), name: text})


def test_a_sweep_that_is_to_remove_no_row_is_refused(tmp_path) -> None:
    with pytest.raises(Refused, match="RATCHET_SWEEP_PURGES must be a whole number from 1"):
        load_settings({"RATCHET_HOME": str(tmp_path), "RATCHET_SWEEP_PURGES": "0"})
