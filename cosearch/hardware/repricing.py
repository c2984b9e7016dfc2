"""Do conclusions survive the unit costs that nobody measured? Networks repriced with each one scaled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.tables import AcceleratorSpace
from cosearch.hardware.tensor import cost_tensor
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
    cases = [("", 1.0), *((name, factor) for name in space.modelled for factor in factors)]
    layers = distinct_layers(networks.values())
    unscaled = cost_tensor(layers, space, cache=False)
    rows = []
    for name, factor in cases:
        scaled = space.scaled({name: factor}) if name else space
        tensor = unscaled.with_resources_of(scaled) or cost_tensor(layers, scaled, cache=False)
        values = []
        for network, workload in networks.items():
            counts = tensor.counts_of(workload)
            if network in fixed:
                accelerator = scaled.reprice(fixed[network])
                cost = tensor.evaluate_on(accelerator, counts, workload.live_activation_bytes, objective)
                value = float(getattr(cost, objective))
            else:
                front = tensor.hardware_front(counts, workload.live_activation_bytes)
                value = float(front.metric(objective).min()) if len(front) else np.inf
            values.append((network, value))
        rows.append(SensitivityRow(name, factor, tuple(values)))
        progress()
    return rows
