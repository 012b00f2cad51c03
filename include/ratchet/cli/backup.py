"""``ratchet backup`` and ``ratchet restore``: all state of the local stack, copied while it runs, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratchet import settings
from ratchet.stack import api, backup
from ratchet.stack.config import load_config
from ratchet.stack.control import StackError
from ratchet.stack.units import Phase


def take(
    folder: Annotated[Path, typer.Argument(help="A new folder; it appears when the backup is whole.")],
) -> None:
    """Back up the local stack while it runs: four databases, then storage, the registry's files and the secrets.

    Kafka is not in it: it keeps its own records, and what it still has is read again after a restore. The folder holds
    passwords and keys: keep it as safe as they are.

    Example: ratchet backup /backups/2013-06-14
    """
    config = load_config(settings.load_settings(), settings.environment())
    if "postgres" not in _running() and config.database_url is None:
        raise StackError("backup: PostgreSQL does not run. Run: ratchet up --only postgres")
    made = backup.back_up(config, folder, typer.echo)
    typer.echo(f"{folder} holds the state of {made.taken_at:%Y-%m-%d %H:%M:%S}Z: {made.files:,} files")


def put_back(
    folder: Annotated[Path, typer.Argument(help="A folder that `ratchet backup` wrote.")],
) -> None:
    """Restore a backup into a home that holds no state; nothing is overwritten.

    Leaves PostgreSQL running, and says what is left to do: the rest of the stack, the audit log's end, and the events
    that came after the backup.

    Example: ratchet restore /backups/2013-06-14
    """
    running = _running()
    if running:
        raise StackError(f"restore: {', '.join(sorted(running))} run here. Run: ratchet down")
    found = backup.put_files(settings.load_settings().home, folder)
    config = api.up(["postgres"])
    backup.put_databases(config, folder, typer.echo)
    since = f"{found.taken_at:%Y-%m-%dT%H:%M:%SZ}"
    typer.echo(f"""The state of {since} is back. What is left:
  ratchet up
  ratchet audit accept --reason "restored the backup of {since}"
  ratchet verify
  ratchet events replay --since {since} --reason "restored the backup of {since}\"""")


def _running() -> set[str]:
    return {name for name, row in api.status().items() if row["phase"] not in {Phase.DONE, Phase.STOPPED, Phase.FAILED}}
