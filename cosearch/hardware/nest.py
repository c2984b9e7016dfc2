"""Exact mapping search over a declared mapspace on any memory hierarchy.

A `Mapspace` says which dimensions an array axis may unroll, which levels are tiled, and in which orders their loops may
run. Every mapping of it is counted and priced, so the best one is exact. Tilings are even: divisors of the iterations
that unrolling leaves.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import TENSORS, Accelerator, Axis, Engine, Mapspace, MemoryLevel
from cosearch.hardware.array import divisors
from cosearch.hardware.cost import READ, WRITE, port_width
from cosearch.hardware.mapping import DIMS, RELEVANT, LevelLoops, Mapping, loop_bounds
from cosearch.hardware.nestkernel import (
    Memories,
    NestCounts,
    Terms,
    Work,
    analyse,
    price_counted,
    shapes,
)
from cosearch.hardware.sparsity import time_share
from cosearch.workload import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_THREADED, _PARTS = 4096, 8
"""Mappings from which on threads pay, and the parts that they share."""
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


def enumerate_nests(
    layer: Layer, engine: Engine, names: Sequence[str], fits: Callable[[Floats], Mask] | None = None
) -> Nests:
    """Every mapping of the engine's mapspace; names: the levels of its hierarchy, innermost first.

    fits: says of extents [b, level, dimension] which tiles some memory may take (`tiles_fit`); mappings whose tiles are
        at least as large as refused ones are then left out.

    Raises: HardwareError if the mapspace does not cover a dimension of the layer.
    """
    space = mapspace_of(engine)
    bounds = loop_bounds(layer)
    at_level = {name: i for i, name in enumerate(names)}
    homes = {dim: [at_level[t.level] for t in space.tiled if dim in t.dims] for dim in DIMS}
    times, fanouts = [], []
    for spatial in spatial_options(space, bounds):
        across = np.ones((len(names), len(DIMS)))
        for axis, option in zip(space.axes, spatial, strict=True):
            for dim, factor in option.items():
                across[at_level[axis.level], _AT[dim]] *= factor
        table = _table(trips_left(bounds, spatial), homes, across, bounds, fits)
        times.append(table)
        fanouts.append(np.broadcast_to(across, table.shape))
    orders = []
    for combination in product(*(t.orders for t in space.tiled)):
        rows = np.full((len(names), len(DIMS)), -1, np.int64)
        for t, order in zip(space.tiled, combination, strict=True):
            rows[at_level[t.level], : len(order)] = [_AT[dim] for dim in order]
        orders.append(rows)
    return Nests(np.concatenate(times), np.concatenate(fanouts), np.stack(orders))


def mapspace_of(engine: Engine) -> Mapspace:
    """Raises: HardwareError if the engine declares none."""
    if engine.mapspace is None:
        raise HardwareError(f"engine {engine.name!r} declares no mapspace")
    return engine.mapspace


def spatial_options(space: Mapspace, bounds: dict[str, int]) -> Iterator[tuple[dict[str, int], ...]]:
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


def trips_left(bounds: dict[str, int], spatial: Sequence[dict[str, int]]) -> dict[str, int]:
    """Iterations that an unrolling leaves to time."""
    return {dim: -(-n // math.prod(option.get(dim, 1) for option in spatial)) for dim, n in bounds.items()}


def _table(
    trips: dict[str, int],
    homes: dict[str, list[int]],
    across: Floats,
    bounds: dict[str, int],
    fits: Callable[[Floats], Mask] | None,
) -> Floats:
    """Temporal bounds of every tiling that may fit: [b, level, dimension]; across: [level, dimension] fan-out.

    Dimension by dimension, so that what cannot fit is dropped before it multiplies with the rest.
    """
    most = np.array([float(bounds[dim]) for dim in DIMS])
    table = np.ones((1, *across.shape))
    for dim in DIMS:
        if trips[dim] > 1 and not homes[dim]:
            raise HardwareError(f"the mapspace tiles no level along {dim}, which has {trips[dim]} iterations left")
        splits = np.array(_splits(trips[dim], len(homes[dim])) if homes[dim] else [()], float)
        grown = np.repeat(table, len(splits), axis=0)
        for position, level in enumerate(homes[dim]):
            grown[:, level, _AT[dim]] = np.tile(splits[:, position], len(table))
        if fits is not None and len(splits) > 1:
            grown = grown[fits(np.minimum(np.cumprod(grown * across, axis=1), most))]
        table = grown
    return table


def tiles_fit(
    layer: Layer, levels: Sequence[MemoryLevel], rooms: Floats, resident: Sequence[str], reach: Floats
) -> Mask:
    """Which tiles, of extents reach [b, level, dimension], fit rooms [level] of bits; loses none that fits.

    Outputs are taken at the narrower of their widths, and tensors that stay in the level below DRAM take none of it.
    """
    at = {dim: reach[:, :, i] for i, dim in enumerate(DIMS)}
    down, dilated_down, right, dilated_right = _window(layer)
    rows = _edge(at["P"], down, at["R"], dilated_down)
    cols = _edge(at["Q"], right, at["S"], dilated_right)
    bits = {
        "W": np.prod([at[d] for d in RELEVANT["W"]], axis=0) * layer.weight_width * layer.has_weights,
        "I": at["N"] * at["G"] * at["C"] * rows * cols * layer.input_bits,
        "O": np.prod([at[d] for d in RELEVANT["O"]], axis=0) * min(layer.output_bits, layer.accumulator_bits),
    }
    fits = np.ones(len(reach), bool)
    for i, level in enumerate(levels):
        stays = resident if i == len(levels) - 2 else ()
        need = sum((bits[x][:, i] for x in level.holds if x not in stays), start=np.zeros(len(reach)))
        fits &= need <= rooms[i]
    return fits


def _edge(outputs: Floats, stride: int, kernel: Floats, dilation: int) -> Floats:
    """Input rows that tiles read: `cost.input_edge`."""
    return np.minimum((outputs - 1) * stride + (kernel - 1) * dilation + 1, outputs * kernel)


def room_bits(level: MemoryLevel) -> float:
    """Bits that tiles may take in one instance."""
    return level.capacity_bytes * 8 / (2 if level.double_buffered else 1)


def nests_in(layer: Layer, engine: Engine) -> int:
    """How many mappings the mapspace has.

    Raises: HardwareError if it does not cover a dimension of the layer.
    """
    space, bounds = mapspace_of(engine), loop_bounds(layer)
    homes = {dim: sum(dim in t.dims for t in space.tiled) for dim in DIMS}
    tilings = 0
    for spatial in spatial_options(space, bounds):
        trips = trips_left(bounds, spatial)
        tilings += math.prod(len(_splits(trips[dim], homes[dim])) if homes[dim] else 1 for dim in DIMS)
    return tilings * math.prod(len(t.orders) for t in space.tiled)


def _memories(levels: Sequence[MemoryLevel], engine: Engine) -> Memories:
    """A hierarchy as the compiled analysis takes it."""

    def array(values: Iterable[float]) -> Floats:
        return np.array(list(values), float)

    return Memories(
        holds=np.array([[tensor in level.holds for tensor in TENSORS] for level in levels]),
        keeps=np.array([level.keeps for level in levels]),
        slides=np.array([level.slides for level in levels]),
        returns=np.array([level.returns for level in levels]),
        row=array(level.word_bits * level.aligned for level in levels),
        port=np.array([[port_width(level, way) for way in (READ, WRITE)] for level in levels]),
        shared=np.array([level.shared_port for level in levels]),
        word=array(level.word_bits for level in levels),
        energy_pj=np.array([[level.read_energy_pj, level.write_energy_pj] for level in levels], float),
        room=array(room_bits(level) for level in levels),
        instances=array(level.instances for level in levels),
        ends=engine.fill_and_drain,
    )


def _work(layer: Layer, engine: Engine, resident: Sequence[str]) -> Work:
    """A layer as the compiled analysis takes it."""
    bounds = loop_bounds(layer)
    widths = (layer.weight_width * layer.has_weights, layer.input_bits, layer.accumulator_bits, layer.output_bits)
    return Work(
        np.array([float(bounds[dim]) for dim in DIMS]),
        np.array(_window(layer), np.int64),
        np.array(widths, float),
        np.array([tensor in resident for tensor in TENSORS]),
        float(layer.output_count),
        time_share(layer, engine.zeros),
    )


def _terms(layer: Layer, accelerator: Accelerator, engine: Engine, levels: int) -> Terms:
    """What prices the layer's mappings on an engine besides their traffic."""
    operations = layer.macs * accelerator.energies.operation_pj(layer, engine.fabric)
    return Terms(
        float(engine.cycles_per_operation(layer)),
        float(engine.fill_cycles),
        _fill_from(engine, levels),
        float(-(-layer.output_count // accelerator.lanes)),
        operations + layer.output_count * accelerator.energies.requantise_pj,
    )


def _fill_from(engine: Engine, levels: int) -> int:
    """The level from which on loops fill and drain the array again."""
    return levels - 1 if engine.fill_per == "tile" else 1


def _window(layer: Layer) -> list[int]:
    """Stride and dilation along P, R, then along Q, S, in lowest terms."""
    steps = []
    for stride, dilation in zip(layer.stride, layer.dilation, strict=True):
        common = math.gcd(stride, dilation)
        steps += [stride // common, dilation // common]
    return steps


def _analyse(
    n: Nests,
    memories: Memories,
    work: Work,
    terms: Terms,
    counts: NestCounts | None,
    cycles: Floats,
    energy_pj: Floats,
) -> None:
    """Fill the counts, or the prices if counts is None; on two threads if worth it, compiled code needs no lock."""
    spatial, depth = np.ascontiguousarray(n.spatial), n.temporal.shape[1]

    def part(start: int, stop: int) -> None:
        found = _empty_counts(1, depth) if counts is None else counts
        problem = (n.temporal, spatial, n.orders, memories, work, terms, shapes(depth), start, stop)
        analyse(*problem, counts is not None, found, cycles, energy_pj)

    size = len(n.temporal)
    if len(n) < _THREADED:
        part(0, size)
        return
    cuts = [size * i // _PARTS for i in range(_PARTS + 1)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(part, cuts[:-1], cuts[1:]))


def _empty_counts(mappings: int, levels: int) -> NestCounts:
    shape: list[tuple[int, ...]] = [(), (), (), (2, levels, 3), (2, levels), (levels,), (levels,), (levels,)]
    return NestCounts(*(np.empty((mappings, *rest)) for rest in shape))


def count_nests(
    layer: Layer, engine: Engine, levels: Sequence[MemoryLevel], n: Nests, resident: Sequence[str] = ()
) -> NestCounts:
    """Counts of every nest under every combination of orders: `cost.evaluate_batch`, compiled."""
    counts, none = _empty_counts(len(n), len(levels)), np.empty((1, 1))
    terms = Terms(1.0, 0.0, _fill_from(engine, len(levels)), 0.0, 0.0)
    _analyse(n, _memories(levels, engine), _work(layer, engine, resident), terms, counts, none, none)
    return counts


@dataclass(frozen=True)
class Totals:
    """Latency and energy of each mapping, static power and requantisation included; infinite where it does not fit."""

    latency_ms: Floats
    energy_mj: Floats


def totals(
    layer: Layer, accelerator: Accelerator, engine: Engine, levels: Sequence[MemoryLevel], counts: NestCounts
) -> Totals:
    """Whole-layer figures of a batch: what `evaluate` returns for each mapping."""
    cycles, pj = (np.empty(len(counts.cycles)) for _ in range(2))
    price_counted(counts, _memories(levels, engine), _terms(layer, accelerator, engine, len(levels)), cycles, pj)
    return _totals(accelerator, cycles, pj)


def price_nests(
    layer: Layer,
    accelerator: Accelerator,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    n: Nests,
    resident: Sequence[str] = (),
) -> Totals:
    """The same in one go, without the counts."""
    cycles, pj = (np.empty((len(n.orders), len(n.temporal))) for _ in range(2))
    terms = _terms(layer, accelerator, engine, len(levels))
    _analyse(n, _memories(levels, engine), _work(layer, engine, resident), terms, None, cycles, pj)
    return _totals(accelerator, cycles.reshape(-1), pj.reshape(-1))


def _totals(accelerator: Accelerator, cycles: Floats, pj: Floats) -> Totals:
    ms = cycles / (accelerator.clock_mhz * 1e3)
    mj = pj * 1e-9
    return Totals(ms, mj + accelerator.static_power_w * ms if accelerator.static_power_w else mj)


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
    if not len(value):
        return None
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
