"""Anomalies of Vertex AI Model Monitoring, as they are logged, forwarded or asked for.

https://cloud.google.com/vertex-ai/docs/model-monitoring/using-model-monitoring and
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.modelDeploymentMonitoringJobs/searchModelDeploymentMonitoringStatsAnomalies

- an entry of the log ``model_monitoring_anomaly``, a list of them as ``gcloud logging read`` prints it, the
  ``jsonPayload`` of one alone, or the message in which Pub/Sub pushes it. An entry is written only where a feature is
  beyond its threshold: there is no all-clear in it.
- the answer of ``searchModelDeploymentMonitoringStatsAnomalies``, which has the windows without anomalies too. How far
  a feature moved is its ``distributionDeviation``; JSON made from protocol buffers leaves out a nought, so that none is
  nought. Where there is only a ``score``, the size of an attribution, nothing is told of the feature.

The check is the objective (``raw_feature_drift``), one event per objective, deployed model and window; its feature is
the one furthest beyond its threshold. Distances lie between 0 and 1. The anomalies that are stored in a bucket are
protocol buffers as text, and are not read.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import (
    GUIDE,
    Given,
    Told,
    Untranslatable,
    in_utc,
    name,
    observed,
    pointer,
    read,
)

Moment = Annotated[datetime, Meta(tz=True)]


class _Anomaly(Struct, rename="camel"):
    feature_display_name: str
    deviation: float | None = None
    threshold: float | None = None


class _Anomalies(Struct, rename="camel"):
    anomaly_objective: str
    start_time: Moment
    end_time: Moment
    feature_anomalies: list[_Anomaly] = []
    deployed_model_id: str = ""


class _Bound(Struct):
    value: float | None = None


class _Statistics(Struct, rename="camel"):
    start_time: Moment
    end_time: Moment
    distribution_deviation: float | None = None
    score: float | None = None
    anomaly_detection_threshold: float | None = None


class _Feature(Struct, rename="camel"):
    feature_display_name: str
    threshold: _Bound | None = None
    prediction_stats: list[_Statistics] = []


class _Objective(Struct, rename="camel"):
    objective: str
    deployed_model_id: str = ""
    feature_stats: list[_Feature] = []


class _Entry(Struct, rename="camel"):
    json_payload: _Anomalies


class _Message(Struct):
    data: str


class _Any(Struct, rename="camel"):
    """Which of the forms it is."""

    message: _Message | UnsetType = UNSET
    json_payload: _Anomalies | UnsetType = UNSET
    monitoring_stats: list[_Objective] | UnsetType = UNSET
    anomaly_objective: Any = field(default=UNSET)


def translate(payload: bytes, given: Given) -> list[Told]:
    """What a log entry or an answer tells."""
    given.has_its_own("window_start", "window_end", "check", "evidence_uri")
    form = read(payload, list[_Entry] | _Any)  # type: ignore[arg-type]  # a union is no type to mypy
    if isinstance(form, list):
        return [_logged(entry.json_payload, given, pointer(index, "jsonPayload")) for index, entry in enumerate(form)]
    if form.message is not UNSET:
        form = read(payload := _unwrapped(form.message.data), _Any)
    if form.json_payload is not UNSET:
        return [_logged(form.json_payload, given, pointer("jsonPayload"))]
    if form.anomaly_objective is not UNSET:
        return [_logged(read(payload, _Anomalies), given, "")]
    if isinstance(form.monitoring_stats, list):
        return _searched(form.monitoring_stats, given)
    raise Untranslatable(
        "",
        "wrong_shape",
        "none of jsonPayload, anomalyObjective, message and monitoringStats",
        f"send what Vertex AI logs or answers: see {GUIDE}",
    )


def _unwrapped(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Untranslatable("/message/data", "not_json", "no base64", "push the message as Pub/Sub wraps it") from None


@dataclass(frozen=True)
class _Beyond:
    feature: str
    severity: float


def _told(
    objective: str, deployed: str, window: tuple[datetime, datetime], found: list[_Beyond], given: Given, where: str
) -> Told:
    check = name(objective.lower(), where)
    worst = min(found, key=lambda each: (-each.severity, each.feature), default=None)
    data = observed(check, worst.severity, window, feature=worst.feature) if worst else observed(check, None, window)
    key = name(deployed, where, most=64) if deployed else check
    return Told(key, given.model_of(None, ""), data, window[1], where)


def _logged(entry: _Anomalies, given: Given, where: str) -> Told:
    found = [
        _Beyond(
            name(anomaly.feature_display_name, f"{where}/featureAnomalies/{index}/featureDisplayName"),
            severity.above(anomaly.deviation, anomaly.threshold, 1.0),
        )
        for index, anomaly in enumerate(entry.feature_anomalies)
    ]
    if not found:
        raise Untranslatable(f"{where}/featureAnomalies", "no_verdict", "no anomaly", "send entries that have one")
    window = in_utc(entry.start_time, f"{where}/startTime"), in_utc(entry.end_time, f"{where}/endTime")
    return _told(entry.anomaly_objective, entry.deployed_model_id, window, found, given, where)


def _searched(objectives: list[_Objective], given: Given) -> list[Told]:
    told = []
    for at, objective in enumerate(objectives):
        windows: dict[tuple[datetime, datetime], list[_Beyond]] = {}
        for place, feature in enumerate(objective.feature_stats):
            where = pointer("monitoringStats", at, "featureStats", place)
            for each in feature.prediction_stats:
                window = in_utc(each.start_time, where), in_utc(each.end_time, where)
                deviation = each.distribution_deviation
                if deviation is None and each.score is not None:
                    continue
                beyond = windows.setdefault(window, [])
                bound = each.anomaly_detection_threshold
                if bound is None and feature.threshold is not None:
                    bound = feature.threshold.value
                if deviation is not None and bound is not None and deviation > bound:
                    called = name(feature.feature_display_name, f"{where}/featureDisplayName")
                    beyond.append(_Beyond(called, severity.above(deviation, bound, 1.0)))
        told += [
            _told(
                objective.objective, objective.deployed_model_id, window, beyond, given, pointer("monitoringStats", at)
            )
            for window, beyond in sorted(windows.items())
        ]
    return told
