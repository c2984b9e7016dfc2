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

from cosearch.hardware import best, mapspace_size
from cosearch.hardware.cost import engine_of, hierarchy
from cosearch.hardware.nest import enumerate_nests, price_nests
from cosearch.hardware.nestfront import nest_costs
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.benchmarks.machine import stamp, write_figures

ZIGZAG_SECONDS = 3.7
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "hardware.md"
RESNET = Layer("ResNet-18 3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3)


def best_of(run: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest repeat: of the processor, as ZigZag's are, or by another clock."""
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def explicit_mappings() -> list[str]:
    """Latency and energy of every mapping of a mapspace; only those whose tiles fit are counted, the rest cost less."""
    rows = []
    for template in asic.TEMPLATES:
        accelerator = asic.build(template)
        engine = engine_of(RESNET, accelerator)
        levels = hierarchy(accelerator, engine)
        nests = enumerate_nests(RESNET, engine, [level.name for level in levels])
        fits = int(np.isfinite(price_nests(RESNET, accelerator, engine, levels, nests).latency_ms).sum())
        run = partial(price_nests, RESNET, accelerator, engine, levels, nests)
        wall = best_of(run, 60, time.perf_counter)
        processor = best_of(run, 60)
        rows.append(
            f"| {fits} explicit mappings, {template}: latency and energy | {fits / wall / 1e6:.2f} million a second, "
            f"{fits / processor / 1e6:.2f} million per processor second | target 2 million on 2 cores |"
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


def accelerator_space() -> list[str]:
    space = asic.space("tpu-os", choices={"buffer_kib": tuple(32 * i for i in range(1, 22))})
    accelerators = space.accelerators
    nest_costs(RESNET, accelerators[:4], (1.0, 0.5, 0.0))
    seconds = best_of(lambda: nest_costs(RESNET, accelerators, (1.0, 0.5, 0.0)), 2)
    each = seconds / len(accelerators)
    return [
        f"| one layer on {len(accelerators)} accelerators (tpu-os), three policies | {each * 1e3:.2f} CPU ms each | "
        f"{ZIGZAG_SECONDS / each:.0f} x ZigZag; target 10,000 x |"
    ]


def main() -> None:
    torch.set_num_threads(2)
    load = f"2 threads, best of several repeats, load average {os.getloadavg()[0]:.1f}"
    made = f"`python -m tests.benchmarks.hardware`, {stamp('numba')} {load}."
    parts = (explicit_mappings, best_mappings, accelerator_space)
    write_figures(REPORT, "Speed of the mapping search", made, (line for part in parts for line in part()))


if __name__ == "__main__":
    main()
