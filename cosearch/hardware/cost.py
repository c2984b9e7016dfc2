"""The cost of explicit mappings on any memory hierarchy, in batches.

The analysis is the standard one: a tensor's tile at a level is what all loops at this level and below touch; a tile is
fetched once per iteration of the temporal loops above it, outermost down to the innermost one that matters to the
tensor, and along an innermost sliding loop the input's halo is fetched once. Fan-out that matters to a tensor scatters
its tile, fan-out that does not multicasts it, and for outputs sums it. Every visit of an output tile starts from zero;
what leaves a level is added to what the level above holds (first addition without a read). Latency is the largest of
the compute time and each level's transfer time (double buffering); energy is accesses times energy per row.

Uneven loops: a dimension's loops may multiply to more than its bound. Inner loops are then full and the outermost one
is cut, unless the mapping states a level's tile: words are counted exactly, loop iterations (cycles, refetches, partial
sums) are counted whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosearch.errors import HardwareError
from cosearch.hardware.accelerator import TENSORS, Accelerator, Engine, MemoryLevel
from cosearch.hardware.mapping import DIMS, RELEVANT, Mapping, loop_bounds
from cosearch.hardware.sparsity import time_share
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
    """Batches of mappings with equal loop orders, each with the positions of its mappings."""
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
                    temporal[b, i, _AT[dim]] = bound
                for dim, bound in level.spatial:
                    spatial[b, i, _AT[dim]] = bound
                for dim, size in level.tile:
                    tile[b, i, _AT[dim]] = size
        batches.append((members, Nests(orders, temporal, spatial, tile)))
    return batches


@dataclass(frozen=True)
class BatchCost:
    """Costs of a batch of nests; B first.

    cycles: B. compute_cycles: B. level_cycles: B x levels. energy_pj: B, without static power. level_energy_pj:
    B x levels. reads, writes: B x levels x 3 (W, I, O), words over all instances. footprint_bits: B x levels, of one
    instance. instances: B x levels, used. fits: B, whether every footprint fits and every fan-out exists.
    """

    cycles: Tensor
    compute_cycles: Tensor
    level_cycles: Tensor
    energy_pj: Tensor
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
    """Distinct input rows that a tile reads: ``min((p - 1) stride + (r - 1) dilation + 1, p r)``.

    stride and dilation count in their greatest common divisor: rows between its multiples are never read.
    """
    common = math.gcd(stride, dilation)
    span = (outputs - 1) * (stride // common) + (kernel - 1) * (dilation // common) + 1
    return torch.minimum(span, outputs * kernel)


def _tile(tensor: str, reach: Tensor, layer: Layer) -> Tensor:
    if tensor != "I":
        return reach[:, _RELEVANT[tensor]].prod(1)
    rows = input_edge(reach[:, _AT["P"]], reach[:, _AT["R"]], layer.stride[0], layer.dilation[0])
    cols = input_edge(reach[:, _AT["Q"]], reach[:, _AT["S"]], layer.stride[1], layer.dilation[1])
    return reach[:, _AT["N"]] * reach[:, _AT["G"]] * reach[:, _AT["C"]] * rows * cols


def _moved(tensor: str, child: int, keeps: bool, n: Nests, extents: _Extents, layer: Layer) -> Tensor:
    """Words that enter one instance of a level over the whole layer (B): tile, refetch and halo."""
    reach = extents.reach[:, child]
    words = _tile(tensor, reach, layer)
    started = torch.full_like(words, not keeps, dtype=torch.bool)
    dims = RELEVANT[tensor]
    for level in range(child + 1, n.temporal.shape[1]):
        for dim in n.orders[level]:
            at = _AT[dim]
            trips = n.temporal[:, level, at]
            if dim not in dims:
                words = torch.where(started, words * trips, words)
                continue
            exact = extents.temporal[:, level, at]
            plain = words * exact
            if tensor == "I" and dim in "PQRS":
                slid = _slide(dim, level, reach, exact, extents, layer, words)
                plain = torch.where(started, plain, slid)
            words = plain
            started = started | (trips > 1)
    return words


def _slide(
    dim: str, level: int, reach: Tensor, trips: Tensor, extents: _Extents, layer: Layer, words: Tensor
) -> Tensor:
    """Words of a sweep of the innermost loop along a sliding dimension: the first tile, then what each next one adds.

    Successive tiles of one instance are apart by all that is unrolled below the loop. A tile without gaps adds at most
    that many rows; one output row (rows `dilation` apart) or one kernel row (rows `stride` apart) overlaps the next one
    where the step is a multiple of that distance; other tiles with gaps are taken not to overlap.
    """
    vertical = dim in "PR"
    p, r = ("P", "R") if vertical else ("Q", "S")
    stride, dilation = (layer.stride[0], layer.dilation[0]) if vertical else (layer.stride[1], layer.dilation[1])
    common = math.gcd(stride, dilation)
    stride, dilation = stride // common, dilation // common
    out, kernel = reach[:, _AT[p]], reach[:, _AT[r]]
    edge = input_edge(out, kernel, stride, dilation)
    step = extents.below_temporal[:, level, _AT[dim]] * (stride if dim == p else dilation)
    span = (out - 1) * stride + (kernel - 1) * dilation + 1
    unit = torch.where(out == 1, float(dilation), float(stride))
    regular = ((out == 1) | (kernel == 1)) & (step % unit == 0)
    added = torch.where(edge == span, step, torch.where(regular, step / unit, edge))
    return words / edge * (edge + (trips - 1) * torch.minimum(edge, added))


def _fanout(extents: _Extents, low: int, high: int, dims: Sequence[int]) -> Tensor:
    """Product of the effective spatial factors of some dimensions at levels low..high - 1 (B)."""
    return extents.spatial[:, low:high][:, :, list(dims)].flatten(1).prod(1)


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
) -> BatchCost:
    """Cost of a batch of loop nests of one layer.

    levels: the hierarchy, innermost first. resident: tensors that stay in the level below DRAM: no DRAM traffic, no
    fill, no capacity check for them. overhead_cycles: added to the compute time, after cycles_per_operation.
    update_share: updates of the innermost partial sums over those of the loop nest (zero weights skipped).
    round_rows: whole rows per (tensor, kind) as the hardware moves them; without it everything is differentiable in
    the bounds almost everywhere.
    """
    bounds = torch.tensor([float(v) for v in (loop_bounds(layer)[d] for d in DIMS)], dtype=n.temporal.dtype)
    bounds = bounds.to(n.temporal.device)
    extents = _extents(n, bounds)
    count = len(levels)
    top = count - 1
    zero = torch.zeros_like(n.temporal[:, 0, 0])
    reads = [[zero for _ in TENSORS] for _ in levels]
    writes = [[zero for _ in TENSORS] for _ in levels]
    read_bits = [[zero for _ in TENSORS] for _ in levels]
    write_bits = [[zero for _ in TENSORS] for _ in levels]
    footprint = [zero for _ in levels]
    every = list(range(len(DIMS)))
    widths = {"W": float(layer.weight_width), "I": float(layer.input_bits)}
    for x, tensor in enumerate(("W", "I")):
        if tensor == "W" and not layer.has_weights:
            continue
        holding = [i for i, level in enumerate(levels) if tensor in level.holds]
        child = -1
        for parent in holding:
            if child < 0:
                words = _every_step(tensor, n, extents)
            else:
                words = _moved(tensor, child, levels[child].keeps, n, extents, layer)
            outside = _fanout(extents, parent + 1, count, every)
            scatter = _fanout(extents, child + 1, parent + 1, _RELEVANT[tensor])
            copies = _fanout(extents, child + 1, parent + 1, _IRRELEVANT[tensor])
            if not (parent == top and tensor in resident):
                reads[parent][x] = words * scatter * outside
                read_bits[parent][x] = reads[parent][x] * widths[tensor]
                if child >= 0:
                    writes[child][x] = words * scatter * copies * outside
                    write_bits[child][x] = writes[child][x] * widths[tensor]
            child = parent
        for i in holding:
            if not (tensor in resident and i >= (holding[-2] if len(holding) > 1 else top)):
                footprint[i] = footprint[i] + _tile(tensor, extents.reach[:, i], layer) * widths[tensor]
    _outputs(layer, levels, n, extents, resident, (reads, writes, read_bits, write_bits), footprint, update_share)
    used = [_fanout(extents, i + 1, count, every) for i in range(count)]
    compute = n.temporal.flatten(1).prod(1) * cycles_per_operation + overhead_cycles
    rd, wr = (
        torch.stack([torch.stack(r, 1) for r in read_bits], 1),
        torch.stack([torch.stack(w, 1) for w in write_bits], 1),
    )
    level_cycles = torch.stack([_transfer(levels[i], rd[:, i], wr[:, i], used[i]) for i in range(count)], 1)
    level_energy = torch.stack([_energy(levels[i], rd[:, i], wr[:, i], round_rows) for i in range(count)], 1)
    operations = torch.full_like(zero, layer.macs * operation_pj)
    fits = torch.ones_like(zero, dtype=torch.bool)
    for i, level in enumerate(levels):
        room = level.capacity_bytes * 8 / (2 if level.double_buffered else 1)
        fits = fits & (footprint[i] <= room) & (n.spatial[:, i + 1 :].flatten(1).prod(1) <= level.instances)
    return BatchCost(
        cycles=torch.maximum(compute, level_cycles.amax(1)),
        compute_cycles=compute,
        level_cycles=level_cycles,
        energy_pj=operations + level_energy.sum(1),
        level_energy_pj=level_energy,
        operation_pj=operations,
        reads=torch.stack([torch.stack(r, 1) for r in reads], 1),
        writes=torch.stack([torch.stack(w, 1) for w in writes], 1),
        footprint_bits=torch.stack(footprint, 1),
        instances=torch.stack(used, 1),
        fits=fits,
    )


def _every_step(tensor: str, n: Nests, extents: _Extents) -> Tensor:
    """Operands that the arithmetic takes in one place: one per step, nothing held below the innermost level."""
    exact = extents.temporal[:, :, _RELEVANT[tensor]].flatten(1).prod(1)
    return exact * n.temporal[:, :, _IRRELEVANT[tensor]].flatten(1).prod(1)


def _outputs(
    layer: Layer,
    levels: Sequence[MemoryLevel],
    n: Nests,
    extents: _Extents,
    resident: Sequence[str],
    tallies: tuple[list[list[Tensor]], ...],
    footprint: list[Tensor],
    update_share: float,
) -> None:
    """Partial sums: every update is a write and, but for a first one, a read; every drain is a read.

    A level is updated by what drains from below, summed over fan-out along C, R and S. On chip each visit starts from
    zero and is drained at its end, so reads = writes = updates; DRAM reads every update but the first of each output.
    """
    reads, writes, read_bits, write_bits = tallies
    x, top, count = TENSORS.index("O"), len(levels) - 1, len(levels)
    wide, narrow = float(layer.accumulator_bits), float(layer.output_bits)
    outputs = float(layer.output_count)
    every = list(range(len(DIMS)))
    child = -1
    for parent in (i for i, level in enumerate(levels) if "O" in level.holds):
        words = (
            _every_step("O", n, extents) if child < 0 else _moved("O", child, levels[child].keeps, n, extents, layer)
        )
        scatter = _fanout(extents, child + 1, parent + 1, _RELEVANT["O"])
        updates = words * scatter * _fanout(extents, parent + 1, count, every)
        copies = _fanout(extents, parent + 1, count, _IRRELEVANT["O"])
        finished = updates.new_full(updates.shape, outputs) * copies
        partial = updates - finished
        innermost = child < 0
        if parent == top:
            if "O" not in resident:
                reads[top][x], writes[top][x] = partial, updates
                read_bits[top][x], write_bits[top][x] = partial * wide, partial * wide + finished * narrow
        elif innermost:
            reads[parent][x] = writes[parent][x] = updates * update_share
            read_bits[parent][x] = write_bits[parent][x] = updates * update_share * wide
        else:
            drained = torch.zeros_like(updates) if parent + 1 == top and "O" in resident else finished
            reads[parent][x], writes[parent][x] = partial + drained, updates
            read_bits[parent][x] = partial * wide + drained * narrow
            write_bits[parent][x] = partial * wide + finished * narrow
        if not ("O" in resident and parent + 1 >= top and not innermost):
            reduces = n.temporal[:, parent + 1 :][:, :, _IRRELEVANT["O"]].flatten(1).prod(1) > 1
            width = torch.where(reduces | torch.tensor(innermost), wide, narrow)
            footprint[parent] = footprint[parent] + _tile("O", extents.reach[:, parent], layer) * width
        child = parent


def _transfer(level: MemoryLevel, reads: Tensor, writes: Tensor, used: Tensor) -> Tensor:
    """Cycles of a level: bits over ports of the instances in use; one port for both directions adds them up."""
    if level.shared_port:
        return _port(reads.sum(1) + writes.sum(1), used, level.read_bits_per_cycle)
    ahead = _port(reads.sum(1), used, level.read_bits_per_cycle)
    return torch.maximum(ahead, _port(writes.sum(1), used, level.write_bits_per_cycle))


def _port(bits: Tensor, used: Tensor, width: float) -> Tensor:
    # an infinite port would give a gradient of infinity times zero
    return torch.zeros_like(bits) if math.isinf(width) else bits / (used * width)


def _energy(level: MemoryLevel, reads: Tensor, writes: Tensor, whole: bool) -> Tensor:
    """Rows accessed times energy per row, each (tensor, kind) rounded up to whole rows."""
    rows_read, rows_written = reads / level.word_bits, writes / level.word_bits
    if whole:
        rows_read, rows_written = torch.ceil(rows_read - 1e-9), torch.ceil(rows_written - 1e-9)
    return rows_read.sum(1) * level.read_energy_pj + rows_written.sum(1) * level.write_energy_pj


@dataclass(frozen=True)
class Cost:
    """What one layer costs under one mapping.

    energy_pj: by component (operations, each level, requantise, static). accesses: (level, tensor) -> words read and
    written. bound: the resource that limits latency. utilisation: operations over what the array could do in the time.
    """

    cycles: float
    latency_ms: float
    energy_pj: dict[str, float]
    accesses: dict[tuple[str, str], tuple[float, float]]
    utilisation: float
    bound: str
    footprint_bits: dict[str, float]

    @property
    def energy_mj(self) -> float:
        return sum(self.energy_pj.values()) * 1e-9

    @property
    def edp(self) -> float:
        """Energy-delay product, mJ ms."""
        return self.energy_mj * self.latency_ms


def hierarchy(accelerator: Accelerator, engine: Engine) -> tuple[MemoryLevel, ...]:
    """The memories that a layer on this engine passes, innermost first."""
    return (*engine.levels, *accelerator.levels)


def engine_of(layer: Layer, accelerator: Accelerator) -> Engine:
    """Raises: HardwareError naming the layer and the kinds that the accelerator has."""
    engine = accelerator.engine_for(layer.kind)
    if engine is None:
        kinds = sorted({kind for e in accelerator.engines for kind in e.kinds})
        raise HardwareError(
            f"layer {layer.name!r}: accelerator {accelerator.name!r} has no engine for kind {layer.kind!r}, "
            f"only for {', '.join(kinds)}"
        )
    return engine


def evaluate(layer: Layer, accelerator: Accelerator, mapping: Mapping, resident: Sequence[str] = ()) -> Cost:
    """The cost of one explicit mapping.

    Raises: HardwareError naming the layer, the level and the number at fault: levels that are not the hierarchy's,
    loops that do not cover a dimension, a fan-out larger than the array, a tile that does not fit.
    """
    engine = engine_of(layer, accelerator)
    layer = engine.seen(layer)
    levels = hierarchy(accelerator, engine)
    _check(layer, levels, mapping)
    [(_, batch)] = nests([mapping])
    outer = mapping.levels[-1:] if engine.fill_per == "tile" else mapping.levels[1:]
    passes = math.prod(b for level in outer for _, b in level.temporal)
    cost = evaluate_batch(
        layer,
        levels,
        batch,
        operation_pj=accelerator.energies.operation_pj(layer, engine.fabric),
        resident=resident,
        overhead_cycles=float(engine.fill_cycles * passes),
        cycles_per_operation=engine.cycles_per_operation(layer),
        update_share=time_share(layer, engine.zeros),
    )
    for i, level in enumerate(levels):
        room = level.capacity_bytes * 8 / (2 if level.double_buffered else 1)
        if float(cost.footprint_bits[0, i]) > room:
            raise HardwareError(
                f"layer {layer.name!r}: level {level.name!r} needs {float(cost.footprint_bits[0, i]) / 8:g} bytes per "
                f"instance, has {room / 8:g}{' (half, double-buffered)' if level.double_buffered else ''}"
            )
        instances = float(batch.spatial[0, i + 1 :].prod())
        if instances > level.instances:
            raise HardwareError(
                f"layer {layer.name!r}: the mapping uses {instances:g} instances of level {level.name!r}, "
                f"there are {level.instances}"
            )
    times = {"compute": float(cost.compute_cycles[0])}
    times.update({level.name: float(cost.level_cycles[0, i]) for i, level in enumerate(levels)})
    times["requantise"] = -(-layer.output_count // accelerator.lanes)
    cycles = max(times.values())
    ms = cycles / (accelerator.clock_mhz * 1e3)
    energy = {"operations": float(cost.operation_pj[0])}
    energy.update({level.name: float(cost.level_energy_pj[0, i]) for i, level in enumerate(levels)})
    energy["requantise"] = layer.output_count * accelerator.energies.requantise_pj
    energy["static"] = accelerator.static_power_w * ms * 1e9
    return Cost(
        cycles=cycles,
        latency_ms=ms,
        energy_pj=energy,
        accesses={
            (level.name, tensor): (float(cost.reads[0, i, x]), float(cost.writes[0, i, x]))
            for i, level in enumerate(levels)
            for x, tensor in enumerate(TENSORS)
            if tensor in level.holds
        },
        utilisation=layer.macs
        * engine.cycles_per_operation(layer)
        / (cycles * engine.rows * engine.lanes * engine.cols),
        bound=max(times, key=lambda name: times[name]),
        footprint_bits={level.name: float(cost.footprint_bits[0, i]) for i, level in enumerate(levels)},
    )


def _check(layer: Layer, levels: Sequence[MemoryLevel], mapping: Mapping) -> None:
    names = [level.name for level in levels]
    given = [level.level for level in mapping.levels]
    if names != given:
        raise HardwareError(f"layer {layer.name!r}: the mapping has levels {given}, the hierarchy {names}")
    for dim, bound in loop_bounds(layer).items():
        if mapping.extent(dim) < bound:
            raise HardwareError(
                f"layer {layer.name!r}: the loops over {dim} multiply to {mapping.extent(dim)}, the layer has {bound}"
            )
