"""A signature covers all that a request says, and is believed for minutes."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from ratchet.domain.signing import CLOCK_WINDOW, SignedRequest, is_fresh, is_signed, sign
from ratchet.settings import load_settings

SECRET = "s" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST = SignedRequest(
    timestamp="1767323045",
    method="POST",
    target="/v1/events?model=m",
    headers=(("Content-Type", "application/json"), ("CE-Id", "7"), ("Accept", "*/*")),
    body=b"{}",
)


def test_the_signature_is_what_the_documentation_says() -> None:
    lines = [
        "ratchet-v1",
        "1767323045",
        "POST /v1/events?model=m",
        "ce-id:7",
        "content-type:application/json",
        hashlib.sha256(b"{}").hexdigest(),
    ]
    assert sign(SECRET, REQUEST) == hmac.new(SECRET.encode(), "\n".join(lines).encode(), "sha256").hexdigest()


@pytest.mark.parametrize(
    "forged",
    [
        replace(REQUEST, timestamp="1767323046"),
        replace(REQUEST, method="PUT"),
        replace(REQUEST, target="/v1/events?model=n"),
        replace(REQUEST, headers=(("Content-Type", "application/json"), ("CE-Id", "8"))),
        replace(REQUEST, headers=(("Content-Type", "application/json"),)),
        replace(REQUEST, headers=(("Content-Type", "application/json"), ("CE-Id", "7"), ("ce-subject", "n"))),
        replace(REQUEST, body=b"{ }"),
    ],
)
def test_whatever_is_changed_afterwards_is_not_signed(forged: SignedRequest) -> None:
    signature = sign(SECRET, REQUEST)
    assert is_signed(signature, [SECRET], REQUEST)
    assert not is_signed(signature, [SECRET], forged)


def test_while_a_secret_is_replaced_both_are_believed() -> None:
    old, new = "o" * 32, "n" * 32
    assert is_signed(sign(old, REQUEST), [new, old], REQUEST)
    assert not is_signed(sign(old, REQUEST), [new], REQUEST)
    assert not is_signed(sign(old, REQUEST), [], REQUEST)


@pytest.mark.parametrize("text", ["", "é" * 64, "A" * 64, "0" * 63])
def test_what_is_no_signature_is_refused_without_an_error(text: str) -> None:
    assert not is_signed(text, [SECRET], REQUEST)


@pytest.mark.parametrize(
    ("ahead", "believed"),
    [(timedelta(0), True), (CLOCK_WINDOW, True), (-CLOCK_WINDOW, True), (2 * CLOCK_WINDOW, False)],
)
def test_a_request_is_believed_near_its_time(ahead: timedelta, believed: bool) -> None:
    assert is_fresh(f"{(NOW + ahead).timestamp():.0f}", NOW) is believed


@pytest.mark.parametrize("text", ["", "now", "nan", "1e9", "-1", "١٧٦٧٣٢٣٠٤٥", "1767323045 "])
def test_what_is_no_timestamp_is_not_believed(text: str) -> None:
    assert not is_fresh(text, NOW)


def test_the_documentations_own_program_signs_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def post(url: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        target = url.removeprefix("http://airflow/ratchet")
        request = SignedRequest(headers["Ratchet-Timestamp"], "POST", target, tuple(headers.items()), content)
        assert is_signed(headers["Ratchet-Signature"], [SECRET], request)
        assert is_fresh(headers["Ratchet-Timestamp"], datetime.now(UTC))
        taken.append(headers["Ratchet-Key"])
        return httpx.Response(202, request=httpx.Request("POST", url))

    taken: list[str] = []
    page = (load_settings().root / "docs" / "api.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(program, names)
    monkeypatch.setattr(httpx, "post", post)
    names["send"]("http://airflow", "weather", SECRET, b"{}")  # type: ignore[operator]
    names["send"]("http://airflow", "weather", SECRET, b"{}", "application/json", "/v1/events/grafana?model=m")  # type: ignore[operator]
    assert taken == ["weather", "weather"]
