"""``ratchet demo``: the whole system, and the year 2013 lived on it in minutes."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console

from ratchet import settings
from ratchet.bootstrap import Ratchet, wire
from ratchet.cli import airflow_api, report
from ratchet.cli.living import Lived, Unsettled, Year
from ratchet.cli.monitor import monitor_report
from ratchet.cli.progress import Teller
from ratchet.cli.tables import AsJson
from ratchet.cli.year import YEAR, Act, midnight, plan_year
from ratchet.domain.spec import ModelSpec
from ratchet.errors import RatchetError, Refused, Unavailable
from ratchet.ports.ledger import AttemptRow, Tx
from ratchet.stack import api as stack
from ratchet.stack.config import StackConfig, load_config
from ratchet.stack.control import StackError
from ratchet.workflow.telling import CHAMPION

if TYPE_CHECKING:
    from ratchet.workflow.backtesting import Backtest

MODEL = "flight_delay"
DAGS = ("ratchet__intake", "ratchet__sweep", f"retrain__{MODEL}", f"promote__{MODEL}")
AIRFLOW_SECONDS = 300.0
ALIAS_SECONDS = 120.0
PLAIN_WIDTH = 140
MARKER = "demo.started"
REPORT = "demo.json"
STATE = ("airflow", "kafka", "mlflow", "postgres", "storage")
"""What a demo begins without: folders of the home that hold what was lived before."""


@dataclass
class Watch:
    """Where the time goes: seconds of each phase, in order."""

    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's seconds under ``name``."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.phases.items())


def demo(
    until: Annotated[
        str | None,
        typer.Option(help="Stop after this month's decision (2013-05) and publish the next half month unjudged."),
    ] = None,
    running: Annotated[
        bool,
        typer.Option(
            "--running",
            help="On the system that runs, a cluster's perhaps, whose ledger is empty: start and stop nothing.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Live through the year 2013: set everything up, publish its data, wait for each decision, tell what came of it.

    What has drifted the monitor finds and publishes by itself.

    A home that has lived a demo before starts afresh: its ledger, topics, runs and models are removed.

    ratchet demo --until 2013-05

    ratchet demo --running
    """
    acts = plan_year(until)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    teller = Teller(console)
    place = settings.load_settings()
    place.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(place.home):
        try:
            solved = _demo(acts, place, teller, running=running)
        except StackError as error:
            raise Refused(str(error)) from error
        except KeyboardInterrupt:
            stops = "" if running else "; `make down` stops it, `make demo` starts afresh"
            teller.say(f"\nStopped. What was begun goes on{stops}.")
            raise
    if as_json:
        typer.echo((place.home / REPORT).read_text(), nl=False)
    if not solved:
        raise typer.Exit(1)


def _demo(acts: tuple[Act, ...], place: settings.Settings, teller: Teller, *, running: bool) -> bool:
    """Everything between the locks; True when every event has a terminal fate or a stated time."""
    setup, lived_through = Watch(), Watch()
    config: StackConfig | None = None
    if running:
        _meet(setup, teller)
    else:
        config = _set_up(place, setup, teller)
    setup_seconds = sum(setup.phases.values())
    teller.say(f"Set up in {setup_seconds:.0f} s: {setup}")

    ratchet = wire()
    with ratchet.ledger.transaction() as tx:
        spec = _spec(tx)
    lived: list[Lived] = []
    trouble: str | None = None
    with lived_through.phase("events to verdicts"):
        try:
            for told in _year(ratchet, spec, place, teller).live(acts):
                lived.append(told)
                _say_act(teller, told, spec)
        except (Unsettled, Unavailable) as error:
            trouble = str(error)
    with ratchet.ledger.transaction() as tx:
        events, attempts, champions = tx.events(model=MODEL), tx.attempts(model=MODEL), tx.champions(MODEL)
        marks = tx.watermarks()
    backtest = None
    if champions and not trouble:
        from ratchet.workflow.backtesting import World, backtest_year  # noqa: PLC0415 - numpy, XGBoost

        world = World(ratchet.features, ratchet.artifacts, ratchet.store, ratchet.models, ratchet.payoff_hook(spec))
        as_of = min(marks[name].complete_until for name in spec.datasets)
        with lived_through.phase("policies"), teller.during("what the policies earned") as tell:
            backtest = backtest_year(world, spec, champions=champions, attempts=attempts, as_of=as_of, tell=tell)
    version = champions[-1].version if champions else None
    with lived_through.phase("alias"), teller.during("the alias follows the ledger"):
        alias = _alias(ratchet, version)
    content = report.document(
        model=MODEL,
        events=events,
        attempts=attempts,
        looks=[look for told in lived for look in told.looks],
        version=version,
        alias_version=alias,
        backtest=backtest,
        setup_seconds=setup_seconds,
        year_seconds=sum(lived_through.phases.values()),
    )
    report.write(place.home / REPORT, content)

    _show(teller, lived, backtest, spec.business.payoff.unit)
    if not report.promoted_over_a_champion(attempts):
        teller.say("No challenger beat a sitting champion beyond doubt: none was promoted over one.")
    open_events = report.unresolved(events)
    for line in ([trouble] if trouble else []) + open_events:
        teller.say(f"without a fate: {line}", style="red")
    if alias != version:
        teller.say(f"MLflow's alias names version {alias}, the ledger's champion is {version}", style="red")
    teller.say(f"The year took {content['seconds']['year']:.0f} s: {lived_through}. Set-up: {setup}.")
    _say_where(teller, ratchet, attempts)
    teller.say(f"Report    {place.home / REPORT}")
    if config is not None:
        teller.say(f"Airflow   {config.airflow_url}   user admin, password {config.secrets['admin']}")
        teller.say(f"MLflow    {config.mlflow_url}")
        teller.say("The stack stays up: `make status` tells what runs, `make down` stops it.")
    return not trouble and not open_events and alias == version


def _show(teller: Teller, lived: Sequence[Lived], backtest: Backtest | None, unit: str) -> None:
    """The year as a table, and below it what the policies earned."""
    teller.console.print(report.year_table(lived, unit))
    if backtest is not None:
        teller.say(
            f"Every policy on the same {backtest.rows:,} decisions of {backtest.days} days, "
            f"{backtest.start:%Y-%m-%d} to {backtest.end:%Y-%m-%d}:"
        )
        teller.console.print(report.policy_table(backtest))
        teller.say(report.withholding_line(backtest))


def _say_where(teller: Teller, ratchet: Ratchet, attempts: Sequence[AttemptRow]) -> None:
    """Where the attempts' time went."""
    with ratchet.ledger.transaction() as tx:
        steps = report.step_seconds(tx.steps(attempt.id) for attempt in attempts)
    inside = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps.items())
    teller.say(f"Inside the {len(attempts)} attempts: {inside}; the rest is the way there and Airflow's own.")


# -- set-up ------------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One demo per home at a time."""
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(f"another demo lives in {home}. Wait for its end, or set RATCHET_HOME") from error
        yield


def _set_up(place: settings.Settings, watch: Watch, teller: Teller) -> StackConfig:
    """A running stack that knows nothing yet, its data built, its DAGs known, its clock at the start of the year."""
    from ratchet.adapters import flights  # noqa: PLC0415 - needs the example's packages

    if (place.home / MARKER).exists():
        with watch.phase("starting afresh"), teller.during("starting afresh: removing what the last demo left"):
            _forget(place)
    with watch.phase("data"), teller.during("data") as tell:
        flights.build(place.data_dir, tell)
    with watch.phase("ledger"), teller.during("ledger") as tell:
        stack.up(only=["postgres"], on_ready=lambda name, _: tell(f"{name} is ready"))
        ratchet = wire()
        ratchet.ledger.migrate()
        ratchet.deploy()
        instead = "RATCHET_HOME=<another folder> RATCHET_PORT_BASE=<another port> make demo"
        _begin(ratchet, str(place.home), f"Keep them: {instead}. Or remove them: make clean")
        (place.home / MARKER).write_text(datetime.now(UTC).isoformat() + "\n")
    with watch.phase("stack"), teller.during("stack") as tell:
        config = stack.up(on_ready=lambda name, _: tell(f"{name} is ready"))
    _await_readers(wire(), watch, teller)
    return config


def _meet(watch: Watch, teller: Teller) -> None:
    """The same on a system of others: its datasets and its empty ledger are theirs to provide."""
    ratchet = wire()
    with watch.phase("ledger"), teller.during("ledger"):
        ratchet.deploy()
        _begin(ratchet, "this system", "They may be somebody's: a demo needs a system of its own")
    _await_readers(ratchet, watch, teller)


def _await_readers(ratchet: Ratchet, watch: Watch, teller: Teller) -> None:
    """Return when Feast knows the features and Airflow the DAGs."""
    with watch.phase("features"), teller.during("feature repository"):
        ratchet.features.apply()
    with watch.phase("DAGs"), teller.during("Airflow reads the DAGs") as tell:
        with ratchet.ledger.transaction() as tx:
            monitors = (f"monitor__{MODEL}",) if _spec(tx).monitor is not None else ()
        _await_dags(airflow_api.connect(ratchet.settings), (*DAGS, *monitors), tell)


def _begin(ratchet: Ratchet, where: str, instead: str) -> None:
    """Set the clock to the start of the year, in a ledger where nothing has happened yet.

    Before Airflow starts: by the wall clock, a schedule would ask for a run of its own. Where `make up` came first it
    has; that request stays in the inbox and is told of, like every event.
    """
    with ratchet.ledger.transaction() as tx:
        if tx.attempts(limit=1) or any(row.origin != "schedule" for row in tx.events()):
            raise Refused(f"the ledger of {where} holds events, and a demo begins with none. {instead}")
        tx.set_clock("replay", midnight(date(YEAR, 1, 1), _spec(tx).data.spine.zone))


def _forget(place: settings.Settings) -> None:
    """Stop the stack and remove what was lived, below the home alone."""
    config = load_config(place, settings.environment())
    if config.database_url or config.kafka_bootstrap:
        raise Refused(
            "this home has lived a demo on servers that are not its own (RATCHET_DATABASE_URL, "
            "RATCHET_KAFKA_BOOTSTRAP): they are not ours to empty. Give the demo empty ones, or unset both."
        )
    stack.down()
    for name in STATE:
        shutil.rmtree(place.home / name, ignore_errors=True)
    (place.home / REPORT).unlink(missing_ok=True)
    (place.home / MARKER).unlink(missing_ok=True)


def _await_dags(airflow: airflow_api.Airflow, dags: Sequence[str], tell: Any) -> None:
    """Wait until each of these DAGs is known and unpaused."""
    end = time.monotonic() + AIRFLOW_SECONDS
    while missing := [dag for dag in dags if not _is_live(airflow, dag)]:
        tell(f"waiting for {', '.join(missing)}")
        if time.monotonic() > end:
            raise Unavailable(f"Airflow does not know, or paused: {', '.join(missing)}. See its DAG list")
        time.sleep(0.5)


def _is_live(airflow: airflow_api.Airflow, dag_id: str) -> bool:
    try:
        answer = airflow.client.get(f"/api/v2/dags/{dag_id}")
    except httpx.HTTPError as error:
        raise Unavailable(f"Airflow did not answer: {error}. Run: ratchet status") from error
    return answer.status_code == httpx.codes.OK and not answer.json()["is_paused"]


def _spec(tx: Tx) -> ModelSpec:
    row = next((row for row in tx.specs() if row.model == MODEL), None)
    if row is None:
        raise Refused(f"{MODEL} is not deployed. Run: ratchet deploy")
    return ModelSpec.model_validate(row.document)


# -- the year ----------------------------------------------------------------------------------------------------------


def _year(ratchet: Ratchet, spec: ModelSpec, place: settings.Settings, teller: Teller) -> Year:
    from ratchet.adapters.features_feast import FeastFeatures  # noqa: PLC0415 - pyarrow

    return Year(
        ledger=ratchet.ledger,
        bus=ratchet.bus,
        airflow=airflow_api.connect(ratchet.settings),
        counts=FeastFeatures(place.feature_repo_dir, place.data_dir, place.models_dir),
        spec=spec,
        teller=teller,
        report=lambda window: monitor_report(ratchet, window.model, window.window_end, window.report_sha256) or {},
    )


def _say_act(teller: Teller, told: Lived, spec: ModelSpec) -> None:
    unit = spec.business.payoff.unit
    for look in told.looks:
        window = look.report["window"]
        style = "red" if look.window.state == "broken" else ""
        teller.say(f"monitor, {window['start']} to {window['end']}: {report.told_of(look, unit)}", style=style)
    for attempt in report.in_order(told.attempts):
        why, outcome = report.reasons_of(told, attempt), attempt.verdict or attempt.state
        teller.say(
            f"{told.act.month} {told.act.what}: {why} → {outcome}, uplift {report.uplift_of(attempt)} {unit} per "
            f"decision, champion {report.champion_after(attempt)} ({told.seconds:.0f} s)"
        )
    if not told.attempts:
        teller.say(f"{told.act.month} {told.act.what}: {report.waits(told)} ({told.seconds:.0f} s)".replace("\n", "; "))


def _alias(ratchet: Ratchet, version: int | None) -> int | None:
    """The version MLflow's alias names, once it is the ledger's, or when waiting has not helped."""
    end = time.monotonic() + ALIAS_SECONDS
    while True:
        try:
            alias = ratchet.registry.alias_version(MODEL, CHAMPION)
        except RatchetError:
            if time.monotonic() > end:
                raise
            alias = None
        if alias == version or time.monotonic() > end:
            return alias
        time.sleep(0.5)
