"""Speed of the mapping search, beside what it is measured against: `python -m tests.benchmarks.hardware`.

Figures are the best of several repeats in one process; the last run is kept in docs/benchmarks/hardware.md. ZigZag's
figure is its default search on this machine: 3.7 CPU seconds per layer and accelerator, measured with zigzag-dse 3.9.1.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cosearch.hardware import best, mapspace_size
from cosearch.hardware.cost import engine_of, hierarchy
from cosearch.hardware.nest import Nests, enumerate_nests, price_nests, room_bits, tile_limits
from cosearch.hardware.nestfront import nest_costs
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.benchmarks.machine import stamp, write_figures

Mask = NDArray[np.bool_]
ZIGZAG_SECONDS = 3.7
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "hardware.md"
LAYERS = (
    Layer("3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3),
    Layer("3x3 512-512 @7", K=512, C=512, P=7, Q=7, R=3, S=3),
    Layer("depthwise 96 @56", K=96, C=96, P=56, Q=56, R=3, S=3, groups=96),
    Layer("512-1000", K=1000, C=512),
)
RESNET = LAYERS[0]
POLICIES = (1.0, 0.5, 0.0)
KIB = tuple(32 * i for i in range(1, 22))
BANDWIDTHS = tuple(32.0 * i for i in range(1, 13))
THOUSAND: dict[str, dict[str, tuple[float, ...]]] = {
    "eyeriss": {"buffer_kib": KIB[:16], "dram_bits_per_cycle": BANDWIDTHS[:7]},
    "gemmini": {"scratchpad_depth": tuple(2048 * i for i in range(1, 8)), "dram_bits_per_cycle": BANDWIDTHS},
    "nvdla": {"buffer_kib": KIB[:7], "accumulator_depth": (128, 256, 512, 1024), "dram_bits_per_cycle": BANDWIDTHS[:4]},
    "tpu-os": {"buffer_kib": KIB},
    "tpu-ws": {
        "buffer_kib": KIB[:7],
        "accumulator_depth": (256, 512, 1024, 2048),
        "dram_bits_per_cycle": BANDWIDTHS[:4],
    },
}
"""Memories and bandwidths that make 1,008 accelerators of each template, with the array sizes of its own space."""


def best_of(run: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest repeat: of the processor, as ZigZag's are, or by another clock."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def different(nests: Nests, fits: Mask) -> int:
    """How many mappings differ in the order of the loops that iterate; fits: [order x nest] which count."""
    codes = np.zeros((len(nests.orders), len(nests.temporal), nests.temporal.shape[1]))
    for o, order in enumerate(nests.orders):
        for level, dims in enumerate(order):
            for d in dims[dims >= 0]:
                iterates = nests.temporal[:, level, d] > 1
                codes[o, iterates, level] = codes[o, iterates, level] * 9 + d + 1
    return sum(len(np.unique(codes[:, b], axis=0)) for b in np.flatnonzero(fits.reshape(codes.shape[:2]).any(axis=0)))


def explicit_mappings() -> list[str]:
    """Latency and energy of every mapping of a mapspace whose tiles may fit.

    Counted are those that do fit, the rest cost less, and that differ in more than the order of loops that do not
    iterate: others are given the figures of an equal one.
    """
    rows = []
    for template in asic.TEMPLATES:
        accelerator = asic.build(template)
        engine = engine_of(RESNET, accelerator)
        levels = hierarchy(accelerator, engine)
        limits = tile_limits(RESNET, levels, np.array([room_bits(level) for level in levels]), ())
        nests = enumerate_nests(RESNET, engine, [level.name for level in levels], limits)
        run = partial(price_nests, RESNET, accelerator, engine, levels, nests)
        mappings = different(nests, np.isfinite(run().latency_ms))
        wall = best_of(run, 60, time.perf_counter)
        processor = best_of(run, 60)
        rows.append(
            f"| {mappings} different explicit mappings, {template}: latency and energy | {mappings / wall / 1e6:.2f} "
            f"million a second, {mappings / processor / 1e6:.2f} million per processor second | "
            "target 2 million on 2 cores |"
        )
    return rows


def best_mappings() -> list[str]:
    rows = []
    for template in asic.TEMPLATES:
        accelerator = asic.build(template)
        best(RESNET, accelerator)
        seconds = best_of(lambda a=accelerator: best(RESNET, a))  # type: ignore[misc]
        size = mapspace_size(RESNET, accelerator)
        rows.append(
            f"| best mapping, {template}, {size} mappings | {seconds * 1e3:.1f} CPU ms | "
            f"{ZIGZAG_SECONDS / seconds:.0f} x ZigZag's 720 loop orders; target 100 x, eyeriss 10 x |"
        )
    return rows


def accelerator_spaces() -> list[str]:
    rows = []
    for template in asic.TEMPLATES:
        accelerators = asic.space(template, choices=THOUSAND[template]).accelerators
        arrays = len({(a.engines[0].rows, a.engines[0].cols) for a in accelerators})
        for layer in LAYERS:
            run = partial(nest_costs, layer, accelerators, POLICIES)
            each = best_of(run, 5) / len(accelerators)
            rows.append(
                f"| {layer.name} on {len(accelerators)} x {template} ({arrays} array sizes), three policies | "
                f"{each * 1e3:.3f} CPU ms each | {ZIGZAG_SECONDS / each:,.0f} x ZigZag; target 10,000 x |"
            )
    return rows


def main() -> None:
    torch.set_num_threads(2)
    load = f"2 threads, best of several repeats, load average {os.getloadavg()[0]:.1f}"
    made = f"`python -m tests.benchmarks.hardware`, {stamp('numba')} {load}."
    parts = (explicit_mappings, best_mappings, accelerator_spaces)
    write_figures(REPORT, "Speed of the mapping search", made, (line for part in parts for line in part()))


if __name__ == "__main__":
    main()
