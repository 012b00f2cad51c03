"""What Prometheus scrapes: docs/observability.md."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from ratchet.api.door import DoorDep, scraper
from ratchet.api.problems import documented

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCRAPED: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus' text format 0.0.4.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
router = APIRouter(prefix="/v1")


@router.get(
    "/metrics",
    tags=["about"],
    summary="Metrics",
    response_class=Response,
    responses=SCRAPED | documented(),
    dependencies=[Depends(scraper)],
)
def metrics(door: DoorDep) -> Response:
    """What Ratchet measures of itself, read from the ledger now: for a Prometheus with the metrics token.

    A person needs the right to see every model.
    """
    return Response(door.ratchet.metrics(), media_type=CONTENT_TYPE)
