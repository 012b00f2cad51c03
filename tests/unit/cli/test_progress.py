"""What is said while something takes its time: nothing at first, then what, on standard error."""

from __future__ import annotations

import time

import pytest

from ratchet.cli import progress
from ratchet.cli.progress import working


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)


def test_what_is_quick_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with working("counting"):
        pass
    assert capfd.readouterr() == ("", "")


def test_what_is_slow_says_what_it_does_and_how_far_it_is_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with working("counting") as tell:
        tell("one of two")
        time.sleep(0.3)
        tell("two of two")
        time.sleep(0.3)
    told = capfd.readouterr()
    assert told.out == ""
    lines = [line.split(" (")[0].strip() for line in told.err.splitlines()]
    assert lines == ["… counting", "… counting: one of two", "… counting: two of two"]


def test_an_error_ends_the_telling_and_is_not_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    def divide() -> None:
        with working("dividing"):
            time.sleep(0.1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        divide()
    before = capfd.readouterr().err
    time.sleep(0.1)
    assert before
    assert capfd.readouterr().err == ""
