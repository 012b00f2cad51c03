"""Who asks, and what they may do: the questions that the application asks of whoever it is mounted in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from starlette.requests import HTTPConnection

Act = Literal["read", "retrain", "answer", "rollback", "audit"]
"""See a model; ask for its retrain, or give its events another chance; answer whether a challenger may serve; take a
champion back; read the audit log."""


@dataclass(frozen=True)
class Person:
    """Who asks: the id and the name by which the audit log knows them, and the deployment's own word for them."""

    id: str
    name: str
    user: Any = field(default=None, repr=False, compare=False)


class Access(Protocol):
    """Authentication and authorisation of the deployment."""

    async def identify(self, request: HTTPConnection) -> Person:
        """Who sends this request, by its token or its cookie.

        Raises:
            HTTPException: 401, nobody who is known.

        """
        ...

    def allowed(self, person: Person, act: Act, models: Collection[str]) -> set[str]:
        """Those of the models with which the person may do this. May block: it is called on a thread."""
        ...

    def allowed_everywhere(self, person: Person, act: Act) -> bool:
        """Whether the person may do this with every model, and with what is of none. May block."""
        ...

    def login_url(self, back_to: str) -> str:
        """Where one logs in, to be led back to this address afterwards."""
        ...

    async def start(self, request: HTTPConnection, person: Person, model: str, conf: Mapping[str, Any]) -> str:
        """Start a run of the model's retrain DAG for this person, with these values of its form; return the run's id.

        Raises:
            Problem: the deployment does not let them, or refuses the form; it says why.

        """
        ...
