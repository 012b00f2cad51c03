"""A connection means the same whether the environment or Airflow's store holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from ratchet.adapters.connections import (
    ConnectionInfo,
    EnvResolver,
    MappingResolver,
    UnknownConnection,
    http_url,
    kafka_config,
    ledger_url,
    parse_uri,
    signing_keys,
    storage_url,
    study_url,
)
from ratchet.errors import Refused


def test_a_defined_connection_is_found_by_its_id() -> None:
    resolver = EnvResolver({"AIRFLOW_CONN_RATCHET_KAFKA": "kafka://127.0.0.1:9092"})
    assert resolver.resolve("ratchet_kafka") == ConnectionInfo("kafka", host="127.0.0.1", port=9092)


@pytest.mark.parametrize("resolver", [EnvResolver({}), MappingResolver({})])
def test_an_undefined_connection_is_refused_with_its_remedy(resolver: EnvResolver | MappingResolver) -> None:
    with pytest.raises(UnknownConnection, match="AIRFLOW_CONN_RATCHET_KAFKA"):
        resolver.resolve("ratchet_kafka")


@pytest.mark.parametrize(
    "uri",
    [
        "postgres://me:s%40cret%2F@db:5433/ratchet?sslmode=require",
        "postgresql://me:s%40cret%2F@db:5433/ratchet?sslmode=require",
        (
            '{"conn_type": "postgres", "login": "me", "password": "s@cret/", "host": "db", "port": "5433", '
            '"schema": "ratchet", "extra": {"sslmode": "require"}}'
        ),
    ],
)
def test_a_database_connection_becomes_an_sqlalchemy_url(uri: str) -> None:
    url = make_url(ledger_url(parse_uri(uri)))
    assert (url.drivername, url.username, url.password, url.host, url.port, url.database) == (
        "postgresql+psycopg2",
        "me",
        "s@cret/",
        "db",
        5433,
        "ratchet",
    )
    assert url.query == {"sslmode": "require"}


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_password_is_changed_on_its_way(login: str, password: str) -> None:
    url = make_url(ledger_url(ConnectionInfo("postgres", "db", 1, login, password, "ratchet")))
    assert (url.username, url.password) == (login, password)


def test_a_password_is_not_shown() -> None:
    assert "hush" not in repr(parse_uri("postgres://me:hush@db:1/x?key=hush"))


@pytest.mark.parametrize(
    ("uri", "path"), [("sqlite:////tmp/ledger.db", "/tmp/ledger.db"), ("sqlite:///ledger.db", "ledger.db")]
)
def test_a_file_database_keeps_its_path(uri: str, path: str) -> None:
    assert make_url(ledger_url(parse_uri(uri))).database == path


def test_a_ledger_elsewhere_is_refused() -> None:
    with pytest.raises(Refused, match="mysql"):
        ledger_url(parse_uri("mysql://db:1/x"))


def test_several_brokers_are_all_used() -> None:
    several = parse_uri("kafka://?bootstrap_servers=a:9092,b:9093")
    assert kafka_config(several)["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert kafka_config(ConnectionInfo("kafka", extra={"bootstrap.servers": "a:1, b:2"}))["bootstrap_servers"] == [
        "a:1",
        "b:2",
    ]


def test_credentials_mean_encryption_unless_said_otherwise() -> None:
    config = kafka_config(parse_uri("kafka://me:secret@a:9092"))
    assert config["security_protocol"] == "SASL_SSL"
    assert (config["sasl_mechanism"], config["sasl_plain_username"], config["sasl_plain_password"]) == (
        "PLAIN",
        "me",
        "secret",
    )
    plain = kafka_config(parse_uri("kafka://me:secret@a:9092?security.protocol=SASL_PLAINTEXT"))
    assert plain["security_protocol"] == "SASL_PLAINTEXT"


def test_a_kafka_setting_that_nobody_obeys_is_refused() -> None:
    with pytest.raises(Refused, match="securty_protocol"):
        kafka_config(parse_uri("kafka://a:9092?securty_protocol=SSL"))


@pytest.mark.parametrize(
    ("info", "url"),
    [
        (parse_uri("http://127.0.0.1:5000"), "http://127.0.0.1:5000"),
        (parse_uri("https://mlflow.example.com/tracking"), "https://mlflow.example.com/tracking"),
        (ConnectionInfo("http", host="https://mlflow.example.com"), "https://mlflow.example.com"),
        (ConnectionInfo("http", host="m", port=5000, schema="https"), "https://m:5000"),
        (parse_uri("http://me:p%40ss@m:5000/"), "http://me:p%40ss@m:5000"),
    ],
)
def test_a_web_address_comes_out_whole(info: ConnectionInfo, url: str) -> None:
    assert http_url(info) == url


@pytest.mark.parametrize(
    ("info", "url"),
    [
        (parse_uri("/srv/ratchet storage"), "/srv/ratchet storage"),
        (parse_uri("file:///srv/ratchet%20storage"), "/srv/ratchet storage"),
        (ConnectionInfo("file", host="", schema="srv/ratchet"), "/srv/ratchet"),
        (ConnectionInfo("file", extra={"path": "/srv/ratchet"}), "/srv/ratchet"),
        (parse_uri("s3://bucket/prefix/deep"), "s3://bucket/prefix/deep"),
        (ConnectionInfo("aws", extra={"url": "s3://bucket/prefix"}), "s3://bucket/prefix"),
    ],
)
def test_storage_is_a_folder_or_a_url(info: ConnectionInfo, url: str) -> None:
    assert storage_url(info) == url


def test_several_hosts_are_refused_since_airflow_takes_one() -> None:
    with pytest.raises(Refused, match=r"bootstrap_servers=a:9092,b:9092") as refused:
        parse_uri("kafka://me:se,cret/x@a:9092,b:9093/")
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["kafka://a:ninety", "{broken", '{"port": "x"}'])
def test_an_unreadable_connection_is_refused(uri: str) -> None:
    with pytest.raises(Refused):
        parse_uri(uri)


@pytest.mark.parametrize("uri", ["journal:///var/lib/studies", "journal:////var/lib/studies"])
def test_studies_may_be_kept_in_a_folder_of_journals(uri: str) -> None:
    assert study_url(parse_uri(uri)) == "journal:///var/lib/studies"


def test_studies_in_a_database_are_addressed_as_the_ledger_is() -> None:
    info = parse_uri("postgres://me:pw@db:5433/optuna")
    assert study_url(info) == ledger_url(info)


@pytest.mark.parametrize("uri", ["journal://studies", "journal:///"])
def test_a_journal_without_a_folder_of_this_machine_is_refused(uri: str) -> None:
    with pytest.raises(Refused, match="journal:///folder"):
        study_url(parse_uri(uri))


def test_a_source_signs_by_one_secret_or_while_it_is_replaced_by_two() -> None:
    one, two = "1" * 32, "2" * 32
    extra = {"weather": one, "grafana": [two, one]}
    assert signing_keys(ConnectionInfo("generic", extra=extra)) == {"weather": (one,), "grafana": (two, one)}
    assert signing_keys(parse_uri(f"generic://?weather={one}")) == {"weather": (one,)}


@pytest.mark.parametrize(
    "extra",
    [
        {"weather": "too short"},
        {"weather": []},
        {"weather": ["1" * 32, 7]},
        {"weather": None},
        {"a/b": "1" * 32},
        {"": "1" * 32},
    ],
)
def test_a_key_that_is_none_is_refused_and_not_told(extra: dict[str, object]) -> None:
    with pytest.raises(Refused, match="ratchet_http_keys") as refused:
        signing_keys(ConnectionInfo("generic", extra=extra))
    assert "too short" not in str(refused.value)
    assert "1" * 32 not in str(refused.value)
