"""One layer on two engines at once: some output channels multiply on DSP blocks, the rest bit-serially on LUTs.

The idea is N3H-Core's (Gong et al., FPGA 2022). Both engines read the same inputs, at the same bit-widths; each makes
its own channels of the output. While both run, the memories are divided: the first engine has a `share` of the buffers,
ports, DRAM rate and vector lanes, the second one the rest. Cuts come in channel granules (`cuts`). For each layer, pair
of engine configurations, shared configuration and policy the best cut and share is chosen, running the whole layer on
one of the two included: ``latency = max(first, second)``, ``energy = first + second``, static power
paid once. Each part's mapping minimises the policy's score for the part alone, so latency is exact for the latency
policy; between the policies it is the best over the grid.

Pairs are made of engines on the Pareto set of their kind only: one that is never cheaper for any part of any layer, and
takes no fewer resources than another, cannot make a better pair.

In a pipeline of images both engines could balance whole networks instead of every layer; the interval between images
that follows from the balance per layer is an upper bound.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator
from cosearch.hardware.pricing import RESIDENCIES, ColumnTable, Residency, best_costs, layer_front
from cosearch.hardware.tables import UNLIMITED_BITS, EngineTable, Floats, Ints, Prices, SharedTable
from cosearch.workload import Kind, Layer

if TYPE_CHECKING:
    from cosearch.hardware.cost import Cost
    from cosearch.hardware.mapping import Mapping as LayerMapping

KINDS: tuple[Kind, Kind] = ("mac", "bitserial")
"""Kinds of the two engines; a layer of either kind runs on both."""
NAME = "+".join(KINDS)
GRANULE = 8
MOST_CUTS = 16


def channels(layer: Layer, k: int, kind: Kind) -> Layer:
    """k of a layer's output channels as a layer of a kind; of a grouped layer whole groups with their inputs."""
    groups = k * layer.groups // layer.K if layer.groups > 1 else 1
    return replace(layer, kind=kind, K=k, C=layer.C // layer.groups * groups, groups=groups)


def cuts(layer: Layer) -> list[int]:
    """Output channels that the second engine may take: none, all, and multiples of a granule in between.

    The granule is 8 channels, or more where that would give more than 16 parts; of a grouped layer whole groups.
    """
    unit = layer.K // layer.groups if layer.groups > 1 else 1
    step = unit * math.ceil(GRANULE / unit)
    step *= math.ceil(layer.K / step / MOST_CUTS)
    return [*range(0, layer.K, step), layer.K]


def divided(shared: SharedTable, share: float) -> SharedTable:
    """What one engine has of the shared configurations while the other one has the rest."""
    return replace(
        shared,
        weight_bits=(shared.weight_bits * share).astype(np.int64),
        activation_bits=(shared.activation_bits * share).astype(np.int64),
        port_bits=shared.port_bits * share,
        dram_bits=shared.dram_bits * share,
        lanes=np.maximum(1, (shared.lanes * share).astype(np.int64)),
    )


def _or(values: NDArray[Any], absent: Any) -> NDArray[Any]:
    """Values of engines with one more at position -1: that of an engine which is not there."""
    return np.concatenate([values, np.full((1, *values.shape[1:]), absent, values.dtype)])


@dataclass(frozen=True)
class PairTable:
    """Pairs of engine configurations, used like an `EngineTable`.

    left, right: [pair] configuration of the first and of the second engine, -1 where there is none.
    """

    first: EngineTable
    second: EngineTable
    left: Ints
    right: Ints
    shares: tuple[float, ...]

    @classmethod
    def of(cls, first: EngineTable, second: EngineTable, usable: Sequence[int], shares: Sequence[float]) -> "PairTable":
        """Every pair of a usable first and any second engine, and each of them alone."""
        a, b = np.array([*usable, -1]), np.array([*range(len(second)), -1])
        left, right = (part.ravel() for part in np.meshgrid(a, b, indexing="ij"))
        return cls(first, second, left[:-1], right[:-1], tuple(shares))  # the last one has no engine at all

    @property
    def kind(self) -> str:
        return NAME

    def __len__(self) -> int:
        return len(self.left)

    @property
    def resources(self) -> Ints:
        parts = ((self.first, self.left), (self.second, self.right))
        return sum((_or(table.resources, 0)[at] for table, at in parts), start=np.zeros(1, np.int64))

    @property
    def fmax_mhz(self) -> Floats:
        first, second = _or(self.first.fmax_mhz, np.inf)[self.left], _or(self.second.fmax_mhz, np.inf)[self.right]
        return np.minimum(first, second)

    @property
    def weight_bits(self) -> Ints:
        return np.full(len(self), UNLIMITED_BITS)

    @property
    def activation_bits(self) -> Ints:
        return np.full(len(self), UNLIMITED_BITS)

    def seen(self, layer: Layer) -> Layer:
        """The layer as engines of this kind run it."""
        return self.first.seen(layer)

    def same_costs(self, other: "EngineTable | PairTable") -> bool:
        """Never: which pairs are on the Pareto set, and so priced at all, depends on resources too."""
        return False


@dataclass(frozen=True)
class _Parts:
    """Costs of one part of a layer on one of the two engines: per residency ms and mj [column, policy, engine]."""

    costs: tuple[tuple[Floats, Floats], ...]


def _price(
    layer: Layer,
    engines: EngineTable,
    shared: SharedTable,
    columns: Sequence[ColumnTable],
    prices: Prices,
    policies: Sequence[float],
) -> _Parts:
    front = layer_front(
        layer, engines, sorted(set(shared.weight_bits.tolist())), sorted(set(shared.activation_bits.tolist()))
    )
    costs = [
        best_costs(front, engines, shared, columns[case], residency, prices, policies)[:2]
        for case, residency in enumerate(RESIDENCIES)
    ]
    return _Parts(tuple(costs))


def _options(layer: Layer, shares: Sequence[float]) -> list[tuple[int, float]]:
    """(channels of the second engine, share of the first one) of every way to run a layer."""
    middle = [(k, share) for k in cuts(layer)[1:-1] for share in shares]
    return [(0, 1.0), *middle, (layer.K, 0.0)]


def fill(
    layers: Sequence[Layer],
    table: PairTable,
    shared: SharedTable,
    columns: Sequence[ColumnTable],
    prices: Prices,
    policies: Sequence[float],
    latency: Sequence[Floats],
    energy: Sequence[Floats],
    advance: Callable[[], None],
) -> None:
    """Costs of layers on every pair, per residency into [layer, column, policy, pair]; infinite off the Pareto set."""
    priced: list[list[tuple[_Parts | None, _Parts | None]]] = []
    for layer in layers:
        own = table.seen(layer)
        rows = []
        for k, share in _options(own, table.shares):
            first = second = None
            if (k < own.K and not len(table.first)) or (k > 0 and not len(table.second)):
                continue
            if k < own.K:
                first = _price(
                    channels(own, own.K - k, KINDS[0]), table.first, divided(shared, share), columns, prices, policies
                )
            if k > 0:
                rest = divided(shared, 1 - share)
                second = _price(channels(own, k, KINDS[1]), table.second, rest, columns, prices, policies)
            rows.append((first, second))
        priced.append(rows)
        advance()
    useful_first = _unbeaten(table.first, [first for rows in priced for first, _ in rows if first])
    useful_second = _unbeaten(table.second, [second for rows in priced for _, second in rows if second])
    pairs = np.flatnonzero(useful_first[table.left] & useful_second[table.right])
    weights = np.asarray(policies)[None, :, None]
    for at, rows in enumerate(priced):
        for case in range(len(RESIDENCIES)):
            latency[case][at], energy[case][at] = np.inf, np.inf
            ms, mj = (np.full((*latency[case].shape[1:3], len(pairs)), np.inf) for _ in range(2))
            best = np.full(ms.shape, np.inf)
            for first, second in rows:
                one = _take(first, case, table.left[pairs])
                two = _take(second, case, table.right[pairs])
                both_ms = np.maximum(one[0], two[0])
                with np.errstate(invalid="ignore"):  # infinity less infinity where nothing fits
                    both_mj = one[1] + two[1] - prices.static_power_w * (one[0] + two[0] - both_ms)
                    score = np.where(np.isfinite(both_ms), weights * both_ms + (1 - weights) * both_mj, np.inf)
                better = score < best
                best = np.where(better, score, best)
                ms, mj = np.where(better, both_ms, ms), np.where(better, both_mj, mj)
            latency[case][at][..., pairs], energy[case][at][..., pairs] = ms, mj


def _take(part: _Parts | None, case: int, engine: Ints) -> tuple[Floats, Floats]:
    """Costs of a part on the engines of some pairs; a part that does not exist takes nothing, an engine that does not
    exist runs nothing.
    """
    if part is None:
        return np.zeros(1), np.zeros(1)
    ms, mj = (values[..., engine] for values in part.costs[case])
    return np.where(engine >= 0, ms, np.inf), np.where(engine >= 0, mj, 0.0)


def _unbeaten(engines: EngineTable, parts: Sequence[_Parts]) -> NDArray[np.bool_]:
    """Engines that no other one beats in resources and in every cost of every part; the first of equal ones stays.

    Position -1 stands for no engine.
    """
    n = len(engines)
    resources, index = engines.resources, np.arange(n)
    beats = (resources[:, None] <= resources[None]).all(axis=2) & (index[:, None] != index)
    same = (resources[:, None] == resources[None]).all(axis=2)
    for part in parts:
        for values in (array.reshape(-1, n).T for pair in part.costs for array in pair):
            for a in np.flatnonzero(beats.any(axis=1)):
                others = np.flatnonzero(beats[a])
                beats[a, others] &= (values[a] <= values[others]).all(axis=1)
                same[a, others] &= (values[a] == values[others]).all(axis=1)
    beats &= ~same | (index[:, None] < index)
    return _or(~beats.any(axis=0), True)


@dataclass(frozen=True)
class Split:
    """How one layer runs on two engines: each part with its mapping and cost; one part where it is not split.

    shares: of the memories, per part.
    """

    parts: "tuple[tuple[Layer, LayerMapping, Cost], ...]"
    shares: tuple[float, ...]
    latency_ms: float
    energy_mj: float


def partition(accelerator: Accelerator, share: float) -> Accelerator:
    """What one engine has of an accelerator while the other one has the rest."""
    levels = [
        replace(
            level,
            capacity_bytes=math.floor(level.capacity_bytes * 8 * share) / 8
            if math.isfinite(level.capacity_bytes)
            else level.capacity_bytes,
            read_bits_per_cycle=level.read_bits_per_cycle * share,
            write_bits_per_cycle=level.write_bits_per_cycle * share,
        )
        for level in accelerator.levels
    ]
    return replace(accelerator, levels=tuple(levels), lanes=max(1, int(accelerator.lanes * share)), splits=())


def best_split(layer: Layer, accelerator: Accelerator, policy: float, residency: Residency) -> Split:
    """The best way to run a layer on an accelerator with two engines for it; the policy is as in the tensor.

    Raises: HardwareError naming the layer if nothing fits.
    """
    from cosearch.hardware.nest import weighted
    from cosearch.hardware.single import best

    engines = {kind: accelerator.engine_for(kind) for kind in KINDS}
    own = next(engine for engine in engines.values() if engine is not None).seen(layer)
    found: list[tuple[float, Split]] = []
    for k, share in _options(own, accelerator.splits):
        whole = (own.K - k, share, KINDS[0]), (k, 1 - share, KINDS[1])
        wanted = [(count, part, kind) for count, part, kind in whole if count]
        if any(engines[kind] is None for _, _, kind in wanted):
            continue
        try:
            parts = []
            for count, part, kind in wanted:
                piece = channels(own, count, kind)
                parts.append((piece, *best(piece, partition(accelerator, part), partial(weighted, policy), residency)))
        except HardwareError:
            continue
        times = [cost.latency_ms for _, _, cost in parts]
        ms = max(times)
        mj = sum(cost.energy_mj for _, _, cost in parts) - accelerator.static_power_w * (sum(times) - ms)
        score = policy * ms + (1 - policy) * mj
        found.append((score, Split(tuple(parts), tuple(part for _, part, _ in wanted), ms, mj)))
    if not found:
        raise HardwareError(f"layer {layer.name!r}: no mapping fits either engine of accelerator {accelerator.name!r}")
    return min(found, key=lambda item: item[0])[1]


def energy_of(split: Split, static_power_w: float) -> Mapping[str, float]:
    """Energy of a split by component, pJ; static power once."""
    total: dict[str, float] = {}
    for _, _, cost in split.parts:
        for name, value in cost.energy_pj.items():
            total[name] = total.get(name, 0.0) + value
    total["static"] = static_power_w * split.latency_ms * 1e9
    return total
