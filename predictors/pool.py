"""A device never seen, from ten measurements: what is common to a pool of devices is learned once, as a prior.

Latency is close to additive: y(x) = s phi(x).w + noise. Over a pool of devices the weights w, each device's latencies
divided by their mean, scatter in a few directions. Their mean and covariance are the prior for the next device; its
scale s, its noise and which view of a network it runs (all edges, only those whose result is read, ...: see
`predictors.encoding`) are weighed by marginal likelihood. A device unlike the pool is left to the last component, a
plain ridge regression on the columns called general. Measurements have outliers, so the noise is Student's t.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, UnknownNameError, nearest
from predictors.base import Arrays, Floats, checked, checked_features

FREEDOM = 4.0
"""Degrees of freedom of the noise."""
OWN = 0.3
"""Each weight may leave the pool's subspace by this part of its standard deviation over the pool."""
SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0)
NOISES = (0.01, 0.02, 0.04, 0.08, 0.15)
WIDTHS = (0.03, 0.1, 0.3)
"""Standard deviations, as parts of the mean latency, of a general column's effect under the ridge component."""
RIDGE_SHARE = 0.1
"""Prior probability that a device is unlike the pool."""
DESIGN_NOISE = 0.05
MOST = 300
POOL_PENALTY = 1.0


class Prior(NamedTuple):
    """Weights [p] of a device's latency over its mean, and their covariance [p, p]; p = 1 + columns of a view."""

    mean: Floats
    covariance: Floats


class DevicePool:
    """Latencies of many networks on several devices, as a prior for the next one.

    views: per view the columns of X that describe it, equally many and in the same order; one view of all by default.
    general: which of a view's columns the ridge component uses; all by default.
    """

    name = "pool"
    minimum = 20

    def __init__(
        self,
        views: Sequence[Sequence[int]] | None = None,
        general: Sequence[int] | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        if views is not None and (not views or len({len(view) for view in views}) != 1):
            raise DataError("views of a network: expected at least one, and as many columns in each")
        self.views = [list(map(int, view)) for view in views] if views is not None else None
        self.general = list(map(int, general)) if general is not None else None
        self.devices = list(devices)
        self.samples = 0

    @property
    def options(self) -> dict[str, Any]:
        return {"views": self.views, "general": self.general, "devices": self.devices}

    def fit(self, X: npt.ArrayLike, latencies: Mapping[str, npt.ArrayLike]) -> "DevicePool":
        """X: [n, d] features; latencies: device -> [n], NaN where a network was not measured there.

        Raises: DataError as `Predictor.fit`, for fewer than two devices or fewer than 20 networks on one.
        """
        if len(latencies) < 2:
            raise DataError(f"a pool of {len(latencies)} devices: expected at least two")
        features = np.asarray(X, dtype=float)
        if self.views is None:
            self.views = [list(range(features.shape[1]))]
        self.devices = list(latencies)
        self._centre = features[:, self.views[0]].mean(0)
        self._spread = features[:, self.views[0]].std(0)
        weights, chosen = [], []
        for device, values in latencies.items():
            known = np.isfinite(np.asarray(values, dtype=float))
            rows, y = checked(features[known], np.asarray(values, dtype=float)[known], self.minimum, device, True)
            fits = [_robust_ridge(self._design(rows, view), y / y.mean()) for view in range(len(self.views))]
            best = min(range(len(fits)), key=lambda view: fits[view][1])
            weights.append(fits[best][0])
            chosen.append(best)
        self._weights, self._view = np.array(weights), np.array(chosen)
        self.samples = len(features)
        return self

    def without(self, device: str) -> "DevicePool":
        """The pool as it is without one of its devices."""
        at = self._index(device)
        other = DevicePool(self.views, self.general, [d for d in self.devices if d != device])
        other._centre, other._spread, other.samples = self._centre, self._spread, self.samples
        other._weights, other._view = np.delete(self._weights, at, 0), np.delete(self._view, at)
        return other

    def adapt(self, X_few: npt.ArrayLike, y_few: npt.ArrayLike) -> "PooledPredictor":
        """A predictor for a new device. X_few: [n, d], 3 <= n <= 300; y_few: [n] latencies, ms.

        Raises: DataError.
        """
        return PooledPredictor(self).fit(X_few, y_few)

    def choose(self, X: npt.ArrayLike, n: int, measured: Sequence[int] = ()) -> list[int]:
        """Which n of the networks in X [m, d] to measure next, given the rows that are.

        Greedy: each takes off most of the variance that the prior leaves over all of X, the doubt about scale and view
        included (an I-optimal design).
        """
        self._require_fit()
        features = np.asarray(X, dtype=float)
        if not 0 <= n <= len(features) - len(set(measured)):
            raise DataError(f"{n} networks to choose among {len(features)} of which {len(set(measured))} are measured")
        mean = self._weights.mean(0)
        directions = np.vstack([mean, (self._weights - mean) / np.sqrt(len(self._weights))]).T
        designs = [self._design(features, view) for view in range(len(self.views or ()))]
        built = designs[0]
        signals = np.hstack([built @ directions, *(0.5 * (other - built) @ directions for other in designs[1:])])
        return _greedy_design(signals, n, measured)

    def prior(self) -> Prior:
        """Mean and covariance of the weights over the pool."""
        self._require_fit()
        mean = self._weights.mean(0)
        apart = self._weights - mean
        covariance = apart.T @ apart / len(apart)
        return Prior(mean, covariance + OWN**2 * np.diag(np.diag(covariance)))

    def view_odds(self) -> Floats:
        """Prior probability of each view: how common it is in the pool, plus one each."""
        counts = np.bincount(self._view, minlength=len(self.views or ())) + 1.0
        return np.asarray(counts / counts.sum())

    def ridge_priors(self) -> list[Prior]:
        """Priors that know nothing but that latency is about additive over the general columns."""
        size = 1 + len(self._centre)
        columns = np.array(self.general if self.general is not None else range(size - 1), dtype=int)
        columns = columns[self._spread[columns] > 0]
        out = []
        for width in WIDTHS:
            variance = np.zeros(size)
            variance[0] = 0.1
            variance[1 + columns] = (width / self._spread[columns]) ** 2
            mean = np.zeros(size)
            mean[0] = 1.0
            out.append(Prior(mean, np.diag(variance)))
        return out

    def save(self, path: Path | str, **card: Any) -> None:
        """As `Predictor.save`."""
        from predictors.storage import save

        save(self, path, card)

    def arrays(self) -> Arrays:
        self._require_fit()
        return {
            "centre": self._centre,
            "spread": self._spread,
            "weights": self._weights,
            "view": self._view,
            "samples": np.array([self.samples]),
        }

    def restore(self, arrays: Arrays) -> "DevicePool":
        self._centre, self._spread = arrays["centre"], arrays["spread"]
        self._weights, self._view = arrays["weights"], arrays["view"]
        self.samples = int(arrays["samples"][0])
        return self

    def _design(self, X: Floats, view: int) -> Floats:
        """[n, 1 + columns] a one, then a view's columns about the centre of the first view."""
        assert self.views is not None
        return np.column_stack([np.ones(len(X)), X[:, self.views[view]] - self._centre])

    def _index(self, device: str) -> int:
        if device not in self.devices:
            raise UnknownNameError(f"device {device!r} is not in the pool: {nearest(device, self.devices)}")
        return self.devices.index(device)

    def _require_fit(self) -> None:
        if not self.samples:
            raise DataError("the device pool was not fitted: call fit(X, latencies) or load one first")


class PooledPredictor:
    """Latency on one device, from a pool's prior and a few measurements; see `DevicePool.adapt`."""

    name = "pooled"
    minimum = 3

    def __init__(self, pool: DevicePool | dict[str, Any]) -> None:
        self.samples = 0
        self.pool = DevicePool(**pool) if isinstance(pool, dict) else pool

    @property
    def options(self) -> dict[str, Any]:
        return {"pool": self.pool.options}

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "PooledPredictor":
        features, targets = checked(X, y, self.minimum, self.name, True)
        if len(targets) > MOST:
            raise DataError(f"{len(targets)} samples to adapt from, at most {MOST}: train a predictor on them instead")
        pool = self.pool
        self._width = features.shape[1]
        found: list[tuple[float, int, Floats, Floats, float]] = []
        priors = [(pool.prior(), (1 - RIDGE_SHARE) * odds, view) for view, odds in enumerate(pool.view_odds())]
        broad = pool.ridge_priors()
        priors += [(prior, RIDGE_SHARE / len(broad), len(priors)) for prior in broad]
        self._views = np.array([*range(len(pool.view_odds())), 0])
        for prior, share, component in priors:
            design = pool._design(features, int(self._views[component]))
            for log_evidence, weights, covariance, noise in _posteriors(design, targets, prior):
                found.append((log_evidence + np.log(share), component, weights, covariance, noise))
        self._mix(found)
        self.samples = len(targets)
        self._floor = 0.1 * float(targets.min())
        return self

    def _mix(self, found: list[tuple[float, int, Floats, Floats, float]]) -> None:
        """Per component its probability and the moments of its weights over scales and noises."""
        log_odds = np.array([each[0] for each in found])
        odds = np.exp(log_odds - log_odds.max())
        odds /= odds.sum()
        of = np.array([each[1] for each in found])
        self.odds = np.array([odds[of == c].sum() for c in range(len(self._views))])
        size = len(found[0][2])
        self._weights = np.zeros((len(self._views), size))
        self._covariance = np.zeros((len(self._views), size, size))
        noise = 0.0
        for part, (_, component, weights, _, std) in zip(odds, found, strict=True):
            self._weights[component] += part / max(self.odds[component], 1e-300) * weights
            noise += part * std**2
        for part, (_, component, weights, covariance, _) in zip(odds, found, strict=True):
            if part > 1e-6:
                away = weights - self._weights[component]
                share = part / self.odds[component]
                self._covariance[component] += share * (covariance + np.outer(away, away))
        self._noise = float(np.sqrt(noise))

    @property
    def ridge_share(self) -> float:
        """Probability, given the measurements, that the device is unlike the pool: plain ridge regression is used."""
        return float(self.odds[-1])

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """X: [m, d]. Returns: mean [m], not below a tenth of the least latency seen, and standard deviation [m]."""
        if not self.samples:
            raise DataError("the pooled predictor was not fitted: call DevicePool.adapt or load one first")
        features = checked_features(X, self._width)
        used = [c for c in range(len(self.odds)) if self.odds[c] > 1e-4]
        total = self.odds[used].sum()
        means, spreads = [], []
        for component in used:
            design = self.pool._design(features, int(self._views[component]))
            means.append(design @ self._weights[component])
            spreads.append(((design @ self._covariance[component]) * design).sum(1))
        share = self.odds[used] / total
        mean = share @ np.array(means)
        variance = share @ (np.array(spreads) + np.array(means) ** 2) - mean**2
        std = np.sqrt(np.maximum(variance, 0.0) + self._noise**2)
        return np.maximum(mean, self._floor), std

    def adapt(self, X_few: npt.ArrayLike, y_few: npt.ArrayLike) -> "PooledPredictor":
        """A predictor for another device, from the same pool."""
        return self.pool.adapt(X_few, y_few)

    def save(self, path: Path | str, **card: Any) -> None:
        """As `Predictor.save`."""
        from predictors.storage import save

        save(self, path, card)

    def arrays(self) -> Arrays:
        pool = {f"pool/{key}": value for key, value in self.pool.arrays().items()}
        return pool | {
            "odds": self.odds,
            "views": self._views,
            "weights": self._weights,
            "covariance": self._covariance,
            "numbers": np.array([self._noise, self._floor, self._width, self.samples]),
        }

    def restore(self, arrays: Arrays) -> "PooledPredictor":
        self.pool.restore({k.removeprefix("pool/"): v for k, v in arrays.items() if k.startswith("pool/")})
        self.odds, self._views = arrays["odds"], arrays["views"]
        self._weights, self._covariance = arrays["weights"], arrays["covariance"]
        self._noise, self._floor = map(float, arrays["numbers"][:2])
        self._width, self.samples = map(int, arrays["numbers"][2:])
        return self


def _robust_ridge(design: Floats, y: Floats) -> tuple[Floats, float]:
    """Weights by iterated reweighting for Student's t noise, and the mean absolute error.

    design: [n, p] whose first column is one and not penalised.
    """
    penalty = POOL_PENALTY * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    certainty = np.ones(len(y))
    for _ in range(6):
        weighted = design * certainty[:, None]
        weights = np.linalg.solve(weighted.T @ design + penalty, weighted.T @ y)
        error = y - design @ weights
        scale = max(1.4826 * float(np.median(np.abs(error))), 1e-12)
        certainty = (FREEDOM + 1) / (FREEDOM + (error / scale) ** 2)
    return np.asarray(weights, dtype=float), float(np.abs(error).mean())


def _posteriors(design: Floats, y: Floats, prior: Prior) -> list[tuple[float, Floats, Floats, float]]:
    """For each scale s and noise: log evidence, posterior mean and covariance of s w, and the noise's std.

    design: [n, p]; y: [n]. The t noise is a Gaussian whose variances are iterated (expectation maximisation).
    Source: own derivation; Bayesian linear regression in its function-space form, which inverts n x n.
    """
    expected = design @ prior.mean
    gain = prior.covariance @ design.T
    signal = design @ gain
    centre = float(y @ expected) / float(expected @ expected)
    if centre <= 0:
        centre = float(y.mean())
    out = []
    for scale in SCALES:
        target = y / (centre * scale) - expected
        for noise in NOISES:
            certainty = np.ones(len(y))
            for _ in range(6):
                kernel = signal + np.diag(noise**2 / certainty)
                inverse = np.linalg.inv(kernel)
                solved = inverse @ target
                doubt = np.diag(signal - signal @ inverse @ signal)
                squared = (target - signal @ solved) ** 2 + doubt
                certainty = (FREEDOM + 1) / (FREEDOM + squared / noise**2)
            evidence = -0.5 * float(target @ solved) - 0.5 * float(np.linalg.slogdet(kernel)[1])
            evidence -= len(y) * np.log(centre * scale)
            weights = prior.mean + gain @ solved
            covariance = prior.covariance - gain @ inverse @ gain.T
            size = centre * scale
            # variance of Student's t is larger than its squared scale
            spread = noise * np.sqrt(FREEDOM / (FREEDOM - 2))
            out.append((evidence, size * weights, size**2 * covariance, size * spread))
    return out


def _greedy_design(signals: Floats, n: int, measured: Sequence[int]) -> list[int]:
    """signals: [m, k] what a unit prior on k numbers does to each row. Returns n rows."""
    left = np.eye(signals.shape[1])
    total = signals.T @ signals

    def measure(row: Floats) -> Floats:
        moved = left @ row
        return np.asarray(left - np.outer(moved, moved) / (DESIGN_NOISE**2 + row @ moved))

    for row in measured:
        left = measure(signals[row])
    chosen: list[int] = []
    for _ in range(n):
        moved = signals @ left
        gained = ((moved @ total) * moved).sum(1) / (DESIGN_NOISE**2 + (moved * signals).sum(1))
        gained[[*measured, *chosen]] = -1.0
        chosen.append(int(np.argmax(gained)))
        left = measure(signals[chosen[-1]])
    return chosen
