"""One accelerator: the best mapping of a layer on it, and the accelerator seen as a space of one."""

import math
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cosearch.errors import HardwareError
from cosearch.hardware import split
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel, engine_of, hierarchy, room_bits
from cosearch.hardware.array import Bounds, edge, enumerate_tiles, footprints, mapping_of, unrollings
from cosearch.hardware.compose import compose, composes
from cosearch.hardware.mapping import DIMS, RELEVANT, Mapping, loop_bounds
from cosearch.hardware.nest import (
    Objective,
    Totals,
    best_of,
    enumerate_nests,
    mapspace_of,
    nest_mapping,
    nests_in,
    price_nests,
    spatial_options,
    tile_limits,
    trips_left,
)
from cosearch.hardware.nestfront import Fleet, allowed, beside, resident_bits
from cosearch.hardware.pricing import (
    NOTHING_RESIDENT,
    LayerFront,
    Residency,
    feasible,
    layer_front,
    mapping_energy_pj,
    traffic,
)
from cosearch.hardware.resources import RESOURCES, Resources
from cosearch.hardware.tables import (
    UNLIMITED_BITS,
    EngineTable,
    Floats,
    Prices,
    SharedTable,
    engine_table,
    resource_row,
    tables_of,
)
from cosearch.workload import Layer

if TYPE_CHECKING:
    from cosearch.hardware.cost import Cost

_MOST_ENUMERATED = 100_000
"""Mappings up to which pricing all of them takes less time than composing them."""


def best(
    layer: Layer,
    accelerator: Accelerator,
    objective: Objective = "latency",
    residency: Residency = NOTHING_RESIDENT,
) -> "tuple[Mapping, Cost]":
    """The exact optimum of the declared mapspace of the layer's engine, and what it costs.

    objective: ``latency``, ``energy``, ``edp`` (of the layer) or any function of arrays (latency_ms, energy_mj) that
        rises with both, such as `nest.weighted` with a policy. Ties go to the lower energy, then the lower latency.
    residency: what stays on chip and is charged no DRAM traffic.

    Raises: HardwareError naming the layer if no engine runs its kind or no mapping fits, and for an unknown objective.
    """
    from cosearch.hardware.cost import evaluate

    engine = engine_of(layer, accelerator)
    if engine.form is not None:
        raise HardwareError(
            f"layer {layer.name!r}: engine {engine.name!r} prices layers in closed form and has no mappings; "
            "use layer_report or evaluate_on"
        )
    layer = engine.seen(layer)
    search = _best_tiling if engine.mapspace is None else _best_nest
    mapping = search(layer, accelerator, engine, objective, residency)
    return mapping, evaluate(layer, accelerator, mapping, residency.tensors)


def _best_nest(
    layer: Layer, accelerator: Accelerator, engine: Engine, objective: Objective, residency: Residency
) -> Mapping:
    levels = beside(hierarchy(accelerator, engine), residency)
    deep = composes(levels) and nests_in(layer, engine) > _MOST_ENUMERATED
    search = _composed if deep else _enumerated
    mapping = search(layer, accelerator, engine, levels, objective, residency)
    if mapping is None:
        raise HardwareError(
            f"layer {layer.name!r}: no mapping fits accelerator {accelerator.name!r}{_because(layer, accelerator)}; "
            f"give it larger buffers "
            f"({', '.join(f'{level.name} {level.capacity_bytes:g} B' for level in levels[:-1])})"
        )
    return mapping


def _because(layer: Layer, accelerator: Accelerator) -> str:
    why = too_small(layer, accelerator)
    return f": {why}" if why else ""


@lru_cache(maxsize=4096)
def too_small(layer: Layer, accelerator: Accelerator) -> str:
    """Which memory has no room for the smallest tile that the mapspace has there, in words; empty if each has.

    Raises: HardwareError if no engine runs the layer.
    """
    engine = engine_of(layer, accelerator)
    layer, levels = engine.seen(layer), hierarchy(accelerator, engine)
    if engine.form is not None:
        return ""
    least = _least_bits(layer, levels) if engine.mapspace is None else _least_nest_bits(layer, engine, levels)
    for level in levels:
        room = room_bits(level)
        if least.get(level.name, 0) > room:
            half = " (half, double-buffered)" if level.double_buffered else ""
            return (
                f"level {level.name!r} needs at least {least[level.name] / 8:g} bytes per instance, "
                f"has {room / 8:g}{half}"
            )
    return ""


def _least_bits(layer: Layer, levels: Sequence[MemoryLevel]) -> dict[str, float]:
    """Of the array template: its buffers' smallest tiles."""
    bounds = Bounds.of(layer)
    weights, activations = (float(need.min()) / 2 for need in footprints(bounds, enumerate_tiles(bounds), layer))
    return {level.name: weights if "W" in level.holds else activations for level in levels if level.double_buffered}


def _least_nest_bits(layer: Layer, engine: Engine, levels: Sequence[MemoryLevel]) -> dict[str, float]:
    """Of a declared mapspace: every time loop runs at the outermost level that tiles its dimension, which makes the
    tiles of all levels smallest; sums that may be complete are taken at the narrower width.
    """
    space, bounds = mapspace_of(engine), loop_bounds(layer)
    names = [level.name for level in levels]
    homes = {dim: max((names.index(t.level) for t in space.tiled if dim in t.dims), default=0) for dim in DIMS}
    inmost = next(level.name for level in levels if "O" in level.holds)
    widths = {"W": layer.weight_width * layer.has_weights, "I": layer.input_bits, "O": layer.output_bits}
    least = dict.fromkeys(names, math.inf)
    for spatial in spatial_options(space, bounds):
        loops = [(dim, trips, homes[dim]) for dim, trips in trips_left(bounds, spatial).items()]
        loops += [
            (dim, factor, names.index(axis.level))
            for axis, option in zip(space.axes, spatial, strict=True)
            for dim, factor in option.items()
        ]
        for i, level in enumerate(levels):
            inside = {dim: math.prod(n for d, n, at in loops if d == dim and at <= i) for dim in DIMS}
            tile = {dim: min(size, bounds[dim]) for dim, size in inside.items()}
            bits = {x: _words(x, tile, layer) * widths[x] for x in level.holds}
            if level.name == inmost:
                bits["O"] *= layer.accumulator_bits / layer.output_bits
            least[level.name] = min(least[level.name], sum(bits.values()))
    return least


def _words(tensor: str, tile: dict[str, int], layer: Layer) -> float:
    """Words of a tensor in a tile of these extents."""
    if tensor != "I":
        return float(math.prod(tile[dim] for dim in RELEVANT[tensor]))
    rows = edge(tile["P"], layer.stride[0], tile["R"], layer.dilation[0])
    cols = edge(tile["Q"], layer.stride[1], tile["S"], layer.dilation[1])
    return float(tile["N"] * tile["G"] * tile["C"] * rows * cols)


def _enumerated(
    layer: Layer,
    accelerator: Accelerator,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    objective: Objective,
    residency: Residency,
) -> Mapping | None:
    """Every mapping priced: quicker where there are few."""
    names = [level.name for level in levels]
    limits = tile_limits(layer, levels, np.array([room_bits(level) for level in levels]), residency.tensors)
    nests = allowed(enumerate_nests(layer, engine, names, limits), residency)
    at = best_of(objective, price_nests(layer, accelerator, engine, levels, nests, residency.tensors))
    return None if at is None else nest_mapping(nests, at, names)


def _composed(
    layer: Layer,
    accelerator: Accelerator,
    engine: Engine,
    levels: Sequence[MemoryLevel],
    objective: Objective,
    residency: Residency,
) -> Mapping | None:
    """Level by level, front by front: the time and memory of the rest."""
    front = compose(layer, accelerator, engine, levels, residency)
    at = best_of(objective, front.totals)
    return None if at is None else front.mappings[at]


def _best_tiling(
    layer: Layer, accelerator: Accelerator, engine: Engine, objective: Objective, residency: Residency
) -> Mapping:
    """The same in the mapspace of the array template (`cosearch.hardware.array`)."""
    tables, shared, prices = tables_of(accelerator)
    table = next(t for t in tables if t.kind == layer.kind)
    front = layer_front(layer, table, shared.weight_bits.tolist(), shared.activation_bits.tolist())
    at = best_of(objective, _tiling_totals(front, table, shared, residency, prices))
    if at is None:
        raise HardwareError(
            f"layer {layer.name!r}: no mapping fits accelerator {accelerator.name!r}{_because(layer, accelerator)}; "
            "give it larger buffers, or deeper accumulators if one output row does not fit"
        )
    [(_, counts)] = front.groups
    names = [level.name for level in hierarchy(accelerator, engine)]
    return mapping_of(layer, front.tiles, int(counts.tile[at]), int(counts.option[at]), engine, names)


def _tiling_totals(
    front: LayerFront, engines: EngineTable, shared: SharedTable, residency: Residency, prices: Prices
) -> Totals:
    """Latency and energy of every mapping of a front on one configuration, as in `pricing.best_costs`."""
    [(where, counts)] = front.groups
    moved = traffic(front, counts, residency)
    ports = (moved.weight_read, moved.weight_write, moved.activation_read, moved.activation_write)
    cycles = np.maximum.reduce(
        [
            counts.cycles[:, 0],
            *(bits[:, 0] / shared.port_bits[0] for bits in ports),
            moved.dram[:, 0] / (shared.dram_bits[0] / (shared.clock_mhz[0] * 1e6)),
        ]
    )
    cycles = np.maximum(cycles, np.ceil(front.bounds.outputs / shared.lanes[0]))
    fits = feasible(front, counts, residency, shared.weight_bits, shared.activation_bits)[0] & np.isfinite(cycles)
    ms = np.where(fits, cycles, 0.0) / (shared.clock_mhz[0] * 1e3)
    mj = mapping_energy_pj(front, moved, prices, engines.logic[where])[:, 0] * 1e-9 + prices.static_power_w * ms
    return Totals(np.where(fits, ms, np.inf), np.where(fits, mj, np.inf))


@cache
def mapspace_size(layer: Layer, accelerator: Accelerator) -> int:
    """Mappings in the declared mapspace of the layer's engine.

    Raises: HardwareError if no engine runs the layer's kind.
    """
    engine = engine_of(layer, accelerator)
    if engine.form is not None:
        return 0
    if engine.mapspace is not None:
        return nests_in(engine.seen(layer), engine)
    bounds = Bounds.of(engine.seen(layer))
    rows, cols = np.array([engine.rows * engine.lanes]), np.array([engine.columns(layer)])
    unrolled = unrollings(bounds, engine.dataflow == "output-stationary", rows, cols, np.array([engine.windowed]))
    return len(enumerate_tiles(bounds)) * int(unrolled.valid.sum())


class _One:
    """What both kinds of accelerators share."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.only = accelerator

    def __len__(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return self.only.name

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(engine.name for engine in self.only.engines)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        return {engine.name: engine.kinds for engine in self.only.engines}

    @property
    def budget(self) -> Resources:
        return Resources(*(2**62 for _ in RESOURCES))

    def engines(self, kind: str) -> EngineTable | split.PairTable:
        return engine_table(kind, [e for e in self.only.engines if e.name == kind], [math.inf])

    def accelerator(self, shared: int, engines: dict[str, int]) -> Accelerator:
        return self.only

    def describe(self) -> dict[str, Any]:
        return {"accelerator": self.only.to_json()}


class OneArray(_One):
    """An accelerator of the tiled array template; its engines for split layers are one kind."""

    @property
    def kinds(self) -> tuple[str, ...]:
        if not self.only.splits:
            return super().kinds
        return split.NAME, *(kind for kind in super().kinds if kind not in split.KINDS)

    @property
    def serves(self) -> dict[str, tuple[str, ...]]:
        own = super().serves
        if not self.only.splits:
            return own
        return {split.NAME: split.KINDS, **{name: kinds for name, kinds in own.items() if name not in split.KINDS}}

    def engines(self, kind: str) -> EngineTable | split.PairTable:
        if kind != split.NAME:
            return super().engines(kind)
        first, second = (
            engine_table(name, have, [math.inf] * len(have))
            for name in split.KINDS
            for have in [[engine for engine in self.only.engines if engine.name == name]]
        )
        left, right = (np.array([0 if len(table) else -1]) for table in (first, second))
        return split.PairTable(first, second, left, right, self.only.splits)

    @property
    def shared(self) -> SharedTable:
        return tables_of(self.only)[1]

    @property
    def prices(self) -> Prices:
        return tables_of(self.only)[2]


class OneNest(_One):
    """An accelerator with a declared mapspace."""

    def engines(self, kind: str) -> EngineTable:
        engines = [engine for engine in self.only.engines if engine.name == kind]
        return engine_table(kind, engines, [math.inf], [resident_bits(self.only)])

    @property
    def shared(self) -> SharedTable:
        return nothing_shared(self.only.area_mm2 or 0.0)

    @property
    def prices(self) -> Prices:
        """Static power is in the layers' energies already."""
        dram = self.only.levels[-1]
        return Prices(self.only.energies, 0.0, dram.read_energy_pj / dram.word_bits, 0.0)

    @cached_property
    def _fleet(self) -> Fleet:
        return Fleet([self.only])

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: Residency) -> tuple[Floats, Floats]:
        return self._fleet.costs(layer, policies, residency)


class OneForm(_One):
    """An accelerator whose layers have a closed-form cost; activations are not kept from one layer to the next."""

    def engines(self, kind: str) -> EngineTable:
        engines = [engine for engine in self.only.engines if engine.name == kind]
        stays = [(engine.form.weight_bits if engine.form is not None else -1, -1) for engine in engines]
        return engine_table(kind, engines, [math.inf], stays)

    @property
    def shared(self) -> SharedTable:
        return nothing_shared()

    @property
    def prices(self) -> Prices:
        dram = self.only.levels[-1]
        return Prices(self.only.energies, 0.0, dram.read_energy_pj / dram.word_bits, 0.0)

    def layer_costs(self, layer: Layer, policies: Sequence[float], residency: Residency) -> tuple[Floats, Floats]:
        form = engine_of(layer, self.only).form
        assert form is not None  # see one_accelerator
        cost, shape = form.cost(layer, residency.weights), (len(policies), 1)
        return np.full(shape, cost.latency_ms), np.full(shape, cost.energy_mj)


def one_accelerator(accelerator: Accelerator) -> OneArray | OneNest | OneForm:
    """The space that holds just this accelerator.

    Raises: HardwareError if some engines declare a mapspace, or a closed form, and others do not.
    """
    for declared, space in (("mapspace", OneNest), ("form", OneForm)):
        having = [getattr(engine, declared) is not None for engine in accelerator.engines]
        if all(having):
            return space(accelerator)
        if any(having):
            raise HardwareError(f"accelerator {accelerator.name!r}: either all engines declare a {declared} or none")
    return OneArray(accelerator)


def nothing_shared(area_mm2: float = 0.0) -> SharedTable:
    """The shared configuration of accelerators whose engine tables hold everything, what may stay on chip included."""
    one = np.ones(1)
    resources = np.array([resource_row(Resources(area_um2=round(area_mm2 * 1e6)))])
    unlimited = np.full(1, UNLIMITED_BITS, np.int64)
    return SharedTable(unlimited, unlimited, one, one, np.ones(1, np.int64), one * 1e12, resources)
