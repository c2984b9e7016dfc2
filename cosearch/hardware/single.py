"""One accelerator seen as a space of one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import RESOURCES, Accelerator, Resources
from cosearch.hardware.nest import nest_costs
from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable, engine_table, resource_row, tables_of
from cosearch.workload import Layer


class _One:
    """What both kinds of accelerators share."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.only = accelerator

    @property
    def name(self) -> str:
        return self.only.name

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(engine.name for engine in self.only.engines)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        return {engine.name: engine.kinds for engine in self.only.engines}

    @property
    def budget(self) -> Resources:
        return Resources(*(2**62 for _ in RESOURCES))

    def engines(self, kind: str) -> EngineTable:
        return engine_table(kind, [e for e in self.only.engines if e.name == kind], [math.inf])

    def accelerator(self, shared: int, engines: dict[str, int]) -> Accelerator:
        return self.only

    def describe(self) -> dict[str, Any]:
        return {"accelerator": self.only.to_json()}


class OneArray(_One):
    """An accelerator of the tiled array template."""

    @property
    def shared(self) -> SharedTable:
        return tables_of(self.only)[1]

    @property
    def prices(self) -> Prices:
        return tables_of(self.only)[2]


class OneNest(_One):
    """An accelerator with a declared mapspace."""

    @property
    def shared(self) -> SharedTable:
        return nothing_shared(self.only.area_mm2 or 0.0)

    @property
    def prices(self) -> Prices:
        dram = self.only.levels[-1]
        return Prices(self.only.energies, 0.0, dram.read_energy_pj / dram.word_bits, self.only.static_power_w)

    def layer_costs(self, layer: Layer, policies: Sequence[float]) -> tuple[Floats, Floats]:
        return nest_costs(layer, [self.only], policies)


def one_accelerator(accelerator: Accelerator) -> OneArray | OneNest:
    """The space that holds just this accelerator.

    Raises: HardwareError if some engines declare a mapspace and others do not.
    """
    declared = [engine.mapspace is not None for engine in accelerator.engines]
    if any(declared) and not all(declared):
        raise HardwareError(f"accelerator {accelerator.name!r}: either all engines declare a mapspace or none does")
    return OneNest(accelerator) if all(declared) else OneArray(accelerator)


def nothing_shared(area_mm2: float = 0.0) -> SharedTable:
    """The shared configuration of accelerators whose engine tables hold everything; no tensor is resident."""
    one = np.ones(1)
    resources = np.array([resource_row(Resources(area_um2=round(area_mm2 * 1e6)))])
    none = np.full(1, -1, np.int64)
    return SharedTable(none, none, one, one, np.ones(1, np.int64), one * 1e12, resources)
