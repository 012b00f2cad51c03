"""Lineage to an OpenLineage server (Marquez, DataHub, …) over HTTP, by the variables of OpenLineage's clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from ratchet.errors import Unavailable

TIMEOUT_SECONDS = 5.0


class HttpLineage:
    """``ratchet.ports.lineage.LineageSink`` over HTTP."""

    def __init__(self, url: str, *, namespace: str, api_key: str | None = None) -> None:
        self.namespace = namespace
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def tell(self, event: dict[str, Any]) -> None:
        """Post one event."""
        try:
            answer = httpx.post(self._url, json=event, headers=self._headers, timeout=TIMEOUT_SECONDS)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"the lineage server took no event: {type(error).__name__}: {error}") from error


def lineage_of(variables: Mapping[str, str]) -> HttpLineage | None:
    """Where lineage goes by these variables (``OPENLINEAGE_…``): None unless a URL is named."""
    url = variables.get("OPENLINEAGE_URL", "").rstrip("/")
    if not url or variables.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return None
    endpoint = variables.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage").strip("/")
    namespace = variables.get("OPENLINEAGE_NAMESPACE") or "ratchet"
    return HttpLineage(f"{url}/{endpoint}", namespace=namespace, api_key=variables.get("OPENLINEAGE_API_KEY"))
