"""A small world for the verbs: a migrated SQLite ledger, the shipped spec without its monitor, the clock in replay."""

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.adapters.storage import ObjectStore
from ratchet.domain import events as cloudevents
from ratchet.domain.housekeeping import RowRules
from ratchet.ports.bus import InMemoryBus
from ratchet.ports.ledger import ChampionRow
from ratchet.ports.registry import InMemoryRegistry
from ratchet.records import RawRecord, RunContext
from ratchet.settings import load_settings
from ratchet.workflow.artifacts import Artifacts
from ratchet.workflow.auditing import AuditLog
from ratchet.workflow.claiming import Claims
from ratchet.workflow.housekeeping import Housekeeping
from ratchet.workflow.intake import Intake
from ratchet.workflow.promotion import Promotions, conclude
from ratchet.workflow.reconciling import Reconciler
from ratchet.workflow.sweeping import Sweeper
from ratchet.workflow.telling import Relay

ROOT = Path(__file__).resolve().parents[3]
CODE = "c" * 64


@dataclass
class Runs:
    """What the orchestrator would say: of every run the same, and whether DAGs are paused."""

    run: str = "running"
    working: bool = False
    paused: bool = False
    awaited: bool = False

    def state(self, dag_id: str, run_id: str) -> str:
        return self.run

    def started_step(self, dag_id: str, run_id: str) -> bool:
        return self.working

    def startable(self, dag_id: str) -> bool:
        return not self.paused

    def claim_awaited(self, model: str) -> bool:
        return self.awaited


class AnyLoader:
    """Loads whatever is there: the fillers of this world are no models."""

    def load(self, folder: Path, *, expected: str | None = None) -> Path:
        return folder


class World:
    """Events go in, verbs are called, what became of it is read."""

    model = "flight_delay"

    def __init__(self, folder: Path, template: Path | SqlLedger, **settings) -> None:
        if isinstance(template, SqlLedger):
            self.ledger = template
        else:
            shutil.copy(template, folder / "ledger.db")
            self.ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
        self.settings = replace(load_settings({"RATCHET_HOME": str(folder)}), **settings)
        spec = load_spec(ROOT / "include" / "models" / self.model)
        fast = spec.retrain.model_copy(update={"debounce": spec.retrain.debounce * 0})
        self.spec = spec.model_copy(update={"retrain": fast, "monitor": None})
        self.bus = InMemoryBus()
        self.registry = InMemoryRegistry(folder / "registry")
        self.relay = Relay(self.ledger, lambda: self.bus, lambda: self.registry)
        self.intake = Intake(self.ledger, self.settings)
        self.claims = Claims(self.ledger, self.settings, CODE)
        self.loader = AnyLoader()
        self.artifacts = Artifacts(self.ledger, lambda: self.registry, lambda: self.loader)
        self.promotions = Promotions(self.ledger, self.relay, self.settings.max_event_tries, self.artifacts)
        self.store = ObjectStore(str(folder / "storage"))
        self.audit_log = AuditLog(self.ledger, lambda: self.store)
        self.reconciler = Reconciler(self.ledger, lambda: self.registry)
        self.housekeeping = Housekeeping(self.ledger, RowRules())
        self.sweeper = Sweeper(
            self.ledger,
            self.intake,
            self.relay,
            self.settings,
            self.reconciler,
            self.audit_log,
            self.promotions,
            self.housekeeping,
        )
        self.folder = folder
        self._offset = 0
        with self.ledger.transaction() as tx:
            tx.publish_spec(self.model, self.spec.digest, self.spec.model_dump(mode="json"))
            tx.set_clock("replay", datetime(2013, 1, 1, tzinfo=UTC))

    def raw(self, value: bytes | None, headers=()) -> RawRecord:
        self._offset += 1
        return RawRecord("c", "ml.drift", 0, self._offset - 1, b"k", value, tuple(headers))

    def publish(self, data, subject: str, at: datetime, event_id: str | None = None) -> RawRecord:
        event = cloudevents.new_event(
            data, id=event_id or f"e{self._offset}", source="monitor", subject=subject, time=at
        )
        _, value, headers = cloudevents.to_record(event)
        record = self.raw(value, headers)
        self.intake.store([record])
        return record

    def arrive(self, until: datetime, rows: int = 30_000) -> list[str]:
        for dataset in ("flights", "weather"):
            arrived = cloudevents.DataArrived(dataset=dataset, complete_until=until, new_rows=rows)
            self.publish(arrived, dataset, until)
        return self.intake.tick()

    def drift(self, at: datetime, severity: float = 0.8, check: str = "psi") -> list[str]:
        data = cloudevents.DriftDetected(
            check=check, severity=severity, window_start=at - timedelta(days=1), window_end=at
        )
        self.publish(data, self.model, at)
        return self.intake.tick()

    def crown(self, version: int = 1) -> None:
        """Make a first champion without training one."""
        with self.ledger.transaction() as tx:
            now, current = tx.clock()[1], tx.current_champion(self.model)
            seq = current.seq if current else 0
            tx.insert_champion(ChampionRow(self.model, seq + 1, version, None, "init", now, None, "r", None, now))
            tx.mark([self.model])
        self.register(version)
        self.registry.set_alias(self.model, "champion", version)

    def register(self, version: int) -> None:
        """Have the registry know this version and those before it."""
        artifact = self.folder / f"artifact{version}"
        artifact.mkdir(exist_ok=True)
        (artifact / "ratchet.json").write_text("{}")
        for number in range(1, version + 1):
            self.registry.register(f"filler {number}", self.model, artifact, metrics={}, params={}, tags={})

    def claim(self, run_id: str = "run1", run_type: str = "asset_triggered", **conf) -> dict:
        return self.claims.claim(self.model, RunContext("retrain__flight_delay", run_id, run_type, "ann", conf))

    def events(self, **filters):
        with self.ledger.transaction() as tx:
            return tx.events(**filters)

    def attempt(self, attempt_id: str):
        with self.ledger.transaction() as tx:
            return tx.attempt(attempt_id)

    def judge(self, attempt_id: str, decision: str, version: int = 2) -> None:
        """Give the attempt a verdict without training; a version is registered for it."""
        self.register(version)
        with self.ledger.transaction() as tx:
            tx.update_attempt(
                attempt_id,
                state="judged",
                verdict=decision,
                verdict_record={"estimate": 1.0, "lower": 0.5, "upper": 1.5, "unit": "USD", "reasons": []},
                evidence_digest="e" * 64,
                challenger_version=version,
                judged_at=tx.wall(),
            )
            judged = tx.attempt(attempt_id)
            if decision == "promote":
                tx.release_lease(attempt_id)
            else:
                conclude(tx, judged, champion_after=judged.champion_version)
