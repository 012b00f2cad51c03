"""Repeat what a dossier tells: the verdict from its evidence, and the model from its snapshot."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.domain.differences import Difference, differences
from ratchet.domain.spec import ModelSpec, digest_of
from ratchet.errors import Refused
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow import dossiers
from ratchet.workflow.attempting import Parts, ranges_of, rows_of, table_digest

if TYPE_CHECKING:
    from ratchet.domain.artifact import ModelArtifact

PINNED = ("lock_sha256", "code", "python", "machine")
TOLERANCE = 1e-6
"""Probabilities of the same recipe in another environment may differ by so much; in the pinned one by nothing.

Predictions of a regression by so much of their size, where that exceeds one.
"""


@dataclass(frozen=True)
class Replay:
    """A verdict given again; none of ``differences`` means that it is the recorded one."""

    attempt: str
    version: int | None
    decision: str
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


@dataclass(frozen=True)
class Reproduction:
    """A model made again.

    ``rows`` of the holdout were scored; ``different`` of them got another probability (or prediction) than the stored
    artifact gives (or the evidence has, the larger count), by ``largest`` at most; ``differences`` are those of
    anything else that must be equal. ``tolerance`` is what was allowed: 0 in the pinned environment. ``refit`` is the
    same of the version that was fitted again to serve, from the judged one made here; None where there is none.
    """

    attempt: str
    version: int | None
    rows: int
    different: int
    largest: float
    tolerance: float
    threads: int
    model_digest_equal: bool
    from_source: bool
    differences: tuple[Difference, ...] = field(default=())
    refit: Reproduction | None = None

    @property
    def same(self) -> bool:
        """Whether the model is the recorded one, within the tolerance, and its refit too."""
        mine = not self.differences and self.largest <= self.tolerance and (self.tolerance > 0 or not self.different)
        return mine and (self.refit is None or self.refit.same)

    @property
    def each(self) -> tuple[Reproduction, ...]:
        """Every model made again, one by one: the judged one, then its refit."""
        return (replace(self, refit=None), *(() if self.refit is None else (self.refit,)))


@dataclass(frozen=True)
class _Terms:
    """How a model is made again: see :class:`Reproduction`."""

    tolerance: float
    threads: int
    from_source: bool


class Repeats:
    """The verbs of an auditor: they change nothing but the audit log."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def replay(self, attempt: AttemptRow, actor: str) -> Replay:
        """Recompute the verdict, of each challenger where several were judged, from the evidence by the pinned policy.

        Raises:
            Refused: the attempt has no dossier, or nothing was compared.
            RatchetError: dossier or evidence are not those whose digests were recorded.
        """
        from ratchet.workflow.candidates import judge_again  # noqa: PLC0415 - scipy

        dossier = dossiers.compared(dossiers.read(self._parts.store(), attempt))
        choice, listed = judge_again(dossier, partial(self._evidence, dossier))
        found = dossiers.plain(asdict(choice.verdict)) | {"unit": dossier["verdict"]["unit"]}
        several = {} if listed is None else {"candidates": listed}
        record = {
            "verdict": dossier["verdict"],
            "candidates": dossier.get("candidates"),
            "evidence_digest": dossier["evidence_digest"],
            "spec.digest": dossier["spec"]["digest"],
            "ledger": {"verdict": attempt.verdict, "evidence_digest": attempt.evidence_digest},
        }
        again = {
            "verdict": found,
            "candidates": listed,
            "evidence_digest": dossiers.evidence_digest(dossier | {"verdict": found} | several),
            "spec.digest": digest_of(dossier["spec"]["document"]),
        } | {"ledger": {"verdict": found["decision"], "evidence_digest": dossiers.evidence_digest(dossier)}}
        if deployed := dossier.get("deployed"):
            record["deployed"] = {"version": attempt.candidate_version, "digest": attempt.candidate_digest}
            again["deployed"] = {name: deployed[name] for name in ("version", "digest")}
        answer = Replay(attempt.id, attempt.challenger_version, found["decision"], tuple(differences(record, again)))
        self._audit(actor, "attempt.replayed", attempt, {"same": answer.same, "differences": len(answer.differences)})
        return answer

    def reproduce(
        self,
        attempt: AttemptRow,
        actor: str,
        *,
        threads: int | None = None,
        from_source: bool = False,
        allow_other_environment: bool = False,
    ) -> Reproduction:
        """Make the model again from the dossier and compare every prediction; a refit too, where one serves.

        A challenger is trained again. A recalibrated champion is not: its scorer is that of the version it names, by
        the digest in the ledger, and its map is learned again.

        Args:
            attempt: whose model.
            actor: who asks, for the audit log.
            threads: of the learner; the spec's when left out. The model does not depend on them.
            from_source: take the rows from the feature store again, and compare them with the snapshot's.
            allow_other_environment: go on where lock file, code, Python or architecture are not the pinned ones, and
                allow the stated tolerance.

        Raises:
            Refused: the attempt has no dossier, nothing was compared, this is another environment, or retention removed
                the rows.
            RatchetError: dossier, snapshot, evidence or artifact are not those whose digests were recorded.
        """
        dossier = dossiers.compared(dossiers.read(self._parts.store(), attempt))
        spec = ModelSpec.model_validate(dossier["spec"]["document"])
        elsewhere = self._elsewhere(dossier)
        if elsewhere and not allow_other_environment:
            told = "; ".join(f"{d.field} was {d.recorded}, here {d.found}" for d in elsewhere)
            there = (
                f": ratchet environment run {attempt.model} reproduce {attempt.id}" if spec.runtime.environment else ""
            )
            raise Refused(
                f"{attempt.id} was made in another environment: {told}. Bit equality is promised for the pinned one: "
                f"run this there{there}, or add --allow-other-environment"
            )
        manifest = dossier["snapshot"]
        first = dossier["looks"]["taken"][0]["attempt"]
        if from_source and first != attempt.id:
            raise Refused(
                f"{attempt.id} judged the challenger of {first} again and took no training rows of its own: run "
                f"`ratchet reproduce {first} --from-source`"
            )
        with self._parts.ledger.transaction() as tx:
            removals = [tx.removal(attempt.model, "snapshot", name) for name in (attempt.id, first)]
        for removal in filter(None, removals):
            raise Refused(f"{attempt.id} cannot be made again: the snapshot of {removal.name} {removal.said}")
        train, holdout = self._table(manifest, "train"), self._table(manifest, "holdout")
        found = self._source_differences(spec, manifest) if from_source else []
        threads = threads or spec.runtime.threads
        again = self._made_again(attempt.model, spec, dossier, train, threads)
        terms = _Terms(TOLERANCE if elsewhere else 0.0, threads, from_source)
        evidence = self._evidence(dossier)
        answer = self._compared(
            attempt, dossier["challenger"], again, holdout, terms, recorded=evidence.challenger, found=found
        )
        if (dossier.get("deployed") or {}).get("kind") == "refit":
            answer = replace(answer, refit=self._refit_again(attempt, dossier, spec, again, terms))
        for each in answer.each:
            detail = {"same": each.same, "rows": each.rows, "different": each.different, "threads": threads}
            self._audit(actor, "attempt.reproduced", attempt, {"version": each.version} | detail)
        return answer

    def _refit_again(
        self, attempt: AttemptRow, dossier: Mapping[str, Any], spec: ModelSpec, judged: Any, terms: _Terms
    ) -> Reproduction:
        """The refit made again beside the judged model that was made again, and how far they lie from each other."""
        from ratchet.domain.refit import moved  # noqa: PLC0415 - numpy
        from ratchet.workflow.refitting import answers, fit_again, tables_of, together  # noqa: PLC0415

        deployed, manifest = dossier["deployed"], dossier["snapshot"]
        tables = tables_of(self._parts.store(), manifest)
        again = fit_again(
            spec=spec,
            rows=together(tables),
            manifest=manifest,
            study=dossier["study"],
            seed=dossier["seed"],
            judged=judged,
            judged_digest=dossier["challenger"]["digest"],
            learner=self._parts.models().learner_for(spec.train.estimator),
            threads=terms.threads,
        )
        distance = asdict(moved(answers(judged, tables["holdout"]), answers(again, tables["holdout"])))
        found = differences({"on_holdout": deployed["on_holdout"]}, {"on_holdout": distance})
        return self._compared(
            attempt, deployed, again, tables["holdout"], terms, found=[] if terms.tolerance else found
        )

    def _compared(
        self,
        attempt: AttemptRow,
        named: Mapping[str, Any],
        again: Any,
        holdout: Any,
        terms: _Terms,
        *,
        recorded: Any = None,
        found: Sequence[Difference] = (),
    ) -> Reproduction:
        """A model made again beside the stored one of its version, and beside the answers ``recorded`` of it."""
        import numpy as np  # noqa: PLC0415 - only where rows are handled

        models = self._parts.models()
        stored = models.load(self._parts.registry().download(attempt.model, named["version"]), expected=named["digest"])
        score, decision = again.decide(holdout)
        rivals = [stored.decide(holdout)]
        if recorded is not None:
            of_score, of_decision = recorded.probability, recorded.act
            if recorded.score is not None:
                of_score = recorded.score
            elif recorded.prediction is not None:
                of_score = of_decision = recorded.prediction
            rivals.append((np.asarray(of_score, dtype=np.float64), np.asarray(of_decision)))
        gaps = [
            np.where(_same_bits(score, other), 0.0, np.abs(score - other) / np.maximum(1.0, np.abs(other)))
            for other, _ in rivals
        ]
        flipped = 0
        if decision.dtype == np.bool_:
            flipped = max(int((decision != other).sum()) for _, other in rivals)
        with tempfile.TemporaryDirectory() as scratch:
            digest = models.save(again, Path(scratch) / "model")
        return Reproduction(
            attempt=attempt.id,
            version=named["version"],
            rows=holdout.num_rows,
            different=max(int((~_same_bits(score, other)).sum()) for other, _ in rivals),
            largest=float(np.max([np.nanmax(gap, initial=0.0) for gap in gaps])),
            tolerance=terms.tolerance,
            threads=terms.threads,
            model_digest_equal=digest == named["digest"],
            from_source=terms.from_source,
            differences=(*found, *((Difference("decisions flipped", 0, flipped),) if flipped else ())),
        )

    def _made_again(
        self, model: str, spec: ModelSpec, dossier: Mapping[str, Any], train: Any, threads: int
    ) -> ModelArtifact:
        """The challenger from its rows: trained again, or the champion's scorer given its calibration again."""
        from ratchet.workflow.candidates import scorer_of  # noqa: PLC0415 - scipy
        from ratchet.workflow.training import Columns, fit_final, recalibrate  # noqa: PLC0415

        manifest, hook = dossier["snapshot"], self._parts.hook(spec)
        ranges, version = ranges_of(manifest), scorer_of(dossier["challenger"]["provenance"])
        if version is not None:
            champion = self._parts.artifacts().load(model, version)
            return recalibrate(spec=spec, train=train, ranges=ranges, champion=champion, version=version, hook=hook)
        return fit_final(
            spec=spec,
            train=train,
            ranges=ranges,
            columns=Columns.of(manifest),
            params=dossier["study"]["params"],
            seed=dossier["seed"],
            learner=self._parts.models().learner_for(spec.train.estimator),
            threads=threads,
            hook=hook,
        )

    def _elsewhere(self, dossier: Mapping[str, Any]) -> list[Difference]:
        here = self._parts.environment() | {"code": self._parts.code_digest}
        pinned = dossier["environment"]
        return differences({name: pinned.get(name) for name in PINNED}, {name: here.get(name) for name in PINNED})

    def _source_differences(self, spec: ModelSpec, manifest: Mapping[str, Any]) -> list[Difference]:
        """Take spine and features again by the pinned cutoff; only the rows' digests are compared."""
        features = self._parts.features()
        features.apply()
        planned = manifest["plan"]
        spine = features.spine(
            spec,
            as_of=datetime.fromisoformat(manifest["as_of"]),
            start=date.fromisoformat(planned["fit_start"]),
            end=date.fromisoformat(max(planned["holdout_days"])) + timedelta(days=1),
        )
        parts = rows_of(
            features.historical(spec, spine),
            planned["calibrate_end"],
            planned["holdout_days"],
            between="between" in manifest["files"],
        )
        recorded = {"spine": manifest["spine_sha256"]} | {n: f["content_sha256"] for n, f in manifest["files"].items()}
        found = {"spine": table_digest(spine)} | {name: table_digest(part) for name, part in parts.items()}
        return differences({"source": recorded}, {"source": found})

    def _evidence(self, dossier: Mapping[str, Any], challenger: str = "challenger") -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

        from ratchet.workflow.evidence import from_table  # noqa: PLC0415

        named = dossier["evidence"]
        content = self._parts.store().get_bytes(named["key"], digest=named["sha256"])
        table, unit = pq.read_table(io.BytesIO(content)), dossier["verdict"]["unit"]
        return from_table(table, named["beside"], named["slices"], unit, challenger)

    def _table(self, manifest: Mapping[str, Any], name: str) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

        file = manifest["files"][name]
        return pq.read_table(io.BytesIO(self._parts.store().get_bytes(file["key"], digest=file["sha256"])))

    def _audit(self, actor: str, action: str, attempt: AttemptRow, detail: Mapping[str, Any]) -> None:
        with self._parts.ledger.transaction() as tx:
            tx.audit(actor, action, attempt.model, {"attempt": attempt.id, **detail})


def _same_bits(a: Any, b: Any) -> Any:
    """Row by row; two NaN of the same bits are the same."""
    return a.view("uint64") == b.view("uint64")
