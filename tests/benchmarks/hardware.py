"""Speed of the cost model, beside what it is measured against: `python -m tests.benchmarks.hardware`.

Figures are the best of several repeats in one process; the last run is kept in docs/benchmarks/hardware.md. ZigZag's
figure is its default search on this machine: 3.7 CPU seconds per layer and accelerator, measured with zigzag-dse 3.9.1.
"""

import datetime
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cosearch.hardware import best, cost_tensor, mapspace_size
from cosearch.hardware.cost import engine_of, hierarchy
from cosearch.hardware.nest import count_nests, enumerate_nests
from cosearch.hardware.nestfront import nest_costs
from cosearch.hardware.sweep import Grid
from cosearch.workload import Layer
from search_spaces.accelerators import asic, find

ZIGZAG_SECONDS = 3.7
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "hardware.md"
RESNET = Layer("ResNet-18 3x3 64-64 @56", K=64, C=64, P=56, Q=56, R=3, S=3)


def best_of(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest repeat."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def explicit_mappings() -> list[str]:
    accelerator = asic.build("gemmini")
    engine = engine_of(RESNET, accelerator)
    levels = hierarchy(accelerator, engine)
    nests = enumerate_nests(RESNET, engine, [level.name for level in levels])
    seconds = best_of(lambda: count_nests(RESNET, engine, levels, nests))
    rate = len(nests) / seconds / 1e6
    return [f"| explicit mappings | {rate:.2f} million a second | target 2 million on 2 cores |"]


def best_mappings() -> list[str]:
    rows = []
    for template in asic.TEMPLATES:
        accelerator = asic.build(template)
        best(RESNET, accelerator)
        seconds = best_of(lambda a=accelerator: best(RESNET, a))  # type: ignore[misc]
        size = mapspace_size(RESNET, accelerator)
        rows.append(
            f"| best mapping, {template}, {size} mappings | {seconds * 1e3:.1f} ms | "
            f"{ZIGZAG_SECONDS / seconds:.0f} x ZigZag's 720 loop orders |"
        )
    return rows


def accelerator_space() -> list[str]:
    space = asic.space("tpu-os", choices={"buffer_kib": tuple(32 * i for i in range(1, 22))})
    accelerators = space.accelerators
    nest_costs(RESNET, accelerators[:4], (1.0, 0.5, 0.0))
    seconds = best_of(lambda: nest_costs(RESNET, accelerators, (1.0, 0.5, 0.0)), 2)
    each = seconds / len(accelerators)
    return [
        f"| one layer on {len(accelerators)} accelerators (tpu-os), three policies | {each * 1e3:.2f} ms each | "
        f"{ZIGZAG_SECONDS / each:.0f} x ZigZag |"
    ]


def digits_layers() -> tuple[Layer, ...]:
    """Shapes of an inverted-bottleneck space on 8x8 images: three operators, three expansions, two kernels."""
    layers = [Layer("stem", K=16, C=1, P=8, Q=8, R=3, S=3), Layer("classifier", K=10, C=48)]
    for kind in ("mac", "shift", "add"):
        bits = 5 if kind == "shift" else 8
        c, size = 16, 8
        for width, stride in ((16, 1), (24, 2), (24, 1), (32, 1), (32, 1), (32, 2), (48, 1), (48, 1)):
            for e in (1, 3, 6):
                k, out = c * e, size // stride
                layers.append(Layer("expand", kind, K=k, C=c, P=size, Q=size, weight_bits=bits))
                for r in (3, 5):
                    layers.append(
                        Layer("dw", kind, K=k, C=k, P=out, Q=out, R=r, S=r, stride=stride, groups=k, weight_bits=bits)
                    )
                layers.append(Layer("project", kind, K=width, C=k, P=out, Q=out, weight_bits=bits))
            c, size = width, size // stride
    return tuple({layer.shape_key: layer for layer in layers}.values())


def fpga_tensor() -> list[str]:
    space, layers = find("fpga"), digits_layers()
    start = time.perf_counter()
    tensor = cost_tensor(layers, space, cache=False)
    cold = time.perf_counter() - start
    counts = np.zeros(len(layers), np.int64)
    counts[np.random.default_rng(0).choice(len(layers), 24, replace=False)] = 1
    front = best_of(lambda: tensor.hardware_front(counts, 4096.0))
    return [
        f"| cost tensor, {len(layers)} digits layers x {len(space):,} fpga accelerators | {cold:.1f} s | target 20 s |",
        f"| exact hardware front of one network over them | {front * 1e3:.1f} ms | |",
    ]


def sweeps() -> list[str]:
    rows = []
    rng = np.random.default_rng(0)
    for layers in (10, 60, 400):
        tensors = [torch.from_numpy(rng.random((layers, 10000)) + 0.1) for _ in range(2)]
        grid, counts = Grid(*tensors), rng.integers(0, 4, (2000, layers))
        table, both = torch.as_tensor(counts, dtype=torch.float64), torch.cat(tensors, 1)
        out = torch.empty(2000, both.shape[1], dtype=torch.float64)

        def product(a: torch.Tensor = table, b: torch.Tensor = both, into: torch.Tensor = out) -> None:
            torch.mm(a, b, out=into)

        bare = best_of(product)
        shares = {
            "least latency": bare / best_of(lambda g=grid, c=counts: g.best(c, "latency_ms")),  # type: ignore[misc]
            "least EDP": bare / best_of(lambda g=grid, c=counts: g.best(c, "edp")),  # type: ignore[misc]
            "joint front": bare / best_of(lambda g=grid, c=counts: g.front(c)),  # type: ignore[misc]
        }
        shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        rows.append(
            f"| 2,000 networks x 10,000 accelerators, {layers} layer rows | {shown} | of bare torch.mm; target 60% |"
        )
    return rows


def main() -> None:
    torch.set_num_threads(2)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Speed of the cost model",
        "",
        f"`python -m tests.benchmarks.hardware`, {datetime.date.today()}, {platform.machine()}, commit {commit}, "
        "2 threads, best of several repeats.",
        "",
        "| what | figure | beside |",
        "| --- | --- | --- |",
    ]
    for part in (explicit_mappings, best_mappings, accelerator_space, fpga_tensor, sweeps):
        for line in part():
            print(line, flush=True)
            lines.append(line)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
