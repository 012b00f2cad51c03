"""The one place where real parts are put together; each is made when first asked for."""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ratchet.adapters import environments, hooks
from ratchet.adapters.catalogue import own_datasets
from ratchet.adapters.channels import load_channels
from ratchet.adapters.connections import (
    CONNECTION_IDS,
    HTTP_KEYS,
    METRICS,
    ConnectionInfo,
    EnvResolver,
    Resolver,
    UnknownConnection,
    http_url,
    ledger_url,
    metrics_token,
    signing_keys,
    storage_url,
    study_url,
)
from ratchet.adapters.environments import Environments
from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.lineage_http import lineage_of
from ratchet.adapters.specs import load_all, load_spec, spec_files, told
from ratchet.adapters.specs_at_ref import models_at
from ratchet.adapters.telemetry import telemetry_of
from ratchet.domain.housekeeping import RowRules
from ratchet.domain.plan import ModelPlan, Side, Standing, plan
from ratchet.domain.rehearsal import Rehearsal
from ratchet.domain.spec import ModelSpec, did_you_mean
from ratchet.errors import RatchetError, Refused
from ratchet.logs import about
from ratchet.ports.intake import IntakeSink
from ratchet.ports.ledger import AttemptRow, MonitorMark
from ratchet.ports.telemetry import Telemetry
from ratchet.records import RunContext
from ratchet.settings import Settings, load_settings
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.attempting import Attempts, Models, Parts
from ratchet.workflow.auditing import AuditLog
from ratchet.workflow.claiming import Claims
from ratchet.workflow.costing import Costs, ModelForecast, costs_of, forecasts_of
from ratchet.workflow.deciding import lacking
from ratchet.workflow.dossiers import attempt_of
from ratchet.workflow.guarding import GuardedFeatures, allowed_columns, recorded
from ratchet.workflow.housekeeping import Housekeeping
from ratchet.workflow.inspecting import Inspection
from ratchet.workflow.intake import Intake
from ratchet.workflow.leases import ENDED_STATES
from ratchet.workflow.measuring import Measurements
from ratchet.workflow.monitoring import MONITOR_AGAIN_SECONDS, Monitors, due_ends
from ratchet.workflow.monthly import months_of
from ratchet.workflow.notifying import Deliver, Notifications
from ratchet.workflow.observing import Observer
from ratchet.workflow.planning import deployed
from ratchet.workflow.promotion import Promotions
from ratchet.workflow.purging import Purges
from ratchet.workflow.reconciling import Reconciler
from ratchet.workflow.rehearsing import rehearse
from ratchet.workflow.repeating import Repeats
from ratchet.workflow.replaying import Replays
from ratchet.workflow.requesting import request_retrain
from ratchet.workflow.retiring import retire
from ratchet.workflow.scoring import Scoring
from ratchet.workflow.self_testing import SelfTests
from ratchet.workflow.snoozing import Who, snooze, wake
from ratchet.workflow.sweeping import RunStates, Sweeper
from ratchet.workflow.telling import Relay
from ratchet.workflow.verifying import Verifier
from ratchet.workflow.watching import Watch

if TYPE_CHECKING:
    from datetime import date, datetime, timedelta

    from ratchet.domain.costs import Prices
    from ratchet.domain.events import Announcement
    from ratchet.domain.monthly import OwnerMonth
    from ratchet.domain.snooze import Snooze
    from ratchet.ports.bus import Bus
    from ratchet.ports.features import Features
    from ratchet.ports.registry import Registry
    from ratchet.ports.store import Store
    from ratchet.ports.studies import Studies
    from ratchet.workflow.valuing import Hook
    from ratchet.workflow.workshop import Place

PINNED = (
    "apache-airflow",
    "duckdb",
    "feast",
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "xgboost",
)

PROMPT_TRIES = 10
"""What failed so often is left to the sweep, once a minute, instead of being tried each second."""

logger = logging.getLogger(__name__)

Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass(frozen=True)
class Elsewhere:
    """The environment that a model's steps run in, where it is not this process's: its lock file and its digest."""

    model: str
    file: str
    sha256: str


def _where_it_belongs(environment_of: Callable[[Ratchet, str], Elsewhere | None]) -> Callable[[Verb], Verb]:
    """A verb that is done by a process in the model's own environment, where the model has one and this is another."""

    def placed(verb: Verb) -> Verb:
        takes = inspect.signature(verb)

        @wraps(verb)
        def done(self: Ratchet, subject: str, *given: Any, **named: Any) -> Any:
            elsewhere = environment_of(self, subject)
            if elsewhere is None:
                return verb(self, subject, *given, **named)
            bound = takes.bind(self, subject, *given, **named)
            bound.apply_defaults()
            return self.do_elsewhere(elsewhere, verb.__name__, subject, [*bound.arguments.values()][2:])

        return cast("Verb", done)

    return placed


def _of_attempt(ratchet: Ratchet, attempt_id: str) -> Elsewhere | None:
    """By the spec that the attempt was bound to when it claimed."""
    with ratchet.ledger.transaction() as tx:
        attempt = tx.attempt(attempt_id)
        document = {} if attempt is None else tx.spec_document(attempt.spec_digest)
    return None if attempt is None else ratchet.elsewhere(attempt.model, document)


def _of_deployed(ratchet: Ratchet, model: str) -> Elsewhere | None:
    """By the spec that is deployed."""
    return ratchet.elsewhere(model, _deployed_document(ratchet, model))


def _deployed_document(ratchet: Ratchet, model: str) -> dict[str, Any]:
    with ratchet.ledger.transaction() as tx:
        return next((tx.spec_document(row.digest) for row in tx.registered([model])), {})


def _of_folder(ratchet: Ratchet, model: str) -> Elsewhere | None:
    """By the spec in the model's folder."""
    return ratchet.elsewhere(model, load_spec(ratchet.settings.models_dir / model).model_dump(mode="json"))


class Ratchet:
    """The verbs, wired to the connections that ``resolver`` finds."""

    def __init__(self, resolver: Resolver, settings: Settings) -> None:
        self._resolver = resolver
        self.settings = settings

    # -- parts -----------------------------------------------------------------------------------------------------

    @cached_property
    def ledger(self) -> SqlLedger:
        """Our own database."""
        return SqlLedger(ledger_url(self._resolver.resolve("ratchet_ledger")))

    @cached_property
    def bus(self) -> Bus:
        """Kafka."""
        from ratchet.adapters.kafka_bus import KafkaBus  # noqa: PLC0415 - drivers are imported where they are used

        return KafkaBus(self._resolver.resolve("ratchet_kafka"))

    def give_grants(self) -> list[str]:
        """Make Kafka's ACLs of ``ratchet.adapters.kafka_grants``; returns the principals."""
        from ratchet.adapters import kafka_grants  # noqa: PLC0415

        return kafka_grants.give(self._resolver.resolve("ratchet_kafka"), self.settings.group_id)

    @cached_property
    def registry(self) -> Registry:
        """MLflow."""
        from ratchet.adapters.registry_mlflow import MlflowRegistry  # noqa: PLC0415

        return MlflowRegistry(
            http_url(self._resolver.resolve("ratchet_mlflow")),
            lock_file=self._lock_file,
            download_dir=self.settings.home / "models",
        )

    @cached_property
    def features(self) -> Features:
        """Feast; no row is given that holds what its spec does not allow."""
        from ratchet.adapters.features_feast import FeastFeatures  # noqa: PLC0415

        place = self.settings
        return GuardedFeatures(FeastFeatures(place.feature_repo_dir, place.data_dir, place.models_dir))

    @cached_property
    def store(self) -> Store:
        """Object storage."""
        from ratchet.adapters.storage import ObjectStore  # noqa: PLC0415

        return ObjectStore(storage_url(self._resolver.resolve("ratchet_storage")))

    @cached_property
    def studies(self) -> Studies:
        """Optuna."""
        from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415

        url = study_url(self._resolver.resolve("ratchet_optuna"))
        return OptunaStudies(url, lease_seconds=self.settings.lease_ttl_seconds)

    @cached_property
    def models(self) -> Models:
        """Artifacts in their native format."""
        from ratchet.adapters import models  # noqa: PLC0415

        return models

    @cached_property
    def telemetry(self) -> Telemetry:
        """Where spans go: nowhere, unless OpenTelemetry's variables name a collector."""
        return telemetry_of(self.settings.telemetry)

    @cached_property
    def code_digest(self) -> str:
        """What code runs here: a digest of the package's sources, unless the deployment states its own."""
        return self.settings.code_digest or _sources_digest(Path(__file__).parent)

    def payoff_hook(self, spec: ModelSpec) -> Hook | None:
        """The function that values the model's decisions, from its folder; None where its spec names none."""
        return hooks.load(spec, self.settings.models_dir / spec.model)

    @property
    def _lock_file(self) -> Path:
        """By which the packages of this process were installed."""
        return environments.own_lock() or self.settings.root / "requirements.txt"

    @cached_property
    def environments(self) -> Environments:
        """The environments of models that name their own, on this machine."""
        place = self.settings
        return Environments(place.environments_dir, place.build_environments, (place.root / ".tools" / "uv" / "bin",))

    def elsewhere(self, model: str, document: Mapping[str, Any]) -> Elsewhere | None:
        """The environment that a spec's document names; None where this process runs in it.

        Raises:
            Refused: this process runs in an environment that is some model's own, and not this one's.
        """
        named, here = environments.named(document), environments.running()
        if here == (named and named[1]):
            return None
        if here is not None:
            wanted = named[1][: environments.SHOWN] if named else "the deployment's"
            raise Refused(
                f"this process runs in the environment {here[: environments.SHOWN]}, but the steps of {model} are to "
                f"run in {wanted}: start it again"
            )
        return Elsewhere(model, *named) if named else None

    def interpreter(self, place: Elsewhere, *, build: bool | None = None) -> Path:
        """The interpreter of that environment, which is made first where it is missing and may be."""
        lock = self.settings.models_dir / place.model / place.file
        return self.environments.python(place.model, place.sha256, lock, build=build, tell=partial(logger.info, "%s"))

    def environments_in_use(self) -> frozenset[str]:
        """The digests of those that specs name, in their folders or deployed, or that open attempts are in."""
        documents = [spec.model_dump(mode="json") for spec in load_all(self.settings.models_dir).values()]
        with self.ledger.transaction() as tx:
            documents += [row.document for row in tx.specs()]
            open_ones = {attempt.spec_digest for attempt in tx.attempts() if attempt.state not in ENDED_STATES}
            documents += tx.spec_documents(open_ones).values()
        return frozenset(named[1] for document in documents if (named := environments.named(document)))

    @cached_property
    def code_folder(self) -> Path:
        """A folder with our own code alone, which processes in other environments import it from."""
        return environments.linked(self.settings.environments_dir, Path(__file__).parent)

    def do_elsewhere(self, place: Elsewhere, step: str, subject: str, arguments: Sequence[Any]) -> Any:
        """Have a verb done by a process in that environment, with the connections that this one finds."""
        from ratchet.adapters.own_process import ask  # noqa: PLC0415 - few models have an environment of their own

        return ask(self.interpreter(place), self.code_folder, step, subject, arguments, self._connections())

    def _connections(self) -> dict[str, ConnectionInfo]:
        """All that are defined."""
        found = {}
        for conn_id in CONNECTION_IDS:
            try:
                found[conn_id] = self._resolver.resolve(conn_id)
            except UnknownConnection:
                continue
        return found

    def environment(self) -> dict[str, Any]:
        """Commit, lock file, Python, architecture and library versions, for the dossier."""
        lock = self._lock_file
        return {
            "commit": _commit(self.settings.root),
            "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "libraries": {name: _version(name) for name in PINNED},
        }

    # -- verbs -----------------------------------------------------------------------------------------------------

    @cached_property
    def _intake(self) -> Intake:
        return Intake(self.ledger, self.settings)

    @cached_property
    def relay(self) -> Relay:
        """Empties the outbox."""
        return Relay(self.ledger, lambda: self.bus, lambda: self.registry)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Versions, verified at every load."""
        return Artifacts(self.ledger, lambda: self.registry, lambda: self.models, self._packed_elsewhere)

    def _packed_elsewhere(self, model: str) -> bool:
        """Whether the model's steps run in another environment than this process."""
        named = environments.named(_deployed_document(self, model))
        return (named and named[1]) != environments.running()

    @cached_property
    def audit_log(self) -> AuditLog:
        """Checks the audit log and keeps its end in storage."""
        return AuditLog(self.ledger, lambda: self.store)

    @cached_property
    def inspection(self) -> Inspection:
        """What an audit asks of every model."""
        return Inspection(self.ledger, self.audit_log, lambda: self.features, self._folders)

    @cached_property
    def verifier(self) -> Verifier:
        """Looks at all that the ledger names by a digest."""
        return Verifier(self.ledger, self.audit_log, self.artifacts, lambda: self.registry, lambda: self.store)

    @cached_property
    def purges(self) -> Purges:
        """Removes what retention does not keep."""
        return Purges(self.ledger, lambda: self.store, lambda: self.registry, lambda: self.studies, self._housekeeping)

    @cached_property
    def _housekeeping(self) -> Housekeeping:
        return Housekeeping(self.ledger, RowRules(self.settings.retention_rows, self.settings.retention_dead_letters))

    @cached_property
    def _parts(self) -> Parts:
        return Parts(
            ledger=self.ledger,
            settings=self.settings,
            code_digest=self.code_digest,
            features=lambda: self.features,
            store=lambda: self.store,
            studies=lambda: self.studies,
            registry=lambda: self.registry,
            models=lambda: self.models,
            artifacts=lambda: self.artifacts,
            environment=self.environment,
            hook=self.payoff_hook,
            telemetry=self.telemetry,
        )

    @cached_property
    def _observer(self) -> Observer:
        return Observer(self.ledger, self.telemetry, lineage_of(self.settings.lineage), lambda: self.store)

    def observe(self) -> None:
        """Tell whoever watches what has begun or ended; what goes wrong there is none of the caller's business."""
        try:
            self._observer.run()
        except Exception as error:
            # Whatever is wrong with telling it, what was decided stands.
            logger.warning(
                "what has begun or ended was not told to whoever watches; the sweep tries again: %s",
                error,
                exc_info=not isinstance(error, RatchetError),
            )

    @cached_property
    def _attempts(self) -> Attempts:
        return Attempts(self._parts)

    @cached_property
    def repeats(self) -> Repeats:
        """What an auditor does with a dossier: replay its verdict, reproduce its model."""
        return Repeats(self._parts)

    @cached_property
    def _promotions(self) -> Promotions:
        return Promotions(self.ledger, self.relay, self.settings.max_event_tries, self.artifacts)

    def intake_sink(self) -> IntakeSink:
        """What the pump hands its records to; its tick also has dead letters and resolutions told."""
        return _Sink(self.ledger, self.settings, self.relay)

    def ring(self, model: str) -> int:
        """Win the right to start the model's retrain now: which ring this is, from 1; 0 if it was not won."""
        with self.ledger.transaction() as tx:
            return tx.ring(model, self.settings.ring_backoff_seconds, self.settings.ring_backoff_max_seconds)

    def monitor_mark(self) -> MonitorMark:
        """What windows of new rows follow from, as it is now."""
        with self.ledger.transaction() as tx:
            return tx.monitor_mark()

    def ring_monitor(self, model: str) -> bool:
        """Win the right to have the model's window of new rows looked at, where one is due."""
        with self.ledger.transaction() as tx:
            for row in tx.registered([model]):
                end = None if row.retired else due_ends(tx, [row]).get(model)
                if end is not None and tx.ring_monitor(model, end, row.digest, MONITOR_AGAIN_SECONDS):
                    tx.mark([model])  # a run that is due waits for the look
                    return True
        return False

    def deploy(self, *, revive: str | None = None, actor: str = "ratchet deploy") -> list[str]:
        """Publish every spec below ``models_dir`` to the ledger's registry; returns the models that changed.

        Args:
            revive: a retired model to take into service again; all others stay retired, folder or not.
            actor: who deploys, for the audit log.

        Raises:
            Refused: a spec breaks a rule, would hold a sensitive column that it does not allow, or there is no spec of
                the model to revive; nothing is published then.
        """
        specs = load_all(self.settings.models_dir)
        if revive is not None and revive not in specs:
            raise Refused(f"there is no spec of {revive!r} in {self.settings.models_dir}: put its folder back first")
        with self.ledger.transaction() as tx:
            known = {row.model: row.digest for row in tx.registered()}
        held = {
            name: allowed_columns(self.features, spec) for name, spec in specs.items() if known.get(name) != spec.digest
        }
        with self.ledger.transaction() as tx:
            before = {row.model: row for row in tx.specs()}
            changed = [
                name
                for name, spec in specs.items()
                if tx.publish_spec(name, spec.digest, spec.model_dump(mode="json"), revive=name == revive)
            ]
            for name in changed:
                old = before.get(name)
                action = "model.revived" if old and old.retired else "spec.deployed"
                document = specs[name].model_dump(mode="json")
                keys = [key for key in document if old is None or old.document.get(key) != document[key]]
                detail = {"digest": specs[name].digest, "before": old.digest if old else None, "changed": keys}
                tx.audit(actor, action, name, detail | recorded(held.get(name, ())))
        return changed

    def plan(self, models: Collection[str] = (), against: str | None = None) -> list[ModelPlan]:
        """What the specs below ``models_dir`` change, against what is deployed or, without a ledger, against a git ref.

        Args:
            models: only these; all where there are none.
            against: the ref; None is what is deployed.

        Raises:
            Refused: a spec breaks a rule, on either side; a model is on neither; or there is no such ref.
            Unavailable: the ledger did not answer.
        """
        after = self._sides(self.settings.models_dir)
        standing: dict[str, Standing] = {}
        if against is None:
            before, standing = deployed(self.ledger)
            after = {name: replace(side, datasets=None) for name, side in after.items()}
        else:
            with models_at(self.settings.models_dir, against) as folder:
                before = self._sides(folder)
        if unknown := sorted(set(models) - before.keys() - after.keys()):
            raise Refused(f"there is no model {unknown[0]!r}.{did_you_mean(unknown[0], tuple({*before, *after}))}")
        made = plan(before, after, standing)
        return [one for one in made if not models or one.model in models]

    @staticmethod
    def _sides(models_dir: Path) -> dict[str, Side]:
        own = own_datasets(models_dir)
        return {name: Side(spec, spec.digest, own.get(name, {})) for name, spec in load_all(models_dir).items()}

    @_where_it_belongs(_of_folder)
    def rehearse(self, model: str) -> tuple[Rehearsal, list[str]]:
        """Try a small snapshot of the spec below ``models_dir``; also a line for each problem, with file and line."""
        spec = load_spec(self.settings.models_dir / model)
        tried = rehearse(self.features, spec, self.payoff_hook)
        return tried, told(self.settings.models_dir, spec, tried.problems)

    def sensitive_lines(self, models: Collection[str]) -> list[str]:
        """The sensitive columns that these models' specs below ``models_dir`` allow, and why, a sentence each."""
        specs = load_all(self.settings.models_dir)
        asked = (specs[name] for name in sorted(models) if name in specs)
        return [f"{s.model}: sensitive column {held}" for s in asked for held in allowed_columns(self.features, s)]

    def retire(self, model: str, actor: str, reason: str) -> dict[str, Any]:
        """Take a model out of service."""
        return retire(self.ledger, model, actor, reason, self.settings.max_event_tries)

    @cached_property
    def replays(self) -> Replays:
        """Another chance for events and dead letters, by an operator's word."""
        return Replays(self.ledger, self._intake, lambda: self.bus)

    def lacking(self, model: str) -> str | None:
        """What the model's data lack before anything can be learned from them; None when nothing does.

        Raises:
            Refused: the model is not deployed, or is retired.
        """
        with self.ledger.transaction() as tx:
            row = next((row for row in tx.specs() if row.model == model and not row.retired), None)
            if row is None:
                raise Refused(f"model {model!r} is not deployed or is retired. Run: ratchet deploy")
            return lacking(tx, ModelSpec.model_validate(row.document))

    def claim(self, model: str, run: RunContext) -> dict[str, Any]:
        """Open an attempt for this run, or say why there is nothing to do."""
        with about(model=model, run_id=run.dag_run_id):
            claimed = Claims(self.ledger, self.settings, self.code_digest).claim(model, run)
        self.observe()
        return claimed

    @_where_it_belongs(_of_attempt)
    def snapshot(self, attempt: str) -> dict[str, Any]:
        """Freeze the attempt's rows."""
        return self._attempts.snapshot(attempt)

    def plan_tuning(self, attempt: str) -> list[dict[str, Any]]:
        """One entry per tuning worker."""
        return self._attempts.plan_tuning(attempt)

    @_where_it_belongs(_of_attempt)
    def tune(self, attempt: str, worker: int) -> dict[str, Any]:
        """Run one worker's share of the study."""
        return self._attempts.tune(attempt, worker)

    @_where_it_belongs(_of_attempt)
    def judge(self, attempt: str) -> dict[str, Any]:
        """Give the verdict; what it announces is relayed at once."""
        answer = self._attempts.judge(attempt)
        self.relay.run()
        self.observe()
        try:
            with self.ledger.transaction() as tx:
                judged = attempt_of(tx, attempt)
            self.card(judged)
        except Exception as error:
            # Whatever is wrong with a card, the verdict stands without it, and it can be written at any time.
            logger.warning(
                "no card of %s, write it with: ratchet card %s (%s)",
                attempt,
                attempt,
                error,
                exc_info=not isinstance(error, RatchetError),
            )
        return {key: answer[key] for key in ("evidence_digest", "challenger_version", "dossier_uri")} | {
            "decision": answer["verdict"]["decision"],
            "estimate": answer["verdict"]["estimate"],
            "lower": answer["verdict"]["lower"],
            "upper": answer["verdict"]["upper"],
        }

    def card(self, attempt: AttemptRow) -> str:
        """Write the model card of a judged attempt; returns its address."""
        return self._attempts.card(attempt)

    def promote(self, model: str) -> dict[str, Any]:
        """Promote the newest attempt that waits for it."""
        with about(model=model):
            promoted = self._promotions.promote(model)
        self.observe()
        return promoted

    def respond(
        self, attempt: str, *, approve: bool, actor: str, reason: str, via: str, user_id: str | None = None
    ) -> dict[str, Any]:
        """Take one person's answer to the request for approval of an attempt."""
        answered = self._promotions.respond(
            attempt, approve=approve, actor=actor, reason=reason, via=via, user_id=user_id
        )
        self.observe()
        return answered

    def show_request(self, model: str, run_id: str, is_open: Callable[[str], bool]) -> dict[str, Any] | None:
        """The request for approval that this run is to show people; None when there is nothing to show."""
        return self._promotions.show_request(model, run_id, is_open)

    def announce(self, model: str) -> bool:
        """Take the news that the model has another champion, to update its asset; false when it is out already."""
        return self._promotions.announce(model)

    @_where_it_belongs(_of_deployed)
    def watch(self, model: str) -> dict[str, Any]:
        """Score the new days of the model's probation and decide on it."""
        watch = Watch(
            self.ledger,
            self.relay,
            features=lambda: self.features,
            artifacts=lambda: self.artifacts,
            hook=self.payoff_hook,
        )
        with about(model=model):
            return watch.watch(model)

    @_where_it_belongs(_of_deployed)
    def monitor(self, model: str, window_end: date | None = None) -> dict[str, Any]:
        """Look at the model's window of new rows that is due, or at one that ends before a local day."""
        monitors = Monitors(
            self.ledger,
            self.relay,
            features=lambda: self.features,
            artifacts=lambda: self.artifacts,
            store=lambda: self.store,
            hook=self.payoff_hook,
        )
        with about(model=model):
            return monitors.monitor(model, window_end)

    @_where_it_belongs(_of_deployed)
    def score(self, model: str, run: RunContext, asked: tuple[date, date] | None = None) -> dict[str, Any]:
        """Write the predictions of the model's complete days, or of those asked for, that have none."""
        scoring = Scoring(
            self.ledger,
            features=lambda: self.features,
            store=lambda: self.store,
            artifacts=lambda: self.artifacts,
        )
        with about(model=model, run_id=run.dag_run_id):
            return scoring.score(model, run, asked)

    def backtest_place(
        self, spec: ModelSpec, *, source: str, named: Mapping[datetime, str], threads: int, approximate: bool
    ) -> Place:
        """Where a backtest makes and keeps what it needs: a folder below the home, and nothing that must run."""
        from ratchet.adapters.storage import ObjectStore  # noqa: PLC0415
        from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415
        from ratchet.workflow.workshop import Place  # noqa: PLC0415 - numpy, pyarrow

        if self.elsewhere(spec.model, spec.model_dump(mode="json")) is not None:
            raise Refused(
                f"{spec.model} has an environment of its own, in which its models are to be made again. Run: ratchet "
                f"environment run {spec.model} backtest {spec.model} …"
            )

        def new_studies() -> Studies:
            return OptunaStudies(f"journal://{tempfile.mkdtemp(dir=self._scratch.name)}")

        return Place(
            cache=ObjectStore(str(self.settings.home / "backtests")),
            models=self.models,
            new_studies=new_studies,
            source=source,
            code=self.code_digest,
            hook=self.payoff_hook(spec),
            threads=threads,
            approximate=approximate,
            named=named,
        )

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        """Gone when this is."""
        return tempfile.TemporaryDirectory(prefix="ratchet-")

    def rollback(
        self,
        model: str,
        version: int | None,
        actor: str,
        reason: str,
        *,
        via: str | None = None,
        user_id: str | None = None,
    ) -> dict[str, Any]:
        """Take an earlier champion back."""
        return self._promotions.rollback(model, version, actor, reason, via=via, user_id=user_id)

    def request_retrain(
        self, model: str, actor: str, reason: str, *, via: str, user_id: str | None = None
    ) -> Announcement:
        """Ask for a retrain as this person; the event is told to Kafka within a second or two."""
        return request_retrain(self.ledger, model, actor, reason, via=via, user_id=user_id)

    def snooze(self, model: str, by: Who, *, length: timedelta | None = None, until: datetime | None = None) -> Snooze:
        """Let the model start no run by itself for so long, or until then."""
        return snooze(self.ledger, model, by, length=length, until=until)

    def wake(self, model: str, by: Who) -> bool:
        """End the model's snooze; false where it did not sleep."""
        return wake(self.ledger, model, by)

    def signing_keys(self) -> dict[str, tuple[str, ...]]:
        """The secrets by which sources may sign what they post, by the source's name; none where none are defined."""
        try:
            return signing_keys(self._resolver.resolve(HTTP_KEYS))
        except UnknownConnection:
            return {}

    def metrics_token(self) -> str | None:
        """By which metrics may be scraped without being a person; None where none is defined."""
        try:
            return metrics_token(self._resolver.resolve(METRICS))
        except UnknownConnection:
            return None

    @cached_property
    def _measurements(self) -> Measurements:
        return Measurements(self.ledger, _version("ratchet") or "", self.code_digest)

    def metrics(self) -> bytes:
        """Ratchet's metrics as Prometheus scrapes them."""
        from ratchet.adapters.prometheus import exposition  # noqa: PLC0415 - the API alone

        return exposition(self._measurements.measure())

    def costs(self, model: str | None = None) -> Costs:
        """What the attempts of one model, or of all, have cost."""
        return costs_of(self.ledger, lambda: self.store, model)

    def forecasts(self, model: str | None = None) -> list[ModelForecast]:
        """What the next run of one model, or of each, is expected to take."""
        return forecasts_of(self.ledger, model)

    def months(self, month: str | None, owner: str | None, prices: Prices | None) -> list[OwnerMonth]:
        """The month of one owner, or of each; the present one of business time where none is named."""
        if month is None:
            with self.ledger.transaction() as tx:
                month = f"{tx.clock()[1]:%Y-%m}"
        return months_of(self.ledger, self.costs(), self.inspection.inspect().findings, month, owner, prices)

    def selftest(self, model: str | None = None, actor: str = "ratchet") -> dict[str, str]:
        """Test the gate on one model or on all; each model's outcome: ``passed``, ``failed`` or ``not_judged``."""
        tested = SelfTests(self.ledger, lambda: self.store).run(model, actor=actor)
        return {name: found.outcome for name, found in tested.items()}

    def sweep(self, runs: RunStates) -> dict[str, Any]:
        """Put right what was left undone."""
        self._deploy_if_changed()
        reconciler = Reconciler(self.ledger, lambda: self.registry)
        sweeper = Sweeper(
            self.ledger,
            self._intake,
            self.relay,
            self.settings,
            reconciler,
            self.audit_log,
            self._promotions,
            self._housekeeping,
        )
        swept = sweeper.sweep(runs, self._folders())
        self.observe()
        return swept

    @cached_property
    def _notifications(self) -> Notifications:
        return Notifications(self.ledger, load_channels(self.settings.notifications_file))

    def plan_notifications(self) -> list[str]:
        """Make notifications of what was audited; returns the channels with something to send."""
        return self._notifications.plan()

    def send_notifications(self, channel: str, deliver: Deliver, address: str | None) -> int:
        """Send what is due on a channel; returns how many messages were sent."""
        return self._notifications.send(channel, deliver, address)

    def _folders(self) -> set[str]:
        """The models that have a spec below ``models_dir``."""
        return {file.parent.name for file in spec_files(self.settings.models_dir)}

    def _deploy_if_changed(self) -> None:
        try:
            self.deploy(actor="sweep")
        except Refused as refusal:
            # A broken spec must not stop the sweep of the others' models; the DAG list shows it as well.
            logger.warning("specs were not deployed: %s", refusal)


class _Sink(Intake):
    """The intake's durable side; after each tick a thread beside it tells what there is to tell.

    The pump's own thread must not wait for Kafka's answers: it would leave its group.
    """

    def __init__(self, ledger: SqlLedger, settings: Settings, relay: Relay) -> None:
        super().__init__(ledger, settings)
        self._relay = relay
        self._teller: threading.Thread | None = None

    def tick(self) -> list[str]:
        due = super().tick()
        if self._teller is None or not self._teller.is_alive():
            self._teller = threading.Thread(target=self._tell, name="ratchet-relay", daemon=True)
            self._teller.start()
        return due

    def _tell(self) -> None:
        try:
            self._relay.publish(most_tries=PROMPT_TRIES)
        except RatchetError as error:
            logger.warning("not everything was told; tried again: %s", error)


def wire(resolver: Resolver | None = None, settings: Settings | None = None) -> Ratchet:
    """The verbs, on connections found by ``resolver`` (Airflow's in tasks and triggerer, the environment elsewhere)."""
    settings = settings or load_settings()
    return Ratchet(resolver or EnvResolver(settings.connections), settings)


@cache
def _sources_digest(package: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _commit(root: Path) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
