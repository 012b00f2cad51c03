"""How an estimator is fitted, whichever library it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ratchet.domain.artifact import Scorer


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

    def fit(self, prepared: Any, params: Mapping[str, Any], *, seed: int, threads: int) -> Scorer:
        """A scorer; the same rows in the same order, parameters and seed give the same scores to the bit.

        Raises:
            Refused: the estimator does not take these parameters.

        """
        ...

    def versions(self) -> dict[str, str]:
        """The library versions the fit depends on."""
        ...
