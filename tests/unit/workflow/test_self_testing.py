"""What the gate's self-test reads, what it keeps and tells, and what a failed one holds."""

import hashlib
import io
import json
import logging
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from test_leases_and_sweep import Runs

from ratchet.adapters.ledger import schema as t
from ratchet.adapters.storage import ObjectStore
from ratchet.domain import gate, selftest
from ratchet.errors import Refused, Unavailable
from ratchet.workflow.self_testing import SelfTests

MAY = datetime(2013, 5, 1, 4, tzinfo=UTC)
DAYS = 28


@pytest.fixture
def store(tmp_path):
    return ObjectStore(str(tmp_path / "store"))


@pytest.fixture
def tests(world, store):
    return SelfTests(world.ledger, lambda: store)


@pytest.fixture(autouse=True)
def _fewer_copies(monkeypatch):
    whole = selftest.self_test
    monkeypatch.setattr(selftest, "self_test", lambda recent, **rule: whole(recent, **rule | {"copies": 200}))


def judged(world, store, number: int, verdict: str = "keep_champion", *, version: int | None = None, rows=True) -> str:
    """An attempt that has ended with a verdict on 28 days, with its dossier and its rows, or without any."""
    attempt_id = f"{world.model}.{number}"
    rng = np.random.default_rng(number)
    start = date(2013, 1, 1) + timedelta(30 * number)
    days = np.repeat([(start + timedelta(day)).isoformat() for day in range(DAYS)], 10)
    champion = rng.standard_normal(days.size)
    challenger = champion + np.repeat(rng.standard_normal(DAYS), 10)
    named = {"key": None, "sha256": None, "rows": 0}
    if rows:
        file = io.BytesIO()
        pq.write_table(pa.table({"day": days, "champion_payoff": champion, "challenger_payoff": challenger}), file)
        key = f"evidence/{attempt_id}.parquet"
        named = {"key": key, "sha256": store.put_bytes(key, file.getvalue()), "rows": days.size}
    dossier = json.dumps({"attempt": attempt_id, "evidence": named}).encode()
    store.put_bytes(f"dossiers/{attempt_id}.json", dossier)
    with world.ledger.transaction() as tx:
        empty = {c.name: None for c in t.attempt.columns}
        values = empty | {
            "id": attempt_id,
            "model": world.model,
            "epoch": number,
            "state": "concluded",
            "dag_id": "retrain",
            "dag_run_id": f"run{number}",
            "trigger": "data",
            "reason": "r",
            "options": {},
            "business_at": MAY,
            "as_of": MAY,
            "spec_digest": world.spec.digest,
            "code_digest": "c" * 64,
            "champion_seq": 1,
            "challenger_version": version,
            "verdict": verdict,
            "dossier_uri": store.uri(f"dossiers/{attempt_id}.json"),
            "dossier_sha256": hashlib.sha256(dossier).hexdigest(),
            "created_at": tx.wall(),
        }
        tx._db.execute(sa.insert(t.attempt).values(values))
    return attempt_id


def kept(world) -> list:
    with world.ledger.transaction() as tx:
        return tx.self_tests(world.model)


def audited(world) -> list[str]:
    with world.ledger.transaction() as tx:
        return [e["action"] for e in tx.audit_log(world.model) if e["action"].startswith("selftest")]


def break_the_gate(monkeypatch) -> None:
    ours = gate.judge

    def promotes_all(*rows, **rule):
        return ours(*rows, **rule | {"mode": "non_inferiority", "min_uplift": 1e9})

    monkeypatch.setattr(gate, "judge", promotes_all)


def save(world, *, passed: bool | None) -> None:
    with world.ledger.transaction() as tx:
        tx.save_self_test(world.model, {"reasons": ["as the test says"]}, passed=passed)


def waiting(world) -> str:
    """An attempt whose verdict says promote."""
    world.crown()
    world.arrive(MAY)
    attempt = world.claim()["attempt"]
    world.judge(attempt, "promote")
    return attempt


def test_the_newest_attempts_are_tested_and_the_result_is_kept_and_audited(world, store, tests):
    made = [judged(world, store, number) for number in range(1, 7)]
    found = tests.run(actor="ann")[world.model]
    assert found.outcome == "passed", found.reasons
    assert list(found.attempts) == made[::-1]
    (row,) = kept(world)
    assert row.passed is True
    assert row.detail["promoted"] == found.promoted
    assert audited(world) == ["selftest.passed"]


def test_asking_again_asks_no_new_question(world, store, tests):
    for number in range(1, 6):
        judged(world, store, number)
    assert tests.run(actor="ann") == tests.run(actor="ann")


def test_a_failed_self_test_is_told_as_an_error_and_audited(world, store, tests, monkeypatch, caplog):
    break_the_gate(monkeypatch)
    for number in range(1, 6):
        judged(world, store, number)
    with caplog.at_level(logging.ERROR):
        assert tests.run(actor="ann")[world.model].outcome == "failed"
    assert "promotions are held" in caplog.text
    assert audited(world) == ["selftest.failed"]
    (row,) = kept(world)
    with world.ledger.transaction() as tx:
        assert tx.failed_self_test(world.model) == row


def test_too_few_days_are_neither_passed_nor_failed(world, store, tests, monkeypatch):
    break_the_gate(monkeypatch)
    judged(world, store, 1)
    assert tests.run(actor="ann")[world.model].outcome == "not_judged"
    assert kept(world)[0].passed is None
    assert audited(world) == []
    save(world, passed=False)
    tests.run(actor="ann")
    with world.ledger.transaction() as tx:
        assert tx.failed_self_test(world.model), "what cannot be judged releases nothing"


def test_rows_that_were_changed_are_left_out_by_name(world, store, tests, tmp_path):
    made = [judged(world, store, number) for number in range(1, 7)]
    file = tmp_path / "store" / "evidence" / f"{made[2]}.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = tests.run(actor="ann")[world.model]
    assert made[2] not in found.attempts
    assert len(found.attempts) == 5
    assert list(kept(world)[0].detail["unreadable"]) == [made[2]]


def test_an_attempt_that_compared_nothing_is_passed_over(world, store, tests):
    made = [judged(world, store, number, rows=number != 3) for number in range(1, 7)]
    found = tests.run(actor="ann")[world.model]
    assert list(found.attempts) == [each for each in made[::-1] if each != made[2]]
    assert kept(world)[0].detail["unreadable"] == {}


def test_of_several_looks_at_one_challenger_the_last_is_taken(world, store, tests):
    made = [judged(world, store, number, version=max(number, 2)) for number in range(1, 7)]
    assert list(tests.run(actor="ann")[world.model].attempts) == made[:0:-1]


def test_a_store_that_does_not_answer_fails_no_gate(world, store, tests, monkeypatch):
    judged(world, store, 1)

    def away(*_, **__):
        raise Unavailable("the store is away")

    monkeypatch.setattr(store, "get_bytes", away)
    with pytest.raises(Unavailable):
        tests.run(actor="ann")
    assert kept(world) == []


def test_models_never_judged_are_passed_over_and_unknown_ones_refused(world, tests):
    assert tests.run(actor="ann") == {}
    assert tests.run(world.model, actor="ann")[world.model].outcome == "not_judged"
    with pytest.raises(Refused, match="no model 'other'"):
        tests.run("other", actor="ann")


def test_a_promotion_is_held_while_the_last_self_test_failed_and_made_when_one_passes(world, caplog):
    attempt = waiting(world)
    save(world, passed=True)
    save(world, passed=False)
    save(world, passed=None)
    with caplog.at_level(logging.ERROR):
        answer = world.promotions.promote(world.model)
    assert answer["promoted"] is None
    assert "as the test says" in answer["held"]
    assert f"ratchet gate selftest {world.model}" in caplog.text
    assert world.attempt(attempt).state == "judged"
    with world.ledger.transaction() as tx:
        tx._db.execute(sa.update(t.attempt).values(judged_at=tx.wall() - timedelta(minutes=5)))
    assert world.sweeper.sweep(Runs(), {world.model})["judged"] == [], "a run a minute would only say so again"
    save(world, passed=True)
    assert world.sweeper.sweep(Runs(), {world.model})["judged"] == [world.model]
    assert world.promotions.promote(world.model)["promoted"] == attempt


def test_a_failed_self_test_of_another_model_holds_nothing(world):
    attempt = waiting(world)
    with world.ledger.transaction() as tx:
        tx.save_self_test("other", {"reasons": ["no"]}, passed=False)
    assert world.promotions.promote(world.model)["promoted"] == attempt


def test_a_rollback_is_never_held(world):
    world.crown(1)
    world.crown(2)
    save(world, passed=False)
    assert world.promotions.rollback(world.model, None, "ann", "it loses money")["version"] == 1
