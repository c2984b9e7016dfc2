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
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import Accelerator, Engine, MemoryLevel
from cosearch.hardware.cost import engine_of, hierarchy
from cosearch.hardware.kernels import unbeaten_rows
from cosearch.hardware.mapping import DIMS, RELEVANT
from cosearch.hardware.nest import Nests, count_nests, enumerate_nests, room_bits, tiles_fit
from cosearch.hardware.nestkernel import NestCounts
from cosearch.hardware.pricing import Residency
from cosearch.workload import Layer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOTHING = Residency(weights=False, activations=False)


@njit(cache=True)
def _rows(bits: Floats, word_bits: Floats, rows: Floats) -> None:  # pragma: no cover
    """Rows accessed, summed over tensors and each tensor's rounded up: of bits [b, way, level, 3]."""
    for b in range(bits.shape[0]):
        for way in range(2):
            for level in range(bits.shape[2]):
                count = 0.0
                for x in range(3):
                    count += np.ceil(bits[b, way, level, x] / word_bits[level] - 1e-9)
                rows[b, way, level] = count


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
class _Members:
    """What accelerators of one geometry charge: [level, accelerator], or [accelerator]."""

    read_port: Floats
    write_port: Floats
    read_pj: Floats
    write_pj: Floats
    room: Floats
    clock_mhz: Floats
    lanes: Floats
    operation_pj: Floats
    requantise_pj: Floats
    static_w: Floats

    @classmethod
    def of(cls, layer: Layer, accelerators: Sequence[Accelerator], residency: Residency) -> "_Members":
        levels = [hierarchy(a, engine_of(layer, a)) for a in accelerators]

        def table(one: Any) -> Floats:
            return np.array([[float(one(level)) for level in x] for x in levels]).T

        def row(one: Any) -> Floats:
            return np.array([float(one(a)) for a in accelerators])

        room = table(room_bits)
        if beside(levels[0], residency) != tuple(levels[0]):  # one array: the same memory makes room in all of them
            room[-2] /= 2
        return cls(
            table(lambda x: x.read_bits_per_cycle),
            table(lambda x: x.write_bits_per_cycle),
            table(lambda x: x.read_energy_pj),
            table(lambda x: x.write_energy_pj),
            room,
            row(lambda a: a.clock_mhz),
            row(lambda a: a.lanes),
            row(lambda a: a.energies.operation_pj(layer, engine_of(layer, a).fabric)),
            row(lambda a: a.energies.requantise_pj),
            row(lambda a: a.static_power_w),
        )


@dataclass(frozen=True)
class _Charged:
    """What accelerators of one geometry charge for, per mapping.

    cycles [b] of the array; ends [b] of the first fill and last drain; bits [b, port] per instance with the level of
    each port and whether it only writes; rows [b, memory] accessed with the level and whether they are written;
    class [b, level]: how many of the rooms on offer are too small.
    """

    cycles: Floats
    ends: Floats
    bits: Floats
    ports: tuple[tuple[int, bool], ...]
    rows: Floats
    memories: tuple[tuple[int, bool], ...]
    too_small: Floats

    def take(self, index: Ints) -> "_Charged":
        some = {name: getattr(self, name)[index] for name in ("cycles", "ends", "bits", "rows", "too_small")}
        return replace(self, **some)


def _charged(layer: Layer, engine: Engine, levels: Sequence[MemoryLevel], c: NestCounts, m: _Members) -> _Charged:
    words = np.array([float(level.word_bits) for level in levels])
    accessed = np.empty(c.ports.shape)
    _rows(c.rows, words, accessed)
    (row_in, row_out), (share_in, share_out) = accessed.swapaxes(0, 1), (c.ports / c.used[:, None]).swapaxes(0, 1)
    bits, ports, rows, memories, small = [], [], [], [], []
    possible = np.ones(len(c.cycles), bool)
    for i, level in enumerate(levels):
        if level.shared_port:
            sides = [(share_in[:, i] + share_out[:, i], m.read_port, False)]
        else:
            sides = [(share_in[:, i], m.read_port, False), (share_out[:, i], m.write_port, True)]
        for share, port, writes in sides:
            if np.isfinite(port[i]).any():
                bits.append(share)
                ports.append((i, writes))
        if (m.read_pj[i] == m.write_pj[i]).all():
            kinds = [(row_in[:, i] + row_out[:, i], m.read_pj, False)]
        else:
            kinds = [(row_in[:, i], m.read_pj, False), (row_out[:, i], m.write_pj, True)]
        for count, energy, writes in kinds:
            if energy[i].any():
                rows.append(count)
                memories.append((i, writes))
        offered = np.unique(m.room[i])
        small.append(np.searchsorted(offered, c.footprint_bits[:, i]))
        possible &= (small[-1] < len(offered)) & (c.fanout[:, i] <= level.instances)
    cycles = c.cycles * engine.cycles_per_operation(layer) + engine.fill_cycles * c.fills
    none = np.empty((len(cycles), 0))
    table = _Charged(
        cycles,
        c.ends,
        np.stack(bits, 1) if bits else none,
        tuple(ports),
        np.stack(rows, 1) if rows else none,
        tuple(memories),
        np.stack(small, 1).astype(float),
    )
    return table.take(np.flatnonzero(possible))


def _front(table: _Charged) -> _Charged:
    varies = table.too_small[:, np.ptp(table.too_small, axis=0) > 0] if len(table.cycles) else table.too_small
    points = np.concatenate([table.cycles[:, None], table.ends[:, None], table.bits, table.rows, varies], axis=1)
    order = np.lexsort((points.sum(axis=1), points[:, 0]))
    return table.take(order[unbeaten_rows(points[order])])


def _price(layer: Layer, t: _Charged, m: _Members) -> tuple[Floats, Floats]:
    """latency_ms and energy_mj, [accelerator, mapping]; infinite where tiles do not fit."""
    cycles = np.maximum(t.cycles, np.ceil(layer.output_count / m.lanes)[:, None])
    for at, (i, writes) in enumerate(t.ports):
        cycles = np.maximum(cycles, t.bits[:, at] / (m.write_port if writes else m.read_port)[i][:, None])
    pj = (layer.macs * m.operation_pj + layer.output_count * m.requantise_pj)[:, None]
    for at, (i, writes) in enumerate(t.memories):
        pj = pj + t.rows[:, at] * (m.write_pj if writes else m.read_pj)[i][:, None]
    fits = np.ones(cycles.shape, bool)
    for i in range(len(m.room)):
        fits &= t.too_small[:, i] <= np.searchsorted(np.unique(m.room[i]), m.room[i])[:, None]
    ms = np.where(fits, (cycles + t.ends) / (m.clock_mhz * 1e3)[:, None], np.inf)
    return ms, np.where(fits, pj * 1e-9 + np.where(fits, ms, 0.0) * m.static_w[:, None], np.inf)


def _charged_by(layer: Layer, members: Sequence[Accelerator], residency: Residency, m: _Members) -> _Charged:
    """Raises: HardwareError if the mapspace cannot hold the layer or no tile fits."""
    engine = engine_of(layer, members[0])
    levels = hierarchy(members[0], engine)
    fits = partial(tiles_fit, layer, levels, m.room.max(axis=1), residency.tensors)
    nests = allowed(enumerate_nests(layer, engine, [level.name for level in levels], fits), residency)
    if not len(nests):
        raise HardwareError(f"layer {layer.name!r}: no tile fits the memories of {members[0].name!r}")
    return _front(_charged(layer, engine, levels, count_nests(layer, engine, levels, nests, residency.tensors), m))


def nest_costs(
    layer: Layer, accelerators: Sequence[Accelerator], policies: Sequence[float], residency: Residency = NOTHING
) -> tuple[Floats, Floats]:
    """The best mapping of one layer on many accelerators: latency_ms and energy_mj, [policy, accelerator].

    policies: as in `pricing.best_costs`. residency: what stays on chip; infinite on accelerators that cannot keep it,
    and where no mapping fits.
    """
    latency = np.full((len(policies), len(accelerators)), np.inf)
    energy = np.full((len(policies), len(accelerators)), np.inf)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for at, accelerator in enumerate(accelerators):
        room = resident_bits(accelerator)
        if (room[0] >= 0 or not residency.weights) and (room[1] >= 0 or not residency.activations):
            groups.setdefault(geometry(accelerator, engine_of(layer, accelerator)), []).append(at)
    for members in groups.values():
        some = [accelerators[at] for at in members]
        own = engine_of(layer, some[0]).seen(layer)
        m = _Members.of(own, some, residency)
        try:
            table = _charged_by(own, some, residency, m)
        except HardwareError:
            continue  # a mapspace that cannot hold this layer: infinite cost on its accelerators
        if not len(table.cycles):
            continue
        ms, mj = _price(own, table, m)
        here = np.arange(len(members))
        for p, w in enumerate(policies):
            with np.errstate(invalid="ignore"):  # a weight of zero times infinity
                value = np.where(np.isfinite(ms), w * ms + (1 - w) * mj, np.inf)
            other = np.where(value == value.min(axis=1, keepdims=True), mj if w == 1 else ms, math.inf)
            chosen = other.argmin(axis=1)
            latency[p, members], energy[p, members] = ms[here, chosen], mj[here, chosen]
    return latency, energy
