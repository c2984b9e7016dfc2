"""Linear regression with errors in proportion to the latency, of a device that may have run at two speeds."""

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from predictors.base import Arrays, Floats, Predictor
from predictors.robust import FREEDOM

PENALTIES = tuple(10.0**p for p in range(-3, 4))
STEPS = 20
LEAST = 0.05
"""Errors of less than this part of the mean latency are no smaller for it."""
GAINED = 0.5
"""Two speeds have to raise the leave-one-out log likelihood of a sample by this; of noise two clusters make up 0.3."""


class Relative(Predictor):
    """Ridge regression y = f(x) (1 + s + noise) with Student's t noise and s one of at most two numbers.

    Processors change their clock between two states while a table is measured, and which one a network has met tells
    nothing of it: least squares then fits a mean that no network has, with errors as large as the states are apart.
    Two states are believed where they raise the leave-one-out likelihood by far. Of logarithms, and where a target is
    not positive, errors are absolute. The mean returned is that over the states.
    Source: own derivation; expectation maximisation for mixtures, and the weights of `predictors.robust`.
    """

    name = "relative"
    minimum = 5

    def _fit(self, X: Floats, y: Floats) -> None:
        design, level = np.column_stack([np.ones(len(X)), X]), self._target_mean / self._target_std
        relative = not self.log and bool((y + level > 0).all())
        target = 1.0 + y / level if relative else y
        one = max((_fitted(design, target, relative, p, False) for p in PENALTIES), key=lambda f: f.likelihood)
        two = max((_fitted(design, target, relative, p, True) for p in PENALTIES), key=lambda f: f.likelihood)
        found = two if two.likelihood > one.likelihood + GAINED else one
        self._weights, self._covariance = found.weights, found.covariance
        self._states, self._shares = found.states, found.shares
        self._unit = np.array([level if relative else 0.0])
        self._noise = np.array([found.scale * np.sqrt(FREEDOM / (FREEDOM - 2))])

    def _predict(self, X: Floats) -> tuple[Floats, Floats]:
        design = np.column_stack([np.ones(len(X)), X])
        fitted, shift = design @ self._weights, float(self._shares @ self._states)
        size = _size(fitted, bool(self._unit[0]))
        apart = float(self._shares @ (self._states - shift) ** 2)
        doubt = self._noise[0] ** 2 * (size**2 + ((design @ self._covariance) * design).sum(1))
        mean, std = fitted + size * shift, np.sqrt(doubt + apart * size**2)
        return ((mean - 1.0) * self._unit[0], std * self._unit[0]) if self._unit[0] else (mean, std)

    def _arrays(self) -> Arrays:
        return {key: getattr(self, f"_{key}") for key in _KEPT}

    def _restore(self, arrays: Arrays) -> None:
        for key in _KEPT:
            setattr(self, f"_{key}", arrays[key])


_KEPT = ("weights", "covariance", "noise", "states", "shares", "unit")


class _Fitted(NamedTuple):
    """likelihood: mean leave-one-out log likelihood; covariance: [p, p] over the squared scale; states, shares: [k]."""

    likelihood: float
    weights: Floats
    covariance: Floats
    states: Floats
    shares: Floats
    scale: float


def _size(fitted: Floats, relative: bool) -> Floats:
    """[n] what errors are in proportion to."""
    return np.maximum(fitted, LEAST) if relative else np.ones(len(fitted))


def _fitted(design: Floats, y: Floats, relative: bool, penalty: float, two: bool) -> _Fitted:
    """design: [n, p] whose first column is one and not penalised; y: [n], of mean one where errors are relative."""
    ridge = penalty * np.eye(design.shape[1])
    ridge[0, 0] = 0.0
    n = len(y)
    states, shares, scale = np.zeros(1), np.ones(1), 0.0
    target, weight = y, np.ones(n)
    for step in range(STEPS):
        weighted = design * weight[:, None]
        covariance = np.asarray(np.linalg.inv(weighted.T @ design + ridge), dtype=float)
        weights = covariance @ (weighted.T @ target)
        fitted = design @ weights
        leverage = np.minimum(((design @ covariance) * design).sum(1) * weight, 0.999)
        size = _size(fitted, relative)
        error = (y - fitted) / size
        if step == 0:
            states, shares, scale = _start(error, two)
        density = shares * student.pdf((error[:, None] - states) / scale, FREEDOM)
        likely = density / density.sum(1, keepdims=True)
        certainty = likely * (FREEDOM + 1) / (FREEDOM + ((error[:, None] - states) / scale) ** 2)
        if two:
            shares = (likely.sum(0) + 1.0) / (n + 2.0)
            states = (certainty * error[:, None]).sum(0) / certainty.sum(0)
        freedom = max(n - float(leverage.sum()), 1.0)
        scale = max(float(np.sqrt((certainty * (error[:, None] - states) ** 2).sum() / freedom)), 1e-6)
        target = y - size * (certainty @ states) / certainty.sum(1)
        # of weights like those of least squares, so that penalties are comparable
        weight = certainty.sum(1) / size**2
        weight *= n / weight.sum()
    without = fitted - (target - fitted) * leverage / (1.0 - leverage)
    left_out = ((y - without) / size)[:, None] - states
    density = (shares * student.pdf(left_out / scale, FREEDOM)).sum(1) / (scale * size)
    return _Fitted(float(np.log(np.maximum(density, 1e-300)).mean()), weights, covariance, states, shares, scale)


def _start(error: Floats, two: bool) -> tuple[Floats, Floats, float]:
    """States, their shares and the scale of the noise; two states are the halves with the least spread in each."""
    if not two:
        return np.zeros(1), np.ones(1), max(1.4826 * float(np.median(np.abs(error))), 1e-6)
    ordered, n = np.sort(error), len(error)
    below = np.arange(max(1, n // 10), n - max(1, n // 10) + 1)
    sums = np.cumsum(ordered)
    between = sums[below - 1] ** 2 / below + (sums[-1] - sums[below - 1]) ** 2 / (n - below)
    split = int(below[np.argmax(between)])
    low, high = ordered[:split], ordered[split:]
    states = np.array([np.median(low), np.median(high)])
    nearest = np.abs(error[:, None] - states).min(1)
    return states, np.array([split, n - split]) / n, max(1.4826 * float(np.median(nearest)), 1e-6)
