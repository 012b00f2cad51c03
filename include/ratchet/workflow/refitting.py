"""The judged recipe fitted again on all mature rows, those that judged it included.

The parameters, the seed, the calibration map and the threshold are the judged model's; only the trees have seen more.
The map needs scores of rows later than the fit, and a refit leaves none, so it keeps the one that was judged with the
recipe, as the judged scorer itself keeps the map of an earlier fit (docs/decisions/0006).

A refit that cannot be fitted, or is no model any more, is not deployed: the judged one is then, which has the evidence,
and every record says so (docs/decisions/0050).
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.domain.artifact import ModelArtifact
from ratchet.domain.holdout import days_too_near
from ratchet.domain.metrics import Kind
from ratchet.domain.refit import Answers, Moved, moved, unfit
from ratchet.domain.spec import ModelSpec
from ratchet.domain.threshold import TunedThreshold
from ratchet.errors import Refused
from ratchet.ports.learning import Learner
from ratchet.ports.ledger import AttemptRow
from ratchet.ports.store import Store
from ratchet.workflow import dossiers
from ratchet.workflow.attempting import Parts, ranges_of
from ratchet.workflow.training import Columns, fit_final

logger = logging.getLogger(__name__)
FILES = ("train", "between", "holdout")
"""The files of a snapshot that a refit is fitted on; together they are all mature rows of its plan, none twice."""
ROLES = ("refit", "gap")
"""Of used days: those the refit was fitted on, and those too near to them to judge it."""
FROZEN: Mapping[Kind, Sequence[str]] = {
    "classifier": ("calibration map", "threshold"),
    "regression": ("calibration map", "threshold"),
    "ranking": ("capacity",),
}
"""What of the judged model's decision is kept, beside how its trees are made."""
FIRST = "a first champion has no predecessor to be watched against, and a refit serves under watch only"


def refit(parts: Parts, attempt: AttemptRow, spec: ModelSpec, verdict_sha256: str) -> dict[str, Any]:
    """Make and register what is to serve, and write the attempt's dossier with both artifacts in it.

    Args:
        parts: the world.
        attempt: one whose verdict promotes.
        spec: the attempt's own.
        verdict_sha256: the digest of the dossier as the verdict left it.

    Returns:
        what the judging step keeps: ``deployed_version`` and ``deployed_digest`` (None: the judged one serves),
        ``said`` in words, ``refit_days`` as used days by role, and the final dossier's address and digests.

    Raises:
        Refused: the judged artifact cannot be used.
        RatchetError: the dossier, the snapshot or the artifact are not those whose digests were recorded.
        Unavailable: something did not answer; repeating helps, and registers nothing twice.

    """
    store = parts.store()
    verdict: dict[str, Any] = json.loads(
        store.get_bytes(dossiers.key_of(attempt.id, before_refit=True), digest=verdict_sha256)
    )
    deployed, days = _deployed(parts, attempt, spec, verdict)
    whole = verdict | {"deployed": deployed, "used_days": verdict["used_days"] | days}
    dossier, digest = dossiers.write(store, whole | {"evidence_digest": dossiers.evidence_digest(whole)})
    made = dossier["deployed"]["kind"] == "refit"
    return {
        "deployed_version": dossier["deployed"]["version"] if made else None,
        "deployed_digest": dossier["deployed"]["digest"] if made else None,
        "said": words(dossier),
        "refit_days": {role: rows for role, rows in dossier["used_days"].items() if role in ROLES},
        "evidence_digest": dossier["evidence_digest"],
        "dossier_uri": store.uri(dossiers.key_of(attempt.id)),
        "dossier_sha256": digest,
    }


def words(dossier: Mapping[str, Any]) -> str:
    """What is to serve, and whose the verdict is, in a sentence without a full stop."""
    deployed, judged = dossier["deployed"], dossier["challenger"]["version"]
    if deployed["kind"] == "judged":
        return f"version {judged} serves as it was judged, not refitted: {deployed['why']}"
    return (
        f"version {deployed['version']} is the recipe of version {judged} fitted again on {deployed['fit_rows']:,} "
        f"rows up to {deployed['last_day']}; the verdict is that of version {judged}"
    )


def tables_of(store: Store, manifest: Mapping[str, Any]) -> dict[str, pa.Table]:
    """The files of a snapshot that a refit is fitted on."""
    files = ((name, manifest["files"][name]) for name in FILES)
    return {
        name: pq.read_table(io.BytesIO(store.get_bytes(file["key"], digest=file["sha256"]))) for name, file in files
    }


def together(tables: Mapping[str, pa.Table]) -> pa.Table:
    """All mature rows of the plan; later looks at a challenger may give a column another width of numbers."""
    return pa.concat_tables(tables.values(), promote_options="permissive")


def fit_again(
    *,
    spec: ModelSpec,
    rows: pa.Table,
    manifest: Mapping[str, Any],
    study: Mapping[str, Any],
    seed: int,
    judged: ModelArtifact,
    judged_digest: str,
    learner: Learner,
    threads: int | None = None,
) -> ModelArtifact:
    """The judged recipe on all ``rows``, from the first day of its own fit to the last day that judged it.

    The same rows (in any order), study and judged artifact give the same refit to the bit, for any number of
    ``threads``. The window grows by the rows that were held back: its first day stays.

    Raises:
        Refused: the estimator refuses its parameters on these rows, or the judged model was not fitted by this plan.

    """
    ranges = ranges_of(manifest)
    planned = [ranges.fit_start, ranges.calibrate_end]
    if list(judged.provenance["fit"]) != planned:
        raise Refused(
            f"the judged model must have been fitted on {' until '.join(planned)}, but was on "
            f"{' until '.join(judged.provenance['fit'])}: this attempt's recipe is not its own."
        )
    end = (_last_day(manifest) + timedelta(days=1)).isoformat()
    tuned = judged.provenance.get("tuned_threshold")
    made = fit_final(
        spec=spec,
        train=rows,
        ranges=replace(ranges, calibrate_end=end),
        columns=Columns.of(manifest),
        params=study["params"],
        seed=seed,
        learner=learner,
        threads=threads,
        calibrator=judged.calibrator,
        tuned=None if tuned is None else TunedThreshold.of_record(tuned),
    )
    fitted = {name: made.provenance[name] for name in ("fit", "fit_rows", "libraries")}
    return replace(
        made,
        calibrator=judged.calibrator,
        threshold=judged.threshold,
        provenance=dict(judged.provenance) | fitted | {"refit_of": judged_digest},
    )


def answers(model: ModelArtifact, rows: pa.Table) -> Answers:
    """What the model says on the rows."""
    return Answers(*model.decide(rows))


def _deployed(
    parts: Parts, attempt: AttemptRow, spec: ModelSpec, verdict: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the dossier says of the artifact that is to serve, and the days it used beyond the judged one's."""
    challenger = verdict["challenger"]
    asis = {"kind": "judged", "version": challenger["version"], "digest": challenger["digest"]}
    if attempt.champion_version is None:
        return asis | {"why": FIRST}, {}
    manifest, models = verdict["snapshot"], parts.models()
    folder = parts.registry().download(attempt.model, challenger["version"])
    judged: ModelArtifact = models.load(folder, expected=challenger["digest"])
    tables = tables_of(parts.store(), manifest)
    rows, judging = together(tables), tables["holdout"]
    made: ModelArtifact | None = None
    distance: Moved | None = None
    why: str | None = None
    try:
        made = fit_again(
            spec=spec,
            rows=rows,
            manifest=manifest,
            study=verdict["study"],
            seed=verdict["seed"],
            judged=judged,
            judged_digest=challenger["digest"],
            learner=models.learner_for(spec.train.estimator),
            threads=spec.train.workers * spec.runtime.threads,  # the study's cores are free by now
        )
    except Refused as refused:
        why = f"the refit failed ({refused})"
    if made is not None:
        was, now = answers(judged, judging), answers(made, judging)
        broken, distance = unfit(was, now), moved(was, now)
        why = None if broken is None else f"the refit is no model to deploy ({broken})"
    if made is None or why is not None:
        logger.error("%s deploys the judged version %s: %s", attempt.id, challenger["version"], why)
        return asis | {"why": why} | _told(distance), {}
    last = _last_day(manifest)
    version, digest = _register(parts, attempt, verdict, made)
    deployed = {
        "kind": "refit",
        "version": version,
        "digest": digest,
        "fit": made.provenance["fit"],
        "fit_rows": made.provenance["fit_rows"],
        "judged_fit": judged.provenance["fit"],
        "last_day": last.isoformat(),
        "frozen": ["parameters", "seed", *FROZEN[judged.kind]],
        "provenance": dict(made.provenance),
    }
    near = days_too_near(last, spec.data.spine.label_delay)
    used = dict(zip(ROLES, (_rows_by_day(rows), {day.isoformat(): 0 for day in near}), strict=True))
    return deployed | _told(distance), used


def _register(parts: Parts, attempt: AttemptRow, verdict: Mapping[str, Any], made: ModelArtifact) -> tuple[int, str]:
    """Keep the refit as a version of its own; the same attempt asked again gets the version it has."""
    name = f"{attempt.id}.refit"
    judged = verdict["challenger"]["version"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        digest = parts.models().save(made, folder)
        version = parts.registry().register(
            name,
            attempt.model,
            folder,
            metrics={},
            params=verdict["study"]["params"],
            tags={
                "ratchet.attempt": name,
                "ratchet.refit_of": str(judged),
                "ratchet.verdict": f"promote, of version {judged}",
                "ratchet.as_of": attempt.as_of.isoformat(),
                "ratchet.snapshot": verdict["snapshot_manifest"]["sha256"],
                "ratchet.model_digest": digest,
            },
        )
    return version, digest


def _told(distance: Moved | None) -> dict[str, Any]:
    return {} if distance is None else {"on_holdout": asdict(distance)}


def _last_day(manifest: Mapping[str, Any]) -> date:
    return max(date.fromisoformat(day) for day in manifest["plan"]["holdout_days"])


def _rows_by_day(rows: pa.Table) -> dict[str, int]:
    counts = rows.group_by("day").aggregate([("day", "count")])
    return {row["day"]: row["day_count"] for row in counts.to_pylist()}
