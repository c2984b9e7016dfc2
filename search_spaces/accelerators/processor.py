"""CPU and GPU rooflines with voltage and frequency levels.

``latency = max(operations / (operations per cycle x f), compulsory bits / DRAM rate)``; operations per cycle scale with
8 over the wider operand. ``energy = (C V^2 f + leakage V / V_nominal) latency + DRAM bits e_dram``. Every layer reads
its weights and inputs and writes its outputs once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from cosearch.errors import UnknownNameError, nearest
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, Resources, UnitEnergies
from cosearch.hardware.parts import read_costs
from cosearch.workload import KINDS, Layer

if TYPE_CHECKING:
    from cosearch.hardware.pricing import Residency
    from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable

LEVELS: dict[str, tuple[tuple[float, float], ...]] = {
    "cpu": ((600.0, 0.65), (1000.0, 0.75), (1400.0, 0.85), (1800.0, 0.95)),
    "gpu": ((400.0, 0.65), (700.0, 0.75), (1000.0, 0.85), (1300.0, 0.95)),
}
"""Operating points of each processor: clock_mhz and supply voltage, the last one nominal."""


@cache
def costs() -> dict[str, float]:
    return {name: cost.value for name, cost in read_costs("processors").items()}


@dataclass(frozen=True)
class OperatingPoint:
    """A processor at one clock and voltage."""

    processor: str
    clock_mhz: float
    voltage: float

    @property
    def power_w(self) -> float:
        """``C V^2 f + leakage V / V_nominal``."""
        table = costs()
        nominal = LEVELS[self.processor][-1][1]
        dynamic = table[f"{self.processor}.switched_nf"] * self.voltage**2 * self.clock_mhz * 1e-3
        return dynamic + table[f"{self.processor}.leakage_w"] * self.voltage / nominal

    def cost(self, layer: Layer) -> tuple[float, float]:
        """latency_ms and energy_mj of one layer."""
        table = costs()
        width = max(8, layer.input_bits, layer.weight_bits if layer.has_weights else 0)
        rate = table[f"{self.processor}.macs_per_cycle"] * 8 / width * self.clock_mhz * 1e3
        bits = layer.weight_count * layer.weight_bits + layer.input_count * layer.input_bits
        bits += layer.output_count * layer.output_bits
        ms = max(layer.macs / rate, bits / (table[f"{self.processor}.dram_gbit_per_s"] * 1e6))
        return ms, self.power_w * ms + bits * table[f"{self.processor}.dram_pj_per_bit"] * 1e-9


def space(name: str = "cpu") -> "ProcessorSpace":
    """The operating points of one processor.

    Raises: UnknownNameError with the nearest processor.
    """
    if name not in LEVELS:
        raise UnknownNameError(f"unknown processor {name!r}: {nearest(name, LEVELS)}")
    return ProcessorSpace(name)


@dataclass(frozen=True)
class ProcessorSpace:
    """See `space`. A processor runs layers of every kind."""

    name: str

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """Every kind of layer."""
        return {self.name: KINDS}

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return {"clock_mhz": tuple(clock for clock, _ in LEVELS[self.name])}

    @property
    def budget(self) -> Resources:
        """A processor is given; nothing is allotted."""
        return Resources()

    def __len__(self) -> int:
        return len(LEVELS[self.name])

    @cached_property
    def points(self) -> tuple[OperatingPoint, ...]:
        return tuple(OperatingPoint(self.name, clock, voltage) for clock, voltage in LEVELS[self.name])

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.tables import engine_table

        return engine_table(
            kind, [_engine(point) for point in self.points], [math.inf] * len(self), [(-1, -1)] * len(self)
        )

    @cached_property
    def shared(self) -> "SharedTable":
        from cosearch.hardware.single import nothing_shared

        return nothing_shared()

    @property
    def prices(self) -> "Prices":
        from cosearch.hardware.tables import Prices

        return Prices(UnitEnergies(0.0, 0.0, 0.0), 0.0, costs()[f"{self.name}.dram_pj_per_bit"], 0.0)

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: "Residency") -> "tuple[Floats, Floats]":
        import numpy as np

        latency, energy = np.array([point.cost(layer) for point in self.points]).T
        return np.tile(latency, (len(policies), 1)), np.tile(energy, (len(policies), 1))

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        """The operating point as a value, for the record; its layers are priced by this space."""
        point = self.points[engines[self.name]]
        return Accelerator(
            name=f"{self.name}_{point.clock_mhz:g}MHz",
            engines=(_engine(point),),
            levels=(MemoryLevel("dram"),),
            clock_mhz=point.clock_mhz,
            static_power_w=point.power_w,
        )

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {"space": "processor", "name": self.name, "levels": LEVELS[self.name], "costs": costs()}


def _engine(point: OperatingPoint) -> Engine:
    return Engine(point.processor, KINDS, 1, int(costs()[f"{point.processor}.macs_per_cycle"]))
