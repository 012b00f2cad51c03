"""What listing commands print: for people, and for the next program in the pipe."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ratchet.cli.tables import print_rows

LONG = "unconfirmed: 1 of 2 confirmations (of last 3) of check weather_drift; waits for more [until] tomorrow " * 3
MOMENT = datetime(2013, 6, 14, 12, tzinfo=timezone(timedelta(hours=2)))


def test_a_row_is_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"id": "weather-1", "at": MOMENT, "reason": LONG}], ["id", "at", "reason"], as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "weather-1" in line]
    assert line.split(maxsplit=1)[1].strip() == f"2013-06-14 10:00:00Z   {LONG}".strip()


def test_programs_get_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"id": "a", "at": datetime(2013, 1, 1, tzinfo=UTC), "more": None}], ["id"], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"id": "a", "at": "2013-01-01 00:00:00+00:00", "more": None}]


def test_no_rows_are_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], ["id"], as_json=False)
    assert capsys.readouterr().out == "nothing yet\n"
