import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow.compute as pc
import pytest

from ratchet.adapters.storage import CorruptObjectError
from ratchet.domain.gate import GatePolicy, policy_from
from ratchet.errors import Refused
from ratchet.workflow import dossiers
from ratchet.workflow.repeating import TOLERANCE, Repeats


@pytest.fixture
def repeats(judging) -> Repeats:
    return Repeats(judging.parts)


def rewrite(judging, attempt, change) -> None:
    """The dossier with something changed, and its new digest in the ledger: what only a forger of both could do."""
    dossier = dossiers.read(judging.store, attempt)
    change(dossier)
    content = dossiers.to_json(dossier)
    digest = judging.store.put_bytes(dossiers.key_of(attempt.id), content)
    with judging.ledger.transaction() as tx:
        tx.update_attempt(attempt.id, dossier_sha256=digest)


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_replayed_verdict_is_the_recorded_one_to_the_last_bit(judging, repeats, which):
    attempt = getattr(judging, which)
    answer = repeats.replay(attempt, "ann")
    assert answer.differences == ()
    assert answer.decision == attempt.verdict


def test_a_replay_obeys_the_policy_that_was_pinned_and_not_the_one_of_today(judging, repeats):
    today = judging.spec.model_dump(mode="json")
    today["gate"]["min_uplift"] = 1000.0
    changed = type(judging.spec).model_validate(today)
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, changed.digest, changed.model_dump(mode="json"))
    assert repeats.replay(judging.first, "ann").same


def test_a_replay_names_each_field_of_a_verdict_that_does_not_follow_from_its_evidence(judging, repeats):
    def forge(dossier: dict) -> None:
        dossier["verdict"]["decision"] = "keep_champion"
        dossier["verdict"]["lower"] = -1.0

    rewrite(judging, judging.first, forge)
    answer = repeats.replay(judging.attempt(judging.first.id), "ann")
    told = {d.field: (d.recorded, d.found) for d in answer.differences}
    assert not answer.same
    assert told["verdict.decision"] == ("keep_champion", "promote")
    assert told["verdict.lower"] == (-1.0, judging.first.verdict_record["lower"])
    assert "ledger.evidence_digest" in told


def test_guardrails_are_replayed_from_the_timings_in_the_dossier(judging, repeats):
    def slow(dossier: dict) -> None:
        dossier["evidence"]["beside"]["challenger"]["latency_ms"] = [999.0] * 200

    rewrite(judging, judging.first, slow)
    answer = repeats.replay(judging.attempt(judging.first.id), "ann")
    assert answer.decision == "keep_champion"
    assert any(d.field.endswith("passed") for d in answer.differences)


def test_changed_evidence_is_found_by_name_and_not_replayed(judging, repeats):
    path = judging.folder / "store" / "evidence" / f"{judging.first.id}.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptObjectError, match=r"evidence/flight_delay.1.parquet: sha256 must be"):
        repeats.replay(judging.first, "ann")


def test_a_policy_survives_its_record():
    for gate in ({"min_uplift": 0.1}, {"guardrails": [{"metric": "latency_p95_ms", "max": 20.0}]}):
        spec_gate = type("Gate", (), {"mode": "superiority", "confidence": 0.9, "min_uplift": 0.0} | gate)
        spec_gate.target_gain, spec_gate.guardrails = 0.5, gate.get("guardrails", [])
        policy = GatePolicy.from_spec(spec_gate)
        assert policy_from(json.loads(json.dumps(asdict(policy)))) == policy


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("which", ["first", "second"])
def test_a_model_is_reproduced_to_the_bit_with_any_number_of_threads(judging, repeats, which, threads):
    answer = repeats.reproduce(getattr(judging, which), "ann", threads=threads, from_source=True)
    assert (answer.different, answer.largest, answer.tolerance) == (0, 0.0, 0.0)
    assert answer.same
    assert answer.model_digest_equal
    assert answer.rows == dossiers.read(judging.store, getattr(judging, which))["evidence"]["rows"]


def test_a_model_of_another_seed_is_not_the_recorded_one(judging, repeats):
    def reseed(dossier: dict) -> None:
        dossier["seed"] += 1

    rewrite(judging, judging.first, reseed)
    answer = repeats.reproduce(judging.attempt(judging.first.id), "ann")
    assert not answer.same
    assert answer.different > 0
    assert not answer.model_digest_equal


def test_a_source_that_has_changed_is_told(judging, repeats):
    table = judging.features.table
    wind = np.array(table["wind"].to_numpy())
    wind[5] += 1.0
    judging.features.table = table.set_column(table.column_names.index("wind"), "wind", [wind])
    answer = repeats.reproduce(judging.first, "ann", from_source=True)
    assert [d.field for d in answer.differences] == ["source.train"]
    assert not answer.same
    assert repeats.reproduce(judging.first, "ann").same


def test_rows_that_came_later_do_not_change_what_the_source_gives_as_of_then(judging, repeats):
    table = judging.features.table
    judging.features.table = table.filter(pc.less(table["day"], "2013-05-01"))
    assert repeats.reproduce(judging.first, "ann", from_source=True).same


@pytest.mark.parametrize(
    ("pinned", "told"),
    [("code", "code was"), ("lock_sha256", "lock_sha256 was"), ("machine", "machine was"), ("python", "python was")],
)
def test_another_environment_is_refused_unless_it_is_allowed_and_then_the_tolerance_is_stated(judging, pinned, told):
    here = judging.parts.environment() | {"code": judging.parts.code_digest}
    other = replace(
        judging.parts,
        code_digest="d" * 64 if pinned == "code" else here["code"],
        environment=lambda: here | {pinned: "another"},
    )
    with pytest.raises(Refused, match=told):
        Repeats(other).reproduce(judging.first, "ann")
    answer = Repeats(other).reproduce(judging.first, "ann", allow_other_environment=True)
    assert answer.tolerance == TOLERANCE
    assert answer.same


def test_a_tampered_artifact_is_refused_by_name(judging, repeats):
    folder = judging.registry.download(judging.model, judging.first.challenger_version)
    card = (folder / "ratchet.json").read_text()
    (folder / "ratchet.json").write_text(card.replace('"threshold": 0.', '"threshold": 0.9'))
    with pytest.raises(CorruptObjectError, match=r"ratchet.json: artifact digest must be"):
        repeats.reproduce(judging.first, "ann")


def test_repeating_is_in_the_audit_log(judging, repeats):
    repeats.replay(judging.first, "ann")
    repeats.reproduce(judging.first, "bob")
    with judging.ledger.transaction() as tx:
        last = [(entry["actor"], entry["action"]) for entry in tx.audit_log(judging.model)][-2:]
    assert last == [("ann", "attempt.replayed"), ("bob", "attempt.reproduced")]
