"""`ratchet audit` on a world in which attempts are really judged: text, JSON, HTML, and how it ends."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from ratchet.adapters.ledger import schema as t
from ratchet.cli import app, audit, dossiers
from ratchet.domain.findings import CHECKS
from ratchet.domain.sensitive import TaggedColumn
from ratchet.domain.snooze import Snooze
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.ledger import ApprovalRequestRow, ApprovalRow, MonitoredRow

sys.path.append(str(Path(__file__).parents[1] / "workflow"))

from in_process import InProcess, new_world
from judged_attempts import JudgingWorld

MODEL = "flight_delay"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> JudgingWorld:
    """A first champion, made two days before the replayed clock's now."""
    made = new_world(tmp_path_factory.mktemp("audited"))
    made.first = made.run("2013-03-25", first_champion=True)
    yield made
    made.ledger.dispose()


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    made = template.copy(tmp_path)
    made.first = template.first
    for module in (audit, dossiers):
        monkeypatch.setattr(module, "wire", lambda: InProcess(made))
    yield made
    made.ledger.dispose()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["audit", *words], catch_exceptions=True)


def found(check: str, *words: str) -> tuple[str, str]:
    """The severity and the words of the check's gravest finding."""
    told = json.loads(run("--json", *words).output)["findings"]
    order = ["critical", "warning", "info", "ok"]
    mine = sorted((one for one in told if one["check"] == check), key=lambda one: order.index(one["severity"]))
    return mine[0]["severity"], mine[0]["found"]


def redeploy(world: JudgingWorld, **sections: Any) -> None:
    plain = world.spec.model_dump(mode="json")
    for section, values in sections.items():
        plain[section] |= values
    world.spec = ModelSpec.model_validate(plain)
    with world.ledger.transaction() as tx:
        tx.publish_spec(MODEL, world.spec.digest, world.spec.model_dump(mode="json"))


def test_what_is_not_in_order_is_told_with_what_to_do_and_what_is_only_when_asked(world) -> None:
    said = run()
    assert said.exit_code == 0, said.output
    lines = [line.strip() for line in said.output.splitlines() if line.strip()]
    told = f"is a promise only → ratchet reproduce {MODEL}@1"
    assert [line.split()[:3] for line in lines if told in line] == [["warning", MODEL, "reproducible"]]
    assert lines[-1].startswith("1 model: 0 critical, ")
    assert lines[-1].endswith("business time is replayed: 2013-03-25 00:00Z")
    assert not any(line.startswith("ok ") for line in lines)
    everything = run("--all").output.splitlines()
    assert any(line.split()[:1] == ["ok"] and "the audit log is whole" in line for line in everything)


def test_every_check_is_in_the_json(world) -> None:
    told = json.loads(run("--json").output)
    assert {one["check"] for one in told["findings"] if one["model"] == MODEL} == set(CHECKS)
    assert [one["check"] for one in told["findings"] if one["model"] is None] == ["log"]
    assert (told["worst"], told["models"], told["clock"]) == ("warning", [MODEL], "replay")


def test_warnings_end_it_with_one_where_they_count(world) -> None:
    assert (run().exit_code, run("--strict").exit_code) == (0, 1)


def test_a_model_that_sleeps_is_told_with_who_and_why(world) -> None:
    assert found("snooze") == ("ok", "no snooze keeps it from starting a run")
    with world.ledger.transaction() as tx:
        now = tx.clock()[1]
        tx.snooze(MODEL, Snooze(now - timedelta(days=15), now + timedelta(days=1), "ada", "labels are being mended"))
    severity, said = found("snooze")
    assert severity == "warning"
    assert said.startswith("has slept for 15 days (limit 14 days) and starts no run by itself until 2013-03-26 00:00Z")
    assert said.endswith(", by ada: labels are being mended")


def test_a_reproduction_is_the_proof(world) -> None:
    assert found("reproducible") == ("warning", f"{MODEL}@1 was never made again: that it can be is a promise only")
    assert CliRunner().invoke(app, ["reproduce", f"{MODEL}@1"], catch_exceptions=False).exit_code == 0
    assert found("reproducible") == ("ok", f"{MODEL}@1 was made again, the same, today")


def test_a_reproduction_of_another_version_proves_nothing(world) -> None:
    with world.ledger.transaction() as tx:
        tx.audit("ann", "attempt.reproduced", MODEL, {"version": 2, "same": True})
    assert found("reproducible")[0] == "warning"
    with world.ledger.transaction() as tx:
        tx.audit("ann", "attempt.reproduced", MODEL, {"version": 1, "same": True})
        tx.audit("ann", "attempt.reproduced", MODEL, {"version": 1, "same": False})
    assert found("reproducible")[0] == "critical"


def test_a_monitor_is_heard_by_drift_and_by_its_all_clear(world) -> None:
    assert found("monitor")[0] == "warning"
    world.drift(datetime(2013, 3, 20, tzinfo=UTC))
    assert found("monitor") == ("ok", "the monitor's last word was 5 days ago")


def test_its_own_monitor_is_heard_by_the_windows_in_the_ledger(world) -> None:
    plain = world.spec.model_dump(mode="json") | {"monitor": {}}
    world.spec = ModelSpec.model_validate(plain)
    end = datetime(2013, 3, 20, tzinfo=UTC)
    with world.ledger.transaction() as tx:
        tx.publish_spec(MODEL, world.spec.digest, world.spec.model_dump(mode="json"))
    assert found("monitor") == ("warning", "its monitor has looked at no window yet")
    with world.ledger.transaction() as tx:
        tx.save_monitored(MonitoredRow(MODEL, end, "done", world.spec.digest, found={"cause": "none"}))
    assert found("monitor") == ("ok", "its monitor looked at the rows up to 2013-03-20")
    broken = {"quality": {"said": "none of the 28 days has a row"}}
    with world.ledger.transaction() as tx:
        tx.save_monitored(MonitoredRow(MODEL, end + timedelta(days=1), "broken", world.spec.digest, found=broken))
    severity, said = found("monitor")
    assert (severity, said.rpartition(": ")[2]) == ("critical", "none of the 28 days has a row")


def test_data_and_labels_are_those_of_the_watermarks(world) -> None:
    assert found("labels") == ("ok", "1.000 of the labels of flights are known, 0.99 are needed")
    with world.ledger.transaction() as tx:
        tx.advance_watermark("flights", datetime(2013, 3, 26, tzinfo=UTC), 0.5)
        tx.set_clock("replay", datetime(2013, 6, 1, tzinfo=UTC))
    assert found("labels")[0] == "critical"
    assert found("data")[0] == "warning"
    assert run().exit_code == 2


def test_the_gate_and_the_budget_are_those_of_the_ledger(world) -> None:
    assert found("gate") == ("warning", "the gate never tested itself on this model (1 judged attempts)")
    with world.ledger.transaction() as tx:
        tx.save_self_test(MODEL, {"reasons": ["a known-bad model was promoted"]}, passed=False)
    severity, said = found("gate")
    assert severity == "critical"
    assert said.endswith("a known-bad model was promoted")
    redeploy(world, retrain={"budget": {"runs_per_day": 4, "core_hours_per_month": 1e-9}})
    severity, said = found("budget")
    assert severity == "warning"
    assert said.startswith("1 of 4 runs today")


def test_a_column_that_is_tagged_now_is_critical_and_one_that_is_allowed_is_told(world) -> None:
    wind = TaggedColumn("wind", ("secret",), "field 'wind'", "feature")
    world.features.tagged = lambda spec: (wind,)
    assert found("sensitive")[0] == "critical"
    redeploy(world, data={"allow_sensitive": [{"column": "wind", "reason": "weather is no secret"}]})
    assert found("sensitive") == (
        "info",
        "wind (secret in field 'wind') is held as feature: weather is no secret",
    )


def test_a_feature_repository_that_is_away_hides_no_other_finding(world) -> None:
    def away(spec: ModelSpec) -> None:
        raise Refused("no such folder")

    world.features.tagged = away
    assert found("sensitive") == ("warning", "what is tagged cannot be asked: no such folder")
    assert found("owner")[0] == "info"


def test_who_agreed_to_his_own_run_is_told(world) -> None:
    given = {"attempt_id": world.first.id, "challenger_version": 1, "champion_seq": 0, "evidence_digest": "e" * 64}
    now = datetime.now(UTC)
    asked = {"model": MODEL, "people": 1, "value_at_risk": None, "asked_at": now, "expires_at": now, "runs": []}
    answer = {"actor": "ann", "answer": "approve", "via": "airflow", "at": now}
    with world.ledger.transaction() as tx:
        tx.insert_approval_request(ApprovalRequestRow(**given, **asked, reason="always"))
        tx.insert_approval(ApprovalRow(**given, **answer, reason="fine"))
    assert found("access") == ("warning", f"ann started {world.first.id} and agreed to its promotion")


def test_a_broken_log_is_critical(world) -> None:
    with world.ledger.engine.begin() as db:
        for name in db.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(sa.text(f"DROP TRIGGER {name}"))
        db.execute(sa.update(t.audit).where(t.audit.c.seq == 2).values(detail={}))
    assert found("log")[0] == "critical"
    assert run().exit_code == 2


def test_a_retired_model_is_named_and_asked_nothing(world) -> None:
    with world.ledger.transaction() as tx:
        tx.retire(MODEL)
    told = json.loads(run("--json").output)["findings"]
    assert [(one["check"], one["severity"]) for one in told] == [("retired", "info"), ("log", "ok")]


def test_a_spec_that_this_code_does_not_read_is_critical_and_no_crash(world) -> None:
    with world.ledger.transaction() as tx:
        tx.publish_spec(MODEL, "0" * 64, {"model": MODEL, "gate": "unheard of"})
    assert found("spec")[0] == "critical"


def test_a_model_that_is_not_deployed_is_refused(world) -> None:
    assert run("--model", MODEL).exit_code == 0
    assert isinstance(run("--model", "flight").exception, Refused)


class Page(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href"}, "nothing is fetched"

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_page_is_one_file_and_says_all_of_it_and_nothing_of_it_runs(world, tmp_path) -> None:
    redeploy(world, owner={"team": "<script>alert(1)</script>"})
    file = tmp_path / "audit.html"
    said = run("--html", str(file))
    assert f"written to {file}" in said.output
    page = Page()
    page.feed(file.read_text())
    assert "script" not in page.tags
    assert any("<script>alert(1)</script>" in text for text in page.said)
    for one in json.loads(run("--json").output)["findings"]:
        assert one["found"] in page.said
        assert not one["remedy"] or one["remedy"] in page.said


def test_the_logs_own_commands_are_as_they_were(world) -> None:
    assert run("verify").exit_code == 0
    assert "champion.promoted" in run("show").output
