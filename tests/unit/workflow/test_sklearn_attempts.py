"""Attempts whose models are scikit-learn's: from the snapshot to the verdict, trained again, tampered with."""

import json
import os
from functools import partial

import pytest
import skops.io
import sqlalchemy as sa
from judged_attempts import JudgingWorld
from labelled_rows import spec

from ratchet.adapters import models
from ratchet.adapters.ledger import schema as t
from ratchet.adapters.storage import sha256
from ratchet.domain.estimators import HIST_GRADIENT_BOOSTING, LOGISTIC_REGRESSION, RANDOM_FOREST
from ratchet.domain.spec import ModelSpec
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import UnusableArtifact
from ratchet.workflow.cards import card
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.verifying import Verifier

TRAIN = {
    HIST_GRADIENT_BOOSTING: {
        "fixed": {"max_iter": 12},
        "search_space": {
            "max_leaf_nodes": {"int": [4, 15]},
            "learning_rate": {"float": [0.05, 0.3], "log": True},
        },
    },
    RANDOM_FOREST: {
        "fixed": {"n_estimators": 12, "min_samples_leaf": 5},
        "search_space": {"max_depth": {"int": [3, 8]}, "max_features": {"categorical": ["sqrt", "log2"]}},
    },
    LOGISTIC_REGRESSION: {"fixed": {}, "search_space": {"C": {"float": [0.01, 10.0], "log": True}}},
}


@pytest.fixture(scope="module", params=TRAIN, ids=lambda estimator: estimator.rpartition(".")[2])
def judged_template(request, tmp_path_factory, migrated):
    """In place of XGBoost's: a first champion, and one attempt to replace it."""
    train = TRAIN[request.param] | {"estimator": request.param}
    made = JudgingWorld(tmp_path_factory.mktemp("judged"), migrated, **train)
    made.first = made.run("2013-03-25", first_champion=True)
    made.second = made.run("2013-04-20")
    yield made
    made.ledger.dispose()


def folder_of(judging, version: int):
    return judging.folder / "registry" / judging.model / str(version)


def audited(judging, action: str) -> list[int]:
    """The versions that the audit log names under the action."""
    with judging.ledger.transaction() as tx:
        return [entry["detail"]["version"] for entry in tx.audit_log(judging.model, action=action)]


def test_an_attempt_goes_all_the_way_to_its_verdict(judging):
    first, second = judging.first, judging.second
    assert (first.state, first.verdict) == ("concluded", "promote")
    assert (second.state, second.verdict in {"promote", "keep_champion", "not_enough_evidence"}) == ("concluded", True)
    assert first.verdict_record["lower"] > 0, "it beats the best constant decision"
    files = sorted(path.name for path in folder_of(judging, first.challenger_version).iterdir())
    assert files == ["model.skops", "ratchet.json"]
    made = judging.artifacts.load(judging.model, first.challenger_version)
    assert made.estimator == judging.spec.train.estimator
    assert made.provenance["libraries"].keys() >= {"sklearn", "skops"}
    assert made.params.keys() >= judging.spec.train.search_space.keys()


@pytest.mark.parametrize("which", ["first", "second"])
def test_its_verdict_is_replayed_and_its_model_trained_again_to_the_bit(judging, which):
    repeats, attempt = Repeats(judging.parts), getattr(judging, which)
    assert repeats.replay(attempt, "ann").same
    for threads in (1, 3):
        again = repeats.reproduce(attempt, "ann", threads=threads)
        assert (again.same, again.different, again.model_digest_equal) == (True, 0, True)


def test_it_has_a_card_and_nothing_to_find_fault_with(judging):
    assert card(dossiers.read(judging.store, judging.second), "d" * 64).count("<svg") == 5
    with judging.ledger.transaction() as tx:
        judging.registry.set_alias(judging.model, "champion", tx.current_champion(judging.model).version)
    parts = (judging.ledger, judging.audit_log, judging.artifacts, lambda: judging.registry, lambda: judging.store)
    assert Verifier(*parts).verify(None).findings == ()


def test_a_flipped_byte_in_its_model_is_refused_by_name_and_reported(judging):
    version = judging.first.challenger_version
    file = folder_of(judging, version) / "model.skops"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UnusableArtifact, match=r"model\.skops: sha256 must be"):
        judging.artifacts.load(judging.model, version)
    assert audited(judging, "artifact.tampered") == [version]


def test_a_file_that_would_run_a_command_is_refused_by_name_even_where_no_digest_is_known(judging):
    """Its card fits it, and the ledger is of a time before digests: only the list of types is left."""
    version = judging.first.challenger_version
    folder = folder_of(judging, version)
    scorer = models.load(folder).scorer
    scorer.model.hidden = partial(os.system, f"touch {judging.folder}/ran")
    hostile = skops.io.dumps(scorer.model)
    (folder / "model.skops").write_bytes(hostile)
    written = json.loads((folder / "ratchet.json").read_text()) | {"model_sha256": sha256(hostile)}
    (folder / "ratchet.json").write_text(json.dumps(written))
    with judging.ledger.engine.begin() as db:
        db.execute(sa.text("DROP TRIGGER champion_append_only_update"))
        db.execute(sa.update(t.champion).values(model_digest=None))
        db.execute(sa.update(t.attempt).values(model_digest=None))
    with pytest.raises(UnusableArtifact, match=r"but names .*posix\.system"):
        judging.artifacts.load(judging.model, version)
    assert audited(judging, "artifact.tampered") == [version]
    assert not (judging.folder / "ran").exists()


def test_its_champion_is_challenged_by_a_model_of_another_library(judging):
    changed = judging.spec.model_dump(mode="json") | {"train": spec().model_dump(mode="json")["train"]}
    judging.spec = ModelSpec.model_validate(changed)
    with judging.ledger.transaction() as tx:
        tx.publish_spec(judging.model, judging.spec.digest, judging.spec.model_dump(mode="json"))
    made = judging.run("2013-05-15")
    assert made.verdict in {"promote", "keep_champion", "not_enough_evidence"}
    assert judging.artifacts.load(judging.model, made.challenger_version).estimator == "xgboost.XGBClassifier"
    assert Repeats(judging.parts).reproduce(made, "ann").same
