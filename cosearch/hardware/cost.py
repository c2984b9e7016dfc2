"""The cost of explicit mappings on any memory hierarchy, in batches.

The analysis is the standard one: a tensor's tile at a level is what all loops at this level and below touch; a tile is
fetched once per iteration of the temporal loops above it, outermost down to the innermost one that matters to the
tensor, and along an innermost sliding loop the input's halo is fetched once. Fan-out that matters to a tensor scatters
its tile, fan-out that does not multicasts it, and for outputs sums it. Every visit of an output tile starts from zero;
what leaves a level is added to what the level above holds (first addition without a read). Latency is the largest of
the compute time and each level's transfer time (double buffering), and where the engine counts filling and draining,
 the first tiles' way in and the last tile's way out come on top; energy is accesses times energy per row.

Uneven loops: a dimension's loops may multiply to more than its bound. Inner loops are then full and the outermost one
is cut, unless the mapping states a level's tile: words are counted exactly, loop iterations (cycles, refetches, partial
sums) are counted whole, and so is the time of copies side by side: the busiest one has a whole tile in every iteration.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import (
    READ,
    TENSORS,
    WRITE,
    Accelerator,
    MemoryLevel,
    engine_of,
    fan_out,
    hierarchy,
    in_rows,
    port_width,
    room_bits,
)
from cosearch.hardware.bounds import lower_bound
from cosearch.hardware.mapping import DIMS, RELEVANT, Mapping, loop_bounds, parted
from cosearch.hardware.pricing import Residency
from cosearch.hardware.sparsity import time_share
from cosearch.notebook import html_table
from cosearch.workload import Layer

_AT = {dim: i for i, dim in enumerate(DIMS)}
_IRRELEVANT = {tensor: [_AT[d] for d in DIMS if d not in dims] for tensor, dims in RELEVANT.items()}
_RELEVANT = {tensor: [_AT[d] for d in DIMS if d in dims] for tensor, dims in RELEVANT.items()}


@dataclass(frozen=True)
class Nests:
    """A batch of loop nests over the same levels with the same loop orders.

    orders: per level, temporal dimensions innermost first (those left out have bound 1).
    temporal, spatial: B x levels x len(DIMS), float64 bounds, 1 where there is no loop. tile: likewise, the largest
    size of each level's tile; infinite where the loops alone decide. None: nowhere.
    """

    orders: tuple[tuple[str, ...], ...]
    temporal: Tensor
    spatial: Tensor
    tile: Tensor | None = None


def nests(mappings: Sequence[Mapping]) -> list[tuple[list[int], Nests]]:
    """Batches of mappings with equal loop orders, each with the positions of its mappings.

    mappings: as `mapping.parted` gives them, no dimension twice among a level's time loops.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for at, mapping in enumerate(mappings):
        key = tuple(tuple(d for d, b in level.temporal if b > 1) for level in mapping.levels)
        groups.setdefault(key, []).append(at)
    batches = []
    for orders, members in groups.items():
        shape = (len(members), len(orders), len(DIMS))
        temporal, spatial = torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)
        tile = torch.full(shape, math.inf, dtype=torch.float64)
        for b, at in enumerate(members):
            for i, level in enumerate(mappings[at].levels):
                for dim, bound in level.temporal:
                    temporal[b, i, _AT[dim]] *= bound
                for dim, bound in level.spatial:
                    spatial[b, i, _AT[dim]] *= bound
                for dim, size in level.tile:
                    tile[b, i, _AT[dim]] = size
        batches.append((members, Nests(orders, temporal, spatial, tile)))
    return batches


@dataclass(frozen=True)
class BatchCost:
    """Costs of a batch of nests; B first.

    cycles: B. compute_cycles: B. level_cycles: B x levels, without the ends. ends_cycles: B, to fill and to drain.
    energy_pj: B, without static power. rows: B x levels x 2 (read, written), those accessed; level_energy_pj: B x
    levels. reads, writes: B x levels x 3 (W, I, O), words over all instances. footprint_bits: B x levels, of one
    instance. instances: B x levels, used. fits: B, whether every footprint fits and every fan-out exists.
    """

    cycles: Tensor
    compute_cycles: Tensor
    level_cycles: Tensor
    ends_cycles: Tensor
    energy_pj: Tensor
    rows: Tensor
    level_energy_pj: Tensor
    operation_pj: Tensor
    reads: Tensor
    writes: Tensor
    footprint_bits: Tensor
    instances: Tensor
    fits: Tensor


@dataclass(frozen=True)
class _Extents:
    """Effective factors (product over all = bound): B x levels x dims; reach: extent of a tile at each level."""

    spatial: Tensor
    temporal: Tensor
    reach: Tensor
    below_temporal: Tensor  # extent inside a level's temporal loops, its spatial loops included


def _extents(n: Nests, bounds: Tensor) -> _Extents:
    size = torch.ones_like(n.temporal[:, 0])
    held = torch.ones_like(size)
    spatial: list[Tensor] = []
    temporal: list[Tensor] = []
    reach: list[Tensor] = []
    below: list[Tensor] = []
    for level in range(n.temporal.shape[1]):
        for factors, out in ((n.spatial, spatial), (n.temporal, temporal)):
            size = size * factors[:, level]
            grown = torch.minimum(size, bounds)
            out.append(grown / held)
            held = grown
            if out is spatial:
                below.append(held)
        if n.tile is not None:
            cut = torch.minimum(held, n.tile[:, level])
            temporal[-1] = temporal[-1] * (cut / held)
            size = held = cut
        reach.append(held)
    return _Extents(*(torch.stack(parts, 1) for parts in (spatial, temporal, reach, below)))


def input_edge(outputs: Tensor, kernel: Tensor, stride: int, dilation: int) -> Tensor:
    """Distinct input rows that a tile reads: ``p r - max(p - dilation, 0) max(r - stride, 0)``.

    Output row i at kernel row j reads what i + dilation does at j - stride. stride and dilation count in their greatest
    common divisor: rows between its multiples are never read.
    """
    common = math.gcd(stride, dilation)
    twice = (outputs - dilation // common).clamp(min=0) * (kernel - stride // common).clamp(min=0)
    return outputs * kernel - twice


def _tile(tensor: str, reach: Tensor, layer: Layer) -> Tensor:
    if tensor != "I":
        return reach[:, _RELEVANT[tensor]].prod(1)
    rows = input_edge(reach[:, _AT["P"]], reach[:, _AT["R"]], layer.stride[0], layer.dilation[0])
    cols = input_edge(reach[:, _AT["Q"]], reach[:, _AT["S"]], layer.stride[1], layer.dilation[1])
    return reach[:, _AT["N"]] * reach[:, _AT["G"]] * reach[:, _AT["C"]] * rows * cols


@dataclass(frozen=True)
class _Moves:
    """Transfers of one tensor into one instance of a level over the whole layer (B each).

    whole: transfers of a whole tile of `tile` words; slid: transfers of the `new` words that a slid tile adds.
    """

    tile: Tensor
    whole: Tensor
    new: Tensor
    slid: Tensor

    @property
    def words(self) -> Tensor:
        return self.whole * self.tile + self.slid * self.new

    def bits(self, width: float, unit: float) -> Tensor:
        """Bits moved where a transfer of `width` bits for each word takes whole units; packed for unit 0."""
        if not unit:
            return self.words * width
        return self.whole * _whole(self.tile * width, unit) + self.slid * _whole(self.new * width, unit)

    def times(self, words: Tensor) -> "_Moves":
        """The same transfers, each `words` times as large."""
        return _Moves(self.tile * words, self.whole, self.new * words, self.slid)


def _whole(bits: Tensor, unit: float) -> Tensor:
    """Bits rounded up to whole units; unit 0 rounds nothing."""
    return torch.ceil(bits / unit - 1e-9) * unit if unit else bits


def _moved(tensor: str, child: int, level: MemoryLevel, n: Nests, extents: _Extents, layer: Layer) -> _Moves:
    """What enters one instance of a level: its tile, refetches and halo."""
    reach = extents.reach[:, child]
    tile = _tile(tensor, reach, layer)
    whole, slid, new = torch.ones_like(tile), torch.zeros_like(tile), torch.zeros_like(tile)
    started = torch.full_like(tile, 0.0 if level.keeps else 1.0)  # 1 once a loop that matters iterates
    gone = torch.zeros_like(tile)  # 1 once nothing is left to slide on
    dims = RELEVANT[tensor]
    for above in range(child + 1, n.temporal.shape[1]):
        if not level.keeps and above > child + 1:
            gone = started
        for dim in n.orders[above]:
            at = _AT[dim]
            trips = n.temporal[:, above, at]
            if dim not in dims:
                factor = 1 + started * (trips - 1)
                whole, slid = whole * factor, slid * factor
                gone = torch.maximum(gone, started * _iterates(trips))
                continue
            exact = extents.temporal[:, above, at]
            if tensor == "I" and dim in "PQRS" and level.slides:
                new = _blend(gone, new, _slide(dim, above, reach, extents, layer, tile))
                whole, slid = whole * (1 + gone * (exact - 1)), _blend(gone, slid * exact, exact - 1)
            else:
                whole, slid = whole * exact, slid * exact
            started = torch.maximum(started, _iterates(trips))
            gone = torch.maximum(gone, _iterates(trips))
    return _Moves(tile, whole, new, slid)


def _iterates(trips: Tensor) -> Tensor:
    """0 for one iteration, 1 for two or more, and in between for fractions, so that costs are continuous in trips."""
    return (trips - 1).clamp(0, 1)


def _blend(share: Tensor, one: Tensor, other: Tensor | float) -> Tensor:
    return share * one + (1 - share) * other


def _slide(dim: str, level: int, reach: Tensor, extents: _Extents, layer: Layer, tile: Tensor) -> Tensor:
    """Words that each next tile adds in a sweep of the innermost loop along a sliding dimension.

    Successive tiles of one instance are apart by all that is unrolled below the loop. A tile without gaps, its ends
    apart, adds at most that many rows; one output row (rows `dilation` apart) or one kernel row (rows `stride` apart)
    overlaps the next one where the step is a multiple of that distance; other tiles with gaps are taken not to overlap.
    """
    vertical = dim in "PR"
    p, r = ("P", "R") if vertical else ("Q", "S")
    stride, dilation = (layer.stride[0], layer.dilation[0]) if vertical else (layer.stride[1], layer.dilation[1])
    common = math.gcd(stride, dilation)
    stride, dilation = stride // common, dilation // common
    out, kernel = reach[:, _AT[p]], reach[:, _AT[r]]
    edge = input_edge(out, kernel, stride, dilation)
    step = extents.below_temporal[:, level, _AT[dim]] * (stride if dim == p else dilation)
    unit = torch.where(out == 1, float(dilation), float(stride))
    regular = ((out == 1) | (kernel == 1)) & (step % unit == 0)
    added = torch.where((out >= dilation) & (kernel >= stride), step, torch.where(regular, step / unit, edge))
    return tile / edge * torch.minimum(edge, added)


def _fanout(extents: _Extents, low: int, high: int, dims: Sequence[int]) -> Tensor:
    """Product of the effective spatial factors of some dimensions at levels low..high - 1 (B)."""
    return extents.spatial[:, low:high][:, :, list(dims)].flatten(1).prod(1)


class _Tally:
    """What every level moves, per tensor and direction: words, bits of rows (energy) and bits of ports (time).

    whole: aligned levels move whole rows in whole cycles; without it everything is packed. ends: the first fill and the
    last drain are counted apart. slack: B x levels x 3, see `_slack`. B each.
    """

    def __init__(self, levels: Sequence[MemoryLevel], zero: Tensor, whole: bool, ends: bool, slack: Tensor) -> None:
        self.levels, self.whole, self.ends, self.zero = levels, whole, ends, zero
        keys = [(i, tensor, way) for i in range(len(levels)) for tensor in TENSORS for way in (READ, WRITE)]
        self.words, self.rows = dict.fromkeys(keys, zero), dict.fromkeys(keys, zero)
        self.ports = {(i, way): zero for i, _, way in keys}
        self.slack = slack

    def _units(self, level: int, way: int) -> tuple[float, float]:
        """Row and port width to which each transfer is rounded up, 0 for none."""
        aligned = self.levels[level].aligned and self.whole
        width = port_width(self.levels[level], way)
        return float(self.levels[level].word_bits * aligned), width if aligned and math.isfinite(width) else 0.0

    def add(self, level: int, tensor: str, way: int, moves: _Moves, times: Tensor | float, bits: float) -> None:
        """Transfers over one instance's port, on `times` instances; bits: of one word."""
        row, port = self._units(level, way)
        self.words[level, tensor, way] = self.words[level, tensor, way] + moves.words * times
        self.rows[level, tensor, way] = self.rows[level, tensor, way] + moves.bits(bits, row) * times
        busiest = times * self.slack[:, level, TENSORS.index(tensor)]
        self.ports[level, way] = self.ports[level, way] + moves.bits(bits, port) * busiest

    def first(self, level: int, way: int, tile: Tensor, times: Tensor, bits: Tensor | float) -> Tensor:
        """Cycles of one transfer of a tile, which leaves the steady time of the port; 0 if ends do not count."""
        if not self.ends:
            return self.zero
        moved = _whole(tile * bits, self._units(level, way)[1])
        self.ports[level, way] = self.ports[level, way] - moved * times
        return _port(moved, torch.ones_like(moved), port_width(self.levels[level], way))

    def of(self, table: dict[tuple[int, str, int], Tensor], level: int, way: int) -> Tensor:
        """B x 3: W, I, O."""
        return torch.stack([table[level, tensor, way] for tensor in TENSORS], 1)


def _slack(n: Nests, extents: _Extents) -> Tensor:
    """What the busiest copy of a level moves over what copies move on average: B x levels x 3 (W, I, O).

    Where a time loop cuts a dimension that is unrolled above the level, some copies have no part of the last iteration,
    while others have a whole tile: they take part in all iterations.
    """
    count = n.temporal.shape[1]
    rows = []
    for level in range(count):
        slack = torch.ones_like(n.temporal[:, 0])
        unrolled = torch.zeros_like(slack, dtype=torch.bool)
        for above in range(level + 1, count):
            unrolled = unrolled | (n.spatial[:, above] > 1)
            cut = unrolled & (n.temporal[:, above] > 1)
            slack = slack * torch.where(cut, n.temporal[:, above] / extents.temporal[:, above], 1.0)
        rows.append(torch.stack([slack[:, _RELEVANT[tensor]].prod(1) for tensor in TENSORS], 1))
    return torch.stack(rows, 1)


def evaluate_batch(
    layer: Layer,
    levels: Sequence[MemoryLevel],
    n: Nests,
    *,
    operation_pj: float = 0.0,
    resident: Sequence[str] = (),
    overhead_cycles: Tensor | float = 0.0,
    cycles_per_operation: float = 1,
    update_share: float = 1.0,
    round_rows: bool = True,
    fill_and_drain: bool = False,
) -> BatchCost:
    """Cost of a batch of loop nests of one layer.

    levels: the hierarchy, innermost first. resident: tensors that stay in the level below DRAM: no DRAM traffic, no
    fill, no capacity check for them. overhead_cycles: added to the compute time, after cycles_per_operation.
    update_share: updates of the innermost partial sums over those of the loop nest (zero weights skipped).
    round_rows: whole rows per (tensor, kind) as the hardware moves them; without it everything is continuous in the
    temporal bounds from 1 on and differentiable almost everywhere (`cosearch.hardware.relaxed`). fill_and_drain: see
    `Engine`.
    """
    bounds = torch.tensor([float(v) for v in (loop_bounds(layer)[d] for d in DIMS)], dtype=n.temporal.dtype)
    bounds = bounds.to(n.temporal.device)
    extents = _extents(n, bounds)
    count = len(levels)
    zero = torch.zeros_like(n.temporal[:, 0, 0])
    tally = _Tally(levels, zero, round_rows, fill_and_drain, _slack(n, extents))
    footprint = [zero for _ in levels]
    ends = _inputs(layer, n, extents, resident, tally, footprint)
    ends = ends + _outputs(layer, n, extents, resident, tally, footprint, update_share)
    used = [_fanout(extents, i + 1, count, range(len(DIMS))) for i in range(count)]
    compute = n.temporal.flatten(1).prod(1) * cycles_per_operation + overhead_cycles
    level_cycles = torch.stack([_transfer(levels[i], tally, i, used[i]) for i in range(count)], 1)
    rows = torch.stack([_rows(levels[i], tally, i, round_rows) for i in range(count)], 1)
    per_row = rows.new_tensor([[level.read_energy_pj, level.write_energy_pj] for level in levels])
    level_energy = (rows * per_row).sum(2)
    operations = torch.full_like(zero, layer.macs * operation_pj)
    fits = torch.ones_like(zero, dtype=torch.bool)
    for i, level in enumerate(levels):
        room = room_bits(level)
        fits = fits & (footprint[i] <= room) & (n.spatial[:, i + 1 :].flatten(1).prod(1) <= level.instances)
        fits = fits & (n.spatial[:, i].prod(1) <= fan_out(levels, i))
    return BatchCost(
        cycles=torch.maximum(compute, level_cycles.amax(1)) + ends,
        compute_cycles=compute,
        level_cycles=level_cycles,
        ends_cycles=ends,
        energy_pj=operations + level_energy.sum(1),
        rows=rows,
        level_energy_pj=level_energy,
        operation_pj=operations,
        reads=torch.stack([tally.of(tally.words, i, READ) for i in range(count)], 1),
        writes=torch.stack([tally.of(tally.words, i, WRITE) for i in range(count)], 1),
        footprint_bits=torch.stack(footprint, 1),
        instances=torch.stack(used, 1),
        fits=fits,
    )


def _links(levels: Sequence[MemoryLevel], tensor: str) -> list[tuple[int, int]]:
    """(child, parent) levels between which a tensor moves, from the arithmetic (-1) to DRAM."""
    holding = [i for i, level in enumerate(levels) if tensor in level.holds]
    return list(zip([-1, *holding[:-1]], holding, strict=True))


def _inputs(
    layer: Layer,
    n: Nests,
    extents: _Extents,
    resident: Sequence[str],
    tally: _Tally,
    footprint: list[Tensor],
) -> Tensor:
    """Weights and inputs on their way down; returns the cycles of their first way.

    Each goes down link after link. The two go side by side, but one after the other out of a level that sends both.
    """
    levels, count = tally.levels, len(tally.levels)
    widths = {"W": float(layer.weight_width), "I": float(layer.input_bits)}
    first: dict[str, dict[int, Tensor]] = {"W": {}, "I": {}}
    for tensor in ("W", "I") if layer.has_weights else ("I",):
        links = _links(levels, tensor)
        for child, parent in links:
            moves = (
                _every_step(tensor, n, extents)
                if child < 0
                else _moved(tensor, child, levels[child], n, extents, layer)
            )
            outside = _fanout(extents, parent + 1, count, range(len(DIMS)))
            scatter = _fanout(extents, child + 1, parent + 1, _RELEVANT[tensor])
            entered = scatter * _fanout(extents, child + 1, parent + 1, _IRRELEVANT[tensor]) * outside
            if not (parent == count - 1 and tensor in resident):
                tally.add(parent, tensor, READ, moves.times(scatter), outside, widths[tensor])
                if child >= 0:
                    tally.add(child, tensor, WRITE, moves, entered, widths[tensor])
                    sent = tally.first(parent, READ, moves.tile * scatter, outside, widths[tensor])
                    got = tally.first(child, WRITE, moves.tile, entered, widths[tensor])
                    first[tensor][parent] = torch.maximum(sent, got)
            if not (tensor in resident and parent >= (links[-1][0] if len(links) > 1 else count - 1)):
                footprint[parent] = footprint[parent] + _tile(tensor, extents.reach[:, parent], layer) * widths[tensor]
    both = first["W"].keys() & first["I"].keys()
    together = sum((first[tensor][at] for tensor in first for at in both), tally.zero)
    alone = [sum((v for at, v in link.items() if at not in both), tally.zero) for link in first.values()]
    return together + torch.maximum(*alone)


def _every_step(tensor: str, n: Nests, extents: _Extents) -> _Moves:
    """Operands that the arithmetic takes in one place: one per step, nothing held below the innermost level."""
    exact = extents.temporal[:, :, _RELEVANT[tensor]].flatten(1).prod(1)
    steps = exact * n.temporal[:, :, _IRRELEVANT[tensor]].flatten(1).prod(1)
    return _Moves(torch.ones_like(steps), steps, torch.zeros_like(steps), torch.zeros_like(steps))


def _outputs(
    layer: Layer,
    n: Nests,
    extents: _Extents,
    resident: Sequence[str],
    tally: _Tally,
    footprint: list[Tensor],
    update_share: float,
) -> Tensor:
    """Partial sums on their way up; returns the cycles of the last way.

    A level is updated by what drains from below, summed over fan-out along C, R and S. On chip each visit of a tile
    starts from zero and is drained at its end: every update is a write, every one but a visit's first a read, and every
    drain is a read. DRAM reads every update but the first of each output. Where sums return, see `MemoryLevel.returns`.
    """
    levels, count = tally.levels, len(tally.levels)
    wide, narrow = float(layer.accumulator_bits), float(layer.output_bits)
    links = _links(levels, "O")
    rises = [_every_step("O", n, extents) if c < 0 else _moved("O", c, levels[c], n, extents, layer) for c, _ in links]
    ends = tally.zero
    for at, (child, parent) in enumerate(links):
        scatter = _fanout(extents, child + 1, parent + 1, _RELEVANT["O"])
        outside = _fanout(extents, parent + 1, count, range(len(DIMS)))
        entered = scatter * _fanout(extents, child + 1, parent + 1, _IRRELEVANT["O"]) * outside
        copies = _fanout(extents, parent + 1, count, _IRRELEVANT["O"])
        finished = float(layer.output_count) * copies
        into = rises[at].times(scatter)
        updates = into.words * outside
        top, innermost = parent == count - 1, child < 0
        stays = "O" in resident and parent == links[-1][0]
        if top and "O" in resident:
            break
        tile = _tile("O", extents.reach[:, parent], layer)
        left = finished if top or stays else rises[at + 1].words * outside
        last = wide if innermost and not top else narrow
        if innermost and not top:
            updates = torch.maximum(updates * update_share, left)

        def add(way: int, words: Tensor, transfer: Tensor, bits: float, parent: int = parent) -> None:
            moves = _Moves(transfer, words / transfer, torch.zeros_like(words), torch.zeros_like(words))
            tally.add(parent, "O", way, moves, 1.0, bits)

        if levels[parent].returns:
            add(READ, updates if innermost else updates - finished, into.tile, wide)
            add(WRITE, left - finished, tile, wide)
        else:
            add(READ, updates - left, into.tile, wide)
        add(WRITE, updates - finished, into.tile, wide)
        add(WRITE, finished, into.tile, last)
        if not (top or stays):
            add(READ, left - finished, tile, wide)
            add(READ, finished, tile, last)
        if not innermost:
            leaves = wide if at == 1 else narrow
            sent = tally.first(child, READ, rises[at].tile, entered, leaves)
            ends = ends + torch.maximum(sent, tally.first(parent, WRITE, into.tile, outside, narrow))
        if not stays or innermost:
            reduces = _iterates(n.temporal[:, parent + 1 :][:, :, _IRRELEVANT["O"]].flatten(1).prod(1))
            width = wide if innermost else narrow + reduces * (wide - narrow)
            footprint[parent] = footprint[parent] + tile * width
    return ends


def _transfer(level: MemoryLevel, tally: _Tally, at: int, used: Tensor) -> Tensor:
    """Cycles of a level: bits over ports of the instances in use; one port for both directions adds them up."""
    reads, writes = tally.ports[at, READ], tally.ports[at, WRITE]
    if level.shared_port:
        return _port(reads + writes, used, level.read_bits_per_cycle)
    ahead = _port(reads, used, level.read_bits_per_cycle)
    return torch.maximum(ahead, _port(writes, used, level.write_bits_per_cycle))


def _port(bits: Tensor, used: Tensor, width: float) -> Tensor:
    # an infinite port would give a gradient of infinity times zero
    return torch.zeros_like(bits) if math.isinf(width) else bits / (used * width)


def _rows(level: MemoryLevel, tally: _Tally, at: int, whole: bool) -> Tensor:
    """Rows accessed, B x 2 (read, written), each (tensor, kind) rounded up to whole rows."""
    rows = torch.stack([tally.of(tally.rows, at, way) for way in (READ, WRITE)], 1) / level.word_bits
    return (torch.ceil(rows - 1e-9) if whole else rows).sum(2)


@dataclass(frozen=True)
class Cost:
    """What one layer costs under one mapping.

    energy_pj: by component (operations, each level, requantise, static). accesses: (level, tensor) -> words read and
    written. bound: the resource that limits latency. ends_cycles: part of the cycles that fill and drain. utilisation:
    operations over what the array could do in the time. roofline_ms, compulsory_mj: what no mapping of the layer on
    this accelerator can beat (`cosearch.hardware.lower_bound`).
    """

    cycles: float
    latency_ms: float
    energy_pj: dict[str, float]
    accesses: dict[tuple[str, str], tuple[float, float]]
    utilisation: float
    bound: str
    footprint_bits: dict[str, float]
    ends_cycles: float
    roofline_ms: float
    compulsory_mj: float

    @property
    def energy_mj(self) -> float:
        return sum(self.energy_pj.values()) * 1e-9

    @property
    def edp(self) -> float:
        """Energy-delay product, mJ ms."""
        return self.energy_mj * self.latency_ms

    def _repr_html_(self) -> str:
        rows = [
            ("cycles", f"{self.cycles:,.0f}"),
            ("latency", f"{self.latency_ms:.4g} ms, limited by {self.bound}"),
            ("utilisation", f"{self.utilisation:.1%}"),
            *((f"energy: {name}", f"{pj:.4g} pJ") for name, pj in self.energy_pj.items()),
            ("energy", f"{self.energy_mj:.4g} mJ"),
        ]
        return html_table("Cost of one layer, modelled", ("figure", "value"), rows)


def evaluate(layer: Layer, accelerator: Accelerator, mapping: Mapping, resident: Sequence[str] = ()) -> Cost:
    """The cost of one explicit mapping, with the bounds that no mapping can beat.

    Raises: HardwareError naming the layer, the level and the number at fault: levels that are not the hierarchy's,
    loops that do not cover a dimension, a fan-out larger than the array, a tile that does not fit.
    """
    engine = engine_of(layer, accelerator)
    least = lower_bound(layer, accelerator, Residency("W" in resident, {"I", "O"} <= set(resident)))
    layer = engine.seen(layer)
    levels = hierarchy(accelerator, engine)
    _check(layer, levels, mapping)
    [rows], level_of = parted([mapping])
    [(_, batch)] = nests([rows])
    at = [row for row, i in enumerate(level_of) if i not in level_of[row + 1 :]]
    outer = mapping.levels[-1:] if engine.fill_per == "tile" else mapping.levels[1:]
    passes = math.prod(b for level in outer for _, b in level.temporal)
    cost = evaluate_batch(
        layer,
        in_rows(levels, level_of),
        batch,
        operation_pj=accelerator.energies.operation_pj(layer, engine.fabric),
        resident=resident,
        overhead_cycles=float(engine.fill_cycles * passes),
        cycles_per_operation=engine.cycles_per_operation(layer),
        update_share=time_share(layer, engine.zeros),
        fill_and_drain=engine.fill_and_drain,
    )
    for i, level in enumerate(levels):
        room = room_bits(level)
        if float(cost.footprint_bits[0, at[i]]) > room:
            raise HardwareError(
                f"layer {layer.name!r}: level {level.name!r} needs {float(cost.footprint_bits[0, at[i]]) / 8:g} bytes "
                f"per instance, has {room / 8:g}{' (half, double-buffered)' if level.double_buffered else ''}"
            )
        below = math.prod(bound for _, bound in mapping.levels[i].spatial)
        if below > fan_out(levels, i):
            raise HardwareError(
                f"layer {layer.name!r}: the mapping spreads loops over {below:g} instances of level "
                f"{levels[i - 1].name!r} below each {level.name!r}, there are {fan_out(levels, i):g}"
            )
        instances = math.prod(bound for above in mapping.levels[i + 1 :] for _, bound in above.spatial)
        if instances > level.instances:
            raise HardwareError(
                f"layer {layer.name!r}: the mapping uses {instances:g} instances of level {level.name!r}, "
                f"there are {level.instances}"
            )
    times = {"compute": float(cost.compute_cycles[0])}
    times.update({level.name: float(cost.level_cycles[0, at[i]]) for i, level in enumerate(levels)})
    times["requantise"] = -(-layer.output_count // accelerator.lanes)
    ends = float(cost.ends_cycles[0])
    cycles = max(times.values()) + ends
    ms = cycles / (accelerator.clock_mhz * 1e3)
    energy = {"operations": float(cost.operation_pj[0])}
    energy.update({level.name: float(cost.level_energy_pj[0, at[i]]) for i, level in enumerate(levels)})
    energy["requantise"] = layer.output_count * accelerator.energies.requantise_pj
    energy["static"] = accelerator.static_power_w * ms * 1e9
    return Cost(
        cycles=cycles,
        latency_ms=ms,
        energy_pj=energy,
        accesses={
            (level.name, tensor): (float(cost.reads[0, at[i], x]), float(cost.writes[0, at[i], x]))
            for i, level in enumerate(levels)
            for x, tensor in enumerate(TENSORS)
            if tensor in level.holds
        },
        utilisation=layer.macs
        * engine.cycles_per_operation(layer)
        / (cycles * engine.rows * engine.lanes * engine.columns(layer)),
        bound=max(times, key=lambda name: times[name]),
        footprint_bits={level.name: float(cost.footprint_bits[0, at[i]]) for i, level in enumerate(levels)},
        ends_cycles=ends,
        roofline_ms=least.latency_ms,
        compulsory_mj=least.energy_mj,
    )


def _check(layer: Layer, levels: Sequence[MemoryLevel], mapping: Mapping) -> None:
    names = [level.name for level in levels]
    given = [level.level for level in mapping.levels]
    if names != given:
        raise HardwareError(f"layer {layer.name!r}: the mapping has levels {given}, the hierarchy {names}")
    for dim, bound in loop_bounds(layer).items():
        if mapping.extent(dim) < bound or mapping.idles(dim, bound):
            loops = [f"{x.level} {b}" for x in mapping.levels for d, b in (*x.spatial, *x.temporal) if d == dim]
            raise HardwareError(
                f"layer {layer.name!r}: the loops over {dim} multiply to {mapping.extent(dim)}, the layer has {bound} "
                f"(loops: {', '.join(loops) or 'none'})"
            )
