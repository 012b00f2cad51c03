"""docker-compose.yaml: no secret of its own, no root, nothing without a limit, and only what exists is named."""

from __future__ import annotations

import json
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from compose_file import COMPOSE, PROFILES, ROOT, SERVICES, TEXT, is_once, mounts, of_profile

from ratchet.adapters import connections
from ratchet.settings import load_settings
from ratchet.stack import COMPONENTS
from ratchet.stack.config import COMPONENTS_ROLE, load_config, stack_environment
from ratchet.stack.container_secrets import PASSWORDS
from ratchet.stack.plan import build

SECRET_NAME = re.compile(r"PASSWORD|SECRET|FERNET|TOKEN|ACCESS_KEY")
PLACEHOLDER = re.compile(r"\{\{([a-z0-9-]+)\}\}")
EXACT = re.compile(r".+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?")
# What the programs of others read; those of ours and Airflow's are looked up.
OTHERS = {
    *("AWS_ACCESS_KEY_ID", "AWS_CONFIG_FILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY"),
    *("DO_NOT_TRACK", "FEAST_USAGE"),
    *("KAFKA_HEAP_OPTS", "KAFKA_LOG4J_OPTS"),
    *("POSTGRES_DB", "POSTGRES_PASSWORD_FILE", "POSTGRES_USER"),
    *("GF_SECURITY_ADMIN_USER", "GF_SECURITY_ADMIN_PASSWORD__FILE", "GF_USERS_ALLOW_SIGN_UP"),
    *("GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES"),
}


def logins(name: str) -> set[tuple[str, str, str]]:
    """Login, secret and database of each address of a PostgreSQL in a service's environment."""
    text = " ".join(map(str, SERVICES[name].get("environment", {}).values()))
    return set(re.findall(r"(\w+):\{\{([\w-]+)\}\}@postgres:5432/(\w+)", text))


@pytest.mark.parametrize("profile", PROFILES)
def test_each_size_has_every_component_of_the_local_stack(profile: str) -> None:
    there = {re.sub(r"^cluster-|-\d$", "", name) for name in of_profile(profile)}
    assert set(COMPONENTS) <= there


def test_the_minimal_size_is_started_and_told_as_the_local_stack_is(tmp_path: Path) -> None:
    variables = {"RATCHET_HOME": str(tmp_path)}
    config = load_config(load_settings(variables), variables)
    for unit in build(config):
        if unit.argv[1:3] == ("-m", "airflow"):
            assert SERVICES[unit.name]["command"] == ["airflow", *unit.argv[3:]]
    image = re.findall(r"^(?:ENV|   ) (\w+)=", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    told = {*SERVICES["scheduler"]["environment"], *image}
    of_one_machine = {"AIRFLOW__API__HOST", "AIRFLOW__API__PORT", "NO_COLOR"}
    assert set(stack_environment(config)) - told == of_one_machine
    for name, value in stack_environment(config).items():
        if name.startswith(("AIRFLOW__SCHEDULER__", "AIRFLOW__DAG_PROCESSOR__", "AIRFLOW__TRIGGERER__")):
            assert SERVICES["scheduler"]["environment"][name] == value


def test_the_cluster_has_two_of_what_may_be_lost_and_three_brokers() -> None:
    cluster = of_profile("cluster")
    for name in ("cluster-scheduler", "cluster-triggerer", "cluster-worker"):
        assert cluster[name]["deploy"]["replicas"] == 2
    assert [name for name in cluster if re.fullmatch(r"kafka-\d", name)] == ["kafka-1", "kafka-2", "kafka-3"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert str(service["user"]).split(":")[0] not in {"root", "0"}
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"cap_add", "privileged", "network_mode"} & set(service) or service.get("network_mode") == "none"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_writes_to_its_root_file_system(name: str) -> None:
    assert SERVICES[name]["read_only"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits(name: str) -> None:
    assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_server_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    if not is_once(service):
        assert service["healthcheck"].keys() >= {"test", "interval", "timeout", "retries", "start_period"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert EXACT.fullmatch(image), f"{image} must name an exact version"
    if "build" in SERVICES[name]:
        version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
        assert version
        assert image == f"ratchet:{version[1]}"


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAME.search(variable) and not variable.endswith("_FILE") and variable != "RATCHET_SECRETS":
            assert PLACEHOLDER.fullmatch(value), f"{variable} must be {{{{name}}}}"
        password = re.search(r"://[^/@]*:([^@/]*)@", str(value))
        assert not variable.endswith("_ROLES") or all(map(PLACEHOLDER.fullmatch, json.loads(value).values()))
        assert not password or PLACEHOLDER.fullmatch(password[1]), f"{variable} holds a password"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"secrets", "postgres", "owner"}))
def test_no_service_but_owner_has_the_password_of_who_owns_the_ledger(name: str) -> None:
    assert "postgres-secrets" not in mounts(SERVICES[name])
    assert "ratchet" not in {login for login, _, _ in logins(name)}
    assert PASSWORDS["postgres"] == ("postgres",)


@pytest.mark.parametrize("name", SERVICES)
def test_each_database_is_asked_by_a_role_of_its_own_with_its_own_password(name: str) -> None:
    owned = {"airflow": ("airflow", "airflow"), "mlflow": ("mlflow", "mlflow"), "optuna": ("optuna", "optuna")}
    ledger = ("ratchet", "postgres") if name == "owner" else (COMPONENTS_ROLE, "components")
    for login, password, database in logins(name):
        assert (login, password) == {**owned, "ratchet": ledger}[database], name


def test_every_role_that_services_connect_as_is_made_by_owner_with_the_password_they_have() -> None:
    given = json.loads(SERVICES["owner"]["environment"]["RATCHET_DATABASE_ROLES"])
    asked = {(login, f"{{{{{password}}}}}") for name in SERVICES for login, password, _ in logins(name)}
    assert asked - {("ratchet", "{{postgres}}")} == set(given.items())


def test_owner_reads_nothing_that_another_service_writes() -> None:
    assert mounts(SERVICES["owner"]) == {"postgres-secrets": "/run/secrets/postgres:ro"}
    assert f"ratchet ledger grant {COMPONENTS_ROLE}\n" in (ROOT / "deploy/container/owner").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_addresses_for_sqlalchemy_name_the_driver_that_is_there(name: str) -> None:
    ours = {"RATCHET_DATABASE_URL"}  # read by our own code
    for variable, value in SERVICES[name].get("environment", {}).items():
        if "postgresql" in str(value) and variable not in ours:
            assert "postgresql+psycopg2://" in value, variable


def test_nothing_of_the_file_depends_on_who_starts_it_but_ports() -> None:
    asked = set(re.findall(r"(?<!\$)\$\{?(\w+)", TEXT))
    assert asked == {f"RATCHET_{name}_PORT" for name in ("AIRFLOW", "MLFLOW", "PROMETHEUS", "GRAFANA")}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("profile", PROFILES)
def test_services_wait_in_an_order_for_what_is_started_with_them(profile: str) -> None:
    services = of_profile(profile)
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert {other for each in waits.values() for other in each} <= set(services)
    order = list(TopologicalSorter(waits).static_order())
    assert order.index("secrets") < order.index("postgres")
    for each in waits.values():
        for other, how in each.items():
            wanted = "service_completed_successfully" if is_once(services[other]) else "service_healthy"
            assert how["condition"] == wanted


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    for source in mounts(SERVICES[name]):
        if source.startswith("./"):
            later = source == "./deploy/observability"  # rules and dashboards; the profile runs without them
            assert later or (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used() -> None:
    assert set(COMPOSE["volumes"]) == {
        source for service in SERVICES.values() for source in mounts(service) if not source.startswith("./")
    }


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"secrets"}))
def test_secrets_are_read_only_and_the_authoritys_key_is_nowhere(name: str) -> None:
    for source, target in mounts(SERVICES[name]).items():
        if source.endswith("-secrets"):
            assert target == f"/run/secrets/{source.removesuffix('-secrets')}:ro"
        assert source != "authority-secrets"
        assert source != "operator-secrets" or name == "cluster-init"


def test_ours_are_the_variables_that_our_code_reads() -> None:
    scripts = [file for file in (ROOT / "deploy/container").rglob("*") if file.is_file()]
    ours = [*(ROOT / "include/ratchet").rglob("*.py"), *scripts, ROOT / "deploy/kafka/start"]
    read = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", "\n".join(file.read_text() for file in ours)))
    ids = [value for value in vars(connections).values() if str(value).startswith("ratchet_")]
    known = {f"AIRFLOW_CONN_{each.upper()}" for each in ids}
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            if variable.startswith("AIRFLOW_CONN_"):
                assert variable in known, f"{name}: {variable}"
            elif not variable.startswith(("AIRFLOW__", "MLFLOW_")):
                assert variable in read | OTHERS, f"{name}: nothing reads {variable}"


def test_the_image_is_pinned_made_in_stages_and_ends_as_another_user_than_root() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    base = re.search(r"^ARG BASE=(\S+)", dockerfile, flags=re.MULTILINE)
    assert base
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base[1])
    assert re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.findall(r"^USER (\S+)", dockerfile, flags=re.MULTILINE) == ["10001"]


def test_what_the_image_takes_is_let_in_and_nothing_else() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert let_in == {part for copy in copies for part in copy.split()}
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")
