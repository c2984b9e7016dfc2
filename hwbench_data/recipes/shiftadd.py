"""The `shiftadd` table: sampled networks of convolutions, shifts and additions on devices that run all three.

Accuracies are those of networks that were trained alone, each with several seeds, in the study of rank agreement
(`TRAINED`, written by tests/benchmarks/rank_agreement.py). Once that has `LEAST_TRAINED` of them, the table holds them
all. Some of them were trained a second time, for longer: those accuracies are metrics of their own. The same study has
evaluated every network with the shared weights of one supernet (`SUPERNET`).
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosearch import shapes
from cosearch.workload import Layer, count_layers
from hwbench_data.costing import Demands, Device, demands_of, gap_facts
from hwbench_data.networks import notation
from hwbench_data.recipes.common import COSTS, COUNTS, Built, Request, modelled, provenance
from hwbench_data.store import ANY, Block, Card, Floats, Ints, Metric
from search_spaces.decisions import Arch, arch_key
from search_spaces.networks import shiftadd

NETWORKS = 20_000
SIDE = 24
DEVICES = ("ecp5-85f", "zcu102")
"""Array templates and crossbars have no engine for additions."""
OPERATORS = ("conv", "shift", "add")
TRAINED = Path(__file__).parent / "shiftadd_trained.json"
LEAST_TRAINED = 200
Trained = dict[str, tuple[Arch, tuple[float, float]]]
"""Key -> arch, and mean and standard deviation of its accuracy."""
ACCURACIES: dict[str, Metric] = {
    "val_accuracy": Metric("fraction", "higher", "trained alone, on the validation images; mean over seeds"),
    "val_accuracy_std": Metric("fraction", "lower", "standard deviation of that over seeds (n - 1)"),
}
LONGER_ACCURACIES: dict[str, Metric] = {
    "longer_val_accuracy": Metric("fraction", "higher", "as val_accuracy, of a longer training that few networks had"),
    "longer_val_accuracy_std": Metric("fraction", "lower", "standard deviation of that over seeds (n - 1)"),
}
SUPERNET = Path(__file__).parent / "shiftadd_supernet.json"
SUPERNET_ACCURACY = {
    "supernet_accuracy": Metric("fraction", "higher", "with one supernet's shared weights, on the validation images"),
}


def build(request: Request) -> Built:
    """Sample networks uniformly, the same for every limit, and price them on each device's default accelerator."""
    space = shiftadd.space((1, SIDE, SIDE), len(shapes.CLASSES))
    study = json.loads(TRAINED.read_text(encoding="utf-8"))
    known, longer = trained(study), trained(study, longer=True)
    enough = len(known) >= LEAST_TRAINED
    archs = networks_of_table(space, request.seed, known if enough else {})
    shared = json.loads(SUPERNET.read_text(encoding="utf-8"))
    ranked = shared["networks"] == digest(archs)  # another seed has other networks
    archs = archs[: request.limit]
    priced = demands([*archs, mixed(space)], space)
    count = len(archs)
    blocks = [
        Block.full((ANY, metric), values[:count], "modelled")
        for metric, values in (("params", priced.params), ("macs", priced.macs))
    ]
    if enough:
        blocks += measured(ACCURACIES, known, archs)
    if enough and longer:
        blocks += measured(LONGER_ACCURACIES, longer, archs)
    if ranked:
        right = np.array(shared["right"][:count]) / shared["images"]
        blocks += [Block.full((ANY, metric), right, "measured") for metric in SUPERNET_ACCURACY]
    devices: dict[str, dict[str, Any]] = {}
    for name in DEVICES:
        request.progress(name)
        default, costs = Device(name, priced, request.workers).default_costs(int(priced.of[-1]))
        size = f"{SIDE}x{SIDE}"
        devices[name] = modelled(name, {size: default}, {size: gap_facts(costs[2][priced.of[:count]])})
        for metric, values in zip(COSTS, costs[:2], strict=True):
            blocks.append(Block.full((name, metric), values[priced.of[:count]], "modelled"))
    card = Card(
        "shiftadd",
        f"{NETWORKS:,} sampled networks of the shiftadd space: convolutions, shifts, additions",
        {"kind": "listed", "space": "shiftadd", "count": count},
        {
            **(ACCURACIES if enough else {}),
            **(LONGER_ACCURACIES if enough and longer else {}),
            **(SUPERNET_ACCURACY if ranked else {}),
            **COUNTS,
            **COSTS,
        },
        devices,
        {},
        provenance("cosearch bench build shiftadd", request.seed),
        (
            f"Grey images of {SIDE}x{SIDE}, {len(shapes.CLASSES)} classes, as `--data shapes`; macs count the "
            "operations of all three kinds.",
            "default accelerator: the one of least energy-delay product for a network with the largest block of each "
            "operator in turn; it has an engine per operator.",
            f"Trained alone: {len(known)} of the networks, on images generated from a seed (sha256 {study['data']}), "
            f"with the training {json.dumps(study['recipe'])}; standard deviations of two seeds are rough."
            if enough
            else f"No accuracies yet: {len(known)} of {LEAST_TRAINED} networks are trained alone.",
            *(
                [
                    f"longer_val_accuracy: {len(longer)} of these networks on the same images, with the training "
                    f"{json.dumps(study['longer_recipe'])}; val_accuracy is that of the shorter training for all.",
                ]
                if enough and longer
                else []
            ),
            *(
                [
                    f"supernet_accuracy: {shared['images']} validation images of the same data; one supernet, "
                    f"{json.dumps(shared['supernet'])}; batch-norm calibrated for each network. It is there to rank "
                    "networks: shared weights were trained for longer than each network alone "
                    "(docs/benchmarks/supernet.md).",
                ]
                if ranked
                else []
            ),
        ),
        {},
    )
    return Built(card, blocks, [notation(arch) for arch in archs])


def sample(space: shiftadd.MacroSpace, count: int, seed: int) -> list[Arch]:
    """Distinct networks, uniformly drawn; a larger sample begins with the smaller one."""
    rng = np.random.default_rng([seed, 5])
    found: dict[str, Arch] = {}
    while len(found) < count:
        arch = space.sample(rng)
        found.setdefault(arch_key(arch), arch)
    return list(found.values())


def networks_of_table(space: shiftadd.MacroSpace, seed: int, known: Trained) -> list[Arch]:
    """The sample, then those trained alone that it lacks."""
    archs = (*sample(space, NETWORKS, seed), *(arch for arch, _ in known.values()))
    return list({arch_key(arch): arch for arch in archs}.values())


def digest(archs: Sequence[Arch]) -> str:
    """Of networks in their order."""
    return hashlib.sha256("\n".join(map(arch_key, archs)).encode()).hexdigest()


def measured(metrics: Iterable[str], known: Trained, archs: Sequence[Arch]) -> list[Block]:
    """Mean and standard deviation of accuracy, by metric; NaN for networks of which they are not known."""
    rows = [known[key][1] if (key := arch_key(arch)) in known else (np.nan, np.nan) for arch in archs]
    columns = zip(*rows, strict=True)
    return [
        Block.full((ANY, metric), np.array(values), "measured") for metric, values in zip(metrics, columns, strict=True)
    ]


def trained(study: dict[str, Any], longer: bool = False) -> Trained:
    """Key -> arch, and mean and standard deviation of accuracy, of the networks that have two seeds or more.

    longer: of the longer training.
    """
    found = {}
    for entry in study["networks"]:
        values = list((entry.get("longer", {}) if longer else entry).get("val_accuracy", {}).values())
        if len(values) > 1:
            found[arch_key(entry["arch"])] = entry["arch"], (float(np.mean(values)), float(np.std(values, ddof=1)))
    return found


def mixed(space: shiftadd.MacroSpace) -> Arch:
    """The largest block everywhere, its operator conv, shift and add in turn."""
    return {name: f"{OPERATORS[i % len(OPERATORS)]}_k5_e6" for i, name in enumerate(space.choices)}


def demands(archs: Sequence[Arch], space: shiftadd.MacroSpace) -> Demands:
    """What networks ask of hardware, block by block: blocks follow one another, so that layers add up and the most that
    is alive at once is alive in one block.
    """
    layers = space.layer_table()
    least = {name: "skip" if "skip" in options else "conv_k3_e1" for name, options in space.choices.items()}
    counts, alive = _facts(space, least, layers)
    extra: dict[tuple[str, str], tuple[Ints, float]] = {}
    for name, options in space.choices.items():
        for choice in map(str, options):
            more, live = _facts(space, {**least, name: choice}, layers)
            extra[name, choice] = (more - counts, live)
    parts = [[extra[name, str(arch[name])] for name in space.choices] for arch in archs]
    rows = np.array([counts + sum(more for more, _ in part) for part in parts], np.int64)
    live_bytes: Floats = np.array([max(alive, *(live for _, live in part)) for part in parts])
    return demands_of(layers, rows, live_bytes, lambda i: space.workload(archs[i]))


def _facts(space: shiftadd.MacroSpace, arch: Arch, layers: Sequence[Layer]) -> tuple[Ints, float]:
    workload = space.workload(arch)
    return np.array(count_layers(workload, layers), np.int64), workload.live_activation_bytes
