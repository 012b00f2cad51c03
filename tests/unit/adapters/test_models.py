import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from ratchet.adapters.models import (
    XGBoostLearner,
    XGBoostScorer,
    digest,
    encode_frame,
    learner_for,
    load,
    model_file,
    save,
)
from ratchet.adapters.storage import CorruptObjectError, MissingObjectError
from ratchet.domain.artifact import ModelArtifact, Platt, Shift
from ratchet.domain.estimators import (
    HIST_GRADIENT_BOOSTING,
    HIST_GRADIENT_BOOSTING_REGRESSOR,
    LOGISTIC_REGRESSION,
    RANDOM_FOREST,
)
from ratchet.domain.expression import Expression
from ratchet.domain.payoff import PayoffMatrix
from ratchet.domain.spec import ESTIMATORS, RANKERS, REGRESSORS
from ratchet.errors import Refused
from ratchet.ports.learning import Learner

FEATURES = ("wind", "carrier")
XGBOOST = XGBoostLearner()
SMALL = {
    XGBOOST.estimator: {"n_estimators": 8, "max_depth": 3},
    HIST_GRADIENT_BOOSTING: {"max_iter": 8, "max_depth": 3},
    RANDOM_FOREST: {"n_estimators": 8, "max_depth": 3},
    LOGISTIC_REGRESSION: {"C": 0.5},
}
"""Few and small trees of each classifier that a spec may name."""
SMALL_REGRESSION = {
    HIST_GRADIENT_BOOSTING_REGRESSOR: {"max_iter": 8, "max_depth": 3, "loss": "quantile", "quantile": 0.8}
}

ROUNDS = {name: next((p for p in ("n_estimators", "max_iter") if p in params), None) for name, params in SMALL.items()}


@pytest.fixture(params=SMALL, ids=lambda estimator: estimator.rpartition(".")[2])
def learner(request: pytest.FixtureRequest) -> Learner:
    return learner_for(request.param)


def rows(n: int = 400) -> pa.Table:
    random = np.random.default_rng(0)
    carrier = np.array(["AA", "UA", "WN", None], dtype=object)[random.integers(0, 4, n)]
    return pa.table({"wind": random.normal(size=n), "carrier": pa.array(carrier, type=pa.string())})


def artifact(learner: Learner = XGBOOST, table: pa.Table | None = None, *, threads: int = 1, **params) -> ModelArtifact:
    table = rows() if table is None else table
    label = (np.nan_to_num(rows()["wind"].to_numpy()) + (rows()["carrier"].to_numpy() == "UA") > 0.3).astype(np.int8)
    categories = learner.categories(table, ["carrier"])
    prepared = learner.prepare(table, label, features=FEATURES, categories=categories, threads=threads)
    chosen = (SMALL | SMALL_REGRESSION)[learner.estimator] | params
    predicts = learner.estimator in SMALL_REGRESSION
    scorer = learner.fit(prepared, chosen, seed=1, threads=threads)
    return ModelArtifact(
        scorer=scorer,
        estimator=learner.estimator,
        features=FEATURES,
        categories=categories,
        calibrator=Shift(0.1) if predicts else Platt(slope=0.9, intercept=-0.1),
        threshold=None if predicts else 0.25,
        params=chosen,
        provenance={"seed": 1},
    )


def test_a_loaded_artifact_decides_as_before_to_the_bit(learner: Learner, tmp_path: Path):
    before = artifact(learner)
    expected = save(before, tmp_path)
    after = load(tmp_path, expected=expected)
    for old, new in zip(before.decide(rows()), after.decide(rows()), strict=True):
        np.testing.assert_array_equal(old, new)
    assert save(after, tmp_path / "again") == expected == digest(tmp_path)


def test_the_card_of_a_plain_threshold_is_as_ever(learner: Learner, tmp_path: Path):
    save(artifact(learner), tmp_path)
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


def test_nothing_on_disk_is_a_pickle(learner: Learner, tmp_path: Path):
    save(artifact(learner), tmp_path)
    model = "model.ubj" if learner.estimator == XGBOOST.estimator else "model.skops"
    assert sorted(path.name for path in tmp_path.iterdir()) == [model, "ratchet.json"]


def test_scores_equal_those_of_the_native_model_on_a_categorical_frame():
    made = artifact()
    frame = encode_frame(rows(), made.features, made.categories)
    native = made.scorer.booster.predict(xgb.DMatrix(frame, enable_categorical=True))
    np.testing.assert_array_equal(made.scorer.raw(rows()), native.astype(np.float64))


def test_the_model_learns_numbers_and_categories(learner: Learner):
    probability = artifact(learner).probability(rows())
    wind, carrier = rows()["wind"].to_numpy(), rows()["carrier"].to_numpy()
    assert probability[wind > 1].mean() > probability[wind < -1].mean() + 0.2
    assert probability[carrier == "UA"].mean() > probability[carrier == "AA"].mean() + 0.1


def test_an_unseen_category_counts_as_missing(learner: Learner):
    made = artifact(learner)
    unseen = pa.table({"wind": [0.1], "carrier": ["ZZ"]})
    missing = pa.table({"wind": [0.1], "carrier": pa.array([None], type=pa.string())})
    assert made.probability(unseen) == made.probability(missing)


def test_a_missing_number_is_scored_although_none_was_missing_at_the_fit(learner: Learner):
    missing = pa.table({"wind": pa.array([None], pa.float64()), "carrier": ["UA"]})
    assert 0 < artifact(learner).probability(missing)[0] < 1


@pytest.mark.parametrize("empty", ["wind", "carrier"])
def test_a_feature_without_any_value_teaches_nothing(learner: Learner, empty: str):
    if (learner.estimator, empty) == (XGBOOST.estimator, "carrier"):
        pytest.skip("XGBoost refuses a categorical feature of no category")
    nothing = pa.array([None] * 400, rows().schema.field(empty).type)
    table = rows().set_column(rows().column_names.index(empty), empty, nothing)
    made = artifact(learner, table)
    np.testing.assert_array_equal(made.probability(rows()), made.probability(table))
    assert np.ptp(made.probability(rows())) > 0.1, "the other feature teaches as ever"


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(learner: Learner, threads: int):
    one, many = artifact(learner), artifact(learner, threads=threads)
    np.testing.assert_array_equal(one.probability(rows()), many.probability(rows()))
    assert one.scorer.native_bytes() == many.scorer.native_bytes()


def test_the_order_of_columns_and_dictionary_encoding_change_nothing(learner: Learner):
    made = artifact(learner)
    other = pa.table({"carrier": rows()["carrier"].combine_chunks().dictionary_encode(), "wind": rows()["wind"]})
    np.testing.assert_array_equal(made.probability(rows()), made.probability(other))


def test_one_row_scores_as_it_does_among_others(learner: Learner):
    made = artifact(learner)
    alone = np.concatenate([made.probability(rows().slice(i, 1)) for i in range(40)])
    np.testing.assert_array_equal(alone, made.probability(rows())[:40])


def test_no_rows_score_to_nothing(learner: Learner):
    assert artifact(learner).probability(rows().slice(0, 0)).shape == (0,)


@pytest.mark.parametrize("changed", ["model", "card"])
def test_a_changed_file_is_refused(learner: Learner, tmp_path: Path, changed: str):
    expected = save(artifact(learner), tmp_path)
    name = model_file(learner.estimator) if changed == "model" else "ratchet.json"
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content + b" ")
    with pytest.raises(CorruptObjectError, match=name):
        load(tmp_path, expected=expected)


def test_a_missing_file_is_named(learner: Learner, tmp_path: Path):
    save(artifact(learner), tmp_path)
    (tmp_path / model_file(learner.estimator)).unlink()
    with pytest.raises(MissingObjectError, match=model_file(learner.estimator)):
        load(tmp_path)


def test_a_card_of_another_format_is_refused(tmp_path: Path):
    save(artifact(), tmp_path)
    card = json.loads((tmp_path / "ratchet.json").read_text()) | {"format": "ratchet.artifact.v9"}
    (tmp_path / "ratchet.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=r"ratchet\.artifact\.v1"):
        load(tmp_path)


def test_threads_and_seeds_are_not_parameters(learner: Learner):
    with pytest.raises(Refused, match=r"n_jobs.*runtime\.threads"):
        artifact(learner, n_jobs=4)


def test_what_the_estimator_refuses_is_told_with_its_parameters(learner: Learner):
    name = "C" if learner.estimator == LOGISTIC_REGRESSION else "max_depth"
    with pytest.raises(Refused, match=f"refused .*'{name}': -3"):
        artifact(learner, **{name: -3})


def test_infinite_features_are_refused_at_fit(learner: Learner):
    table = pa.table({"wind": [0.0, np.inf]})
    with pytest.raises(Refused, match="inf"):
        learner.fit(
            learner.prepare(table, np.array([0, 1]), features=("wind",), categories={}, threads=1),
            SMALL[learner.estimator],
            seed=0,
            threads=1,
        )


def test_an_infinite_feature_is_scored(learner: Learner):
    far = pa.table({"wind": [np.inf, -np.inf], "carrier": ["UA", "UA"]})
    high, low = artifact(learner).probability(far)
    assert 0 < low < high < 1


def test_text_that_is_not_declared_categorical_is_refused(learner: Learner):
    with pytest.raises(Refused, match="'carrier' must be a number"):
        learner.prepare(rows(), np.zeros(400), features=FEATURES, categories={}, threads=1)


def test_no_feature_is_no_model(learner: Learner):
    with pytest.raises(Refused, match="at least one feature"):
        learner.prepare(rows(), np.zeros(400), features=(), categories={}, threads=1)


def test_an_estimator_without_a_learner_is_not_yet_supported():
    assert {learner_for(estimator).estimator for estimator in ESTIMATORS} == {*SMALL, *REGRESSORS, *RANKERS}
    with pytest.raises(Refused, match=r"not yet supported; set it to one of xgboost\.XGBClassifier, .*, sklearn\."):
        learner_for("sklearn.svm.SVC")


def grown(learner: Learner, watch=None, rounds: int = 12):
    table = rows()
    label = (np.nan_to_num(table["wind"].to_numpy()) > 0.3).astype(np.int8)
    categories = learner.categories(table, ["carrier"])
    prepared = learner.prepare(table, label, features=FEATURES, categories=categories, threads=1)
    params = SMALL[learner.estimator]
    if name := ROUNDS[learner.estimator]:
        params = params | {name: rounds}
    return learner.fit(prepared, params, seed=1, threads=1, watch=watch)


def trees_of(scorer) -> int:
    if isinstance(scorer, XGBoostScorer):
        return scorer.booster.num_boosted_rounds()
    model = scorer.model
    return model.n_iter_ if hasattr(model, "n_iter_") else len(model.estimators_)


@pytest.fixture(params=[name for name, rounds in ROUNDS.items() if rounds], ids=lambda name: name.rpartition(".")[2])
def growing(request: pytest.FixtureRequest) -> Learner:
    return learner_for(request.param)


def test_a_scorer_that_was_watched_and_not_stopped_is_the_same_to_the_bit(growing: Learner):
    seen = []

    def look(share, scorer):
        seen.append(share)
        scorer.raw(rows())
        return False

    assert grown(growing, look).native_bytes() == grown(growing).native_bytes()
    assert seen == pytest.approx([1 / 3, 1 / 2, 2 / 3])


def test_a_scorer_that_was_stopped_is_as_it_was_then(growing: Learner):
    seen = []

    def stop(share, scorer):
        seen.append(scorer.raw(rows()))
        return share >= 0.5

    stopped = grown(growing, stop)
    assert trees_of(stopped) == 6
    np.testing.assert_array_equal(stopped.raw(rows()), seen[-1])


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_scorer_of_very_few_trees_grows_to_its_end(growing: Learner, rounds):
    assert trees_of(grown(growing, lambda *_: False, rounds)) == rounds


def test_an_estimator_without_trees_is_never_watched():
    asked = []
    grown(learner_for(LOGISTIC_REGRESSION), lambda *seen: asked.append(seen))
    assert asked == []


@pytest.mark.parametrize("content", [b"\xff{", b"[]", b"{}", b'{"calibrator": 3}'])
def test_a_card_that_is_none_is_corrupt_and_named(tmp_path: Path, content: bytes):
    save(artifact(), tmp_path)
    (tmp_path / "ratchet.json").write_bytes(content)
    with pytest.raises(CorruptObjectError, match=r"ratchet\.json: must be the card of an artifact"):
        load(tmp_path)
