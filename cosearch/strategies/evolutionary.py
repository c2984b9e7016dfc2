"""`evolutionary`: selection by dominance over whole hardware fronts, children screened by what is free.

A network's rank is the best rank of any of its points (network, accelerator); networks that break a limit come after
all others, ties go to the less crowded. Parents are chosen by tournament among the best `POPULATION` networks so far.
Of several children the one is evaluated whose hardware front would add most, were its error near that of the most
similar network known. Children are never repeated, nor is a network that computes the same. Part of the children are
steps of a local search: one decision of a network that none beats is changed. With `age` the parents of all other
children are among the latest results, as in regularised evolution, where the oldest die; the front itself does not age,
or what is best would be forgotten. On a table without noise that made no difference, so it is no default.
Source: Deb et al. 2002; ageing of Real et al. 2019; Pareto local search of Paquete et al. 2004; crediting with whole
fronts and screening are our own.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, islice

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError
from cosearch.strategies.base import ATTEMPTS, Costs, History, Told, broken
from cosearch.strategies.objectives import ERROR_OFFSET, Matrix, Objectives, crowding, ranks, undominated
from cosearch.strategies.proposer import Proposer
from search_spaces.decisions import Arch, Decisions, network_of

POPULATION = 20
INITIAL = 10
CROSSOVER_PROBABILITY = 0.3
OPERATOR_PROBABILITY = 0.1
"""Chance that a child takes another operator in all blocks that have one."""
LOCAL = 0.5
"""Chance that a child is a step of the local search: alone it is the best of all at first and the worst later."""
SCREENED = 4
"""Children of which one is evaluated, at every second proposal: screening prefers what is cheap for certain."""
POINTS_PER_NETWORK = 16
"""A front is thinned to this many points for ranking: more change the rank of few networks and cost time."""


class Evolutionary(Proposer):
    """age: parents are among so many latest results, None: among all.

    Raises: ConfigError for an age that is no whole number of at least 2.
    """

    def __init__(
        self,
        space: Decisions,
        costs: Costs,
        objectives: Objectives,
        seed: int = 0,
        batch: int = 1,
        merge: bool = True,
        age: int | None = None,
    ) -> None:
        if age is not None and (not isinstance(age, int | np.integer) or age < 2):
            raise ConfigError(f"age={age!r}: expected of how many latest results parents are, a whole number above 1")
        super().__init__(History(space, costs, objectives, seed, "evolutionary", batch, merge))
        self.age = age
        self._parents: tuple[int, int, list[Told], list[Told]] = (-1, -1, [], [])
        self._spaces = list(operator_spaces(space))
        self._points: dict[int, Matrix] = {}
        self._similar = Similar()

    def propose(self, number: int) -> Arch:
        history = self.history
        rng = history.stream(number)
        known = sorted(history.known(number), key=lambda t: t.candidate.number)
        if (number, len(known)) != self._parents[:2]:
            best = best_first(history.objectives, known, self._points)
            self._parents = (number, len(known), best, unbeaten(history.objectives, best, self._points))
        best, leading = self._parents[2:]
        parents = among_latest(best, self.age)[:POPULATION]
        if len(known) < INITIAL or len(parents) < 2:
            return self._first(number, rng)
        wanted = SCREENED if number % 2 == 0 else 1
        children: dict[str, Arch] = {}
        near = rng.random() < LOCAL
        for attempt in range(ATTEMPTS):
            # later attempts change more, so that an exhausted neighbourhood is left
            if near and attempt < ATTEMPTS // 2:
                child = history.space.mutate(leading[rng.integers(len(leading))].candidate.arch, rng, rate=0.0)
            else:
                child = self._child(parents, rng, min(0.5, (1 + attempt / 20) / len(history.space.choices)))
            key = history.key(child)
            if key not in children and history.admissible(child):
                children[key] = child
            if len(children) == wanted:
                break
        if not children:
            return history.fresh_sample(rng)
        return self._promising(list(children.values()), known)

    def _first(self, number: int, rng: np.random.Generator) -> Arch:
        """A random network of all operators, or of the next subset of them: mixtures are most of a space."""
        space = self._spaces[number % len(self._spaces)]
        for _ in range(ATTEMPTS):
            arch = space.sample(rng)
            if self.history.admissible(arch):
                return arch
        return self.history.fresh_sample(rng)

    def _child(self, parents: Sequence[Told], rng: np.random.Generator, rate: float) -> Arch:
        space = self.history.space
        a, b = (parents[min(rng.integers(len(parents), size=2))].candidate.arch for _ in range(2))
        child = space.crossover(a, b, rng) if rng.random() < CROSSOVER_PROBABILITY else a
        if len(self._spaces) > 1 and rng.random() < OPERATOR_PROBABILITY:
            restricted = self._spaces[rng.integers(1, len(self._spaces))]
            return into(restricted, child, rng)
        return space.mutate(child, rng, rate)

    def _promising(self, children: list[Arch], known: Sequence[Told]) -> Arch:
        """The child of largest expected gain, its error being like that of the most similar network known."""
        from cosearch.strategies.improvement import expected_gain
        from cosearch.strategies.pool import make_pool, minimised

        objectives, measured = self.history.objectives, self.history.measured
        if measured != ("accuracy",) or "accuracy" not in objectives.names or len(children) == 1:
            return children[0]
        good = [t for t in known if t.accuracy is not None and len(t.front)]
        errors = np.array([1.0 - (t.accuracy or 0.0) for t in good]) + ERROR_OFFSET
        seen, among = self._similar.of([id(t) for t in good], lambda i: self._encoded(good[i].candidate.arch))
        encoded = np.array([self._encoded(child) for child in children])
        distance = (encoded[:, None, :] != seen[None, :, :]).sum(2)
        nearest = distance.argmin(1)
        spread = float(np.std(np.log(errors) - np.log(errors[among])))
        pool = make_pool(self.history, children)
        points = [minimised(t.front, pool.costs) for t in good]
        error = np.concatenate([np.full(len(p), e) for p, e in zip(points, errors, strict=True)])
        costs = np.concatenate(points)
        everything = np.column_stack([error, costs])
        low, high = everything.min(0), everything.max(0)
        # an error counts up to the front's worst; a cost up to the worst seen, which better networks may need
        high[0] = error[ranks(everything) == 0].max()
        high[1:] = np.maximum(high[1:], pool.fronts.points.max(0))
        high += 0.1 * (high - low)
        high[0] = min(high[0], 1.0 - objectives.min_accuracy + ERROR_OFFSET)
        scale = np.where(high > low, high - low, 1.0)
        mean = np.log(errors[nearest])
        std = np.where(distance.min(1) == 0, 1e-9, max(spread, 1e-3))  # a network that is known, on another accelerator
        gain = expected_gain(pool.fronts, pool.of, mean, std, 0.0, error, costs, high, scale)
        return pool.archs[int(np.argmax(gain))]

    def _encoded(self, arch: Arch) -> npt.NDArray[np.int64]:
        space = self.history.space
        canonical = getattr(space, "canonical", None)
        found = canonical(arch) if canonical is not None else arch
        return space.network_space.encode(network_of(found)) if space.joint else space.encode(found)


class Similar:
    """Encodings of networks, and which other of them each is most like; kept as networks are added."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._rows: list[npt.NDArray[np.int64]] = []
        self._nearest: list[int] = []
        self._distance: list[int] = []

    def of(
        self, numbers: Sequence[int], encode: Callable[[int], npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
        """Rows [n, decisions] and for each the first of the others that differs in fewest decisions, [n].

        numbers: one for each network, which it keeps; encode: place among them -> its row. What was added stays as
        long as the numbers begin with those of the last call.
        """
        if list(numbers[: len(self._numbers)]) != self._numbers:
            self._numbers, self._rows, self._nearest, self._distance = [], [], [], []
        for i in range(len(self._numbers), len(numbers)):
            self._add(encode(i))
        self._numbers = list(numbers)
        return np.array(self._rows), np.array(self._nearest, dtype=np.intp)

    def _add(self, row: npt.NDArray[np.int64]) -> None:
        here = len(self._rows)
        if here:
            distances = (np.array(self._rows) != row).sum(1)
            for i in np.flatnonzero(distances < np.array(self._distance)):
                self._nearest[i], self._distance[i] = here, int(distances[i])
            self._nearest.append(int(distances.argmin()))
            self._distance.append(int(distances.min()))
        else:
            self._nearest.append(0)
            self._distance.append(2 * len(row))
        self._rows.append(row)


def operator_spaces(space: Decisions) -> Iterator[Decisions]:
    """The space, and its sub-spaces of one, then of several operators, if it knows operators; 13 have 8,190."""
    yield space
    if not hasattr(space, "restricted") or not hasattr(space, "operators") or not hasattr(space, "offers"):
        return
    names = tuple(space.operators)
    for subset in chain.from_iterable(combinations(names, size) for size in range(1, len(names))):
        if space.offers(*subset):
            yield space.restricted(*subset)


def into(restricted: Decisions, arch: Arch, rng: np.random.Generator) -> Arch:
    """The network with every choice that a sub-space does not have replaced by the one spelled most like it."""
    moved = {}
    for name, options in restricted.choices.items():
        choice = arch[name]
        if choice not in options:
            tail = str(choice).partition("_")[2]
            same = [option for option in options if str(option).partition("_")[2] == tail] or list(options)
            choice = same[rng.integers(len(same))]
        moved[name] = choice
    return moved


def random_networks(space: Decisions, rng: np.random.Generator, n: int) -> list[Arch]:
    """n networks, by turns of the whole space and of each subset of its operators."""
    spaces = list(islice(operator_spaces(space), n))
    return [spaces[i % len(spaces)].sample(rng) for i in range(n)]


def best_first(objectives: Objectives, told: Sequence[Told], known: dict[int, Matrix] | None = None) -> list[Told]:
    """The networks that were evaluated, those that break a limit last, by how much; failures are left out.

    known: points of results by their identity, for a caller that keeps the results; it takes those that are new.
    """
    good = [t for t in told if not t.failed and len(t.front)]
    if not good:
        return []
    order = order_networks([_points(objectives, t, known) for t in good])
    excess = [broken(objectives, t) for t in good]
    return [good[i] for i in sorted(order, key=lambda i: excess[i])]  # stable: ties keep their order


def among_latest(best: list[Told], age: int | None) -> list[Told]:
    """The results, in their order, that are among the latest by the numbers of their trials."""
    if age is None or len(best) <= age:
        return best
    oldest = sorted(told.candidate.number for told in best)[-age]
    return [told for told in best if told.candidate.number >= oldest]


def unbeaten(objectives: Objectives, best: Sequence[Told], known: dict[int, Matrix] | None = None) -> list[Told]:
    """Those of the networks, best first, that have a point which no other network's beats; of equal ones the first.

    Only networks that break limits by no more than the best are looked at. Equal networks have equal neighbours, so one
    of them is enough to search around.
    """
    if not best:
        return []
    among = [told for told in best if broken(objectives, told) <= broken(objectives, best[0])]
    points = [_points(objectives, told, known) for told in among]
    owner = np.repeat(np.arange(len(points)), [len(p) for p in points])
    return [among[i] for i in np.unique(owner[undominated(np.concatenate(points))])]


def _points(objectives: Objectives, told: Told, known: dict[int, Matrix] | None = None) -> Matrix:
    if known is not None and id(told) in known:
        return known[id(told)]
    columns = {name: told.front.metric(name) for name in objectives.costs}
    points = objectives.minimised({**columns, "accuracy": np.full(len(told.front), told.accuracy or 0.0)})
    keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), POINTS_PER_NETWORK)).round().astype(int))
    if known is not None:
        known[id(told)] = points[keep]
    return points[keep]


def order_networks(points: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.intp]:
    """Networks from best to worst. points: per network its points, [n, objectives], minimised."""
    owner = np.repeat(np.arange(len(points)), [len(p) for p in points])
    everything = np.concatenate(points)
    rank = ranks(everything)
    distance = crowding(everything, rank)
    best_rank = np.full(len(points), np.iinfo(np.int64).max)
    np.minimum.at(best_rank, owner, rank)
    best_distance = np.zeros(len(points))
    at_best = rank == best_rank[owner]
    np.maximum.at(best_distance, owner[at_best], distance[at_best])
    return np.lexsort((-best_distance, best_rank))
