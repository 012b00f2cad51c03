"""The steps of an attempt between the claim and the verdict: snapshot, tune, judge. Each is done once and stored."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ratchet.domain.holdout import HoldoutPlan, NotEnoughFreshDays
from ratchet.domain.spec import ModelSpec
from ratchet.errors import Refused
from ratchet.failpoints import reach
from ratchet.ports.features import Features
from ratchet.ports.learning import Learner
from ratchet.ports.ledger import LIVE_STATES, AttemptRow, Ledger, Tx, UsedDays
from ratchet.ports.registry import Registry
from ratchet.ports.store import Store
from ratchet.ports.studies import Studies, TrialRecord
from ratchet.ports.telemetry import NOBODY, Telemetry
from ratchet.settings import Settings
from ratchet.workflow import dossiers
from ratchet.workflow.artifacts import Artifacts, Loader, UnusableArtifact
from ratchet.workflow.deciding import plan
from ratchet.workflow.deployment import REFIT, to_refit
from ratchet.workflow.guarding import allowed_columns, recorded
from ratchet.workflow.leases import resumable, step
from ratchet.workflow.promotion import conclude
from ratchet.workflow.telling import challenger_alias
from ratchet.workflow.tracing import part

MOST_REASONS = 5
RECENT = 10
"""Attempts among which the last judged challenger is looked for."""
SHADOW = "shadow mode"


class Models(Loader, Protocol):
    """Artifacts to and from folders, and the learner behind an estimator's name (``ratchet.adapters.models``)."""

    def save(self, artifact: Any, folder: Path) -> str:
        """Write; returns the digest."""
        ...

    def learner_for(self, estimator: str) -> Learner:
        """The learner of a dotted path."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the steps need of the world; each is made when first asked for, because a task needs few of them."""

    ledger: Ledger
    settings: Settings
    code_digest: str
    features: Callable[[], Features]
    store: Callable[[], Store]
    studies: Callable[[], Studies]
    registry: Callable[[], Registry]
    models: Callable[[], Models]
    artifacts: Callable[[], Artifacts]
    environment: Callable[[], dict[str, Any]]
    hook: Callable[[ModelSpec], Any] = lambda _: None
    """The loaded function of a spec whose payoff names one, else None."""
    telemetry: Telemetry = NOBODY


class Attempts:
    """The verbs of one attempt."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def snapshot(self, attempt_id: str) -> dict[str, Any]:
        """Freeze the rows: one Parquet file to train on, one to judge on, and a manifest that pins their source.

        Tuning is given the first address only: what it cannot read it cannot fit to. Another look at a challenger has
        the file that this was trained on, and the days of the look before with those that came in.
        """

        def work(attempt: AttemptRow) -> dict[str, Any]:
            reach("claimed/no snapshot")
            spec = self._spec(attempt)
            with self._parts.ledger.transaction() as tx:
                planned = plan(tx, spec, attempt.as_of)
            if isinstance(planned, NotEnoughFreshDays):
                raise Refused(
                    f"{attempt_id}: {planned.count} fresh days of {planned.needed} needed; more at {planned.ready_at}"
                )
            before = self._looked_before(attempt)
            if before is None:
                return self._freeze(attempt, spec, planned)
            return self._freeze(attempt, spec, _look_again(before, planned), before["snapshot"]["files"]["train"])

        answer = self._step(attempt_id, "snapshot", work)
        self._advance(attempt_id, "claimed", "snapshotted")
        return answer

    def _freeze(
        self, attempt: AttemptRow, spec: ModelSpec, planned: HoldoutPlan, train: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        import pyarrow as pa  # noqa: PLC0415 - only where rows are handled
        import pyarrow.parquet as pq  # noqa: PLC0415

        from ratchet.workflow.valuing import check_columns  # noqa: PLC0415

        features, store = self._parts.features(), self._parts.store()
        with part("declare features"):
            features.apply()
        allowed = allowed_columns(features, spec)
        last_day, refits = max(planned.holdout_days), spec.gate.deploy == "refit"
        kept_from = planned.calibrate_end if refits else planned.holdout_start
        first_day = planned.fit_start if train is None else kept_from
        with part("spine"):
            spine = features.spine(
                spec, as_of=attempt.as_of, start=first_day, end=date.fromordinal(last_day.toordinal() + 1)
            )
        with part("historical features"):
            rows = features.historical(spec, spine)
        check_columns(spec, rows.schema)
        self._parts.hook(spec)  # a changed or broken file ends the attempt here, before anything is spent
        names = features.feature_names(spec)
        judging = [d.isoformat() for d in planned.holdout_days]
        parts = rows_of(rows, planned.calibrate_end.isoformat(), judging, between=refits)
        files = {}
        if train is not None:
            del parts["train"]
            files["train"] = train
        for name, table in parts.items():
            buffer = io.BytesIO()
            pq.write_table(table, buffer, compression="zstd")
            key = f"snapshots/{attempt.id}/{name}.parquet"
            digest = store.put_bytes(key, buffer.getvalue())
            files[name] = {"uri": store.uri(key), "key": key, "sha256": digest, "rows": table.num_rows}
            files[name]["content_sha256"] = table_digest(table)
        schema = rows.schema
        manifest = {
            "attempt": attempt.id,
            "as_of": attempt.as_of.isoformat(),
            "plan": dossiers.plain(asdict(planned)),
            "spine_sha256": table_digest(spine),
            "features": list(names),
            "categorical": [
                n
                for n in names
                if pa.types.is_string(schema.field(n).type) or pa.types.is_large_string(schema.field(n).type)
            ],
            "files": files,
            "code": self._parts.code_digest,
            "feature_repository": features.describe(spec),
            "created_cutoff": {"features": "decided_at of each row", "labels": attempt.as_of.isoformat()},
        } | recorded(allowed)
        key = f"snapshots/{attempt.id}/manifest.json"
        digest = store.put_bytes(key, dossiers.to_json(manifest))
        return {
            "manifest": key,
            "manifest_sha256": digest,
            "train_uri": files["train"]["uri"],
            "train_rows": files["train"]["rows"],
            "holdout_rows": files["holdout"]["rows"],
        }

    def plan_tuning(self, attempt_id: str) -> list[dict[str, Any]]:
        """One entry per worker that shares the attempt's study; one, with nothing to do, for another look."""
        with self._parts.ledger.transaction() as tx:
            attempt = resumable(tx, attempt_id)
        spec = self._spec(attempt)
        workers = self._workers(attempt, spec) if attempt.look == 1 else 1
        return [{"attempt": attempt_id, "worker": number} for number in range(workers)]

    def tune(self, attempt_id: str, worker: int) -> dict[str, Any]:
        """Run this worker's share of the study."""

        def work(attempt: AttemptRow) -> dict[str, Any]:
            from ratchet.workflow.training import Columns, tune_worker  # noqa: PLC0415 - numpy, pyarrow

            reach("tuning")
            spec = self._spec(attempt)
            if attempt.look > 1:
                return {"skipped": f"look {attempt.look} at version {attempt.options['look']['challenger']}"}
            taken, tuning = self._taken(attempt_id), spec.train.tuning
            manifest = self._manifest(taken)
            result = tune_worker(
                spec=spec,
                train=taken["train_uri"],
                ranges=ranges_of(manifest),
                columns=Columns.of(manifest),
                study_name=attempt_id,
                worker=worker,
                trials=self._trials(attempt, spec),
                seed=seed_of(attempt_id),
                studies=self._parts.studies(),
                learner=self._parts.models().learner_for(spec.train.estimator),
                champion_params=self._champion_params(attempt),
                history=self._history(attempt) if tuning is not None and tuning.policy == "retune" else (),
                hook=self._parts.hook(spec),
                alone=self._workers(attempt, spec) == 1,
            )
            told = asdict(result)
            return told if result.policy is not None else {k: v for k, v in told.items() if k != "policy"}

        return self._step(attempt_id, f"tune.{worker}", work)

    def judge(self, attempt_id: str) -> dict[str, Any]:
        """Fit the winner, score both models on the fresh rows, give the verdict, write the dossier.

        A verdict that keeps the champion ends the attempt here, with its announcement, in one transaction; one that
        promotes waits in state ``judged`` for ``promote``, with its refit where the spec deploys one.
        """
        self._advance(attempt_id, "snapshotted", "tuned")
        answer = self._step(attempt_id, "evaluate", self._evaluate)
        if answer.get("refit"):
            answer = answer | self._step(attempt_id, REFIT, self._refit)
        with self._parts.ledger.transaction() as tx:
            if resumable(tx, attempt_id).state not in LIVE_STATES:
                return answer
            attempt = tx.own_lease(attempt_id)
            verdict = answer["verdict"]
            shadow = bool(tx.spec_document(attempt.spec_digest)["gate"].get("shadow"))
            tx.update_attempt(
                attempt_id,
                state="judged",
                verdict=verdict["decision"],
                verdict_record=verdict,
                evidence_digest=answer["evidence_digest"],
                challenger_version=answer["challenger_version"],
                dossier_uri=answer["dossier_uri"],
                dossier_sha256=answer["dossier_sha256"],
                model_digest=answer["model_digest"],
                deployed_version=answer.get("deployed_version"),
                deployed_digest=answer.get("deployed_digest"),
                judged_at=tx.wall(),
            )
            tx.save_used_days(attempt, answer["challenger_version"], _used(answer["used_days"]))
            tx.save_used_days(attempt, answer.get("deployed_version"), _used(answer.get("refit_days", {})))
            tx.audit(
                attempt.actor or "ratchet",
                "attempt.judged",
                attempt.model,
                {
                    "attempt": attempt_id,
                    "verdict": verdict["decision"],
                    "why": list(verdict.get("reasons", ()))[:MOST_REASONS],
                    "evidence": answer["evidence_digest"],
                    "dossier": answer["dossier_sha256"],
                }
                | ({"deployed": answer["said"]} if "said" in answer else {}),
            )
            judged = tx.attempt(attempt_id)
            if judged is None:
                raise Refused(f"attempt {attempt_id} vanished while it was judged")
            if not attempt.dry_run:
                challenger_alias(tx, judged)
            if verdict["decision"] != "promote" or attempt.dry_run or shadow:
                kept = SHADOW if shadow and verdict["decision"] == "promote" and not attempt.dry_run else None
                conclude(tx, judged, champion_after=attempt.champion_version, kept=kept)
            else:
                tx.release_lease(attempt_id)
        return answer

    def _step(self, attempt_id: str, name: str, work: Callable[[AttemptRow], dict[str, Any]]) -> dict[str, Any]:
        parts = self._parts
        return step(parts.ledger, parts.settings, attempt_id, name, work, parts.telemetry)

    def card(self, attempt: AttemptRow) -> str:
        """Write the model card of a judged attempt, in storage and beside its versions; returns its address.

        Raises:
            Refused: the attempt has no dossier, or nothing was compared.
        """
        from ratchet.workflow import cards  # noqa: PLC0415 - only where one is written

        store = self._parts.store()
        dossier = dossiers.compared(dossiers.read(store, attempt))
        page = cards.card(dossier, str(attempt.dossier_sha256)).encode()
        store.put_bytes(cards.key_of(attempt.id), page)
        for version in {dossier[named]["version"] for named in ("challenger", "deployed") if named in dossier}:
            with self._parts.ledger.transaction() as tx:
                removed = tx.removal(attempt.model, "version", str(version)) is not None
            if not removed:
                self._parts.registry().attach(attempt.model, version, "model_card.html", page)
        return store.uri(cards.key_of(attempt.id))

    def _evaluate(self, attempt: AttemptRow) -> dict[str, Any]:
        store = self._parts.store()
        refits = store.exists(dossiers.key_of(attempt.id, before_refit=True))
        if refits or store.exists(dossiers.key_of(attempt.id)):
            dossier, digest = dossiers.standing(store, attempt.id, before_refit=refits)
        else:
            judged = self._judged_if_champion_loads(attempt)
            refits = to_refit(attempt, self._spec(attempt), judged["verdict"]["decision"])
            dossier, digest = dossiers.write(store, judged, before_refit=refits)
        return {
            "verdict": dossier["verdict"],
            "evidence_digest": dossier["evidence_digest"],
            "challenger_version": dossier["challenger"]["version"],
            "dossier_uri": store.uri(dossiers.key_of(attempt.id, before_refit=refits)),
            "dossier_sha256": digest,
            "model_digest": dossier["challenger"]["digest"],
            "used_days": dossier["used_days"],
            "payoff": _earned(dossier),
            "refit": refits,
        }

    def _refit(self, attempt: AttemptRow) -> dict[str, Any]:
        from ratchet.workflow.refitting import refit  # noqa: PLC0415 - numpy, pyarrow

        with self._parts.ledger.transaction() as tx:
            judged = tx.step_result(attempt.id, "evaluate")
        if judged is None:
            raise Refused(f"{attempt.id} has no verdict: clear the run's judge task first")
        return refit(self._parts, attempt, self._spec(attempt), judged["dossier_sha256"])

    def _judged_if_champion_loads(self, attempt: AttemptRow) -> dict[str, Any]:
        """The dossier of the verdict; a champion that cannot be used is kept, named, and nothing is compared with it.

        No challenger is fitted then and no holdout row is looked at, so the days stay fresh.
        """
        if attempt.champion_version is None:
            return self._judged(attempt, None)
        try:
            champion = self._parts.artifacts().load(attempt.model, attempt.champion_version)
        except UnusableArtifact as unusable:
            return self._kept_unseen(attempt, unusable)
        if champion.kind != (now := self._spec(attempt).business.kind):
            other = UnusableArtifact(
                f"version {attempt.champion_version} of {attempt.model}, a {champion.kind}, takes other decisions than "
                f"the spec speaks of now, which is of a {now}. Give the new ones a model of their own."
            )
            return self._kept_unseen(attempt, other)
        return self._judged(attempt, champion)

    def _kept_unseen(self, attempt: AttemptRow, unusable: UnusableArtifact) -> dict[str, Any]:
        from ratchet.domain.gate import Verdict  # noqa: PLC0415 - scipy

        spec, taken = self._spec(attempt), self._taken(attempt.id)
        remedy = f"Restore the artifact, or: ratchet rollback {attempt.model} --reason …"
        verdict = Verdict(
            decision="keep_champion",
            estimate=None,
            lower=None,
            upper=None,
            n_rows=0,
            n_clusters=0,
            reasons=(f"nothing was compared: {unusable} {remedy}",),
        )
        record = dossiers.plain(asdict(verdict)) | {"unit": spec.business.payoff.unit}
        dossier = self._dossier(attempt, spec, self._manifest(taken), record) | {
            "snapshot_manifest": {"key": taken["manifest"], "sha256": taken["manifest_sha256"]},
            "challenger": {"version": None, "digest": None},
            "evidence": {"key": None, "sha256": None, "rows": 0},
            "used_days": {},
        }
        return dossier | {"evidence_digest": dossiers.evidence_digest(dossier)}

    def _judged(self, attempt: AttemptRow, champion: Any) -> dict[str, Any]:
        """Fit, score, judge and register, or judge again what is registered; returns the dossier that tells of it.

        ``champion`` is None where there is none: the challenger then has to beat the best constant decision.
        """
        from ratchet.domain.artifact import ConstantPrediction  # noqa: PLC0415 - numpy
        from ratchet.domain.candidates import TUNED, judge_each  # noqa: PLC0415 - scipy
        from ratchet.domain.gate import GatePolicy  # noqa: PLC0415
        from ratchet.workflow.candidates import candidates_of, frozen, told  # noqa: PLC0415
        from ratchet.workflow.evaluation import evaluate_each, payoff_by_capacity, payoff_curve  # noqa: PLC0415
        from ratchet.workflow.explaining import explain  # noqa: PLC0415
        from ratchet.workflow.training import (  # noqa: PLC0415
            Columns,
            best_constant,
            best_trial,
            calibration_of,
            fit_final,
            recalibrate,
            tuned_threshold_of,
        )

        spec = self._spec(attempt)
        taken = self._taken(attempt.id)
        manifest = self._manifest(taken)
        ranges, columns = ranges_of(manifest), Columns.of(manifest)
        models, hook = self._parts.models(), self._parts.hook(spec)
        before = self._looked_before(attempt)
        if before is None:
            best = best_trial(self._parts.studies(), attempt.id)
            study = self._study(spec, attempt.id, best)
            seed = seed_of(attempt.id)
            challenger = part("fit the challenger")(fit_final)(
                spec=spec,
                train=taken["train_uri"],
                ranges=ranges,
                columns=columns,
                params=best.params,
                seed=seed,
                learner=models.learner_for(spec.train.estimator),
                threads=spec.train.workers * spec.runtime.threads,  # the study's cores are free by now
                calibrator=calibration_of(best),
                tuned=tuned_threshold_of(best),
                hook=hook,
            )
            again = partial(recalibrate, spec=spec, train=taken["train_uri"], ranges=ranges, hook=hook)
            judged = candidates_of(spec, challenger, champion, attempt.champion_version, again)
        else:
            study, seed = before["study"], before["seed"]
            challenger = self._parts.artifacts().load(attempt.model, before["challenger"]["version"])
            judged = frozen(before, challenger)
        holdout = self._table(manifest, "holdout")
        rival = champion or best_constant(spec, taken["train_uri"], ranges, hook)
        served = self._champion_folder(attempt)
        share = spec.gate.looks[attempt.look - 1] * judged.share
        with tempfile.TemporaryDirectory() as scratch:
            folders = {name: Path(scratch) / name for name in judged.models}
            digests = {name: models.save(model, folders[name]) for name, model in judged.models.items()}
            sizes = [None if served is None else _megabytes(served), *map(_megabytes, folders.values())]
            found = part("score")(evaluate_each)(
                spec, holdout, rival, list(judged.models.values()), sizes_mb=sizes, hook=hook
            )
            met = dict(zip(judged.models, found, strict=True))
            policy = GatePolicy.from_spec(spec.gate, alpha_share=share)
            choice = part("judge")(judge_each)(met, policy, judged.not_judged)
            chosen, verdict = choice.chosen, choice.verdict
            challenger, evidence, model_digest = judged.models[chosen], met.pop(chosen), digests[chosen]
            others = {other: given.challenger for other, given in met.items()}
            record = dossiers.plain(asdict(verdict)) | {"unit": spec.business.payoff.unit}
            # Another try may choose another: what a killed one left under its name is not mistaken for this one.
            name = attempt.id if chosen == TUNED else f"{attempt.id}.{chosen}"
            version = (
                before["challenger"]["version"]
                if before
                else part("register")(self._parts.registry().register)(
                    name,
                    attempt.model,
                    folders[chosen],
                    metrics=_metrics(record) | (_validation(spec, study["value"]) if chosen == TUNED else {}),
                    params=study["params"] if chosen == TUNED else challenger.params,
                    tags={
                        "ratchet.attempt": name,
                        "ratchet.verdict": verdict.decision,
                        "ratchet.as_of": attempt.as_of.isoformat(),
                        "ratchet.snapshot": taken["manifest_sha256"],
                        "ratchet.model_digest": model_digest,
                    },
                )
            )
        train = self._table(manifest, "train")
        dossier = (
            self._dossier(attempt, spec, manifest, record)
            | {
                "snapshot_manifest": {"key": taken["manifest"], "sha256": taken["manifest_sha256"]},
                "study": study,
                "seed": seed,
                "looks": {
                    "plan": spec.gate.looks,
                    "taken": [*_looks_of(before), _look(attempt, share, record, holdout)],
                },
                "challenger": {"version": version, "digest": model_digest, "provenance": dict(challenger.provenance)}
                | ({} if chosen == TUNED else {"params": dict(challenger.params)}),
                "policy": asdict(policy),
                "evidence": self._keep_evidence(name, spec, holdout, evidence, others),
                "explanation": explain(evidence, policy, train, holdout, columns.features),
                "used_days": {
                    "fit": _days(train, *challenger.provenance["fit"]),
                    "calibrate": _days(train, *challenger.provenance["calibrate"]),
                    "holdout": _days(holdout, "", "9999"),
                },
                "payoff_curve": payoff_curve(
                    spec, holdout, evidence, {"champion": rival, "challenger": challenger}, hook
                ),
            }
            | (
                {"payoff_by_capacity": payoff_by_capacity(spec, holdout, evidence, hook)}
                if spec.business.ranking
                else {}
            )
        )
        if isinstance(rival, ConstantPrediction):
            dossier["constant_prediction"] = rival.value
        if spec.gate.also_judge:
            made = {n: {"digest": digests[n], "provenance": dict(m.provenance)} for n, m in judged.models.items()}
            dossier |= {"candidates": told(choice, judged.share, made, spec.business.payoff.unit)}
        return dossier | {"evidence_digest": dossiers.evidence_digest(dossier)}

    def _study(self, spec: ModelSpec, attempt_id: str, best: TrialRecord) -> dict[str, Any]:
        """What the dossier tells of the study; under a policy also what that did, and its trials on fewer rows."""
        from ratchet.workflow.training import fewer_rows_study, policy_record  # noqa: PLC0415 - numpy, pyarrow

        studies = self._parts.studies()
        study = {
            "name": attempt_id,
            "best_trial": best.number,
            "value": best.value,
            "params": dict(best.params),
            "trials": [asdict(trial) for trial in studies.ended(attempt_id)],
        }
        policy = policy_record(spec, studies, attempt_id)
        if policy is None:
            return study
        return study | {
            "policy": policy,
            "fewer_rows": [asdict(trial) for trial in studies.ended(fewer_rows_study(attempt_id))],
        }

    def _keep_evidence(
        self, name: str, spec: ModelSpec, holdout: Any, evidence: Any, others: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store the judged rows; returns how the dossier names them, with what was measured beside them."""
        import pyarrow as pa  # noqa: PLC0415 - only where rows are handled
        import pyarrow.parquet as pq  # noqa: PLC0415

        from ratchet.workflow.evidence import key_of, measured, to_table  # noqa: PLC0415

        sink = pa.BufferOutputStream()
        pq.write_table(to_table(spec, holdout, evidence, others), sink, compression="zstd")
        key = key_of(name)
        digest = self._parts.store().put_once(key, sink.getvalue().to_pybytes())
        return {"key": key, "sha256": digest, "rows": holdout.num_rows, "slices": list(evidence.slices)} | {
            "beside": measured(evidence, others)
        }

    def _dossier(
        self, attempt: AttemptRow, spec: ModelSpec, manifest: Mapping[str, Any], verdict: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Everything needed to explain the attempt and to repeat it."""
        with self._parts.ledger.transaction() as tx:
            claimed = tx.events(attempt_id=attempt.id)
        return {
            "attempt": attempt.id,
            "model": attempt.model,
            "trigger": attempt.trigger,
            "actor": attempt.actor,
            "reason": attempt.reason,
            "options": attempt.options,
            "run": {"dag": attempt.dag_id, "id": attempt.dag_run_id},
            "as_of": attempt.as_of.isoformat(),
            "business_at": attempt.business_at.isoformat(),
            "events": [
                {
                    "id": row.event_id,
                    "source": row.source,
                    "type": row.type,
                    "time": row.time.isoformat(),
                    "data": row.data,
                    "trigger": row.pk == attempt.trigger_event_pk,
                }
                for row in claimed
            ],
            "spec": {"digest": attempt.spec_digest, "document": spec.model_dump(mode="json")},
            "environment": self._parts.environment() | {"code": attempt.code_digest},
            "champion": {"seq": attempt.champion_seq, "version": attempt.champion_version},
            "snapshot": manifest,
            "verdict": verdict,
        }

    def _spec(self, attempt: AttemptRow) -> ModelSpec:
        """The spec the attempt was bound to when it claimed; refused when other code runs now."""
        if attempt.code_digest != self._parts.code_digest:
            raise Refused(
                f"{attempt.id} was claimed by code {attempt.code_digest[:12]}, but "
                f"{self._parts.code_digest[:12]} runs now: an attempt is one code throughout. Start a new run."
            )
        with self._parts.ledger.transaction() as tx:
            return ModelSpec.model_validate(tx.spec_document(attempt.spec_digest))

    def _advance(self, attempt_id: str, before: str, after: str) -> None:
        with self._parts.ledger.transaction() as tx:
            attempt = tx.attempt(attempt_id)
            if attempt is not None and attempt.state == before and tx.own_lease(attempt_id).state == before:
                tx.update_attempt(attempt_id, state=after)

    @staticmethod
    def _trials(attempt: AttemptRow, spec: ModelSpec) -> int:
        return int(attempt.options.get("trials") or spec.train.trials)

    def _workers(self, attempt: AttemptRow, spec: ModelSpec) -> int:
        return min(spec.train.workers, self._trials(attempt, spec))

    def _taken(self, attempt_id: str) -> dict[str, Any]:
        with self._parts.ledger.transaction() as tx:
            taken = tx.step_result(attempt_id, "snapshot")
        if taken is None:
            raise Refused(f"{attempt_id} has no snapshot: clear the run's snapshot task first")
        return taken

    def _manifest(self, taken: Mapping[str, Any]) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(
            self._parts.store().get_bytes(taken["manifest"], digest=taken["manifest_sha256"])
        )
        return manifest

    def _table(self, manifest: Mapping[str, Any], name: str) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where rows are handled

        file = manifest["files"][name]
        return pq.read_table(io.BytesIO(self._parts.store().get_bytes(file["key"], digest=file["sha256"])))

    def _champion_folder(self, attempt: AttemptRow) -> Path | None:
        """The files of the champion the attempt is judged against; None when it is to make the first one."""
        if attempt.champion_version is None:
            return None
        return self._parts.registry().download(attempt.model, attempt.champion_version)

    def _looked_before(self, attempt: AttemptRow) -> dict[str, Any] | None:
        """The dossier of the look before this one, to the byte; None where the attempt makes its challenger itself."""
        if attempt.look == 1:
            return None
        with self._parts.ledger.transaction() as tx:
            before = tx.attempt(attempt.options["look"]["after"])
        if before is None:
            raise Refused(f"{attempt.id} is another look after {attempt.options['look']['after']}, which is not known")
        return dossiers.read(self._parts.store(), before)

    def _history(self, attempt: AttemptRow) -> list[list[TrialRecord]]:
        """The trials on all rows of the studies that made the champion and the last judged challenger, in this order.

        While the attempt has the model's lease neither can change, so every worker and every retry finds the same.
        """
        with self._parts.ledger.transaction() as tx:
            maker = self._maker(tx, attempt.model)
            others = tx.attempts(model=attempt.model, limit=RECENT)
        last = [row for row in others if row.id not in (attempt.id, maker and maker.id)]
        told = (dossiers.read(self._parts.store(), row) for row in (maker, *last) if row and row.dossier_sha256)
        studies = (made["study"]["trials"] for made in told if "study" in made)
        return [[TrialRecord(**trial) for trial in trials] for trials in islice(studies, 2)]

    @staticmethod
    def _maker(tx: Tx, model: str) -> AttemptRow | None:
        """The attempt that made the current champion, if there is one that did."""
        champion = tx.current_champion(model)
        return tx.attempt(champion.attempt_id) if champion is not None and champion.attempt_id else None

    def _champion_params(self, attempt: AttemptRow) -> dict[str, Any] | None:
        """The parameters of the champion's scorer, from the dossier of the attempt that made the champion."""
        with self._parts.ledger.transaction() as tx:
            maker = self._maker(tx, attempt.model)
        if maker is None or maker.dossier_sha256 is None:
            return None
        made = dossiers.read(self._parts.store(), maker)
        params: dict[str, Any] = made["challenger"].get("params") or made["study"]["params"]
        return params


def seed_of(attempt_id: str) -> int:
    """The attempt's seed, in [0, 2**31): from its name, so that repeating it repeats everything."""
    return int.from_bytes(hashlib.sha256(attempt_id.encode()).digest()[:4], "big") >> 1


def rows_of(rows: Any, train_end: str, holdout_days: Sequence[str], *, between: bool = False) -> dict[str, Any]:
    """The rows before the day ``train_end``, those of the days that judge, and when asked for all ``between``."""
    import pyarrow as pa  # noqa: PLC0415 - only where rows are handled
    import pyarrow.compute as pc  # noqa: PLC0415

    day = rows.column("day")
    trains, judges = pc.less(day, train_end), pc.is_in(day, value_set=pa.array(holdout_days))
    parts = {"train": rows.filter(trains), "holdout": rows.filter(judges)}
    return parts | ({"between": rows.filter(pc.invert(pc.or_(trains, judges)))} if between else {})


def _look_again(before: Mapping[str, Any], planned: HoldoutPlan) -> HoldoutPlan:
    """The plan of the look before, its days followed by those that have come in; nothing is fitted again."""
    was = before["snapshot"]["plan"]
    return replace(
        planned,
        fit_start=date.fromisoformat(was["fit_start"]),
        fit_end=date.fromisoformat(was["fit_end"]),
        calibrate_start=date.fromisoformat(was["calibrate_start"]),
        calibrate_end=date.fromisoformat(was["calibrate_end"]),
        holdout_days=(*(date.fromisoformat(day) for day in was["holdout_days"]), *planned.holdout_days),
    )


def _looks_of(before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return before["looks"]["taken"] if before else []


def _look(attempt: AttemptRow, share: float, verdict: Mapping[str, Any], holdout: Any) -> dict[str, Any]:
    """One look as every later dossier of the challenger lists it."""
    said = {name: verdict[name] for name in ("estimate", "lower", "upper", "n_rows", "n_clusters", "decision")}
    return {
        "attempt": attempt.id,
        "look": attempt.look,
        "alpha_share": share,
        "days": sorted(_days(holdout, "", "9999")),
    } | said


def ranges_of(manifest: Mapping[str, Any]) -> Any:
    """The ranges of days that the manifest's plan trains and calibrates on."""
    from ratchet.workflow.training import Ranges  # noqa: PLC0415 - numpy, pyarrow

    planned = manifest["plan"]
    return Ranges(*(planned[name] for name in ("fit_start", "fit_end", "calibrate_start", "calibrate_end")))


def _earned(dossier: Mapping[str, Any]) -> dict[str, Any]:
    """What each model earned per decision on the judged rows, with its bounds; nothing where nothing was compared."""
    metrics = dossier.get("explanation", {}).get("metrics", ())
    return next(({side: m[side] for side in ("champion", "challenger")} for m in metrics if m["name"] == "payoff"), {})


def _used(days_by_role: Mapping[str, Mapping[str, int]]) -> list[UsedDays]:
    """Used days as the ledger takes them, from how a step keeps them."""
    return [
        UsedDays(role, {date.fromisoformat(day): rows for day, rows in days.items()})
        for role, days in days_by_role.items()
    ]


def _days(table: Any, start: str, end: str) -> dict[str, int]:
    """Rows per local day of ``[start, end)``."""
    counts = table.group_by("day").aggregate([("day", "count")])
    return {row["day"]: row["day_count"] for row in counts.to_pylist() if start <= row["day"] < end}


def _megabytes(folder: Path) -> float:
    """Millions of bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def table_digest(table: Any) -> str:
    """The SHA-256 of a table's schema and rows in their order, whatever file they came in."""
    import pyarrow as pa  # noqa: PLC0415 - only where rows are handled

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _metrics(verdict: Mapping[str, Any]) -> dict[str, float]:
    named = {"uplift": "estimate", "uplift_lower": "lower", "uplift_upper": "upper", "holdout_rows": "n_rows"}
    return {name: float(verdict[key]) for name, key in named.items() if verdict.get(key) is not None}


def _validation(spec: ModelSpec, value: float) -> dict[str, float]:
    """What the study minimised on B, by its name: log loss, what predictions cost, or what NDCG lacks of one."""
    if spec.business.ranking:
        return {"validation_ndcg_at_k": 1.0 - value}
    if spec.business.regression:
        return {"validation_payoff_per_decision": -value}
    return {"validation_log_loss": value}
