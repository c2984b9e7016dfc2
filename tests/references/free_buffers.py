"""Answers for descents on relaxed costs: the exact joint optimum of a small space, and a space too large to list."""

import math

import torch

from cosearch.hardware import Accelerator, Nests, Technology, relaxed_cost
from cosearch.hardware.accelerator import engine_of, hierarchy
from cosearch.hardware.mapping import DIMS
from cosearch.hardware.nest import enumerate_nests
from cosearch.workload import Layer
from search_spaces.accelerators import asic


def exact_optimum(layer: Layer, accelerator: Accelerator, technology: Technology) -> float:
    """Least EDP over every mapping, each with the smallest memories that take its tiles."""
    engine = engine_of(layer, accelerator)
    levels = hierarchy(accelerator, engine)
    every = enumerate_nests(layer, engine, [level.name for level in levels])
    least = math.inf
    for order in every.orders:
        dims = tuple(tuple(DIMS[d] for d in row if d >= 0) for row in order)
        loops = Nests(dims, torch.from_numpy(every.temporal.copy()), torch.from_numpy(every.spatial.copy()))
        bits = relaxed_cost(layer, accelerator, loops).footprint_bits
        sizes = {
            x.name: torch.ceil(bits[:, i] / x.word_bits - 1e-9) * x.word_bits / 8
            for i, x in enumerate(levels)
            if x.name in ("accumulator", "scratchpad")
        }
        least = min(least, float(relaxed_cost(layer, accelerator, loops, sizes, technology).edp.min()))
    return least


def deep() -> Accelerator:
    """Gemmini with a second buffer: a mapspace of 10^7 to 10^9 mappings a layer, three free memories."""
    document = dict(asic.load_template("gemmini").document)
    second = {"name": "global", "kind": "sram", "holds": "WIO", "capacity_bytes": [2**20], "row_bits": [512]}
    document["shared"] = [document["shared"][0], second | {"bits_per_cycle": [512]}, document["shared"][1]]
    orders = ["CQPKNG", "KQPCNG", "QPCKNG", "CKQPNG", "QPKCNG"]
    document["tiled"] = [
        *document["tiled"][:2],
        {"level": "scratchpad", "dims": "KGCQP", "orders": ["CQPKG", "KQPCG", "QPCKG"]},
        {"level": "global", "dims": "CQPKNG", "orders": orders},
        {"level": "dram", "dims": "CQPKNG", "orders": orders},
    ]
    return asic.Template("deep", document).build({})
