"""Ports, secrets and variables of the local stack."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ratchet import settings
from ratchet.adapters.connections import kafka_config, parse_uri
from ratchet.stack import StackError, config, kafka, plan, postgres, prepare
from ratchet.stack.config import StackConfig


def load(home: Path, **environment: str) -> StackConfig:
    variables = {"RATCHET_HOME": str(home), **environment}
    return config.load_config(settings.load_settings(variables), variables)


def test_one_base_moves_every_port() -> None:
    assert sorted(config.ports_from({"RATCHET_PORT_BASE": "30000"}).values()) == list(range(30000, 30005))


def test_a_single_port_wins_over_the_base() -> None:
    ports = config.ports_from({"RATCHET_PORT_BASE": "30000", "RATCHET_KAFKA_PORT": "9092"})
    assert (ports["kafka"], ports["airflow"]) == (9092, 30000)


@pytest.mark.parametrize("value", ["", "http", "80", "70000", "-1"])
def test_what_is_no_port_is_refused_by_its_variable(value: str) -> None:
    with pytest.raises(StackError, match="RATCHET_MLFLOW_PORT: a port must be a number"):
        config.ports_from({"RATCHET_MLFLOW_PORT": value})


def test_a_port_given_twice_is_refused() -> None:
    with pytest.raises(StackError, match="ports must differ"):
        config.ports_from({"RATCHET_PORT_BASE": "30000", "RATCHET_KAFKA_PORT": "30000"})


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    assert load(tmp_path / "home").secrets == load(tmp_path / "home").secrets
    assert load(tmp_path / "other").secrets != load(tmp_path / "home").secrets


def test_nobody_else_can_read_the_home_or_its_secrets(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home")
    config.write_files(loaded)
    assert stat.S_IMODE(loaded.home.stat().st_mode) == 0o700
    for name in ("secrets.json", "stack.env", "airflow/passwords.json"):
        assert stat.S_IMODE((loaded.home / name).stat().st_mode) == 0o600


def test_the_written_variables_are_what_the_settings_read(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home")
    config.write_files(loaded)
    read = settings.load_settings({"RATCHET_HOME": str(loaded.home)})
    assert read.airflow_url == loaded.airflow_url
    assert read.airflow_password == loaded.secrets["admin"]
    assert read.connections["AIRFLOW_CONN_RATCHET_KAFKA"] == f"kafka://{loaded.bootstrap}"


def test_several_given_brokers_are_written_as_airflow_reads_them(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home", RATCHET_KAFKA_BOOTSTRAP="a:9092,b:9092")
    written = config.stack_environment(loaded)["AIRFLOW_CONN_RATCHET_KAFKA"]
    assert kafka_config(parse_uri(written))["bootstrap_servers"] == ["a:9092", "b:9092"]


def test_no_worker_makes_the_tables_of_studies(tmp_path: Path) -> None:
    scheduler = next(unit for unit in plan.build(load(tmp_path / "home")) if unit.name == "scheduler")
    assert "study-tables" in scheduler.after


def test_a_given_database_server_replaces_ours(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home", RATCHET_DATABASE_URL="postgres://me:pw@db.example:5433/first?sslmode=require")
    assert loaded.database("airflow", "postgresql+psycopg2") == (
        "postgresql+psycopg2://me:pw@db.example:5433/airflow?sslmode=require"
    )
    assert "postgres" not in {unit.name for unit in plan.build(loaded)}


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="RATCHET_DATABASE_URL: must be postgresql"):
        load(tmp_path / "home", RATCHET_DATABASE_URL="mysql://me:pw@db.example/first")


def test_a_given_broker_replaces_ours(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home", RATCHET_KAFKA_BOOTSTRAP="broker.example:9092")
    broker = next(unit for unit in plan.build(loaded) if unit.name == "kafka")
    assert (loaded.bootstrap, broker.kind) == ("broker.example:9092", "step")


def test_the_same_configuration_is_the_same_plan(tmp_path: Path) -> None:
    digests = [[unit.digest() for unit in plan.build(load(tmp_path / "home"))] for _ in range(2)]
    assert digests[0] == digests[1]


def test_no_secret_stands_in_a_command_line(tmp_path: Path) -> None:
    loaded = load(tmp_path / "home")
    words = " ".join(word for unit in plan.build(loaded) for word in unit.argv)
    assert not [name for name, secret in loaded.secrets.items() if secret in words]


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("command not found", 0),
    ],
)
def test_the_version_of_java_is_read_from_its_words(text: str, major: int) -> None:
    assert kafka.java_version(text) == major


def test_studies_in_a_journal_have_no_tables_to_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_RATCHET_OPTUNA", f"journal://{tmp_path}/studies")
    monkeypatch.setattr(postgres, "query", lambda *_: pytest.fail("a server was asked"))
    prepare.STEPS["study-tables"](load(tmp_path))
    assert not (tmp_path / "studies").exists()
