"""A probe says why a server is not ready; it never ends the supervisor that asks."""

from __future__ import annotations

import socket
import threading

import pytest

from ratchet.stack import probes


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_answer_that_is_no_http_is_a_reason_to_wait(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(1_000))

        threading.Thread(target=echo, daemon=True).start()
        said = probes.check({"kind": "http", "url": f"http://127.0.0.1:{port}/health"}, started_at=0)
    assert said is not None
    assert "GET /health" in said


@pytest.mark.parametrize("kind", ["tcp", "kafka"])
def test_a_connection_to_itself_is_no_server(kind: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = socket.create_connection

    def to_itself(address: tuple[str, int], timeout: float) -> socket.socket:
        return whole(address, timeout=timeout, source_address=address)

    monkeypatch.setattr(socket, "create_connection", to_itself)
    said = probes.check({"kind": kind, "host": "127.0.0.1", "port": port}, started_at=0)
    assert said == f"nobody listens on port {port}"
