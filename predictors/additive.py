"""A look-up table learned from sums: every operation has a cost of at least zero, and a network's cost is their sum."""

import numpy as np

from predictors.base import Arrays, Floats, Predictor

PENALTIES = tuple(10.0**p for p in range(-4, 3))
FOLDS = 5
TRIES = 3
MOST_STEPS = 2000
"""In exact arithmetic the steps end by themselves, usually after ten."""


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
    """argmin |y - X w - b|^2 + penalty |w|^2 over w >= 0 and any b.

    All columns on the wrong side of their bound change it at once; where that does not help three times in a row, only
    the last of them does. So a few small ridge regressions take the place of one step for each column.
    Source: Portugal, Judice and Vicente, A comparison of block pivoting and interior-point algorithms for linear least
    squares problems with nonnegative variables, 1994.
    """
    centre, mean = X.mean(0), float(y.mean())
    rows, target = X - centre, y - mean
    rounding = 1e-12 * float(np.abs(rows.T @ target).max(initial=0.0))
    free = np.zeros(X.shape[1], dtype=bool)
    weights = np.zeros(X.shape[1])
    fewest, tries = len(free) + 1, TRIES
    for _ in range(MOST_STEPS):
        wrong = np.where(free, weights < 0, rows.T @ (target - rows @ weights) > rounding)
        count = int(wrong.sum())
        if count == 0:
            break
        if count < fewest:
            fewest, tries = count, TRIES
        elif tries:
            tries -= 1
        else:
            wrong[: np.flatnonzero(wrong)[-1]] = False
        free ^= wrong
        weights = np.zeros(X.shape[1])
        weights[free] = _ridge(rows[:, free], target, penalty)
    weights = np.maximum(weights, 0.0)
    return weights, mean - float(centre @ weights)


def _ridge(X: Floats, y: Floats, penalty: float) -> Floats:
    """[d] argmin |y - X w|^2 + penalty |w|^2, from as many equations as X has columns or rows, whichever are fewer."""
    n, d = X.shape
    if d <= n:
        return np.asarray(np.linalg.solve(X.T @ X + penalty * np.eye(d), X.T @ y))
    return np.asarray(X.T @ np.linalg.solve(X @ X.T + penalty * np.eye(n), y))
