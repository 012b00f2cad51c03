"""Specs as files: what is told, where, and with which remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.adapters import specs
from ratchet.domain.sensitive import TaggedColumn
from ratchet.errors import Refused
from ratchet.settings import load_settings

MODELS = load_settings().models_dir
SHIPPED = MODELS / "flight_delay" / "model.yaml"
LISTED = """datasets:
  flights:
    {location: flights.parquet, event: departs_at, created: told_at, keys: [flight_id],
     join_keys: [carrier, fare], outcomes: [minutes_late]}
  weather: {location: weather.parquet, event: seen_at, created: told_at, keys: [origin]}
"""


def written(folder: Path, text: str, model: str = "flight_delay") -> Path:
    file = folder / "models" / model / "model.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def changed(folder: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert text.count(old) == 1
    return written(folder, text.replace(old, new))


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def refusal(file: Path) -> tuple[str, ...]:
    with pytest.raises(specs.SpecRefused) as caught:
        specs.load_spec(file)
    return caught.value.problems


def test_the_shipped_spec_holds_and_names_what_the_feature_repository_has() -> None:
    assert specs.validate_all(MODELS) == []
    spec = specs.load_spec(SHIPPED)
    assert (spec.business.payoff.tp, spec.business.payoff.fp) == (180, -60)
    assert (spec.train.trials, spec.train.fixed["n_estimators"]) == (12, 150)
    assert specs.digest(spec) == specs.load_all(MODELS)["flight_delay"].digest


def test_a_typo_is_told_with_file_line_rule_value_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = changed(tmp_path, "metric: expected_calibration_error", "metric: expected_calibration_eror")
    monkeypatch.chdir(tmp_path)
    assert refusal(file) == (
        (
            f"models/flight_delay/model.yaml:{line_of(file, 'eror')}: gate.guardrails[0].metric: "
            "'expected_calibration_eror' is not a known metric. Did you mean 'expected_calibration_error'? "
            "Run: ratchet validate flight_delay"
        ),
    )


def test_a_missing_key_is_told_at_the_section_that_lacks_it(tmp_path: Path) -> None:
    file = changed(tmp_path, "  features: flight_delay_v1\n", "")
    (problem,) = refusal(file)
    assert f":{line_of(file, 'data:')}: data.features: is required and missing. Run:" in problem


def test_problems_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("runs_per_day: 4", "runs_per_day: 0").replace("trials: 12", "trials: 0")
    file = written(tmp_path, text.replace("min_severity: 0.3", "min_severity: 3"))
    lines = [int(problem.split("model.yaml:")[1].split(":")[0]) for problem in refusal(file)]
    assert lines == sorted(lines)
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [unclosed", "not valid YAML"),
        ("model: a\nmodel: b\n", "not valid YAML: found duplicate key"),
        ("- a list\n", "a spec is a mapping"),
        ("", "a spec is a mapping"),
        ("a: &x {b: *x}\n", "model.yaml:1:"),
        ("a: " + "{a: " * 30 + "1" + "}" * 30, "nests at most 24 deep"),
        ("a: " + "[" * 2000 + "]" * 2000, "not valid YAML"),
        ("model: !!python/object:os.system x\n", "model.yaml:1:"),
        ("#" * 300_000, "a spec has at most 256,000 bytes"),
        ("model: \x00\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_in_one_line_per_problem(tmp_path: Path, text: str, said: str) -> None:
    problems = refusal(written(tmp_path, text))
    assert said in problems[0]
    assert all("\n" not in problem and problem.endswith("Run: ratchet validate flight_delay") for problem in problems)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path / "ghost" / "model.yaml")
    assert "not found" in problem


def test_a_model_bears_the_name_of_its_folder(tmp_path: Path) -> None:
    (problem,) = refusal(written(tmp_path, SHIPPED.read_text(), model="other"))
    assert "model: 'flight_delay' must equal the name of its folder, 'other'" in problem


def test_all_models_are_read_and_all_their_problems_told(tmp_path: Path) -> None:
    written(tmp_path, SHIPPED.read_text())
    (tmp_path / "models" / "_shared").mkdir()
    assert list(specs.load_all(tmp_path / "models")) == ["flight_delay"]
    written(tmp_path, "a: 1", model="bad_a")
    written(tmp_path, "b: [", model="bad_b")
    with pytest.raises(specs.SpecRefused) as caught:
        specs.load_all(tmp_path / "models")
    assert {"bad_a", "bad_b"} <= {problem.split("/model.yaml")[0].split("/")[-1] for problem in caught.value.problems}
    assert specs.validate_all(tmp_path / "models") == list(caught.value.problems)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source: flights", "source: flight", "data.spine.source: 'flight' is not a dataset"),
        ("datasets: [flights, weather]", "datasets: [flights, wether]", "Did you mean 'weather'?"),
        ("slice: carrier", "slice: carier", "gate.guardrails[1].slice: 'carier' is neither a key nor a join key"),
        (
            "{metric: latency_p95_ms, max: 20}",
            "{metric: equal_opportunity_difference, by: carier, max: 0.5}",
            "gate.guardrails[2].by: 'carier' is neither a key nor a join key",
        ),
        ("entity: [flight_id]", "entity: [flight]", "data.spine.entity[0]: 'flight' is neither a key nor a join key"),
    ],
)
def test_a_name_the_feature_repository_does_not_have_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = changed(tmp_path, old, new)
    listed = tmp_path / "feature_repo" / "datasets.yaml"
    listed.parent.mkdir()
    listed.write_text(LISTED)
    (problem,) = specs.validate_all(tmp_path / "models")
    assert said in problem
    assert f":{line_of(file, new)}:" in problem
    listed.write_text("datasets: [flights]\n")
    (problem,) = specs.validate_all(tmp_path / "models")
    assert problem.startswith(str(listed))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "project: x\noffline_store:\n  type: dask\n",
            3,
            "but is 'dask'. Of 1,000,000 entity rows that engine lost 13.6 %",
        ),
        ("project: x\noffline_store:\n  path: x\n", 2, "but is not set, and Feast's default is dask"),
        ("offline_store: file\n", 1, "but is 'file'. Of 1,000,000 entity rows"),
        ("project: x\noffline_store:\n  type: bigquery\n", 3, "but is 'bigquery', which is not yet supported"),
        ("a: [", 1, "not valid YAML"),
    ],
)
def test_a_feature_engine_that_loses_rows_is_told_with_file_and_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    written(tmp_path, SHIPPED.read_text())
    config = tmp_path / "feature_repo" / "feature_store.yaml"
    config.parent.mkdir()
    config.write_text(text)
    (problem,) = specs.validate_all(tmp_path / "models")
    assert problem.startswith(f"{config}:{line}: ")
    assert said in problem


@pytest.mark.parametrize("engine", ["duckdb", "ratchet.adapters.offline_store.AsOfOfflineStore"])
def test_an_engine_that_answers_for_every_row_is_not_told(tmp_path: Path, engine: str) -> None:
    written(tmp_path, SHIPPED.read_text())
    config = tmp_path / "feature_repo" / "feature_store.yaml"
    config.parent.mkdir()
    config.write_text(f"offline_store:\n  type: {engine}\n")
    assert specs.validate_all(tmp_path / "models") == []


def with_payoff(folder: Path, payoff: str, threshold: str = "payoff") -> Path:
    """The shipped spec with another payoff, beside a repository whose source carries a fare and an outcome."""
    text = SHIPPED.read_text().replace("tp: 180, fp: -60, fn: 0, tn: 0", payoff)
    listed = folder / "feature_repo" / "datasets.yaml"
    listed.parent.mkdir()
    listed.write_text(LISTED)
    return written(folder, text.replace("threshold: payoff", f"threshold: {threshold}"))


def features(_: object) -> tuple[str, ...]:
    return ("distance_miles", "weekday")


def test_a_payoff_may_read_the_spine_and_the_features(tmp_path: Path) -> None:
    with_payoff(tmp_path, 'tp: "0.2 * fare", fp: -60, fn: "-distance_miles / 10"')
    assert specs.validate_all(tmp_path / "models", features) == []


def test_an_unknown_column_of_a_payoff_is_told_with_file_line_and_nearest_name(tmp_path: Path) -> None:
    file = with_payoff(tmp_path, 'tp: "0.2 * fair", fp: -60')
    (problem,) = specs.validate_all(tmp_path / "models", features)
    assert f"{file}:{line_of(file, 'fair')}: business.payoff.tp: 'fair' is neither a column of the spine nor" in problem
    assert "Did you mean 'fare'? Run: ratchet validate flight_delay" in problem


def test_a_broken_expression_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = with_payoff(tmp_path, 'tp: "fare ** 2", fp: -60')
    (problem,) = refusal(file)
    assert f"{file}:{line_of(file, 'fare ** 2')}: business.payoff.tp: ** is not allowed in an expression" in problem


def test_no_decision_reads_an_outcome_but_a_fixed_threshold_may_be_valued_by_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_payoff(tmp_path / "a", 'tp: 10, fp: -60, fn: "-minutes_late"')
    (problem,) = specs.validate_all(tmp_path / "a" / "models", features)
    assert "business.payoff.fn: 'minutes_late' is known only after the outcome" in problem
    with_payoff(tmp_path / "b", 'tp: 10, fp: -60, fn: "-minutes_late"', threshold="0.3")
    assert specs.validate_all(tmp_path / "b" / "models", features) == []


def test_the_feature_store_is_asked_only_when_the_spine_does_not_have_the_column(tmp_path: Path) -> None:
    def never(_: object) -> tuple[str, ...]:
        raise AssertionError("asked")

    with_payoff(tmp_path, 'tp: "0.2 * fare", fp: -60')
    assert specs.validate_all(tmp_path / "models", never) == []


def test_an_unknown_feature_service_is_told_where_it_is_named(tmp_path: Path) -> None:
    def unknown(_: object) -> tuple[str, ...]:
        raise Refused("'flight_delay_v1' is not a feature service")

    file = with_payoff(tmp_path, 'tp: "0.2 * miles", fp: -60')
    (problem,) = specs.validate_all(tmp_path / "models", unknown)
    assert f":{line_of(file, 'features: flight_delay_v1')}: data.features: 'flight_delay_v1' is not a" in problem


def regression(folder: Path, payoff: str = "under: -3, over: -1", metric: str = "neg_mean_absolute_error") -> Path:
    text = SHIPPED.read_text()
    for old, new in (
        ("  decision: {act_when: score >= threshold, threshold: payoff}\n", ""),
        ("tp: 180, fp: -60, fn: 0, tn: 0", payoff),
        ("xgboost.XGBClassifier", "xgboost.XGBRegressor"),
        ("metric: expected_calibration_error", f"metric: {metric}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return written(folder, text)


def test_a_regression_is_a_spec_like_any_other(tmp_path: Path) -> None:
    spec = specs.load_spec(regression(tmp_path))
    assert spec.business.regression
    assert (spec.business.payoff.under, spec.business.payoff.over) == (-3.0, -1.0)


@pytest.mark.parametrize(
    ("wrong", "at", "said"),
    [
        ({"payoff": "under: 3, over: -1"}, "under: 3", "business.payoff.under: must be below 0, but got 3"),
        ({"metric": "roc_auc"}, "metric: roc_auc", "gate.guardrails[0].metric: 'roc_auc' is measured on decisions"),
        ({"payoff": "tp: 180, fp: -60"}, "estimator:", "train.estimator: business.decision is to act or not: use "),
    ],
)
def test_what_a_regression_may_not_say_is_told_at_its_line(tmp_path: Path, wrong: dict, at: str, said: str) -> None:
    file = regression(tmp_path, **wrong)
    assert any(f"model.yaml:{line_of(file, at)}: {said}" in problem for problem in refusal(file))


# -- sensitive columns -------------------------------------------------------------------------------------------------

FARE = TaggedColumn("fare", ("pii",), "dataset 'flights' of datasets.yaml", "join key")


def tagged(_: object) -> tuple[TaggedColumn, ...]:
    return (FARE,)


def test_a_sensitive_column_that_the_spec_does_not_allow_is_told_with_file_and_line(tmp_path: Path) -> None:
    file = with_payoff(tmp_path, "tp: 10, fp: -60")
    (problem,) = specs.validate_all(tmp_path / "models", features, tagged)
    assert f"{file}:{line_of(file, 'source: flights')}: data.spine.source: 'fare' is tagged pii in dataset" in problem
    assert problem.endswith("Run: ratchet validate flight_delay")
    allow = "features: flight_delay_v1\n  allow_sensitive: [{column: fare, reason: it is the payoff}]"
    file.write_text(file.read_text().replace("features: flight_delay_v1", allow))
    assert specs.validate_all(tmp_path / "models", features, tagged) == []
    (problem,) = specs.validate_all(tmp_path / "models", features, lambda _: ())
    assert f":{line_of(file, 'allow_sensitive')}: data.allow_sensitive[0].column: 'fare' is tagged neither" in problem


def test_a_misspelt_tag_of_a_data_set_is_told_with_file_and_line(tmp_path: Path) -> None:
    with_payoff(tmp_path, "tp: 10, fp: -60")
    listed = tmp_path / "feature_repo" / "datasets.yaml"
    listed.write_text(LISTED.replace("join_keys: [carrier, fare]", "sensitive: {flight_id: pi}"))
    (problem,) = specs.validate_all(tmp_path / "models", features, tagged)
    assert problem.startswith(f"{listed}:4: datasets.flights.sensitive.flight_id must be pii or secret, but got 'pi'")


# -- datasets of a model's own -----------------------------------------------------------------------------------------

OWN = "  visits: {location: visits.parquet, event: at, created: told_at, keys: [flight_id], join_keys: [carrier]}\n"


def with_own(folder: Path, listed: str) -> tuple[Path, Path]:
    """The shipped spec on ``visits``, which its folder lists itself: that list, and the spec."""
    shared = folder / "feature_repo" / "datasets.yaml"
    shared.parent.mkdir()
    shared.write_text(LISTED)
    file = changed(folder, "source: flights", "source: visits")
    own = file.with_name("datasets.yaml")
    own.write_text(listed)
    return own, file


def test_a_model_may_bring_its_datasets_in_its_own_folder(tmp_path: Path) -> None:
    own, file = with_own(tmp_path, f"datasets:\n{OWN}")
    assert specs.validate_all(tmp_path / "models") == []
    own.unlink()
    (problem,) = specs.validate_all(tmp_path / "models")
    assert f"{file}:{line_of(file, 'source: visits')}: data.spine.source: 'visits' is not a dataset" in problem


@pytest.mark.parametrize(
    ("listed", "line", "said"),
    [
        ("datasets:\n" + OWN.replace("visits:", "weather:"), 2, "datasets.weather is listed in"),
        (f"datasets:\n{OWN}  more: 1\n", 3, "datasets.more must be a mapping, but got 1"),
        ("datasets:\n" + OWN.replace("event: at, ", ""), 2, "datasets.visits must say its event"),
        ("datasets:\n" + OWN.replace("join_keys", "join_key"), 2, "datasets.visits.join_key is no key of a dataset"),
        ("datasets:\n" + OWN.replace("[carrier]", "carrier"), 2, "datasets.visits.join_keys must be a list"),
        ("datasets:\n" + OWN.replace("}", ", service: x}"), 2, "must say both its features and the service"),
        (
            "datasets:\n" + OWN.replace("}", ", service: x, features: {a: date}}"),
            2,
            "datasets.visits.features.a must be one of float64, int64, string, but got 'date'",
        ),
        ("datasets:\n" + OWN.replace("}", ", service: x, features: []}"), 2, "must be a mapping of names to types"),
        ("datasets: [visits]\n", 1, "must hold a mapping 'datasets'"),
        ("datasets: [\n", 2, "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_told_with_file_and_line(
    tmp_path: Path, listed: str, line: int, said: str
) -> None:
    own, _ = with_own(tmp_path, listed)
    (problem,) = specs.validate_all(tmp_path / "models")
    assert problem.startswith(f"{own}:{line}: ")
    assert said in problem
    assert problem.endswith("Run: ratchet validate flight_delay")
