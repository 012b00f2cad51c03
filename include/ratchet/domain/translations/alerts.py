"""Webhooks of Prometheus Alertmanager (version 4) and of Grafana alerting, which sends the same and more.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config and
https://grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/webhook-notifier/

Each alert is one event. Labels name what it is about: ``model``; ``check`` (else ``alertname``), with ``feature``
behind it, so that each alert is a series of its own; ``severity``. An alert that fires is drift at ``startsAt``, over
the annotation ``window`` before it (``1d``; an hour when it says none); one with the label ``metric`` and the
annotations ``value`` and ``threshold`` is degraded performance. A resolved alert is an all-clear at ``endsAt``, and
nothing where it was about performance, of which there is no all-clear. The alert's fingerprint begins the event's id.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ratchet.domain.events import DriftCleared, DriftDetected, InboundData, PerformanceDegraded
from ratchet.domain.spec import parse_duration
from ratchet.domain.translations import severity
from ratchet.domain.translations.payload import GUIDE, Given, Told, Untranslatable, in_utc, name, pointer, uri

HOUR = timedelta(hours=1)
_SAYS_NOTHING = frozenset({"DatasourceNoData", "DatasourceError"})
"""Grafana's own alerts that a rule could not be evaluated."""

Moment = Annotated[datetime, Meta(tz=True)]


class _Alert(Struct, rename="camel"):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    starts_at: Moment
    fingerprint: str
    annotations: dict[str, str] = {}
    ends_at: Moment | None = None
    generator_url: str = field(default="", name="generatorURL")
    panel_url: str = field(default="", name="panelURL")
    dashboard_url: str = field(default="", name="dashboardURL")


class AlertmanagerWebhook(Struct):
    """The part of Alertmanager's message that is read."""

    version: Literal["4"]
    alerts: list[_Alert]


class GrafanaWebhook(Struct):
    """The part of Grafana's message that is read."""

    version: Literal["1"]
    alerts: list[_Alert]


def told(message: AlertmanagerWebhook | GrafanaWebhook, given: Given) -> list[Told]:
    """What the alerts of one message tell, in their order."""
    given.has_its_own("window_start", "window_end", "check", "evidence_uri")
    found = []
    for number, alert in enumerate(message.alerts):
        if alert.labels.get("alertname") in _SAYS_NOTHING:
            continue
        where = pointer("alerts", number)
        firing = alert.status == "firing"
        moment = in_utc(alert.starts_at, f"{where}/startsAt")
        if not firing:
            if alert.ends_at is None:
                raise Untranslatable(f"{where}/endsAt", "wrong_shape", "none", "a resolved alert says when it ended")
            moment = in_utc(alert.ends_at, f"{where}/endsAt")
        data = _data(alert, moment, where)
        if data is None:
            continue
        model = given.model_of(alert.labels.get("model"), f"{where}/labels/model")
        key = name(alert.fingerprint, f"{where}/fingerprint", most=64)
        found.append(Told(key, model, data, moment, where))
    return found


def _data(alert: _Alert, moment: datetime, where: str) -> InboundData | None:
    labels = alert.labels
    evidence = uri(alert.panel_url) or uri(alert.dashboard_url) or uri(alert.generator_url)
    if metric := labels.get("metric"):
        if alert.status == "resolved":
            return None
        return PerformanceDegraded(
            metric=name(metric, f"{where}/labels/metric"),
            value=_figure(alert, "value", where),
            threshold=_figure(alert, "threshold", where),
            window_end=moment,
            evidence_uri=evidence,
        )
    feature = name(labels["feature"], f"{where}/labels/feature") if labels.get("feature") else None
    series = labels.get("check") or labels.get("alertname") or ""
    check = name(f"{series}/{feature}" if series and feature else series, f"{where}/labels/alertname")
    if alert.status == "resolved":
        return DriftCleared(check=check, window_end=moment, evidence_uri=evidence)
    return DriftDetected(
        check=check,
        severity=severity.of_word(labels.get("severity")),
        window_start=_start(alert, moment, where),
        window_end=moment,
        feature=feature,
        evidence_uri=evidence,
    )


def _figure(alert: _Alert, annotation: str, where: str) -> float:
    at, text = f"{where}/annotations/{annotation}", alert.annotations.get(annotation)
    try:
        return float(text or "")
    except ValueError:
        got = "none" if text is None else repr(text[:40])
        raise Untranslatable(
            at, "wrong_shape", got, f"an alert with a metric has value and threshold as plain numbers: see {GUIDE}"
        ) from None


def _start(alert: _Alert, end: datetime, where: str) -> datetime:
    text = alert.annotations.get("window")
    try:
        return end - (HOUR if text is None else parse_duration(text))
    except (ValueError, OverflowError):
        raise Untranslatable(
            f"{where}/annotations/window", "wrong_shape", repr(str(text)[:40]), "write a duration like 90m, 6h or 1d"
        ) from None
