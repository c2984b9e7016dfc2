"""Exact mapping search over a declared mapspace on any memory hierarchy.

A `Mapspace` says which dimensions an array axis may unroll, which levels are tiled, and in which orders their loops may
run. Every mapping of it is counted and priced, so the best one is exact. Tilings are even: divisors of the iterations
that unrolling leaves.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import (
    READ,
    TENSORS,
    WRITE,
    Accelerator,
    Axis,
    Engine,
    Mapspace,
    MemoryLevel,
    fan_out,
    port_width,
    room_bits,
)
from cosearch.hardware.array import divisors
from cosearch.hardware.mapping import DIMS, LevelLoops, Mapping, loop_bounds
from cosearch.hardware.nestkernel import (
    Chains,
    Charges,
    Limits,
    Memories,
    Nest,
    Orders,
    Terms,
    Work,
    analyse,
    chains,
    orders_of,
    scratch,
    tilings,
)
from cosearch.hardware.sparsity import time_share
from cosearch.workload import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_THREADED, _PARTS = 8192, 16
"""Mappings from which on threads pay, and the parts that they share."""
_FIRST_GUESS = 16384
"""Tilings that there is room for at first."""
_NOTHING_CHARGED = Charges(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), np.empty((0, 1)))
_NO_FRONT = np.empty((0, 1))
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


@lru_cache(maxsize=65536)
def _splits(trips: int, levels: int) -> tuple[tuple[int, ...], ...]:
    """Ordered factorisations of a trip count over `levels` levels."""
    if levels == 1:
        return ((trips,),)
    return tuple((d, *rest) for d in divisors(trips) for rest in _splits(trips // d, levels - 1))


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


def enumerate_nests(layer: Layer, engine: Engine, names: Sequence[str], limits: Limits | None = None) -> Nests:
    """Every mapping of the engine's mapspace; names: the levels of its hierarchy, innermost first.

    limits: which tiles may fit (`tile_limits`); other mappings are left out.

    Raises: HardwareError if the mapspace does not cover a dimension of the layer.
    """
    space = mapspace_of(engine)
    bounds = loop_bounds(layer)
    at_level = {name: i for i, name in enumerate(names)}
    homes = {dim: tuple(at_level[t.level] for t in space.tiled if dim in t.dims) for dim in DIMS}
    fanouts, starts, splits = [], [], []
    found = 0
    for spatial in spatial_options(space, bounds):
        across = np.ones((len(names), len(DIMS)))
        for axis, option in zip(space.axes, spatial, strict=True):
            for dim, factor in option.items():
                across[at_level[axis.level], _AT[dim]] *= factor
        fanouts.append(across)
        trips = trips_left(bounds, spatial)
        check_covered(layer, space, trips)
        ways = [_level_splits(trips[dim], homes[dim], len(names)) for dim in DIMS]
        starts.append(np.cumsum([found, *map(len, ways)]))
        found = int(starts[-1][-1])
        splits += ways
    across = np.stack(fanouts)
    problem = across, np.stack(starts), np.concatenate(splits), limits or _no_limits(layer, len(names))
    size = _FIRST_GUESS
    while True:
        table, which = np.empty((size, len(names), len(DIMS))), np.empty(size, np.int64)
        found = tilings(*problem, table, which)
        if found <= size:
            return Nests(table[:found], across[which[:found]], _combinations(space, tuple(names)))
        size = found


@lru_cache(maxsize=65536)
def _level_splits(trips: int, homes: tuple[int, ...], levels: int) -> Floats:
    """Ways to split trips over the levels that a dimension is tiled at: [way, level]."""
    if not homes:
        return np.ones((1, levels))
    ways = np.array(_splits(trips, len(homes)), float)
    table = np.ones((len(ways), levels))
    table[:, homes] = ways
    return table


@lru_cache(maxsize=1024)
def _combinations(space: Mapspace, names: tuple[str, ...]) -> Ints:
    """Every combination of the tiled levels' loop orders: [combination, level, 8], -1 after the last dimension."""
    found = []
    for combination in product(*(t.orders for t in space.tiled)):
        rows = np.full((len(names), len(DIMS)), -1, np.int64)
        for t, order in zip(space.tiled, combination, strict=True):
            rows[names.index(t.level), : len(order)] = [_AT[dim] for dim in order]
        found.append(rows)
    return np.stack(found)


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


def check_covered(layer: Layer, space: Mapspace, trips: dict[str, int]) -> None:
    """Raises: HardwareError naming the layer and a dimension that has iterations left and is tiled at no level."""
    for dim, left in trips.items():
        if left > 1 and not any(dim in t.dims for t in space.tiled):
            raise HardwareError(
                f"layer {layer.name!r}: the mapspace tiles no level along {dim}, which has {left} iterations left"
            )


def trips_left(bounds: dict[str, int], spatial: Sequence[dict[str, int]]) -> dict[str, int]:
    """Iterations that an unrolling leaves to time."""
    return {dim: -(-n // math.prod(option.get(dim, 1) for option in spatial)) for dim, n in bounds.items()}


def tile_limits(layer: Layer, levels: Sequence[MemoryLevel], rooms: Floats, resident: Sequence[str]) -> Limits:
    """What tiles of a layer may take in rooms [level] of bits: refuses none that fits.

    Outputs are taken at the narrower of their widths, and tensors that stay in the level below DRAM take none of it.
    """
    stay = [resident if i == len(levels) - 2 else () for i in range(len(levels))]
    takes = [[x in level.holds and x not in stays for x in TENSORS] for level, stays in zip(levels, stay, strict=True)]
    widths = (layer.weight_width * layer.has_weights, layer.input_bits, min(layer.output_bits, layer.accumulator_bits))
    return Limits(np.array(takes), np.asarray(rooms, float), np.array(widths, float), *_extent(layer))


def _no_limits(layer: Layer, levels: int) -> Limits:
    nothing = np.zeros((levels, len(TENSORS)), bool)
    return Limits(nothing, np.zeros(levels), np.zeros(len(TENSORS)), *_extent(layer))


def _extent(layer: Layer) -> tuple[Floats, Ints]:
    """Loop bounds, and the window of `Work`."""
    bounds = loop_bounds(layer)
    return np.array([float(bounds[dim]) for dim in DIMS]), np.array(_window(layer), np.int64)


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


def memories_of(levels: Sequence[MemoryLevel], engine: Engine) -> Memories:
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
        fan_out=array(fan_out(levels, i) for i in range(len(levels))),
        ends=engine.fill_and_drain,
    )


def work_of(layer: Layer, engine: Engine, resident: Sequence[str]) -> Work:
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


def terms_of(layer: Layer, accelerator: Accelerator, engine: Engine, levels: int) -> Terms:
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


@dataclass(frozen=True)
class Totals:
    """Latency and energy of each mapping, static power and requantisation included; infinite where it does not fit."""

    latency_ms: Floats
    energy_mj: Floats


def in_parts(rows: int, mappings: int, work: Callable[[Iterator[tuple[int, int]]], None]) -> None:
    """Share the rows of a batch, (first, one past the last) at a time, on two threads if they are many mappings."""
    cuts = np.linspace(0, rows, _PARTS + 1).astype(int).tolist()
    parts = iter(list(pairwise(cuts)))  # threads take the next part when they are done with one
    if mappings < _THREADED:
        work(parts)
        return
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, parts)
        work(parts)
        other.result()


def price_nests(
    layer: Layer,
    accelerator: Accelerator,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    n: Nests,
    resident: Sequence[str] = (),
) -> Totals:
    """Latency and energy of every nest under every combination of orders: `cost.evaluate_batch`, compiled.

    On two threads where that is worth it: compiled code needs no lock.
    """
    shape = len(n.orders), len(n.temporal)
    cycles, pj = np.empty(shape), np.empty(shape)
    problem = _problem(layer, engine, memories_of(levels, engine), n, resident)
    terms = terms_of(layer, accelerator, engine, len(levels))

    def work(parts: Iterator[tuple[int, int]]) -> None:
        own = _scratch(problem)
        for start, stop in parts:
            analyse(*problem, terms, _NOTHING_CHARGED, start, stop, True, own, cycles, pj, _NO_FRONT)

    in_parts(len(n.temporal), len(n), work)
    return totals(accelerator, cycles.reshape(-1), pj.reshape(-1))


def front_of_nests(
    layer: Layer,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    n: Nests,
    rooms: Floats,
    charges: Charges,
    resident: Sequence[str] = (),
) -> Floats:
    """What no other nest beats in all that is charged for, [n, charge], see `nestkernel.analyse`.

    rooms: [level] the largest on offer, in bits. Sorted by array cycles.
    """
    memories = memories_of(levels, engine)._replace(room=rooms)
    fill_from = _fill_from(engine, len(levels))
    terms = Terms(float(engine.cycles_per_operation(layer)), float(engine.fill_cycles), fill_from, 0.0, 0.0)
    problem, none = _problem(layer, engine, memories, n, resident), np.empty((0, 0))
    rows = np.empty((64, 2 + len(charges.ports) + len(charges.rows) + len(levels) + 1))
    found, rows = analyse(*problem, terms, charges, 0, len(n.temporal), False, _scratch(problem), none, none, rows)
    front, place = rows[:found, :-1], rows[:found, -1]
    order: Ints = np.lexsort((place, front.sum(axis=1), front[:, 0]))
    return np.asarray(front[order])


_Problem = tuple[Floats, Floats, Orders, Chains, Memories, Work]


def _problem(layer: Layer, engine: Engine, memories: Memories, n: Nests, resident: Sequence[str]) -> _Problem:
    work = work_of(layer, engine, resident)
    return n.temporal, n.spatial, orders_of(n.orders), chains(memories, work), memories, work


def _scratch(problem: _Problem) -> Nest:
    temporal, _, orders, links, *_ = problem
    return scratch(temporal.shape[1], len(links.links), orders.sequences.shape[1])


def totals(accelerator: Accelerator, cycles: Floats, pj: Floats) -> Totals:
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

    Raises: HardwareError for another name, and a function that gives anything but a number per mapping.
    """
    if callable(objective):
        fits = np.isfinite(result.latency_ms)
        with np.errstate(invalid="ignore"):  # a function may multiply infinity, of a mapping that does not fit, by zero
            value: Floats = np.asarray(objective(result.latency_ms, result.energy_mj), float)
        if value.shape != fits.shape or np.isnan(value[fits]).any():
            raise HardwareError(
                f"objective {objective!r} gives {value!r:.60}, expected {len(fits)} numbers: one per mapping"
            )
        return np.where(fits, value, np.inf)
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
