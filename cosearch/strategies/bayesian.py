"""`bayesian`: a Gaussian process for accuracy only; what networks cost is known, so it is not modelled.

The next network is the one whose whole hardware front is expected to add most hypervolume to what is known. Of a small
space every network is a candidate, isomorphic ones once. Of a large one many are drawn, most of them around the best
so far, and those that promise most by costs estimated from networks priced before are priced and compared exactly.
Within a batch the surrogate believes its own mean (Ginsbourger et al. 2010). Costs that are not known are modelled like
accuracy, and the expectation is then sampled.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from scipy.special import ndtr, ndtri
from threadpoolctl import ThreadpoolController

from cosearch.errors import DataError
from cosearch.strategies.base import Costs, History, Measured, Told
from cosearch.strategies.improvement import Floats, Fronts, areas_beyond, expected_gain, volume_below_zero
from cosearch.strategies.objectives import (
    COUNTED,
    ERROR_OFFSET,
    MAXIMISED,
    Objectives,
    excess,
    split_limit,
    undominated,
)
from cosearch.strategies.pool import ENUMERABLE, Pool, features, make_pool, minimised, whole_space
from cosearch.strategies.proposer import Proposer
from predictors.gp import GaussianProcess
from search_spaces.decisions import Arch, Decisions

INITIAL = 5
"""Networks before the first model, spread over the range of the first cost: the model's linear part needs few."""
EXACT_REFITS, GROWTH = 60, 1.05
"""Scales of the model are fitted anew with every result up to so many, then each time there are 5% more."""
LEAST_COST = 1e-9
"""What a cost of zero that is no count is taken for, in its unit."""
MARGIN = 0.1
"""The reference point lies this part of the front's range beyond its worst values."""
JOINT_POOL = 80
"""Of networks with accelerators, each of which is priced on its own."""
LARGE_POOL, PRICED = 200, 1 / 4
"""Networks of a large space that are drawn at a time, and the part of them that is priced where all are not."""
PARENTS = 20
"""Networks, the best so far, around which others are drawn."""
SAMPLES, SAMPLED_NETWORKS = 16, 128


@dataclass(frozen=True)
class Belief:
    """What a model says of every network of a pool. mean, std: [n], of the transformed target."""

    mean: Floats
    std: Floats


class Bayesian(Proposer):
    """candidates: (first number of a group, results before it) -> the networks to choose among, instead of its own."""

    def __init__(
        self,
        space: Decisions,
        costs: Costs,
        objectives: Objectives,
        seed: int = 0,
        batch: int = 1,
        merge: bool = True,
        candidates: Callable[[int, Sequence[Told]], list[Arch]] | None = None,
        name: str = "bayesian",
    ) -> None:
        super().__init__(History(space, costs, objectives, seed, name, batch, merge))
        self._own_candidates = candidates
        self._models: dict[tuple[str, int], GaussianProcess] = {}
        self._features: dict[str, Floats] = {}
        self._pool: tuple[int, Pool] | None = None

    def propose(self, number: int) -> Arch:
        """The network of a trial."""
        if self._enumerable:
            return self._propose(number)
        with _blas().limit(limits=1, user_api="blas"):  # small matrices, for which threads wait more than they work
            return self._propose(number)

    def _propose(self, number: int) -> Arch:
        known = sorted((t for t in self.history.known(number) if not t.failed), key=lambda t: t.candidate.number)
        pool = self._candidates(number, known)
        fresh = map(self.history.fresh, pool.keys, pool.archs)
        free = np.fromiter(fresh, bool, len(pool))
        if not free.any():
            return self.history.fresh_sample(self.history.stream(number))
        if self.history.measured:
            if len(self._teaching(known)) < INITIAL:
                return self._initial(number, pool, free)
            try:
                return pool.archs[self._best(pool, known, free)]
            except DataError:  # nothing can be learned from these results, as when all are equal
                return self._initial(number, pool, free)
        return pool.archs[self._best(pool, known, free)]

    def _initial(self, number: int, pool: Pool, free: np.ndarray) -> Arch:
        """A random network from the next of `INITIAL` slices of the pool, by cost, far slices first."""
        rng = self.history.stream(number)
        rows = np.flatnonzero(free)
        rows = rows[np.argsort(pool.least[rows], kind="stable")]
        slices = np.array_split(rows, min(INITIAL, len(rows)))
        chosen = slices[_far_first(len(slices))[number % len(slices)]]
        return pool.archs[int(rng.choice(chosen))]

    # -- candidates --

    @property
    def _enumerable(self) -> bool:
        """Whether every network is a candidate."""
        small = self.history.space.size <= ENUMERABLE and not self.history.space.joint
        return self._own_candidates is None and small

    @cached_property
    def _everything(self) -> Pool:
        return make_pool(self.history, map(self.history.canonical, whole_space(self.history.space)))

    def _candidates(self, number: int, known: Sequence[Told]) -> Pool:
        if self._enumerable:
            return self._everything
        first = self.history.group(number)
        if self._pool is None or self._pool[0] != first:
            archs = (self._own_candidates or self.around)(first, known)
            if self.history.space.joint:  # a pair takes time to price
                archs = [arch for arch in archs if self.history.fresh(self.history.key(arch), arch)]
                self._pool = (first, make_pool(self.history, archs))
            else:
                self._pool = (first, self._promising(archs, known))
        return self._pool[1]

    @cached_property
    def _start(self) -> Pool:
        """Random networks of a large space."""
        from cosearch.strategies.evolutionary import random_networks

        rng = self.history.stream(0, "start")
        return make_pool(self.history, random_networks(self.history.space, rng, LARGE_POOL))

    def _promising(self, archs: Sequence[Arch], known: Sequence[Told]) -> Pool:
        """Of drawn networks those that promise the largest gains, beside those at the start and those evaluated.

        All of the drawn ones where nothing is known that tells what they promise.
        """
        start = self._start
        told = make_pool(self.history, [*start.archs, *(t.candidate.arch for t in known)])
        if self._own_candidates is None and len(known) < INITIAL <= len(start):
            return told  # none of them is chosen by what it promises
        new = {self.history.key(arch): arch for arch in archs}
        archs = [arch for key, arch in new.items() if key not in told.rows]
        tells = self.history.measured == ("accuracy",) and min(len(known), len(start)) >= INITIAL and told.costs
        if not tells or not archs:
            return make_pool(self.history, [*told.archs, *archs])
        rows = features(self.history.modelled, archs)
        try:
            order = np.argsort(-self._promise(archs, rows, told, known), kind="stable")
        except DataError:
            return make_pool(self.history, [*told.archs, *archs])
        kept: list[int] = []
        few = max(1, round(PRICED * len(archs)))
        for chunk in np.array_split(order, np.arange(few, len(order), few)):
            fronts = self.history.costs.fronts([archs[i] for i in chunk])
            kept += [i for i, front in zip(chunk, fronts, strict=True) if len(front)]
            if 2 * len(kept) >= few:
                break
        chosen = make_pool(self.history, [*told.archs, *(archs[i] for i in kept)])
        return replace(chosen, given=np.vstack([told.encoded, rows[kept]]))

    def _promise(self, archs: Sequence[Arch], rows: Floats, told: Pool, known: Sequence[Told]) -> Floats:
        """[archs] expected gain, their costs being what models of priced networks say. rows: their features.

        Raises: DataError if nothing can be learned from what is known.
        """
        columns = []
        for name, model, y in zip(told.costs, self._cost_models, _cost_targets(told), strict=True):
            found = model.condition(told.encoded, y).predict(rows)[0] if model is not None else np.full(len(rows), y[0])
            columns.append(_sign(name) * np.array([_value(name, value) for value in found]))
        estimated = np.column_stack(columns)
        mean, std = self._model("accuracy", known, told).predict(rows)
        belief = Belief(mean, np.maximum(std, 1e-9))
        fronts, keys = Fronts.of([row[None, :] for row in estimated]), tuple(map(self.history.key, archs))
        pool = Pool(told.space, tuple(archs), keys, told.costs, fronts, np.arange(len(archs)))
        beliefs = {"accuracy": belief}
        return self._exact(pool, known, beliefs, []) * self._feasible(beliefs, len(pool))

    @cached_property
    def _cost_models(self) -> list[GaussianProcess | None]:
        """One for each known cost, with scales fitted to the networks of the start; None where these cost the same."""
        models: list[GaussianProcess | None] = []
        for y in _cost_targets(self._start):
            try:
                models.append(GaussianProcess(seed=self.history.seed).fit(self._start.encoded, y))
            except DataError:
                models.append(None)
        return models

    def around(self, first: int, known: Sequence[Told]) -> list[Arch]:
        """Networks near the best so far, and random ones."""
        from cosearch.strategies.evolutionary import best_first, random_networks

        history = self.history
        rng = history.stream(first, "pool")
        size = JOINT_POOL if history.space.joint else LARGE_POOL
        archs = random_networks(history.space, rng, size // 4 if known else size)
        archs = [history.turned(arch, rng) for arch in archs]
        parents = [t.candidate.arch for t in best_first(history.objectives, known)[:PARENTS]]
        while parents and len(archs) < size:
            a, b = (parents[min(rng.integers(len(parents), size=2))] for _ in range(2))
            child = history.space.crossover(a, b, rng) if rng.random() < 0.5 else a
            archs.append(history.kept(history.space.mutate(child, rng), a))
        return archs

    # -- model --

    def _row(self, arch: Arch, pool: Pool) -> Floats:
        """Features of a network; all of a pool are worked out at once, which takes far less time than one by one."""
        key = self.history.key(arch)
        if key in pool.rows:
            rows, which = pool.distinct
            return np.asarray(rows[which[pool.rows[key]]])
        if key not in self._features:
            self._features[key] = features(self.history.modelled, [arch])[0]
        return self._features[key]

    def _believe(self, name: str, known: Sequence[Told], pool: Pool, pending: Sequence[Arch]) -> Belief:
        """The model of one measured objective, fitted to what is known, believing its mean for what is pending.

        Raises: DataError if the results teach nothing.
        """
        model = self._model(name, known, pool, pending)
        rows, which = pool.distinct
        mean, std = model.predict(rows)
        belief = Belief(mean[which], np.maximum(std[which], 1e-9))
        return self._corrected(belief, pool) if self._once else belief

    def _model(self, name: str, known: Sequence[Told], pool: Pool, pending: Sequence[Arch] = ()) -> GaussianProcess:
        """See `_believe`."""
        known = self._teaching(known)
        X = np.array([self._row(t.candidate.arch, pool) for t in known])
        y = np.array([target(name, measured_value(t, name)) for t in known])
        fitted = _fitted_at(len(known))
        if (name, fitted) not in self._models:
            self._models = {key: model for key, model in self._models.items() if key[0] != name}
            self._models[name, fitted] = GaussianProcess(seed=self.history.seed).fit(X[:fitted], y[:fitted])
        model = self._models[name, fitted]
        model.condition(X, y)
        if pending:
            rows = np.array([self._row(arch, pool) for arch in pending])
            model.condition(np.vstack([X, rows]), np.concatenate([y, model.predict(rows)[0]]))
        return model

    @property
    def _once(self) -> bool:
        """Whether networks are evaluated once for all of their accelerators."""
        return self.history.space.joint and self.history.measured == ("accuracy",)

    def _teaching(self, known: Sequence[Told]) -> Sequence[Told]:
        """The results that a model learns from: of each network the first."""
        if not self._once:
            return known
        return list({self.history.network_key(t.candidate.arch): t for t in reversed(known)}.values())[::-1]

    def _corrected(self, belief: Belief, pool: Pool) -> Belief:
        """Of networks that were evaluated with another accelerator the accuracy is known."""
        found = [self.history.accuracy_of(arch) for arch in pool.archs]
        known = np.array([accuracy is not None for accuracy in found], dtype=bool)
        told = np.array([target("accuracy", accuracy or 0.0) for accuracy in found])
        return Belief(np.where(known, told, belief.mean), np.where(known, 1e-9, belief.std))

    def _pending(self, known: Sequence[Told]) -> list[Arch]:
        told = {self.history.key(t.candidate.arch) for t in known}
        failed = {self.history.key(t.candidate.arch) for t in self.history.told if t.failed}
        asked = [arch for key, arch in self.history.seen.items() if key not in told and key not in failed]
        return [arch for arch in asked if self.history.accuracy_of(arch) is None] if self._once else asked

    # -- acquisition --

    def _best(self, pool: Pool, known: Sequence[Told], free: np.ndarray) -> int:
        """Row of the free network with the largest expected gain."""
        pending = self._pending(known)
        beliefs = {name: self._believe(name, known, pool, pending) for name in self.history.measured}
        sampled = any(name in beliefs for name in self.history.objectives.costs)
        gain = (self._sampled if sampled else self._exact)(pool, known, beliefs, pending)
        gain = gain * self._feasible(beliefs, len(pool))
        gain[~free] = -np.inf
        if gain.max() <= 0 and "accuracy" in beliefs:
            gain = np.where(free, -beliefs["accuracy"].mean, -np.inf)  # no hope anywhere: the most accurate
        return int(np.argmax(gain))

    def _exact(
        self, pool: Pool, known: Sequence[Told], beliefs: Mapping[str, Belief], pending: Sequence[Arch]
    ) -> Floats:
        """[n] expected gain over the whole fronts, accuracy being all that is uncertain."""
        objectives = self.history.objectives
        good = [t for t in known if len(t.front) and t.excess == 0]
        with_accuracy = "accuracy" in objectives.names
        if not with_accuracy:
            good = [t for t in good if t.accuracy is None or t.accuracy >= objectives.min_accuracy]
        costs = [minimised(t.front, pool.costs) for t in good]
        error = [np.full(len(c), 1.0 - (t.accuracy or 0.0)) for t, c in zip(good, costs, strict=True)]
        for arch in pending if with_accuracy else []:
            row = pool.rows.get(self.history.key(arch))
            if row is not None:
                points = pool.fronts.points[pool.fronts.start[pool.of[row]] : pool.fronts.start[pool.of[row] + 1]]
                costs.append(points)
                error.append(np.full(len(points), _error(beliefs["accuracy"].mean[row])))
        known_costs = np.concatenate(costs) if costs else np.zeros((0, len(pool.costs)))
        known_error = np.concatenate(error) if error else np.zeros(0)
        if not with_accuracy:
            low, high = _box(pool.fronts.points)
            scaled = (known_costs - high) / (high - low)
            inside = scaled[(scaled < 0).all(1)]
            fronts = type(pool.fronts)((pool.fronts.points - high) / (high - low), pool.fronts.start)
            return areas_beyond(fronts, inside, np.array([len(inside)]))[pool.of, 0]
        belief = beliefs["accuracy"]
        low, high = self._reference(pool, known, belief)
        high[0] = min(high[0], 1.0 - objectives.min_accuracy)
        scale = np.maximum(high - low, 1e-12)
        of, mean, std = pool.of, belief.mean, belief.std
        return expected_gain(pool.fronts, of, mean, std, ERROR_OFFSET, known_error, known_costs, high, scale)

    def _reference(self, pool: Pool, known: Sequence[Told], belief: Belief) -> tuple[Floats, Floats]:
        """Ideal and reference point of the front that is expected: measured where that was done, the mean elsewhere."""
        error = _error(belief.mean)
        for told in known:
            row = pool.rows.get(self.history.key(told.candidate.arch))
            if row is not None and told.accuracy is not None:
                error[row] = 1.0 - told.accuracy
        least = np.full(len(pool.fronts), np.inf)
        np.minimum.at(least, pool.of, error)
        points = np.column_stack([least[pool.fronts.owner], pool.fronts.points])
        return _box(points[undominated(points)])

    def _feasible(self, beliefs: Mapping[str, Belief], n: int) -> Floats:
        """[n] probability that the limits on what is measured are met."""
        objectives = self.history.objectives
        limits = dict(self.history.measured_limits)
        if objectives.min_accuracy and "accuracy" not in objectives.names:
            limits["min_accuracy"] = objectives.min_accuracy
        probability = np.ones(n)
        for limit, value in limits.items():
            side, name = split_limit(limit)
            belief = beliefs[name]
            z = (target(name, value) - belief.mean) / belief.std
            # the target of accuracy falls as accuracy rises
            upper = (side == "max") != (name == "accuracy")
            probability *= ndtr(z if upper else -z)
        return probability

    def _believed(self, beliefs: Mapping[str, Belief], row: int) -> bool:
        """Whether the limits on what is measured are met by the means."""
        mean = {name: _value(name, belief.mean[row]) for name, belief in beliefs.items()}
        met = float(excess(mean, self.history.measured_limits)) == 0
        return met and mean.get("accuracy", 0.0) >= self.history.objectives.min_accuracy

    def _sampled(
        self, pool: Pool, known: Sequence[Told], beliefs: Mapping[str, Belief], pending: Sequence[Arch]
    ) -> Floats:
        """[n] expected gain where costs are uncertain too: the mean over a fixed set of quasi-random outcomes."""
        from scipy.stats import qmc

        objectives = self.history.objectives
        good = [t for t in known if len(t.front) and t.excess == 0 and (t.accuracy or 0.0) >= objectives.min_accuracy]
        points = [
            objectives.minimised(
                {
                    n: np.full(len(t.front), t.accuracy) if n == "accuracy" else t.front.metric(n)
                    for n in objectives.names
                }
            )
            for t in good
        ]

        def outcome(row: int, normal: Mapping[str, float]) -> Floats:
            own = pool.fronts.points[pool.fronts.start[pool.of[row]] : pool.fronts.start[pool.of[row] + 1]]
            columns = dict(zip(pool.costs, own.T, strict=True))
            for name, z in normal.items():
                value = _value(name, beliefs[name].mean[row] + z * beliefs[name].std[row])
                columns[name] = np.full(len(own), -value if name in MAXIMISED else value)
            return np.column_stack([columns[name] for name in objectives.names])

        names = [name for name in beliefs if name in objectives.names]
        asked = [row for arch in pending if (row := pool.rows.get(self.history.key(arch))) is not None]
        points += [outcome(row, dict.fromkeys(names, 0.0)) for row in asked if self._believed(beliefs, row)]
        archive = np.concatenate(points) if points else np.zeros((0, len(objectives.names)))
        rows = [row for row, key in enumerate(pool.keys) if key not in self.history.seen]
        everything = np.vstack([archive, *(outcome(row, dict.fromkeys(names, 0.0)) for row in rows)])
        # of one objective a front is one point, beside which the others would be nothing
        low, high = _box(everything if len(objectives.names) == 1 else everything[undominated(everything)])

        def volume(points: Floats) -> float:
            return volume_below_zero((points - high) / (high - low))

        archive = archive[undominated(archive)]
        base = volume(archive)
        # of accuracy the error is modelled, which is to be small as costs are
        better = {name: 1.0 if name in MAXIMISED and name != "accuracy" else -1.0 for name in names}
        hopeful = np.array([volume(np.vstack([archive, outcome(row, better)])) - base for row in rows])
        hopeful *= self._feasible(beliefs, len(pool))[rows]
        chosen = [rows[i] for i in np.argsort(-hopeful, kind="stable")[:SAMPLED_NETWORKS]]
        normals = ndtri(qmc.Sobol(len(names), seed=0).random(SAMPLES) * (1 - 2e-6) + 1e-6)
        gain = np.zeros(len(pool))
        for row in chosen:
            outcomes = [outcome(row, dict(zip(names, z, strict=True))) for z in normals]
            gain[row] = np.mean([volume(np.vstack([archive, o])) for o in outcomes]) - base
        return gain


def _cost_targets(pool: Pool) -> list[Floats]:
    """Per known cost what is modelled of the best value that each network can have, [n]."""
    best = np.minimum.reduceat(pool.fronts.points, pool.fronts.start[:-1])[pool.of]
    columns = zip(pool.costs, best.T, strict=True)
    return [np.array([target(name, _sign(name) * value) for value in column]) for name, column in columns]


def _sign(name: str) -> float:
    """By which a cost is to be minimised."""
    return -1.0 if name in MAXIMISED else 1.0


@cache
def _blas() -> ThreadpoolController:
    """The libraries of linear algebra that are loaded; to find them takes as long as a proposal."""
    return ThreadpoolController()


def measured_value(told: Told, name: str) -> float:
    if name == "accuracy":
        assert told.accuracy is not None
        return told.accuracy
    assert isinstance(told.front, Measured)  # its network may have no point, where a limit on what is known is broken
    return told.front.values[name]


def target(name: str, value: float) -> float:
    """What is modelled: log error; the logarithm of a cost, of a count's successor."""
    if name == "accuracy":
        return float(np.log(max(1.0 - value, 0.0) + ERROR_OFFSET))
    return float(np.log1p(value) if name in COUNTED else np.log(max(value, LEAST_COST)))


def _value(name: str, target: float) -> float:
    if name == "accuracy":
        return 1.0 - float(_error(np.array(target)))
    return float(np.expm1(target) if name in COUNTED else np.exp(target))


def _error(target: Floats) -> Floats:
    return np.asarray(np.exp(target) - ERROR_OFFSET)


def _fitted_at(n: int) -> int:
    """With how many results the model for n of them was fitted: all up to 60, then the last step of 5%."""
    fitted = min(n, EXACT_REFITS)
    while (larger := int(fitted * GROWTH)) <= n and larger > fitted:
        fitted = larger
    return fitted


def _box(points: Floats) -> tuple[Floats, Floats]:
    """Ideal and reference point of a set."""
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1e-9))
    return low, high + MARGIN * span


def _far_first(n: int) -> list[int]:
    """0, n - 1, then the middles: an order in which any beginning covers 0 to n - 1."""
    order = [0, n - 1] if n > 1 else [0]
    while len(order) < n:
        taken = sorted(order)
        widest = max(range(len(taken) - 1), key=lambda i: taken[i + 1] - taken[i])
        order.append((taken[widest] + taken[widest + 1]) // 2)
    return order
