"""Planted values of sensitive columns, looked for everywhere that an attempt leaves something."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_rows import spec
from sensitive_worlds import HOLD, SensitiveWorld, allowing, found_in, kinds

from ratchet.domain.artifact import numbers
from ratchet.errors import Refused
from ratchet.workflow import dossiers
from ratchet.workflow.cards import card
from ratchet.workflow.guarding import allowed_columns, in_words
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.valuing import worth_of

SPEC = spec()
SOURCES = {"data", "repo"}
NUMBERS = dict.fromkeys(("tp", "fp", "fn", "tn"))
PAYOFF = NUMBERS | {"hook": "payoff.py:payoff", "columns": ["salary"], "unit": "USD"}
HOOKED = {"payoff": PAYOFF, "decision": {"threshold": "tuned"}}


@pytest.fixture(scope="module")
def held_template(tmp_path_factory, migrated):
    """Two attempts on rows whose sensitive columns the spec allows to be held, and no value to be shown."""
    made = SensitiveWorld(tmp_path_factory.mktemp("held"), migrated)
    made.build()
    made.deploy(*HOLD, gate={"guardrails": []})
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


@pytest.fixture
def sensitive(tmp_path, migrated):
    made = SensitiveWorld(tmp_path, migrated)
    yield made
    made.ledger.dispose()


def told_by_the_ledger(world) -> str:
    """All rows of all tables, as text."""
    with world.ledger.engine.connect() as db:
        tables = [name for (name,) in db.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(str(row) for name in tables for row in db.exec_driver_sql(f'SELECT * FROM "{name}"'))


def test_without_a_word_in_the_spec_nothing_is_read_and_nothing_kept(sensitive, caplog):
    """The data sets are not even there: whoever opened one would say so."""
    sensitive.deploy()
    with pytest.raises(Refused) as caught, caplog.at_level(logging.DEBUG):
        sensitive.run("2013-03-25", first_champion=True)
    said = str(caught.value)
    for column, role in {"flight_id": "key", "passport": "join key", "salary": "feature"}.items():
        assert f"{column!r} is tagged pii in" in said
        assert f"rows would hold it as {role}" in said
    assert "Nothing was read. Run: ratchet validate flight_delay" in said
    assert not sensitive.store.exists("snapshots")
    assert found_in(sensitive.folder, SOURCES) == {}


def test_every_door_to_the_rows_is_guarded(held_template):
    """Also the watch after a promotion, a reproduction and a backtest ask here, long after the snapshot."""
    bare = held_template.spec.model_copy(
        update={"data": held_template.spec.data.model_copy(update={"allow_sensitive": None})}
    )
    window: dict[str, Any] = {
        "as_of": datetime(2013, 4, 1, tzinfo=UTC),
        "start": date(2013, 3, 1),
        "end": date(2013, 3, 2),
    }
    with pytest.raises(Refused, match="is tagged pii"):
        held_template.features.spine(bare, **window)
    spine = held_template.features.spine(held_template.spec, **window)
    assert spine.num_rows == 40
    with pytest.raises(Refused, match="is tagged pii"):
        held_template.features.historical(bare, spine)


def test_what_is_held_is_with_the_rows_and_nowhere_else(held_template):
    """Snapshots have it all, evidence the keys; no dossier, card, model, message, table or log line has any."""
    world = held_template
    assert world.first.promoted
    card_uri = world.attempts.card(world.second)
    assert card_uri.endswith(".html")
    world.relay.run()
    found = found_in(world.folder, SOURCES)
    with_rows = {name: kinds for name, kinds in found.items() if name.endswith(".parquet")}
    assert {name.rpartition("/")[2] for name in with_rows} == {
        "train.parquet",
        "holdout.parquet",
        *(f"{attempt.id}.parquet" for attempt in (world.first, world.second)),
    }
    for name, canaries in with_rows.items():
        expected = {"key"} if "/evidence/" in f"/{name}" else {"key", "passport", "salary"}
        assert canaries == expected, name
    assert {name: kinds for name, kinds in found.items() if name not in with_rows} == {}
    files = [file.relative_to(world.folder).parts[:2] for file in world.folder.rglob("*") if file.is_file()]
    assert {("store", "dossiers"), ("store", "cards"), ("registry", world.model)} <= set(files)
    assert kinds(told_by_the_ledger(world)) == set()
    assert world.bus._logs
    assert kinds(str(world.bus._logs)) == set()


def test_dossier_card_and_audit_log_say_what_was_held_and_why(held_template):
    world = held_template
    dossier = dossiers.read(world.store, world.second)
    words = in_words(dossier["snapshot"])
    assert words[0] == "flight_id (pii in entity 'flight_id') is held as key: what makes a row"
    assert {each["column"]: each["reason"] for each in dossier["snapshot"]["sensitive"]} == {
        entry["column"]: entry["reason"] for entry in HOLD
    }
    assert "another model joins by it" in card(dossier, "d" * 64)


def test_its_model_is_made_again_from_the_source_too(held_template):
    assert Repeats(held_template.parts).reproduce(held_template.second, "ann", from_source=True).same


def test_an_attempt_logs_no_value(sensitive, caplog):
    sensitive.build()
    sensitive.deploy(*HOLD, gate={"guardrails": []})
    with caplog.at_level(logging.DEBUG):
        attempt = sensitive.run("2013-03-25", first_champion=True)
        sensitive.attempts.card(attempt)
    assert kinds(caplog.text) == set()


def test_text_is_learned_and_shown_where_the_spec_says_so(sensitive):
    """The same search finds the categories in the model's file, and the groups in dossier and card."""
    sensitive.build()
    text = {"column": "gender", "reason": "fairness is judged by it"}
    sensitive.deploy(*HOLD, text, data={"features": "with_text"}, gate={"guardrails": []})
    with pytest.raises(Refused, match="'gender' is sensitive text, and a model writes its categories out"):
        sensitive.run("2013-03-25", first_champion=True)
    by = [{"metric": "payoff", "slice": "gender", "max_regression": 500, "min_rows": 50}]
    sensitive.deploy(*HOLD, text | {"show_values": True}, gate={"guardrails": by})
    with sensitive.ledger.transaction() as tx:
        tx.update_attempt("flight_delay.1", state="failed")
        tx.release_lease("flight_delay.1")
    attempt = sensitive.run("2013-03-25", first_champion=True)
    sensitive.attempts.card(attempt)
    shown = {name for name, canaries in found_in(sensitive.folder, SOURCES).items() if "gender" in canaries}
    assert {name.rpartition(".")[2] for name in shown} >= {"parquet", "json", "html"}
    assert any(name.endswith("ratchet.json") for name in shown)


def test_a_tag_that_comes_later_stops_the_next_attempt(held_template):
    definitions = held_template.folder / "repo" / "definitions.py"
    before = definitions.read_text()
    try:
        definitions.write_text(
            before.replace('Field(name="wind", dtype=Float64)', 'Field(name="wind", dtype=Float64, tags={"pii": "1"})')
        )
        with pytest.raises(Refused, match=r"'wind' is tagged pii in field 'wind'"):
            allowed_columns(held_template.feast, held_template.spec)
    finally:
        definitions.write_text(before)
    assert len(allowed_columns(held_template.feast, held_template.spec)) == 3


# -- messages that would quote a row -----------------------------------------------------------------------------------


def test_a_column_without_numbers_is_refused_without_an_example():
    with pytest.raises(Refused, match="must hold numbers") as caught:
        numbers(pa.table({"passport": ["canary-passport-00001"]}), ["passport"])
    assert kinds(str(caught.value)) == set()


def test_a_label_that_is_none_is_refused_without_an_example(sensitive):
    sensitive.build()
    sensitive.deploy(*HOLD, gate={"guardrails": []})
    file = sensitive.data / "flights.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("late")
    pq.write_table(table.set_column(at, "late", pa.array(["canary-gender-1"] * table.num_rows)), file)
    with pytest.raises(Refused, match=r"late must hold 0 and 1, but holds string") as caught:
        sensitive.run("2013-03-25", first_champion=True)
    assert kinds(everything_told(caught.value)) == set()


def failing(rows: pa.Table, label: Any, decision: Any) -> Any:
    raise ValueError(f"cannot read {rows['salary'][0]}")


def test_a_hook_that_fails_on_hidden_rows_is_told_by_kind_and_line():
    hidden = allowing(SPEC, *HOLD, business=HOOKED)
    rows = pa.table({"salary": [7_777_000.5]})
    with pytest.raises(Refused, match=r"ValueError at test_sensitive_columns\.py:\d+, untold") as caught:
        worth_of(hidden, rows, np.array([1]), failing)
    assert kinds(everything_told(caught.value)) == set()


def test_a_hook_that_fails_on_rows_that_may_be_shown_is_told_whole():
    shown = [HOLD[0], HOLD[1], HOLD[2] | {"show_values": True}]
    showing = allowing(SPEC, *shown, business=HOOKED)
    with pytest.raises(Refused, match=r"ValueError: cannot read 7777000\.5"):
        worth_of(showing, pa.table({"salary": [7_777_000.5]}), np.array([1]), failing)


def everything_told(error: BaseException) -> str:
    """The error with all that a traceback in a log would print after it."""
    return "".join(traceback.format_exception(error))
