"""``ratchet backup`` and ``ratchet restore``: all state of the local stack, copied while it runs, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratchet import settings
from ratchet.cli.progress import working
from ratchet.cli.tables import AsJson, print_done
from ratchet.stack import api, backup
from ratchet.stack.config import load_config
from ratchet.stack.control import StackError
from ratchet.stack.units import Phase


def take(
    folder: Annotated[Path, typer.Argument(help="A new folder; it appears when the backup is whole.")],
    as_json: AsJson = False,
) -> None:
    """Back up the local stack while it runs: four databases, then storage, the registry's files and the secrets.

    Kafka is not in it: it keeps its own records, and what it still has is read again after a restore. The folder holds
    passwords and keys: keep it as safe as they are.

    ratchet backup /backups/2013-06-14
    """
    config = load_config(settings.load_settings(), settings.environment())
    with working("copying the stack's state") as tell:
        if config.database_url is None and "postgres" not in _running():
            raise StackError("backup: PostgreSQL does not run. Run: ratchet up --only postgres")
        made = backup.back_up(config, folder, tell)
    done = {"folder": folder, "taken_at": made.taken_at, "files": made.files, "bytes": made.bytes}
    said = f"{folder} holds the state of {made.taken_at:%Y-%m-%d %H:%M:%S}Z: four databases and {made.files:,} files"
    print_done(done, [said], as_json=as_json)


def put_back(
    folder: Annotated[Path, typer.Argument(help="A folder that `ratchet backup` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a home that holds no state; nothing is overwritten.

    Leaves PostgreSQL running, and says what is left to do: the rest of the stack, the audit log's end, and the events
    that came after the backup.

    ratchet restore /backups/2013-06-14
    """
    with working("putting the state back") as tell:
        running = _running()
        if running:
            raise StackError(f"restore: {', '.join(sorted(running))} run here. Run: ratchet down")
        found = backup.put_files(settings.load_settings().home, folder)
        backup.put_databases(api.up(["postgres"]), folder, tell)
    since = f"{found.taken_at:%Y-%m-%dT%H:%M:%SZ}"
    left = [
        "ratchet up",
        f'ratchet audit accept --reason "restored the backup of {since}"',
        "ratchet verify",
        f'ratchet events replay --since {since} --reason "restored the backup of {since}"',
    ]
    lines = [f"The state of {since} is back. What is left:", *(f"  {command}" for command in left)]
    print_done({"taken_at": since, "left": left}, lines, as_json=as_json)


def _running() -> set[str]:
    return {name for name, row in api.status().items() if row["phase"] not in {Phase.DONE, Phase.STOPPED, Phase.FAILED}}
