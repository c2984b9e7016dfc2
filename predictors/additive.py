"""A look-up table learned from sums: every operation has a cost of at least zero, and a network's cost is their sum."""

import numpy as np
from scipy.optimize import nnls

from predictors.base import Arrays, Floats, Predictor

PENALTIES = tuple(10.0**p for p in range(-4, 3))
FOLDS = 5


class Additive(Predictor):
    """Non-negative ridge regression, an offset free: no column may lower the target, as physics says of a cost.

    On one-hot choices a weight is what a choice costs more than the cheapest one. Penalty: least cross-validated error,
    which is also the standard deviation.
    """

    name = "additive"
    minimum = 5

    def _fit(self, X: Floats, y: Floats) -> None:
        fold = np.random.default_rng(self.seed).permutation(len(y)) % min(FOLDS, len(y))
        best = np.inf
        for penalty in PENALTIES:
            errors = np.empty(len(y))
            for k in range(int(fold.max()) + 1):
                held = fold == k
                weights, offset = _non_negative(X[~held], y[~held], penalty)
                errors[held] = y[held] - X[held] @ weights - offset
            score = float(np.mean(errors**2))
            if score < best:
                best = score
                self._noise = np.array([max(np.sqrt(score), 1e-12)])
                self._weights, offset = _non_negative(X, y, penalty)
                self._offset = np.array([offset])

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        return X @ self._weights + self._offset[0], np.full(len(X), self._noise[0])

    def _arrays(self) -> Arrays:
        return {"weights": self._weights, "offset": self._offset, "noise": self._noise}

    def _restore(self, arrays: Arrays) -> None:
        self._weights, self._offset, self._noise = arrays["weights"], arrays["offset"], arrays["noise"]


def _non_negative(X: Floats, y: Floats, penalty: float) -> tuple[Floats, float]:
    """argmin |y - X w - b|^2 + penalty |w|^2 over w >= 0 and any b."""
    centre, mean = X.mean(0), float(y.mean())
    rows = np.vstack([X - centre, np.sqrt(penalty) * np.eye(X.shape[1])])
    weights, _ = nnls(rows, np.concatenate([y - mean, np.zeros(X.shape[1])]), maxiter=30 * X.shape[1] + 300)
    return weights, mean - float(centre @ weights)
