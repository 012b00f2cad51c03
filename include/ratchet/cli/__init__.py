"""The command line: each command loads the verbs, calls one, and prints what came of it."""

from __future__ import annotations

import sys

import typer

from ratchet import logs
from ratchet.cli import (
    approvals,
    audit,
    backtest,
    costs,
    demo,
    dossiers,
    events,
    intake,
    monthly,
    notifications,
    operate,
    publish,
    purge,
    verify,
)
from ratchet.errors import RatchetError
from ratchet.settings import load_settings
from ratchet.stack import commands as stack_commands

app = typer.Typer(
    name="ratchet",
    help="Event-driven retraining on Apache Airflow: a model only ever moves forward.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
stack_commands.register(app)
operate.register(app)
approvals.register(app)
dossiers.register(app)
app.command("intake")(intake.intake)
app.add_typer(events.app, name="events")
app.add_typer(audit.app, name="audit")
app.command("costs")(costs.costs)
app.command("report")(monthly.report)
app.command("notifications")(notifications.notifications)
app.command("purge")(purge.purge)
app.command("backtest")(backtest.backtest)
app.command("verify")(verify.verify)
app.add_typer(publish.app, name="publish")
app.command("demo")(demo.demo)


def main() -> None:
    """Run; an error raised on purpose is one line on stderr and exit code 1, an interrupt is 130."""
    try:
        logs.configure(load_settings().log_format)
        app()
    except RatchetError as error:
        typer.secho(f"ratchet: {error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
