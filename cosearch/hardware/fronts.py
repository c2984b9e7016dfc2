"""What a network costs: on one accelerator, as a pipeline of its engines, and on all accelerators worth having."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch.hardware import split
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.hull import gap
from cosearch.hardware.nest import weighted
from cosearch.hardware.pricing import RESIDENCIES
from cosearch.hardware.resources import RESOURCES
from cosearch.hardware.single import best
from cosearch.hardware.tables import AcceleratorSpace, Floats, Ints
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.mapping import Mapping as LayerMapping

_POINTS = ("latency_ms", "energy_mj", "area_mm2", "resources", "shared", "engines", "policies", "residency")


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs on one accelerator; `reason` says why it cannot run there.

    policies: (kind, w) of the mapping policy that each engine runs under. edp_bound: what no choice of mappings can
    beat on this accelerator, mJ ms; see `CostTensor.edp_bound`.
    """

    latency_ms: float
    energy_mj: float
    feasible: bool
    reason: str = ""
    weights_resident: bool = False
    activations_resident: bool = False
    policies: tuple[tuple[str, float], ...] = ()
    edp_bound: float = math.nan

    @property
    def edp(self) -> float:
        """Energy-delay product, mJ ms."""
        return self.latency_ms * self.energy_mj

    @property
    def edp_gap(self) -> float:
        """How far `edp` may lie above the least of all choices of mappings, as a fraction of its bound."""
        return gap(self.edp, self.edp_bound)

    @property
    def throughput_fps(self) -> float:
        """Images a second, one after the other; `CostTensor.pipeline` has what engines reach side by side."""
        return 1e3 / self.latency_ms if self.feasible else 0.0


@dataclass(frozen=True)
class Pipeline:
    """A network on one accelerator whose engines work on different images at once; see `CostTensor.hardware_front`.

    interval_ms: between images; energy_mj: of one image. limit: what sets the interval, an engine or the shared
    ``memories``. interval_is_bound: whether another balance of layers that two engines share could only shorten it.
    """

    interval_ms: float
    energy_mj: float
    limit: str
    policies: tuple[tuple[str, float], ...]
    interval_is_bound: bool = False

    @property
    def throughput_fps(self) -> float:
        """Images a second."""
        return 1e3 / self.interval_ms

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "policies": dict(self.policies), "throughput_fps": self.throughput_fps}


@dataclass(frozen=True)
class HardwareFront:
    """The accelerators that are not dominated for one network, by rising latency.

    shared: index of the shared configuration; engines: [n, kinds] index of each kind's engine, -1 where the network
    does not need it; policies: likewise, the mapping policy's index. residency: index into `RESIDENCIES`.
    interval_is_bound: whether latency_ms, as the interval of a pipeline, is an upper bound only (see
    `cosearch.hardware.split`). reason: why the front is empty, if it is. layers: what the network is made of; grid: the
    policies that the indices mean.
    """

    kinds: tuple[str, ...]
    latency_ms: Floats
    energy_mj: Floats
    area_mm2: Floats
    resources: Ints
    shared: Ints
    engines: Ints
    policies: Ints
    residency: Ints
    reason: str
    space: AcceleratorSpace = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    grid: tuple[float, ...] = field(repr=False)
    interval_is_bound: bool = False

    def __len__(self) -> int:
        return len(self.latency_ms)

    @property
    def edp(self) -> Floats:
        """Energy-delay product, mJ ms."""
        return self.latency_ms * self.energy_mj

    @property
    def throughput_fps(self) -> Floats:
        """Images a second: one after the other, or one per interval where the front is of pipelines."""
        return 1e3 / self.latency_ms

    @property
    def lut(self) -> Ints:
        return self.resources[:, RESOURCES.index("lut")]

    @property
    def ff(self) -> Ints:
        return self.resources[:, RESOURCES.index("ff")]

    @property
    def dsp(self) -> Ints:
        return self.resources[:, RESOURCES.index("dsp")]

    @property
    def bram(self) -> Ints:
        return self.resources[:, RESOURCES.index("bram")]

    @property
    def uram(self) -> Ints:
        return self.resources[:, RESOURCES.index("uram")]

    def metric(self, name: str) -> Floats:
        if name in RESOURCES:
            return self.resources[:, RESOURCES.index(name)].astype(float)
        return np.asarray(getattr(self, name), float)

    def accelerator(self, i: int) -> Accelerator:
        """Point i as a value."""
        chosen = {kind: int(e) for kind, e in zip(self.kinds, self.engines[i], strict=True) if e >= 0}
        return self.space.accelerator(int(self.shared[i]), chosen)

    def policies_of(self, i: int) -> tuple[tuple[str, float], ...]:
        """(kind, w) of the mapping policy that each engine of point i runs under."""
        return tuple((k, self.grid[p]) for k, p in zip(self.kinds, self.policies[i].tolist(), strict=True) if p >= 0)

    def mappings(self, i: int) -> "list[tuple[Layer, LayerMapping | None]]":
        """The mapping of every layer shape at point i; None for what runs on the vector unit.

        A layer that is split over two engines appears as its two parts.

        Raises: HardwareError in a space whose layers have a closed-form cost and no mappings.
        """
        accelerator = self.accelerator(i)
        residency, policies = RESIDENCIES[int(self.residency[i])], dict(self.policies_of(i))
        found: list[tuple[Layer, LayerMapping | None]] = []
        for layer in self.layers:
            kind = next((k for k in self.kinds if layer.kind in self.space.serves[k]), None)
            if kind is None:
                found.append((layer, None))
                continue
            if kind == split.NAME:
                found += [part[:2] for part in split.best_split(layer, accelerator, policies[kind], residency).parts]
                continue
            found.append((layer, best(layer, accelerator, partial(weighted, policies[kind]), residency)[0]))
        return found

    def take(self, index: Any) -> "HardwareFront":
        return replace(self, **{name: getattr(self, name)[index] for name in _POINTS})

    @staticmethod
    def joined(fronts: "Sequence[HardwareFront]") -> "HardwareFront":
        """The points of several fronts of one tensor, one or more, in order; layers and reason are the first one's."""
        arrays: dict[str, Any] = {name: np.concatenate([getattr(front, name) for front in fronts]) for name in _POINTS}
        return replace(fronts[0], **arrays)
