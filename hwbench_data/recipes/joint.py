"""The `joint` table: pairs of a network and an accelerator among which every joint optimum is.

For each network the pairs on its hardware front of latency and energy, over all accelerators within the device's
budget. A pair that is best under any limits on latency and energy, together with anything that depends on the network
only (accuracy, size), is on its network's front; so fronts and constrained optima of this table are those of all pairs.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosearch.macro import BlockChoice
from hwbench_data.costing import Demands, Device, demands_of, gap_facts
from hwbench_data.networks import Cells, notation
from hwbench_data.recipes.common import COSTS, MODELLED, Built, Request, provenance
from hwbench_data.recipes.nasbench201 import demands_at
from hwbench_data.store import ANY, SOURCES, Block, Card, Floats, Ints, Metric
from search_spaces.decisions import Arch
from search_spaces.networks import shiftadd

DEVICES = ("ecp5-85f", "zcu102")
SIDE = 32
OPERATORS, EXPANSIONS = ("conv", "shift", "add"), (1, 3, 6)
POLICY = (
    "All accelerators within the part's budget; layers of one engine run under one weight between latency and energy "
    "of a fixed grid, so that least latency and least energy are exact and what lies between is the best over the "
    "grid. edp_gap: how far a network's least energy-delay product may lie above that of any choice of mappings, by a "
    "convex-hull bound, as a fraction of it, over the networks of each space"
)


@dataclass(frozen=True)
class _Problem:
    """A space to pair with accelerators. names: of its networks; demands: of the same networks."""

    space: str
    names: Sequence[str]
    demands: Demands


def build(request: Request) -> Built:
    """Every pair on its network's hardware front; of the first `limit` networks of each space if that is asked."""
    problems = [_cells(request.limit), _shiftadd(request.limit)]
    labels: list[str] = []
    blocks: list[Block] = []
    gaps: dict[str, dict[str, dict[str, float]]] = {name: {} for name in DEVICES}
    for problem in problems:
        start, networks = len(labels), []
        for name in DEVICES:
            request.progress(f"{problem.space} {name}")
            names, network, costs, gap = _pairs(problem, Device(name, problem.demands, request.workers))
            gaps[name][problem.space] = gap_facts(gap)
            ids = np.arange(len(labels), len(labels) + len(names))
            labels += names
            networks.append(network)
            for metric, values in zip(COSTS, costs, strict=True):
                sources = np.full(len(ids), SOURCES.index("modelled"), np.int8)
                blocks.append(Block((name, metric, problem.space), ids, values, sources))
        ids = np.arange(start, len(labels))
        capacity = problem.demands.macs[np.concatenate(networks)]
        blocks.append(
            Block(
                (ANY, "capacity", problem.space), ids, capacity, np.full(len(ids), SOURCES.index("modelled"), np.int8)
            )
        )
    devices: dict[str, dict[str, Any]] = {
        name: {"title": MODELLED[name], "source": "modelled", "policy": POLICY, "edp_gap": gaps[name]}
        for name in DEVICES
    }
    capacity_metric = Metric(
        "operations", "higher", "operations with weights: a stand-in for accuracy where none is known; more is better"
    )
    card = Card(
        "joint",
        "Pairs of network and accelerator that hold every joint optimum: two spaces on two devices",
        {"kind": "pairs", "count": len(labels)},
        {"capacity": capacity_metric, **COSTS},
        devices,
        {"space": tuple(problem.space for problem in problems)},
        provenance("cosearch bench build joint", request.seed),
        (
            f"nasbench201: {SIDE}x{SIDE} images, one network of each class of isomorphic cells; accuracies join in.",
            "shiftadd: 8x8 images, kernel 3, the blocks of a stage alike: 729 networks of convolutions, shifts, "
            "additions; no accuracy yet.",
        ),
        {},
    )
    return Built(card, blocks, labels)


def _pairs(problem: _Problem, device: Device) -> tuple[list[str], Ints, tuple[Floats, Floats], Floats]:
    """Names of the pairs, their networks, their latency and energy; and the gap of each network."""
    points = device.points()
    of_demand: dict[int, list[int]] = {}
    for at, demand in enumerate(points.demand.tolist()):
        of_demand.setdefault(demand, []).append(at)
    names, network, chosen = [], [], []
    for i, (name, demand) in enumerate(zip(problem.names, problem.demands.of.tolist(), strict=True)):
        seen: Counter[str] = Counter()
        for at in of_demand.get(demand, ()):
            accelerator = points.names[at]
            seen[accelerator] += 1
            # one accelerator can stand on a front twice, under two mapping policies
            policy = f"#{seen[accelerator]}" if seen[accelerator] > 1 else ""
            names.append(f"{problem.space}:{name}@{accelerator}{policy}")
            network.append(i)
            chosen.append(at)
    picked = np.array(chosen, np.int64)
    costs = points.latency_ms[picked], points.energy_mj[picked]
    return names, np.array(network, np.int64), costs, points.gap[problem.demands.of]


def _cells(limit: int | None) -> _Problem:
    first = np.sort(np.unique(Cells().same, return_index=True)[1])[:limit]
    return _Problem("nasbench201", [str(i) for i in first.tolist()], demands_at(SIDE).only(first))


def _shiftadd(limit: int | None) -> _Problem:
    space = shiftadd.space()
    archs = _tied(space)[:limit]
    workloads = [space.workload(arch) for arch in archs]
    layers = space.layer_table()
    live = np.array([workload.live_activation_bytes for workload in workloads])
    demands = demands_of(layers, space.counts(archs, layers), live, lambda i: workloads[i])
    return _Problem("shiftadd", [notation(arch) for arch in archs], demands)


def _tied(space: shiftadd.MacroSpace) -> list[Arch]:
    """The networks whose blocks are alike within a stage, with kernel 3."""
    choices = [str(BlockChoice(op, 3, expansion)) for op in OPERATORS for expansion in EXPANSIONS]
    stages = [width for width, _, _ in space.macro.stages]
    return [
        {p.name: per_stage[stages.index(p.out_channels)] for p in space.macro.positions}
        for per_stage in itertools.product(choices, repeat=len(stages))
    ]
