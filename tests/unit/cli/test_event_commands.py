"""The events commands, on a ledger of their own."""

from __future__ import annotations

import getpass
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.bootstrap import Ratchet
from ratchet.cli import app, events, operate
from ratchet.domain.events import RetrainRequested, new_event, to_record
from ratchet.ports.bus import InMemoryBus
from ratchet.ports.ledger import FateChange, FateEntry
from ratchet.records import RawRecord
from ratchet.settings import load_settings

ROOT = Path(__file__).resolve().parents[3]
MODEL = "flight_delay"
NOW = datetime(2013, 5, 1, 4, tzinfo=UTC)


class InProcess(Ratchet):
    """The verbs on SQLite and a bus in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(resolver=None, settings=load_settings({"RATCHET_HOME": str(folder)}))  # type: ignore[arg-type]
        self.__dict__["ledger"] = SqlLedger(f"sqlite:///{folder}/ledger.db")
        self.__dict__["bus"] = InMemoryBus()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{path}")
    ledger.migrate()
    spec = load_spec(ROOT / "include" / "models" / MODEL)
    with ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
        tx.set_clock("replay", NOW)
    ledger.dispose()
    return path


@pytest.fixture
def ratchet(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    shutil.copy(template, tmp_path / "ledger.db")
    made = InProcess(tmp_path)
    for module in (events, operate):
        monkeypatch.setattr(module, "wire", lambda: made)
    return made


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def store(ratchet: InProcess, event_id: str, offset: int, at: datetime = NOW, subject: str = MODEL) -> None:
    event = new_event(
        RetrainRequested(reason="r", actor="ann"), id=event_id, source="monitor", subject=subject, time=at
    )
    _, value, headers = to_record(event)
    ratchet._intake.store([RawRecord("c", event.topic, 0, offset, b"k", value, tuple(headers))])


def end(ratchet: InProcess, fate: str, reason: str) -> None:
    with ratchet.ledger.transaction() as tx:
        tx.change_fates([FateChange(row.pk, fate, reason) for row in tx.events()])


def listed(*words: str) -> list[str]:
    return [row["event_id"] for row in json.loads(run("events", *words, "--json"))]


def test_events_are_listed_and_filtered(ratchet: InProcess) -> None:
    store(ratchet, "old", 0, NOW - timedelta(days=2))
    end(ratchet, "failed", "cooldown: 6h")
    store(ratchet, "new", 1)
    assert listed() == ["old", "new"]
    assert listed("--model", MODEL, "--limit", "1") == ["new"]
    assert listed("--fate", "failed") == listed("--reason", "Cooldown") == listed("--until", "2013-05-01T00:00Z")
    assert listed("--since", "1d") == listed("--since", "2013-05-01T00:00Z") == listed("--id", "new") == ["new"]
    assert listed("--source", "other") == listed("--type", "ratchet.drift.detected.v1") == []


def test_show_tells_origin_and_every_fate_with_its_reason(ratchet: InProcess) -> None:
    store(ratchet, "a", 17)
    end(ratchet, "failed", "out of memory")
    text = run("events", "show", "a")
    assert "ml.retrain-requests:0:17" in text
    assert re.search(r"pending: received\n.*failed: out of memory", text)
    (shown,) = json.loads(run("events", "show", "a", "--json"))
    assert [fate["fate"] for fate in shown["fates"]] == ["pending", "failed"]


def test_an_unknown_event_says_where_to_look(ratchet: InProcess) -> None:
    result = CliRunner().invoke(app, ["events", "show", "nobody"])
    assert "there is no event 'nobody'" in str(result.exception)


def test_dead_letters_are_listed_with_place_and_reason(ratchet: InProcess) -> None:
    ratchet._intake.store([RawRecord("c", "ml.drift", 2, 5, b"k", b"{bad")])
    (letter,) = json.loads(run("events", "dead-letters", "--json"))
    assert (letter["record"], letter["bytes"]) == ("ml.drift:2:5", 4)
    assert letter["reason"].startswith("not_json")
    assert "nothing yet" in run("events", "dead-letters", "--reason", "tombstone")


def test_a_replay_tells_counts_and_a_dry_run_changes_nothing(ratchet: InProcess) -> None:
    store(ratchet, "a", 0)
    end(ratchet, "failed", "out of memory")
    words = ("events", "replay", "--since", "2020-01-01T00:00Z", "--reason", "fixed")
    assert "1 events would be pending again: flight_delay 1" in run(*words, "--dry-run")
    assert listed("--fate", "failed") == ["a"]
    assert "1 events pending again: flight_delay 1" in run(*words)
    assert "0 events pending again" in run(*words)
    assert listed("--reason", f"replayed by {getpass.getuser()}: fixed") == ["a"]


def test_dead_letters_are_replayed_by_place(ratchet: InProcess) -> None:
    ratchet._intake.store([RawRecord("c", "ml.drift", 2, 5, b"k", b"{bad")])
    text = run("events", "replay", "--dead-letter", "ml.drift:2:5", "--reason", "fixed")
    assert "1 dead letters read, 0 stored as events" in text
    assert "1 still rejected: not_json" in text


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ((), "either --since"),
        (("--since", "1d", "--dead-letter", "all"), "either --since"),
        (("--since", "1d", "--reason-contains", "x"), "narrows --dead-letter"),
        (("--dead-letter", "all", "--model", "m"), "narrow --since"),
        (("--dead-letter", "ml.drift"), "topic:partition:offset"),
        (("--dead-letter", "ml.drift:0:1", "--reason-contains", "x"), "narrows --dead-letter all"),
        (("--since", "yesterday"), "a time is written like"),
        (("--since", "2013-05-01T00:00"), "needs its zone"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused_with_the_rule(
    ratchet: InProcess, words: tuple[str, ...], rule: str
) -> None:
    result = CliRunner().invoke(app, ["events", "replay", "--reason", "r", *words])
    assert rule in str(result.exception)


def test_a_model_is_retired_and_comes_back_only_when_asked_for(ratchet: InProcess) -> None:
    store(ratchet, "a", 0)
    assert "1 open events were rejected" in run("retire", MODEL, "--reason", "replaced")
    assert "retired already" in run("retire", MODEL, "--reason", "replaced")
    assert f"{MODEL} is retired" in run("deploy")
    assert f"deployed {MODEL}" in run("deploy", "--revive", MODEL)
    with ratchet.ledger.transaction() as tx:
        actions = [(entry["actor"], entry["action"]) for entry in tx.audit_log(MODEL)]
    assert actions == [(getpass.getuser(), "model.retired"), (getpass.getuser(), "model.revived")]


def test_a_model_without_a_folder_cannot_be_revived(ratchet: InProcess) -> None:
    result = CliRunner().invoke(app, ["deploy", "--revive", "nobody"])
    assert "there is no spec of 'nobody'" in str(result.exception)


def test_follow_prints_each_change_from_now_on_and_ends_cleanly(
    ratchet: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(ratchet, "before", 0)
    acts: list[Callable[[], None]] = [
        lambda: store(ratchet, "after", 1),
        lambda: end(ratchet, "failed", "out of memory"),
        _interrupt,
    ]
    monkeypatch.setattr(events.time, "sleep", lambda _: acts.pop(0)())
    told = [line.split(" ", 1)[1] for line in run("events", "follow").splitlines() if line]
    assert sorted(told) == [f"{MODEL} after failed: out of memory", f"{MODEL} before failed: out of memory"]


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_follow_shows_an_entry_that_commits_after_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers: number 2 is visible first, number 1 turns up with the next look."""
    visible: list[list[int]] = [[], [2], [1, 2], [1, 2, 3]]

    class Two:
        def transaction(self) -> Two:
            return self

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def last_fate(self) -> int:
            return 0

        def fates_after(self, pk: int, missing: dict[int, float], limit: int) -> list[FateEntry]:
            seen = visible.pop(0) if visible else _stop()
            return [
                FateEntry(n, NOW, "m", "s", str(n), "t", "pending", "r", None, None)
                for n in seen
                if n > pk or n in missing
            ]

    def _stop() -> list[int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(events.time, "sleep", lambda _: None)
    found: list[int] = []

    def watch() -> None:
        found.extend(entry.pk for entry in events.fate_changes(Two()))  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert found == [2, 1, 3]
