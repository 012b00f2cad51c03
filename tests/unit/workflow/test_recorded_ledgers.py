"""What earlier code wrote, today's reads: a ledger, its storage and its registry, recorded at revision 0010.

``recorded/ledger-0010.zip`` was written by commit b2146d3, by its own world of judged attempts (judged_attempts.py): a
first champion on 2013-03-25 and an attempt to replace it on 2013-04-20. Dossiers then knew no candidates, no deployed
version and no approval.
"""

import zipfile
from pathlib import Path

import pytest
from judged_attempts import JudgingWorld

from ratchet.adapters.ledger import SqlLedger
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Unavailable
from ratchet.workflow import dossiers
from ratchet.workflow.cards import card
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.verifying import Verifier

RECORDED = Path(__file__).parent / "recorded" / "ledger-0010.zip"
ATTEMPTS = ("flight_delay.1", "flight_delay.2")


@pytest.fixture
def recorded(tmp_path) -> Path:
    with zipfile.ZipFile(RECORDED) as packed:
        packed.extractall(tmp_path / "recorded")
    return tmp_path / "recorded"


@pytest.fixture
def upgraded(recorded, tmp_path):
    """Today's verbs on it, after the upgrade."""
    ledger = SqlLedger(f"sqlite:///{recorded}/ledger.db")
    ledger.migrate("ann")
    ledger.dispose()
    folder = tmp_path / "world"
    recorded.rename(folder)
    made = JudgingWorld(folder, (folder / "ledger.db").rename(folder / "template.db"))
    made.registry._versions = {made.model: list(ATTEMPTS)}
    made.registry.set_alias(made.model, "champion", 1)
    yield made
    made.ledger.dispose()


def test_it_is_refused_until_it_is_upgraded(recorded):
    ledger = SqlLedger(f"sqlite:///{recorded}/ledger.db")
    with pytest.raises(Unavailable, match=r"at revision 0010, .*: ratchet ledger migrate"), ledger.transaction():
        pass
    ledger.dispose()


def test_all_that_it_names_verifies_and_the_audit_chain_goes_on(upgraded):
    w = upgraded
    verified = Verifier(w.ledger, w.audit_log, w.artifacts, lambda: w.registry, lambda: w.store).verify()
    assert verified.findings == ()
    assert verified.looked_at == {
        "audit log": 1,
        "artifact": 2,
        "snapshot": 6,
        "dossier": 2,
        "evidence": 2,
        "alias": 1,
    }
    with w.ledger.transaction() as tx:
        assert [entry["action"] for entry in tx.audit_log()][-1] == "ledger.migrated"


@pytest.mark.parametrize("attempt_id", ATTEMPTS)
def test_its_specs_are_read_and_its_verdicts_follow_from_its_evidence(upgraded, attempt_id):
    attempt = upgraded.attempt(attempt_id)
    with upgraded.ledger.transaction() as tx:
        spec = ModelSpec.model_validate(tx.spec_document(attempt.spec_digest))
    assert spec.model == "flight_delay"
    answer = Repeats(upgraded.parts).replay(attempt, "ann")
    assert answer.differences == ()
    assert answer.decision == attempt.verdict


@pytest.mark.parametrize("attempt_id", ATTEMPTS)
def test_its_dossiers_are_told_to_people(upgraded, attempt_id):
    dossier = dossiers.read(upgraded.store, upgraded.attempt(attempt_id))
    assert "candidates" not in dossier
    assert "deployed" not in dossier
    assert dossiers.evidence_digest(dossier) == dossier["evidence_digest"]
    assert attempt_id in card(dossier, "d" * 64)


def test_the_next_challenger_is_judged_against_its_champion(upgraded):
    upgraded._runs = len(ATTEMPTS)
    attempt = upgraded.run("2013-05-20")
    assert (attempt.id, attempt.champion_version, attempt.challenger_version) == ("flight_delay.3", 1, 3)
    assert attempt.verdict is not None
