"""The command line: each command loads the verbs, calls one, and prints what came of it."""

from __future__ import annotations

import sys
import traceback

import typer

from ratchet import logs
from ratchet.cli import (
    approvals,
    audit,
    backtest,
    backup,
    costs,
    demo,
    dossiers,
    environments,
    events,
    failures,
    intake,
    models,
    monthly,
    notifications,
    operate,
    publish,
    purge,
    stack,
    verify,
)
from ratchet.errors import RatchetError
from ratchet.settings import load_settings

app = typer.Typer(
    name="ratchet",
    help="Event-driven retraining on Apache Airflow: a model only ever moves forward.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
stack.register(app)
operate.register(app)
approvals.register(app)
dossiers.register(app)
app.command("intake")(intake.intake)
app.command("models")(models.models)
app.add_typer(events.app, name="events")
app.add_typer(audit.app, name="audit")
app.command("costs")(costs.costs)
app.command("report")(monthly.report)
app.command("notifications")(notifications.notifications)
app.command("purge")(purge.purge)
app.command("backtest")(backtest.backtest)
app.command("verify")(verify.verify)
app.command("backup")(backup.take)
app.command("restore")(backup.put_back)
app.add_typer(publish.app, name="publish")
app.add_typer(environments.app, name="environment")
app.command("demo")(demo.demo)


def main() -> None:
    """Run; an error is one line on stderr, no traceback. Its exit code is 1, or 70 where nobody raised it on purpose.

    An interrupt is 130.
    """
    try:
        logs.configure(load_settings().log_format)
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody is to read a traceback who did not ask for one
        if failures.wants_traceback():
            traceback.print_exception(error)
        on_purpose = isinstance(error, RatchetError)
        said = str(error) if on_purpose else failures.in_a_line(error)
        typer.secho(f"ratchet: {said}", fg=typer.colors.RED, err=True)
        sys.exit(1 if on_purpose else failures.UNEXPECTED)
