"""Compose's step `owner`, on a PostgreSQL of the tests' own where all was made by one role, as an older version did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from test_bus import until
from test_kafka_secured import free_ports

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.studies_optuna import OptunaStudies
from ratchet.settings import load_settings
from ratchet.stack import backup, postgres, prepare, probes
from ratchet.stack.config import COMPONENTS_ROLE, DATABASES, LEDGER_DATABASE, StackConfig, load_config
from ratchet.stack.control import StackError

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]
PASSWORDS = {role: f"of-{role}" for role in ("airflow", "mlflow", "optuna", COMPONENTS_ROLE)}
REFUSED = psycopg2.errors.InsufficientPrivilege
OF_OTHERS = """
    CREATE TYPE kind AS ENUM ('a');
    CREATE TABLE run (id serial PRIMARY KEY, kind kind);
    CREATE VIEW seen AS SELECT id FROM run;
    CREATE SEQUENCE numbers;
    INSERT INTO run (kind) VALUES ('a');
"""


@contextmanager
def server(home: Path) -> Iterator[StackConfig]:
    """A PostgreSQL with the four databases, as an older version made them: all of its superuser."""
    variables = {"RATCHET_HOME": str(home), "RATCHET_POSTGRES_PORT": str(free_ports(1)[0])}
    config = load_config(load_settings(variables), variables)
    postgres.initialise(config)
    with (home / "log").open("wb") as log, subprocess.Popen(postgres.server_command(config), stderr=log) as process:
        try:
            probe = {"kind": "postgres", "dsn": config.maintenance_dsn}
            until(lambda: probes.check(probe, started_at=0.0) is None, 60)
            postgres.create_databases(config)
            yield config
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackConfig]:
    """What an older version left: rows in each database. Then what `owner` does, twice."""
    with server(tmp_path_factory.mktemp("home")) as config:
        for database in ("airflow", "mlflow"):
            act(config, "ratchet", database, OF_OTHERS)
        OptunaStudies(config.database("optuna")).prepare()
        with closing_ledger(config) as ledger:
            ledger.migrate()
            with ledger.transaction() as tx:
                tx.publish_spec("m", "d" * 64, {"model": "m"})
        for _ in range(2):
            owner(config)
        yield config


def owner(config: StackConfig) -> None:
    """deploy/container/owner, with the variables that docker-compose.yaml gives it."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RATCHET_HOME": str(config.home),
        "RATCHET_ROOT": str(ROOT),
        "RATCHET_DATABASE_URL": config.database("ratchet"),
        "RATCHET_DATABASE_ROLES": json.dumps(PASSWORDS),
        "AIRFLOW_CONN_RATCHET_LEDGER": config.database("ratchet", "postgres"),
    }
    done = subprocess.run(
        [str(ROOT / "deploy/container/owner")], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def act(config: StackConfig, role: str, database: str, statement: str) -> list[tuple[Any, ...]]:
    """What the role gets for this, by its password."""
    password = {"ratchet": config.secrets["postgres"], **PASSWORDS}[role]
    dsn = f"postgresql://{role}:{password}@127.0.0.1:{config.ports['postgres']}/{database}"
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def closing_ledger(config: StackConfig, role: str | None = None) -> Iterator[SqlLedger]:
    address = config.database(LEDGER_DATABASE, "postgresql+psycopg2")
    if role is not None:
        address = address.replace(f"ratchet:{config.secrets['postgres']}", f"{role}:{PASSWORDS[role]}")
    ledger = SqlLedger(address)
    try:
        yield ledger
    finally:
        ledger.dispose()


@pytest.mark.parametrize("database", ["airflow", "mlflow"])
def test_a_database_and_all_that_was_in_it_is_its_own_roles(made: StackConfig, database: str) -> None:
    for statement in (
        "INSERT INTO run (kind) VALUES ('a')",
        "ALTER TABLE run ADD COLUMN more integer",
        "ALTER TYPE kind ADD VALUE 'b'",
        "ALTER VIEW seen RENAME TO looked_at",
        "DROP SEQUENCE numbers",
        "CREATE TABLE new (n integer)",
    ):
        act(made, database, database, statement)
    assert act(made, database, database, "SELECT id FROM run ORDER BY id") == [(1,), (2,)]


def test_studies_that_were_there_go_on(made: StackConfig) -> None:
    address = made.database("optuna").replace(f"ratchet:{made.secrets['postgres']}", f"optuna:{PASSWORDS['optuna']}")
    OptunaStudies(address).prepare()
    assert act(made, "optuna", "optuna", "ALTER TABLE studies ADD COLUMN more integer") == []


@pytest.mark.parametrize("role", PASSWORDS)
def test_no_role_may_connect_to_a_database_of_others(made: StackConfig, role: str) -> None:
    own = LEDGER_DATABASE if role == COMPONENTS_ROLE else role
    assert act(made, role, own, "SELECT 1") == [(1,)]
    for other in set(DATABASES) - {own}:
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            act(made, role, other, "SELECT 1")


def test_no_role_can_become_another_one(made: StackConfig) -> None:
    said = "SELECT rolname FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
    powerful = {name for (name,) in act(made, "ratchet", "ratchet", said)}
    assert not powerful & set(PASSWORDS)
    assert act(made, "ratchet", "ratchet", "SELECT m.roleid FROM pg_auth_members m WHERE m.member >= 16384") == []
    with pytest.raises(REFUSED):
        act(made, COMPONENTS_ROLE, LEDGER_DATABASE, "SET ROLE ratchet")


def test_the_components_find_what_was_there_and_go_on(made: StackConfig) -> None:
    with closing_ledger(made, COMPONENTS_ROLE) as ledger, ledger.transaction() as tx:
        assert [row.model for row in tx.specs()] == ["m"]
        tx.publish_spec("n", "e" * 64, {"model": "n"})


@pytest.mark.parametrize(
    "statement", ["DROP TRIGGER append_only ON audit", "DROP TABLE audit CASCADE", "CREATE TABLE mine (n integer)"]
)
def test_the_components_can_drop_and_make_nothing_in_the_ledger(made: StackConfig, statement: str) -> None:
    with pytest.raises(REFUSED):
        act(made, COMPONENTS_ROLE, LEDGER_DATABASE, statement)


def test_roles_without_passwords_are_not_made(made: StackConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATCHET_DATABASE_ROLES", raising=False)
    with pytest.raises(StackError, match="RATCHET_DATABASE_ROLES: must say the password of each role"):
        prepare.make_roles(made)


def test_a_step_that_broke_off_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(tmp_path / "home") as config:
        for database in ("airflow", "mlflow"):
            act(config, "ratchet", database, OF_OTHERS)
        handed: list[str] = []

        def breaks_at_the_second(dsn: str, role: str) -> None:
            if handed:
                raise KeyboardInterrupt
            hand_over(dsn, role)
            handed.append(role)

        hand_over = postgres._hand_over
        monkeypatch.setattr(postgres, "_hand_over", breaks_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            postgres.make_roles(config, PASSWORDS)
        monkeypatch.undo()
        postgres.make_roles(config, {**PASSWORDS, "mlflow": "another"})
        for database in ("airflow", "mlflow"):
            owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
            assert act(config, "ratchet", database, owners) == [(database,)]
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            act(config, "mlflow", "mlflow", "SELECT 1")


def test_a_granted_ledger_is_restored_where_there_is_no_such_role(made: StackConfig, tmp_path: Path) -> None:
    backup.back_up(made, tmp_path / "backup", print)
    with server(tmp_path / "home") as config:
        backup.put_databases(config, tmp_path / "backup", print)
        with closing_ledger(config) as ledger, ledger.transaction() as tx:
            assert "m" in {row.model for row in tx.specs()}
