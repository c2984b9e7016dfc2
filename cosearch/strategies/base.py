"""What all strategies share: candidates, failures, and sampling of networks whose hardware meets the constraints."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from cosearch.errors import ConfigError, InfeasibleError
from cosearch.seeding import numpy_stream
from cosearch.strategies.objectives import Objectives, as_cost, as_number, excess, is_known, product, split_limit
from cosearch.strategies.objectives import derive as derived
from search_spaces.decisions import Arch, Decisions, arch_key, ends, network_key, network_of

if TYPE_CHECKING:
    from cosearch.strategies.found import Found


class Front(Protocol):
    """The accelerators that are worth building for one network."""

    def __len__(self) -> int: ...

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        """[points] values of a cost objective."""


@dataclass(frozen=True)
class Measured:
    """A front with what was measured on its network beside what is known."""

    known: Front
    values: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.known)

    def metric(self, name: str) -> npt.NDArray[np.float64]:
        if name in self.values:
            return np.full(len(self), self.values[name])
        return self.known.metric(name)


class Costs(Protocol):
    """What networks cost: known without training. constraints: `max_<metric>` -> limit."""

    constraints: Mapping[str, float]

    def fronts(self, archs: Sequence[Arch]) -> Sequence[Front]:
        """For each network its hardware front under the constraints; empty if it cannot meet them."""

    def free(self) -> "Costs":
        """The same costs without constraints; its fronts show what the constraints limit."""


@dataclass(frozen=True)
class Candidate:
    """A network and the point of its hardware front that it is recorded with (None: no accelerator axis).

    accuracy: where decisions of the accelerator are searched too, that of its network if another accelerator had it
    before; there is nothing left to evaluate then.
    """

    number: int
    arch: Arch
    point: int | None = None
    accuracy: float | None = None

    @property
    def key(self) -> str:
        return arch_key(self.arch)


@dataclass(frozen=True)
class Failure:
    """An evaluation that gave no result; its network is not proposed again."""

    reason: str


@dataclass(frozen=True)
class Told:
    """A result. front: what is known and what was measured; excess: by how much measured limits are broken."""

    candidate: Candidate
    accuracy: float | None
    front: Front
    failed: bool = False
    excess: float = 0.0


def broken(objectives: Objectives, told: Told) -> float:
    """By how much a result breaks limits on what is measured, that on accuracy among them; 0 if it meets them."""
    return told.excess + max(0.0, objectives.min_accuracy - (told.accuracy or 0.0))


class Strategy(Protocol):
    """batch: proposals use the results of earlier groups of so many trials, never of their own; warm starts at once.

    So a search that asks for whole groups proposes the same however many results come at once, and after a restart.
    """

    batch: int

    def ask(self, n: int = 1) -> list[Candidate]: ...

    def tell(self, candidate: Candidate | Arch, result: Mapping[str, float] | Failure) -> None: ...

    def front(self) -> "list[Found]":
        """The results that meet all limits and that no other beats, best first objective first."""

    def knee(self) -> "Found":
        """Of the front the one to take where no objective comes before the others."""


Record = Callable[[Told, Mapping[str, float] | Failure, bool], None]
"""Takes a result before its history does, what was measured, and whether it is a warm start."""

TURNS = 8
"""In a joint space, groups of proposals from one that takes evaluations to the next."""
ROUNDING = 1e-6
"""An accuracy may lie this far outside 0 to 1."""
ATTEMPTS = 200
"""Draws of a network before the space is taken to be exhausted."""


class History:
    """What was asked and told; proposals draw from the stream (seed, name, trial number), so that they can be replayed.

    name: of the strategy, so that no two strategies make the same draws. merge: networks of one canonical form are one
    candidate; without it each is its own, as where every one of them was trained and keeps its own accuracy.

    Of a joint space a candidate is a network with an accelerator. The accuracy is the network's: it is evaluated once,
    and until it is known, or if that failed, the network is not proposed with another accelerator. Of `TURNS` groups
    one is of networks that are new, the others are free: of networks that were evaluated, on other accelerators.
    """

    def __init__(
        self,
        space: Decisions,
        costs: Costs,
        objectives: Objectives,
        seed: int,
        name: str,
        batch: int = 1,
        merge: bool = True,
    ) -> None:
        if not isinstance(batch, int | np.integer) or batch < 1:
            raise ConfigError(f"batch={batch!r}: expected a whole number, at least 1")
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed={seed!r:.80}: expected a whole number, at least 0")
        self.space, self.costs, self.objectives, self.seed, self.name = space, costs, objectives, seed, name
        self.batch = batch
        self._canonical = getattr(space, "canonical", None) if merge else None
        self.told: list[Told] = []
        self.seen: dict[str, Arch] = {}  # in the order of asking, which a replay repeats
        self.next_number = 0
        self._numbers: set[int] = set()  # of what was told
        self._first: dict[str, int] = {}  # of each network of a joint space the trial that evaluates it
        self._accuracies: dict[str, tuple[int, float | None]] = {}  # who told it, and that; None if it failed
        self._again: list[Arch] = []  # networks whose turn it is on another accelerator; none if that of new ones is
        self._either = False  # there is nothing left of those whose turn it is
        self._warm: set[int] = set()  # those told as an arch
        self.left: list[Candidate] = []  # what an earlier process had asked and not told; it is asked first
        self.record: Record | None = None
        self.asked_at: dict[int, float] = {}  # by the monotonic clock, in seconds, of those without a result
        self.origin = 0  # groups are counted from behind the warm starts that come before all else
        known = getattr(costs, "metrics", None)
        limited = [split_limit(limit)[1] for limit in objectives.constraints]
        named = dict.fromkeys(("accuracy", *objectives.names, *limited))
        self.measured = tuple(n for n in named if n == "accuracy" or (known is not None and not is_known(n, known)))
        """What only an evaluation tells."""
        if objectives.names and "accuracy" not in (*objectives.names, *limited) and not objectives.min_accuracy:
            self.measured = self.measured[1:]
        self.measured_limits = {
            limit: value
            for limit, value in objectives.constraints.items()
            if limit != "min_accuracy" and split_limit(limit)[1] in self.measured
        }

    def stream(self, number: int, *purpose: int | str) -> np.random.Generator:
        return numpy_stream(self.seed, self.name, number, *purpose)

    def key(self, arch: Arch) -> str:
        """Equal for networks that are the same to hardware and to training, if the space can tell."""
        return arch_key(self.canonical(arch))

    def canonical(self, arch: Arch) -> Arch:
        """The form that stands for all networks of one key."""
        return arch if self._canonical is None else dict(self._canonical(arch))

    @property
    def evaluated(self) -> int:
        """How many networks were evaluated."""
        return len(self._accuracies) if self.space.joint else len(self.told)

    def network_key(self, arch: Arch) -> str:
        """Equal for networks that have one accuracy."""
        return network_key(self.canonical(arch)) if self.space.joint else self.key(arch)

    @property
    def modelled(self) -> Decisions:
        """The space whose decisions tell what is measured: of networks alone if that is their accuracy."""
        return self.space.network_space if self.measured == ("accuracy",) else self.space

    def group(self, number: int) -> int:
        """First number of the group of `batch` trials that a number belongs to."""
        return number - (number - self.origin) % self.batch

    def known(self, number: int) -> list[Told]:
        """Results that the proposal of a number may use: those of earlier groups, and warm starts told before."""
        return [t for t in self.told if self._usable(t.candidate.number, number)]

    def _usable(self, number: int, before: int) -> bool:
        """Whether the result of a trial may be used for the proposal of another number."""
        return number < self.group(before) or (number < before and number in self._warm)

    def accuracy_of(self, arch: Arch) -> float | None:
        """Of a network that was evaluated with another accelerator before the next proposal's group."""
        number, accuracy = self._accuracies.get(self.network_key(arch), (self.next_number, None))
        return accuracy if self._usable(number, self.next_number) else None

    def _take_turn(self) -> None:
        """Find out whether the next proposal is free, and of which networks it may be."""
        turn = (self.group(self.next_number) - self.origin) // self.batch
        self._either, self._again = False, []
        if self.space.joint and turn % TURNS:
            known = {self.network_key(a): a for a in self.seen.values() if self.accuracy_of(a) is not None}
            self._again = [network_of(arch) for arch in known.values()]

    def kept(self, child: Arch, parent: Arch) -> Arch:
        """The child, with its parent's network if it is the turn of those that were evaluated."""
        return {**child, **network_of(parent)} if self._again and not self._either else child

    def turned(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """The arch, with a network whose turn it is if that is one of those that were evaluated."""
        if not self._again or self._either:
            return arch
        return {**arch, **self._again[rng.integers(len(self._again))]}

    def candidate(self, arch: Arch) -> Candidate:
        """Number and record a network as asked, on the point of its front with the least product of costs."""
        [front] = self.costs.fronts([arch])
        accuracy = self.accuracy_of(arch) if self.space.joint else None
        made = Candidate(self.next_number, arch, self.point(front), accuracy)
        self.next_number += 1
        self._see(made)
        return made

    def point(self, front: Front) -> int:
        """The point of a hardware front that its network is recorded with: the least product of known costs."""
        columns = {name: front.metric(name) for name in self.objectives.costs if name not in self.measured}
        return int(np.argmin(product(columns))) if columns else 0

    def _see(self, candidate: Candidate) -> None:
        self.seen.setdefault(self.key(candidate.arch), candidate.arch)
        if self.space.joint:
            self._first.setdefault(self.network_key(candidate.arch), candidate.number)

    def tell(self, candidate: Candidate | Arch, result: Mapping[str, float] | Failure) -> None:
        """Record a result; NaN is a failure.

        An arch is a warm start, which all proposals after it may use. A candidate that was never asked here is one of
        an earlier process, whose results its own group does not use.
        Raises: ConfigError for a network of another space, a second result of one trial, or a result that lacks
        something or says what cannot be.
        """
        warm = not isinstance(candidate, Candidate)
        if not isinstance(candidate, Candidate):
            self.space.check(candidate)
            candidate = Candidate(self.next_number, dict(candidate))
        self.space.check(candidate.arch)
        if candidate.number in self._numbers:
            raise ConfigError(
                f"trial {candidate.number} has a result already: tell each once, and a network that was evaluated "
                "again as an arch"
            )
        outcome = result if isinstance(result, Failure) else self._outcome(candidate, result)
        failed = isinstance(outcome, Failure)
        values = {} if isinstance(outcome, Failure) else outcome
        [front] = self.costs.fronts([candidate.arch])
        costs = {name: value for name, value in values.items() if name != "accuracy"}
        if costs:
            front = Measured(front, costs)
        accuracy = values.get("accuracy")
        broken = 0.0 if failed else float(excess(values, self.measured_limits))
        told = Told(candidate, accuracy, front, failed, broken)
        if self.record is not None:
            self.record(told, outcome, warm)
        self._see(candidate)
        self._accuracies.setdefault(self.network_key(candidate.arch), (candidate.number, accuracy))
        if warm:
            self._warm.add(candidate.number)
            self.origin += candidate.number == self.origin
        self._numbers.add(candidate.number)
        self.next_number = max(self.next_number, candidate.number + 1)
        self.left = [other for other in self.left if other.number != candidate.number]
        self.asked_at.pop(candidate.number, None)
        self.told.append(told)

    def _outcome(self, candidate: Candidate, result: Mapping[str, float]) -> dict[str, float] | Failure:
        """What was measured, from what a caller told; a failure if something is not finite."""
        values = self._values(candidate, result)
        for name, value in values.items():
            if not np.isfinite(value):
                return Failure(f"{name} is {value}")
        return values

    def _values(self, candidate: Candidate, result: Mapping[str, float]) -> dict[str, float]:
        number = candidate.number
        if isinstance(result, Mapping) and candidate.accuracy is not None:
            result = {"accuracy": candidate.accuracy, **result}
        if not isinstance(result, Mapping):
            raise ConfigError(
                f"the result of trial {number} is {result!r}: expected objective -> value, or a Failure"[:300]
            )
        told = result

        def value(name: str) -> Any:
            if name in told:
                return (as_number if name == "accuracy" else as_cost)(f"{name} of trial {number}", told[name])
            with np.errstate(divide="ignore"):  # a latency of zero makes an infinite throughput, which is a failure
                return float(derived(name, lambda part: np.asarray(value(part), dtype=float)))

        lacking = [name for name in self.measured if not is_known(name, told)]
        if lacking:
            raise ConfigError(f"the result of trial {number} lacks {', '.join(lacking)}: tell it too")
        names = dict.fromkeys((*self.measured, *(["accuracy"] if "accuracy" in told else [])))
        values = {name: float(value(name)) for name in names}
        accuracy = values.get("accuracy", 0.0)
        if np.isfinite(accuracy) and not -ROUNDING <= accuracy <= 1 + ROUNDING:
            raise ConfigError(f"accuracy of trial {number} is {accuracy:g}: expected a fraction, 0 to 1")
        return values

    def fresh(self, key: str, arch: Arch) -> bool:
        """Whether a network, by its key, can be the next proposal as far as earlier ones go."""
        if key in self.seen:
            return False
        if not self.space.joint:
            return True
        if self.network_key(arch) not in self._first:
            return self._either or not self._again
        return self.accuracy_of(arch) is not None and (self._either or bool(self._again))

    def admissible(self, arch: Arch) -> bool:
        """New, and able to meet the constraints."""
        return self.fresh(self.key(arch), arch) and len(self.costs.fronts([arch])[0]) > 0

    def ask(self, n: int, propose: Callable[[int], Arch]) -> list[Candidate]:
        """Up to n candidates, `propose(number)` giving each its network; fewer if the space is exhausted.

        What an earlier process had asked and not told comes first, alone: what is new may depend on its results.
        Raises: InfeasibleError if there is not even one; ConfigError if n is no count.
        """
        if not isinstance(n, int | np.integer) or n < 0:
            raise ConfigError(f"ask({n!r}): expected how many candidates, a whole number")
        made, self.left = self.left[:n], self.left[n:]
        self.asked_at |= dict.fromkeys((candidate.number for candidate in made), time.monotonic())
        if made:
            return made
        for _ in range(n):
            self._take_turn()
            try:
                arch = propose(self.next_number)
            except InfeasibleError:
                if not made:
                    raise
                break
            made.append(self.candidate(arch))
            self.asked_at[made[-1].number] = time.monotonic()
        return made

    def fresh_sample(self, rng: np.random.Generator) -> Arch:
        """A new network that meets the constraints, uniform by rejection; if that is rare, a repaired one.

        Raises: InfeasibleError if none is found.
        """
        for _ in range(ATTEMPTS):
            arch = self.turned(self.space.sample(rng), rng)
            if self.admissible(arch):
                return arch
        for _ in range(ATTEMPTS):
            repaired = self._repair(self.turned(self.space.sample(rng), rng), rng)
            if repaired is not None:
                return repaired
        if self.space.joint and not self._either:
            self._either = True
            return self.fresh_sample(rng)
        none = "loosen one" if self.costs.constraints else "none that was tried can be built"
        advice = "lower --trials" if self.seen else none
        raise InfeasibleError(
            f"no further network meets the constraints after {len(self.seen)} of {self.space.size}: {advice}"
        )

    def _repair(self, arch: Arch, rng: np.random.Generator) -> Arch | None:
        """Take decisions from the nearest feasible network seen, one by one, until the constraints are met."""
        # what was asked, not what was told: results may be late
        feasible = [seen for seen in self.seen.values() if len(self.costs.fronts([seen])[0])]
        if not feasible and not self.costs.constraints:
            return None
        anchor = feasible[rng.integers(len(feasible))] if feasible else cheapest(self.space, self.costs)
        if anchor is None:
            return None
        for name in rng.permutation(list(self.space.choices)):
            arch = {**arch, str(name): anchor[str(name)]}
            if self.admissible(arch):
                return arch
        return None


def cheapest(space: Decisions, costs: Costs, metric: str | None = None) -> Arch | None:
    """A network of least cost found by coordinate descent: each decision in turn takes its best choice.

    metric: by default what the first constraint limits, or latency. While the constraints are not met, best is what
    comes nearest to meeting them. Exact where decisions do not interact.
    Returns None if no network visited meets the constraints.
    """
    free = costs.free() if costs.constraints else costs
    wanted = metric or next((split_limit(limit)[1] for limit in costs.constraints), "latency_ms")

    def badness(arch: Arch) -> tuple[bool, float]:
        [front] = costs.fronts([arch])
        if len(front):
            return False, float(front.metric(wanted).min())
        return True, _excess(free.fronts([arch])[0], costs.constraints)

    arch = ends(space.choices)[1]
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
    """By how much limits are broken, on the point where that is least."""
    if not len(front) or not constraints:
        return np.inf
    return float(
        excess({split_limit(name)[1]: front.metric(split_limit(name)[1]) for name in constraints}, constraints).min()
    )


def require_space(space: Any) -> Decisions:
    """A space as strategies need it. A plain dict of choices becomes one.

    Raises: ConfigError.
    """
    if isinstance(space, Decisions):
        return space
    if isinstance(space, Mapping):
        return Decisions({name: _options(name, options) for name, options in space.items()})
    raise ConfigError(f"a space is a Decisions object or a dict of choices, got {type(space).__name__}")


def _options(name: Any, options: Any) -> tuple[Any, ...]:
    """The choices of one decision, in order. A string is one choice, a set has no order: neither is meant."""
    if not isinstance(name, str):
        raise ConfigError(f"decision {name!r:.80} is no text: expected names of decisions")
    if isinstance(options, str | bytes | Mapping | set | frozenset) or not hasattr(options, "__iter__"):
        raise ConfigError(f"decision {name!r} has choices {options!r}: expected a list or a tuple of them"[:300])
    # an array's items as plain numbers, which can be written down
    listed = options.tolist() if isinstance(options, np.ndarray) else options
    return tuple(option.item() if isinstance(option, np.generic) else option for option in listed)
