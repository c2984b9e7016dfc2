"""What all strategies share: candidates, failures, and sampling of networks whose hardware meets the constraints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, InfeasibleError
from cosearch.seeding import numpy_stream
from cosearch.strategies.objectives import Objectives, product
from search_spaces.decisions import Arch, Decisions, arch_key


class Front(Protocol):
    """The accelerators that are worth building for one network."""

    def __len__(self) -> int: ...

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        """[points] values of a cost objective."""


class Costs(Protocol):
    """What networks cost: known without training. constraints: `max_<metric>` -> limit."""

    constraints: Mapping[str, float]

    def fronts(self, archs: Sequence[Arch]) -> list[Front]:
        """For each network its hardware front under the constraints; empty if it cannot meet them."""

    def free(self) -> "Costs":
        """The same costs without constraints; its fronts show what the constraints limit."""


@dataclass(frozen=True)
class Candidate:
    """A network and the point of its hardware front that it is recorded with (None: no accelerator axis)."""

    number: int
    arch: Arch
    point: int | None = None

    @property
    def key(self) -> str:
        return arch_key(self.arch)


@dataclass(frozen=True)
class Failure:
    """An evaluation that gave no result; its network is not proposed again."""

    reason: str


@dataclass(frozen=True)
class Told:
    candidate: Candidate
    accuracy: float | None
    front: Front


class Strategy(Protocol):
    def ask(self, n: int = 1) -> list[Candidate]: ...

    def tell(self, candidate: Candidate, result: Mapping[str, float] | Failure) -> None: ...


ATTEMPTS = 200
"""Draws of a network before the space is taken to be exhausted."""


class History:
    """What was asked and told; proposals draw from the stream (seed, name, trial number), so that they can be replayed.

    name: of the strategy, so that no two strategies make the same draws.
    """

    def __init__(self, space: Decisions, costs: Costs, objectives: Objectives, seed: int, name: str) -> None:
        self.space, self.costs, self.objectives, self.seed, self.name = space, costs, objectives, seed, name
        self.told: list[Told] = []
        self.seen: dict[str, Arch] = {}  # in the order of asking, which a replay repeats
        self.next_number = 0

    def stream(self, number: int) -> np.random.Generator:
        return numpy_stream(self.seed, self.name, number)

    def candidate(self, arch: Arch) -> Candidate:
        """Number and record a network as asked, on the point of its front with the least product of costs."""
        [front] = self.costs.fronts([arch])
        columns = {name: front.metric(name) for name in self.objectives.costs}
        point = int(np.argmin(product(columns, self.objectives))) if columns else 0
        made = Candidate(self.next_number, arch, point)
        self.next_number += 1
        self.seen[made.key] = arch
        return made

    def tell(self, candidate: Candidate, result: Mapping[str, float] | Failure) -> None:
        """Record a result. A candidate that was never asked is a warm start; NaN is a failure."""
        accuracy = None
        if not isinstance(result, Failure):
            value = result.get("accuracy")
            accuracy = float(value) if value is not None and np.isfinite(value) else None
        self.space.check(candidate.arch)
        [front] = self.costs.fronts([candidate.arch])
        self.seen.setdefault(candidate.key, candidate.arch)
        self.next_number = max(self.next_number, candidate.number + 1)
        self.told.append(Told(candidate, accuracy, front))

    def admissible(self, arch: Arch) -> bool:
        """New, and able to meet the constraints."""
        return arch_key(arch) not in self.seen and len(self.costs.fronts([arch])[0]) > 0

    def ask(self, n: int, propose: Callable[[int], Arch]) -> list[Candidate]:
        """Up to n candidates, `propose(number)` giving each its network; fewer if the space is exhausted.

        Raises: InfeasibleError if there is not even one.
        """
        made: list[Candidate] = []
        for _ in range(n):
            try:
                arch = propose(self.next_number)
            except InfeasibleError:
                if not made:
                    raise
                break
            made.append(self.candidate(arch))
        return made

    def fresh_sample(self, rng: np.random.Generator) -> Arch:
        """A new network that meets the constraints, uniform by rejection; if that is rare, a repaired one.

        Raises: InfeasibleError if none is found.
        """
        for _ in range(ATTEMPTS):
            arch = self.space.sample(rng)
            if self.admissible(arch):
                return arch
        for _ in range(ATTEMPTS):
            repaired = self._repair(self.space.sample(rng), rng)
            if repaired is not None:
                return repaired
        raise InfeasibleError(
            f"no further network meets the constraints after {len(self.seen)} of {self.space.size}: lower --trials"
        )

    def _repair(self, arch: Arch, rng: np.random.Generator) -> Arch | None:
        """Take decisions from the nearest feasible network seen, one by one, until the constraints are met."""
        # what was asked, not what was told: results may be late
        feasible = [seen for seen in self.seen.values() if len(self.costs.fronts([seen])[0])]
        anchor = feasible[rng.integers(len(feasible))] if feasible else cheapest(self.space, self.costs)
        if anchor is None:
            return None
        for name in rng.permutation(list(self.space.choices)):
            arch = {**arch, str(name): anchor[str(name)]}
            if self.admissible(arch):
                return arch
        return None


def cheapest(space: Decisions, costs: Costs, metric: str = "latency_ms") -> Arch | None:
    """A network of least cost found by coordinate descent: each decision in turn takes its best choice.

    While the constraints are not met, best is what comes nearest to meeting them. Exact where decisions do not
    interact.
    Returns None if no network visited meets the constraints.
    """
    free = costs.free() if costs.constraints else costs

    def badness(arch: Arch) -> tuple[bool, float]:
        [front] = costs.fronts([arch])
        if len(front):
            return False, float(front.metric(metric).min())
        return True, _excess(free.fronts([arch])[0], costs.constraints)

    arch = {name: options[-1] for name, options in space.choices.items()}
    best = badness(arch)
    for _ in range(3):
        before = best
        for name, options in space.choices.items():
            for option in options:
                trial = {**arch, name: option}
                value = badness(trial)
                if value < best:
                    arch, best = trial, value
        if best >= before:
            break
    return None if best[0] else arch


def _excess(front: Front, constraints: Mapping[str, float]) -> float:
    """The worst ratio of a cost to its limit, on the point where that is least."""
    if not len(front) or not constraints:
        return np.inf
    ratios = [front.metric(name.removeprefix("max_")) / limit for name, limit in constraints.items()]
    return float(np.max(ratios, axis=0).min())


def require_space(space: Any) -> Decisions:
    """A space as strategies need it. A plain dict of choices becomes one.

    Raises: ConfigError.
    """
    if isinstance(space, Decisions):
        return space
    if isinstance(space, Mapping):
        return Decisions({name: tuple(options) for name, options in space.items()})
    raise ConfigError(f"a space is a Decisions object or a dict of choices, got {type(space).__name__}")
