"""`random`: uniform over the networks that meet the constraints, each at most once."""

from cosearch.strategies.base import Costs, History
from cosearch.strategies.objectives import Objectives
from cosearch.strategies.proposer import Proposer
from search_spaces.decisions import Arch, Decisions


class RandomSearch(Proposer):
    def __init__(self, space: Decisions, costs: Costs, objectives: Objectives, seed: int = 0, batch: int = 1) -> None:
        super().__init__(History(space, costs, objectives, seed, "random", batch))

    def propose(self, number: int) -> Arch:
        return self.history.fresh_sample(self.history.stream(number))
