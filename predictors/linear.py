"""Linear predictors: ridge regression with its penalty by leave-one-out error, and the plain one."""

from typing import ClassVar

import numpy as np

from predictors.base import Arrays, Floats, Predictor

PENALTIES = tuple(10.0**p for p in np.arange(-6, 4.01, 0.5))


class Ridge(Predictor):
    """Least squares with the penalty that has the least leave-one-out error.

    The standard deviation is that of the residuals, grown with a row's leverage. After `fit`: left_out, the [n]
    leave-one-out errors in units of the targets' standard deviation; freedom, how many rows more there are than
    coefficients.
    """

    name = "ridge"
    penalties: ClassVar[tuple[float, ...]] = PENALTIES

    def _fit(self, X: Floats, y: Floats) -> None:
        u, s, vt = np.linalg.svd(X, full_matrices=False)
        kept = s > 1e-10 * max(s[0], 1e-300)
        u, s, vt = u[:, kept], s[kept], vt[kept]
        projected = u.T @ y
        best = np.inf
        for penalty in self.penalties:
            shrink = s**2 / (s**2 + penalty)
            # y is centred, so the intercept is 0 and takes 1/n of every row's leverage
            leverage = (u**2) @ shrink + 1.0 / len(y)
            errors = (y - u @ (shrink * projected)) / np.maximum(1.0 - leverage, 1e-6)
            score = float(np.mean(errors**2))
            if score < best:
                best = score
                self.left_out = errors
                self._weights = vt.T @ (s / (s**2 + penalty) * projected)
                self._leverage = vt.T / np.sqrt(s**2 + penalty)
                residual = y - u @ (shrink * projected)
                self.freedom = max(len(y) - float(shrink.sum()) - 1.0, 0.5)
                self._noise = np.array([np.sqrt(max(float(residual @ residual) / self.freedom, 1e-24))])

    def widen(self, variance: float) -> None:
        """Add to the noise a variance, in units of the targets'."""
        self._noise = np.sqrt(self._noise**2 + variance)

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        grown = np.sqrt(1.0 + 1.0 / self.samples + ((X @ self._leverage) ** 2).sum(1))
        return X @ self._weights, self._noise[0] * grown

    def _arrays(self) -> Arrays:
        return {"weights": self._weights, "leverage": self._leverage, "noise": self._noise}

    def _restore(self, arrays: Arrays) -> None:
        self._weights, self._leverage, self._noise = arrays["weights"], arrays["leverage"], arrays["noise"]


class Linear(Ridge):
    """Ordinary least squares, by the least norm where the samples do not determine it."""

    name = "linear"
    penalties = (1e-10,)
