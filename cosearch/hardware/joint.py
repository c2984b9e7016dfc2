"""The joint optimum: every network of a list together with every accelerator of a space, exactly.

A pair on the joint front of error and hardware costs is on the hardware front of its own network, so the joint front
is what is left of all those fronts. Networks that demand the same of the hardware share one; of them only the first of
least error can be on the joint front.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosearch.errors import ConfigError, HardwareError, InfeasibleError, nearest
from cosearch.hardware.combine import undominated_rows
from cosearch.hardware.fronts import HardwareFront
from cosearch.hardware.tables import Floats, Ints
from cosearch.hardware.tensor import CostTensor


@dataclass(frozen=True)
class JointFront:
    """Pairs of a network and an accelerator that no other pair beats in error and every objective.

    By rising error, then the objectives in order. network, error: [n]; hardware: their costs and accelerators, n points
    (use `point` for one of them as a front of its own network); has: [n, layer], what the networks are made of.
    """

    objectives: tuple[str, ...]
    network: Ints
    error: Floats
    hardware: HardwareFront = field(repr=False)
    has: NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.network)

    def metric(self, name: str) -> Floats:
        """``error``, or a hardware metric; [n]."""
        return self.error if name == "error" else self.hardware.metric(name)

    def point(self, i: int) -> HardwareFront:
        """Point i as a front of one point: its accelerator, mappings and costs."""
        layers = tuple(layer for layer, there in zip(self.hardware.layers, self.has[i], strict=True) if there)
        return replace(self.hardware.take(np.array([i])), layers=layers)

    def best(self, objective: str, limits: Mapping[str, float] | None = None) -> int:
        """The point that minimises one metric under limits ``max_<metric>``: the optimum over all pairs.

        Metrics are error, the front's objectives, and edp where latency_ms and energy_mj are objectives: of others the
        front need not hold the optimum. Ties go to the lower error.

        Raises: ConfigError for another metric, InfeasibleError if no pair meets the limits.
        """
        known = ["error", *self.objectives, *(["edp"] if {"latency_ms", "energy_mj"} <= {*self.objectives} else [])]
        meets = np.ones(len(self), bool)
        for name, limit in (limits or {}).items():
            meets &= self.metric(_known(name.removeprefix("max_"), known)) <= limit
        if not meets.any():
            raise InfeasibleError(f"no pair of a network and an accelerator meets {dict(limits or {})}: relax a limit")
        values = np.where(meets, self.metric(_known(objective, known)), np.inf)
        return int(values.argmin())


def _known(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise ConfigError(f"the joint front does not decide {name!r}: {nearest(name, known)}, or make it an objective")
    return name


def joint_front(
    tensor: CostTensor,
    counts: ArrayLike,
    error: ArrayLike,
    live_activation_bytes: ArrayLike,
    objectives: Sequence[str] = ("latency_ms", "energy_mj"),
    constraints: Mapping[str, float] | None = None,
    host_bytes: ArrayLike = 0.0,
    pipelined: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> JointFront:
    """The exact front of error and objectives over all networks and all accelerators within the budget.

    counts: [network, layer], see `CostTensor.counts_of`. error: [network], smaller is better (1 - accuracy); networks
    of infinite error are left out. live_activation_bytes, host_bytes: [network] or one number. objectives, constraints
    and pipelined: as for `CostTensor.hardware_front`. progress: called with (hardware fronts done, in all).

    Raises: HardwareError for errors that are not one number per network, or all infinite; what `hardware_front` raises.
    """
    table, errors = np.asarray(counts), np.asarray(error, float)
    if errors.shape != (len(table),) or np.isnan(errors).any():
        raise HardwareError(f"error of shape {errors.shape}, expected {len(table)} numbers: one per network")
    if not np.isfinite(errors).any():
        raise HardwareError("no network has a finite error: there is nothing to choose from")
    sides = [np.broadcast_to(np.asarray(x, float), len(table)) for x in (live_activation_bytes, host_bytes)]
    order = np.argsort(errors, kind="stable")
    demands = np.column_stack([table, *sides])[order]
    first = np.sort(order[np.unique(demands, axis=0, return_index=True)[1]])
    first = first[np.isfinite(errors[first])]
    live, host = (side[first] for side in sides)
    fronts = tensor.hardware_fronts(
        table[first],
        live,
        host_bytes=host,
        progress=progress,
        objectives=objectives,
        constraints=constraints,
        pipelined=pipelined,
    )
    network = np.repeat(first, [len(front) for front in fronts])
    points = replace(HardwareFront.joined(fronts), layers=tensor.layers)
    values = [errors[network], *(points.metric(name) for name in objectives)]
    kept = undominated_rows(np.stack(values, axis=1))
    network = network[kept]
    return JointFront(tuple(objectives), network, errors[network], points.take(kept), table[network] > 0)
