"""What the pages that list have in common."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

MOST = 50
"""Rows of one page."""
Filter = Annotated[str, Query(max_length=255, pattern=r"^[^\x00]*$")]
"""A field of a form that narrows a list; left empty it narrows nothing."""
Spot = Annotated[str | None, Query(max_length=500)]
"""Where a page begins."""
