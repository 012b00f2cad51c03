import json
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.adapters.storage import CorruptObjectError
from ratchet.domain.artifact import ConstantDecision
from ratchet.domain.gate import Evidence, ScoredRows
from ratchet.errors import Refused
from ratchet.workflow import dossiers, evidence
from ratchet.workflow.evaluation import evaluate


def flip_a_byte(judging, key: str) -> None:
    path = judging.folder / "store" / key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_ledger_knows_the_dossier_by_its_digest_and_so_does_the_audit_log(judging):
    made = judging.first
    assert made.verdict == "promote", made.verdict_record["reasons"]
    dossier = dossiers.read(judging.store, made)
    assert dossier["evidence_digest"] == made.evidence_digest == dossiers.evidence_digest(dossier)
    with judging.ledger.transaction() as tx:
        judged = [entry["detail"] for entry in tx.audit_log(judging.model) if entry["action"] == "attempt.judged"]
    assert {detail["attempt"]: detail["dossier"] for detail in judged}[made.id] == made.dossier_sha256


def test_a_flipped_byte_in_a_dossier_is_found_by_name(judging):
    made = judging.first
    flip_a_byte(judging, dossiers.key_of(made.id))
    with pytest.raises(CorruptObjectError, match=f"{made.id}.json: sha256 must be {made.dossier_sha256}"):
        dossiers.read(judging.store, made)


def test_a_search_does_not_start_from_a_dossier_that_was_changed(judging):
    made = judging.first
    flip_a_byte(judging, dossiers.key_of(made.id))
    with pytest.raises(CorruptObjectError):
        judging.run("2013-05-10")


def test_a_dossier_from_before_digests_were_kept_is_not_trusted(judging):
    made = judging.first
    with pytest.raises(Refused, match="before digests of dossiers were kept"):
        dossiers.read(judging.store, replace(made, dossier_sha256=None))


def test_a_judging_task_that_died_before_the_ledger_knew_answers_what_it_had_found(judging, monkeypatch):
    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    attempt_id = judging.tuned("2013-05-10", dry_run=True)
    with monkeypatch.context() as patch:
        patch.setattr("ratchet.adapters.ledger.attempts.Attempts.save_step", die)
        with pytest.raises(Died):
            judging.attempts.judge(attempt_id)
    path = judging.folder / "store" / dossiers.key_of(attempt_id)
    before = path.read_bytes()
    judging.attempts.judge(attempt_id)
    made = judging.attempt(attempt_id)
    assert path.read_bytes() == before
    assert made.state == "concluded"
    assert made.verdict_record == json.loads(before)["verdict"]
    assert dossiers.read(judging.store, made)


def test_of_two_dossiers_of_one_attempt_the_first_stands(judging):
    made = judging.first
    first = dossiers.read(judging.store, made)
    stood, digest = dossiers.write(judging.store, first | {"reason": "another"})
    assert (stood, digest) == (first, made.dossier_sha256)


def test_a_dossier_that_contradicts_itself_is_not_adopted(judging):
    made = judging.first
    path = judging.folder / "store" / dossiers.key_of(made.id)
    forged = json.loads(path.read_bytes())
    forged["verdict"]["decision"] = "keep_champion"
    path.write_bytes(dossiers.to_json(forged))
    with pytest.raises(Refused, match="contradicts its own evidence digest"):
        dossiers.standing(judging.store, made.id)


def test_evidence_is_kept_row_by_row_under_the_digest_the_dossier_names(judging):
    made = judging.second
    named = dossiers.read(judging.store, made)["evidence"]
    content = judging.store.get_bytes(f"evidence/{made.id}.parquet", digest=named["sha256"])
    table = pq.read_table(pa.BufferReader(content))
    assert table.column_names == [
        *("flight_id", "decided_at", "day", "label", "carrier"),
        *("champion_probability", "champion_act", "champion_payoff"),
        *("challenger_probability", "challenger_act", "challenger_payoff"),
    ]
    assert table.num_rows == named["rows"] == made.verdict_record["n_rows"]


@pytest.mark.parametrize("constant", [False, True])
def test_stored_evidence_comes_back_to_the_bit(judging, constant):
    made = judging.first
    model = judging.parts.models().load(judging.registry.download(judging.model, made.challenger_version))
    champion = ConstantDecision(act=True, probability=0.3) if constant else model
    holdout = judging.features.table.slice(0, 500)
    given = evaluate(judging.spec, holdout, champion, model)
    table = evidence.to_table(judging.spec, holdout, given)
    beside = json.loads(dossiers.to_json(evidence.measured(given)))
    back = evidence.from_table(table, beside, tuple(given.slices), given.unit)
    for field in fields(Evidence):
        was, now = getattr(given, field.name), getattr(back, field.name)
        if isinstance(was, ScoredRows):
            for part in fields(ScoredRows):
                np.testing.assert_equal(getattr(now, part.name), getattr(was, part.name), err_msg=part.name)
        else:
            np.testing.assert_equal(now, was, err_msg=field.name)
