"""The contract of every predictor of numbers from features, and what all of them check.

model.fit(X, y)                    X: [n, d] features, y: [n]
mean, std = model.predict(X)       [m], [m]
other = model.adapt(X_few, y_few)  the same for a new target (another device), the old one untouched
model.save(path, **card)           no pickle; `predictors.storage.load` reads it back
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]
LARGEST = 1e100
"""Larger targets are refused: their squares are no numbers."""
LEAST_TARGET_STD = 1e-9
"""Targets that vary less than this part of their size are constant."""


def threads() -> ThreadPoolExecutor:
    """One for each core: numpy, BLAS and torch let other threads run."""
    return ThreadPoolExecutor(os.cpu_count())


class Predictor(ABC):
    """A regressor on standardised features, of the target or (log=True) of its logarithm.

    With log=True errors are relative, as latencies and energies need; the mean returned is then the median.
    seed: of everything random in the fit; same seed and data, same predictor.
    weights: [d] how far each standardised column is stretched; one that is shrunk has to earn its coefficient.
    """

    name: ClassVar[str]
    minimum: ClassVar[int] = 3
    """Fewer distinct rows than this are refused."""

    def __init__(self, log: bool = False, seed: int = 0, weights: Sequence[float] | None = None) -> None:
        self.log, self.seed = log, seed
        self.weights = [float(w) for w in weights] if weights is not None else None
        self.samples = 0

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that make this predictor again; JSON values."""
        stretched = {"weights": self.weights} if self.weights is not None else {}
        return {"log": self.log, "seed": self.seed, **stretched}

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """X: [n, d] features; y: [n] targets.

        Raises: DataError for shapes that do not pair up, fewer distinct rows than `minimum`, values that are not
        finite, constant targets, and targets that are not positive where log=True.
        """
        features, targets = checked(X, y, self.minimum, self.name, self.log)
        target = np.log(targets) if self.log else targets
        self._centre, self._spread = features.mean(0), features.std(0)
        self._spread[self._spread < 1e-12 * (1 + np.abs(self._centre))] = np.inf  # a constant column says nothing
        if self.weights is not None:
            if len(self.weights) != features.shape[1]:
                raise DataError(f"{len(self.weights)} weights for {features.shape[1]} features: expected one for each")
            self._spread = self._spread / np.array(self.weights)
        self._target_mean, self._target_std = float(target.mean()), float(target.std())
        self.samples = len(target)
        self._fit(self._scaled(features), (target - self._target_mean) / self._target_std)
        return self

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """X: [m, d] features. Returns: mean [m] and standard deviation [m] of the target.

        Raises: DataError if it was not fitted, or on another number of features, or values that are not finite.
        """
        self._require_fit()
        features = checked_features(X, len(self._centre))
        mean, std = self._predict(self._scaled(features))
        mean, std = mean * self._target_std + self._target_mean, std * self._target_std
        if not self.log:
            return mean, std
        median = np.exp(mean)
        return median, median * std

    def adapt(self, X_few: npt.ArrayLike, y_few: npt.ArrayLike) -> "Predictor":
        """A predictor for another target from a few of its values: a line in this one's prediction plus a residual.

        X_few: [n, d], n >= 3; y_few: [n]. See `predictors.transfer.Adapted`.
        """
        from predictors.transfer import Adapted

        return Adapted(self, seed=self.seed).fit(X_few, y_few)

    def save(self, path: Path | str, **card: Any) -> None:
        """Write arrays and card to one file; card: what the reader should know, such as data, score, floor."""
        from predictors.storage import save

        save(self, path, card)

    @abstractmethod
    def _fit(self, X: Floats, y: Floats) -> None:
        """X: [n, d] standardised features; y: [n] standardised targets."""

    @abstractmethod
    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        """X: [m, d] standardised. Returns mean and std in units of the standardised target."""

    @abstractmethod
    def _arrays(self) -> Arrays:
        """What was learned."""

    @abstractmethod
    def _restore(self, arrays: Arrays) -> None:
        """The inverse of `_arrays`."""

    def arrays(self) -> Arrays:
        """Everything that was learned, by name."""
        self._require_fit()
        scale = np.array([self._target_mean, self._target_std, float(self.samples)])
        return {"centre": self._centre, "spread": self._spread, "scale": scale, **self._arrays()}

    def restore(self, arrays: Arrays) -> Self:
        """The inverse of `arrays`, on a predictor made with the same `options`."""
        self._centre, self._spread = arrays["centre"], arrays["spread"]
        self._target_mean, self._target_std = map(float, arrays["scale"][:2])
        self.samples = int(arrays["scale"][2])
        self._restore(arrays)
        self._try_out()
        return self

    def _try_out(self) -> None:
        """Arrays of a file may not fit each other, which shows when they are used.

        Raises: ValueError, or whatever else goes wrong then.
        """
        mean, std = self.predict(self._example())
        if mean.shape != (1,) or std.shape != (1,) or not np.isfinite([mean, std]).all():
            raise ValueError(f"it predicts {mean!r:.50}, {std!r:.50}")

    def _example(self) -> Floats:
        """[1, d] features."""
        return np.asarray(self._centre, dtype=float).reshape(1, -1)

    def _require_fit(self) -> None:
        if not self.samples:
            raise DataError(f"the {self.name} predictor was not fitted: call fit(X, y) or load one first")

    def _scaled(self, X: Floats) -> Floats:
        return (X - self._centre) / self._spread


def numbers(values: npt.ArrayLike, what: str) -> Floats:
    """values as an array of floats.

    Raises: DataError.
    """
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} are arrays of numbers ({error})") from error


def checked(X: npt.ArrayLike, y: npt.ArrayLike, minimum: int, name: str, positive: bool) -> tuple[Floats, Floats]:
    """X and y as arrays [n, d] and [n].

    Raises: DataError; see `Predictor.fit`.
    """
    features, targets = numbers(X, "features"), numbers(y, "targets")
    if targets.ndim != 1 or features.ndim == 0 or len(features) != len(targets):
        raise DataError(f"features {features.shape} and targets {targets.shape}: expected [n, d] and [n]")
    if len(targets) < minimum:
        raise DataError(f"{len(targets)} samples: the {name} predictor needs at least {minimum}")
    if features.ndim != 2:
        raise DataError(f"features of shape {features.shape}: expected [n, d]")
    if not np.isfinite(features).all():
        raise DataError(f"row {_first_bad(features)} of the features is not finite")
    if not np.isfinite(targets).all():
        raise DataError(f"target {_first_bad(targets)} is not finite: {targets[_first_bad(targets)]}")
    if (np.abs(targets) > LARGEST).any():
        i = int(np.argmax(np.abs(targets)))
        raise DataError(f"target {i} is {targets[i]:g}: expected a number of at most {LARGEST:g}")
    if positive and (targets <= 0).any():
        i = int(np.argmin(targets))
        raise DataError(f"target {i} is {targets[i]:g}: a latency or an energy is positive")
    if targets.std() <= LEAST_TARGET_STD * np.abs(targets).max():
        raise DataError(f"all {len(targets)} targets are {targets[0]:g}: nothing can be learned from constant targets")
    distinct = len(np.unique(features, axis=0))
    if distinct < minimum:
        raise DataError(f"{distinct} distinct rows of features: the {name} predictor needs at least {minimum}")
    return features, targets


def checked_features(X: npt.ArrayLike, width: int) -> Floats:
    """X as an array [m, width].

    Raises: DataError on another width, or values that are not finite.
    """
    features = numbers(X, "features")
    if features.ndim != 2 or features.shape[1] != width:
        raise DataError(f"features of shape {features.shape}: this predictor was fitted on [n, {width}]")
    if not np.isfinite(features).all():
        raise DataError(f"row {_first_bad(features)} of the features is not finite")
    return features


def distinct(rows: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """[k] rows that stand for all, and [n] which of these k each row equals: isomorphic networks are predicted once.

    Rows are told apart by a random projection, so equal ones that rounding parts may both be kept.
    """
    projected = rows @ np.random.default_rng(0).random(rows.shape[1])
    _, first, of = np.unique(projected, return_index=True, return_inverse=True)
    if not np.array_equal(rows[first[of]], rows):  # two rows with one projection
        return np.arange(len(rows)), np.arange(len(rows))
    return first, of


def _first_bad(values: Floats) -> int:
    rows = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return int(np.flatnonzero(~rows)[0])
