"""A Gaussian process and boosted trees, averaged: they err differently. What predicts accuracies best."""

from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from predictors.base import Arrays, Floats, Predictor
from predictors.gp import GaussianProcess
from predictors.trees import Boosting


class Blend(Predictor):
    """The mean of `GaussianProcess` and `Boosting`, both of the normal scores of the targets' ranks if ranked=True.

    Accuracies crowd near the best: by their ranks the members tell apart the good networks, where raw values let a few
    failures dominate. Predictions are mapped back to the targets' scale.
    """

    name = "blend"
    minimum = 5

    def __init__(self, log: bool = False, seed: int = 0, ranked: bool = True) -> None:
        super().__init__(log, seed)
        self.ranked = ranked
        self._members: tuple[Predictor, ...] = (GaussianProcess(seed=seed), Boosting(seed=seed))

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "ranked": self.ranked}

    def _fit(self, X: Floats, y: Floats) -> None:
        self._known, first = np.unique(y, return_index=True)
        scores = norm.ppf((rankdata(y) - 0.5) / len(y)) if self.ranked else y
        self._scores = scores[first]
        for member in self._members:
            member.fit(X, scores)

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        each = [member.predict(X) for member in self._members]
        mean = np.mean([m for m, _ in each], axis=0)
        std = np.sqrt(np.mean([s**2 + (m - mean) ** 2 for m, s in each], axis=0))
        low, high = self._back(mean - std), self._back(mean + std)
        return self._back(mean), np.maximum(0.5 * (high - low), 1e-6)

    def _back(self, scores: Floats) -> Floats:
        """Scores to targets, linear between samples; beyond the outermost as steep as the targets are over all."""
        inside = np.interp(scores, self._scores, self._known)
        steep = (self._known[-1] - self._known[0]) / (self._scores[-1] - self._scores[0])
        below, above = np.minimum(scores - self._scores[0], 0.0), np.maximum(scores - self._scores[-1], 0.0)
        return np.asarray(inside + steep * (below + above))

    def _arrays(self) -> Arrays:
        members = {f"{m.name}/{key}": value for m in self._members for key, value in m.arrays().items()}
        return {"known": self._known, "scores": self._scores, **members}

    def _restore(self, arrays: Arrays) -> None:
        self._known, self._scores = arrays["known"], arrays["scores"]
        for member in self._members:
            prefix = f"{member.name}/"
            member.restore({key.removeprefix(prefix): v for key, v in arrays.items() if key.startswith(prefix)})
