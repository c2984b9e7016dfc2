"""The `fbnet_blocks` table: every block of FBNet at 32x32 and 224x224, modelled and on a measured processor."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cosearch.workload import INPUT, Layer, Workload, count_layers, distinct_layers, host_bytes
from hwbench_data.costing import Demands, Device, gap_of
from hwbench_data.fbnet import keys as composition
from hwbench_data.measuring import Measurement, measure
from hwbench_data.networks import notation
from hwbench_data.onnxnet import onnx_model
from hwbench_data.recipes import cpu
from hwbench_data.recipes.common import COSTS, COUNTS, MODELLED, Built, Request, provenance
from hwbench_data.store import ANY, Block, Card, Floats
from search_spaces.decisions import parse_pairs
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
SHIPPED = Path(__file__).parents[1] / "data" / "fbnet_blocks"
WHOLE = "whole"
"""What the names of networks that were measured in one piece begin with."""
MEASURED_POLICY = (
    "Every block measured alone, as look-up tables of blocks are; skips that are wires take no time. A sum of blocks "
    "is not the network in one piece: each block is a call of the runtime, and finds its weights in the caches. "
    "whole_networks: sum over whole, of random networks that were measured both ways"
)


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
    sample_file = _sample_file(request)
    if sample_file is not None:
        devices[cpu.NAME], timed = _measured(sample_file, labels)
        written.append(timed)
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
            "8 bit where modelled, float32 where measured; moving the network's input and output through DRAM is not "
            "part of any block.",
        ),
        {},
    )
    return Built(card, written, labels, {cpu.FILE: sample_file} if sample_file is not None else None)


def measured_models(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, ONNX model): every block by its key, and of each ladder `count` random networks in one piece, for which
    the name is ``whole SIDE name=choice;...``.
    """
    for side, classes in LADDERS:
        space = fbnet.space((3, side, side), classes)
        rng = np.random.default_rng([seed, side])
        networks = [space.sample(rng) for _ in range(count)]
        for key, block in block_workloads(space).items():
            yield key, onnx_model(block, space.rectified)
        for arch in networks:
            yield f"{WHOLE} {side} {notation(arch)}", onnx_model(space.workload(arch), space.rectified)


def _sample_file(request: Request) -> Path | None:
    """Measurements to use: new ones where asked for, else the shipped ones."""
    if not request.measure:
        shipped = SHIPPED / cpu.FILE
        return shipped if shipped.is_file() else None
    results: list[Measurement] = []
    for result in measure(measured_models(request.measure, request.seed)):
        results.append(result)
        if len(results) % 25 == 0:
            request.progress(f"{cpu.NAME}: {len(results)} measured")
    request.folder.mkdir(parents=True, exist_ok=True)
    cpu.write_rows(
        request.folder / cpu.FILE,
        {name: [getattr(result, name) for result in results] for name in Measurement.__dataclass_fields__},
        {"mean_load": f"{os.getloadavg()[2]:.2f}"},
    )
    return request.folder / cpu.FILE


def _measured(path: Path, labels: list[str]) -> tuple[dict[str, Any], Block]:
    """The card's entry of the measured device, and its figures of the blocks; one that is not certain has none."""
    rows, session = cpu.read_rows(path, tuple(Measurement.__dataclass_fields__))
    names, sure = rows["name"].tolist(), rows["measured"].tolist()
    latency = {name: ms for name, ms, known in zip(names, rows["median_ms"].tolist(), sure, strict=True) if known}
    entry: dict[str, Any] = {
        "title": f"{session['processor']}, one thread, onnxruntime",
        "source": "measured",
        "policy": MEASURED_POLICY,
        "session": session,
        "refused": len(names) - len(latency),
        "whole_networks": {},
    }
    for side, classes in LADDERS:
        space = fbnet.space((3, side, side), classes)
        blocks = block_workloads(space)
        latency |= {key: 0.0 for key in block_layers(space) if key not in blocks}
        ratios = []
        for name, ms in latency.items():
            if name.startswith(f"{WHOLE} {side} "):
                parts = [latency.get(key, np.nan) for key in composition(space, parse_pairs(name.split(" ", 2)[2]))]
                ratios.append(sum(parts) / ms)
        known = np.array(ratios)[np.isfinite(ratios)]
        if len(known):
            figures = {"networks": len(known), "median": np.median(known), "least": known.min(), "most": known.max()}
            entry["whole_networks"][f"{side}x{side}"] = {name: round(float(v), 3) for name, v in figures.items()}
    values = np.array([latency.get(label, np.nan) for label in labels])
    return entry, Block.full((cpu.NAME, "latency_ms"), values, "measured")


def block_workloads(space: fbnet.FbnetSpace) -> dict[str, Workload]:
    """Block key -> the block alone, fed by the network's layers before it as by an input; skips that are wires are
    left out.
    """
    found: dict[str, Workload] = {}
    for key, own, whole in _cuts(space):
        if own:
            at = {i: n for n, i in enumerate(own)}
            inputs = tuple(tuple(at.get(j, INPUT) for j in whole.inputs[i]) for i in own)
            found[key] = Workload(key, tuple(whole.layers[i] for i in own), inputs)
    return found


def block_layers(space: fbnet.FbnetSpace) -> dict[str, tuple[Layer, ...]]:
    """Block key -> its layers; none for a skip that is a wire."""
    return {key: tuple(whole.layers[i] for i in own) for key, own, whole in _cuts(space)}


def _cuts(space: fbnet.FbnetSpace) -> Iterator[tuple[str, list[int], Workload]]:
    """(block key, numbers of its layers, a network that has them); a key may come again."""
    for choice in fbnet.CHOICES:
        whole = space.workload(dict.fromkeys(space.choices, choice))
        names = [layer.name for layer in whole.layers]
        for position in space.positions:
            own = [i for i, name in enumerate(names) if name.startswith(f"{position.name}.")]
            yield fbnet.block_key(position, str(choice)), own, whole
        for fixed, key in fbnet.fixed_keys(space).items():
            yield key, [names.index(fixed)], whole


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
