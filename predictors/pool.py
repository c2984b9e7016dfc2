"""A device never seen, from ten measurements: what is common to a pool of devices is learned once, as a prior.

Latency is close to additive: y(x) = s phi(x).w + noise. Over a pool of devices the weights w, each device's latencies
divided by their mean, scatter in a few directions. Their mean and covariance are the prior for the next device; its
scale s, its noise and which view of a network it runs (all edges, only those whose result is read, ...: see
`predictors.encoding`) are weighed by marginal likelihood. So is how far the device is from the pool: it may be like the
pool's devices, or lie about their mean with freedom of its own in every weight, or have nothing in common with them,
which is ridge regression. Measurements have outliers, so the noise is Student's t.

Evidence can be wrong where the pool is: so a plain ridge regression on the measurements alone is blended in, each by
the inverse of its mean squared leave-one-out error. That of the ridge is believed to be like the pool's until the
freedoms that its fit leaves show otherwise. Where it is then the smaller one, the ridge is used alone; one that only
guesses the mean is not used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosearch.errors import DataError, UnknownNameError, nearest
from predictors.base import Arrays, Floats, checked, checked_features, numbers
from predictors.linear import Ridge

FREEDOM = 4.0
"""Degrees of freedom of the noise."""
OWN = 0.3
"""Each weight may leave the pool's subspace by this part of its standard deviation over the pool."""
SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0)
NOISES = (0.01, 0.02, 0.04, 0.08, 0.15)
WIDTHS = (0.03, 0.1, 0.3)
"""Standard deviations, as parts of the mean latency, of the freedom in a general column's effect."""
SPECIFIC = 0.1
"""Of the freedom in a general column's effect, how much any other column has."""
STRANGER = 0.5
"""Prior odds that a device with freedom of its own has nothing in common with the pool."""
DESIGN_NOISE = 0.05
MOST = 300
BETTER = 0.99
"""A ridge whose squared error is not below this part of that of guessing the mean says nothing."""
USED = 1e-4
"""A component that is less probable than this is left out of predictions."""
POOL_PENALTY = 1.0
NUMBERS = ("_noise", "_floor", "ridge_share", "pool_error", "ridge_error")
"""What of a fitted `PooledPredictor` is one number each; they are kept by these names."""


class Prior(NamedTuple):
    """Weights [p] of a device's latency over its mean, and their covariance [p, p]; p = 1 + columns of a view."""

    mean: Floats
    covariance: Floats


class Component(NamedTuple):
    """One thing a device may be. view: the columns it runs; share: prior probability."""

    prior: Prior
    view: int
    share: float


class DevicePool:
    """Latencies of many networks on several devices, as a prior for the next one.

    views: per view the columns of X that describe it, equally many and in the same order; one view of all by default.
    general: the columns of a view whose effects a device is most free in, such as operator counts; all by default.
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
        features = numbers(X, "features")
        if features.ndim != 2:
            raise DataError(f"features of shape {features.shape}: expected [n, d]")
        if self.views is None:
            self.views = [list(range(features.shape[1]))]
        self._require_columns(features)
        self.devices = list(latencies)
        self._centre = features[:, self.views[0]].mean(0)
        self._spread = features[:, self.views[0]].std(0)
        weights, chosen = [], []
        for device, values in latencies.items():
            given = numbers(values, f"latencies of {device}")
            if given.shape != (len(features),):
                raise DataError(f"{device}: {given.size} latencies of {len(features)} networks, expected one of each")
            known = np.isfinite(given)
            rows, y = checked(features[known], given[known], self.minimum, device, True)
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
        and the freedom that a device may have of its own included (an I-optimal design). Without that freedom few
        directions are left to tell apart, and the rows that do it best are so alike that no ridge is judged by them.
        """
        self._require_fit()
        features = numbers(X, "features")
        self._require_columns(features)
        if not np.isfinite(features).all():
            raise DataError("features of the networks to choose among are not all finite: check the features")
        for row in measured:
            if not 0 <= row < len(features):
                raise DataError(f"measured row {row}: expected rows 0 to {len(features) - 1} of the networks given")
        if not isinstance(n, int | np.integer) or not 0 <= n <= len(features) - len(set(measured)):
            raise DataError(f"{n} networks to choose among {len(features)} of which {len(set(measured))} are measured")
        mean = self._weights.mean(0)
        own = np.sqrt(self.freedoms()[len(WIDTHS) // 2])
        directions = np.vstack([mean, (self._weights - mean) / np.sqrt(len(self._weights))]).T
        designs = [self._design(features, view) for view in range(len(self.views or ()))]
        built = designs[0]
        others = [0.5 * (other - built) @ directions for other in designs[1:]]
        return _greedy_design(np.hstack([built @ directions, built @ own, *others]), n, measured)

    def prior(self) -> Prior:
        """Mean and covariance of the weights over the pool."""
        self._require_fit()
        mean = self._weights.mean(0)
        apart = self._weights - mean
        covariance = apart.T @ apart / len(apart)
        return Prior(mean, covariance + OWN**2 * np.diag(np.diag(covariance)))

    def shown(self) -> npt.NDArray[np.bool_]:
        """[columns of a view] which were not zero for every network that the pool was fitted on."""
        self._require_fit()
        return np.asarray((self._spread > 0) | (self._centre != 0))

    def freedoms(self) -> list[Floats]:
        """Per width the diagonal [p, p] covariance of weights of which no pool tells."""
        size = 1 + len(self._centre)
        part = np.full(size - 1, SPECIFIC)
        part[self.general if self.general is not None else slice(None)] = 1.0
        shown = self._spread > 0
        out = []
        for width in WIDTHS:
            variance = np.zeros(size)
            variance[0] = 0.1
            variance[1:][shown] = (width * part[shown] / self._spread[shown]) ** 2
            out.append(np.diag(variance))
        return out

    def components(self) -> list["Component"]:
        """What a new device may be, view by view; the shares add up to one.

        Every view is as likely as another: how many of the pool's devices drop dead code says little of the next one.
        """
        known, freedoms = self.prior(), self.freedoms()
        nothing = np.zeros_like(known.mean)
        nothing[0] = 1.0
        kinds = [
            (known, 1.0),
            *((Prior(known.mean, known.covariance + free), 1.0) for free in freedoms),
            *((Prior(nothing, free), STRANGER) for free in freedoms),
        ]
        count = len(self.views or ())
        total = count * sum(share for _, share in kinds)
        return [Component(prior, view, share / total) for view in range(count) for prior, share in kinds]

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

    def _require_columns(self, features: Floats) -> None:
        """Raises: DataError for features that lack a column of a view, and for general columns that no view has."""
        views = self.views or [[0]]
        needed = 1 + max(max(view, default=0) for view in views)
        if features.ndim != 2 or features.shape[1] < needed or min(min(view, default=0) for view in views) < 0:
            raise DataError(f"features of shape {features.shape}: the pool's views name columns up to {needed - 1}")
        if self.general is not None and not set(self.general) <= set(range(len(views[0]))):
            raise DataError(f"general columns {self.general}: a view has columns 0 to {len(views[0]) - 1}")

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
        self.ridge_share = 0.0
        """How much plain ridge regression on the measurements counts beside the pool: below a half, or 1."""
        self.pool_error = self.ridge_error = float("nan")
        """Leave-one-out errors on the measurements, root mean square over their mean; no ridge, no error of it."""

    @property
    def options(self) -> dict[str, Any]:
        return {"pool": self.pool.options}

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> "PooledPredictor":
        features, targets = checked(X, y, self.minimum, self.name, True)
        if len(targets) > MOST:
            raise DataError(f"{len(targets)} samples to adapt from, at most {MOST}: train a predictor on them instead")
        self.pool._require_columns(features)
        self._width = features.shape[1]
        components = self.pool.components()
        designs = [self.pool._design(features, view) for view in range(len(self.pool.views or ()))]
        found = [_posteriors(designs[c.view], targets, c.prior) for c in components]
        left_out = self._mix(components, found)
        self._blend(features, targets, targets - left_out)
        self.samples = len(targets)
        self._floor = 0.1 * float(targets.min())
        return self

    def _mix(self, components: Sequence[Component], found: Sequence["Posteriors"]) -> Floats:
        """Per component its probability and the moments of its weights over scales and noises.

        Returns: [n] what the other rows say of each.
        """
        log_odds = np.array([p.log_evidence + np.log(c.share) for c, p in zip(components, found, strict=True)])
        odds = np.exp(log_odds - log_odds.max())
        odds /= odds.sum()
        self.odds = odds.sum(1)
        self._views = np.array([c.view for c in components])
        moments = [p.moments(o / max(o.sum(), 1e-300)) for o, p in zip(odds, found, strict=True)]
        self._weights = np.array([mean for mean, _ in moments])
        self._covariance = np.array([covariance for _, covariance in moments])
        self._noise = float(np.sqrt(sum(float(o @ p.noise**2) for o, p in zip(odds, found, strict=True))))
        return np.asarray(sum(o @ p.left_out for o, p in zip(odds, found, strict=True)))

    def _blend(self, X: Floats, y: Floats, errors: Floats) -> None:
        """The ridge beside the pool, and how much it counts. errors: [n] of the pool, each row left out."""
        pool = float(np.mean(errors**2))
        self._ridge, self.ridge_share = Ridge(), 0.0
        self.pool_error, self.ridge_error = float(np.sqrt(pool) / y.mean()), float("nan")
        try:
            self._ridge.fit(X[:, self._plain()], y)
        except DataError:  # rows that differ, but in none of the general columns
            return
        # an inverse gamma prior of two freedoms: few rows fit almost exactly by chance, which shows no small error
        unknown = 2.0 * pool / self._ridge.freedom
        ridge = float(np.mean(self._ridge.left_out**2) * y.var()) + unknown
        self._ridge.widen(unknown / float(y.var()))
        self.ridge_error = float(np.sqrt(ridge) / y.mean())
        guess = float(y.var()) * (len(y) / (len(y) - 1)) ** 2
        if float(np.mean(self._ridge.left_out**2) * y.var()) > BETTER * guess:
            return  # one far outlier makes any error large, and the least wrong then is a ridge that is the mean
        self.ridge_share = 1.0 if ridge < pool else pool / (pool + ridge)

    @property
    def used(self) -> str:
        """Whether the pool or the ridge predicts, and why."""
        if self.ridge_share == 0.0 and not np.isnan(self.ridge_error):
            return "The pool of devices is used alone: ridge regression on operator counts only guesses the mean."
        if np.isnan(self.ridge_error):
            return "The pool of devices is used alone: the measured networks do not differ in their operator counts."
        judged = "by leave-one-out error on these measurements, ridge regression on operator counts does"
        errors = f"({self.ridge_error:.1%} against {self.pool_error:.1%})"
        if self.ridge_share == 1.0:
            return f"The ridge is used and the pool of devices is not: {judged} better {errors}."
        return f"The pool of devices is used: {judged} worse {errors} and counts for {self.ridge_share:.0%} beside it."

    def _plain(self) -> list[int]:
        """The columns of X that the ridge sees: the general ones of the first view."""
        assert self.pool.views is not None
        first = self.pool.views[0]
        return first if self.pool.general is None else [first[i] for i in self.pool.general]

    @property
    def view_odds(self) -> Floats:
        """[views] probability of each, given the measurements."""
        return np.bincount(self._views, self.odds).astype(float)

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """X: [m, d]. Returns: mean [m], not below a tenth of the least latency seen, and standard deviation [m]."""
        if not self.samples:
            raise DataError("the pooled predictor was not fitted: call DevicePool.adapt or load one first")
        features = checked_features(X, self._width)
        used = self.odds > USED
        share = self.odds[used] / self.odds[used].sum()
        mean, variance = np.zeros(len(features)), np.zeros(len(features))
        for view in np.unique(self._views[used]):
            of = self._views[used] == view
            parts, weights = share[of], self._weights[used][of]
            # over a view's components: the mean of weights, and the mean of their second moments
            centre = parts @ weights
            second = np.einsum("c,cij->ij", parts, self._covariance[used][of]) + (weights.T * parts) @ weights
            design = self.pool._design(features, int(view))
            mean += design @ centre
            variance += ((design @ second) * design).sum(1)
        variance = np.maximum(variance - mean**2, 0.0) + self._noise**2
        if self.ridge_share:
            other, doubt = self._ridge.predict(features[:, self._plain()])
            share = self.ridge_share
            variance = (1 - share) * variance + share * doubt**2 + share * (1 - share) * (mean - other) ** 2
            mean = (1 - share) * mean + share * other
        return np.maximum(mean, self._floor), np.sqrt(variance)

    def adapt(self, X_few: npt.ArrayLike, y_few: npt.ArrayLike) -> "PooledPredictor":
        """A predictor for another device, from the same pool."""
        return self.pool.adapt(X_few, y_few)

    def save(self, path: Path | str, **card: Any) -> None:
        """As `Predictor.save`."""
        from predictors.storage import save

        save(self, path, card)

    def arrays(self) -> Arrays:
        pool = {f"pool/{key}": value for key, value in self.pool.arrays().items()}
        ridge = {f"ridge/{key}": value for key, value in self._ridge.arrays().items()} if self.ridge_share else {}
        return (
            pool
            | ridge
            | {
                "odds": self.odds,
                "views": self._views,
                "weights": self._weights,
                "covariance": self._covariance,
                "width": np.array([self._width]),
                "samples": np.array([self.samples]),
                **{f"number/{name}": np.array([getattr(self, name)]) for name in NUMBERS},
            }
        )

    def restore(self, arrays: Arrays) -> "PooledPredictor":
        self.pool.restore({k.removeprefix("pool/"): v for k, v in arrays.items() if k.startswith("pool/")})
        self.odds, self._views = arrays["odds"], arrays["views"]
        self._weights, self._covariance = arrays["weights"], arrays["covariance"]
        for name in NUMBERS:
            setattr(self, name, float(arrays[f"number/{name}"][0]))
        self._width, self.samples = int(arrays["width"][0]), int(arrays["samples"][0])
        self._ridge = Ridge()
        if self.ridge_share:
            self._ridge.restore({k.removeprefix("ridge/"): v for k, v in arrays.items() if k.startswith("ridge/")})
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


class Posteriors(NamedTuple):
    """Of one component, for each of g pairs of scale and noise.

    log_evidence: [g]; weights: [g, p], of latency; noise: [g] standard deviation; size: [g] what scales the weights.
    left_out: [g, n] what the others say of each row, in latency.
    basis: [p, r] and inner: [g, r, r]: covariance over size^2 is outer + basis inner basis'; outer: [p, p].
    """

    log_evidence: Floats
    weights: Floats
    noise: Floats
    size: Floats
    left_out: Floats
    basis: Floats
    inner: Floats
    outer: Floats

    def moments(self, shares: Floats) -> tuple[Floats, Floats]:
        """Mean [p] and covariance [p, p] of the weights over pairs with these shares [g], which add up to one."""
        mean = shares @ self.weights
        squared = shares * self.size**2
        inner = np.tensordot(squared, self.inner, 1)
        apart = self.weights - mean
        spread = (apart.T * shares) @ apart
        return mean, squared.sum() * self.outer + self.basis @ inner @ self.basis.T + spread


def _posteriors(design: Floats, y: Floats, prior: Prior) -> Posteriors:
    """Weights s w with w of the prior, given latencies, for every scale s and noise.

    design: [n, p]; y: [n]. The t noise is a Gaussian whose variances are iterated (expectation maximisation).
    Source: own derivation; Bayesian linear regression in the at most min(n, p) directions that the rows show.
    """
    values, vectors = np.linalg.eigh(prior.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    left, size, right = np.linalg.svd(design @ root, full_matrices=False)
    shown, basis = left * size, root @ right.T  # a row's latency is expected + shown b with b standard normal
    outer = root @ root.T - basis @ basis.T
    expected = design @ prior.mean
    centre = float(y @ expected) / float(expected @ expected)
    if centre <= 0:
        centre = float(y.mean())
    scales, noises = (grid.ravel() for grid in np.meshgrid(np.array(SCALES), np.array(NOISES), indexing="ij"))
    target = y / (centre * scales[:, None]) - expected
    certainty = np.ones_like(target)
    for _ in range(6):
        precision = certainty / noises[:, None] ** 2
        weighted = shown.T * precision[:, None, :]
        system = weighted @ shown + np.eye(shown.shape[1])
        inverse = np.linalg.inv(system)
        found = (inverse @ (weighted @ target[:, :, None]))[:, :, 0]
        left_over = target - found @ shown.T
        doubt = ((shown @ inverse) * shown).sum(2)
        used, certainty = certainty, (FREEDOM + 1) / (FREEDOM + (left_over**2 + doubt) / noises[:, None] ** 2)
    misfit = (left_over * target * precision).sum(1)
    spread = np.linalg.slogdet(system)[1] + (2 * np.log(noises[:, None]) - np.log(used)).sum(1)
    evidence = -0.5 * misfit - 0.5 * spread - len(y) * np.log(centre * scales)
    scaled = centre * scales
    # variance of Student's t is larger than its squared scale
    noise = scaled * noises * np.sqrt(FREEDOM / (FREEDOM - 2))
    weights = scaled[:, None] * (prior.mean + found @ basis.T)
    # a row's pull on its own prediction is its leverage
    left_out = y - scaled[:, None] * left_over / np.maximum(1.0 - doubt * precision, 1e-9)
    return Posteriors(evidence, weights, noise, scaled, left_out, basis, inverse, outer)


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
