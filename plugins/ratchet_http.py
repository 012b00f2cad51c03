"""Ratchet's pages and API, mounted in Airflow's api-server at /ratchet: docs/api.md.

Every component loads this file under its bare name; only the api-server asks the plugin for its application, and only
then is anything heavy imported.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import gc
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.sdk.configuration import conf
from airflow.sdk.plugins_manager import AirflowPlugin

import ratchet_airflow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Receive, Scope, Send

    from ratchet.adapters.connections import ConnectionInfo
    from ratchet.api.access import Act, Person


BASE = urlsplit(conf.get("api", "base_url", fallback="/")).path.rstrip("/")
"""Where this deployment serves Airflow, below its host."""


class RatchetHttp(AirflowPlugin):
    """What Airflow mounts."""

    name = "ratchet_http"

    external_views: ClassVar[list[dict[str, Any]]] = [
        {"name": "Models", "href": f"{BASE}/ratchet/models", "destination": "nav", "url_route": "ratchet"}
        | {"nav_top_level": True, "icon": f"{BASE}/ratchet/static/icon.svg"}
        | {"icon_dark_mode": f"{BASE}/ratchet/static/icon-dark.svg"},
        {"name": "Model", "href": f"{BASE}/ratchet/dag/{{DAG_ID}}", "destination": "dag", "url_route": "ratchet_model"},
        {"name": "Attempt", "href": f"{BASE}/ratchet/run/{{DAG_ID}}/{{RUN_ID}}", "destination": "dag_run"}
        | {"url_route": "ratchet_attempt"},
    ]

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The application; made when the api-server asks for it."""
        from ratchet.api.app import PREFIX
        from ratchet.bootstrap import wire
        from ratchet.pages.app import create_app

        app = create_app(wire(ServerResolver()), AirflowAccess())
        app.add_middleware(Settled)
        return [{"app": app, "url_prefix": PREFIX, "name": "Ratchet"}]


class Settled:
    """Once a first request was answered, what the server has loaded by then stays for good.

    Python's full collections would otherwise look at all of it again, 800,000 objects of Airflow's mostly, and stop
    every request for 0.4 s each time (docs/decisions/0098).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._settled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the first time, settle."""
        await self._app(scope, receive, send)
        if not self._settled:
            self._settled = True
            gc.collect()
            gc.freeze()


class ServerResolver:
    """Finds connections from the api-server, where no task runs: any secrets backend works."""

    def resolve(self, conn_id: str) -> ConnectionInfo:
        """Return the connection; raises ``UnknownConnection`` when nobody defined it."""
        from airflow.exceptions import AirflowNotFoundException
        from airflow.models.connection import Connection

        from ratchet.adapters.connections import unknown_connection

        try:
            found = Connection.get_connection_from_secrets(conn_id)
        except AirflowNotFoundException:
            raise unknown_connection(conn_id) from None
        return ratchet_airflow.connection_info(found, found.extra_dejson)


class AirflowAccess:
    """Airflow's own authentication, and its permissions on the DAGs of each model."""

    async def identify(self, request: HTTPConnection) -> Person:
        """Who sends this, by token or cookie, as Airflow's own API would take it."""
        from airflow.api_fastapi.core_api.security import bearer_scheme, get_user

        from ratchet.api.access import Person

        user = await get_user(request, None, await bearer_scheme(request))
        return Person(id=str(user.get_id()), name=user.get_name(), user=user)

    def allowed(self, person: Person, act: Act, models: Collection[str]) -> set[str]:
        """Those of the models on whose DAG Airflow lets this person do what the act comes to."""
        from airflow.models.dag import DagModel

        dags = {dag_of(act, model): model for model in models}
        teams = DagModel.get_dag_id_to_team_name_mapping(list(dags)) if dags else {}
        return {model for dag_id, model in dags.items() if self._may(person, act, dag_id, teams.get(dag_id))}

    def allowed_everywhere(self, person: Person, act: Act) -> bool:
        """Whether Airflow lets this person do it with every DAG.

        Asked about none, FAB's manager tells whether there is one that they may list, and looks at the DAG no further:
        it is asked about a DAG that nobody can have been given alone.
        """
        return self._may(person, act, NO_DAG, None)

    def login_url(self, back_to: str) -> str:
        """Airflow's own login, of whichever auth manager."""
        from airflow.api_fastapi.app import get_auth_manager

        return str(get_auth_manager().get_url_login(next_url=back_to))

    async def start(self, request: HTTPConnection, person: Person, model: str, conf: Mapping[str, Any]) -> str:
        """Through Airflow's own API, in this process: its permissions, its check of the form, its audit log."""
        import httpx

        from ratchet.api.problems import Problem

        token = request.headers.get("authorization") or f"Bearer {request.cookies.get('_token', '')}"
        headers = {"Authorization": token, "Referer": str(request.url)}
        body = {"logical_date": None, "conf": dict(conf)}
        transport = httpx.ASGITransport(serving(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as airflow:
            answer = await airflow.post(f"/api/v2/dags/{dag_of('retrain', model)}/dagRuns", json=body, headers=headers)
        if answer.is_success:
            return str(answer.json()["dag_run_id"])
        kind = {401: "unauthenticated", 403: "forbidden", 404: "not-found"}.get(answer.status_code, "refused")
        said = answer.json().get("detail") if answer.status_code < 500 else "an error; its log says more"
        raise Problem(kind, f"Airflow started no run for {person.name}: {said}")

    def _may(self, person: Person, act: Act, dag_id: str, team: str | None) -> bool:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

        method, entity = ASKED[act]
        return bool(
            get_auth_manager().is_authorized_dag(
                method=method,
                access_entity=DagAccessEntity[entity] if entity else None,
                details=DagDetails(id=dag_id, team_name=team),
                user=person.user,
            )
        )


ASKED: dict[str, tuple[Any, str | None]] = {
    "read": ("GET", None),
    "audit": ("GET", "AUDIT_LOG"),
    "retrain": ("POST", "RUN"),
    "rollback": ("POST", "RUN"),
    "answer": ("PUT", "HITL_DETAIL"),
}
"""What Airflow is asked: to see a DAG, its audit log, to trigger it, to answer its human-in-the-loop task."""
NO_DAG = "*"
"""Never a DAG's id: Airflow takes none with such a character."""
VERBS = {"answer": "promote", "rollback": "rollback"}


def serving() -> ASGIApp:
    """The application that serves this process, as ``airflow.api_fastapi.main`` made it."""
    from airflow.api_fastapi.app import cached_app

    return cached_app(apps=os.environ.get("AIRFLOW_API_APPS", "all"))


def dag_of(act: str, model: str) -> str:
    """The DAG that does it where a person does it in Airflow."""
    return f"{VERBS.get(act, 'retrain')}__{model}"
