"""Accelerator spaces whose layers have a closed-form cost: a list of forms, each an accelerator of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, UnitEnergies
from cosearch.hardware.closedform import ClosedForm, unit_costs
from cosearch.hardware.parts import UnitCost, read_costs
from cosearch.hardware.resources import SILICON, Resources
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.pricing import Residency
    from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable


@dataclass(frozen=True)
class Point:
    """One accelerator: its name, what prices its layers, the size of its array, and its area (0 if unknown)."""

    name: str
    form: ClosedForm
    rows: int
    cols: int
    area_um2: float = 0.0


@dataclass(frozen=True)
class FormSpace:
    """Its one engine, named `engine`, runs layers of the kinds `runs`; table: the unit costs that its forms read.

    sized: whether accelerators have an area that can be limited.
    """

    name: str
    engine: str
    runs: tuple[str, ...]
    points: tuple[Point, ...]
    choice_items: tuple[tuple[str, tuple[Any, ...]], ...]
    table: str
    sized: bool

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.engine,)

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return dict(self.choice_items)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """The one engine runs everything that runs at all."""
        return {self.engine: self.runs}

    @property
    def budget(self) -> Resources:
        """Silicon is limited by a constraint, not by a part; a processor is given."""
        return SILICON if self.sized else Resources()

    def __len__(self) -> int:
        return len(self.points)

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.tables import engine_table

        engines = [self._engine(point) for point in self.points]
        stays = [(point.form.weight_bits, -1) for point in self.points]
        return engine_table(kind, engines, [math.inf] * len(self), stays)

    @cached_property
    def shared(self) -> "SharedTable":
        from cosearch.hardware.single import nothing_shared

        return nothing_shared()

    @property
    def unit_costs(self) -> dict[str, UnitCost]:
        """What everything costs, each with its origin."""
        return read_costs(self.table)

    @property
    def prices(self) -> "Prices":
        """Everything is in the layers' energies; only the host's transfers are charged apart."""
        from cosearch.hardware.tables import Prices

        return Prices(UnitEnergies(0.0, 0.0, 0.0), 0.0, self._dram("pj_per_bit"), 0.0)

    def _dram(self, figure: str) -> float:
        """Of the DRAM of this space's name, or else of the table's only one."""
        table = unit_costs(self.table)
        return table.get(f"{self.name}.dram_{figure}", table.get(f"dram_{figure}", 0.0))

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: "Residency") -> "tuple[Floats, Floats]":
        import numpy as np

        costs = [point.form.cost(layer, residency.weights) for point in self.points]
        latency, energy = np.array([(cost.latency_ms, cost.energy_mj) for cost in costs]).T
        return np.tile(latency, (len(policies), 1)), np.tile(energy, (len(policies), 1))

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        point = self.points[engines[self.engine]]
        per_bit = self._dram("pj_per_bit")
        return Accelerator(
            name=point.name,
            engines=(self._engine(point),),
            levels=(MemoryLevel("dram", read_energy_pj=per_bit, write_energy_pj=per_bit, word_bits=1),),
            clock_mhz=point.form.clock_mhz,
            resources=Resources(area_um2=round(point.area_um2)),
            area_mm2=point.area_um2 * 1e-6 if self.sized else None,
        )

    def _engine(self, point: Point) -> Engine:
        resources = Resources(area_um2=round(point.area_um2))
        return Engine(self.engine, self.runs, point.rows, point.cols, resources=resources, form=point.form)

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {
            "space": self.table,
            "name": self.name,
            "choices": {name: list(values) for name, values in self.choice_items},
            "costs": unit_costs(self.table),
            "kinds": list(self.runs),
        }
