"""ASIC templates: Gemmini-, TPU-, NVDLA- and Eyeriss-like arrays with their memories and declared mapspaces.

Energies and areas come from a 45 nm table and scale to 28 and 65 nm: area with the square of the feature size, energy
of on-chip parts with feature size times supply voltage squared (0.9, 1.0 and 1.1 V); DRAM energy does not scale.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from cosearch.errors import ConfigError, UnknownNameError, nearest
from cosearch.hardware.accelerator import (
    Accelerator,
    Axis,
    Engine,
    Mapspace,
    MemoryLevel,
    Resources,
    Tiling,
    UnitEnergies,
)
from cosearch.hardware.parts import read_costs
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable

TECHNOLOGIES: dict[int, float] = {65: 1.1, 45: 1.0, 28: 0.9}
"""Feature size in nm -> supply voltage."""
KINDS: tuple[str, ...] = ("mac", "pool", "elementwise")
OUTER = tuple(tuple(order) for order in ("CQPKNG", "CKQPNG", "QPCKNG", "KCQPNG", "QPKCNG", "KQPCNG"))
"""Orders of the DRAM loops, innermost first, that differ in what stays: outputs, inputs or weights, and what next."""


@cache
def costs() -> dict[str, float]:
    return {name: cost.value for name, cost in read_costs("asic_45nm").items()}


class Technology:
    """Unit costs at one feature size."""

    def __init__(self, nm: int) -> None:
        if nm not in TECHNOLOGIES:
            raise ConfigError(f"nm={nm!r}, expected one of {', '.join(map(str, TECHNOLOGIES))}")
        self.energy_scale = nm / 45 * (TECHNOLOGIES[nm] / TECHNOLOGIES[45]) ** 2
        self.area_scale = (nm / 45) ** 2

    def sram_pj(self, capacity_bytes: float, row_bits: int) -> float:
        """One row: ``(base + slope KiB) row_bits / 16``, KiB of one instance."""
        table = costs()
        line = table["sram_base_pj"] + table["sram_slope_pj_per_kib"] * capacity_bytes / 1024
        return line * row_bits / 16 * self.energy_scale

    def sram_um2(self, capacity_bytes: float, instances: int = 1) -> float:
        return capacity_bytes * 8 * instances * costs()["sram_um2_per_bit"] * self.area_scale

    def elements_um2(self, count: int) -> float:
        return count * costs()["mac_um2"] * self.area_scale

    @property
    def energies(self) -> UnitEnergies:
        """The registers' share of a MAC is what its published energy leaves after multiply and add."""
        table = costs()
        registers = table["mac_pj"] - table["multiply_pj"] - table["accumulate_pj"]
        scale = self.energy_scale
        return UnitEnergies(
            multiply_pj=table["multiply_pj"] * scale,
            shift_pj=table["shift_pj"] * scale,
            add_pj=table["add_pj"] * scale,
            logic_multiply_pj=table["multiply_pj"] * scale,
            accumulate_pj=table["accumulate_pj"] * scale,
            registers_pj=registers * scale,
            requantise_pj=(2 * table["multiply_pj"] + table["accumulate_pj"]) * scale,
        )

    def sram(
        self, name: str, holds: str, capacity_bytes: float, row_bits: int, bits_per_cycle: float, **options: Any
    ) -> MemoryLevel:
        """A memory whose one port serves reads and writes, at the energy of its capacity and width."""
        energy = self.sram_pj(capacity_bytes, row_bits)
        return MemoryLevel(
            name,
            tuple(holds),
            capacity_bytes,
            bits_per_cycle,
            bits_per_cycle,
            energy,
            energy,
            word_bits=row_bits,
            shared_port=True,
            **options,
        )

    @staticmethod
    def dram(bits_per_cycle: float) -> MemoryLevel:
        """DRAM in 64-byte bursts."""
        burst = 512
        energy = costs()["dram_pj_per_bit"] * burst
        return MemoryLevel(
            "dram",
            ("W", "I", "O"),
            math.inf,
            bits_per_cycle,
            bits_per_cycle,
            energy,
            energy,
            word_bits=burst,
            shared_port=True,
        )


def gemmini(
    size: int = 16,
    accumulator_depth: int = 1024,
    scratchpad_depth: int = 16384,
    dram_bits_per_cycle: float = 64.0,
    clock_mhz: float = 500.0,
    nm: int = 45,
) -> Accelerator:
    """Weight-stationary size x size array: C over rows (summed), K over columns; W and I in one scratchpad.

    accumulator_depth: 32-bit entries per column. scratchpad_depth: rows of `size` bytes. O goes from the accumulators
    to DRAM.
    """
    tech = Technology(nm)
    accumulator_bytes, scratchpad_bytes = accumulator_depth * 4.0, float(scratchpad_depth * size)
    private = (
        MemoryLevel("register", ("W",), 1.0, word_bits=8, instances=size * size),
        tech.sram("accumulator", "O", accumulator_bytes, 32, 64, instances=size),
    )
    scratchpad = tech.sram("scratchpad", "WI", scratchpad_bytes, 8 * size, 16 * size)
    return _weight_stationary(
        "gemmini", size, size, private, (scratchpad, tech.dram(dram_bits_per_cycle)), clock_mhz, tech
    )


def tpu_ws(
    rows: int = 32,
    cols: int = 32,
    buffer_kib: float = 256.0,
    accumulator_depth: int = 2048,
    dram_bits_per_cycle: float = 256.0,
    clock_mhz: float = 500.0,
    nm: int = 45,
) -> Accelerator:
    """Systolic weight-stationary array: a pass loads rows of weights, then fills and drains (2 rows + cols - 2)."""
    tech = Technology(nm)
    private = (
        MemoryLevel("register", ("W",), 1.0, word_bits=8, instances=rows * cols),
        tech.sram("accumulator", "O", accumulator_depth * 4.0, 32, 64, instances=cols),
    )
    buffer = tech.sram("buffer", "WI", buffer_kib * 1024, 8 * rows, 16 * rows)
    levels = (buffer, tech.dram(dram_bits_per_cycle))
    return _weight_stationary("tpu-ws", rows, cols, private, levels, clock_mhz, tech, 2 * rows + cols - 2)


def nvdla(
    channels: int = 64,
    kernels: int = 16,
    buffer_kib: float = 512.0,
    accumulator_depth: int = 256,
    dram_bits_per_cycle: float = 256.0,
    clock_mhz: float = 500.0,
    nm: int = 45,
) -> Accelerator:
    """`kernels` dot products of `channels` inputs each, W and I in one convolution buffer."""
    tech = Technology(nm)
    private = (
        MemoryLevel("register", ("W",), 1.0, word_bits=8, instances=channels * kernels),
        tech.sram("accumulator", "O", accumulator_depth * 4.0, 32, 64, instances=kernels),
    )
    buffer = tech.sram("buffer", "WI", buffer_kib * 1024, 8 * channels, 16 * channels)
    levels = (buffer, tech.dram(dram_bits_per_cycle))
    return _weight_stationary("nvdla", channels, kernels, private, levels, clock_mhz, tech)


def tpu_os(
    rows: int = 32,
    cols: int = 32,
    buffer_kib: float = 256.0,
    dram_bits_per_cycle: float = 256.0,
    clock_mhz: float = 500.0,
    nm: int = 45,
) -> Accelerator:
    """Systolic output-stationary array: pixels over rows, K over columns; a pass fills and drains rows + cols - 2."""
    tech = Technology(nm)
    register = MemoryLevel("register", ("O",), 4.0, word_bits=32, instances=rows * cols)
    buffer = tech.sram("buffer", "WIO", buffer_kib * 1024, 8 * rows, 16 * (rows + cols))
    space = Mapspace(
        (Axis("buffer", rows, ("Q", "P", "N")), Axis("buffer", cols, ("K", "G"))),
        (
            Tiling("register", ("S", "R", "C"), (tuple("SRC"),)),
            Tiling("buffer", tuple("QPKNG"), (tuple("QPKNG"), tuple("KQPNG"))),
            Tiling("dram", tuple("CQPKNG"), OUTER),
        ),
    )
    engine = _engine("tpu-os", rows, cols, (register,), space, rows + cols - 2)
    return _accelerator("tpu-os", engine, (buffer, tech.dram(dram_bits_per_cycle)), clock_mhz, tech)


def eyeriss(
    rows: int = 12,
    cols: int = 14,
    buffer_kib: float = 108.0,
    weight_words: int = 224,
    input_words: int = 12,
    output_words: int = 24,
    dram_bits_per_cycle: float = 64.0,
    clock_mhz: float = 200.0,
    nm: int = 65,
) -> Accelerator:
    """Row-stationary: kernel rows down the array (summed), output rows across it; three scratchpads in each element.

    Loops in an element, innermost first: S, C, K, Q. Weights pass the global buffer by.
    """
    tech = Technology(nm)
    count = rows * cols
    element = (
        tech.sram("output_spad", "O", 4.0 * output_words, 32, 64, instances=count),
        tech.sram("input_spad", "I", float(input_words), 8, 16, instances=count),
        tech.sram("weight_spad", "W", float(weight_words), 8, 16, instances=count),
    )
    buffer = tech.sram("buffer", "IO", buffer_kib * 1024, 64, 256)
    outer = tuple(tuple(order) for order in ("CPKNG", "KPCNG", "PKCNG", "PCKNG"))
    space = Mapspace(
        (Axis("buffer", rows, ("R", "C", "K")), Axis("buffer", cols, ("P", "K", "C"))),
        (
            Tiling("output_spad", ("S", "C"), (("S", "C"),)),
            Tiling("input_spad", ("K",), (("K",),)),
            Tiling("weight_spad", ("Q",), (("Q",),)),
            Tiling("buffer", tuple("RCKPNG"), (tuple("RCKPNG"), tuple("RKCPNG"))),
            Tiling("dram", tuple("CPKNG"), outer),
        ),
    )
    engine = _engine("eyeriss", rows, cols, element, space, 0)
    return _accelerator("eyeriss", engine, (buffer, tech.dram(dram_bits_per_cycle)), clock_mhz, tech)


def _weight_stationary(
    name: str,
    rows: int,
    cols: int,
    private: tuple[MemoryLevel, ...],
    shared: tuple[MemoryLevel, ...],
    clock_mhz: float,
    tech: Technology,
    fill_cycles: int = 0,
) -> Accelerator:
    """Pixels stream past weights held in registers; C, R, S sum in the accumulators; K and G are passes."""
    space = Mapspace(
        (Axis("accumulator", rows, ("C", "R", "S")), Axis(shared[0].name, cols, ("K", "G"))),
        (
            Tiling("register", tuple("QPN"), (tuple("QPN"),)),
            Tiling("accumulator", tuple("SRC"), (tuple("SRC"),)),
            Tiling(shared[0].name, tuple("KG"), (tuple("KG"),)),
            Tiling("dram", tuple("CQPKNG"), OUTER),
        ),
    )
    engine = _engine(name, rows, cols, private, space, fill_cycles)
    return _accelerator(name, engine, shared, clock_mhz, tech)


def _engine(
    name: str, rows: int, cols: int, levels: tuple[MemoryLevel, ...], space: Mapspace, fill_cycles: int
) -> Engine:
    return Engine(
        name,
        KINDS,
        rows,
        cols,
        dataflow="output-stationary" if "O" in levels[0].holds else "weight-stationary",
        fill_cycles=fill_cycles,
        fill_per="pass",
        fabric="logic",
        levels=levels,
        mapspace=space,
    )


def _accelerator(
    name: str, engine: Engine, levels: tuple[MemoryLevel, ...], clock_mhz: float, tech: Technology
) -> Accelerator:
    memories = [*engine.levels, *levels[:-1]]
    area = tech.elements_um2(engine.rows * engine.cols)
    area += sum(tech.sram_um2(level.capacity_bytes, level.instances) for level in memories)
    size = f"{engine.rows}x{engine.cols}_{levels[0].capacity_bytes / 1024:g}KiB"
    return Accelerator(
        name=f"{name}_{size}",
        engines=(engine,),
        levels=levels,
        clock_mhz=clock_mhz,
        lanes=engine.cols,
        energies=tech.energies,
        resources=Resources(),
        area_mm2=area * 1e-6,
    )


TEMPLATES: dict[str, Callable[..., Accelerator]] = {
    "gemmini": gemmini,
    "tpu-ws": tpu_ws,
    "tpu-os": tpu_os,
    "nvdla": nvdla,
    "eyeriss": eyeriss,
}


def build(template: str, parameters: Mapping[str, Any] | None = None) -> Accelerator:
    """One accelerator of a template.

    Raises: UnknownNameError for a template, ConfigError for a parameter that it does not have.
    """
    if template not in TEMPLATES:
        raise UnknownNameError(f"unknown ASIC template {template!r}: {nearest(template, TEMPLATES)}")
    try:
        return TEMPLATES[template](**(parameters or {}))
    except TypeError as error:
        raise ConfigError(f"template {template!r}: {error}") from error


def space(template: str = "gemmini", *, choices: Mapping[str, Sequence[Any]] | None = None) -> "AsicSpace":
    """Accelerators of one template over a grid of its parameters.

    choices: replaces some of the template's entry in `CHOICES`.

    Raises: what `build` raises.
    """
    if template not in TEMPLATES:
        raise UnknownNameError(f"unknown ASIC template {template!r}: {nearest(template, TEMPLATES)}")
    merged = {**CHOICES[template], **{name: tuple(values) for name, values in (choices or {}).items()}}
    build(template, {name: values[0] for name, values in merged.items()})
    return AsicSpace(template, tuple(merged.items()))


_DRAM: dict[str, tuple[Any, ...]] = {"dram_bits_per_cycle": (64.0, 128.0, 256.0)}
CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "gemmini": {
        "size": (8, 16, 32),
        "accumulator_depth": (256, 512, 1024, 2048),
        "scratchpad_depth": (2048, 4096, 8192, 16384),
        **_DRAM,
    },
    "tpu-ws": {
        "rows": (16, 32, 64),
        "cols": (16, 32, 64),
        "buffer_kib": (64, 128, 256, 512),
        "accumulator_depth": (512, 1024, 2048),
        **_DRAM,
    },
    "tpu-os": {"rows": (8, 16, 32, 64), "cols": (8, 16, 32, 64), "buffer_kib": (64, 128, 256, 512), **_DRAM},
    "nvdla": {
        "channels": (16, 32, 64),
        "kernels": (8, 16, 32),
        "buffer_kib": (64, 128, 256, 512),
        "accumulator_depth": (128, 256, 512),
        **_DRAM,
    },
    "eyeriss": {"rows": (8, 12, 16), "cols": (8, 14, 16), "buffer_kib": (54, 108, 216), **_DRAM},
}


@dataclass(frozen=True)
class AsicSpace:
    """See `space`. Its one engine kind runs multiply-accumulate, pooling and elementwise layers."""

    template: str
    choice_items: tuple[tuple[str, tuple[Any, ...]], ...]

    @property
    def name(self) -> str:
        """Name of the template."""
        return self.template

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        return dict(self.choice_items)

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.template,)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        """The one array runs everything."""
        return {self.template: KINDS}

    @property
    def budget(self) -> Resources:
        """Silicon is limited by a constraint, not by a part."""
        return Resources(area_um2=2**62)

    def __len__(self) -> int:
        return math.prod(len(values) for _, values in self.choice_items)

    @cached_property
    def accelerators(self) -> tuple[Accelerator, ...]:
        names = [name for name, _ in self.choice_items]
        grid = product(*(values for _, values in self.choice_items))
        return tuple(build(self.template, dict(zip(names, values, strict=True))) for values in grid)

    def engines(self, kind: str) -> "EngineTable":
        from cosearch.hardware.tables import engine_table

        engines = [
            replace(a.engines[0], resources=Resources(area_um2=round((a.area_mm2 or 0.0) * 1e6)))
            for a in self.accelerators
        ]
        return engine_table(kind, engines, [math.inf] * len(engines))

    @cached_property
    def shared(self) -> "SharedTable":
        from cosearch.hardware.single import nothing_shared

        return nothing_shared()

    @property
    def prices(self) -> "Prices":
        from cosearch.hardware.tables import Prices

        return Prices(self.accelerators[0].energies, 0.0, costs()["dram_pj_per_bit"], 0.0)

    def layer_costs(self, layer: Layer, policies: Sequence[float]) -> "tuple[Floats, Floats]":
        from cosearch.hardware.nestfront import nest_costs

        return nest_costs(layer, self.accelerators, policies)

    def accelerator(self, shared: int, engines: Mapping[str, int]) -> Accelerator:
        return self.accelerators[engines[self.template]]

    def describe(self) -> dict[str, Any]:
        """What decides every cost in this space, as JSON."""
        return {
            "space": "asic",
            "template": self.template,
            "choices": {name: list(values) for name, values in self.choice_items},
            "costs": costs(),
            "kinds": list(KINDS),
        }
