"""Monitoring systems' payloads arrive as the right events: each once, in bounds, and nothing crashes a translator."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.domain.events import (
    MAX_TEXT,
    Announcement,
    DriftCleared,
    DriftDetected,
    PerformanceDegraded,
    parse,
    to_record,
)
from ratchet.domain.translations import MAX_BYTES, MAX_EVENTS, SYSTEMS, Given, Untranslatable, severity, translate

PAYLOADS = Path(__file__).parent / "monitoring_payloads"
SAMPLES = sorted(path for path in PAYLOADS.iterdir() if path.suffix in {".json", ".csv"})
MORNING = datetime(2013, 6, 14, 4, tzinfo=UTC)
DAY = timedelta(days=1)
ABOUT = Given(model="flight_delay")
AT_DAWN = replace(ABOUT, window_end=MORNING)
REPORTS = ("evidently", "great-expectations", "sagemaker")


def system_of(path: Path) -> str:
    return next(system for system in SYSTEMS if path.name.startswith(system))


def additions(system: str) -> Given:
    """What a caller adds so that a payload of the system can be told."""
    return AT_DAWN if system in REPORTS else ABOUT


def sample(name: str) -> Any:
    return json.loads((PAYLOADS / name).read_bytes())


def told(system: str, payload: Any, given: Given | None = None) -> tuple[Announcement, ...]:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return translate(system, raw, additions(system) if given is None else given)


def data_of(name: str, given: Given | None = None) -> list[Any]:
    path = PAYLOADS / name
    return [event.data for event in told(system_of(path), path.read_bytes(), given)]


def refused(system: str, payload: Any, given: Given | None = None) -> Untranslatable:
    with pytest.raises(Untranslatable) as caught:
        told(system, payload, given)
    return caught.value


# -- every payload -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_recorded_payload_tells_events_that_ratchet_accepts_about_its_model(path: Path) -> None:
    system = system_of(path)
    events = told(system, path.read_bytes())
    assert events or path.name == "nannyml-estimated-performance.csv"
    for event in events:
        _, value, headers = to_record(event)
        heard = parse(value, headers)
        assert (heard.subject, heard.source, heard.data) == ("flight_delay", f"/monitors/{system}", event.data)
        assert heard.time == event.data.window_end  # type: ignore[union-attr]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_the_same_payload_is_the_same_events_however_its_json_is_written(path: Path) -> None:
    system, raw = system_of(path), path.read_bytes()
    again = json.dumps(json.loads(raw), sort_keys=True).encode() if path.suffix == ".json" else raw
    assert sorted(map(to_record, told(system, again))) == sorted(map(to_record, told(system, raw)))


def test_every_system_has_a_payload_and_every_payload_a_source() -> None:
    assert {system_of(path) for path in SAMPLES} == set(SYSTEMS)
    notes = (PAYLOADS / "README.md").read_text()
    assert all(f"`{system_of(path)}-" in notes for path in SAMPLES)


def test_another_window_is_another_event_and_never_other_content_under_a_known_id() -> None:
    quiet = sample("evidently-report-quiet.json")
    (today,) = told("evidently", quiet)
    (tomorrow,) = told("evidently", quiet, replace(ABOUT, window_end=MORNING + DAY))
    assert today.id != tomorrow.id
    assert today.id.startswith("data_drift:")


def test_the_same_report_about_another_model_is_another_event() -> None:
    report = sample("evidently-report.json")
    (one,), (other,) = (told("evidently", report, replace(AT_DAWN, model=model)) for model in ("flight_delay", "fares"))
    assert one.id != other.id


# -- Alertmanager and Grafana ------------------------------------------------------------------------------------------


def test_alertmanagers_firing_alert_is_drift_and_the_same_alert_resolved_is_its_all_clear() -> None:
    started, ended = datetime(2013, 6, 14, 4, 5, 30, 123457, UTC), datetime(2013, 6, 14, 16, 20, 30, 500000, UTC)
    graph = "https://prometheus.example.org/graph?g0.expr=feature_drift_share+%3E+0.5&g0.tab=1"
    temp, wind = data_of("alertmanager-firing.json", Given())
    assert temp == DriftDetected(
        check="FeatureDrift/temp",
        severity=0.5,
        window_start=started - timedelta(hours=1),
        window_end=started,
        feature="temp",
    )
    assert wind == DriftDetected(
        check="FeatureDrift/wind_speed",
        severity=1.0,
        window_start=started - DAY,
        window_end=started,
        feature="wind_speed",
        evidence_uri=graph,
    )
    cleared = DriftCleared(check="FeatureDrift/wind_speed", window_end=ended, evidence_uri=graph)
    assert data_of("alertmanager-resolved.json", Given()) == [temp, cleared]


def test_an_alert_that_is_sent_again_because_another_changed_is_the_event_that_it_was() -> None:
    temp, wind = told("alertmanager", sample("alertmanager-firing.json"))
    again, cleared = told("alertmanager", sample("alertmanager-resolved.json"))
    assert again == temp
    assert temp.id.startswith("67913b55d2b032b5:")
    assert cleared.id.partition(":")[0] == wind.id.partition(":")[0]
    assert cleared.id != wind.id


def test_grafanas_alerts_are_drift_performance_and_all_clears_and_no_data_is_none_of_them() -> None:
    drift, payoff, cleared = data_of("grafana-webhook.json", Given())
    panel = "https://grafana.example.org/d/flights?viewPanel=4"
    assert drift == DriftDetected(
        check="Wind drifted/wind_speed",
        severity=0.75,
        window_start=datetime(2013, 6, 13, 22, 51, 3, 157076, UTC),
        window_end=datetime(2013, 6, 14, 4, 51, 3, 157076, UTC),
        feature="wind_speed",
        evidence_uri=panel,
    )
    fell = datetime(2013, 6, 14, 4, 56, 3, 157076, UTC)
    assert payoff == PerformanceDegraded(metric="payoff", value=3.1, threshold=4, window_end=fell, evidence_uri=panel)
    assert cleared == DriftCleared(
        check="Carrier mix", window_end=datetime(2013, 6, 14, 4, 56, 3, tzinfo=UTC), evidence_uri=panel
    )


def test_resolved_performance_tells_nothing_for_there_is_no_all_clear_of_it() -> None:
    message = sample("grafana-webhook.json")
    message["alerts"] = [message["alerts"][1] | {"status": "resolved", "endsAt": "2013-06-14T09:00:00Z"}]
    assert told("grafana", message) == ()


def test_an_alert_about_no_model_takes_the_callers_and_without_one_is_refused_where_it_stands() -> None:
    message = sample("alertmanager-firing.json")
    del message["alerts"][1]["labels"]["model"]
    assert [event.subject for event in told("alertmanager", message)] == ["flight_delay", "flight_delay"]
    error = refused("alertmanager", message, Given())
    assert (error.where, error.rule) == ("/alerts/1/labels/model", "no_model")
    assert "--model" in error.remedy


def test_a_payload_about_another_model_than_the_caller_says_is_refused() -> None:
    error = refused("alertmanager", sample("alertmanager-firing.json"), Given(model="other"))
    assert (error.rule, error.got) == ("other_model", "'flight_delay', not 'other'")


def test_what_an_alert_says_itself_may_not_be_given() -> None:
    error = refused("alertmanager", sample("alertmanager-firing.json"), AT_DAWN)
    assert (error.rule, error.got) == ("given_twice", "window_end")


def test_alerts_without_a_label_of_ours_are_drift_of_the_model_that_the_caller_names() -> None:
    queue, scores = data_of("grafana-webhook-plain.json", ABOUT)
    started = datetime(2013, 6, 14, 4, 51, 3, 157076, UTC)
    assert queue == DriftDetected(
        check="Queue of decisions is long",
        severity=0.5,
        window_start=started - timedelta(hours=1),
        window_end=started,
        evidence_uri="https://grafana.example.org/alerting/2bq41c8d/edit",
    )
    assert (scores.check, scores.severity) == ("Scores stand still", 0.5)
    error = refused("grafana", sample("grafana-webhook-plain.json"), Given())
    assert error.where == "/alerts/0/labels/model"


def test_grafanas_message_is_not_taken_for_alertmanagers() -> None:
    assert refused("alertmanager", sample("grafana-webhook.json")).where == "/version"


@pytest.mark.parametrize(
    ("word", "told_as"),
    [
        ("critical", 1.0), ("Page", 1.0), ("high", 0.75), ("warning", 0.5), (" info ", 0.25), ("0.62", 0.62),
        ("0", 0.0), ("sev2", 0.5), ("7", 0.5), ("nan", 0.5), ("-1", 0.5), (None, 0.5),
    ],
)  # fmt: skip
def test_an_alerts_severity_is_a_usual_word_or_a_number_and_an_alarm_otherwise(word: str, told_as: float) -> None:
    assert severity.of_word(word) == told_as


def test_an_alert_with_a_metric_but_no_number_is_refused_with_the_annotation_that_lacks_one() -> None:
    message = sample("grafana-webhook.json")
    message["alerts"][1]["annotations"]["value"] = "3.1 USD"
    assert refused("grafana", message).where == "/alerts/1/annotations/value"


# -- Evidently ---------------------------------------------------------------------------------------------------------


def test_evidentlys_report_is_drift_by_its_own_share_and_names_the_worst_column() -> None:
    assert data_of("evidently-report.json") == [
        DriftDetected(
            check="data_drift", severity=0.6667, window_start=MORNING - DAY, window_end=MORNING, feature="temp"
        )
    ]


def test_evidentlys_quiet_report_is_an_all_clear() -> None:
    assert data_of("evidently-report-quiet.json") == [DriftCleared(check="data_drift", window_end=MORNING)]


def test_evidentlys_tests_are_drift_other_tests_and_one_degraded_metric_each() -> None:
    drift, tests, accuracy, f1 = data_of("evidently-tests.json")
    assert (drift.check, drift.severity, drift.feature) == ("data_drift", 0.6667, "temp")
    assert (tests.check, tests.severity, tests.feature) == ("tests", 0.75, "temp")
    assert (accuracy.metric, accuracy.value, accuracy.threshold) == ("Accuracy", 0.5675, 0.9)
    assert (f1.metric, f1.threshold) == ("F1Score", pytest.approx(0.967 - 0.193))


def test_a_snapshot_of_evidentlys_workspace_says_model_and_time_itself_and_tells_what_the_report_tells() -> None:
    assert data_of("evidently-snapshot.json", Given()) == data_of("evidently-tests.json")


def test_a_metric_of_mean_and_deviation_is_told_by_the_part_that_was_tested() -> None:
    mae, deviation, rmse = data_of("evidently-snapshot-regression.json", Given())
    assert (mae.metric, mae.value, mae.threshold) == ("MAE", pytest.approx(0.661, abs=0.001), 0.1)
    assert (deviation.metric, deviation.value) == ("MAE.std", pytest.approx(0.501, abs=0.001))
    assert (rmse.metric, rmse.value) == ("RMSE", pytest.approx(0.827, abs=0.001))
    assert data_of("evidently-regression.json") == [mae, deviation, rmse]


def test_the_callers_window_goes_before_the_time_at_which_a_report_was_made() -> None:
    (drift, *_) = data_of("evidently-snapshot.json", Given(window_end=MORNING + DAY))
    assert drift.window_end == MORNING + DAY


def test_a_report_that_says_no_time_is_refused_until_the_caller_says_it() -> None:
    error = refused("evidently", sample("evidently-report.json"), ABOUT)
    assert error.rule == "no_window"
    assert "--window-end" in error.remedy


def test_one_column_among_many_does_not_overrule_the_share_of_columns() -> None:
    report = sample("evidently-report-quiet.json")
    report["metrics"][1]["value"] = 1e-9
    assert isinstance(told("evidently", report)[0].data, DriftCleared)
    del report["metrics"][0]
    (alone,) = told("evidently", report)
    assert isinstance(alone.data, DriftDetected)
    assert alone.data.severity == 1.0


@pytest.mark.parametrize(
    ("method", "value", "threshold", "drifted"),
    [("psi", 0.05, 0.1, None), ("psi", 0.4, 0.1, 0.875), ("Jensen-Shannon distance", 0.55, 0.1, 0.75),
     ("ks", 0.05, 0.05, None), ("ks", 0.025, 0.05, 0.75)],
)  # fmt: skip
def test_a_column_drifts_below_a_p_value_and_from_a_distance_on(
    method: str, value: float, threshold: float, drifted: float | None
) -> None:
    metric = {"type": "evidently:metric_v2:ValueDrift", "column": "temp", "method": method, "threshold": threshold}
    (event,) = told("evidently", {"metrics": [{"id": "1", "config": metric, "value": value}], "tests": []})
    assert getattr(event.data, "severity", None) == drifted


def test_a_drift_method_of_ones_own_needs_the_tests_that_say_which_side_is_bad() -> None:
    metric = {
        "type": "evidently:metric_v2:ValueDrift",
        "column": "temp",
        "method": "custom function 'f'",
        "threshold": 1,
    }
    report: dict[str, Any] = {"metrics": [{"id": "1", "config": metric, "value": 0.3}]}
    assert "include_tests=True" in refused("evidently", report).remedy
    report["tests"] = [{"status": "FAIL", "metric_config": {"metric_id": "1", "params": metric}}]
    assert told("evidently", report)[0].data.severity == 0.5  # type: ignore[union-attr]


def test_a_test_that_fails_without_being_critical_is_mild() -> None:
    report = sample("evidently-tests.json")
    for test in report["tests"]:
        test["status"] = "WARNING" if test["status"] == "FAIL" else test["status"]
    assert [event.data.severity for event in told("evidently", report)] == [0.25, 0.25]  # type: ignore[union-attr]


def test_a_metric_that_fails_by_being_better_than_expected_is_not_degraded() -> None:
    report = sample("evidently-tests.json")
    for metric in report["metrics"]:
        if metric["config"]["type"].endswith("F1Score"):
            metric["value"] = 1.0
    report["tests"][-1]["description"] = "F1 score metric: Actual value 1.000 , but expected 0.700 ± 0.100"
    assert [event.data.metric for event in told("evidently", report)[2:]] == ["Accuracy"]  # type: ignore[union-attr]


def test_a_report_without_any_verdict_is_refused() -> None:
    assert refused("evidently", {"metrics": [], "tests": []}).rule == "no_verdict"


# -- Great Expectations ------------------------------------------------------------------------------------------------


def test_failed_expectations_are_drift_by_their_share_of_those_that_were_judged() -> None:
    (drift,) = data_of("great-expectations-failed.json")
    assert drift == DriftDetected(
        check="flight_delay_features",
        severity=0.8333,
        window_start=MORNING - DAY,
        window_end=MORNING,
        feature="wind_speed",
    )


def test_a_suite_that_holds_is_an_all_clear_at_the_time_of_its_run() -> None:
    (cleared,) = data_of("great-expectations-passed.json", ABOUT)
    ran_at = datetime.fromisoformat(sample("great-expectations-passed.json")["meta"]["validation_time"])
    assert cleared == DriftCleared(check="flight_delay_features", window_end=ran_at)


def test_expectations_that_raised_neither_fail_nor_let_the_suite_pass() -> None:
    validation = sample("great-expectations-failed.json")
    raised, *judged = validation["results"]
    for result in judged:
        result["success"] = True
    assert told("great-expectations", validation) == ()
    assert refused("great-expectations", validation | {"results": [raised]}).rule == "no_verdict"


def test_failures_of_severity_info_alone_are_mild() -> None:
    validation = sample("great-expectations-failed.json")
    for result in validation["results"]:
        result["expectation_config"]["severity"] = "info"
    assert told("great-expectations", validation)[0].data.severity == 0.25  # type: ignore[union-attr]


def test_a_list_of_validations_tells_each() -> None:
    both = [sample("great-expectations-failed.json"), sample("great-expectations-passed.json")]
    assert [type(event.data) for event in told("great-expectations", both, ABOUT)] == [DriftDetected, DriftCleared]


# -- NannyML -----------------------------------------------------------------------------------------------------------


def test_each_chunk_is_one_observation_of_the_drift_of_columns() -> None:
    first, second, third, fourth = data_of("nannyml-univariate.csv")
    june = datetime(2013, 6, 1, tzinfo=UTC)
    assert [first, second] == [DriftCleared(check="univariate_drift", window_end=june + n * DAY) for n in (1, 2)]
    assert third == DriftDetected(
        check="univariate_drift",
        severity=0.8065,
        window_start=june + 2 * DAY,
        window_end=june + 3 * DAY,
        feature="wind_speed",
    )
    assert fourth.window_end == june + 4 * DAY


def test_nannymls_json_tells_what_its_csv_tells() -> None:
    csv, json_ = (PAYLOADS / f"nannyml-univariate.{kind}" for kind in ("csv", "json"))
    assert told("nannyml", csv.read_bytes()) == told("nannyml", json_.read_bytes())


def test_reconstruction_error_is_drift_of_no_single_feature() -> None:
    assert [getattr(data, "severity", None) for data in data_of("nannyml-multivariate.csv")] == [
        None, None, 0.6774, 0.6922,
    ]  # fmt: skip
    assert data_of("nannyml-multivariate.csv")[-1].feature is None


def test_a_metric_below_its_threshold_is_degraded_and_one_within_tells_nothing() -> None:
    (degraded,) = data_of("nannyml-realized-performance.csv")
    assert (degraded.metric, degraded.threshold) == ("roc_auc", 0.926579308848098)
    assert degraded.value < degraded.threshold
    assert data_of("nannyml-estimated-performance.csv") == []


def test_an_estimate_is_told_as_one_and_better_than_expected_is_not_degraded() -> None:
    table = (PAYLOADS / "nannyml-estimated-performance.csv").read_text()
    alarmed = table.replace("0.9390549015077316", "0.5").replace(",False", ",True")
    events = told("nannyml", alarmed.encode())
    assert [(event.data.metric, event.data.value) for event in events] == [("estimated_accuracy", 0.5)]  # type: ignore[union-attr]


def test_the_reference_is_no_observation() -> None:
    table = (PAYLOADS / "nannyml-univariate.csv").read_text().replace(",analysis,", ",reference,", 2)
    assert len(told("nannyml", table.encode())) == 2


def test_a_table_without_times_is_refused_with_how_to_chunk() -> None:
    table = sample("nannyml-univariate.json")
    table[2]["chunk_end_date"] = None
    error = refused("nannyml", table)
    assert (error.where, error.rule) == ("/2/chunk_end_date", "no_window")
    assert "chunk_period" in error.remedy


# -- SageMaker and Vertex AI -------------------------------------------------------------------------------------------


def test_violations_of_data_quality_are_one_event_with_the_worst_feature() -> None:
    assert data_of("sagemaker-data-quality.json") == [
        DriftDetected(
            check="constraint_violations",
            severity=0.75,
            window_start=MORNING - DAY,
            window_end=MORNING,
            feature="wind_speed",
        )
    ]


def test_violations_of_model_quality_are_degraded_performance() -> None:
    assert data_of("sagemaker-model-quality.json") == [
        PerformanceDegraded(metric="auc", value=0.71, threshold=0.8, window_end=MORNING),
        PerformanceDegraded(metric="false_positive_rate", value=0.31, threshold=0.25, window_end=MORNING),
    ]


def test_attributions_that_lost_their_order_are_drift() -> None:
    (drift,) = data_of("sagemaker-attribution.json", replace(AT_DAWN, check="attributions"))
    assert (drift.check, drift.severity, drift.feature) == ("attributions", 0.6, "label0")


def test_bias_that_left_its_constraint_is_drift_of_its_facet() -> None:
    (drift,) = data_of("sagemaker-bias.json", replace(AT_DAWN, check="bias"))
    assert (drift.check, drift.severity, drift.feature) == ("bias", 0.5, "carrier")


def test_types_and_columns_that_changed_are_one_alarm_at_its_bound_in_whatever_words() -> None:
    (drift,) = data_of("sagemaker-data-types.json")
    assert (drift.severity, drift.feature) == (0.5, "month")


def test_a_metric_of_the_senders_own_that_fell_is_degraded_performance() -> None:
    assert data_of("sagemaker-custom-metric.json") == [
        PerformanceDegraded(metric="earned_per_flight", value=-0.4, threshold=-0.1, window_end=MORNING)
    ]


def test_a_file_without_violations_is_an_all_clear() -> None:
    assert data_of("sagemaker-none.json") == [DriftCleared(check="constraint_violations", window_end=MORNING)]


def test_a_violation_in_other_words_is_an_alarm_at_its_bound() -> None:
    violation = {"constraint_check_type": "LessThanThreshold", "metric_name": "auc", "description": "too low"}
    assert told("sagemaker", {"violations": [violation]})[0].data.severity == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["vertex-log-entry.json", "vertex-pubsub.json"])
def test_vertexs_log_entry_is_drift_of_its_objective_bare_or_as_pubsub_wraps_it(name: str) -> None:
    drift = DriftDetected(
        check="raw_feature_drift",
        severity=0.75,
        window_start=MORNING - DAY,
        window_end=MORNING,
        feature="wind_speed",
    )
    assert data_of(name) == [drift]


def test_vertexs_payload_alone_or_in_a_list_is_the_entry_and_its_statistics_have_the_quiet_days_too() -> None:
    entry = sample("vertex-log-entry.json")
    events = told("vertex", entry)
    assert told("vertex", entry["jsonPayload"]) == events
    assert told("vertex", [entry, entry]) == events
    drift, cleared = told("vertex", sample("vertex-search.json"))
    assert drift == events[0]
    assert cleared.data == DriftCleared(check="raw_feature_drift", window_end=MORNING + DAY)


def searched(objective: str, **statistics: float) -> tuple[Announcement, ...]:
    window = {"startTime": "2013-06-13T04:00:00Z", "endTime": "2013-06-14T04:00:00Z"}
    feature = {"featureDisplayName": "temp", "threshold": {"value": 0.3}, "predictionStats": [window | statistics]}
    return told("vertex", {"monitoringStats": [{"objective": objective, "featureStats": [feature]}]})


def test_how_far_a_feature_moved_is_its_deviation_and_no_deviation_is_nought() -> None:
    (drift,) = searched("RAW_FEATURE_DRIFT", distributionDeviation=0.65)
    assert drift.data.severity == 0.75  # type: ignore[union-attr]
    for quiet in (searched("RAW_FEATURE_DRIFT", distributionDeviation=0.3), searched("RAW_FEATURE_DRIFT")):
        assert [event.data for event in quiet] == [DriftCleared(check="raw_feature_drift", window_end=MORNING)]


def test_the_size_of_an_attribution_says_neither_drift_nor_all_clear() -> None:
    assert searched("FEATURE_ATTRIBUTION_DRIFT", score=0.9) == ()
    (drift,) = searched("FEATURE_ATTRIBUTION_DRIFT", score=0.1, distributionDeviation=0.65)
    assert drift.data.severity == 0.75  # type: ignore[union-attr]


# -- the scale ---------------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(value=FINITE, bound=FINITE, largest=st.none() | FINITE)
def test_what_a_sender_calls_an_alarm_is_a_half_or_more_and_never_above_one(
    value: float, bound: float, largest: float | None
) -> None:
    for told_as in (severity.above(value, bound, largest), severity.below(value, bound), severity.of_share(value)):
        assert 0.5 <= told_as <= 1


@given(bound=st.floats(0.01, 0.99), pair=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_further_beyond_a_bound_is_never_milder(bound: float, pair: tuple[float, float]) -> None:
    nearer, further = sorted(pair)
    assert severity.above(nearer, bound, 1.0) <= severity.above(further, bound, 1.0)
    assert severity.above(nearer, bound) <= severity.above(further, bound)
    assert severity.below(nearer, bound) >= severity.below(further, bound)


# -- whatever comes ----------------------------------------------------------------------------------------------------

HOSTILE = [
    "", " ", "\0", "a\0b", "\ud800", "x" * 10_000, "é" * 300, "<script>alert(1)</script>", "{{ 7*7 }}", "${jndi:ldap://x}",
    "'; DROP TABLE events; --", "../../etc/passwd", "\u202edrow", "a\nce_id: forged", "NaN", "1e999",
]  # fmt: skip
TEXT = st.sampled_from(HOSTILE) | st.text(max_size=20)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY_JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
GIVEN = st.builds(
    Given,
    model=st.none() | TEXT,
    window_end=st.none() | st.datetimes(timezones=st.just(UTC)) | st.datetimes(),
    window_start=st.none() | st.datetimes(timezones=st.just(UTC)),
    check=st.none() | TEXT,
    evidence_uri=st.none() | TEXT,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON document, itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, part in inner for each in places(part, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = changed(value[path[0]], path[1:], by)
    return copy


def in_bounds(system: str, raw: bytes, given: Given) -> None:
    """Events in bounds, the same twice; or the translators' error, which says rule, got and remedy."""
    events: tuple[Announcement, ...] = ()
    error: Untranslatable | None = None
    try:
        events = translate(system, raw, given)
    except Untranslatable as caught:
        error = caught
    if error is not None:
        assert all((error.rule, error.got, error.remedy))
        assert len(str(error)) < 2_000
        return
    assert translate(system, raw, given) == events
    assert len({event.id for event in events}) == len(events)
    for event in events:
        data = event.data
        _, value, headers = to_record(event)
        assert parse(value, headers).data == data
        assert not isinstance(data, DriftDetected) or 0 <= data.severity <= 1
        for text in (event.id, event.subject, getattr(data, "check", "c"), getattr(data, "feature", None) or "f"):
            assert 0 < len(text) <= MAX_TEXT


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
@settings(max_examples=60)
@given(chance=st.data())
def test_a_payload_with_anything_put_anywhere_is_told_in_bounds_or_refused(path: Path, chance: st.DataObject) -> None:
    system = system_of(path)
    if path.suffix == ".json":
        document = json.loads(path.read_bytes())
        for _ in range(chance.draw(st.integers(1, 2))):
            place = chance.draw(st.sampled_from(places(document)))
            document = changed(document, place, chance.draw(ANY_JSON))
        raw = json.dumps(document).encode()
    else:
        cells = path.read_text().split(",")
        cells[chance.draw(st.integers(0, len(cells) - 1))] = chance.draw(TEXT)
        raw = ",".join(cells).encode("utf-8", "surrogatepass")
    in_bounds(system, raw, chance.draw(st.just(additions(system)) | GIVEN))


@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=60)
@given(document=ANY_JSON, addition=GIVEN)
def test_json_of_any_shape_is_told_in_bounds_or_refused(system: str, document: Any, addition: Given) -> None:
    in_bounds(system, json.dumps(document).encode(), addition)


@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=60)
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), addition=GIVEN)
def test_bytes_of_any_kind_are_told_in_bounds_or_refused(system: str, raw: bytes, addition: Given) -> None:
    in_bounds(system, raw, addition)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("opening", [b"[", b'{"alerts":', b'{"violations":[{"x":', b'{"metrics":[{"value":'])
def test_nesting_without_end_is_refused(system: str, opening: bytes) -> None:
    assert isinstance(refused(system, opening * 100_000), Untranslatable)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "{{ 7*7 }}", "a\nce_id: forged"])
def test_texts_from_outside_are_kept_as_they_are(text: str) -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"][0]["labels"]["feature"] = text
    (event, _) = told("alertmanager", message)
    assert event.data.feature == text  # type: ignore[union-attr]


def test_a_name_beyond_the_bound_is_cut_and_still_tells_two_apart() -> None:
    message = sample("alertmanager-firing.json")
    for alert, last in zip(message["alerts"], "ab", strict=True):
        alert["labels"]["feature"] = "x" * 300 + last
    one, other = (event.data.feature for event in told("alertmanager", message))  # type: ignore[union-attr]
    assert (len(one), len(other)) == (MAX_TEXT, MAX_TEXT)
    assert one != other


def test_an_address_that_cannot_be_told_whole_is_left_out() -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"][1]["generatorURL"] = "https://example.org/" + "x" * 3000
    assert told("alertmanager", message)[1].data.evidence_uri is None  # type: ignore[union-attr]


def test_numbers_that_are_none_in_json_are_read_as_missing() -> None:
    report = sample("evidently-report.json")
    report["metrics"][2]["value"] = float("nan")
    assert b"NaN" in (raw := json.dumps(report).encode())
    assert told("evidently", raw)[0].data.feature == "wind_speed"  # type: ignore[union-attr]

    entry = sample("vertex-log-entry.json")
    for anomaly in entry["jsonPayload"]["featureAnomalies"]:
        anomaly["deviation"] = float("nan")
    assert told("vertex", entry)[0].data.severity == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", " "])
def test_a_name_that_no_database_can_store_is_refused_where_it_stands(text: str) -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"][1]["labels"]["feature"] = text
    error = refused("alertmanager", message)
    assert (error.where, error.rule) == ("/alerts/1/labels/feature", "bad_text")


def test_more_than_the_bounds_is_refused() -> None:
    assert refused("grafana", b" " * (MAX_BYTES + 1)).rule == "oversized"
    message = sample("alertmanager-firing.json")
    message["alerts"] *= MAX_EVENTS
    assert refused("alertmanager", message).rule == "too_many"


def test_an_alert_that_is_twice_in_one_message_is_one_event() -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"] *= 3
    assert len(told("alertmanager", message)) == 2


def test_a_shape_that_is_not_the_systems_is_refused_with_a_pointer_into_it() -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"][1]["startsAt"] = 7
    error = refused("alertmanager", message)
    assert (error.where, error.rule) == ("/alerts/1/startsAt", "wrong_shape")
    assert str(error).startswith("/alerts/1/startsAt: wrong_shape: got expected `datetime`, got `int`; ")


def test_a_time_outside_of_what_ratchet_reads_is_refused_at_its_alert() -> None:
    message = sample("alertmanager-firing.json")
    message["alerts"][1]["startsAt"] = "0001-01-01T00:00:00+02:00"
    assert refused("alertmanager", message).where == "/alerts/1/startsAt"
    message["alerts"][1]["startsAt"] = "1815-12-10T00:00:00Z"
    error = refused("alertmanager", message)
    assert (error.where, error.rule) == ("/alerts/1", "bad_data")


def test_a_system_that_is_not_known_is_refused_with_what_may_be_meant() -> None:
    error = refused("grafna", {})
    assert (error.rule, error.remedy) == ("unknown_system", "did you mean 'grafana'?")


def test_translating_is_free_of_every_driver_and_of_the_libraries_whose_payloads_it_reads() -> None:
    heavy = "{'airflow', 'sqlalchemy', 'mlflow', 'pandas', 'numpy', 'kafka', 'requests'}"
    code = f"import sys, ratchet.domain.translations; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
