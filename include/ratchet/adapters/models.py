"""Estimators behind the ``Learner`` port, and artifacts on disk in their native form (never a pickle).

An artifact is a folder of two files: the model (``model.ubj``, XGBoost's own format, or ``model.skops``) and
``ratchet.json`` (features, frozen categories, calibration, threshold, parameters, and the SHA-256 of the model). The
digest of an artifact is the SHA-256 of ``ratchet.json``, so it covers both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ratchet.adapters.storage import MissingObjectError, sha256, sha256_file, write_atomically
from ratchet.domain.artifact import Floats, ModelArtifact, Platt, Scorer, Shift, batches
from ratchet.domain.estimators import HIST_GRADIENT_BOOSTING_REGRESSOR, SKLEARN_PARAMETERS
from ratchet.domain.expression import Expression
from ratchet.domain.payoff import CELLS, PayoffMatrix
from ratchet.errors import CorruptObjectError, Refused
from ratchet.ports.learning import Learner, Watch

if TYPE_CHECKING:
    import pandas as pd
    import xgboost as xgb

MODEL_FILE = "model.ubj"
SKLEARN_MODEL_FILE = "model.skops"
MODEL_FILES = (MODEL_FILE, SKLEARN_MODEL_FILE)
CARD_FILE = "ratchet.json"
CARD_FORMAT = "ratchet.artifact.v1"
CARD_FORMAT_OF_RULES = "ratchet.artifact.v2"
"""Of a card that decides by more than one number (formulas, a capacity): a reader of v1 must not overlook it."""

CARD_FORMAT_OF_REGRESSIONS = "ratchet.regression.v1"
"""Of a card without a threshold: its decision is the prediction."""

CARD_FORMAT_OF_RANKINGS = "ratchet.ranking.v1"
"""Of a card with neither threshold nor calibration: each day's best, as many as its capacity, are acted on."""

XGBOOST_CLASSIFIER = "xgboost.XGBClassifier"
XGBOOST_REGRESSOR = "xgboost.XGBRegressor"
XGBOOST_RANKER = "xgboost.XGBRanker"
SCORE_BATCH_ROWS = 65_536
DEFAULT_ROUNDS = 100
WATCHED = (1 / 3, 1 / 2, 2 / 3)
OWNED = frozenset({"n_jobs", "nthread", "random_state", "seed", "enable_categorical", "early_stopping_rounds"})


def categories_of(rows: pa.Table, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The sorted distinct values of each named column, as text, without missing ones.

    Raises:
        Refused: a named column is absent.

    """
    return {name: tuple(sorted(_as_text(_column(rows, name)).unique().drop_null().to_pylist())) for name in names}


def encode(rows: pa.Table, features: Sequence[str], categories: Mapping[str, tuple[str, ...]]) -> NDArray[np.float32]:
    """The features as one (n_rows, n_features) float32 matrix; a categorical value is its index in the frozen list.

    Missing numbers, and categorical values that are missing or not in the list, are NaN.

    Raises:
        Refused: a feature column is absent or neither number, boolean nor (declared) category.

    """
    matrix = np.empty((rows.num_rows, len(features)), dtype=np.float32, order="F")
    for position, name in enumerate(features):
        column = _column(rows, name)
        if name in categories:
            codes = pc.index_in(_as_text(column), value_set=pa.array(categories[name], type=pa.string()))
            values = codes.cast(pa.float32())
        elif pa.types.is_boolean(column.type):
            values = column.cast(pa.int8()).cast(pa.float32())
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            values = column.cast(pa.float32(), safe=False)
        elif pa.types.is_null(column.type):
            values = column.cast(pa.float32())
        else:
            raise Refused(
                f"feature {name!r} must be a number, a boolean or a declared categorical, but got {column.type}. "
                "Declare it categorical in the feature service or leave it out."
            )
        matrix[:, position] = pc.fill_null(values, float("nan")).to_numpy()
    return matrix


def encode_frame(rows: pa.Table, features: Sequence[str], categories: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """The features as a pandas frame (float32 and ``Categorical`` over the frozen list): what the native model takes.

    Anyone who loads the native model without Ratchet (``mlflow.xgboost.load_model``) scores such a frame.
    """
    import pandas as pd  # noqa: PLC0415 - seconds that a reader of files need not wait

    matrix = encode(rows, features, categories)
    columns: dict[str, Any] = {}
    for position, name in enumerate(features):
        values = matrix[:, position]
        if name in categories:
            codes = np.where(np.isnan(values), -1, values).astype(np.int32)
            columns[name] = pd.Categorical.from_codes(codes, categories=pd.Index(categories[name]))
        else:
            columns[name] = values
    return pd.DataFrame(columns, copy=False)


@runtime_checkable
class NativeScorer(Protocol):
    """A scorer that an artifact can hold."""

    def native_bytes(self) -> bytes:
        """The model in its library's own format; the same model gives the same bytes in any process."""
        ...


@dataclass(frozen=True)
class XGBoostScorer:
    """A fitted booster with the columns it expects. Scores with one thread: a served row is one row."""

    booster: xgb.Booster
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    def raw(self, rows: Any) -> Floats:
        """Uncalibrated probabilities, predictions or ranks (n_rows,) float64.

        Missing or unseen values take the trees' default branch.
        """
        matrix = encode(rows, self.features, self.categories)
        if not len(matrix):
            return np.empty(0, dtype=np.float64)
        parts = [
            self._predictor.inplace_predict(matrix[start : start + SCORE_BATCH_ROWS], validate_features=False)
            for start in range(0, len(matrix), SCORE_BATCH_ROWS)
        ]
        return np.concatenate(parts).astype(np.float64)

    @cached_property
    def _predictor(self) -> xgb.Booster:
        self.booster.set_param({"nthread": 1})
        return self.booster

    def native_bytes(self) -> bytes:
        """The booster in XGBoost's UBJSON."""
        return bytes(self.booster.save_raw("ubj"))


@dataclass(frozen=True)
class _PreparedRows:
    frame: pd.DataFrame
    label: NDArray[np.float32]
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    by_bins: dict[int, Any]
    days: NDArray[np.intp] | None = None


class XGBoostLearner:
    """``xgboost.XGBClassifier`` by its native API: quantiles are computed once per bin count, not once per trial.

    Takes the parameters of ``XGBClassifier`` (``n_estimators``, ``learning_rate``, …); trees are grown by ``hist``.
    """

    estimator = XGBOOST_CLASSIFIER
    objective = "binary:logistic"

    def categories(self, rows: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The sorted distinct values of each named column, as text, without missing ones."""
        return categories_of(rows, names)

    def prepare(
        self,
        rows: Any,
        label: Any,
        *,
        features: Sequence[str],
        categories: Mapping[str, tuple[str, ...]],
        threads: int,  # noqa: ARG002 - quantiles are built at fit, where the bin count is known
    ) -> Any:
        """A pandas frame with frozen categories and float32 labels; quantile matrices are added per bin count."""
        if not features:
            raise Refused("the manifest must name at least one feature, but got none.")
        return _PreparedRows(
            frame=encode_frame(rows, features, categories),
            label=np.asarray(label, dtype=np.float32),
            features=tuple(features),
            categories={name: tuple(values) for name, values in categories.items()},
            by_bins={},
        )

    def fit(
        self, prepared: Any, params: Mapping[str, Any], *, seed: int, threads: int, watch: Watch | None = None
    ) -> XGBoostScorer:
        """Grow ``n_estimators`` trees on the objective; bit-equal for the same rows in the same order.

        ``watch`` is asked after each of ``WATCHED`` shares of the trees.

        Raises:
            Refused: XGBoost does not take the parameters or the values (for instance infinite ones).

        """
        import xgboost as xgb  # noqa: PLC0415 - seconds that a reader of files need not wait

        chosen = dict(params)
        rounds = int(chosen.pop("n_estimators", DEFAULT_ROUNDS))
        bins = int(chosen.get("max_bin", 256))
        chosen.setdefault("objective", self.objective)
        chosen.setdefault("tree_method", "hist")
        if refused := OWNED & chosen.keys():
            raise Refused(
                f"train: {', '.join(sorted(refused))} must not be set among the parameters: threads come from "
                "runtime.threads, seeds from the attempt, categories from the manifest. Remove them from the spec."
            )
        if chosen["tree_method"] != "hist":
            raise Refused(f"train.fixed.tree_method must be 'hist', but got {chosen['tree_method']!r}.")
        settings = chosen | {"seed": seed, "nthread": threads, "verbosity": 0, "validate_parameters": True}
        try:
            if bins not in prepared.by_bins:
                prepared.by_bins[bins] = xgb.QuantileDMatrix(
                    prepared.frame,
                    prepared.label,
                    qid=prepared.days,
                    enable_categorical=True,
                    max_bin=bins,
                    nthread=threads,
                )
            watched = [_watcher(watch, rounds, prepared)] if watch else None
            booster = xgb.train(settings, prepared.by_bins[bins], num_boost_round=rounds, callbacks=watched)
        except (xgb.core.XGBoostError, ValueError, TypeError) as error:
            raise Refused(f"train: {self.estimator} refused {dict(params)}: {_first_line(error)}") from error
        return XGBoostScorer(booster, prepared.features, prepared.categories)

    def versions(self) -> dict[str, str]:
        """XGBoost, NumPy, pandas and PyArrow: what a refit's bits depend on."""
        import pandas as pd  # noqa: PLC0415 - seconds that a reader of files need not wait
        import xgboost as xgb  # noqa: PLC0415 - seconds that a reader of files need not wait

        return {module.__name__: module.__version__ for module in (np, pa, pd, xgb)}


class XGBoostRegressionLearner(XGBoostLearner):
    """``xgboost.XGBRegressor``: the same trees on a target that is a number, which is kept as float32.

    The study gives the objective: ``reg:quantileerror`` with its ``quantile_alpha``, unless the spec fixes another.
    """

    estimator = XGBOOST_REGRESSOR
    objective = "reg:squarederror"


class XGBoostRankingLearner(XGBoostLearner):
    """``xgboost.XGBRanker``: the same trees, fitted so that rows of label 1 come first among the rows of their day.

    LambdaMART (Burges 2010, *From RankNet to LambdaRank to LambdaMART*), whose groups are the local days; which pairs
    of a day's rows are compared is ``lambdarank_pair_method``'s to say. Unless the spec fixes another objective, pairs
    weigh what swapping them would change in the day's NDCG.
    """

    estimator = XGBOOST_RANKER
    objective = "rank:ndcg"

    def prepare(
        self,
        rows: Any,
        label: Any,
        *,
        features: Sequence[str],
        categories: Mapping[str, tuple[str, ...]],
        threads: int,
    ) -> Any:
        """As any rows, in the order of their ``day``, and within it as they come.

        Raises:
            Refused: the rows have no ``day``, or there is no feature.

        """
        day = batches(rows)
        order = np.argsort(day, kind="stable")
        prepared = super().prepare(
            rows.take(pa.array(order)),
            np.asarray(label)[order],
            features=features,
            categories=categories,
            threads=threads,
        )
        return replace(prepared, days=day[order])


def _watcher(watch: Watch, rounds: int, prepared: _PreparedRows) -> Any:
    """``watch`` as XGBoost asks it; it looks at a copy, so that the booster goes on as if nobody had looked."""
    import xgboost as xgb  # noqa: PLC0415 - seconds that a reader of files need not wait

    marks = {round(rounds * share) for share in WATCHED} - {0, rounds}

    class Watcher(xgb.callback.TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            grown = epoch + 1
            if grown not in marks:
                return False
            return watch(grown / rounds, XGBoostScorer(model.copy(), prepared.features, prepared.categories))

    return Watcher()


def learner_for(estimator: str) -> Learner:
    """The learner of a spec's dotted path.

    Raises:
        Refused: no landed code fits that estimator.

    """
    for learner in (XGBoostLearner, XGBoostRegressionLearner, XGBoostRankingLearner):
        if estimator == learner.estimator:
            return learner()
    if estimator in SKLEARN_PARAMETERS:
        from ratchet.adapters.models_sklearn import SklearnLearner  # noqa: PLC0415 - it imports this module

        return SklearnLearner(estimator)
    raise Refused(
        f"train.estimator: {estimator!r} is not yet supported; set it to one of "
        f"{', '.join((XGBOOST_CLASSIFIER, XGBOOST_REGRESSOR, XGBOOST_RANKER, *SKLEARN_PARAMETERS))}."
    )


def model_file(estimator: str) -> str:
    """The name of the file that holds such a model."""
    return SKLEARN_MODEL_FILE if estimator in SKLEARN_PARAMETERS else MODEL_FILE


def save(artifact: ModelArtifact, folder: Path) -> str:
    """Write the artifact's two files (each whole or not at all, the card last) and return the artifact's digest."""
    scorer = artifact.scorer
    if not isinstance(scorer, NativeScorer):
        raise Refused(f"a scorer must have a native form to be saved, but got {type(scorer).__name__}.")
    model = scorer.native_bytes()
    card = {
        "format": _format(artifact),
        "estimator": artifact.estimator,
        "model_sha256": sha256(model),
        "features": list(artifact.features),
        "categories": {name: list(values) for name, values in artifact.categories.items()},
        "calibrator": _written_calibrator(artifact.calibrator),
        "threshold": _written_threshold(artifact.threshold),
        "params": dict(artifact.params),
        "provenance": dict(artifact.provenance),
    } | ({} if artifact.capacity is None else {"capacity": {"at_most": artifact.capacity, "per": "day"}})
    content = json.dumps(card, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()
    write_atomically(folder / model_file(artifact.estimator), model)
    write_atomically(folder / CARD_FILE, content)
    return sha256(content)


def digest(folder: Path) -> str:
    """The digest of the artifact in a folder: SHA-256 of its card, which holds that of the model."""
    return sha256_file(_present(folder, CARD_FILE))


def verified(folder: Path, *, expected: str | None = None) -> tuple[dict[str, Any], bytes]:
    """The card and the model's bytes, as they were saved; for whom the model itself need not be read.

    Raises what :func:`load` raises.
    """
    content = _present(folder, CARD_FILE).read_bytes()
    if expected is not None and sha256(content) != expected:
        raise CorruptObjectError(
            f"{folder / CARD_FILE}: artifact digest must be {expected}, but got {sha256(content)}. "
            "Fetch the version again from the registry."
        )
    card = _card(folder, content)
    if (card.get("format"), card.get("estimator"), card["calibrator"]["kind"]) not in KNOWN_CARDS:
        known = "; ".join(f"{form!r} for {estimator!r}" for form, estimator, _ in KNOWN_CARDS)
        raise Refused(
            f"{folder / CARD_FILE}: format must be one of {known}, but got "
            f"{card.get('format')!r} for {card.get('estimator')!r}. Load it with the version of Ratchet that wrote it."
        )
    file = folder / model_file(card["estimator"])
    model = _present(folder, file.name).read_bytes()
    if sha256(model) != card["model_sha256"]:
        raise CorruptObjectError(
            f"{file}: sha256 must be {card['model_sha256']}, but got {sha256(model)}. "
            "Fetch the version again from the registry."
        )
    return card, model


def load(folder: Path, *, expected: str | None = None) -> ModelArtifact:
    """Read an artifact back; the same rows get the same scores to the bit as before saving.

    Raises:
        MissingObjectError: a file of the artifact is not there.
        CorruptObjectError: the files are not those whose digest was recorded (``expected``, or the card's).
        Refused: the card is of a form this version does not know.

    """
    card, model = verified(folder, expected=expected)
    file = folder / model_file(card["estimator"])
    features = tuple(card["features"])
    categories = {name: tuple(values) for name, values in card["categories"].items()}
    return ModelArtifact(
        scorer=_read_scorer(file, model, card["estimator"], features, categories),
        estimator=card["estimator"],
        features=features,
        categories=categories,
        calibrator=_read_calibrator(card["calibrator"]),
        threshold=_read_threshold(card["threshold"], folder / CARD_FILE),
        params=card["params"],
        provenance=card["provenance"],
        capacity=card.get("capacity", {}).get("at_most"),
    )


def _read_scorer(
    file: Path, model: bytes, estimator: str, features: tuple[str, ...], categories: Mapping[str, tuple[str, ...]]
) -> Scorer:
    if estimator in SKLEARN_PARAMETERS:
        from ratchet.adapters.models_sklearn import SklearnScorer, read  # noqa: PLC0415 - it imports this module

        return SklearnScorer(read(model, estimator, len(features), str(file)), estimator, features, categories)
    import xgboost as xgb  # noqa: PLC0415 - seconds that a reader of files need not wait

    return XGBoostScorer(xgb.Booster(model_file=bytearray(model)), features, categories)


def _card(folder: Path, content: bytes) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(content)
        card["calibrator"]["kind"], card["model_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObjectError(
            f"{folder / CARD_FILE}: must be the card of an artifact, but is none ({error!r}). "
            "Fetch the version again from the registry."
        ) from error
    return card


KNOWN_CARDS = (
    *((form, XGBOOST_CLASSIFIER, "platt") for form in (CARD_FORMAT, CARD_FORMAT_OF_RULES)),
    *(
        (form, name, "platt")
        for form in (CARD_FORMAT, CARD_FORMAT_OF_RULES)
        for name in SKLEARN_PARAMETERS
        if name != HIST_GRADIENT_BOOSTING_REGRESSOR
    ),
    *((CARD_FORMAT_OF_REGRESSIONS, name, "shift") for name in (XGBOOST_REGRESSOR, HIST_GRADIENT_BOOSTING_REGRESSOR)),
    (CARD_FORMAT_OF_RANKINGS, XGBOOST_RANKER, "none"),
)
"""Format, estimator and kind of calibration that go together."""


def _format(artifact: ModelArtifact) -> str:
    if artifact.kind == "ranking":
        return CARD_FORMAT_OF_RANKINGS
    if artifact.kind == "regression":
        return CARD_FORMAT_OF_REGRESSIONS
    by_rules = isinstance(artifact.threshold, PayoffMatrix) or artifact.capacity is not None
    return CARD_FORMAT_OF_RULES if by_rules else CARD_FORMAT


def _written_calibrator(calibrator: Platt | Shift | None) -> dict[str, Any]:
    if calibrator is None:
        return {"kind": "none"}
    if isinstance(calibrator, Shift):
        return {"kind": "shift", "offset": calibrator.offset}
    return {"kind": "platt", "slope": calibrator.slope, "intercept": calibrator.intercept}


def _read_calibrator(written: Mapping[str, Any]) -> Platt | Shift | None:
    if written["kind"] == "none":
        return None
    if written["kind"] == "shift":
        return Shift(written["offset"])
    return Platt(slope=written["slope"], intercept=written["intercept"])


def _written_threshold(threshold: float | PayoffMatrix | None) -> Any:
    """JSON has no infinity; a model that never acts has the threshold ``inf``. A formula is written as its text."""
    if threshold is None:
        return None
    if isinstance(threshold, PayoffMatrix):
        cells = {name: getattr(threshold, name) for name in CELLS}
        return {n: v.text if isinstance(v, Expression) else v for n, v in cells.items()} | {"unit": threshold.unit}
    return threshold if np.isfinite(threshold) else str(threshold)


def _read_threshold(written: Any, file: Path) -> float | PayoffMatrix | None:
    if written is None:
        return None
    if not isinstance(written, dict):
        return float(written)
    try:
        return PayoffMatrix.from_spec(SimpleNamespace(**written))
    except (AttributeError, ValueError, TypeError) as error:
        raise Refused(f"{file}: threshold must be a payoff of numbers and expressions, but: {error}") from None


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise Refused(f"feature {name!r} of the manifest must be a column, but got {rows.column_names}.")
    return rows.column(name)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _present(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise MissingObjectError(f"{path}: an artifact has a model and {CARD_FILE}, but this file is missing.")
    return path


def _first_line(error: BaseException) -> str:
    """What XGBoost says, without its time stamp and stack trace."""
    return re.sub(r"^\[[\d:]+\] ", "", str(error).strip().partition("\n")[0])
