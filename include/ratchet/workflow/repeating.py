"""Repeat what a dossier tells: the verdict from its evidence, and the model from its snapshot."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from ratchet.domain.differences import Difference, differences
from ratchet.domain.spec import ModelSpec, digest_of
from ratchet.errors import Refused
from ratchet.ports.ledger import AttemptRow
from ratchet.workflow import dossiers
from ratchet.workflow.attempting import Parts, ranges_of, rows_of, table_digest

PINNED = ("lock_sha256", "code", "python", "machine")
TOLERANCE = 1e-6
"""Probabilities of the same recipe in another environment may differ by so much; in the pinned one by nothing."""


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

    ``rows`` of the holdout were scored; ``different`` of them got another probability than the stored artifact gives
    (or the evidence has, the larger count), by ``largest`` at most; ``differences`` are those of anything else that
    must be equal. ``tolerance`` is what was allowed: 0 in the pinned environment.
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

    @property
    def same(self) -> bool:
        """Whether the model is the recorded one, within the tolerance."""
        return not self.differences and self.largest <= self.tolerance and (self.tolerance > 0 or not self.different)


class Repeats:
    """The verbs of an auditor: they change nothing but the audit log."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def replay(self, attempt: AttemptRow, actor: str) -> Replay:
        """Recompute the verdict from the stored evidence by the pinned policy.

        Raises:
            Refused: the attempt has no dossier, or nothing was compared.
            RatchetError: dossier or evidence are not those whose digests were recorded.
        """
        from ratchet.domain.gate import decide_promotion, policy_from  # noqa: PLC0415 - scipy

        dossier = dossiers.compared(dossiers.read(self._parts.store(), attempt))
        evidence = self._evidence(dossier)
        verdict = decide_promotion(evidence, policy_from(dossier["policy"]))
        found = dossiers.plain(asdict(verdict)) | {"unit": evidence.unit}
        record = {
            "verdict": dossier["verdict"],
            "evidence_digest": dossier["evidence_digest"],
            "spec.digest": dossier["spec"]["digest"],
            "ledger": {"verdict": attempt.verdict, "evidence_digest": attempt.evidence_digest},
        }
        again = {
            "verdict": found,
            "evidence_digest": dossiers.evidence_digest(dossier | {"verdict": found}),
            "spec.digest": digest_of(dossier["spec"]["document"]),
        } | {"ledger": {"verdict": found["decision"], "evidence_digest": dossiers.evidence_digest(dossier)}}
        answer = Replay(attempt.id, attempt.challenger_version, verdict.decision, tuple(differences(record, again)))
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
        """Train again from the dossier and compare every prediction on the holdout.

        Args:
            attempt: whose model.
            actor: who asks, for the audit log.
            threads: of the learner; the spec's when left out. The model does not depend on them.
            from_source: take the rows from the feature store again, and compare them with the snapshot's.
            allow_other_environment: go on where lock file, code, Python or architecture are not the pinned ones, and
                allow the stated tolerance.

        Raises:
            Refused: the attempt has no dossier, nothing was compared, or this is another environment.
            RatchetError: dossier, snapshot, evidence or artifact are not those whose digests were recorded.
        """
        import numpy as np  # noqa: PLC0415 - only where rows are handled

        from ratchet.workflow.training import Columns, fit_final  # noqa: PLC0415

        dossier = dossiers.compared(dossiers.read(self._parts.store(), attempt))
        elsewhere = self._elsewhere(dossier)
        if elsewhere and not allow_other_environment:
            told = "; ".join(f"{d.field} was {d.recorded}, here {d.found}" for d in elsewhere)
            raise Refused(
                f"{attempt.id} was made in another environment: {told}. Bit equality is promised for the pinned one: "
                "run this there, or add --allow-other-environment"
            )
        spec = ModelSpec.model_validate(dossier["spec"]["document"])
        manifest = dossier["snapshot"]
        train, holdout = self._table(manifest, "train"), self._table(manifest, "holdout")
        first = dossier["looks"]["taken"][0]["attempt"]
        if from_source and first != attempt.id:
            raise Refused(
                f"{attempt.id} judged the challenger of {first} again and took no training rows of its own: run "
                f"`ratchet reproduce {first} --from-source`"
            )
        found = self._source_differences(spec, manifest) if from_source else []
        models = self._parts.models()
        threads = threads or spec.runtime.threads
        again = fit_final(
            spec=spec,
            train=train,
            ranges=ranges_of(manifest),
            columns=Columns.of(manifest),
            params=dossier["study"]["params"],
            seed=dossier["seed"],
            learner=models.learner_for(spec.train.estimator),
            threads=threads,
            hook=self._parts.hook(spec),
        )
        challenger = dossier["challenger"]
        folder = self._parts.registry().download(attempt.model, challenger["version"])
        stored = models.load(folder, expected=challenger["digest"])
        probability, act = again.decide(holdout)
        evidence = self._evidence(dossier)
        rivals = (stored.decide(holdout)[0], np.asarray(evidence.challenger.probability, dtype=np.float64))
        gaps = [np.where(_same_bits(probability, other), 0.0, np.abs(probability - other)) for other in rivals]
        flipped = int((act != np.asarray(evidence.challenger.act)).sum())
        if flipped:
            found.append(Difference("decisions flipped", 0, flipped))
        with tempfile.TemporaryDirectory() as scratch:
            digest = models.save(again, Path(scratch) / "model")
        answer = Reproduction(
            attempt=attempt.id,
            version=attempt.challenger_version,
            rows=holdout.num_rows,
            different=max(int((~_same_bits(probability, other)).sum()) for other in rivals),
            largest=float(np.max([np.nanmax(gap, initial=0.0) for gap in gaps])),
            tolerance=TOLERANCE if elsewhere else 0.0,
            threads=threads,
            model_digest_equal=digest == challenger["digest"],
            from_source=from_source,
            differences=tuple(found),
        )
        detail = {"same": answer.same, "rows": answer.rows, "different": answer.different, "threads": threads}
        self._audit(actor, "attempt.reproduced", attempt, detail)
        return answer

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
        parts = rows_of(features.historical(spec, spine), planned["calibrate_end"], planned["holdout_days"])
        recorded = {"spine": manifest["spine_sha256"]} | {n: f["content_sha256"] for n, f in manifest["files"].items()}
        found = {"spine": table_digest(spine)} | {name: table_digest(part) for name, part in parts.items()}
        return differences({"source": recorded}, {"source": found})

    def _evidence(self, dossier: Mapping[str, Any]) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

        from ratchet.workflow.evidence import from_table  # noqa: PLC0415

        named = dossier["evidence"]
        content = self._parts.store().get_bytes(named["key"], digest=named["sha256"])
        return from_table(
            pq.read_table(io.BytesIO(content)), named["beside"], named["slices"], dossier["verdict"]["unit"]
        )

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
