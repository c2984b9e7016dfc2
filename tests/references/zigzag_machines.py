"""ZigZag's shipped accelerators in this project's words, and our mappings in ZigZag's.

The physics are those of its hardware files, stated as data: port widths, smallest accesses, energies and capacities; a
transfer takes whole accesses and whole cycles, overlapping input tiles are fetched whole, partial sums return to the
registers that add them, memories that are refilled while in use hold two tiles, and the first fill and the last drain
count. One operand of each kind stays at a multiplier while it is used again (its latch).
"""

import math
from collections.abc import Mapping as Dict
from dataclasses import replace
from typing import Any

from cosearch.hardware import Accelerator, Axis, Engine, Mapping, Mapspace, MemoryLevel, Tiling, UnitEnergies
from cosearch.workload import Layer

PSUM_BITS = 16
CHANNELS = ("K", "G")
SPACES: dict[str, tuple[Tiling, ...]] = {
    "tpu_like": (
        Tiling("rf_2B", tuple("SRC"), (tuple("SRC"),)),
        Tiling("rf_128B", tuple("KC"), (tuple("KC"), tuple("CK"))),
        Tiling("sram_2MB", tuple("QPKGC"), (tuple("QPKGC"), tuple("QPCKG"), tuple("CQPKG"), tuple("KQPCG"))),
        Tiling("dram", tuple("QPKGCN"), (tuple("QPKGCN"), tuple("KQPCGN"), tuple("QPCKGN"))),
    ),
    "eyeriss_like": (
        Tiling("rf_16B", tuple("KQSRC"), (tuple("KQSRC"), tuple("QKSRC"))),
        Tiling("rf_64B_W", tuple("KSRC"), (tuple("KSRC"), tuple("SRCK"))),
        Tiling("sram_8KB", tuple("QPC"), (tuple("QPC"), tuple("CQP"))),
        Tiling("sram_1M", tuple("QPKGC"), (tuple("QPKGC"), tuple("KQPCG"), tuple("CQPKG"))),
        Tiling("dram", tuple("PKGCN"), (tuple("PKGCN"), tuple("KPCGN"))),
    ),
}
ORDERS = {
    "tpu_like": ("rf_2B", "rf_128B", "sram_2MB", "dram"),
    "eyeriss_like": ("rf_16B", "rf_64B_A", "rf_64B_W", "sram_8KB", "sram_64KB", "sram_1M", "dram"),
}
SINGLE = ("rf_2B", "rf_16B")
"""Registers of partial sums: an entry is free again as its sum leaves."""


def memory(document: Dict[str, Any]) -> MemoryLevel:
    ports = document["ports"]
    widths = {port["bits_per_cycle"] for port in ports}
    smallest = {port["smallest_access_bits"] for port in ports}
    [width], [row] = widths, smallest
    top = document["name"] == "dram"
    return MemoryLevel(
        document["name"],
        tuple(document["holds"]),
        math.inf if top else document["capacity_bits_per_instance"] / 8,
        width,
        width,
        document["read_energy_pj_per_full_width_access"] * row / width,
        document["write_energy_pj_per_full_width_access"] * row / width,
        word_bits=row,
        instances=document["instances"],
        double_buffered=not top and document["name"] not in SINGLE,
        shared_port=any(port["type"] == "read_write" for port in ports),
        aligned=True,
        slides=False,
        returns="O" in document["holds"] and not top,
    )


def machine(name: str, document: Dict[str, Any]) -> Accelerator:
    """document: one entry of "hardware" in tests/references/tools/zigzag.json."""
    found = {level["name"]: memory(level) for level in document["levels"]}
    (_, across), (_, down) = document["array"].items()
    latch = MemoryLevel("operands", ("W", "I"), 2.0, instances=across * down, slides=False)
    levels = (latch, *(found[level] for level in ORDERS[name]))
    lowest = next(level.name for level in levels if level.instances == 1)
    space = Mapspace((Axis(lowest, across, CHANNELS), Axis(lowest, down, ("C",))), SPACES[name])
    engine = Engine("mac", ("mac",), across, down, levels=levels[:-1], mapspace=space, fill_and_drain=True)
    energies = UnitEnergies(document["mac_energy_pj"], 0.0, 0.0)
    return Accelerator(name, (engine,), levels[-1:], 1.0, lanes=2**31, energies=energies)


def as_priced(layer: Layer) -> Layer:
    """The layer with ZigZag's width of partial sums."""
    return replace(layer, accumulator_bits=PSUM_BITS)


def in_zigzags_words(layer: Layer, accelerator: Accelerator, mapping: Mapping) -> dict[str, Any]:
    """The mapping as tests/benchmarks/tools_zigzag.py takes it: loops per tensor and level, and the unrolling."""
    depthwise = layer.groups > 1
    rename = {"G": "K"} if depthwise else {}
    levels = (*accelerator.engines[0].levels, *accelerator.levels)
    temporal: dict[str, list[list[list[Any]]]] = {}
    for tensor in "WIO":
        nest: list[list[list[Any]]] = []
        pending: list[list[Any]] = []
        for level, loops in zip(levels, mapping.levels, strict=True):
            pending += [[rename.get(dim, dim), bound] for dim, bound in loops.temporal]
            if tensor in level.holds and level.name != "operands":
                nest.append(pending)
                pending = []
        temporal[tensor] = nest
    across: dict[str, dict[str, int]] = {"D1": {}, "D2": {}}
    for loops in mapping.levels:
        for dim, bound in loops.spatial:
            across["D2" if dim == "C" else "D1"][rename.get(dim, dim)] = bound
    if depthwise:
        across["D2"] = {"C": 1}
    return {
        "hardware": accelerator.name,
        "layer": layer.to_json(),
        "spatial": {dim: loops or {"K": 1} for dim, loops in across.items()},
        "temporal": temporal,
    }
