"""What every strategy is: a rule for the next network, over the history of what was asked and told."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from cosearch.strategies.base import Candidate, Failure, History
from cosearch.strategies.found import Found, front, knee
from search_spaces.decisions import Arch


class Proposer(ABC):
    """A strategy by its rule: `propose` gives the network of a trial; all else is its history's."""

    def __init__(self, history: History) -> None:
        self.history, self.batch = history, history.batch

    @abstractmethod
    def propose(self, number: int) -> Arch: ...

    def ask(self, n: int = 1) -> list[Candidate]:
        return self.history.ask(n, self.propose)

    def tell(self, candidate: Candidate | Arch, result: Mapping[str, float] | Failure) -> None:
        self.history.tell(candidate, result)

    def front(self) -> list[Found]:
        return front(self.history.told, self.history.objectives)

    def knee(self) -> Found:
        return knee(self.history.told, self.history.objectives)
