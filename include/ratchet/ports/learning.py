"""How an estimator is fitted, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ratchet.domain.artifact import Scorer

Watch = Callable[[float, Scorer], bool]
"""Asked while a scorer grows: (share of its rounds, in (0, 1); the scorer so far) → true to grow it no further."""


class Learner(Protocol):
    """One family of estimators, named in a spec by its dotted path (``train.estimator``)."""

    estimator: str

    def categories(self, rows: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The sorted values of each categorical feature on the rows: the frozen list an artifact carries."""
        ...

    def prepare(
        self,
        rows: Any,
        label: Any,
        *,
        features: Sequence[str],
        categories: Mapping[str, tuple[str, ...]],
        threads: int,
    ) -> Any:
        """The rows in the form ``fit`` takes, made once and used by every trial."""
        ...

    def fit(
        self, prepared: Any, params: Mapping[str, Any], *, seed: int, threads: int, watch: Watch | None = None
    ) -> Scorer:
        """A scorer; the same rows in the same order, parameters and seed give the same scores to the bit.

        ``watch`` is asked at the same few shares of the rounds whatever the parameters; a scorer it has stopped is
        returned as it was then, one it has not stopped is the same to the bit as without it. It is never asked where
        the estimator does not grow by rounds.

        Raises:
            Refused: the estimator does not take these parameters.

        """
        ...

    def versions(self) -> dict[str, str]:
        """The library versions the fit depends on."""
        ...
