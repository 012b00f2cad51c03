"""What only files of skops can get wrong: bytes that differ from process to process, and files made to do harm."""

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.naive_bayes import GaussianNB
from test_models import artifact, rows

from ratchet.adapters.models import SKLEARN_MODEL_FILE, learner_for, load, save
from ratchet.adapters.models_sklearn import FAMILIES, read
from ratchet.adapters.storage import sha256
from ratchet.domain.estimators import (
    HIST_GRADIENT_BOOSTING,
    HIST_GRADIENT_BOOSTING_REGRESSOR,
    LOGISTIC_REGRESSION,
    RANDOM_FOREST,
    SKLEARN_PARAMETERS,
)
from ratchet.errors import CorruptObjectError, Refused

HERE = Path(__file__)
FEATURES = 2


@pytest.fixture(params=FAMILIES, ids=lambda estimator: estimator.rpartition(".")[2])
def estimator(request: pytest.FixtureRequest) -> str:
    return request.param


def made(estimator: str, **params: Any) -> Any:
    """A fitted model of the estimator, fresh for each test that spoils it."""
    return artifact(learner_for(estimator), **params).scorer


def test_each_estimator_of_a_spec_has_its_types_and_its_parameters_exist(estimator: str):
    model = made(estimator).model
    known = model[-1].get_params() if estimator == LOGISTIC_REGRESSION else model.get_params()
    assert FAMILIES.keys() == SKLEARN_PARAMETERS.keys()
    assert SKLEARN_PARAMETERS[estimator] <= known.keys()


# The bytes are a function of the model -------------------------------------------------------------------------------

DIGESTS = """
import json, sys
sys.path.insert(0, {folder!r})
from test_models_sklearn import FAMILIES, artifact, learner_for, sha256
made = {{name: artifact(learner_for(name), threads={threads}).scorer.native_bytes() for name in FAMILIES}}
print(json.dumps({{name: sha256(content) for name, content in made.items()}}))
"""


def test_two_processes_write_the_same_bytes():
    """Other hash seeds, threads and addresses; the model that has been read writes them as well."""
    found = []
    for seed, threads in (("1", 1), ("2", 3)):
        script = DIGESTS.format(folder=str(HERE.parent), threads=threads)
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(run.stdout))
    here = {name: sha256(made(name).native_bytes()) for name in FAMILIES}
    assert found == [here, here]


def test_the_time_of_writing_is_not_in_the_file(estimator: str):
    with zipfile.ZipFile(io.BytesIO(made(estimator).native_bytes())) as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_is_scored_is_what_scikit_learn_itself_says(estimator: str):
    scorer = made(estimator)
    model = skops.io.loads(scorer.native_bytes(), trusted=sorted(FAMILIES[estimator].trusted))
    codes = np.array([{"AA": 0, "UA": 1, "WN": 2}.get(c, np.nan) for c in rows()["carrier"].to_pylist()])
    matrix = np.column_stack([rows()["wind"].to_numpy(), codes]).astype(np.float32).astype(np.float64)
    said = model.predict(matrix) if estimator == HIST_GRADIENT_BOOSTING_REGRESSOR else model.predict_proba(matrix)[:, 1]
    np.testing.assert_allclose(scorer.raw(rows()), said, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["quantile", "squared_error", "absolute_error"])
def test_a_regressor_of_each_loss_is_read_back_to_the_bit(loss: str, tmp_path: Path):
    before = artifact(
        learner_for(HIST_GRADIENT_BOOSTING_REGRESSOR), loss=loss, quantile=0.8 if loss == "quantile" else None
    )
    after = load(tmp_path, expected=save(before, tmp_path))
    np.testing.assert_array_equal(after.decide(rows())[0], before.decide(rows())[0])
    assert after.kind == "regression"


def test_a_regressor_of_several_trees_per_round_is_refused():
    model = made(HIST_GRADIENT_BOOSTING_REGRESSOR).model
    model.n_trees_per_iteration_ = 2
    with pytest.raises(CorruptObjectError, match="asks for other columns"):
        read(skops.io.dumps(model), HIST_GRADIENT_BOOSTING_REGRESSOR, FEATURES, "m.skops")


def test_a_model_keeps_none_of_the_rows_it_was_fitted_on(estimator: str):
    with zipfile.ZipFile(io.BytesIO(made(estimator).native_bytes())) as file:
        arrays = [np.load(io.BytesIO(file.read(name))) for name in file.namelist() if name.endswith(".npy")]
    assert arrays
    assert all(array.size < 400 for array in arrays)


# Files made to do harm ------------------------------------------------------------------------------------------------


class Harm:
    """What must never come to life."""

    happened = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).happened = True


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (partial(os.system, "true"), r"posix\.system"),
        (Harm(), r"test_models_sklearn\.Harm"),
        (GaussianNB(), r"sklearn\.naive_bayes\.GaussianNB"),
        (np.tanh, r"numpy\.tanh"),
        (GaussianNB().fit, "MethodNode"),
    ],
    ids=["a call", "a class of ours", "another estimator", "a ufunc", "a method"],
)
def test_a_type_that_is_not_listed_is_refused_by_name_wherever_it_hides(estimator: str, harm: Any, told: str):
    """skops alone would load another estimator or a ufunc without a word."""
    model = made(estimator).model
    model.hidden = [{"deep": (harm,)}]
    with pytest.raises(CorruptObjectError, match=f"m.skops: must hold a {estimator} of 2 .*, but names .*{told}"):
        read(skops.io.dumps(model), estimator, FEATURES, "m.skops")
    assert not Harm.happened


def test_another_estimator_under_the_same_name_is_refused(estimator: str):
    for other in FAMILIES.keys() - {estimator}:
        with pytest.raises(CorruptObjectError, match=r"m\.skops"):
            read(made(other).native_bytes(), estimator, FEATURES, "m.skops")


def test_a_model_of_other_columns_is_refused(estimator: str):
    with pytest.raises(CorruptObjectError, match="of 3 features and nothing else, but asks for other columns"):
        read(made(estimator).native_bytes(), estimator, 3, "m.skops")


def spoilt(content: bytes, change: Callable[[np.ndarray], None], field: str) -> bytes:
    """The file with each array of tree nodes changed; ``field`` is a name that only those have."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            stored = old.read(entry)
            if entry.filename.endswith(".npy"):
                array = np.load(io.BytesIO(stored))
                if array.dtype.names and field in array.dtype.names:
                    change(array)
                    stream = io.BytesIO()
                    np.save(stream, array)
                    stored = stream.getvalue()
            new.writestr(entry, stored)
    return written.getvalue()


NODES = {
    HIST_GRADIENT_BOOSTING: ("left", "right", "feature_idx"),
    HIST_GRADIENT_BOOSTING_REGRESSOR: ("left", "right", "feature_idx"),
    RANDOM_FOREST: ("left_child", "right_child", "feature"),
}


@pytest.mark.parametrize("estimator", NODES)
@pytest.mark.parametrize("harm", ["beyond the tree", "back to the root", "beyond the columns"])
def test_nodes_that_lead_out_of_their_tree_are_refused_before_they_are_walked(estimator: str, harm: str):
    """scikit-learn follows them without a look: a wrong index reads foreign memory, a cycle never ends."""
    left, right, feature = NODES[estimator]

    def change(nodes: np.ndarray) -> None:
        if harm == "beyond the tree":
            nodes[right][0] = 1_000_000
        elif harm == "back to the root":
            nodes[left][0] = 0
        else:
            nodes[feature][0] = 1_000_000

    content = made(estimator).native_bytes()
    read(content, estimator, FEATURES, "m.skops")
    with pytest.raises(CorruptObjectError, match="nodes that lead out of their tree"):
        read(spoilt(content, change, left), estimator, FEATURES, "m.skops")


@pytest.mark.parametrize("estimator", [HIST_GRADIENT_BOOSTING, HIST_GRADIENT_BOOSTING_REGRESSOR])
def test_a_category_split_without_its_bitset_is_refused(estimator: str):
    def change(nodes: np.ndarray) -> None:
        nodes["bitset_idx"][nodes["is_categorical"] != 0] = 1_000

    content = made(estimator).native_bytes()
    with pytest.raises(CorruptObjectError, match="nodes that lead out of their tree"):
        read(spoilt(content, change, "bitset_idx"), estimator, FEATURES, "m.skops")


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all"], ids=["nothing", "a stub", "text"])
def test_what_is_no_skops_file_is_corrupt_and_named(estimator: str, content: bytes):
    with pytest.raises(CorruptObjectError, match=r"m\.skops"):
        read(content, estimator, FEATURES, "m.skops")


def test_a_file_that_would_unfold_in_memory_is_refused(estimator: str):
    packed = skops.io.dumps(made(estimator).model, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptObjectError, match="is compressed"):
        read(packed, estimator, FEATURES, "m.skops")


@pytest.mark.parametrize(
    "schema", ["[]", "{}", '{"protocol": 99}', "[" * 100_000], ids=["list", "empty", "new", "deep"]
)
def test_a_schema_that_is_none_is_corrupt(estimator: str, schema: str):
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("schema.json", schema)
    with pytest.raises(CorruptObjectError, match=r"m\.skops"):
        read(written.getvalue(), estimator, FEATURES, "m.skops")


def test_the_digest_is_looked_at_before_the_file_is_opened(
    estimator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(artifact(learner_for(estimator)), tmp_path)
    content = bytearray((tmp_path / SKLEARN_MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / SKLEARN_MODEL_FILE).write_bytes(content)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(CorruptObjectError, match=r"model\.skops: sha256 must be"):
        load(tmp_path)


# What an estimator cannot take ----------------------------------------------------------------------------------------


def test_more_categories_than_bins_are_refused_by_the_features_name():
    with pytest.raises(Refused, match=r"at most max_bins = 2 values, but 'carrier' has 3"):
        made(HIST_GRADIENT_BOOSTING, max_bins=2)


def test_a_model_of_no_columns_at_all_is_refused():
    table = rows().select(["carrier"])
    learner = learner_for(LOGISTIC_REGRESSION)
    prepared = learner.prepare(table, np.arange(400) % 2, features=("carrier",), categories={"carrier": ()}, threads=1)
    with pytest.raises(Refused, match="at least one feature must have a value"):
        learner.fit(prepared, {}, seed=0, threads=1)


def test_a_fit_says_nothing_that_nobody_can_act_on(estimator: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(estimator)
