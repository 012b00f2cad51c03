"""A monitoring system's report at the command line: told from a file or a pipe, shown dry, refused in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from ratchet.cli import app, publish
from ratchet.domain.events import parse
from ratchet.domain.translations import MAX_BYTES, SYSTEMS
from ratchet.errors import Refused
from ratchet.ports.bus import DRIFT, InMemoryBus

PAYLOADS = Path(__file__).parents[1] / "domain" / "monitoring_payloads"
REPORT = str(PAYLOADS / "evidently-report.json")
ABOUT = ["--model", "flight_delay", "--window-end", "2013-06-14T04:00:00"]


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["publish", "report", *arguments], input=given)


def refusal(*arguments: str, given: bytes = b"") -> str:
    result = run(*arguments, given=given)
    assert isinstance(result.exception, Refused)
    return str(result.exception)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> InMemoryBus:
    bus = InMemoryBus()
    monkeypatch.setattr(publish, "wire", lambda: SimpleNamespace(bus=bus))
    return bus


def test_a_report_is_published_and_the_same_report_again_is_the_same_event(bus: InMemoryBus) -> None:
    said = [run("evidently", REPORT, *ABOUT) for _ in range(2)]
    first, second = (parse(record.value, record.headers) for record in bus.records(DRIFT))
    assert (first.id, first.source, first.digest) == (second.id, second.source, second.digest)
    assert first.source == "/monitors/evidently"
    assert [result.stdout for result in said] == [f"published {first.id} to ml.drift\n"] * 2


def test_a_webhooks_message_is_taken_from_a_pipe_with_all_its_alerts(bus: InMemoryBus) -> None:
    message = (PAYLOADS / "alertmanager-firing.json").read_bytes()
    assert run("alertmanager", "-", "--source", "/alerts/eu", given=message).exit_code == 0
    events = [parse(record.value, record.headers) for record in bus.records(DRIFT)]
    assert [(event.source, event.subject) for event in events] == [("/alerts/eu", "flight_delay")] * 2


def test_a_dry_run_prints_every_record_and_needs_neither_broker_nor_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(publish, "wire")
    said = run("alertmanager", str(PAYLOADS / "alertmanager-firing.json"), "--dry-run").stdout
    values = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [value["data"]["check"] for value in values] == ["FeatureDrift/temp", "FeatureDrift/wind_speed"]
    assert said.count("topic ml.drift, key flight_delay\n") == 2


def test_what_the_caller_adds_is_in_the_event() -> None:
    options = ["--check", "nightly", "--evidence-uri", "https://example.org/r", "--window-start", "2013-06-07T04:00:00"]
    (value,) = run("evidently", REPORT, *ABOUT, *options, "--dry-run").stdout.splitlines()[-1:]
    data = json.loads(value)["data"]
    assert (data["check"], data["evidence_uri"]) == ("nightly", "https://example.org/r")
    assert (data["window_start"], data["window_end"]) == ("2013-06-07T04:00:00Z", "2013-06-14T04:00:00Z")


def test_a_report_that_tells_nothing_says_so_and_is_no_failure(bus: InMemoryBus) -> None:
    result = run("nannyml", str(PAYLOADS / "nannyml-estimated-performance.csv"), "--model", "flight_delay")
    assert (result.exit_code, result.stdout) == (0, "nothing published: the report tells nothing that counts\n")
    assert bus.records(DRIFT) == []


def test_a_refusal_names_file_place_rule_what_was_got_and_the_remedy(tmp_path: Path, bus: InMemoryBus) -> None:
    file = tmp_path / "message.json"
    message = json.loads((PAYLOADS / "alertmanager-firing.json").read_bytes())
    message["alerts"][1]["status"] = "asleep"
    file.write_text(json.dumps(message))
    said = refusal("alertmanager", str(file))
    assert said.startswith(f"{file}: /alerts/1/status: wrong_shape: got invalid enum value 'asleep'; ")
    assert "docs/monitoring-systems.md" in said
    assert bus.records(DRIFT) == []


def test_a_file_that_is_not_there_or_too_long_and_a_system_nobody_knows_are_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal("evidently", str(tmp_path / "gone.json"))
    assert "cannot be read: Is a directory" in refusal("evidently", str(tmp_path))
    assert "oversized" in refusal("evidently", "-", given=b" " * (MAX_BYTES + 2))
    assert "did you mean 'evidently'?" in refusal("evidentli", REPORT)


def test_the_help_names_every_system_and_has_an_example() -> None:
    said = " ".join(run("--help").output.replace("│", " ").split())
    assert ", ".join(SYSTEMS) in said
    assert "ratchet publish report evidently drift.json --model flight_delay" in said


# -- the guide ---------------------------------------------------------------------------------------------------------

GUIDE = (Path(__file__).parents[3] / "docs" / "monitoring-systems.md").read_text()
EXAMPLES = re.findall(
    r"```(?:json|csv)\n((?:(?!```).)*)```\n\n`ratchet publish report (\S+) (\S+) ?([^`]*)` tells\n\n```json\n(.*?)```",
    GUIDE,
    flags=re.DOTALL,
)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example[1] for example in EXAMPLES])
def test_the_guides_example_tells_what_the_guide_says(example: tuple[str, ...], tmp_path: Path) -> None:
    payload, system, name, options, told = example
    (tmp_path / name).write_text(payload)
    said = run(system, str(tmp_path / name), *options.split(), "--dry-run").stdout
    assert [line for line in said.splitlines() if line.startswith("{")] == told.splitlines()


def test_the_guide_has_an_example_and_a_row_for_every_system() -> None:
    assert {example[1] for example in EXAMPLES} == set(SYSTEMS)
    table = GUIDE.partition("## What becomes of what")[2].partition("##")[0]
    assert [system for system in SYSTEMS if f"`{system}`" not in table] == []
