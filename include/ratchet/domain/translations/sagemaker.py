"""``constraint_violations.json`` of SageMaker Model Monitor: data quality, model quality, bias and attribution drift.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-interpreting-violations.html, and the pages on the other
monitors' violations beside it. The file says neither model nor time: both are the caller's.

A violated metric of model quality (``LessThanThreshold``, ``GreaterThanThreshold``) whose description tells value and
threshold is degraded performance. All other violations of a file are one event of drift, under the check
``constraint_violations`` or the caller's; its feature is that of the worst. A file without violations is an all-clear.
Severity is 0.5, or more where a description tells how far a threshold was left behind.
"""

from __future__ import annotations

import re

from msgspec import Struct

from ratchet.domain.events import PerformanceDegraded
from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import Given, Told, name, number, observed, pointer, read, uri

CHECK = "constraint_violations"
_FIGURE = r"'?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)'?"
_QUALITY = re.compile(rf"with {_FIGURE}(?: \+/- \S{{1,40}})? was (?:Less|Greater)Than(?:OrEqualTo)?Threshold {_FIGURE}")
_EXCEEDED = re.compile(rf"{_FIGURE} exceeds threshold:? {_FIGURE}")
_MOST_PROSE = 1000


class _Violation(Struct):
    constraint_check_type: str
    description: str = ""
    feature_name: str | None = None
    metric_name: str | None = None
    label: str | None = None
    facet: str | None = None


class _File(Struct):
    violations: list[_Violation]


def translate(payload: bytes, given: Given) -> list[Told]:
    """What one file tells."""
    file = read(payload, _File)
    _, end = window = given.window(None, "")
    model, evidence = given.model_of(None, ""), uri(given.evidence_uri)
    check = name(given.check or CHECK, "")
    degraded: list[Told] = []
    drifted: list[tuple[float, str | None, str]] = []
    for index, violation in enumerate(file.violations):
        where = pointer("violations", index)
        figures = _figures(_QUALITY, violation.description)
        if violation.metric_name and violation.constraint_check_type.endswith("Threshold") and figures:
            metric = name(violation.metric_name, f"{where}/metric_name")
            value, threshold = figures
            fell = PerformanceDegraded(
                metric=metric, value=value, threshold=threshold, window_end=end, evidence_uri=evidence
            )
            degraded.append(Told(metric, model, fell, end, where))
            continue
        about = violation.feature_name or violation.facet or violation.label
        drifted.append((_severity(violation), name(about, f"{where}/feature_name") if about else None, where))
    if not drifted and degraded:
        return degraded
    worst = min(drifted, key=lambda each: -each[0], default=None)
    how_bad, feature, where = worst or (None, None, pointer("violations"))
    data = observed(check, how_bad, window, feature=feature, evidence=evidence)
    return [Told(check, model, data, end, where), *degraded]


def _severity(violation: _Violation) -> float:
    """A distance above its threshold, or a score (of attributions, at most 1) below it."""
    figures = _figures(_EXCEEDED, violation.description)
    if figures is None:
        return severity.ALARM
    value, bound = figures
    return severity.above(value, bound, 1.0 if value <= 1 else None) if value > bound else severity.below(value, bound)


def _figures(pattern: re.Pattern[str], prose: str) -> tuple[float, float] | None:
    match = pattern.search(prose[:_MOST_PROSE])
    if match is None:
        return None
    value, bound = number(float(match[1])), number(float(match[2]))
    return None if value is None or bound is None else (value, bound)
