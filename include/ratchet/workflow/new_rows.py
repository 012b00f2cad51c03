"""What the monitor sees in a window of new rows: whether they can be believed, have moved, and what they earned.

The reference of the features is the snapshot the champion was trained on. That of its scores are the rows it was judged
on: on the rows it was fitted to a model is surer of itself than on any others, and every window would differ from them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ratchet.domain.artifact import ModelArtifact
from ratchet.domain.drift import Drift, Profile, blocks_of, compare, of_categories, of_numbers
from ratchet.domain.gate import Verdict, judge
from ratchet.domain.payoff import expected
from ratchet.domain.quality import Finding, of_days, of_features
from ratchet.domain.spec import ModelSpec, Monitor
from ratchet.errors import CorruptObjectError, Refused
from ratchet.ports.features import Features
from ratchet.ports.ledger import AttemptRow, ChampionRow, Ledger, ScoredDay
from ratchet.ports.store import Store
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts, UnusableArtifact
from ratchet.workflow.deciding import lacking
from ratchet.workflow.evaluation import decide, labels_of
from ratchet.workflow.evidence import SCORE
from ratchet.workflow.monitoring import CALIBRATION, PAYOFF, UPLIFT, end_of
from ratchet.workflow.refitting import tables_of, together
from ratchet.workflow.scoring import predictions
from ratchet.workflow.valuing import Hook, valued, worth_of

logger = logging.getLogger(__name__)
BROKEN = "the data are broken"
LEAST_DAYS = 7
"""Days with labels below which nothing is said of the payoff."""


@dataclass(frozen=True)
class Window:
    """The local days ``[start, end)``, and how many of them make a block."""

    start: date
    end: date
    block_days: int

    @property
    def days(self) -> list[str]:
        """Its days, as ISO dates."""
        return [(self.start + timedelta(days=i)).isoformat() for i in range((self.end - self.start).days)]


class Unjudged(Exception):
    """A check has too little to go by; the message says what is missing."""


@dataclass(frozen=True)
class Made:
    """What the champion was made of: the attempt, its dossier, the rows it was trained on, and its features."""

    attempt: AttemptRow
    dossier: Mapping[str, Any]
    train: pa.Table
    features: tuple[str, ...]
    categorical: frozenset[str]


class Sight:
    """One look at one window of the champion's new rows."""

    def __init__(
        self,
        ledger: Ledger,
        features: Features,
        artifacts: Artifacts,
        store: Store,
        spec: ModelSpec,
        champion: ChampionRow,
        hook: Hook | None,
    ) -> None:
        self._ledger = ledger
        self._features = features
        self._artifacts = artifacts
        self._store = store
        self._spec = spec
        self._monitor = spec.monitor or Monitor()
        self._champion = champion
        self._hook = hook

    def look(self, window: Window) -> dict[str, Any]:
        """The report: what was looked at, what was found by each check, and what the findings together point at.

        Raises:
            Refused: the champion's own records are gone or are not what the ledger recorded.
            Unavailable: something did not answer.
        """
        made = self._made()
        report: dict[str, Any] = {
            "model": self._spec.model,
            "version": self._champion.version,
            "champion_seq": self._champion.seq,
            "spec": self._spec.digest,
            "monitor": self._monitor.model_dump(mode="json"),
            "window": {
                "start": window.start.isoformat(),
                "end": window.end.isoformat(),
                "start_at": end_of(self._spec, window.start).isoformat(),
                "end_at": end_of(self._spec, window.end).isoformat(),
            },
            "reference": {
                "attempt": made.attempt.id,
                "dossier": made.attempt.dossier_sha256,
                "rows": made.train.num_rows,
                "days": [min(_days(made.train)), max(_days(made.train))],
            },
        }
        try:
            rows = self._read(window)
        except Refused as refused:
            report["quality"] = {"outcome": "broken", "findings": [], "said": [f"they cannot be read: {refused}"]}
            return report | {"cause": BROKEN}
        report["window"]["rows"] = rows.num_rows
        report["quality"] = self._quality(made, rows, window)
        if report["quality"]["outcome"] == "broken":
            return report | {"cause": BROKEN}
        if "features" in self._monitor.checks:
            report["features"] = self._judged(lambda: self._feature_drift(made, rows, window))
        champion: ModelArtifact | None = None
        why = ""
        try:
            champion = self._artifacts.load(self._spec.model, self._champion.version)
        except UnusableArtifact as unusable:
            why = str(unusable)
        for name, check in (("predictions", self._prediction_drift), ("payoff", self._payoff)):
            if name in self._monitor.checks:
                judged = partial(_unjudged, why) if champion is None else partial(check, made, champion, rows, window)
                report[name] = self._judged(judged)
        return report | {"cause": cause(report)}

    @staticmethod
    def _judged(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return check()
        except Unjudged as why:
            return _unjudged(str(why))

    # -- what is read ----------------------------------------------------------------------------------------------

    def _made(self) -> Made:
        """What the serving version was made of, each part against the digest that was recorded."""
        version = self._champion.version
        with self._ledger.transaction() as tx:
            attempt = dossiers.attempt_of(tx, f"{self._spec.model}@{version}")
        dossier = dossiers.compared(dossiers.read(self._store, attempt))
        manifest = dossier["snapshot"]
        if version == attempt.deployed_version:
            train = together(tables_of(self._store, manifest))
        else:
            train = self._table(manifest["files"]["train"])
        return Made(attempt, dossier, train, tuple(manifest["features"]), frozenset(manifest["categorical"]))

    def _table(self, file: Mapping[str, Any]) -> pa.Table:
        return pq.read_table(io.BytesIO(self._store.get_bytes(file["key"], digest=file["sha256"])))

    def _read(self, window: Window) -> pa.Table:
        """The window's decisions, labelled or not, with their features as known at each."""
        self._features.apply()
        spine = self._features.entities(self._spec, start=window.start, end=window.end)
        return self._features.historical(self._spec, spine) if spine.num_rows else spine

    # -- the checks ------------------------------------------------------------------------------------------------

    def _quality(self, made: Made, rows: pa.Table, window: Window) -> dict[str, Any]:
        before, after = _rows_by_day(made.train), _rows_by_day(rows)
        found: list[Finding] = of_days(before, after, window.days)
        if rows.num_rows:
            there = [name for name in made.features if name in rows.column_names]
            found += of_features(
                {name: _values(made.train, name) for name in made.features},
                {name: _values(rows, name) for name in there},
                moving=self._monitor.seasonal,
            )
        if "quality" not in self._monitor.checks:
            found = [finding for finding in found if finding.breaks]
        broken = any(finding.breaks for finding in found)
        said = [f"{finding.feature}: {finding.said}" if finding.feature else finding.said for finding in found]
        if unknown := sorted(set(self._monitor.seasonal) - set(made.features)):
            said.append(f"monitor.seasonal names {', '.join(unknown)}, which the champion does not read")
        outcome = "broken" if broken else "told" if said else "held"
        return {"outcome": outcome, "findings": [asdict(finding) for finding in found], "said": said}

    def _feature_drift(self, made: Made, rows: pa.Table, window: Window) -> dict[str, Any]:
        return feature_drift(self._monitor, made.features, made.train, rows, window)

    def _prediction_drift(self, made: Made, champion: ModelArtifact, rows: pa.Table, window: Window) -> dict[str, Any]:
        judged = self._evidence(made)
        name = f"challenger_{SCORE[self._spec.business.kind]}"
        days, new, read = self._scores(champion, rows, window)
        blocks, is_new = _blocks(self._monitor, _days(judged), days, window)
        kept = blocks >= 0
        scores = np.concatenate([_numbers(judged, name), new])
        profile = of_numbers("score", scores[kept], blocks[kept], is_new.size)
        scored = len(set(days)) - read
        return _told(_compare(self._monitor, [profile], is_new)) | {
            "scores": {"days_read": read, "days_scored": scored}
        }

    def _scores(
        self, champion: ModelArtifact, rows: pa.Table, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.float64], int]:
        """The window's days (n,) and scores (n,), not in the order of the rows, and of how many days they were read.

        A day's scores are those that scoring wrote, where this version wrote them for as many rows as there are now;
        the other days are scored here, with the same numbers.
        """
        counts, days = _rows_by_day(rows), _days(rows)
        last = window.end - timedelta(days=1)
        with self._ledger.transaction() as tx:
            written = tx.scored_days(self._spec.model, since=window.start, until=last, role="champion")
        stored: dict[str, NDArray[np.float64]] = {}
        for row in written:
            day = row.day.isoformat()
            if row.version == self._champion.version and row.rows == counts.get(day):
                table = self._predicted(row)
                if table is not None:
                    stored[day] = _numbers(table, "prediction" if self._spec.business.regression else "score")
        left = ~np.isin(days, list(stored))
        now = np.asarray(champion.decide(rows.filter(left))[0], dtype=np.float64) if left.any() else np.empty(0)
        named = [np.full(scores.size, day) for day, scores in stored.items()]
        return np.concatenate([*named, days[left]]), np.concatenate([*stored.values(), now]), len(stored)

    def _predicted(self, row: ScoredDay) -> pa.Table | None:
        """What scoring wrote of a day; None where it is not there as it was written, which ``ratchet verify`` tells."""
        try:
            return predictions(self._store, row)
        except (CorruptObjectError, Refused) as error:
            logger.warning("%s is scored again: %s", row.day, error)
            return None

    def _payoff(self, made: Made, champion: ModelArtifact, rows: pa.Table, window: Window) -> dict[str, Any]:
        """What was earned on rows with labels, beside what the gate promised; what is expected of those without."""
        judged = self._evidence(made)
        confidence = self._spec.gate.confidence
        promised = judge(_numbers(judged, "challenger_payoff"), _days(judged), confidence=confidence)
        part: dict[str, Any] = {
            "outcome": "unjudged",
            "said": [],
            "fallen": {},
            "promised": _interval(promised),
            "expected": self._expected(champion, rows),
        }
        labelled, why = self._labelled(window, after=max(_days(judged)))
        if labelled is None:
            return part | {"said": [why]}
        part |= self._realised(labelled, champion, promised)
        part["outcome"] = "degraded" if part["fallen"] else "held"
        return part

    def _realised(self, rows: pa.Table, champion: ModelArtifact, promised: Verdict) -> dict[str, Any]:
        spec, days = self._spec, _days(rows)
        confidence, unit = spec.gate.confidence, spec.business.payoff.unit
        label = labels_of(spec, rows)
        worth = valued(spec, rows, label, self._hook)
        now = decide(rows, champion, worth)
        earned = judge(now.payoff, days, confidence=confidence)
        fallen: dict[str, dict[str, float]] = {}
        said = [f"{earned.estimate:+.4g} {unit} per decision on {earned.n_clusters} days with labels"]
        if earned.upper is not None and promised.lower is not None and earned.upper < promised.lower:
            fallen[PAYOFF] = {"value": float(earned.estimate or 0.0), "threshold": promised.lower}
            said.append(
                f"at most {earned.upper:+.4g}, below the {promised.lower:+.4g} that it was judged to earn at least"
            )
        known = {"first_day": str(min(days)), "last_day": str(max(days))}
        part: dict[str, Any] = {"realised": _interval(earned) | known}
        predecessor = self._predecessor()
        if predecessor is not None:
            version, before = predecessor
            uplift = judge(now.payoff - decide(rows, before, worth).payoff, days, confidence=confidence)
            part["uplift"] = _interval(uplift) | known | {"over": version, "promised": self._promised_uplift()}
            if uplift.upper is not None and uplift.upper < 0:
                fallen[UPLIFT] = {"value": float(uplift.estimate or 0.0), "threshold": 0.0}
                said.append(f"worse than version {version} on the same rows: at most {uplift.upper:+.4g}")
        if now.probability is not None:
            off = judge(label - now.probability, days, confidence=1 - self._monitor.level / 2)
            part["calibration"] = _interval(off)
            if off.lower is not None and off.upper is not None and not off.lower <= 0 <= off.upper:
                reach = (off.upper - off.lower) / 2
                fallen[CALIBRATION] = {"value": abs(float(off.estimate or 0.0)), "threshold": reach}
                said.append(f"labels are {off.estimate:+.2%} off the probabilities, by chance at most {reach:.2%}")
        return part | {"fallen": fallen, "said": said}

    def _expected(self, champion: ModelArtifact, rows: pa.Table) -> dict[str, Any]:
        """What the decisions are worth if the champion's probabilities are right; never a cause, only evidence."""
        if self._spec.business.kind != "classifier":
            what = "prediction" if self._spec.business.regression else "rank"
            return {"why": f"a {what} has no probability to expect its worth by"}
        probability, act = champion.decide(rows)
        try:
            positive, negative = (
                worth_of(self._spec, rows, np.full(rows.num_rows, label), self._hook) for label in (1, 0)
            )
        except Refused as refused:
            return {"why": f"the payoff cannot be known before the label: {refused}"}
        worth = expected(probability, positive, negative, act)
        return _interval(judge(worth, _days(rows), confidence=self._spec.gate.confidence))

    # -- what the checks share -------------------------------------------------------------------------------------

    def _evidence(self, made: Made) -> pa.Table:
        return self._table(made.dossier["evidence"])

    def _labelled(self, window: Window, *, after: str) -> tuple[pa.Table | None, str]:
        """The window's rows with known labels, of days later than the champion was judged on; else None and why."""
        with self._ledger.transaction() as tx:
            if missing := lacking(tx, self._spec):
                return None, missing
        start = max(window.start, date.fromisoformat(after) + timedelta(days=1))
        if start >= window.end:
            return None, f"no day is later than {after}, the last that the champion was judged on"
        spine = self._features.spine(self._spec, as_of=end_of(self._spec, window.end), start=start, end=window.end)
        days = len(set(spine.column("day").to_pylist()))
        if days < LEAST_DAYS:
            return None, f"{days} days later than {after} have labels: {LEAST_DAYS} are needed"
        return self._features.historical(self._spec, spine), ""

    def _predecessor(self) -> tuple[int, ModelArtifact] | None:
        with self._ledger.transaction() as tx:
            before = [row for row in tx.champions(self._spec.model) if row.seq == self._champion.seq - 1]
        try:
            return (before[0].version, self._artifacts.load(self._spec.model, before[0].version)) if before else None
        except UnusableArtifact:
            return None

    def _promised_uplift(self) -> float | None:
        """The lower bound of the uplift that the champion was promoted with."""
        with self._ledger.transaction() as tx:
            attempt = tx.attempt(self._champion.attempt_id) if self._champion.attempt_id else None
        record = attempt.verdict_record if attempt else None
        return record.get("lower") if record else None


def feature_drift(
    monitor: Monitor, features: Sequence[str], train: pa.Table, rows: pa.Table, window: Window
) -> dict[str, Any]:
    """Whether the features of the window's rows have moved from those that a model was trained on.

    Raises:
        Unjudged: there are too few rows or blocks to say so.
    """
    tables = (train, rows)
    blocks, is_new = _blocks(monitor, _days(train), _days(rows), window)
    kept = blocks >= 0
    seasonal = set(monitor.seasonal)

    def profile(name: str) -> Profile:
        values = np.concatenate([_values(table, name) for table in tables])[kept]
        make = of_categories if values.dtype == object else of_numbers
        return make(name, values, blocks[kept], is_new.size)

    family = [name for name in features if name not in seasonal]
    drift = _compare(monitor, [profile(name) for name in family], is_new)
    told = [_compare(monitor, [profile(name)], is_new).features[0] for name in features if name in seasonal]
    return _told(drift) | {"seasonal": [asdict(feature) for feature in told]}


def _blocks(
    monitor: Monitor, before: NDArray[Any], after: NDArray[Any], window: Window
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Blocks of the reference's rows followed by the window's, -1 for those of none; and which blocks are new.

    Both are counted back from their last days. A block of the window that reaches into the reference is left out,
    and so is one that begins before it or holds no row.
    """
    fewest = monitor.min_rows
    if after.size < fewest:
        raise Unjudged(f"{after.size} new rows say too little: {fewest} are needed")
    last, size = max(before), window.block_days
    old = blocks_of(before, last=last, block_days=size)
    whole = ((date.fromisoformat(last) - date.fromisoformat(min(before))).days + 1) // size
    new = blocks_of(after, last=(window.end - timedelta(days=1)).isoformat(), block_days=size)
    fresh = min((window.end - window.start).days, (window.end - date.fromisoformat(last)).days - 1) // size
    codes = np.concatenate([np.where(old < whole, old, -1), np.where((new >= 0) & (new < fresh), new + whole, -1)])
    used = np.unique(codes[codes >= 0])
    place = np.full(max(whole + max(fresh, 0), 1), -1, dtype=np.intp)
    place[used] = np.arange(used.size)
    return np.where(codes >= 0, place[codes], -1), used >= whole


def _compare(monitor: Monitor, profiles: Sequence[Profile], is_new: NDArray[np.bool_]) -> Drift:
    try:
        return compare(profiles, is_new, level=monitor.level)
    except ValueError as error:
        raise Unjudged(str(error)) from None


def cause(report: Mapping[str, Any]) -> str:
    """What the findings together point at, for whoever reads the event's evidence."""
    moved = [name for name in ("features", "predictions") if report.get(name, {}).get("outcome") == "drifted"]
    fallen = set(report.get("payoff", {}).get("fallen", ()))
    if moved:
        return f"{' and '.join(moved)} drifted" + (f"; {', '.join(sorted(fallen))} fell" if fallen else "")
    if fallen == {CALIBRATION}:
        return (
            "only the calibration is off: the champion under another map from scores to probabilities may do "
            "(gate.also_judge: [recalibrated_champion])"
        )
    if fallen:
        return f"{', '.join(sorted(fallen))} fell although no input moved"
    return "nothing moved"


def _told(drift: Drift) -> dict[str, Any]:
    drifted = [feature.feature for feature in drift.drifted]
    said = [
        f"{feature.feature} moved (severity {feature.severity:.2f}, adjusted p {feature.adjusted:.3g})"
        for feature in drift.drifted
    ]
    return {
        "outcome": "drifted" if drifted else "cleared",
        "severity": drift.severity,
        "drifted": drifted,
        "said": said or [f"no drift (p {drift.p_value:.3g})"],
        "drift": asdict(drift),
    }


def _unjudged(why: str) -> dict[str, Any]:
    return {"outcome": "unjudged", "said": [why]}


def _interval(verdict: Verdict) -> dict[str, Any]:
    """The numbers of an interval: an estimate per decision with a one-sided bound on either side."""
    return {
        "estimate": verdict.estimate,
        "lower": verdict.lower,
        "upper": verdict.upper,
        "rows": verdict.n_rows,
        "days": verdict.n_clusters,
    }


def _days(table: pa.Table) -> NDArray[Any]:
    return np.asarray(table.column("day").cast(pa.string()).to_numpy(zero_copy_only=False), dtype=np.str_)


def _rows_by_day(table: pa.Table) -> dict[str, int]:
    counts = table.column("day").cast(pa.string()).value_counts()
    return {row["values"]: row["counts"] for row in counts.to_pylist()}


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _values(table: pa.Table, name: str) -> NDArray[Any]:
    """Numbers as float64, NaN for missing; all else as objects, None for missing."""
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
