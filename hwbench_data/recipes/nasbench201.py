"""The `nasbench201` table: 15,625 cells x two input sizes x nine devices.

Hardware runs the effective cell: edges on no path cost nothing, so that networks which differ in dead edges only have
one answer. Modelled costs follow from 284 distinct demands.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from hwbench_data.costing import Demands, Device, demands_of, gap_facts
from hwbench_data.recipes import cpu
from hwbench_data.recipes.common import COSTS, COUNTS, MODELLED, Built, Request, modelled, provenance
from hwbench_data.store import ANY, Block, Card
from search_spaces.networks import nasbench201 as nb

SHIPPED = Path(__file__).parents[1] / "data" / "nasbench201"
SIDES = (32, 16)
CLASSES = 10
MIXED = nb.index_of(dict(zip(nb.NAMES, ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3") * 2, strict=True)))
"""The network whose best accelerator is a device's default: each operation that costs something, twice."""


def build(request: Request) -> Built:
    """Price every network, or the first ones, and time a sample of them where that is asked."""
    count = nb.SIZE if request.limit is None else min(request.limit, nb.SIZE)
    networks = np.append(np.arange(count), MIXED)  # the last one only decides the default accelerators
    blocks: list[Block] = []
    devices: dict[str, dict[str, object]] = {}
    demands = {side: demands_at(side).only(networks) for side in SIDES}
    blocks.append(Block.full((ANY, "params", ANY, ANY), demands[SIDES[0]].params[:count], "modelled"))
    for side, asked in demands.items():
        blocks.append(Block.full((ANY, "macs", f"{side}x{side}", ANY), asked.macs[:count], "modelled"))
    for name in MODELLED:
        defaults: dict[str, str] = {}
        used: dict[str, dict[str, int]] = {}
        gaps: dict[str, dict[str, dict[str, float]]] = {}
        for side, asked in demands.items():
            request.progress(f"{name} {side}x{side}")
            costs = Device(name, asked, request.workers).costs(int(asked.of[-1]))
            of = asked.of[:count]
            for accelerator, values in (("default", costs.default), ("best", costs.best)):
                for metric, column in zip(COSTS, values, strict=True):
                    key = (name, metric, f"{side}x{side}", accelerator)
                    blocks.append(Block.full(key, column[of], "modelled"))
            defaults[f"{side}x{side}"] = costs.default_name
            facts = (gap_facts(gap[of]) for gap in costs.gaps)
            gaps[f"{side}x{side}"] = dict(zip(("default", "best"), facts, strict=True))
            used[f"{side}x{side}"] = dict(Counter(costs.best_names[i] for i in of.tolist()).most_common())
        devices[name] = {**modelled(name, defaults, gaps), "best_accelerators": used}
    sample_file = _sample_file(request)
    if sample_file is not None:
        devices[cpu.NAME], timed = _measured(sample_file, count)
        blocks += timed
    card = Card(
        "nasbench201",
        "NAS-Bench-201: 15,625 cells, costs on nine devices; trained accuracies join in from analog-nasbench",
        {"kind": "nasbench201", "count": count, "order": "published index"},
        {**COUNTS, **COSTS},
        devices,
        {"input": tuple(f"{side}x{side}" for side in SIDES), "accelerator": ("default", "best")},
        provenance("cosearch bench build nasbench201", request.seed),
        (
            f"{CLASSES} classes at both input sizes; weights and activations of 8 bits on modelled devices.",
            "default: one accelerator for all networks of an input size, the one of least energy-delay product for the "
            f"cell with two 3x3 convolutions, two 1x1 and two poolings, {nb.to_string(nb.cell(MIXED))}; best: each "
            "network's own accelerator of least energy-delay product.",
            "A cell without a path from input to output costs what a skip costs.",
            "Of the 15,625 cells, 6,466 differ by NAS-Bench-201's own key. Here those are one network, with one "
            "answer, that compute the same with the same operations once edges on no path and skips are taken out: "
            "5,425. "
            "Splits and random samples go by what is computed alone: 4,930.",
        ),
        {},
    )
    return Built(card, blocks, extras={cpu.FILE: sample_file} if sample_file is not None else None)


def demands_at(side: int) -> Demands:
    """What the cells ask of hardware for images of side x side."""
    space = nb.space((3, side, side), CLASSES)
    archs = [nb.cell(i) for i in range(nb.SIZE)]
    layers = space.layer_table()
    least: dict[str, float] = {}
    keys = [nb.network_class(arch) for arch in archs]
    for arch, key in zip(archs, keys, strict=True):
        # isomorphic cells may compute their nodes in different orders: all get the order that keeps least alive
        least[key] = min(space.live_activation_bytes(arch), least.get(key, np.inf))
    live_bytes = np.array([least[key] for key in keys])
    return demands_of(layers, space.counts(archs, layers), live_bytes, lambda i: space.workload(archs[i]))


def _sample_file(request: Request) -> Path | None:
    """Measurements to use: new ones where asked for, else the shipped ones."""
    if request.measure:
        sample = cpu.measure_sample(request.measure, request.seed, SIDES, CLASSES, request.progress)
        request.folder.mkdir(parents=True, exist_ok=True)
        cpu.write_sample(request.folder / cpu.FILE, sample)
        return request.folder / cpu.FILE
    shipped = SHIPPED / cpu.FILE
    return shipped if shipped.is_file() else None


def _measured(path: Path, count: int) -> tuple[dict[str, Any], list[Block]]:
    """The card's entry of the measured device, and its figures for the first `count` cells."""
    sample, session = cpu.read_sample(path)
    features = nb.all_operation_counts()
    entry: dict[str, Any] = {
        "title": f"{session['processor']}, one thread, onnxruntime",
        "source": "measured",
        "policy": "Measured cells answer for their class; the others are predicted from them by a quadratic in how "
        "often each operation occurs, and marked so",
        "session": session,
    }
    blocks = []
    for side in SIDES:
        values, sources = cpu.column(sample, side, features)
        key = (cpu.NAME, "latency_ms", f"{side}x{side}", ANY)
        blocks.append(Block(key, np.arange(count), values[:count], sources[:count]))
        entry[f"{side}x{side}"] = cpu.facts(sample, side, features)
    return entry, blocks
