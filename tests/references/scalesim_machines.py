"""SCALE-Sim's systolic arrays as this project's data: the array, one double buffer per tensor, ports to DRAM.

Weights and inputs enter their buffers, and outputs leave theirs, at 32 words a cycle each; the array is never short of
words that are in the buffers. Weight-stationary arrays keep partial sums in the output buffer, divided among columns.
"""

import math
from dataclasses import replace

from cosearch.hardware import Accelerator, Cost, best
from cosearch.hardware.accelerator import Mapspace, MemoryLevel
from cosearch.workload import Layer
from search_spaces.accelerators import asic


def machine(dataflow: str, rows: int, columns: int, buffer_kib: int, words_per_cycle: float) -> Accelerator:
    """dataflow: ``ws`` or ``os``; 8-bit words."""
    base = asic.build(f"tpu-{dataflow}", {"rows": rows, "cols": columns})
    engine, width, capacity = base.engines[0], 8.0 * words_per_cycle, buffer_kib * 1024.0
    buffers = [
        MemoryLevel(name, (tensor,), capacity, math.inf, width, double_buffered=True)
        for name, tensor in (("weights", "W"), ("inputs", "I"))
    ]
    if dataflow == "ws":
        sums = replace(engine.levels[1], capacity_bytes=capacity / columns, shared_port=False)
        sums = replace(sums, read_bits_per_cycle=math.inf, write_bits_per_cycle=math.inf)
        engine = replace(engine, levels=(engine.levels[0], sums))
    else:
        buffers.insert(0, MemoryLevel("outputs", ("O",), capacity, double_buffered=True))
    dram = MemoryLevel("dram", write_bits_per_cycle=width)
    assert engine.mapspace is not None
    renamed = {"buffer": buffers[0].name}
    space = Mapspace(
        tuple(replace(axis, level=renamed.get(axis.level, axis.level)) for axis in engine.mapspace.axes),
        tuple(replace(t, level=renamed.get(t.level, t.level)) for t in engine.mapspace.tiled),
    )
    engine = replace(engine, mapspace=space)
    return replace(base, name=f"{dataflow} {rows}x{columns}", engines=(engine,), levels=(*buffers, dram), lanes=10**9)


def with_and_without_stalls(layer: Layer, accelerator: Accelerator) -> tuple[Cost, Cost]:
    """The fastest mapping as the machine is, and the fastest one with ports that never limit."""
    levels = [
        replace(level, read_bits_per_cycle=math.inf, write_bits_per_cycle=math.inf) for level in accelerator.levels
    ]
    free = replace(accelerator, levels=tuple(levels))
    return best(layer, accelerator)[1], best(layer, free)[1]
