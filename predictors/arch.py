"""A predictor of one number for the networks of one space: features, model, calibrated intervals, known limits.

predictor = ArchPredictor(space).fit(archs, latencies)
mean, std = predictor.predict(others)
low, high = predictor.interval(others, coverage=0.9)
predictor.outside(others)                        # which of them are unlike anything it was trained on
"""

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, DataError, nearest
from predictors.base import Arrays, Floats, Predictor, checked, distinct, numbers
from predictors.encoding import Networks, archs_of, cell_edges, classes, codes, features, rising, views
from predictors.gp import GaussianProcess
from predictors.pool import MOST, DevicePool, PooledPredictor
from predictors.storage import require_registered
from predictors.transfer import Adapted
from search_spaces.decisions import Arch, arch_key

MINIMUM = 5
"""Fewer distinct networks than this say nothing about an error."""
FOLDS = 5
FEW, FOLDS_OF_FEW = 100, 10
"""Of fewer networks than this, but at least `COMPARED`, more folds: a fifth left out makes a worse model."""
REFITTED = 400
"""A Gaussian process of at most so many networks finds its scales anew for every fold."""
JUDGED = 200
"""Candidates are compared on at most so many networks."""
LEARNED = {"boosting": 300, "blend": 30}
"""Models that with fewer networks than this have never been worth their time, so `auto` leaves them out."""
COMPARED = 40
"""With fewer networks than this and a pool of devices, nothing is compared: so few order the candidates by chance, and
the pool weighs itself against a plain ridge regression."""
ONE_HOT_SCALE = 0.1
CONSTRAINED = ("boosting",)
"""Models that let no cost fall where there is more work, see `predictors.encoding.rising`; forests lose by it."""
NUMBERS = (
    "_calibration", "_scale", "_least", "_reach", "std", "relative_error", "relative_spread", "score"
)  # fmt: skip
"""What of a fitted predictor is one number each; they are kept by these names."""
FRESH, POOLED, ALONE = "a predictor from these measurements", " and the pool of devices", " alone"
"""What stands beside a predictor that is adapted."""


@dataclass(frozen=True)
class Candidate:
    """A model with what it sees. shrunk: parts whose columns are scaled down by `ONE_HOT_SCALE`."""

    model: str
    parts: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    shrunk: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.model} on {', '.join(self.parts)}"


def candidates(space: Any, positive: bool, pool: DevicePool | None = None) -> list[Candidate]:
    """What `auto` compares. positive: a cost, close to additive over a network's parts; otherwise an accuracy.

    pool: devices whose target this is too, as a prior.
    """
    workload = ("workload",) if hasattr(space, "layer_table") else ()
    cell = ("paths", "shape", "flow") if cell_edges(space) else ()
    whole = ("counts", *workload, *cell) if cell else ("one_hot", "counts", *workload)
    rich = ("counts", *cell) if cell else whole
    if not positive:
        return [
            Candidate("blend", rich),
            Candidate("gp", rich),
            Candidate("ridge", rich),
            Candidate("boosting", rich),
        ]
    out = []
    if pool is not None:
        out.append(Candidate("pooled", pool_parts(space), {"pool": pool.options}))
    for view in views(space):
        seen = (f"counts@{view}", f"one_hot@{view}")
        parts = (*workload, *seen) if view == "effective" else seen
        out.append(Candidate("ridge", parts, shrunk=seen[1:]))
        out.append(Candidate("relative", parts, shrunk=seen[1:]))
        out.append(Candidate("additive", parts, shrunk=seen[1:]))
        out.append(Candidate("gp", parts, shrunk=seen[1:]))
    if workload and not cell:  # a cell's modelled costs are sums over its counts
        priced = ("counts", "workload", "costs")
        out += [Candidate("ridge", priced), Candidate("gp", priced)]
    if cell:  # costs follow what is computed, by the paths that it takes; shares of the signal only mislead them
        out.append(Candidate("gp", (*workload, "counts", "one_hot"), {"log": True}, shrunk=("one_hot",)))
        out.append(Candidate("gp", ("counts", *workload, "paths"), {"log": True}))
    else:
        out.append(Candidate("gp", whole, {"log": True}))
    return [*out, Candidate("boosting", whole, {"log": True})]


def pool_parts(space: Any) -> tuple[str, ...]:
    """What a `DevicePool` over a space sees: its features in each view of a network."""
    return tuple(f"{part}@{view}" for view in views(space) for part in ("counts", "one_hot"))


def choose_networks(
    space: Any, pool: DevicePool, n: int, measured: Sequence[Arch] = (), seed: int = 0, among: int = 2000
) -> list[Arch]:
    """The n networks to measure next on a device that the pool does not know, see `DevicePool.choose`.

    pool: over `pool_parts` of the space. measured: networks that are measured already. among: how many networks, drawn
    at random and none of them the same as another, are looked at.

    Raises: ConfigError for networks of another space; DataError if there are fewer than n to choose among.
    """
    for arch in measured:
        space.check(arch)
    rng = np.random.default_rng([seed, 11])
    first: dict[str, Arch] = {}
    for arch in measured:
        first.setdefault(arch_key(space.canonical(arch)), arch)
    known = range(len(first))
    for arch in (space.sample(rng) for _ in range(among)):
        first.setdefault(arch_key(space.canonical(arch)), arch)
    networks = list(first.values())
    return [networks[i] for i in pool.choose(features(space, networks, pool_parts(space)), n, known)]


class ArchPredictor:
    """fit / predict / adapt / save over archs. model: ``auto``, or a registered predictor; options: its own.

    parts: the features that a named model sees, its default ones if none are named.

    ``auto`` takes the candidate with the highest cross-validated rank correlation; isomorphic networks share a fold.
    positive: the target is a latency, an energy or another cost, not an accuracy.
    pool: a `DevicePool` over `pool_parts` of the space, as `predictors.shipped.device_pool` gives; one more candidate,
    and the one that is taken with fewer than `COMPARED` networks.
    """

    name = "arch"

    def __init__(
        self,
        space: Any,
        model: str = "auto",
        parts: Sequence[str] | None = None,
        positive: bool = True,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        shrunk: Sequence[str] = (),
        pool: DevicePool | None = None,
    ) -> None:
        self.pool = pool
        if seed < 0:
            raise ConfigError(f"seed {seed}: expected a whole number of at least 0")
        if isinstance(space, Mapping):  # from a file
            require_registered(model)
        self.space = _registered(space) if isinstance(space, Mapping) else space
        if not hasattr(self.space, "choices"):
            raise ConfigError(f"space {self.space!r}: expected a space object, as search_spaces.networks.find(name)()")
        self.positive, self.seed = positive, seed
        self.scores: dict[str, float] = {}
        """Candidate -> cross-validated Kendall correlation, where ``auto`` compared them."""
        self.chosen: Candidate | None = None
        if model != "auto":
            self.chosen = self._named(model, parts, options, shrunk)
        elif parts is not None:
            raise ConfigError("features are chosen together with the model: name both, or none")
        elif options or shrunk:
            raise ConfigError("options are those of one model: name it instead of auto")
        self._asked = self.chosen
        self.samples = 0

    def _named(
        self, model: str, parts: Sequence[str] | None, options: Mapping[str, Any] | None, shrunk: Sequence[str]
    ) -> Candidate:
        from predictors import PREDICTORS, find

        kind = find(model)
        if model == "pooled" and options and parts is not None:
            return Candidate(model, tuple(parts), dict(options))
        if not (isinstance(kind, type) and issubclass(kind, Predictor)) or model == "adapted":
            known = [name for name in PREDICTORS if name not in ("adapted", "arch", "pool", "pooled")]
            raise ConfigError(f"model {model!r} does not learn from features alone: {nearest(model, known)}")
        given = dict(options or {})
        taken = inspect.signature(kind).parameters
        for name in given:
            if name not in taken or name == "seed":
                options_of = [known for known in taken if known != "seed"]
                raise ConfigError(f"model {model!r} takes no option {name!r}: {nearest(name, options_of)}")
            if not _of_kind(given[name], taken[name].default):
                wanted = KINDS_OF_OPTIONS.get(type(taken[name].default), "a list")
                raise ConfigError(f"option {name} of model {model!r} is {given[name]!r:.50}: expected {wanted}")
        try:
            kind(**given)
        except (TypeError, ValueError) as error:  # of what a list holds
            raise ConfigError(f"options of model {model!r}: {error}, check what the lists hold") from error
        if model == "graph":  # it sees one kind of features, whose shape it has to know
            parts, given = parts or ("graph",), {"nodes": len(self.space.choices), **given}
        if parts is not None:
            return Candidate(model, tuple(parts), given, tuple(shrunk))
        known_ones = candidates(self.space, self.positive)
        like = "ridge" if model == "linear" else model
        own = next((c for c in known_ones if c.model == like), Candidate(model, known_ones[-1].parts))
        return replace(
            own, model=model, options={**own.options, **given}, shrunk=() if "weights" in given else own.shrunk
        )

    @property
    def ridge_share(self) -> float | None:
        """How much plain ridge regression counts beside the pool of devices; None without a pool."""
        self._require_fit()
        return self._model.ridge_share if isinstance(self._model, PooledPredictor) else None

    @property
    def used(self) -> str:
        """What a predictor that learns from another device predicts with, and why; empty for one that does not."""
        self._require_fit()
        pool = self._model.used if isinstance(self._model, PooledPredictor) else ""
        return f"{self._used} {pool}".strip()

    @property
    def label(self) -> str:
        """Which model predicts, from which features, and whether it is one of another target that was adapted."""
        self._require_fit()
        assert self.chosen is not None
        return f"{self.chosen.label}, adapted" if isinstance(self._model, Adapted) else self.chosen.label

    @property
    def useless(self) -> bool:
        """Whether guessing the mean of the samples would err no more on networks that it was not trained on."""
        self._require_fit()
        return self.relative_error >= self.relative_spread

    @property
    def options(self) -> dict[str, Any]:
        self._require_fit()
        assert self.chosen is not None
        return {
            "space": identity(self.space),
            "model": self.chosen.model,
            "parts": list(self.chosen.parts),
            "positive": self.positive,
            "seed": self.seed,
            "options": dict(self.chosen.options),
            "shrunk": list(self.chosen.shrunk),
        }

    def fit(self, archs: Sequence[Arch], values: npt.ArrayLike) -> "ArchPredictor":
        """archs: n networks; values: [n]. Repeats of a network are averaged.

        Raises: DataError for fewer than 5 distinct networks, constant, negative or missing values; ConfigError for
        networks of another space.
        """
        distinct, y = _averaged(self.space, archs, values)
        if len(distinct) < MINIMUM:
            raise DataError(f"{len(distinct)} distinct networks: a predictor needs at least {MINIMUM}")
        alike = classes(self.space, distinct)
        folds = self._folds(distinct)
        checked(np.arange(len(y))[:, None], y, MINIMUM, "arch", self.positive)
        if self._asked is None:
            self.chosen = self._judge(distinct, y, folds)
        assert self.chosen is not None
        X = self._features(self.chosen, distinct)
        self._model: Predictor | PooledPredictor = self._fresh(self.chosen).fit(X, y)
        if COMPARED <= len(y) < FEW:
            folds = self._folds(distinct, FOLDS_OF_FEW)
        mean, std = self._out_of_fold(self.chosen, X, y, folds, self._model)
        # the mean of latencies lies above most of them: they have outliers, and only upwards
        to_median = self.positive and len(y) >= COMPARED
        self._scale = float(np.median(y / np.maximum(mean, 0.1 * float(y.min())))) if to_median else 1.0
        mean, std = self._scale * mean, self._scale * std
        self.std = float(np.sqrt(np.mean((y - mean) ** 2)))
        """Error on networks that it was not trained on, by cross-validation."""
        self._calibration = self.std / float(np.sqrt(np.mean(std**2)))
        scored = np.abs(y - mean) / self._spread(std)
        # a new network is of a class of its own, as these are; a class that is common has several among the samples
        alone = np.bincount(alike)[alike] == 1
        self._errors = np.sort(scored[alone] if len(y) >= COMPARED and 2 * alone.sum() >= len(y) else scored)
        self.relative_error = self.std / float(np.abs(y).mean())
        self.relative_spread = float(y.std()) / float(np.abs(y).mean())
        self.score = _spearman(mean, y)
        self._least = float(y.min())
        self._remember(distinct, X)
        self.samples = len(y)
        return self

    def predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        """Returns: mean [n] and calibrated std [n]. A cost is not below a tenth of the least seen, and with at least
        `COMPARED` networks its median is returned: as many of them cost more as less, by cross-validation.

        Raises: ConfigError for networks of another space.
        """
        mean, std = self._raw(archs)
        return mean, std * self._calibration

    def interval(self, archs: Sequence[Arch], coverage: float = 0.9) -> tuple[Floats, Floats]:
        """[n] and [n] bounds that hold a new network's value with this probability, by cross-conformal prediction.

        New: isomorphic to none of the samples; one that is has an error that is less, and intervals that are too wide.
        Raises: DataError if the samples are too few for this coverage; ConfigError for a coverage not in (0, 1).
        Source: Vovk, Cross-conformal predictors, 2015. Scores are errors over the model's standard deviation, half of
        which is that of all errors; their quantile lies between two of them, so that it is not too high on average.
        """
        if not 0.0 < coverage < 1.0:
            raise ConfigError(f"coverage {coverage}: expected a fraction between 0 and 1")
        mean, std = self._raw(archs)
        needed = self.least_samples(coverage)
        if len(self._errors) < needed:
            n = len(self._errors)
            alike = ", none of them isomorphic to another" if n < self.samples else ""
            raise DataError(
                f"{self.samples} samples cannot show {100 * coverage:g}% coverage: at least {needed} can{alike}; "
                f"ask for at most {100 * n // (n + 1)}%"
            )
        rank = (len(self._errors) + 1) * coverage
        half = np.interp(rank, np.arange(1, len(self._errors) + 1), self._errors) * self._spread(std)
        return (np.maximum(mean - half, 0.0) if self.positive else mean - half), mean + half

    @staticmethod
    def least_samples(coverage: float) -> int:
        """With how many samples an interval of this coverage can be told."""
        return int(np.ceil(coverage / (1 - coverage) - 1e-9))

    def outside(self, archs: Sequence[Arch]) -> npt.NDArray[np.bool_]:
        """[n] whether a network is unlike those it was trained on: a choice that none had, or too far from all.

        Of a pool of devices its thousands of networks count, of which only the choices are known, not the few samples.
        """
        self._require_fit()
        unseen = (features(self.space, archs, ("one_hot@built",)) > self._choices).any(1)
        assert self.chosen is not None
        rows = self._placed(self._features(self.chosen, archs))
        return np.asarray(unseen | (_nearest_distance(rows, self._rows) > self._reach))

    def adapt(
        self, archs_few: Sequence[Arch], values_few: npt.ArrayLike, fresh: "ArchPredictor | None" = None
    ) -> "ArchPredictor":
        """A predictor of another target of the same space, such as another device, from a few of its values.

        Beside it, plain ridge regression on operator counts is fitted and, if given, fresh: a predictor that was not
        fitted yet, such as one with a pool of devices. The least cross-validated error decides; `used` tells of all.
        Raises: as `fit`, where none of them can be fitted.
        """
        self._require_fit()
        distinct, y = _averaged(self.space, archs_few, values_few)
        assert self.chosen is not None
        other = ArchPredictor(
            self.space,
            self.chosen.model,
            self.chosen.parts,
            self.positive,
            self.seed,
            self.chosen.options,
            self.chosen.shrunk,
        )
        offered = {"the predictor that was adapted": other}
        if fresh is not None:
            offered[FRESH] = fresh
        if isinstance(self._model, PooledPredictor):  # which weighs the ridge itself
            other.pool = self._model.pool
        else:
            other._adapt_from = self._model
            plain = ArchPredictor(self.space, "ridge", ("counts@built",), self.positive, self.seed)
            offered["ridge regression on operator counts"] = plain
        return _least_wrong(offered, distinct, y) if len(offered) > 1 else other.fit(distinct, y)

    _adapt_from: Predictor | None = None
    _used = ""

    def save(self, path: Path | str, **card: Any) -> None:
        """Write the predictor; card: what the reader should know, such as data and floor. Its own scores are added."""
        from predictors.storage import save

        self._require_fit()
        _registered(identity(self.space))  # what cannot be read back is not written
        scores = {"spearman_cross_validated": self.score, "relative_error": self.relative_error}
        used = {"used": self.used} if self.used else {}
        save(self, path, {"samples": self.samples, "label": self.label, **scores, **used, **card})

    def arrays(self) -> Arrays:
        self._require_fit()
        assert self.chosen is not None
        return {
            **{f"model/{key}": value for key, value in self._model.arrays().items()},
            **{f"number/{name}": np.array([getattr(self, name)]) for name in NUMBERS},
            "samples": np.array([self.samples]),
            "used": np.array([*self._used.encode()], dtype=np.uint8),
            "errors": self._errors,
            "choices": self._choices,
            "probe": self._features(self.chosen, [self._any_arch()]),
            "networks": self._networks,
            "place": self._place,
        }

    def restore(self, arrays: Arrays) -> "ArchPredictor":
        model = {key.removeprefix("model/"): v for key, v in arrays.items() if key.startswith("model/")}
        assert self.chosen is not None
        now, then = self._features(self.chosen, [self._any_arch()]), arrays["probe"]
        if now.shape != then.shape or not np.allclose(now, then, rtol=1e-6):
            raise DataError(
                f"features {', '.join(self.chosen.parts)} of a network changed since this predictor was trained: "
                "train it again"
            )
        made = self._make(self.chosen)
        for _ in range(Adapted.times(model)):
            assert isinstance(made, Predictor)
            self._adapt_from, made = made, Adapted(made, self.seed)
        self._model = made.restore(model)
        self._errors, self._choices = arrays["errors"], arrays["choices"]
        self._networks, self._place = arrays["networks"], arrays["place"]
        self._learned_from(self._features(self.chosen, archs_of(Networks(self.space, self._networks.astype(np.int64)))))
        for name in NUMBERS:
            setattr(self, name, float(arrays[f"number/{name}"][0]))
        self.samples = int(arrays["samples"][0])
        self._used = arrays["used"].tobytes().decode()
        some = [self._any_arch()]
        mean, std = self.predict(some)
        if not np.isfinite([mean, std]).all() or self._errors.ndim != 1 or not np.isfinite(self._errors).all():
            raise ValueError(f"it predicts {mean!r:.50}, {std!r:.50}")
        self.outside(some)
        return self

    # -- how --

    def _raw(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        self._require_fit()
        assert self.chosen is not None
        rows = self._features(self.chosen, archs)
        first, of = distinct(rows)
        mean, std = (self._scale * values[of] for values in self._model.predict(rows[first]))
        return (np.maximum(mean, 0.1 * self._least) if self.positive else mean), std

    def _require_fit(self) -> None:
        if not self.samples:
            raise DataError("this predictor was not fitted: call fit(archs, values) or load one first")

    def _features(self, candidate: Candidate, archs: Sequence[Arch]) -> Floats:
        return features(self.space, archs, candidate.parts)

    def _make(self, candidate: Candidate) -> Predictor | PooledPredictor:
        from predictors import find

        options = dict(candidate.options)
        constrained = self.positive and candidate.model in CONSTRAINED and "monotone" not in options
        if candidate.shrunk or constrained:
            widths = [features(self.space, [self._any_arch()], (part,)).shape[1] for part in candidate.parts]
        if constrained:
            parts = zip(candidate.parts, widths, strict=True)
            options["monotone"] = [sign for part, width in parts for sign in rising(part, width)]
        if candidate.shrunk:
            options["weights"] = [
                ONE_HOT_SCALE if part in candidate.shrunk else 1.0
                for part, width in zip(candidate.parts, widths, strict=True)
                for _ in range(width)
            ]
        if candidate.model == "pooled":
            return PooledPredictor(self.pool if self.pool is not None else options["pool"])
        made: Predictor = find(candidate.model)(seed=self.seed, **options)
        return made

    def _fresh(self, candidate: Candidate) -> Predictor | PooledPredictor:
        """A model to fit: of its own, or from the one that is adapted."""
        return self._make(candidate) if self._adapt_from is None else Adapted(self._adapt_from, self.seed)

    def _spread(self, std: Floats) -> Floats:
        """What an error is measured by: of few samples a model's own standard deviation is itself uncertain."""
        return np.asarray(np.sqrt((self._calibration * std) ** 2 + self.std**2))

    def _any_arch(self) -> Arch:
        return {name: options[0] for name, options in self.space.choices.items()}

    def _folds(self, archs: Sequence[Arch], most: int = FOLDS) -> npt.NDArray[np.int64]:
        """[n] fold of each network, equal for isomorphic ones."""
        alike = classes(self.space, archs)
        count = int(alike.max()) + 1
        order = np.random.default_rng(self.seed).permutation(count)
        return np.asarray(order[alike] % min(most, count))

    def _judge(self, archs: Sequence[Arch], y: Floats, folds: npt.NDArray[np.int64]) -> Candidate:
        """The candidate with the highest cross-validated rank correlation, the earlier of equal ones.

        Kendall's: a single outlier that is ranked wrong costs Spearman's as much as many neighbours do.
        """
        if self.pool is not None and len(y) < COMPARED:
            return candidates(self.space, self.positive, self.pool)[0]
        some = np.random.default_rng(self.seed).permutation(len(y))[:JUDGED]
        offered = candidates(self.space, self.positive, self.pool if len(y) <= MOST else None)
        offered = [c for c in offered if len(y) >= LEARNED.get(c.model, 0)]
        best, best_score = offered[0], -np.inf
        for candidate in offered:
            X = self._features(candidate, [archs[i] for i in some])
            mean, _ = self._out_of_fold(candidate, X, y[some], folds[some])
            score = self.scores[candidate.label] = _kendall(mean, y[some])
            # what a pool of devices says is left only for more than the comparison's own noise
            noise = _kendall_noise(best_score, len(some)) if best.model == "pooled" and best_score > 0 else 0.0
            if score > best_score + noise + 1e-9:
                best, best_score = candidate, score
        return best

    def _out_of_fold(
        self,
        candidate: Candidate,
        X: Floats,
        y: Floats,
        folds: npt.NDArray[np.int64],
        fitted: Predictor | PooledPredictor | None = None,
    ) -> tuple[Floats, Floats]:
        """[n] and [n] mean and std of each sample by a model that has not seen its fold.

        fitted: the model of all samples. A Gaussian process of more than `REFITTED` keeps its scales for the folds; of
        fewer they would have learned from what is held out. What a pool says keeps the standard deviations of all
        samples: found anew on four fifths of few samples they scatter.
        """
        mean, std = np.full(len(y), y.mean()), np.full(len(y), max(float(y.std()), 1e-12))
        for fold in np.unique(folds):
            held = folds == fold
            try:
                if isinstance(fitted, GaussianProcess) and len(y) > REFITTED:
                    model: Predictor | PooledPredictor = copy.copy(fitted).condition(X[~held], y[~held])
                else:
                    model = self._fresh(candidate).fit(X[~held], y[~held])
            except DataError:  # the rest is constant or too small: the mean is all that can be said
                continue
            mean[held], std[held] = model.predict(X[held])
        if isinstance(fitted, PooledPredictor):
            std = fitted.predict(X)[1]
        return mean, np.maximum(std, 1e-12)

    def _remember(self, archs: Sequence[Arch], X: Floats) -> None:
        """What the training networks were like."""
        self._choices = features(self.space, archs, ("one_hot@built",)).max(0)
        spread = X.std(0)
        self._place = np.array([X.mean(0), np.where(spread > 1e-12 * (1 + np.abs(X.mean(0))), spread, np.inf)])
        # codes, not features: a file of them is small
        self._networks = codes(self.space, archs).astype(np.uint16)
        self._learned_from(X)
        distance = _nearest_distance(self._rows, self._rows, itself=True)
        self._reach = float(distance.max()) * 1.25
        if isinstance(self._model, PooledPredictor):
            shown = self._model.pool.shown()[-len(self._choices) :]  # one-hot choices are the last part of a view
            self._choices, self._reach = np.maximum(self._choices, shown), np.inf

    def _learned_from(self, X: Floats) -> None:
        self._rows = np.unique(self._placed(X).astype(np.float32), axis=0).astype(float)

    def _placed(self, X: Floats) -> Floats:
        return np.asarray((X - self._place[0]) / self._place[1])


KINDS_OF_OPTIONS = {bool: "true or false", int: "a whole number", float: "a number of at least 0", str: "a name"}


def _of_kind(value: Any, default: Any) -> bool:
    """Whether an option's value is of the kind of its default; those that are None by default are lists."""
    if default is None:
        return value is None or isinstance(value, list | tuple)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and 0 <= value < np.inf
    return isinstance(value, type(default))


def _nearest_distance(A: Floats, B: Floats, itself: bool = False) -> Floats:
    """[a] distance to the nearest row of B; itself: A is B, and a row is not its own neighbour."""
    out = np.empty(len(A))
    for start in range(0, len(A), 1024):
        part = A[start : start + 1024]
        squared = (part * part).sum(1)[:, None] + (B * B).sum(1)[None, :] - 2.0 * part @ B.T
        if itself:
            squared[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        out[start : start + 1024] = np.sqrt(np.maximum(squared.min(1), 0.0))
    return out


def _least_wrong(offered: Mapping[str, ArchPredictor], archs: Sequence[Arch], y: Floats) -> ArchPredictor:
    """Of all that can be fitted the one with the least cross-validated error, the earlier of equal ones.

    Raises: DataError, that of the first, if none can be.
    """
    fitted: dict[str, ArchPredictor] = {}
    failed: dict[str, DataError] = {}
    for name, model in offered.items():
        try:
            model.fit(archs, y)
        except DataError as error:
            failed[name] = error
            continue
        pooled = isinstance(model._model, PooledPredictor)
        fitted[name + (POOLED if pooled else ALONE) if name == FRESH else name] = model
    if not fitted:
        raise next(iter(failed.values()))
    (name, best), *rest = sorted(fitted.items(), key=lambda item: item[1].std)
    errors = [f"its cross-validated error on these measurements is {best.relative_error:.1%}"]
    errors += [f"that of {other} {model.relative_error:.1%}" for other, model in rest]
    without = "".join(f" Without {other}: {error}." for other, error in failed.items())
    best._used = f"{name[0].upper()}{name[1:]} is used: {', '.join(errors)}.{without}"
    return best


def repeats(archs: Sequence[Arch]) -> dict[str, list[int]]:
    """The rows of each distinct network."""
    groups: dict[str, list[int]] = {}
    for i, arch in enumerate(archs):
        groups.setdefault(arch_key(arch), []).append(i)
    return groups


def _averaged(space: Any, archs: Sequence[Arch], values: npt.ArrayLike) -> tuple[list[Arch], Floats]:
    """Distinct networks and the mean of each one's values."""
    given = numbers(values, "values")
    if given.ndim != 1 or len(archs) != len(given):
        raise DataError(f"{len(archs)} networks but {given.size} values: they must pair up")
    for arch in archs:
        space.check(arch)
    groups = repeats(archs)
    return [archs[rows[0]] for rows in groups.values()], np.array([given[rows].mean() for rows in groups.values()])


def _spearman(a: Floats, b: Floats) -> float:
    """Spearman correlation, 0 where it is not defined."""
    from scipy.stats import rankdata

    ranks = rankdata(a), rankdata(b)
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau, 0 where it is not defined."""
    from scipy.stats import kendalltau

    return float(np.nan_to_num(kendalltau(a, b)[0]))


def _kendall_noise(tau: float, n: int) -> float:
    """Standard deviation of Kendall's tau of n pairs from a normal distribution.

    Source: Esscher, On a method of determining correlation from the ranks of the variates, 1924.
    """
    half = 2.0 / np.pi * np.arcsin(0.5 * np.sin(0.5 * np.pi * tau))
    return float(2.0 * np.sqrt(max(1.0 / 9.0 - half**2, 0.0) / n))


def identity(space: Any) -> dict[str, Any]:
    """What makes a space again, and a digest of its choices."""
    shape = getattr(space, "input_shape", None) or getattr(getattr(space, "macro", None), "input_shape", None)
    classes = getattr(space, "num_classes", None) or getattr(getattr(space, "macro", None), "num_classes", None)
    choices = json.dumps({name: list(options) for name, options in space.choices.items()})
    return {
        "name": getattr(space, "name", ""),
        "input_shape": list(shape) if shape else None,
        "num_classes": classes,
        "choices": hashlib.sha256(choices.encode()).hexdigest()[:16],
    }


def _registered(told: Mapping[str, Any]) -> Any:
    """The space of a saved predictor. Names only of registered spaces: a file must not choose what code runs.

    Raises: DataError.
    """
    from cosearch import registry
    from search_spaces.networks import SPACES, find

    name = str(told.get("name"))
    if name not in registry.names("spaces", SPACES):
        raise DataError(f"a predictor of space {name!r}, which is not registered: {nearest(name, SPACES)}")
    space = find(name)(tuple(told["input_shape"]), told["num_classes"])
    if identity(space) != dict(told):
        raise DataError(f"a predictor of another version of space {name!r}: train it again")
    return space
