"""A step in another process: what goes in, what comes out, and that neither outlives the other."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from ratchet.adapters import own_process
from ratchet.adapters.connections import ConnectionInfo
from ratchet.adapters.environments import linked
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.own_process import STEPS, Answer, ask, failed
from ratchet.adapters.specs import SpecRefused, load_spec
from ratchet.bootstrap import Ratchet
from ratchet.domain.holdout import NotEnoughFreshDays
from ratchet.domain.rehearsal import Column, Rehearsal, Trial
from ratchet.domain.spec import Problem
from ratchet.errors import StaleAttempt, Unavailable
from ratchet.records import RunContext
from ratchet.settings import load_settings

SECRET = "not-for-others"
PACKAGE = Path(own_process.__file__).parents[1]


@pytest.fixture
def connections(tmp_path: Path) -> dict[str, ConnectionInfo]:
    """A ledger that knows the shipped model, and a connection with a secret."""
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    spec = load_spec(load_settings().models_dir / "flight_delay")
    with ledger.transaction() as tx:
        tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))
    ledger.dispose()
    return {
        "ratchet_ledger": ConnectionInfo("sqlite", schema=f"{tmp_path}/ledger.db"),
        "ratchet_storage": ConnectionInfo("s3", password=SECRET, extra={"key": [1, None]}),
    }


@pytest.fixture
def really(tmp_path: Path, connections: dict[str, ConnectionInfo]) -> Any:
    """Ask this very interpreter."""
    return lambda step, subject, *arguments: ask(
        Path(sys.executable), linked(tmp_path, PACKAGE), step, subject, arguments, connections
    )


def stub(folder: Path, *lines: str) -> Path:
    """Something that is started as an interpreter."""
    file = folder / "python"
    file.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    file.chmod(0o755)
    return file


def test_a_step_answers_what_its_verb_returns(really: Any) -> None:
    assert really("watch", "flight_delay") == {"state": None, "reason": "no watch is open", "days": 0}


def test_what_a_step_refuses_is_refused_by_the_same_class_and_words(really: Any) -> None:
    with pytest.raises(StaleAttempt, match="there is no attempt 'flight_delay\\.9'"):
        really("judge", "flight_delay.9")


def test_an_error_of_a_class_that_not_every_process_knows_is_told_as_the_nearest_that_it_does() -> None:
    assert failed(SpecRefused(("one", "two"))) == Answer(error="Refused", said="one\ntwo")
    assert failed(StaleAttempt("gone")).error == "StaleAttempt"


def test_what_nobody_raised_on_purpose_is_logged_and_trying_again_may_help(
    really: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable, match="ended with 70"):
        really("watch", "flight_delay")
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert told.startswith("watch of flight_delay failed\nTraceback")
    assert "file is not a database" in told


def test_every_verb_is_there_and_takes_what_is_sent() -> None:
    assert [step for step in STEPS if not callable(getattr(Ratchet, step, None))] == []
    run = RunContext("dag", "run", "manual", "ann", {"days": 3})
    sent = msgspec.json.decode(msgspec.json.encode([run, (date(2013, 5, 1), date(2013, 5, 2))]))
    assert msgspec.convert(sent, STEPS["score"].takes) == (run, (date(2013, 5, 1), date(2013, 5, 2)))
    assert msgspec.convert([None], STEPS["monitor"].takes) == (None,)


def test_what_a_trial_found_comes_back_whole() -> None:
    day, at = date(2013, 5, 1), datetime(2013, 5, 20, 4, tzinfo=UTC)
    trial = Trial(day, date(2013, 5, 8), at, day, 0, NotEnoughFreshDays(3, 14, at))
    column = Column("carrier", "carried", "string", 0.25, tags=("sensitive",))
    problem = Problem(("gate", "guardrails", 0, "metric"), "no")
    for tried in (
        Rehearsal("flight_delay", trial, 700, (column,), (problem,), 0.2),
        Rehearsal("flight_delay", None, 0, (), (problem,)),
    ):
        told = msgspec.json.encode((tried, ["model.yaml:3: no"]))
        assert msgspec.json.decode(told, type=STEPS["rehearse"].returns) == (tried, ["model.yaml:3: no"])


def test_secrets_are_in_neither_arguments_nor_variables(
    connections: dict[str, ConnectionInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    popen = subprocess.Popen

    def seen(words: list[str], **given: Any) -> Any:
        started.append(f"{words} {given['env']}")
        return popen(words, **given)

    monkeypatch.setattr(own_process.subprocess, "Popen", seen)
    python = stub(tmp_path, 'read asked; echo "{\\"value\\": $asked}"')
    told = ask(python, tmp_path, "watch", "m", [], connections)
    assert told["connections"]["ratchet_storage"]["password"] == SECRET
    assert SECRET not in started[0]


def test_its_log_is_logged_here_at_its_own_level_and_about_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = '{"level": "warning", "logger": "x", "event": "three days wait", "model": "m", "exception": "Traceback"}'
    python = stub(tmp_path, f"echo '{line}' >&2; echo printed by a library >&2; echo '{{\"value\": {{}}}}'")
    with caplog.at_level(logging.INFO):
        assert ask(python, tmp_path, "watch", "m", [], {}) == {}
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", "three days wait\nTraceback"), ("INFO", "printed by a library")]


@pytest.mark.parametrize(
    ("line", "said"), [("kill -9 $$", "was killed by signal 9"), ("exit 3", "ended with 3"), ("read x", "ended with 0")]
)
def test_a_process_that_dies_is_told_by_how_and_may_be_tried_again(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(Unavailable, match=f"watch of m, in the model's own environment, {said} and gave no answer"):
        ask(stub(tmp_path, line), tmp_path, "watch", "m", [], {})


class TimedOut(Exception):
    """As an orchestrator ends a task that takes too long."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(_: int, __: FrameType | None) -> None:
        raise TimedOut

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_a_step_ends_when_the_task_that_asked_for_it_is_timed_out(tmp_path: Path) -> None:
    python = stub(tmp_path, f"echo $$ > {tmp_path}/pid", "exec sleep 600")
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    with pytest.raises(TimedOut):
        ask(python, tmp_path, "watch", "m", [], {})
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
