"""The scikit-learn estimators a spec may name, each with the parameters it may set.

A short closed list: each gives probabilities, or predicts what costs least; each takes missing values (by itself or
behind an imputer), and is fitted to the same bits by any number of threads. Left out on purpose: what an estimator
decides from an own random split of the rows (early stopping, out-of-bag scores), class weights (probabilities are
calibrated, and the payoff says what a class is worth), and constraints (no scalar says them).
"""

from __future__ import annotations

from collections.abc import Mapping

HIST_GRADIENT_BOOSTING = "sklearn.ensemble.HistGradientBoostingClassifier"
HIST_GRADIENT_BOOSTING_REGRESSOR = "sklearn.ensemble.HistGradientBoostingRegressor"
RANDOM_FOREST = "sklearn.ensemble.RandomForestClassifier"
LOGISTIC_REGRESSION = "sklearn.linear_model.LogisticRegression"

_HIST_GRADIENT_BOOSTING = frozenset(
    {
        "l2_regularization",
        "learning_rate",
        "max_bins",
        "max_depth",
        "max_features",
        "max_iter",
        "max_leaf_nodes",
        "min_samples_leaf",
    }
)
SKLEARN_PARAMETERS: Mapping[str, frozenset[str]] = {
    HIST_GRADIENT_BOOSTING: _HIST_GRADIENT_BOOSTING,
    HIST_GRADIENT_BOOSTING_REGRESSOR: _HIST_GRADIENT_BOOSTING | {"loss", "quantile"},
    RANDOM_FOREST: frozenset(
        {
            "bootstrap",
            "criterion",
            "max_depth",
            "max_features",
            "max_leaf_nodes",
            "max_samples",
            "min_impurity_decrease",
            "min_samples_leaf",
            "min_samples_split",
            "min_weight_fraction_leaf",
            "n_estimators",
        }
    ),
    LOGISTIC_REGRESSION: frozenset({"C", "fit_intercept", "l1_ratio", "max_iter", "solver", "tol"}),
}
