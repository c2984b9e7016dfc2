"""Speed and memory of the cost tensor and of sweeps over it: `python -m tests.benchmarks.sweeps`.

Every part runs in a process of its own, so that its peak memory is its own. Shares of a bare product are taken side by
side, product and sweep in turn, the fastest of each; in processor seconds of one thread, which other work on the
machine disturbs least, and on the clock with two. The last run is kept in docs/benchmarks/sweeps.md.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cosearch.hardware import Grid, cost_tensor, grid, joint_front
from cosearch.hardware.sweep import sample_accelerators
from cosearch.hardware.tables import AcceleratorSpace
from search_spaces.accelerators import asic, find
from search_spaces.networks import nasbench201, shiftadd
from tests.benchmarks.machine import stamp, write_figures

REPORT = Path(__file__).parents[2] / "docs" / "benchmarks" / "sweeps.md"
NETWORKS, ACCELERATORS = 15_625, 100_000


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, busy = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - busy


def peak_gib() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def ten_thousand() -> AcceleratorSpace:
    """10,000 systolic arrays: 16 geometries, 25 buffers, 25 DRAM bandwidths."""
    steps = tuple(range(1, 26))
    sizes = {"rows": (8, 16, 32, 64), "cols": (8, 16, 32, 64)}
    memories = {"buffer_kib": tuple(32 * i for i in steps), "dram_bits_per_cycle": tuple(32.0 * i for i in steps)}
    return asic.space("tpu-os", choices={**sizes, **memories})


def _runs(layers: int, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """A bare product of 2,000 networks and 10,000 accelerators in two metrics, and the sweeps over the same."""
    tensors = [torch.from_numpy(rng.random((layers, 10000)) + 0.1) for _ in range(2)]
    dense, counts, error = Grid(*tensors), rng.integers(0, 4, (2000, layers)), rng.random(2000)
    table, both = torch.as_tensor(counts, dtype=torch.float64), torch.cat(tensors, 1)
    out = torch.empty(2000, both.shape[1], dtype=torch.float64)
    return {
        "bare": lambda: torch.mm(table, both, out=out),
        "least latency": lambda: dense.best(counts, "latency_ms"),
        "least EDP": lambda: dense.best(counts),
        "joint front": lambda: dense.front(counts),
        "joint front with error": lambda: dense.front(counts, error),
        "every network's front": lambda: dense.fronts(counts),
    }


def shares_of_a_product() -> list[str]:
    rows = []
    rng = np.random.default_rng(0)
    for layers in (10, 60, 400):
        runs = _runs(layers, rng)
        for threads, clock, unit in ((1, 1, "processor seconds, one thread"), (2, 0, "clock, two threads")):
            torch.set_num_threads(threads)
            fastest = {name: seconds(run)[clock] for name, run in runs.items()}
            for _ in range(5):
                for name, run in runs.items():
                    fastest[name] = min(fastest[name], seconds(run)[clock])
            shown = ", ".join(f"{name} {fastest['bare'] / fastest[name]:.0%}" for name in runs if name != "bare")
            rows.append(
                f"| 2,000 networks x 10,000 accelerators, {layers} layer rows; {unit} | {shown} | "
                f"of bare torch.mm in float64 ({fastest['bare'] * 1e3:.0f} ms); target 60% |"
            )
    rows.append(f"| peak memory of these | {peak_gib():.2f} GiB | target 2 GiB |")
    return rows


def whole_sweep() -> list[str]:
    """NAS-Bench-201's layers, as many networks, all of them different, on random accelerators of the FPGA space."""
    layers = nasbench201.space().layer_table()
    tensor = cost_tensor(layers, find("fpga"), cache=False)
    dense = grid(tensor, sample_accelerators(tensor, ACCELERATORS, seed=0))
    rng = np.random.default_rng(0)
    counts, error = rng.integers(0, 16, (NETWORKS, len(layers))), rng.random(NETWORKS)
    rows = []
    tasks: dict[str, Callable[[], object]] = {
        "least EDP of each network": lambda: dense.best(counts),
        "joint front with error": lambda: dense.front(counts, error),
        "every network's front": lambda: dense.fronts(counts),
    }
    for name, run in tasks.items():
        wall, _ = seconds(run)
        pairs = NETWORKS * ACCELERATORS / wall / 1e6
        rows.append(
            f"| {NETWORKS:,} networks x {ACCELERATORS:,} accelerators, {len(layers)} layer rows: {name} | {wall:.1f} s "
            f"| {pairs:,.0f} million pairs a second |"
        )
    rows.append(f"| peak memory of these | {peak_gib():.2f} GiB | target 2 GiB |")
    return rows


def nasbench_tensor() -> list[str]:
    layers, space = nasbench201.space().layer_table(), ten_thousand()
    wall, busy = seconds(lambda: cost_tensor(layers, space, cache=False))
    return [
        f"| cost tensor, {len(layers)} NAS-Bench-201 layers x 10,000 ASIC accelerators | {wall:.1f} s "
        f"({busy:.1f} CPU s), peak {peak_gib():.2f} GiB | target 60 s, 4 GiB |"
    ]


def digits_tensor() -> list[str]:
    layers, space = shiftadd.space().layer_table(), find("fpga")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COSEARCH_CACHE"] = folder
        cold, busy = seconds(lambda: cost_tensor(layers, space))
        cached, _ = seconds(lambda: cost_tensor(layers, space))
        tensor = cost_tensor(layers, space)
    networks = shiftadd.space()
    workload = networks.workload(networks.sample(np.random.default_rng(0)))
    counts, live = tensor.counts_of(workload), workload.live_activation_bytes
    front = min(seconds(lambda: tensor.hardware_front(counts, live))[0] for _ in range(9))
    size = f"{len(layers)} shiftadd digits layers x {len(space):,} FPGA accelerators"
    return [
        f"| cost tensor, {size} | {cold:.1f} s ({busy:.1f} CPU s), from the cache {cached:.2f} s | target 20 s, 1 s |",
        f"| exact hardware front of one network over them | {front * 1e3:.1f} ms | |",
    ]


def joint_fronts() -> list[str]:
    """All 15,625 networks; the errors are made up: what they are does not change the work."""
    networks = nasbench201.space()
    layers, archs = networks.layer_table(), [nasbench201.cell(i) for i in range(NETWORKS)]
    counts = networks.counts(archs, layers)
    live = np.array([networks.workload(arch).live_activation_bytes for arch in archs])
    error = np.random.default_rng(0).random(NETWORKS)
    rows = []
    for space in (find("fpga"), ten_thousand()):
        tensor = cost_tensor(layers, space, cache=False)
        wall, _ = seconds(lambda t=tensor: joint_front(t, counts, error, live))  # type: ignore[misc]
        rows.append(
            f"| exact joint front of error, latency and energy, {NETWORKS:,} networks x {len(space):,} {space.name} "  # type: ignore[arg-type]
            f"accelerators | {wall:.1f} s | peak {peak_gib():.2f} GiB |"
        )
    return rows


def main() -> None:
    load = f"2 threads; load average at the start {os.getloadavg()[0]:.1f}. Compiled code is cached"
    made = f"`python -m tests.benchmarks.sweeps`, {stamp('numpy', 'numba')} {load}."
    parts = (shares_of_a_product, whole_sweep, nasbench_tensor, digits_tensor, joint_fronts)
    write_figures(REPORT, "Cost tensors and sweeps", made, (line for part in parts for line in apart(part)))


def apart(part: Callable[[], list[str]]) -> list[str]:
    """The rows of a part, from a fresh process, whose peak memory is its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=torch.set_num_threads, initargs=(2,)) as fresh:
        return fresh.submit(part).result()


if __name__ == "__main__":
    main()
