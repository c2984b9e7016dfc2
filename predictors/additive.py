"""A cost that adds up over a network's parts: ridge regression on workload features and one-hot choices.

The workload features (operations and weights per arithmetic kind, layers, activations) carry what the networks have in
common, so that ten measurements already say something; the one-hot choices, scaled down, correct them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError
from cosearch.workload import KINDS, Workload
from search_spaces.decisions import Arch, arch_key

MINIMUM = 5
"""Fewer distinct networks than this say nothing about an error."""
PENALTIES = tuple(10.0**p for p in range(-4, 3))
ONE_HOT_SCALE = 0.1
"""The one-hot part is shrunk a hundred times as hard as the workload features."""


def workload_features(workload: Workload) -> list[float]:
    """Operations, weights, outputs and layers per arithmetic kind."""
    rows = []
    for kind in KINDS:
        layers = [layer for layer in workload.layers if layer.kind == kind]
        totals = (sum(x.macs for x in layers), sum(x.weight_count for x in layers), sum(x.output_count for x in layers))
        rows += [*map(float, totals), float(len(layers))]
    return rows


class AdditivePredictor:
    """fit / predict -> mean, std over the archs of one space."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def _features(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        one_hot = ONE_HOT_SCALE * self.space.one_hot(archs)
        if not hasattr(self.space, "workload"):
            return np.asarray(one_hot / ONE_HOT_SCALE)
        described = np.array([workload_features(self.space.workload(arch)) for arch in archs])
        return np.hstack([(described - self._centre) / self._spread, one_hot])

    def fit(self, archs: Sequence[Arch], values: npt.ArrayLike) -> None:
        """archs: n networks; values: [n]; repeats of a network are averaged. Penalty: least leave-one-out error.

        Raises: DataError for fewer than 5 distinct networks, or targets that are not finite or all equal.
        """
        from sklearn.linear_model import RidgeCV

        given = np.asarray(values, dtype=float)
        if len(archs) != len(given):
            raise DataError(f"{len(archs)} networks but {len(given)} values: they must pair up")
        groups: dict[str, list[int]] = {}
        for i, arch in enumerate(archs):
            groups.setdefault(arch_key(arch), []).append(i)
        if len(groups) < MINIMUM:
            raise DataError(f"{len(groups)} distinct networks: the additive predictor needs at least {MINIMUM}")
        y = np.array([given[rows].mean() for rows in groups.values()])
        if not np.isfinite(y).all() or np.ptp(y) == 0:
            raise DataError("the values are not finite or all equal: nothing can be learned from them")
        distinct = [archs[rows[0]] for rows in groups.values()]
        if hasattr(self.space, "workload"):
            described = np.array([workload_features(self.space.workload(arch)) for arch in distinct])
            self._centre, self._spread = described.mean(0), described.std(0)
            self._spread[self._spread == 0] = 1.0
        self._model = RidgeCV(alphas=PENALTIES, store_cv_results=True).fit(self._features(distinct), y)
        squared = self._model.cv_results_[:, PENALTIES.index(self._model.alpha_)]
        self.std = float(np.sqrt(squared.mean()))
        self.relative_error = self.std / float(np.abs(y).mean())
        self.relative_spread = float(y.std()) / float(np.abs(y).mean())
        self._least = float(y.min())

    def predict(self, archs: Sequence[Arch]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns: mean [n], not below a tenth of the least value seen, and std [n] from leave-one-out errors."""
        mean = np.asarray(self._model.predict(self._features(archs)), dtype=float)
        return np.maximum(mean, 0.1 * self._least), np.full(len(archs), self.std)
