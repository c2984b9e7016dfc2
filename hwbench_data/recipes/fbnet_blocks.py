"""The `fbnet_blocks` table: every block of FBNet at 32x32 and 224x224 on the modelled devices."""

from typing import Any

import numpy as np

from cosearch.costs import host_bytes
from cosearch.workload import Layer, Workload, count_layers, distinct_layers
from hwbench_data.costing import Demands, Device, gap_of
from hwbench_data.recipes.common import COSTS, COUNTS, MODELLED, Built, Request, provenance
from hwbench_data.store import ANY, Block, Card, Floats
from search_spaces.networks import fbnet

LADDERS = ((32, 100), (224, 1000))
"""(image side, classes) of HW-NAS-Bench's two tables."""
POLICY = (
    "Each layer under its mapping of least latency on the device's default accelerator, nothing kept on chip between "
    "layers but weights in the cells of crossbars, if they hold those of the largest network: costs of blocks add up "
    "to those of networks exactly. edp_gap: how far the energy-delay product of the largest network, for which the "
    "default accelerator is the best, may lie above that of any choice of mappings, by a convex-hull bound"
)
LARGEST = "conv_k5_e6"


def build(request: Request) -> Built:
    """Price every block; the first `limit` of each ladder if that is asked."""
    labels: list[str] = []
    columns: dict[tuple[str, str, str], list[Floats]] = {}
    counted: dict[str, list[Floats]] = {"params": [], "macs": []}
    defaults: dict[str, dict[str, str]] = {name: {} for name in MODELLED}
    gaps: dict[str, dict[str, float]] = {name: {} for name in MODELLED}
    for side, classes in LADDERS:
        space = fbnet.space((3, side, side), classes)
        blocks = dict(list(block_layers(space).items())[: request.limit])
        largest = space.workload(dict.fromkeys(space.choices, LARGEST))
        demands = _demands(blocks, largest)
        labels += blocks
        counted["params"].append(demands.params[:-1])
        counted["macs"].append(demands.macs[:-1])
        for name in MODELLED:
            request.progress(f"{name} {side}x{side}")
            default, costs, gaps[name][f"{side}x{side}"] = _on_default(Device(name, demands, request.workers))
            defaults[name][f"{side}x{side}"] = default
            for metric, values in zip(COSTS, costs, strict=True):
                columns.setdefault((name, metric, ""), []).append(values[:-1])
    written = [Block.full((ANY, metric), np.concatenate(parts), "modelled") for metric, parts in counted.items()]
    written += [
        Block.full((name, metric), np.concatenate(parts), "modelled") for (name, metric, _), parts in columns.items()
    ]
    devices: dict[str, dict[str, Any]] = {
        name: {
            "title": title,
            "source": "modelled",
            "policy": POLICY,
            "edp_gap": gaps[name],
            "default_accelerators": defaults[name],
        }
        for name, title in MODELLED.items()
    }
    card = Card(
        "fbnet_blocks",
        "FBNet's blocks by HW-NAS-Bench's keys, at 32x32 and 224x224; `hwbench_data.fbnet` adds them up to networks",
        {"kind": "listed", "space": "fbnet", "count": len(labels)},
        {**COUNTS, **COSTS},
        devices,
        {},
        provenance("cosearch bench build fbnet_blocks", request.seed),
        (
            f"The default accelerator of an image size has the least energy-delay product for {LARGEST} everywhere.",
            "8 bit; moving the network's input and output through DRAM is not part of any block.",
        ),
        {},
    )
    return Built(card, written, labels)


def block_layers(space: fbnet.FbnetSpace) -> dict[str, tuple[Layer, ...]]:
    """Block key -> its layers; none for a skip that is a wire."""
    found: dict[str, tuple[Layer, ...]] = {}
    for choice in fbnet.CHOICES:
        workload = space.workload(dict.fromkeys(space.choices, choice))
        for position in space.positions:
            own = tuple(layer for layer in workload.layers if layer.name.startswith(f"{position.name}."))
            found[fbnet.block_key(position, str(choice))] = own
        for name, key in fbnet.fixed_keys(space).items():
            found[key] = tuple(layer for layer in workload.layers if layer.name == name)
    return found


def _demands(blocks: dict[str, tuple[Layer, ...]], largest: Workload) -> Demands:
    """A demand per block, and at the end one for the largest network."""
    parts = [Workload(key, layers) for key, layers in blocks.items() if layers]
    layers = distinct_layers([largest, *parts])
    counted = {part.name: count_layers(part, layers) for part in parts}
    rows = [counted.get(key, [0] * len(layers)) for key in blocks] + [count_layers(largest, layers)]
    zeros = np.zeros(len(rows))
    live, crossing = zeros.copy(), zeros.copy()
    live[-1], crossing[-1] = largest.live_activation_bytes, host_bytes(largest)
    return Demands(layers, np.array(rows, np.int64), live, crossing, np.arange(len(rows)))


def _on_default(device: Device) -> tuple[str, tuple[Floats, Floats], float]:
    """The accelerator that is best for the last demand; latency and energy of all demands on it; the last one's gap."""
    from cosearch.hardware import grid
    from cosearch.hardware.pricing import RESIDENCIES, Residency

    d = device.demands
    largest = d.counts[-1], float(d.live_bytes[-1]), float(d.host_bytes[-1])
    front = device.tensor.hardware_front(largest[0], largest[1], host_bytes=largest[2])
    best = front.take([int(np.argmin(front.edp))])
    where = np.array([[int(best.shared[0]), *best.engines[0].tolist()]])
    accelerator = best.accelerator(0)
    inside = accelerator.engines[0].form is not None and RESIDENCIES[int(best.residency[0])].weights
    latency, energy = grid(device.tensor, where, residency=Residency(inside, False)).networks(d.counts)
    found = [np.where(np.isfinite(values[:, 0]), values[:, 0], np.nan) for values in (latency, energy)]
    return accelerator.name, (found[0], found[1]), round(gap_of(device.tensor, front, *largest), 6)
