"""Pricing whole accelerator spaces: `python -m tests.benchmarks.templates`.

Processor seconds, the best of a few repeats in one process; the last run is kept in docs/benchmarks/templates.md. The
peer is ZigZag's default search of the same layer, measured or recorded (`zigzag_speed`).
"""

import os
from functools import partial
from pathlib import Path

from cosearch import models
from cosearch.hardware import cost_tensor
from cosearch.hardware.nestfront import nest_costs
from search_spaces.accelerators import asic, find
from tests.benchmarks.hardware import LAYERS, POLICIES, best_of
from tests.benchmarks.machine import stamp, write_figures
from tests.benchmarks.zigzag_speed import ZigZagSpeed, zigzag_speed

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "templates.md"


def template_spaces(peer: ZigZagSpeed) -> list[str]:
    """One layer on every accelerator of a template's default space, three policies."""
    rows = []
    for template in asic.TEMPLATES:
        accelerators = asic.space(template).accelerators
        for layer in LAYERS:
            run = partial(nest_costs, layer, accelerators, POLICIES)
            run()
            each = best_of(run, 2) / len(accelerators)
            rows.append(
                f"| {layer.name} on {len(accelerators)} x {template} | {each * 1e3:.2f} CPU ms each | "
                f"{peer.beside(layer, each)} |"
            )
    return rows


def split_devices() -> list[str]:
    """ResNet-18 on every pair of engines of a device that splits layers over DSP blocks and LUTs."""
    rows = []
    workload = models.workload("resnet18")
    counts = workload.shape_counts()
    for device in ("pynq-z1-split", "zcu102-split"):
        space = find(device)
        build = partial(cost_tensor, tuple(counts), space, cache=False)
        tensor = build()
        seconds = best_of(build, 1)
        front = tensor.hardware_front(list(counts.values()), workload.live_activation_bytes)
        rows.append(
            f"| cost tensor, {len(counts)} ResNet-18 layers x {len(space):,} accelerators of {device} | "
            f"{seconds:.1f} CPU s, {tensor.nbytes / 2**20:.0f} MiB | least latency {front.latency_ms.min():.4g} ms |"
        )
    return rows


def main() -> None:
    load = f"Load average {os.getloadavg()[0]:.1f}; latencies are modelled"
    peer = zigzag_speed(LAYERS)
    made = f"`python -m tests.benchmarks.templates`, {stamp('numba')} {load}. {peer.source}"
    parts = (partial(template_spaces, peer), split_devices)
    write_figures(REPORT, "Pricing accelerator spaces", made, (line for part in parts for line in part()))


if __name__ == "__main__":
    main()
