"""The steps between the servers, each a unit: ``python -m ratchet.stack.prepare <step>``. Each can be repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import psycopg2

from ratchet import settings
from ratchet.adapters.connections import OPTUNA, EnvResolver, study_url
from ratchet.errors import RatchetError
from ratchet.stack import kafka, plan, postgres, probes
from ratchet.stack.config import StackConfig, load_config
from ratchet.stack.control import StackError


def _airflow(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "airflow", *arguments], check=True)


def migrate_airflow(config: StackConfig) -> None:
    """``airflow db migrate``, which takes seconds, only for a new database or another Airflow than last time."""
    dsn = config.database("airflow")
    marker = config.home / "airflow" / "migrated"
    wanted = f"{version('apache-airflow')} {plan.database_host(config)}"
    tables = postgres.query(dsn, "SELECT to_regclass('public.alembic_version') IS NOT NULL")[0][0]
    if tables and marker.exists() and marker.read_text() == wanted:
        return
    _airflow("db", "migrate")
    marker.write_text(wanted)


def make_study_tables(_: StackConfig) -> None:
    """Optuna's tables, made once per database: the first worker of a first attempt would wait seconds for them.

    By the connection of those who use them, so that the tables are their role's. What is no server has none to make.
    """
    url = study_url(EnvResolver(settings.environment()).resolve(OPTUNA))
    kind, rest = url.split("://", 1)
    if kind != "postgresql+psycopg2":
        return
    dsn = f"postgresql://{rest}"
    if postgres.query(dsn, "SELECT to_regclass('public.alembic_version') IS NOT NULL")[0][0]:
        return
    from ratchet.adapters.studies_optuna import OptunaStudies  # noqa: PLC0415 - the other steps need not wait for it

    OptunaStudies(url).prepare()


def _post(url: str, content: Mapping[str, object], token: str | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(content).encode(), headers)  # noqa: S310 - our own loopback address
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        created: dict[str, Any] = json.loads(answer.read())
        return created


def make_pool(config: StackConfig) -> None:
    """The pool of the training tasks; slots that a person changed since are left as they are."""
    user = {"username": "admin", "password": config.secrets["admin"]}
    token = _post(f"{config.airflow_url}/auth/token", user)["access_token"]
    pool = {"name": "ratchet_training", "slots": plan.TRAINING_POOL_SLOTS, "description": "training tasks of Ratchet"}
    try:
        _post(f"{config.airflow_url}/api/v2/pools", pool, token)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.CONFLICT:
            raise


def create_databases(config: StackConfig) -> None:
    """The databases, on our server or on the one given. Raises StackError where the given one cannot be used."""
    with _told_as_ours(config):
        postgres.create_databases(config)


def make_roles(config: StackConfig) -> None:
    """The roles of RATCHET_DATABASE_ROLES, a JSON object of their passwords, each with what is to be its own."""
    given = settings.environment().get("RATCHET_DATABASE_ROLES")
    if not given:
        raise StackError("RATCHET_DATABASE_ROLES: must say the password of each role, as JSON")
    with _told_as_ours(config):
        postgres.make_roles(config, json.loads(given))


@contextmanager
def _told_as_ours(config: StackConfig) -> Iterator[None]:
    try:
        yield
    except psycopg2.Error as error:
        raise StackError(f"PostgreSQL at {plan.database_host(config)}: {error}") from error


def check_given_broker(config: StackConfig) -> None:
    """A broker of others is only asked whether it is there."""
    host, _, port = config.bootstrap.split(",")[0].rpartition(":")
    reason = probes.check({"kind": "tcp", "host": host, "port": int(port)}, started_at=0.0)
    if reason is not None:
        raise StackError(f"RATCHET_KAFKA_BOOTSTRAP: no broker answers at {config.bootstrap}: {reason}")


def make_buckets(_: StackConfig) -> None:
    """The buckets of RATCHET_BUCKETS (names with commas) where storage is S3, as the AWS variables say."""
    import boto3  # noqa: PLC0415 - only the image has it

    client = boto3.client("s3")
    present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in settings.environment().get("RATCHET_BUCKETS", "").split(","):
        if name and name not in present:
            client.create_bucket(Bucket=name)


STEPS: Mapping[str, Callable[[StackConfig], None]] = {
    "postgres": postgres.initialise,
    "databases": create_databases,
    "roles": make_roles,
    "kafka": kafka.prepare,
    "kafka-given": check_given_broker,
    "airflow-migrate": migrate_airflow,
    "airflow-pool": make_pool,
    "study-tables": make_study_tables,
    "buckets": make_buckets,
}


def main(step: str) -> None:
    """Run one step; exit 1 with one sentence when it cannot be done."""
    config = load_config(settings.load_settings(), settings.environment())
    try:
        STEPS[step](config)
    except (RatchetError, subprocess.CalledProcessError) as error:
        sys.exit(f"ratchet: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
