"""The best tuples of engines under one budget: exact, by joining Pareto fronts kind by kind."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosearch.hardware.kernels import join, unbeaten_rows
from cosearch.hardware.tables import Floats, Ints


@dataclass(frozen=True)
class Options:
    """Alternatives that each cost latency (ms), energy (mJ) and resources [n, r]; chosen: [n, kinds] what they are.

    memory: ms of the latency for which the shared memories are taken; 0 where that does not matter.
    """

    latency: Floats
    energy: Floats
    memory: Floats
    resources: Ints
    chosen: Ints

    def __len__(self) -> int:
        return len(self.latency)

    def take(self, index: Ints | slice) -> "Options":
        return Options(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @property
    def least(self) -> tuple[float, float, float]:
        """Latency, energy and memory time."""
        return float(self.latency.min()), float(self.energy.min()), float(self.memory.min())


def undominated(options: Options, resources: bool) -> Options:
    """Options that no other one beats in latency, energy and memory time, and in every resource if asked.

    By rising latency.
    """
    total = options.resources.sum(axis=1)
    order = np.lexsort((total, options.memory, options.energy, options.latency))
    compared = [options.energy[:, None], *([options.resources] if resources else [])]
    if options.memory.any():
        compared.append(options.memory[:, None])
    points = np.concatenate(compared, axis=1, dtype=float)[order]
    return options.take(order[unbeaten_rows(points)])


def undominated_rows(values: Floats) -> Ints:
    """Rows of [n, d] that no other row beats in every column, the first of equal ones; by the columns in order.

    Rows that begin with infinity are left out.
    """
    order = np.lexsort(values.T[::-1])
    return order[unbeaten_rows(values[order])]


@dataclass(frozen=True)
class Problem:
    """One residency and shared configuration: what it costs by itself (base) and the options of each kind.

    slowest: latencies combine to their maximum (engines side by side) instead of their sum (one after the other), or to
    the sum of the memory times where that is larger.
    """

    residency: int
    shared: int
    base: Options
    kinds: tuple[Options, ...]
    slowest: bool = False

    @property
    def least(self) -> tuple[float, float]:
        parts = [self.base.least, *(options.least for options in self.kinds)]
        times = [p[0] for p in parts]
        return max(*times, sum(p[2] for p in parts)) if self.slowest else sum(times), sum(p[1] for p in parts)


@dataclass(frozen=True)
class Candidate:
    """A problem that is built only if its lower bound (latency, energy) may reach the front.

    promise: those with the least are looked at first.
    """

    promise: float
    bound: tuple[float, float]
    build: Callable[[], Problem | None]


@dataclass(frozen=True)
class Solution:
    """Undominated tuples over several problems."""

    options: Options
    residency: Ints
    shared: Ints


def solve(
    candidates: Sequence[Candidate],
    budget: Ints,
    kinds: int,
    by_resources: bool,
    most: tuple[float, float] = (math.inf, math.inf),
) -> Solution:
    """Every undominated (problem, option per kind) whose resources fit the budget.

    The most promising problem comes first, so that its front prunes the others: a partial tuple is dropped when what
    it can become at best is no better than a tuple found. by_resources: resources count as objectives; nothing is
    pruned by another's latency and energy then. most: of latency and energy; what must be clearly above is dropped,
    what rounding alone puts there may be left.
    """
    width = len(budget)
    none, empty = np.empty(0, np.int64), np.empty(0)
    found = Solution(
        Options(empty, empty, empty, np.empty((0, width), np.int64), np.empty((0, kinds), np.int64)), none, none
    )
    bounds = _Bounds.of(found.options, most)
    for candidate in sorted(candidates, key=lambda c: c.promise):
        if not np.isfinite(candidate.bound).all() or bounds.beat(*candidate.bound):
            continue
        problem = candidate.build()
        if problem is None:
            continue
        new = _tuples(problem, budget, bounds, by_resources)
        if not len(new):
            continue
        both = Options(
            *(np.concatenate([getattr(found.options, name), getattr(new, name)]) for name in new.__dataclass_fields__)
        )
        label = np.arange(len(both))
        kept = undominated(replace(both, chosen=label[:, None]), by_resources).chosen[:, 0]
        shared = np.concatenate([found.shared, np.full(len(new), problem.shared)])
        residency = np.concatenate([found.residency, np.full(len(new), problem.residency)])
        found = Solution(both.take(kept), residency[kept], shared[kept])
        if not by_resources:
            bounds = _Bounds.of(found.options, most)
    return found


@dataclass(frozen=True)
class _Bounds:
    """What beats tuples: points by rising latency and falling energy."""

    latency: Floats
    energy: Floats

    @classmethod
    def of(cls, front: Options, most: tuple[float, float]) -> "_Bounds":
        """The points of a front, and two that stand for the limits within which it lies."""
        latency, energy = (limit * (1 + 1e-9) for limit in most)
        ends = np.array([-math.inf, latency]), np.array([energy, -math.inf])
        of = zip((front.latency, front.energy), ends, strict=True)
        return cls(*(np.concatenate([end[:1], values, end[1:]]) for values, end in of))

    def beat(self, latency: float, energy: float) -> bool:
        last = self.latency.searchsorted(latency * (1 - 1e-12), side="right") - 1  # of those that are fast enough
        return bool(self.energy[last] <= energy * (1 - 1e-12))


def _tuples(problem: Problem, budget: Ints, bounds: _Bounds, by_resources: bool) -> Options:
    part = problem.base
    rest = np.array([options.least for options in problem.kinds]).reshape(-1, 3)
    if (part.resources > budget).any() or bounds.beat(*problem.least):
        return part.take(slice(0, 0))
    for at, options in enumerate(problem.kinds):
        rest_latency, rest_energy, rest_memory = rest[at + 1 :].sum(axis=0)
        if problem.slowest:
            rest_latency = rest[at + 1 :, 0].max(initial=0.0)
        last = at + 1 == len(problem.kinds)
        alone = last and len(part) == 1 and not by_resources and not problem.slowest
        used = undominated(_promising(options, part, budget) if alone else options, resources=True)
        left, right = np.empty((2, len(part) * len(used)), np.int64)
        count = join(
            part.latency,
            part.energy,
            part.memory,
            part.resources,
            used.latency,
            used.energy,
            used.memory,
            used.resources,
            budget,
            rest_latency,
            rest_energy,
            rest_memory,
            bounds.latency,
            bounds.energy,
            problem.slowest,
            left,
            right,
        )
        i, j = left[:count], right[:count]
        pairs = Options(
            np.maximum(part.latency[i], used.latency[j]) if problem.slowest else part.latency[i] + used.latency[j],
            part.energy[i] + used.energy[j],
            part.memory[i] + used.memory[j],
            part.resources[i] + used.resources[j],
            np.concatenate([part.chosen[i], used.chosen[j]], axis=1),
        )
        if last and problem.slowest:
            pairs = replace(pairs, latency=np.maximum(pairs.latency, pairs.memory), memory=np.zeros(count))
        part = undominated(pairs, resources=by_resources or not last)
        if not len(part):
            break
    return part


def _promising(options: Options, base: Options, budget: Ints) -> Options:
    """The options that fit beside a base of one, without those that another one clearly beats in latency and energy.

    Clearly: by more than what adding the base can round away. What is left is small enough to compare resources.
    """
    options = options.take(np.flatnonzero((options.resources + base.resources <= budget).all(axis=1)))
    order = np.argsort(options.latency)
    least = np.minimum.accumulate(options.energy[order])
    position = np.searchsorted(options.latency[order], options.latency, side="right") - 1
    margin = 1e-9 * (options.energy + base.energy)
    return options.take(np.flatnonzero(least[position] >= options.energy - margin))
