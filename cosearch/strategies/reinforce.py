"""`reinforce`: policy gradients over the decisions of a network, layer by layer, with cost in the reward.

A policy draws every decision from its own softmax; an episode is one network. There is one policy for each of a few
weights between accuracy and cost, so that together they cover the front; they take turns, and each learns from all
episodes. A network's reward under weight w is its rank in (1 - w) accuracy - w log cost, at the best point of its
hardware front, among all that were evaluated; broken limits come last. The baseline is the middle rank; an entropy
bonus keeps policies from settling early. Source: Williams 1992; layer-wise use as in N3H-Core and NPAS; ranks, and a
policy per weight, are our own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cosearch.strategies.base import ATTEMPTS, Costs, History, Told, broken
from cosearch.strategies.objectives import Objectives, product
from cosearch.strategies.proposer import Proposer
from cosearch.strategies.shares import draw, shares_of, softmax
from search_spaces.decisions import Arch, Decisions

WARM_UP = 20
"""Networks drawn uniformly before the policies are followed."""
POLICIES = 5
LEARNING_RATE = 0.3
ENTROPY = 0.01


class Reinforce(Proposer):
    def __init__(self, space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> None:
        super().__init__(History(space, costs, objectives, seed, "reinforce", batch))
        both = "accuracy" in objectives.names and objectives.costs
        self._weights = np.linspace(0.0, 1.0, POLICIES) if both else np.array([0.0 if not objectives.costs else 1.0])
        self._logits = [{n: np.zeros(len(o)) for n, o in space.choices.items()} for _ in self._weights]
        self._learned: set[int] = set()
        self._next: int | None = None  # first number of the group from before which nothing was learned yet

    def propose(self, number: int) -> Arch:
        rng = self.history.stream(number)
        if number < WARM_UP:
            return self.history.fresh_sample(rng)
        self._learn_until(number)
        policy = self._logits[number % len(self._logits)]
        for attempt in range(ATTEMPTS):
            # a policy that draws only what is known already is heated until it leaves it
            arch = draw(self.history.space, shares_of(policy, temperature=1.0 + attempt / 40), rng)
            arch = self.history.turned(arch, rng)
            if self.history.admissible(arch):
                return arch
        return self.history.fresh_sample(rng)

    def _learn_until(self, number: int) -> None:
        """Group by group, as a search that was never interrupted did: ranks are among the results of then."""
        start = self.history.group(WARM_UP) if self._next is None else self._next
        last = self.history.group(number)
        for first in range(start, last + 1, self.batch):
            self._learn(self.history.known(first))
        self._next = max(start, last)  # results of this group's beginning may still come, told in any order

    def _learn(self, known: list[Told]) -> None:
        """One step up each policy's gradient for every network that is new, in the order of their numbers."""
        known = sorted(known, key=lambda t: t.candidate.number)
        fresh = [i for i, t in enumerate(known) if t.candidate.number not in self._learned]
        if not fresh or len(known) < 2:
            return
        for weight, policy in zip(self._weights, self._logits, strict=True):
            rewards = ranks_between(self._values(known, float(weight)))
            for i in fresh:
                step(policy, self.history.space, known[i].candidate.arch, rewards[i])
        self._learned.update(known[i].candidate.number for i in fresh)

    def _values(self, known: Sequence[Told], weight: float) -> npt.NDArray[np.float64]:
        """[n] what a weight makes of each network, accuracy and cost scaled to their ranges."""
        objectives = self.history.objectives
        accuracy = np.array([np.nan if t.failed else t.accuracy or 0.0 for t in known])
        least = np.array([self._least(t) for t in known])
        value = (1 - weight) * scaled(accuracy) - weight * scaled(least)
        excess = np.array([broken(objectives, t) for t in known])
        # a value is at least -1: what breaks a limit comes after what does not, and nothing but by how far counts then
        return np.where(np.isfinite(value), np.where(excess > 0, -1.0 - excess, value), -np.inf)

    def _least(self, told: Told) -> float:
        """The least product of costs on a network's hardware front; NaN if there is none, or it failed."""
        if told.failed or not len(told.front):
            return np.nan
        names = self.history.objectives.costs
        return float(product({n: told.front.metric(n) for n in names}).min()) if names else 0.0


def step(policy: dict[str, npt.NDArray[np.float64]], space: Decisions, arch: Arch, advantage: float) -> None:
    """One ascent step of advantage * log p(arch) + ENTROPY * entropy, in place."""
    for name, options in space.choices.items():
        p = softmax(policy[name])
        chosen = np.eye(len(options))[options.index(arch[name])]
        log_p = np.log(np.maximum(p, 1e-12))
        entropy_gradient = -p * (log_p - (p * log_p).sum())
        policy[name] = policy[name] + LEARNING_RATE * advantage * (chosen - p) + ENTROPY * entropy_gradient


def scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """To [0, 1] over what is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.max() == finite.min():
        return np.where(np.isfinite(values), 0.0, np.nan)
    return (values - finite.min()) / (finite.max() - finite.min())


def ranks_between(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n] ranks from -1 (worst) to 1 (best); equal values share one."""
    order = np.sort(values)
    middle = (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") - 1) / 2
    return 2.0 * middle / max(1, len(values) - 1) - 1.0
