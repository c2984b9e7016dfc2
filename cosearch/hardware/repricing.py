"""Do conclusions survive the unit costs that nobody measured? Networks repriced with each one scaled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.tables import AcceleratorSpace
from cosearch.hardware.tensor import cost_tensor, network_cost
from cosearch.workload import Workload, distinct_layers


class ScalableSpace(AcceleratorSpace, Protocol):
    """An accelerator space whose modelled unit costs can be scaled."""

    @property
    def modelled(self) -> tuple[str, ...]: ...

    def scaled(self, factors: Mapping[str, float]) -> Self: ...

    def reprice(self, accelerator: Accelerator) -> Accelerator: ...


@dataclass(frozen=True)
class SensitivityRow:
    """One unit cost times one factor: the objective's value of each network, infinite if nothing fits any more."""

    cost: str
    factor: float
    values: tuple[tuple[str, float], ...]

    def order(self) -> tuple[str, ...]:
        """Networks from best to worst."""
        return tuple(name for name, _ in sorted(self.values, key=lambda pair: pair[1]))


def sensitivity(
    space: ScalableSpace,
    networks: Mapping[str, Workload],
    objective: str = "energy_mj",
    accelerators: Mapping[str, Accelerator] | None = None,
    factors: Sequence[float] = (0.5, 2.0),
    progress: Callable[[], None] = lambda: None,
) -> list[SensitivityRow]:
    """Reprice networks with every modelled unit cost of a space scaled, one at a time.

    accelerators: networks named here stay on the accelerator given (repriced); the others get the accelerator that is
    best for them under the scaled costs. progress: called after each row.

    Returns: the unscaled row first (cost ``""``, factor 1), then one row per modelled cost and factor.
    """
    fixed = dict(accelerators or {})
    free = {name: workload for name, workload in networks.items() if name not in fixed}
    cases = [("", 1.0), *((name, factor) for name in space.modelled for factor in factors)]
    layers = distinct_layers(free.values())
    unscaled = cost_tensor(layers, space, cache=False) if free else None
    known: dict[tuple[str, Accelerator], float] = {}  # most costs change nothing of an accelerator but its resources
    rows = []
    for name, factor in cases:
        scaled = space.scaled({name: factor}) if name else space
        values = {}
        for network in networks.keys() - free.keys():
            accelerator = scaled.reprice(fixed[network])
            if (network, accelerator) not in known:
                cost = network_cost(networks[network], accelerator, objective)
                known[network, accelerator] = float(getattr(cost, objective))
            values[network] = known[network, accelerator]
        if unscaled is not None:
            tensor = unscaled.with_resources_of(scaled) or cost_tensor(layers, scaled, cache=False)
            for network, workload in free.items():
                front = tensor.hardware_front(tensor.counts_of(workload), workload.live_activation_bytes)
                values[network] = float(front.metric(objective).min()) if len(front) else np.inf
        rows.append(SensitivityRow(name, factor, tuple((network, values[network]) for network in networks)))
        progress()
    return rows
