"""What every network space gives to the search, derived from one method: the blueprint of an arch."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from cosearch.blueprint import OPERATORS, Blueprint
from cosearch.errors import ConfigError
from cosearch.workload import Layer, Workload, count_layers, distinct_layers
from search_spaces.decisions import Arch, Choice, Decisions, arch_key

if TYPE_CHECKING:
    from cosearch.supernet.blocks import Network
    from cosearch.supernet.elastic import Supernet


@dataclass(frozen=True)
class NetworkSpace(Decisions, ABC):
    """A set of networks: `choices`, a `name`, a `description`, and `blueprint`."""

    name: str

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for people."""

    @abstractmethod
    def blueprint(self, arch: Arch) -> Blueprint:
        """The network that an arch stands for."""

    def canonical(self, arch: Arch) -> Arch:
        """One arch for all those that are the same network."""
        return arch

    def demand_key(self, arch: Arch) -> Hashable:
        """Equal only for networks with the same layers and the same activations alive, which cost the same anywhere."""
        return arch_key(arch)

    def workload(self, arch: Arch) -> Workload:
        """The network's layers as hardware sees them."""
        self.check(arch)
        return self.blueprint(arch).workload(f"{self.name}[{arch_key(arch)}]")

    def build(self, arch: Arch, seed: int = 0) -> "Network":
        """The stand-alone torch module with fresh weights."""
        from cosearch.supernet.blocks import Network

        self.check(arch)
        return Network(self.blueprint(arch), seed)

    def supernet(self, seed: int = 0, heterogeneous: bool = False, kernel_transform: bool = False) -> "Supernet":
        """One set of weights for every network of the space.

        heterogeneous: additions read the weights of convolutions through a learned transform. kernel_transform: small
        kernels read the centre of the largest through one.
        """
        from cosearch.supernet.elastic import Supernet

        return Supernet([self.blueprint(arch) for arch in self.covering()], seed, heterogeneous, kernel_transform)

    def covering(self) -> list[Arch]:
        """A few archs that between them show every choice of every decision.

        Enough for a layer table and a supernet where no layer's shape depends on two decisions.
        """
        longest = max(len(options) for options in self.choices.values())
        return [
            {name: options[min(i, len(options) - 1)] for name, options in self.choices.items()} for i in range(longest)
        ]

    @cached_property
    def operators(self) -> tuple[str, ...]:
        """The operators that some choice can use."""
        used = {str(choice).split("_")[0] for options in self.choices.values() for choice in options}
        return tuple(operator for operator in OPERATORS if operator in used)

    def restricted(self, *operators: str) -> Self:
        """The sub-space in which every choice that has an operator has one of these.

        Raises: ConfigError for an operator that the space does not have, or a decision that is left without a choice.
        """
        for operator in operators:
            if operator not in self.operators:
                raise ConfigError(f"operator {operator!r}: expected some of {', '.join(self.operators)}")
        if set(operators) == set(self.operators):
            return self
        kept = {name: _of(options, operators) for name, options in self.choices.items()}
        for name, options in kept.items():
            if not _filled(options):
                raise ConfigError(f"decision {name!r} has no choice of {', '.join(operators)}")
        return replace(self, choices=kept, name="-".join((self.name, *operators)))

    def offers(self, *operators: str) -> bool:
        """Whether every decision has a choice of one of these operators, as `restricted` needs."""
        return all(_filled(_of(options, operators)) for options in self.choices.values())

    def largest(self, *operators: str) -> Arch:
        """The network whose every decision takes the choice of one operator with most operations.

        operators: which take turns from decision to decision. If none is given, conv alone, and where a decision has
        no conv whatever it has.
        Raises: ConfigError for an operator that is given and that some decision does not have.
        """
        if operators and self.operators:
            parts = [self.restricted(operator).choices for operator in operators]
        else:
            convs = {name: _of(options, ("conv",)) for name, options in self.choices.items()}
            parts = [{name: convs[name] if _filled(convs[name]) else options for name, options in self.choices.items()}]
        return self.largest_of({name: parts[i % len(parts)][name] for i, name in enumerate(self.choices)})

    def largest_of(self, among: Mapping[str, Sequence[Choice]]) -> Arch:
        """The network whose every decision takes, of some of its choices, the first with most operations."""
        base = {name: options[0] for name, options in among.items()}

        def operations(name: str, option: Choice) -> int:
            return self.workload({**base, name: option}).macs

        return {name: max(options, key=lambda o: operations(name, o)) for name, options in among.items()}

    def layer_table(self) -> tuple[Layer, ...]:
        """The distinct layers of all networks of the space."""
        return distinct_layers(self.workload(arch) for arch in self.covering())

    def counts(self, archs: Sequence[Arch], layers: Sequence[Layer]) -> npt.NDArray[np.int64]:
        """[archs, layers]: how often each of `layers` occurs in each network.

        Raises: HardwareError if `layers` lacks one that a network has.
        """
        rows = [count_layers(self.workload(arch), layers) for arch in archs]
        return np.array(rows, dtype=np.int64).reshape(len(archs), len(layers))


def _of(options: Sequence[Choice], operators: Sequence[str]) -> tuple[Choice, ...]:
    """The choices of some operators, and those that have none."""
    return tuple(c for c in options if (op := str(c).split("_")[0]) not in OPERATORS or op in operators)


def _filled(options: Sequence[Choice]) -> bool:
    return any(option != "skip" for option in options)
