"""Gradient descent on relaxed costs against random search: `python -m tests.benchmarks.relaxed`.

Buffers are free, and the objective is the energy-delay product of all layers together. The deep hierarchy is Gemmini's
with a second on-chip buffer (tests/references/free_buffers.py): three free memories, and mapspaces of up to 10^9
mappings a layer. One evaluation prices every layer once, gradients included. Random search rounds and sizes its designs
as the descent does, so that every design it draws is feasible. Gemmini itself can be listed and has an exact optimum.
The last run is kept in docs/benchmarks/relaxed.md.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from cosearch.hardware import Descent, Technology, descend, mapspace_size
from cosearch.workload import Layer
from search_spaces.accelerators import asic
from tests.benchmarks.machine import stamp, write_figures
from tests.references.free_buffers import deep, exact_optimum

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "relaxed.md"
TECHNOLOGY = Technology(45)
LAYERS = (
    Layer("3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3),
    Layer("3x3 128-128 @28", K=128, C=128, P=28, Q=28, R=3, S=3),
    Layer("3x3 256-256 @14", K=256, C=256, P=14, Q=14, R=3, S=3),
)
STARTS, STEPS, SEEDS = 6, 60, (0, 1, 2)


def timed(counts: Mapping[Layer, int], starts: int, steps: int, seed: int) -> tuple[Descent, float]:
    began = time.process_time()
    found = descend(counts, deep(), TECHNOLOGY, starts=starts, steps=steps, seed=seed)
    return found, time.process_time() - began


def against_random(title: str, counts: Mapping[Layer, int]) -> Iterator[str]:
    """Per seed the descent, and random search with as many and with ten times as many evaluations."""
    sizes = ", ".join(f"{mapspace_size(layer, deep()):.1g}" for layer in counts)
    for seed in SEEDS:
        found, seconds = timed(counts, STARTS, STEPS, seed)
        beside = []
        for times in (1, 10):
            random, its = timed(counts, times * found.evaluations, 0, seed)
            share = f"{found.edp / random.edp - 1:+.1%} against {random.evaluations:,}"
            beside.append(f"{share} random designs ({its:.0f} CPU s)")
        yield (
            f"| {title} ({sizes} mappings), seed {seed} | EDP {found.edp:.4g} mJ ms after {found.evaluations:,} "
            f"evaluations, {seconds:.0f} CPU s | {', '.join(beside)} |"
        )


def against_the_optimum() -> Iterator[str]:
    """The descent where every mapping and buffer size can be listed."""
    gemmini = asic.build("gemmini")
    for layer in LAYERS:
        found = descend({layer: 1}, gemmini, TECHNOLOGY, starts=STARTS, steps=STEPS)
        least = exact_optimum(layer, gemmini, TECHNOLOGY)
        yield (
            f"| {layer.name} on gemmini ({mapspace_size(layer, gemmini):,} mappings) | EDP {found.edp:.4g} mJ ms after "
            f"{found.evaluations:,} evaluations | {found.edp / least - 1:+.1%} against the exact joint optimum |"
        )


def rows() -> Iterator[str]:
    yield from against_the_optimum()
    yield from against_random("one layer, deep hierarchy", {LAYERS[0]: 1})
    yield from against_random("three layers that share buffers, deep hierarchy", dict.fromkeys(LAYERS, 1))


def main() -> None:
    torch.set_num_threads(1)
    made = f"`python -m tests.benchmarks.relaxed`, {stamp()} One thread, load average {os.getloadavg()[0]:.1f}."
    write_figures(REPORT, "Gradient descent with free buffers", made, rows())


if __name__ == "__main__":
    main()
