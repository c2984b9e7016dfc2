"""`random`: uniform over the networks that meet the constraints, each at most once."""

from collections.abc import Mapping

from cosearch.strategies.base import Candidate, Costs, Failure, History
from cosearch.strategies.objectives import Objectives
from search_spaces.decisions import Arch, Decisions


class RandomSearch:
    def __init__(self, space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> None:
        self.history = History(space, costs, objectives, seed, "random", batch)
        self.batch = batch

    def ask(self, n: int = 1) -> list[Candidate]:
        return self.history.ask(n, lambda number: self.history.fresh_sample(self.history.stream(number)))

    def tell(self, candidate: Candidate | Arch, result: Mapping[str, float] | Failure) -> None:
        self.history.tell(candidate, result)
