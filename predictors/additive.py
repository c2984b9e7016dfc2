"""A cost that is additive over decisions: ridge regression on one-hot choices, the look-up table's natural model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError
from search_spaces.decisions import Arch, Decisions

MINIMUM = 5
"""Fewer samples than this say nothing about an error."""
PENALTIES = tuple(10.0**p for p in range(-4, 3))


class AdditivePredictor:
    """fit / predict -> mean, std over the archs of one space."""

    def __init__(self, space: Decisions) -> None:
        self.space = space

    def fit(self, archs: Sequence[Arch], values: npt.ArrayLike) -> None:
        """archs: n networks; values: [n]. The penalty is chosen by leave-one-out error.

        Raises: DataError for fewer than 5 samples, or targets that are not finite or all equal.
        """
        from sklearn.linear_model import RidgeCV

        y = np.asarray(values, dtype=float)
        if len(archs) != len(y) or len(y) < MINIMUM:
            raise DataError(
                f"{len(archs)} networks and {len(y)} values: the additive predictor needs at least {MINIMUM} pairs"
            )
        if not np.isfinite(y).all() or np.ptp(y) == 0:
            raise DataError("the values are not finite or all equal: nothing can be learned from them")
        self._model = RidgeCV(alphas=PENALTIES, store_cv_results=True).fit(self.space.one_hot(archs), y)
        squared = self._model.cv_results_[:, PENALTIES.index(self._model.alpha_)]
        self.std = float(np.sqrt(squared.mean()))
        self.relative_error = self.std / float(np.abs(y).mean())
        self._least = float(y.min())

    def predict(self, archs: Sequence[Arch]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns: mean [n], not below a tenth of the least value seen, and std [n] from leave-one-out errors."""
        mean = np.asarray(self._model.predict(self.space.one_hot(archs)), dtype=float)
        return np.maximum(mean, 0.1 * self._least), np.full(len(archs), self.std)
