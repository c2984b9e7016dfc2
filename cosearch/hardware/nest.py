"""Exact mapping search over a declared mapspace on any memory hierarchy.

A `Mapspace` says which dimensions an array axis may unroll, which levels are tiled, and in which orders their loops may
run. Every mapping of it is counted and priced, so the best one is exact. Tilings are even: divisors of the iterations
that unrolling leaves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import TENSORS, Accelerator, Axis, Engine, Mapspace, MemoryLevel
from cosearch.hardware.array import divisors
from cosearch.hardware.mapping import DIMS, LevelLoops, Mapping, loop_bounds
from cosearch.hardware.nestkernel import RELEVANCE, analyse
from cosearch.workload import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_THREADED = 4096
_AT = {dim: i for i, dim in enumerate(DIMS)}


def unrollings(axis: Axis, bounds: dict[str, int]) -> list[dict[str, int]]:
    """What an axis can unroll: one dimension as far as it goes, or one whole dimension and another in what is left."""
    options: list[dict[str, int]] = [{}]
    for first in axis.dims:
        if bounds[first] == 1:
            continue
        factor = min(bounds[first], axis.size)
        options.append({first: factor})
        room = axis.size // bounds[first]
        if room > 1:
            options += [
                {first: factor, second: min(bounds[second], room)}
                for second in axis.dims
                if second != first and bounds[second] > 1
            ]
    unique = {tuple(sorted(option.items())): option for option in options}
    return list(unique.values())


def _splits(trips: int, levels: int) -> list[tuple[int, ...]]:
    """Ordered factorisations of a trip count over `levels` levels."""
    if levels == 1:
        return [(trips,)]
    return [(d, *rest) for d in divisors(trips) for rest in _splits(trips // d, levels - 1)]


@dataclass(frozen=True)
class Nests:
    """A batch of loop nests: temporal, spatial [b, level, dimension]; orders [combination of loop orders, level, 8].

    Every nest of the batch is meant once with each combination of orders.
    """

    temporal: Floats
    spatial: Floats
    orders: Ints

    def __len__(self) -> int:
        return len(self.temporal) * len(self.orders)


def enumerate_nests(layer: Layer, engine: Engine, names: Sequence[str]) -> Nests:
    """Every mapping of the engine's mapspace; names: the levels of its hierarchy, innermost first."""
    space = _mapspace(engine)
    bounds = loop_bounds(layer)
    at_level = {name: i for i, name in enumerate(names)}
    homes = {dim: [at_level[t.level] for t in space.tiled if dim in t.dims] for dim in DIMS}
    times, fanouts = [], []
    for spatial in _spatial(space, bounds):
        factors = {dim: math.prod(option.get(dim, 1) for option in spatial) for dim in DIMS}
        table = _table({dim: -(-bounds[dim] // factors[dim]) for dim in DIMS}, homes, len(names))
        across = np.ones((len(names), len(DIMS)))
        for axis, option in zip(space.axes, spatial, strict=True):
            for dim, factor in option.items():
                across[at_level[axis.level], _AT[dim]] *= factor
        times.append(table)
        fanouts.append(np.broadcast_to(across, table.shape))
    orders = []
    for combination in product(*(t.orders for t in space.tiled)):
        rows = np.full((len(names), len(DIMS)), -1, np.int64)
        for t, order in zip(space.tiled, combination, strict=True):
            rows[at_level[t.level], : len(order)] = [_AT[dim] for dim in order]
        orders.append(rows)
    return Nests(np.concatenate(times), np.concatenate(fanouts), np.stack(orders))


def _mapspace(engine: Engine) -> Mapspace:
    if engine.mapspace is None:
        raise HardwareError(f"engine {engine.name!r} declares no mapspace")
    return engine.mapspace


def _spatial(space: Mapspace, bounds: dict[str, int]) -> Iterator[tuple[dict[str, int], ...]]:
    """Unrollings of all axes; a dimension on a later axis unrolls what earlier axes leave."""

    def extend(axes: Sequence[Axis], left: dict[str, int]) -> Iterator[tuple[dict[str, int], ...]]:
        if not axes:
            yield ()
            return
        for option in unrollings(axes[0], left):
            rest = {dim: -(-n // option.get(dim, 1)) for dim, n in left.items()}
            for others in extend(axes[1:], rest):
                yield (option, *others)

    every = list(extend(space.axes, bounds))
    used = [tuple(sorted((i, *pair) for i, option in enumerate(s) for pair in option.items())) for s in every]
    # an unrolling that only leaves out a part of another one is never better
    kept = [s for s, u in zip(every, used, strict=True) if not any(set(u) < set(other) for other in used)]
    yield from kept


def _table(trips: dict[str, int], homes: dict[str, list[int]], levels: int) -> Floats:
    """Temporal bounds of every tiling: [b, level, dimension]."""
    columns = []
    for dim in DIMS:
        if trips[dim] > 1 and not homes[dim]:
            raise HardwareError(f"the mapspace tiles no level along {dim}, which has {trips[dim]} iterations left")
        columns.append(_splits(trips[dim], len(homes[dim])) if homes[dim] else [()])
    grid = np.indices([len(c) for c in columns]).reshape(len(DIMS), -1)
    table = np.ones((grid.shape[1], levels, len(DIMS)))
    for at, dim in enumerate(DIMS):
        values = np.array(columns[at], float).reshape(len(columns[at]), -1)
        for position, level in enumerate(homes[dim]):
            table[:, level, at] = values[grid[at], position]
    return table


@dataclass(frozen=True)
class NestCounts:
    """What each mapping does; b = order combination x nest.

    cycles [b] of the array; used [b, level] instances; read_bits, write_bits [b, level, 3] per tensor; footprint_bits
    [b, level] of one instance; fills [b]: how often the array fills and drains; fanout [b, level]: instances needed.
    """

    cycles: Floats
    read_bits: Floats
    write_bits: Floats
    footprint_bits: Floats
    used: Floats
    fills: Floats
    fanout: Floats


def count_nests(
    layer: Layer, engine: Engine, levels: Sequence[MemoryLevel], n: Nests, resident: Sequence[str] = ()
) -> NestCounts:
    """Counts of every nest under every combination of orders: `cost.evaluate_batch`, compiled."""
    size, depth = len(n.temporal), len(levels)
    total = len(n)
    cycles, used, footprint = np.empty(total), np.empty((total, depth)), np.empty((total, depth))
    read_bits, write_bits = np.empty((total, depth, 3)), np.empty((total, depth, 3))
    bounds = loop_bounds(layer)
    widths = (layer.weight_bits * layer.has_weights, layer.input_bits, layer.accumulator_bits, layer.output_bits)
    fixed = (
        np.array([float(bounds[dim]) for dim in DIMS]),
        np.array([v // g for g, v in _window(layer)], np.int64),
        np.array([[tensor in level.holds for tensor in TENSORS] for level in levels]),
        np.array([level.keeps for level in levels]),
        np.array([tensor in resident for tensor in TENSORS]),
        np.array(widths, float),
        RELEVANCE,
    )
    spatial = np.ascontiguousarray(n.spatial)

    def one_order(combination: int) -> None:
        part = slice(combination * size, (combination + 1) * size)
        order = n.orders[combination : combination + 1]
        filled = (cycles[part], read_bits[part], write_bits[part], footprint[part], used[part])
        analyse(n.temporal, spatial, order, *fixed, *filled)

    if total < _THREADED:
        for combination in range(len(n.orders)):
            one_order(combination)
    else:  # the compiled loop lets go of the interpreter; each order fills its own part
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one_order, range(len(n.orders))))
    outer = n.temporal[:, -1:] if engine.fill_per == "tile" else n.temporal[:, 1:]
    fills = np.tile(outer.reshape(size, -1).prod(1), len(n.orders))
    above = np.cumprod(n.spatial.prod(2)[:, ::-1], axis=1)[:, ::-1]
    fanout = np.tile(np.concatenate([above[:, 1:], np.ones((size, 1))], axis=1), (len(n.orders), 1))
    return NestCounts(cycles, read_bits, write_bits, footprint, used, fills, fanout)


def _window(layer: Layer) -> list[tuple[int, int]]:
    """(divisor, value) of stride and dilation along P, R, then along Q, S."""
    pairs = []
    for stride, dilation in zip(layer.stride, layer.dilation, strict=True):
        common = math.gcd(stride, dilation)
        pairs += [(common, stride), (common, dilation)]
    return pairs


@dataclass(frozen=True)
class Totals:
    """Latency and energy of each mapping, static power and requantisation included; infinite where it does not fit."""

    latency_ms: Floats
    energy_mj: Floats


def totals(
    layer: Layer, accelerator: Accelerator, engine: Engine, levels: Sequence[MemoryLevel], counts: NestCounts
) -> Totals:
    """Whole-layer figures of a batch: what `evaluate` returns for each mapping."""
    array = counts.cycles * engine.cycles_per_operation(layer) + engine.fill_cycles * counts.fills
    cycles = np.maximum(array, -(-layer.output_count // accelerator.lanes))
    fixed = layer.macs * accelerator.energies.operation_pj(layer, engine.fabric)
    pj = np.full(len(cycles), fixed + layer.output_count * accelerator.energies.requantise_pj)
    fits = np.ones(len(cycles), bool)
    for i, level in enumerate(levels):
        reads, writes = counts.read_bits[:, i], counts.write_bits[:, i]
        read_time = reads.sum(1) / (counts.used[:, i] * level.read_bits_per_cycle)
        write_time = writes.sum(1) / (counts.used[:, i] * level.write_bits_per_cycle)
        if level.shared_port:
            read_time = (reads + writes).sum(1) / (counts.used[:, i] * level.read_bits_per_cycle)
        cycles = np.maximum(cycles, np.maximum(read_time, write_time))
        pj += np.ceil(reads / level.word_bits - 1e-9).sum(1) * level.read_energy_pj
        pj += np.ceil(writes / level.word_bits - 1e-9).sum(1) * level.write_energy_pj
        room = level.capacity_bytes * 8 / (2 if level.double_buffered else 1)
        fits &= (counts.footprint_bits[:, i] <= room) & (counts.fanout[:, i] <= level.instances)
    ms = np.where(fits, cycles / (accelerator.clock_mhz * 1e3), np.inf)
    static = np.where(fits, ms, 0.0) * accelerator.static_power_w
    return Totals(ms, np.where(fits, pj * 1e-9 + static, np.inf))


Objective = str | Callable[[Floats, Floats], Floats]


def weighted(policy: float, latency_ms: Floats, energy_mj: Floats) -> Floats:
    """``policy x 1 W x latency + (1 - policy) x energy``, infinite where the mapping does not fit."""
    fits = np.isfinite(latency_ms)
    total = policy * np.where(fits, latency_ms, 0.0) + (1 - policy) * np.where(fits, energy_mj, 0.0)
    return np.where(fits, total, np.inf)


def score(objective: Objective, result: Totals) -> Floats:
    """The figure to minimise: ``latency``, ``energy``, ``edp``, or any monotone function of both.

    Raises: HardwareError for another name.
    """
    if callable(objective):
        return objective(result.latency_ms, result.energy_mj)
    if objective not in ("latency", "energy", "edp"):
        raise HardwareError(f"objective={objective!r}, expected latency, energy, edp or a function of both")
    if objective == "edp":
        return result.latency_ms * result.energy_mj
    return result.latency_ms if objective == "latency" else result.energy_mj


def best_of(objective: Objective, result: Totals) -> int | None:
    """Position of the best mapping; ties go to the lower energy, then latency. None if no mapping fits."""
    value = score(objective, result)
    tied = np.flatnonzero(value == value.min())
    at = int(tied[np.lexsort((result.latency_ms[tied], result.energy_mj[tied]))[0]])
    return at if math.isfinite(value[at]) else None


def nest_mapping(n: Nests, at: int, names: Sequence[str]) -> Mapping:
    """One nest of a batch as a value; at: its position among the counts."""
    combination, row = divmod(at, len(n.temporal))
    levels = []
    for i, name in enumerate(names):
        order = [DIMS[d] for d in n.orders[combination, i] if d >= 0]
        time = tuple((d, int(n.temporal[row, i, _AT[d]])) for d in order if n.temporal[row, i, _AT[d]] > 1)
        space = tuple((d, int(n.spatial[row, i, _AT[d]])) for d in DIMS if n.spatial[row, i, _AT[d]] > 1)
        levels.append(LevelLoops(name, time, space))
    return Mapping(tuple(levels))
