"""One layer on many accelerators with declared mapspaces: counted once per array, priced for all its memories.

What a mapping does depends on the array and on which tensors each memory holds, not on capacities, ports or energies.
Accelerators that differ in these only share one enumeration. Of its mappings those stay that no other one beats in
everything that any of the accelerators charges for: array cycles; per memory the bits per instance where a port may
limit, the rows accessed where an access costs energy, and the smallest capacity on offer that takes the tiles. This
loses no optimum of any of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import (
    READ,
    WRITE,
    Accelerator,
    Engine,
    MemoryLevel,
    UnitEnergies,
    engine_of,
    hierarchy,
    refusal,
    room_bits,
)
from cosearch.hardware.mapping import DIMS, RELEVANT
from cosearch.hardware.nest import Nests, enumerate_nests, front_of_nests, tile_limits
from cosearch.hardware.nestkernel import BOTH, Charges
from cosearch.hardware.pricing import NOTHING_RESIDENT, Residency
from cosearch.workload import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def resident_bits(accelerator: Accelerator) -> tuple[int, int]:
    """Weights and activations that may stay in the memory below DRAM, in bits; -1 where it cannot hold them.

    A memory for weights alone, or for activations alone, takes as many as it holds. One for both gives half of itself
    to what stays and keeps the other half for tiles of the rest (or for the rest, if that stays too).
    """
    if len(accelerator.levels) < 2:
        return -1, -1
    level = accelerator.levels[-2]
    weights, activations = "W" in level.holds, {"I", "O"} <= set(level.holds)
    share = 1.0 if set(level.holds) in ({"W"}, {"I", "O"}) else 0.5
    room = int(room_bits(level) * level.instances * share)
    return room if weights else -1, room if activations else -1


def beside(levels: Sequence[MemoryLevel], residency: Residency) -> tuple[MemoryLevel, ...]:
    """The hierarchy with what is left for tiles beside the tensors that stay (see `resident_bits`)."""
    if not residency.tensors or set(levels[-2].holds) <= set(residency.tensors):
        return tuple(levels)
    held = replace(levels[-2], capacity_bytes=levels[-2].capacity_bytes / 2)
    return (*levels[:-2], held, levels[-1])


def allowed(n: Nests, residency: Residency) -> Nests:
    """The nests that go with what stays: beside resident activations partial sums have no room; no DRAM loop sums."""
    if not residency.activations:
        return n
    sums = [DIMS.index(dim) for dim in DIMS if dim not in RELEVANT["O"]]
    whole = (n.temporal[:, -1, sums] == 1).all(axis=1)
    return Nests(n.temporal[whole], n.spatial[whole], n.orders)


def geometry(accelerator: Accelerator, engine: Engine) -> tuple[Any, ...]:
    """What decides the mapspace, its counts and the rows accessed: not capacities, ports, clocks or energies.

    Ports do where transfers take whole cycles, or where filling and draining counts.
    """
    ends = engine.fill_and_drain
    levels = tuple(
        (
            (x.name, x.holds, x.instances, x.keeps, x.slides, x.returns, x.word_bits, x.shared_port, x.aligned),
            (x.read_bits_per_cycle, x.write_bits_per_cycle) if x.aligned or ends else (),
        )
        for x in hierarchy(accelerator, engine)
    )
    array = engine.rows, engine.cols, engine.kinds, engine.fill_per, engine.fill_cycles, ends
    return (*array, engine.mapspace, engine.zeros, engine.patterns, levels)


@dataclass(frozen=True)
class _Group:
    """Accelerators that share a geometry, and what each of them charges: [level, accelerator], or [accelerator].

    at: their positions; first: one of them. energies: different unit energies among them, and which each one has.
    """

    at: Ints
    first: Accelerator
    engine: Engine
    levels: tuple[MemoryLevel, ...]
    port: Floats
    energy_pj: Floats
    room: Floats
    clock_mhz: Floats
    lanes: Floats
    static_w: Floats
    energies: tuple[UnitEnergies, ...]
    which: Ints

    @classmethod
    def of(cls, at: Sequence[int], accelerators: Sequence[Accelerator], layer: Layer) -> "_Group":
        engines = [engine_of(layer, a) for a in accelerators]
        levels = [hierarchy(a, engine) for a, engine in zip(accelerators, engines, strict=True)]
        energies = {a.energies: None for a in accelerators}
        number = {each: i for i, each in enumerate(energies)}

        def table(one: Any) -> Floats:
            return np.array([[one(level) for level in x] for x in levels], float).swapaxes(0, -1)

        return cls(
            np.array(at),
            accelerators[0],
            engines[0],
            tuple(levels[0]),
            table(lambda x: (x.read_bits_per_cycle, x.write_bits_per_cycle)),
            table(lambda x: (x.read_energy_pj, x.write_energy_pj)),
            table(room_bits),
            np.array([a.clock_mhz for a in accelerators], float),
            np.array([a.lanes for a in accelerators], float),
            np.array([a.static_power_w for a in accelerators], float),
            tuple(energies),
            np.array([number[a.energies] for a in accelerators]),
        )


@dataclass(frozen=True)
class _Front:
    """What accelerators of one geometry charge for, per mapping that no other one beats in all of it.

    charges: the ports [b] and rows [b] of each, by level and direction. cycles [b] of the array; ends [b] of the first
    fill and last drain; bits [b, port] per instance; rows [b, memory] accessed; too_small [b, level]: how many of the
    rooms on offer are.
    """

    charges: Charges
    cycles: Floats
    ends: Floats
    bits: Floats
    rows: Floats
    too_small: Floats


def _charges(group: _Group, room: Floats) -> Charges:
    """Ports that may limit some accelerator, rows that cost some of them energy, and the rooms on offer."""
    ports: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []
    for i, level in enumerate(group.levels):
        for way in (BOTH,) if level.shared_port else (READ, WRITE):
            if np.isfinite(group.port[way % BOTH, i]).any():
                ports.append((i, way))
        read, write = group.energy_pj[:, i]
        for way in (BOTH,) if (read == write).all() else (READ, WRITE):
            if group.energy_pj[way % BOTH, i].any():
                rows.append((i, way))
    sizes = [np.unique(x) for x in room]
    offered = np.full((len(sizes), max(map(len, sizes)) + 1), np.inf)
    for i, x in enumerate(sizes):
        offered[i, : len(x)] = x
    return Charges(np.array(ports, np.int64).reshape(-1, 2), np.array(rows, np.int64).reshape(-1, 2), offered)


def _front(layer: Layer, group: _Group, room: Floats, residency: Residency) -> _Front:
    """Raises: HardwareError if the mapspace cannot hold the layer."""
    largest, names = room.max(axis=1), [level.name for level in group.levels]
    limits = tile_limits(layer, group.levels, largest, residency.tensors)
    nests = allowed(enumerate_nests(layer, group.engine, names, limits), residency)
    charges = _charges(group, room)
    table = front_of_nests(layer, group.engine, group.levels, nests, largest, charges, residency.tensors)
    parts = np.split(table, np.cumsum([1, 1, len(charges.ports), len(charges.rows)]), axis=1)
    return _Front(charges, parts[0][:, 0], parts[1][:, 0], *parts[2:])


def _price(layer: Layer, t: _Front, group: _Group, room: Floats) -> tuple[Floats, Floats]:
    """latency_ms and energy_mj, [accelerator, mapping]; infinite where tiles do not fit."""
    cycles = np.maximum(t.cycles, np.ceil(layer.output_count / group.lanes)[:, None])
    for at, (i, way) in enumerate(t.charges.ports):
        cycles = np.maximum(cycles, t.bits[:, at] / group.port[way % BOTH, i][:, None])
    operation = np.array([each.operation_pj(layer, group.engine.fabric) for each in group.energies])[group.which]
    requantise = np.array([each.requantise_pj for each in group.energies])[group.which]
    pj = (layer.macs * operation + layer.output_count * requantise)[:, None]
    for at, (i, way) in enumerate(t.charges.rows):
        pj = pj + t.rows[:, at] * group.energy_pj[way % BOTH, i][:, None]
    fits = np.ones(cycles.shape, bool)
    for i, sizes in enumerate(room):
        fits &= t.too_small[:, i] <= np.searchsorted(np.unique(sizes), sizes)[:, None]
    ms = np.where(fits, (cycles + t.ends) / (group.clock_mhz * 1e3)[:, None], np.inf)
    return ms, np.where(fits, pj * 1e-9 + np.where(fits, ms, 0.0) * group.static_w[:, None], np.inf)


class Fleet:
    """Accelerators that are priced together, grouped by geometry once."""

    def __init__(self, accelerators: Sequence[Accelerator]) -> None:
        self.accelerators = tuple(accelerators)
        self._groups: dict[str, list[_Group]] = {}

    def groups(self, layer: Layer) -> list[_Group]:
        """By the engine that runs layers of this kind.

        Raises: HardwareError if an accelerator has no such engine.
        """
        if layer.kind not in self._groups:
            found: dict[tuple[Any, ...], list[int]] = {}
            for at, accelerator in enumerate(self.accelerators):
                found.setdefault(geometry(accelerator, engine_of(layer, accelerator)), []).append(at)
            self._groups[layer.kind] = [
                _Group.of(members, [self.accelerators[at] for at in members], layer) for members in found.values()
            ]
        return self._groups[layer.kind]

    def costs(
        self, layer: Layer, policies: Sequence[float], residency: Residency = NOTHING_RESIDENT
    ) -> tuple[Floats, Floats]:
        """The best mapping of one layer on each accelerator: latency_ms and energy_mj, [policy, accelerator].

        policies: as in `pricing.best_costs`. residency: what stays on chip; infinite on accelerators that cannot keep
        it, and where no mapping fits.

        Raises: HardwareError if an accelerator has no engine for the layer's kind.
        """
        latency = np.full((len(policies), len(self.accelerators)), np.inf)
        energy = np.full((len(policies), len(self.accelerators)), np.inf)
        for group in self.groups(layer) if not refusal(layer) else ():
            weights, activations = resident_bits(group.first)
            if (residency.weights and weights < 0) or (residency.activations and activations < 0):
                continue
            own = group.engine.seen(layer)
            room = group.room
            if beside(group.levels, residency) != group.levels:  # the same memory makes room in all of them
                room = room.copy()
                room[-2] /= 2
            try:
                table = _front(own, group, room, residency)
            except HardwareError:
                continue  # a mapspace that cannot hold this layer: infinite cost on its accelerators
            if not len(table.cycles):
                continue
            ms, mj = _price(own, table, group, room)
            here = np.arange(len(group.at))
            for p, w in enumerate(policies):
                with np.errstate(invalid="ignore"):  # a weight of zero times infinity
                    value = np.where(np.isfinite(ms), w * ms + (1 - w) * mj, np.inf)
                other = np.where(value == value.min(axis=1, keepdims=True), mj if w == 1 else ms, math.inf)
                chosen = other.argmin(axis=1)
                latency[p, group.at], energy[p, group.at] = ms[here, chosen], mj[here, chosen]
        return latency, energy


def nest_costs(
    layer: Layer,
    accelerators: Sequence[Accelerator],
    policies: Sequence[float],
    residency: Residency = NOTHING_RESIDENT,
) -> tuple[Floats, Floats]:
    """`Fleet.costs` of accelerators that are priced for one layer only."""
    return Fleet(accelerators).costs(layer, policies, residency)
