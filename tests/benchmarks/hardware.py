"""Speed of the mapping search, beside what it is measured against: `python -m tests.benchmarks.hardware`.

Figures are the best of several repeats in one process; the last run is kept in docs/benchmarks/hardware.md. ZigZag's
is its default search of the same layer, timed in the same run where COSEARCH_ZIGZAG names a Python that has it, else
recorded (`zigzag_speed`); the page says which.
"""

import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cosearch.hardware import Accelerator, MappingBatch, best, evaluate_many, mapspace_size
from cosearch.hardware.accelerator import engine_of, hierarchy, room_bits
from cosearch.hardware.nest import enumerate_nests, price_nests, tile_limits
from cosearch.hardware.nestfront import nest_costs
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.benchmarks.machine import stamp, write_figures
from tests.benchmarks.zigzag_speed import ZigZagSpeed, zigzag_speed
from tests.references.free_buffers import deep

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "hardware.md"
LAYERS = (
    Layer("3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3),
    Layer("3x3 512-512 @7", K=512, C=512, P=7, Q=7, R=3, S=3),
    Layer("depthwise 96 @56", K=96, C=96, P=56, Q=56, R=3, S=3, groups=96),
    Layer("512-1000", K=1000, C=512),
)
RESNET = LAYERS[0]
RESNET18 = (
    Layer("7x7 s2 3-64 @112", K=64, C=3, P=112, Q=112, R=7, S=7, stride=2),
    RESNET,
    Layer("3x3 128-128 @28", K=128, C=128, P=28, Q=28, R=3, S=3),
    Layer("3x3 256-256 @14", K=256, C=256, P=14, Q=14, R=3, S=3),
    LAYERS[1],
    LAYERS[3],
)
EXPLICIT = 200_000
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


def every_mapping(template: str) -> tuple[Accelerator, MappingBatch]:
    """The mappings of a template whose tiles may fit, each once: equal ones differ in loops that do not iterate."""
    accelerator = asic.build(template)
    engine = engine_of(RESNET, accelerator)
    levels = hierarchy(accelerator, engine)
    limits = tile_limits(RESNET, levels, np.array([room_bits(level) for level in levels]), ())
    nests = enumerate_nests(RESNET, engine, [level.name for level in levels], limits)
    shape = (len(nests.orders), *nests.temporal.shape)
    temporal = np.broadcast_to(nests.temporal, shape).reshape(-1, *shape[2:])
    spatial = np.broadcast_to(nests.spatial, shape).reshape(-1, *shape[2:])
    order = np.broadcast_to(nests.orders[:, None], shape).reshape(-1, *shape[2:])
    iterates = (order >= 0) & (np.take_along_axis(temporal, np.maximum(order, 0), axis=2) > 1)
    place = np.cumsum(iterates, axis=2) - 1
    used = np.full_like(order, -1)
    used[(*np.nonzero(iterates)[:2], place[iterates])] = order[iterates]
    rows = np.concatenate([temporal, spatial, used], axis=2).reshape(len(used), -1)
    once = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return accelerator, MappingBatch(temporal[once], spatial[once], used[once])


def explicit_mappings() -> list[str]:
    """Latency and energy of explicit mappings, each with loops and orders of its own, in one call.

    The batch is repeated to 200,000; counted are mappings that fit, those that do not cost less.
    """
    rows = []
    for template in asic.TEMPLATES:
        accelerator, batch = every_mapping(template)
        fits = np.isfinite(evaluate_many(RESNET, accelerator, batch).latency_ms)
        index = np.resize(np.flatnonzero(fits), EXPLICIT)
        many = MappingBatch(*(np.asarray(x)[index] for x in (batch.temporal, batch.spatial, batch.order)))
        run = partial(evaluate_many, RESNET, accelerator, many)
        wall = best_of(run, 10, time.perf_counter)
        processor = best_of(run, 5)
        rows.append(
            f"| {len(many):,} explicit mappings ({fits.sum():,} different), {template}: latency and energy | "
            f"{len(many) / wall / 1e6:.2f} million a second, {len(many) / processor / 1e6:.2f} million per processor "
            "second | target 2 million on 2 cores |"
        )
    return rows


def best_mappings(peer: ZigZagSpeed) -> list[str]:
    rows = []
    for template in asic.TEMPLATES:
        accelerator = asic.build(template)
        best(RESNET, accelerator)
        seconds = best_of(lambda a=accelerator: best(RESNET, a))  # type: ignore[misc]
        size = mapspace_size(RESNET, accelerator)
        rows.append(
            f"| best mapping, {template}, {size} mappings | {seconds * 1e3:.1f} CPU ms | "
            f"{peer.beside(RESNET, seconds)}; target 100 x, eyeriss 10 x |"
        )
    return rows


def deep_mappings(peer: ZigZagSpeed) -> list[str]:
    """ResNet-18 on a hierarchy with three free memories; peak memory of the search's tables is measured apart."""
    rows = []
    accelerator = deep()
    for layer in RESNET18:
        size = mapspace_size(layer, accelerator)
        best(layer, accelerator)
        seconds = best_of(partial(best, layer, accelerator))
        tracemalloc.start()
        best(layer, accelerator)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(
            f"| best mapping, five levels, {layer.name}, {size:,} mappings | {seconds * 1e3:.1f} CPU ms, "
            f"{peak / 2**20:.1f} MiB | {peer.beside(layer, seconds)}; target 10 x |"
        )
    layer = RESNET18[-2]
    engine = engine_of(layer, accelerator)
    levels = hierarchy(accelerator, engine)
    start = time.process_time()
    nests = enumerate_nests(layer, engine, [level.name for level in levels])
    every = price_nests(layer, accelerator, engine, levels, nests)
    seconds = time.process_time() - start
    least = best(layer, accelerator, "edp")[1].edp
    equal = "equal" if np.isclose((every.latency_ms * every.energy_mj).min(), least, rtol=1e-11) else "NOT EQUAL"
    rows.append(
        f"| all {len(nests):,} mappings of {layer.name} priced jointly instead | {seconds:.1f} CPU s | "
        f"least EDP {equal} |"
    )
    return rows


def accelerator_spaces(peer: ZigZagSpeed) -> list[str]:
    rows = []
    for template in asic.TEMPLATES:
        accelerators = asic.space(template, choices=THOUSAND[template]).accelerators
        arrays = len({(a.engines[0].rows, a.engines[0].cols) for a in accelerators})
        for layer in LAYERS:
            run = partial(nest_costs, layer, accelerators, POLICIES)
            each = best_of(run, 5) / len(accelerators)
            rows.append(
                f"| {layer.name} on {len(accelerators)} x {template} ({arrays} array sizes), three policies | "
                f"{each * 1e3:.3f} CPU ms each | {peer.beside(layer, each)}; target 10,000 x |"
            )
    return rows


def peers() -> tuple[ZigZagSpeed, list[str]]:
    """ZigZag's times of every layer here, and rows of them; of the first ResNet-18 layer on its other accelerator too.

    Ratios are with its tpu_like, on which it is faster.
    """
    layers = {replace(layer, name=""): layer for layer in (*LAYERS, *RESNET18)}.values()
    peer, other = zigzag_speed(layers), zigzag_speed([RESNET], "eyeriss_like")
    return peer, [*peer.rows(layers), *(row.replace(" | ", ", eyeriss_like | ", 1) for row in other.rows([RESNET]))]


def main() -> None:
    torch.set_num_threads(2)
    load = f"2 threads, best of several repeats, load average {os.getloadavg()[0]:.1f}"
    peer, rows = peers()
    made = f"`python -m tests.benchmarks.hardware`, {stamp('numba')} {load}. {peer.source}"
    beside = (partial(part, peer) for part in (best_mappings, deep_mappings, accelerator_spaces))
    parts = (lambda: rows, explicit_mappings, *beside)
    write_figures(REPORT, "Speed of the mapping search", made, (line for part in parts for line in part()))


if __name__ == "__main__":
    main()
