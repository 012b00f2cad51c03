"""A version is what the ledger recorded, or it is refused by name: at each load, before a rollback, by a look at it."""

import ast
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

import ratchet
from ratchet.adapters import models
from ratchet.adapters.ledger import schema as t
from ratchet.errors import Unavailable
from ratchet.workflow import dossiers, evidence
from ratchet.workflow.artifacts import Artifacts, UnusableArtifact
from ratchet.workflow.verifying import Verifier

OURS = {"estimator"}
"""XGBoost's own reader of its own format, by which a version is written as MLflow's flavor."""


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def artifact(judging, version: int):
    return judging.folder / "registry" / judging.model / str(version)


def audited(judging, action: str) -> list[dict]:
    with judging.ledger.transaction() as tx:
        return [entry["detail"] for entry in tx.audit_log(judging.model, action=action)]


def verify(judging, model: str | None = None):
    parts = (judging.ledger, judging.audit_log, judging.artifacts, lambda: judging.registry, lambda: judging.store)
    return Verifier(*parts).verify(model)


def found(judging) -> set[tuple[str, str]]:
    return {(finding.kind, finding.name) for finding in verify(judging).findings}


@pytest.fixture
def judging(judging):
    judging.registry.set_alias(judging.model, "champion", judging.first.challenger_version)
    return judging


# At every load --------------------------------------------------------------------------------------------------------


def test_a_version_is_loaded_against_the_digest_that_the_ledger_recorded_when_it_was_made(judging):
    made = judging.first
    assert made.model_digest == models.digest(artifact(judging, made.challenger_version))
    with judging.ledger.transaction() as tx:
        assert tx.current_champion(judging.model).model_digest == made.model_digest
    assert judging.artifacts.load(judging.model, made.challenger_version).features


@pytest.mark.parametrize("name", ["model.ubj", "ratchet.json"])
def test_a_flipped_byte_in_an_artifact_is_refused_by_name_and_reported(judging, name, caplog):
    version = judging.first.challenger_version
    flip(artifact(judging, version) / name)
    with pytest.raises(UnusableArtifact, match=f"version {version} of flight_delay.*{name}"), caplog.at_level("ERROR"):
        judging.artifacts.load(judging.model, version)
    assert audited(judging, "artifact.tampered")[0]["version"] == version
    assert "artifact refused" in caplog.text


def test_an_artifact_that_was_replaced_by_a_whole_other_one_is_refused(judging, tmp_path):
    """Its card and its model fit each other; only the ledger knows that it is another."""
    version = judging.first.challenger_version
    other = models.load(artifact(judging, version))
    models.save(type(other)(**vars(other) | {"threshold": 0.01}), artifact(judging, version))
    with pytest.raises(UnusableArtifact, match="artifact digest must be"):
        judging.artifacts.load(judging.model, version)


def test_an_artifact_that_is_gone_is_unusable_and_not_called_tampered(judging):
    (artifact(judging, judging.first.challenger_version) / "model.ubj").unlink()
    with pytest.raises(UnusableArtifact, match="this file is missing"):
        judging.artifacts.load(judging.model, judging.first.challenger_version)
    assert audited(judging, "artifact.tampered") == []
    assert len(audited(judging, "artifact.unusable")) == 1


def test_a_local_copy_that_was_changed_is_fetched_again_and_nothing_is_reported(judging, tmp_path):
    version = judging.first.challenger_version
    copy, whole = tmp_path / "copy", artifact(judging, version)
    shutil.copytree(whole, copy)
    flip(copy / "model.ubj")
    judging.registry.download = lambda model, version, *, fresh=False: whole if fresh else copy
    assert judging.artifacts.load(judging.model, version).features
    assert audited(judging, "artifact") == []


def test_a_registry_that_is_away_says_nothing_about_the_artifact(judging):
    def away(*args, **options):
        raise Unavailable("MLflow does not answer")

    judging.registry.download = away
    with pytest.raises(Unavailable):
        judging.artifacts.load(judging.model, 1)
    with pytest.raises(Unavailable):
        verify(judging)
    assert audited(judging, "artifact") == []


# A version that was made with other packages than this process has ----------------------------------------------------


def test_where_a_version_cannot_be_expected_to_load_its_bytes_are_proved_and_no_model_is_read(judging, monkeypatch):
    version = judging.first.challenger_version

    def too_old(*_):
        raise ValueError("made by a newer library")

    monkeypatch.setattr(models, "_read_scorer", too_old)
    with pytest.raises(ValueError, match="newer library"):
        judging.artifacts.prove(judging.model, version)
    parts = (judging.ledger, lambda: judging.registry, lambda: models)
    elsewhere = Artifacts(*parts, lambda model: model == "flight_delay")
    for proof in (elsewhere.check, elsewhere.prove, elsewhere.inspect):
        proof(judging.model, version)
    flip(artifact(judging, version) / "model.ubj")
    for proof in (elsewhere.check, elsewhere.prove, elsewhere.inspect):
        with pytest.raises(UnusableArtifact, match=r"model\.ubj"):
            proof(judging.model, version)


# A champion that no longer loads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["tampered", "gone"])
def test_a_champion_that_no_longer_loads_is_kept_by_a_named_verdict_with_a_dossier(judging, harm):
    champion = judging.first.challenger_version
    if harm == "gone":
        shutil.rmtree(artifact(judging, champion))
    else:
        flip(artifact(judging, champion) / "model.ubj")
    made = judging.run("2013-05-10")
    assert (made.state, made.verdict, made.challenger_version) == ("concluded", "keep_champion", None)
    (reason,) = made.verdict_record["reasons"]
    assert f"version {champion} of flight_delay cannot be used" in reason
    assert "ratchet rollback flight_delay" in reason
    dossier = dossiers.read(judging.store, made)
    assert dossier["verdict"]["reasons"] == [reason]
    assert dossier["evidence_digest"] == made.evidence_digest
    assert audited(judging, "attempt.judged")[-1]["why"] == [reason]
    with judging.ledger.transaction() as tx:
        assert tx.current_champion(judging.model).version == champion
        used = [r for (r,) in tx._db.execute(sa.select(t.used_day.c.role).where(t.used_day.c.attempt_id == made.id))]
    assert used == [], "nothing was looked at, so the days stay fresh"


# Rollback -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def second(judging):
    """A second champion, so that there is one to go back to."""
    version = judging.first.challenger_version
    with judging.ledger.transaction() as tx:
        first = tx.current_champion(judging.model)
        tx.insert_champion(type(first)(**vars(first) | {"seq": 2, "version": version + 1, "kind": "promotion"}))
    return judging


def test_a_rollback_to_an_artifact_that_does_not_pass_is_refused_before_the_champion_moves(second):
    version = second.first.challenger_version
    flip(artifact(second, version) / "model.ubj")
    with pytest.raises(UnusableArtifact, match=f"version {version} of flight_delay"):
        second.promotions.rollback(second.model, None, "ann", "complaints")
    with second.ledger.transaction() as tx:
        assert tx.current_champion(second.model).seq == 2
        assert tx.audit_log(action="champion.rolledback") == []
        assert [entry["action"] for entry in tx.audit_log(action="artifact")] == ["artifact.tampered"]


def test_a_rollback_takes_the_digest_along_and_is_audited_with_who_and_why(second):
    second.promotions.rollback(second.model, None, "ann", "complaints")
    with second.ledger.transaction() as tx:
        champion = tx.current_champion(second.model)
        (entry,) = tx.audit_log(action="champion.rolledback")
    assert (champion.version, champion.model_digest) == (second.first.challenger_version, second.first.model_digest)
    assert (entry["actor"], entry["detail"]["reason"]) == ("ann", "complaints")


# A look at everything -------------------------------------------------------------------------------------------------


def test_what_is_as_it_was_recorded_has_no_findings_and_is_counted(judging):
    seen = verify(judging)
    assert seen.findings == ()
    assert seen.looked_at == {"audit log": 1, "artifact": 2, "snapshot": 6, "dossier": 2, "evidence": 2, "alias": 1}
    assert verify(judging, "another").looked_at == {"audit log": 1}


@pytest.mark.parametrize("name", ["manifest.json", "train.parquet", "holdout.parquet"])
def test_a_flipped_byte_in_a_snapshot_is_found_by_name(judging, name):
    key = f"snapshots/{judging.first.id}/{name}"
    flip(judging.folder / "store" / key)
    assert found(judging) == {("snapshot", key)}


def test_a_flipped_byte_in_a_dossier_or_its_evidence_is_found_by_name(judging):
    for key in (evidence.key_of(judging.first.id), dossiers.key_of(judging.first.id)):
        flip(judging.folder / "store" / key)
        assert key in {name for _, name in found(judging)}


def test_a_flipped_byte_in_an_artifact_is_found_by_the_versions_name(judging):
    flip(artifact(judging, 1) / "ratchet.json")
    assert found(judging) == {("artifact", "flight_delay@1")}
    assert audited(judging, "artifact") == [], "a look reports to who looks"


def test_a_flipped_byte_in_the_audit_log_is_found_by_the_entrys_number(judging):
    with judging.ledger.engine.begin() as db:
        for name in db.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(sa.text(f"DROP TRIGGER {name}"))
        db.execute(sa.update(t.audit).where(t.audit.c.seq == 2).values(actor="bnn"))
    (finding,) = verify(judging).findings
    assert finding.kind == "audit log"
    assert finding.problem.startswith("audit entry 2 ")


def test_an_alias_moved_by_hand_is_found_by_name(judging):
    judging.registry.set_alias(judging.model, "champion", 1)
    judging.registry._aliases[judging.model, "champion"] = 7
    assert found(judging) == {("alias", "flight_delay@champion")}


def test_a_version_without_a_digest_on_record_is_said_to_be_unverifiable(judging):
    with judging.ledger.engine.begin() as db:
        db.execute(sa.text("DROP TRIGGER champion_append_only_update"))
        db.execute(sa.update(t.champion).values(model_digest=None))
        db.execute(sa.update(t.attempt).values(model_digest=None))
    assert {finding.kind for finding in verify(judging).findings} == {"artifact"}
    assert all("no digest of it" in finding.problem for finding in verify(judging).findings)


# No pickle ------------------------------------------------------------------------------------------------------------


def test_no_code_of_ours_reads_a_pickle_or_loads_by_mlflows_flavors():
    """A pickle runs whatever it holds; MLflow's loaders read one wherever a flavor says so."""
    refused_modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for file in (Path(ratchet.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {str(node.module)}
            assert not {name.partition(".")[0] for name in names} & refused_modules, f"{file} imports {names}"
            asked_the_file = isinstance(node, ast.Attribute | ast.alias) and "get_untrusted_types" in ast.dump(node)
            assert not asked_the_file, f"{file} trusts the types that a skops file asks for"
            if isinstance(node, ast.Attribute) and node.attr == "load_model":
                owner = ast.unparse(node.value)
                assert owner in OURS, f"{file}:{node.lineno} loads a model by {owner}.load_model"
