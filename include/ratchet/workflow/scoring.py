"""Batch predictions: what the champion of each day, and a challenger in shadow, say of its rows, written once.

One file per (model, day, role), ``predictions/<model>/<day>/<role>.parquet``, with one row per decision in total order:
the entity keys, ``decided_at``, ``day``, ``score`` (calibrated probability) and ``act`` of a classifier or
``prediction`` of a regression, ``version``, ``role`` and ``attempt``, which made the version (null where the ledger
knows none). Its schema's metadata says what it was made from, and ``_<role>.json`` beside it is the manifest with its
digest; readers of a folder of Parquet files leave out what begins with an underscore.

The file comes first and is never replaced; the ledger's row follows. A process killed between the two leaves a file
that the next run takes over as it stands, whoever would score the day now: somebody may have acted on it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ratchet.domain.scoring import DayToScore, Judged, ScoringPlan, ScoringPolicy, Served, decide_scoring
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.ports.features import Features
from ratchet.ports.ledger import AttemptRow, ChampionRow, Ledger, ScoredDay, Tx
from ratchet.ports.store import AlreadyStored, Store
from ratchet.records import RunContext
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts, UnusableArtifact
from ratchet.workflow.deciding import spec_of
from ratchet.workflow.guarding import allowed_columns, recorded

if TYPE_CHECKING:
    import pyarrow as pa

    from ratchet.domain.artifact import ModelArtifact

logger = logging.getLogger(__name__)
METADATA = b"ratchet"
"""The key of a file's schema metadata under which it says what it was made from."""
MOST_ATTEMPTS = 100
"""Verdicts looked at for a challenger, newest first."""


def key_of(model: str, day: date, role: str) -> str:
    """Where the store keeps the predictions on a local day."""
    return f"predictions/{model}/{day}/{role}.parquet"


def manifest_of(model: str, day: date, role: str) -> str:
    """Where it keeps what is known of them."""
    return f"predictions/{model}/{day}/_{role}.json"


def plan_scoring(tx: Tx, spec: ModelSpec, asked: tuple[date, date] | None = None) -> tuple[ScoringPlan, datetime]:
    """What is due as things stand, and up to which business instant the data is complete (else now)."""
    policy = ScoringPolicy.from_spec(spec)
    marks, now = tx.watermarks(), tx.clock()[1]
    known = all(name in marks for name in spec.datasets)
    until = min(now, *(marks[name].complete_until for name in spec.datasets)) if known else None
    since = asked[0] if asked else ((until or now) - policy.catch_up).date() - timedelta(days=1)
    plan = decide_scoring(
        policy,
        until=until,
        served=_served(tx.champions(spec.model)),
        judged=_judged(tx.attempts(model=spec.model, limit=MOST_ATTEMPTS)) if policy.shadow else (),
        scored={(row.day, row.role) for row in tx.scored_days(spec.model, since=since)},
        asked=asked,
    )
    return plan, until or now


def predictions(store: Store, scored: ScoredDay) -> pa.Table | None:
    """The rows of a scored day, by the digest that the ledger recorded; None of a day without rows.

    Raises:
        RatchetError: the file is gone, or its bytes are others (``CorruptObjectError``).
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

    if scored.key is None:
        return None
    return pq.read_table(io.BytesIO(store.get_bytes(scored.key, digest=scored.sha256)))


class Scoring:
    """The scoring verb, with what it needs of the world; each is made when first asked for."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        features: Callable[[], Features],
        store: Callable[[], Store],
        artifacts: Callable[[], Artifacts],
    ) -> None:
        self._ledger = ledger
        self._features = features
        self._store = store
        self._artifacts = artifacts

    def score(self, model: str, run: RunContext, asked: tuple[date, date] | None = None) -> dict[str, Any]:
        """Score what is due, day by day; nothing happens when nothing is.

        Versions are settled when the run begins, so a champion that changes meanwhile changes nothing here. Each day is
        in the ledger as soon as its file is stored; one day's rows are in memory at a time. A version that cannot be
        used costs its own days and no others.

        Args:
            model: which model.
            run: who asks; its run id is kept with the predictions.
            asked: the days from and to, inclusive, instead of those that the spec looks back for.

        Returns:
            ``{"days": how many files were made or taken over, "rows": in them, "from", "to": the first and last day,
            "versions": by role, "waiting": days whose decisions are not all made, "reason": why nothing was done}``

        Raises:
            Refused: the model is unknown, retired or has no ``scoring``; the feature repository does not answer for a
                day; or, once all other days are scored, a version could not be used.
            Unavailable: something did not answer; what is not scored stays due.
        """
        with self._ledger.transaction() as tx:
            spec = self._spec(tx, model)
            if run.run_type == "scheduled" and tx.clock()[0] == "replay":
                return _told([], [], "the schedule is inert while the clock is in replay")
            planned, until = plan_scoring(tx, spec, asked)
            makers = {version: _made(tx, spec, version) for version in {due.version for due in planned.due}}
        if not planned.due:
            return _told([], [], planned.reason)
        self._features().apply()
        held = {version: recorded(allowed_columns(self._features(), made.spec)) for version, made in makers.items()}
        shelf = _Shelf(self._artifacts(), model)
        done: list[ScoredDay] = []
        waiting: list[date] = []
        for day, dues in _by_day(planned.due):
            rows = _Rows(self._features(), day)
            for due in dues:
                made = makers[due.version]
                if rows.last_decision(made.spec) > until:
                    waiting.append(day)
                    break
                said = {
                    **made.said,
                    **held[due.version],
                    "model": model,
                    "day": day.isoformat(),
                    "role": due.role,
                    "version": due.version,
                    "run": run.dag_run_id,
                    "as_of": until.isoformat(),
                }
                scored = self._scored(due, rows, made.spec, shelf, said)
                if scored is not None:
                    done.append(scored)
        if shelf.unusable:
            raise Refused("; ".join(sorted(shelf.unusable.values())) + f". Of {model} the other days are scored.")
        return _told(done, waiting, "" if done else "the decisions of these days are not all made")

    def _scored(
        self, due: DayToScore, rows: _Rows, spec: ModelSpec, shelf: _Shelf, said: dict[str, Any]
    ) -> ScoredDay | None:
        """The day as it is scored now, by this run or another; None where the version cannot be used."""
        key = key_of(said["model"], due.day, due.role)
        if not self._store().exists(key):
            artifact = shelf.load(due.version)
            if artifact is None:
                return None
            table = rows.of(spec)
            if table is None:
                return self._keep(said, rows=0, acted=None, sha256=None)
            try:
                self._store().put_once(key, _written(predict(spec, table, artifact), said, table))
            except AlreadyStored:
                logger.warning("%s was written by another run meanwhile; that file stands", key)
        return self._take_over(key)

    def _take_over(self, key: str) -> ScoredDay:
        """Record the file that stands; what it says of itself holds."""
        import pyarrow.compute as pc  # noqa: PLC0415 - only where rows are handled
        import pyarrow.parquet as pq  # noqa: PLC0415

        content = self._store().get_bytes(key)
        table = pq.read_table(io.BytesIO(content))
        written = (table.schema.metadata or {}).get(METADATA)
        if written is None:
            raise Refused(f"{self._store().uri(key)} does not say what made it: it is none of Ratchet's. Move it away.")
        said: dict[str, Any] = json.loads(written)
        sha256 = hashlib.sha256(content).hexdigest()
        acted = int(pc.sum(table["act"]).as_py()) if "act" in table.column_names else None
        manifest = said | {"key": key, "sha256": sha256, "rows": table.num_rows, "acted": acted}
        place = manifest_of(said["model"], date.fromisoformat(said["day"]), said["role"])
        self._store().put_once(place, dossiers.to_json(manifest))
        return self._keep(said, rows=table.num_rows, acted=acted, sha256=sha256)

    def _keep(self, said: dict[str, Any], *, rows: int, acted: int | None, sha256: str | None) -> ScoredDay:
        day = date.fromisoformat(said["day"])
        scored = ScoredDay(
            model=said["model"],
            day=day,
            role=said["role"],
            version=said["version"],
            attempt_id=said["attempt"],
            run=said["run"],
            as_of=datetime.fromisoformat(said["as_of"]),
            rows=rows,
            acted=acted,
            key=key_of(said["model"], day, said["role"]) if sha256 else None,
            sha256=sha256,
        )
        with self._ledger.transaction() as tx:
            tx.save_scored_day(scored)
        return scored

    def _spec(self, tx: Tx, model: str) -> ModelSpec:
        found = next((row for row in tx.registered() if row.model == model), None)
        if found is None:
            raise Refused(f"there is no model {model!r} in the ledger. Run: ratchet deploy")
        if found.retired:
            raise Refused(f"{model} is retired. To take it into service again: ratchet deploy --revive {model}")
        spec = spec_of(tx, found.digest)
        if spec.scoring is None:
            raise Refused(
                f"the deployed spec of {model} asks for no scoring. Add `scoring: {{}}` to its model.yaml, "
                "then: ratchet deploy"
            )
        return spec


def predict(spec: ModelSpec, rows: pa.Table, artifact: ModelArtifact) -> pa.Table:
    """What the model says of the rows, in their order: keys, ``decided_at``, ``day``, and its score and decision."""
    import numpy as np  # noqa: PLC0415 - only where rows are handled
    import pyarrow as pa  # noqa: PLC0415

    score, decision = artifact.decide(rows)
    columns = {name: rows[name] for name in (*spec.data.spine.entity, "decided_at", "day")}
    if artifact.kind == "regression":
        return pa.table(columns | {"prediction": pa.array(score, pa.float64())})
    act = pa.array(np.asarray(decision, dtype=np.bool_))
    return pa.table(columns | {"score": pa.array(score, pa.float64()), "act": act})


class _Rows:
    """The rows of one day with their features, fetched once for all whose spec reads the same data."""

    def __init__(self, features: Features, day: date) -> None:
        self._features = features
        self._day = day
        self._entities: list[tuple[Any, Any]] = []
        self._joined: list[tuple[Any, Any]] = []

    def last_decision(self, spec: ModelSpec) -> datetime:
        """When the last decision of the day is made; the beginning of time for a day without any."""
        import pyarrow.compute as pc  # noqa: PLC0415 - only where rows are handled

        entities = self._listed(spec)
        latest = pc.max(entities["decided_at"]).as_py() if entities.num_rows else None
        return latest.astimezone(UTC) if latest else datetime.min.replace(tzinfo=UTC)

    def of(self, spec: ModelSpec) -> Any:
        """The day's rows in total order, each with its features as known at its decision; None where there are none."""
        entities = self._listed(spec)
        if not entities.num_rows:
            return None
        return _once(self._joined, spec.data, lambda: self._features.historical(spec, entities))

    def _listed(self, spec: ModelSpec) -> Any:
        next_day = self._day + timedelta(days=1)
        return _once(self._entities, spec.data, lambda: self._features.entities(spec, start=self._day, end=next_day))


class _Shelf:
    """The versions of one run, each loaded once."""

    def __init__(self, artifacts: Artifacts, model: str) -> None:
        self._artifacts = artifacts
        self._model = model
        self._loaded: dict[int, ModelArtifact] = {}
        self.unusable: dict[int, str] = {}

    def load(self, version: int) -> ModelArtifact | None:
        """The version's model; None, with its reason in ``unusable``, where it cannot be used."""
        if version not in self._loaded and version not in self.unusable:
            try:
                self._loaded[version] = self._artifacts.load(self._model, version)
            except UnusableArtifact as unusable:
                self.unusable[version] = str(unusable)
        return self._loaded.get(version)


def _once(kept: list[tuple[Any, Any]], key: Any, make: Callable[[], Any]) -> Any:
    for known, value in kept:
        if known == key:
            return value
    kept.append((key, make()))
    return kept[-1][1]


def _written(table: pa.Table, said: dict[str, Any], inputs: pa.Table) -> bytes:
    """The file: the version beside each row, and what it was made from in the metadata of its schema."""
    import pyarrow as pa  # noqa: PLC0415 - only where rows are handled
    import pyarrow.parquet as pq  # noqa: PLC0415

    from ratchet.workflow.attempting import table_digest  # noqa: PLC0415

    beside = {"version": pa.int32(), "role": pa.string(), "attempt": pa.string()}
    for name, kind in beside.items():
        table = table.append_column(name, pa.array([said[name]] * table.num_rows, kind))
    known = json.dumps(said | {"inputs_sha256": table_digest(inputs)}, sort_keys=True)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA: known.encode()}), buffer, compression="zstd")
    return buffer.getvalue()


def _by_day(due: Sequence[DayToScore]) -> Iterator[tuple[date, list[DayToScore]]]:
    for day in dict.fromkeys(each.day for each in due):
        yield day, [each for each in due if each.day == day]


@dataclass(frozen=True)
class _Made:
    """How a version came about: the spec to read its rows by, and what its predictions say of it."""

    spec: ModelSpec
    said: dict[str, Any]


def _made(tx: Tx, current: ModelSpec, version: int) -> _Made:
    """By the spec of the attempt that made the version; by the current one where the ledger knows neither."""
    attempt: AttemptRow | None = None
    spec = current
    try:
        attempt = dossiers.attempt_of(tx, f"{current.model}@{version}")
        spec = spec_of(tx, attempt.spec_digest)
    except (Refused, ValueError) as error:
        logger.warning("%s@%s is scored by the current spec: %s", current.model, version, error)
    said = {
        "attempt": attempt.id if attempt else None,
        "model_digest": tx.version_digest(current.model, version),
        "spec": spec.digest,
        "features": spec.data.features,
    }
    return _Made(spec, said)


def _served(champions: Sequence[ChampionRow]) -> list[Served]:
    """The champion history, oldest first.

    Of an entry whose beginning was not kept it is the latest moment known to lie before: how far its data reached, or
    the beginning of the entry before it.
    """
    served: list[Served] = []
    for row in champions:
        since = row.since or max([row.as_of, *(entry.since for entry in served[-1:])])
        served.append(Served(row.version, since))
    return served


def _judged(attempts: Sequence[AttemptRow]) -> list[Judged]:
    """The candidates of the model's verdicts, newest first; a dry run's is nobody's challenger."""
    return [
        Judged(attempt.candidate_version, attempt.as_of, attempt.promoted)
        for attempt in attempts
        if attempt.verdict is not None and attempt.candidate_version is not None and not attempt.dry_run
    ]


def _told(done: Sequence[ScoredDay], waiting: Sequence[date], reason: str) -> dict[str, Any]:
    """What came of a run, small enough for XCom."""
    days = sorted({row.day for row in done})
    versions: dict[str, list[int]] = {}
    for row in done:
        versions[row.role] = sorted({*versions.get(row.role, ()), row.version})
    return {
        "days": len(done),
        "rows": sum(row.rows for row in done),
        "from": days[0].isoformat() if days else None,
        "to": days[-1].isoformat() if days else None,
        "versions": versions,
        "waiting": [day.isoformat() for day in waiting],
        "reason": reason,
    }
