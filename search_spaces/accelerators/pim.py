"""Processing in memory: weights in crossbar cells, inputs bit-serial on the rows, columns summed and converted by ADCs.

Equations (one layer as a matrix product of ``rows_needed = C R S / groups`` by K columns, b_w and b_i bits):
``cells = ceil(b_w / cell_bits)``; ``columns = K cells s`` with s = 2 for paired positive and negative columns, 1 for
polarised ones; ``arrays = ceil(rows_needed / rows) ceil(columns / cols)``, several groups in one array where they fit;
``latency = N P Q b_i columns_per_adc read_ns`` per pass, every array working at once;
``energy = N P Q b_i (cells read e_cell + rows driven e_driver + columns converted (e_adc 2^(adc_bits - 8) + e_shift))``
plus buffers. A layer that needs more arrays than there are runs in passes and pays for writing every cell again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError, nearest
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, Resources, UnitEnergies
from cosearch.hardware.parts import read_costs
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.pricing import Residency
    from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable

KINDS: tuple[str, ...] = ("mac", "shift", "pool", "elementwise")
CHOICES: dict[str, tuple[Any, ...]] = {
    "rows": (64, 128, 256),
    "cols": (64, 128, 256),
    "cell_bits": (1, 2, 4),
    "adc_bits": (6, 8),
    "columns_per_adc": (8, 16, 128),
    "arrays": (64, 256, 1024, 4096),
    "polarised": (False, True),
}


@cache
def costs() -> dict[str, float]:
    return {name: cost.value for name, cost in read_costs("crossbar").items()}


@dataclass(frozen=True)
class Crossbar:
    """One configuration; see `CHOICES`."""

    rows: int = 128
    cols: int = 128
    cell_bits: int = 2
    adc_bits: int = 8
    columns_per_adc: int = 8
    arrays: int = 1024
    polarised: bool = False

    @property
    def area_um2(self) -> float:
        table = costs()
        adcs = math.ceil(self.cols / self.columns_per_adc) * table["adc_um2_8bit"] * 2.0 ** (self.adc_bits - 8)
        return self.arrays * (table["array_um2_128"] * self.rows * self.cols / 128**2 + adcs)

    def columns(self, layer: Layer) -> int:
        """Physical columns of one group."""
        pairs = 1 if self.polarised else 2
        return layer.K // layer.groups * math.ceil(layer.weight_bits / self.cell_bits) * pairs

    def arrays_needed(self, layer: Layer) -> int:
        """``ceil(rows_needed / rows) ceil(columns / cols)``; groups share an array's diagonal where they fit."""
        rows, columns = layer.C // layer.groups * layer.R * layer.S, self.columns(layer)
        together = min(self.rows // rows, self.cols // columns)
        if together >= 1:
            return math.ceil(layer.groups / together)
        return layer.groups * math.ceil(rows / self.rows) * math.ceil(columns / self.cols)

    def cost(self, layer: Layer) -> tuple[float, float]:
        """latency_ms and energy_mj of one layer; see the module for the equations."""
        table = costs()
        moved = layer.input_count * layer.input_bits + layer.output_count * layer.output_bits
        buffers_pj = moved * table["buffer_pj_per_bit"]
        if not layer.has_weights:
            ns = table["read_ns"] * math.ceil(layer.macs / self.cols)
            return ns * 1e-6, (buffers_pj + layer.macs * table["shift_add_pj"]) * 1e-9
        reads = layer.N * layer.P * layer.Q * layer.input_bits
        rows, columns = layer.C // layer.groups * layer.R * layer.S, self.columns(layer)
        needed = self.arrays_needed(layer)
        passes = math.ceil(needed / self.arrays)
        ns = passes * reads * min(self.columns_per_adc, columns) * table["read_ns"]
        tiles = math.ceil(rows / self.rows)
        conversion = table["adc_pj_8bit"] * 2.0 ** (self.adc_bits - 8) + table["shift_add_pj"]
        drives = math.ceil(columns / self.cols) * rows * table["driver_pj"]
        per_read = rows * columns * table["cell_read_pj"] + drives + tiles * columns * conversion
        pj = layer.groups * reads * per_read + buffers_pj
        if passes > 1:
            ns += passes * self.rows * table["row_write_ns"]
            pj += layer.groups * rows * columns * table["cell_write_pj"]
        return ns * 1e-6, pj * 1e-9


def space(name: str = "pim", *, choices: Mapping[str, Sequence[Any]] | None = None) -> "PimSpace":
    """Crossbar accelerators over a grid of `CHOICES`.

    Raises: ConfigError for a choice that does not exist.
    """
    for choice in choices or {}:
        if choice not in CHOICES:
            raise ConfigError(f"the {name} space has no choice {choice!r}: {nearest(choice, CHOICES)}")
    merged = {**CHOICES, **{key: tuple(values) for key, values in (choices or {}).items()}}
    return PimSpace(tuple(merged.items()))


@dataclass(frozen=True)
class PimSpace:
    """See `space`. Its one engine runs every layer; adder layers have no crossbar form."""

    choice_items: tuple[tuple[str, tuple[Any, ...]], ...]
    name: str = "pim"
    kinds: tuple[str, ...] = ("crossbar",)

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return dict(self.choice_items)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """What a crossbar runs."""
        return {"crossbar": KINDS}

    @property
    def budget(self) -> Resources:
        """Silicon is limited by a constraint, not by a part."""
        return Resources(area_um2=2**62)

    def __len__(self) -> int:
        return math.prod(len(values) for _, values in self.choice_items)

    @cached_property
    def crossbars(self) -> tuple[Crossbar, ...]:
        names = [name for name, _ in self.choice_items]
        grid = product(*(values for _, values in self.choice_items))
        return tuple(Crossbar(**dict(zip(names, values, strict=True))) for values in grid)

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.tables import engine_table

        engines = [_engine(crossbar) for crossbar in self.crossbars]
        return engine_table(kind, engines, [math.inf] * len(engines), [(-1, -1)] * len(engines))

    @cached_property
    def shared(self) -> "SharedTable":
        from cosearch.hardware.single import nothing_shared

        return nothing_shared()

    @property
    def prices(self) -> "Prices":
        from cosearch.hardware.tables import Prices

        return Prices(UnitEnergies(0.0, 0.0, 0.0), 0.0, 0.0, 0.0)

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: "Residency") -> "tuple[Floats, Floats]":
        import numpy as np

        latency, energy = np.array([crossbar.cost(layer) for crossbar in self.crossbars]).T
        return np.tile(latency, (len(policies), 1)), np.tile(energy, (len(policies), 1))

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        """The configuration as a value, for the record; its layers are priced by this space."""
        crossbar = self.crossbars[engines["crossbar"]]
        return Accelerator(
            name=f"pim_{crossbar.arrays}x{crossbar.rows}x{crossbar.cols}_{crossbar.cell_bits}b_adc{crossbar.adc_bits}",
            engines=(_engine(crossbar),),
            levels=(MemoryLevel("dram"),),
            clock_mhz=1e3 / costs()["read_ns"],
            resources=Resources(area_um2=round(crossbar.area_um2)),
            area_mm2=crossbar.area_um2 * 1e-6,
        )

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {
            "space": "pim",
            "choices": {name: list(values) for name, values in self.choice_items},
            "costs": costs(),
            "kinds": list(KINDS),
        }


def _engine(crossbar: Crossbar) -> Engine:
    return Engine(
        "crossbar", KINDS, crossbar.rows, crossbar.cols, resources=Resources(area_um2=round(crossbar.area_um2))
    )
