"""ZigZag's shipped accelerators in this project's words, and our mappings in ZigZag's.

The physics are those of its hardware files, stated as data: port widths, smallest accesses, energies and capacities; a
transfer takes whole accesses and whole cycles, overlapping input tiles are fetched whole, partial sums return to the
registers that add them, and the first fill and the last drain count. One operand of each kind stays at a multiplier
while it is used again (its latch). ZigZag decides per mapping whether a memory holds a second tile to load ahead; here
a search for latency gives every memory two tiles, and a search for energy, on which that has no influence, one. ZigZag
lets each tensor have level boundaries of its own; here that is an order of the levels, and there may be several.
"""

import math
from collections.abc import Mapping as Dict
from dataclasses import replace
from typing import Any

from cosearch.hardware import (
    Accelerator,
    Axis,
    Cost,
    Engine,
    Mapping,
    Mapspace,
    MemoryLevel,
    Tiling,
    UnitEnergies,
    best,
    mapspace_size,
)
from cosearch.workload import Layer

PSUM_BITS = 16
"""What ZigZag's own ONNX parser takes for 8-bit layers."""
CHANNELS = ("K", "G")
PIXELS = ("P", "Q")
SUMS = ("rf_2B", "rf_16B")
"""Registers of partial sums: an entry is free again as its sum leaves, so none needs a second copy."""


def _tilings(levels: Dict[str, tuple[str, ...]]) -> tuple[Tiling, ...]:
    """Loops of each level, innermost first; levels: name -> loop orders."""
    return tuple(Tiling(name, tuple(orders[0]), tuple(map(tuple, orders))) for name, orders in levels.items())


def _eyeriss(reused: str, below: str) -> tuple[tuple[str, ...], tuple[Tiling, ...]]:
    """K and C inside `reused`, above the tile of `below`."""
    loops = {
        "rf_16B": ("QKSRC",),
        reused: ("KC",),
        "sram_8KB": ("QPRC",),
        "sram_1M": ("QKGC", "KQCG"),
        "dram": ("PKGCN", "KPCGN"),
    }
    return ("rf_16B", below, reused, "sram_8KB", "sram_64KB", "sram_1M", "dram"), _tilings(loops)


SPACES: dict[str, tuple[tuple[tuple[str, ...], tuple[Tiling, ...]], ...]] = {
    "tpu_like": (
        (
            ("rf_2B", "rf_128B", "sram_2MB", "dram"),
            _tilings(
                {
                    "rf_2B": ("SRC",),
                    "rf_128B": ("KC", "CK"),
                    "sram_2MB": ("QPKGC", "QPCKG", "CQPKG", "KQPCG"),
                    "dram": ("QPKGCN", "KQPCGN", "QPCKGN"),
                }
            ),
        ),
    ),
    "eyeriss_like": (_eyeriss("rf_64B_W", "rf_64B_A"), _eyeriss("rf_64B_A", "rf_64B_W")),
}
"""Per accelerator: orders of its levels, innermost first, each with the loops that are searched."""


def _memory(document: Dict[str, Any], two_tiles: bool) -> MemoryLevel:
    [width], [row] = ({port[key] for port in document["ports"]} for key in ("bits_per_cycle", "smallest_access_bits"))
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
        double_buffered=two_tiles and not top and document["name"] not in SUMS,
        shared_port=any(port["type"] == "read_write" for port in document["ports"]),
        aligned=True,
        slides=False,
        returns="O" in document["holds"] and not top,
    )


def machines(name: str, document: Dict[str, Any], two_tiles: bool, free: bool = False) -> list[Accelerator]:
    """One accelerator, once per order of its levels.

    document: an entry of "hardware" in tests/references/tools/zigzag.json. two_tiles: memories load ahead. free: the
    second dimension of the array may unroll outputs, as ZigZag does when it picks a depthwise layer's unrolling.
    """
    found = {level["name"]: _memory(level, two_tiles) for level in document["levels"]}
    across, down = document["array"].values()
    latch = MemoryLevel("operands", ("W", "I"), 2.0, instances=across * down, slides=False)
    energies = UnitEnergies(document["mac_energy_pj"], 0.0, 0.0)
    result = []
    second = ("C", *PIXELS) if free else ("C",)
    for order, tilings in SPACES[name]:
        levels = (latch, *(found[level] for level in order))
        lowest = next(level.name for level in levels if level.instances == 1)
        space = Mapspace((Axis(lowest, across, CHANNELS), Axis(lowest, down, second)), tilings)
        engine = Engine("mac", ("mac",), across, down, levels=levels[:-1], mapspace=space, fill_and_drain=True)
        result.append(Accelerator(name, (engine,), levels[-1:], 1.0, lanes=2**31, energies=energies))
    return result


def search(
    layer: Layer, name: str, document: Dict[str, Any], objective: str, free: bool = False
) -> tuple[Accelerator, Mapping, Cost, int]:
    """The best mapping for ``latency`` or ``energy`` over all orders of the levels, and how many mappings there are."""
    layer = replace(layer, accumulator_bits=PSUM_BITS)
    choices = machines(name, document, two_tiles=objective == "latency", free=free)
    found = [(accelerator, *best(layer, accelerator, objective)) for accelerator in choices]
    chosen = min(found, key=lambda f: f[2].cycles if objective == "latency" else f[2].energy_mj)
    return *chosen, sum(mapspace_size(layer, accelerator) for accelerator in choices)


def picojoules(cost: Cost) -> float:
    return sum(cost.energy_pj.values())


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
    spatial: dict[str, dict[str, int]] = {"D1": {}, "D2": {}}
    for loops in mapping.levels:
        for dim, bound in loops.spatial:
            spatial["D1" if dim in CHANNELS else "D2"][rename.get(dim, dim)] = bound
    spatial = {"D1": spatial["D1"] or {"K": 1}, "D2": spatial["D2"] or {"C": 1}}
    return {"hardware": accelerator.name, "layer": layer.to_json(), "spatial": spatial, "temporal": temporal}
