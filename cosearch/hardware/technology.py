"""Unit costs of silicon at one feature size, and what memories of other sizes do to an accelerator.

Energies and areas come from a 45 nm table and scale to 28 and 65 nm: area with the square of the feature size, energy
of on-chip parts with feature size times supply voltage squared, leakage of the same circuit with feature size times
supply voltage; DRAM energy does not scale. Amounts of memory may be numbers or tensors: what depends on them is then
differentiable. This module imports neither torch nor numpy.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from cosearch.errors import ConfigError, HardwareError
from cosearch.hardware.accelerator import Accelerator, Accounting, MemoryLevel, UnitEnergies
from cosearch.hardware.parts import read_costs

if TYPE_CHECKING:
    from torch import Tensor

Amount = TypeVar("Amount", float, "Tensor")


@cache
def silicon_costs() -> dict[str, float]:
    """The 45 nm table: name -> value, see data/costs/asic_45nm.json for units and sources."""
    return {name: cost.value for name, cost in read_costs("asic_45nm").items()}


@dataclass(frozen=True)
class Technology:
    """Unit costs at one feature size, in nm.

    Raises: ConfigError for a feature size that the table has no supply voltage for.
    """

    nm: int = 45

    def __post_init__(self) -> None:
        known = sorted(int(name.removeprefix("supply_v_")) for name in silicon_costs() if name.startswith("supply_v_"))
        if self.nm not in known:
            raise ConfigError(f"nm={self.nm!r}, expected one of {', '.join(map(str, known))}")

    @property
    def _volts(self) -> float:
        """Supply voltage over that of 45 nm."""
        return silicon_costs()[f"supply_v_{self.nm}"] / silicon_costs()["supply_v_45"]

    @property
    def energy_scale(self) -> float:
        return self.nm / 45 * self._volts**2

    @property
    def area_scale(self) -> float:
        return (self.nm / 45) ** 2

    def sram_pj(self, capacity_bytes: Amount, row_bits: float) -> Amount:
        """One access of one row: ``(base + slope KiB) row_bits / 16``, KiB of one instance."""
        table = silicon_costs()
        line = table["sram_base_pj"] + table["sram_slope_pj_per_kib"] * (capacity_bytes / 1024)
        return line * (row_bits / 16 * self.energy_scale)

    def sram_um2(self, capacity_bytes: Amount, row_bits: float) -> Amount:
        """One instance: ``cell bits + column row_bits + row rows`` with rows = bits / row_bits.

        Cells, what every column takes (precharge, sense amplifier, write driver) and what every row takes (word line
        driver, decoder). The three are fitted to published macros, see the table.
        """
        table, bits = silicon_costs(), capacity_bytes * 8
        rows = table["sram_um2_per_row"] / row_bits
        return (bits * (table["sram_um2_per_bit"] + rows) + table["sram_um2_per_column"] * row_bits) * self.area_scale

    def elements_um2(self, elements: int) -> float:
        """Whole elements, their operand registers and accumulators included."""
        return elements * silicon_costs()["mac_um2"] * self.area_scale

    def leakage_w(self, logic_um2: float, memory_um2: Amount) -> Amount:
        """Of circuits that take these areas at this feature size."""
        table = silicon_costs()
        nw = table["leakage_nw_per_um2"] * logic_um2 + table["sram_leakage_nw_per_um2"] * memory_um2
        return nw * (1e-9 / self.area_scale * self.nm / 45 * self._volts)

    def energies(self, accounting: Accounting) -> UnitEnergies:
        """The registers' share of a MAC is what its published energy leaves after multiply and add."""
        table = silicon_costs()
        element = accounting == "element"
        registers = table["mac_pj"] - table["multiply_pj"] - table["accumulate_pj"]
        scale = self.energy_scale
        return UnitEnergies(
            multiply_pj=table["multiply_pj"] * scale,
            shift_pj=table["shift_pj"] * scale,
            add_pj=table["add_pj"] * scale,
            logic_multiply_pj=table["multiply_pj"] * scale,
            accumulate_pj=table["accumulate_pj"] * scale * element,
            registers_pj=registers * scale * element,
            requantise_pj=(2 * table["multiply_pj"] + table["accumulate_pj"]) * scale,
        )


def is_sram(level: MemoryLevel) -> bool:
    """Whether a level is priced by its size: neither DRAM nor registers, whose cost is their elements'."""
    return math.isfinite(level.capacity_bytes) and level.read_energy_pj > 0


def memories_um2(levels: tuple[MemoryLevel, ...], technology: Technology) -> float:
    """Silicon that the SRAMs among some levels take, all instances."""
    return sum(technology.sram_um2(x.capacity_bytes, x.word_bits) * x.instances for x in levels if is_sram(x))


def resized(accelerator: Accelerator, capacity_bytes: Mapping[str, float], technology: Technology) -> Accelerator:
    """An accelerator with SRAMs of other capacities; energies of accesses, area and leakage follow.

    capacity_bytes: per level name, of one instance; other levels stay as they are.

    Raises: HardwareError for a level that the accelerator does not have, or that is no SRAM.
    """
    levels = (*(level for engine in accelerator.engines for level in engine.levels), *accelerator.levels)
    sized = {level.name for level in levels if is_sram(level)}
    for name in capacity_bytes:
        if name not in sized:
            raise HardwareError(
                f"accelerator {accelerator.name!r}: level {name!r} cannot be resized, only {', '.join(sorted(sized))}"
            )

    def new(level: MemoryLevel) -> MemoryLevel:
        if level.name not in capacity_bytes:
            return level
        size = capacity_bytes[level.name]
        pj = technology.sram_pj(size, level.word_bits)
        return replace(level, capacity_bytes=size, read_energy_pj=pj, write_energy_pj=pj)

    before = memories_um2(levels, technology)
    after = memories_um2(tuple(map(new, levels)), technology)
    area = None if accelerator.area_mm2 is None else accelerator.area_mm2 + (after - before) * 1e-6
    sizes = ", ".join(f"{name} {size:g} B" for name, size in capacity_bytes.items())
    return replace(
        accelerator,
        name=f"{accelerator.name} ({sizes})",
        engines=tuple(replace(e, levels=tuple(map(new, e.levels))) for e in accelerator.engines),
        levels=tuple(map(new, accelerator.levels)),
        static_power_w=accelerator.static_power_w + technology.leakage_w(0.0, after - before),
        area_mm2=area,
    )
