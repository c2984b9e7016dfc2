"""What every network space gives to the search, derived from one method: the blueprint of an arch."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from cosearch.blueprint import OPERATORS, Blueprint, operator_of
from cosearch.errors import ConfigError, HardwareError
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
        used = {operator_of(choice) for options in self.choices.values() for choice in options}
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


class BlockSpace(NetworkSpace):
    """Networks whose every decision stands for a block, the layers of which do not depend on the other decisions."""

    def layer_table(self) -> tuple[Layer, ...]:
        return self._layers

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return super().layer_table()

    @cached_property
    def _by_block(self) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
        """Counts of the network of last choices, [layers], and per decision what each choice adds to it, [choices,
        layers]: layers of `layer_table`.
        """
        last = {name: options[-1] for name, options in self.choices.items()}
        base = super().counts([last], self._layers)[0]
        changed = [[{**last, name: option} for option in options] for name, options in self.choices.items()]
        return base, [super(BlockSpace, self).counts(archs, self._layers) - base for archs in changed]

    def counts(self, archs: Sequence[Arch], layers: Sequence[Layer]) -> npt.NDArray[np.int64]:
        """[archs, layers]: how often each of `layers` occurs in each network, as the sum over its blocks.

        Raises: HardwareError if `layers` lacks one that a network has.
        """
        base, added = self._by_block
        codes = np.array([self.encode(arch) for arch in archs], np.int64).reshape(len(archs), len(added))
        total = np.tile(base, (len(archs), 1))
        for of_choice, code in zip(added, codes.T, strict=True):
            total += of_choice[code]
        place = {layer.shape_key: i for i, layer in enumerate(layers)}
        found = np.zeros((len(archs), len(layers)), np.int64)
        for i, layer in enumerate(self._layers):
            if layer.shape_key in place:
                found[:, place[layer.shape_key]] = total[:, i]
            elif total[:, i].any():
                raise HardwareError(f"layer {layer.name!r} of {self.name} is not in the table of {len(layers)} layers")
        return found


def _of(options: Sequence[Choice], operators: Sequence[str]) -> tuple[Choice, ...]:
    """The choices of some operators, and those that have none."""
    return tuple(c for c in options if (operator := operator_of(c)) is None or operator in operators)


def _filled(options: Sequence[Choice]) -> bool:
    return any(option != "skip" for option in options)
