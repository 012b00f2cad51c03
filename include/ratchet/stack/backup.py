"""A copy of all state of the local stack, taken while it runs, and the way back.

Databases first, each as of one moment, then the files: what a row names was stored before the row was written and is
never written again, so every file that the dumps name is in the copy. The ledger goes first of the databases, for it
names what the registry and the studies hold. A purge at the same time could remove a file in between; it is refused
by nobody, so do not run one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg2

from ratchet.stack import postgres
from ratchet.stack.config import StackConfig
from ratchet.stack.control import StackError

ORDER = ("ratchet", "optuna", "mlflow", "airflow")
FOLDERS = ("storage", "mlflow")
"""Below the home: what the ledger names, and the registry's artifacts."""
SECRETS, MANIFEST = "secrets.json", "backup.json"
FORMAT = 1

Say = Callable[[str], None]


@dataclass(frozen=True)
class Backup:
    """What a backup holds. ``databases`` has each dump's SHA-256; ``taken_at`` is when the first dump began, in UTC."""

    format: int
    taken_at: datetime
    databases: dict[str, str]
    files: int
    bytes: int


def back_up(config: StackConfig, target: Path, say: Say) -> Backup:
    """Write a backup into the new folder ``target``; the stack may run, its database must.

    Raises:
        StackError: the folder is there already, or a database cannot be dumped; nothing is left at ``target`` then.
    """
    if target.exists():
        raise StackError(f"{target}: is there already; a backup is a folder of its own. Name a new one.")
    draft = target.with_name(f".{target.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    taken_at, digests = datetime.now(UTC), {}
    for name in ORDER:
        dump = draft / f"{name}.dump"
        _run("pg_dump", config.database(name), "--format=custom", f"--file={dump}")
        digests[name] = _digest(dump)
        say(f"database {name}: {dump.stat().st_size / 1e6:,.1f} MB")
    count = size = 0
    for folder in FOLDERS:
        for file in _files(config.home / folder):
            copy = draft / folder / file.relative_to(config.home / folder)
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                shutil.copy2(file, copy)
            except FileNotFoundError:
                continue  # a draft of somebody's that was renamed meanwhile: no row named it when the dumps were taken
            count, size = count + 1, size + copy.stat().st_size
        say(f"folder {folder}: {count:,} files so far, {size / 1e6:,.1f} MB")
    shutil.copy2(config.home / SECRETS, draft / SECRETS)
    made = Backup(FORMAT, taken_at, digests, count, size)
    (draft / MANIFEST).write_text(json.dumps(asdict(made) | {"taken_at": taken_at.isoformat()}, indent=1))
    os.sync()
    draft.rename(target)
    return made


def read(source: Path) -> Backup:
    """What the backup at ``source`` holds.

    Raises:
        StackError: it is none, it is of another format, or a dump is not what was written.
    """
    try:
        told = json.loads((source / MANIFEST).read_text())
        found = Backup(**told | {"taken_at": datetime.fromisoformat(told["taken_at"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StackError(f"{source}: is no backup ({error}). `ratchet backup` writes one.") from error
    if found.format != FORMAT:
        raise StackError(f"{source}: is of format {found.format}, and this code reads {FORMAT}. Use the code it is of.")
    for name, digest in found.databases.items():
        dump = source / f"{name}.dump"
        if not dump.exists() or _digest(dump) != digest:
            raise StackError(f"{dump}: is not the dump that was written. Take another backup.")
    return found


def put_files(home: Path, source: Path) -> Backup:
    """Check the backup and put its files and secrets into a home that has none.

    Raises:
        StackError: the backup cannot be used, or the home holds state, which nothing here overwrites.
    """
    found = read(source)
    taken = [name for name in (*FOLDERS, "postgres") if (home / name).exists()]
    if taken:
        raise StackError(
            f"{home}: holds {', '.join(taken)} already. Stop the stack and move them away; Kafka's folder may stay."
        )
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in FOLDERS:
        draft = home / f".{folder}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        if (source / folder).exists():
            shutil.copytree(source / folder, draft)
            draft.rename(home / folder)
    shutil.copy2(source / SECRETS, home / SECRETS)
    return found


def put_databases(config: StackConfig, source: Path, say: Say) -> None:
    """Fill the empty databases of a server that runs.

    Raises:
        StackError: a database holds tables, or a dump cannot be restored.
    """
    for name in ORDER:
        with closing(psycopg2.connect(config.database(name))) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            (tables,) = cursor.fetchone() or (0,)
        if tables:
            raise StackError(f"database {name}: holds {tables} tables. Only empty databases are filled.")
    for name in ORDER:
        dump = source / f"{name}.dump"
        _run("pg_restore", config.database(name), "--exit-on-error", "--no-owner", "--no-privileges", str(dump))
        say(f"database {name} is restored")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        if path.is_file() and not path.is_symlink():
            yield path


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _run(tool: str, address: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs; the password goes by the environment, which others cannot list."""
    given = urlsplit(address)
    authority = f"{given.username}@{given.hostname}:{given.port or 5432}"
    database = f"--dbname={given._replace(netloc=authority).geturl()}"
    command = [str(postgres.binaries() / tool), database, *arguments]
    password = {"PGPASSWORD": unquote(given.password)} if given.password else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | password)
    if done.returncode != 0:
        raise StackError(f"{tool}: {done.stderr.strip() or f'exit code {done.returncode}'}")
