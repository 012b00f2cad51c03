"""Where lineage goes."""

from __future__ import annotations

from typing import Any, Protocol


class LineageSink(Protocol):
    """Takes OpenLineage's run events."""

    @property
    def namespace(self) -> str:
        """The namespace of our jobs."""
        ...

    def tell(self, event: dict[str, Any]) -> None:
        """Hand over one event.

        Raises:
            Unavailable: it was not taken; telling it again may help.
        """
        ...
