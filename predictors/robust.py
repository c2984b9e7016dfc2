"""Linear regression that a few slow measurements do not pull."""

import numpy as np
from scipy.stats import t as student

from predictors.base import Arrays, Floats, Predictor

PENALTIES = tuple(10.0**p for p in np.arange(-4, 3.01, 0.5))
FREEDOM = 4.0
"""Degrees of freedom of the noise: few, so that a far outlier counts for next to nothing."""
STEPS = 12


class Robust(Predictor):
    """Ridge regression with Student's t noise; the penalty has the highest leave-one-out likelihood.

    Measured latencies have outliers, and those are what least squares follows. Source: Lange, Little and Taylor, Robust
    statistical modeling using the t distribution, 1989; its weights, iterated.
    """

    name = "robust"
    minimum = 5

    def _fit(self, X: Floats, y: Floats) -> None:
        best = -np.inf
        for penalty in PENALTIES:
            likelihood, weights, inverse, scale = _reweighted(np.column_stack([np.ones(len(X)), X]), y, penalty)
            if likelihood > best:
                best = likelihood
                self._weights, self._covariance = weights, inverse
                self._noise = np.array([scale * np.sqrt(FREEDOM / (FREEDOM - 2))])

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        design = np.column_stack([np.ones(len(X)), X])
        grown = np.sqrt(1.0 + ((design @ self._covariance) * design).sum(1))
        return design @ self._weights, self._noise[0] * grown

    def _arrays(self) -> Arrays:
        return {"weights": self._weights, "covariance": self._covariance, "noise": self._noise}

    def _restore(self, arrays: Arrays) -> None:
        self._weights, self._covariance, self._noise = arrays["weights"], arrays["covariance"], arrays["noise"]


def _reweighted(design: Floats, y: Floats, penalty: float) -> tuple[float, Floats, Floats, float]:
    """Mean leave-one-out log likelihood, weights [p], inverse of the weighted normal equations [p, p], noise scale.

    design: [n, p] whose first column is one and not penalised; y: [n] of unit variance.
    """
    ridge = penalty * np.eye(design.shape[1])
    ridge[0, 0] = 0.0
    certainty, scale = np.ones(len(y)), np.inf
    for _ in range(STEPS):
        weighted = design * certainty[:, None]
        inverse: Floats = np.asarray(np.linalg.inv(weighted.T @ design + ridge), dtype=float)
        weights = inverse @ (weighted.T @ y)
        error = y - design @ weights
        if scale == np.inf:  # the median is not led astray by the outliers that least squares has met
            scale = max(1.4826 * float(np.median(np.abs(error))), 1e-12)
        leverage = ((design @ inverse) * design).sum(1) * certainty
        certainty = (FREEDOM + 1) / (FREEDOM + (error / scale) ** 2)
        freedom = max(len(y) - float(leverage.sum()), 1.0)
        scale = max(float(np.sqrt(np.sum(certainty * error**2) / freedom)), 1e-12)
    left_out = error / np.maximum(1.0 - leverage, 1e-3)
    return float(student.logpdf(left_out, FREEDOM, scale=scale).mean()), weights, inverse, scale
