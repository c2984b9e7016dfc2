"""Networks and accelerators in one space, for accelerators that are too many to know all of them.

An arch of it holds the decisions of both: a strategy mutates, crosses and encodes them alike. Whoever asks it for a
network gets that of the network's decisions.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from cosearch.blueprint import Blueprint
from cosearch.errors import ConfigError
from cosearch.workload import Workload
from search_spaces.decisions import OF_ACCELERATOR, Arch, network_of
from search_spaces.networks.space import NetworkSpace


@dataclass(frozen=True)
class JointSpace(NetworkSpace):
    """See `joined`."""

    networks: NetworkSpace
    accelerators: Any

    @property
    def network_space(self) -> NetworkSpace:
        return self.networks

    @property
    def description(self) -> str:
        return f"{self.networks.description}; on {self.accelerators.name}"

    @cached_property
    def operators(self) -> tuple[str, ...]:
        return self.networks.operators

    def workload(self, arch: Arch) -> Workload:
        return self.networks.workload(network_of(arch))

    def blueprint(self, arch: Arch) -> Blueprint:
        return self.networks.blueprint(network_of(arch))

    def canonical(self, arch: Arch) -> Arch:
        return {**arch, **self.networks.canonical(network_of(arch))}

    def demand_key(self, arch: Arch) -> Hashable:
        return self.networks.demand_key(network_of(arch))

    def restricted(self, *operators: str) -> Self:
        networks = self.networks.restricted(*operators)
        choices = {**networks.choices, **{n: o for n, o in self.choices.items() if n not in self.networks.choices}}
        return replace(self, choices=choices, name=networks.name, networks=networks)

    def offers(self, *operators: str) -> bool:
        return self.networks.offers(*operators)

    def largest(self, *operators: str) -> Arch:
        """The largest network, on the accelerator of first choices."""
        first = {name: options[0] for name, options in self.choices.items() if name not in self.networks.choices}
        return {**self.networks.largest(*operators), **first}


def joined(networks: NetworkSpace, accelerators: Any) -> JointSpace:
    """The networks of one space, each on every accelerator of another.

    accelerators: decisions and what builds an accelerator of them, as
    `search_spaces.accelerators.built.BuiltSpace`; their names get `OF_ACCELERATOR` before them.
    Raises: ConfigError if a decision of the networks is called like one of an accelerator.
    """
    taken = [name for name in networks.choices if name.startswith(OF_ACCELERATOR)]
    if taken:
        raise ConfigError(f"decision {taken[0]!r} of {networks.name} begins like one of an accelerator: rename it")
    own = {f"{OF_ACCELERATOR}{name}": tuple(options) for name, options in accelerators.choices.items()}
    return JointSpace({**networks.choices, **own}, networks.name, networks, accelerators)
