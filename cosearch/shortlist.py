"""Which designs a search recommends: a rule on accuracies and costs, and the same rule after short trainings."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cosearch.hardware.tables import Floats
from cosearch.strategies.objectives import Objectives, bend, one_standard_error, recommend
from search_spaces.decisions import Arch, network_key, network_of

Choice = tuple[Arch, int]
"""A network and a point of its hardware front."""
Lists = Mapping[str, Sequence[Choice]]
"""Name of a search -> designs, best first, each of another network."""


@dataclass(frozen=True)
class Designs:
    """Every (network, point of its hardware front) of a search. columns: accuracy and costs -> [rows]."""

    columns: Mapping[str, Floats]
    rows: tuple[Choice, ...]

    def only(self, keys: Container[str]) -> "Designs":
        """Those of some networks."""
        kept = [i for i, (arch, _) in enumerate(self.rows) if network_key(arch) in keys]
        return Designs({n: column[kept] for n, column in self.columns.items()}, tuple(self.rows[i] for i in kept))

    def scored(self, scores: Mapping[str, float]) -> "Designs":
        """With other accuracies. scores: key of every network -> accuracy."""
        accuracy = np.array([scores[network_key(arch)] for arch, _ in self.rows])
        return Designs({**self.columns, "accuracy": accuracy}, self.rows)


def takes_knee(objectives: Sequence[str], knee: bool) -> bool:
    """Whether the design to take is the knee of the front: where it is asked for, or accuracy is no objective and there
    are several.
    """
    return knee or ("accuracy" not in objectives and len(objectives) > 1)


def shortlist(
    found: Mapping[str, Designs], objectives: Objectives, images: int, length: int, knee: bool = False
) -> dict[str, list[Choice]]:
    """For each search the designs to take, best first, each of another network; at most `length` of them.

    The first has the least product of costs among those that are accurate enough. One bar for all searches, so that
    what they chose can be compared: within one standard error of the best accuracy of the search that reached least,
    and never below --min-accuracy. Where accuracy is no objective and there are several, it is the knee of the front of
    those that reach the bar. The next ones are what the same rule gives without the networks before. images: behind
    each accuracy. knee: take the knee in any case, of all that reach --min-accuracy.
    """
    bar = objectives.min_accuracy
    if "accuracy" in objectives.names and not knee:
        bar = max(bar, min(one_standard_error(designs.columns["accuracy"], images) for designs in found.values()))
    choose = bend if takes_knee(objectives.names, knee) else recommend
    lists: dict[str, list[Choice]] = {}
    for name, designs in found.items():
        network = np.unique([network_key(arch) for arch, _ in designs.rows], return_inverse=True)[1]
        left = np.arange(len(designs.rows))
        lists[name] = []
        while len(lists[name]) < length and left.size:
            columns = {n: column[left] for n, column in designs.columns.items()}
            best = left[choose(columns, objectives, bar)]
            lists[name].append(designs.rows[best])
            left = left[network[left] != network[best]]
    return lists


def networks(lists: Lists) -> dict[str, Arch]:
    """Key -> network, each once, in the order of the lists."""
    return {network_key(arch): network_of(arch) for designs in lists.values() for arch, _ in designs}


@dataclass(frozen=True)
class Halving:
    """Successive halving of lists of designs by short trainings (Jamieson and Talwalkar, 2016).

    Of n networks left each is trained for a 1/n of the epochs, scored on the validation images; the better half of each
    list, by the rule of `shortlist`, goes on. found: of each search; images: behind each score; epochs: of a whole
    training; knee: as of `shortlist`.
    """

    found: Mapping[str, Designs]
    objectives: Objectives
    images: int
    epochs: int
    knee: bool = False

    def open(self, lists: Lists) -> bool:
        """Whether there is something left to decide."""
        return max(map(len, lists.values())) > 1

    def heat(self, lists: Lists) -> int:
        """Epochs of the next short trainings."""
        return max(1, self.epochs // max(map(len, lists.values())))

    def most_epochs(self, lists: Lists) -> int:
        """Of all short trainings together; fewer if lists share networks."""
        left, total = max(map(len, lists.values())), 0
        while left > 1:
            total += max(1, self.epochs // left) * sum(min(left, len(designs)) for designs in lists.values())
            left = -(-left // 2)
        return total

    def better_half(self, lists: Lists, scores: Mapping[str, float]) -> dict[str, list[Choice]]:
        """scores: of every network in the lists, by key."""
        half = -(-max(map(len, lists.values())) // 2)
        scored = {name: designs.scored(scores) for name, designs in self.of(lists).found.items()}
        return shortlist(scored, self.objectives, self.images, half, self.knee)

    def of(self, lists: Lists) -> "Halving":
        """With the designs of the networks in each list alone."""
        left = {name: designs.only(networks({name: lists[name]})) for name, designs in self.found.items()}
        return replace(self, found=left)
