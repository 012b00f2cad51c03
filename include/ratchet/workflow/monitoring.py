"""The monitor's verb: look at one window of a model's new rows, keep what was found, and tell it.

A window is looked at once. Its report is evidence, kept in the store under its own digest; that it was looked at and
the events that follow from it are one transaction, so that a retry or a second run tells nothing twice and nothing is
lost when Kafka is away. What cannot be believed is told to the owner and to nobody else: a retrain on broken data would
learn from garbage.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from ratchet.domain.events import Announcement, DriftCleared, DriftDetected, PerformanceDegraded, new_event
from ratchet.domain.spec import ModelSpec, Monitor, format_duration
from ratchet.errors import Refused
from ratchet.ports.features import Features
from ratchet.ports.ledger import ChampionRow, Ledger, MonitoredRow, Registration, Tx, Watermark
from ratchet.ports.store import Store
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.deciding import readable_specs, spec_of
from ratchet.workflow.telling import Relay, observation

if TYPE_CHECKING:
    from ratchet.workflow.new_rows import Window

logger = logging.getLogger(__name__)
SOURCE = "/ratchet/monitor"
ACTOR = "ratchet (monitor)"
MONITOR_AGAIN_SECONDS = 600.0
"""A look may wait long for a slot in its pool: it is not rung for again meanwhile."""
FEATURES, PREDICTIONS = "feature_drift", "prediction_drift"
MEASURED = ("realised", "expected", "uplift")
"""What a report says of payoff as an interval: earned on days with labels, expected by the champion's probabilities,
and earned beyond its predecessor."""
PAYOFF, UPLIFT, CALIBRATION = "payoff", "uplift_over_predecessor", "calibration_gap"


class BrokenData(Refused):
    """The new rows cannot be believed: the owner mends the data, and the window is looked at again."""


def due_window(tx: Tx, spec: ModelSpec) -> tuple[date | None, str]:
    """The end (exclusive, a local day) of the window to look at now; else None and why there is none."""
    monitor = spec.monitor
    if monitor is None:
        return None, "its spec has no monitor"
    if tx.current_champion(spec.model) is None:
        return None, "it has no champion to monitor"
    return _due(spec, monitor, _newest(spec, tx.watermarks()), tx.looked_until([spec.model]).get(spec.model))


def _due(
    spec: ModelSpec, monitor: Monitor, newest: date | None, looked_until: datetime | None
) -> tuple[date | None, str]:
    """The window of a model with a champion, whose data are complete to ``newest``."""
    if newest is None:
        return None, "nothing has told how far its data are complete"
    if looked_until is not None:
        last = looked_until.astimezone(spec.data.spine.zone).date()
        if newest - last < monitor.every:
            nearest = f"the window up to {last} was looked at, and the data reach {newest}"
            return None, f"{nearest}: less than {format_duration(monitor.every)} beyond it"
    return newest, f"the data reach {newest}"


def due_ends(tx: Tx, rows: Collection[Registration]) -> dict[str, datetime]:
    """The instants at which the windows end that are due for these models, by model; a few queries for all of them."""
    asked = {name: spec for name, spec in readable_specs(tx, rows).items() if spec.monitor is not None}
    if not asked:
        return {}
    marks, serving, looked = tx.watermarks(), tx.serving(asked), tx.looked_until(asked)
    ends = {}
    for name, spec in asked.items():
        if spec.monitor is None or name not in serving:
            continue
        end, _ = _due(spec, spec.monitor, _newest(spec, marks), looked.get(name))
        if end is not None:
            ends[name] = end_of(spec, end)
    return ends


def newest_end(tx: Tx, spec: ModelSpec) -> date | None:
    """The local day before which all datasets of the spec are complete; None while one has not told."""
    return _newest(spec, tx.watermarks())


def _newest(spec: ModelSpec, marks: Mapping[str, Watermark]) -> date | None:
    if any(name not in marks for name in spec.datasets):
        return None
    known = min(marks[name].complete_until for name in spec.datasets)
    return known.astimezone(spec.data.spine.zone).date()


def end_of(spec: ModelSpec, end: date) -> datetime:
    """The instant (UTC) at which a window that ends before the local day ``end`` is over."""
    return datetime.combine(end, time(), tzinfo=spec.data.spine.zone).astimezone(UTC)


def key_of(model: str, window_end: datetime, digest: str) -> str:
    """Where the store keeps the report with this digest."""
    return f"monitor/{model}/{window_end:%Y%m%dT%H%M%SZ}-{digest[:12]}.json"


def stale(tx: Tx, spec: ModelSpec) -> list[str]:
    """The datasets of the spec that are complete no later than the monitor's ``max_age`` ago, in words."""
    limit = spec.monitor.max_age if spec.monitor else None
    if limit is None:
        return []
    now, marks = tx.clock()[1], tx.watermarks()
    return [
        f"{name} is complete until {marks[name].complete_until:%Y-%m-%d %H:%M}Z only, more than "
        f"{format_duration(limit)} ago"
        for name in spec.datasets
        if name in marks and now - marks[name].complete_until > limit
    ]


class Monitors:
    """The verb, with what it needs of the world; each is made when first asked for."""

    def __init__(
        self,
        ledger: Ledger,
        relay: Relay,
        *,
        features: Callable[[], Features],
        artifacts: Callable[[], Artifacts],
        store: Callable[[], Store],
        hook: Callable[[ModelSpec], Any] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._relay = relay
        self._features = features
        self._artifacts = artifacts
        self._store = store
        self._hook = hook

    def monitor(self, model: str, end: date | None = None) -> dict[str, Any]:
        """Look at the window that is due, or at the one that ends before the local day ``end``; nothing is done twice.

        Returns:
            ``{"state": "done", or None when nothing is due; "reason", "window_end", "found": by check, "report_uri",
            "told": events}``

        Raises:
            BrokenData: the new rows cannot be believed; the owner was told.
            Refused: the model is not known or has no monitor, or the data do not reach ``end``.
            Unavailable: something did not answer; the window stays due.
        """
        with self._ledger.transaction() as tx:
            spec, champion = self._watched(tx, model)
            self._tell_stale(tx, spec)
            newest, reason = due_window(tx, spec)
            if end is not None:
                newest, reason = self._asked(tx, spec, end), f"the window up to {end} was asked for"
            if newest is None or champion is None:
                return _nothing(reason)
            window_end = end_of(spec, newest)
            for row in tx.monitored(model, window_end=window_end):
                if row.state == "done":
                    return _nothing(f"the window up to {newest} was looked at already") | {"found": row.found}
        report = self._look(spec, champion, newest)
        return self._keep(spec, champion, window_end, report)

    @staticmethod
    def _watched(tx: Tx, model: str) -> tuple[ModelSpec, ChampionRow | None]:
        registered = next((row for row in tx.registered() if row.model == model and not row.retired), None)
        if registered is None:
            raise Refused(f"model {model!r} is not deployed. Run: ratchet deploy")
        spec = spec_of(tx, registered.digest)
        if spec.monitor is None:
            raise Refused(
                f"the spec of {model} has no monitor. Add `monitor: {{}}` to include/models/{model}/model.yaml"
            )
        return spec, tx.current_champion(model)

    @staticmethod
    def _asked(tx: Tx, spec: ModelSpec, end: date) -> date:
        newest = newest_end(tx, spec)
        if newest is None or end > newest:
            raise Refused(f"the data of {spec.model} must reach {end}, but reach {newest or 'nowhere'}. Ask for less.")
        return end

    @staticmethod
    def _tell_stale(tx: Tx, spec: ModelSpec) -> None:
        for said in stale(tx, spec):
            logger.error("stale data of %s, for %s: %s", spec.model, spec.owner.email, said)
            tx.audit(ACTOR, "monitor.stale", spec.model, {"said": said, "owner": spec.owner.email})

    def _look(self, spec: ModelSpec, champion: ChampionRow, end: date) -> dict[str, Any]:
        from ratchet.workflow.new_rows import Sight  # noqa: PLC0415 - numpy, pyarrow, scipy

        sight = Sight(
            self._ledger, self._features(), self._artifacts(), self._store(), spec, champion, self._hook(spec)
        )
        return sight.look(_window(spec, end))

    def _keep(
        self, spec: ModelSpec, champion: ChampionRow, window_end: datetime, report: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store the report; then the window, its events and what the owner is told are one transaction."""
        content = dossiers.to_json(report)
        digest = hashlib.sha256(content).hexdigest()
        store = self._store()
        key = key_of(spec.model, window_end, digest)
        store.put_once(key, content)
        broken = report["quality"]["outcome"] == "broken"
        row = MonitoredRow(
            model=spec.model,
            window_end=window_end,
            state="broken" if broken else "done",
            spec_digest=spec.digest,
            version=champion.version,
            found=summary(report),
            report_uri=store.uri(key),
            report_sha256=digest,
        )
        events = [] if broken else list(observations(report, window_end, store.uri(key)))
        with self._ledger.transaction() as tx:
            if not tx.save_monitored(row):
                return _nothing("another run looked at the window meanwhile")
            tx.mark([spec.model])  # what waits for the look, or for believable data, is decided again
            for event in events:
                observation(tx, event)
            if said := report["quality"]["said"]:
                action = "monitor.broken" if broken else "monitor.quality"
                detail = {"window_end": window_end.isoformat(), "said": said, "report": digest}
                tx.audit(ACTOR, action, spec.model, detail | {"owner": spec.owner.email})
        if broken:
            who = ", ".join(filter(None, (spec.owner.email, spec.owner.escalation)))
            raise BrokenData(
                f"the new rows of {spec.model} up to {report['window']['end']} cannot be believed, and no retrain is "
                f"asked for: {'; '.join(report['quality']['said'])}. To be told: {who}. Mend the data, then: ratchet "
                f"monitor {spec.model} --run --window-end {report['window']['end']} (report: {row.report_uri})"
            )
        self._relay.publish()
        return {
            "state": row.state,
            "reason": report["cause"],
            "window_end": window_end.isoformat(),
            "found": row.found,
            "report_uri": row.report_uri,
            "told": [event.id for event in events],
        }


def _nothing(reason: str) -> dict[str, Any]:
    return {"state": None, "reason": reason, "told": []}


def _window(spec: ModelSpec, end: date) -> Window:
    from ratchet.workflow.new_rows import Window  # noqa: PLC0415 - numpy, pyarrow, scipy

    monitor = spec.monitor or Monitor()
    return Window(end - monitor.window, end, monitor.block // timedelta(days=1))


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a report: per check its outcome and a sentence, the window's days, and what is measured.

    ``MEASURED`` is kept as the report has it, so that a page that shows a year of it opens no report.
    """
    found: dict[str, Any] = {
        check: {"outcome": report[check]["outcome"], "said": "; ".join(report[check]["said"])}
        for check in ("quality", "features", "predictions", "payoff")
        if check in report
    }
    for name in MEASURED:
        measured = report.get("payoff", {}).get(name) or {}
        if measured.get("estimate") is not None:
            found["payoff"][name] = measured
    days = {name: report["window"][name] for name in ("start", "end")}
    return found | {"cause": report["cause"], "window": days}


def observations(report: Mapping[str, Any], window_end: datetime, uri: str) -> Iterator[Announcement]:
    """The events that a report of a window gives rise to, under ids that it would give again."""
    model, start = report["model"], datetime.fromisoformat(report["window"]["start_at"])

    def event(check: str, data: DriftDetected | DriftCleared | PerformanceDegraded) -> Announcement:
        name = f"monitor:{model}:{check}:{window_end:%Y%m%dT%H%M%SZ}"
        return new_event(data, id=name, source=SOURCE, subject=model, time=window_end)

    for check, part in ((FEATURES, report.get("features")), (PREDICTIONS, report.get("predictions"))):
        if part is None or part["outcome"] == "unjudged":
            continue
        if part["outcome"] == "cleared":
            yield event(check, DriftCleared(check=check, window_end=window_end, evidence_uri=uri))
            continue
        found = DriftDetected(
            check=check,
            severity=part["severity"],
            window_start=start,
            window_end=window_end,
            feature=part["drifted"][0],
            evidence_uri=uri,
        )
        yield event(check, found)
    for metric, fallen in report.get("payoff", {}).get("fallen", {}).items():
        degraded = PerformanceDegraded(
            metric=metric,
            value=fallen["value"],
            threshold=fallen["threshold"],
            window_end=window_end,
            evidence_uri=uri,
        )
        yield event(metric, degraded)
