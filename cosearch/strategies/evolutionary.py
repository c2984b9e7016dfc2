"""`evolutionary`: NSGA-II over networks, each credited with its whole hardware front.

A network's rank is the best rank of any of its points (network, accelerator); ties go to the less crowded. Parents are
chosen by binary tournament among the best `POPULATION` networks so far; children are crossed, mutated and never
repeated. Source: Deb et al. 2002; the crediting with whole fronts is our own.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cosearch.strategies.base import ATTEMPTS, Candidate, Costs, Failure, History, Told
from cosearch.strategies.objectives import Objectives, crowding, ranks
from search_spaces.decisions import Arch, Decisions

POPULATION = 40
GENERATION = 20
CROSSOVER_PROBABILITY = 0.7
POINTS_PER_NETWORK = 16
"""A front is thinned to this many points for ranking: more change the rank of few networks and cost time."""


class Evolutionary:
    def __init__(self, space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0) -> None:
        self.history = History(space, costs, objectives, seed, "evolutionary")
        self._parents: tuple[int, list[Arch]] = (-1, [])

    def ask(self, n: int = 1) -> list[Candidate]:
        return self.history.ask(n, self._propose)

    def tell(self, candidate: Candidate, result: Mapping[str, float] | Failure) -> None:
        self.history.tell(candidate, result)

    def _propose(self, number: int) -> Arch:
        history = self.history
        rng = history.stream(number)
        # Only whole generations count, so that a proposal does not depend on which results are late.
        known = number // GENERATION * GENERATION
        if known != self._parents[0]:
            self._parents = (known, self._select([t for t in history.told if t.candidate.number < known]))
        parents = self._parents[1]
        if len(parents) < 2:
            return history.fresh_sample(rng)
        for attempt in range(ATTEMPTS):
            a, b = (parents[min(rng.integers(len(parents), size=2))] for _ in range(2))
            child = history.space.crossover(a, b, rng) if rng.random() < CROSSOVER_PROBABILITY else a
            # later attempts change more, so that an exhausted neighbourhood is left
            rate = min(0.5, (1 + attempt / 20) / len(history.space.choices))
            child = history.space.mutate(child, rng, rate)
            if history.admissible(child):
                return child
        return history.fresh_sample(rng)

    def _select(self, told: list[Told]) -> list[Arch]:
        """The best networks, best first, so that a tournament is the smaller of two indices."""
        good = [t for t in told if t.accuracy is not None and len(t.front)]
        if not good:
            return []
        order = order_networks([self._points(t) for t in good])
        floor = self.history.objectives.min_accuracy
        met = sorted(order, key=lambda i: max(0.0, floor - (good[i].accuracy or 0.0)))  # stable: ties keep their order
        return [good[i].candidate.arch for i in met[:POPULATION]]

    def _points(self, told: Told) -> npt.NDArray[np.float64]:
        objectives = self.history.objectives
        columns = {name: told.front.metric(name) for name in objectives.costs}
        points = objectives.minimised({**columns, "accuracy": np.full(len(told.front), told.accuracy)})
        keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), POINTS_PER_NETWORK)).round().astype(int))
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
