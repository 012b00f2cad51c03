"""Reports and tests of Evidently 0.7: ``snapshot.json()``, ``save_json``, and the snapshots that a workspace stores.

https://docs.evidentlyai.com/docs/library/output_formats and https://docs.evidentlyai.com/docs/library/tests

A report tells at most once of each of these:

- ``data_drift`` (or the check that the caller names): by the tests of ``DriftedColumnsCount``, else by its own
  ``drift_share``; in a report without it by ``ValueDrift``, any column, its tests or its threshold. Single columns do
  not overrule the count: among many, some drift by chance. The worst column is the event's ``feature``.
- ``tests``: everything else that was tested, such as missing values.
- one degraded metric per failed test of a quality metric (accuracy, MAE, …), where it failed on the worse side.

A test that fails without being critical (``WARNING``) is mild. One that could not be run says nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from ratchet.domain.events import PerformanceDegraded
from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import (
    GUIDE,
    Given,
    Told,
    Untranslatable,
    instant,
    name,
    number,
    observed,
    pointer,
    read,
    uri,
)

DRIFT_CHECK = "data_drift"
TESTS_CHECK = "tests"

_HIGHER_IS_BETTER = frozenset({"Accuracy", "Precision", "Recall", "F1Score", "TPR", "TNR", "RocAuc", "R2Score"})
_LOWER_IS_BETTER = frozenset({"FPR", "FNR", "LogLoss", "MAE", "MAPE", "RMSE", "AbsMaxError"})
_QUALITY = _HIGHER_IS_BETTER | _LOWER_IS_BETTER | {"MeanError"}

# What ValueDrift's number is, by the method's name as it is asked for and as it is shown. A p-value is drift below its
# threshold. A distance is drift from its threshold on; the largest there can be, None where there is none.
_P_VALUES = frozenset(
    {"anderson", "chisquare", "cramer_von_mises", "empirical_mmd", "es", "fisher_exact", "g_test", "ks", "mannw"}
    | {"t_test", "TVD", "z", "Anderson-Darling", "chi-square p_value", "Cramer-von Mises", "Epps-Singleton"}
    | {"Fisher's Exact test", "K-S p_value", "Mann-Whitney U-rank test", "Total-Variation-Distance", "Z-test p_value"}
)
_DISTANCES: dict[str, float | None] = {
    **dict.fromkeys(("jensenshannon", "Jensen-Shannon distance", "hellinger", "Hellinger distance"), 1.0),
    **dict.fromkeys(("psi", "PSI", "kl_div", "Kullback-Leibler divergence", "ed", "Energy-distance"), None),
    **dict.fromkeys(("wasserstein", "Wasserstein distance (normed)"), None),
}

Status = Literal["SUCCESS", "FAIL", "WARNING", "ERROR", "SKIPPED"]


class _Identity(Struct):
    params: dict[str, Any]
    metric_id: str = ""


class _Test(Struct):
    status: Status
    metric_config: _Identity
    description: str = ""
    test_config: dict[str, Any] = {}
    bound_test: dict[str, Any] = {}


class _Metric(Struct):
    id: str
    config: dict[str, Any]
    value: Any = None


class _Location(Struct):
    metric: _Identity


class _Number(Struct):
    value: Any = None


class _Result(Struct):
    metric_value_location: _Location
    value: Any = None
    count: _Number | None = None
    share: _Number | None = None
    mean: _Number | None = None
    std: _Number | None = None
    tests: list[_Test] | None = None


class _File(Struct):
    metrics: list[_Metric] | None = None
    tests: list[_Test] | None = None
    metric_results: dict[str, _Result] | None = None
    timestamp: str | None = None
    metadata: dict[str, Any] = {}


@dataclass
class _Measured:
    """One metric of the report: its kind, parameters, numbers by name ("" where there is only one), and tests."""

    kind: str
    params: dict[str, Any]
    numbers: dict[str, float | None]
    where: str
    tests: list[tuple[_Test, str]] = field(default_factory=list)

    @property
    def column(self) -> str | None:
        column = self.params.get("column")
        return name(column, self.where) if isinstance(column, str) and column else None

    @property
    def verdict(self) -> Status | None:
        """The worst that its tests say; None where none was run."""
        return _worst(test.status for test, _ in self.tests)


def translate(payload: bytes, given: Given) -> list[Told]:
    """What one report tells."""
    report = read(payload, _File)
    measured = _measured(report)
    named = report.metadata.get("model")
    model = given.model_of(named if isinstance(named, str) else None, pointer("metadata", "model"))
    made = instant(report.timestamp, pointer("timestamp")) if report.timestamp else None
    window = given.window(made, pointer("timestamp"))
    evidence = uri(given.evidence_uri)

    found: list[Told] = []
    judged = 0
    for check, verdict in (
        (name(given.check or DRIFT_CHECK, ""), _drift(measured)),
        (TESTS_CHECK, _others(measured)),
    ):
        if verdict is None:
            continue
        judged += 1
        data = observed(check, verdict.severity, window, feature=verdict.feature, evidence=evidence)
        found.append(Told(check, model, data, window[1], verdict.where))
    quality = [metric for metric in measured if metric.kind in _QUALITY]
    judged += sum(metric.verdict is not None for metric in quality)
    if not judged:
        raise Untranslatable(
            "", "no_verdict", "neither drift nor a test that was run", "add DataDriftPreset, or include_tests=True"
        )
    return found + [told for metric in quality for told in _degraded(metric, model, window[1], evidence)]


@dataclass(frozen=True)
class _Verdict:
    """``severity`` is None for an all-clear."""

    severity: float | None
    where: str
    feature: str | None = None


def _measured(report: _File) -> list[_Measured]:
    found: dict[str, _Measured] = {}
    if report.metrics is None and report.metric_results is None:
        raise Untranslatable(
            "", "wrong_shape", "neither metrics nor metric_results", f"send a report of Evidently 0.7: see {GUIDE}"
        )
    for index, metric in enumerate(report.metrics or []):
        value = metric.value
        numbers = {k: number(v) for k, v in value.items()} if isinstance(value, dict) else {"": number(value)}
        found[metric.id] = _Measured(_kind(metric.config), metric.config, numbers, pointer("metrics", index))
    for index, test in enumerate(report.tests or []):
        where = pointer("tests", index)
        config = test.metric_config
        measured = found.setdefault(config.metric_id, _Measured(_kind(config.params), config.params, {}, where))
        measured.tests.append((test, where))
    for key, result in (report.metric_results or {}).items():
        params = result.metric_value_location.metric.params
        parts = {"": result.value} | {
            part: single.value
            for part in ("count", "share", "mean", "std")
            if (single := getattr(result, part)) is not None
        }
        where = pointer("metric_results", key)
        measured = _Measured(_kind(params), params, {k: number(v) for k, v in parts.items()}, where)
        measured.tests = [(test, f"{where}/tests/{index}") for index, test in enumerate(result.tests or [])]
        found[key] = measured
    return list(found.values())


def _kind(params: dict[str, Any]) -> str:
    return str(params.get("type", "")).rpartition(":")[2]


def _worst(statuses: Any) -> Status | None:
    said = set(statuses)
    return next((status for status in ("FAIL", "WARNING", "SUCCESS") if status in said), None)


def _drift(measured: list[_Measured]) -> _Verdict | None:
    columns = [
        (metric, verdict, how_bad)
        for metric in measured
        if metric.kind == "ValueDrift"
        for verdict, how_bad in [_of_column(metric)]
    ]
    moved = sorted(
        ((how_bad, metric) for metric, verdict, how_bad in columns if verdict in {"FAIL", "WARNING"}),
        key=lambda pair: (-pair[0], pair[1].column or ""),
    )
    feature = moved[0][1].column if moved else None
    counts = [metric for metric in measured if metric.kind == "DriftedColumnsCount"]
    verdicts = [(metric, metric.verdict or _by_share(metric)) for metric in counts]
    status = _worst(verdict for _, verdict in verdicts)
    if status is not None:
        metric = next(metric for metric, verdict in verdicts if verdict == status)
        how_bad = severity.above(metric.numbers.get("share"), number(metric.params.get("drift_share")), 1.0)
        return _verdict(status, how_bad, metric.where, feature)
    status = _worst(verdict for _, verdict, _ in columns)
    if status is not None:
        where = moved[0][1].where if moved else columns[0][0].where
        return _verdict(status, moved[0][0] if moved else 0.0, where, feature)
    if columns:
        metric = columns[0][0]
        raise Untranslatable(
            metric.where,
            "unsupported",
            f"drift method {str(metric.params.get('method'))[:60]!r}, of which the better side is not known",
            "build the report with include_tests=True: its tests say which columns drifted",
        )
    return None


def _verdict(status: Status, how_bad: float, where: str, feature: str | None) -> _Verdict:
    if status == "SUCCESS":
        return _Verdict(None, where)
    return _Verdict(how_bad if status == "FAIL" else severity.MILD, where, feature)


def _by_share(metric: _Measured) -> Status | None:
    share, bound = metric.numbers.get("share"), number(metric.params.get("drift_share"))
    if share is None or bound is None:
        return None
    return "FAIL" if share >= bound else "SUCCESS"


def _of_column(metric: _Measured) -> tuple[Status | None, float]:
    """Whether a column drifted, and how much, of one that did."""
    method = metric.params.get("method")
    value, bound = metric.numbers.get(""), number(metric.params.get("threshold"))
    if value is None or bound is None or not isinstance(method, str):
        return metric.verdict, severity.ALARM
    if method in _P_VALUES:
        return metric.verdict or ("FAIL" if value < bound else "SUCCESS"), severity.below(value, bound)
    if method in _DISTANCES:
        return metric.verdict or ("FAIL" if value >= bound else "SUCCESS"), severity.above(
            value, bound, _DISTANCES[method]
        )
    return metric.verdict, severity.ALARM


def _others(measured: list[_Measured]) -> _Verdict | None:
    """Everything that was tested and is neither drift nor quality, as one verdict."""
    tests = [
        (test.status, where, metric)
        for metric in measured
        if metric.kind not in _QUALITY | {"ValueDrift", "DriftedColumnsCount"}
        for test, where in metric.tests
        if test.status in {"FAIL", "WARNING", "SUCCESS"}
    ]
    status = _worst(verdict for verdict, _, _ in tests)
    if status is None:
        return None
    share = sum(verdict == "FAIL" for verdict, _, _ in tests) / len(tests)
    where, metric = next((where, metric) for verdict, where, metric in tests if verdict == status)
    return _verdict(status, severity.of_share(share), where, metric.column)


def _degraded(metric: _Measured, model: str, end: datetime, evidence: str | None) -> list[Told]:
    found = []
    for test, where in metric.tests:
        if test.status != "FAIL":
            continue
        is_mean = test.bound_test.get("is_mean")
        part = "mean" if is_mean is True else "std" if is_mean is False else ""
        value = metric.numbers.get(part)
        called = f"{metric.kind}.std" if part == "std" else metric.kind
        bound = _bound(test, value)
        if value is None or bound is None:
            raise Untranslatable(
                where,
                "unsupported",
                f"a failed test of {metric.kind} without a plain bound",
                "test with gte(…) or lte(…)",
            )
        better = value > bound if metric.kind in _HIGHER_IS_BETTER else value < bound
        if better and metric.kind != "MeanError":
            continue
        data = PerformanceDegraded(metric=called, value=value, threshold=bound, window_end=end, evidence_uri=evidence)
        found.append(Told(called, model, data, end, where))
    return found


_EXPECTED = re.compile(r"expected (-?\d[\d.]*) ± (\d[\d.]*)$")


def _bound(test: _Test, value: float | None) -> float | None:
    """The bound a test failed at: its own, or the nearer end of what a test against the reference expected."""
    for key in ("threshold", "expected"):
        if (plain := number(test.test_config.get(key))) is not None:
            return plain
    match = _EXPECTED.search(test.description)
    if match is None or value is None:
        return None
    try:
        middle, tolerance = float(match[1]), float(match[2])
    except ValueError:
        return None
    return middle - tolerance if value < middle else middle + tolerance
