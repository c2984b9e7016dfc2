"""Search strategies under one ask/tell contract. A new strategy is one file here and one line below."""

from typing import Any

from cosearch import registry
from cosearch.strategies.base import Candidate, Costs, Failure, Front, Strategy, require_space
from cosearch.strategies.objectives import Objectives

STRATEGIES: dict[str, str] = {
    "evolutionary": "cosearch.strategies.evolutionary:Evolutionary",
    "random": "cosearch.strategies.random:RandomSearch",
}

__all__ = ["STRATEGIES", "Candidate", "Costs", "Failure", "Front", "Objectives", "Strategy", "make"]


def make(name: str, space: Any, costs: Costs, objectives: Objectives | None = None, seed: int = 0) -> Strategy:
    """A strategy over a space.

    space: a network space or a dict of choices. costs: what networks cost, for free.
    Raises: UnknownNameError with the nearest name; ConfigError for something that is no space.
    """
    factory = registry.find("strategies", STRATEGIES, name)
    strategy: Strategy = factory(require_space(space), costs, objectives or Objectives(), seed)
    return strategy
