"""One accelerator: the best mapping of a layer on it, and the accelerator seen as a space of one."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import RESOURCES, Accelerator, Engine, Resources
from cosearch.hardware.array import Bounds, enumerate_tiles, mapping_of, unrollings
from cosearch.hardware.cost import Cost, engine_of, evaluate, hierarchy
from cosearch.hardware.mapping import Mapping
from cosearch.hardware.nest import (
    Objective,
    Totals,
    best_of,
    enumerate_nests,
    nest_mapping,
    price_nests,
)
from cosearch.hardware.nestfront import beside, nest_costs
from cosearch.hardware.pricing import LayerFront, Residency, feasible, layer_front, mapping_energy_pj, traffic
from cosearch.hardware.tables import EngineTable, Floats, Prices, SharedTable, engine_table, resource_row, tables_of
from cosearch.workload import Layer

NOTHING_RESIDENT = Residency(weights=False, activations=False)


def best(
    layer: Layer,
    accelerator: Accelerator,
    objective: Objective = "latency",
    residency: Residency = NOTHING_RESIDENT,
) -> tuple[Mapping, Cost]:
    """The exact optimum of the declared mapspace of the layer's engine, and what it costs.

    objective: ``latency``, ``energy``, ``edp`` (of the layer) or any function of arrays (latency_ms, energy_mj) that
        rises with both, such as `nest.weighted` with a policy. Ties go to the lower energy, then the lower latency.
    residency: what stays on chip and is charged no DRAM traffic.

    Raises: HardwareError naming the layer if no engine runs its kind or no mapping fits, and for an unknown objective.
    """
    engine = engine_of(layer, accelerator)
    search = _best_tiling if engine.mapspace is None else _best_nest
    mapping = search(layer, accelerator, engine, objective, residency)
    return mapping, evaluate(layer, accelerator, mapping, residency.tensors)


def _best_nest(
    layer: Layer, accelerator: Accelerator, engine: Engine, objective: Objective, residency: Residency
) -> Mapping:
    levels = beside(hierarchy(accelerator, engine), residency)
    names = [level.name for level in levels]
    nests = enumerate_nests(layer, engine, names)
    at = best_of(objective, price_nests(layer, accelerator, engine, levels, nests, residency.tensors))
    if at is None:
        raise HardwareError(
            f"layer {layer.name!r}: no mapping fits accelerator {accelerator.name!r}; give it larger buffers "
            f"({', '.join(f'{level.name} {level.capacity_bytes:g} B' for level in levels[:-1])})"
        )
    return nest_mapping(nests, at, names)


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
            f"layer {layer.name!r}: no mapping fits accelerator {accelerator.name!r}; "
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
    if engine.mapspace is not None:
        return len(enumerate_nests(layer, engine, [level.name for level in hierarchy(accelerator, engine)]))
    bounds = Bounds.of(layer)
    rows, cols = np.array([engine.rows * engine.lanes]), np.array([engine.cols])
    unrolled = unrollings(bounds, engine.dataflow == "output-stationary", rows, cols, np.array([engine.windowed]))
    return len(enumerate_tiles(bounds)) * int(unrolled.valid.sum())


class _One:
    """What both kinds of accelerators share."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.only = accelerator

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

    def engines(self, kind: str) -> EngineTable:
        return engine_table(kind, [e for e in self.only.engines if e.name == kind], [math.inf])

    def accelerator(self, shared: int, engines: dict[str, int]) -> Accelerator:
        return self.only

    def describe(self) -> dict[str, Any]:
        return {"accelerator": self.only.to_json()}


class OneArray(_One):
    """An accelerator of the tiled array template."""

    @property
    def shared(self) -> SharedTable:
        return tables_of(self.only)[1]

    @property
    def prices(self) -> Prices:
        return tables_of(self.only)[2]


class OneNest(_One):
    """An accelerator with a declared mapspace."""

    @property
    def shared(self) -> SharedTable:
        return nothing_shared(self.only.area_mm2 or 0.0)

    @property
    def prices(self) -> Prices:
        dram = self.only.levels[-1]
        return Prices(self.only.energies, 0.0, dram.read_energy_pj / dram.word_bits, self.only.static_power_w)

    def layer_costs(self, layer: Layer, policies: Sequence[float]) -> tuple[Floats, Floats]:
        return nest_costs(layer, [self.only], policies)


def one_accelerator(accelerator: Accelerator) -> OneArray | OneNest:
    """The space that holds just this accelerator.

    Raises: HardwareError if some engines declare a mapspace and others do not.
    """
    declared = [engine.mapspace is not None for engine in accelerator.engines]
    if any(declared) and not all(declared):
        raise HardwareError(f"accelerator {accelerator.name!r}: either all engines declare a mapspace or none does")
    return OneNest(accelerator) if all(declared) else OneArray(accelerator)


def nothing_shared(area_mm2: float = 0.0) -> SharedTable:
    """The shared configuration of accelerators whose engine tables hold everything; no tensor is resident."""
    one = np.ones(1)
    resources = np.array([resource_row(Resources(area_um2=round(area_mm2 * 1e6)))])
    none = np.full(1, -1, np.int64)
    return SharedTable(none, none, one, one, np.ones(1, np.int64), one * 1e12, resources)
