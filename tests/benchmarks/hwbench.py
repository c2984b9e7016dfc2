"""How fast the tables answer, how large they are, and how the modelled and measured devices rank real networks.

``python -m tests.benchmarks.hwbench`` prints and writes docs/benchmarks/hwbench.md. Rank correlations with real devices
need the published latencies in the folder that COSEARCH_REFERENCE_DATA names.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import hwbench_data
from hwbench_data import analog, library
from search_spaces.networks import nasbench201
from tests.benchmarks.machine import stamp

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "hwbench.md"
REPEATS = 5
REAL = ("gold_6240", "silver_4114", "pixel3", "1080ti_1", "1080ti_256")


def _median_seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _cold(*words: str) -> tuple[float, float]:
    """Wall and processor seconds of a fresh `cosearch bench` process, medians."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-m", "cosearch.cli", "bench", *words], capture_output=True, check=True)
        after = os.times()
        walls.append(time.perf_counter() - start)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(walls), statistics.median(cpus)


def _speeds() -> list[tuple[str, str]]:
    every = np.arange(15625)
    table = hwbench_data.load("nasbench201")
    rows = [("open the table", f"{1e3 * _median_seconds(lambda: hwbench_data.load('nasbench201')):.1f} ms")]
    first = _median_seconds(
        lambda: hwbench_data.load("nasbench201").query_many(every, ("latency_ms", "energy_mj"), "zcu102")
    )
    rows.append(("open, and 15,625 networks x 2 metrics for the first time", f"{1e3 * first:.1f} ms"))
    again = _median_seconds(lambda: table.query_many(every, ("latency_ms", "energy_mj"), "zcu102"))
    rows.append(("15,625 networks x 2 metrics again", f"{1e3 * again:.2f} ms"))
    front = _median_seconds(lambda: table.front(("params", "latency_ms", "energy_mj"), device="zcu102"))
    rows.append(("front of three metrics", f"{1e3 * front:.1f} ms"))
    commands = [("query", "nasbench201", "--device", "zcu102", "--index", "1234")]
    if analog.installed():
        commands.append(("front", "nasbench201", "--device", "zcu102", "--max-latency-ms", "2"))
    for words in commands:
        wall, cpu = _cold(*words)
        rows.append((f"`cosearch bench {' '.join(words)}`, cold", f"{wall:.2f} s ({cpu:.2f} s of processor)"))
    return rows


def _ranks() -> list[tuple[str, ...]]:
    folder = os.environ.get("COSEARCH_REFERENCE_DATA")
    if not folder:
        return []
    real = pd.read_parquet(Path(folder) / "nb201_latency_pool_ms.parquet")
    table = hwbench_data.load("nasbench201")
    rows = []
    # the published runs compute edges that lead nowhere, ours do not: only cells without such edges compare
    cells = [nasbench201.cell(i) for i in range(len(table))]
    whole = np.array([i for i, cell in enumerate(cells) if nasbench201.effective(cell) == cell])
    for device in ("macs", *table.devices):
        metric = "macs" if device == "macs" else "latency_ms"
        ours = table.query_many(whole, metric, None if device == "macs" else device)[metric]
        ranks = (f"{spearmanr(ours, real[name].to_numpy()[whole]).statistic:.3f}" for name in REAL)
        rows.append((device, f"{len(whole):,}", *ranks))
    return rows


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def main() -> None:
    """Measure, print, write."""
    sizes = []
    for name in library.TABLES:
        card = library.card(name)
        kib = sum(int(facts["bytes"]) for facts in card.files.values()) / 1024
        sizes.append((name, f"{card.networks['count']:,}", str(len(card.devices)), f"{kib:,.0f}"))
    cpu = hwbench_data.load("nasbench201").card.devices["cpu-x86"]
    facts = [(image, *(str(cpu[image].get(name, "-")) for name in cpu["32x32"])) for image in ("32x32", "16x16")]
    load = os.getloadavg()[0]
    lines = [
        "# Benchmark tables",
        "",
        f"{stamp('pyarrow', 'numpy')} Load average {load:.1f}: wall times grow with it.",
        "",
        *_markdown(("table", "networks", "devices", "KiB"), sizes),
        "",
        "## Speed",
        "",
        *_markdown(("what", f"median of {REPEATS}"), _speeds()),
        "",
        "## The measured processor",
        "",
        f"{cpu['title']}; {cpu['session']['protocol']}. Relative errors; drift: the most that a block of a hundred",
        "networks measured one after the other lies off the fit.",
        "",
        *_markdown(("input", *cpu["32x32"]), facts),
    ]
    ranks = _ranks()
    if ranks:
        lines += [
            "",
            "## Rank correlation with published latencies of real devices",
            "",
            "Spearman over the cells without edges that lead nowhere, at 32x32, default accelerators. Published: batch",
            "1, the last one 256. The modelled devices are others than the measured ones: devices differ this much.",
            "",
            *_markdown(("ours", "networks", *REAL), ranks),
        ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
