"""Where Optuna keeps studies, chosen by the connection's URL.

``journal:///folder`` is one append-only file per study, for the workers of one machine: the cheapest (see
``bench/distributed_tuning.py``). ``postgres://…`` is for workers on several hosts. ``sqlite:///file`` serves one
machine too, and costs as much as PostgreSQL.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from ratchet.adapters.file_lock import held
from ratchet.errors import Unavailable

JOURNAL = "journal"
SUFFIX = ".journal"
TABLES_LOCK = 0x5241544348455453
"""The key of PostgreSQL's advisory lock on making Optuna's tables: ``RATCHETS``."""


class StudyStorage(Protocol):
    """One place of studies."""

    def of(self, study: str) -> BaseStorage:
        """The storage that holds the study, made where it is missing."""
        ...

    def knows(self, study: str) -> bool:
        """Whether there may be such a study; nothing is made."""
        ...

    def names(self) -> dict[str, int | None]:
        """Every study with its bytes; None where they are not known."""
        ...

    def remove(self, study: str) -> None:
        """Remove the study, if there is one."""
        ...

    def now(self) -> float:
        """Seconds of the one clock that all workers of the place go by."""
        ...

    def prepare(self) -> None:
        """Make or check what the first worker would have to make."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def storage_at(url: str) -> StudyStorage:
    """The place that ``url`` names: ``journal:///folder``, or any SQLAlchemy URL."""
    if urlsplit(url).scheme == JOURNAL:
        return Journals(Path("/" + unquote(urlsplit(url).path).lstrip("/")))
    return Database(url)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Drivers' errors as ours."""
    try:
        yield
    except (StorageInternalError, sa.exc.SQLAlchemyError) as error:
        where = url if urlsplit(url).scheme == JOURNAL else _engine_url(url).render_as_string(hide_password=True)
        raise Unavailable(f"{where}: the study's storage failed ({error}). Check connection ratchet_optuna.") from error


class Journals:
    """One file per study in a folder, so that opening a study reads that study and a removed file is one less."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, JournalStorage] = {}

    def of(self, study: str) -> BaseStorage:
        """See ``StudyStorage.of``."""
        if study not in self._opened:
            self.prepare()
            self._opened[study] = JournalStorage(_JournalFile(self._file(study)))
        return self._opened[study]

    def knows(self, study: str) -> bool:
        """See ``StudyStorage.knows``."""
        return self._file(study).exists()

    def names(self) -> dict[str, int | None]:
        """One file each."""
        try:
            files = sorted(self._folder.glob(f"*{SUFFIX}"))
            return {unquote(file.name.removesuffix(SUFFIX)): file.stat().st_size for file in files}
        except OSError as error:
            raise StorageInternalError(str(error)) from error

    def remove(self, study: str) -> None:
        """The file and its lock."""
        self._opened.pop(study, None)
        try:
            for file in (self._file(study), self._file(study).with_suffix(".lock")):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageInternalError(str(error)) from error

    def now(self) -> float:
        """The machine's clock: all workers of the file run on it."""
        return time.time()

    def prepare(self) -> None:
        """Make the folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageInternalError(str(error)) from error

    def close(self) -> None:
        """Forget what was read; no file is kept open."""
        self._opened.clear()

    def _file(self, study: str) -> Path:
        return self._folder / f"{quote(study, safe='')}{SUFFIX}"


class _KernelLock:
    """Optuna's own locks are files that outlive a killed holder by 30 s; this one is released by the kernel."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._handle = -1

    def acquire(self) -> bool:
        handle = os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        return True

    def release(self) -> None:
        handle, self._handle = self._handle, -1
        os.close(handle)


class _JournalFile(JournalFileBackend):  # type: ignore[misc]
    """Optuna's file, whose failures are told as a database's are."""

    def __init__(self, file: Path) -> None:
        try:
            super().__init__(str(file), lock_obj=_KernelLock(file.with_suffix(".lock")))
        except OSError as error:
            raise StorageInternalError(str(error)) from error

    def read_logs(self, log_number_from: int) -> Any:
        try:
            yield from super().read_logs(log_number_from)
        except (OSError, ValueError) as error:
            raise StorageInternalError(str(error)) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            raise StorageInternalError(str(error)) from error


class Database:
    """Optuna's tables behind an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._url = _engine_url(url)
        self._opened: RDBStorage | None = None
        self._cached: BaseStorage | None = None

    def of(self, study: str) -> BaseStorage:
        """All studies are in one database. What has ended is read from it once."""
        del study
        if self._cached is None:
            self._opened = self._open()
            self._cached = optuna.storages.get_storage(self._opened)
        return self._cached

    def knows(self, study: str) -> bool:
        """Cheaper to ask for it."""
        del study
        return True

    def names(self) -> dict[str, int | None]:
        """What a study takes is not known of rows in shared tables."""
        return {study.study_name: None for study in self.of("").get_all_studies()}

    def remove(self, study: str) -> None:
        """With its trials."""
        try:
            self.of("").delete_study(self.of("").get_study_id_from_name(study))
        except KeyError:
            return

    def now(self) -> float:
        """The server's clock; the machine's for SQLite, which has no other."""
        self.of("")
        if self._url.get_backend_name() != "postgresql" or self._opened is None:
            return time.time()
        with self._opened.engine.connect() as connection:
            return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def prepare(self) -> None:
        """Make or check the tables."""
        self.of("").get_all_studies()

    def close(self) -> None:
        """Give back the connections."""
        if self._opened is not None:
            self._opened.engine.dispose()
            self._opened = self._cached = None

    def _open(self) -> RDBStorage:
        """Open the storage; only a database without Optuna's tables costs the creation of them.

        Of workers that find none, one makes them, and the others find them there; what one that died has left is
        completed.
        """
        sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": True}
        options["connect_args"] = {"timeout": 60} if sqlite else {"connect_timeout": 10}
        if self._has_tables(options):
            return self._storage(options, ready=True)
        with self._alone(options):
            return self._storage(options, ready=self._has_tables(options))

    def _storage(self, options: Mapping[str, Any], *, ready: bool) -> RDBStorage:
        return RDBStorage(
            self._url.render_as_string(hide_password=False),
            engine_kwargs=dict(options),
            skip_table_creation=ready,
            skip_compatibility_check=ready,
        )

    @contextmanager
    def _alone(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Make the tables while nobody else does: ``CREATE TABLE`` fails where another process has just made one."""
        if self._url.get_backend_name() == "sqlite":
            if not self._url.database or self._url.database == ":memory:":
                yield
                return
            with held(Path(f"{self._url.database}.lock")):
                yield
            return
        engine = sa.create_engine(self._url, **options)
        try:
            with engine.connect() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_lock(TABLES_LOCK)))
                yield
        finally:
            engine.dispose()  # and with the connection goes the lock

    def _has_tables(self, options: Mapping[str, Any]) -> bool:
        engine = sa.create_engine(self._url, **options)
        try:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return False
                return bool(connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one())
        finally:
            engine.dispose()


def _engine_url(url: str) -> sa.URL:
    scheme, separator, rest = url.partition("://")
    return sa.make_url(f"postgresql+psycopg2{separator}{rest}" if scheme in ("postgres", "postgresql") else url)
