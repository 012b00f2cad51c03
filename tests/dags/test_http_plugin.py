"""Airflow mounts the API and guards it by its own tokens, cookie and permissions; elsewhere it costs nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.utils.db import initdb

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec
from ratchet.api.access import Person
from ratchet_http import AirflowAccess

PATH = "/ratchet/v1/models"


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Airflow's own application with this plugin, on a database of its own, and who may log in."""
    folder = tmp_path_factory.mktemp("http")
    ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
    ledger.migrate()
    spec = load_spec(root / "include" / "models" / "flight_delay")
    with ledger.transaction() as tx:
        tx.publish_spec(spec.model, spec.digest, spec.model_dump(mode="json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_HOME", str(folder))
        patch.setenv("AIRFLOW_CONN_RATCHET_LEDGER", f"sqlite:///{folder}/ledger.db")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "vic:viewer,ursula:user")
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET", "a secret of sixty-four characters, that SHA-512 asks for, at least"
        )
        initdb()
        airflow_app.purge_cached_app()
        yield airflow_app.create_app("core")
        airflow_app.purge_cached_app()
    ledger.dispose()


def ask(
    server: Any, method: str, path: str, role: str | None, *, cookie: bool = False, **options: Any
) -> httpx.Response:
    headers = options.pop("headers", {})
    if role is not None:
        user = SimpleAuthManagerUser(username=f"the {role}", role=role)
        token = airflow_app.get_auth_manager().generate_jwt(user)
        headers |= {"Cookie": f"_token={token}"} if cookie else {"Authorization": f"Bearer {token}"}

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(server, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.test") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(asked())


def test_no_request_but_the_first_waits_for_a_collection_that_looks_at_all_that_the_server_has_loaded(server):
    ask(server, "GET", PATH, "viewer")
    before = gc.get_freeze_count()
    ask(server, "GET", PATH, "viewer")
    assert before >= gc.get_freeze_count() > 100_000


def test_airflow_mounts_it_and_a_viewer_sees_and_changes_nothing(server: Any) -> None:
    assert ask(server, "GET", PATH, None).status_code == 401
    assert ask(server, "GET", PATH, None, headers={"Authorization": "Bearer x"}).status_code in {401, 403}
    seen = ask(server, "GET", PATH, "VIEWER")
    assert (seen.status_code, [row["model"] for row in seen.json()["items"]]) == (200, ["flight_delay"])
    assert seen.headers["x-content-type-options"] == "nosniff"
    for act in ("retrain", "rollback"):
        answer = ask(server, "POST", f"{PATH}/flight_delay/{act}", "VIEWER", json={"reason": "r"})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:ratchet:problem:forbidden")


def test_airflows_user_acts_under_the_name_that_airflow_knows(server: Any) -> None:
    answer = ask(server, "POST", f"{PATH}/flight_delay/retrain", "USER", json={"reason": "new routes"})
    assert answer.status_code == 202, answer.text
    entries = ask(server, "GET", "/ratchet/v1/audit", "USER", params={"action": "retrain"}).json()["items"]
    assert [(row["actor"], row["detail"]["user_id"]) for row in entries] == [("the USER", "the USER")]


def test_a_run_is_started_through_airflows_own_api(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet_http.serving", lambda: server)
    path = f"{PATH}/flight_delay/runs"
    answer = ask(server, "POST", path, "USER", json={"reason": "r"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:ratchet:problem:not-found"), answer.text
    assert "Dag with dag_id: 'retrain__flight_delay' not found" in answer.json()["detail"]
    assert ask(server, "POST", path, "VIEWER", json={"reason": "r"}).status_code == 403
    own = {"Origin": "http://airflow.test"}
    assert ask(server, "POST", path, "USER", cookie=True, json={"reason": "r"}, headers=own).status_code == 404


def test_airflows_cookie_reads_and_changes_nothing_from_elsewhere(server: Any) -> None:
    assert ask(server, "GET", PATH, "USER", cookie=True).status_code == 200
    path, body = f"{PATH}/flight_delay/retrain", {"reason": "r"}
    evil = {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}
    answer = ask(server, "POST", path, "USER", cookie=True, json=body, headers=evil)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:ratchet:problem:cross-site")
    own = {"Origin": "http://airflow.test"}
    assert ask(server, "POST", path, "USER", cookie=True, json=body, headers=own).status_code == 202


def test_permissions_are_asked_of_the_dag_that_does_it_in_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Manager:
        def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
            asked.append((method, access_entity.value if access_entity else None, details.id))
            return details.id != "promote__two"

    asked: list[Any] = []
    monkeypatch.setattr(airflow_app, "get_auth_manager", Manager)
    monkeypatch.setattr("airflow.models.dag.DagModel.get_dag_id_to_team_name_mapping", lambda _: {})
    access, ada = AirflowAccess(), Person("1", "ada")
    assert access.allowed(ada, "answer", ["one", "two"]) == {"one"}
    assert access.allowed(ada, "read", ["one"]) == access.allowed(ada, "rollback", ["one"]) == {"one"}
    assert access.allowed_everywhere(ada, "audit")
    assert asked == [
        ("PUT", "HITL_DETAIL", "promote__one"),
        ("PUT", "HITL_DETAIL", "promote__two"),
        ("GET", None, "retrain__one"),
        ("POST", "RUN", "rollback__one"),
        ("GET", "AUDIT_LOG", "*"),
    ]


def test_components_that_serve_nothing_import_nothing_for_it(root: Path) -> None:
    code = "import json, sys; import ratchet_http; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(root / "plugins")},
        capture_output=True,
        check=True,
    )
    loaded = set(json.loads(answer.stdout.splitlines()[-1]))
    heavy = {"fastapi", "ratchet.api", "ratchet.bootstrap", "ratchet.domain.spec", "numpy", "pandas", "kafka", "mlflow"}
    assert not loaded & heavy
