"""What ``ratchet score`` and ``ratchet predictions`` say, on a world in which attempts are judged in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from in_process import InProcess, new_world
from typer.testing import CliRunner

from ratchet.cli import app, scoring
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused

MODEL = "flight_delay"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """A first champion since March 24th in New York, and data up to the end of March 28th."""
    world = new_world(tmp_path_factory.mktemp("scoring"))
    world.run("2013-03-25", first_champion=True)
    spec = ModelSpec.model_validate(world.spec.model_dump(mode="json") | {"scoring": {}})
    with world.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
        until = datetime(2013, 4, 2, tzinfo=UTC)
        for dataset in spec.datasets:
            tx.advance_watermark(dataset, until, 1.0)
        tx.set_clock("replay", until)
    yield InProcess(world)
    world.ledger.dispose()


@pytest.fixture
def ratchet(template: InProcess, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.setattr(scoring, "wire", lambda: template)
    return template


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_days_are_scored_listed_and_shown(ratchet: InProcess) -> None:
    assert "nothing yet" in run("predictions", MODEL)
    said = run("score", MODEL, "--day", "2013-03-26")
    assert said.strip() == "scored 40 rows of flight_delay from 2013-03-26 to 2013-03-26, by version 1"
    said = run("score", MODEL, "--day", "2013-03-26")
    assert said.strip() == "nothing scored: every complete day up to 2013-03-26 is scored"
    listed = run("predictions", MODEL)
    for expected in ("2013-03-26", "champion", "predictions/flight_delay/2013-03-26/champion.parquet"):
        assert expected in listed
    (row,) = json.loads(run("predictions", MODEL, "--json"))
    assert (row["day"], row["role"], row["version"], row["rows"]) == ("2013-03-26", "champion", 1, 40)
    assert Path(row["file"]).is_file()
    shown = run("predictions", MODEL, "--day", "2013-03-26", "--limit", "3")
    assert "3 of 40 rows" in shown
    rows = json.loads(run("predictions", MODEL, "--day", "2013-03-26", "--limit", "3", "--json"))
    assert [set(each) for each in rows] == [
        {"flight_id", "decided_at", "day", "score", "act", "version", "role", "attempt"}
    ] * 3


def test_a_sensitive_key_that_may_be_held_and_not_shown_is_not_shown(ratchet: InProcess) -> None:
    run("score", MODEL, "--day", "2013-03-28")
    with ratchet.ledger.transaction() as tx:
        plain = next(row.document for row in tx.specs() if row.model == MODEL)
    allowed = [{"column": "flight_id", "reason": "names the row"}]
    spec = ModelSpec.model_validate(plain | {"data": plain["data"] | {"allow_sensitive": allowed}})
    shown = json.loads(run("predictions", MODEL, "--day", "2013-03-28", "--limit", "1", "--json"))
    assert "flight_id" in shown[0]
    with ratchet.ledger.transaction() as tx:
        tx.publish_spec(MODEL, spec.digest, spec.model_dump(mode="json"))
    hidden = json.loads(run("predictions", MODEL, "--day", "2013-03-28", "--limit", "1", "--json"))
    assert set(shown[0]) - set(hidden[0]) == {"flight_id"}


def test_programs_get_what_a_run_did(ratchet: InProcess) -> None:
    (answer,) = json.loads(run("score", MODEL, "--from", "2013-03-27", "--to", "2013-03-27", "--json"))
    assert (answer["days"], answer["rows"], answer["versions"]) == (1, 40, {"champion": [1]})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--day", "yesterday"), "--day must be a day such as 2013-05-03, but got 'yesterday'"),
        (("--day", "2013-05-03", "--to", "2013-05-04"), "leave out --from and --to"),
        (("--to", "2013-05-04"), "--to needs --from"),
        (("--from", "2013-05-04", "--to", "2013-05-03"), "must not lie before --from"),
    ],
)
def test_days_that_are_none_are_refused(ratchet: InProcess, words: tuple[str, ...], said: str) -> None:
    for command in ("score", "predictions"):
        with pytest.raises(Refused, match=said):
            CliRunner().invoke(app, [command, MODEL, *words], catch_exceptions=False)


def test_a_role_that_is_none_is_refused(ratchet: InProcess) -> None:
    with pytest.raises(Refused, match="--role must be champion or shadow, but got 'loser'"):
        CliRunner().invoke(app, ["predictions", MODEL, "--role", "loser"], catch_exceptions=False)
