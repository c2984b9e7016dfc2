"""A Gemmini-like array priced by the book: every word counted by running the loops, then roofs and rows by hand.

D x D weight-stationary elements, 8-bit operands. Register: one weight per element. Accumulator: per column, 32-bit
sums, 2 words a cycle, columns in use only. Scratchpad: weights and inputs, rows of D words, 2 D words a cycle. DRAM:
bursts of 64 bytes, 8 bytes a cycle. C sums down the rows, K spreads over the columns. Inputs pass accumulators and
registers by, weights the accumulators, outputs the scratchpad. Energy of a row of SRAM:
``(1 + 5 / 99.5 (KiB - 0.5)) bits / 16`` pJ, of a burst 6400 pJ; each tensor and direction in whole rows.
"""

import math
from dataclasses import dataclass

from cosearch.hardware import Mapping, MemoryLevel
from cosearch.workload import Layer
from tests.references import loopnest

SUM_BITS = 32


@dataclass(frozen=True)
class Figures:
    """cycles: the highest roof, and its name; memories_pj: energy of accumulator, scratchpad and DRAM."""

    cycles: float
    roof: str
    memories_pj: dict[str, float]


def row_pj(depth: int, bits: int) -> float:
    return (1 + 5 / 99.5 * (depth * bits / 8192 - 0.5)) * bits / 16


def price(
    layer: Layer,
    levels: tuple[MemoryLevel, ...],
    mapping: Mapping,
    size: int,
    accumulator_depth: int,
    scratchpad_depth: int,
) -> Figures:
    """levels: names and holdings of register, accumulator, scratchpad and DRAM, for the counter of loops."""
    reads, writes = loopnest.count(layer, levels, mapping)
    columns = math.prod(b for level in mapping.levels for d, b in level.spatial if d in "KG")
    steps = math.prod(b for level in mapping.levels for _, b in level.temporal)
    sums = reads["accumulator", "O"] + writes["accumulator", "O"]
    operands = {t: (reads["scratchpad", t], writes["scratchpad", t]) for t in "WI"}
    partial = reads["dram", "O"]  # what DRAM reads of O was written in full width, the last of each output in 8 bits
    dram_bytes = {
        ("W", "read"): reads["dram", "W"],
        ("I", "read"): reads["dram", "I"],
        ("O", "read"): partial * 4,
        ("O", "write"): partial * 4 + layer.output_count,
    }
    roofs = {
        "compute": steps,
        "accumulator": sums / (2 * columns),
        "scratchpad": sum(map(sum, operands.values())) / (2 * size),
        "dram": sum(dram_bytes.values()) / 8,
    }
    roof = max(roofs, key=lambda name: roofs[name])
    energy = {
        "accumulator": sums * row_pj(accumulator_depth, SUM_BITS),
        "scratchpad": sum(math.ceil(words / size) for pair in operands.values() for words in pair)
        * row_pj(scratchpad_depth, 8 * size),
        "dram": sum(math.ceil(count / 64) for count in dram_bytes.values()) * 6400.0,
    }
    return Figures(roofs[roof], roof, energy)
