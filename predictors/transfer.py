"""A predictor of a new target from a few samples of it and a predictor of another."""

from typing import Any

import numpy as np
import numpy.typing as npt

from predictors.base import Arrays, Floats, Predictor, checked
from predictors.gp import GaussianProcess


class Adapted(Predictor):
    """A line in what the source predicts, and a Gaussian process of it and the features of what the line leaves.

    As one column among many of a Gaussian process the source would count for as little as each of the others.
    """

    name = "adapted"
    minimum = 3

    def __init__(self, source: Predictor | dict[str, Any], seed: int = 0) -> None:
        if isinstance(source, dict):
            from predictors import find
            from predictors.storage import require_registered

            require_registered(source["model"])
            self.source: Predictor = find(source["model"])(**source["options"])
        else:
            self.source = source
        super().__init__(self.source.log, seed)

    @staticmethod
    def times(arrays: Arrays) -> int:
        """How often the predictor of these arrays was adapted: a source may itself be an adapted one."""
        times = 0
        while f"{times * 'source/'}slope" in arrays:
            times += 1
        return times

    @property
    def options(self) -> dict[str, Any]:
        return {"source": {"model": self.source.name, "options": self.source.options}, "seed": self.seed}

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "Adapted":
        features, targets = checked(X, y, self.minimum, self.name, self.log)
        return super().fit(self._seen(features), targets)

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        self._require_fit()
        return super().predict(self._seen(X))

    def _seen(self, X: npt.ArrayLike) -> Floats:
        """[n, 1 + d] the source's prediction before the features."""
        mean, _ = self.source.predict(X)
        return np.column_stack([np.log(mean) if self.log else mean, np.asarray(X, dtype=float)])

    def _fit(self, X: Floats, y: Floats) -> None:
        source = X[:, 0]
        self._slope = np.array([float(source @ y) / (float(source @ source) + 1.0)])
        self._residual = GaussianProcess(seed=self.seed, groups=[[0], list(range(1, X.shape[1]))])
        self._residual.fit(X, y - self._slope * source)

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        mean, std = self._residual.predict(X)
        return self._slope * X[:, 0] + mean, std

    def _arrays(self) -> Arrays:
        source = {f"source/{key}": value for key, value in self.source.arrays().items()}
        return (
            source
            | {"slope": self._slope}
            | {f"residual/{key}": value for key, value in self._residual.arrays().items()}
        )

    def _example(self) -> Floats:
        return self.source._example()

    def _restore(self, arrays: Arrays) -> None:
        def part(prefix: str) -> Arrays:
            return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}

        self.source.restore(part("source/"))
        self._slope = arrays["slope"]
        width = len(self._centre)
        self._residual = GaussianProcess(groups=[[0], list(range(1, width))]).restore(part("residual/"))
