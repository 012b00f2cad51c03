"""``ratchet champion init`` asks Airflow for a run once there is one to ask for, and says what is missing till then."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ratchet.cli import airflow_api, app, operate
from ratchet.errors import Refused, Unavailable


class Airflow:
    """An API that has read the DAG after so many questions for it."""

    def __init__(self, unread: int) -> None:
        self.unread = unread
        self.asked: list[str] = []

    def client(self) -> airflow_api.Airflow:
        transport = httpx.MockTransport(self._answer)
        return airflow_api.Airflow(httpx.Client(base_url="http://airflow", transport=transport))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path.removeprefix('/api/v2')}")
        if request.method == "POST":
            return httpx.Response(200, json={"dag_run_id": "manual__1"})
        self.unread -= 1
        return httpx.Response(404 if self.unread >= 0 else 200, json={})


class Ratchet:
    """A system whose data are known after so many questions for them."""

    settings = None

    def __init__(self, *said: str | None) -> None:
        self.said = list(said)

    def lacking(self, model: str) -> str | None:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


def init(monkeypatch: pytest.MonkeyPatch, ratchet: Ratchet, airflow: Airflow) -> str:
    monkeypatch.setattr(operate, "wire", lambda: ratchet)
    monkeypatch.setattr(operate, "DATA_SECONDS", 0.2)
    monkeypatch.setattr(airflow_api, "connect", lambda _: airflow.client())
    monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)
    done = CliRunner().invoke(app, ["champion", "init", "visits", "--no-wait"], catch_exceptions=False)
    return done.output


def test_a_dag_that_airflow_has_not_read_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow = Airflow(unread=3)
    said = init(monkeypatch, Ratchet(None), airflow)
    assert "waiting until Airflow has read the spec of visits" in said
    assert "started run manual__1 of retrain__visits" in said
    assert airflow.asked == ["GET /dags/retrain__visits"] * 4 + ["POST /dags/retrain__visits/dagRuns"]


def test_a_dag_that_is_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "waiting" not in init(monkeypatch, Ratchet(None), Airflow(unread=0))


def test_a_dag_that_never_comes_is_told_with_where_to_look() -> None:
    client = Airflow(unread=10**6).client()
    with pytest.raises(Unavailable, match=r"has no DAG retrain__visits after 0 s.*RATCHET_MODELS_DIR.*ratchet status"):
        client.wait_for_dag("retrain__visits", timeout_seconds=0.01, every_seconds=0.002)


def test_data_that_was_announced_a_moment_ago_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = init(monkeypatch, Ratchet("no data", "no data", None), Airflow(unread=0))
    assert "started run" in said


def test_data_that_nobody_announced_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow: Any = Airflow(unread=0)
    with pytest.raises(Refused, match=r"visits: no data: nothing has told.*ratchet publish data"):
        init(monkeypatch, Ratchet("no data: nothing has told how far visits is complete"), airflow)
    assert airflow.asked == []
