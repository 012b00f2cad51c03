import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from labelled_rows import COLUMNS, RANGES, rows, spec

from ratchet.adapters.models import XGBoostLearner, learner_for, save
from ratchet.adapters.studies_optuna import OptunaStudies
from ratchet.domain.artifact import ModelArtifact, Platt, log_loss
from ratchet.domain.estimators import HIST_GRADIENT_BOOSTING, LOGISTIC_REGRESSION, RANDOM_FOREST
from ratchet.domain.spec import Dimension
from ratchet.domain.tuning import grown
from ratchet.errors import Refused
from ratchet.ports.studies import InMemoryStudies, TrialRecord
from ratchet.workflow.training import (
    Columns,
    NotRecalibrated,
    Ranges,
    TuneResult,
    best_constant,
    best_trial,
    calibration_of,
    fewer_rows_study,
    fit_final,
    recalibrate,
    start_params,
    tune_worker,
)

PARAMS = {"max_depth": 3, "learning_rate": 0.2, "min_child_weight": 2.0, "subsample": 0.8, "colsample_bytree": 0.8}


def tune(studies: InMemoryStudies, table: pa.Table | str, *, trials: int = 4, champion=None) -> TuneResult:
    return tune_worker(
        spec=spec(),
        train=table,
        ranges=RANGES,
        columns=COLUMNS,
        study_name="m.1",
        worker=0,
        trials=trials,
        seed=7,
        studies=studies,
        learner=XGBoostLearner(),
        champion_params=champion,
    )


def fit(table: pa.Table | str, **changes) -> ModelArtifact:
    given = {"spec": spec(), "ranges": RANGES, "columns": COLUMNS, "params": PARAMS, "seed": 7}
    return fit_final(train=table, learner=XGBoostLearner(), **(given | changes))


def test_the_first_trial_is_the_champions_own_parameters():
    studies = InMemoryStudies()
    tune(studies, rows(), champion=PARAMS | {"n_estimators": 999})
    assert dict(studies.finished("m.1")[0].params) == PARAMS


def test_a_champions_parameter_outside_the_space_is_replaced_by_a_usual_one():
    space = {"max_depth": Dimension(int=(3, 5)), "learning_rate": Dimension(float=(0.01, 0.3), log=True)}
    assert start_params(space, {"max_depth": 9, "learning_rate": 0.05}) == {"max_depth": 5, "learning_rate": 0.05}


def test_without_a_champion_the_first_trial_lies_inside_the_space():
    space = {
        "gamma": Dimension(float=(2.0, 3.0)),
        "max_leaves": Dimension(int=(4, 64), log=True),
        "grow_policy": Dimension(categorical=("lossguide", "depthwise")),
    }
    assert start_params(space) == {"gamma": 2.0, "max_leaves": 16, "grow_policy": "lossguide"}


def test_a_trial_that_cannot_come_below_the_best_is_stopped_early_and_the_best_is_the_same():
    table = rows(per_day=200)
    whole, watched = InMemoryStudies(), InMemoryStudies()
    learner = XGBoostLearner()

    class Blind(XGBoostLearner):
        def fit(self, prepared, params, *, seed, threads, watch=None):
            return learner.fit(prepared, params, seed=seed, threads=threads)

    given = {"spec": spec(fixed={"tree_method": "hist", "n_estimators": 60}), "train": table, "ranges": RANGES}
    given |= {"columns": COLUMNS, "study_name": "m.1", "worker": 0, "trials": 8, "seed": 7}
    tune_worker(**given, studies=whole, learner=Blind())
    tune_worker(**given, studies=watched, learner=learner)
    assert len(watched.finished("m.1")) < len(whole.finished("m.1")) == 8
    assert best_trial(watched, "m.1").number == best_trial(whole, "m.1").number
    assert best_trial(watched, "m.1").value == best_trial(whole, "m.1").value


def by_policy(studies: InMemoryStudies, table: pa.Table, policy: str = "retune", **given) -> TuneResult:
    train = given.pop("train", {})
    given = {"trials": 12, "seed": 7, "worker": 0, "learner": XGBoostLearner()} | given
    return tune_worker(
        spec=spec(tuning={"policy": policy} | given.pop("tuning", {}), **train),
        train=table,
        ranges=LONG,
        columns=COLUMNS,
        study_name="m.1",
        studies=studies,
        **given,
    )


LONG = Ranges("2013-01-01", "2013-02-10", "2013-02-12", "2013-02-28")
"""A has 40 days: 22 for fitting proposals, the gap of two, and 16 that judge them, as many as B has."""

LARGE = rows(per_day=100)


class Looked(XGBoostLearner):
    """Notes on how many rows each fit was made."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def fit(self, prepared, params, *, seed, threads, watch=None):
        self.rows.append(len(prepared.frame))
        return super().fit(prepared, params, seed=seed, threads=threads, watch=watch)


def test_without_a_policy_nothing_is_looked_at_on_fewer_rows():
    studies, learner = InMemoryStudies(), Looked()
    tune_worker(
        spec=spec(),
        train=LARGE,
        ranges=LONG,
        columns=COLUMNS,
        study_name="m.1",
        worker=0,
        trials=4,
        seed=7,
        studies=studies,
        learner=learner,
    )
    assert learner.rows == [4_000] * 4
    assert all("curve" not in trial.attributes for trial in studies.finished("m.1"))


def test_a_cold_study_looks_at_earlier_days_of_a_first_and_is_decided_on_all_rows():
    studies, learner = InMemoryStudies(), Looked()
    result = by_policy(studies, LARGE, "cold", learner=learner)
    fewer = len(studies.ended(fewer_rows_study("m.1")))
    assert learner.rows[:fewer] == [2_200] * fewer
    assert learner.rows[fewer:] == [4_000] * len(studies.ended("m.1"))
    assert fewer + len(studies.ended("m.1")) <= 12
    best = best_trial(studies, "m.1")
    early = scores_of_a_fit_that_never_saw_the_later_range(LARGE, dict(best.params), LONG)
    assert log_loss(Platt.fit(*early)(early[0]), early[1]) == pytest.approx(result.best_value, abs=1e-12)
    assert best.params in [trial.params for trial in studies.ended("m.1")]


def test_after_fewer_rows_a_larger_model_is_fitted_on_all():
    studies = InMemoryStudies()
    by_policy(studies, LARGE, "cold")
    won = best_trial(studies, fewer_rows_study("m.1")).params
    tried = [dict(trial.params) for trial in studies.ended("m.1")]
    assert tried[:2] == [dict(won), grown(won, spec().train.search_space)]


def test_b_has_no_say_in_which_proposals_survive():
    """Other labels in B change what is chosen in the end, and not what is fitted on all rows."""
    random = np.random.default_rng(5)
    in_b = pc.greater_equal(LARGE["day"], LONG.calibrate_start).to_numpy(zero_copy_only=False)
    label = np.where(in_b, random.integers(0, 2, LARGE.num_rows), LARGE["label"].to_numpy()).astype(np.int8)
    other = LARGE.set_column(LARGE.column_names.index("label"), "label", pa.array(label))
    found = [InMemoryStudies(), InMemoryStudies()]
    for studies, table in zip(found, (LARGE, other), strict=True):
        by_policy(studies, table, "cold")
    one, two = ([dict(trial.params) for trial in studies.ended("m.1")] for studies in found)
    assert one == two


def test_a_retune_fits_the_last_studies_best_first_one_full_fit_each():
    studies, learner, earlier = InMemoryStudies(), Looked(), InMemoryStudies()
    tune(earlier, rows(seed=1), trials=5)
    trials = earlier.ended("m.1")
    by_policy(studies, LARGE, learner=learner, champion_params=PARAMS, history=[trials])
    ranked = sorted((t for t in trials if t.state == "finished"), key=lambda trial: trial.value)
    known = [PARAMS, *(dict(trial.params) for trial in ranked[:2])]
    assert [dict(trial.params) for trial in studies.ended("m.1")][:3] == known
    assert learner.rows[:4] == [4_000, 4_000, 4_000, 2_200]


def test_a_retune_without_a_champion_or_a_study_before_is_cold():
    cold, retune = InMemoryStudies(), InMemoryStudies()
    by_policy(cold, LARGE, "cold")
    by_policy(retune, LARGE, "retune")
    assert [trial.params for trial in retune.ended("m.1")] == [trial.params for trial in cold.ended("m.1")]


def test_a_study_before_of_other_parameters_starts_from_usual_ones_once():
    studies = InMemoryStudies()
    foreign = [[TrialRecord(0, {"C": 1.0}, 0.3), TrialRecord(1, {"C": 2.0}, 0.4)]]
    by_policy(studies, LARGE, history=foreign)
    usual = start_params(dict(spec().train.search_space))
    assert [dict(trial.params) for trial in studies.ended("m.1")].count(usual) == 1


def test_where_a_is_too_short_for_a_hold_out_the_proposals_are_made_on_all_rows():
    studies, learner = InMemoryStudies(), Looked()
    short = Ranges("2013-01-01", "2013-01-30", "2013-02-12", "2013-02-28")
    given = {"spec": spec(tuning={"policy": "cold"}), "train": LARGE, "ranges": short, "columns": COLUMNS, "seed": 7}
    tune_worker(**given, study_name="m.1", worker=0, trials=6, studies=studies, learner=learner)
    assert learner.rows == [2_900] * 6
    assert not studies.ended(fewer_rows_study("m.1"))


def test_the_same_study_by_policy_is_the_same_to_the_bit_on_shuffled_rows():
    shuffled = LARGE.take(np.random.default_rng(1).permutation(LARGE.num_rows))
    found = [InMemoryStudies(), InMemoryStudies()]
    for studies, table in zip(found, (LARGE, shuffled), strict=True):
        by_policy(studies, table, champion_params=PARAMS)
    one, other = ([(t.params, t.value, t.state) for t in studies.ended("m.1")] for studies in found)
    assert one == other


def test_a_repeated_turn_by_policy_spends_no_further_trial():
    studies = InMemoryStudies()
    first = by_policy(studies, LARGE, "cold")
    spent = len(studies.ended("m.1")), len(studies.ended(fewer_rows_study("m.1")))
    again = by_policy(studies, LARGE, "cold")
    assert again.trials_run_here == 0
    assert again.best_params == first.best_params
    assert (len(studies.ended("m.1")), len(studies.ended(fewer_rows_study("m.1")))) == spent


@pytest.mark.parametrize("fits", [1, 3, 5, 6])
def test_a_study_by_policy_that_was_interrupted_goes_on_as_if_it_had_not_been(fits):
    class Dies(Looked):
        def fit(self, prepared, params, **given):
            if len(self.rows) == fits:
                raise KeyboardInterrupt
            return super().fit(prepared, params, **given)

    whole, broken = InMemoryStudies(), InMemoryStudies()
    by_policy(whole, LARGE, champion_params=PARAMS, trials=16)
    with pytest.raises(KeyboardInterrupt):
        by_policy(broken, LARGE, champion_params=PARAMS, trials=16, learner=Dies())
    by_policy(broken, LARGE, champion_params=PARAMS, trials=16)
    for name in ("m.1", fewer_rows_study("m.1")):
        one, other = ([(t.params, t.value) for t in studies.ended(name)] for studies in (whole, broken))
        assert one == other


def test_by_generations_two_workers_find_by_policy_what_one_finds(tmp_path):
    def found(name: str, workers: int) -> list:
        def work(worker: int) -> None:
            studies = OptunaStudies(f"sqlite:///{tmp_path}/{name}.db")
            by_policy(studies, LARGE, champion_params=PARAMS, worker=worker, trials=16, train={"generation": 4})

        OptunaStudies(f"sqlite:///{tmp_path}/{name}.db").prepare()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        studies = OptunaStudies(f"sqlite:///{tmp_path}/{name}.db")
        names = ("m.1", fewer_rows_study("m.1"))
        return [[(t.number, t.params, t.value, t.state) for t in studies.ended(study)] for study in names]

    assert found("one", 1) == found("two", 2)


def test_when_the_core_seconds_are_spent_one_full_fit_is_still_made_and_the_reason_is_told():
    studies = InMemoryStudies()
    result = by_policy(studies, LARGE, "cold", tuning={"core_seconds": 1e-6})
    assert len(studies.ended(fewer_rows_study("m.1"))) == 1
    assert len(studies.ended("m.1")) == 1
    assert set(result.policy["stopped"]) == {"m.1", fewer_rows_study("m.1")}
    assert "core seconds are spent" in result.policy["stopped"]["m.1"]


def test_a_winner_on_the_edge_of_the_space_is_warned_of():
    narrow = {"search_space": {"max_depth": {"int": [2, 3]}, "subsample": {"float": [0.5, 1.0]}}}
    result = by_policy(InMemoryStudies(), LARGE, "cold", train=narrow)
    assert set(result.policy["edges"]) == {"max_depth"}


def test_a_study_without_a_policy_tells_of_none():
    assert tune(InMemoryStudies(), rows()).policy is None


@pytest.mark.parametrize(
    ("estimator", "fixed", "space"),
    [
        (HIST_GRADIENT_BOOSTING, {"max_iter": 12}, {"max_leaf_nodes": {"int": [4, 31]}}),
        (RANDOM_FOREST, {"n_estimators": 12}, {"max_depth": {"int": [2, 8]}}),
        (LOGISTIC_REGRESSION, {}, {"C": {"float": [0.01, 10.0], "log": True}}),
    ],
)
def test_scikit_learns_estimators_are_tuned_by_policy_too(estimator, fixed, space):
    studies = InMemoryStudies()
    train = {"estimator": estimator, "fixed": fixed, "search_space": space}
    by_policy(studies, LARGE, train=train, trials=8, learner=learner_for(estimator), champion_params={})
    assert studies.finished("m.1")
    assert studies.finished(fewer_rows_study("m.1"))


def test_the_study_spends_its_trials_and_a_repeated_turn_spends_none(tmp_path: Path):
    studies = InMemoryStudies()
    first = tune(studies, rows())
    # The rows are gone: a retry of a finished study must not need them.
    second = tune(studies, str(tmp_path / "deleted.parquet"))
    assert (first.trials_run_here, second.trials_run_here) == (4, 0)
    assert second.best_params == first.best_params
    assert best_trial(studies, "m.1").value == first.best_value


def between(table: pa.Table, start: str, end: str) -> pa.Table:
    order = [("flight_id", "ascending"), ("decided_at", "ascending")]
    return table.filter(pc.and_(pc.greater_equal(table["day"], start), pc.less(table["day"], end))).sort_by(order)


def scores_of_a_fit_that_never_saw_the_later_range(
    table: pa.Table, params: dict, ranges: Ranges = RANGES
) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores of B by a scorer fitted on A, and B's labels."""
    early = between(table, ranges.fit_start, ranges.fit_end)
    later = between(table, ranges.calibrate_start, ranges.calibrate_end)
    learner = XGBoostLearner()
    prepared = learner.prepare(
        early,
        early["label"].to_numpy(),
        features=COLUMNS.features,
        categories=learner.categories(early, COLUMNS.categorical),
        threads=1,
    )
    merged = dict(spec().train.fixed) | dict(params)
    return learner.fit(prepared, merged, seed=7, threads=1).raw(later), later["label"].to_numpy()


def test_a_trial_is_valued_by_its_calibrated_log_loss_on_the_later_range():
    table = rows()
    best = tune(InMemoryStudies(), table)
    raw, label = scores_of_a_fit_that_never_saw_the_later_range(table, best.best_params)
    assert log_loss(Platt.fit(raw, label)(raw), label) == pytest.approx(best.best_value, abs=1e-12)


def test_the_calibration_map_is_learned_out_of_fold_and_the_trees_see_every_row():
    table = rows()
    artifact = fit(table)
    raw, label = scores_of_a_fit_that_never_saw_the_later_range(table, artifact.params)
    assert artifact.calibrator == Platt.fit(raw, label)
    every = between(table, RANGES.fit_start, RANGES.calibrate_end)
    assert artifact.provenance["fit_rows"] == every.num_rows


def test_the_map_that_the_best_trial_kept_is_the_one_a_final_fit_would_learn_to_the_bit():
    table, studies = rows(), InMemoryStudies()
    tune(studies, table)
    best = best_trial(studies, "m.1")
    learned = fit(table, params=best.params)
    kept = fit(table, params=best.params, calibrator=calibration_of(best))
    assert kept.calibrator == learned.calibrator
    assert kept.provenance == learned.provenance


def test_rows_outside_both_ranges_change_nothing():
    table = rows()
    first_holdout_row = int(np.argmax(table["day"].to_numpy(zero_copy_only=False) >= RANGES.calibrate_end))
    assert first_holdout_row > 0
    tuned, untouched = tune(InMemoryStudies(), table), tune(InMemoryStudies(), table.slice(0, first_holdout_row))
    assert (tuned.best_value, tuned.best_params) == (untouched.best_value, untouched.best_params)


def test_two_fits_on_shuffled_rows_and_any_threads_are_equal_to_the_bit(tmp_path: Path):
    table = rows()
    shuffled = table.take(np.random.default_rng(1).permutation(table.num_rows))
    pq.write_table(shuffled, tmp_path / "rows.parquet")
    two_threads = spec()
    two_threads = two_threads.model_copy(update={"runtime": two_threads.runtime.model_copy(update={"threads": 2})})
    digests = {
        save(fit(table), tmp_path / "a"),
        save(fit(str(tmp_path / "rows.parquet")), tmp_path / "b"),
        save(fit(table, spec=two_threads), tmp_path / "c"),
    }
    assert len(digests) == 1


def test_the_threshold_is_the_break_even_of_the_payoff():
    assert fit(rows()).threshold == pytest.approx(60 / 240)


def test_calibration_before_the_end_of_fitting_is_refused():
    with pytest.raises(Refused, match="calibrate on later rows"):
        Ranges("2013-01-01", "2013-02-01", "2013-01-31", "2013-02-20")


def test_the_label_cannot_be_a_feature():
    with pytest.raises(Refused, match="label"):
        Columns(features=("wind", "label"))


def test_a_range_without_both_labels_is_refused_with_its_bounds():
    with pytest.raises(Refused, match=r"fit range \[2012-01-01, 2012-02-01\).*0 positives of 0 rows"):
        fit(rows(), ranges=Ranges("2012-01-01", "2012-02-01", "2013-02-02", "2013-02-20"))


def test_a_missing_feature_column_is_named():
    with pytest.raises(Refused, match=r"columns \['wind'\]"):
        fit(rows().drop_columns(["wind"]))


def test_the_best_constant_acts_only_where_acting_pays_on_training_rows():
    table = rows()
    cheap = best_constant(spec(), table, RANGES)
    rare = table.set_column(3, "label", pa.array((np.arange(table.num_rows) % 20 == 0).astype(np.int8)))
    dear = best_constant(spec(), rare, RANGES)
    assert cheap.act
    assert not dear.act
    assert dear.probability == pytest.approx(0.05, abs=0.005)


def test_a_study_of_refused_parameters_is_refused():
    with pytest.raises(Refused, match="all 4 trials were refused"):
        tune_worker(
            spec=spec(fixed={"tree_method": "exact"}),
            train=rows(),
            ranges=RANGES,
            columns=COLUMNS,
            study_name="m.1",
            worker=0,
            trials=4,
            seed=7,
            studies=InMemoryStudies(),
            learner=XGBoostLearner(),
        )


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("ratchet.workflow.training", {"mlflow", "optuna", "feast", "sklearn", "xgboost"}),
        ("ratchet.workflow.evaluation", {"mlflow", "optuna", "feast", "sklearn", "xgboost"}),
        ("ratchet.adapters.models", {"mlflow", "optuna", "sklearn", "skops", "xgboost"}),
        ("ratchet.adapters.models_sklearn", {"mlflow", "optuna", "sklearn", "skops", "xgboost"}),
        ("ratchet.adapters.registry_mlflow", {"mlflow", "optuna", "sklearn", "xgboost"}),
        ("ratchet.adapters.studies_optuna", {"mlflow", "sklearn", "xgboost"}),
    ],
)
def test_a_verb_imports_no_more_than_it_needs(module: str, absent: set[str]):
    code = f"import sys, {module}; print(' '.join({{name.partition('.')[0] for name in sys.modules}} & {absent!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


LATER = Ranges("2013-01-10", "2013-02-08", "2013-02-10", "2013-03-07")
"""Of a later attempt: its days of calibration begin within the fit of a champion of ``RANGES``, which ends 02-20."""


def recalibrated(table: pa.Table, champion: ModelArtifact, **changes) -> ModelArtifact:
    given = {"spec": spec(), "ranges": LATER, "champion": champion, "version": 3}
    return recalibrate(train=table, **(given | changes))


def relabelled(table: pa.Table, label) -> pa.Table:
    column = pa.array(np.asarray(label, dtype=np.int8))
    return table.set_column(table.column_names.index("label"), "label", column)


def test_a_recalibrated_champion_is_the_champion_but_for_its_map_and_what_it_says_of_itself():
    champion = fit(rows())
    made = recalibrated(rows(), champion)
    assert made.scorer is champion.scorer
    assert made.calibrator != champion.calibrator
    assert (made.params, made.threshold) == (champion.params, champion.threshold)
    told = made.provenance
    assert (told["kind"], told["scorer_of"], told["fit"]) == ("recalibrated_champion", 3, ["2013-01-01", "2013-02-20"])
    assert told["calibrate"] == ["2013-02-20", "2013-03-07"]
    assert told["calibrate_rows"] == 15 * 60


def test_a_champions_map_is_learned_from_no_day_that_its_scorer_was_fitted_on_nor_from_one_that_judges():
    table, champion = rows(), fit(rows())
    day = np.array(table["day"].to_pylist())
    unread = (day < "2013-02-20") | (day >= "2013-03-07")
    other = relabelled(table, np.where(unread, 1 - table["label"].to_numpy(), table["label"].to_numpy()))
    assert recalibrated(other, champion).calibrator == recalibrated(table, champion).calibrator


def test_a_recalibration_does_not_depend_on_the_order_of_rows():
    table, champion = rows(), fit(rows())
    shuffled = table.take(np.random.default_rng(4).permutation(table.num_rows))
    assert recalibrated(shuffled, champion).calibrator == recalibrated(table, champion).calibrator


def test_a_recalibrated_champion_can_be_recalibrated_from_the_end_of_its_scorers_fit_on():
    champion = fit(rows())
    again = recalibrated(rows(), recalibrated(rows(), champion), version=4)
    assert again.provenance["scorer_of"] == 4
    assert again.provenance["fit"] == champion.provenance["fit"]
    assert again.calibrator == recalibrated(rows(), champion).calibrator


def test_a_tuned_threshold_is_chosen_on_the_days_that_calibrate_it():
    plain = spec().model_dump(mode="json")
    plain["business"]["decision"] |= {"threshold": "tuned"}
    tuning = type(spec()).model_validate(plain)
    champion = fit(rows(), spec=tuning)
    made = recalibrated(rows(), champion, spec=tuning)
    assert made.threshold == made.provenance["tuned_threshold"]["threshold"]
    assert made.provenance["tuned_threshold"]["n_clusters"] == 15
    assert made.provenance["tuned_threshold"] != champion.provenance["tuned_threshold"]


def test_too_few_later_days_are_named_with_what_is_needed():
    short = Ranges("2013-01-10", "2013-02-06", "2013-02-08", "2013-03-05")
    with pytest.raises(NotRecalibrated, match=r"before 2013-02-20, which leaves 13 days .* 14 are needed"):
        recalibrated(rows(), fit(rows()), ranges=short)


def test_later_days_of_one_label_teach_no_calibration():
    table = rows()
    late = np.array([day >= "2013-02-20" for day in table["day"].to_pylist()])
    with pytest.raises(NotRecalibrated, match="both occur"):
        recalibrated(relabelled(table, np.where(late, 0, table["label"].to_numpy())), fit(rows()))


def test_a_champion_that_does_not_say_what_it_was_fitted_on_is_not_recalibrated():
    with pytest.raises(NotRecalibrated, match="version 3 does not say"):
        recalibrated(rows(), replace(fit(rows()), provenance={}))
