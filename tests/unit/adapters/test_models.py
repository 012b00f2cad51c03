import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from ratchet.adapters.models import XGBoostLearner, digest, encode_frame, learner_for, load, save
from ratchet.adapters.storage import CorruptObjectError, MissingObjectError
from ratchet.domain.artifact import ModelArtifact, Platt
from ratchet.domain.expression import Expression
from ratchet.domain.payoff import PayoffMatrix
from ratchet.errors import Refused

FEATURES = ("wind", "carrier")
LEARNER = XGBoostLearner()


def rows(n: int = 400) -> pa.Table:
    random = np.random.default_rng(0)
    carrier = np.array(["AA", "UA", "WN", None], dtype=object)[random.integers(0, 4, n)]
    return pa.table({"wind": random.normal(size=n), "carrier": pa.array(carrier, type=pa.string())})


def artifact(**params) -> ModelArtifact:
    table = rows()
    label = (np.nan_to_num(table["wind"].to_numpy()) + (table["carrier"].to_numpy() == "UA") > 0.3).astype(np.int8)
    categories = LEARNER.categories(table, ["carrier"])
    prepared = LEARNER.prepare(table, label, features=FEATURES, categories=categories, threads=1)
    chosen = {"n_estimators": 8, "max_depth": 3} | params
    scorer = LEARNER.fit(prepared, chosen, seed=1, threads=1)
    return ModelArtifact(
        scorer=scorer,
        estimator=LEARNER.estimator,
        features=FEATURES,
        categories=categories,
        calibrator=Platt(slope=0.9, intercept=-0.1),
        threshold=0.25,
        params=chosen,
        provenance={"seed": 1},
    )


def test_a_loaded_artifact_decides_as_before_to_the_bit(tmp_path: Path):
    before = artifact()
    expected = save(before, tmp_path)
    after = load(tmp_path, expected=expected)
    for old, new in zip(before.decide(rows()), after.decide(rows()), strict=True):
        np.testing.assert_array_equal(old, new)
    assert save(after, tmp_path / "again") == expected == digest(tmp_path)


def test_the_card_of_a_plain_threshold_is_as_ever(tmp_path: Path):
    save(artifact(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text())
    assert (card["format"], card["threshold"]) == ("ratchet.artifact.v1", 0.25)
    assert set(card) == {
        *("format", "estimator", "model_sha256", "features", "categories"),
        *("calibrator", "threshold", "params", "provenance"),
    }


BY_ROW = PayoffMatrix(tp=Expression("3 * coalesce(wind, 0.1)"), fp=-1.0, fn=0.0, tn=0.0, unit="EUR")


def test_a_threshold_by_row_is_kept_as_its_formulas_and_decides_as_before(tmp_path: Path):
    before = replace(artifact(), threshold=BY_ROW)
    after = load(tmp_path, expected=save(before, tmp_path))
    assert after.threshold == BY_ROW
    assert json.loads((tmp_path / "ratchet.json").read_text())["threshold"]["tp"] == "3 * coalesce(wind, 0.1)"
    probability, act = after.decide(rows())
    np.testing.assert_array_equal(act, before.decide(rows())[1])
    np.testing.assert_array_equal(act, probability * 3 * rows()["wind"].to_numpy() - (1 - probability) >= 0)
    assert 0 < act.sum() < len(act)


def test_a_threshold_by_row_is_not_for_a_reader_of_numbers(tmp_path: Path):
    save(replace(artifact(), threshold=BY_ROW), tmp_path)
    assert json.loads((tmp_path / "ratchet.json").read_text())["format"] == "ratchet.artifact.v2"


@pytest.mark.parametrize("formula", ["__import__('os')", "wind ** 9", "wind.real"])
def test_a_card_cannot_smuggle_code_into_a_threshold(tmp_path: Path, formula: str):
    save(replace(artifact(), threshold=BY_ROW), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text())
    card["threshold"]["tp"] = formula
    (tmp_path / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=r"ratchet\.json: threshold must be a payoff of numbers and expressions"):
        load(tmp_path)


def test_a_row_whose_gain_is_unknown_is_not_acted_on():
    by_row = replace(artifact(), threshold=PayoffMatrix(Expression("1000 + wind"), -1.0, 0.0, 0.0))
    one = pa.table({"wind": pa.array([None, 0.5], pa.float64()), "carrier": ["UA", "UA"]})
    assert by_row.decide(one)[1].tolist() == [False, True]


def test_a_threshold_by_row_names_the_column_it_lacks():
    by_row = replace(artifact(), threshold=PayoffMatrix(Expression("fare"), -1.0, 0.0, 0.0))
    with pytest.raises(Refused, match="must have the column 'fare'"):
        by_row.decide(rows())


def test_nothing_on_disk_is_a_pickle(tmp_path: Path):
    save(artifact(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ubj", "ratchet.json"]


def test_scores_equal_those_of_the_native_model_on_a_categorical_frame():
    made = artifact()
    frame = encode_frame(rows(), made.features, made.categories)
    native = made.scorer.booster.predict(xgb.DMatrix(frame, enable_categorical=True))
    np.testing.assert_array_equal(made.scorer.raw(rows()), native.astype(np.float64))


def test_an_unseen_category_counts_as_missing():
    made = artifact()
    unseen = pa.table({"wind": [0.1], "carrier": ["ZZ"]})
    missing = pa.table({"wind": [0.1], "carrier": pa.array([None], type=pa.string())})
    assert made.probability(unseen) == made.probability(missing)


def test_the_order_of_columns_and_dictionary_encoding_change_nothing():
    made = artifact()
    other = pa.table({"carrier": rows()["carrier"].combine_chunks().dictionary_encode(), "wind": rows()["wind"]})
    np.testing.assert_array_equal(made.probability(rows()), made.probability(other))


def test_one_row_scores_as_it_does_among_others():
    made = artifact()
    alone = np.concatenate([made.probability(rows().slice(i, 1)) for i in range(5)])
    np.testing.assert_array_equal(alone, made.probability(rows())[:5])


def test_no_rows_score_to_nothing():
    assert artifact().probability(rows().slice(0, 0)).shape == (0,)


@pytest.mark.parametrize("name", ["model.ubj", "ratchet.json"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str):
    expected = save(artifact(), tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + b" ")
    with pytest.raises(CorruptObjectError, match=name):
        load(tmp_path, expected=expected)


def test_a_missing_file_is_named(tmp_path: Path):
    save(artifact(), tmp_path)
    (tmp_path / "model.ubj").unlink()
    with pytest.raises(MissingObjectError, match=r"model\.ubj"):
        load(tmp_path)


def test_a_card_of_another_format_is_refused(tmp_path: Path):
    save(artifact(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text()) | {"format": "ratchet.artifact.v9"}
    (tmp_path / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=r"ratchet\.artifact\.v1"):
        load(tmp_path)


def test_threads_and_seeds_are_not_parameters():
    with pytest.raises(Refused, match=r"n_jobs.*runtime\.threads"):
        artifact(n_jobs=4)


def test_what_the_estimator_refuses_is_told_with_its_parameters():
    with pytest.raises(Refused, match=r"refused .*'max_depth': -3"):
        artifact(max_depth=-3)


def test_infinite_features_are_refused_at_fit():
    table = pa.table({"wind": [0.0, np.inf]})
    prepared = LEARNER.prepare(table, np.array([0, 1]), features=("wind",), categories={}, threads=1)
    with pytest.raises(Refused, match="inf"):
        LEARNER.fit(prepared, {}, seed=0, threads=1)


def test_text_that_is_not_declared_categorical_is_refused():
    with pytest.raises(Refused, match="'carrier' must be a number"):
        LEARNER.prepare(rows(), np.zeros(400), features=FEATURES, categories={}, threads=1)


def test_an_estimator_without_a_learner_is_not_yet_supported():
    assert isinstance(learner_for("xgboost.XGBClassifier"), XGBoostLearner)
    with pytest.raises(Refused, match="not yet supported"):
        learner_for("sklearn.linear_model.LogisticRegression")


def grown(watch=None, rounds: int = 12):
    table = rows()
    label = (np.nan_to_num(table["wind"].to_numpy()) > 0.3).astype(np.int8)
    prepared = LEARNER.prepare(table, label, features=("wind",), categories={}, threads=1)
    params = {"n_estimators": rounds, "max_depth": 3, "subsample": 0.7}
    return LEARNER.fit(prepared, params, seed=1, threads=1, watch=watch)


def test_a_scorer_that_was_watched_and_not_stopped_is_the_same_to_the_bit():
    seen = []

    def look(share, scorer):
        seen.append(share)
        scorer.raw(rows())
        return False

    assert grown(look).native_bytes() == grown().native_bytes()
    assert seen == pytest.approx([1 / 3, 1 / 2, 2 / 3])


def test_a_scorer_that_was_stopped_is_as_it_was_then():
    stopped = grown(lambda share, _: share >= 0.5)
    assert stopped.booster.num_boosted_rounds() == 6


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_scorer_of_very_few_trees_grows_to_its_end(rounds):
    assert grown(lambda *_: False, rounds).booster.num_boosted_rounds() == rounds


@pytest.mark.parametrize("content", [b"\xff{", b"[]", b"{}", b'{"calibrator": 3}'])
def test_a_card_that_is_none_is_corrupt_and_named(tmp_path: Path, content: bytes):
    save(artifact(), tmp_path)
    (tmp_path / "ratchet.json").write_bytes(content)
    with pytest.raises(CorruptObjectError, match=r"ratchet\.json: must be the card of an artifact"):
        load(tmp_path)
