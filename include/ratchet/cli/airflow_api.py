"""What the command line asks of Airflow's REST API, and how it waits for what follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from ratchet.adapters.connections import without_login
from ratchet.bootstrap import Ratchet
from ratchet.errors import Refused, Unavailable
from ratchet.ports.ledger import AWAITING_APPROVAL, AttemptRow
from ratchet.settings import Settings

OPEN = ("queued", "running")
NOT_FOUND = 404
DAG_SECONDS = 180.0
"""Airflow reads the models again every half minute, and takes longer where there are many."""


@dataclass(frozen=True)
class Airflow:
    """A logged-in client."""

    client: httpx.Client

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self.client.request(method, f"/api/v2{path}", **options)
        except httpx.HTTPError as error:
            raise Unavailable(f"Airflow did not answer at {self.client.base_url}: {error}. Run: ratchet up") from error

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self._answer(method, path, **options)
        if answer.status_code >= 400:
            raise Refused(f"Airflow refused {method} {path} with {answer.status_code}: {answer.text[:500]}")
        return answer.json()

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has read the DAG."""
        return self._answer("GET", f"/dags/{dag_id}").status_code != NOT_FOUND

    def wait_for_dag(self, dag_id: str, *, timeout_seconds: float = DAG_SECONDS, every_seconds: float = 1.0) -> None:
        """Return when Airflow has read the DAG, which it does some time after its spec has come.

        Raises:
            Unavailable: it has not after the timeout; the message says where to look.
        """
        end = time.monotonic() + timeout_seconds
        while not self.has_dag(dag_id):
            if time.monotonic() > end:
                raise Unavailable(
                    f"Airflow has no DAG {dag_id} after {timeout_seconds:.0f} s. Does it read the models of this "
                    "checkout (RATCHET_MODELS_DIR)? See: ratchet status, and the import errors in Airflow"
                )
            time.sleep(every_seconds)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with this form; returns its id."""
        run = self._ask("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        run = self._ask("GET", f"/dags/{dag_id}/dagRuns/{httpx.URL(run_id).raw_path.decode().lstrip('/')}")
        return str(run["state"])


def connect(settings: Settings) -> Airflow:
    """Log in with the settings' user.

    Raises:
        Refused: no address or user is set, the address has a login in it, or the login is refused.
        Unavailable: Airflow does not answer.
    """
    if not settings.airflow_url or not settings.airflow_user:
        raise Refused("RATCHET_AIRFLOW_URL, _USER and _PASSWORD are not set. Start the local stack: ratchet up")
    base, login = without_login(settings.airflow_url.rstrip("/"))
    if login is not None:
        raise Refused("RATCHET_AIRFLOW_URL must have no login in it: set RATCHET_AIRFLOW_USER and _PASSWORD")
    credentials = {"username": settings.airflow_user, "password": settings.airflow_password}
    try:
        answer = httpx.post(f"{base}/auth/token", json=credentials, timeout=60)
    except httpx.HTTPError as error:
        raise Unavailable(f"Airflow did not answer at {base}: {error}. Run: ratchet up") from error
    if answer.status_code >= 400:
        raise Refused(f"Airflow refused the login of {settings.airflow_user!r} with {answer.status_code}")
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return Airflow(httpx.Client(base_url=base, headers=headers, timeout=60))


def wait_for_attempt(
    ratchet: Ratchet,
    model: str,
    run_id: str,
    *,
    promoted: bool = False,
    timeout_seconds: float = 900,
    tell: Callable[[str], None] = lambda _: None,
) -> AttemptRow:
    """Wait until the run's attempt has ended (with ``promoted``, until a promotion has been made too, or is asked for).

    Raises ``Refused`` when the run ended without an attempt, ``Unavailable`` after the timeout.
    """
    airflow = connect(ratchet.settings)
    dag_id = f"retrain__{model}"
    end = time.monotonic() + timeout_seconds
    while time.monotonic() < end:
        with ratchet.ledger.transaction() as tx:
            found = tx.attempts(dag_run=(dag_id, run_id))
        waiting = ("claimed", "snapshotted", "tuned", "judged") if promoted else ("claimed", "snapshotted", "tuned")
        if found and found[0].state not in waiting:
            return found[0]
        state = found[0].state if found else airflow.run_state(dag_id, run_id)
        if not found and state not in OPEN:
            raise Refused(f"run {run_id} ended without an attempt: its first task says why. See the run in Airflow.")
        tell(f"{found[0].id} {state}" if found else state)
        time.sleep(0.5)
    raise Unavailable(f"run {run_id} of {dag_id} has no verdict after {timeout_seconds:.0f} s; it goes on in Airflow")


def outcome_of(attempt: AttemptRow) -> str:
    """What became of an attempt, in one sentence."""
    verdict = f"verdict {attempt.verdict}, challenger version {attempt.challenger_version}"
    asked = ". People must agree: ratchet approvals" if attempt.state == AWAITING_APPROVAL else ""
    return f"{attempt.id}: {attempt.state}, {verdict}{asked}"
