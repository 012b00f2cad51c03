"""Airflow with FAB's auth manager and this repository's plugin, in a process and on databases of its own.

Prints, as JSON, what each person may do with each of two models: run by test_fab_roles.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
from airflow.api_fastapi import app as airflow_app
from airflow.utils.db import initdb

from ratchet.adapters.ledger import SqlLedger
from ratchet.adapters.specs import load_spec

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password of this test"
TEAM = {
    "retrain": {"DAGs": {"can_read", "can_edit"}, "DAG Runs": {"can_create"}},
    "rollback": {"DAGs": {"can_read", "can_edit"}, "DAG Runs": {"can_create"}},
    "promote": {"DAGs": {"can_read", "can_edit"}},
}
"""What the owners of a model are given on its DAGs."""
PEOPLE = {"ada": ["Admin"], "vic": ["Viewer"], "mia": ["team_m1"], "sue": []}


def ledger_of_two(folder: Path) -> None:
    """Models m1 and m2, deployed."""
    ledger = SqlLedger(f"sqlite:///{folder}/ledger.db")
    ledger.migrate()
    spec = load_spec(ROOT / "include" / "models" / "flight_delay")
    with ledger.transaction() as tx:
        for model in ("m1", "m2"):
            one = spec.model_copy(update={"model": model})
            tx.publish_spec(model, one.digest, one.model_dump(mode="json"))
            tx.audit("ann", "champion.rolledback", model, {"reason": "r"})
        tx.audit("ann", "clock.set", None, {"reason": "r"})
    ledger.dispose()


def people(server: Any) -> None:
    """Roles and people, as an administrator would make them."""
    flask = airflow_app.get_auth_manager().flask_app
    with flask.app_context():
        security = flask.appbuilder.sm
        team = security.add_role("team_m1")
        for right, resource in (("can_read", "DAG Runs"), ("can_edit", "HITL Detail"), ("can_read", "Audit Logs")):
            security.add_permission_to_role(team, security.create_permission(right, resource))
        for verb, rights in TEAM.items():
            for model in ("m1", "m2"):
                security.sync_perm_for_dag(f"{verb}__{model}", {"team_m1": rights} if model == "m1" else {})
        for name, roles in PEOPLE.items():
            found = [security.find_role(role) for role in roles]
            security.add_user(name, name, name, f"{name}@example.com", role=found, password=PASSWORD)


def ask(server: Any, method: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(server, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow.test") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(asked())


def rights(server: Any, name: str) -> dict[str, Any]:
    """The statuses of what a person asks for; 409 is a rule of ours, which only those hear who may."""
    token = ask(server, "POST", "/auth/token", json={"username": name, "password": PASSWORD}).json()["access_token"]
    seen = ask(server, "GET", "/ratchet/v1/models", token).json()
    told: dict[str, Any] = {"models": [row["model"] for row in seen["items"]]}
    told["page"] = ask(server, "GET", "/ratchet/models", token).status_code
    told["letters"] = ask(server, "GET", "/ratchet/v1/dead-letters", token).status_code
    told["again"] = ask(server, "POST", "/ratchet/v1/dead-letters/replay", token, json={"reason": "r"}).status_code
    entries = ask(server, "GET", "/ratchet/v1/audit", token).json()["items"]
    told["audit"] = sorted({str(row["model"]) for row in entries})
    for model in ("m1", "m2"):
        one = f"/ratchet/v1/models/{model}"
        told[model] = {"read": ask(server, "GET", one, token).status_code}
        for act in ("retrain", "rollback"):
            told[model][act] = ask(server, "POST", f"{one}/{act}", token, json={"reason": "r"}).status_code
    return told


def main(folder: Path) -> None:
    ledger_of_two(folder)
    initdb()
    server = airflow_app.create_app("all")
    people(server)
    told: dict[str, Any] = {name: rights(server, name) for name in PEOPLE}
    told["nobody"] = ask(server, "GET", "/ratchet/v1/models").status_code
    token = ask(server, "POST", "/auth/token", json={"username": "ada", "password": PASSWORD}).json()["access_token"]
    entries = ask(server, "GET", "/ratchet/v1/audit", token, params={"action": "retrain"}).json()["items"]
    told["audited"] = sorted((row["actor"], row["model"], row["detail"]["user_id"]) for row in entries)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
