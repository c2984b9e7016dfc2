"""Modelled figures of a table: many networks on a device's accelerators, each distinct demand priced once."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cosearch.errors import InfeasibleError
from cosearch.workload import Layer, Workload, host_bytes
from hwbench_data.store import Floats, Ints

if TYPE_CHECKING:
    from cosearch.hardware import CostTensor, HardwareFront
    from cosearch.hardware.accelerator import Accelerator
    from cosearch.hardware.tables import AcceleratorSpace

OBJECTIVES = ("latency_ms", "energy_mj")


@dataclass(frozen=True)
class Demands:
    """What networks ask of hardware; networks with the same demand cost the same on any accelerator.

    counts: [demands, layers]; live_bytes, host_bytes: [demands]; of: [networks] the demand of each network.
    """

    layers: tuple[Layer, ...]
    counts: Ints
    live_bytes: Floats
    host_bytes: Floats
    of: Ints

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def macs(self) -> Floats:
        """[networks] operations of layers with weights."""
        return self._sum([layer.macs if layer.has_weights else 0 for layer in self.layers])

    @property
    def params(self) -> Floats:
        """[networks] weights."""
        return self._sum([layer.weight_count for layer in self.layers])

    def only(self, networks: Ints) -> "Demands":
        """The demands of some networks."""
        kept, of = np.unique(self.of[networks], return_inverse=True)
        return Demands(self.layers, self.counts[kept], self.live_bytes[kept], self.host_bytes[kept], of)

    def _sum(self, per_layer: Sequence[int]) -> Floats:
        return np.asarray((self.counts @ np.array(per_layer, np.int64)).astype(float)[self.of])


def demands_of(
    layers: Sequence[Layer], counts: Ints, live_bytes: Floats, example: Callable[[int], Workload]
) -> Demands:
    """Group networks by demand. counts: [networks, layers]; live_bytes: [networks].

    example: network -> workload, asked once per demand for the bytes of its input and output.
    """
    keys = np.column_stack([counts, live_bytes.astype(np.int64)])
    _, first, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    crossing = np.array([host_bytes(example(int(i))) for i in first])
    return Demands(tuple(layers), counts[first], live_bytes[first], crossing, of.ravel())


@dataclass(frozen=True)
class Points:
    """Undominated (demand, accelerator) pairs. demand: [points]; names: [points] of the accelerators.

    gap: [demands] how far the least energy-delay product found may lie above the best mappings', see `gap_facts`.
    """

    demand: Ints
    latency_ms: Floats
    energy_mj: Floats
    names: tuple[str, ...]
    gap: Floats


@dataclass(frozen=True)
class DeviceCosts:
    """latency_ms and energy_mj [demands] on the default accelerator and on each demand's best one.

    gaps: likewise, [demands] as of `Points`.
    """

    default_name: str
    default: tuple[Floats, Floats]
    best: tuple[Floats, Floats]
    best_names: tuple[str, ...]
    gaps: tuple[Floats, Floats]


def gap_facts(gap: Floats) -> dict[str, float]:
    """What a card says of gaps of network energy-delay products to their convex-hull bounds, as fractions of those.

    Layers run under one mapping policy per engine; what any choice of mappings could reach is bounded by
    `CostTensor.edp_bound`. gap: [networks or demands], NaN where a network runs nowhere.
    """
    known = gap[np.isfinite(gap)]
    return {"median": round(float(np.median(known)), 6), "largest": round(float(known.max()), 6)} if len(known) else {}


Rows = tuple[Ints, Floats, Floats]
"""counts, live_bytes and host_bytes of some demands."""
BLOCKS = 16
"""Parts of the demands of a device that workers share: demands differ in how long they take."""


class Workers(Protocol):
    """Who prices, if not this process: `cosearch.distributed.workers.Workers`."""

    def price(
        self,
        layers: tuple[Layer, ...],
        space: "AcceleratorSpace",
        policies: tuple[float, ...],
        progress: Callable[[int, int], None] | None,
    ) -> "CostTensor": ...

    def map(self, work: Callable[[Any, Any], Any], shared: Any, parts: Sequence[Any]) -> list[Any]: ...


class Device:
    """The accelerators of a device, ready to price the layers of some demands."""

    def __init__(self, name: str, demands: Demands, workers: Workers | None = None) -> None:
        from cosearch.hardware import cost_tensor
        from search_spaces import accelerators

        self.name, self.demands, self._workers = name, demands, workers
        self.space: Any = accelerators.find(name)
        build = workers.price if workers is not None else None
        self.tensor: CostTensor = cost_tensor(demands.layers, self.space, build=build)

    def _each(self, work: Callable[["CostTensor", Rows], list[Any]]) -> list[Any]:
        """What `work` gives for every demand, a block of them at a time where workers share them."""
        d = self.demands
        if self._workers is None:
            return work(self.tensor, (d.counts, d.live_bytes, d.host_bytes))
        cuts = [len(d) * i // BLOCKS for i in range(BLOCKS + 1)]
        blocks = [(d.counts[a:b], d.live_bytes[a:b], d.host_bytes[a:b]) for a, b in itertools.pairwise(cuts)]
        return list(itertools.chain.from_iterable(self._workers.map(work, self.tensor, blocks)))

    def points(self) -> Points:
        """The fronts of all demands, one after the other."""
        found: list[Points] = self._each(_points)
        return Points(
            np.repeat(np.arange(len(found)), [len(part.names) for part in found]),
            np.concatenate([part.latency_ms for part in found]),
            np.concatenate([part.energy_mj for part in found]),
            tuple(itertools.chain.from_iterable(part.names for part in found)),
            np.concatenate([part.gap for part in found]),
        )

    def costs(self, default_for: int) -> DeviceCosts:
        """default_for: the demand whose accelerator of least energy-delay product is the default.

        Raises: InfeasibleError if that demand fits no accelerator.
        """
        found: list[tuple[float, float, float, Accelerator | None]] = self._each(_least_edp)
        chosen = found[default_for][3]
        if chosen is None:
            raise InfeasibleError(f"{self.name}: no accelerator runs the network that its default is chosen for")
        latency, energy, gaps = np.array([figures[:3] for figures in found]).T
        names = ["" if accelerator is None else accelerator.name for *_, accelerator in found]
        *default, default_gap = self._on(chosen)
        return DeviceCosts(chosen.name, (default[0], default[1]), (latency, energy), tuple(names), (default_gap, gaps))

    def default_costs(self, default_for: int) -> tuple[str, Floats]:
        """The default accelerator's name, and latency_ms, energy_mj and gap [3, demands] on it; see `costs`."""
        d = self.demands
        live, crossing = float(d.live_bytes[default_for]), float(d.host_bytes[default_for])
        chosen = self.tensor.best_accelerator(
            d.counts[default_for], "edp", live_activation_bytes=live, host_bytes=crossing
        )
        return chosen.accelerator(0).name, self._on(chosen.accelerator(0))

    def _on(self, chosen: "Accelerator") -> Floats:
        """Every demand on one accelerator, its mapping policy the one of least energy-delay product: [3, demands]
        latency_ms, energy_mj and the gap of their product.
        """
        from cosearch.hardware import accelerator_tensor
        from cosearch.hardware.tables import NestSpace

        only = accelerator_tensor(self.demands.layers, chosen)
        # engines that share buffers choose policy and residency for whole networks, which is quick for all at once
        found = one_by_one(only, self.demands) if isinstance(self.space, NestSpace) else at_once(only, self.demands)
        latency, energy, bound = found
        found[:, ~np.isfinite(latency)] = np.nan
        return np.stack([latency, energy, np.maximum(0.0, latency * energy / bound - 1)])


def _fronts(tensor: "CostTensor", rows: Rows) -> "Iterator[tuple[HardwareFront, float]]":
    """Per demand the accelerators that none beats in latency and energy, of those that fit the device's budget; and
    their gap.
    """
    for counts, live, crossing in zip(*rows, strict=True):
        front = tensor.hardware_front(counts, float(live), OBJECTIVES, host_bytes=float(crossing))
        yield front, gap_of(tensor, front, counts, float(live), float(crossing))


def gap_of(tensor: "CostTensor", front: "HardwareFront", counts: Ints, live: float, crossing: float) -> float:
    """Of the least energy-delay product on a demand's front, over all accelerators; NaN if there is none."""
    from cosearch.hardware import hull

    if not len(front):
        return float("nan")
    return hull.gap(float(front.edp.min()), tensor.edp_bound(counts, live, None, crossing))


def _points(tensor: "CostTensor", rows: Rows) -> list[Points]:
    """The front of each demand."""
    return [
        Points(
            np.zeros(len(front), np.int64),
            front.latency_ms,
            front.energy_mj,
            tuple(front.accelerator(i).name for i in range(len(front))),
            np.array([gap]),
        )
        for front, gap in _fronts(tensor, rows)
    ]


def _least_edp(tensor: "CostTensor", rows: Rows) -> "list[tuple[float, float, float, Accelerator | None]]":
    """Per demand latency_ms, energy_mj, gap, accelerator of least energy-delay product: NaN, None if none."""
    found: list[tuple[float, float, float, Accelerator | None]] = []
    for front, gap in _fronts(tensor, rows):
        if not len(front):
            found.append((np.nan, np.nan, gap, None))
            continue
        best = front.take([int(np.argmin(front.edp))])
        found.append((float(best.latency_ms[0]), float(best.energy_mj[0]), gap, best.accelerator(0)))
    return found


def one_by_one(only: "CostTensor", d: Demands) -> Floats:
    """[3, demands] latency_ms, energy_mj and bound of their product on the one accelerator of a tensor."""
    costs = [
        only.evaluate(counts, float(live), "edp", float(crossing))
        for counts, live, crossing in zip(d.counts, d.live_bytes, d.host_bytes, strict=True)
    ]
    return np.array([[getattr(cost, name) for cost in costs] for name in ("latency_ms", "energy_mj", "edp_bound")])


def at_once(only: "CostTensor", d: Demands) -> Floats:
    """The same for an accelerator whose engines share buffers: the least energy-delay product over the residencies that
    a network's size allows and over one policy per engine, as matrix products.
    """
    from cosearch.hardware.hull import outer_corners
    from cosearch.hardware.pricing import RESIDENCIES

    weight_bits = d.counts @ np.array([layer.weight_count * layer.weight_bits for layer in only.layers])
    keeps_weights = weight_bits <= only.shared.weight_bits[0]
    keeps_activations = 8 * d.live_bytes <= only.shared.activation_bits[0]
    host = np.array([only.host_cost(float(crossing), 0) for crossing in d.host_bytes]).T
    found = np.full((3, len(d)), np.inf)
    for case, residency in enumerate(RESIDENCIES):
        allowed = (keeps_weights | (not residency.weights)) & (keeps_activations | (not residency.activations))
        column = int(only.tables[case].of_shared[0])
        engines = [_sums(only, kind, case, column, d.counts) for kind in only.kinds]
        base = host + _sums(only, "vector", case, column, d.counts)[:, :, 0]
        for policies in itertools.product(range(len(only.policies)), repeat=len(engines)):
            total = base + sum(part[:, :, p] for part, p in zip(engines, policies, strict=True))
            better = allowed & np.isfinite(total[0]) & (total.prod(axis=0) < found[:2].prod(axis=0))
            found[:2, better] = total[:, better]
        under = base[:, :, None] + np.sum(engines, axis=0)
        latency, energy = outer_corners(under[0].T, under[1].T, only.policies)
        least = np.where(allowed, (latency * energy).min(axis=0), np.inf)
        found[2] = np.minimum(found[2], least)
    return found


def _sums(only: "CostTensor", kind: str, case: int, column: int, counts: Ints) -> Floats:
    """[2, demands, policies] of the layers of one kind on its one engine; infinite where one fits no mapping."""
    rows = only.vector_rows if kind == "vector" else only.rows[kind]
    times = counts[:, rows].astype(float)
    parts = []
    for costs in (only.latency, only.energy):
        values = np.asarray(costs[kind][case][:, column, :, 0])
        fits = np.isfinite(values)
        sums = times @ np.where(fits, values, 0.0)
        parts.append(np.where(times @ ~fits > 0, np.inf, sums))
    return np.stack(parts)
