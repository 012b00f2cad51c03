"""scikit-learn's estimators behind the ``Learner`` port, stored with skops: no pickle, and a closed list of types.

All of them take the matrix of ``models.encode``: a category is its index in the frozen list, missing and unseen values
are NaN. Boosted trees take both as they are, a forest takes the index as a number, and logistic regression stands
behind an imputer (mean, and an indicator of what was missing), a scaler and one-hot columns.

``model.skops`` is a zip file of arrays and a ``schema.json`` that names the type of each object. What may be named is
listed here per estimator; what a file asks for has no say. (skops by itself would also load any other estimator and
any ufunc.) Types do not tell whether a tree's node indices stay inside the tree, and scikit-learn follows them
unchecked, so they are checked when a model is loaded.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ratchet.adapters.models import WATCHED, categories_of, encode
from ratchet.adapters.storage import sha256
from ratchet.domain.artifact import Floats, sigmoid
from ratchet.domain.estimators import (
    HIST_GRADIENT_BOOSTING,
    HIST_GRADIENT_BOOSTING_REGRESSOR,
    LOGISTIC_REGRESSION,
    RANDOM_FOREST,
    SKLEARN_PARAMETERS,
)
from ratchet.errors import CorruptObjectError, Refused
from ratchet.ports.learning import Watch

Matrix = NDArray[np.floating[Any]]

SCORE_BATCH_ROWS = 16_384
"""One-hot columns make kilobytes of a row."""

MOST_BINS = 255
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
LEAF = -1
LARGEST = float(np.finfo(np.float32).max)

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RecursionError, ImportError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
)
"""What readers of zip files, JSON, arrays and scikit-learn's objects raise on bytes that nobody meant for them."""


@dataclass(frozen=True)
class _PreparedRows:
    matrix: Matrix
    label: NDArray[Any]
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]


LOADERS = frozenset(
    {
        "DTypeNode",
        "DictNode",
        "FunctionNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "NdArrayNode",
        "ObjectNode",
        "PartialNode",
        "RandomGeneratorNode",
        "SliceNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    }
)
"""The ways of making an object that a skops file may ask for: no methods, no operators, no reduced constructors."""

PLAIN = frozenset({"builtins.dict", "builtins.list", "builtins.str", "builtins.tuple", "numpy.ndarray"})
COLUMNS = frozenset(
    {
        "builtins.int",
        "builtins.slice",
        "numpy.dtype",
        "numpy.float64",
        "sklearn.compose._column_transformer.ColumnTransformer",
    }
)


class Family:
    """One estimator: how it is made and grown, how it scores, and what may come out of a file as one of it."""

    trusted: frozenset[str]
    """The types its skops file may name."""
    dtype: type[np.floating[Any]] = np.float64
    """Of the matrix it works in."""
    label: type[np.number[Any]] = np.int64
    """Of the labels it is fitted to."""
    rounds: str | None = None
    """The parameter that says how far it grows; None for one that does not."""

    def make(self, params: Mapping[str, Any], prepared: _PreparedRows, *, seed: int, threads: int) -> Any:
        """An unfitted model; ``ValueError`` where the rows do not suit it."""
        raise NotImplementedError

    def settle(self, model: Any) -> None:
        """Make a fitted model forget how it was fitted: stages and threads must not be in its bytes."""

    def score(self, model: Any, matrix: Matrix) -> Floats:
        """The probability of label 1, or the prediction, (n,) float64; of a row alone to the bit that among others."""
        raise NotImplementedError

    def sound(self, model: Any, features: int) -> bool:
        """Whether a model from a file is one of this family that asks for so many features and no others."""
        raise NotImplementedError


BOOSTED = (
    PLAIN
    | COLUMNS
    | {
        "functools.partial",  # of check_array, the one function listed
        "numpy.random._generator.Generator",
        "numpy.uint64",
        "sklearn._loss.link.Interval",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.preprocessing._encoders.OrdinalEncoder",
        "sklearn.preprocessing._function_transformer.FunctionTransformer",
        "sklearn.utils.validation.check_array",
    }
)


class _HistGradientBoosting(Family):
    trusted = BOOSTED | {
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
        "sklearn.preprocessing._label.LabelEncoder",
    }
    rounds = "max_iter"

    def _estimator(self) -> Any:
        """The class of its models."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - a reader of files need not wait

        return HistGradientBoostingClassifier

    def _scores(self, model: Any, matrix: Matrix) -> Any:
        return model.predict_proba(matrix)[:, 1]

    def make(self, params: Mapping[str, Any], prepared: _PreparedRows, *, seed: int, threads: int) -> Any:  # noqa: ARG002
        most = params.get("max_bins", MOST_BINS)
        for name, values in prepared.categories.items():
            if len(values) > most:
                raise ValueError(
                    f"a categorical feature must have at most max_bins = {most} values, but {name!r} has {len(values)}"
                )
        places = [place for place, name in enumerate(prepared.features) if name in prepared.categories]
        return self._estimator()(**params, categorical_features=places or None, early_stopping=False, random_state=seed)

    def settle(self, model: Any) -> None:
        model.set_params(warm_start=False)
        model._bin_mapper.set_params(n_threads=None)  # noqa: SLF001 - the one place that keeps them

    def score(self, model: Any, matrix: Matrix) -> Floats:
        from threadpoolctl import get_cached_controller  # noqa: PLC0415 - comes with scikit-learn

        with get_cached_controller().limit(limits=1, user_api="openmp"):
            scores: Floats = self._scores(model, matrix)
        return scores

    def sound(self, model: Any, features: int) -> bool:
        if type(model) is not self._estimator() or not self._of_its_kind(model, features):
            return False
        # Only private attributes tell what its trees, which are walked unchecked, may ask for.
        columns = model._preprocess_X(np.zeros((1, features)), reset=False).shape[1]  # noqa: SLF001
        is_categorical = model._bin_mapper.is_categorical_  # noqa: SLF001
        trees = [tree for trees in model._predictors for tree in trees]  # noqa: SLF001
        return columns == len(is_categorical) == features and all(self._inside(tree, is_categorical) for tree in trees)

    def _of_its_kind(self, model: Any, features: int) -> bool:
        return _binary(model, features)

    @staticmethod
    def _inside(tree: Any, is_categorical: NDArray[np.uint8]) -> bool:
        nodes, bitsets = tree.nodes, tree.raw_left_cat_bitsets
        inner = nodes["is_leaf"] == 0
        by_category = nodes[inner & (nodes["is_categorical"] != 0)]
        return (
            _inside(inner, nodes["left"], nodes["right"], nodes["feature_idx"], len(is_categorical))
            and bitsets.shape[1:] == (8,)
            and bool((by_category["bitset_idx"] < len(bitsets)).all())
            and bool(is_categorical[by_category["feature_idx"]].all())
        )


class _HistGradientBoostingRegressor(_HistGradientBoosting):
    """The same trees, fitted to a quantile, the mean or the median of a number; there is one tree per round."""

    trusted = BOOSTED | {
        "sklearn._loss._loss.CyAbsoluteError",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss._loss.CyPinballLoss",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.PinballLoss",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
    }
    label = np.float64

    def _estimator(self) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415 - a reader of files need not wait

        return HistGradientBoostingRegressor

    def _scores(self, model: Any, matrix: Matrix) -> Any:
        return model.predict(matrix)

    def _of_its_kind(self, model: Any, features: int) -> bool:
        return bool(model.n_features_in_ == features and model.n_trees_per_iteration_ == 1)


class _RandomForest(Family):
    trusted = PLAIN | {
        "numpy.int64",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.tree._tree.Tree",
    }
    dtype = np.float32
    rounds = "n_estimators"

    def make(self, params: Mapping[str, Any], prepared: _PreparedRows, *, seed: int, threads: int) -> Any:  # noqa: ARG002
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - a reader of files need not wait

        return RandomForestClassifier(**params, n_jobs=threads, random_state=seed)

    def settle(self, model: Any) -> None:
        model.set_params(warm_start=False, n_jobs=None)

    def score(self, model: Any, matrix: Matrix) -> Floats:
        """The mean over the trees in their order; ``predict_proba`` would add them up as its threads finish."""
        total = np.zeros(len(matrix))
        for estimator in model.estimators_:
            total += estimator.tree_.predict(matrix)[:, 1]
        return total / len(model.estimators_)

    def sound(self, model: Any, features: int) -> bool:
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - a reader of files need not wait

        if type(model) is not RandomForestClassifier or not _binary(model, features):
            return False
        trees = [estimator.tree_ for estimator in model.estimators_]
        return len(trees) > 0 and all(
            tree.n_features == features
            and tree.value.shape[1:] == (1, 2)
            and _inside(tree.children_left != LEAF, tree.children_left, tree.children_right, tree.feature, features)
            for tree in trees
        )


class _LogisticRegression(Family):
    trusted = (
        PLAIN
        | COLUMNS
        | {
            "sklearn.impute._base.MissingIndicator",
            "sklearn.impute._base.SimpleImputer",
            "sklearn.linear_model._logistic.LogisticRegression",
            "sklearn.pipeline.Pipeline",
            "sklearn.preprocessing._data.StandardScaler",
            "sklearn.preprocessing._encoders.OneHotEncoder",
        }
    )

    def make(self, params: Mapping[str, Any], prepared: _PreparedRows, *, seed: int, threads: int) -> Any:  # noqa: ARG002
        from sklearn.compose import ColumnTransformer  # noqa: PLC0415 - a reader of files need not wait
        from sklearn.impute import SimpleImputer  # noqa: PLC0415
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from sklearn.pipeline import Pipeline  # noqa: PLC0415
        from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

        places = {name: place for place, name in enumerate(prepared.features)}
        categories = {name: values for name, values in prepared.categories.items() if values and name in places}
        numbers = [place for name, place in places.items() if name not in prepared.categories]
        columns: list[tuple[str, Any, list[int]]] = []
        if numbers:
            imputed = [("impute", SimpleImputer(add_indicator=True)), ("scale", StandardScaler())]
            columns.append(("numbers", Pipeline(imputed), numbers))
        if categories:
            codes = [np.arange(len(values), dtype=np.float64) for values in categories.values()]
            one_hot = OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False)
            columns.append(("categories", one_hot, [places[name] for name in categories]))
        if not columns:
            raise ValueError("at least one feature must have a value on some row, but none has")
        design = ColumnTransformer(columns, sparse_threshold=0.0)
        return Pipeline([("design", design), ("classifier", LogisticRegression(**params, random_state=seed))])

    def score(self, model: Any, matrix: Matrix) -> Floats:
        """Summed row by row: a BLAS product over many rows differs in its last bits from that of one."""
        design = model.named_steps["design"].transform(np.clip(matrix, -LARGEST, LARGEST))
        classifier = model.named_steps["classifier"]
        return sigmoid((np.ascontiguousarray(design) * classifier.coef_[0]).sum(axis=1) + classifier.intercept_[0])

    def sound(self, model: Any, features: int) -> bool:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - a reader of files need not wait
        from sklearn.pipeline import Pipeline  # noqa: PLC0415

        return (
            type(model) is Pipeline
            and type(model.named_steps["classifier"]) is LogisticRegression
            and _binary(model, features)
        )


def _binary(model: Any, features: int) -> bool:
    return model.n_features_in_ == features and np.array_equal(model.classes_, [0, 1])


def _inside(
    inner: NDArray[np.bool_], left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], features: int
) -> bool:
    """Whether each inner node has a feature, and two children that come after it (so that every walk ends)."""
    at = np.flatnonzero(inner)
    children = np.stack([left[at], right[at]]).astype(np.int64)
    asked = feature[at]
    return bool(
        len(inner) > 0
        and (children > at).all()
        and (children < len(inner)).all()
        and (asked >= 0).all()
        and (asked < features).all()
    )


@dataclass(frozen=True)
class SklearnScorer:
    """A fitted model with the columns it expects. Scores with one thread, each row as if it were alone."""

    model: Any
    estimator: str
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    def raw(self, rows: Any) -> Floats:
        """Uncalibrated probabilities or predictions (n_rows,) float64; values unseen at the fit count as missing."""
        matrix = encode(rows, self.features, self.categories)
        if not len(matrix):
            return np.empty(0, dtype=np.float64)
        family = FAMILIES[self.estimator]
        parts = [matrix[start : start + SCORE_BATCH_ROWS] for start in range(0, len(matrix), SCORE_BATCH_ROWS)]
        return np.concatenate([family.score(self.model, part.astype(family.dtype)) for part in parts])

    def native_bytes(self) -> bytes:
        """The model as a skops file whose bytes are a function of the model."""
        import skops.io  # noqa: PLC0415 - it imports all of scikit-learn

        return _normalised(skops.io.dumps(self.model))


class SklearnLearner:
    """One of ``FAMILIES`` by its dotted path; takes the parameters that ``SKLEARN_PARAMETERS`` lists for it.

    Boosted trees and forests grow, so ``watch`` is asked; logistic regression does not, and it is never asked.
    """

    def __init__(self, estimator: str) -> None:
        self.estimator = estimator
        self._family = FAMILIES[estimator]

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
        threads: int,  # noqa: ARG002 - encoding takes one
    ) -> Any:
        """The encoded matrix; a feature without any value is constant, because nothing can be learned of it.

        Raises:
            Refused: there is no feature, or one has infinite values.

        """
        if not features:
            raise Refused("the manifest must name at least one feature, but got none.")
        matrix = encode(rows, features, categories)
        if infinite := [name for place, name in enumerate(features) if np.isinf(matrix[:, place]).any()]:
            raise Refused(f"train: features must be finite or missing, but {', '.join(infinite)} hold inf.")
        matrix[:, np.isnan(matrix).all(axis=0)] = 0.0
        return _PreparedRows(
            matrix=matrix.astype(self._family.dtype, copy=False),
            label=np.asarray(label, dtype=self._family.label),
            features=tuple(features),
            categories={name: tuple(values) for name, values in categories.items()},
        )

    def fit(
        self, prepared: Any, params: Mapping[str, Any], *, seed: int, threads: int, watch: Watch | None = None
    ) -> SklearnScorer:
        """Fit; bit-equal for the same rows in the same order, whatever the number of threads.

        ``watch`` is asked after each of ``WATCHED`` shares of the trees, where there are trees.

        Raises:
            Refused: scikit-learn does not take the parameters or the values.

        """
        from threadpoolctl import get_cached_controller  # noqa: PLC0415 - with scikit-learn

        if refused := sorted(params.keys() - SKLEARN_PARAMETERS[self.estimator]):
            raise Refused(
                f"train: {', '.join(refused)} must not be set among the parameters of {self.estimator}: threads come "
                "from runtime.threads, seeds from the attempt, categories from the manifest. Remove them from the spec."
            )
        try:
            model = self._family.make(params, prepared, seed=seed, threads=threads)
            # A sum over several BLAS threads depends on how many there are.
            with get_cached_controller().limit(limits={"openmp": threads, "blas": 1}):
                scorer = self._grown(model, prepared, watch)
        except (ValueError, TypeError) as error:
            told = str(error).strip().partition("\n")[0]
            raise Refused(f"train: {self.estimator} refused {dict(params)}: {told}") from error
        self._family.settle(scorer.model)
        return scorer

    def _grown(self, model: Any, prepared: _PreparedRows, watch: Watch | None) -> SklearnScorer:
        """The fitted model; a watched one is fitted in stages, each of which goes on where the last one ended."""
        scorer = SklearnScorer(model, self.estimator, prepared.features, prepared.categories)
        if watch and (name := self._family.rounds):
            rounds = model.get_params()[name]
            for mark in sorted({round(rounds * share) for share in WATCHED} - {0, rounds}):
                model.set_params(warm_start=True, **{name: mark}).fit(prepared.matrix, prepared.label)
                if watch(mark / rounds, scorer):
                    return scorer
            model.set_params(**{name: rounds})
        model.fit(prepared.matrix, prepared.label)
        return scorer

    def versions(self) -> dict[str, str]:
        """NumPy, PyArrow, SciPy, scikit-learn and skops: what a refit's bits depend on."""
        import scipy  # noqa: PLC0415 - seconds that a reader of files need not wait
        import sklearn  # noqa: PLC0415 - seconds that a reader of files need not wait
        import skops  # noqa: PLC0415 - seconds that a reader of files need not wait

        return {module.__name__: module.__version__ for module in (np, pa, scipy, sklearn, skops)}


def read(content: bytes, estimator: str, features: int, name: str) -> Any:
    """The model in a skops file; nothing in it is imported or called before all of its types were found listed.

    Args:
        content: the file.
        estimator: whose types are trusted.
        features: how many columns the model may ask for.
        name: of the file, for messages.

    Raises:
        CorruptObjectError: it names a type that is not listed, its nodes lead out of a tree, or it is no such model.

    """
    try:
        return _read(content, estimator, features)
    except UNREADABLE as error:
        told = error if isinstance(error, ValueError) else repr(error)
        raise CorruptObjectError(
            f"{name}: must hold a {estimator} of {features} features and nothing else, but {told}. "
            "Fetch the version again from the registry."
        ) from error


def _read(content: bytes, estimator: str, features: int) -> Any:
    import skops.io  # noqa: PLC0415 - it imports all of scikit-learn

    family = FAMILIES[estimator]
    named = [node for node in _nodes(_schema(content)) if node.keys() & {"__loader__", "__module__", "__class__"}]
    foreign = {f"{node.get('__module__')}.{node.get('__class__')}" for node in named} - family.trusted
    if foreign := foreign | {str(node.get("__loader__")) for node in named} - LOADERS:
        raise ValueError(f"names {', '.join(sorted(foreign))}")
    model = skops.io.loads(content, trusted=sorted(family.trusted))
    if not family.sound(model, features):
        raise ValueError("asks for other columns, gives other labels, or has nodes that lead out of their tree")
    family.score(model, np.zeros((1, features), dtype=family.dtype))
    return model


def _schema(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise ValueError("is compressed, so its size says nothing about what it unfolds to")
        return json.loads(file.read("schema.json"))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    if isinstance(tree, dict | list):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(child)


def _normalised(dumped: bytes) -> bytes:
    """The same skops file without what changes from process to process: addresses of objects and times of writing.

    skops names objects and arrays by ``id()`` to keep what is shared shared. Here each is its own, and an array is
    named by its content, in which the gaps between the fields of a tree's nodes are zero.
    """
    arrays: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(dumped)) as file:
        schema = json.loads(file.read("schema.json"))
        for node in _nodes(schema):
            node.pop("__id__", None)
            if "__loader__" in node and "file" in node:
                content = _without_gaps(file.read(node["file"]))
                node["file"] = f"{sha256(content)}.npy"
                arrays[node["file"]] = content
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        entries = [("schema.json", json.dumps(schema, separators=(",", ":")).encode()), *sorted(arrays.items())]
        for name, content in entries:
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.create_system = 3  # else it tells the operating system
            file.writestr(entry, content)
    return written.getvalue()


def _without_gaps(stored: bytes) -> bytes:
    array = np.load(io.BytesIO(stored), allow_pickle=False)
    if not array.dtype.names:
        return stored
    clean = np.zeros(array.shape, array.dtype)  # zeros_like would leave the gaps as they happen to be
    for name in array.dtype.names:
        clean[name] = array[name]
    written = io.BytesIO()
    np.save(written, clean, allow_pickle=False)
    return written.getvalue()


FAMILIES: Mapping[str, Family] = {
    HIST_GRADIENT_BOOSTING: _HistGradientBoosting(),
    HIST_GRADIENT_BOOSTING_REGRESSOR: _HistGradientBoostingRegressor(),
    RANDOM_FOREST: _RandomForest(),
    LOGISTIC_REGRESSION: _LogisticRegression(),
}
